"""The measuring itself: contenders in processes of their own, in turn, round by round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from esembed.encode.backends.cpu import has_bfloat16
from esembed.json_input import JsonInputError, JsonLimits, parse_json

__all__ = ["Contender", "EncodeBench", "Row", "run_bench"]

WORKER = Path(__file__).with_name("encode_worker.py")

_ANSWER = JsonLimits(characters=50_000_000, depth=10, values=1_000_000)
"""A worker's line: facts, or a time for each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to encode.

    Attributes:
        name: as the table shows it.
        kind: ``ours`` or ``st`` (sentence-transformers; its SparseEncoder for ``splade:``).
        backend: ``openvino``, ``torch``, ``onnx``, or ``auto`` (ours only).
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        python: the interpreter that runs it.
    """

    name: str
    kind: str
    backend: str
    dtype: str = "auto"
    python: str = sys.executable


@dataclass(slots=True, kw_only=True)
class Row:
    """What was measured of one contender.

    Attributes:
        tokens_per_second: median over rounds.
        tokens_per_cpu_second: median likewise, over the processor time of all threads: what holds its
            worth on a busy machine.
        ratio: to the first contender, the median of per-round ratios; None for the first itself.
        ratio_to_peer: to the fastest sentence-transformers backend, likewise.
        gemm_share: FLOPs done over FLOPs at the machine's measured peak of the dtype it runs in.
        cosine_min, cosine_mean: to the first contender's vectors, over all texts.
        query_p50_ms, query_p99_ms: one query at a time.
        query_ratio: p50 over the first contender's.
        load_seconds: from the start of the interpreter to the loaded model, the least of the starts.
        peak_bytes: the highest resident memory.
        usd_per_million_tokens: at the price given, else None.
    """

    name: str
    runtime: Mapping[str, Any]
    tokens_per_second: float
    tokens_per_cpu_second: float
    ratio: float | None
    ratio_to_peer: float | None
    gemm_share: float | None
    cosine_min: float
    cosine_mean: float
    query_p50_ms: float
    query_p99_ms: float
    query_ratio: float
    load_seconds: float
    peak_bytes: int
    usd_per_million_tokens: float | None
    rounds: list[float] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class EncodeBench:
    """The whole result; ``absent`` says which peers could not take part, and why."""

    rows: list[Row]
    absent: dict[str, str]
    tokens: int
    texts: int
    flops_per_token: float | None
    gemm_flops: dict[str, float]


class _Process:
    def __init__(self, python: str) -> None:
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "ESEMBED_BENCH_PATH": root, "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except OSError as error:  # a --baseline-python that isn't there
            self._log.close()
            raise RuntimeError(f"can't run {python}: {error.strerror or error}") from None

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        try:
            self._process.stdin.write(json.dumps({"do": do, **job}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._log.seek(0)
            tail = self._log.read()[-400:].strip()
            raise RuntimeError(f"the process ended: {tail}")
        try:
            # The interpreter is one that the person named, and what is imported there may print anything.
            value = parse_json(line, _ANSWER)
            if not isinstance(value, dict):
                raise JsonInputError(f"a {type(value).__name__}")
        except JsonInputError as error:
            raise RuntimeError(f"what it answered is no JSON object ({error})") from None
        if "error" in value:
            raise RuntimeError(str(value["error"]))
        return value

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


def run_bench(
    contenders: Sequence[Contender],
    texts: Sequence[str],
    queries: Sequence[str],
    *,
    spec: str,
    model: str,
    tokens: int,
    max_seq_length: int | None,
    rounds: int = 5,
    starts: int = 2,
    threads: int | None = None,
    device: str = "auto",
    flops_per_token: float | None = None,
    usd_per_hour: float | None = None,
    gemm_seconds: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> EncodeBench:
    """Measure *contenders* interleaved. The first that loads is the reference of all ratios.

    Args:
        contenders: the reference first.
        texts, queries: what is encoded; queries one at a time.
        spec: our spec string.
        model: what sentence-transformers loads.
        tokens: of all texts together, after truncation, padding not counted.
        max_seq_length: the same for all.
        rounds: measured rounds, after one that warms up.
        starts: fresh processes for the time to load; the least counts.
        threads: for everyone; None leaves each its default.
        device: ``auto``, ``cpu`` …
        flops_per_token: for the share of the peak, or None.
        usd_per_hour: the machine's price.
        gemm_seconds: how long each matrix product is measured, over all rounds.
        say: gets a line for each step.
    """
    absent: dict[str, str] = {}
    running: list[tuple[Contender, _Process, float, Mapping[str, Any]]] = []
    common = {
        "threads": threads,
        "device": device,
        "spec": spec,
        "model": model,
        "max_seq_length": max_seq_length,
        "sparse": spec.startswith("splade:"),
    }
    gemm: _Process | None = None
    with tempfile.TemporaryDirectory(prefix="esembed-bench-") as scratch:
        data = Path(scratch) / "texts.json"
        data.write_text(json.dumps({"texts": list(texts), "queries": list(queries)}), encoding="utf-8")
        try:
            for one in contenders:
                say(f"loading {one.name}")
                loads: list[float] = []
                for start in range(max(1, starts)):
                    try:
                        process = _Process(one.python)
                    except RuntimeError as error:
                        absent[one.name] = str(error)
                        break
                    try:
                        job = {**common, "kind": one.kind, "backend": one.backend, "dtype": one.dtype}
                        facts = process.ask("load", **job)["runtime"]
                        loads.append(time.perf_counter() - process.started)
                        if start == max(1, starts) - 1:
                            process.ask("texts", path=str(data))
                            running.append((one, process, min(loads), facts))
                        else:
                            process.stop()
                    except RuntimeError as error:
                        absent[one.name] = str(error)
                        process.stop()
                        break
            if not running:
                raise RuntimeError("; ".join(f"{name}: {reason}" for name, reason in absent.items()))
            vectors = {}
            for one, process, _, _ in running:
                say(f"warming up {one.name}")
                place = Path(scratch) / "vectors.npy"
                process.ask("vectors", path=str(place))
                vectors[one.name] = np.load(place)
                process.ask("queries", start=0, count=10)
            seconds: dict[str, list[float]] = {one.name: [] for one, *_ in running}
            cpu: dict[str, list[float]] = {one.name: [] for one, *_ in running}
            waits: dict[str, list[float]] = {one.name: [] for one, *_ in running}
            each = max(1, len(queries) // max(1, rounds))
            gemm = _Process(sys.executable)
            peak: dict[str, float] = {}
            for turn in range(rounds):
                say(f"round {turn + 1} of {rounds}")
                # start with another one each time, so that none always follows the same neighbor
                for one, process, _, _ in running[turn % len(running) :] + running[: turn % len(running)]:
                    spent = process.ask("documents")
                    seconds[one.name].append(spent["seconds"])
                    cpu[one.name].append(max(spent["cpu_seconds"], 1e-9))
                    waits[one.name] += process.ask("queries", start=turn * each, count=each)["seconds"]
                # in each round, and the best counts: at a busy moment a single measurement is too low
                ask = {
                    "threads": threads,
                    "device": device,
                    "bfloat16": has_bfloat16(),
                    "seconds": gemm_seconds / max(1, rounds),
                }
                for dtype, flops in gemm.ask("gemm", **ask)["flops"].items():
                    peak[dtype] = max(peak.get(dtype, 0.0), flops)
            peaks = {one.name: int(process.ask("peak")["bytes"]) for one, process, _, _ in running}
        finally:
            for _, process, _, _ in running:
                process.stop()
            if gemm is not None:
                gemm.stop()
    rows = _rows(running, vectors, seconds, cpu, waits, peaks, tokens, flops_per_token, peak, usd_per_hour)
    return EncodeBench(
        rows=rows,
        absent=absent,
        tokens=tokens,
        texts=len(texts),
        flops_per_token=flops_per_token,
        gemm_flops=peak,
    )


def _rows(
    running: Sequence[tuple[Contender, Any, float, Mapping[str, Any]]],
    vectors: Mapping[str, Any],
    seconds: Mapping[str, Sequence[float]],
    cpu: Mapping[str, Sequence[float]],
    waits: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int],
    tokens: int,
    flops_per_token: float | None,
    gemm: Mapping[str, float],
    usd_per_hour: float | None,
) -> list[Row]:
    reference = running[0][0].name
    peers = [one.name for one, *_ in running if one.kind == "st"]
    best = min(peers, key=lambda name: statistics.median(seconds[name])) if peers else None
    rows = []
    for one, _, load, facts in running:
        name = one.name
        pace = tokens / statistics.median(seconds[name])
        dtype = str(facts.get("dtype", one.dtype))
        top = gemm.get(dtype)
        cosines = _cosines(vectors[name], vectors[reference])
        p50 = float(np.percentile(waits[name], 50)) * 1e3
        rows.append(
            Row(
                name=name,
                runtime=facts,
                tokens_per_second=pace,
                tokens_per_cpu_second=tokens / statistics.median(cpu[name]),
                ratio=None if name == reference else _ratio(seconds[reference], seconds[name]),
                ratio_to_peer=_ratio(seconds[best], seconds[name]) if best else None,
                gemm_share=pace * flops_per_token / top if flops_per_token and top else None,
                cosine_min=float(cosines.min()),
                cosine_mean=float(cosines.mean()),
                query_p50_ms=p50,
                query_p99_ms=float(np.percentile(waits[name], 99)) * 1e3,
                query_ratio=p50 / (float(np.percentile(waits[reference], 50)) * 1e3),
                load_seconds=load,
                peak_bytes=peaks[name],
                usd_per_million_tokens=None if usd_per_hour is None else usd_per_hour / 3600 / pace * 1e6,
                rounds=[tokens / value for value in seconds[name]],
            )
        )
    return rows


def _ratio(reference: Sequence[float], mine: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(reference, mine, strict=True))


def _cosines(a: Any, b: Any) -> Any:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
