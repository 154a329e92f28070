"""A queue bounded in bytes, between two stages."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

from esembed.ingest.target import Stopped

__all__ = ["ByteQueue"]

T = TypeVar("T")


class ByteQueue(Generic[T]):
    """Items wait here, at most *limit_bytes* of them together (but always at least one).

    Raises:
        Stopped: from put and get, once the run was aborted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> None:
        """Wait until there is room, then add."""
        with self._changed:
            while self._items and self._bytes + size > self._limit and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Stopped("stopped")
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def get(self, timeout_seconds: float | None = None) -> T | None:
        """The next item; None when the queue is closed and empty.

        Raises:
            TimeoutError: nothing came in time.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            while not self._items:
                if self._aborted:
                    raise Stopped("stopped")
                if self._closed:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)
            if self._aborted:
                raise Stopped("stopped")
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """End both sides now."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()
