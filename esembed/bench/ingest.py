"""``esembed bench ingest``: how well the stages overlap, how fast bulk is, how much memory it takes."""

from __future__ import annotations

import json as json_module
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import typer

from esembed.bench.ingest_parts import (
    TimedEncoder,
    bench_plan,
    cpu_seconds,
    fresh_index,
    machine_cpu_seconds,
    records,
)
from esembed.json_input import JsonLimits, parse_json

__all__ = [
    "app",
    "bench_bulk",
    "bench_memory",
    "bench_pipeline",
    "bench_real",
    "bench_rerun",
    "engine_client",
]

app = typer.Typer(
    help="The ingest pipeline and the bulk stage, docs a second.", pretty_exceptions_enable=False
)


_REPORT = JsonLimits(characters=1 << 20)
"""What a worker prints: one ingest's report."""

PARALLEL_FORMS = ((2, 500), (4, 250), (4, 500), (4, 1000))


def engine_client(url: str, engine: str) -> Any:
    """Our client over the official one. Elasticsearch's gets its fast serializer (orjson), which its own
    helpers use; ours are the same bytes with or without it."""
    from esembed._sync.client import EngineClient

    if engine == "elasticsearch":
        from elasticsearch import Elasticsearch, OrjsonSerializer

        return EngineClient(Elasticsearch(url, request_timeout=120, serializer=OrjsonSerializer()))
    from opensearchpy import OpenSearch

    return EngineClient(OpenSearch([url], timeout=120, pool_maxsize=8))


def _ingest(
    client: Any, capabilities: Any, plan: Any, encoder: Any, rows: Any, index: str, **options: Any
) -> Any:
    from esembed.ingest.options import IngestOptions
    from esembed.ingest.pipeline import run_ingest

    return run_ingest(
        rows,
        client=client,
        index=index,
        plan=plan,
        capabilities=capabilities,
        encoders={"emb": encoder},
        options=IngestOptions(**options),
    )


def bench_pipeline(client: Any, capabilities: Any, *, count: int = 4_000, dims: int = 384) -> dict[str, Any]:
    """The whole flow with an encoder that sleeps, against the slowest stage alone on the same records.

    The encoder's pace is set to twice what the bulk stage takes, so that it is the slowest stage and
    the machine isn't.
    """
    rows = list(records(count))
    plan = bench_plan("own:timed", dims)
    with fresh_index(client, capabilities, plan) as (index, resolved):
        bulk_alone = _ingest(client, capabilities, resolved, TimedEncoder(dims, 0.0), rows, index).seconds
    per_text = 2.0 * bulk_alone / count
    encoder = TimedEncoder(dims, per_text)
    started = time.perf_counter()
    for at in range(0, count, 256):
        encoder.encode_document([""] * len(rows[at : at + 256]))
    encoder_alone = time.perf_counter() - started
    with fresh_index(client, capabilities, plan) as (index, resolved):
        report = _ingest(client, capabilities, resolved, TimedEncoder(dims, per_text), rows, index)
    slowest = max(encoder_alone, bulk_alone)
    return {
        "documents": count,
        "encoder_alone_s": encoder_alone,
        "without_encoder_s": bulk_alone,
        "pipeline_s": report.seconds,
        "efficiency": slowest / report.seconds,
        "stage_shares": report.stage_shares,
    }


def bench_real(client: Any, capabilities: Any, *, count: int = 1_000) -> dict[str, Any]:
    """The whole flow with MiniLM, against what the CPU seconds of all stages (the engine's included)
    allow on these cores. Only meaningful on a machine that does nothing else."""
    from esembed.encode.registry import load

    encoder = load("minilm")
    rows = list(records(count))
    encoder.encode_document([f"{row['title']}\n{row['body']}" for row in rows[:256]])
    plan = bench_plan("minilm", 384)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with fresh_index(client, capabilities, plan) as (index, resolved):
        before, machine = cpu_seconds(client), machine_cpu_seconds()
        report = _ingest(client, capabilities, resolved, encoder, rows, index)
        spent = cpu_seconds(client) - before
        everybody = machine_cpu_seconds() - machine
    return {
        "documents": count,
        "seconds": report.seconds,
        "cpu_seconds": spent,
        "cpu_seconds_of_others": max(0.0, everybody - spent),
        "cores": cores,
        "efficiency": spent / cores / report.seconds,
        "encode_share": report.stage_shares["encode"],
        "documents_per_second": report.documents_per_second,
        "stage_shares": report.stage_shares,
    }


def bench_rerun(client: Any, capabilities: Any, *, count: int = 1_000) -> dict[str, Any]:
    """A second run over unchanged records, against the first run's encode time (MiniLM)."""
    from esembed.encode.registry import load

    encoder = load("minilm")
    rows = list(records(count))
    plan = bench_plan("minilm", 384)
    with fresh_index(client, capabilities, plan) as (index, resolved):
        first = _ingest(client, capabilities, resolved, encoder, rows, index)
        texts = encoder.stats.texts
        before, mine = cpu_seconds(client), time.process_time()
        second = _ingest(client, capabilities, resolved, encoder, rows, index)
        mine, both = time.process_time() - mine, cpu_seconds(client) - before
    return {
        "documents": count,
        "first_encode_s": first.stage_seconds["encode"],
        "second_encode_s": second.stage_seconds.get("encode", 0.0),
        "second_encoded_texts": encoder.stats.texts - texts,
        "second_run_s": second.seconds,
        "second_run_cpu_s": mine,
        "second_run_cpu_s_with_engine": both,
        "second_stage_seconds": second.stage_seconds,
        "share_of_encode_s": second.stage_seconds.get("encode", 0.0) / first.stage_seconds["encode"],
        "whole_run_share": second.seconds / first.stage_seconds["encode"],
        "unchanged": second.unchanged,
    }


def bench_bulk(
    client: Any, capabilities: Any, *, count: int = 4_000, dims: int = 384, rounds: int = 3
) -> dict[str, Any]:
    """The bulk stage alone (serialize and send; vectors are there) against the official client's
    ``streaming_bulk`` with JSON lists and ``parallel_bulk`` in its best form, interleaved.

    The best form: packed vectors and orjson where the client has them, and the threads and chunk size
    that were fastest on a part of the documents just before."""
    rows = list(records(count))
    vectors = TimedEncoder(dims, 0.0).encode_document([""] * count)
    plan = bench_plan("own:timed", dims)
    best, tried = {}, {}
    for threads, chunk in PARALLEL_FORMS:
        form = {"thread_count": threads, "chunk_size": chunk}
        with fresh_index(client, capabilities, plan) as (index, _):
            started = time.perf_counter()
            _official(client, index, rows[: count // 2], vectors[: count // 2], form)
            tried[f"{threads} threads of {chunk}"] = time.perf_counter() - started
        if tried[f"{threads} threads of {chunk}"] == min(tried.values()):
            best = form
    ways: dict[str, Callable[[str, Any], None]] = {
        "ours": lambda index, resolved: _ours(client, capabilities, resolved, index, rows, vectors),
        "streaming_bulk": lambda index, _: _official(client, index, rows, vectors, None),
        "parallel_bulk": lambda index, _: _official(client, index, rows, vectors, best),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways)[number % 3 :] + list(ways)[: number % 3]
        for name in order:
            with fresh_index(client, capabilities, plan) as (index, resolved):
                started = time.perf_counter()
                ways[name](index, resolved)
                seconds[name].append(time.perf_counter() - started)
                client.request("POST", f"/{index}/_refresh")
                found = client.request("GET", f"/{index}/_count").body["count"]
                if found != count:
                    raise RuntimeError(f"{name} indexed {found} of {count}")
    ratio = {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))
        for name in ways
        if name != "ours"
    }
    return {
        "documents": count,
        "rounds": rounds,
        "documents_per_second": {n: count / statistics.median(s) for n, s in seconds.items()},
        "ours_times_streaming_bulk": ratio["streaming_bulk"],
        "ours_times_parallel_bulk": ratio["parallel_bulk"],
        "parallel_form": min(tried, key=lambda name: tried[name]),
        "seconds": seconds,
    }


def _ours(client: Any, capabilities: Any, plan: Any, index: str, rows: list[Any], vectors: Any) -> None:
    from esembed.dialect import dialect_for
    from esembed.ingest.backoff import RetryPolicy
    from esembed.ingest.bulk import BulkAction
    from esembed.ingest.options import IngestOptions
    from esembed.ingest.stages.send import SendStage
    from esembed.ingest.target import TargetIndex

    class Refusals:
        """Remembers what the engine refuses."""

        def confirmed(self, action: BulkAction) -> None:
            """Nothing."""

        def refused(self, action: BulkAction, reason: str, status: Any, error_type: Any) -> None:
            failed.append(reason)

    form = dialect_for(capabilities).documents.bulk(plan)
    failed: list[str] = []
    target = TargetIndex(client, index, capabilities, RetryPolicy(60.0))
    sender = SendStage(plan, capabilities, IngestOptions(), target=target, outcomes=Refusals())
    sender.start()
    for row, vector in zip(rows, vectors, strict=True):
        body = form.body(row, {"emb": vector}, content_hash=None)
        sender.put(BulkAction(row["id"], "index", [form.index_lines(row["id"], body)]))
    sender.close()
    sender.join()
    if failed:
        raise RuntimeError(f"the bulk stage failed: {failed[0]}")


def _official(client: Any, index: str, rows: list[Any], vectors: Any, form: dict[str, int] | None) -> None:
    """The official helpers: ``parallel_bulk`` in this form, or ``streaming_bulk`` as it comes."""
    helpers: Any
    packed = form is not None and client.engine == "elasticsearch"
    if client.engine == "elasticsearch":
        from elasticsearch import helpers
        from elasticsearch.helpers import pack_dense_vector
    else:
        from opensearchpy import helpers

    def actions() -> Iterator[dict[str, Any]]:
        for row, vector in zip(rows, vectors, strict=True):
            value = pack_dense_vector(vector) if packed else np.asarray(vector).tolist()
            yield {"_index": index, "_id": row["id"], **row, "emb": value}

    if form is not None:
        results = helpers.parallel_bulk(client.official, actions(), **form)
    else:
        results = helpers.streaming_bulk(client.official, actions(), chunk_size=500)
    for ok, item in results:
        if not ok:
            raise RuntimeError(str(item))


def bench_memory(
    counts: tuple[int, int] = (20_000, 200_000), *, engine: str | None = None, url: str | None = None
) -> dict[str, Any]:
    """Peak resident memory of a process that ingests so many records, each count in its own process.

    Args:
        counts: a small and a large one.
        engine, url: a real one; None is a sink that answers like one (memory on this side only).
    """
    peaks = []
    for count in counts:
        command = [sys.executable, "-m", "esembed.bench.ingest_worker", str(count)]
        if engine is not None and url is not None:
            command += [engine, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out = parse_json(done.stdout.strip().rpartition("\n")[2], _REPORT)  # warnings may stand before it
        if out["report"]["indexed"] != count:
            raise RuntimeError(f"{out['report']['indexed']} of {count} were indexed")
        peaks.append(out["peak_mib"])
    return {"records": counts, "peak_mib": peaks, "ratio": peaks[1] / peaks[0], "engine": engine or "sink"}


PARTS = ("pipeline", "bulk", "real", "rerun", "memory")


@app.command()
def ingest(
    part: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]…", help=f"Of {', '.join(PARTS)}; all if none is named."),
    ] = None,
    *,
    url: Annotated[str, typer.Option(help="The engine.")] = "http://127.0.0.1:9200",
    engine: Annotated[str, typer.Option(help="elasticsearch or opensearch.")] = "opensearch",
    documents: Annotated[int, typer.Option(help="Records in each measurement.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of the bulk comparison.")] = 3,
    memory_engine: Annotated[
        bool, typer.Option("--memory-engine", help="Measure memory against the engine, not a sink (long).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Output as JSON.")] = False,
) -> None:
    """Measure the ingest on this machine and engine.

    pipeline: stages overlapped against the slowest alone. bulk: against the official helpers. real: MiniLM
    against the CPU. rerun: unchanged records. memory: 20 and 200 thousand records.

    Example:

        $ esembed bench ingest bulk pipeline --url http://127.0.0.1:9200 --documents 10000
    """
    from esembed._sync.probe import probe

    unknown = set(part or ()) - set(PARTS)
    if unknown or engine not in ("elasticsearch", "opensearch"):
        raise typer.BadParameter(f"parts are {', '.join(PARTS)}; engines are elasticsearch and opensearch")
    client = engine_client(url, engine)
    capabilities = probe(client)
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "pipeline": lambda: bench_pipeline(client, capabilities, count=documents),
        "bulk": lambda: bench_bulk(client, capabilities, count=documents, rounds=rounds),
        "real": lambda: bench_real(client, capabilities, count=documents),
        "rerun": lambda: bench_rerun(client, capabilities, count=documents),
        "memory": lambda: bench_memory(engine=engine, url=url) if memory_engine else bench_memory(),
    }
    results: dict[str, Any] = {}
    for name in part or PARTS:
        typer.echo(f"measuring {name} …", err=True)
        results[name] = runs[name]()
        if not json:
            typer.echo(f"{name} ({engine})")
            for figure, value in results[name].items():
                typer.echo(
                    f"  {figure:28} {value:.4g}" if isinstance(value, float) else f"  {figure:28} {value}"
                )
    client.official.close()
    if json:
        typer.echo(json_module.dumps({"engine": engine, **results}, indent=2))


if __name__ == "__main__":
    app()
