"""An index as evaluation and weights see it: queries run on it, documents counted, a default query stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.encode.pool import EncoderPool
from esembed.plan import IndexPlan
from esembed.query import Query
from esembed.search.options import Reranker
from esembed.types import Hits

from . import documents
from .client import AsyncEngineClient
from .state import IndexState

__all__ = ["AsyncIndexTarget"]


class AsyncIndexTarget:
    """The search target that an index is. Its sync counterpart runs in threads (``_shim.as_sync``)."""

    def __init__(self, state: IndexState) -> None:
        self.state = state

    @property
    def client(self) -> AsyncEngineClient:
        """What carries its requests."""
        return self.state.client

    @property
    def name(self) -> str:
        """The name that the index was opened by."""
        return self.state.name

    @property
    def plan(self) -> IndexPlan:
        """The plan as the index has it."""
        return self.state.plan

    @property
    def stored(self) -> meta.StoredMeta:
        """What the index says about itself."""
        return self.state.stored

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self.state.capabilities

    @property
    def pool(self) -> EncoderPool:
        """The encoders of the plan's fields."""
        return self.state.pool

    @property
    def rerankers(self) -> Mapping[str, Reranker]:
        """Name → cross-encoder."""
        return self.state.rerankers or {}

    async def search(self, query: str | Query, **options: Any) -> Hits:
        """As ``AsyncIndex.search``."""
        return await self.state.searcher.search(query, **options)

    async def search_many(self, queries: Sequence[str | Query], **options: Any) -> list[Hits]:
        """As ``AsyncIndex.search_many``."""
        return await self.state.searcher.search_many(queries, **options)

    async def count(self) -> int:
        """How many documents a search can find."""
        return await documents.count(self.state)

    async def load_statistics(self) -> None:
        """Give lexical fields the collection's term statistics."""
        await self.state.load_statistics()

    async def store_query(self, query: Query | None, provenance: Mapping[str, Any]) -> None:
        """Make *query* the default query, and keep where it comes from beside it.

        Raises:
            PlanError: ``_meta`` would be too large; nothing was written.
        """
        stored = self.state.stored
        plan = self.state.plan.replace(query=query)
        # The key's name is stored in indices that exist.
        rest = {**stored.rest, "evidence": dict(provenance)}
        await self.state.store(dataclasses.replace(stored, plan=plan, rest=rest))
