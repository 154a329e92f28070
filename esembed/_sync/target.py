# Generated from esembed/_async/target.py by scripts/run_unasync.py; change that file and run the script.
"""An index as evaluation and weights see it: queries run on it, documents counted, a default query stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.alias import AliasProperties
from esembed.encode.pool import EncoderPool
from esembed.plan import IndexPlan
from esembed.query import Filter, Query
from esembed.search.options import Reranker
from esembed.types import Hits

from . import documents
from .client import EngineClient
from .state import IndexState

__all__ = ["IndexTarget"]


class IndexTarget:
    """The search target that an index is. Its sync counterpart runs in threads (``_shim.as_sync``)."""

    def __init__(self, state: IndexState) -> None:
        self.state = state

    @property
    def client(self) -> EngineClient:
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

    def search(self, query: str | Query, **options: Any) -> Hits:
        """As ``Index.search``."""
        return self.state.searcher.search(query, **options)

    def search_many(self, queries: Sequence[str | Query], **options: Any) -> list[Hits]:
        """As ``Index.search_many``."""
        return self.state.searcher.search_many(queries, **options)

    @property
    def concrete_index(self) -> str:
        """The index behind the name; of several, their names with commas."""
        return self.state.concrete_index

    @property
    def uuid(self) -> str:
        """The UUID that the engine gave the index."""
        return self.state.live.uuid

    @property
    def alias(self) -> AliasProperties:
        """What the name is beside a name: its filter and routing."""
        return self.state.live.alias

    def clause(self, filter: Filter) -> Mapping[str, Any]:
        """A filter of documents in the engine's own JSON.

        Raises:
            QueryError: a field that isn't there or is used wrongly.
        """
        return self.state.searcher.clause(filter)

    def encode_queries(self, field: str, texts: Sequence[str]) -> list[Sequence[float]]:
        """The vectors of texts as queries of a dense field, in their order; empty for a text that its
        encoder knows nothing in.

        Raises:
            EncoderError, ContractError: they can't be encoded for this index.
        """
        return self.state.searcher.encode_queries(field, texts)

    def count(self, clause: Mapping[str, Any] | None = None) -> int:
        """How many documents a search can find; of those that match *clause*."""
        return documents.count(self.state, clause)

    def load_statistics(self) -> None:
        """Give lexical fields the collection's term statistics."""
        self.state.load_statistics()

    def store_query(self, query: Query | None, provenance: Mapping[str, Any]) -> None:
        """Make *query* the default query, and keep where it comes from beside it.

        Raises:
            PlanError: ``_meta`` would be too large; nothing was written.
        """
        stored = self.state.stored
        plan = self.state.plan.replace(query=query)
        # The key's name is stored in indices that exist.
        rest = {**stored.rest, "evidence": dict(provenance)}
        self.state.store(dataclasses.replace(stored, plan=plan, rest=rest))
