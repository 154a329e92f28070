"""From an estimate of trust to the plan's default query, and from an index to that estimate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from esembed import query as q
from esembed.encode.base import Encoder
from esembed.encode.lexical.words import ENGLISH_STOP_WORDS
from esembed.plan import IndexPlan, TextField
from esembed.plan.legs import BM25, searchable_legs
from esembed.query import Query
from esembed.weights.estimate import DenseScorer, LexicalScorer, Scorer, SparseScorer, TrustReport

__all__ = ["DAMP_WORDS", "knowing_query", "lexical_scorer", "plan_scorers"]

DAMP_WORDS = 32
"""Queries of more words count for less in BM25, whose sum grows with every word."""

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
    if plan.text:
        scorers[BM25] = lexical_scorer(next(iter(plan.text.values())))
    for name, part in plan.dense.items():
        encoder: Any = encoders.get(name)
        if encoder is None or not part.encoded_here:
            continue
        if part.similarity not in ("cosine", "dot_product"):
            notes.append(f"{name}: no bound is known for similarity {part.similarity}")
        else:
            scorers[name] = DenseScorer(encoder)
    searchable = searchable_legs(plan)
    for name, sparse in plan.sparse.items():
        encoder = encoders.get(name)
        # A lexical leg beside BM25 would count BM25 twice.
        if encoder is not None and sparse.encoded_here and name in searchable:
            scorers[name] = SparseScorer(encoder)
    return scorers, notes


def lexical_scorer(part: TextField) -> LexicalScorer:
    """BM25 in memory, with the words and parameters of a text field."""
    language = part.analyzer if part.analyzer in _SNOWBALL else "none"
    return LexicalScorer(
        language=language,
        k1=1.2 if part.k1 is None else part.k1,
        b=0.75 if part.b is None else part.b,
        stop_words=ENGLISH_STOP_WORDS if language == "english" else (),
    )


def knowing_query(plan: IndexPlan, report: TrustReport, *, k: int | None = None) -> Query | None:
    """The default query that the estimate leads to: one request on every engine.

    Args:
        plan: the index's plan.
        report: from :func:`~esembed.weights.estimate.estimate_trust`, its legs named by field and ``bm25``.
        k: how many nearest vectors a dense leg brings. None: all of an index of up to 1,000 documents,
            else 200: a document beyond them gets nothing from the leg, which hurts where it is weak.

    Returns:
        a ``bool`` of the trusted legs, the only trusted leg by itself, or None when there is nothing to
        weigh (no leg, or too few known items).
    """
    trusted = [leg for leg in report.legs if leg.trust > 0]
    if not trusted or not any(leg.quality for leg in report.legs):
        return None
    single = len(trusted) == 1
    if k is None:
        k = max(10, report.documents) if report.documents <= 1000 else 200
    strongest = max(leg.weight * _unit(leg.kind, plan) for leg in trusted)
    parts: list[Query] = []
    for leg in trusted:
        boost = 1.0 if single else _digits(leg.weight * _unit(leg.kind, plan) / strongest)
        if leg.kind == "text":
            parts.append(q.match(boost=boost, damp_words=None if single else DAMP_WORDS, name=leg.name))
        elif leg.kind == "dense":
            parts.append(q.knn(leg.name, k=k, boost=boost, name=leg.name))
        else:
            parts.append(q.sparse(leg.name, boost=boost, name=leg.name))
    return parts[0] if single else q.bool_(should=parts, minimum_should_match=1)


def _unit(kind: str, plan: IndexPlan) -> float:
    """What turns the scorer's unit into the engine's: engines score a cosine as (1 + cos)/2, and BM25 on
    the common scale has the factor k1 + 1 that the scorer leaves out."""
    if kind == "dense":
        return 2.0
    if kind == "text":
        k1 = next(iter(plan.text.values())).k1
        return 1 / ((1.2 if k1 is None else k1) + 1)
    return 1.0


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def evidence(report: TrustReport) -> str:
    """One line for the plan's description: what the weights rest on."""
    legs: Iterable[str] = (
        f"{leg.name} {sum(leg.quality.values()) / max(1, len(leg.quality)):.2f}" for leg in report.legs
    )
    return f"weights from {report.queries} known items ({', '.join(legs)})"
