"""Recall, latency, RAM and disk of a quantization, measured on a live engine with the caller's vectors.

Each trial is an index of its own with a random name that is deleted afterwards, whatever happens.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esembed._sync.client import EngineClient
from esembed.capabilities import Capabilities
from esembed.dialect.bulk import BulkFormat
from esembed.dialect.mapping import compile_mapping
from esembed.plan import DenseField, IndexPlan
from esembed.types import FloatArray

__all__ = ["Measured", "measure"]

FIELD = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One trial's outcome.

    Attributes:
        shares: oversample (1.0: none asked for) → each query's share of its true neighbours.
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
    part: DenseField,
    *,
    k: int = 10,
    num_candidates: int = 100,
    oversamples: Sequence[float] = (1.0, 3.0),
) -> Measured:
    """Index the vectors, search, count, delete.

    Args:
        client: the official sync client.
        vectors, queries: float32, shapes (n, dims) and (m, dims), of length 1.
        truth: int64, shape (m, ≥ k): the exact neighbours.
        part: the field to try; its dims and encoder are overridden.
        oversamples: which rescoring factors; 1.0 is without.

    Raises:
        UnsupportedFeatureError: the engine lacks it; nothing was sent.
    """
    import msgspec

    engine = EngineClient(client)
    dims = int(vectors.shape[1])
    field = msgspec.structs.replace(part, encoder="given", source=(), dims=dims, oversample=None)
    plan = IndexPlan(dense={FIELD: field})
    compiled = compile_mapping(plan, capabilities)
    compiled.body["settings"]["index"] |= {"number_of_replicas": 0, "refresh_interval": "-1"}
    name = f"esembed-advise-{secrets.token_hex(6)}"
    engine.request("PUT", f"/{name}", body=compiled.body)
    try:
        started = time.monotonic()
        _fill(engine, name, BulkFormat.of(compiled.resolved, capabilities), vectors)
        engine.request("POST", f"/{name}/_refresh")
        engine.request("POST", f"/{name}/_forcemerge", params={"max_num_segments": 1}, timeout_seconds=1800)
        engine.request("POST", f"/{name}/_refresh")
        engine.request("POST", f"/{name}/_flush")
        seconds = time.monotonic() - started
        shares: dict[float, tuple[float, ...]] = {}
        latencies: dict[float, float] = {}
        quantized = compiled.resolved.dense[FIELD].quantization not in ("hnsw", "flat")
        for oversample in oversamples:
            if oversample > 1 and not (quantized and capabilities.rescore_vector):
                continue
            shares[oversample], latencies[oversample] = _search(
                engine, name, queries, truth, k, num_candidates, oversample
            )
        ram, disk, vector_disk = _sizes(engine, name)
    finally:
        with contextlib.suppress(Exception):
            engine.request("DELETE", f"/{name}", ignore=(404,))
    return Measured(
        shares=shares,
        latency_ms=latencies,
        index_seconds=seconds,
        ram_bytes=ram,
        disk_bytes=disk,
        vector_disk_bytes=vector_disk,
    )


def _fill(engine: EngineClient, name: str, form: BulkFormat, vectors: FloatArray) -> None:
    for start in range(0, len(vectors), 500):
        lines = b"".join(
            form.index_lines(str(number), form.body({}, {FIELD: vectors[number]}, content_hash=None))
            for number in range(start, min(start + 500, len(vectors)))
        )
        answer = engine.request("POST", f"/{name}/_bulk", body=lines, timeout_seconds=300)
        if answer.body.get("errors"):
            first = next(item["index"] for item in answer.body["items"] if "error" in item["index"])
            raise RuntimeError(f"a vector was refused: {first['error'].get('reason')}")


def query_body(
    kind: str, vector: FloatArray, k: int, num_candidates: int, oversample: float
) -> dict[str, Any]:
    """One exact-candidates kNN request; 1.0 switches the engine's own rescoring off."""
    values = vector.tolist()
    if kind == "elasticsearch":
        knn: dict[str, Any] = {
            "field": FIELD,
            "query_vector": values,
            "k": k,
            "num_candidates": max(num_candidates, k),
            "rescore_vector": {"oversample": oversample if oversample > 1 else 0},
        }
        return {"knn": knn, "size": k, "_source": False}
    inner: dict[str, Any] = {"vector": values, "k": k, "method_parameters": {"ef_search": num_candidates}}
    if oversample > 1:
        inner["rescore"] = {"oversample_factor": oversample}
    return {"query": {"knn": {FIELD: inner}}, "size": k, "_source": False}


def _search(
    engine: EngineClient,
    name: str,
    queries: FloatArray,
    truth: np.ndarray[Any, np.dtype[np.int64]],
    k: int,
    num_candidates: int,
    oversample: float,
) -> tuple[tuple[float, ...], float]:
    shares, times = [], []
    for vector, right in zip(queries, truth, strict=True):
        body = query_body(engine.kind, vector, k, num_candidates, oversample)
        started = time.perf_counter()
        answer = engine.request("POST", f"/{name}/_search", body=body)
        times.append(time.perf_counter() - started)
        found = {int(hit["_id"]) for hit in answer.body["hits"]["hits"]}
        shares.append(len(found & {int(i) for i in right[:k]}) / k)
    return tuple(shares), float(np.median(times)) * 1000


def _sizes(engine: EngineClient, name: str) -> tuple[int | None, int, int | None]:
    stats = engine.request("GET", f"/{name}/_stats").body["_all"]["primaries"]
    disk = int(stats["store"]["size_in_bytes"])
    off_heap = (stats.get("dense_vector") or {}).get("off_heap") or {}
    usage = engine.request(
        "POST", f"/{name}/_disk_usage", params={"run_expensive_tasks": True}, ignore=range(400, 600)
    )
    vector_disk = None
    if usage.status == 200 and name in usage.body:
        vector_disk = usage.body[name]["fields"].get(FIELD, {}).get("knn_vectors_in_bytes")
    quick = None
    if off_heap:
        kinds = {key: off_heap.get(f"total_{key}_size_bytes", 0) for key in ("veb", "veq", "vec", "vex")}
        codes = kinds["veb"] or kinds["veq"] or kinds["vec"]
        quick = int(codes + kinds["vex"])
    return quick, disk, vector_disk
