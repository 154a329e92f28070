"""The dead-letter file: every record that can't get in, with reason and position, one JSON line each."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from esembed.errors import RecordError
from esembed.types import Document, ItemError

__all__ = ["DeadLetters", "UnreadableRecord", "read_dead_letters"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


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
    Nothing is created before there is something to write.

    Args:
        path: the file, or None to only count.
        keep: how many to keep in ``errors``.
    """

    def __init__(self, path: Path | None, *, keep: int = 100) -> None:
        self.path = path
        self.count = 0
        self.errors: list[ItemError] = []
        self._keep = keep
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        if path is not None and path.exists():
            path.replace(path.with_name(path.name + ".1"))

    def write(
        self,
        error: ItemError,
        document: Document | None,
        *,
        field: str | None = None,
        raw: bytes | None = None,
    ) -> None:
        """One dead letter; it is on disk (in the system's cache) when this returns."""
        with self._lock:
            self.count += 1
            if len(self.errors) < self._keep:
                self.errors.append(error)
            if self.path is None:
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
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("wb")
            self._file.write(orjson.dumps(_plain(line), option=_OPTIONS) + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


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
