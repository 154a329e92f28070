"""How far a source is settled: the records before which everything has its outcome."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from esembed.ingest.options import Settled

__all__ = ["Watermark"]


class Watermark:
    """Records are numbered as they are read and settled in any order; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = 0
        self._open: OrderedDict[int, None] = OrderedDict()
        self._positions: deque[tuple[int, str | None]] = deque()
        self._last: str | None = None

    def read(self, position: str | None) -> int:
        """The number of the record that was just read, from 1."""
        with self._lock:
            self._read += 1
            self._open[self._read] = None
            self._positions.append((self._read, position))
            return self._read

    def settle(self, number: int) -> None:
        """This record has its outcome."""
        with self._lock:
            self._open.pop(number, None)

    def where(self) -> Settled:
        """How many of the first records are settled, and where the last of them stood."""
        with self._lock:
            count = next(iter(self._open)) - 1 if self._open else self._read
            while self._positions and self._positions[0][0] <= count:
                self._last = self._positions.popleft()[1]
            return Settled(records=count, position=self._last)
