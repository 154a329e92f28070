"""Walking over queries: read from JSON, the search's text put in, filters added, vectors found."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    Collapse,
    Filter,
    Knn,
    Node,
    Query,
    Rescore,
    Sparse,
    VectorNode,
)

__all__ = [
    "MAX_DEPTH",
    "add_filter",
    "bind",
    "check_depth",
    "finds_nearest",
    "from_dict",
    "legs_to_encode",
    "resolve_text",
    "text_legs",
    "transform",
    "vector_fields",
    "walk",
]

MAX_DEPTH = 100
"""Objects and lists inside each other in a query's JSON, two for each level of nodes. Elasticsearch takes 30
levels of ``bool`` (indices.query.bool.max_nested_depth); Python's own limit of 1,000 calls would be met by a
few hundred when the query is walked."""

_NESTED = (dict, list, tuple)
_FLAT = {str, int, float, bool, type(None)}


def from_dict(data: Mapping[str, Any]) -> Query:
    """A query from plain JSON values, which may come from anywhere; ``node.to_dict()`` writes them.

    Raises:
        QueryError: unknown nodes or attributes, values of another type or out of range, more than
            :data:`MAX_DEPTH` levels.
    """
    check_depth(data)
    try:
        query: Query = msgspec.convert(data, Query)
    except msgspec.ValidationError as error:
        where = str(error).partition(" - at `$")[2].rstrip("`").lstrip(".")
        raise QueryError(f"not a query: {error}", field=where or None) from error
    except UnicodeEncodeError as error:  # half a surrogate pair, which Python's own JSON reader lets through
        raise QueryError(
            f"not a query: {error.object[error.start]!r} in a text is not valid Unicode"
        ) from None
    return query


def check_depth(data: Any) -> None:
    """Raises QueryError for JSON values that lie deeper than :data:`MAX_DEPTH`."""
    level = [data]
    for _ in range(MAX_DEPTH):
        # A vector is one look at the types of its numbers.
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, _NESTED)]
        level = [value for values in inner if not set(map(type, values)) <= _FLAT for value in values]
        if not level:
            return
    raise QueryError(f"not a query: it is nested deeper than {MAX_DEPTH} levels")


@functools.cache
def _child_fields(kind: type[Query]) -> tuple[str, ...]:
    """The attributes that may hold queries, by their types: asked at every step of every walk."""
    hints = typing.get_type_hints(kind)
    return tuple(name for name in kind.__struct_fields__ if _may_hold_query(hints[name]))


def _may_hold_query(hint: Any) -> bool:
    if isinstance(hint, type) and not typing.get_args(hint):
        return issubclass(hint, Node)
    return any(_may_hold_query(part) for part in typing.get_args(hint))


def children(node: Query) -> Iterator[tuple[str, Query | tuple[Query, ...]]]:
    """The attributes of a node that hold queries, and what they hold."""
    for name in _child_fields(type(node)):
        value = getattr(node, name)
        if value:
            yield name, value


def walk(query: Query) -> Iterator[Query]:
    """The node and everything below it, filters included."""
    yield query
    for _, value in children(query):
        for child in value if isinstance(value, tuple) else (value,):
            yield from walk(child)


def transform(query: Query, function: Callable[[Query], Query]) -> Query:
    """The tree with *function* applied to every node, from the leaves up; unchanged nodes are kept."""
    changes: dict[str, Any] = {}
    for name in _child_fields(type(query)):  # not children(): a generator doubles the cost at a leaf
        value = getattr(query, name)
        if not value:
            continue
        if isinstance(value, tuple):
            new: Any = tuple(transform(child, function) for child in value)
            if any(a is not b for a, b in zip(new, value, strict=True)):
                changes[name] = new
        else:
            new = transform(value, function)
            if new is not value:
                changes[name] = new
    return function(msgspec.structs.replace(query, **changes) if changes else query)


def resolve_text(query: Query, text: str | None) -> Query:
    """The query with *text* in every leg that has a placeholder: no text of its own, nor a vector.

    Raises:
        QueryError: a leg needs a text and there is none.
    """

    def put(node: Query) -> Query:
        if not node.has_placeholder_text:
            return node
        if text is None:
            raise QueryError(
                f"{node.builder()} has no text (nor vector), and the search has none to give "
                "it: write text=… in it, or pass text= to the search"
            )
        return msgspec.structs.replace(node, text=text)

    return transform(query, put)


bind = resolve_text
"""The old name of :func:`resolve_text`."""


def legs_to_encode(query: Query) -> list[Knn | Sparse]:
    """The knn and sparse nodes whose text is still to be encoded, or that have a placeholder for one."""
    return [node for node in walk(query) if isinstance(node, VectorNode) and node.vector is None]


text_legs = legs_to_encode
"""The old name of :func:`legs_to_encode`."""


def vector_fields(query: Query) -> set[str]:
    """The names of the vector fields that a query uses."""
    return {node.field for node in walk(query) if isinstance(node, VectorNode)}


def finds_nearest(query: Query) -> bool:
    """Whether vectors are searched in it. Whether a document is among the k nearest depends on the other
    documents, so that such a clause is no condition that can be applied to a document by itself."""
    return any(isinstance(node, VectorNode) for node in walk(query))


def add_filter(query: Query, extra: Filter | None) -> Query:
    """The query with a filter around it, inside the stages.

    The compiler hands it on to every search for nearest vectors below (``QueryCompiler.candidates``), so
    it is enough to write it down once, at the top.
    """
    if extra is None:
        return query
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=add_filter(query.query, extra))
    if isinstance(query, Bool):
        return query.replace(
            filter=(*query.filter, extra),
            # A bool of should clauses alone would otherwise match everything that passes the filter.
            minimum_should_match=query.minimum_should_match
            if query.minimum_should_match is not None or query.must or query.filter or not query.should
            else 1,
        )
    if "filter" in query.__struct_fields__:
        present = query.filter  # type: ignore[union-attr]
        both = extra if present is None else Bool(filter=(present, extra))
        return query.replace(filter=both)
    return Bool(must=(query,), filter=(extra,))
