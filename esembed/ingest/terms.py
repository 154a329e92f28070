"""Term statistics over records: a sample's average length before an ingest, a whole index's counts anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from esembed.encode.base import Encoder
from esembed.encode.lexical import LexicalEncoder
from esembed.encode.statistics import LexicalStatistics
from esembed.errors import EsembedError, RecordError
from esembed.ingest.options import IngestOptions
from esembed.ingest.prepare import Preparer, Work
from esembed.ingest.read import RecordMapper, Source
from esembed.plan import IndexPlan
from esembed.types import Document

__all__ = ["Peeked", "as_meant", "count_terms"]

SAMPLE_RECORDS = 1_000
SAMPLE_CHARACTERS = 4_000_000
_BATCH = 500


class Peeked(Source):
    """A source whose first records were looked at; it still yields all of them, once.

    Args:
        source: the source.

    Attributes:
        head: the first records, up to a thousand or four million characters.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._stream = iter(source)
        self.head = _take(self._stream)
        self.total_bytes, self.total_records = source.total_bytes, source.total_records

    def __iter__(self) -> Iterator[Document | RecordError]:
        for record in itertools.chain(self.head, self._stream):
            self.bytes_read = self._source.bytes_read
            yield record


def _take(records: Iterator[Any]) -> list[Any]:
    head: list[Any] = []
    characters = 0
    for record in itertools.islice(records, SAMPLE_RECORDS):
        head.append(record)
        source = _source(record)
        characters += sum(len(value) for value in source.values() if isinstance(value, str))
        if characters >= SAMPLE_CHARACTERS:
            break
    return head


def as_meant(records: Iterable[Any], options: IngestOptions) -> Iterator[Any]:
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
    names = set(lexical)
    preparer = Preparer(plan, encoders, missing_text="skip")
    totals = {name: LexicalStatistics.empty(encoder.analyzer) for name, encoder in lexical.items()}
    stream = iter(records)
    while batch := list(itertools.islice(stream, _BATCH)):
        texts: dict[str, list[str]] = {name: [] for name in names}
        for record in batch:
            source = _source(record)
            work = Work(document=Document(None, source), id="", op="index", source=dict(source))
            try:
                preparer.fill_texts(work, source, names)
            except EsembedError:
                continue
            for name in names:
                text = work.texts.get(name) or (work.chunk_text if plan.sparse[name].chunked else None)
                if text:
                    texts[name].append(text)
        for name, encoder in lexical.items():
            totals[name] = totals[name].merge(encoder.statistics_of(texts[name]))
    return totals


def _source(record: Any) -> Mapping[str, Any]:
    if isinstance(record, Document):
        return record.source
    return record if isinstance(record, Mapping) else {}
