"""``esembed eval`` and ``esembed tune``: measure an index's answers, and fit its default query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import Connection, takes_connection
from esembed.cli._names import Index as Name
from esembed.cli._query import Allow, AllowRaw, Cross
from esembed.cli._report import AsJson, Html, note_written, output_option, runs_folder

if TYPE_CHECKING:
    from esembed import Index
    from esembed.evaluate.datasets import Dataset
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.tuning import Tuned
    from esembed.query import Query

__all__ = ["app", "tune_app"]

app = typer.Typer(
    help="Measure the quality of an index's answers.", no_args_is_help=True, pretty_exceptions_enable=False
)
tune_app = typer.Typer(help="Fit the default query to judgments.", pretty_exceptions_enable=False)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A BEIR folder, a qrels file (with --topics), a CSV, or ir_datasets:ID."
    ),
]
Split = Annotated[str, typer.Option("--split", help="Which qrels of a BEIR folder.")]
Topics = Annotated[Path | None, typer.Option("--topics", help="TREC topics for a qrels file.")]


def _dataset(source: str, split: str, topics: Path | None) -> Dataset:
    from esembed.evaluate.datasets import load_dataset

    return load_dataset(source, split=split, topics=topics)


def _opened(
    client: Any, name: str, allow: list[str] | None, cross: list[str] | None = None, *, raw: bool
) -> Index:
    from esembed import Index
    from esembed.cli._query import cross_encoders

    return Index.open(
        client, name, allow_encoders=allow or (), rerankers=cross_encoders(cross), allow_raw=raw
    )


def _show(evaluation: Evaluation, json: bool, html: Path | None) -> None:
    from esembed import terminal
    from esembed.evaluate.report import report_dict, terminal_table, write_html

    if json:
        terminal.print_json(report_dict(evaluation))
    else:
        terminal.conclude(evaluation.conclusion)
        terminal.console().print(terminal_table(evaluation))
    if evaluation.warning is not None:
        terminal.note(evaluation.warning)
    for problem in evaluation.problems:
        terminal.note(problem.text)
    if html is not None:
        write_html(html, evaluation)
        note_written(html)


@app.command("index")
@takes_connection
def index_command(
    name: Name,
    dataset: Data,
    *,
    split: Split = "test",
    topics: Topics = None,
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="A TREC run to stand beside; may be repeated.")
    ] = None,
    save_runs: Annotated[
        Path | None,
        typer.Option(
            "--save-runs", help="A folder for every configuration's TREC run.", callback=runs_folder
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--published", help="JSON of published figures (Anserini's tables too), shown beside ours."
        ),
    ] = None,
    bm25s: Annotated[
        bool, typer.Option("--bm25s", help="Ask the library bm25s, too, over the dataset's documents.")
    ] = False,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    cross_encoder: Cross = None,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Ask the judged queries: the default query, each leg alone, untuned fusions.

    Examples:

        $ esembed eval index books judgments.csv

        $ esembed eval index scifact data/scifact --html report.html

        $ esembed eval index scifact data/scifact --run other-tool.run --bm25s
    """
    from esembed.evaluate.datasets import ProblemLog, read_run, write_run
    from esembed.evaluate.reference import bm25s_run, read_published

    judged = _dataset(dataset, split, topics)
    log = ProblemLog()
    outside = {path.stem: read_run(path, log=log) for path in run or []}
    figures = {} if published is None else read_published(published, judged.name)
    client = connection.client()
    try:
        index = _opened(client, name, allow_encoder, cross_encoder, raw=allow_raw)
        if bm25s:
            text = next(iter(index.plan.text.values()), None)
            outside["bm25s"] = bm25s_run(
                judged,
                language="english" if text is not None and text.analyzer == "english" else "none",
                k1=1.2 if text is None or text.k1 is None else text.k1,
                b=0.75 if text is None or text.b is None else text.b,
            )
        evaluation = index.evaluate(judged, runs=outside, published=figures)
    finally:
        client.close()
    if save_runs is not None:
        save_runs.mkdir(parents=True, exist_ok=True)
        for one in evaluation.measured:
            write_run(save_runs / f"{one.name}.run", one.run, tag=one.name)
    _show(replace(evaluation, problems=(*evaluation.problems, *log.problems())), json, html)


@app.command()
def runs(
    dataset: Data,
    files: Annotated[list[Path], typer.Argument(metavar="RUN...", help="TREC runs.")],
    *,
    split: Split = "test",
    topics: Topics = None,
    html: Html = None,
    json: AsJson = False,
) -> None:
    """Measure and compare TREC runs, without any engine.

    Examples:

        $ esembed eval runs data/scifact bm25.run dense.run
    """
    from esembed.evaluate.datasets import ProblemLog, read_run
    from esembed.evaluate.evaluation import evaluate_runs

    log = ProblemLog()
    found = {path.stem: read_run(path, log=log) for path in files}
    evaluation = evaluate_runs(_dataset(dataset, split, topics), found)
    _show(replace(evaluation, problems=(*evaluation.problems, *log.problems())), json, html)


@app.command("bootstrap", hidden=True, deprecated=True)
@app.command("known-items")
@takes_connection
def known_items(
    name: Name,
    *,
    count: Annotated[int, typer.Option("--count", min=10, help="How many documents give queries.")] = 200,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    cross_encoder: Cross = None,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """No judgments? Known items, cut from the index's own documents, and how far the legs agree.

    Examples:

        $ esembed eval known-items books
    """
    from esembed.evaluate.evaluate_index import evaluate_known_items

    client = connection.client()
    try:
        evaluation = evaluate_known_items(
            _opened(client, name, allow_encoder, cross_encoder, raw=allow_raw), count=count
        )
    finally:
        client.close()
    _show(evaluation, json, html)


@app.command("trust", hidden=True, deprecated=True)
@app.command("weights")
@takes_connection
def weights(
    name: Name,
    *,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Store the query that follows as the default.")
    ] = True,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Estimate without judgments what each leg should weigh, and store the default query.

    Examples:

        $ esembed eval weights books --no-write
    """
    from esembed import terminal
    from esembed.weights.report import write_html

    client = connection.client()
    try:
        report = _opened(client, name, allow_encoder, raw=allow_raw).learn_weights(write=write)
    finally:
        client.close()
    query = report.query
    shown: dict[str, Any] = report.to_dict() | {"query": None if query is None else query.to_dict()}
    if html is not None:
        write_html(html, report, index=name)
        note_written(html)
    if json:
        terminal.print_json(shown)
        return
    terminal.conclude(report.conclusion)
    terminal.print_table(
        ("leg", ">found of known items (nDCG@10)", ">weight"),
        [
            (one.name, ", ".join(f"{k} {v:.2f}" for k, v in one.quality.items()), f"{one.weight:.2f}")
            for one in report.legs
        ],
    )
    for line in report.remarks:
        terminal.note(line)
    if query is not None:
        terminal.note(f"default query: {query!r}")
    elif "stays as it is" not in report.conclusion:
        terminal.note("the default query stays as it is")


@app.command("floor")
@takes_connection
def floor(
    name: Name,
    *,
    allow_encoder: Allow = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Count how random documents of the index score, and store it for queries with a floor.

    Examples:

        $ esembed eval floor books
    """
    from esembed import terminal
    from esembed.search.calibration import TAILS

    client = connection.client()
    try:
        counted = _opened(client, name, allow_encoder, raw=False).learn_floor()
    finally:
        client.close()
    if json:
        terminal.print_json(counted.to_dict())
        return
    shown = [tail for tail in TAILS if tail in (0.1, 0.01, 0.001)]
    terminal.print_table(
        ("leg", *(f">reached by {100 * tail:g} %" for tail in shown)),
        [
            (leg, *(f"{curve[TAILS.index(tail)]:.3f}" for tail in shown))
            for leg, curve in counted.legs.items()
        ],
    )
    terminal.note(
        f"scores of {counted.documents} random documents for each of {counted.texts} texts that they have "
        "nothing to do with"
    )


@tune_app.command()
@takes_connection
def tune(
    name: Name,
    dataset: Data,
    *,
    split: Split = "test",
    topics: Topics = None,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Store the result as the default query.")
    ] = True,
    tune_legs: Annotated[
        bool, typer.Option("--tune-legs/--fusion-only", help="Try the legs' own settings, too.")
    ] = True,
    latency_weight: Annotated[
        float, typer.Option("--latency-weight", min=0, help="nDCG that 100 ms are worth; 0: time is free.")
    ] = 0.0,
    next_plan: Annotated[
        Path | None,
        output_option(
            "--next-plan", "Write the plan (TOML) to migrate to, where other BM25 parameters did better."
        ),
    ] = None,
    allow_encoder: Allow = None,
    allow_raw: AllowRaw = False,
    cross_encoder: Cross = None,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Fit the default query to judged queries: each leg's settings, then the fusion and its weights, then
    the cross-encoders as a last stage.

    On few queries it stays as it is; a leg whose help can't be shown is dropped.

    Examples:

        $ esembed tune books judgments.csv

        $ esembed tune scifact data/scifact --split train --no-write

        $ esembed tune books judgments.csv --cross-encoder cross=cross-encoder/ms-marco-MiniLM-L6-v2
    """
    from esembed import terminal
    from esembed.evaluate.tune_report import write_html
    from esembed.evaluate.tuning import TuneOptions
    from esembed.report_page import write_output

    judged = _dataset(dataset, split, topics)
    for problem in judged.problems:
        terminal.note(problem.text)
    client = connection.client()
    try:
        index = _opened(client, name, allow_encoder, cross_encoder, raw=allow_raw)
        tuned = index.tune(
            judged,
            write=write,
            tune_legs=tune_legs,
            options=TuneOptions(latency_weight=latency_weight),
            progress=lambda line: terminal.note(f"… {line}"),
        )
        query = tuned.query
        plan = tuned.next_plan(index.plan.replace(query=query))
    finally:
        client.close()
    if next_plan is not None and tuned.similarity:
        write_output(next_plan, plan.to_toml(), "--next-plan")
    if tuned.warning is not None:
        terminal.note(tuned.warning)
    if html is not None:
        write_html(html, tuned, index=name, query=query)
        note_written(html)
    if json:
        terminal.print_json(tuned.to_dict() | {"query": None if query is None else query.to_dict()})
        return
    _show_tuned(tuned, query, written=write)
    if next_plan is not None:
        then = f"{next_plan}: bring the index to it with esembed index migrate {name} {next_plan}"
        terminal.note(then if tuned.similarity else f"{next_plan} is not written: k1 and b stay as they are")


def _show_tuned(tuned: Tuned, query: Query | None, *, written: bool) -> None:
    from esembed import terminal
    from esembed.evaluate.tune_report import COLUMNS, notes, rows

    terminal.conclude(tuned.conclusion)
    terminal.print_table((*COLUMNS[:3], f">{COLUMNS[3]}", COLUMNS[4]), rows(tuned))
    for line in notes(tuned):
        terminal.note(line)
    terminal.note(f"{'default query' if written else 'query (not stored)'}: {query!r}")
