"""The documents of an index, one by one and counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from esembed.deadline import Deadline
from esembed.dialect import dialect_for, meta
from esembed.dialect.source_rules import SourceFetch
from esembed.errors import RecordError, UnsupportedFeatureError
from esembed.scalars import identifier

from ._shim import thread_transport
from .live import index_path
from .state import IndexState

__all__ = ["count", "document_id", "get", "has_any", "refresh", "source"]


def document_id(value: Any) -> str:
    """A document's id as the engine has it. Raises RecordError for what is no id."""
    try:
        return identifier(value)  # as an ingest does
    except ValueError as error:
        raise RecordError(
            f"{error}; several documents are changed by ingest([{{'_id': …, 'op': 'delete'}}, …])"
        ) from None


async def get(
    state: IndexState,
    id: str | int,
    *,
    vectors: bool,
    routing: str | None = None,
    deadline_seconds: float | None = None,
) -> dict[str, Any] | None:
    """A document's fields, or None; see ``AsyncIndex.get``."""
    deadline = _deadline(deadline_seconds)
    plan, format = state.plan, dialect_for(state.capabilities).documents
    live, doc_id = state.live, document_id(id)
    hidden = [] if vectors else [plan.field_path(name) for name, _ in plan.vector_fields()]
    excludes = [*hidden, meta.HASH_FIELD]
    try:
        made = [*hidden, meta.HASH_FIELD, meta.PARENT_FIELD]
        fetch = live.whole_source("get(vectors=True)", state.capabilities, made=made)
    except UnsupportedFeatureError:
        if vectors:  # a search for what is like it, by a vector that isn't there, would find nothing
            raise
        fetch = SourceFetch()

    def readable(fields: dict[str, Any]) -> dict[str, Any]:
        if vectors:
            format.read_vectors(plan, fields, [name for name, _ in plan.vector_fields()])
        return fields

    if live.alias.filter is not None or live.several or fetch:
        # A read by id knows no filter (not even when it names the alias), nor several indices, nor doc
        # values. A search does; it sees what was refreshed.
        body = {
            **fetch.to_body(),
            "query": live.alias.narrow({"ids": {"values": [doc_id]}}),
            "size": 1,
            "_source": format.source_filter(excludes=excludes, vectors=vectors),
        }
        path = f"/{index_path(state.concrete_index)}/_search"
        answer = await state.client.request(
            "POST", path, params=live.alias.params_of_search(routing), body=body, deadline=deadline
        )
        hits = answer.body["hits"]["hits"]
        return readable(fetch.document(hits[0])) if hits else None
    answer = await state.client.request(
        "GET",
        f"/{index_path(state.concrete_index)}/_doc/{quote(doc_id, safe='')}",
        params={
            **format.source_params(excludes=excludes, vectors=vectors),
            **live.alias.params_of_document(routing),
        },
        ignore=(404,),
        deadline=deadline,
    )
    if answer.status == 404 or not answer.body.get("found"):
        return None
    return readable(answer.body.get("_source") or {})


def _deadline(seconds: float | None) -> Deadline | None:
    return None if seconds is None else Deadline(seconds, in_parts=False)


async def source(state: IndexState) -> Any:
    """Every document as a source of records; see ``AsyncIndex.documents``."""
    from esembed.ingest.sources.index import IndexSource, made_again

    # Here, not with the first document: the run that reads it has changed the target's settings by then.
    state.live.whole_source(f"a copy of {state.name!r}", state.capabilities, made=made_again(state.plan))
    return IndexSource(
        thread_transport(state.client),
        state.concrete_index,
        state.plan,
        state.capabilities,
        alias=state.live.alias,
        total=await count(state),
    )


async def count(
    state: IndexState, clause: Mapping[str, Any] | None = None, *, deadline_seconds: float | None = None
) -> int:
    """How many documents a search can find (chunks that are documents of their own not counted).

    Args:
        clause: of these, as the searcher compiles it: of what the alias shows, and without chunks. None
            counts them all.
    """
    alias = state.live.alias
    if clause is None:
        chunked = state.plan.chunk is not None and state.plan.chunk.store == "documents"
        clause = alias.narrow(dict(meta.NO_CHUNKS) if chunked else {"match_all": {}})
    answer = await state.client.request(
        "POST",
        f"/{index_path(state.concrete_index)}/_count",
        params=alias.search_params,
        body={"query": clause},
        deadline=_deadline(deadline_seconds),
    )
    return int(answer.body["count"])


async def has_any(state: IndexState) -> bool:
    """Whether the index has a document, shown by the alias or not."""
    answer = await state.client.request(
        "POST", f"/{index_path(state.concrete_index)}/_search", body={"size": 1, "_source": False}
    )
    return bool(answer.body["hits"]["hits"])


async def refresh(state: IndexState) -> None:
    """Make what was written searchable."""
    await state.client.request("POST", f"/{index_path(state.concrete_index)}/_refresh")
