"""A thousand pages of a hybrid search while documents are added, changed and deleted, with a point in time or
without: what comes twice, what never comes, and what a page costs as deep as it lies.

    python tests/bench/stable_pages.py --url http://127.0.0.1:9200 [--documents 9900] [--pages 1000]

The collection is made here: texts of a dozen words out of 2,000 (Zipf), vectors of 32 dimensions.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from vector_reads import connected

from esembed import DenseField, Index, IndexPlan, IngestOptions, TextField
from esembed import query as q

QUIET = IngestOptions(learn_weights=False)


def records(count: int, start: int, seed: int) -> Iterator[dict[str, Any]]:
    """Documents, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, 2001)
    shares /= shares.sum()
    for number in range(start, start + count):
        words = rng.choice(2000, 12, p=shares)
        yield {
            "_id": f"d{number}",
            "body": " ".join(f"w{word}" for word in words),
            "vector": rng.normal(size=32).astype(np.float32).tolist(),
        }


def write(index: Index, count: int, stop: threading.Event, done: Counter[str]) -> None:
    """Until told to stop: 50 new ones, 50 changed, 50 deleted, a second apart."""
    turn = 0
    while not stop.wait(1.0):
        turn += 1
        added = list(records(50, count + 50 * turn, 100 + turn))
        changed = list(records(50, 37 * turn % (count - 50), 10_000 + turn))
        gone = [{"_id": f"d{number}", "op": "delete"} for number in range(60 * turn, 60 * turn + 50)]
        index.ingest([*added, *changed, *gone], options=QUIET)
        done.update(added=50, changed=50, deleted=50)


def windows(end: int) -> int:
    """The length of the lists that hold a page."""
    length = 100
    while length < end:
        length *= 2
    return min(length, 10_000)


def read(index: Index, query: Any, count: int, pages: int, kept: bool) -> None:
    """Print what *pages* pages of ten held; without a point in time those of one window of 10,000."""
    if not kept:
        query = query.replace(rank_window_size=10_000)
    seen: Counter[str] = Counter()
    took: dict[int, list[float]] = {}
    options: dict[str, Any] = {"keep_alive_seconds": 120} if kept else {}
    cursor, read = None, 0
    while read < pages:
        started = time.perf_counter()
        page = index.search(query, size=10, cursor=cursor, source=False, **options)
        took.setdefault(windows(read * 10 + 10), []).append(time.perf_counter() - started)
        seen.update(page.ids)
        read += 1
        cursor = page.next_cursor
        if cursor is None:
            break
    first = {f"d{number}" for number in range(count)}
    twice = sum(number - 1 for number in seen.values())
    print(
        f"{'point in time' if kept else 'as it is by then'}: {read:,} pages, {sum(seen.values()):,} hits, "
        f"{twice:,} came twice, {len(first - set(seen)):,} of the first {count:,} never came, "
        f"{len(set(seen) - first):,} are newer"
    )
    for depth, times in took.items():
        print(f"  pages that end by hit {depth}: {statistics.median(times) * 1000:.0f} ms")


def main(url: str, count: int, pages: int, without: int) -> None:
    """Fill an index, page through it beside a writer, remove it."""
    plan = IndexPlan(
        text={"body": TextField(analyzer="standard")},
        dense={"vector": DenseField(encoder="precomputed", dims=32)},
    )
    query = q.rrf(q.match("w0 w1 w2", fields="body"), q.knn("vector", vector=[1.0] * 32))
    index = Index.create(connected(url), f"esembed-bench-pages-{uuid.uuid4().hex[:8]}", plan, alias=False)
    writing = Index.open(connected(url), index.name)
    try:
        for kept, most in ((True, pages), (False, without)):
            index.ingest(records(count, 0, 1), options=QUIET)
            stop, done = threading.Event(), Counter[str]()
            writer = threading.Thread(target=write, args=(writing, count, stop, done))
            writer.start()
            try:
                read(index, query, count, most, kept)
            finally:
                stop.set()
                writer.join()
            print(f"  meanwhile: {dict(done)}")
    finally:
        index.delete_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--documents", type=int, default=9_900)
    parser.add_argument("--pages", type=int, default=1_000)
    parser.add_argument(
        "--without", type=int, default=300, help="pages of the other way, in one window of 10,000"
    )
    given = parser.parse_args()
    main(given.url, given.documents, given.pages, given.without)
