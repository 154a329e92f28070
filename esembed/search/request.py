"""What a search needs besides its compilation, pure: the page a cursor means, the legs left, time-outs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esembed.errors import EsembedError, QueryError
from esembed.plan.legs import drop_legs, leg_names, sum_legs
from esembed.query.nodes import Collapse, Knn, Linear, Node, Query, Rescore, Rrf, Sparse
from esembed.query.tree import transform, walk
from esembed.search.compiled import SearchOptions
from esembed.search.page import Cursor

__all__ = [
    "Reranker",
    "at_cursor",
    "check_query",
    "check_rerankers",
    "http_timeout",
    "inner_query",
    "without",
]

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""A cross-encoder: a query and texts to one score each, larger is better."""


def check_rerankers(rerankers: Mapping[str, Reranker] | None) -> dict[str, Reranker]:
    """A copy. Raises TypeError naming what can't be called."""
    for name, function in (rerankers or {}).items():
        if not callable(function):
            raise TypeError(
                f"rerankers[{name!r}] is a {type(function).__name__}, not a function of a query and texts"
            )
    return dict(rerankers or {})


def check_query(value: Any, name: str, such: str) -> Any:
    """The value, which is a query. Raises QueryError."""
    if not isinstance(value, Node):
        raise QueryError(
            f"{name} must be a query of esembed.query ({such}), not {type(value).__name__}; the engine's own "
            "JSON goes through q.raw",
            field=name,
        )
    return value


def inner_query(query: Query) -> Query:
    """The query inside the stages."""
    while isinstance(query, (Rescore, Collapse)):
        query = query.query
    return query


def at_cursor(query: Query, options: SearchOptions, cursor: str, digest: str) -> tuple[Query, SearchOptions]:
    """The page that a cursor points to, with the window that its search began with."""
    if options.offset:
        raise QueryError("pass cursor or offset, not both", field="cursor")
    where = Cursor.decode(cursor, digest)

    def widen(node: Query) -> Query:
        if isinstance(node, (Rrf, Linear)) and node.rank_window_size is None:
            widened: Query = node.replace(rank_window_size=where.window)
            return widened
        return node

    widened = transform(query, widen)
    if isinstance(widened, Knn) and widened.k is None:
        widened = widened.replace(k=where.window)
    return widened, replace(options, offset=where.offset)


def without(query: Query, failed: Mapping[tuple[str, str], EsembedError]) -> tuple[Query, dict[str, str]]:
    """The query without the legs that can't be encoded. Raises the first error when none is left."""
    core = inner_query(query)
    first = next(iter(failed.values()))
    legs = core.legs if isinstance(core, (Rrf, Linear)) else sum_legs(core)
    missing: dict[str, str] = {}
    for leg, name in zip(legs, leg_names(legs), strict=True):
        for node in walk(leg):
            if isinstance(node, (Knn, Sparse)) and (node.field, str(node.text)) in failed:
                missing[name] = str(failed[(node.field, str(node.text))])
    if len(missing) == len(legs):
        raise first
    return drop_legs(query, missing), missing


def http_timeout(options: SearchOptions) -> float | None:
    """The connection waits a little longer than the engine was told to take; None is the client's own."""
    longest = max(options.leg_timeouts_seconds.values(), default=0.0)
    if options.timeout_seconds is not None:
        return max(longest, options.timeout_seconds) + 5.0
    # A leg without a time-out has the client's own, which is not to be cut to another leg's.
    return longest + 5.0 if longest > 5.0 else None
