"""What it saves to make dense and sparse vectors in one pass, and what a query for one of them costs.

A random masked LM of BERT-base's shape (or ``--model``), loaded as a plan's two fields are: apart, and as
the halves of one. Each way has processes of its own, which take turns; a process does documents in one call
for each kind (or one for both), then queries one at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esembed.encode.base import RuntimeOptions

__all__ = ["WAYS", "measure"]

WAYS = ("apart", "shared")
"""The ways to encode that are compared."""


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _run(way: str, folder: str, options: dict[str, Any], texts: list[str], queries: list[str]) -> Any:
    """In a process of its own: seconds for the documents, milliseconds of each kind of query, memory."""
    from esembed.encode.registry import load
    from esembed.encode.transformer.combined import load_shared
    from esembed.plan.params import EncoderParams

    runtime, params = RuntimeOptions(**options), EncoderParams(top_k=256, query_top_k=32)
    before = _status("VmRSS")
    if way == "shared":
        whole = load_shared(folder, EncoderParams(), params, runtime)
        if whole is None:
            raise ValueError(f"{folder} shares no pass")
        dense: Any = whole.dense
        sparse: Any = whole.sparse

        def documents(some: list[str]) -> Any:
            return whole.encode_document(some)

        def both(text: str) -> Any:
            return whole.encode_query([text])
    else:
        dense, sparse = load(f"hf:{folder}", None, runtime), load(f"splade:{folder}", params, runtime)

        def documents(some: list[str]) -> Any:
            return dense.encode_document(some), sparse.encode_document(some)

        def both(text: str) -> Any:
            return dense.encode_query([text]), sparse.encode_query([text])

    documents(texts[:32])
    started = time.perf_counter()
    documents(texts)
    found: dict[str, Any] = {"seconds": time.perf_counter() - started}
    for text in queries:
        both(text)
    found["both_ms"] = _median(both, queries)
    found["resident_bytes"], found["peak_bytes"] = _status("VmRSS") - before, _status("VmHWM") - before
    found["sparse_ms"] = _median(lambda text: sparse.encode_query([text]), queries)
    for text in queries:
        dense.encode_query([text])
    found["dense_ms"] = _median(lambda text: dense.encode_query([text]), queries)
    found["then_resident_bytes"] = _status("VmRSS") - before
    return found


def _median(call: Callable[[str], Any], queries: list[str]) -> float:
    times = []
    for text in queries:
        started = time.perf_counter()
        call(text)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def measure(
    model: str | None, options: dict[str, Any], texts: int, queries: int, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """By way: what :func:`_run` found in each round."""
    from esembed.bench.encode_shapes import make_shape
    from esembed.bench.encode_texts import mixed_texts

    documents = mixed_texts(texts)
    asked = [" ".join(text.split()[:8]) for text in mixed_texts(queries, seed=11)]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with (
        tempfile.TemporaryDirectory() as name,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        folder = model or str(make_shape("splade", Path(name)))
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(pool.apply(_run, (way, folder, options, documents, asked)))
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m esembed.bench.one_pass", description=__doc__)
    parser.add_argument("--model", help="a folder with both kinds; random BERT-base where none is given")
    parser.add_argument("--backend", choices=("openvino", "torch"), default="openvino")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    options = {"backend": chosen.backend, "dtype": chosen.dtype, "device": "cpu"}
    found = measure(chosen.model, options, chosen.texts, chosen.queries, chosen.rounds)
    if chosen.json:
        print(json.dumps({"setting": vars(chosen), "rounds": found}, indent=2))
        return 0
    print(", ".join(f"{k} {v}" for k, v in vars(chosen).items() if k != "json"))
    columns = ("documents s", "query of both ms", "sparse ms", "dense ms", "MiB", "MiB after a dense query")
    print(f"{'':8}" + "".join(f"{column:>25}" for column in columns))
    keys = ("seconds", "both_ms", "sparse_ms", "dense_ms", "resident_bytes", "then_resident_bytes")
    for way in WAYS:
        middle = {key: statistics.median(one[key] for one in found[way]) for key in keys}
        cells = [middle[k] / 2**20 if k.endswith("bytes") else middle[k] for k in keys]
        print(f"{way:8}" + "".join(f"{cell:25.2f}" for cell in cells))
    ratios = {
        key: statistics.median(a[key] / b[key] for a, b in zip(found["apart"], found["shared"], strict=True))
        for key in keys
    }
    print(f"{'ratio':8}" + "".join(f"{ratios[key]:25.2f}" for key in keys))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
