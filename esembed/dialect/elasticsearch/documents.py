"""Documents as Elasticsearch takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from esembed.dialect.documents import DocumentFormat, PointInTime, Storage
from esembed.dialect.tokens import TokenTarget

__all__ = ["ElasticsearchDocuments"]


class ElasticsearchDocuments(DocumentFormat):
    """Elasticsearch's documents."""

    auto_storage: ClassVar[Storage] = "sparse_vector"
    targets: ClassVar[Mapping[str, TokenTarget]] = {
        "sparse_vector": "elasticsearch.sparse_vector",
        "rank_features": "elasticsearch.rank_features",
        # There is none here, which is a gap of the mapping; until it is raised the names need a form.
        "seismic": "elasticsearch.sparse_vector",
    }
    pit: ClassVar[PointInTime] = PointInTime(open="_pit", close="/_pit", key="id", closes_many=False)
