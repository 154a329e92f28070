"""Another plan for a live index, without downtime: a new version behind the alias, then one atomic swap.

The order of things, each safe to repeat::

    refuse what can't work            nothing is changed yet
    lock the alias                    one migration at a time; a crashed one's lock is taken over
    create ALIAS-vN, write its state  the migration state makes a second run resume
    copy, delta pass, delta pass …    encodes again only what changed; by sequence number
    compare the ids of both           writers still write; what an earlier run left is deleted
    delta pass, delta pass …          what was written during the comparison
    block writes on the old index     writers get 403 and try again; in-flight writes are waited for
    last delta pass                   only what happened since, told by sequence numbers
    swap the alias                    one request; the old index stays, blocked, for a rollback

A search that embeds its query for one version must be sent to that version: see
:class:`~esembed._async.follower.AsyncFollower`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for, meta
from esembed.dialect.alias import NO_ALIAS
from esembed.dialect.mapping import compile_mapping
from esembed.dialect.meta import FLOOR, stored_meta
from esembed.dialect.names import check_name
from esembed.encode.model_check import compare_contracts
from esembed.encode.pool import EncoderPool
from esembed.errors import AliasError, AuthorizationError, IndexNotFoundError, PermanentError, PlanError
from esembed.ingest.options import ALL_FIELDS, IngestOptions, IngestReport, Progress, merge_missing
from esembed.ingest.progress import StepProgress, WholeProgress
from esembed.ingest.sources.index import made_again, read_documents
from esembed.migration.copying import CopyingEncoder, OldIds, VectorCache, brought, copyable, searched_alike
from esembed.migration.lock import MigrationLock
from esembed.migration.options import MigrateOptions, MigrationReport
from esembed.plan import IndexPlan
from esembed.plan.diff import fill_in, with_dims
from esembed.plan.fields import PRECOMPUTED
from esembed.types import Document

from ._shim import in_thread, thread_transport
from .aliases import (
    MIGRATION_STATE,
    allow_writes,
    block_writes,
    choose_alias,
    enough_disk,
    locked,
    made_from,
    migration_state,
    next_name,
    properties_of,
    require_filter_fields,
    shows_as_much,
    swap,
)
from .client import AsyncEngineClient
from .ingest import ingest, keep_counted
from .live import LiveIndex, ShardSequence, describe, index_path, shard_sequences, update_meta, write_meta
from .opening import PLACEHOLDER_DIMS, create, open_index, prepare
from .privileges import may_block, may_change, may_move, may_read, may_write, require
from .probe import probe
from .state import Encoders, IndexState

__all__ = ["migrate", "rollback"]

SHORT_PASS_SECONDS = 1.0
"""A delta pass that took no longer is followed by the block: the last pass then takes about as long."""


async def migrate(
    client: AsyncEngineClient,
    name: str,
    plan: IndexPlan,
    *,
    options: MigrateOptions | None = None,
    encoders: Encoders,
    old_encoders: Encoders,
    capabilities: Capabilities | None = None,
    progress: Progress | None = None,
) -> MigrationReport:
    """Bring an index to another plan while it is searched and written; see ``AsyncIndex.migrate``.

    Args:
        client: carries the requests.
        name: the alias (or the index, with ``options.alias``).
        plan: the new plan; the caller vouches for its encoders.
        options: see :class:`MigrateOptions`.
        encoders: of the new plan.
        old_encoders: of the old index, needed for the gate alone.
        capabilities: skip probing.
        progress: is told how far the copying is.
    """
    settings = options or MigrateOptions()
    live = await describe(client, name, what="a migration")
    if live is None:
        raise IndexNotFoundError(f"there is no index or alias {name!r}", index=name)
    # All that can be refused without a model is refused before the lock, which writes to the cluster.
    alias = await choose_alias(client, name, live, settings.alias)
    if stored_meta(live.mapping) is None:
        raise PlanError(f"{live.concrete_index!r} doesn't say how it was encoded; repair or attach it first")
    known = capabilities or await probe(client, index=live.concrete_index)
    _check_readable(live, known, plan)
    compile_mapping(with_dims(plan, lambda _: PLACEHOLDER_DIMS), known)
    # Each pass is an ingest that is done; the migration is done once.
    whole = None if progress is None else WholeProgress(progress)
    async with locked(client, alias, "migrate") as lock:
        report = await _migrate(
            client,
            name,
            alias,
            plan,
            lock=lock,
            seen=live.concrete_index,
            settings=settings,
            encoders=encoders,
            old_encoders=old_encoders,
            known=known,
            progress=whole,
        )
    if whole is not None:
        whole.end()
    return report


async def _migrate(
    client: AsyncEngineClient,
    name: str,
    alias: str,
    plan: IndexPlan,
    *,
    lock: MigrationLock,
    seen: str,
    settings: MigrateOptions,
    encoders: Encoders,
    old_encoders: Encoders,
    known: Capabilities,
    progress: Progress | None,
) -> MigrationReport:
    """What :func:`migrate` does once the alias is locked; *seen* is the index it stood for before that."""
    started = time.monotonic()
    live = await describe(client, name)  # as it is now: another run may just have ended
    stored = stored_meta(live.mapping) if live is not None else None
    if live is None or stored is None:
        raise IndexNotFoundError(f"{name!r} is gone", index=name)
    prepared = await prepare(plan, known, encoders)
    resolved, pool = prepared.plan, prepared.pool
    taken = brought(stored.plan, resolved)
    unchanged = await in_thread(_unchanged, stored, pool, resolved)
    report = MigrationReport(alias=alias, old=live.concrete_index, new=live.concrete_index)
    if lock.note is not None:
        report.notes.append(lock.note)
    state = migration_state(stored)
    same_plan = fill_in(resolved, stored.plan) == stored.plan
    same_plan = same_plan and unchanged == {field for field, _ in resolved.vector_fields()}
    if same_plan and live.concrete_index != seen and state.get("from") == seen:
        report.old, report.seconds = seen, time.monotonic() - started
        report.notes.append("another run has just done this")
        return report
    if state.get("state") == "copying" and same_plan:
        # A run that ended between the swap and its last note: the alias is where it should be.
        origin = await describe(client, check_name(str(state.get("from"))))
        blocks = {} if origin is None else origin.settings.get("blocks") or {}
        # The swap comes after the block, so an old index that takes writes was never swapped by a migration.
        if origin is not None and str(blocks.get("write")).lower() != "true":
            raise AliasError(
                f"{alias!r} was moved to {live.concrete_index!r} by hand before the copy was complete; point "
                f"it back at {origin.concrete_index!r} and run the migration again",
                alias=alias,
            )
        await _write_state(client, live.concrete_index, stored, _done(state))
        report.old, report.resumed = str(state.get("from")), True
        report.seconds = time.monotonic() - started
        report.notes.append("an earlier run had moved the alias already")
        return report
    # With what the index settled since it was made, or any index with a lexical field is another one.
    as_stored = fill_in(resolved, stored.plan)
    if settings.in_place and _only_upgrades(stored.plan, as_stored, unchanged, known):
        changes = dialect_for(known).mapping.changed_settings(stored.plan.index, as_stored.index)
        await _in_place(client, live, stored, as_stored, prepared.compiled.body, changes or {})
        report.in_place, report.seconds = True, time.monotonic() - started
        if any(stored.plan.dense[n].quantization != f.quantization for n, f in resolved.dense.items()):
            report.notes.append("segments keep the old form until they are merged (POST INDEX/_forcemerge)")
        return report
    learned = stored.rest.get("evidence")
    keeps_weights = False
    if isinstance(learned, Mapping) and "trust" in learned and plan.query in (None, stored.plan.query):
        # Weights that the old index learned hold for the same texts and vectors; for others they say nothing,
        # and the new index learns its own.
        keeps_weights = searched_alike(stored.plan, as_stored, unchanged)
        plan = plan.replace(query=stored.plan.query if keeps_weights else None)
    moved = live.aliases.get(alias, NO_ALIAS)
    require_filter_fields(alias, moved, live.mapping, prepared.compiled.body["mappings"])
    await enough_disk(client, live, settings.disk_factor, report.notes)
    # What comes last, hours from now, is tried first.
    await require(
        client,
        "a migration",
        [
            *may_read(live.concrete_index, copy=True),
            *may_change(live),
            *may_move(alias, live, properties=live.aliases.get(alias)),
        ],
    )
    if alias not in (name, *live.aliases):
        # Only where it isn't there: adding it again would take its filter and its routing away.
        await client.request(
            "POST", "/_aliases", body={"actions": [{"add": {"index": live.concrete_index, "alias": alias}}]}
        )
    report.new = await next_name(client, alias, live.concrete_index)
    report.resumed = await describe(client, report.new) is not None
    copied = copyable(stored.plan, resolved, unchanged)
    memories = {field: VectorCache() for field in copied}
    copying: dict[str, Any] = {}
    for field, spec in resolved.vector_fields():
        if spec.family not in (PRECOMPUTED, "lexical"):
            inner: Any = await in_thread(pool.encoder, field)
            memory = memories.get(field)
            copying[field] = inner if memory is None else CopyingEncoder(inner, memory)
    new = await create(
        client,
        report.new,
        plan,
        alias=False,  # the alias moves when the version is whole
        exist_ok=True,  # a run before this one may have made it
        encoders=Encoders(encoder=copying or None, runtime=encoders.runtime),
        capabilities=known,
    )
    await _may_fill(client, new, alias, made=not report.resumed)
    # As the ingest will, which then finds them checked: the contracts' reference texts go through the copying
    # encoders, too, and the report counts texts of documents.
    await in_thread(
        new.pool.encoders, [name for name, spec in resolved.vector_fields() if not spec.precomputed]
    )
    for memory in memories.values():
        memory.hits = memory.misses = 0
    state = {"alias": alias, "from": live.concrete_index, "state": "copying"}
    # Before the first document: a run that ends later is resumed by it, and abort knows what to delete.
    if keeps_weights:
        kept = {key: stored.rest[key] for key in ("evidence", FLOOR) if key in stored.rest}
        rest = {**new.stored.rest, **kept}
        new.replace_stored(dataclasses.replace(new.stored, rest=rest))
        ingest_options = dataclasses.replace(settings.ingest, learn_weights=False)
        settings = dataclasses.replace(settings, ingest=ingest_options)
    await _store_state(new, state)
    report.copied = (*copied, *(name for name in taken if resolved.vector_field(name) is not None))
    report.encoded = tuple(
        name for name, field in resolved.vector_fields() if name not in copied and not field.precomputed
    )
    job = CopyJob(client, live.concrete_index, stored.plan, new, settings, memories, report, progress, lock)
    try:
        await job.copy()
        # While both versions are searchable and writers still write: nobody waits for the comparison.
        await _gate(client, live.concrete_index, new, settings, report, old_encoders, known, progress)
        await job.settle()
        await _link(client, live.concrete_index, alias, new.concrete_index)
        await job.finish(state)
    finally:
        job.close()
    if new.lexical_fields:
        # The passes after the first left the counts behind: they need no block, and a search by counts of a
        # moment ago is no worse for it.
        await keep_counted(new, IngestReport(), None, progress)
    others = sorted(set(live.aliases) - {alias})
    if others:
        report.notes.append(
            f"{live.concrete_index}, which takes no writes any more, has other aliases: {', '.join(others)}; "
            "move them, too"
        )
    report.vectors_copied = job.precomputed + sum(memory.hits for memory in memories.values())
    report.vectors_encoded = sum(memory.misses for memory in memories.values())
    report.seconds = time.monotonic() - started
    pool.close()
    return report


async def _may_fill(client: AsyncEngineClient, new: IndexState, alias: str, *, made: bool) -> None:
    """Find out whether the new version may be written, and the alias moved to it.

    Args:
        made: this run made it: it goes again where it may not be filled.

    Raises:
        AuthorizationError: it may not.
    """
    name = new.concrete_index
    try:
        await require(
            client,
            "a migration",
            [
                *may_write(name),
                *may_change(new.live),
                *may_move(alias, new.live, properties=None),
                # Of the new version, since the old one takes writes until it is copied.
                *may_block(name),
            ],
        )
        await allow_writes(client, name)
    except AuthorizationError:
        if made:
            await client.request("DELETE", f"/{index_path(name)}", ignore=(403, 404))
        raise


class CopyJob:
    """The documents of one index into another, until the alias points there."""

    def __init__(
        self,
        client: AsyncEngineClient,
        old: str,
        old_plan: IndexPlan,
        new: IndexState,
        settings: MigrateOptions,
        memories: Mapping[str, VectorCache],
        report: MigrationReport,
        progress: Progress | None,
        lock: MigrationLock,
    ) -> None:
        self.client = client
        self.old = old
        self.old_plan = old_plan
        self.new = new
        self.settings = settings
        self.memories = memories
        self.report = report
        self.progress = progress
        self.lock = lock
        self.precomputed = 0
        self._brought = brought(old_plan, new.plan)
        self._copied: dict[str, ShardSequence] | None = None  # up to which all writes were copied
        chunk = new.plan.chunk
        self._ids = OldIds(
            thread_transport(client),
            new.capabilities,
            old,
            new.concrete_index,
            separate_chunks=chunk is not None and chunk.store == "documents",
        )

    def close(self) -> None:
        """Give back what was kept on disk."""
        self._ids.close()

    async def copy(self) -> None:
        """Copy everything, then what was written meanwhile, until little is."""
        # Weights are learned from the first pass, which has nearly all documents; not from each delta. Nor
        # are terms counted after each of them.
        await in_thread(self.lock.check)
        await self._pass(learn_weights=self.settings.ingest.learn_weights, keep_terms=True)
        await self._delta_passes()

    async def _delta_passes(self) -> None:
        before = float("inf")
        for _ in range(self.settings.max_delta_passes):
            await in_thread(self.lock.check)
            started, deleted = time.monotonic(), self.report.deleted
            carried = await self._pass()
            self.report.delta_passes.append(carried)
            carried += self.report.deleted - deleted
            # The last pass, while writes are blocked, has what comes during this one and takes about as
            # long. A few documents of a slow encoder take long: another pass has fewer, until that helps no
            # more.
            seconds = time.monotonic() - started
            short = seconds <= SHORT_PASS_SECONDS or seconds > before / 2
            before = seconds
            if carried <= self.settings.small_delta and (short or not carried):
                break

    async def settle(self) -> None:
        """Compare the two versions while writers still write, so that little is left to do while they can't.

        Raises:
            PermanentError: a document is missing in the new version.
        """
        sender = thread_transport(self.client)
        step = StepProgress(self.progress, "compare")
        missing, extra, both = await in_thread(self._ids.compare, step.advance, sender=sender)
        # Left by a run that ended early, of documents that were deleted before this one began.
        await self._delete(extra)
        if missing:
            raise self._missing(len(missing), missing[0])
        self.report.documents = both
        await self._delta_passes()

    async def _delete(self, gone: Mapping[str, str | None]) -> None:
        if not gone:
            return
        options = IngestOptions(strict=True, apply_load_settings=False, learn_weights=False)
        await ingest(self.new, _deletes(gone), options, keep_terms=False)
        self.report.deleted += len(gone)

    def _changes(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, then a delete for each one that the old version has no more: deletes have no
        document to read."""
        yield from documents
        # In the run of the documents, not in one of their own: while writes are blocked each run's own
        # questions count (settings, mapping, health, count, two refreshes).
        gone = self._ids.deleted()
        self.report.deleted += len(gone)
        yield from _deletes(gone)

    def _missing(self, count: int, example: str) -> PermanentError:
        return PermanentError(
            f"{count} or more documents of {self.old!r} are not in {self.new.concrete_index!r} (for one "
            f"{example!r}); the alias was not moved. Run the migration again"
        )

    async def _pass(self, *, learn_weights: bool = False, keep_terms: bool = False) -> int:
        """Copy what was written and deleted since the pass before; returns how many were written."""
        # First the checkpoint, then the refresh, then the read: what is written in between is copied now and
        # again by the next pass. The other way round it would be copied by none.
        before = await shard_sequences(self.client, self.old)
        assert before is not None  # any refusal was raised
        if before == self._copied and all(shard.checkpoint == shard.highest for shard in before.values()):
            # Deletes have sequence numbers, too: nothing was written, deleted or is on its way.
            return 0
        after = None if self._copied is None else min(shard.checkpoint for shard in self._copied.values())
        await self.client.request("POST", f"/{index_path(self.old)}/_refresh")
        records = read_documents(
            thread_transport(self.client),
            self.old,
            self.old_plan,
            self.new.capabilities,
            copied=self.memories,
            after_seq_no=after,
            max_documents_per_second=self.settings.max_documents_per_second,
            on_read=self._ids.read,
            brought=self._brought,
        )
        options = dataclasses.replace(
            self.settings.ingest,
            strict=True,
            optional=(ALL_FIELDS,),  # what got in once gets in again
            on_missing_text="error",
            op_field=None,
            refresh=True,
            sync=False,
            apply_load_settings=False,
            learn_weights=learn_weights,
        )
        # The first pass copies everything, so that its length is known.
        sender = thread_transport(self.client)
        total = await in_thread(self._ids.count_old, sender=sender) if self._copied is None else None
        deleted = self.report.deleted
        ran: IngestReport = await ingest(
            self.new,
            self.lock.watched(self._changes(records)),
            options,
            progress=self.progress,
            total=total,
            keep_terms=keep_terms,
        )
        self.precomputed += ran.precomputed_vectors
        self.report.without_vector = merge_missing(self.report.without_vector, ran.without_vector)
        self._copied = before
        return ran.read - ran.unchanged - (self.report.deleted - deleted)

    async def finish(self, state: Mapping[str, Any]) -> None:
        """Block writes, replay the rest, swap. On any failure the old index is writable again.

        Args:
            state: the new version's migration state, which says ``done`` afterward.

        Raises:
            PermanentError: a document is missing in the new version, or another run took over.
        """
        await in_thread(self.lock.check)
        started = time.monotonic()
        try:
            await block_writes(self.client, self.old)
            # With the block in place this pass reads the last writes that there can be.
            self.report.delta_passes.append(await self._pass())
            sender = thread_transport(self.client)
            here, there = await in_thread(self._ids.counts, sender=sender)
            if here != there:
                # Nobody but a migration writes to the new version, so this is not expected: look at all ids.
                missing, extra, there = await in_thread(self._ids.compare, _ignore, sender=sender)
                await self._delete(extra)
                if missing:
                    raise self._missing(len(missing), missing[0])
            self.report.documents = there
            # Once more just before the swap: a run that was taken over must not move the alias.
            await in_thread(self.lock.check)
            properties = await properties_of(self.client, self.report.alias, self.old)
            # Both can't be written now, but for the new one by its own name.
            difference = await shows_as_much(self.client, properties, self.old, self.new.concrete_index)
            if difference is not None:
                raise PermanentError(
                    f"{difference}: what it filters by is mapped otherwise there. The alias was not moved; "
                    "map the field as it is in the old index"
                )
            await swap(
                self.client, self.report.alias, self.old, self.new.concrete_index, properties=properties
            )
        except BaseException:
            if not self.lock.lost:  # who took over decides now
                await allow_writes(self.client, self.old)
            raise
        self.report.blocked_seconds = time.monotonic() - started
        # The old index stays blocked: a write to it by its own name would be missing in the new version.
        await _store_state(self.new, _done(state))


async def rollback(
    client: AsyncEngineClient,
    alias: str,
    *,
    replay_writes: bool,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    progress: Progress | None = None,
) -> MigrationReport:
    """Point the alias at the version before; see ``AsyncIndex.rollback``."""
    check_name(alias)
    # Each pass that carries writes back is an ingest that is done; the rollback is done once.
    whole = None if progress is None else WholeProgress(progress)
    async with locked(client, alias, "rollback") as lock:
        report = await _rollback(
            client,
            alias,
            lock=lock,
            replay_writes=replay_writes,
            encoders=encoders,
            capabilities=capabilities,
            progress=whole,
        )
    if whole is not None:
        whole.end()
    return report


async def _rollback(
    client: AsyncEngineClient,
    alias: str,
    *,
    lock: MigrationLock,
    replay_writes: bool,
    encoders: Encoders,
    capabilities: Capabilities | None,
    progress: Progress | None,
) -> MigrationReport:
    """What :func:`rollback` does once the alias is locked."""
    started = time.monotonic()
    live = await describe(client, alias, what="a rollback")
    if live is None or live.concrete_index == alias:
        raise AliasError(f"{alias!r} is no alias of an index", alias=alias)
    stored = stored_meta(live.mapping)
    if live.alias.narrows and migration_state(stored).get("alias") != alias:
        live.require_whole("a rollback")  # it was another alias that the migration moved
    origin = migration_state(stored).get("from")
    if stored is None or not isinstance(origin, str) or origin == live.concrete_index:
        raise AliasError(
            f"{live.concrete_index!r} did not come from a migration; there is nothing to go back to",
            alias=alias,
        )
    before = await describe(client, origin)  # which checks the name, from _meta, which is untrusted
    if before is None:
        raise AliasError(
            f"the version before, {origin!r}, was deleted; migrate with its plan instead", alias=alias
        )
    # A rollback writes to it and deletes in it, so that it must say itself that it was this alias's.
    if not made_from(alias, live.concrete_index, migration_state(stored), before):
        raise AliasError(
            f"{live.concrete_index!r} says that it came from {origin!r}, and {origin!r} does not say that it "
            f"was a version of {alias!r}; nothing was changed. If it was one, move the alias there by hand "
            "(POST /_aliases)",
            alias=alias,
        )
    known = capabilities or await probe(client, index=live.concrete_index)
    target = await open_index(client, origin, encoders=encoders, capabilities=known)
    # Also where no writes are replayed: the filter may have been changed since the swap.
    require_filter_fields(alias, live.alias, live.mapping, before.mapping)
    if replay_writes:
        _check_readable(live, known, target.plan)
    report = MigrationReport(alias=alias, old=live.concrete_index, new=origin)
    await require(
        client,
        "a rollback",
        [
            *may_read(live.concrete_index, copy=replay_writes),
            *may_change(live),
            *may_move(alias, live, properties=live.aliases.get(alias)),
            *may_move(alias, before, properties=None),
            *may_change(before),
        ],
    )
    await allow_writes(client, origin)
    if replay_writes:
        # The same copy as a migration, the other way: what is in both is found unchanged by its hash.
        job = CopyJob(
            client, live.concrete_index, stored.plan, target, MigrateOptions(), {}, report, progress, lock
        )
        try:
            # Only now: while its writes are blocked, nothing tells who else may not write.
            await require(client, "a rollback", may_write(origin))
            await job.copy()
            await job.settle()
            back = migration_state(target.stored)
            await job.finish(dict(back) if back else {"alias": alias, "state": "origin"})
        except BaseException:
            if not lock.lost:
                await block_writes(client, origin)  # as it was found
            raise
        finally:
            job.close()
    else:
        properties = await properties_of(client, alias, live.concrete_index)
        await swap(client, alias, live.concrete_index, origin, properties=properties)
        report.notes.append(f"what was written since the swap is in {live.concrete_index!r} only")
    report.seconds = time.monotonic() - started
    return report


def _check_readable(live: LiveIndex, capabilities: Capabilities, plan: IndexPlan) -> None:
    """Refuse an index whose documents can't become those of *plan*. Vectors that its encoders make are made
    again, those that it calls precomputed are read.

    Raises:
        PlanError: stored vectors don't fit their field in *plan*.
        UnsupportedFeatureError: a field is neither in ``_source`` nor stored by itself.
    """
    stored = stored_meta(live.mapping)
    if stored is not None:
        made = made_again(stored.plan, brought(stored.plan, plan))
        live.whole_source("a migration", capabilities, made=made)


def _deletes(gone: Mapping[str, str | None]) -> Iterator[Document]:
    """A delete for each id, with its routing."""
    for doc_id, routing in gone.items():
        yield Document(doc_id, {}, op="delete", routing=routing)


def _ignore(count: int) -> None:
    """Where nobody is shown how far it is."""


# -- steps -------------------------------------------------------------------------------------------


def _unchanged(stored: meta.StoredMeta, pool: EncoderPool, plan: IndexPlan) -> frozenset[str]:
    """Vector fields whose encoder promises what it promised."""
    same = set()
    contracts = pool.make_contracts()
    for name, spec in plan.vector_fields():
        if spec.precomputed:
            same.add(name)
            continue
        old = stored.contracts.get(name)
        if old is not None and not compare_contracts(old, contracts[name], field=name):
            same.add(name)
    return frozenset(same)


def _only_upgrades(
    old: IndexPlan, new: IndexPlan, unchanged: Collection[str], capabilities: Capabilities
) -> bool:
    """Whether the plans differ in nothing but quantizations and options on disk that the live mapping can be
    changed to, settings of an open index, and which vectors a record may come without.
    """
    if set(old.dense) != set(new.dense) or set(old.sparse) != set(new.sparse):
        return False
    mapping = dialect_for(capabilities).mapping
    asked = new.with_unmapped(old)
    for name, spec in asked.vector_fields():
        # Sparse ones, too, whose vectors would be another model's. A lexical field has no model: its contract
        # differs by the average length that the index settled, and its parameters are compared below.
        if name not in unchanged and spec.family != "lexical":
            return False
    if not all(mapping.can_change_in_place(old.dense[name], field) for name, field in asked.dense.items()):
        return False
    settings = mapping.changed_settings(old.index, new.index)
    if settings is None:
        return False
    changed = asked != new or any(
        (old.dense[name].quantization, old.dense[name].disk) != (field.quantization, field.disk)
        for name, field in new.dense.items()
    )
    # But for the dense fields, these settings, and what only esembed reads, the plans must be the same.
    same = asked.replace(dense=old.dense, index=old.index, description=old.description, query=old.query)
    return (changed or bool(settings)) and same.to_dict() == {**old.to_dict()}


async def _in_place(
    client: AsyncEngineClient,
    live: LiveIndex,
    stored: meta.StoredMeta,
    plan: IndexPlan,
    body: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Change the quantization in the live mapping, and how vectors are searched in the settings."""
    path = f"/{index_path(live.concrete_index)}/_mapping"
    properties = {k: v for k, v in body["mappings"]["properties"].items() if k != meta.HASH_FIELD}
    # The mapping first: where the engine refuses it, the index still says what it is.
    await client.request("PUT", path, body={"properties": properties})
    if settings:
        path = f"/{index_path(live.concrete_index)}/_settings"
        await client.request("PUT", path, body={"index": settings})
    await write_meta(client, live.concrete_index, dataclasses.replace(stored, plan=plan))


def _done(state: Mapping[str, Any]) -> dict[str, Any]:
    """A version's migration state after the swap."""
    return {**state, "state": "done", "swapped_at": int(time.time())}


def _with_state(stored: meta.StoredMeta, state: Mapping[str, Any]) -> meta.StoredMeta:
    return dataclasses.replace(stored, rest={**stored.rest, MIGRATION_STATE: dict(state)})


async def _link(client: AsyncEngineClient, old: str, alias: str, new: str) -> None:
    """Write into the old version which one replaces it, so that a later cleanup or rollback, which finds it
    by the new version's ``_meta``, sees it confirmed. Before the swap: afterward nobody would make it up."""

    def change(own: dict[str, Any]) -> Mapping[str, Any]:
        state = own.get(MIGRATION_STATE)
        return {
            **own,
            MIGRATION_STATE: {**(state if isinstance(state, Mapping) else {}), "alias": alias, "to": new},
        }

    await update_meta(client, old, change)


async def _store_state(index: IndexState, state: Mapping[str, Any]) -> None:
    await index.store(_with_state(index.stored, state))


async def _write_state(
    client: AsyncEngineClient, index: str, stored: meta.StoredMeta, state: Mapping[str, Any]
) -> None:
    """As :func:`_store_state`, of an index that isn't open."""
    await write_meta(client, index, _with_state(stored, state))


async def _gate(
    client: AsyncEngineClient,
    old: str,
    new: IndexState,
    settings: MigrateOptions,
    report: MigrationReport,
    old_encoders: Encoders,
    capabilities: Capabilities,
    progress: Progress | None,
) -> None:
    """Compare the two versions' results. Without *min_overlap* and *quality_metric* the overlap is only
    reported.

    Raises:
        PermanentError: the new version falls short.
    """
    if not settings.queries:
        return
    before = await open_index(client, old, encoders=old_encoders, capabilities=capabilities)
    runs: list[dict[str, list[str]]] = [{}, {}]
    step = StepProgress(progress, "gate", total=2 * len(settings.queries))
    for run, index in zip(runs, (before, new), strict=True):
        for text in settings.queries:
            run[text] = (await index.searcher.search(text, size=settings.k)).ids
            step.advance()
    shares = [len(set(ids) & set(runs[1][text])) / len(ids) if ids else 1.0 for text, ids in runs[0].items()]
    report.overlap = sum(shares) / len(shares)
    if settings.min_overlap is not None and report.overlap < settings.min_overlap:
        raise PermanentError(
            f"overlap@{settings.k} of old and new is {report.overlap:.3f}, the gate asks for "
            f"{settings.min_overlap}; the alias was not moved. {new.concrete_index!r} is kept to look "
            "into (or abort)"
        )
    if settings.quality_metric is not None:
        report.old_score, report.new_score = (
            settings.quality_metric(runs[0]),
            settings.quality_metric(runs[1]),
        )
        if report.new_score < report.old_score - settings.max_drop:
            raise PermanentError(
                f"the new index scores {report.new_score:.4f}, the old one {report.old_score:.4f}: more than "
                f"max_drop ({settings.max_drop}) less; the alias was not moved"
            )
