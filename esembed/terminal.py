"""What verbs print: tables for people on stdout, JSON for scripts, everything else on stderr."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from esembed.foreign import escaped, json_escaped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import Progress
    from rich.segment import Segment
    from rich.table import Table

    from esembed.ingest.options import ProgressState

__all__ = [
    "EngineProgress",
    "IngestProgress",
    "LogHandler",
    "complain",
    "conclude",
    "console",
    "free_stdout",
    "note",
    "print_json",
    "print_json_error",
    "print_table",
    "print_toml",
    "print_traceback",
    "progress",
    "say",
    "table",
    "take_stdout",
]

PIPE_WIDTH = 160
"""Columns where there is no terminal to measure, so that tables in logs aren't cut at 80."""


@functools.cache
def _console_class() -> type[Console]:
    """A console whose text can't command the terminal; the codes are rich's own only. Made when it is needed,
    since rich takes longer to import than the rest of a verb's help."""
    from rich.console import Console
    from rich.segment import Segment

    class EscapingConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            """Everything that is printed, in tables and progress bars, too, passes here before its layout."""
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(escaped(text), style)

    return EscapingConsole


_stdout_of: list[str] = []


def take_stdout(option: str) -> None:
    """Give stdout to what an option writes there; what people read goes to stderr then.

    Raises:
        OptionsError: another option has it.
    """
    if _stdout_of and option not in _stdout_of:
        from esembed.errors import OptionsError

        raise OptionsError(
            f"{_stdout_of[0]} and {option} both write to standard output; name a file for one of them",
            option=option,
        )
    _stdout_of[:] = [option]


def free_stdout() -> None:
    """Take stdout back: another command begins."""
    _stdout_of.clear()


def console(*, stderr: bool = False) -> Console:
    """A console on stdout (or stderr): colors only on a terminal, and not under ``NO_COLOR``."""
    stderr = stderr or bool(_stdout_of)
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _console_class()(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def note(text: str) -> None:
    """A line for a person, on stderr, so that stdout stays clean for scripts. No markup is read."""
    console(stderr=True).print(escaped(text), markup=False)


def say(text: str) -> None:
    """Lines on stdout, as they are but for what a terminal would obey."""
    sys.stdout.write(escaped(text) + "\n")
    sys.stdout.flush()


def conclude(text: str) -> None:
    """The sentence that a report begins with, on stdout, on one line and never cut."""
    from rich.text import Text

    console().print(Text(escaped(text, one_line=True), style="bold"), soft_wrap=True)


def complain(text: str) -> None:
    """Lines on stderr that are never wrapped: errors and tracebacks."""
    sys.stderr.write(escaped(text) + "\n")
    sys.stderr.flush()


def print_traceback(error: BaseException) -> None:
    """The whole traceback, on stderr."""
    import traceback

    complain("".join(traceback.format_exception(error)).rstrip("\n"))


def print_toml(text: str) -> None:
    """A TOML document on stdout, which means the same."""
    sys.stdout.write(json_escaped(text) + "\n")
    sys.stdout.flush()


class LogHandler(logging.Handler):
    """Log records as lines on stderr. logging's own last resort writes them as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            complain(self.format(record))
        except Exception:  # noqa: BLE001 - logging's rule: it never raises
            self.handleError(record)


def print_json(value: Any) -> None:
    """One JSON document on stdout, indented, in UTF-8."""
    import msgspec
    import orjson

    try:
        raw = orjson.dumps(
            value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=msgspec.to_builtins
        )
    except TypeError:
        try:
            raw = orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2)
        except TypeError:
            # Half a pair of UTF-16 in an id, or an integer beyond 64 bits: orjson takes neither.
            raw = json.dumps(msgspec.to_builtins(value), indent=2).encode()
    sys.stdout.write(json_escaped(raw.decode("utf-8")) + "\n")
    sys.stdout.flush()


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house's look; columns that start with ``>`` are right-aligned."""
    from rich import box
    from rich.table import Table

    result = Table(
        title=None if title is None else escaped(title, one_line=True),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return result


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table of plain values; text is printed as it is, without markup."""
    from rich.text import Text

    result = table(*columns, title=title)
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    console().print(result, soft_wrap=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_cell(key)}={_cell(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            return "none"
        return ", ".join(
            _cell(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)
        )
    return escaped(str(value), one_line=True)


@contextmanager
def progress(*, bytes_unit: bool = False) -> Iterator[Progress]:
    """A progress display on stderr; nothing is drawn where that is no terminal.

    Args:
        bytes_unit: show amounts as megabytes and megabytes a second.
    """
    from rich import progress as bars

    amounts: list[bars.ProgressColumn] = (
        [bars.DownloadColumn(), bars.TransferSpeedColumn()]
        if bytes_unit
        else [bars.MofNCompleteColumn(), bars.TaskProgressColumn()]
    )
    columns = [
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        *amounts,
        bars.TimeRemainingColumn(),
    ]
    quiet = not sys.stderr.isatty()
    with bars.Progress(*columns, console=console(stderr=True), transient=True, disable=quiet) as it:
        yield it


class EngineProgress:
    """What :mod:`esembed.local` reports while it downloads and starts, as bars and lines on stderr."""

    @contextmanager
    def bar(self, label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """A bar for one download; yields a function that takes the bytes that came."""
        with progress(bytes_unit=True) as bars:
            task = bars.add_task(label, total=total_bytes or None)
            yield lambda n_bytes: bars.update(task, advance=n_bytes)

    def step(self, text: str) -> None:
        """Something began."""
        note(f"  {text}")


class IngestProgress:
    """An ingest's progress as a bar on stderr (:class:`esembed.ingest.options.Progress`)."""

    def __init__(self, bars: Progress, *, total: int | None = None, label: str = "indexing") -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total)

    def update(self, state: ProgressState) -> None:
        """Moves the bar."""
        self._bars.update(self._task, completed=state.done, total=state.total)

    def notice(self, message: str) -> None:
        """Prints a line above the bar."""
        note(message)


def print_json_error(name: str, message: str, code: int, report: Mapping[str, Any] | None = None) -> None:
    """With ``--json`` a program finds JSON on stdout, however the verb ended: what *report* has, and the
    error."""
    print_json({**(report or {}), "error": {"type": name, "message": message, "exit_code": code}})
