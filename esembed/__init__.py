"""esembed: dense and sparse vectors into Elasticsearch and OpenSearch, hybrid search out of them."""

from __future__ import annotations
