"""JSON lines, JSON, CSV and plain text, from a binary stream, with the line that each record stood in."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import IO, Any

import orjson

from esembed.errors import OptionsError, RecordError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.ingest.sources.files import sniff_encoding
from esembed.ingest.sources.mapper import as_id
from esembed.ingest.typed_json import bounded_lines, loads
from esembed.types import Document

__all__ = ["parse", "read_csv", "read_json", "read_jsonl", "read_text"]

RawRecord = Document | UnreadableRecord


def _lines(stream: IO[bytes], encoding: str, label: str, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Line number and line as bytes (UTF-8, where it isn't broken); None for a line beyond *limit*."""
    stream, encoding = sniff_encoding(stream, encoding)
    if encoding == "utf-8-sig":
        stream.read(3)
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig", "ascii"):
        # surrogatepass: a broken unit spoils its own line (JSON refuses it), not the file.
        text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="\n")
        number = 0
        while True:
            row = text.readline(limit + 1)
            if not row:
                return
            number += 1
            if len(row) > limit and not row.endswith("\n"):
                while row and not row.endswith("\n"):
                    row = text.readline(1 << 20)
                yield number, None
                continue
            yield number, row.encode("utf-8", "surrogatepass")
    yield from bounded_lines(stream, limit)


def parse(line: bytes, fallback: str | None) -> Any:
    """One line's JSON, in UTF-8 or else in the encoding *fallback*. Raises ValueError."""
    try:
        return loads(line)
    except ValueError:
        if fallback is None:
            raise
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return loads(line.decode(fallback, "strict"))
        raise


def _why(line: bytes, error: ValueError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as problem:
        return (
            f"not UTF-8 (byte {problem.start + 1} of the line); pass the source's encoding (--encoding), or "
            "a fallback_encoding for such lines (--fallback-encoding)"
        )
    text = str(error)
    if "NaN" in line.decode("utf-8", "replace") and "expected a JSON value" in text:
        return f"NaN is no JSON value; write null or leave the field out ({text})"
    if "surrogate" in text:
        return f"a string holds a lone surrogate (half of a character); repair its encoding ({text})"
    return f"broken JSON: {text}"


def read_jsonl(
    stream: IO[bytes], label: str, *, encoding: str, fallback: str | None, limit: int
) -> Iterator[RawRecord]:
    """One object a line; blank lines are passed over.

    A file made for ``_bulk``, which its first line tells, is read as what it is: each action with the
    document that follows it.
    """
    lines = ((f"{label}:{n}", line) for n, line in _lines(stream, encoding, label, limit))
    objects = (
        (at, line, _object(line, at, fallback, limit)) for at, line in lines if line is None or line.strip()
    )
    first = next(objects, None)
    if first is None:
        return
    every: Iterable[Line] = itertools.chain([first], objects)
    if not isinstance(first[2], UnreadableRecord) and _action(first[2]) is not None:
        yield from _read_bulk(every)
        return
    for where, _, value in every:
        yield value if isinstance(value, UnreadableRecord) else Document(None, value, position=where)


def _object(
    line: bytes | None, where: str, fallback: str | None, limit: int
) -> dict[str, Any] | UnreadableRecord:
    """The object that a line holds, or why it holds none."""
    if line is None:
        return UnreadableRecord(
            f"the line is longer than max_record_bytes ({limit} bytes); raise it, or split the record",
            position=where,
        )
    try:
        value = parse(line, fallback)
    except ValueError as error:
        return UnreadableRecord(_why(line, error), position=where, raw=line.rstrip(b"\r\n"))
    if not isinstance(value, dict):
        return UnreadableRecord(
            f"a record is an object; this line is a {type(value).__name__}",
            position=where,
            raw=line.rstrip(b"\r\n"),
        )
    return value


# -- files made for _bulk -----------------------------------------------------------------------------

_BULK_KEYS = frozenset(
    f"{sign}{name}"
    for name in ("routing", "parent", "version", "version_type", "retry_on_conflict")
    for sign in ("", "_")
) | {
    "_index", "_type", "_id", "dynamic_templates", "if_primary_term", "if_seq_no", "list_executed_pipelines",
    "op_type", "pipeline", "require_alias", "require_data_stream",
}  # fmt: skip
"""What an action says beside its name, in all versions of both engines."""

Line = tuple[str, bytes | None, "dict[str, Any] | UnreadableRecord"]
"""Position, bytes, and the object in them."""


def _action(value: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """An action of ``_bulk`` and what it says, or None for any other object."""
    if len(value) != 1:
        return None
    ((op, said),) = value.items()
    known = (
        op in ("index", "create", "update", "delete") and isinstance(said, dict) and said.keys() <= _BULK_KEYS
    )
    return (op, said) if known else None


def _read_bulk(objects: Iterable[Line]) -> Iterator[RawRecord]:
    action: tuple[str, dict[str, Any]] | None = None
    head, where = b"", ""
    broken: UnreadableRecord | None = None
    for at, line, value in objects:
        bad = isinstance(value, UnreadableRecord)
        if action is not None:
            raw = head + b"\n" + (line or b"").rstrip(b"\r\n")
            # Both lines: the document alone would come back from the dead letters without its action.
            yield (
                UnreadableRecord(value.message, position=at, raw=raw)
                if isinstance(value, UnreadableRecord)
                else _of_bulk(*action, value, where, raw)
            )
            action = None
            continue
        found = None if isinstance(value, UnreadableRecord) else _action(value)
        if broken is not None:
            # What follows an action that can't be read is its document, unless it is an action itself.
            follows = b"" if found or bad else b"\n" + (line or b"").rstrip(b"\r\n")
            yield UnreadableRecord(broken.message, position=where, raw=(broken.raw or b"") + follows)
            broken = None
            if follows:
                continue
        if isinstance(value, UnreadableRecord):
            broken, where = value, at
        elif found is None:
            yield UnreadableRecord(
                "a file for _bulk has an action (index, create, update or delete) before each document, and "
                f"there is none before this line: {(line or b'')[:200].decode('utf-8', 'replace').strip()}",
                position=at,
            )
        elif found[0] == "delete":
            yield _of_bulk(*found, {}, at, (line or b"").strip())
        else:
            action, head, where = found, (line or b"").strip(), at
    if broken is not None:
        yield broken
    if action is not None:
        yield UnreadableRecord("the file ends after this action; its document is missing", position=where)


def _of_bulk(op: str, said: dict[str, Any], value: dict[str, Any], where: str, raw: bytes) -> RawRecord:
    """One action as a record. The index it names is another one's name for the target, and a routing is
    left out as it is when an index is read: what asks for the document later knows only its id."""
    try:
        doc_id = None if said.get("_id") is None else as_id(said["_id"])
        if op in ("index", "create"):
            return Document(doc_id, value, position=where)
        if doc_id is None:
            raise RecordError(f"the {op} names no document (_id)")
        if op == "delete":
            return Document(doc_id, {}, "delete", where)
        if not isinstance(value.get("doc"), dict) or not value.keys() <= {"doc", "detect_noop", "_source"}:
            raise RecordError(
                "an update by a script, or with an upsert, depends on what is in the index; only updates "
                "with a doc can be read here"
            )
        return Document(doc_id, value["doc"], "update", where)
    except RecordError as error:
        return UnreadableRecord(error.message, position=where, raw=raw)


def read_json(
    stream: IO[bytes], label: str, *, encoding: str, fallback: str | None, limit: int
) -> Iterator[RawRecord]:
    """A ``.json`` file: an array of objects or one object, up to *limit* bytes; else JSON lines."""
    head = stream.peek(64) if hasattr(stream, "peek") else b""
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        # One object over several lines, or JSON lines under another name: the first line tells.
        first = stream.readline(limit + 1)
        try:
            orjson.loads(first.removeprefix(b"\xef\xbb\xbf"))
        except ValueError:
            whole = first + stream.read(limit + 1 - len(first))
            yield from _whole_json(whole, label, limit)
            return
        rest = io.BufferedReader(_Joined(first, stream))
        yield from read_jsonl(rest, label, encoding=encoding, fallback=fallback, limit=limit)
        return
    yield from _whole_json(stream.read(limit + 1), label, limit)


def _whole_json(data: bytes, label: str, limit: int) -> Iterator[RawRecord]:
    if len(data) > limit:
        yield UnreadableRecord(
            f"a JSON file is read whole, and this one has more than max_record_bytes ({limit}); convert it "
            "to JSON lines (jq -c '.[]'), which stream",
            position=label,
        )
        return
    try:
        value = loads(data.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        yield UnreadableRecord(_why(data, error), position=label, raw=data[:4096])
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        where = f"{label}[{number}]"
        if isinstance(item, dict):
            yield Document(id=None, source=item, position=where)
        else:
            yield UnreadableRecord(
                f"a record is an object, not a {type(item).__name__}", position=where, raw=orjson.dumps(item)
            )


class _Joined(io.RawIOBase):
    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data, self._first = self._first[: len(view)], self._first[len(view) :]
        if not data:
            data = getattr(self._rest, "read1", self._rest.read)(len(view))
        view[: len(data)] = data
        return len(data)


def read_csv(
    stream: IO[bytes],
    label: str,
    *,
    encoding: str,
    fallback: str | None,
    limit: int,
    delimiter: str | None,
    quote: str,
) -> Iterator[RawRecord]:
    """Rows by the header's names; empty cells are left out, everything else is a string.

    The position is the line that the row begins in. *limit* is for one line; a cell of several lines has a
    quarter of that in characters, since Python's csv module (3.13) collects it at four bytes each. That
    limit is process-wide there; it is only ever raised. Without a delimiter it is a comma; without a *quote*
    (empty) quotes are text.

    Raises:
        OptionsError: no delimiter was given and the header looks like another one's.
    """
    guessed, delimiter = delimiter is None, delimiter or ","
    stream, encoding = sniff_encoding(stream, encoding)
    if csv.field_size_limit() < limit // 4:
        csv.field_size_limit(min(limit // 4, 2**31 - 1))
    # Bytes that aren't in this encoding travel as half surrogates, so that _cell can try the fallback on the
    # bytes themselves.
    text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
    lines = _CsvLines(text, limit)
    if quote:
        rows = csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True)
    else:
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{label}:{lines.number + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = (
                f"; where {quote} is part of the text, as databases export TSV, say --quote '' (quote='')"
                if quote and lines.quoted(quote)
                else ""
            )
            yield UnreadableRecord(f"broken CSV: {error}{remedy}", position=where)
            continue
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            other = next((c for c in (";", "\t", "|") if c in header[0]), None)
            if guessed and len(header) == 1 and other is not None:
                shown = repr(other)  # a tab as '\\t', which the option takes
                raise OptionsError(
                    f"{label} has a header of one column, {header[0][:200]!r}; if its cells stand between "
                    f"others than commas, say so: --delimiter {shown}",
                    option="delimiter",
                )
            if len(set(header)) != len(header):
                twice = next(name for name in header if header.count(name) > 1)
                yield UnreadableRecord(f"two columns have the same name, {twice!r}", position=where)
                return
            continue
        raw = delimiter.join(row).encode("utf-8", "surrogateescape")
        if len(row) != len(header):
            yield UnreadableRecord(
                f"{len(row)} cells where the header has {len(header)}", position=where, raw=raw
            )
            continue
        try:
            cells = [_cell(cell, fallback) for cell in row]
        except UnicodeDecodeError:
            yield UnreadableRecord(
                f"a cell is not {encoding}; pass the source's encoding (--encoding), or a fallback_encoding",
                position=where,
                raw=raw,
            )
            continue
        yield Document(
            id=None,
            source={name: cell for name, cell in zip(header, cells, strict=True) if cell != ""},
            position=where,
        )


class _CsvLines:
    """Lines for the csv module, with their ends; one beyond *limit* characters is passed over, which is a
    csv.Error. Not a generator: after an error the next line follows."""

    def __init__(self, text: io.TextIOWrapper, limit: int) -> None:
        self._text = text
        self._limit = limit
        self._last = ""
        self.number = 0

    def quoted(self, quote: str) -> bool:
        """Whether the last line, or what was read of it, has quotes, or the file ended inside some."""
        return quote in self._last or not self._last

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._limit + 1)
        if not line:
            self._last = ""
            raise StopIteration
        self.number += 1
        self._last = line[:1000]
        if len(line) > self._limit and not line.endswith(("\n", "\r")):
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(1 << 20)
            raise csv.Error(
                f"a line longer than max_record_bytes ({self._limit}); raise it, or split the record"
            )
        return line


def _cell(cell: str, fallback: str | None) -> str:
    if cell.isascii():
        return cell
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return cell.encode("utf-8", "surrogateescape").decode(fallback or "utf-8")
    return cell


def read_text(
    stream: IO[bytes], label: str, *, encoding: str, fallback: str | None, limit: int
) -> Iterator[RawRecord]:
    """A whole file as one document: ``path`` and ``text``; its id is the path."""
    stream, encoding = sniff_encoding(stream, encoding)
    data = stream.read(limit + 1)
    if len(data) > limit:
        yield UnreadableRecord(f"longer than max_record_bytes ({limit} bytes)", position=label)
        return
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if fallback is None:
            yield UnreadableRecord(
                f"not {encoding} (byte {error.start + 1})", position=label, raw=data[:4096]
            )
            return
        text = data.decode(fallback, "replace")
    yield Document(id=label, source={"path": label, "text": text}, position=label)
