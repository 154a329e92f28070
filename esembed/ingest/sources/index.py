"""The documents of an index as records: for backfill, copies, migrations and counting terms."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.tokens import TokenTarget, decode
from esembed.errors import RecordError
from esembed.ingest.retry import RetryPolicy
from esembed.ingest.sources.mapper import Source
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan
from esembed.transport import Transport
from esembed.types import Document, FloatArray

__all__ = ["IndexSource", "VectorSink", "read_documents", "read_index", "scan_target"]

PAGE_DOCUMENTS = 500
"""Documents of one page of a scan. With their vectors, 500 of 1,024 dims are about 10 MB of JSON."""


class VectorSink(Protocol):
    """Takes the stored vectors of one dense field, each with the text that it was made from."""

    def put(self, text: str, vector: FloatArray) -> None:
        """One vector: float32, shape (dims,)."""
        ...


class IndexSource(Source):
    """The documents of another index as records, as of the moment the reading begins (a point in time).

    Vectors that its plan's encoders made are left out, those that were brought (``given``) come along.

    Args:
        client: what carries the requests; its ``kind`` names the engine.
        index: the index.
        plan: its plan. Of an index that isn't esembed's, the target's plan: fields that the target's
            encoders fill are left out.
        exclude_vectors: the engine understands ``_source.exclude_vectors`` (see Capabilities).
        total: how many documents it has, for the ETA.
    """

    def __init__(
        self, client: Any, index: str, plan: IndexPlan, *, exclude_vectors: bool, total: int | None = None
    ) -> None:
        super().__init__()
        self._client, self._index, self._plan = client, index, plan
        self._exclude_vectors = exclude_vectors
        self.total_records = total

    def __iter__(self) -> Iterator[Document | RecordError]:
        yield from read_documents(
            self._client,
            self._index,
            self._plan,
            kind=self._client.kind,
            exclude_vectors=self._exclude_vectors,
        )


def scan_target(client: Transport, index: str, *, max_wait_seconds: float = 600.0) -> TargetIndex:
    """An index to read from, outside of any run: nobody is told of waits, nothing ends them early."""
    return TargetIndex(client, index, RetryPolicy(max_wait_seconds, threading.Event(), lambda _: None), 120.0)


def read_documents(
    client: Transport,
    index: str,
    plan: IndexPlan,
    *,
    copied: Mapping[str, VectorSink] | None = None,
    kind: str,
    exclude_vectors: bool,
    after_seq_no: int | None = None,
    max_documents_per_second: float | None = None,
) -> Iterator[Document]:
    """Every document of an index, or those written after a sequence number, as records.

    Vectors that the caller brought (``given``) are part of the record; those that encoders made are not.

    Args:
        index, plan: the index and its plan.
        copied: dense field → what takes its stored vectors along the way.
        kind: the engine, for the feature names of given sparse vectors.
        exclude_vectors: Elasticsearch leaves vectors out unless told otherwise.
        max_documents_per_second: read no faster.

    Raises:
        EngineUnavailableError: the engine stayed away for too long.
    """
    copied = copied or {}
    given = {name for name, part in plan.vector_fields() if part.precomputed and not part.chunked}
    excludes = [HASH_FIELD]
    excludes += [plan.field_path(n) for n, _ in plan.vector_fields() if n not in given and n not in copied]
    source: dict[str, Any] = {"excludes": excludes}
    if exclude_vectors:
        source["exclude_vectors"] = False
    query: dict[str, Any] = {"match_all": {}}
    if after_seq_no is not None:
        query = {"range": {"_seq_no": {"gt": after_seq_no}}}
    if plan.chunk is not None and plan.chunk.store == "documents":
        query = {"bool": {"filter": [query], "must_not": [{"exists": {"field": PARENT_FIELD}}]}}
    started = time.monotonic()
    for count, hit in enumerate(scan_target(client, index).scan(source, query=query, size=PAGE_DOCUMENTS), 1):
        fields = dict(hit.get("_source") or {})
        _hand_over(plan, fields, copied)
        for name in copied:
            fields.pop(name, None)
        if plan.chunk is not None:
            fields.pop(plan.chunk.path, None)
        for name in given & set(plan.sparse):
            fields[name] = _decoded(plan, name, fields.get(name), kind)
        for name in given:
            if fields.get(name) is None:
                fields.pop(name, None)
            elif isinstance(fields[name], str):
                fields[name] = _vector(fields[name])
        yield Document(id=hit["_id"], source=fields, position=f"{index}/{hit['_id']}")
        if max_documents_per_second:
            ahead = count / max_documents_per_second - (time.monotonic() - started)
            if ahead > 0.05:  # a shorter sleep is mostly the system's own overhead
                time.sleep(ahead)


def _vector(value: Any) -> FloatArray | None:
    # Elasticsearch gives back what it was sent: base64 of big-endian floats from 9.3 on, else a list.
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), dtype=">f4").astype(np.float32)
    if isinstance(value, list) and value:
        return np.asarray(value, dtype=np.float32)
    return None


def _decoded(plan: IndexPlan, name: str, weights: Any, kind: str) -> Any:
    if not isinstance(weights, Mapping):
        return weights
    storage = plan.sparse[name].storage
    target: TokenTarget = "elasticsearch.sparse_vector"
    if storage == "seismic":
        return {int(k): v for k, v in weights.items()}
    if storage == "rank_features" or kind == "opensearch":
        target = "elasticsearch.rank_features" if kind == "elasticsearch" else "opensearch.rank_features"
    return {decode(key, target): value for key, value in weights.items()}


def _hand_over(plan: IndexPlan, fields: Mapping[str, Any], copied: Mapping[str, VectorSink]) -> None:
    for name, sink in copied.items():
        part = plan.dense[name]
        if part.chunked and plan.chunk is not None:
            for chunk in fields.get(plan.chunk.path) or ():
                vector = _vector(chunk.get(name)) if isinstance(chunk, Mapping) else None
                if vector is not None and isinstance(chunk.get("text"), str):
                    sink.put(chunk["text"], vector)
            continue
        vector = _vector(fields.get(name))
        if vector is None:
            continue
        sink.put(part.source_text(fields) or "", vector)


def read_index(
    client: Transport,
    index: str,
    *,
    plan: IndexPlan | None = None,
    query: Mapping[str, Any] | None = None,
    max_wait_seconds: float = 600.0,
) -> Iterator[Document]:
    """Every document as of the moment the reading begins, vectors and hidden fields left out.

    Args:
        client: what carries the requests.
        index: the index.
        plan: its plan, whose vector fields are left out; None leaves out hidden fields only.
        query: only documents that match.
        max_wait_seconds: how long an engine that is away is waited for.

    Raises:
        EngineUnavailableError: it stayed away.
    """
    excludes = [HASH_FIELD, PARENT_FIELD]
    clause: dict[str, Any] = dict(query or {"match_all": {}})
    if plan is not None:
        excludes += [name for name, _ in plan.vector_fields()]
        if plan.chunk is not None:
            excludes.append(plan.chunk.path)
            if plan.chunk.store == "documents":
                clause = {"bool": {"must": [clause], "must_not": [{"exists": {"field": PARENT_FIELD}}]}}
    target = scan_target(client, index, max_wait_seconds=max_wait_seconds)
    for hit in target.scan({"excludes": excludes}, query=clause, size=PAGE_DOCUMENTS):
        yield Document(id=hit["_id"], source=hit.get("_source") or {}, position=f"{index}/{hit['_id']}")
