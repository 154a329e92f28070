"""What the ingest measurements are made of: records, encoders of known cost, a sink, an index."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.plan import DenseField, FilterField, IndexPlan, TextField
from esembed.transport import Response

__all__ = [
    "Sink",
    "TimedEncoder",
    "bench_plan",
    "cpu_seconds",
    "fresh_index",
    "machine_cpu_seconds",
    "records",
    "words",
]

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
"""
WORDS = _TEXT.split()


def words(number: int, count: int) -> str:
    """*count* words, the same for the same number."""
    chance = np.random.default_rng(number)
    return " ".join(WORDS[i] for i in chance.integers(0, len(WORDS), count))


def records(count: int, *, words_each: int = 60) -> Iterator[dict[str, Any]]:
    """Records one by one, none of them kept."""
    for n in range(count):
        yield {"id": f"r{n}", "title": words(n, 6), "body": words(n + 1_000_000, words_each), "n": n}


def bench_plan(encoder: str, dims: int | None) -> IndexPlan:
    """Two text fields, a number and one vector of both texts."""
    return IndexPlan(
        text={"title": TextField(), "body": TextField()},
        dense={"emb": DenseField(encoder=encoder, source=("title", "body"), dims=dims)},
        filter={"n": FilterField(type="integer")},
    )


class TimedEncoder:
    """Takes a fixed time for each text, by sleeping: an encoder on another device, as far as this
    machine can tell. Vectors come from a table, so that they cost next to nothing.

    Args:
        dims: of the vectors.
        seconds_per_text: how long a text takes.
    """

    def __init__(self, dims: int, seconds_per_text: float) -> None:
        self.seconds_per_text = seconds_per_text
        self._table = np.random.default_rng(5).standard_normal((4096, dims)).astype(np.float32)
        self._table /= np.linalg.norm(self._table, axis=1, keepdims=True)
        self._stats = EncodeStats()
        self._next = 0

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(spec="timed", type="dense", dims=self._table.shape[1])

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    def encode_document(self, texts: Sequence[str]) -> Any:
        """Float32, shape (len(texts), dims)."""
        if self.seconds_per_text:
            time.sleep(self.seconds_per_text * len(texts))
        rows = np.arange(self._next, self._next + len(texts)) % len(self._table)
        self._next += len(texts)
        self._stats.texts += len(texts)
        return self._table[rows]

    encode_query = encode_document

    def close(self) -> None:
        """Nothing to release."""


class Sink:
    """Answers like an engine and keeps nothing: to see this side's own time and memory.

    Args:
        seconds_per_request: how long a bulk request takes.
    """

    def __init__(self, seconds_per_request: float = 0.0) -> None:
        self._seconds = seconds_per_request

    def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Response:
        """One request."""
        if path.endswith("/_bulk"):
            if self._seconds:
                time.sleep(self._seconds)
            lines = body.count(b"\n") // 2
            return Response(200, {"items": [{"index": {"status": 201, "result": "created"}}] * lines})
        if path.endswith("/_settings"):
            return Response(200, {"sink": {"settings": {"index": {"uuid": "sink"}}}})
        if path.endswith("/_mapping"):
            return Response(200, {"sink": {"mappings": {}}})
        if path.endswith("/_count"):
            return Response(200, {"count": 0})
        return Response(200, {})


@contextmanager
def fresh_index(client: Any, capabilities: Any, plan: IndexPlan) -> Iterator[tuple[str, IndexPlan]]:
    """An index that is deleted afterward: its name, and the plan as compiled."""
    compiled = compile_mapping(plan, capabilities)
    name = f"esembed-bench-{uuid.uuid4().hex[:8]}"
    client.request("PUT", f"/{name}", body=compiled.body)
    try:
        yield name, compiled.resolved
    finally:
        client.request("DELETE", f"/{name}", ignore=(404,))


def cpu_seconds(client: Any) -> float:
    """CPU seconds of this process and of the engine's, so far. Waits a second: an engine measures its own
    no more often and tells the old figure until then."""
    time.sleep(1.1)
    nodes: Mapping[str, Any] = client.request("GET", "/_nodes/stats/process").body["nodes"]
    engine = sum(node["process"]["cpu"]["total_in_millis"] for node in nodes.values()) / 1000
    return time.process_time() + float(engine)


def machine_cpu_seconds() -> float:
    """CPU seconds that the whole machine has worked so far (Linux; 0 elsewhere): who else was busy
    during a measurement."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
