"""Walking over queries: read from JSON, the search's text put in, filters added, vectors found."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from esembed.errors import QueryError
from esembed.json_input import JsonInputError, JsonLimits, check_json, parse_json
from esembed.query.nodes import (
    Bool,
    Filter,
    Knn,
    Node,
    Query,
    Sparse,
    Stage,
    VectorNode,
)

__all__ = [
    "LIMITS",
    "MAX_LEVELS",
    "add_filter",
    "bind",
    "finds_nearest",
    "from_dict",
    "from_json",
    "legs_to_encode",
    "resolve_text",
    "text_legs",
    "transform",
    "vector_fields",
    "walk",
]

LIMITS = JsonLimits(characters=4 * 1024 * 1024, values=250_000, objects=4096)
"""How much JSON a query may be: 65,536 terms of 60 characters fit in, and as many clauses as an engine takes.
Elasticsearch takes 30 levels of queries (indices.query.bool.max_nested_depth); Python's own limit of 1,000
calls would be met by a few hundred when the query is walked."""

MAX_LEVELS = 50
"""Queries inside each other, two levels of JSON for each."""


def from_json(text: str | bytes, *, allow_raw: bool = False) -> Query:
    """A query from JSON text, which may come from anywhere.

    Args:
        allow_raw: as in :func:`from_dict`.

    Raises:
        QueryError: not JSON, or as :func:`from_dict`.
    """
    try:
        data = parse_json(text, LIMITS)
    except JsonInputError as error:
        raise _no_query(error) from None
    return _from_checked(data, allow_raw)


def from_dict(data: Mapping[str, Any], *, allow_raw: bool = False) -> Query:
    """A query from plain JSON values, which may come from anywhere; ``node.to_dict()`` writes them.

    Args:
        allow_raw: take ``raw`` nodes, too. They hold the engine's own JSON, which can run scripts, read other
            indices and take any amount of memory: only for queries of your own.

    Raises:
        QueryError: unknown nodes or attributes, values of another type or out of range, more than the limits
            take (4 MiB of text, 4,096 nodes, 50 levels), or a ``raw`` node.
    """
    try:
        check_json(data, LIMITS)
    except JsonInputError as error:
        raise _no_query(error) from None
    return _from_checked(data, allow_raw)


def _no_query(error: JsonInputError) -> QueryError:
    return QueryError(f"not a query: {error}", field=error.path or None)


def _from_checked(data: Any, allow_raw: bool) -> Query:
    if not allow_raw:
        place = _find_raw(data)
        if place is not None:
            raise QueryError(
                f"{place + ': ' if place else ''}raw is the engine's own JSON, which can do anything "
                "there; it is read only with allow_raw=True, for queries of your own",
                field=place or None,
            )
    try:
        query: Query = msgspec.convert(data, Query)
    except msgspec.ValidationError as error:
        where = str(error).partition(" - at `$")[2].rstrip("`").lstrip(".")
        raise QueryError(f"not a query: {error!s:.500}", field=where or None) from error
    except QueryError as error:
        place = _place_of(data, error)
        raise QueryError(f"{place}: {error.message}" if place else error.message, field=error.field) from None
    except UnicodeEncodeError as error:  # half a surrogate pair, which Python's own JSON reader lets through
        raise QueryError(
            f"not a query: {error.object[error.start]!r} in a text is not valid Unicode"
        ) from None
    return query


def _nodes(data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object with a ``type`` in a query's JSON and its path, outer ones first; ``raw`` ends there."""
    stack: list[tuple[str, Any]] = [("", data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            if "type" in value:
                yield path, value
            if value.get("type") != "raw":
                stack.extend((f"{path}.{name}".lstrip("."), inner) for name, inner in value.items())
        elif isinstance(value, (list, tuple)):
            objects = ((i, inner) for i, inner in enumerate(value) if isinstance(inner, Mapping))
            stack.extend((f"{path}[{i}]", inner) for i, inner in objects)


def _find_raw(data: Any) -> str | None:
    return next((path for path, node in _nodes(data) if node.get("type") == "raw"), None)


def _place_of(data: Any, error: QueryError) -> str:
    """The path of the innermost node that has this error by itself: a node checks itself, and doesn't know
    where it stands."""
    for path, node in sorted(_nodes(data), key=lambda one: -len(one[0])):
        try:
            msgspec.convert(node, Query)
        except QueryError as found:
            if found.message == error.message:
                return path
        except (msgspec.ValidationError, UnicodeEncodeError):
            continue
    return ""


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
    """The node and everything below it, filters included, each before what is inside it.

    Raises:
        QueryError: more than :data:`MAX_LEVELS` levels.
    """
    # By hand and not by calls: each level of generators would pass every node on, and deep queries end the
    # interpreter's stack.
    stack = [(query, 1)]
    while stack:
        node, level = stack.pop()
        yield node
        inside: list[tuple[Query, int]] = []
        for _, value in children(node):
            if level >= MAX_LEVELS:
                raise too_deep()
            if isinstance(value, tuple):
                inside.extend((child, level + 1) for child in value)
            else:
                inside.append((value, level + 1))
        stack.extend(reversed(inside))


def too_deep() -> QueryError:
    """The refusal of a query of too many levels."""
    return QueryError(
        f"the query is nested deeper than {MAX_LEVELS} levels; write it flatter (several clauses in a bool_)"
    )


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
    if isinstance(query, Stage):
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
