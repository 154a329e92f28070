"""Writing documents: an ingest, single changes, filling the vector fields of documents that are there.

The pipeline (:mod:`esembed.ingest.pipeline`) is blocking code in threads. Here stands what an index does
before and after it: BM25's average length, term statistics, the weights of the default query.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Mapping
from typing import Any

import msgspec

from esembed.dialect.meta import stored_meta
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.model_check import make_contract
from esembed.errors import DeleteLimitError, EncoderError, EsembedError, RecordError
from esembed.ingest.dead_letters import check_place
from esembed.ingest.options import ON_MISSING_TEXT, IngestOptions, IngestReport, LogProgress, Progress
from esembed.ingest.progress import StepProgress, WholeProgress
from esembed.ingest.sources import open_source
from esembed.ingest.term_counter import CountedState, changed_since, recount_is_due
from esembed.ingest.term_statistics import BufferedHead, apply_mapping, count_encoders, count_terms
from esembed.plan import IndexPlan
from esembed.types import Document

from . import documents, weights
from ._shim import in_thread, iterable, stoppable, thread_transport
from .live import LiveIndex, describe
from .privileges import may_change, may_write, require
from .state import IndexState
from .term_statistics import (
    STATISTICS_INDEX,
    counted_state,
    delete_statistics,
    load_statistics,
    make_statistics_index,
    save_statistics,
)

__all__ = ["backfill", "change_one", "ingest", "keep_counted", "recount_terms"]

COUNTED = "counted"
"""The key under ``_meta.esembed`` that says what the index was like when its terms were counted."""


async def ingest(
    state: IndexState,
    records: Any,
    options: IngestOptions | None = None,
    *,
    progress: Progress | None = None,
    total: int | None = None,
    keep_terms: bool = True,
) -> IngestReport:
    """Encode and write records; see ``AsyncIndex.ingest``.

    Args:
        keep_terms: afterward bring the term statistics of lexical fields up to date. False leaves them
            behind; the next ingest sees that.
    """
    from esembed.ingest.pipeline import run_ingest

    settings = options or IngestOptions()
    if settings.on_missing_text == "skip":
        warnings.warn(ON_MISSING_TEXT, DeprecationWarning, stacklevel=3)
    state.live.require_writable("an ingest")
    if settings.dead_letters is not None:
        check_place(settings.dead_letters)  # before the average length is stored and a model is loaded
    if settings.sync and state.live.alias.filter is None:
        # By a filter it is known whose documents the source should have, and sync deletes among those alone.
        # A routing alone says nothing: other tenants' documents lie on the same shards.
        state.live.require_whole("sync")
    if state.live.alias.narrows:
        # The weights are the index's: one tenant's documents must not decide them, nor be read for it.
        settings = dataclasses.replace(settings, learn_weights=False)
    whole = WholeProgress(progress or LogProgress())
    stream = await _settle_average_lengths(state, iterable(records), settings)
    # A large model takes longer to load than the first records to encode.
    with StepProgress(whole, "encoders"):
        encoders = await in_thread(
            state.pool.encoders,
            [name for name, spec in state.plan.vector_fields() if not spec.precomputed],
        )
    token_ids = await in_thread(state.pool.token_ids)
    before = None
    if keep_terms and state.lexical_fields:
        await _may_count(state)
        before = await _before_counting(state)
    sender = thread_transport(state.client)
    refused: DeleteLimitError | None = None
    report: IngestReport
    try:
        report = await stoppable(
            lambda stop: run_ingest(
                stream,
                client=sender,
                index=state.concrete_index,
                alias=state.live.alias,
                plan=state.plan,
                capabilities=state.capabilities,
                encoders=encoders,
                options=settings,
                progress=whole,
                total=total,
                token_ids=token_ids,
                stop=stop,
            )
        )
    except DeleteLimitError as error:
        # The records are in, so what follows an ingest follows this one, too.
        report, refused = error.report, error
    # Before the weights, whose known items are searched with these counts.
    if before is not None:
        await keep_counted(state, report, before, whole)
    # Without a progress of the caller's nobody is told of the weights but by the report.
    await weights.learn_after_ingest(state, settings, report, whole if progress is not None else None)
    whole.end()
    if refused is not None:
        raise refused
    return report


async def change_one(state: IndexState, document: Document, *, refresh: bool) -> None:
    """Update or delete one document.

    Raises:
        RecordError: it could not be written.
    """
    # One document is no reason to change the index's settings or to learn its weights again.
    options = IngestOptions(refresh=refresh, apply_load_settings=False, learn_weights=False)
    # Nor to write all of the term statistics again.
    report = await ingest(state, [document], options, keep_terms=False)
    if report.errors:
        error = report.errors[0]
        raise RecordError(error.reason, record_id=error.id, position=error.position)


async def backfill(
    state: IndexState, options: IngestOptions | None, *, progress: Progress | None
) -> IngestReport:
    """Fill the vector fields of the documents that are there; see ``AsyncIndex.backfill``."""
    from esembed.ingest.sources.index import encoded_from, read_index

    state.live.require_whole("backfill")
    needed = encoded_from(state.plan)
    state.live.whole_source("backfill", wanted=needed)
    settings = dataclasses.replace(options or IngestOptions(), vectors_only=True)
    total = await documents.count(state)
    records = read_index(
        thread_transport(state.client),
        state.concrete_index,
        state.capabilities,
        plan=state.plan,
        wanted=needed,
        what="backfill",
    )
    return await ingest(state, records, settings, progress=progress, total=total)


# -- term statistics of lexical fields ---------------------------------------------------------------


async def _settle_average_lengths(state: IndexState, records: Any, options: IngestOptions) -> Any:
    """The records, once the average length that BM25 divides by is fixed where the plan leaves it open.

    It is taken from the head of the records, before the first of them goes in: documents hold weights that
    were divided by it, so it can't change once there are any.
    """
    open_fields = [
        name
        for name in state.lexical_fields
        if state.plan.sparse[name].params.avgdl is None and name not in state.stored.statistics
    ]
    if not open_fields or await documents.has_any(state):
        return records
    buffered = await in_thread(lambda: BufferedHead(open_source(records)))
    needed = count_encoders(state.plan, open_fields)
    encoders = {name: await in_thread(state.pool.encoder, name) for name in needed}
    head = apply_mapping(buffered.head, options)
    counted = await in_thread(count_terms, head, state.plan, encoders)
    averages = {
        name: round(value.average_length, 1)
        for name, value in counted.items()
        if name in open_fields and value.average_length > 0
    }
    if averages:
        await _set_average_lengths(state, averages)
    return buffered


async def _set_average_lengths(state: IndexState, averages: Mapping[str, float]) -> None:
    sparse = dict(state.plan.sparse)
    for name, average in averages.items():
        params = msgspec.structs.replace(sparse[name].params, avgdl=average)
        sparse[name] = msgspec.structs.replace(sparse[name], params=params)
    plan = state.plan.replace(sparse=sparse)
    contracts = dict(state.stored.contracts)
    pool = state.pool.for_plan(plan)
    # The old contracts of these fields name another average: their encoders are checked against new ones.
    pool.accept_contracts({name: kept for name, kept in contracts.items() if name not in averages})
    for name in averages:
        contracts[name] = await in_thread(make_contract, pool.encoder(name))
    await state.store(dataclasses.replace(state.stored, plan=plan, contracts=contracts))
    pool.accept_contracts(contracts)
    state.replace_pool(pool)


async def _may_count(state: IndexState) -> None:
    """Find out, once for an index, whether the terms that a run counts can be stored: they are when its
    documents are in already.

    Raises:
        AuthorizationError: not.
    """
    if state.may_count:
        return
    trials = [*may_change(state.live, settings=False), *may_write(STATISTICS_INDEX)]
    await make_statistics_index(state.client)
    await require(state.client, "counting the terms of lexical fields", trials)
    state.may_count = True


async def _before_counting(state: IndexState) -> CountedState:
    """The index before a run; what it says of its term statistics is read again, since other processes write
    it, too."""
    live = await describe(state.client, state.concrete_index)
    fresh = None if live is None else stored_meta(live.mapping)
    if fresh is not None:
        rest = {**state.stored.rest, COUNTED: fresh.rest.get(COUNTED)}
        state.replace_stored(dataclasses.replace(state.stored, statistics=fresh.statistics, rest=rest))
    return await counted_state(state.client, state.concrete_index)


async def keep_counted(
    state: IndexState, report: IngestReport, before: CountedState | None, progress: Progress | None
) -> None:
    """Make the term statistics those of the index as it is after a run: by what the run counted where that is
    all that changed, else by counting again.

    A run that was killed, and anybody else who wrote, left the index in another state than the one that was
    noted with the counts, so the next run, this one, sees it.

    Args:
        before: the index before the run; None where there was no run, and it is looked at as it is.
    """
    after = await counted_state(state.client, state.concrete_index)
    before = before or after
    names = state.lexical_fields
    complete = all(name in state.stored.statistics for name in names)
    counted = CountedState.from_meta(state.stored.rest.get(COUNTED)) if complete else None
    if counted is not None and counted.changes_until(after) == 0:
        return
    chunk = state.plan.chunk
    separate = chunk is not None and chunk.store == "documents"
    missed = changed_since(counted, before, after, report, separate_chunks=separate)
    fresh: dict[str, LexicalStatistics] = {}
    unsettled = missed
    # Stored counts are megabytes for each field: they are read only where the run adds to them.
    if missed is not None and not recount_is_due(missed, after.documents):
        try:
            for name in names:
                digest = state.stored.statistics.get(name) if before.documents else None
                parts = [] if digest is None else [await load_statistics(state.client, digest)]
                behind = missed + sum(part.unsettled for part in parts)
                unsettled = max(unsettled or 0, behind)
                parts += [report.statistics[name]] if name in report.statistics else []
                if parts:
                    fresh[name] = dataclasses.replace(parts[0].merge(*parts[1:]), unsettled=behind)
        except EncoderError:
            unsettled = None  # another run has just put others in their place
    if not recount_is_due(unsettled, after.documents):
        await _replace_statistics(state, fresh, after)
        if unsettled:
            report.warnings.append(
                f"{', '.join(names)}: {unsettled} of {after.documents} documents were replaced or deleted "
                "since their terms were counted; they are counted again beyond 1 %, or by refresh_statistics"
            )
        return
    if state.live.alias.narrows:
        # Through one tenant's alias the others' documents are not read; a run on the whole index counts.
        return
    started = time.monotonic()
    try:
        await recount_terms(state, counted=after, progress=progress)
    except EsembedError as error:
        # The documents are in, and the next run tries it again.
        report.warnings.append(f"{', '.join(names)}: terms could not be counted again: {error}")
        return
    seconds = time.monotonic() - started
    report.stage_seconds["terms"] = seconds
    report.seconds += seconds
    why = "documents were replaced or deleted"
    if missed is None:
        why = "an earlier load ended early, or somebody else wrote to the index"
    report.warnings.append(
        f"{', '.join(names)}: terms counted again over {after.documents} documents, since {why} "
        f"({seconds:.1f} s)"
    )


async def _replace_statistics(
    state: IndexState, fresh: Mapping[str, LexicalStatistics], counted: CountedState
) -> None:
    """Store these fields' counts and the state of the index that they are of, search with them, and delete
    the ones before.

    In this order: counts that ``_meta`` names are always there, whenever a run ends.
    """
    hashes, outdated = dict(state.stored.statistics), set[str]()
    for name, statistics in fresh.items():
        old = hashes.get(name)
        hashes[name] = await save_statistics(state.client, statistics)
        encoder = state.pool.encoder(name)
        if isinstance(encoder, LexicalEncoder):
            state.use_encoder(name, encoder.with_statistics(statistics))
        if old is not None and old != hashes[name]:
            outdated.add(old)
    rest = {**state.stored.rest, COUNTED: counted.to_meta()}
    await state.store(dataclasses.replace(state.stored, statistics=hashes, rest=rest))
    for old in outdated:  # only now, that no reader is sent to them
        await delete_statistics(state.client, old)


def fields_to_count(live: LiveIndex, plan: IndexPlan) -> list[str]:
    """The text fields whose terms the plan's lexical fields count.

    Raises:
        AliasError: the alias shows a part of the index.
        UnsupportedFeatureError: a field is neither in ``_source`` nor stored by itself.
    """
    from esembed.ingest.sources.index import encoded_from

    live.require_whole("counting terms")
    needed = encoded_from(plan.only(plan.lexical_fields))
    live.whole_source("counting terms", wanted=needed)
    return needed


async def recount_terms(
    state: IndexState, *, counted: CountedState | None = None, progress: Progress | None = None
) -> None:
    """Count the terms of lexical fields again over all documents; see ``AsyncIndex.refresh_statistics``.

    Args:
        counted: the index as it was a moment ago, where that is known.
    """
    from esembed.ingest.sources.index import read_index

    needed = fields_to_count(state.live, state.plan)
    await _may_count(state)
    sender = thread_transport(state.client)
    names = state.lexical_fields
    # Taken before the reading: what is written meanwhile is seen by the next run.
    counted = counted or await counted_state(state.client, state.concrete_index)
    encoders = {name: await in_thread(state.pool.encoder, name) for name in count_encoders(state.plan, names)}
    step = StepProgress(progress, "terms", total=counted.documents)
    fresh = await in_thread(
        functools.partial(count_terms, advance=step.advance),
        read_index(
            sender,
            state.concrete_index,
            state.capabilities,
            plan=state.plan,
            wanted=needed,
            what="counting terms",
        ),
        state.plan,
        encoders,
        sender=sender,
    )
    await _replace_statistics(state, fresh, counted)
