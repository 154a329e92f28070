"""Records into an index: the ETL side.

    python examples/etl.py http://localhost:9200

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

from opensearchpy import OpenSearch

from esembed import Index, IndexPlan, IngestOptions

HERE = Path(__file__).parent


def books() -> Iterator[dict[str, Any]]:
    """Any iterable of mappings will do; memory stays bounded however long it is."""
    with open(HERE / "books.jsonl", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main(url: str, name: str = "books") -> int:
    """Create the index unless it is there, and bring it up to date."""
    client = OpenSearch(url)  # or elasticsearch.Elasticsearch(url, api_key=…): the client is yours
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
