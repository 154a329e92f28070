"""What the engines make of a vector similarity, so that scores can be brought to one scale.

https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector (similarity),
https://docs.opensearch.org/latest/mappings/supported-field-types/knn-spaces/

Both score cosine as (1 + cos)/2 and l2_norm as 1/(1 + d²). OpenSearch has no dot_product for unit vectors
and scores its inner product as Elasticsearch does max_inner_product.
"""

from __future__ import annotations

from collections.abc import Callable

from esembed.capabilities import Kind
from esembed.fusion import Bound

__all__ = ["SPACE_TYPES", "converter", "cosine_bound", "exact_script", "score_of"]

SPACE_TYPES = {
    "cosine": "cosinesimil",
    "dot_product": "innerproduct",
    "max_inner_product": "innerproduct",
    "l2_norm": "l2",
}
"""Our similarity → OpenSearch's space type."""


def score_of(similarity: str, value: float, kind: Kind) -> float:
    """The engine's score for a similarity value (for ``l2_norm``: a distance)."""
    if similarity == "l2_norm":
        return 1.0 / (1.0 + value * value)
    if similarity == "max_inner_product" or (similarity == "dot_product" and kind == "opensearch"):
        return value + 1.0 if value >= 0 else 1.0 / (1.0 - value)
    return (1.0 + value) / 2.0


def converter(similarity: str, kind: Kind) -> Callable[[float], float] | None:
    """What brings this engine's score to Elasticsearch's, or None when it is the same."""
    if similarity != "dot_product" or kind != "opensearch":
        return None

    def convert(score: float) -> float:
        value = score - 1.0 if score >= 1.0 else 1.0 - 1.0 / score
        return (1.0 + value) / 2.0

    return convert


def cosine_bound(similarity: str) -> Bound:
    """From the (common) score back to the cosine, for ``normalizer="bound"``."""
    if similarity in ("cosine", "dot_product"):
        return Bound(factor=2.0, shift=-1.0)
    return Bound()


_SCRIPTS = {
    "cosine": "(cosineSimilarity(params.query_vector, '{field}') + 1.0) / 2.0",
    "dot_product": "(dotProduct(params.query_vector, '{field}') + 1.0) / 2.0",
    "l2_norm": "double d = l2norm(params.query_vector, '{field}'); return 1.0 / (1.0 + d * d);",
    "max_inner_product": (
        "double d = dotProduct(params.query_vector, '{field}'); return d < 0 ? 1.0 / (1.0 - d) : d + 1.0;"
    ),
}


def exact_script(similarity: str, field: str) -> str:
    """The painless source that scores as Elasticsearch's knn does. The field is a mapping's name, and a
    quote in it is escaped."""
    return _SCRIPTS[similarity].replace("{field}", field.replace("\\", "\\\\").replace("'", "\\'"))
