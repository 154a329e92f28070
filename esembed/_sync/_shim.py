"""The few things that differ between async and sync by more than a keyword; the twin is written by hand."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from esembed.bounded import LATE, results_within
from esembed.encode.processes import ForkSafeLock

__all__ = [
    "IS_ASYNC",
    "LATE",
    "Batcher",
    "Lock",
    "LoopGuard",
    "as_sync",
    "done",
    "gather",
    "in_thread",
    "iterable",
    "thread_transport",
    "sleep",
    "stoppable",
    "within",
]

IS_ASYNC = False
Lock = ForkSafeLock
T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def gather(*results: T) -> Sequence[T]:
    """The results, which in sync code are there already."""
    return results


def within(seconds: float, calls: Sequence[Callable[[], Any]], *, keep: bool = False) -> list[Any]:
    """The results of calls that overlap; see :func:`esembed.bounded.results_within`. Nothing can end a
    thread: those that are late always go on, whatever *keep* says."""
    return results_within(seconds, calls)


def in_thread(function: Callable[..., T], *args: Any, sender: Any = None) -> T:
    """A blocking call, made where we stand."""
    return function(*args)


def stoppable(function: Callable[[threading.Event], T]) -> T:
    """A long blocking call; an interrupt ends it where it stands."""
    return function(threading.Event())


def thread_transport(client: Any) -> Any:
    """What the ingest's threads send their requests with: the client, which is safe to share."""
    return client


class LoopGuard:
    """Sync clients have no event loop."""

    def check(self) -> None:
        """Nothing to check."""


class Batcher:
    """Sync callers wait for each other in the encoder itself; here nothing is gathered."""

    def __init__(self, function: Callable[[list[Any]], Sequence[Any]], max_batch: int = 64) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, item: Any) -> Any:
        """The answer to one item."""
        self.calls += 1
        (answer,) = self._function([item])
        return answer


def iterable(records: Any) -> Any:
    """Records as the ingest's threads can take them: as they are."""
    return records


def as_sync(target: Any) -> Any:
    """The target itself."""
    return target


def done() -> None:
    """Nothing to wait for."""
