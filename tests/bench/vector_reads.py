"""How a copy should read stored vectors, in ``_source`` or beside it: bit for bit, documents a second.

    python tests/bench/vector_reads.py URL SERVER_PID [DOCUMENTS] [ROUNDS]

Both engines; indices ``esembed-bench-reads`` are made, and deleted at the end.
"""

from __future__ import annotations

import base64
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from esembed._sync.client import EngineClient
from esembed._sync.probe import probe
from esembed.dialect import dialect_for
from esembed.ingest.sources.index import scan_target

INDEX = "esembed-bench-reads"
TEXT = "the graph of a segment is built when it is written, and again when it is merged " * 12


def main(url: str, pid: int, count: int, rounds: int) -> None:
    """Measure, and print a line for each way."""
    engine = EngineClient(connected(url))
    capabilities = probe(engine)
    search = capabilities.engine == "elasticsearch"
    print(
        f"{capabilities.engine} {capabilities.version}, {count} documents with 1 kB of text, {rounds} rounds"
    )
    rng = np.random.default_rng(0)
    setting = "mapping.exclude_source_vectors" if search else "knn.derived_source.enabled"
    for dims in (384, 1024):
        raw = rng.standard_normal((count, dims)).astype(np.float32)
        unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        for similarity, vectors in (("cosine", raw), ("cosine", unit), ("l2_norm", raw)):
            for outside in ("true", "false"):
                fill(engine, search, vectors, similarity, {setting: outside})
                length = "length 1" if vectors is unit else "any length"
                print(f"{dims} dims, {similarity}, {length}, {setting}={outside}")
                read(engine, capabilities, pid, vectors, rounds)
    engine.request("DELETE", f"/{INDEX}", ignore=(404,))


def connected(url: str) -> Any:
    """The official client of what answers there."""
    from opensearchpy import OpenSearch

    try:
        OpenSearch(url).info()
    except Exception:  # noqa: BLE001 - reduced builds of Elasticsearch answer 405 there
        from elasticsearch import Elasticsearch

        return Elasticsearch(url, request_timeout=120)
    return OpenSearch(url, timeout=120)


def fill(engine: Any, search: bool, vectors: Any, similarity: str, settings: dict[str, str]) -> None:
    """A new index of one segment."""
    engine.request("DELETE", f"/{INDEX}", ignore=(404,))
    dims = vectors.shape[1]
    field: dict[str, Any] = {"type": "dense_vector", "dims": dims, "similarity": similarity}
    field["index_options"] = {"type": "flat"}
    if not search:
        method = {"name": "hnsw", "engine": "lucene", "parameters": {"m": 2, "ef_construction": 4}}
        space = {"cosine": "cosinesimil", "l2_norm": "l2"}[similarity]
        field = {"type": "knn_vector", "dimension": dims, "space_type": space, "method": method}
        settings = {**settings, "knn": "true"}
    properties = {"text": {"type": "text"}, "v": field}
    body = {
        "settings": {"index": {**settings, "refresh_interval": "-1"}},
        "mappings": {"properties": properties},
    }
    engine.request("PUT", f"/{INDEX}", body=body)
    for start in range(0, len(vectors), 250):
        lines = b"".join(
            b'{"index":{"_id":"%d"}}\n' % (start + n)
            + orjson.dumps({"text": TEXT, "v": v}, option=orjson.OPT_SERIALIZE_NUMPY)
            + b"\n"
            for n, v in enumerate(vectors[start : start + 250])
        )
        answer = engine.request("POST", f"/{INDEX}/_bulk", body=lines, timeout_seconds=120)
        assert not answer.body["errors"], str(answer.body)[:300]
    engine.request("POST", f"/{INDEX}/_refresh")
    engine.request("POST", f"/{INDEX}/_forcemerge", params={"max_num_segments": 1}, timeout_seconds=300)
    engine.request("POST", f"/{INDEX}/_refresh")


class Beside:
    """As a SourceFetch: what else a search asks for."""

    def __init__(self, section: str) -> None:
        self.section = section

    def to_body(self) -> dict[str, Any]:
        return {self.section: ["v"]}


def read(engine: Any, capabilities: Any, pid: int, vectors: Any, rounds: int) -> None:
    """Each way in turn, so that all have the same neighbors."""
    stored = dialect_for(capabilities).documents
    whole, without = stored.source_filter(vectors=True), stored.source_filter(excludes=["v"])
    ways: dict[str, tuple[Any, Any]] = {"_source": (whole, None), "fields": (without, Beside("fields"))}
    if stored.vector_doc_values:
        ways["docvalue_fields"] = (without, Beside("docvalue_fields"))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    worst = dict.fromkeys(ways, 0.0)
    same = dict.fromkeys(ways, 0)
    for number in range(rounds + 1):
        for name, (source, fetch) in ways.items():
            theirs, started = server_seconds(pid), time.perf_counter()
            found = 0
            for row, vector in scanned(engine, capabilities, source, fetch):
                found += 1
                if not number:
                    same[name] += int(np.array_equal(vector.view(np.int32), vectors[row].view(np.int32)))
                    worst[name] = max(worst[name], float(np.abs(vector - vectors[row]).max()))
            assert found == len(vectors)
            if number:
                times[name].append((time.perf_counter() - started, server_seconds(pid) - theirs))
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        equal = (
            "bit for bit" if same[name] == len(vectors) else f"{same[name]} equal, off by {worst[name]:.1e}"
        )
        micro = cpu / len(vectors) * 1e6
        print(
            f"  {name:16} {len(vectors) / wall:6,.0f} docs/s; server {micro:4,.0f} µs each; {equal}",
            flush=True,
        )


def scanned(engine: Any, capabilities: Any, source: Any, fetch: Any) -> Iterator[tuple[int, Any]]:
    """Row number and vector of each document, by esembed's own scan."""
    for hit in scan_target(engine, INDEX, capabilities).scan(source, size=500, fetch=fetch):
        value: Any = hit["_source"]["v"] if fetch is None else hit["fields"]["v"]
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value), ">f4").astype(np.float32)
        else:
            vector = np.asarray(value[0] if len(value) == 1 else value, np.float32)
        yield int(hit["_id"]), vector


def server_seconds(pid: int) -> float:
    """Processor time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[3:5]] + [2000, 3][len(sys.argv[3:5]) :]
    main(sys.argv[1], int(sys.argv[2]), *sizes)
