"""The legs of a query: what they are called, and which of them are chosen.

A leg is one retriever (Elastic) or sub-query (OpenSearch) of a fusion. A text leg is called ``bm25``, a
vector leg by its field; ``dense`` and ``sparse`` stand for all legs of that type. The names are the same in
``legs=``, ``leg_timeouts_seconds=``, ``explain`` and ``legs_missing``, before and after weights are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Knn,
    Linear,
    Nested,
    Query,
    Rrf,
    Sparse,
    Stage,
    TextNode,
    VectorNode,
)
from esembed.query.tree import add_filter, walk

__all__ = [
    "BM25",
    "drop_legs",
    "expand_by_leg",
    "expand_leg_names",
    "leg_names",
    "leg_type",
    "query_legs",
    "select_legs",
]

BM25 = "bm25"
"""What the text leg is called."""

V = TypeVar("V")


def _below(query: Query) -> tuple[str, Query] | None:
    """What a query stands around whose legs are its own, and the attribute that it is: below a stage, or a
    fusion of nothing but a fusion, which only brings that one's scores to another scale."""
    if isinstance(query, Stage):
        return "query", query.query
    if isinstance(query, (Rrf, Linear)) and len(query.legs) == 1 and isinstance(query.legs[0], (Rrf, Linear)):
        return "legs", query.legs[0]
    return None


def _inside(query: Query, change: Callable[[Query], Query]) -> Query | None:
    """The query with what it stands around changed; None where it has legs of its own."""
    below = _below(query)
    if below is None:
        return None
    name, inner = below
    changed = change(inner)
    return query.replace(**{name: (changed,) if name == "legs" else changed})


def query_legs(query: Query) -> tuple[Query, ...]:
    """The legs of a query's outermost fusion, below its stages and a fusion that only scales it; of another
    query itself."""
    while (below := _below(query)) is not None:
        query = below[1]
    if isinstance(query, (Rrf, Linear)):
        return query.legs
    return (query,)


def leg_type(leg: Query) -> str:
    """``bm25``, ``dense``, ``sparse``, or for another query its node's own name (``bool``, ``term`` …)."""
    while isinstance(leg, (BoostBy, Nested)):
        leg = leg.query
    if isinstance(leg, TextNode):
        return BM25
    return {Knn: "dense", Sparse: "sparse"}.get(type(leg)) or str(leg.__struct_config__.tag)


def _is_of(leg: Query, kind: str) -> bool:
    """Whether a leg is of a type; a ``bool`` of texts, too, finds words."""
    if kind == BM25 and isinstance(leg, Bool):
        scoring = list(walk(leg.replace(filter=(), must_not=())))
        return any(isinstance(part, TextNode) for part in scoring) and not any(
            isinstance(part, VectorNode) for part in scoring
        )
    return leg_type(leg) == kind


def leg_names(legs: Sequence[Query]) -> list[str]:
    """A distinct name for each leg: its own, else its field's (vectors), else ``bm25`` or its type.

    Raises:
        QueryError: two legs were given the same name.
    """
    given = [name for leg in legs if (name := getattr(leg, "name", None)) is not None]
    taken = set(given)
    if len(taken) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise QueryError(f"two legs are named {twice!r}; names must differ", field="name")
    names: list[str] = []
    for leg in legs:
        name = getattr(leg, "name", None)
        if name is None:
            base = _field(leg) or leg_type(leg)
            name, number = base, 1
            while name in taken:
                number += 1
                name = f"{base}_{number}"
            taken.add(name)
        names.append(name)
    return names


def _field(leg: Query) -> str | None:
    while isinstance(leg, (BoostBy, Nested)):
        leg = leg.query
    return leg.field if isinstance(leg, VectorNode) else None


def expand_leg_names(names: Collection[str], legs: Sequence[Query], option: str) -> list[str]:
    """The names of legs that *names* stand for: a leg's own name, else a type (``dense``) for all of it.

    Args:
        option: what the names were given to, for the message.

    Raises:
        QueryError: a name that is neither.
    """
    known = leg_names(legs)
    found: list[str] = []
    for name in names:
        matching = (
            [name] if name in known else [n for n, leg in zip(known, legs, strict=True) if _is_of(leg, name)]
        )
        if not matching:
            raise QueryError(f"{option}: no leg {name!r}; there are {', '.join(known)}", field=option)
        found += [n for n in matching if n not in found]
    return found


def expand_by_leg(values: Mapping[str, V], legs: Sequence[Query], option: str) -> dict[str, V]:
    """A value for each leg, from values by name or type; a leg's own name counts before its type.

    Raises:
        QueryError: a name that no leg has.
    """
    found: dict[str, V] = {}
    known = leg_names(legs)
    for name in sorted(values, key=lambda name: name in known):
        # A leg of a fusion inside the fusion is known when the query is compiled (``inner/bm25``).
        for leg in [name] if "/" in name else expand_leg_names([name], legs, option):
            found[leg] = values[name]
    return found


def select_legs(query: Query, legs: Collection[str] | None) -> Query:
    """The query with only these legs of its outermost fusion; a single one stands alone.

    Args:
        legs: names of legs, or types (``dense``, ``sparse``) for all of a type; None keeps all.

    Raises:
        QueryError: no such leg.
    """
    if legs is None:
        return query
    if isinstance(legs, str) or not legs:
        raise QueryError(
            f"legs takes a list of leg names, such as legs=['bm25'], not {legs!r}; leave it out for all",
            field="legs",
        )
    if (changed := _inside(query, lambda inner: select_legs(inner, legs))) is not None:
        return changed
    inside = query_legs(query)
    names = leg_names(inside)
    chosen = expand_leg_names(legs, inside, "legs")
    keep = [i for i, name in enumerate(names) if name in chosen]
    if inside == (query,):
        return query
    if len(keep) > 1:
        return _with_legs(query, keep, names)
    single: Query = inside[keep[0]].replace(name=names[keep[0]])
    return add_filter(single, query.filter) if isinstance(query, (Rrf, Linear)) else single


def drop_legs(query: Query, names: Collection[str]) -> Query:
    """The query without these legs of its outermost fusion; one that is left stays a fusion."""
    if (changed := _inside(query, lambda inner: drop_legs(inner, names))) is not None:
        return changed
    inside = query_legs(query)
    if inside == (query,):
        return query
    labels = leg_names(inside)
    return _with_legs(query, [i for i, label in enumerate(labels) if label not in names], labels)


def _with_legs(query: Query, keep: list[int], names: list[str]) -> Query:
    """A fusion with only the legs at *keep*."""
    legs = tuple(query.legs[i].replace(name=names[i]) for i in keep)  # type: ignore[union-attr]
    weights = None if query.weights is None else tuple(query.weights[i] for i in keep)  # type: ignore[union-attr]
    if weights is not None and not any(weights):
        weights = None
    return query.replace(legs=legs, weights=weights)
