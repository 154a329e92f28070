"""OpenSearch's scores: its own space for unit vectors is missing, and BM25 lost a factor in 3.0."""

from __future__ import annotations

from collections.abc import Callable

from esembed.dialect.scores import ScoreScale, inner_product_score

__all__ = ["SPACE_TYPES", "OpenSearchScores"]

SPACE_TYPES = {
    "cosine": "cosinesimil",
    # There is no space for vectors of length 1: their dot product is any inner product here.
    "dot_product": "innerproduct",
    "max_inner_product": "innerproduct",
    "l2_norm": "l2",
}
"""Our similarity → OpenSearch's space type."""


class OpenSearchScores(ScoreScale):
    """OpenSearch's scores. It has no dot_product for unit vectors and scores its inner product as
    Elasticsearch does max_inner_product."""

    def of_similarity(self, similarity: str, value: float) -> float:
        """The engine's score for a similarity value (for ``l2_norm``: a distance)."""
        if similarity == "dot_product":
            return inner_product_score(value)
        return super().of_similarity(similarity, value)

    def to_common(self, similarity: str) -> Callable[[float], float] | None:
        """What brings a kNN score of this engine to the common scale, or None when it is on it."""
        return _dot_product_to_common if similarity == "dot_product" else None


def _dot_product_to_common(score: float) -> float:
    value = score - 1.0 if score >= 1.0 else 1.0 - 1.0 / score
    return (1.0 + value) / 2.0
