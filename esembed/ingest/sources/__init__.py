"""Records from anywhere: files, folders, globs, standard input, remote stores, iterables.

Every source yields :class:`~esembed.types.Document` or, for what is no record, an
:class:`~esembed.ingest.dead_letters.UnreadableRecord`, each with its position, and never holds more
than one record (or one batch of a columnar file) in memory.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from types import GeneratorType
from typing import Any

from esembed.errors import RecordError, SourceError
from esembed.ingest.dead_letters import UnreadableRecord, holds_letters, read_dead_letters
from esembed.ingest.record import as_record_error, ends_the_run
from esembed.ingest.sources.files import (
    Counter,
    Location,
    expand,
    from_the_store,
    open_location,
)
from esembed.ingest.sources.lines import parse
from esembed.ingest.sources.mapper import as_id
from esembed.ingest.sources.readers import ReadOptions, read_location
from esembed.ingest.sources.remote import without_secrets
from esembed.ingest.sources.tables import is_frame, open_frame
from esembed.types import Document

__all__ = [
    "FileSource",
    "ReadOptions",
    "Source",
    "dead_letter_source",
    "from_async",
    "open_source",
]


RAISED_IN_A_ROW = 100
"""Errors of an iterator without a record between them that end the run. A file of broken rows has fewer in a
row; a cursor whose connection is gone has no end."""


LETTER_FACTOR = 8
"""How many times as long as its record a dead letter may be: a control character takes six bytes in JSON."""


class Source:
    """Records, and how far along they are. Iterate once.

    Attributes:
        total_bytes, total_records: of the whole source, where known.
        bytes_read: so far (of compressed files: compressed bytes).
        warnings: what a person should know before it is read.
    """

    total_bytes: int | None = None
    total_records: int | None = None
    bytes_read: int = 0

    def __init__(self, records: Iterable[Any] = ()) -> None:
        self._records = records
        self.warnings: list[str] = []
        if isinstance(records, Sized):
            self.total_records = len(records)

    def __iter__(self) -> Iterator[Document | RecordError]:
        for number, record in enumerate(_each(self._records), 1):
            where = f"record {number}"
            if isinstance(record, (Document, RecordError)):
                yield record
            elif isinstance(record, Mapping):
                yield Document(id=None, source=record, position=where)
            elif isinstance(record, tuple) and len(record) == 2 and isinstance(record[1], Mapping):
                try:
                    doc_id = None if record[0] is None else as_id(record[0])
                except RecordError as error:
                    yield UnreadableRecord(error.message, position=where, raw=_shown(record))
                    continue
                yield Document(id=doc_id, source=record[1], position=where)
            elif isinstance(record, _Raised):
                yield UnreadableRecord(as_record_error(record.error, "reading it").message, position=where)
            else:
                yield UnreadableRecord(
                    "a record is a mapping, a Document or an (id, mapping) pair, not a "
                    f"{type(record).__name__}",
                    position=where,
                    raw=_shown(record),
                )


class _Raised:
    """In the place of a record, what its iterator raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _each(records: Iterable[Any]) -> Iterator[Any]:
    """The records, or what was raised for one of them.

    An iterator may raise for one record and go on with the next (csv.DictReader, a map over a function). A
    generator that raised is over: what comes after it is unknown, so that ends the run, which resumes. So
    does one error after the other: a connection that is lost raises for ever.

    Raises:
        BaseException: whatever ended the records.
    """
    iterator = iter(records)
    raised = 0
    while True:
        try:
            record = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raised += 1
            if ends_the_run(error) or isinstance(iterator, GeneratorType) or raised >= RAISED_IN_A_ROW:
                raise
            yield _Raised(error)
        else:
            raised = 0
            yield record


def _shown(record: Any) -> bytes:
    """A record that is none, for people."""
    try:
        text = repr(record)[:1000]
    except Exception:  # noqa: BLE001 - a foreign object
        text = f"<{type(record).__name__}>"
    return text.encode("utf-8", "backslashreplace")


class FileSource(Source):
    """Files, folders, globs, URLs and ``-`` (standard input), one after the other.

    Args:
        names: what to read, in this order.
        options: how.

    Raises:
        SourceError: a file that isn't there, a format that can't be told, a missing extra.
    """

    def __init__(self, names: Sequence[str | Path], options: ReadOptions | None = None) -> None:
        super().__init__()
        self._options = options or ReadOptions()
        passed_over: list[str] = []
        self.locations: list[Location] = [
            location
            for name in names
            for location in expand(str(name), self._options.format, self._options.storage, passed_over)
        ]
        if passed_over:
            self.warnings.append(
                f"{len(passed_over)} files in folders whose names begin with . or _ are not read "
                f"({passed_over[0]}); name such a folder itself to read it"
            )
        self.locations = [location for location in self.locations if not self._of_letters(location, names)]
        sizes = [location.size for location in self.locations]
        self.total_bytes = None if None in sizes else sum(s or 0 for s in sizes)

    def _of_letters(self, location: Location, names: Sequence[str | Path]) -> bool:
        """Whether a file holds dead letters (of an earlier run into the same folder, mostly): read as records
        they would be stored with their reasons, as documents.

        Raises:
            SourceError: it was named itself.
        """
        path = Path(location.name)
        try:
            if location.format != "jsonl" or not path.is_file() or not holds_letters(path):
                return False
        except OSError:
            return False  # the reading will tell
        remedy = f"{location.name} is a dead-letter file; --from-dead-letters tries its records again"
        if any(Path(name) == path for name in names):
            raise SourceError(remedy, source=location.name)
        self.warnings.append(f"{remedy}. It is not read as a source")
        return True

    def __iter__(self) -> Iterator[Document | RecordError]:
        for location in self.locations:
            before = self.bytes_read
            try:
                raw = open_location(location, self._options.storage)
            except Exception as error:
                if not from_the_store(error):
                    raise
                yield UnreadableRecord(
                    f"can't open {location.label}: {without_secrets(error)}", position=location.label
                )
                continue
            counter = Counter(raw)
            try:
                for record in read_location(location, counter, raw, self._options):
                    self.bytes_read = before + counter.count
                    if location.partition and isinstance(record, Document):
                        # What the file itself says comes first: some writers keep the column, too.
                        yield replace(record, source={**location.partition, **record.source})
                    else:
                        yield record
            except Exception as error:
                if ends_the_run(error):
                    raise
                # Decompressors, decoders, Arrow and the stores' clients each have errors of their own for a
                # file that is cut or spoiled. It is this file's error; the others are read.
                yield UnreadableRecord(
                    f"{location.label} can't be read to its end: {without_secrets(error)}. What came before "
                    "is kept; once it can be read, run the same again: records that are in are skipped",
                    position=location.label,
                )
            finally:
                if location.name != "-":
                    counter.close()
            self.bytes_read = before + (location.size or counter.count)


def open_source(what: Any, options: ReadOptions | None = None) -> Source:
    """A source from whatever a caller hands over.

    Args:
        what: a path, URL, glob, folder or ``-``; several of them; a frame (pandas, polars, Arrow); or an
            iterable of records (mappings, Documents, (id, mapping) pairs). An async iterable needs
            :func:`from_async`.

    Raises:
        SourceError: see FileSource; also for an async iterable.
    """
    if isinstance(what, Source):
        return what
    if isinstance(what, (str, Path)):
        return FileSource([what], options)
    if is_frame(what):
        rows, total = open_frame(what)
        source = Source(rows)
        source.total_records = total
        return source
    if isinstance(what, AsyncIterable):
        raise SourceError("an async iterable needs AsyncIndex (or from_async and its loop)")
    if isinstance(what, Mapping):
        raise SourceError("one mapping is one record; pass [record]")
    if hasattr(what, "collect_schema") and hasattr(what, "collect"):
        raise SourceError("a lazy frame has no rows yet; pass frame.collect()")
    if isinstance(what, (list, tuple)) and what and all(isinstance(w, (str, Path)) for w in what):
        return FileSource(what, options)
    if not isinstance(what, Iterable):
        raise SourceError(f"can't read records from a {type(what).__name__}")
    return Source(what)


def dead_letter_source(path: str | Path, options: ReadOptions | None = None) -> Source:
    """The records of a dead-letter file as they were read at first, to be tried again.

    Args:
        path: the file.
        options: the encoding of lines that could not be read at first.

    Raises:
        SourceError: it isn't there, can't be read, or holds something else.
    """
    path, options = Path(path), options or ReadOptions()
    try:
        if not path.is_file():
            raise SourceError(f"there is no dead-letter file {path}", source=str(path))
        foreign = path.stat().st_size > 0 and not holds_letters(path)
    except OSError as error:
        raise SourceError(
            f"the dead-letter file {path} can't be read: {error.strerror}", source=str(path)
        ) from error
    if foreign:
        # Else each of its lines would be a dead letter.
        raise SourceError(
            f"{path} is no dead-letter file; a file of records is read as a source (esembed ingest FILE)",
            source=str(path),
        )
    encoding, fallback = options.encoding, options.fallback_encoding
    letters = read_dead_letters(
        path,
        parse=lambda raw: parse(raw, fallback or encoding),
        max_letter_bytes=LETTER_FACTOR * options.max_record_bytes,
    )
    return Source(letters)


def from_async(records: AsyncIterable[Any], loop: Any, *, limit: int = 128) -> Iterator[Any]:
    """An async iterable as an iterator for another thread, while *loop* runs in its own. Each record is
    handed over when it comes; an error of the iterable is raised after the records before it.

    Args:
        records: anything with ``__aiter__``.
        loop: the running event loop that it belongs to.
        limit: the most records that wait.

    Raises:
        RuntimeError: the loop ended before the records did.
    """
    import asyncio

    waiting: list[Any] = []
    changed = threading.Condition()
    room = asyncio.Event()

    async def draw() -> None:
        iterator = records.__aiter__()
        try:
            async for record in iterator:
                with changed:
                    waiting.append(record)
                    full = len(waiting) >= limit
                    if full:
                        room.clear()
                    changed.notify()
                if full:
                    await room.wait()
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()

    drawing = asyncio.run_coroutine_threadsafe(draw(), loop)
    drawing.add_done_callback(lambda _: _tell(changed))
    try:
        while True:
            with changed:
                while not waiting and not drawing.done():
                    # A loop that was stopped tells nobody, so it is looked at once a second.
                    changed.wait(1.0)
                    if not loop.is_running():
                        raise RuntimeError("the event loop of the records ended before they did")
                got, full = list(waiting), len(waiting) >= limit
                waiting.clear()
            if full:
                loop.call_soon_threadsafe(room.set)
            if not got:
                drawing.result()
                return
            yield from got
    finally:
        drawing.cancel()


def _tell(changed: threading.Condition) -> None:
    with changed:
        changed.notify_all()
