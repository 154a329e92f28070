"""Before encoding: what the index has already, merged updates, chunks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from esembed.errors import RecordError
from esembed.ingest.ledger import Ledger
from esembed.ingest.stages.chunk import Chunker
from esembed.ingest.stages.prepare import Preparer, Work, hash_parts
from esembed.ingest.target import Engine, Stopped
from esembed.plan import IndexPlan

__all__ = ["Lookup", "Pending"]


class Pending:
    """Ids between look-up and settlement: what the index says of them is not the last word."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._changed = threading.Condition()
        self._aborted = False

    def __contains__(self, doc_id: str) -> bool:
        with self._changed:
            return doc_id in self._count

    def add(self, doc_id: str) -> None:
        """One more record of this id is on its way."""
        with self._changed:
            self._count[doc_id] = self._count.get(doc_id, 0) + 1

    def remove(self, doc_id: str) -> None:
        """One of them is settled."""
        with self._changed:
            left = self._count.get(doc_id, 0) - 1
            if left > 0:
                self._count[doc_id] = left
            else:
                self._count.pop(doc_id, None)
            self._changed.notify_all()

    def wait_for(self, doc_id: str) -> None:
        """Until nothing of this id is on its way. Raises Stopped."""
        with self._changed:
            while doc_id in self._count and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Stopped("stopped")

    def abort(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()


class Lookup:
    """Sorts a batch: unchanged records leave, updates are merged, texts are cut.

    Args:
        engine, plan, preparer, pending: of the run.
        chunker: where the plan has chunked fields.
        ledger: what earlier runs confirmed, or None.
        ask: whether to ask the index at all (False: it was empty when the run began).
        compare: whether unchanged records are left alone.
        vectors_only: write vectors of documents that are there, nothing else.
        on_unchanged, on_dead: called with the works that leave here.
        hurry: asks the sender not to wait for fuller requests, or to do so again.

    Attributes:
        asks: whether the index is asked about whole records.
        chunks, chunk_seconds: how many were cut, and how long that took.
    """

    def __init__(
        self,
        engine: Engine,
        plan: IndexPlan,
        preparer: Preparer,
        pending: Pending,
        *,
        chunker: Chunker | None,
        ledger: Ledger | None,
        ask: bool,
        compare: bool,
        vectors_only: bool,
        on_unchanged: Callable[[Work], None],
        on_dead: Callable[[Work, RecordError], None],
        hurry: Callable[[bool], None],
    ) -> None:
        self._hurry = hurry
        self._engine, self._plan, self._preparer, self._pending = engine, plan, preparer, pending
        self._chunker, self._ledger = chunker, ledger
        self._ask, self._compare, self._vectors_only = ask, compare, vectors_only
        self._on_unchanged, self._on_dead = on_unchanged, on_dead
        self._apart = plan.chunk is not None and plan.chunk.store == "documents"
        self.asks = vectors_only or (ask and compare)
        self.chunks = 0
        self.chunk_seconds = 0.0

    def __call__(self, works: Sequence[Work], forward: Callable[[list[Work]], None]) -> None:
        """Hand on what is to be encoded, in order."""
        # Taken before the look-up: what is settled while it runs makes its answer old.
        moving = {work.id for work in works if work.id in self._pending}
        stored = self._stored(works)
        current = self._engine.sources([w.id for w in works if w.op == "update"])
        out: list[Work] = []
        for work in works:
            needs_state = work.op == "update" or self._apart
            if needs_state and work.id in moving:
                # It builds on what is on its way: send that first, then look again.
                if out:
                    forward(out)
                    out = []
                self._hurry(True)
                try:
                    self._pending.wait_for(work.id)
                finally:
                    self._hurry(False)
                stored.pop(work.id, None)
                stored.update(self._engine.hashes([work.id]))
                current.update(self._engine.sources([work.id]))
                moving.discard(work.id)
            try:
                keep = self._one(work, stored, current, moving=work.id in moving)
            except RecordError as error:
                error.record_id = error.record_id or work.id
                error.position = error.position or work.document.position
                self._on_dead(work, error)
                continue
            if keep:
                self._pending.add(work.id)
                moving.add(work.id)
                out.append(work)
        if out:
            forward(out)

    def _stored(self, works: Sequence[Work]) -> dict[str, str | None]:
        stored: dict[str, str | None] = {}
        ask = []
        for work in works:
            if work.op == "delete" and not self._apart:
                continue
            if work.op == "index" and not self._apart and not self._vectors_only:
                if not self._compare or not self._ask:
                    continue
                known = self._ledger.get(work.id) if self._ledger is not None else None
                if known is not None and hash_parts(known)[0] == work.hash:
                    stored[work.id] = known
                    continue
            ask.append(work.id)
        if ask and (self._ask or self._vectors_only or any(w.op == "update" for w in works)):
            stored.update(self._engine.hashes(list(dict.fromkeys(ask))))
        return stored

    def _one(
        self,
        work: Work,
        stored: dict[str, str | None],
        current: dict[str, dict[str, Any]],
        *,
        moving: bool,
    ) -> bool:
        old = stored.get(work.id)
        head, work.old_chunks = hash_parts(old) if old else ("", 0)
        work.encoded_before = old is not None or work.op == "update"
        if work.op == "delete":
            return True
        if work.op == "update":
            if work.id not in stored or work.id not in current:
                raise RecordError(f"there is no document {work.id!r} to update; index it first")
            if not self._merge(work, current[work.id], old):
                self._on_unchanged(work)
                return False
        elif self._compare and head == work.hash and not moving:
            self._on_unchanged(work)
            return False
        elif self._vectors_only and work.id not in stored:
            raise RecordError(f"there is no document {work.id!r} in the index any more")
        if work.chunk_text is not None and self._chunker is not None:
            started = time.monotonic()
            work.chunks = self._chunker(work.chunk_text)
            self.chunk_seconds += time.monotonic() - started
            work.chunk_vectors = [{} for _ in work.chunks]
            self.chunks += len(work.chunks)
        return True

    def _merge(self, work: Work, stored: dict[str, Any], old: str | None) -> bool:
        """Merge an update into the stored document: texts and hash are the merged one's, what is sent
        stays the change. Returns whether anything changes."""
        current = self._preparer.without_vectors(stored)
        merged = merge(current, work.source)
        changed = {name for name in self._preparer.encoded if self._preparer.touches(name, work.source)}
        stale = changed & self._preparer.inside
        if stale:
            raise RecordError(
                f"the update changes what {', '.join(map(repr, sorted(stale)))} is made from, and the engine "
                "encodes whole documents only (its ingest pipelines don't see partial ones): send the whole "
                "record",
                field=min(stale),
            )
        self._preparer.fill_texts(work, merged, changed)
        canonical = orjson.dumps(merged, option=orjson.OPT_SORT_KEYS)
        work.hash = self._preparer.content_hash(canonical, work.vectors, old)
        return not (self._compare and old is not None and hash_parts(old)[0] == work.hash)


def merge(current: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """As the engines merge a partial document: objects into objects, everything else replaced. A field
    set to null counts as absent afterwards."""
    out = dict(current)
    for name, value in change.items():
        mine = out.get(name)
        if isinstance(value, dict) and isinstance(mine, dict):
            out[name] = merge(mine, value)
        elif value is None:
            out.pop(name, None)
        else:
            out[name] = value
    return out
