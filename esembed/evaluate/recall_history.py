"""The file of past recall figures: JSON lines, one for each measurement, the oldest first.

Its first line says what it is (:data:`MARK`). Anybody may have written to it since: whatever isn't a
measurement of this form is counted and left out, and a file that doesn't begin with the mark is never written
to.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from esembed.errors import OptionsError
from esembed.evaluate.recall import RecallReport

__all__ = ["MARK", "PastRecall", "PastRow", "RecallHistory"]

MARK = "esembed_recall_history"
"""The only key of the first line; its value is the version of the form."""

VERSION = 1

MAX_BYTES = 64 << 20
"""A file this long is read no further: with ten rows a line, some 30,000 measurements."""

MAX_LINE_BYTES = 256 << 10

Text = Annotated[str, msgspec.Meta(max_length=2_000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class PastRow(msgspec.Struct, frozen=True, kw_only=True):
    """A field, with or without a filter: the mean recall and its interval, the mean of exhaustive searches,
    and of those by codes alone."""

    field: Text
    filter: Text
    matching: Whole
    queries: Whole
    recall: Share
    low: Share
    high: Share
    exhaustive: Share
    codes: Share | None = None


class PastRecall(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement; see :class:`~esembed.evaluate.recall.RecallReport`."""

    at: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\+00:00|Z)$")]
    index: Text
    concrete_index: Text
    uuid: Text
    engine: Text
    k: Whole
    asked: Text
    documents: Whole
    deleted: Whole | None = None
    segments: Whole | None = None
    rows: Annotated[list[PastRow], msgspec.Meta(max_length=1_000)]

    @classmethod
    def of(cls, report: RecallReport) -> PastRecall:
        """What is kept of a report."""
        return cls(
            at=report.at,
            index=report.index,
            concrete_index=report.concrete_index,
            uuid=report.uuid,
            engine=report.engine,
            k=report.k,
            asked=report.asked,
            documents=report.documents,
            deleted=report.deleted,
            segments=report.segments,
            rows=[
                PastRow(
                    field=row.field,
                    filter=row.filter,
                    matching=row.matching,
                    queries=row.queries,
                    recall=_share(row.recall.mean),
                    low=_share(row.recall.low),
                    high=_share(row.recall.high),
                    exhaustive=_share(row.exhaustive.mean),
                    codes=None if row.codes is None else _share(row.codes.mean),
                )
                for row in report.rows
            ],
        )

    def recall_of(self, field: str, filter: str) -> float | None:
        """The recall of one row, or None where it wasn't measured."""
        return next((row.recall for row in self.rows if (row.field, row.filter) == (field, filter)), None)


@dataclass(slots=True)
class RecallHistory:
    """A history file as it was read.

    Attributes:
        path: the file; it need not exist.
        past: its measurements, the oldest first.
        unreadable: lines that are none.
    """

    path: Path
    past: list[PastRecall]
    unreadable: int = 0

    @classmethod
    def open(cls, path: str | Path) -> RecallHistory:
        """Read a history, or begin one: nothing is written before :meth:`append`.

        Raises:
            OptionsError: something else stands there, or it can't be read or written.
        """
        path = Path(path)
        try:
            found = path.stat()
        except FileNotFoundError:
            if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
                raise OptionsError(
                    f"{path}: its folder isn't there or can't be written", option="history"
                ) from None
            return cls(path, [])
        except OSError as error:
            raise OptionsError(f"{path} can't be read: {error.strerror}", option="history") from None
        if not stat.S_ISREG(found.st_mode):
            raise OptionsError(f"{path} is no regular file", option="history")
        if not os.access(path, os.W_OK):
            raise OptionsError(f"{path} can't be written", option="history")
        if not found.st_size:
            return cls(path, [])
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise OptionsError(f"{path} can't be read: {error.strerror}", option="history") from None
        if len(data) > MAX_BYTES:
            raise OptionsError(f"{path} has more than {MAX_BYTES >> 20} MiB; begin another", option="history")
        first, *lines = data.split(b"\n")
        version = _version(first)
        if version is None:
            raise OptionsError(
                f"{path} is no recall history (its first line doesn't say so); name another file",
                option="history",
            )
        if version != VERSION:
            raise OptionsError(
                f"{path} is a recall history of version {version}, which this esembed doesn't know; name "
                "another file",
                option="history",
            )
        past: list[PastRecall] = []
        unreadable = 0
        decoder = msgspec.json.Decoder(PastRecall)
        for line in lines:
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError("too long")
                past.append(decoder.decode(line))
            except (ValueError, RecursionError, msgspec.DecodeError):
                unreadable += 1
        return cls(path, past, unreadable)

    def before(self, report: RecallReport) -> PastRecall | None:
        """The last measurement of the same index name and k before the report, or None."""
        same = [
            one for one in self.past if (one.index, one.k) == (report.index, report.k) and one.at < report.at
        ]
        return same[-1] if same else None

    def append(self, report: RecallReport) -> None:
        """Add a measurement to the file and to :attr:`past`.

        Raises:
            OptionsError: it can't be written.
        """
        added = PastRecall.of(report)
        line = msgspec.json.encode(added) + b"\n"
        try:
            # One write at the end of the file: two runs at once don't tear each other's lines.
            with self.path.open("a+b") as file:
                if not file.seek(0, os.SEEK_END):
                    line = msgspec.json.encode({MARK: VERSION}) + b"\n" + line
                else:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # the line before was cut off
                file.write(line)
        except OSError as error:
            raise OptionsError(f"{self.path} can't be written: {error.strerror}", option="history") from None
        self.past.append(added)


def _share(value: float) -> float:
    """A sum of floats may end a hair above 1."""
    return min(1.0, max(0.0, value))


def _version(line: bytes) -> int | None:
    try:
        found = msgspec.json.decode(line[:1_000], type=dict[str, int])
    except (ValueError, msgspec.DecodeError):
        return None
    return found.get(MARK) if len(found) == 1 else None
