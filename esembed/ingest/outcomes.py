"""The ends of a record's way: written, unchanged, left out or dead; counted and remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable

from esembed.errors import PermanentError, RecordError
from esembed.ingest.bulk import BulkUnit
from esembed.ingest.dead_letters import DeadLetters
from esembed.ingest.ledger import Ledger
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.stages.lookup import Pending
from esembed.ingest.stages.prepare import Work
from esembed.ingest.statistics import StatisticsCollector
from esembed.ingest.target import Stopped
from esembed.types import ItemError

__all__ = ["Ends"]


class Ends:
    """Each record that was read ends in exactly one of these methods, from any of the run's threads.

    Args:
        report: the counts.
        options: of the run.
        pending: the ids that are on their way.
        fail: ends the run.

    Attributes:
        dead: the dead letters.
        seen: what the source has, for ``verify`` and ``sync``, or None.
        ledger: what the index confirmed, where the caller keeps that, or None.
        statistics: term statistics of what was written.
    """

    def __init__(
        self,
        report: IngestReport,
        options: IngestOptions,
        pending: Pending,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._report, self._options, self._pending, self._fail = report, options, pending, fail
        self._lock = threading.Lock()
        self.dead = DeadLetters(options.dead_letters)
        self.seen: Ledger | None = None
        self.ledger: Ledger | None = None
        self.statistics = StatisticsCollector()

    def close(self) -> None:
        """Write what is left of the files and close them."""
        self.dead.close()
        for ledger in (self.seen, self.ledger):
            if ledger is not None:
                ledger.close()

    def skipped(self) -> None:
        """The transform hook left it out."""
        with self._lock:
            self._report.skipped += 1

    def unchanged(self, work: Work) -> None:
        """The index has it already."""
        with self._lock:
            self._report.unchanged += 1
        if self.seen is not None:
            self.seen.put(work.id, work.hash)
        if self.ledger is not None:
            self.ledger.put(work.id, f"{work.hash}.{work.old_chunks}")

    def done(self, unit: BulkUnit) -> None:
        """The engine confirmed it."""
        work: Work = unit.tag
        with self._lock:
            if unit.op == "index":
                if self._options.vectors_only:
                    self._report.updated += 1
                else:
                    self._report.indexed += 1
                    self._report.created += unit.created
            elif unit.op == "update":
                self._report.updated += 1
            else:
                self._report.deleted += 1
            self.statistics.add(work, created=unit.created, backfill=self._options.vectors_only)
        for ledger, value in ((self.seen, work.hash), (self.ledger, f"{work.hash}.{len(work.chunks or ())}")):
            if ledger is not None:
                if unit.op == "delete":
                    ledger.remove(work.id)
                else:
                    ledger.put(work.id, value)
        self._pending.remove(work.id)

    def refused(self, unit: BulkUnit, reason: str, status: int | None, kind: str | None) -> None:
        """The engine will never take it."""
        work: Work = unit.tag
        self._pending.remove(work.id)
        error = RecordError(
            f"the engine refuses it: {reason}", record_id=work.id, position=work.document.position
        )
        self.bury(work, error, status=status, kind=kind)

    def bury_pending(self, work: Work, error: RecordError) -> None:
        """Bury a record that was past the look-up."""
        self._pending.remove(work.id)
        self.bury(work, error)

    def bury(
        self, work: Work | None, error: RecordError, *, status: int | None = None, kind: str | None = None
    ) -> None:
        """One dead letter; ends the run where it is strict."""
        item = ItemError(
            id=error.record_id,
            reason=error.message,
            status=status,
            position=error.position,
            error_type=kind or type(error).__name__,
        )
        try:
            self.dead.write(
                item,
                work.document if work is not None else None,
                field=error.field,
                raw=getattr(error, "raw", None),
            )
        except PermanentError as unwritten:
            self._fail(unwritten)
            raise Stopped("stopped") from unwritten
        with self._lock:
            self._report.dead += 1
            dead = self._report.dead
        if self.seen is not None and error.record_id:
            # It is in the source, whatever became of it: sync must not delete its older version.
            self.seen.put(error.record_id, None)
        if self._options.strict:
            self._fail(error)
            raise Stopped("stopped")
        if self._options.max_errors is not None and dead > self._options.max_errors:
            self._fail(
                PermanentError(
                    f"more than max_errors ({self._options.max_errors}) records can't get in; the last: "
                    f"{error.message}"
                )
            )
            raise Stopped("stopped")
