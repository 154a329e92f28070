"""Documents as OpenSearch takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from esembed.dialect.documents import DocumentFormat, PointInTime, Storage
from esembed.dialect.tokens import TokenTarget

__all__ = ["OpenSearchDocuments"]


class OpenSearchDocuments(DocumentFormat):
    """OpenSearch's documents."""

    # SEISMIC is approximate and pays off in large indices only, so it is never chosen for anybody.
    auto_storage: ClassVar[Storage] = "rank_features"
    targets: ClassVar[Mapping[str, TokenTarget]] = {
        "rank_features": "opensearch.rank_features",
        # OpenSearch's type sparse_vector is SEISMIC.
        "seismic": "opensearch.sparse_vector",
        "sparse_vector": "opensearch.sparse_vector",
    }
    pit: ClassVar[PointInTime] = PointInTime(
        open="_search/point_in_time", close="/_search/point_in_time", key="pit_id", closes_many=True
    )
