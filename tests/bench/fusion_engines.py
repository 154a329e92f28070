"""The same question as fusion_default.py, asked of a live engine: legs, untuned fusions and the default
query that an ingest leaves behind, on BEIR folders.

::

    python tests/bench/fusion_engines.py ../shared/data --cache /tmp/fusion-cache --url http://localhost:9200

Indices named ``fusion-…`` are made and dropped again. Prints Markdown.
"""

from __future__ import annotations

import argparse
import urllib.request
from pathlib import Path
from typing import Any

from fusion_default import SETS, CachedEncoder

from esembed import DenseField, Index, IndexPlan, TextField
from esembed.evaluate.datasets import load_dataset


def connect(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/_nodes") as answer:
        opensearch = b"opensearch" in answer.read().lower()
    if opensearch:
        from opensearchpy import OpenSearch

        return OpenSearch(url, timeout=120)
    from elasticsearch import Elasticsearch

    return Elasticsearch(url, request_timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder of BEIR folders")
    parser.add_argument("--url", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--analyzer", default="standard")
    options = parser.parse_args()
    client = connect(options.url)
    encoder = CachedEncoder(options.cache)
    plan = IndexPlan(
        text={"contents": TextField(analyzer=options.analyzer)},
        dense={"embedding": DenseField(encoder="minilm", source=("contents",), quantization="hnsw")},
    )
    head = ["set", "engine", "words", "BM25", "dense", "RRF", "min-max", "default", "default − best leg",
            "weights s"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    previous, index, seconds = "", None, 0.0
    for name in options.sets:
        folder, _, split = name.partition("/")
        dataset = load_dataset(options.data / folder, split=split or "test")
        if index is None or folder != previous:
            if index is not None:
                index.drop()
            # What an interrupted run left behind.
            client.indices.delete(index=f"fusion-{folder}", ignore_unavailable=True)
            index = Index.create(client, f"fusion-{folder}", plan, encoder=encoder)
            rows = (
                (str(d.id), {"contents": f"{d.source['title']}\n{d.source['text']}".strip()})
                for d in dataset.documents()
            )
            report = index.ingest(rows)
            seconds, previous = report.stage_seconds.get("weights", 0.0), folder
        found = index.evaluate(dataset, measures=["ndcg@10"], latency_queries=0)
        value = {one.name: one.values["ndcg@10"].mean for one in found.measured}
        legs = [value[name] for name in ("bm25", "embedding", "rrf", "minmax", "default")]
        cells = [f"{x:.4f}" for x in legs] + [f"{legs[4] - max(legs[:2]):+.4f}", f"{seconds:.1f}"]
        print(
            f"| {name} | {index.capabilities.engine} | {options.analyzer} | {' | '.join(cells)} |", flush=True
        )
    if index is not None:
        index.drop()


if __name__ == "__main__":
    main()
