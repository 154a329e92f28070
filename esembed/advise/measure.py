"""Recall, latency, RAM and disk of a quantization, measured on a live engine with the caller's vectors.

Each trial is an index of its own with a random name that is deleted afterward, whatever happens.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from esembed._sync.client import EngineClient
from esembed.answers import DiskUsage, StoreSize, part, refused_line
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.names import check_name
from esembed.dialect.scope import Scope
from esembed.plan import DenseField, IndexPlan
from esembed.plan.fields import PRECOMPUTED
from esembed.query.nodes import Knn
from esembed.transport import Response, error_from_response
from esembed.types import FloatArray

__all__ = ["Measured", "TrialIndex", "measure"]

FIELD = "embedding"

_CODES = ("veq", "veb")
_VECTORS = ("vec", "vex", "vem", "vemq", "vemf", "vemb")
"""Lucene's files: quantized codes; full vectors, graph, and what describes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One trial's outcome.

    Attributes:
        shares: oversample (1.0: none asked for) → each query's share of its true neighbors.
        latency_ms: oversample → the median time of one query, round trip.
        index_seconds: bulk, refresh and merge to one segment.
        ram_bytes: off-heap bytes of codes and graph as the engine counts them, or None where it doesn't.
        disk_bytes: of the whole trial index.
        vector_disk_bytes: of its vector files, or None where the engine doesn't say.
    """

    shares: dict[float, tuple[float, ...]]
    latency_ms: dict[float, float]
    index_seconds: float
    ram_bytes: int | None
    disk_bytes: int
    vector_disk_bytes: int | None


def measure(
    client: Any,
    capabilities: Capabilities,
    vectors: FloatArray,
    queries: FloatArray,
    truth: np.ndarray[Any, np.dtype[np.int64]],
    spec: DenseField,
    *,
    k: int = 10,
    num_candidates: int = 100,
    oversamples: Sequence[float] = (1.0, 3.0),
) -> Measured:
    """Index the vectors, search, count, delete.

    Args:
        client: the official sync client.
        vectors, queries: float32, shapes (n, dims) and (m, dims), of length 1.
        truth: int64, shape (m, ≥ k): the exact neighbors.
        spec: the field to try; its dims and encoder are overridden. ``byte`` and ``bit`` fields are coded
            as :mod:`esembed.dialect.quantize_vectors` does it.
        oversamples: which rescoring factors; 1.0 is without.

    Raises:
        UnsupportedFeatureError: the engine lacks it; nothing was sent.
    """
    trial = TrialIndex(client, capabilities, spec, int(vectors.shape[1]))
    trial.create()
    try:
        started = time.monotonic()
        trial.fill(vectors)
        trial.merge()
        seconds = time.monotonic() - started
        shares: dict[float, tuple[float, ...]] = {}
        latencies: dict[float, float] = {}
        for oversample in oversamples:
            if oversample > 1 and not trial.rescores:
                continue
            shares[oversample], latencies[oversample] = trial.search(
                queries, truth, k, num_candidates, oversample
            )
        ram, disk, vector_disk = trial.sizes()
    finally:
        with contextlib.suppress(Exception):
            trial.delete()
    return Measured(
        shares=shares,
        latency_ms=latencies,
        index_seconds=seconds,
        ram_bytes=ram,
        disk_bytes=disk,
        vector_disk_bytes=vector_disk,
    )


class TrialIndex:
    """One quantization on a live engine: an index with a dense field and nothing else.

    Args:
        client: the official sync client.
        capabilities: of its engine.
        spec: the field; its encoder and dims are overridden.
        dims: of the vectors.
        name: of the index, else one with a random spec.

    Raises:
        UnsupportedFeatureError: the engine lacks it; nothing was sent.
    """

    def __init__(
        self, client: Any, capabilities: Capabilities, spec: DenseField, dims: int, *, name: str | None = None
    ) -> None:
        self.engine = EngineClient(client)
        # The index of this name is created, and deleted at the end.
        self.name = check_name(f"esembed-advise-{secrets.token_hex(6)}" if name is None else name, new=True)
        field = msgspec.structs.replace(spec, encoder=PRECOMPUTED, source=(), dims=dims, oversample=None)
        self._dialect = dialect_for(capabilities)
        self._compiled = self._dialect.mapping.compile(IndexPlan(dense={FIELD: field}))
        self.spec = self._compiled.resolved.dense[FIELD]
        self.rescores = capabilities.rescore_vector and self.spec.quantization not in ("hnsw", "flat")
        self._form = self._dialect.documents.bulk(self._compiled.resolved)

    def create(self) -> None:
        """Without replicas, and without refreshes while it is filled."""
        body = self._compiled.body
        body["settings"]["index"] |= {"number_of_replicas": 0, "refresh_interval": "-1"}
        self.engine.request("PUT", f"/{self.name}", body=body)

    def fill(self, vectors: FloatArray, *, first: int = 0) -> None:
        """Rows as documents; the row number is the id. *first*: rows before it are there already."""
        for start in range(first, len(vectors), 500):
            lines = b"".join(
                self._form.index_lines(
                    str(number), self._form.body({}, {FIELD: vectors[number]}, content_hash=None)
                )
                for number in range(start, min(start + 500, len(vectors)))
            )
            path = f"/{self.name}/_bulk"
            answer = self.engine.request("POST", path, body=lines, timeout_seconds=300)
            sent = min(500, len(vectors) - start)
            refused = refused_line(answer.body, sent, f"POST {path}")
            if refused is not None:
                raise error_from_response("POST", path, Response(refused.status, {"error": refused.error}))

    def merge(self, *, timeout_seconds: float = 3600) -> None:
        """To one segment, searchable and on disk."""
        # One segment has one graph, and it is what docs/quantization.md compares; flushed, since sizes are
        # read from the files.
        self.engine.request("POST", f"/{self.name}/_refresh", timeout_seconds=timeout_seconds)
        self.engine.request(
            "POST",
            f"/{self.name}/_forcemerge",
            params={"max_num_segments": 1},
            timeout_seconds=timeout_seconds,
        )
        self.engine.request("POST", f"/{self.name}/_refresh", timeout_seconds=timeout_seconds)
        self.engine.request("POST", f"/{self.name}/_flush", timeout_seconds=timeout_seconds)

    def search(
        self,
        queries: FloatArray,
        truth: np.ndarray[Any, np.dtype[np.int64]],
        k: int,
        num_candidates: int,
        oversample: float,
    ) -> tuple[tuple[float, ...], float]:
        """Each query's share of its true neighbors, and the median milliseconds of one query."""
        shares, times = [], []
        for vector, right in zip(queries, truth, strict=True):
            body = self.body(vector, k, num_candidates, oversample)
            started = time.perf_counter()
            answer = self.engine.request("POST", f"/{self.name}/_search", body=body)
            times.append(time.perf_counter() - started)
            found = {hit["_id"] for hit in answer.body["hits"]["hits"]}
            shares.append(len(found & {str(i) for i in right[:k]}) / k)
        return tuple(shares), float(np.median(times)) * 1000

    def body(
        self, vector: np.ndarray[Any, np.dtype[np.float32]], k: int, num_candidates: int, oversample: float
    ) -> dict[str, Any]:
        """One kNN request; an oversample of 1.0 switches the engine's own rescoring off."""
        knn = Knn(
            field=FIELD,
            vector=tuple(vector.tolist()),
            k=k,
            num_candidates=max(num_candidates, k),
            # Engines rescore the coarser codes by themselves, and this is to measure the codes alone.
            oversample=oversample if oversample > 1 else 0,
        )
        scope = Scope(capabilities=self._dialect.capabilities, plan=self._compiled.resolved)
        return {**self._dialect.query.leg_body(knn, scope), "size": k, "_source": False}

    def sizes(self) -> tuple[int | None, int, int | None]:
        """Bytes that have to be in memory, of the whole index on disk, of its vector files."""
        return _sizes(self.engine, self.name)

    def delete(self) -> None:
        """It need not exist."""
        self.engine.request("DELETE", f"/{self.name}", ignore=(404,))


def _sizes(engine: EngineClient, name: str) -> tuple[int | None, int, int | None]:
    path = f"/{name}/_stats"
    stats = engine.request("GET", path, params={"include_segment_file_sizes": True})
    primaries = part(StoreSize, stats.body, f"GET {path}").all.primaries
    disk = primaries.store.size_in_bytes
    off_heap = None if primaries.dense_vector is None else primaries.dense_vector.off_heap
    if off_heap:  # Elasticsearch
        totals = {kind: off_heap.get(f"total_{kind}_size_bytes", 0) for kind in (*_CODES, "vec", "vex")}
        kinds = part(dict[str, int], totals, f"GET {path}")
        usage = engine.request(
            "POST", f"/{name}/_disk_usage", params={"run_expensive_tasks": True}, ignore=range(400, 600)
        )
        on_disk = sum(kinds.values())
        if usage.status == 200 and name in usage.body:
            shown = part(DiskUsage, usage.body[name], f"POST /{name}/_disk_usage").fields.get(FIELD)
            if shown is not None and shown.knn_vectors_in_bytes is not None:
                on_disk = shown.knn_vectors_in_bytes
        return _hot(kinds), disk, on_disk
    sizes = (None if primaries.segments is None else primaries.segments.file_sizes) or {}
    files = {kind: value.size_in_bytes for kind, value in sizes.items() if kind in _CODES or kind in _VECTORS}
    return (_hot(files), disk, sum(files.values())) if files else (None, disk, None)


def _hot(kinds: Mapping[str, int]) -> int:
    """What a search reads at random: the graph, and the codes, or the vectors where there are none."""
    codes = sum(kinds.get(kind, 0) for kind in _CODES)
    return (codes or kinds.get("vec", 0)) + kinds.get("vex", 0)
