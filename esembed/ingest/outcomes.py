"""What became of each record: written, unchanged, left out or dead-lettered; counted once and remembered."""

from __future__ import annotations

import threading
from typing import Any, TypeGuard

from esembed.errors import InvariantError, PermanentError, RecordError
from esembed.ingest.backoff import IngestCancelled
from esembed.ingest.bulk import BulkAction
from esembed.ingest.dead_letters import DeadLetters
from esembed.ingest.id_table import IdTable
from esembed.ingest.options import IngestOptions, IngestReport, merge_missing
from esembed.ingest.record import PreparedRecord, as_record_error, ends_the_run
from esembed.ingest.repeated_ids import REMEMBERED, RepeatedIds
from esembed.ingest.term_counter import TermCounter
from esembed.ingest.watermark import Watermark
from esembed.ingest.written import WrittenSample
from esembed.types import Document, ItemError

__all__ = ["DEAD_LETTERED", "NEWER", "InFlightIds", "Outcomes"]

NEWER, DEAD_LETTERED = b"newer", b"dead-lettered"
"""Why the document of an id is not compared with the source; see :class:`IdTable`."""

KEPT_PLACES = 5
"""Names of other indices and ids that a notice shows."""


class InFlightIds:
    """Ids between look-up and confirmation: what the index says of them is not the last word."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._changed = threading.Condition()
        self._aborted = False

    def __contains__(self, doc_id: str) -> bool:
        with self._changed:
            return doc_id in self._count

    def add(self, doc_id: str) -> None:
        """One more record of this id is on its way."""
        with self._changed:
            self._count[doc_id] = self._count.get(doc_id, 0) + 1

    def remove(self, doc_id: str) -> None:
        """One of them is resolved."""
        with self._changed:
            left = self._count.get(doc_id, 0) - 1
            if left > 0:
                self._count[doc_id] = left
            else:
                self._count.pop(doc_id, None)
            self._changed.notify_all()

    def wait_for(self, doc_id: str) -> None:
        """Until nothing of this id is on its way. Raises IngestCancelled."""
        with self._changed:
            while doc_id in self._count and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise IngestCancelled("stopped")

    def abort(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()


class Outcomes:
    """Each record that was read ends in exactly one of these methods, called from any thread.

    It pickles as what it was built from, so a copy in another process begins with no counts; the reports of
    both merge.

    Args:
        options: of the run.

    Attributes:
        in_flight: the ids that are on their way.
        source_ids: what the source has, for ``verify`` and ``sync``, or None.
        counts: the report of the records so far; :meth:`report` has all of it.
        elsewhere: the first few indices and ids under which pipelines put records.
        watermark: how far the source is settled, where somebody asks.
        sample: takes some of what was written, to be looked at, or None.
    """

    def __init__(self, options: IngestOptions) -> None:
        self.options = options
        self.in_flight = InFlightIds()
        self.source_ids: IdTable | None = None
        self.counts = IngestReport()
        self.elsewhere: set[str] = set()
        self.sample: WrittenSample | None = None
        self.watermark = None if options.on_settled is None else Watermark()
        self._repeated = RepeatedIds()
        self._terms = TermCounter()
        self._dead_letters: DeadLetters | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcomes, (self.options,)

    def start(self) -> None:
        """Look whether dead letters can be written; nothing is, before there is one.

        Raises:
            OptionsError: their path is a folder, or a file of something else.
        """
        self._dead_letters = DeadLetters(self.options.dead_letters)

    def close(self) -> None:
        """Write what is left of the files and close them."""
        if self._dead_letters is not None:
            self._dead_letters.close()
        if self.source_ids is not None:
            self.source_ids.close()

    def report(self) -> IngestReport:
        """The counts so far with dead letters and term statistics, as a report of its own."""
        found = IngestReport().merge(self.counts)
        found.statistics = self._terms.result()
        found.duplicates = self._repeated.count()
        found.duplicate_ids = list(self._repeated.named)
        if self._repeated.full:
            found.warnings.append(
                f"more than {REMEMBERED:,} ids: those that came again are counted among the first ones only"
            )
        if self._dead_letters is not None:
            found.errors = list(self._dead_letters.errors)
            found.reasons = sorted(self._dead_letters.reasons.values(), key=lambda reason: -reason.count)
            found.dead_letters = self._dead_letters.written if self._dead_letters.count else None
            found.warnings += self.about_letters()
        return found

    def about_letters(self) -> list[str]:
        """What a person should know about where dead letters are."""
        if self._dead_letters is None:
            return []
        moved = self._dead_letters.moved
        earlier = [] if moved is None else [f"the dead letters of an earlier run are in {moved}"]
        return [*self._dead_letters.warnings, *earlier]

    @property
    def replaced(self) -> int:
        """Documents that were replaced, updated or deleted, whose old terms nobody knows."""
        return self._terms.unsettled

    # -- one record --------------------------------------------------------------------------------

    def read(self, position: str | None) -> int:
        """It was taken from the source; its number, where that is followed."""
        with self._lock:
            self.counts.read += 1
        return 0 if self.watermark is None else self.watermark.read(position)

    def identified(self, record: PreparedRecord) -> None:
        """It has an id that can be one. Called by the thread that reads."""
        if record.op == "index":
            self._repeated.add(record.id)

    def skipped(self, number: int) -> None:
        """The transform hook left it out."""
        with self._lock:
            self.counts.skipped += 1
        self._settle(number)

    def unchanged(self, record: PreparedRecord) -> None:
        """The index has it already."""
        with self._lock:
            self.counts.unchanged += 1
        if self.source_ids is not None:
            self.source_ids.put(record.id, record.noted)
        self._settle(record.number)

    def absent(self, record: PreparedRecord) -> None:
        """A delete of what isn't there: done."""
        with self._lock:
            self.counts.deleted += 1
        if self.source_ids is not None:
            self.source_ids.remove(record.id)
        self._settle(record.number)

    def outdated(self, record: PreparedRecord) -> None:
        """The index has a newer document than the one that it is of."""
        with self._lock:
            self.counts.outdated += 1
        if self.source_ids is not None:
            # Nothing to compare, and nothing to delete.
            self.source_ids.put(record.id, NEWER)
        self._release(record)
        self._settle(record.number)

    def confirmed(self, action: BulkAction) -> None:
        """The engine answered: it is in, or it is out of date."""
        record: PreparedRecord = action.tag
        if action.outdated and record.op == "update":
            error = RecordError(
                f"the document {record.id!r} was replaced by a newer version while the update was on its "
                "way: send the update again",
                record_id=record.id,
                position=record.document.position,
            )
            self.dead_letter(record, error, status=409)
            return
        if action.outdated:
            self.outdated(record)
            return
        counts = self.counts
        whole = action.op == "index" and not self.options.vectors_only
        with self._lock:
            if action.dropped:
                counts.dropped += 1
            elif action.went_to is not None:
                counts.rerouted += 1
                if len(self.elsewhere) < KEPT_PLACES:
                    self.elsewhere.add(action.went_to)
            elif whole:
                counts.indexed += 1
                counts.created += action.created
            elif action.op == "delete":
                counts.deleted += 1
            elif action.changed:
                counts.updated += 1
            else:
                counts.unchanged += 1
            inside = not action.dropped and action.went_to is None
            if record.missing and inside and (whole or action.changed):
                counts.without_vector = merge_missing(counts.without_vector, record.missing)
            if inside:
                self._terms.add(record, created=action.created)
            if inside and whole and self.sample is not None:
                self.sample.add(action)
        if self.source_ids is not None:
            if action.op == "delete":
                self.source_ids.remove(record.id)
            else:
                self.source_ids.put(record.id, record.noted)
        # Last: whoever waits for this id looks at the index next.
        self._release(record)
        self._settle(record.number)

    def refused(self, action: BulkAction, reason: str, status: int | None, error_type: str | None) -> None:
        """The engine will never take it."""
        record: PreparedRecord = action.tag
        error = RecordError(
            f"the engine refuses it: {reason}", record_id=record.id, position=record.document.position
        )
        self.dead_letter(record, error, status=status, error_type=error_type)

    def failed(
        self,
        record: PreparedRecord | None,
        raised: BaseException,
        what: str,
        *,
        document: Document | None = None,
        record_id: str | None = None,
        readable: bool = True,
        number: int = 0,
    ) -> None:
        """What a stage raised while this record was at hand: its dead letter, or the end of the run. Every
        stage asks here, with whatever was raised.

        Args:
            what: what failed, as the message begins (``encoding it``).
            document, readable, number: see :meth:`dead_letter`.
            record_id: the id, where there is no *record* and the error names none.

        Raises:
            BaseException: *raised* itself, where it isn't about this record (:func:`ends_the_run`).
            RecordError, PermanentError: see :meth:`dead_letter`.
        """
        if ends_the_run(raised):
            raise raised
        error = as_record_error(raised, what)
        if record is not None:
            document, record_id = record.document, record.id
        error.record_id = record_id if error.record_id is None else error.record_id
        if document is not None:
            error.position = error.position or document.position
        self.dead_letter(record, error, document=document, readable=readable, number=number)

    def dead_letter(
        self,
        record: PreparedRecord | None,
        error: RecordError,
        *,
        document: Document | None = None,
        readable: bool = True,
        number: int = 0,
        status: int | None = None,
        error_type: str | None = None,
    ) -> None:
        """It can't get in: one line of the dead-letter file.

        Args:
            record: None where the record did not get as far as being prepared.
            document: the record as it was read, where there is no *record* (which has its own).
            readable: False where not even its id is known, so that nobody can say what the source lacks.
            number: as *document*.

        Raises:
            RecordError: *error* itself, where the run is strict.
            PermanentError: more than ``max_errors``, or the file can't be written.
        """
        if self._dead_letters is None:
            raise InvariantError("a dead letter before Outcomes.start()")
        if record is not None:
            document = record.document
            self._release(record)
        item = ItemError(
            id=error.record_id,
            reason=error.message,
            status=status,
            position=error.position,
            error_type=error_type or type(error).__name__,
        )
        raw = getattr(error, "raw", None)
        self._dead_letters.write(item, document, field=error.field, raw=raw, op=record.op if record else None)
        with self._lock:
            self.counts.dead_lettered += 1
            self.counts.read_errors += not readable
            dead = self.counts.dead_lettered
        if self.source_ids is not None and _may_be_stored(error.record_id):
            # It is in the source, whatever became of it: sync must not delete its older version.
            self.source_ids.put(error.record_id, DEAD_LETTERED)
        self._settle(number if record is None else record.number)
        if self.options.strict:
            raise error
        if self.options.max_errors is not None and dead > self.options.max_errors:
            raise PermanentError(
                f"more than max_errors ({self.options.max_errors}) records can't get in; the last: "
                f"{error.message}"
            )

    def _settle(self, number: int) -> None:
        if self.watermark is not None:
            self.watermark.settle(number)

    def _release(self, record: PreparedRecord) -> None:
        if record.in_flight:
            record.in_flight = False
            self.in_flight.remove(record.id)


def _may_be_stored(doc_id: Any) -> TypeGuard[str]:
    """Whether an index can have a document of this id. That of a record that was refused may be anything."""
    if not isinstance(doc_id, str):
        return False
    try:
        return bool(doc_id.encode())
    except UnicodeEncodeError:
        return False
