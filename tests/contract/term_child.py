"""A load in a process of its own, killed by SIGKILL once so many documents are in.

python term_child.py ENGINE URL INDEX COUNT
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from esembed import Index, IngestOptions


def rows(count: int, *, version: str = "") -> list[dict[str, Any]]:
    """Records whose words have known frequencies."""
    return [
        {
            "_id": f"d{n}",
            "body": f"entry{n} {'server ' * (n % 3)} {'teapot' if n % 40 == 0 else ''} {version}",
        }
        for n in range(count)
    ]


def client(engine: str, url: str) -> Any:
    if engine == "elasticsearch":
        from elasticsearch import Elasticsearch

        return Elasticsearch(url)
    from opensearchpy import OpenSearch

    return OpenSearch(url)


def main(engine: str, url: str, index: str, count: int) -> None:
    opened = Index.open(client(engine, url), index)

    def watch() -> None:
        while True:
            opened.refresh()
            if opened.count() >= count:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)

    def slowly() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows(2_000), 1):
            yield row
            if number % 100 == 0:
                time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    opened.ingest(slowly(), IngestOptions(learn_weights=False, dead_letters=None, max_request_documents=50))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
