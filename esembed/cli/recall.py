"""``esembed recall``: how many of the true neighbors a live index's vector searches find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esembed.cli._connect import Connection, takes_connection
from esembed.cli._names import Index as Name
from esembed.cli._query import Allow, AllowRaw, parse_filters
from esembed.cli._report import Html

__all__ = ["app"]

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
@takes_connection
def recall(
    name: Name,
    *,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="Of how many neighbors.")] = 10,
    sample: Annotated[
        int, typer.Option("--sample", min=1, max=10_000, help="How many queries, drawn at random.")
    ] = 200,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            help="Texts to ask, one a line; else the index's own documents.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Ask the queries of a BEIR folder, a CSV, or ir_datasets:ID."),
    ] = None,
    encode: Annotated[
        bool,
        typer.Option(
            "--encode", help="Ask the documents' texts, encoded as queries, in place of their stored vectors."
        ),
    ] = False,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Only this dense field; may be repeated.")
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", "-f", metavar="FIELD=VALUE", help="Measure with this filter, too (as esembed search)."
        ),
    ] = None,
    sampled_filters: Annotated[
        int,
        typer.Option(
            "--sampled-filters",
            min=0,
            max=3,
            help="And with values of keyword fields that about a half, a tenth, a hundredth of the documents "
            "have.",
        ),
    ] = 0,
    num_candidates: Annotated[
        int | None,
        typer.Option(
            "--num-candidates", help="Of the searches; else what the default query says, or the engine."
        ),
    ] = None,
    exact: Annotated[
        str,
        typer.Option(
            "--exact",
            metavar="auto|script|scan",
            help="The exact neighbors: compared by the engine, or here, by reading every stored vector once.",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the samples.")] = 0,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="FILE", help="Append the figures to this file (JSON lines)."),
    ] = None,
    min_recall: Annotated[
        float | None,
        typer.Option("--min-recall", min=0, max=1, help="Exit code 1 where the recall is lower."),
    ] = None,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    html: Html = None,
    json: Annotated[bool, typer.Option("--json", help="Output as JSON.")] = False,
    connection: Connection,
) -> None:
    """Watch the recall of a live index: its vector searches against the exact neighbors, what the graph
    misses and what quantization loses each by itself.

    It decays as documents are deleted and segments merged, and no search says so: run it every night.

    Examples:

        $ esembed recall books

        $ esembed recall books --sampled-filters 3 --history recall.jsonl --min-recall 0.95
    """
    from esembed import Index, terminal
    from esembed.cli._connect import UsageError
    from esembed.evaluate.recall import RecallOptions
    from esembed.evaluate.recall_history import RecallHistory
    from esembed.evaluate.recall_report import COLUMNS, notes, rows, write_html

    if queries is not None and dataset is not None:
        raise UsageError("--queries or --dataset, not both")
    asked: str | list[str] | None = dataset
    if queries is not None:
        asked = _lines(queries)
    past = None if history is None else RecallHistory.open(history)
    client = connection.client()
    try:
        index = Index.open(client, name, allow_encoders=allow_encoder or (), allow_raw=allow_raw)
        options = RecallOptions(
            k=k,
            sample=sample,
            encode=encode,
            fields=tuple(field or ()),
            filter=parse_filters(index.plan, filter or [], index.fields),
            sampled_filters=sampled_filters,
            num_candidates=num_candidates,
            exact=exact,  # type: ignore[arg-type]  # checked there
            seed=seed,
        )
        report = index.recall(
            options, queries=asked, history=history, progress=lambda line: terminal.note(f"… {line}")
        )
    finally:
        client.close()
    before = None if past is None else past.before(report)
    if html is not None:
        write_html(html, report, None if history is None else RecallHistory.open(history))
        terminal.note(f"report: {html}")
    below = () if min_recall is None else report.below(min_recall)
    if json:
        terminal.print_json({**report.to_dict(), "min_recall": min_recall, "below": [r.name for r in below]})
    else:
        terminal.conclude(report.conclusion)
        terminal.print_table(COLUMNS, rows(report, before))
        for line in notes(report, before):
            terminal.note(line)
    if past is not None and past.unreadable:
        terminal.note(f"{history}: {past.unreadable} lines are no measurements and were left out")
    if below:
        terminal.note(
            f"below {min_recall:g}: {', '.join(row.name for row in below)}; where the graph loses it, raise "
            "num_candidates or ef_construction and m; where quantization does, oversample or another one "
            "(esembed advise)"
        )
        raise typer.Exit(1)


def _lines(path: Path) -> list[str]:
    """The texts of a file, one a line. Raises SourceError."""
    from esembed.errors import SourceError
    from esembed.evaluate.trec import text_lines

    found = [line.strip() for _, line in text_lines(path)]
    if not found:
        raise SourceError(f"{path} has no line with a text", source=str(path))
    return found
