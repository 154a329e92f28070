"""A real engine's client for each test; the sync twin of this folder is generated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from .search_world import searcher, world

__all__ = ["client", "searcher", "world"]


@pytest_asyncio.fixture
async def client(esembed_engine: Any) -> AsyncIterator[Any]:
    """The official client of each engine in turn."""
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import AsyncElasticsearch

        made: Any = AsyncElasticsearch(esembed_engine.url)
    else:
        from opensearchpy import AsyncOpenSearch

        made = AsyncOpenSearch(esembed_engine.url)
    yield made
    await made.close()
