"""Records into an index: the ETL side.

    python examples/etl.py http://localhost:9200                  # opensearch
    python examples/etl.py http://localhost:9201 elasticsearch

Run it twice: the second time nothing is encoded again. The same without Python::

    esembed index create books examples/books.toml --exist-ok
    esembed ingest examples/books.jsonl --index books
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch
from opensearchpy import OpenSearch

from esembed import Index, IndexPlan, IngestOptions

HERE = Path(__file__).parent


def books() -> Iterator[dict[str, Any]]:
    """Any iterable of mappings will do; memory stays bounded however long it is."""
    with open(HERE / "books.jsonl", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main(url: str, engine: str = "opensearch", name: str = "books") -> int:
    """Create the index (``books-v1`` and the alias ``books``) unless it is there, and bring it up to date."""
    # The client is yours, with its authentication and time-outs.
    client = Elasticsearch(url) if engine == "elasticsearch" else OpenSearch(url)
    plan = IndexPlan.load_file(HERE / "books.toml")

    index = Index.create(client, name, plan, exist_ok=True)
    for note in index.notes:
        print(note)

    report = index.ingest(books(), IngestOptions(dead_letters=Path(f"{name}.deadletters.jsonl")))
    print(report.summary())
    client.close()
    return 3 if report.dead_lettered else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
