"""What the engines make of a vector similarity and of BM25, so that scores can be brought to one scale.

https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector (similarity),
https://docs.opensearch.org/latest/mappings/supported-field-types/knn-spaces/

The common scale is Elasticsearch's. Both engines score cosine as (1 + cos)/2 and l2_norm as 1/(1 + d²).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esembed.capabilities import Capabilities
from esembed.fusion import Bound

__all__ = ["ScoreScale", "cosine_bound", "inner_product_score"]


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """An engine's scores beside the common scale. Both are the same but where an engine overrides."""

    capabilities: Capabilities

    def of_similarity(self, similarity: str, value: float) -> float:
        """The engine's score for a similarity value (for ``l2_norm``: a distance)."""
        if similarity == "l2_norm":
            return 1.0 / (1.0 + value * value)
        if similarity == "max_inner_product":
            return inner_product_score(value)
        return (1.0 + value) / 2.0

    def to_common(self, similarity: str) -> Callable[[float], float] | None:
        """What brings a kNN score of this engine to the common scale, or None when it is on it."""
        return None

    def bm25_factor(self, k1: float) -> float:
        """What a BM25 score of this engine is multiplied by to be on the common scale."""
        return 1.0 if self.capabilities.bm25_k1_factor else k1 + 1.0


def inner_product_score(value: float) -> float:
    """A score above 0 for an inner product, as Lucene makes it: both engines' for ``max_inner_product``."""
    return value + 1.0 if value >= 0 else 1.0 / (1.0 - value)


def cosine_bound(similarity: str) -> Bound:
    """From the (common) score back to the cosine, for ``normalizer="bound"``."""
    if similarity in ("cosine", "dot_product"):
        return Bound(factor=2.0, shift=-1.0)
    return Bound()
