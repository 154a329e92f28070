# Generated from esembed/_async/documents.py by scripts/run_unasync.py; change that file and run the script.
"""The documents of an index, one by one and counted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from esembed.dialect import dialect_for, meta
from esembed.errors import RecordError

from ._shim import requester
from .live import index_path
from .state import IndexState

__all__ = ["count", "document_id", "get", "has_any", "refresh", "source"]


def document_id(value: Any) -> str:
    """A document's id as the engine has it. Raises RecordError for what is no id."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # as an ingest does with a number
    raise RecordError(
        f"an id is text or a number, not {type(value).__name__}; several documents are changed by "
        "ingest([{'_id': …, 'op': 'delete'}, …])"
    )


def get(state: IndexState, id: str | int, *, vectors: bool) -> dict[str, Any] | None:
    """A document's fields, or None; see ``Index.get``."""
    plan, documents = state.plan, dialect_for(state.capabilities).documents
    hidden = [] if vectors else [plan.field_path(name) for name, _ in plan.vector_fields()]
    answer = state.client.request(
        "GET",
        f"/{index_path(state.concrete_index)}/_doc/{quote(document_id(id), safe='')}",
        params=documents.source_params(excludes=[*hidden, meta.HASH_FIELD], vectors=vectors),
        ignore=(404,),
    )
    if answer.status == 404 or not answer.body.get("found"):
        return None
    fields: dict[str, Any] = answer.body["_source"]
    return fields


def source(state: IndexState) -> Any:
    """Every document as a source of records; see ``Index.documents``."""
    from esembed.ingest.sources.index import IndexSource

    return IndexSource(
        requester(state.client),
        state.concrete_index,
        state.plan,
        state.capabilities,
        total=count(state),
    )


def count(state: IndexState) -> int:
    """How many documents a search can find (chunks that are documents of their own not counted)."""
    body: dict[str, Any] = {"query": {"match_all": {}}}
    if state.plan.chunk is not None and state.plan.chunk.store == "documents":
        body = {"query": {"bool": {"must_not": [{"exists": {"field": meta.PARENT_FIELD}}]}}}
    answer = state.client.request("POST", f"/{index_path(state.concrete_index)}/_count", body=body)
    return int(answer.body["count"])


def has_any(state: IndexState) -> bool:
    """Whether a search finds a document."""
    answer = state.client.request(
        "POST", f"/{index_path(state.concrete_index)}/_search", body={"size": 1, "_source": False}
    )
    return bool(answer.body["hits"]["hits"])


def refresh(state: IndexState) -> None:
    """Make what was written searchable."""
    state.client.request("POST", f"/{index_path(state.concrete_index)}/_refresh")
