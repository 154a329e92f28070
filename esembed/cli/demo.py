"""``esembed demo``: a local engine, Python's own documentation, four ways to search it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import Connection, UsageError, running_local, takes_connection

if TYPE_CHECKING:
    from esembed.capabilities import Engine
    from esembed.demo.run import Answer

__all__ = ["app"]

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
@takes_connection
def demo(
    *,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the local engine afterward.")] = False,
    fresh: Annotated[bool, typer.Option("--reindex", help="Index again, even if it is there.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every docstring, some 6,500, and not only those of common modules.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Index only so many docstrings, for a quick look.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Output as JSON.")] = False,
    connection: Connection,
) -> None:
    """Search Python's own documentation by words, by meaning and by both, side by side.

    Starts a local engine (downloaded once, checked against a pinned SHA-256), indexes some 2,500 docstrings
    of the standard library's common modules, and asks a few questions. A column shows one hit of a class.
    A second run finds engine and index ready.
    With --url it uses that server and starts nothing. Without --engine it starts OpenSearch.

    Examples:

        $ esembed demo

        $ esembed demo --engine elasticsearch --stop
    """
    steps: dict[str, float] = {}
    if connection.url is None and connection.cloud_id is None:
        connection = _local_engine(connection.engine or "opensearch", steps)
    elif stop:
        raise UsageError("--stop ends the local engine; with --url none was started")
    url, engine = connection.resolve()
    client = connection.client()
    try:
        answers, facts = _tour(client, steps, fresh=fresh, limit=limit, every=every)
    finally:
        client.close()
    facts = {"engine": engine, "address": url, **facts}
    if json:
        from esembed import terminal

        terminal.print_json(
            {
                **facts,
                "seconds": {name: round(value, 3) for name, value in steps.items()},
                "questions": [
                    {
                        "question": question,
                        "answers": {a.leg: {"ids": a.names, "seconds": round(a.seconds, 4)} for a in found},
                    }
                    for question, found in answers
                ],
            }
        )
    else:
        _show(answers, facts, steps)
    if stop:
        _stop(engine)
    elif not json:
        _how_to_go_on()


@contextmanager
def _step(steps: dict[str, float], name: str, doing: str) -> Iterator[None]:
    """Time a step, and say on stderr that it began and how long it took."""
    from esembed import terminal

    terminal.note(f"… {doing}")
    start = time.perf_counter()
    yield
    steps[name] = time.perf_counter() - start
    terminal.note(f"✓ {name} ({_duration(steps[name])})")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _local_engine(engine: Engine, steps: dict[str, float]) -> Connection:
    from esembed import terminal
    from esembed.local import server as local

    running = running_local(engine)
    if running is not None:
        terminal.note(f"✓ {engine} runs already at {running.url}")
        return Connection(engine=engine)
    from esembed.demo import run

    # Both mostly wait for network and disk, so that the model costs nothing where it comes meanwhile.
    model = run.fetch_model()
    doing = f"starting a local {engine} and fetching the model (both are downloaded the first time)"
    with _step(steps, f"{engine} started", doing):
        local.start(engine, progress=terminal.EngineProgress())
    if not model.done():
        with _step(steps, "model fetched", "fetching the model"):
            model.result()
    model.result()  # what went wrong meanwhile is said here
    return Connection(engine=engine)


def _tour(
    client: Any, steps: dict[str, float], *, fresh: bool, limit: int | None, every: bool
) -> tuple[list[Any], dict[str, Any]]:
    from esembed import terminal
    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe
    from esembed.demo import corpus, run

    capabilities = probe(EngineClient(client))
    plan = run.demo_plan(capabilities, corpus.fingerprint(), limit, every=every)
    index = None if fresh else run.existing(client, plan)
    reused = index is not None and run.is_complete(index)
    if index is None or not reused:
        with _step(steps, "docstrings read", "reading the standard library's docstrings"):
            records = run.load_corpus(limit, every=every)
        doing = f"encoding and indexing {len(records)} docstrings (the first time the model is downloaded)"
        with _step(steps, f"{len(records)} docstrings indexed", doing), terminal.progress() as bars:
            bar = terminal.IngestProgress(bars, total=len(records))
            index, report = run.fill(client, plan, records, fresh=fresh, progress=bar)
        if report.dead_lettered:
            terminal.note(
                f"{report.dead_lettered} records could not be indexed; the first: {report.errors[0].reason}"
            )
    else:
        terminal.note(f"✓ the index {run.INDEX} is there, complete and unchanged")
    with _step(steps, "model loaded and warm", "loading the model"):
        run.ask(index, run.QUESTIONS[0])
    start = time.perf_counter()
    answers = [(question, run.ask(index, question)) for question in run.QUESTIONS]
    steps[f"{len(answers) * len(run.LEGS)} searches"] = time.perf_counter() - start
    facts = {
        "version": str(capabilities.version),
        "index": run.INDEX,
        "documents": index.count(),
        "index_reused": reused,
        "analyzer": plan.text["doc"].analyzer,
    }
    return answers, facts


def _show(answers: list[tuple[str, list[Answer]]], facts: dict[str, Any], steps: dict[str, float]) -> None:
    from rich.text import Text

    from esembed import terminal

    console = terminal.console()
    agreed = _agreed(answers)
    for question, found in answers:
        # A hit that only this column has is what the column is for.
        table = terminal.table(*(f"{a.leg}\n{a.seconds * 1000:.0f} ms" for a in found))
        depth = max(len(a.names) for a in found)
        for row in range(depth):
            table.add_row(
                *(
                    Text(a.names[row], style=_style(a.names[row], agreed[question]))
                    if row < len(a.names)
                    else Text("")
                    for a in found
                )
            )
        console.print()
        console.print(Text(f"“{question}”", style="bold"))
        console.print(table)
        top = next((a for a in reversed(found) if a.names), None)
        if top is not None:
            doc = " ".join(str(top.sources[0].get("doc", "")).split())
            console.print(Text(f"  {top.names[0]}: {doc[:150]}{'…' if len(doc) > 150 else ''}", style="dim"))
    console.print()
    rows = [(name, _duration(seconds)) for name, seconds in steps.items()]
    engine = f"{facts['engine']} {facts['version']}, {facts['documents']} documents"
    terminal.print_table(("step", ">time"), rows, title=engine)


def _agreed(answers: list[tuple[str, list[Answer]]]) -> dict[str, set[str]]:
    """Question → the names that both BM25 and dense found: words and meaning agree on them."""
    return {
        question: set.intersection(*(set(a.names) for a in found if a.leg.startswith(("BM25", "dense"))))
        for question, found in answers
    }


def _style(name: str, agreed: set[str]) -> str:
    return "green" if name in agreed else ""


def _stop(engine: Engine) -> None:
    from esembed import terminal
    from esembed.local import server as local

    if local.stop(engine):
        terminal.note(f"✓ the local {engine} is stopped; its index is kept for the next run")


def _how_to_go_on() -> None:
    from esembed import terminal
    from esembed.demo.run import INDEX

    lines = (
        f'esembed search "your own question" --index {INDEX}',
        f'esembed search "parse a date" --index {INDEX} --legs dense --filter kind=function',
        f"esembed index inspect {INDEX}",
        "esembed engine stop",
    )
    console = terminal.console()
    console.print("Green: found by words and by meaning. Go on with:", markup=False)
    for line in lines:
        console.print(f"  {line}", markup=False)
