"""Records from anywhere: files, folders, globs, standard input, remote stores, iterables.

Every source yields :class:`~esembed.types.Document` or, for what is no record, an
:class:`~esembed.ingest.dead_letters.UnreadableRecord`, each with its position, and never holds more
than one record (or one batch of a columnar file) in memory.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import Path
from typing import Any
from uuid import UUID

from esembed.errors import OptionsError, RecordError, SourceError
from esembed.ingest.dead_letters import UnreadableRecord, read_dead_letters
from esembed.ingest.sources.files import (
    Counter,
    Location,
    decompress,
    expand,
    from_the_store,
    open_location,
    without_secrets,
)
from esembed.ingest.sources.lines import read_csv, read_json, read_jsonl, read_text
from esembed.ingest.sources.tables import read_arrow, read_parquet
from esembed.plan import paths
from esembed.types import Document

__all__ = [
    "FileSource",
    "ReadOptions",
    "RecordMapper",
    "Source",
    "dead_letter_source",
    "from_async",
    "open_source",
]

OPS = ("index", "update", "delete")
OTHER_OPS = frozenset(
    (*OPS, "create", "insert", "upsert", "replace", "remove", "c", "u", "d", "i", "r"),
)
"""What change feeds (Debezium's, Maxwell's, databases' own) call their operations, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How sources are read.

    Attributes:
        format: ``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``arrow``, ``text``, or ``auto``
            (by the name).
        encoding: of text formats, unless a byte order mark says otherwise.
        fallback_encoding: for lines that aren't *encoding*; None makes them dead letters.
        max_record_bytes: the longest line or JSON file.
        delimiter: between CSV cells, else ``,`` (a tab for tsv).
        storage: fsspec's options for remote stores (credentials are better left to its environment).
    """

    format: str = "auto"
    encoding: str = "utf-8"
    fallback_encoding: str | None = None
    max_record_bytes: int = 256 * 1024 * 1024
    delimiter: str | None = None
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("encoding", "fallback_encoding"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                "".encode(value)
            except (LookupError, ValueError) as error:
                raise OptionsError(
                    f"Python knows no text encoding {value!r} (common ones: utf-8, utf-16, latin-1, cp1252, "
                    "iso8859-15, cp932, gb18030)",
                    option=name,
                ) from error
        if self.delimiter is not None:
            delimiter = _TABS.get(self.delimiter, self.delimiter)
            object.__setattr__(self, "delimiter", delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                raise OptionsError(
                    f"one character stands between CSV cells, not {delimiter!r} (a tab: '\\t')",
                    option="delimiter",
                )


_TABS = {"\\t": "\t", "tab": "\t"}
"""What people write on a command line where they mean a tab."""


class Source:
    """Records, and how far along they are. Iterate once.

    Attributes:
        total_bytes, total_records: of the whole source, where known.
        bytes_read: so far (of compressed files: compressed bytes).
    """

    total_bytes: int | None = None
    total_records: int | None = None
    bytes_read: int = 0

    def __init__(self, records: Iterable[Any] = ()) -> None:
        self._records = records
        if isinstance(records, Sized):
            self.total_records = len(records)

    def __iter__(self) -> Iterator[Document | RecordError]:
        for number, record in enumerate(self._records, 1):
            if isinstance(record, (Document, RecordError)):
                yield record
            elif isinstance(record, Mapping):
                yield Document(id=None, source=record, position=f"record {number}")
            elif isinstance(record, tuple) and len(record) == 2 and isinstance(record[1], Mapping):
                yield Document(id=str(record[0]), source=record[1], position=f"record {number}")
            else:
                yield UnreadableRecord(
                    "a record is a mapping, a Document or an (id, mapping) pair, not a "
                    f"{type(record).__name__}",
                    position=f"record {number}",
                    raw=repr(record)[:1000].encode("utf-8", "backslashreplace"),
                )


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
        self.locations: list[Location] = [
            location
            for name in names
            for location in expand(str(name), self._options.format, self._options.storage)
        ]
        sizes = [location.size for location in self.locations]
        self.total_bytes = None if None in sizes else sum(s or 0 for s in sizes)

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
                for piece in self._read(location, counter, raw):
                    self.bytes_read = before + counter.count
                    yield piece
            except Exception as error:
                if not from_the_store(error) and not isinstance(error, (EOFError, zlib.error, LZMAError)):
                    raise
                yield UnreadableRecord(
                    f"{location.label} can't be read to its end: {without_secrets(error)}. What came before "
                    "is kept; once it can be read, run the same again: records that are in are left alone",
                    position=location.label,
                )
            finally:
                if location.name != "-":
                    counter.close()
            self.bytes_read = before + (location.size or counter.count)

    def _read(self, location: Location, counter: Counter, raw: Any) -> Iterator[Document | RecordError]:
        options, label = self._options, location.label
        if location.format == "parquet":
            yield from read_parquet(raw, label)
            return
        if location.format == "arrow":
            yield from read_arrow(raw if raw.seekable() else io.BytesIO(raw.read()), label)
            return
        stream = decompress(counter, label)
        common: dict[str, Any] = {
            "encoding": options.encoding,
            "fallback": options.fallback_encoding,
            "limit": options.max_record_bytes,
        }
        if location.format == "jsonl":
            yield from read_jsonl(stream, label, **common)
        elif location.format == "json":
            yield from read_json(stream, label, **common)
        elif location.format in ("csv", "tsv"):
            delimiter = options.delimiter or ("\t" if location.format == "tsv" else None)
            yield from read_csv(stream, label, delimiter=delimiter, **common)
        elif location.format == "text":
            yield from read_text(stream, label, **common)
        else:
            raise OptionsError(f"there is no format {location.format!r}", option="format")


def open_source(what: Any, options: ReadOptions | None = None) -> Source:
    """A source from whatever a caller hands over.

    Args:
        what: a path, URL, glob, folder or ``-``; several of them; or an iterable of records
            (mappings, Documents, (id, mapping) pairs). An async iterable needs :func:`from_async`.

    Raises:
        SourceError: see FileSource; also for an async iterable.
    """
    if isinstance(what, Source):
        return what
    if isinstance(what, (str, Path)):
        return FileSource([what], options)
    if isinstance(what, AsyncIterable):
        raise SourceError("an async iterable needs AsyncIndex (or from_async and its loop)")
    if isinstance(what, Mapping):
        raise SourceError("one mapping is one record; pass [record]")
    if isinstance(what, (list, tuple)) and what and all(isinstance(w, (str, Path)) for w in what):
        return FileSource(what, options)
    if not isinstance(what, Iterable):
        raise SourceError(f"can't read records from a {type(what).__name__}")
    return Source(what)


def dead_letter_source(path: str | Path) -> Source:
    """The records of a dead-letter file, to be tried again. Raises SourceError when it isn't there."""
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"there is no dead-letter file {path}", source=str(path))
    return Source(read_dead_letters(path))


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


class RecordMapper:
    """Field mapping, the transform hook, id and operation: a record as read → the record as meant.

    Args:
        id_field: the field that holds the id (must be there), else ``_id`` or ``id`` is taken where it
            is, else the id comes from the content.
        op_field: the field that holds the operation of a change feed, or None.
        fields: new name → name in the source (dots reach into objects).
        transform: called with each record (a dict of its own); None leaves the record out.
    """

    def __init__(
        self,
        *,
        id_field: str | None = None,
        op_field: str | None = None,
        fields: Mapping[str, str] | None = None,
        transform: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._id_field = id_field
        self._op_field = op_field
        self._fields = dict(fields or {})
        self._transform = transform

    def __call__(self, document: Document) -> Document | None:
        """The record as meant, or None when the hook left it out.

        Raises:
            RecordError: no id where one is needed, an id that is no string or number, a hook that fails.
        """
        source: Mapping[str, Any] = document.source
        doc_id, op = document.id, document.op
        if doc_id is None and self._op_field is not None and source.get(self._op_field) in OPS:
            source = dict(source)
            op = source.pop(self._op_field)
            body = source.get("doc")
            if (
                op == "update"
                and isinstance(body, Mapping)
                and set(source) <= {"doc", "id", "_id", self._id_field}
            ):
                source = {**{k: v for k, v in source.items() if k != "doc"}, **body}
        elif doc_id is None and self._op_field is not None:
            self._no_other_op(source.get(self._op_field))
        if doc_id is None:
            doc_id, source = self._take_id(source, op)
        if self._fields:
            source = self._rename(source)
        if self._transform is not None and op != "delete":
            try:
                changed = self._transform(dict(source))
            except Exception as error:
                raise RecordError(
                    f"the transform hook failed: {type(error).__name__}: {error}", record_id=doc_id
                ) from error
            if changed is None:
                return None
            if not isinstance(changed, Mapping):
                raise RecordError(
                    f"the transform hook returned a {type(changed).__name__}; it returns the record (a "
                    "mapping) or None to leave it out",
                    record_id=doc_id,
                )
            source = changed
        return Document(id=doc_id, source=source, op=op, position=document.position)

    def _no_other_op(self, value: Any) -> None:
        """Another feed's word for an operation must not be stored as if it were a field: a delete would
        write the record."""
        if isinstance(value, str) and value.lower() in OTHER_OPS:
            raise RecordError(
                f"{self._op_field!r} is {value!r}; a change feed says index, update or delete. Translate it "
                "with a transform hook, or set the op_field to another name if this one is data",
                field=self._op_field,
            )

    def _take_id(self, source: Mapping[str, Any], op: str) -> tuple[str | None, Mapping[str, Any]]:
        value: Any
        if "_id" in source:
            value = source["_id"]
            source = {k: v for k, v in source.items() if k != "_id"}
        elif self._id_field is not None:
            value = source.get(self._id_field)
            if value is None:
                raise RecordError(
                    f"the record has no {self._id_field!r}, which the plan names as its id_field",
                    field=self._id_field,
                )
        elif source.get("id") is not None:
            value = source["id"]
        elif op == "index":
            return None, source
        else:
            raise RecordError(f"a record with op {op} needs an id (_id or id)")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            if hasattr(value, "item") and isinstance(value.item(), (str, int)):
                return str(value.item()), source
            if isinstance(value, UUID):
                return str(value), source
            raise RecordError(f"an id is a string, a whole number or a UUID, not {value!r:.80}")
        return str(value), source

    def _rename(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        out = {k: v for k, v in source.items() if k not in self._fields.values()}
        for target, path in self._fields.items():
            value = paths.get(source, path)
            if value is not None:
                out[target] = value
        return out
