"""What ``import esembed`` and the command line cost to start, in fresh interpreters: medians of several runs,
seconds of processor time (user and system) and of the clock.

python tests/bench/bench_import.py
python tests/bench/bench_import.py --url http://127.0.0.1:9200 --engine opensearch   # a search by words, too
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

RUNS = 9


def verb(*arguments: str) -> list[str]:
    """The command line, without the time that an installed script takes to find itself."""
    return ["-c", f"import sys; from esembed.cli import main; sys.exit(main({list(arguments)!r}))"]


CASES = {
    "python alone": ["-c", "pass"],
    "import opensearchpy": ["-c", "import opensearchpy"],
    "import elasticsearch": ["-c", "import elasticsearch"],
    "import numpy": ["-c", "import numpy"],
    "import esembed": ["-c", "import esembed"],
    "from esembed import Index, IndexPlan, query": ["-c", "from esembed import Index, IndexPlan, query"],
    "esembed --version": verb("--version"),
    "esembed --help": verb("--help"),
}


def measure(cases: Mapping[str, list[str]]) -> dict[str, dict[str, float]]:
    """Case → median seconds; the cases take turns, so that a busy moment hits all of them."""
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    clock: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(RUNS):
        for name, arguments in cases.items():
            start, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            clock[name].append(time.perf_counter() - start)
            cpu[name].append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
    return {
        name: {
            "cpu": round(statistics.median(cpu[name]), 3),
            "clock": round(statistics.median(clock[name]), 3),
        }
        for name in cases
    }


@contextmanager
def searched(url: str, engine: str) -> Iterator[dict[str, list[str]]]:
    """The case of a search by words, in an index of one document that is deleted afterward."""
    from esembed import Index, IndexPlan

    if engine == "elasticsearch":
        from elasticsearch import Elasticsearch as Client
    else:
        from opensearchpy import OpenSearch as Client
    client = Client(url)
    index = Index.create(
        client, f"esembed-start-{uuid.uuid4().hex[:8]}", IndexPlan.from_toml("[text.body]\n")
    )
    try:
        index.ingest([{"_id": "1", "body": "red fox"}])
        server = ("--url", url, "--engine", engine)
        search = verb("search", "fox", "--index", index.name, "--legs", "bm25", *server)
        yield {"esembed search --legs bm25": search}
    finally:
        index.delete_index()
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="opensearch")
    options = parser.parse_args()
    if options.url is None:
        found = measure(CASES)
    else:
        with searched(options.url, options.engine) as more:
            found = measure({**CASES, **more})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
