"""The options that name a file to write, and ``--json``: looked at before anything is done. ``-`` is standard
output, which one of them can have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Html", "dead_letters_file", "note_written", "output_option", "runs_folder"]


def _output(context: typer.Context, parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Refuses a file that couldn't be written after the work, by the name of its option."""
    if value is None:
        return None
    # Here, since help must not wait for what only a report needs.
    from esembed import terminal
    from esembed.report_page import STDOUT, check_output, check_page_path

    option = parameter.opts[0]
    if str(value) == STDOUT:
        terminal.take_stdout(option)
    elif option == "--html":
        check_page_path(value, option)
    else:
        check_output(value, option)
    return value


def output_option(name: str, help: str) -> typer.models.OptionInfo:
    """An option that names a file to write, or ``-``."""
    found: typer.models.OptionInfo = typer.Option(
        name, metavar="FILE", help=f"{help} - is standard output.", callback=_output
    )
    return found


def _json(value: bool) -> bool:
    if value:
        from esembed import terminal

        terminal.take_stdout("--json")
    return value


def runs_folder(value: Path | None) -> Path | None:
    """The callback of an option that names a folder which files are written to."""
    if value is not None and (str(value) == "-" or (value.exists() and not value.is_dir())):
        from esembed.errors import OptionsError

        what = "standard output holds one file" if str(value) == "-" else f"{value} is a file"
        raise OptionsError(f"--save-runs names a folder; {what}", option="--save-runs")
    return value


def dead_letters_file(value: Path | None) -> Path | None:
    """The callback of an option that names a file for dead letters."""
    if value is not None and str(value) == "-":
        from esembed.errors import OptionsError

        raise OptionsError(
            "--dead-letters names a file, which a later run reads; - is none", option="--dead-letters"
        )
    return value


Html = Annotated[
    Path | None,
    output_option(
        "--html", "Write the report as one self-contained page; an earlier report there is replaced."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Output as JSON.", callback=_json)]


def note_written(path: Path) -> None:
    """Says where the page is, unless it is before the reader's eyes."""
    from esembed import terminal

    if str(path) != "-":
        terminal.note(f"report: {path}")
