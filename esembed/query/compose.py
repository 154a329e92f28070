"""The functions that fuse legs, and those that stand around a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from esembed.errors import QueryError
from esembed.query.checks import (
    Fields,
    fields_of,
    filter_of,
    finite_of,
    legs_of,
    positive_of,
    weights_of,
    window_of,
)
from esembed.query.nodes import BoostBy, Collapse, Filter, Linear, Normalizer, Query, Rescore, Rrf

__all__ = [
    "boost_by",
    "collapse",
    "linear",
    "rescore",
    "rrf",
]


def rrf(
    *legs: Query,
    weights: Sequence[float] | None = None,
    rank_constant: int = 60,
    rank_window_size: int | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> Rrf:
    """Legs fused by reciprocal rank: the sum of weight / (rank_constant + rank) over the legs.

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods", 2009.

    Args:
        legs: at least one query; a leg may be a fusion itself.
        weights: one for each leg, ≥ 0, not all 0; None is 1 each.
        rank_constant: ≥ 1; larger flattens the difference between first and later ranks.
        rank_window_size: how many hits of each leg take part, and how deep paging can go; None is 100,
            or the page's size where that is larger.
        filter: put inside every leg.

    Raises:
        QueryError: no leg, weights that don't fit, numbers out of range.
    """
    if rank_constant < 1:
        raise QueryError(f"rank_constant must be ≥ 1, not {rank_constant}", field="rank_constant")
    return Rrf(
        legs=legs_of(legs, "rrf"),
        weights=weights_of(weights, len(legs)),
        rank_constant=rank_constant,
        rank_window_size=window_of(rank_window_size),
        filter=filter_of(filter),
        name=name,
    )


def linear(
    *legs: Query,
    weights: Sequence[float] | None = None,
    normalizer: Normalizer = "minmax",
    complete: bool | None = None,
    rank_window_size: int | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> Linear:
    """Legs fused by the weighted sum of their scores. See Bruch, Gai and Ingber, "An analysis of fusion
    functions for hybrid retrieval", 2023.

    Args:
        legs: at least one query; a leg may be a fusion itself.
        weights: one for each leg, ≥ 0, not all 0; None is 1 each.
        normalizer: ``minmax`` and ``zscore`` by the leg's list at hand, ``l2`` by its length as a
            vector, ``none``, or ``bound``: by a theoretical bound instead of the list – BM25 divided by
            the query's idf mass (or the leg's ``scale``), sparse by the sum of the query's weights,
            cosine as it is.
        complete: score every candidate by every leg, in a second round trip, so that a document outside
            of a leg's window isn't taken for one without a score; None does so for ``bound``.
        rank_window_size: as for :func:`rrf`.
        filter: put inside every leg.

    Raises:
        QueryError: no leg, weights that don't fit, numbers out of range.
    """
    return Linear(
        legs=legs_of(legs, "linear"),
        weights=weights_of(weights, len(legs)),
        normalizer=normalizer,
        complete=complete,
        rank_window_size=window_of(rank_window_size),
        filter=filter_of(filter),
        name=name,
    )


def rescore(
    query: Query,
    *,
    by: Query | None = None,
    reranker: str | None = None,
    inference_id: str | None = None,
    fields: Fields = None,
    text: str | None = None,
    window_size: int = 50,
    query_weight: float = 0.0,
    rescore_weight: float = 1.0,
    name: str | None = None,
) -> Rescore:
    """Score the first *window_size* hits again: query_weight · old + rescore_weight · new.

    Args:
        query: what finds the hits.
        by: a query that scores them, such as ``q.knn(…, exact=True)``; or
        reranker: the name of a cross-encoder given to the index (``rerankers={name: function}``); or
        inference_id: a rerank endpoint inside Elasticsearch (the ``text_similarity_reranker`` retriever).
        fields: the stored fields whose text a cross-encoder reads.
        text: what it compares them with; None takes the search's text.
        window_size: how many hits; paging can't go beyond them.
        query_weight, rescore_weight: ≥ 0.

    Raises:
        QueryError: none or several of by, reranker and inference_id; fields missing; bad numbers.
    """
    if sum(x is not None for x in (by, reranker, inference_id)) != 1:
        raise QueryError("rescore needs one of by=, reranker= and inference_id=")
    names = fields_of(fields)
    if by is None and not names:
        raise QueryError("a cross-encoder needs fields=, the stored fields it reads", field="fields")
    if inference_id is not None and (len(names) != 1 or query_weight):
        raise QueryError(
            "a rerank endpoint reads one field and its score stands alone: one of fields, query_weight 0",
            field="fields",
        )
    if window_size < 1:
        raise QueryError(f"window_size must be ≥ 1, not {window_size}", field="window_size")
    return Rescore(
        query=query,
        by=by,
        reranker=reranker,
        inference_id=inference_id,
        fields=names,
        text=text,
        window_size=window_size,
        query_weight=positive_of(query_weight, "query_weight"),
        rescore_weight=positive_of(rescore_weight, "rescore_weight"),
        name=name,
    )


def collapse(query: Query, field: str, *, name: str | None = None) -> Collapse:
    """The best hit of each value of a keyword or numeric field. Under fusion the window is collapsed after
    it was fused, so it may hold fewer groups than the page asks for: raise ``rank_window_size``."""
    return Collapse(query=query, field=field, name=name)


def boost_by(
    query: Query,
    field: str,
    *,
    factor: float = 1.0,
    modifier: Literal["none", "log1p", "log2p", "ln1p", "ln2p", "square", "sqrt", "reciprocal"] = "none",
    missing: float = 1.0,
    mode: Literal["multiply", "sum"] = "multiply",
    max_boost: float | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> BoostBy:
    """Scores changed by modifier(factor · value) of a numeric field (``function_score`` with
    ``field_value_factor``). Raises QueryError under a fusion's place: put it around a leg."""
    if isinstance(query, (Rrf, Linear, Rescore, Collapse)):
        raise QueryError(
            f"boost_by can't stand around {type(query).__name__.lower()}; put it around a leg", field=field
        )
    return BoostBy(
        query=query,
        field=field,
        factor=positive_of(factor, "factor"),
        modifier=modifier,
        missing=finite_of(missing, "missing"),
        mode=mode,
        max_boost=max_boost,
        filter=filter_of(filter),
        name=name,
    )
