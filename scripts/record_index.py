"""Record the requests that make a small index, so that later versions are tested on what this one wrote.

``tests/fixtures/made_by_0_1_0/ENGINE.json`` was written by this script at the last commit before the code was
rebuilt; ``tests/contract/test_indices_made_before.py`` replays it. Run it again only to add a fixture for
another released version: what lies there says what those versions really sent.

    python scripts/record_index.py --engine opensearch --url http://127.0.0.1:9200 --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch
from opensearchpy import OpenSearch

from esembed import (
    ChunkOptions,
    DenseField,
    EncoderParams,
    FilterField,
    Index,
    IndexPlan,
    SparseField,
    TextField,
)
from esembed._sync.client import EngineClient
from esembed.ingest.options import IngestOptions

_NOUNS = """
path file name directory split join copy move delete read write open close lock thread queue event timer
socket server client request answer header cookie color sort list tuple dict set heap search match group
date time zone clock parse format number round sum mean random choice sample seed hash digest token secret
"""
WORDS = _NOUNS.split()
BOOK = EncoderParams(dims=64)
PLANS = {
    # Leg weights are learned by the ingest: the default query is a bool of match and knn.
    "weighted": IndexPlan(
        text={"title": TextField(boost=2.0), "body": TextField()},
        dense={"embedding": DenseField(encoder="minilm", source=("title", "body"), params=BOOK)},
        sparse={"terms": SparseField(encoder="lexical", source=("title", "body"))},
        filter={"lang": FilterField(), "year": FilterField(type="integer")},
        id_field="id",
    ),
    "chunked": IndexPlan(
        text={"body": TextField()},
        dense={"embedding": DenseField(encoder="minilm", params=BOOK, chunked=True)},
        filter={"lang": FilterField()},
        chunk=ChunkOptions(source=("body",), max_tokens=16, overlap_tokens=2),
        id_field="id",
    ),
    "given": IndexPlan(
        text={"title": TextField()},
        dense={"vector": DenseField(dims=4, encoder="precomputed", quantization="int8_hnsw", oversample=2.0)},
        sparse={"features": SparseField(encoder="precomputed")},
        id_field="id",
    ),
}
COUNTS = {"weighted": 60, "chunked": 8, "given": 8}


def records(name: str) -> list[dict[str, Any]]:
    """The records of one plan: sentences of neighboring words, so that each has its own neighbors."""
    found: list[dict[str, Any]] = []
    for number in range(COUNTS[name]):
        words = [WORDS[(number + step * step) % len(WORDS)] for step in range(30)]
        record: dict[str, Any] = {
            "id": f"d{number}",
            "title": f"{words[0]} {words[1]} {number}",
            "body": " ".join(words),
            "lang": "de" if number % 4 == 0 else "en",
            "year": 1990 + number % 30,
        }
        if name == "given":
            record["vector"] = [1.0, number / 8, 0.5, -number / 16]
            record["features"] = {"a.b": 1.0 + number, f"w{number}": 2.0}
        wanted = {*PLANS[name].text, *PLANS[name].filter, "id", "vector", "features"}
        found.append({key: value for key, value in record.items() if key in wanted})
    return found


class Recorder:
    """Stands before ``EngineClient.request`` and keeps what changes the engine."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._request = EngineClient.request

    def __enter__(self) -> Recorder:
        original, sent = self._request, self.sent

        def request(client: EngineClient, method: str, path: str, **options: Any) -> Any:
            answer = original(client, method, path, **options)
            reads = path.endswith(("/_search", "/_msearch", "/_mget", "/_refresh", "/_analyze", "/_count"))
            if method != "GET" and not reads and answer.status < 300:
                sent.append(
                    {
                        "method": method,
                        "path": path,
                        "params": options.get("params"),
                        "body": plain(options.get("body")),
                    }
                )
            return answer

        EngineClient.request = request  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        EngineClient.request = self._request  # type: ignore[method-assign]


def plain(body: Any) -> Any:
    """JSON for an object, a list of JSON lines for a bulk."""
    if isinstance(body, bytes):
        return [json.loads(line) for line in body.decode().splitlines() if line]
    return [dict(line) for line in body] if isinstance(body, Sequence) else body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("elasticsearch", "opensearch"), required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    client: Any = Elasticsearch(asked.url) if asked.engine == "elasticsearch" else OpenSearch(asked.url)
    made: dict[str, Any] = {}
    for name, plan in PLANS.items():
        with Recorder() as recorder:
            index = Index.create(client, f"before-{name}", plan)
            report = index.ingest(records(name), IngestOptions())
        assert report.indexed == COUNTS[name], report
        index = Index.open(client, f"before-{name}")
        text = "path split directory file"
        query = text if name != "given" else None
        hits = index.search(query, size=5) if query else None
        made[name] = {
            "index": f"before-{name}",
            "requests": recorder.sent,
            "meta": index._live.mapping["_meta"],
            "default_query_finds": [[h.id, h.score] for h in hits] if hits else None,
        }
        index.drop()
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{asked.engine}.json").write_text(
        json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
