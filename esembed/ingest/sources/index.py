"""The documents of an index as records: for backfill, copies and counting terms."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.errors import RecordError
from esembed.ingest.sources.mapper import Source
from esembed.ingest.target import Engine, Patience, Requester
from esembed.migration.copying import read_for_copy
from esembed.plan import IndexPlan
from esembed.types import Document

__all__ = ["IndexSource", "read_index"]


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
        yield from read_for_copy(
            self._client,
            self._index,
            self._plan,
            copied={},
            kind=self._client.kind,
            exclude_vectors=self._exclude_vectors,
        )


def read_index(
    client: Requester,
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
    engine = Engine(client, index, Patience(max_wait_seconds, threading.Event(), lambda _: None), 120.0)
    for hit in engine.scan({"excludes": excludes}, query=clause, size=500):
        yield Document(id=hit["_id"], source=hit.get("_source") or {}, position=f"{index}/{hit['_id']}")
