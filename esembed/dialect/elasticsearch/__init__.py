"""Elasticsearch's dialect: what it does its own way."""

from __future__ import annotations

from esembed.capabilities import Capabilities
from esembed.dialect.base import Dialect
from esembed.dialect.elasticsearch.documents import ElasticsearchDocuments
from esembed.dialect.elasticsearch.mapping import ElasticsearchMapping
from esembed.dialect.elasticsearch.query import ElasticsearchQuery
from esembed.dialect.elasticsearch.scores import ElasticsearchScores

__all__ = ["elasticsearch"]


def elasticsearch(capabilities: Capabilities) -> Dialect:
    """Elasticsearch's dialect for a version, license and build."""
    return Dialect(
        capabilities=capabilities,
        mapping=ElasticsearchMapping(capabilities),
        query=ElasticsearchQuery(),
        documents=ElasticsearchDocuments(capabilities),
        scores=ElasticsearchScores(capabilities),
    )
