"""OpenSearch's dialect: what it does its own way."""

from __future__ import annotations

from esembed.capabilities import Capabilities
from esembed.dialect.base import Dialect
from esembed.dialect.opensearch.documents import OpenSearchDocuments
from esembed.dialect.opensearch.mapping import OpenSearchMapping
from esembed.dialect.opensearch.query import OpenSearchQuery
from esembed.dialect.opensearch.scores import OpenSearchScores

__all__ = ["opensearch"]


def opensearch(capabilities: Capabilities) -> Dialect:
    """OpenSearch's dialect for a version and its plugins."""
    return Dialect(
        capabilities=capabilities,
        mapping=OpenSearchMapping(capabilities),
        query=OpenSearchQuery(),
        documents=OpenSearchDocuments(capabilities),
        scores=OpenSearchScores(capabilities),
    )
