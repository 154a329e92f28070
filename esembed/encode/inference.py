"""Deprecated path of :mod:`esembed.dialect.inference`; it goes with the release after 0.2."""

import warnings

from esembed.dialect.inference import (
    elasticsearch_ingest_pipeline,
    elasticsearch_knn,
    elasticsearch_semantic_match,
    elasticsearch_semantic_text,
    elasticsearch_sparse_vector,
    opensearch_ingest_pipeline,
    opensearch_neural,
    opensearch_neural_sparse,
    opensearch_semantic_field,
)

__all__ = [
    "elasticsearch_ingest_pipeline",
    "elasticsearch_knn",
    "elasticsearch_semantic_match",
    "elasticsearch_semantic_text",
    "elasticsearch_sparse_vector",
    "opensearch_ingest_pipeline",
    "opensearch_neural",
    "opensearch_neural_sparse",
    "opensearch_semantic_field",
]

warnings.warn("esembed.encode.inference is now esembed.dialect.inference", DeprecationWarning, stacklevel=2)
