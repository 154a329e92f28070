"""Walking over queries: the search's text put in, filters added, legs chosen, vectors filled in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Collapse,
    Filter,
    Knn,
    Linear,
    Match,
    MatchPhrase,
    MultiMatch,
    Nested,
    Node,
    Query,
    Rescore,
    Rrf,
    Sparse,
)

__all__ = [
    "add_filter",
    "bind",
    "drop_legs",
    "from_dict",
    "leg_names",
    "select_legs",
    "text_legs",
    "transform",
    "vector_fields",
    "walk",
]

_KINDS: dict[str, str] = {"Match": "bm25", "MultiMatch": "bm25", "MatchPhrase": "bm25", "Knn": "dense"}


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


def leg_names(legs: tuple[Query, ...]) -> list[str]:
    """A distinct name for each leg: its own, else ``bm25``, ``dense``, ``sparse`` … by its kind.

    Raises:
        QueryError: two legs were given the same name.
    """
    given = [leg.name for leg in legs if getattr(leg, "name", None)]  # type: ignore[union-attr]
    for name in given:
        if given.count(name) > 1:
            raise QueryError(f"two legs are named {name!r}; names must differ", field="name")
    names: list[str] = []
    for leg in legs:
        name = getattr(leg, "name", None)
        if name is None:
            base = _kind(leg)
            name, number = base, 1
            while name in names or name in given:
                number += 1
                name = f"{base}_{number}"
        names.append(name)
    return names


def _kind(leg: Query) -> str:
    if isinstance(leg, BoostBy):
        return _kind(leg.query)
    if isinstance(leg, Nested):
        return _kind(leg.query)
    kind = type(leg).__name__
    return _KINDS.get(kind, str(leg.__struct_config__.tag))


def sum_legs(query: Query) -> tuple[Query, ...]:
    """The legs of a weighted sum that is one request, a ``bool`` of ``should`` clauses alone (such as the
    default query after an ingest); else none."""
    if not isinstance(query, Bool) or query.must or len(query.should) < 2:
        return ()
    return query.should if query.minimum_should_match in (None, 1) else ()


def _with_legs(query: Query, keep: list[int], names: list[str]) -> Query:
    """A fusion or sum of legs with only those at *keep*."""
    if isinstance(query, Bool):
        return query.replace(should=tuple(query.should[i].replace(name=names[i]) for i in keep))  # type: ignore[no-any-return]
    legs = tuple(query.legs[i].replace(name=names[i]) for i in keep)  # type: ignore[union-attr]
    weights = None if query.weights is None else tuple(query.weights[i] for i in keep)  # type: ignore[union-attr]
    if weights is not None and not any(weights):
        weights = None
    return query.replace(legs=legs, weights=weights)  # type: ignore[no-any-return]


def select_legs(query: Query, legs: Collection[str] | None) -> Query:
    """The query with only these legs of its outermost fusion; a single one stands alone.

    Raises:
        QueryError: no such leg, or the query isn't a fusion.
    """
    if legs is None:
        return query
    if isinstance(legs, str) or not legs:
        raise QueryError(
            f"legs takes a list of leg names, such as legs=['bm25'], not {legs!r}; leave it out for all",
            field="legs",
        )
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=select_legs(query.query, legs))  # type: ignore[no-any-return]
    inside = query.legs if isinstance(query, (Rrf, Linear)) else sum_legs(query)
    if not inside:
        if set(legs) == set(leg_names((query,))):
            return query
        raise QueryError(
            f"the query is no fusion; its only leg is {leg_names((query,))[0]!r}, not {sorted(legs)}",
            field="legs",
        )
    names = leg_names(inside)
    unknown = sorted(set(legs) - set(names))
    if unknown:
        raise QueryError(
            f"no leg {', '.join(map(repr, unknown))}; there are {', '.join(names)}", field="legs"
        )
    keep = [i for i, name in enumerate(names) if name in legs]
    if len(keep) > 1:
        return _with_legs(query, keep, names)
    single: Query = inside[keep[0]].replace(name=names[keep[0]])
    if not isinstance(query, Bool):
        return add_filter(single, query.filter)  # type: ignore[union-attr]
    if query.must_not:
        return Bool(must=(single,), filter=query.filter, must_not=query.must_not)
    for extra in query.filter:
        single = add_filter(single, extra)
    return single


def drop_legs(query: Query, names: Collection[str]) -> Query:
    """The query without these legs of its outermost fusion; one that is left stays a fusion."""
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=drop_legs(query.query, names))  # type: ignore[no-any-return]
    inside = query.legs if isinstance(query, (Rrf, Linear)) else sum_legs(query)
    if not inside:
        return query
    labels = leg_names(inside)
    return _with_legs(query, [i for i, label in enumerate(labels) if label not in names], labels)
