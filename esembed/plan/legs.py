"""The legs of a query: which a plan's default query has, what they are called, which are chosen.

A leg is one retriever (Elastic) or sub-query (OpenSearch) of a fusion. A text leg is called ``bm25``, a
vector leg by its field; ``dense`` and ``sparse`` stand for all legs of that type. The names are the same in
``legs=``, ``leg_timeouts_seconds=``, ``explain`` and ``legs_missing``, before and after weights are learned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from esembed.errors import QueryError
from esembed.plan.index_plan import IndexPlan
from esembed.query import builders as q
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Collapse,
    Knn,
    Linear,
    Match,
    Nested,
    Query,
    Rescore,
    Rrf,
    Sparse,
    TextNode,
    VectorNode,
)
from esembed.query.tree import add_filter

__all__ = [
    "BM25",
    "default_legs",
    "default_query",
    "drop_legs",
    "expand_by_leg",
    "expand_leg_names",
    "leg_names",
    "leg_type",
    "lift_learned_query",
    "plan_legs",
    "query_legs",
    "searchable_legs",
    "select_legs",
    "weighted_legs",
]

BM25 = "bm25"
"""What the text leg is called."""

V = TypeVar("V")


def default_query(plan: IndexPlan) -> Query:
    """The plan's default query, its texts left out.

    Without one of its own: BM25 over the text fields, every dense field and every learned sparse field,
    fused by RRF.

    Raises:
        QueryError: the plan has nothing that a text can be searched in.
    """
    if plan.query is not None:
        return plan.query
    legs = searchable_legs(plan)
    if not legs:
        raise QueryError(
            "the plan has no field that a text can be searched in (given vectors have no encoder): pass a "
            "query with vectors, such as q.knn(field, vector=…)"
        )
    return next(iter(legs.values())) if len(legs) == 1 else q.rrf(*legs.values())


def plan_legs(plan: IndexPlan) -> dict[str, Query]:
    """Every leg that a text can be searched in, by its name; none when the plan has no such field.

    Fields that the caller fills have no encoder for a query.
    """
    legs: dict[str, Query] = {}
    if plan.text:
        legs[BM25] = q.match(name=BM25)
    for name, dense in plan.dense.items():
        if not dense.precomputed:
            legs[name] = q.knn(name, name=name)
    for name, sparse in plan.sparse.items():
        if not sparse.precomputed:
            legs[name] = q.sparse(name, name=name)
    return legs


def searchable_legs(plan: IndexPlan) -> dict[str, Query]:
    """The legs that the default query fuses, by name.

    ``lexical`` stands in for BM25 where there are no text fields, and never beside it: it would count BM25
    twice (RRF of three fell from .795 to .778 on MED, from .479 to .446 on CoSQA).
    """
    counted = [name for name, sparse in plan.sparse.items() if sparse.family == "lexical" and plan.text]
    return {name: leg for name, leg in plan_legs(plan).items() if name not in counted}


def default_legs(plan: IndexPlan, legs: Collection[str] | None) -> Query:
    """The default query with only these legs.

    Legs of the default query keep its fusion and weights. With a leg that only the plan has (``lexical``
    beside BM25) the chosen ones are fused by RRF.

    Raises:
        QueryError: the plan has no such leg, or nothing that a text can be searched in.
    """
    query = default_query(plan)
    if legs is None or isinstance(legs, str) or not legs:
        return select_legs(query, legs)
    inside = query_legs(query)
    named = dict(zip(leg_names(inside), inside, strict=True))
    everything = {**plan_legs(plan), **named}
    chosen = expand_leg_names(legs, [leg.replace(name=name) for name, leg in everything.items()], "legs")
    if all(name in named for name in chosen):
        return select_legs(query, chosen)
    parts = [everything[name].replace(name=name) for name in everything if name in chosen]
    return parts[0] if len(parts) == 1 else q.rrf(*parts)


def query_legs(query: Query) -> tuple[Query, ...]:
    """The legs of a query's outermost fusion, below its stages; of another query itself."""
    while isinstance(query, (Rescore, Collapse)):
        query = query.query
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


def leg_names(legs: Sequence[Query]) -> list[str]:
    """A distinct name for each leg: its own, else its field's (vectors), else ``bm25`` or its type.

    Raises:
        QueryError: two legs were given the same name.
    """
    given = [name for leg in legs if (name := getattr(leg, "name", None)) is not None]
    for name in given:
        if given.count(name) > 1:
            raise QueryError(f"two legs are named {name!r}; names must differ", field="name")
    names: list[str] = []
    for leg in legs:
        name = getattr(leg, "name", None)
        if name is None:
            base = _field(leg) or leg_type(leg)
            name, number = base, 1
            while name in names or name in given:
                number += 1
                name = f"{base}_{number}"
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
            [name]
            if name in known
            else [n for n, leg in zip(known, legs, strict=True) if leg_type(leg) == name]
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
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=select_legs(query.query, legs))
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
    if isinstance(query, (Rescore, Collapse)):
        return query.replace(query=drop_legs(query.query, names))
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


def weighted_legs(legs: Sequence[tuple[Query, float]]) -> Query:
    """The default query of weighted legs: a fusion like any other; a single leg stands alone.

    ``floor``, since a document that a leg didn't list must not lose more than that leg's last hit, and since
    a list of vectors that are hardly nearer than the rest must not drown a name that words alone find.
    """
    if len(legs) == 1:
        return legs[0][0]
    total = sum(weight for _, weight in legs)
    return q.linear(
        *(leg for leg, _ in legs),
        weights=[float(f"{weight / total:.4g}") for _, weight in legs],
        normalizer="floor",
    )


VECTOR_SPREAD = 4.0
"""How much smaller a vector leg's scores above their floor are than BM25's between least and best, about:
what a weight of the old form is multiplied by."""

LEAST_TEXT = 0.2
"""The least share of the text leg, as in :mod:`esembed.weights.estimate`."""


def lift_learned_query(query: Query | None, evidence: Any) -> Query | None:
    """The learned default query of an index made by 0.1.0, as a fusion; another query unchanged.

    0.1.0 stored a ``bool`` of a boosted ``match``, ``knn`` and ``sparse``. Its boosts hold how far each leg
    was trusted, divided by scales of raw scores, which the fusion doesn't need: the trust itself stands in
    the evidence.

    Args:
        query: the plan's default query.
        evidence: ``_meta.esembed.evidence``, untrusted.
    """
    if not isinstance(query, Bool) or query.minimum_should_match != 1 or len(query.should) < 2:
        return query
    if query.must or query.must_not or query.filter or not isinstance(evidence, Mapping):
        return query
    if not all(isinstance(leg, (Match, Knn, Sparse)) for leg in query.should):
        return query
    learned = evidence.get("trust")
    found = learned.get("legs") if isinstance(learned, Mapping) else None
    if not isinstance(found, Mapping):
        return query
    lifted: list[tuple[Query, float]] = []
    text = other = 0.0
    for leg, name in zip(query.should, leg_names(query.should), strict=True):
        known = found.get(name)
        weight = _number(known, "trust") * _number(known, "vote")
        if isinstance(leg, Match):
            text += weight
            leg = leg.replace(boost=1.0, damp_words=None, name=name)
        elif isinstance(leg, Knn):
            weight *= VECTOR_SPREAD
            leg = leg.replace(boost=1.0, k=None, name=name)
        elif isinstance(leg, Sparse):
            leg = leg.replace(boost=1.0, name=name)
        other += 0.0 if isinstance(leg, Match) else weight
        lifted.append((leg, weight))
    if text and other:
        least = LEAST_TEXT / (1 - LEAST_TEXT) * other / text
        lifted = [(leg, w * max(1.0, least) if isinstance(leg, Match) else w) for leg, w in lifted]
    return weighted_legs(lifted)


def _number(values: Any, key: str) -> float:
    """A weight out of untrusted evidence: between 0 and 1, else 1."""
    value = values.get(key) if isinstance(values, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else 1.0
