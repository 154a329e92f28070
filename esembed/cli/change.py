"""``esembed update`` and ``esembed delete``: the documents that match a filter."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import Connection, UsageError, takes_connection
from esembed.cli._names import checked
from esembed.cli._query import Allow
from esembed.cli._report import AsJson, dead_letters_file

if TYPE_CHECKING:
    from esembed import Index
    from esembed.ingest.options import IngestOptions, IngestReport, Progress
    from esembed.query import Filter

__all__ = ["delete_app", "update_app"]

update_app = typer.Typer(pretty_exceptions_enable=False)
delete_app = typer.Typer(pretty_exceptions_enable=False)

Where = Annotated[str, typer.Option("--index", "-i", help="The index or alias.", callback=checked)]
Filters = Annotated[
    list[str],
    typer.Option(
        "--filter",
        "-f",
        metavar="FIELD=VALUE",
        help="Which documents. Also !=, <, <=, >, >=; several must all hold.",
    ),
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Count what matches, change nothing.")]
Letters = Annotated[
    Path | None,
    typer.Option(
        "--dead-letters", help="The file for documents that can't be written.", callback=dead_letters_file
    ),
]


@update_app.command()
@takes_connection
def update(
    *,
    index: Where,
    filter: Filters,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field's new value: JSON (3, true, null, [1, 2]), else the text as it stands. null takes "
            "the field away.",
        ),
    ],
    dry_run: Dry = False,
    dead_letters: Letters = None,
    allow_encoder: Allow = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Change fields of the documents that match; vectors whose texts change are encoded again.

    Examples:

        $ esembed update -i shop --filter brand=acme --set brand=Acme --dry-run

        $ esembed update -i shop --filter "stock<=0" --set available=false
    """
    fields = _fields(set_)
    _run(
        connection,
        index,
        filter,
        dead_letters,
        allow_encoder,
        json,
        lambda opened, wanted, options, bar: opened.update_by_query(
            wanted, fields, dry_run=dry_run, options=options, progress=bar
        ),
    )


@delete_app.command()
@takes_connection
def delete(
    *,
    index: Where,
    filter: Filters,
    max_delete: Annotated[
        float,
        typer.Option(
            "--max-delete", min=0.0, max=1.0, help="The largest share of the index that may be deleted."
        ),
    ] = 0.1,
    dry_run: Dry = False,
    dead_letters: Letters = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Delete the documents that match, with their chunks.

    Examples:

        $ esembed delete -i shop --filter discontinued=true --dry-run

        $ esembed delete -i shop --filter "year<1990" --max-delete 0.5
    """
    _run(
        connection,
        index,
        filter,
        dead_letters,
        None,
        json,
        lambda opened, wanted, options, bar: opened.delete_by_query(
            wanted, max_delete=max_delete, dry_run=dry_run, options=options, progress=bar
        ),
    )


def _run(
    connection: Connection,
    index: str,
    filters: list[str],
    dead_letters: Path | None,
    allow_encoder: list[str] | None,
    json: bool,
    change: Callable[[Index, Filter, IngestOptions, Progress], IngestReport],
) -> None:
    import sys

    from esembed import Index, terminal
    from esembed.cli._query import parse_filters
    from esembed.cli.ingest import progress_bar
    from esembed.ingest.options import IngestOptions

    options = IngestOptions(dead_letters=dead_letters, apply_load_settings=False)
    client = connection.client(lean=True)
    try:
        opened = Index.open(client, index, allow_encoders=tuple(allow_encoder or ()))
        wanted = parse_filters(opened.plan, filters, opened.fields)
        if wanted is None:
            raise UsageError("--filter: which documents?")
        with progress_bar(quiet=json and not sys.stderr.isatty()) as bar:
            report = change(opened, wanted, options, bar)
    finally:
        client.close()
    if json:
        terminal.print_json(report.to_dict())
    elif report.adds_up:
        terminal.note(report.summary())
    for line in () if json else report.warnings:
        terminal.note(line)
    if report.dead_lettered:
        raise typer.Exit(3)


def _fields(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or name in found:
            raise UsageError(f"--set takes FIELD=VALUE, each field once, not {pair!r}")
        try:
            found[name] = json_module.loads(text)
        except (ValueError, RecursionError):
            found[name] = text
    return found
