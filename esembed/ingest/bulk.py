"""Bulk requests without I/O: what to send together, and how much to send next.

:class:`BulkQueue` decides which actions form the next request (bytes, count, never two operations of
one id in flight); :class:`Pacer` adapts size and concurrency to 429, 413 and latency. What an answer means
is :mod:`esembed.ingest.bulk_answer`'s; who sends, :mod:`esembed.ingest.stages.send`'s.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BulkAction", "BulkQueue", "Pacer"]


@dataclass(slots=True, eq=False)
class BulkAction:
    """One record's operations, in order: the document, or the document and its chunks.

    Attributes:
        id: the record's id; no two actions of one id are in flight together.
        op: what the record asked for.
        lines: an action line with its document, as bytes, for each operation.
        then: lines for a request of their own, sent only when the engine took all of *lines*: it carries
            out every line of one request, also what follows a refused one.
        tag: whatever the sender wants to get back.
        created: set when the engine said that the (last) document is new.
        changed: set when the engine said of any line that it did something; an update may be a ``noop``.
        dropped: set when an ingest pipeline of the index dropped a document.
        conditional: its lines say which version they are of, or replace: the engine refuses (409) what is out
            of date.
        outdated: set when it did.
        went_to: the other index, or id, under which a pipeline put a document.
        attempts: how often any of it was sent.
        server_errors: how often the engine answered 500 to it.
    """

    id: str
    op: Literal["index", "update", "delete"]
    lines: list[bytes]
    tag: Any = None
    created: bool = False
    changed: bool = False
    dropped: bool = False
    conditional: bool = False
    outdated: bool = False
    went_to: str | None = None
    attempts: int = 0
    server_errors: int = 0
    then: list[bytes] = field(default_factory=list)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.lines)) + sum(map(len, self.then))


class BulkQueue:
    """Actions that wait, in order, and the ids that are in flight. Not thread-safe by itself.

    A action whose id is in flight waits behind it, and everything else goes past: so the order within
    an id is the order of the source, which is what decides who wins.
    """

    def __init__(self) -> None:
        self._ready: deque[BulkAction] = deque()
        self._behind: dict[str, deque[BulkAction]] = {}
        self._ready_bytes = 0
        self._behind_bytes = 0
        self._known: set[str] = set()  # ids that are ready or in flight: at most one action of each

    def add(self, action: BulkAction) -> None:
        """Put an action at the end, or behind the one of its id that isn't settled yet."""
        # Two requests overtake each other, so two operations of one id are never out at the same time.
        if action.id in self._known:
            self._behind.setdefault(action.id, deque()).append(action)
            self._behind_bytes += action.size
        else:
            self._known.add(action.id)
            self._ready.append(action)
            self._ready_bytes += action.size

    def take(self, max_bytes: int, max_lines: int) -> list[BulkAction]:
        """The next request's actions: at least one if any is ready, else up to the limits."""
        batch: list[BulkAction] = []
        size = lines = 0
        while self._ready:
            action = self._ready[0]
            if batch and (size + action.size > max_bytes or lines + len(action.lines) > max_lines):
                break
            self._ready.popleft()
            self._ready_bytes -= action.size
            batch.append(action)
            size += action.size
            lines += len(action.lines)
        return batch

    def release(self, action: BulkAction) -> None:
        """The action is settled; the next one of its id may go, ahead of the others."""
        waiting = self._behind.get(action.id)
        if not waiting:
            self._known.discard(action.id)
            return
        following = waiting.popleft()
        if not waiting:
            del self._behind[action.id]
        self._behind_bytes -= following.size
        self._ready.appendleft(following)
        self._ready_bytes += following.size

    @property
    def ready_bytes(self) -> int:
        """Bytes that could be sent now."""
        return self._ready_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait, ready or behind another; what is in flight is not counted."""
        return self._ready_bytes + self._behind_bytes

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._known

    @property
    def has_ready(self) -> bool:
        """Whether take() would return something."""
        return bool(self._ready)


@dataclass(slots=True)
class Pacer:
    """How many bytes a request and how many requests at a time: additive increase, multiplicative
    decrease, as TCP does it (Chiu and Jain 1989), with latency as the early sign.

    Attributes:
        max_bytes, max_in_flight: what the options allow.
        target_seconds: a request should take about this long: long enough to be worth it, short
            enough that a retry is cheap.
    """

    max_bytes: int
    max_in_flight: int
    target_seconds: float = 1.5
    bytes: float = 0.0
    in_flight: int = 0
    _ceiling: float = math.inf
    _accepted: int = 0
    _good: int = 0

    def __post_init__(self) -> None:
        # Small at first: what this engine takes is found out within some requests; a first request that
        # is too large costs a time-out.
        self.bytes = float(min(self.max_bytes, 1024 * 1024))
        self.in_flight = min(4, self.max_in_flight)

    @property
    def limit_bytes(self) -> int:
        """The most bytes in the next request."""
        return max(1, int(min(self.bytes, self._ceiling, self.max_bytes)))

    def answered(self, size: int, seconds: float) -> None:
        """A request of *size* bytes was answered well after *seconds*."""
        self._accepted = max(self._accepted, size)
        if seconds > 2 * self.target_seconds:
            # Latency rises before an engine refuses: shrinking here spares most of the 429.
            self.bytes = max(self.bytes * 0.7, 64 * 1024)
            self._good = 0
            return
        self._good += 1
        # Only a request that nearly used the limit says something about a larger one.
        if seconds < self.target_seconds and size >= 0.7 * self.limit_bytes:
            self.bytes = min(self.bytes * 1.3, self.max_bytes, self._ceiling)
        # One more at a time, after two good rounds of those in flight: additive increase.
        if self._good >= 2 * self.in_flight and self.in_flight < self.max_in_flight:
            self.in_flight += 1
            self._good = 0

    def pushed_back(self) -> None:
        """429 or a rejected execution."""
        # Concurrency is halved and size only trimmed: the write queue that answers 429 counts requests.
        self.in_flight = max(1, self.in_flight // 2)
        self.bytes = max(self.bytes * 0.8, 64 * 1024)
        self._good = 0

    def too_large(self, size: int) -> None:
        """413 for a request of *size* bytes: that much is never tried again, unless as much was
        accepted before (then it was not the size)."""
        if size <= self._accepted:
            return
        # Not half: the halves of the refused request are sent next, and .6 leaves them below the ceiling.
        self._ceiling = max(1.0, float(self._accepted), min(self._ceiling, size * 0.6))
        self.bytes = min(self.bytes, self._ceiling)
