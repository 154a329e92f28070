"""Walking over queries: the search's text put in, filters added, legs chosen, vectors filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    Collapse,
    Filter,
    Knn,
    Match,
    MatchPhrase,
    MultiMatch,
    Node,
    Query,
    Rescore,
    Sparse,
)

__all__ = [
    "add_filter",
    "bind",
    "from_dict",
    "text_legs",
    "transform",
    "vector_fields",
    "walk",
]


def from_dict(data: Mapping[str, Any]) -> Query:
    """A query from plain JSON values (``node.to_dict()`` writes them). Raises QueryError."""
    try:
        query: Query = msgspec.convert(data, Query)
    except msgspec.ValidationError as error:
        raise QueryError(f"not a query: {error}") from error
    return check(query)


def check(query: Query) -> Query:
    """Put a query that came as data through the builders' checks. Raises QueryError."""
    from esembed.query import builders as build

    def rebuild(node: Query) -> Query:
        values = {name: getattr(node, name) for name in node.__struct_fields__}
        positional = [values.pop(name) for name in node._positional]
        if node._spread:
            positional.extend(values.pop(node._spread))
        made: Query = getattr(build, node._builder)(*positional, **values)
        return made

    return transform(query, rebuild)


def children(node: Query) -> Iterator[tuple[str, Query | tuple[Query, ...]]]:
    """The attributes of a node that hold queries, and what they hold."""
    for name in node.__struct_fields__:
        value = getattr(node, name)
        if isinstance(value, Node) or (isinstance(value, tuple) and value and isinstance(value[0], Node)):
            yield name, value  # type: ignore[misc]


def walk(query: Query) -> Iterator[Query]:
    """The node and everything below it, filters included."""
    yield query
    for _, value in children(query):
        for child in value if isinstance(value, tuple) else (value,):
            yield from walk(child)


def transform(query: Query, function: Callable[[Query], Query]) -> Query:
    """The tree with *function* applied to every node, from the leaves up."""
    changes: dict[str, Any] = {}
    for name, value in children(query):
        if isinstance(value, tuple):
            new: Any = tuple(transform(child, function) for child in value)
            if any(a is not b for a, b in zip(new, value, strict=True)):
                changes[name] = new
        else:
            new = transform(value, function)
            if new is not value:
                changes[name] = new
    return function(msgspec.structs.replace(query, **changes) if changes else query)


def bind(query: Query, text: str | None) -> Query:
    """The query with *text* in every leg that has none of its own.

    Raises:
        QueryError: a leg needs a text and there is none.
    """

    def put(node: Query) -> Query:
        open_text = (
            (isinstance(node, (Match, MultiMatch, MatchPhrase)) and node.text is None)
            or (isinstance(node, (Knn, Sparse)) and node.text is None and node.vector is None)
            or (isinstance(node, Rescore) and node.by is None and node.text is None)
        )
        if not open_text:
            return node
        if text is None:
            raise QueryError(
                f"{type(node).__name__.lower()} has no text (nor vector), and the search has none to give "
                "it: write text=… in it, or pass text= to the search"
            )
        return msgspec.structs.replace(node, text=text)

    return transform(query, put)


def text_legs(query: Query) -> list[Knn | Sparse]:
    """The knn and sparse nodes whose text is still to be encoded."""
    return [n for n in walk(query) if isinstance(n, (Knn, Sparse)) and n.vector is None]


def vector_fields(query: Query) -> set[str]:
    """The names of the vector fields that a query uses."""
    return {n.field for n in walk(query) if isinstance(n, (Knn, Sparse))}


def add_filter(query: Query, extra: Filter | None) -> Query:
    """The query with a filter inside it, where the engine applies it before it counts hits."""
    if extra is None:
        return query
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=add_filter(query.query, extra))  # type: ignore[no-any-return]
    if isinstance(query, Bool):

        def inside(part: Query) -> Query:
            # Beside a vector search a filter only thins out the k nearest that were found without it.
            vectors = any(isinstance(node, (Knn, Sparse)) for node in walk(part))
            return add_filter(part, extra) if vectors else part

        return query.replace(  # type: ignore[no-any-return]
            must=tuple(map(inside, query.must)),
            should=tuple(map(inside, query.should)),
            filter=(*query.filter, extra),
            # A bool of should clauses alone would otherwise match everything that passes the filter.
            minimum_should_match=query.minimum_should_match
            if query.minimum_should_match is not None or query.must or query.filter or not query.should
            else 1,
        )
    if "filter" in query.__struct_fields__:
        present = query.filter  # type: ignore[union-attr]
        both = extra if present is None else Bool(filter=(present, extra))
        return query.replace(filter=both)  # type: ignore[no-any-return]
    return Bool(must=(query,), filter=(extra,))
