"""Terms of lexical fields counted from texts: of a sample, for the average length before an ingest, and of a
whole index. What an ingest counts of its own records is in :mod:`esembed.ingest.term_counter`."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from esembed.encode.base import Encoder
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import RecordError
from esembed.ingest.options import IngestOptions
from esembed.ingest.record import ends_the_run
from esembed.ingest.sources import Source
from esembed.ingest.sources.mapper import RecordMapper
from esembed.ingest.stages.chunk import Chunker
from esembed.plan import IndexPlan
from esembed.types import Document

__all__ = ["BufferedHead", "apply_mapping", "count_encoders", "count_terms"]

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
        self.warnings = source.warnings

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        """The source's own: what it reads after its last record counts, too."""
        return self._source.bytes_read

    def _draw(self) -> None:
        characters = 0
        try:
            for record in itertools.islice(self._stream, SAMPLE_RECORDS):
                characters += _characters(record)
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
        yield from itertools.chain(self.head, self._late(), self._stream)

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


def count_terms(
    records: Iterable[Any],
    plan: IndexPlan,
    encoders: Mapping[str, Encoder],
    *,
    advance: Callable[[int], None] | None = None,
) -> dict[str, LexicalStatistics]:
    """Lexical field → counts over all records. Records that can't be prepared are left out, as an
    ingest would leave them out.

    Args:
        records: Documents or mappings; they are streamed.
        encoders: field → encoder, of the fields that :func:`count_encoders` names.
        advance: told how many records each step counted.
    """
    lexical = {name: e for name, e in encoders.items() if isinstance(e, LexicalEncoder)}
    chunked = {name for name, spec in plan.sparse.items() if name in lexical and spec.chunked}
    # A chunk counts as a text of its own, cut as the ingest cuts it: by the first chunked field's encoder.
    chunker = Chunker(plan, encoders) if chunked else None
    df: dict[str, Counter[str]] = {name: Counter() for name in lexical}
    documents, terms = Counter[str](), Counter[str]()
    stream = iter(records)
    while batch := list(itertools.islice(stream, _BATCH)):
        for record in batch:
            source = _source(record)
            pieces: list[tuple[str, list[str]]] = []
            try:
                for name in lexical:
                    text = plan.vector_text(name, source)
                    if text and text.strip():
                        cut = chunker(text) if chunker is not None and name in chunked else (text,)
                        pieces += [(name, lexical[name].tokens(piece)) for piece in cut]
            except BaseException as error:
                if ends_the_run(error):
                    raise
                continue  # the ingest makes a dead letter of it
            for name, tokens in pieces:
                documents[name] += 1
                terms[name] += len(tokens)
                df[name].update(set(tokens))
        if advance is not None:
            advance(len(batch))
    return {
        name: LexicalStatistics(
            analyzer=encoder.analyzer, documents=documents[name], total_terms=terms[name], df=dict(df[name])
        )
        for name, encoder in lexical.items()
    }


def count_encoders(plan: IndexPlan, lexical: Iterable[str]) -> list[str]:
    """The fields whose encoders :func:`count_terms` needs: *lexical*, and the one that cuts the chunks."""
    names = list(lexical)
    if any(plan.sparse[name].chunked for name in names):
        names += [name for name, spec in plan.vector_fields() if spec.chunked and not spec.precomputed][:1]
    return list(dict.fromkeys(names))


def _characters(record: Any) -> int:
    try:
        return sum(len(value) for value in _source(record).values() if isinstance(value, str))
    except Exception:  # noqa: BLE001 - a foreign mapping; the ingest makes a dead letter of it
        return 0


def _source(record: Any) -> Mapping[str, Any]:
    if isinstance(record, Document):
        return record.source
    return record if isinstance(record, Mapping) else {}
