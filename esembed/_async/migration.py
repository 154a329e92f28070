"""Another plan for a live index, without downtime: a new version behind the alias, then one atomic swap.

The order of things, each safe to repeat::

    refuse what can't work            nothing is changed yet
    claim the alias                   one migration at a time; a crashed one's claim is taken over
    create ALIAS-vN, mark it          the mark makes a second run resume
    copy, catch up, catch up …        re-encodes only what changed; by sequence number
    block writes on the old index     writers get 403 and try again; in-flight writes are waited for
    last catch-up, ids compared       deletes and late writes are carried over
    swap the alias                    one request; the old index stays, blocked, for a rollback

A search that embeds its query for one version must be sent to that version: see
:class:`~esembed._async.follower.AsyncFollower`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.elasticsearch.mapping import can_upgrade
from esembed.dialect.mapping import compile_mapping
from esembed.dialect.settle import fill_in, stored_meta, with_dims
from esembed.encode import contract
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.errors import IndexNotFoundError, PermanentError, PlanError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.ingest.sources.index import read_documents
from esembed.migration.copying import CopyingEncoder, Memory, compare_ids, copyable
from esembed.migration.lock import Claim
from esembed.migration.options import MigrateOptions, MigrationReport
from esembed.plan import IndexPlan
from esembed.plan.fields import PRECOMPUTED
from esembed.types import Document

from ._shim import in_thread, requester
from .aliases import MARK, checkpoint, choose_alias, claimed, enough_disk, next_name, swap, unblock
from .client import AsyncEngineClient
from .index import AsyncIndex
from .live import Live, check_name, describe, index_path, update_meta
from .probe import probe

__all__ = ["MigrateOptions", "MigrationReport", "migrate", "rollback"]


async def migrate(
    client: Any,
    name: str,
    plan: IndexPlan,
    *,
    options: MigrateOptions | None = None,
    encoder: Encoder | Mapping[str, Encoder] | None = None,
    old_encoder: Encoder | Mapping[str, Encoder] | None = None,
    allow_encoders: Collection[str] = (),
    runtime: RuntimeOptions | None = None,
    capabilities: Capabilities | None = None,
    progress: Progress | None = None,
) -> MigrationReport:
    """Bring an index to another plan while it is searched and written.

    Run it again after an interruption: it goes on where it was.

    Args:
        client: the official client.
        name: the alias (or the index, with ``options.alias``).
        plan: the new plan; the caller vouches for its encoders.
        options: see :class:`MigrateOptions`.
        encoder: encoders of the new plan, instead of loading them.
        old_encoder, allow_encoders: encoders of the old index, needed for the gate alone.
        runtime: how loaded encoders run here.
        capabilities: skip probing.
        progress: is told how far the copying is.

    Raises:
        PlanError, UnsupportedFeatureError, EncoderError: refused; nothing was changed.
        PermanentError: refused before the start (an index where an alias is needed, too little disk, another
            migration of the alias is running), or the gate was not passed; the old index serves on.
    """
    settings = options or MigrateOptions()
    engine = AsyncEngineClient(client)
    live = await describe(engine, name)
    if live is None:
        raise IndexNotFoundError(f"there is no index or alias {name!r}", index=name)
    alias = await choose_alias(engine, name, live, settings.alias)
    if stored_meta(live.mapping) is None:
        raise PlanError(f"{live.concrete!r} doesn't say how it was encoded; repair or attach it first")
    known = capabilities or await probe(engine)
    compile_mapping(with_dims(plan, lambda _: 64), known)
    async with claimed(engine, alias, "migrate") as claim:
        return await _migrate(
            client,
            name,
            alias,
            plan,
            claim=claim,
            seen=live.concrete,
            settings=settings,
            encoder=encoder,
            old_encoder=old_encoder,
            allow_encoders=allow_encoders,
            runtime=runtime,
            known=known,
            progress=progress,
        )


async def _migrate(
    client: Any,
    name: str,
    alias: str,
    plan: IndexPlan,
    *,
    claim: Claim,
    seen: str,
    settings: MigrateOptions,
    encoder: Encoder | Mapping[str, Encoder] | None,
    old_encoder: Encoder | Mapping[str, Encoder] | None,
    allow_encoders: Collection[str],
    runtime: RuntimeOptions | None,
    known: Capabilities,
    progress: Progress | None,
) -> MigrationReport:
    """What :func:`migrate` does once the alias is claimed; *seen* is the index it stood for before that."""
    started = time.monotonic()
    engine = AsyncEngineClient(client)
    live = await describe(engine, name)  # as it is now: another run may just have ended
    stored = stored_meta(live.mapping) if live is not None else None
    if live is None or stored is None:
        raise IndexNotFoundError(f"{name!r} is gone", index=name)
    pool = EncoderPool(plan, encoder=encoder, allow_encoders=None, runtime=runtime)
    resolved = await in_thread(with_dims, plan, lambda field: pool.encoder(field).info.dims)
    compiled = compile_mapping(resolved, known)
    unchanged = await in_thread(_unchanged, stored, pool.for_plan(compiled.resolved), compiled.resolved)
    report = MigrationReport(alias=alias, old=live.concrete, new=live.concrete)
    if claim.note is not None:
        report.notes.append(claim.note)
    mark = stored.rest.get(MARK)
    same_plan = fill_in(compiled.resolved, stored.plan) == stored.plan
    same_plan = same_plan and unchanged == {field for field, _ in compiled.resolved.vector_fields()}
    if same_plan and live.concrete != seen and isinstance(mark, Mapping) and mark.get("from") == seen:
        report.old, report.seconds = seen, time.monotonic() - started
        report.notes.append("another run has just done this")
        return report
    if isinstance(mark, Mapping) and mark.get("state") == "copying" and same_plan:
        # A run that ended between the swap and its last note: the alias is where it should be.
        origin = await describe(engine, check_name(str(mark.get("from"))))
        blocks = {} if origin is None else origin.settings.get("blocks") or {}
        if origin is not None and str(blocks.get("write")).lower() != "true":
            raise PermanentError(
                f"{alias!r} was moved to {live.concrete!r} by hand before the copy was complete; point it "
                f"back at {origin.concrete!r} and run the migration again"
            )
        await _finish_mark(engine, live, stored, mark)
        report.old, report.resumed = str(mark.get("from")), True
        report.seconds = time.monotonic() - started
        report.notes.append("an earlier run had moved the alias already")
        return report
    if settings.in_place and _only_upgrades(stored.plan, compiled.resolved, unchanged, known):
        await _in_place(engine, live, stored, compiled.resolved, compiled.body)
        report.in_place, report.seconds = True, time.monotonic() - started
        report.notes.append("segments keep the old form until they are merged (POST INDEX/_forcemerge)")
        return report
    learned = stored.rest.get("evidence")
    if isinstance(learned, Mapping) and "trust" in learned and plan.query == stored.plan.query:
        # Weights that the old index learned say nothing about the new one, which learns its own.
        plan = plan.replace(query=None)
    await enough_disk(engine, live, settings.disk_factor, report.notes)
    if alias != name:
        await engine.request(
            "POST", "/_aliases", body={"actions": [{"add": {"index": live.concrete, "alias": alias}}]}
        )
    report.new = await next_name(engine, alias, live.concrete)
    report.resumed = await describe(engine, report.new) is not None
    copied = copyable(stored.plan, compiled.resolved, unchanged)
    memories = {field: Memory() for field in copied}
    encoders: dict[str, Any] = {}
    for field_name, part in compiled.resolved.vector_fields():
        if part.family not in (PRECOMPUTED, "lexical"):
            inner: Any = await in_thread(pool.encoder, field_name)
            memory = memories.get(field_name)
            encoders[field_name] = inner if memory is None else CopyingEncoder(inner, memory)
    new = await AsyncIndex.create(
        client, report.new, plan, exist_ok=True, encoder=encoders or None, runtime=runtime, capabilities=known
    )
    mark = {"alias": alias, "from": live.concrete, "state": "copying"}
    await _mark(new, mark)
    report.copied = tuple(copied)
    report.encoded = tuple(field for field, _ in compiled.resolved.vector_fields() if field not in copied)
    move = _Move(engine, live.concrete, stored.plan, new, settings, memories, report, progress, claim)
    await move.copy()
    await _gate(client, live.concrete, new, settings, report, old_encoder, allow_encoders, runtime, known)
    await move.finish(mark)
    report.vectors_copied = sum(memory.hits for memory in memories.values())
    report.vectors_encoded = sum(memory.misses for memory in memories.values())
    report.seconds = time.monotonic() - started
    pool.close()
    return report


class _Move:
    """The documents of one index into another, until the alias points there."""

    def __init__(
        self,
        engine: AsyncEngineClient,
        old: str,
        old_plan: IndexPlan,
        new: AsyncIndex,
        settings: MigrateOptions,
        memories: Mapping[str, Memory],
        report: MigrationReport,
        progress: Progress | None,
        claim: Claim,
    ) -> None:
        self.engine = engine
        self.old = old
        self.old_plan = old_plan
        self.new = new
        self.settings = settings
        self.memories = memories
        self.report = report
        self.progress = progress
        self.claim = claim
        self._seen: int | None = None

    async def copy(self) -> None:
        """Everything, then what was written meanwhile, until little is."""
        await self._pass(trust=self.settings.ingest.trust)
        for _ in range(self.settings.max_catch_ups):
            carried = await self._pass()
            self.report.catch_ups.append(carried)
            if carried <= self.settings.small_catch_up:
                break

    async def _pass(self, *, trust: bool = False) -> int:
        await in_thread(self.claim.check)
        before = await checkpoint(self.engine, self.old)
        await self.engine.request("POST", f"/{index_path(self.old)}/_refresh")
        capabilities = self.new.capabilities
        records = read_documents(
            requester(self.engine),
            self.old,
            self.old_plan,
            copied=self.memories,
            kind=self.engine.kind,
            exclude_vectors=capabilities.kind == "elasticsearch" and capabilities.exclude_vectors,
            after_seq_no=self._seen,
            max_documents_per_second=self.settings.max_documents_per_second,
        )
        options = dataclasses.replace(
            self.settings.ingest,
            strict=True,
            missing_text="skip",
            op_field=None,
            refresh=True,
            sync=False,
            tuning=False,
            trust=trust,
        )
        records = self.claim.watched(records)
        ran: IngestReport = await self.new.ingest(records, options, progress=self.progress)
        self._seen = before
        return ran.read - ran.unchanged

    async def finish(self, mark: Mapping[str, Any]) -> None:
        """Block, carry over the rest, compare ids, swap; on any failure the old index is writable again."""
        await in_thread(self.claim.check)
        started = time.monotonic()
        try:
            # Adding the block waits for writes in flight; setting the setting would not.
            await self.engine.request("PUT", f"/{index_path(self.old)}/_block/write")
            self.report.catch_ups.append(await self._pass())
            sender = requester(self.engine)
            missing, extra, both = await in_thread(
                compare_ids, sender, self.old, self.new.concrete, sender=sender
            )
            if extra:
                gone = (Document(doc_id, {}, op="delete") for doc_id in extra)
                await self.new.ingest(gone, IngestOptions(strict=True, tuning=False, trust=False))
                self.report.deleted = len(extra)
            if missing:
                raise PermanentError(
                    f"{len(missing)} or more documents of {self.old!r} are not in {self.new.concrete!r} "
                    f"(for one {missing[0]!r}); the alias was not moved. Run the migration again"
                )
            self.report.documents = both
            await in_thread(self.claim.check)
            await swap(self.engine, self.report.alias, self.old, self.new.concrete)
        except BaseException:
            if not self.claim.lost:  # who took over decides now
                await unblock(self.engine, self.old)
            raise
        self.report.blocked_seconds = time.monotonic() - started
        await _mark(self.new, {**mark, "state": "done", "swapped_at": int(time.time())})


async def rollback(
    client: Any,
    alias: str,
    *,
    carry_back: bool = True,
    encoder: Encoder | Mapping[str, Encoder] | None = None,
    allow_encoders: Collection[str] = (),
    runtime: RuntimeOptions | None = None,
    capabilities: Capabilities | None = None,
) -> MigrationReport:
    """Point the alias at the version before, with what was written since carried back.

    Args:
        carry_back: bring writes and deletes since the swap into the old index; it needs the old encoder
            for changed documents. False: they are left in the newer index.

    Raises:
        PlanError: the index behind the alias did not come from a migration, or its origin is gone.
    """
    engine = AsyncEngineClient(client)
    check_name(alias)
    async with claimed(engine, alias, "rollback") as claim:
        return await _rollback(
            client,
            alias,
            claim=claim,
            carry_back=carry_back,
            encoder=encoder,
            allow_encoders=allow_encoders,
            runtime=runtime,
            capabilities=capabilities,
        )


async def _rollback(
    client: Any,
    alias: str,
    *,
    claim: Claim,
    carry_back: bool,
    encoder: Encoder | Mapping[str, Encoder] | None,
    allow_encoders: Collection[str],
    runtime: RuntimeOptions | None,
    capabilities: Capabilities | None,
) -> MigrationReport:
    """What :func:`rollback` does once the alias is claimed."""
    started = time.monotonic()
    engine = AsyncEngineClient(client)
    live = await describe(engine, alias)
    if live is None or live.concrete == alias:
        raise PlanError(f"{alias!r} is no alias of an index")
    stored = stored_meta(live.mapping)
    mark = stored.rest.get(MARK) if stored is not None else None
    origin = mark.get("from") if isinstance(mark, Mapping) else None
    if stored is None or not isinstance(origin, str) or not isinstance(mark, Mapping):
        raise PlanError(f"{live.concrete!r} did not come from a migration; there is nothing to go back to")
    check_name(origin)
    if await describe(engine, origin) is None:
        raise PlanError(f"the version before, {origin!r}, was deleted; migrate with its plan instead")
    known = capabilities or await probe(engine)
    target = await AsyncIndex.open(
        client, origin, encoder=encoder, allow_encoders=allow_encoders, runtime=runtime, capabilities=known
    )
    report = MigrationReport(alias=alias, old=live.concrete, new=origin)
    await unblock(engine, origin)
    if carry_back:
        move = _Move(engine, live.concrete, stored.plan, target, MigrateOptions(), {}, report, None, claim)
        try:
            await move.copy()
            back = target.stored.rest.get(MARK)
            await move.finish(
                dict(back) if isinstance(back, Mapping) else {"alias": alias, "state": "origin"}
            )
        except BaseException:
            if not claim.lost:
                await engine.request("PUT", f"/{index_path(origin)}/_block/write")
            raise
    else:
        await swap(engine, alias, live.concrete, origin)
        report.notes.append(f"what was written since the swap is in {live.concrete!r} only")
    report.seconds = time.monotonic() - started
    return report


# -- steps ---------------------------------------------------------------------------------------


def _unchanged(stored: meta.StoredMeta, pool: EncoderPool, plan: IndexPlan) -> frozenset[str]:
    """Vector fields whose encoder promises what it promised."""
    same = set()
    made = pool.make_contracts()
    for name, part in plan.vector_fields():
        if part.precomputed:
            same.add(name)
            continue
        old = stored.contracts.get(name)
        if old is not None and not contract.compare(old, made[name], field=name):
            same.add(name)
    return frozenset(same)


def _only_upgrades(
    old: IndexPlan, new: IndexPlan, unchanged: Collection[str], capabilities: Capabilities
) -> bool:
    if capabilities.kind != "elasticsearch" or set(old.dense) != set(new.dense):
        return False
    dense = {}
    for name, part in new.dense.items():
        was = old.dense[name]
        if name not in unchanged:
            return False
        if was.quantization != part.quantization and not can_upgrade(was.quantization, part.quantization):
            return False
        # What the mapping may change in place beside the type, brought to the old values for the comparison.
        dense[name] = part.__class__(
            **{
                f: getattr(was if f in ("quantization", "oversample", "m", "ef_construction") else part, f)
                for f in part.__struct_fields__
            }
        )
    changed = any(old.dense[n].quantization != p.quantization for n, p in new.dense.items())
    same = new.replace(dense=dense, description=old.description, query=old.query)
    return changed and same.to_dict() == {**old.to_dict()}


async def _in_place(
    engine: AsyncEngineClient,
    live: Live,
    stored: meta.StoredMeta,
    plan: IndexPlan,
    body: Mapping[str, Any],
) -> None:
    path = f"/{index_path(live.concrete)}/_mapping"
    properties = {k: v for k, v in body["mappings"]["properties"].items() if k != meta.HASH_FIELD}
    await engine.request("PUT", path, body={"properties": properties})
    if plan.query is None:
        plan = plan.replace(query=stored.plan.query)
    data = meta.build(dataclasses.replace(stored, plan=plan))
    await update_meta(engine, live.concrete, lambda _: data)


async def _mark(index: AsyncIndex, mark: Mapping[str, Any]) -> None:
    index.stored = dataclasses.replace(index.stored, rest={**index.stored.rest, MARK: dict(mark)})
    data = meta.build(index.stored)
    await update_meta(index.client, index.concrete, lambda _: data)


async def _finish_mark(
    engine: AsyncEngineClient, live: Live, stored: meta.StoredMeta, mark: Mapping[str, Any]
) -> None:
    done = {**mark, "state": "done", "swapped_at": int(time.time())}
    data = meta.build(dataclasses.replace(stored, rest={**stored.rest, MARK: done}))
    await update_meta(engine, live.concrete, lambda _: data)


async def _gate(
    client: Any,
    old: str,
    new: AsyncIndex,
    settings: MigrateOptions,
    report: MigrationReport,
    encoder: Encoder | Mapping[str, Encoder] | None,
    allow_encoders: Collection[str],
    runtime: RuntimeOptions | None,
    capabilities: Capabilities,
) -> None:
    """Compare the two versions' results. Raises PermanentError when the new one falls short.

    Without *min_overlap* and *judge* the overlap is only told.
    """
    if not settings.queries:
        return
    before = await AsyncIndex.open(
        client,
        old,
        encoder=encoder,
        allow_encoders=allow_encoders,
        runtime=runtime,
        capabilities=capabilities,
    )
    runs: list[dict[str, list[str]]] = [{}, {}]
    for run, index in zip(runs, (before, new), strict=True):
        for text in settings.queries:
            run[text] = (await index.search(text, size=settings.k)).ids
    shares = [len(set(ids) & set(runs[1][text])) / len(ids) if ids else 1.0 for text, ids in runs[0].items()]
    report.overlap = sum(shares) / len(shares)
    if settings.min_overlap is not None and report.overlap < settings.min_overlap:
        raise PermanentError(
            f"overlap@{settings.k} of old and new is {report.overlap:.3f}, the gate asks for "
            f"{settings.min_overlap}; the alias was not moved. {new.concrete!r} is kept to look "
            "into (or abort)"
        )
    if settings.judge is not None:
        report.old_score, report.new_score = settings.judge(runs[0]), settings.judge(runs[1])
        if report.new_score < report.old_score - settings.max_drop:
            raise PermanentError(
                f"the new index scores {report.new_score:.4f}, the old one {report.old_score:.4f}: more than "
                f"max_drop ({settings.max_drop}) less; the alias was not moved"
            )
