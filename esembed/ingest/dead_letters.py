"""The dead-letter file: every record that can't get in, with reason and position, one JSON line each.

A letter holds the record as it was read, before any transform hook or field mapping, so that a replay runs
those once, like the first try. Nothing is lost from one run to the next: a new run writes a new file, and the
one of the run before gets the first free number at its end (``FILE.1``, ``FILE.2`` …), at the moment of the
first new letter and not before. A file that another run is writing to stays where it is; this run's letters
get a number then. Nobody but a person deletes letters.

Each line begins with :data:`MARK`, which says that esembed made the file. Lines of esembed 0.1 have none and
begin with ``reason``; they are read as they were meant then.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson

from esembed.errors import OptionsError, PermanentError, RecordError, SourceError, message_of
from esembed.ingest.typed_json import bounded_lines, decode, encode, loads
from esembed.types import Document, ItemError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "DeadLetters",
    "Reason",
    "UnreadableRecord",
    "check_place",
    "holds_letters",
    "read_dead_letters",
]

MARK = "esembed_dead_letter"
"""The first key of each line; its value is the version of the form."""

VERSION = 2

_OURS = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*\{\s*(?:"' + MARK.encode() + rb'"\s*:\s*[0-9]'
    rb'|"reason"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"error_type"\s*:)'
)
"""How a dead-letter file begins; one of esembed 0.1 with a reason and an error type. jq and editors put
blanks in between, some of them a byte order mark in front."""

_HEAD_BYTES = 64 * 1024
"""How much of a file is looked at for that."""

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


def _text(value: Any) -> str | None:
    """Text for people: what can't be written is shown escaped. An id that was refused may be anything."""
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - a foreign object
        text = type(value).__name__
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class DeadLetters:
    """Writes dead letters, one line each, safely from several threads and beside other runs.

    Nothing is created or moved before there is something to write. What is no regular file (``/dev/stderr``,
    a named pipe) is written to as it is: never moved aside, never replaced.

    Args:
        path: the file, or None to only count.

    Attributes:
        written: the file that has this run's letters, or None: *path*, or the first free number of it where
            another run was writing there.
        moved: where the letters of an earlier run are now, or None.
        warnings: what a person should know about where the letters are.

    Raises:
        OptionsError: see :func:`check_place`; also a named pipe that nobody reads.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        self.errors: list[ItemError] = []
        self.reasons: dict[str | None, Reason] = {}
        self.written: Path | None = None
        self.moved: Path | None = None
        self.warnings: list[str] = []
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._target: Path | None = None
        self._stream = False
        if path is not None:
            self._target, self._stream = check_place(path)
            if self._stream:
                self._file = _open_stream(path)
                self.written = path

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
        error = _shown(error)
        with self._lock:
            self.count += 1
            if len(self.errors) < KEPT_ERRORS:
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
        if self._file is not None and not self._stream and not _is_at(self._file, self.written):
            self.warnings.append(
                f"{self.written} was removed or renamed while this run wrote dead letters to it; the later "
                "ones are in a new file of that name"
            )
            self.close()
        if self._file is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file, self.written = self._new(target)
        before = 0 if self._stream else os.fstat(self._file.fileno()).st_size
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            if not self._stream:
                # No half line stays behind, and the next letter begins where this one did.
                os.ftruncate(self._file.fileno(), before)
            raise

    def _new(self, target: Path) -> tuple[IO[bytes], Path]:
        """A file of this run's own, held until it is closed; an earlier run's letters are moved aside first.

        The lock is what tells an earlier run's file from one that another run is writing to now: that one
        stays where it is, and this run writes beside it.
        """
        while True:
            # Never truncated by being opened: another run's first letter may come at this moment.
            file: IO[bytes] = target.open("ab", buffering=0)
            try:
                if not _hold(file):
                    self.warnings.append(f"another run is writing dead letters to {target}")
                    break
                if not _is_at(file, target):
                    file.close()  # moved aside by another run since it was opened
                    continue
                if not os.fstat(file.fileno()).st_size:
                    return file, self.path if self.path is not None else target
                if not _is_ours(target):
                    self.warnings.append(f"another program has written to {target} since this run began")
                    break
                self.moved = _move_aside(target)
            except BaseException:
                file.close()
                raise
            file.close()
        file.close()
        beside, file = _first_free(target)
        _hold(file)
        self.warnings[-1] += f"; this run's are in {beside}"
        return file, beside

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            if not self._stream:
                _let_go(self._file)
            self._file.close()
            self._file = None


# -- where letters are written ------------------------------------------------------------------------


def check_place(path: Path) -> tuple[Path, bool]:
    """Whether dead letters can be written there, asked before a run begins. Nothing is created or moved.

    Returns:
        the file itself, links followed, and whether it only streams (a pipe, a terminal).

    Raises:
        OptionsError: a folder, a device that isn't for text, a file that holds something else than dead
            letters, a folder that can't be written.
    """
    try:
        target, stream = _where(path)
        if not stream:
            if not _is_ours(target):
                raise OptionsError(
                    f"{path} is there and is no dead-letter file; it would be moved away. Name another file "
                    "for the dead letters, or remove this one",
                    option="dead_letters",
                )
            _check_writable(target)
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, NUL in the name …
        why = getattr(error, "strerror", None) or error
        raise OptionsError(
            f"the dead-letter file {_text(str(path))} can't be written: {why}; name another file",
            option="dead_letters",
        ) from error
    return target, stream


def _where(path: Path) -> tuple[Path, bool]:
    """The file itself, and whether it is something that only streams. The system's own links
    (``/dev/stderr``) are never followed: what they lead to may be a log file that others write."""
    if path.is_symlink():
        if path.absolute().parts[1:2] in (("dev",), ("proc",)):
            return path, True
        path = path.resolve()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path, False
    if stat.S_ISDIR(mode):
        raise OptionsError(f"{path} is a folder; name a file", option="dead_letters")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        # Letters would be written over what a disk holds.
        what = "a disk" if stat.S_ISBLK(mode) else "a socket"
        raise OptionsError(f"{path} is {what}; name a file", option="dead_letters")
    return path, not stat.S_ISREG(mode)


def _open_stream(path: Path) -> IO[bytes]:
    """A pipe or a device, open from the start of the run: at the first letter, opening a named pipe that
    nobody reads would wait for ever.

    Raises:
        OptionsError: it can't be opened.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
        os.set_blocking(number, True)
    except OSError as error:
        why = error.strerror
        if error.errno == errno.ENXIO:
            why = "nobody reads from it; start the reader first"
        raise OptionsError(
            f"{path} can't be opened for dead letters: {why}, or name a file", option="dead_letters"
        ) from error
    return os.fdopen(number, "wb", buffering=0)


def _is_ours(path: Path) -> bool:
    """Whether a file is a dead-letter file, empty or not there: the first letter moves it away. Raises
    OSError."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return True
    return not head or _OURS.match(head) is not None


def _check_writable(path: Path) -> None:
    """Raises OSError where a file can't be made or moved in its folder. By trying: what permissions say isn't
    all (a file system that is read-only, root)."""
    if path.exists() and not path.stat().st_size:
        path.open("r+b").close()
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # Without a name (O_TMPFILE) where the system can do that: nobody sees it.
    tempfile.TemporaryFile(dir=folder).close()


def _is_at(file: IO[bytes], path: Path | None) -> bool:
    """Whether the open file is still the one of that name. Letters in one that was removed are lost."""
    try:
        there = os.stat(path) if path is not None else None
    except OSError:
        return False
    return there is not None and os.path.samestat(os.fstat(file.fileno()), there)


def _hold(file: IO[bytes]) -> bool:
    """Mark the file as one that this run writes to; False where another run holds it. It ends with the
    process, however that ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: as without other runs
    return True


def _let_go(file: IO[bytes]) -> None:
    """A process that was forked meanwhile has the file open, too, and would keep holding it."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _first_free(path: Path) -> tuple[Path, IO[bytes]]:
    """The first free ``.NUMBER``, made now, so that two runs at the same time don't take the same."""
    for number in itertools.count(1):
        beside = path.with_name(f"{path.name}.{number}")
        try:
            return beside, beside.open("xb", buffering=0)
        except FileExistsError:
            continue
    raise AssertionError  # pragma: no cover - numbers don't end


def _move_aside(path: Path) -> Path:
    """Rename to the first free ``.NUMBER``."""
    aside, file = _first_free(path)
    file.close()
    path.replace(aside)
    return aside


def _shown(error: ItemError) -> ItemError:
    """An error whose texts can be written: a report is JSON, too."""
    return replace(
        error, id=_text(error.id), reason=_text(error.reason) or "", position=_text(error.position)
    )


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
        "field": _text(field),
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


def holds_letters(path: Path) -> bool:
    """Whether there is a letter near the front of a file (its first lines may be damaged). Raises OSError."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return any(_OURS.match(line) for line in head.splitlines())


def read_dead_letters(
    path: Path, *, parse: Callable[[bytes], Any] = loads, max_letter_bytes: int = 1 << 31
) -> Iterator[Document | UnreadableRecord]:
    """The records of a dead-letter file, to try them again. Positions are those of the first source.

    A line that never was a record is tried as JSON again (its source's encoding may have been told
    since), and comes back unreadable otherwise.

    Args:
        path: the file.
        parse: bytes of what was no record → JSON. Raises ValueError.
        max_letter_bytes: the longest line that is read.

    Raises:
        SourceError: the file can't be read (any further).
    """
    try:
        with path.open("rb") as file:
            for number, text in bounded_lines(file, max_letter_bytes):
                where = f"{path.name}:{number}"
                if text is None:
                    yield UnreadableRecord(
                        f"this dead letter is longer than {max_letter_bytes} bytes; raise max_record_bytes, "
                        "or read the record from its source again",
                        position=where,
                    )
                elif text.strip():
                    yield _read_letter(text, where, parse)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}", source=str(path)) from error


def _read_letter(text: bytes, where: str, parse: Callable[[bytes], Any]) -> Document | UnreadableRecord:
    """The record of one line, or why there is none. The line may hold anything."""
    try:
        line = loads(text.removeprefix(b"\xef\xbb\xbf"))
        if not isinstance(line, dict) or not isinstance(line.get("reason"), str):
            raise ValueError
    except ValueError:
        return UnreadableRecord("not a line of a dead-letter file", position=where, raw=text)
    position = line.get("position")
    position = position if isinstance(position, str) and position else where
    try:
        return _read_again(line, position, parse)
    except Exception as error:  # noqa: BLE001 - whatever the types in a damaged line make of its values
        return UnreadableRecord(
            f"this dead letter can't be tried again: {message_of(error)}. It was: {line['reason']}",
            position=position,
            raw=text,
        )


def _read_again(
    line: dict[str, Any], position: str, parse: Callable[[bytes], Any]
) -> Document | UnreadableRecord:
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
            return Document(id=_optional_text(line, "id"), source=again, position=position)
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
    doc_id, routing = _optional_text(beside, "id"), _optional_text(beside, "routing")
    return Document(id=doc_id, source=source, op=op, position=position, routing=routing)


def _optional_text(of: dict[str, Any], name: str) -> str | None:
    value = of.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {name} is a {type(value).__name__}, not text")
    return value
