"""Term statistics of lexical fields: a sample's average length before an ingest, counts of what an ingest
wrote as the engine confirms it, a whole index's counts made again."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from esembed.encode.base import Encoder
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import RecordError
from esembed.ingest.options import IngestOptions
from esembed.ingest.record import PreparedRecord
from esembed.ingest.sources import Source
from esembed.ingest.sources.mapper import RecordMapper
from esembed.plan import IndexPlan
from esembed.types import Document

__all__ = ["BufferedHead", "TermCounter", "apply_mapping", "count_terms"]

SAMPLE_RECORDS = 1_000
"""Enough for an average length: its standard error is 3 % of the lengths' own spread."""

SAMPLE_CHARACTERS = 4_000_000
"""Long texts need fewer records, and the sample waits in memory."""

SAMPLE_SECONDS = 2.0
"""Counted from the first record; a source may fall silent for days (a pipe)."""

_BATCH = 500


class BufferedHead(Source):
    """A source whose first records were looked at; it still yields all of them, once.

    The head is drawn in a thread, so that a source that falls silent (an open pipe) holds nobody up.

    Args:
        source: the source.

    Attributes:
        head: the first records, up to a thousand, four million characters, or what came in two seconds.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._stream = iter(source)
        self._drawn: list[Any] = []
        self._enough = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._draw, name="esembed-peek", daemon=True)
        self._thread.start()
        until: float | None = None
        with self._changed:
            while self._thread.is_alive() and not self._enough:
                if self._drawn and until is None:
                    until = time.monotonic() + SAMPLE_SECONDS
                left = 0.2 if until is None else until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.2))
            self._enough = True
            self.head = list(self._drawn)
        if self._error is not None and not self.head:
            raise self._error
        self.total_bytes, self.total_records = source.total_bytes, source.total_records

    def _draw(self) -> None:
        characters = 0
        try:
            for record in itertools.islice(self._stream, SAMPLE_RECORDS):
                characters += sum(len(value) for value in _source(record).values() if isinstance(value, str))
                with self._changed:
                    self._drawn.append(record)
                    if self._enough or characters >= SAMPLE_CHARACTERS:
                        break
        except BaseException as error:  # noqa: BLE001 - raised where the records are taken
            self._error = error
        finally:
            with self._changed:
                self._enough = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Document | RecordError]:
        for record in itertools.chain(self.head, self._late(), self._stream):
            self.bytes_read = self._source.bytes_read
            yield record

    def _late(self) -> Iterator[Any]:
        """What the thread was waiting for when the head was taken."""
        self._thread.join()
        yield from self._drawn[len(self.head) :]
        if self._error is not None:
            raise self._error


def apply_mapping(records: Iterable[Any], options: IngestOptions) -> Iterator[Any]:
    """Records after the field mapping and the transform hook, as the ingest will take them; what these
    refuse or leave out is left out. The ingest calls the hook for the same records again."""
    if not options.fields and options.transform is None:
        yield from records
        return
    mapper = RecordMapper(fields=options.fields, transform=options.transform)
    for record in records:
        if isinstance(record, Document):
            try:
                meant = mapper(record)
            except RecordError:
                continue
            if meant is not None:
                yield meant


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

    def add(self, record: PreparedRecord, *, created: bool, backfill: bool) -> None:
        """One confirmed record."""
        fresh = created or (backfill and record.op == "index")
        if not fresh:
            self.unsettled += 1
        for name, counts in record.statistics.items():
            for one in counts:
                self._analyzer[name] = one.analyzer
                if fresh:
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


def count_terms(
    records: Iterable[Any], plan: IndexPlan, encoders: Mapping[str, Encoder]
) -> dict[str, LexicalStatistics]:
    """Lexical field → counts over all records. Records that can't be prepared are left out, as an
    ingest would leave them out.

    Args:
        records: Documents or mappings; they are streamed.
        encoders: field → encoder, of the plan's lexical fields at least.
    """
    lexical = {name: e for name, e in encoders.items() if isinstance(e, LexicalEncoder)}
    totals = {name: LexicalStatistics.empty(encoder.analyzer) for name, encoder in lexical.items()}
    stream = iter(records)
    while batch := list(itertools.islice(stream, _BATCH)):
        texts: dict[str, list[str]] = {name: [] for name in lexical}
        for record in batch:
            source = _source(record)
            try:
                found = {name: plan.vector_text(name, source) for name in lexical}
            except RecordError:
                continue
            for name, text in found.items():
                if text and text.strip():
                    texts[name].append(text)
        for name, encoder in lexical.items():
            totals[name] = totals[name].merge(encoder.statistics_of(texts[name]))
    return totals


def _source(record: Any) -> Mapping[str, Any]:
    if isinstance(record, Document):
        return record.source
    return record if isinstance(record, Mapping) else {}
