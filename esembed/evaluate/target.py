"""The index under test, as a protocol; its legs, runs of queries, times, a table of every leg's lists."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from esembed import query as q
from esembed.capabilities import Capabilities
from esembed.dialect.documents import random_score
from esembed.dialect.meta import StoredMeta
from esembed.errors import QueryError
from esembed.evaluate.datasets import Dataset
from esembed.evaluate.leg_table import LegTable
from esembed.evaluate.metrics import Latency
from esembed.plan import IndexPlan
from esembed.plan.default_query import default_query, legs_beside, searchable_legs
from esembed.plan.legs import leg_names, query_legs
from esembed.query import Query
from esembed.query.nodes import BoostBy, Knn, Stage
from esembed.query.tree import resolve_text
from esembed.search.options import Reranker
from esembed.types import ENGINES, Hits

__all__ = [
    "SearchTarget",
    "TunableTarget",
    "at_random",
    "default_legs",
    "index_documents",
    "latency",
    "leg_table",
    "plan_legs",
    "run_queries",
    "texts_of",
]


class SearchTarget(Protocol):
    """What evaluation asks of an index: what it is, and searches. ``Index`` is one."""

    @property
    def name(self) -> str:
        """For titles."""
        ...

    @property
    def plan(self) -> IndexPlan:
        """Its fields and its default query."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its engine can do."""
        ...

    @property
    def rerankers(self) -> Mapping[str, Reranker]:
        """Name → cross-encoder."""
        ...

    def search(
        self, query: str | Query, *, text: str | None = None, size: int = 10, source: bool | None = None
    ) -> Hits:
        """As ``Index.search``."""
        ...

    def search_many(self, queries: Sequence[str | Query], *, size: int = 10) -> Sequence[Hits]:
        """As ``Index.search_many``."""
        ...


class TunableTarget(SearchTarget, Protocol):
    """A target whose default query can be replaced."""

    @property
    def stored(self) -> StoredMeta:
        """What the index says about itself."""
        ...

    def store_query(self, query: Query | None, provenance: Mapping[str, Any]) -> None:
        """Make *query* the default query, and keep where it comes from beside it."""
        ...


def plan_legs(index: SearchTarget, *, k: int = 100) -> dict[str, Query]:
    """The legs of an index, each a query by itself whose text is left out, by name.

    Raises:
        QueryError: the plan has no field that a text can be searched in.
    """
    legs = searchable_legs(index.plan)
    if not legs:
        raise QueryError("the plan has no field that a text can be searched in")
    return {name: leg.replace(k=k) if isinstance(leg, Knn) else leg for name, leg in legs.items()}


def default_legs(index: SearchTarget, *, k: int = 100) -> dict[str, Query]:
    """The legs of an index as :func:`plan_legs` has them; those of a stored default query in place of the
    plan's of their kind.

    Raises:
        QueryError: the plan has no field that a text can be searched in, and no query.
    """
    query = default_query(index.plan)
    inside = query_legs(query)
    plain = plan_legs(index, k=k) if searchable_legs(index.plan) or index.plan.query is None else {}
    # A query by itself is the default's row already.
    if index.plan.query is None or len(inside) < 2:
        return plain
    named = dict(zip(leg_names(inside), inside, strict=True))
    own = {n: leg.replace(k=k) if isinstance(leg, Knn) and leg.k is None else leg for n, leg in named.items()}
    return {**{name: leg for name, leg in plain.items() if name in legs_beside(index.plan, [name])}, **own}


def run_queries(
    index: SearchTarget, query: str | Query | None, texts: Mapping[str, str], size: int
) -> tuple[dict[str, list[tuple[str, float]]], dict[str, str]]:
    """The run of one configuration, and a line for each document that was seen.

    Below the hits that a stage works on stand the other hits of the query under it, in their order.
    """
    base = default_query(index.plan) if query is None or isinstance(query, str) else query
    titles: dict[str, str] = {}
    depth = _depth(base, size)
    if depth < size:
        top, titles = run_queries(index, base, texts, depth)
        if isinstance(base, Stage):
            below, _ = run_queries(index, base.query, texts, size)
            for query_id, listed in below.items():
                first = top[query_id]
                seen, lowest = {document for document, _ in first}, first[-1][1] if first else 0.0
                rest = [document for document, _ in listed if document not in seen]
                first += [(document, lowest - place) for place, document in enumerate(rest, 1)]
        return top, titles
    bound = [resolve_text(base, text) for text in texts.values()]
    run: dict[str, list[tuple[str, float]]] = {}
    answers: Sequence[Hits] = index.search_many(bound, size=size)
    for query_id, hits in zip(texts, answers, strict=True):
        run[query_id] = [(hit.id, hit.score) for hit in hits]
        for hit in list(hits)[:10]:
            if hit.id not in titles:
                titles[hit.id] = index.plan.summary_text(hit.source, besides=hit.id)[:160]
    return run, titles


def _depth(query: Query, size: int) -> int:
    """How many hits a query can give: at most what its stages work on."""
    while isinstance(query, (Stage, BoostBy)):
        if isinstance(query, Stage) and query.head is not None:
            size = min(size, query.head)
        query = query.query
    return size


def latency(index: SearchTarget, query: Query, dataset: Dataset, count: int) -> Latency | None:
    """Milliseconds of one search after another, over the first *count* queries; None without queries."""
    times: list[float] = []
    engine: list[float] = []
    for text in list(dataset.queries.values())[:count]:
        start = time.perf_counter()
        hits = index.search(query, text=text, size=_depth(query, 10))
        times.append((time.perf_counter() - start) * 1000)
        engine.append(hits.took_ms)
    return Latency.of(times, engine)


def leg_table(
    index: SearchTarget, dataset: Dataset, *, size: int = 100, legs: Mapping[str, Query] | None = None
) -> tuple[LegTable, dict[str, Query]]:
    """Every leg's list for every judged query, and text legs' scores for the others' candidates."""
    legs = dict(legs or plan_legs(index, k=size))
    runs = {name: run_queries(index, query, dataset.queries, size)[0] for name, query in legs.items()}
    completed: dict[str, dict[str, dict[str, float]]] = {}
    for name, query in legs.items():
        if isinstance(query, Knn):
            continue
        scores: dict[str, dict[str, float]] = {}
        bound: dict[str, Query] = {}
        for query_id, text in dataset.queries.items():
            own = {document for document, _ in runs[name][query_id]}
            others = {d for leg in runs for d, _ in runs[leg][query_id]} - own
            if others:
                bound[query_id] = q.bool_(must=resolve_text(query, text), filter=q.ids(*sorted(others)))
        answers = index.search_many(list(bound.values()), size=size * max(1, len(legs) - 1))
        for query_id, hits in zip(bound, answers, strict=True):
            scores[query_id] = {hit.id: hit.score for hit in hits}
        completed[name] = scores
    # A kNN's score of identical vectors, on the common scale (as in search.request).
    limits = {name: query.boost for name, query in legs.items() if isinstance(query, Knn)}
    return LegTable(runs, dataset.qrels, completed=completed, limits=limits), legs


def index_documents(index: SearchTarget, count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """*count* documents drawn at random by the engine, as (id, text)."""
    return texts_of(index.search(at_random(seed), size=min(count, 10_000)), index.plan)


def at_random(seed: int) -> Query:
    """The query that orders all documents at random."""
    return q.raw({engine: {"function_score": random_score(seed)} for engine in ENGINES})


def texts_of(hits: Hits, plan: IndexPlan) -> list[tuple[str, str]]:
    """The hits that have a text to search in, as (id, text)."""
    found = ((hit.id, plan.searched_text(hit.source)) for hit in hits)
    return [(name, text) for name, text in found if text]
