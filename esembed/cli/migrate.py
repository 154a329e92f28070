"""``esembed index migrate|rollback|abort|cleanup``: another plan behind an alias, and the way back."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import Connection, UsageError, takes_connection
from esembed.cli._names import Alias, checked, checked_new
from esembed.cli._report import AsJson

if TYPE_CHECKING:
    from esembed.evaluate.datasets import Dataset

__all__ = ["abort", "cleanup", "migrate", "register", "rollback"]

Allow = Annotated[
    list[str] | None,
    typer.Option("--allow-encoder", help="A spec that the old index names and that may be loaded."),
]


@takes_connection
def migrate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ALIAS", help="The alias (or, with --alias, the index) to migrate.", callback=checked
        ),
    ],
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The new plan.")],
    *,
    alias: Annotated[
        str | None,
        typer.Option(
            "--alias", help="Give the index this alias first, if it has none.", callback=checked_new
        ),
    ] = None,
    max_documents_per_second: Annotated[
        float | None, typer.Option("--rate", help="Read the old index no faster, documents a second.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Texts, one a line, whose results are compared.")
    ] = None,
    min_overlap: Annotated[
        float | None,
        typer.Option("--min-overlap", help="The share of the old top 10 that must come back, 0 to 1."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Judged queries (a BEIR folder, a CSV …): nDCG@10 must not fall.",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="With --dataset: how much less nDCG@10 is still accepted.")
    ] = 0.0,
    allow_encoder: Allow = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Bring an index to another plan while it is searched and written.

    A new version is filled behind the alias, only what changed is encoded again, then the alias moves in
    one step. Writes are refused for the short end of it. The same command resumes an interrupted run.
    With queries, old and new results are compared before the alias moves.

    Examples:

        $ esembed index migrate books plan.toml

        $ esembed index migrate books-2024 plan.toml --alias books

        $ esembed index migrate books plan.toml --queries queries.txt --min-overlap 0.7

        $ esembed index migrate books plan.toml --dataset judged/ --max-drop 0.01
    """
    from esembed import Index, terminal
    from esembed.cli.ingest import progress_bar
    from esembed.migration.options import MigrateOptions
    from esembed.plan import IndexPlan

    wanted = IndexPlan.load_file(plan)
    texts = _texts(queries) if queries else []
    judge = None
    if dataset is not None:
        from esembed.evaluate.datasets import load_dataset

        judged = load_dataset(dataset)
        texts += list(dict.fromkeys(judged.queries.values()))
        judge = _judge(judged)
    options = MigrateOptions(
        alias=alias,
        max_documents_per_second=max_documents_per_second,
        queries=texts,
        min_overlap=min_overlap,
        quality_metric=judge,
        max_drop=max_drop,
    )
    client = connection.client(lean=True)
    try:
        with progress_bar(quiet=json and not sys.stderr.isatty()) as bar:
            report = Index.open(client, name).migrate(
                wanted, options=options, allow_encoders=allow_encoder or (), progress=bar
            )
    finally:
        client.close()
    _tell(report, json)
    if not json and report.in_place:
        terminal.note("the mapping was changed in place; old segments keep their form until they are merged")


@takes_connection
def rollback(
    alias: Alias,
    *,
    replay_writes: Annotated[
        bool,
        typer.Option(
            "--replay-writes/--no-replay-writes", help="Bring writes since the swap into the old version."
        ),
    ] = True,
    allow_encoder: Allow = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Point the alias at the version before.

    Example:

        $ esembed index rollback books
    """
    from esembed import Index
    from esembed.cli.ingest import progress_bar

    client = connection.client(lean=True)
    try:
        index = Index.open(client, alias)
        with progress_bar(quiet=json and not sys.stderr.isatty()) as bar:
            report = index.rollback(
                replay_writes=replay_writes, allow_encoders=allow_encoder or (), progress=bar
            )
    finally:
        client.close()
    _tell(report, json)


@takes_connection
def abort(alias: Alias, *, connection: Connection) -> None:
    """Give up an unfinished migration; writes are allowed again and the half-filled version goes.

    Example:

        $ esembed index abort books
    """
    from esembed import Index, terminal

    client = connection.client(lean=True)
    try:
        gone = Index.abort_migration(client, alias)
    finally:
        client.close()
    terminal.note(f"deleted {gone}" if gone else "there was no unfinished migration")


@takes_connection
def cleanup(
    alias: Alias,
    *,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Versions to keep for a rollback.")] = 1,
    min_age_minutes: Annotated[
        float, typer.Option("--min-age-minutes", help="The last swap must be older than this.")
    ] = 60.0,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Delete old versions of an alias.

    Example:

        $ esembed index cleanup books --keep 0
    """
    from esembed import Index, terminal

    client = connection.client(lean=True)
    try:
        deleted = Index.delete_old_versions(client, alias, keep=keep, min_age_seconds=min_age_minutes * 60)
    finally:
        client.close()
    if json:
        terminal.print_json({"deleted": deleted})
    else:
        terminal.note(f"deleted {', '.join(deleted)}" if deleted else "nothing to delete")


def _texts(path: Path) -> list[str]:
    """The lines of a text file, without empty ones."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:  # UnicodeDecodeError, and NUL in a name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no UTF-8 text"
        raise UsageError(f"--queries: {path} can't be read: {reason}") from error


def _judge(dataset: Dataset) -> Callable[[Mapping[str, Sequence[str]]], float]:
    """What scores the results of query texts by the dataset's judgments: the mean nDCG@10."""
    from esembed.evaluate.metrics import measure, summary

    def score(found: Mapping[str, Sequence[str]]) -> float:
        run = {
            query: [(doc_id, -float(rank)) for rank, doc_id in enumerate(found[text])]
            for query, text in dataset.queries.items()
        }
        return summary(measure(dataset.qrels, run, ["ndcg@10"]))["ndcg@10"]

    return score


def _tell(report: Any, json: bool) -> None:
    from esembed import terminal

    if json:
        terminal.print_json(dataclasses.asdict(report))
        return
    rows = [
        (name.replace("_", " "), value)
        for name, value in dataclasses.asdict(report).items()
        if value not in (None, (), [], False)
    ]
    terminal.print_table(
        ("what", "value"), [(k, str(v)) for k, v in rows], title=f"{report.old} → {report.new}"
    )


def register(app: typer.Typer) -> None:
    """Put these commands under ``esembed index``."""
    for command in (migrate, rollback, abort, cleanup):
        app.command()(command)
