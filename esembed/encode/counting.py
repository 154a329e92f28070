"""What was encoded, by encoder and by call.

One loaded model serves every pool of a process that asks for it, so the difference of an encoder's totals
before and after a run holds what other runs encoded meanwhile. Whoever wants its own share counts its calls::

    with counting() as mine:
        vectors = encoder.encode_document(texts)
    mine.tokens
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields

from esembed.encode.base import EncodeStats
from esembed.encode.processes import ForkSafeLock

__all__ = ["EncodeCounter", "counting"]

_call: ContextVar[EncodeStats | None] = ContextVar("esembed_encode_counting", default=None)


class EncodeCounter(EncodeStats):
    """An encoder's totals, which also count for the call that is under way. Safe to use from several threads.

    An encoder keeps one as its ``stats`` and adds to it once for each call, in the caller's thread.
    """

    __slots__ = ("_lock",)

    def __init__(self, start: EncodeStats | None = None) -> None:
        super().__init__()
        self._lock = ForkSafeLock()
        if start is not None:
            super().add(start)

    def add(self, more: EncodeStats) -> None:
        """Count what a call has encoded."""
        with self._lock:
            super().add(more)
        mine = _call.get()
        if mine is not None:
            mine.add(more)

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(EncodeStats))
        return f"EncodeCounter({shown})"


@contextmanager
def counting() -> Iterator[EncodeStats]:
    """What this thread's calls inside encode. Encoders whose ``stats`` are no :class:`EncodeCounter` add
    nothing to it."""
    mine = EncodeStats()
    token = _call.set(mine)
    try:
        yield mine
    finally:
        _call.reset(token)
