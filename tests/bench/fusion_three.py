"""Three legs: BM25, dense (``minilm``) and a sparse one (``lexical``, ``splade:…``), on BEIR folders.

Legs, untuned fusions, the knowing default and tuning::

    python tests/bench/fusion_three.py ../shared/data --cache /tmp/fusion-cache [--sparse SPEC] [--url URL]

Without ``--url`` no engine is needed: every leg is scored exactly in memory (see fusion_default.py). With
it an index is made by the library, filled, asked and dropped again; its default query is the one that the
ingest left behind. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from fusion_default import SETS, CachedEncoder, Matrix
from fusion_engines import connect

from esembed import DenseField, Index, IndexPlan, SparseField, TextField
from esembed.encode.base import SparseEncoder
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.registry import load
from esembed.evaluate.datasets import Dataset, load_dataset
from esembed.evaluate.leg_table import FusionConfig, LegTable, untuned
from esembed.evaluate.significance import bootstrap_interval
from esembed.evaluate.target import leg_table
from esembed.evaluate.tune_index import _config_of
from esembed.evaluate.tuning import split_protocol
from esembed.weights.estimate import DenseScorer, LexicalScorer, SparseScorer, estimate_trust

LEGS = ("bm25", "dense", "sparse")
WINDOW = 100


def documents(dataset: Dataset) -> list[tuple[str, str]]:
    return [(str(d.id), f"{d.source['title']}\n{d.source['text']}".strip()) for d in dataset.documents()]


def in_memory(
    dataset: Dataset, encoder: CachedEncoder, sparse: SparseEncoder
) -> tuple[LegTable, LegTable, FusionConfig, str]:
    """The table for untuned fusions and tuning, the one for the default (k as it asks), and the default."""
    found = documents(dataset)
    ids, texts, queries = [i for i, _ in found], [t for _, t in found], list(dataset.queries.values())
    if isinstance(sparse, LexicalEncoder):  # an index gives it the collection's counts; here nobody does
        sparse = sparse.with_statistics(sparse.statistics_of(texts))
    bm25, learned = LexicalScorer(), SparseScorer(sparse)
    bm25.fit(texts)
    learned.fit(texts)
    scores: dict[str, Matrix] = {
        "bm25": bm25.scores(queries),
        "dense": (1 + encoder.encode_query(queries) @ encoder.encode_document(texts).T) / 2,
        "sparse": learned.score(queries, [None] * len(queries), [0] * len(queries)),
    }
    scorers = {"bm25": LexicalScorer(), "dense": DenseScorer(encoder), "sparse": SparseScorer(sparse)}
    report = estimate_trust(found, scorers)
    trust = " : ".join(f"{report.leg(leg).trust:.2f}" for leg in LEGS)

    def table(depth: int) -> LegTable:
        runs: dict[str, dict[str, list[tuple[str, float]]]] = {}
        tops: dict[str, list[np.ndarray]] = {}
        for leg in LEGS:
            tops[leg] = [np.argsort(-row, kind="stable")[:depth] for row in scores[leg]]
            runs[leg] = {
                query: [
                    (ids[i], float(scores[leg][row, i])) for i in tops[leg][row] if scores[leg][row, i] > 0
                ]
                for row, query in enumerate(dataset.queries)
            }
        completed: dict[str, Mapping[str, Mapping[str, float]]] = {}
        for leg in ("bm25", "sparse"):  # a knn clause gives nothing beyond its k
            completed[leg] = {
                query: {ids[i]: float(scores[leg][row, i]) for other in LEGS for i in tops[other][row]}
                for row, query in enumerate(dataset.queries)
            }
        return LegTable(runs, dataset.qrels, completed=completed)

    k = max(10, len(ids)) if len(ids) <= 1000 else 200
    weights = tuple(report.leg(leg).weight * (2 if leg == "dense" else 1) for leg in LEGS)
    return table(WINDOW), table(k), FusionConfig(kind="bound", weights=weights, window=k), trust


def row(name: str, lists: LegTable, knowing: np.ndarray, start: FusionConfig, trust: str, splits: int) -> str:
    values = {label: lists.ndcg(config) for label, config in untuned(lists.legs).items()}
    best = max(float(values[leg].mean()) for leg in lists.legs)
    proof = split_protocol(lists, default=start, splits=splits)
    interval = bootstrap_interval(knowing)
    cells = [f"{float(one.mean()):.3f}" for one in values.values()]
    cells += [
        f"{interval.mean:.3f} ({interval.low:.3f}–{interval.high:.3f})",
        f"{interval.mean - best:+.3f}",
        trust,
        f"{proof.tuned.mean:.3f} ({proof.tuned.low:.3f}–{proof.tuned.high:.3f})",
        f"{proof.difference.mean:+.4f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def live(
    dataset: Dataset,
    name: str,
    url: str,
    spec: str,
    encoder: CachedEncoder,
    sparse: SparseEncoder,
    splits: int,
) -> str:
    client = connect(url)
    plan = IndexPlan(
        text={"contents": TextField()},
        dense={"dense": DenseField(encoder="minilm", source=("contents",), quantization="hnsw")},
        sparse={"sparse": SparseField(encoder=spec, source=("contents",))},
    )
    index_name = f"fusion-three-{name.replace('/', '-')}"
    # What an interrupted run left behind.
    client.indices.delete(index=index_name, ignore_unavailable=True)
    index = Index.create(client, index_name, plan, encoder={"dense": encoder, "sparse": sparse})
    index.ingest((i, {"contents": text}) for i, text in documents(dataset))
    found = index.evaluate(dataset, measures=["ndcg@10"], latency_queries=0)
    per_query = found.configuration("default").per_query["ndcg@10"]
    lists, legs = leg_table(index, dataset)
    start = _config_of(index.plan.query, legs, WINDOW) if index.plan.query is not None else None
    trusts = index.stored.rest["evidence"]["trust"]["legs"]
    trust = " : ".join(f"{trusts[leg]['trust']:.2f}" for leg in LEGS)
    knowing = np.array([per_query[query] for query in lists.queries])
    line = row(
        f"{name}, {index.capabilities.kind}", lists, knowing, start or untuned(LEGS)["rrf"], trust, splits
    )
    index.drop()
    client.close()
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder of BEIR folders")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sparse", default="lexical", help="the sparse leg's encoder")
    parser.add_argument("--url", help="an engine; without it everything is computed in memory")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--splits", type=int, default=50)
    options = parser.parse_args()
    if options.url and options.sparse.partition(":")[0] == "lexical":
        parser.error("an index leaves lexical out of its default beside text; name a learned --sparse")
    encoder, sparse = CachedEncoder(options.cache), load(options.sparse)
    head = ["set", *LEGS, "RRF", "min-max", "default", "default − best leg", "trust", "tuned (other half)",
            "tuned − best untuned"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for name in options.sets:
        folder, _, split = name.partition("/")
        dataset = load_dataset(options.data / folder, split=split or "test")
        if options.url:
            print(
                live(dataset, name, options.url, options.sparse, encoder, sparse, options.splits),
                flush=True,
            )
            continue
        lists, wide, knowing, trust = in_memory(dataset, encoder, sparse)
        start = FusionConfig(kind="bound", weights=knowing.weights)
        print(row(name, lists, wide.ndcg(knowing), start, trust, options.splits), flush=True)
    sparse.close()


if __name__ == "__main__":
    main()
