"""``esembed search``: ask an index a question."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from esembed.cli._connect import Connection, takes_connection
from esembed.cli._names import checked
from esembed.cli._query import Allow, AllowRaw, Cross

if TYPE_CHECKING:
    from esembed.plan import IndexPlan
    from esembed.query.nodes import Operator
    from esembed.types import Hit, Hits

__all__ = ["app"]

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
@takes_connection
def search(
    text: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for; plain text, no syntax.")],
    *,
    index: Annotated[str, typer.Option("--index", "-i", help="The index or alias.", callback=checked)],
    filter: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="A field of the index, in the plan or not. Also !=, <, <=, >, >=; several must all hold.",
        ),
    ] = None,
    legs: Annotated[
        str | None,
        typer.Option(
            "--legs",
            help="Only these legs of the default query, by commas: bm25, names of vector fields, dense and "
            "sparse for all of a type.",
        ),
    ] = None,
    fuzziness: Annotated[
        str | None,
        typer.Option(
            "--fuzziness",
            metavar="EDITS",
            help="Typing errors in words: missing (in words that no document has), AUTO, or 0 to 2 letters.",
        ),
    ] = None,
    operator: Annotated[
        str | None,
        typer.Option(
            "--operator",
            metavar="and|or|relax",
            help="Which words must be there: all, any, or relax: all, else most, else any.",
        ),
    ] = None,
    size: Annotated[int, typer.Option("--size", "-n", min=0, max=10_000, help="How many hits.")] = 10,
    sort: Annotated[
        list[str] | None,
        typer.Option(
            "--sort",
            metavar="FIELD[:asc|desc]",
            help="By fields in place of the score, the first one first; with --legs of one leg, or a default "
            "query of one.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", help="Leave out hits that score less; not where ranks are fused (RRF)."),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", help="The next page: next_cursor of the page before (--json shows it)."),
    ] = None,
    keep_alive: Annotated[
        float | None,
        typer.Option(
            "--keep-alive",
            metavar="SECONDS",
            help="The pages that follow see the index as it is now, each within this time after the one "
            "before; those of a fusion go on beyond its window. Give it with each page.",
        ),
    ] = None,
    routing: Annotated[
        list[str] | None, typer.Option("--routing", help="Only the shards of this routing value.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each leg's rank, score and contribution.")
    ] = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline",
            metavar="SECONDS",
            min=0.001,
            help="Give up after this time, whatever it is spent on: opening the index, loading a model, the "
            "engine.",
        ),
    ] = None,
    partial_results: Annotated[
        bool,
        typer.Option(
            "--partial-results",
            help="Answer with the legs that came, where one fails or is late.",
        ),
    ] = False,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    cross_encoder: Cross = None,
    json: Annotated[bool, typer.Option("--json", help="Output as JSON.")] = False,
    connection: Connection,
) -> None:
    """Ask an index a question and print the hits, best first.

    Examples:

        $ esembed search "split a path into folder and file name" --index esembed-demo

        $ esembed search "parse a date" -i esembed-demo --legs bm25,dense --filter kind=function

        $ esembed search "parse a date" -i esembed-demo --json | jq '.hits[].id'
    """
    from esembed import Index, terminal
    from esembed._sync.deadline import ended_by
    from esembed.cli._query import cross_encoders, parse_filters
    from esembed.deadline import Deadline
    from esembed.search.hits_json import hits_to_json

    ends = None if deadline is None else Deadline(deadline, in_parts=False)  # opening an index has none
    if ends is not None:
        connection = dataclasses.replace(
            connection, timeout_seconds=min(connection.timeout_seconds, ends.seconds)
        )
    client = connection.client(lean=True)
    try:
        open_index = functools.partial(
            Index.open,
            client,
            index,
            allow_encoders=allow_encoder or (),
            rerankers=cross_encoders(cross_encoder),
            allow_raw=allow_raw,
        )
        opened = ended_by(ends, f"what opening the index {index!r} asks the engine", open_index)
        wanted = [leg.strip() for leg in legs.split(",") if leg.strip()] if legs else None
        condition = parse_filters(opened.plan, filter or [], opened.fields)
        start = time.perf_counter()
        hits = opened.search(
            text,
            legs=wanted,
            fuzziness=fuzziness,
            operator=cast("Operator | None", operator),
            filter=condition,
            size=size,
            sort=[_sort_key(key) for key in sort] if sort else None,
            cursor=cursor,
            keep_alive_seconds=keep_alive,
            routing=routing or None,
            min_score=min_score,
            explain=explain,
            deadline_seconds=None if ends is None else max(ends.left(), 0.001),
            partial_results=partial_results,
        )
        seconds = time.perf_counter() - start
    finally:
        client.close()
    if json:
        terminal.print_json(hits_to_json(hits, seconds))
        return
    _show(hits, opened.plan, seconds, explain=explain)


def _sort_key(key: str) -> Any:
    field, colon, order = key.rpartition(":")
    return {field: order} if colon and order in ("asc", "desc") else key


def summary(hit: Hit, plan: IndexPlan, *, width: int = 110) -> str:
    """One line that lets a person recognize the document (:meth:`IndexPlan.summary_text`), cut to *width*."""
    line = plan.summary_text(hit.source, besides=hit.id)
    return line if len(line) <= width else line[: width - 1] + "…"


def _show(hits: Hits, plan: IndexPlan, seconds: float, *, explain: bool) -> None:
    from esembed import terminal

    columns = [">", "id", ">score", "text"]
    if explain:
        columns.append("legs")
    rows = []
    for position, hit in enumerate(hits, 1):
        row: list[Any] = [position, hit.id, f"{hit.score:.4f}", summary(hit, plan)]
        if explain:
            row.append(
                "  ".join(
                    f"{s.leg} #{s.rank if s.rank else '–'} {s.contribution:.4f}" for s in hit.contributions
                )
            )
        rows.append(row)
    if rows:
        terminal.print_table(columns, rows)
    total = "" if hits.total is None else f"of {'at least ' * (hits.total_relation == 'gte')}{hits.total} "
    fusion = {"single": "one query", "server": "fused by the engine", "client": "fused by esembed"}[hits.path]
    terminal.note(
        f"{len(hits)} {'hit' if len(hits) == 1 else 'hits'} {total}in {seconds * 1000:.0f} ms "
        f"(engine {hits.took_ms:.0f} ms; {fusion})"
    )
    for leg, reason in hits.legs_missing.items():
        terminal.note(f"without {leg}: {reason}")
    for line in hits.notes:
        terminal.note(line)
