"""Theoretical bounds of scores, for ``q.linear(…, normalizer="bound")``.

A BM25 score (with the factor k1 + 1) divided by the sum of the idf of the query's words says how much of
the query a document holds, whatever the other documents of the list are: a document of average length with
every word once scores 1. A word that no document has counts in the sum. See Bruch, Gai and Ingber, "An
analysis of fusion functions for hybrid retrieval", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from esembed.dialect.scores import cosine_bound
from esembed.fusion import Bound
from esembed.plan import IndexPlan
from esembed.query.nodes import Knn, Query, Sparse

__all__ = ["bound_of", "idf_sum"]


def idf_sum(vector: Mapping[str, Any]) -> float:
    """Σ tf · idf over a text's terms, from one field of a ``_termvectors`` answer with term statistics.

    Lucene's idf, ln(1 + (N − df + 0.5) / (df + 0.5)), N being the documents that have the field.
    """
    count = max(0, int((vector.get("field_statistics") or {}).get("doc_count", 0)))
    total = 0.0
    for term in (vector.get("terms") or {}).values():
        df = min(count, int(term.get("doc_freq", 0)))
        total += int(term.get("term_freq", 1)) * math.log(1.0 + (count - df + 0.5) / (df + 0.5))
    return total


def bound_of(node: Query, plan: IndexPlan | None, words: float | None) -> tuple[Bound, str | None]:
    """How a leg's score is normalized, and a note where it can't be.

    Args:
        words: the IDF sum of a text leg's words, where it was asked for.
    """
    scale = getattr(node, "scale", None)
    if scale is not None:
        return Bound(divisor=float(scale)), None
    boost = float(getattr(node, "boost", 1.0)) or 1.0
    if isinstance(node, Knn):
        spec = plan.dense.get(node.field) if plan is not None else None
        similarity = spec.similarity if spec is not None else "cosine"
        bound = cosine_bound(similarity)
        note = None if bound != Bound() else f"{similarity} has no bound; its scores are taken as they are"
        return Bound(divisor=1.0, factor=bound.factor / boost, shift=bound.shift), note
    if isinstance(node, Sparse) and node.vector is not None:
        return Bound(divisor=(math.fsum(node.vector.values()) or 1.0) * boost), None
    if words is not None:
        return Bound(divisor=(words or 1.0) * boost), None
    return Bound(), "no bound is known for this leg, so its scores are taken as they are; give it scale="
