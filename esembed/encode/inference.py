"""Deprecated path of :mod:`esembed.encode.engine_inference` and of the bodies in
``esembed.dialect.ENGINE.inference``; it goes with the release after 0.2."""

import warnings

from esembed.dialect.elasticsearch.inference import ingest_pipeline as elasticsearch_ingest_pipeline
from esembed.dialect.elasticsearch.inference import knn as elasticsearch_knn
from esembed.dialect.elasticsearch.inference import semantic_match as elasticsearch_semantic_match
from esembed.dialect.elasticsearch.inference import semantic_text as elasticsearch_semantic_text
from esembed.dialect.elasticsearch.inference import sparse_vector as elasticsearch_sparse_vector
from esembed.dialect.opensearch.inference import ingest_pipeline as opensearch_ingest_pipeline
from esembed.dialect.opensearch.inference import neural as opensearch_neural
from esembed.dialect.opensearch.inference import neural_sparse as opensearch_neural_sparse
from esembed.dialect.opensearch.inference import semantic_field as opensearch_semantic_field
from esembed.encode.engine_inference import EngineEncoder

__all__ = [
    "EngineEncoder",
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

warnings.warn(
    "esembed.encode.inference is now esembed.encode.engine_inference (the encoder) and "
    "esembed.dialect.elasticsearch.inference, esembed.dialect.opensearch.inference (the bodies)",
    DeprecationWarning,
    stacklevel=2,
)
