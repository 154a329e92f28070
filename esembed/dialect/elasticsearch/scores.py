"""Elasticsearch's scores are the common scale; exact kNN is a script that has to score alike."""

from __future__ import annotations

from esembed.dialect.scores import ScoreScale

__all__ = ["ElasticsearchScores", "exact_script"]


class ElasticsearchScores(ScoreScale):
    """Elasticsearch's scores: the common scale itself."""


_SCRIPTS = {
    "cosine": "(cosineSimilarity(params.query_vector, '{field}') + 1.0) / 2.0",
    "dot_product": "(dotProduct(params.query_vector, '{field}') + 1.0) / 2.0",
    "l2_norm": "double d = l2norm(params.query_vector, '{field}'); return 1.0 / (1.0 + d * d);",
    "max_inner_product": (
        "double d = dotProduct(params.query_vector, '{field}'); return d < 0 ? 1.0 / (1.0 - d) : d + 1.0;"
    ),
}


def exact_script(similarity: str, field: str) -> str:
    """The painless source that scores as Elasticsearch's knn does.

    Args:
        field: a mapping's name; a quote or backslash in it is escaped.
    """
    return _SCRIPTS[similarity].replace("{field}", field.replace("\\", "\\\\").replace("'", "\\'"))
