"""``esembed advise``: quantizations tried on a sample, and the cheapest that is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import Connection, UsageError, takes_connection
from esembed.cli._names import checked
from esembed.cli._query import Allow
from esembed.cli._report import AsJson, Html, note_written, output_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from esembed.plan import IndexPlan
    from esembed.types import FloatArray

__all__ = ["app"]

app = typer.Typer(help="Choose a quantization by measuring it.", pretty_exceptions_enable=False)


@app.command()
@takes_connection
def advise(
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="PLAN.toml", help="The plan whose dense field is to be quantized."),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Argument(metavar="SAMPLE", help="Records (JSONL, CSV …), or vectors as a .npy file."),
    ] = None,
    *,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            "-i",
            metavar="NAME",
            callback=checked,
            help="Without PLAN and SAMPLE: measure how many candidates this index's searches need.",
        ),
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="With --index: measure with this filter, too; each one by itself.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="With --index: store the rule in the index's plan.")
    ] = True,
    allow_encoder: Allow = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", help="Texts, one a line, or a .npy; else a part of the sample is held back."
        ),
    ] = None,
    field: Annotated[
        str | None, typer.Option("--field", help="The dense field, if there are several.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Arithmetic only; --profile says which engine.")
    ] = False,
    profile_name: Annotated[
        str, typer.Option("--profile", help="With --offline: elasticsearch-basic, opensearch@2.19 …")
    ] = "elasticsearch-basic",
    min_recall: Annotated[
        float | None,
        typer.Option(
            "--recall",
            help="The recall@10 to keep, 0 to 1; else .95, with --index .98 of an exhaustive search.",
        ),
    ] = None,
    documents: Annotated[int, typer.Option("--documents", help="How many there will be.")] = 1_000_000,
    max_ram_gib: Annotated[float | None, typer.Option("--max-ram-gib", help="The RAM to stay below.")] = None,
    max_disk_gib: Annotated[
        float | None, typer.Option("--max-disk-gib", help="The disk space to stay below.")
    ] = None,
    disk_per_ram: Annotated[
        float,
        typer.Option("--disk-per-ram", help="How many bytes on disk cost as much as a byte of RAM."),
    ] = 20.0,
    dims: Annotated[
        list[int] | None, typer.Option("--dims", help="Shorter vectors to try, for Matryoshka models.")
    ] = None,
    quantization: Annotated[
        list[str] | None, typer.Option("--quantization", help="Try these alone; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Records of the sample to use.")] = 20_000,
    tokens_per_document: Annotated[
        float | None, typer.Option("--tokens-per-document", help="To tell hours: the mean, if not measured.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option("--tflops", help="An accelerator's peak, to tell hours and dollars.")
    ] = None,
    usd_per_hour: Annotated[float | None, typer.Option("--usd-per-hour", help="What it costs.")] = None,
    mflop_per_token: Annotated[
        float, typer.Option("--mflop-per-token", help="The encoder's work, 22.8 for MiniLM.")
    ] = 22.8,
    output: Annotated[Path | None, output_option("--output", "Write the recommended plan here.")] = None,
    plot: Annotated[Path | None, output_option("--plot", "Write a plot here, as SVG.")] = None,
    html: Html = None,
    json: AsJson = False,
    connection: Connection,
) -> None:
    """Which quantization keeps the recall at the least RAM and disk; with --index, how many candidates.

    Examples:

        $ esembed advise plan.toml books.jsonl --documents 5000000

        $ esembed advise plan.toml vectors.npy --offline --profile opensearch@3.6 --recall 0.9

        $ esembed advise --index books --queries questions.txt --filter lang=en
    """
    if index is not None:
        if plan is not None or sample is not None:
            raise UsageError("--index measures an index as it is: leave PLAN and SAMPLE out")
        _candidates(index, field, queries, filter, min_recall, write, allow_encoder, json, connection)
        return
    if plan is None or sample is None:
        raise UsageError("give PLAN.toml and SAMPLE, or --index NAME")
    if filter:
        raise UsageError("--filter goes with --index")
    import numpy as np

    from esembed import terminal
    from esembed.advise.advise import Target
    from esembed.advise.advise import advise as run
    from esembed.advise.report import COLUMNS, human_bytes, left_out_lines, rows, write_html
    from esembed.advise.report import plot as draw
    from esembed.plan import IndexPlan
    from esembed.report_page import write_output

    wanted = IndexPlan.load_file(plan)
    name = _field(wanted, field)
    vectors, asked, speed, tokens = _vectors(wanted, name, sample, queries, limit)
    if asked is None:
        held = max(2, min(400, len(vectors) // 10))
        vectors, asked = vectors[:-held], vectors[-held:]
    target = Target(
        min_recall=0.95 if min_recall is None else min_recall,
        documents=documents,
        max_ram_bytes=None if max_ram_gib is None else int(max_ram_gib * 2**30),
        max_disk_bytes=None if max_disk_gib is None else int(max_disk_gib * 2**30),
        disk_per_ram=disk_per_ram,
    )
    client: Any = None
    if offline:
        from esembed.capabilities import profile

        base, _, version = profile_name.partition("@")
        capabilities = profile(base, version or None)
    else:
        from esembed._sync.client import EngineClient
        from esembed._sync.probe import probe

        client = connection.client()
        capabilities = probe(EngineClient(client))
    try:
        advice = run(
            np.asarray(vectors), np.asarray(asked), wanted, name,
            target=target, capabilities=capabilities, client=client, dims=dims or (),
            quantizations=quantization or None,
        )  # fmt: skip
    finally:
        if client is not None:
            client.close()
    costs = _costs(documents, tokens_per_document or tokens, speed, tflops, mflop_per_token, usd_per_hour)
    if plot is not None:
        write_output(plot, draw(advice), "--plot")
    if output is not None and advice.plan is not None:
        write_output(output, advice.plan.to_toml(), "--output")
    if html is not None:
        write_html(html, advice, field=name, costs=costs)
        note_written(html)
    if json:
        terminal.print_json({**advice.to_dict(), "encoding": costs})
    else:
        terminal.conclude(advice.conclusion)
        terminal.print_table(COLUMNS, rows(advice), title=f"{name}: {len(vectors)} vectors, {advice.engine}")
        for line in left_out_lines(advice):
            terminal.note(line)
        for scale in advice.scales:
            terminal.note(
                f"{scale['documents']:,} documents: {human_bytes(scale['ram_bytes'])} RAM, "
                f"{human_bytes(scale['disk_bytes'])} disk, {scale['shards']} shards, "
                f"{scale['nodes']} nodes of 64 GiB"
            )
        for cost in costs:
            terminal.note(f"encoding {cost['what']}: {cost['hours']:.2f} h" + _usd(cost["usd"]))
        if advice.plan is not None and output is None:
            terminal.print_toml(advice.plan.to_toml())
    if advice.chosen is None:
        terminal.note("lower --recall, raise --max-ram-gib or --max-disk-gib, or add --dims")
        raise typer.Exit(1)


def _candidates(
    name: str,
    field: str | None,
    queries: Path | None,
    filters: list[str] | None,
    min_recall: float | None,
    write: bool,
    allow: list[str] | None,
    json: bool,
    connection: Any,
) -> None:
    """How many candidates a live index's searches need."""
    import numpy as np

    from esembed import Index, terminal
    from esembed.cli._query import parse_filters
    from esembed.evaluate.candidates import CandidateOptions

    if queries is None:
        raise UsageError("--index needs --queries FILE: texts, one a line, or vectors as a .npy file")
    if not queries.exists():
        raise UsageError(f"there is no file {queries}")
    asked: list[Any]
    if queries.suffix == ".npy":
        asked = np.load(queries, allow_pickle=False).tolist()
    else:
        asked = [line for line in queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    options = CandidateOptions() if min_recall is None else CandidateOptions(min_recall=min_recall)
    client = connection.client()
    try:
        index = Index.open(client, name, allow_encoders=allow or ())
        parsed = {text: parse_filters(index.plan, [text], index.fields) for text in filters or ()}
        choice = index.choose_candidates(
            asked,
            field=field,
            filters={text: one for text, one in parsed.items() if one is not None},
            options=options,
            write=write,
            progress=lambda line: terminal.note(f"… {line}"),
        )
    finally:
        client.close()
    if json:
        terminal.print_json(choice.to_dict())
        return
    terminal.conclude(choice.conclusion)
    terminal.print_table(
        ("k", "filter", "num_candidates", "recall", "latency ms"),
        [
            (str(t.k), t.filter or "-", str(t.num_candidates), f"{t.recall:.4f}", f"{t.latency_ms:.1f}")
            for t in choice.trials
        ],
        title=f"{choice.field}: {choice.queries} queries, beside an exhaustive search",
    )
    terminal.note("stored in the index's plan" if write else "not stored (--no-write)")


def _usd(value: float | None) -> str:
    return "" if value is None else f", ${value:.2f}"


def _field(plan: IndexPlan, wanted: str | None) -> str:
    if wanted is not None or len(plan.dense) == 1:
        return wanted or next(iter(plan.dense))
    raise UsageError(f"the plan has {len(plan.dense)} dense fields; say which with --field")


def _vectors(
    plan: IndexPlan, name: str, sample: Path, queries: Path | None, limit: int
) -> tuple[FloatArray, FloatArray | None, float | None, float | None]:
    """Vectors, query vectors or None, tokens a second measured here, tokens of a mean document."""
    import itertools
    import time

    import numpy as np

    from esembed.encode.registry import load
    from esembed.errors import RecordError

    spec = plan.dense.get(name)
    if spec is None:
        raise UsageError(f"the plan has no dense field {name!r}")
    if not sample.exists():
        raise UsageError(f"there is no file {sample}")
    speed = tokens = None
    encoder: Any = None
    if sample.suffix == ".npy":
        vectors = np.load(sample, allow_pickle=False)[:limit]
    elif spec.precomputed:
        raise UsageError("the field's vectors are given; pass them as a .npy file")
    else:
        from esembed.ingest.sources import open_source
        from esembed.types import Document

        encoder = load(spec.encoder, spec.params)
        cut: Callable[[str], list[str]] | None = None
        if spec.chunked and plan.chunk is not None:
            from esembed.ingest.stages.chunk import Chunker

            cut = Chunker(plan, {name: encoder})
        texts: list[str] = []
        seen: set[str] = set()
        read = 0
        for record in itertools.islice(open_source(sample), limit):
            if isinstance(record, Document):
                seen.update(record.source)
                try:
                    text = plan.vector_text(name, record.source) or ""
                except RecordError:
                    continue  # an ingest would make it a dead letter
                read += 1
                texts += [] if not text else [text] if cut is None else cut(text)
        del texts[limit:]
        if len(texts) < 4:
            raise UsageError(
                f"{sample} gives {len(texts)} texts for {name!r}, which is made from "
                f"{', '.join(map(repr, plan.vector_source(name)))}; its records have the fields "
                f"{', '.join(sorted(seen)[:12]) or '(none)'}"
            )
        if cut is not None:
            from esembed import terminal

            terminal.note(
                f"{name} is chunked: {read} records gave {len(texts)} chunks, and --documents counts chunks"
            )
        started = time.monotonic()
        vectors = np.concatenate(
            [encoder.encode_document(texts[i : i + 256]) for i in range(0, len(texts), 256)]
        )
        speed = encoder.stats.tokens / max(time.monotonic() - started, 1e-9)
        tokens = encoder.stats.tokens / max(len(texts), 1)
    asked = None
    if queries is not None and queries.suffix == ".npy":
        asked = np.load(queries, allow_pickle=False)
    elif queries is not None:
        encoder = encoder or load(spec.encoder, spec.params)
        lines = [line for line in queries.read_text(encoding="utf-8").splitlines() if line.strip()]
        asked = encoder.encode_query(lines)
    return vectors, asked, speed, tokens


def _costs(
    documents: int,
    tokens: float | None,
    speed: float | None,
    tflops: float | None,
    mflop_per_token: float,
    usd_per_hour: float | None,
) -> list[dict[str, Any]]:
    from esembed.advise.cost import encode_cost

    lines: list[dict[str, Any]] = []
    if tokens is None:
        return lines
    if speed is not None:
        cost = encode_cost(documents, tokens, tokens_per_second=speed)
        lines.append({"what": f"on this machine ({speed:,.0f} tokens/s)", "hours": cost.hours, "usd": None})
    if tflops is not None:
        cost = encode_cost(
            documents,
            tokens,
            flops_per_token=mflop_per_token * 1e6,
            flops_per_second=tflops * 1e12,
            usd_per_hour=usd_per_hour,
        )
        lines.append({"what": f"at {tflops:g} TFLOP/s, 40 % used", "hours": cost.hours, "usd": cost.usd})
    return lines
