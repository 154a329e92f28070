"""Query vectors that were encoded before: least recently used go first, bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from esembed.encode.processes import ForkSafeLock

__all__ = ["QueryVectorCache"]

Vector = Any  # tuple[float, ...] for dense, dict[str, float] for sparse


class QueryVectorCache:
    """Vectors by (field, text). Safe to use from several threads.

    Args:
        max_bytes: what the vectors may take, as float32 and UTF-8; 0 keeps nothing.

    Raises:
        ValueError: *max_bytes* is below 0.
    """

    def __init__(self, max_bytes: int = 16 * 1024 * 1024) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be ≥ 0, not {max_bytes}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[tuple[str, str], tuple[Vector, int]] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, field: str, text: str) -> Vector | None:
        """The vector, or None."""
        with self._lock:
            entry = self._entries.get((field, text))
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end((field, text))
            return entry[0]

    def put(self, field: str, text: str, vector: Vector) -> None:
        """Keep a vector; older ones go until all fit."""
        size = len(text.encode("utf-8", "replace")) + 64 + _size(vector)
        if size > self.max_bytes:
            return
        with self._lock:
            old = self._entries.pop((field, text), None)
            if old is not None:
                self.bytes -= old[1]
            self._entries[(field, text)] = (vector, size)
            self.bytes += size
            while self.bytes > self.max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self.bytes -= freed

    def clear(self) -> None:
        """Forget all (new term statistics, another encoder)."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether the vector of (field, text) is there; counts as no access."""
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


def _size(vector: Vector) -> int:
    if isinstance(vector, dict):
        return sum(len(token.encode("utf-8", "replace")) + 12 for token in vector)
    return 4 * len(vector)
