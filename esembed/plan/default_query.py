"""The query that a plain string stands for: the plan's own, learned weights, or those of before learning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from esembed.errors import QueryError
from esembed.plan.index_plan import IndexPlan
from esembed.plan.legs import BM25, expand_leg_names, leg_names, query_legs, select_legs
from esembed.query import builders as q
from esembed.query.nodes import Bool, Knn, Match, Query, Sparse

__all__ = [
    "TEXT_LEAST",
    "TEXT_PRIOR",
    "default_legs",
    "default_query",
    "legs_beside",
    "lift_learned_query",
    "plan_legs",
    "prior_weights",
    "searchable_legs",
    "text_leg",
    "weighted_legs",
]


def default_query(plan: IndexPlan) -> Query:
    """The plan's default query, its texts left out.

    Without one of its own: BM25 over the text fields, every dense field and every learned sparse field,
    fused above each leg's floor with the weights of :func:`prior_weights`.

    Raises:
        QueryError: the plan has nothing that a text can be searched in.
    """
    if plan.query is not None:
        return plan.query
    known = _MADE.get(id(plan))
    if known is not None and known[0] is plan:
        return known[1]
    legs = searchable_legs(plan)
    if not legs:
        raise QueryError(
            "the plan has no field that a text can be searched in (precomputed vectors have no encoder): "
            "pass a query with vectors, such as q.knn(field, vector=…)"
        )
    weights = prior_weights(list(legs), text_leg(plan))
    made = weighted_legs(list(zip(legs.values(), weights, strict=True)))
    if len(_MADE) >= 64:
        _MADE.clear()
    _MADE[id(plan)] = (plan, made)
    return made


_MADE: dict[int, tuple[IndexPlan, Query]] = {}
"""Default queries by the identity of their plan, which is kept so that no other gets it. Making one, with its
checks, was a tenth of what a search for a string costs on this side."""


TEXT_PRIOR = 0.4
"""The weight of words in the default query before anything is learned, of a sum of 1. With MiniLM it is at
most .001 below the better of RRF and min-max on six collections, which were in view when it was chosen
(docs/quality.md, also for codes, names and weaker encoders)."""

TEXT_LEAST = 0.275
"""The least that words weigh once weights were learned. From .25 down, codes that words alone find fall
behind hits that are near by no more than chance."""


def prior_weights(names: Sequence[str], text: str | None) -> list[float]:
    """Each leg's weight before anything is known; they sum to 1.

    Args:
        names: of the legs.
        text: the leg that finds words; None where there is none: then all weigh the same.
    """
    if text not in names or len(names) == 1:
        return [1 / max(1, len(names))] * len(names)
    return [TEXT_PRIOR if name == text else (1 - TEXT_PRIOR) / (len(names) - 1) for name in names]


def text_leg(plan: IndexPlan) -> str | None:
    """The leg that finds words: BM25, or a lexical field where no text is indexed."""
    if plan.text:
        return BM25
    return next((name for name in searchable_legs(plan) if name in plan.lexical_fields), None)


def plan_legs(plan: IndexPlan) -> dict[str, Query]:
    """Every leg that a text can be searched in, by its name; none when the plan has no such field.

    Fields that the caller fills have no encoder for a query.
    """
    legs: dict[str, Query] = {}
    if len(plan.text) > 1:
        # One bag of words: best_fields puts what has one of the words in its short, boosted title before
        # what has them all (docs/quality.md: nDCG@10 .67 against .43 on SciFact with title^5).
        legs[BM25] = q.multi_match(kind="auto", name=BM25)
    elif plan.text:
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
    counted = plan.lexical_fields if plan.text else []
    return {name: leg for name, leg in plan_legs(plan).items() if name not in counted}


def default_legs(plan: IndexPlan, legs: Collection[str] | None) -> Query:
    """The default query with only these legs.

    Legs of the default query keep its fusion and weights. With a leg that only the plan has (``lexical``
    beside BM25) the chosen ones are fused by RRF: no weight is known for it.

    Raises:
        QueryError: the plan has no such leg, or nothing that a text can be searched in.
    """
    query = default_query(plan)
    if legs is None or isinstance(legs, str) or not legs:
        return select_legs(query, legs)
    named, own, beside = _chosen(plan, query, legs)
    if not beside:
        return select_legs(query, legs)
    everything = {**plan_legs(plan), **named}
    parts = [everything[name].replace(name=name) for name in everything if name in (*own, *beside)]
    return parts[0] if len(parts) == 1 else q.rrf(*parts)


def legs_beside(plan: IndexPlan, legs: Collection[str]) -> list[str]:
    """The legs that these names stand for and that only the plan has, not its default query.

    Raises:
        QueryError: a name of neither.
    """
    return _chosen(plan, default_query(plan), legs)[2]


def _chosen(
    plan: IndexPlan, query: Query, legs: Collection[str]
) -> tuple[dict[str, Query], list[str], list[str]]:
    """The query's legs by name, which of them are chosen, and which of the plan's beside them: a name or type
    stands for the query's own legs where it has such."""
    inside = query_legs(query)
    named = {name: leg.replace(name=name) for name, leg in zip(leg_names(inside), inside, strict=True)}
    everything = [leg.replace(name=name) for name, leg in {**plan_legs(plan), **named}.items()]
    own: list[str] = []
    beside: list[str] = []
    for name in legs:
        try:
            own += expand_leg_names([name], inside, "legs")
        except QueryError:
            beside += expand_leg_names([name], everything, "legs")
    return named, own, list(dict.fromkeys(beside))


def weighted_legs(legs: Sequence[tuple[Query, float]]) -> Query:
    """The default query of weighted legs: a fusion like any other; a single leg stands alone.

    ``floor``, since a document that a leg didn't list must not lose more than that leg's last hit, and since
    a list of vectors that are hardly nearer than the rest must not drown a name that words alone find. It is
    one ``_msearch`` on both engines and fused in the client: neither engine's normalizers have this form.
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
        least = TEXT_LEAST / (1 - TEXT_LEAST) * other / text
        lifted = [(leg, w * max(1.0, least) if isinstance(leg, Match) else w) for leg, w in lifted]
    return weighted_legs(lifted)


def _number(values: Any, key: str) -> float:
    """A weight out of untrusted evidence: between 0 and 1, else 1."""
    value = values.get(key) if isinstance(values, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else 1.0
