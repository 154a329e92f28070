"""Searching behind an alias that may move: always the version that the query was embedded for."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from esembed.deadline import Deadline
from esembed.dialect.meta import stored_meta
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.errors import EsembedError, IndexNotFoundError
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.query import Query
from esembed.search.options import Reranker
from esembed.types import Hits

from ._shim import in_thread
from .client import AsyncEngineClient
from .deadline import ended_by
from .index import AsyncIndex
from .live import LiveIndex, describe_all
from .opening import open_live
from .state import Encoders

T = TypeVar("T")

__all__ = ["AsyncFollower"]

logger = logging.getLogger("esembed.follow")


class AsyncFollower:
    """An alias, resolved to its concrete index, which is what requests are sent to.

    The alias is looked up again after *ttl_seconds* and when the index is gone. When it moved, the new
    version is opened and its encoders are loaded before the first query goes there, so no query is ever
    embedded with one model and answered by the vectors of another. Keep old versions for longer than
    the TTL.

    Args:
        client: the official client; it stays the caller's.
        alias: the alias (or an index).
        ttl_seconds: how long a look-up holds.
        encoders: spec string → encoder, or concrete index → encoders (see :meth:`AsyncIndex.open`).
        allow_encoders: spec strings that may be loaded.
        runtime: how loaded encoders run here.
        rerankers, allow_raw: see :meth:`AsyncIndex.open`.
    """

    def __init__(
        self,
        client: Any,
        alias: str,
        *,
        ttl_seconds: float = 30.0,
        encoders: Mapping[str, Encoder | Mapping[str, Encoder]] | None = None,
        allow_encoders: Collection[str] = (),
        runtime: RuntimeOptions | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
        allow_raw: bool = False,
    ) -> None:
        self.alias = alias
        self.ttl_seconds = ttl_seconds
        self.moves = 0
        self._client = client
        self._engine = AsyncEngineClient(client)
        self._encoders = dict(encoders or {})
        self._allow = tuple(allow_encoders)
        self._runtime = runtime
        self._rerankers = rerankers
        self._allow_raw = allow_raw
        self._index: AsyncIndex | None = None
        self._checked = 0.0

    async def current(self, *, fresh: bool = False) -> AsyncIndex:
        """The version that the alias stands for, its encoders warm.

        Args:
            fresh: look the alias up now, whatever the TTL says.

        Raises:
            IndexNotFoundError: nothing stands behind the name.
        """
        now = time.monotonic()
        if self._index is not None and not fresh and now - self._checked < self.ttl_seconds:
            return self._index
        live = await describe_all(self._engine, self.alias)
        if live is None:
            raise IndexNotFoundError(f"there is no index or alias {self.alias!r}", index=self.alias)
        index = self._index
        # Another filter is another tenant's view, though the index is the same.
        known = index is not None and (index.uuid, index.state.live.alias) == (live.uuid, live.alias)
        if index is None or not known:
            try:
                opened = await self._open(live)
            except EsembedError as error:
                # What an alias with another filter showed before is not to be shown any more.
                if index is None or fresh or index.state.live.alias != live.alias:
                    raise
                # The old version still answers, and rightly; better than no answer.
                logger.warning("can't follow %s to %s yet: %s", self.alias, live.concrete_index, error)
                self._checked = now
                return index
            if index is not None and index.uuid != live.uuid:
                self.moves += 1
            self._index = index = opened
        self._checked = now
        return index

    async def _open(self, live: LiveIndex) -> AsyncIndex:
        known = self._index.capabilities if self._index is not None else None
        encoder = self._encoders.get(live.concrete_index)
        stored = stored_meta(live.mapping)
        if encoder is None and stored is not None:
            named: dict[str, Encoder] = {}
            for name, field in stored.plan.vector_fields():
                found = self._encoders.get(field.encoder)
                if found is not None and not isinstance(found, Mapping):
                    named[name] = found
            encoder = named or None
        # By what was just looked up, not by name: the alias may have moved again, and its filter and routing
        # are the alias's, which the index's own name doesn't have.
        state = await open_live(
            self._engine,
            live,
            encoders=Encoders(encoder=encoder, allow=self._allow, runtime=self._runtime),
            capabilities=known,
            rerankers=self._rerankers,
            allow_raw=self._allow_raw,
        )
        index = AsyncIndex(state)
        names = [name for name, field in index.plan.vector_fields() if not field.precomputed]
        await in_thread(index.pool.encoders, names)
        return index

    async def search(self, query: str | Query, **options: Any) -> Hits:
        """:meth:`AsyncIndex.search` of the present version; looked up again when that index is gone.

        ``deadline_seconds`` counts from here: it holds for opening a new version, too.
        """

        async def ask(index: AsyncIndex, **left: Any) -> Hits:
            return await index.search(query, **options, **left)

        return await self._asked(ask, options.pop("deadline_seconds", None))

    async def search_many(self, queries: Sequence[str | Query], **options: Any) -> list[Hits]:
        """:meth:`AsyncIndex.search_many` of the present version, all of one; else as :meth:`search`."""

        async def ask(index: AsyncIndex, **left: Any) -> list[Hits]:
            return await index.search_many(queries, **options, **left)

        return await self._asked(ask, options.pop("deadline_seconds", None))

    async def _asked(self, ask: Callable[..., Awaitable[T]], seconds: float | None) -> T:
        """What *ask* finds in the present version, or in the next one when that is gone."""
        # Opening an index can't be answered in part.
        deadline = None if seconds is None else Deadline(seconds, in_parts=False)
        index = await self._by(deadline, fresh=False)
        try:
            return await ask(index, **_left(deadline))
        except IndexNotFoundError:
            index = await self._by(deadline, fresh=True)
            return await ask(index, **_left(deadline))

    async def _by(self, deadline: Deadline | None, *, fresh: bool) -> AsyncIndex:
        """:meth:`current`, if it is there in time. Opening it goes on otherwise, for the next search."""
        opened = functools.partial(self.current, fresh=fresh)
        return await ended_by(deadline, f"the index behind {self.alias!r}", opened, keep=True)

    async def ingest(self, records: Any, options: IngestOptions | None = None) -> IngestReport:
        """:meth:`AsyncIndex.ingest` into the present version, looked up just before."""
        index = await self.current(fresh=True)
        return await index.ingest(records, options)


def _left(deadline: Deadline | None) -> dict[str, Any]:
    """What is left of a deadline, as an option of a search."""
    # A search whose time is up says so itself; 0 would be refused as an option.
    return {} if deadline is None else {"deadline_seconds": max(deadline.left(), 0.001)}
