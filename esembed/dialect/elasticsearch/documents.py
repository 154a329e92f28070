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
    # Seen on 9.5.3. OpenSearch 3.6.0 answers 500 ("doesn't support sorting") for a Lucene field.
    vector_doc_values: ClassVar[bool] = True
    pit: ClassVar[PointInTime] = PointInTime(open="_pit", close="/_pit", key="id", closes_many=False)

    def bulk_params(self, *, primary_wait_seconds: float) -> dict[str, str]:
        """As everywhere, and no silence of a minute while a primary shard is away."""
        # Left alone it waits a minute and says nothing meanwhile. Not for OpenSearch: opensearch-py takes a
        # parameter of this name for its own time-out and can't pass it on.
        seconds = max(1, min(15, int(primary_wait_seconds)))
        params = DocumentFormat.bulk_params(self, primary_wait_seconds=primary_wait_seconds)
        return params | {"timeout": f"{seconds}s"}
