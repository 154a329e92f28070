"""``esembed ingest``: records from files, folders, globs, standard input and remote stores into an index."""

from __future__ import annotations

import enum
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from esembed.cli._connect import Connection, UsageError, takes_connection
from esembed.cli._names import checked
from esembed.cli._report import AsJson, Html, dead_letters_file, note_written
from esembed.foreign import escaped

if TYPE_CHECKING:
    from esembed import Index
    from esembed.ingest.options import IngestReport, Progress, ProgressState
    from esembed.ingest.sources import Source

__all__ = ["app", "progress_bar"]

app = typer.Typer(pretty_exceptions_enable=False)

SOURCE, RECORDS, TRUST, SPEED = "What is read", "What a record is", "Faults and re-runs", "Speed and memory"


QUIET_SECONDS = 5.0
"""A phase is named on stderr after this long: shorter ones would only fill a log."""


class Missing(str, enum.Enum):
    """What becomes of a record without text for an encoder."""

    error = "error"
    skip = "skip"


class Nan(str, enum.Enum):
    """What becomes of NaN."""

    error = "error"
    null = "null"


@app.command()
@takes_connection
def ingest(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Files, folders, globs, URLs; - is standard input."),
    ] = None,
    *,
    index: Annotated[
        str, typer.Option("--index", "-i", help="The index; it knows its own plan.", callback=checked)
    ],
    format: Annotated[
        str,
        typer.Option(help="jsonl, json, csv, tsv, parquet, arrow or text.", rich_help_panel=SOURCE),
    ] = "auto",
    encoding: Annotated[
        str, typer.Option(help="Of text files without a byte order mark.", rich_help_panel=SOURCE)
    ] = "utf-8",
    fallback_encoding: Annotated[
        str | None, typer.Option(help="For lines that aren't in it.", rich_help_panel=SOURCE)
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between CSV cells.", rich_help_panel=SOURCE)] = None,
    quote: Annotated[
        str,
        typer.Option(
            help="Around CSV cells that hold delimiters; '' where quotes are text (TSV of databases).",
            rich_help_panel=SOURCE,
        ),
    ] = '"',
    from_dead_letters: Annotated[
        Path | None,
        typer.Option(help="Try the records of this dead-letter file again.", rich_help_panel=SOURCE),
    ] = None,
    from_index: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Read another index of this engine instead.",
            rich_help_panel=SOURCE,
            callback=checked,
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field", metavar="NAME=SOURCE", help="Take a field from another name.", rich_help_panel=RECORDS
        ),
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A Python hook: takes a record (dict), returns it changed, or None to leave it out.",
            rich_help_panel=RECORDS,
        ),
    ] = None,
    optional: Annotated[
        list[str] | None,
        typer.Option(
            "--optional",
            metavar="FIELD",
            help="A vector field that records may come without, beside the plan's; '*' for all.",
            rich_help_panel=RECORDS,
        ),
    ] = None,
    on_missing_text: Annotated[
        Missing, typer.Option(help="Deprecated: see --optional.", rich_help_panel=RECORDS)
    ] = Missing.error,
    on_nan: Annotated[Nan, typer.Option(help="NaN in a record.", rich_help_panel=RECORDS)] = Nan.error,
    op_field: Annotated[
        str, typer.Option(help="Holds index, update or delete; empty for none.", rich_help_panel=RECORDS)
    ] = "op",
    dead_letters: Annotated[
        Path | None,
        typer.Option(
            help="[default: INDEX.dead.jsonl]",
            rich_help_panel=TRUST,
            show_default=False,
            callback=dead_letters_file,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad record.", rich_help_panel=TRUST)
    ] = False,
    max_errors: Annotated[
        int | None, typer.Option(help="Stop beyond so many bad records.", rich_help_panel=TRUST)
    ] = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged/--rewrite", help="Leave unchanged records alone.", rich_help_panel=TRUST
        ),
    ] = True,
    ledger: Annotated[
        Path | None, typer.Option(help="Does nothing any more.", hidden=True, rich_help_panel=TRUST)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare index and source afterward.", rich_help_panel=TRUST)
    ] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Delete what the source no longer has.", rich_help_panel=TRUST)
    ] = False,
    sync_max_delete: Annotated[
        float, typer.Option(help="The largest share that --sync may delete.", rich_help_panel=TRUST)
    ] = 0.1,
    learn_weights: Annotated[
        bool,
        typer.Option(
            "--learn-weights/--no-learn-weights",
            help="Afterward weigh the default query's legs by known items from the index itself.",
            rich_help_panel=TRUST,
        ),
    ] = True,
    max_wait_seconds: Annotated[
        float,
        typer.Option(help="Wait up to this many seconds for an engine that is away.", rich_help_panel=TRUST),
    ] = 600.0,
    max_request_mb: Annotated[
        float, typer.Option(help="The largest bulk request.", rich_help_panel=SPEED)
    ] = 4.0,
    max_in_flight: Annotated[
        int, typer.Option(help="Bulk requests at a time, at most.", rich_help_panel=SPEED)
    ] = 4,
    buffer_mb: Annotated[
        float, typer.Option(help="Records waiting between the stages.", rich_help_panel=SPEED)
    ] = 32.0,
    encode_workers: Annotated[
        int, typer.Option(help="Encode calls at a time (remote encoders).", rich_help_panel=SPEED)
    ] = 1,
    allow_encoder: Annotated[
        list[str] | None,
        typer.Option(help="An encoder spec of the index that may be loaded.", rich_help_panel=RECORDS),
    ] = None,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Read records, encode them and write them to an index.

    Unchanged records are skipped, so the same command resumes a run that was interrupted. What can't
    get in goes to the dead-letter file with its reason.

    Exit codes: 0 all is in; 3 some records are dead letters, or --verify found differences; 7 the records
    are in, and --sync deleted nothing, since it would be more than --sync-max-delete; 1 the run ended
    early; 2 wrong options.

    Examples:

        $ esembed ingest books.jsonl --index books

        $ esembed ingest 'data/*.csv.gz' --index books --field body=abstract --html report.html

        $ zcat dump.gz | esembed ingest - --index books --sync --verify

        $ esembed ingest --from-dead-letters books.dead.jsonl --index books

        $ esembed ingest --from-index old-books --index books
    """
    from esembed import Index, terminal
    from esembed.cli import exit_code
    from esembed.errors import DeleteLimitError, OptionsError
    from esembed.ingest.options import IngestOptions
    from esembed.ingest.sources import FileSource, ReadOptions, dead_letter_source

    if bool(files) + (from_dead_letters is not None) + (from_index is not None) != 1:
        raise UsageError(
            "name what to read: files (folders, globs, URLs, -), --from-dead-letters FILE, or "
            "--from-index NAME"
        )
    if ledger is not None:
        terminal.note(
            "--ledger does nothing any more: the index is asked what it has, which costs as much; the option "
            "goes with the release after 0.2"
        )
    letters = dead_letters or Path(f"{index}.dead.jsonl")
    if dead_letters is None and not os.access(Path.cwd(), os.W_OK):
        letters = Path(tempfile.gettempdir()) / letters
        terminal.note(f"this folder can't be written: dead letters, if there are any, go to {letters}")
    if from_dead_letters is not None and _same_file(from_dead_letters, letters):
        if dead_letters is not None:
            raise UsageError("--dead-letters and --from-dead-letters name the same file")
        letters = letters.with_name(letters.name + ".again")
    if html is not None and _same_file(html, letters):
        raise UsageError("--html and the dead letters name the same file")
    options = IngestOptions(
        max_request_bytes=int(max_request_mb * 1024 * 1024),
        max_in_flight=max_in_flight,
        buffer_bytes=int(buffer_mb * 1024 * 1024),
        encode_workers=encode_workers,
        max_wait_seconds=max_wait_seconds,
        dead_letters=letters,
        strict=strict,
        max_errors=max_errors,
        skip_unchanged=skip_unchanged,
        verify=verify,
        sync=sync,
        sync_max_delete=sync_max_delete,
        optional=tuple(optional or ()),
        on_missing_text=on_missing_text.value,
        on_nan=on_nan.value,
        fields=_fields(field or []),
        transform=_hook(transform) if transform else None,
        op_field=op_field or None,
        learn_weights=learn_weights,
    )
    source: Source | None = None
    if from_dead_letters is not None:
        source = dead_letter_source(
            from_dead_letters, ReadOptions(encoding=encoding, fallback_encoding=fallback_encoding)
        )
    elif files:
        source = FileSource(
            files,
            ReadOptions(
                format=format,
                encoding=encoding,
                fallback_encoding=fallback_encoding,
                delimiter=delimiter,
                quote=quote,
            ),
        )
    client = connection.client()
    refused: DeleteLimitError | None = None
    try:
        opened = Index.open(client, index, allow_encoders=tuple(allow_encoder or ()))
        if source is None:
            source = _other_index(opened, client, str(from_index))
        with progress_bar(quiet=json and not sys.stderr.isatty()) as bar, _ended_kindly():
            report: IngestReport = opened.ingest(source, options, progress=bar)
    except DeleteLimitError as error:
        report, refused = error.report, error
    except KeyboardInterrupt as signalled:
        terminal.note("interrupted: what the engine confirmed is in; the same command goes on from there")
        code = 143 if isinstance(signalled, _Terminated) else 130
        if json:
            terminal.print_json_error("Interrupted", "interrupted", code)
        if any(thread.name == "esembed-read" for thread in threading.enumerate()):
            # It waits inside a read of standard input, which the interpreter's own end would abort on.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise typer.Exit(code) from None
    finally:
        client.close()
    if json and refused is not None:
        terminal.print_json_error(
            type(refused).__name__, refused.message, exit_code(refused), report.to_dict()
        )
    elif json:
        terminal.print_json(report.to_dict())
    else:
        terminal.note(report.summary())
        _stages(report)
    if html is not None:
        # After the report itself: a full disk must not take that away, too, nor print a second JSON document.
        try:
            report.write_html(html)
        except OptionsError as error:
            terminal.complain(f"the page: {error}")
            raise typer.Exit(1) from None
        note_written(html)
    if report.verified is not None and not json:
        terminal.note(f"verified: {report.verified.describe()}")
    if refused is not None:
        terminal.complain(f"error: {refused.message}")
        raise typer.Exit(exit_code(refused))
    if report.dead_lettered or (report.verified is not None and not report.verified.ok):
        raise typer.Exit(3)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them isn't there
        return os.path.abspath(one) == os.path.abspath(other)


def _other_index(target: Index, client: Any, name: str) -> Source:
    """The documents of an index; by its own plan where it has one, else by the target's."""
    from esembed import Index
    from esembed.errors import AliasError, PlanError
    from esembed.ingest.sources.index import IndexSource

    if name in (target.name, target.concrete_index):
        raise UsageError(f"--from-index and --index are both {name!r}")
    try:
        source: Source = Index.open(client, name, capabilities=target.capabilities).documents()
    except (AliasError, PlanError) as error:
        path = f"/_data_stream/{quote(name, safe='')}"
        if isinstance(error, AliasError):
            # A data stream is no index to write to, but it is read like one.
            streams = target.client.request("GET", path, ignore=range(400, 500))
            if streams.status != 200:
                raise
        source = IndexSource(target.client, name, target.plan, target.capabilities)
    return source


def _fields(pairs: list[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not equals or not name or not source:
            raise UsageError(f"--field takes NAME=SOURCE, not {pair!r}")
        out[name] = source
    return out


def _hook(target: str) -> Callable[[dict[str, Any]], Any]:
    module_name, colon, attribute = target.partition(":")
    if not colon:
        raise UsageError(f"--transform takes MODULE:FUNCTION, not {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        hook = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--transform {target}: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(hook):
        raise UsageError(f"--transform {target} is not a function")
    return hook  # type: ignore[no-any-return]


def _stages(report: IngestReport) -> None:
    from esembed import terminal

    shares = ", ".join(
        f"{name} {seconds:.1f} s ({report.stage_shares[name]:.0%})"
        for name, seconds in sorted(report.stage_seconds.items(), key=lambda item: -item[1])
        if seconds >= 0.05
    )
    if shares:
        terminal.note(f"stages overlap: {shares}")


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _ended_kindly() -> Iterator[None]:
    """SIGTERM (``docker stop``, systemd) ends a load like ctrl-C: the index's settings are restored."""

    def terminate(*_: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """A bar where there is a terminal, else a line a minute."""
    from rich import progress as bars

    from esembed import terminal

    if quiet or not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[figures]}", markup=False),
    )
    with bars.Progress(*columns, console=terminal.console(stderr=True), transient=True) as display:
        yield _Bar(display)


class _Lines:
    """A line on stderr for each phase that takes more than some seconds, then one a minute."""

    def __init__(self) -> None:
        self._phase = ""
        self._next = 0.0

    def update(self, state: ProgressState) -> None:
        now = time.monotonic()
        if state.phase != self._phase:
            # A load tells of itself within the minute; of the others nobody knows that they came.
            self._phase = state.phase
            self._next = now + (60.0 if state.phase == "load" else QUIET_SECONDS)
        if now < self._next or state.phase == "done":
            return
        from esembed import terminal

        self._next = now + 60.0
        terminal.note(f"{state.phase}: {_figures(state)}")

    def notice(self, message: str) -> None:
        from esembed import terminal

        terminal.note(message)


class _Bar:
    """A bar over what is settled, not over what was read."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._task = display.add_task("load", total=None, figures="")

    def update(self, state: ProgressState) -> None:
        total = 1.0 if state.fraction is not None else None
        self._display.update(
            self._task,
            description=state.phase,
            total=total,
            completed=state.fraction or 0.0,
            figures=_figures(state),
        )

    def notice(self, message: str) -> None:
        self._display.console.print(escaped(message), markup=False)


def _figures(state: ProgressState) -> str:
    if not state.done:  # a step that can't be counted, or that has just begun
        return f"{state.seconds:.0f} s"
    text = f"{state.done:,} records, {state.documents_per_second:,.0f}/s"
    if state.dead_lettered:
        text += f", {state.dead_lettered} dead"
    if state.eta_seconds is not None:
        minutes, seconds = divmod(int(state.eta_seconds), 60)
        text += f", {minutes}:{seconds:02d} left"
    return text
