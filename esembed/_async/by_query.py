"""Deleting and changing the documents that match a filter: found by a scan, written by the pipeline.

Not by the engines' own ``_delete_by_query``: it knows neither chunks that are documents of their own nor term
statistics, no vector is encoded again by it, and not every build and every role has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esembed.answers import Versioned, part
from esembed.errors import DeleteLimitError, OptionsError, QueryError, RecordError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.ingest.sources.index import PAGE_DOCUMENTS, scan_target
from esembed.query.nodes import Filter
from esembed.types import Document

from . import documents, ingest
from ._shim import thread_transport
from .state import IndexState

__all__ = ["delete_by_query", "update_by_query"]


async def delete_by_query(
    state: IndexState,
    filter: Filter | Sequence[Filter],
    *,
    max_delete: float,
    dry_run: bool,
    options: IngestOptions | None,
    progress: Progress | None,
) -> IngestReport:
    """Delete what matches; see ``AsyncIndex.delete_by_query``."""
    if not 0 <= max_delete <= 1:
        raise OptionsError("a share between 0 and 1", option="max_delete")
    settings = _settings(options)
    clause, found = await _found(state, filter)
    if dry_run:
        return _dry(state, found)
    total = await documents.count(state)
    if found > max_delete * total:
        raise DeleteLimitError(
            f"{found} of {total} documents match ({found / total:.0%}), more than max_delete = "
            f"{max_delete:.0%}. Is it the right filter? Raise max_delete (--max-delete) if so. Nothing was "
            "deleted",
            option="max_delete",
            found=found,
            total=total,
        )
    return await ingest.ingest(state, _scan(state, clause, None), settings, progress=progress, total=found)


async def update_by_query(
    state: IndexState,
    filter: Filter | Sequence[Filter],
    fields: Mapping[str, Any],
    *,
    dry_run: bool,
    options: IngestOptions | None,
    progress: Progress | None,
) -> IngestReport:
    """Merge fields into what matches; see ``AsyncIndex.update_by_query``."""
    if not isinstance(fields, Mapping) or not fields:
        raise RecordError("fields is a mapping of the fields that change, with at least one")
    settings = _settings(options)
    clause, found = await _found(state, filter)
    if dry_run:
        return _dry(state, found)
    return await ingest.ingest(
        state, _scan(state, clause, dict(fields)), settings, progress=progress, total=found
    )


def _settings(options: IngestOptions | None) -> IngestOptions:
    """The options of the run. Raises OptionsError for those that make other records of the documents."""
    given = options or IngestOptions(apply_load_settings=False)
    for name in ("sync", "vectors_only", "transform", "fields"):
        if getattr(given, name):
            raise OptionsError("is for records of a source; leave it out", option=f"options.{name}")
    # Neither a delete nor a changed field is a reason to weigh the legs again.
    return dataclasses.replace(given, op_field=None, learn_weights=False)


async def _found(state: IndexState, filter: Filter | Sequence[Filter]) -> tuple[Mapping[str, Any], int]:
    """The filter in the engine's words, and how many documents match it now.

    Raises:
        QueryError: no filter, or one that a search would refuse.
    """
    if filter is None or (isinstance(filter, (list, tuple)) and not filter):
        raise QueryError("which documents? Pass a filter (q.match_all() for every one)", field="filter")
    state.live.require_writable("changing documents by a filter")
    clause = await state.searcher.clause(filter)
    await documents.refresh(state)
    return clause, await documents.count(state, clause)


def _dry(state: IndexState, found: int) -> IngestReport:
    return IngestReport(
        index=state.concrete_index,
        read=found,
        warnings=[f"dry run: {found} documents match, and nothing was changed"],
    )


def _scan(
    state: IndexState, clause: Mapping[str, Any], fields: Mapping[str, Any] | None
) -> Iterator[Document]:
    """What matches as records: deletes, or updates with *fields*."""
    # Here, in the caller's loop; the pages are read in a thread of the run.
    sender = thread_transport(state.client)
    target = scan_target(sender, state.concrete_index, state.capabilities, alias=state.live.alias)
    pages = target.scan(False, query=clause, size=PAGE_DOCUMENTS, sequence_numbers=True)
    return (_record(state.concrete_index, hit, fields) for hit in pages)


def _record(index: str, hit: Mapping[str, Any], fields: Mapping[str, Any] | None) -> Document:
    seen = part(Versioned, hit, f"a scan of {index}")
    return Document(
        hit["_id"],
        fields or {},
        op="delete" if fields is None else "update",
        position=f"{index}/{hit['_id']}",
        routing=hit.get("_routing"),
        unless_changed=(seen.seq_no, seen.primary_term) if fields is None else None,
    )
