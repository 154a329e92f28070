"""The few things that differ between async and sync by more than a keyword; the twin is written by hand."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
LATE: Any = object()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def gather(*results: T) -> Sequence[T]:
    """The results, which in sync code are there already."""
    return results


def within(seconds: float, calls: Sequence[Callable[[], Any]], *, keep: bool = False) -> list[Any]:
    """The results of calls that overlap, each in a thread, in their order; LATE for one that didn't end in
    time. Nothing can end a thread: those that are late always go on, whatever *keep* says.

    Raises:
        what the first one raised that raised in time.
    """
    # Daemon threads and no pool of concurrent.futures, whose threads the interpreter waits for when it ends:
    # a server that sends a byte a second would keep the process for as long as it likes.
    answers: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    found: list[Any] = [LATE] * len(calls)
    ends = time.monotonic() + max(0.0, seconds)

    def run(position: int, call: Callable[[], Any]) -> None:
        try:
            answers.put((position, call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.put((position, None, error))

    for position, call in enumerate(calls):
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(run, position, call), name="esembed-within", daemon=True
        ).start()
    for _ in calls:
        try:
            position, value, error = answers.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            break
        if error is not None:
            raise error
        found[position] = value
    return found


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
