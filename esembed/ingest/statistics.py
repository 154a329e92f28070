"""Term statistics of lexical fields, settled as the engine confirms documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from esembed.encode.base import Encoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.ingest.stages.prepare import Work

__all__ = ["StatisticsCollector"]


class StatisticsCollector:
    """Counts of documents that are new in the index. A document that was replaced or deleted is
    *unsettled*: its old tokens are unknown, so its old counts stay and the new ones are not added.

    Attributes:
        unsettled: documents that were replaced, updated or deleted.
    """

    def __init__(self) -> None:
        self._df: dict[str, Counter[str]] = {}
        self._documents: Counter[str] = Counter()
        self._terms: Counter[str] = Counter()
        self._analyzer: dict[str, str] = {}
        self._unsettled: Counter[str] = Counter()
        self.unsettled = 0

    def add(self, work: Work, *, created: bool, backfill: bool) -> None:
        """One confirmed work."""
        fresh = created or (backfill and work.op == "index")
        if not fresh:
            self.unsettled += 1
        for name, counts in work.statistics.items():
            for one in counts:
                self._analyzer[name] = one.analyzer
                if fresh:
                    self._df.setdefault(name, Counter()).update(one.df)
                    self._documents[name] += one.documents
                    self._terms[name] += one.total_terms
                else:
                    self._unsettled[name] += one.documents
        if work.op == "delete":
            for name in self._df:
                self._unsettled[name] += 1
        work.statistics = {}

    def result(self, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
        """Field → LexicalStatistics of what this run added."""
        out: dict[str, Any] = {}
        for name in encoders:
            if name in self._analyzer:
                out[name] = LexicalStatistics(
                    analyzer=self._analyzer[name],
                    documents=self._documents[name],
                    total_terms=self._terms[name],
                    df=dict(self._df.get(name, {})),
                    unsettled=self._unsettled[name],
                )
        return out
