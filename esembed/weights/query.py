"""From a plan to how its legs are scored in memory, and from an estimate to the plan's default query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from esembed.encode.base import Encoder
from esembed.encode.lexical.words import ENGLISH_STOP_WORDS
from esembed.plan import IndexPlan, TextField
from esembed.plan.default_query import searchable_legs, weighted_legs
from esembed.plan.legs import BM25, leg_names
from esembed.query import Query
from esembed.query.nodes import Linear, Rrf, Stage
from esembed.weights.estimate import WeightsReport
from esembed.weights.scorers import DenseScorer, LexicalScorer, Scorer, SparseScorer

__all__ = ["as_kept", "lexical_scorer", "own_weights", "plan_scorers", "provenance", "weighted_query"]

_SNOWBALL = {
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "turkish",
}  # fmt: skip


def plan_scorers(plan: IndexPlan, encoders: Mapping[str, Encoder]) -> tuple[dict[str, Scorer], list[str]]:
    """How each leg of the default query is scored in memory, by the leg's name.

    Args:
        plan: the index's plan.
        encoders: vector field → its encoder.

    Returns:
        the scorers, and a line for each leg that can't be scored so.
    """
    scorers: dict[str, Scorer] = {}
    notes: list[str] = []
    searchable = searchable_legs(plan)
    if plan.text:
        scorers[BM25] = lexical_scorer(next(iter(plan.text.values())))
    for name, field in plan.dense.items():
        encoder: Any = encoders.get(name)
        if encoder is None or not field.encoded_here:
            continue
        if field.similarity not in ("cosine", "dot_product"):
            notes.append(f"{name}: the weight of similarity {field.similarity} is not estimated")
        else:
            scorers[name] = DenseScorer(name, encoder)
    for name, sparse in plan.sparse.items():
        encoder = encoders.get(name)
        # A lexical leg beside BM25 would count BM25 twice.
        if encoder is not None and sparse.encoded_here and name in searchable:
            scorers[name] = SparseScorer(name, encoder)
    return scorers, notes


def lexical_scorer(field: TextField) -> LexicalScorer:
    """BM25 in memory, with the words and parameters of a text field."""
    language = field.analyzer if field.analyzer in _SNOWBALL else "none"
    return LexicalScorer(
        language=language,
        k1=1.2 if field.k1 is None else field.k1,
        b=0.75 if field.b is None else field.b,
        stop_words=ENGLISH_STOP_WORDS if language == "english" else (),
    )


def weighted_query(plan: IndexPlan, report: WeightsReport) -> Query | None:
    """The default query with an estimate's weights: a fusion of the plan's legs.

    Args:
        plan: the index's plan.
        report: from :func:`~esembed.weights.estimate.estimate_weights`, its legs named as the plan's.

    Returns:
        ``q.linear(…, normalizer="floor")``, the only leg with a weight by itself, or None when nothing was
        learned.
    """
    if not report.learned:
        return None
    legs = searchable_legs(plan)
    return weighted_legs([(legs[leg.name], leg.weight) for leg in report.legs if leg.weight > 0])


def own_weights(query: Query) -> dict[str, float]:
    """What each leg of a fusion weighs, of a sum of 1; empty for another query."""
    while isinstance(query, Stage):
        query = query.query
    if not isinstance(query, (Rrf, Linear)):
        return {}
    weights = query.weights or (1.0,) * len(query.legs)
    total = sum(weights) or 1.0
    return {name: weight / total for name, weight in zip(leg_names(query.legs), weights, strict=True)}


def as_kept(report: WeightsReport, query: Query) -> WeightsReport:
    """The report where a query of somebody's own stays: its weights, and in a note what was estimated."""
    weights = own_weights(query)
    known = set(weights) == {leg.name for leg in report.legs}
    estimate = ", ".join(f"{leg.name} {leg.weight:.2f}" for leg in report.legs)
    notes = ["it is one of your own, which is never replaced"]
    if report.learned:
        notes.append(f"estimated for the plan's legs: {estimate}")
    if not known:
        notes.append("the weights shown are those of the plan's legs, not of your query")
    legs = report.legs
    if known:
        legs = tuple(replace(leg, weight=weights[leg.name]) for leg in report.legs)
    return replace(report, legs=legs, notes=(*notes, *report.notes), query=None)


def provenance(report: WeightsReport) -> str:
    """One line: what the weights rest on."""
    legs = (f"{leg.name} {leg.weight:.2f}" for leg in report.legs)
    return f"weights from {report.queries} known items ({', '.join(legs)})"
