"""``esembed index``: create, attach, inspect, delete, repair; migrate comes from its own file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli import migrate as _migrate
from esembed.cli._connect import Connection, UsageError, takes_connection
from esembed.cli._names import Index as Name
from esembed.cli._names import NewIndex as NewName
from esembed.cli._report import AsJson
from esembed.foreign import escaped, json_escaped

if TYPE_CHECKING:
    from esembed.dialect.mapping import CompiledMapping
    from esembed.plan import IndexPlan

__all__ = ["app"]

app = typer.Typer(
    help="Create, inspect, extend, migrate and delete indices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
@takes_connection
def create(
    name: NewName,
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="The plan, as TOML or JSON.")
    ] = None,
    *,
    preset: Annotated[
        str | None, typer.Option("--preset", help="One of the built-in plans, instead of a file.")
    ] = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Fine if it exists with the same plan.")
    ] = False,
    alias: Annotated[
        bool,
        typer.Option(
            "--alias/--no-alias",
            help="Make the index NAME-v1 and the alias NAME, by which it can be migrated; or an index NAME.",
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the plan compiles to here; send nothing.")
    ] = False,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Create an index from a plan, behind an alias.

    "books" becomes the alias of the index "books-v1", so that "esembed index migrate books" can replace it
    while people search. The plan is compiled for the engine that answers. What the engine can't do is said,
    with the remedy, before anything is sent.

    Examples:

        $ esembed index create books plan.toml

        $ esembed index create books --preset hybrid-int8

        $ esembed index create books plan.toml --dry-run
    """
    from esembed import terminal

    wanted = _plan(plan, preset)
    from json import dumps as json_text

    from esembed import Index

    client = connection.client(lean=True)
    try:
        if dry_run:
            compiled = _compile(client, wanted)
            terminal.print_json(compiled.body)
            for pipeline, body in compiled.pipelines.items():
                terminal.note(f"ingest pipeline {pipeline}: {json_text(body)}")
            for line in compiled.notes:
                terminal.note(line)
            return
        index = Index.create(client, name, wanted, alias=alias, exist_ok=exist_ok)
        if json:
            names = {"index": index.name, "concrete_index": index.concrete_index, "created": index.created}
            terminal.print_json({**names, "plan": index.plan.to_dict()})
        else:
            behind = "" if index.concrete_index == index.name else f" (an alias of {index.concrete_index})"
            what = "created" if index.created else "already there, with the same plan:"
            terminal.note(f"{what} {index.name}{behind}: {_contents(index.plan)}")
            for line in index.notes:
                terminal.note(f"  {line}")
    finally:
        client.close()


@app.command()
@takes_connection
def attach(
    name: Name,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan with the new fields.")],
    *,
    backfill: Annotated[
        bool, typer.Option("--backfill/--no-backfill", help="Fill the new fields for documents that exist.")
    ] = True,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Add dense and sparse fields to an index that exists, and fill them by partial updates.

    The documents stay as they are; only vectors are added. A field whose encoder is "precomputed" and that
    the index has already is checked against the plan and searched as it is; nothing is written for it. The
    same command resumes a run that was interrupted.

    Examples:

        $ esembed index attach books plan.toml

        $ esembed index attach books plan.toml --no-backfill
    """
    from esembed import Index, terminal

    wanted = _plan(plan, None)
    client = connection.client(lean=True)
    try:
        with terminal.progress() as bars:
            bar = terminal.IngestProgress(bars, label="filling vectors") if backfill else None
            index = Index.attach(client, name, wanted)
            # Nothing to fill where the index has all of the plan's vectors already.
            report = index.backfill(progress=bar) if backfill and index.fields_to_fill else None
        if json:
            terminal.print_json(
                {"index": index.name, "backfill": None if report is None else report.to_dict()}
            )
        else:
            terminal.note(f"attached to {index.name}: {_contents(index.plan)}")
            for line in index.notes:
                terminal.note(f"  {line}")
            if report is not None:
                terminal.note(report.summary())
    finally:
        client.close()
    if report is not None and report.dead_lettered:
        raise typer.Exit(3)


@app.command()
@takes_connection
def inspect(name: Name, *, json: AsJson = False, connection: Connection) -> None:
    """Show an index: its plan, who encoded it, how many documents, and whether its mapping was changed.

    No model is loaded for it.

    Examples:

        $ esembed index inspect books

        $ esembed index inspect books --json | jq .plan
    """
    from esembed import Index, terminal

    client = connection.client(lean=True)
    try:
        found: dict[str, Any] = Index.open(client, name).inspect()
    finally:
        client.close()
    if json:
        terminal.print_json(found)
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    import tomli_w

    from esembed import terminal

    facts = [
        (key.replace("_", " "), value)
        for key, value in found.items()
        if key not in ("plan", "contracts", "drift", "notes")
    ]
    terminal.print_table(("what", "is"), facts, title=str(found.get("index", "")))
    contracts = [
        (name, key.replace("_", " "), _shorter(value))
        for name, contract in found.get("contracts", {}).items()
        for key, value in contract.items()
    ]
    if contracts:
        terminal.print_table(("field", "encoded by", ""), contracts)
    out = terminal.console()
    out.print("plan\n", markup=False)
    # By line feeds only: str.splitlines cuts inside of a text that holds another line end of Unicode.
    for line in json_escaped(tomli_w.dumps(found.get("plan", {}))).split("\n"):
        out.print(f"  {line}" if line else "", markup=False)
    for line in found.get("drift", ()):
        terminal.note(f"the live mapping differs: {line}")
    for line in found.get("notes", ()):
        terminal.note(str(line))


def _shorter(value: Any) -> Any:
    """Hashes are for comparing; their beginning is enough for that."""
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return value


@app.command()
@takes_connection
def delete(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    connection: Connection,
) -> None:
    """Delete an index and its companion statistics. Asks first, and names every index that goes.

    The name of an alias deletes the index behind it, too, and the older versions that a migration left, where
    esembed made the alias.

    Examples:

        $ esembed index delete books

        $ esembed index delete books --yes
    """
    from esembed import terminal

    if not yes and not sys.stdin.isatty():
        raise UsageError("deleting asks first, and there is no terminal to ask; add --yes")
    from esembed import Index

    client = connection.client(lean=True)
    try:
        index = Index.open(client, name)
        before = index.notes
        if not yes:
            named = escaped(", ".join(index.delete_index(dry_run=True)), one_line=True)
            if not typer.confirm(f"Delete {named} with all documents?", err=True):
                raise typer.Exit(1)
        deleted = index.delete_index()
        left = [line for line in index.notes if line not in before]
    finally:
        client.close()
    terminal.note(f"deleted {', '.join(deleted)}")
    for line in left:
        terminal.note(line)


@app.command()
@takes_connection
def repair(
    name: Name,
    *,
    plan: Annotated[
        Path, typer.Option("--plan", metavar="PLAN.toml", help="The plan that the index was made with.")
    ],
    connection: Connection,
) -> None:
    """Write a lost or damaged ``_meta`` again, after checking the plan against the live mapping.

    Example:

        $ esembed index repair books --plan plan.toml
    """
    from esembed import Index, terminal
    from esembed.cli.ingest import progress_bar

    wanted = _plan(plan, None)
    client = connection.client(lean=True)
    try:
        with progress_bar(quiet=False) as bar:
            Index.repair(client, name, wanted, progress=bar)
    finally:
        client.close()
    terminal.note(f"repaired {name}: it describes itself again")


def _plan(path: Path | None, preset: str | None) -> IndexPlan:
    from esembed.plan import IndexPlan

    if (path is None) == (preset is None):
        raise UsageError("give a plan file or --preset NAME, one of the two")
    if path is not None:
        return IndexPlan.load_file(path)
    from esembed import presets

    return presets.load(str(preset))


def _compile(client: Any, plan: IndexPlan) -> CompiledMapping:
    """What creating the index would send, all but ``_meta``; the plan's models are loaded for their dims."""
    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe
    from esembed.dialect.mapping import compile_mapping
    from esembed.encode.pool import EncoderPool
    from esembed.plan.diff import with_dims

    pool = EncoderPool(plan, encoder=None, allow_encoders=None, runtime=None)
    try:
        return compile_mapping(
            with_dims(plan, lambda field: pool.encoder(field).info.dims), probe(EngineClient(client))
        )
    finally:
        pool.close()


def _contents(plan: IndexPlan) -> str:
    parts = [
        f"{len(getattr(plan, kind))} {kind}"
        for kind in ("text", "dense", "sparse", "filter")
        if getattr(plan, kind)
    ]
    return f"{', '.join(parts) or 'no'} fields"


_migrate.register(app)
