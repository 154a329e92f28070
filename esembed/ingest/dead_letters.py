"""The dead-letter file: every record that can't get in, with reason and position, one JSON line each.

A letter holds the record as it was read, before any transform hook or field mapping, so that a replay runs
those once, like the first try. Nothing is lost from one run to the next: a new run writes a new file, and the
one of the run before gets the first free number at its end (``FILE.1``, ``FILE.2`` …), at the moment of the
first new letter and not before. Nobody but a person deletes letters.

Each line begins with :data:`MARK`, which says that esembed made the file. Lines of esembed 0.1 have none and
begin with ``reason``; they are read as they were meant then.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from esembed.errors import OptionsError, PermanentError, RecordError
from esembed.ingest.typed_json import decode, encode, loads
from esembed.types import Document, ItemError

__all__ = ["DeadLetters", "Reason", "UnreadableRecord", "read_dead_letters"]

MARK = "esembed_dead_letter"
"""The first key of each line; its value is the version of the form."""

VERSION = 2

_OURS = re.compile(rb'\s*\{\s*"(?:' + MARK.encode() + rb'|reason)"\s*:')
"""How a dead-letter file begins; one of esembed 0.1 with a reason. jq and editors put blanks in between."""

KEPT_ERRORS = 100
"""How many dead letters a report shows; all of them are in the file."""

MAX_REASONS = 100
"""Kinds of reasons that are counted apart; the rest is counted together."""


@dataclass(slots=True)
class Reason:
    """Dead letters that differ in their values only.

    Attributes:
        reason: the first one's.
        position: where that one stands in the source.
        count: how many there are.
    """

    reason: str
    position: str | None
    count: int = 0


def _kind(reason: str) -> str:
    """A reason without what is the single record's: its id, value, numbers and place in the line."""
    reason = _OWN.sub("", reason)
    return _NUMBER.sub("0", reason)[:300]


def merge_reasons(*found: Iterable[Reason]) -> list[Reason]:
    """Reasons of one kind counted together, the most frequent first."""
    kinds: dict[str, Reason] = {}
    for reason in itertools.chain(*found):
        known = kinds.setdefault(_kind(reason.reason), Reason(reason.reason, reason.position))
        known.count += reason.count
    return sorted(kinds.values(), key=lambda reason: -reason.count)


_OWN = re.compile(
    r"\[\d+:\d+\] "  # Elasticsearch: line and column
    r"| in document with id '.*?'(?=\.|:|$)"
    r"| ?Preview of field's value: .*"
    r"|\n at \[Source: .*"
    r"| \(unexpected .*"
    r"|: unexpected .*",
    re.DOTALL,
)
_NUMBER = re.compile(r"\d+(\.\d+)?")


class UnreadableRecord(RecordError):
    """Part of a source that is no record (``raw``: its bytes, or None).

    It is yielded by sources, not raised, so that the next record can be read.
    """

    def __init__(self, message: str, *, position: str | None, raw: bytes | None = None) -> None:
        super().__init__(message, position=position)
        self.raw = raw


def _text(value: str | None) -> str | None:
    """Text for people: what can't be written is shown escaped."""
    return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")


class DeadLetters:
    """Writes dead letters, one line each, safely from several threads.

    Nothing is created or moved before there is something to write. What is no regular file (``/dev/stderr``,
    a named pipe) is written to as it is: never moved aside, never replaced.

    Args:
        path: the file, or None to only count.
        keep: how many to keep in ``errors``.

    Attributes:
        moved: where the letters of an earlier run are now, or None.

    Raises:
        OptionsError: the path is a folder, or a file that holds something else than dead letters.
    """

    def __init__(self, path: Path | None, *, keep: int = KEPT_ERRORS) -> None:
        self.path = path
        self.count = 0
        self.errors: list[ItemError] = []
        self.reasons: dict[str | None, Reason] = {}
        self.moved: Path | None = None
        self._keep = keep
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._target: Path | None = None
        self._stream = False
        if path is not None:
            self._target, self._stream = _where(path)
            if not self._stream:
                _check_ours(self._target)

    def write(
        self,
        error: ItemError,
        document: Document | None,
        *,
        field: str | None = None,
        raw: bytes | None = None,
        op: str | None = None,
    ) -> None:
        """One dead letter; it is on disk (in the system's cache) when this returns.

        Args:
            error: why, for people.
            document: the record as it was read, or None for what is no record.
            field: the one at fault.
            raw: what is no record.
            op: what was meant to happen, where that was known; for people.

        Raises:
            PermanentError: it can't be written (a full disk, no permission).
        """
        with self._lock:
            self.count += 1
            if len(self.errors) < self._keep:
                self.errors.append(error)
            kind = _kind(error.reason)
            found = self.reasons.get(kind)
            if found is None and len(self.reasons) < MAX_REASONS:
                found = self.reasons[kind] = Reason(error.reason, error.position)
            elif found is None:
                found = self.reasons.setdefault(None, Reason("other reasons", error.position))
            found.count += 1
            if self._target is None:
                return
            line = _letter(error, document, field, raw, op)
            try:
                self._append(self._target, line)
            except OSError as failed:
                raise PermanentError(
                    f"the dead-letter file {self.path} can't be written: {failed.strerror or failed}. Make "
                    "room, or name another file; the same command then goes on where it was. The record "
                    f"that belongs there ({error.position or error.id}): {error.reason}"
                ) from failed

    def _append(self, target: Path, line: bytes) -> None:
        """Without a buffer, so that nothing is left to write when the file is closed."""
        if self._file is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = target.open("ab", buffering=0) if self._stream else self._new(target)
        before = 0 if self._stream else self._file.tell()
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            if not self._stream:
                # No half line stays behind, and the next letter begins where this one did: at the end of
                # what was written before the cut it would stand behind NUL bytes.
                os.ftruncate(self._file.fileno(), before)
                self._file.seek(before)
            raise

    def _new(self, target: Path) -> IO[bytes]:
        """A file of this run's own; an earlier run's letters are moved aside first."""
        while True:
            try:
                return target.open("xb", buffering=0)
            except FileExistsError:
                if target.stat().st_size:
                    self.moved = _move_aside(target)
                else:
                    return target.open("wb", buffering=0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _where(path: Path) -> tuple[Path, bool]:
    """The file itself, and whether it is something that only streams. The system's own links
    (``/dev/stderr``) are never followed: what they lead to may be a log file that others write."""
    if path.is_symlink():
        if path.absolute().parts[1:2] in (("dev",), ("proc",)):
            return path, True
        path = path.resolve()
    try:
        mode = path.stat().st_mode
    except OSError:
        return path, False  # not there yet; opening it tells what else is wrong
    if stat.S_ISDIR(mode):
        raise OptionsError(f"{path} is a folder; name a file", option="dead_letters")
    return path, not stat.S_ISREG(mode)


def _check_ours(path: Path) -> None:
    """Raises OptionsError for a file of something else: the first letter would move it away."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OptionsError(
            f"the dead-letter file {path} can't be opened: {error.strerror}", option="dead_letters"
        ) from error
    if head and not _OURS.match(head):
        raise OptionsError(
            f"{path} is there and is no dead-letter file; it would be moved away. Name another file for the "
            "dead letters, or remove this one",
            option="dead_letters",
        )


def _move_aside(path: Path) -> Path:
    """Rename to the first free ``.NUMBER``. The name is taken before the move, so that two runs at the same
    time don't overwrite each other's."""
    number = 1
    while True:
        aside = path.with_name(f"{path.name}.{number}")
        try:
            aside.open("xb").close()
        except FileExistsError:
            number += 1
        else:
            path.replace(aside)
            return aside


def _letter(
    error: ItemError, document: Document | None, field: str | None, raw: bytes | None, op: str | None
) -> bytes:
    """One line, with its newline."""
    line: dict[str, Any] = {
        MARK: VERSION,
        "reason": _text(error.reason),
        "error_type": error.error_type,
        "status": error.status,
        "position": _text(error.position),
        "field": _text(None if field is None else str(field)),
        "id": _text(error.id),
    }
    if document is not None:
        line["op"] = op or document.op
        line["record"], types, lost = encode(document.source)
        if types:
            line["types"] = types
        if lost:
            # A replay without these values would be another record: it is refused instead.
            line["lost"] = lost
        # What the source said beside the record. Mostly nothing: id and op are found in the record again.
        beside = {"id": document.id, "routing": document.routing}
        beside["op"] = None if document.op == "index" else document.op
        if any(value is not None for value in beside.values()):
            line["read"], of = encode({k: v for k, v in beside.items() if v is not None})[:2]
            line |= {"read_types": of} if of else {}
    if raw is not None:
        try:
            line["raw"] = raw.decode("utf-8")
        except UnicodeDecodeError:
            line["raw_base64"] = base64.b64encode(raw).decode("ascii")
    try:
        return orjson.dumps(line) + b"\n"
    except TypeError:  # orjson takes 254 levels of nesting, the standard library some more
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def read_dead_letters(
    path: Path, *, parse: Callable[[bytes], Any] = loads
) -> Iterator[Document | UnreadableRecord]:
    """The records of a dead-letter file, to try them again. Positions are those of the first source.

    A line that never was a record is tried as JSON again (its source's encoding may have been told
    since), and comes back unreadable otherwise.

    Args:
        path: the file.
        parse: bytes of what was no record → JSON. Raises ValueError.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            where = f"{path.name}:{number}"
            try:
                line = loads(text)
                if not isinstance(line, dict) or not isinstance(line.get("reason"), str):
                    raise ValueError
            except ValueError:
                yield UnreadableRecord("not a line of a dead-letter file", position=where, raw=text)
                continue
            position = str(line.get("position") or where)
            try:
                yield _read_again(line, position, parse)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                yield UnreadableRecord(
                    f"this dead letter can't be tried again: {error}. It was: {line['reason']}",
                    position=position,
                    raw=text,
                )


def _read_again(line: dict[str, Any], position: str, parse: Callable[[bytes], Any]) -> Any:
    """The record of a letter, or why there is none. Raises what a letter that isn't one raises."""
    if "record" not in line:
        raw = (
            base64.b64decode(line["raw_base64"])
            if "raw_base64" in line
            else str(line.get("raw", "")).encode()
        )
        try:
            again = parse(raw)
        except ValueError:
            again = None
        if isinstance(again, dict):
            return Document(id=line.get("id"), source=again, position=position)
        return UnreadableRecord(line["reason"], position=position, raw=raw)
    if line.get("lost"):
        shown = ", ".join(
            f"{at[1:].replace('/', '.') or 'it'} is a {kind}" for at, kind in line["lost"].items()
        )
        raise ValueError(f"{shown}, which a letter can't hold; read the record from its source again")
    source, beside = line["record"], line
    if MARK in line:
        if line[MARK] != VERSION:
            raise ValueError(f"it is of version {line[MARK]}, which this esembed doesn't know")
        source = decode(source, line.get("types") or {})
        beside = decode(line.get("read") or {}, line.get("read_types") or {})
    if not isinstance(source, dict):
        raise ValueError(f"a record is an object, not a {type(source).__name__}")
    op: Any = beside.get("op") or "index"
    if op not in ("index", "update", "delete"):
        raise ValueError(f"there is no op {op!r}")
    return Document(
        id=beside.get("id"), source=source, op=op, position=position, routing=beside.get("routing")
    )
