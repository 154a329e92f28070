"""What an ingest counts of the terms that it writes, and when an index's terms have to be counted again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.ingest.options import IngestReport
from esembed.ingest.record import PreparedRecord

__all__ = ["CountedState", "TermCounter", "changed_since", "recount_is_due"]

ALWAYS_RECOUNTED = 50_000
"""Up to this many documents, terms are counted again whenever anything but new documents came. Some 5,000
short documents are counted a second, so that takes ten seconds at most."""

TOLERATED_SHARE = 0.01
"""Above that, this share of the documents may have changed since their terms were counted: an idf is off by
about as much, and no ranking was seen to change by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedState:
    """What an index was like when its terms were counted: whether anything was written since.

    Every write gives its document a higher sequence number, and a delete takes one away. So the number, the
    sum and the maximum of the live documents' sequence numbers change with any write, whoever makes it, and a
    search may ask for them; ``_stats``, which counts the operations themselves, needs a privilege more.

    Attributes:
        documents: how many a search finds, chunks that are documents of their own included.
        sequence_sum, sequence_last: of their sequence numbers, all shards together.
        operations: all writes and deletes so far, or None where the key may not ask for it.
    """

    documents: int
    sequence_sum: int
    sequence_last: int
    operations: int | None = None

    @classmethod
    def from_meta(cls, value: Any) -> CountedState | None:
        """What ``_meta`` says, which is untrusted input; None for anything else than four numbers."""
        if not isinstance(value, Mapping):
            return None
        operations = value.get("operations")
        if operations is not None and type(operations) is not int:
            return None
        documents, total, last = (value.get(n) for n in ("documents", "sequence_sum", "sequence_last"))
        if type(documents) is not int or type(total) is not int or type(last) is not int:
            return None
        return cls(documents=documents, sequence_sum=total, sequence_last=last, operations=operations)

    def to_meta(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def changes_until(self, now: CountedState) -> int | None:
        """How many writes there were until *now*, at most; None where that isn't known."""
        if (self.documents, self.sequence_sum, self.sequence_last) == (
            now.documents,
            now.sequence_sum,
            now.sequence_last,
        ):
            return 0
        if self.operations is None or now.operations is None or now.operations <= self.operations:
            return None
        return now.operations - self.operations


def changed_since(
    counted: CountedState | None,
    before: CountedState,
    after: CountedState,
    report: IngestReport,
    *,
    separate_chunks: bool,
) -> int | None:
    """How far an index's term counts are behind after a run, once what the run counted is added to them.

    Args:
        counted: the index as it was when its counts were made; None: there are none, or not of all fields.
        before, after: the index before and after the run, refreshed.
        report: of the run.
        separate_chunks: whether chunks are documents of their own.

    Returns:
        Documents that were replaced or deleted, or written by others, since the counts were made. 0: the
        counts are exact. None: nobody knows.
    """
    missed = 0 if before.documents == 0 else None if counted is None else counted.changes_until(before)
    if missed is None:
        return None
    created = report.created + (report.chunks if separate_chunks else 0)
    # What this run changed by its own account, and what the index shows of anybody's changes.
    changed = report.indexed + report.updated + report.deleted - report.created + report.sync_deleted
    changed = max(changed, abs(after.documents - before.documents - created))
    if before.operations is not None and after.operations is not None:
        changed = max(changed, after.operations - before.operations - created)
    return missed + changed


def recount_is_due(unsettled: int | None, documents: int) -> bool:
    """Whether terms are to be counted again over all documents.

    Args:
        unsettled: documents whose counts are missing or too many; None: nobody knows how many.
        documents: in the index.
    """
    if unsettled is None:
        return True
    return unsettled > 0 and (documents <= ALWAYS_RECOUNTED or unsettled > TOLERATED_SHARE * documents)


class TermCounter:
    """Counts of documents that are new in the index, added as the engine confirms them.

    A document that was replaced or deleted is *unsettled*: its old tokens are unknown, so its old counts stay
    and the new ones are not added.

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

    def add(self, record: PreparedRecord, *, created: bool) -> None:
        """One confirmed record."""
        # A backfill writes partial updates: what it writes of documents that were counted before must not
        # count twice, so those are unsettled, too.
        if not created:
            self.unsettled += 1
        for name, counts in record.statistics.items():
            for one in counts:
                self._analyzer[name] = one.analyzer
                if created:
                    self._df.setdefault(name, Counter()).update(one.df)
                    self._documents[name] += one.documents
                    self._terms[name] += one.total_terms
                else:
                    self._unsettled[name] += one.documents
        if record.op == "delete":
            for name in self._df:
                self._unsettled[name] += 1
        record.statistics = {}

    def result(self) -> dict[str, LexicalStatistics]:
        """Field → counts of what this run added."""
        return {
            name: LexicalStatistics(
                analyzer=analyzer,
                documents=self._documents[name],
                total_terms=self._terms[name],
                df=dict(self._df.get(name, {})),
                unsettled=self._unsettled[name],
            )
            for name, analyzer in self._analyzer.items()
        }
