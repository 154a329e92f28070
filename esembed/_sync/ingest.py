# Generated from esembed/_async/ingest.py by scripts/run_unasync.py; change that file and run the script.
"""Writing documents: an ingest, single changes, filling the vector fields of documents that are there.

The pipeline (:mod:`esembed.ingest.pipeline`) is blocking code in threads. Here stands what an index does
before and after it: BM25's average length, term statistics, the weights of the default query.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.model_check import make_contract
from esembed.errors import RecordError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.ingest.sources import open_source
from esembed.ingest.term_statistics import BufferedHead, apply_mapping, count_terms
from esembed.types import Document

from . import documents, weights
from ._shim import in_thread, iterable, requester, stoppable
from .state import IndexState
from .term_statistics import delete_statistics, load_statistics, save_statistics

__all__ = ["backfill", "change_one", "ingest", "recount_terms"]


def ingest(
    state: IndexState,
    records: Any,
    options: IngestOptions | None = None,
    *,
    progress: Progress | None = None,
    total: int | None = None,
) -> IngestReport:
    """Encode and write records; see ``Index.ingest``."""
    from esembed.ingest.pipeline import run_ingest

    settings = options or IngestOptions()
    state.live.require_writable("an ingest")
    if settings.sync and state.live.alias.filter is None:
        # By a filter it is known whose documents the source should have, and sync deletes among those alone.
        # A routing alone says nothing: other tenants' documents lie on the same shards.
        state.live.require_whole("sync")
    if state.live.alias.narrows:
        # The weights are the index's: one tenant's documents must not decide them, nor be read for it.
        settings = dataclasses.replace(settings, learn_weights=False)
    stream = _settle_average_lengths(state, iterable(records), settings)
    encoders = in_thread(
        state.pool.encoders,
        [name for name, spec in state.plan.vector_fields() if not spec.precomputed],
    )
    token_ids = in_thread(state.pool.token_ids)
    sender = requester(state.client)
    report: IngestReport = stoppable(
        lambda stop: run_ingest(
            stream,
            client=sender,
            index=state.concrete_index,
            alias=state.live.alias,
            plan=state.plan,
            capabilities=state.capabilities,
            encoders=encoders,
            options=settings,
            progress=progress,
            total=total,
            token_ids=token_ids,
            stop=stop,
        )
    )
    # Before the weights, whose known items are searched with these counts.
    _keep_counted(state, report)
    weights.learn_after_ingest(state, settings, report, progress)
    return report


def change_one(state: IndexState, document: Document, *, refresh: bool) -> None:
    """Update or delete one document.

    Raises:
        RecordError: it could not be written.
    """
    # One document is no reason to change the index's settings or to learn its weights again.
    options = IngestOptions(refresh=refresh, apply_load_settings=False, learn_weights=False)
    report = ingest(state, [document], options)
    if report.errors:
        error = report.errors[0]
        raise RecordError(error.reason, record_id=error.id, position=error.position)


def backfill(state: IndexState, options: IngestOptions | None, *, progress: Progress | None) -> IngestReport:
    """Fill the vector fields of the documents that are there; see ``Index.backfill``."""
    from esembed.ingest.sources.index import encoded_from, read_index

    state.live.require_whole("backfill")
    needed = encoded_from(state.plan)
    _check_readable(state, "backfill", needed)
    settings = dataclasses.replace(options or IngestOptions(), vectors_only=True)
    total = documents.count(state)
    records = read_index(
        requester(state.client),
        state.concrete_index,
        state.capabilities,
        plan=state.plan,
        wanted=needed,
        what="backfill",
    )
    return ingest(state, records, settings, progress=progress, total=total)


def _check_readable(state: IndexState, what: str, needed: Collection[str]) -> None:
    """Refuse what reads fields that the index doesn't keep, before anything is changed.

    Raises:
        UnsupportedFeatureError: a field is neither in ``_source`` nor stored by itself.
    """
    state.live.source_rules.fetch(state.live.mapping, what=what, wanted=needed)


# -- term statistics of lexical fields ---------------------------------------------------------------


def _settle_average_lengths(state: IndexState, records: Any, options: IngestOptions) -> Any:
    """The records, once the average length that BM25 divides by is fixed where the plan leaves it open.

    It is taken from the head of the records, before the first of them goes in: documents hold weights that
    were divided by it, so it can't change once there are any.
    """
    open_fields = [
        name
        for name in state.lexical_fields
        if state.plan.sparse[name].params.avgdl is None and name not in state.stored.statistics
    ]
    if not open_fields or documents.has_any(state):
        return records
    buffered = in_thread(lambda: BufferedHead(open_source(records)))
    encoders = {name: state.pool.encoder(name) for name in open_fields}
    head = apply_mapping(buffered.head, options)
    counted = in_thread(count_terms, head, state.plan.only(open_fields), encoders)
    averages = {
        name: round(value.average_length, 1) for name, value in counted.items() if value.average_length > 0
    }
    if averages:
        _set_average_lengths(state, averages)
    return buffered


def _set_average_lengths(state: IndexState, averages: Mapping[str, float]) -> None:
    sparse = dict(state.plan.sparse)
    for name, average in averages.items():
        params = msgspec.structs.replace(sparse[name].params, avgdl=average)
        sparse[name] = msgspec.structs.replace(sparse[name], params=params)
    plan = state.plan.replace(sparse=sparse)
    contracts = dict(state.stored.contracts)
    pool = state.pool.for_plan(plan)
    # The old contracts of these fields name another average: their encoders are checked against new ones.
    pool.trust({name: kept for name, kept in contracts.items() if name not in averages})
    for name in averages:
        contracts[name] = in_thread(make_contract, pool.encoder(name))
    state.store(dataclasses.replace(state.stored, plan=plan, contracts=contracts))
    pool.trust(contracts)
    state.replace_pool(pool)


def _keep_counted(state: IndexState, report: IngestReport) -> None:
    """Add what an ingest counted to the stored statistics."""
    counted = {name: value for name, value in report.statistics.items() if value.documents}
    if not counted:
        return
    for name, old in state.stored.statistics.items():
        if name in counted and not report.statistics_complete:
            counted[name] = (load_statistics(state.client, old)).merge(counted[name])
    _replace_statistics(state, counted)


def _replace_statistics(state: IndexState, fresh: Mapping[str, LexicalStatistics]) -> None:
    """Store these fields' counts, search with them, and delete the ones before.

    In this order: counts that ``_meta`` names are always there, whenever a run ends.
    """
    hashes, outdated = dict(state.stored.statistics), set[str]()
    for name, statistics in fresh.items():
        old = hashes.get(name)
        hashes[name] = save_statistics(state.client, statistics)
        encoder = state.pool.encoder(name)
        if isinstance(encoder, LexicalEncoder):
            state.use_encoder(name, encoder.with_statistics(statistics))
        if old is not None and old != hashes[name]:
            outdated.add(old)
    state.store(dataclasses.replace(state.stored, statistics=hashes))
    for old in outdated:  # only now, that no reader is sent to them
        delete_statistics(state.client, old)


def recount_terms(state: IndexState) -> None:
    """Count the terms of lexical fields again over all documents; see ``Index.refresh_statistics``."""
    from esembed.ingest.sources.index import encoded_from, read_index

    state.live.require_whole("counting terms")
    needed = encoded_from(state.plan.only(state.lexical_fields))
    _check_readable(state, "counting terms", needed)
    sender = requester(state.client)
    names = state.lexical_fields
    encoders = {name: in_thread(state.pool.encoder, name) for name in names}
    fresh = in_thread(
        count_terms,
        read_index(
            sender,
            state.concrete_index,
            state.capabilities,
            plan=state.plan,
            wanted=needed,
            what="counting terms",
        ),
        state.plan.only(names),
        encoders,
        sender=sender,
    )
    _replace_statistics(state, fresh)
