"""The documents of an index as records: for backfill, copies and counting terms."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.ingest.engine import Engine, Patience, Requester
from esembed.plan import IndexPlan
from esembed.types import Document

__all__ = ["read_index"]


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
