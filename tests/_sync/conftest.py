# Generated from tests/_async/conftest.py by scripts/run_unasync.py; change that file and run the script.
"""A real engine's client for each test; the sync twin of this folder is generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .search_world import searcher, world

__all__ = ["client", "searcher", "world"]


@pytest.fixture
def client(esembed_engine: Any) -> Iterator[Any]:
    """The official client of each engine in turn."""
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import Elasticsearch

        made: Any = Elasticsearch(esembed_engine.url)
    else:
        from opensearchpy import OpenSearch

        made = OpenSearch(esembed_engine.url)
    yield made
    made.close()
