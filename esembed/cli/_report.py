"""The option of verbs that write their report as a page: the file is looked at before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Html"]


def _writable(value: Path | None) -> Path | None:
    """Refuses a file that couldn't be written after the work, by the name of its option."""
    # Here, since help must not wait for what only a report needs.
    from esembed.report_page import check_page_path

    check_page_path(value)
    return value


Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the report as one self-contained page; an earlier report there is replaced.",
        callback=_writable,
    ),
]
