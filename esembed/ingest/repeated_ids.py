"""Ids that come more than once in one run: how many, and the first few of them."""

from __future__ import annotations

from esembed.lazy import np

__all__ = ["REMEMBERED", "RepeatedIds"]

RECENT = 16_384
"""Ids that wait to be compared with the earlier ones together, since numpy is slow on single ones."""

REMEMBERED = 4_000_000
"""Ids that are remembered, 8 bytes each: 32 MB of memory at most."""

NAMED = 10
"""Repeated ids that a report names."""


class RepeatedIds:
    """Told each id of a run, by one thread.

    Attributes:
        named: the first few that came again.
        full: more ids came than are remembered, so that :meth:`count` is a lower bound.
    """

    def __init__(self) -> None:
        self.named: list[str] = []
        self.full = False
        self._count = 0
        # By their hashes: two of 4 million ids share one of 64 bits about once in 2 million runs.
        self._recent: dict[int, str] = {}
        self._earlier = np.empty(0, np.int64)

    def add(self, doc_id: str) -> None:
        """One more record of this id."""
        value = hash(doc_id)
        if value in self._recent:
            self._repeated(doc_id)
            return
        self._recent[value] = doc_id
        if len(self._recent) >= RECENT:
            self._compare()

    def count(self) -> int:
        """How many had the id of an earlier one."""
        self._compare()
        return self._count

    def _compare(self) -> None:
        values = np.fromiter(self._recent, np.int64, len(self._recent))
        again = np.zeros(len(values), bool)
        if len(self._earlier):
            places = np.minimum(np.searchsorted(self._earlier, values), len(self._earlier) - 1)
            again = self._earlier[places] == values
        ids = list(self._recent.values())
        for number in np.flatnonzero(again):
            self._repeated(ids[number])
        self._recent = {}
        new = values[~again]
        self.full = self.full or len(self._earlier) + len(new) > REMEMBERED
        if not self.full:
            # Stable: what is sorted already costs one pass.
            self._earlier = np.sort(np.concatenate([self._earlier, new]), kind="stable")

    def _repeated(self, doc_id: str) -> None:
        self._count += 1
        if len(self.named) < NAMED and doc_id not in self.named:
            self.named.append(doc_id)
