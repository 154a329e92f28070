"""The dead-letter file: every record that can't get in, with reason and position, one JSON line each."""

from __future__ import annotations

import base64
import itertools
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from esembed.errors import OptionsError, PermanentError, RecordError
from esembed.types import Document, ItemError

__all__ = ["DeadLetters", "Reason", "UnreadableRecord", "read_dead_letters"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

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
    """A piece of a source that is no record (``raw``: the piece itself, or None).

    It is yielded by sources, not raised, so that the next record can be read.
    """

    def __init__(self, message: str, *, position: str | None, raw: bytes | None = None) -> None:
        super().__init__(message, position=position)
        self.raw = raw


def _plain(value: Any) -> Any:
    """JSON's own types, whatever a record held; NaN becomes a string so that it can be seen."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Mapping):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


class DeadLetters:
    """Writes dead letters, one line each, safely from several threads.

    A new run starts a new file; the one of the run before is kept beside it with ``.1`` at its end.
    Nothing is created before there is something to write. What is no regular file (``/dev/stderr``, a
    named pipe) is written to as it is: never moved aside, never replaced.

    Args:
        path: the file, or None to only count.
        keep: how many to keep in ``errors``.

    Raises:
        OptionsError: the path is a folder.
    """

    def __init__(self, path: Path | None, *, keep: int = KEPT_ERRORS) -> None:
        self.path = path
        self.count = 0
        self.errors: list[ItemError] = []
        self.reasons: dict[str | None, Reason] = {}
        self._keep = keep
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._target: Path | None = None
        self._stream = False
        if path is not None:
            self._target, self._stream = _where(path)
        if self._target is not None and not self._stream and self._target.exists():
            self._target.replace(self._target.with_name(self._target.name + ".1"))

    def write(
        self,
        error: ItemError,
        document: Document | None,
        *,
        field: str | None = None,
        raw: bytes | None = None,
    ) -> None:
        """One dead letter; it is on disk (in the system's cache) when this returns.

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
            line: dict[str, Any] = {
                "reason": error.reason,
                "error_type": error.error_type,
                "status": error.status,
                "position": error.position,
                "field": field,
                "id": error.id,
            }
            if document is not None:
                line["op"] = document.op
                line["record"] = document.source
            if raw is not None:
                try:
                    line["raw"] = raw.decode("utf-8")
                except UnicodeDecodeError:
                    line["raw_base64"] = base64.b64encode(raw).decode("ascii")
            try:
                self._append(self._target, orjson.dumps(_plain(line), option=_OPTIONS) + b"\n")
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
            self._file = target.open("ab" if self._stream else "wb", buffering=0)
        before = 0 if self._stream else self._file.tell()
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            if not self._stream:
                os.ftruncate(self._file.fileno(), before)  # no half line stays behind
            raise

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


def read_dead_letters(path: Path) -> Iterator[Document | UnreadableRecord]:
    """The records of a dead-letter file, to try them again. Positions are those of the first source.

    A line that never was a record is tried as JSON again (its source's encoding may have been told
    since), and comes back unreadable otherwise.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            where = f"{path.name}:{number}"
            try:
                line = orjson.loads(text)
                position = line.get("position") or where
            except (ValueError, AttributeError):
                yield UnreadableRecord("not a line of a dead-letter file", position=where, raw=text)
                continue
            record = line.get("record")
            if isinstance(record, dict):
                yield Document(
                    id=line.get("id"), source=record, op=line.get("op", "index"), position=position
                )
                continue
            raw = (
                base64.b64decode(line["raw_base64"])
                if "raw_base64" in line
                else str(line.get("raw", "")).encode()
            )
            try:
                again = orjson.loads(raw)
                if not isinstance(again, dict):
                    raise ValueError
            except ValueError:
                yield UnreadableRecord(str(line.get("reason")), position=position, raw=raw)
                continue
            yield Document(id=line.get("id"), source=again, position=position)
