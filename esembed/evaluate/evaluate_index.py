"""An index's default query measured beside its legs and untuned fusions, on judgments or known items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from esembed import query as q
from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset, Problem, ProblemLog, Run, load_dataset
from esembed.evaluate.evaluation import Evaluation, evaluate_runs
from esembed.evaluate.metrics import DEFAULT_MEASURES, Latency
from esembed.evaluate.significance import Test
from esembed.evaluate.target import SearchTarget, default_legs, index_documents, latency, run_queries
from esembed.plan.default_query import default_query
from esembed.query import Query
from esembed.query.nodes import Bool, Knn, Rescore, Sparse
from esembed.weights.known_items import known_items, sample

__all__ = ["evaluate_index", "evaluate_known_items"]


def evaluate_index(
    index: SearchTarget,
    dataset: Dataset | str,
    *,
    configurations: Mapping[str, Query] | None = None,
    runs: Mapping[str, Run] | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    size: int = 100,
    latency_queries: int = 30,
    test: Test = "randomisation",
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Evaluation:
    """Measure an index's default query beside its legs and the untuned fusions.

    Args:
        index: filled and open.
        dataset: a :class:`Dataset`, or what :func:`load_dataset` takes.
        configurations: further queries by name, their texts open.
        runs: further runs by name, from files or other tools.
        measures: see :mod:`esembed.evaluate.metrics`.
        size: how many hits are asked for.
        latency_queries: how many queries are timed one after another; 0 times none.

    Raises:
        EsembedError: no judged queries; what a search raises.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    if not dataset.queries:
        listed = "; ".join(problem.text for problem in dataset.problems)
        raise EsembedError(f"{dataset.name} has no query with a relevant document. {listed}")
    legs = default_legs(index, k=size)
    asked: dict[str, Query] = {"default": default_query(index.plan), **legs}
    if len(legs) > 1:
        asked["rrf"] = q.rrf(*legs.values(), rank_window_size=size)
        asked["minmax"] = q.linear(*legs.values(), rank_window_size=size)
    asked.update(configurations or {})
    found: dict[str, Run] = {}
    titles: dict[str, str] = {}
    latencies: dict[str, Latency | None] = {}
    for name, query in asked.items():
        found[name], seen = run_queries(index, query, dataset.queries, size)
        titles.update(seen)
        latencies[name] = latency(index, query, dataset, latency_queries)
    found.update(runs or {})
    absent = _absent(index, dataset)
    evaluation = evaluate_runs(
        replace(dataset, problems=(*dataset.problems, *absent)),
        found,
        measures=measures,
        test=test,
        title=f"{index.name} on {dataset.name}",
        latencies=latencies,
        titles=titles,
        published=published,
    )
    return replace(evaluation, notes=_notes(index, asked), legs=tuple(legs))


def _notes(index: SearchTarget, asked: Mapping[str, Query]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for name, query in asked.items():
        if name == "default":
            kind = "what a plain text search does"
            stage, below = (query, query.query) if isinstance(query, Rescore) else (None, query)
            parts = below.should if isinstance(below, Bool) else getattr(below, "legs", ())
            if parts:
                how = "weighted sum" if isinstance(below, Bool) else f"{type(below).__name__.lower()} fusion"
                kind += f": a {how} of {len(parts)} legs"
            if stage is not None and stage.reranker:
                kind += f", its first {stage.window_size} hits read again by {stage.reranker}"
        elif isinstance(query, Knn):
            kind = f"nearest vectors in the field {query.field} ({index.plan.dense[query.field].encoder})"
        elif isinstance(query, Sparse):
            kind = f"learned terms in the field {query.field} ({index.plan.sparse[query.field].encoder})"
        elif name == "bm25":
            kind = f"words, by BM25, in {', '.join(index.plan.text)}"
        elif name == "rrf":
            kind = "all legs fused by rank, equal weights, not tuned"
        elif name == "minmax":
            kind = "all legs' scores stretched to 0…1 and added, equal weights, not tuned"
        else:
            kind = "a query that was passed in"
        notes[name] = kind
    return notes


MAX_CHECKED_IDS = 20_000


def _absent(index: SearchTarget, dataset: Dataset) -> tuple[Problem, ...]:
    """Relevant documents that the index doesn't hold: whoever forgot to ingest some should be told."""
    wanted = {d: query for query, grades in dataset.qrels.items() for d, g in grades.items() if g > 0}
    ids = list(wanted)[:MAX_CHECKED_IDS]
    log = ProblemLog()
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
        there = {hit.id for hit in index.search(q.bool_(filter=q.ids(*part)), size=len(part), source=False)}
        for document in part:
            if document not in there:
                log.add("not-in-index", f"{document} (query {wanted[document]})")
    return log.problems()


def evaluate_known_items(
    index: SearchTarget, *, count: int = 200, size: int = 100, seed: int = 0
) -> Evaluation:
    """Known items against the live index: words and windows of documents that are in it.

    The documents hold their queries word for word, which favors BM25: what it shows is whether
    documents can be found at all and how the legs agree, not which leg is better (``learn_weights``).
    """
    drawn = sample(index_documents(index, count, seed=seed), count, seed=seed)
    items = known_items(drawn, count=count, kinds=("first", "words", "window"), seed=seed)
    if not items:
        raise EsembedError("no document has the 14 words that a known item needs")
    queries = {f"{item.kind}-{i}": item.query for i, item in enumerate(items)}
    qrels = {f"{item.kind}-{i}": {item.document_id: 1} for i, item in enumerate(items)}
    dataset = Dataset(name="known items", queries=queries, qrels=qrels)
    found = evaluate_index(
        index, dataset, measures=("mrr@10", "success@1", "success@10"), size=size, latency_queries=0
    )
    return replace(found, known_items=True)
