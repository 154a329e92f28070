"""How an index comes to be open: created, opened, attached to, repaired; and how it is deleted.

All of them need the same: what the engine can do, the plan with every ``auto`` and every missing number of
dims resolved, compiled for that engine, and the plan's encoders. :func:`prepare` does it for all of them, and
for a migration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from esembed._version import __version__
from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.analysis import check_analysis_there, refused_plan
from esembed.dialect.live import ADOPTED, attach_mapping, drift, match_existing_fields
from esembed.dialect.mapping import CompiledMapping, compile_mapping
from esembed.dialect.meta import stored_meta, with_meta
from esembed.dialect.names import check_name
from esembed.encode.model_check import compare_contracts
from esembed.encode.pool import EncoderPool
from esembed.errors import (
    AliasError,
    EngineRequestError,
    IndexChangedError,
    IndexExistsError,
    IndexNotFoundError,
    MappingDriftError,
    PlanError,
)
from esembed.ingest.options import Progress
from esembed.plan import IndexPlan
from esembed.plan.checks import check_new
from esembed.plan.diff import fill_in, plan_difference, with_dims
from esembed.search.options import Reranker

from . import ingest
from ._shim import in_thread
from .aliases import (
    MIGRATION_STATE,
    create_first_version,
    is_unused,
    migration_state,
    version_name,
    versions,
    versions_before,
)
from .client import AsyncEngineClient
from .live import (
    LiveIndex,
    describe,
    describe_all,
    drop_pipeline,
    index_path,
    put_pipelines,
    write_meta,
)
from .probe import probe
from .state import Encoders, IndexState
from .term_statistics import delete_statistics

__all__ = [
    "Prepared",
    "attach",
    "create",
    "delete",
    "existing_fields",
    "open_index",
    "open_live",
    "prepare",
    "repair",
]

PLACEHOLDER_DIMS = 64
"""For compiling a plan before its models are asked for their dims: every quantization takes that many (bbq
needs at least 64, bits a multiple of 8, int4 an even number)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan that is ready for one engine.

    Attributes:
        compiled: mapping and pipelines; ``compiled.resolved`` is the plan with everything resolved.
        pool: the encoders of that plan. Those that were asked for their dims stay loaded.
    """

    compiled: CompiledMapping
    pool: EncoderPool

    @property
    def plan(self) -> IndexPlan:
        """The plan, ``auto`` values and dims resolved."""
        return self.compiled.resolved

    async def describe_itself(self, rest: Mapping[str, object]) -> meta.StoredMeta:
        """What an index of this plan says about itself; loads the plan's models for their contracts."""
        return meta.StoredMeta(
            plan=self.plan,
            contracts=await in_thread(self.pool.make_contracts),
            written_by=__version__,
            rest=rest,
        )


async def prepare(plan: IndexPlan, capabilities: Capabilities, encoders: Encoders) -> Prepared:
    """Resolve and compile a plan for an engine. Asks models for dims that it leaves open; sends nothing.

    Whether an index may be made of it is another question (:func:`esembed.plan.checks.check_new`): it may be
    there already.

    Raises:
        UnsupportedFeatureError: the engine lacks something.
        PlanError, EncoderError: the plan or a model is wrong.
    """
    # First without the models: loading one may take minutes, for a plan that the engine refuses.
    compile_mapping(with_dims(plan, lambda _: PLACEHOLDER_DIMS), capabilities, new=False)
    pool = encoders.pool(plan)
    resolved = await in_thread(with_dims, plan, lambda field: pool.encoder(field).info.dims)
    compiled = compile_mapping(resolved, capabilities, new=False)
    return Prepared(compiled=compiled, pool=pool.for_plan(compiled.resolved))


async def create(
    client: AsyncEngineClient,
    name: str,
    plan: IndexPlan,
    *,
    alias: bool,
    exist_ok: bool,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    rerankers: Mapping[str, Reranker] | None = None,
) -> IndexState:
    """Create the index that *plan* describes; see ``AsyncIndex.create``."""
    check_name(name, new=True)
    if alias:
        check_name(version_name(name, 1), new=True)
    known = capabilities or await probe(client)
    prepared = await prepare(plan, known, encoders)

    def there_already(existing: LiveIndex) -> IndexState:
        # Compared first: that the plan is another one says more than that the index exists.
        opened = _same_plan(client, existing, prepared, known, rerankers)
        behind = existing.concrete_index
        if exist_ok and not alias and behind != name:
            raise IndexExistsError(
                f"{name!r} is an alias (of {behind}), and alias=False (--no-alias) wants an index that has "
                "the name itself; leave it out to open what the alias stands for, or choose another name",
                index=name,
            )
        if exist_ok and alias and behind == name:
            own = (
                f"{name!r} has the name itself and is no alias, so a migration will need another name "
                "(docs/migration.md)"
            )
            opened.notes = (*opened.notes, own)
        if not exist_ok:
            raise IndexExistsError(
                f"the index {name!r} exists already; open it (exist_ok=True, --exist-ok), or delete it first",
                index=name,
            )
        return opened

    existing = await describe(client, name)
    if existing is not None:
        return there_already(existing)
    check_new(plan)
    # The alias in _meta, too: by it deleting "books" takes the index along, as for every later version.
    stored = await prepared.describe_itself({MIGRATION_STATE: {"alias": name}} if alias else {})
    body = with_meta(prepared.compiled.body, meta.build(stored))
    # Before the index, which names its pipeline: a document for a pipeline that isn't there is refused.
    await put_pipelines(client, prepared.compiled.pipelines)
    # With _meta in the same request, so that no index without it is left behind by a run that ends here.
    try:
        if alias:
            await create_first_version(client, name, body)
        else:
            await client.request("PUT", f"/{index_path(name)}", body=body)
    except EngineRequestError as error:
        meanwhile = await describe(client, name)
        if meanwhile is not None:  # two runs that create it at once
            return there_already(meanwhile)
        raise refused_plan(error, plan, known) from error
    live = await describe(client, name)
    if live is None:
        raise IndexChangedError(f"{name!r} was created and is gone already", index=name)
    pool = prepared.pool
    return IndexState(
        client=client,
        live=live,
        stored=stored,
        capabilities=known,
        pool=pool,
        notes=(
            *prepared.compiled.notes,
            *pool.similarity_notes(),
            *pool.sharing_notes(),
            # An index template of the cluster's owners applies to it, too.
            *live.source_rules.notes(live.mapping),
        ),
        rerankers=rerankers,
        created=True,
    )


def _same_plan(
    client: AsyncEngineClient,
    live: LiveIndex,
    prepared: Prepared,
    capabilities: Capabilities,
    rerankers: Mapping[str, Reranker] | None,
) -> IndexState:
    """An index that exists, where its plan is the prepared one. Raises IndexExistsError where it isn't."""
    stored = stored_meta(live.mapping)
    if stored is None:
        raise IndexExistsError(
            f"the index {live.name!r} exists and esembed did not make it; choose another name, or add "
            "vector fields to it with Index.attach (esembed index attach)",
            index=live.name,
        )
    wanted = fill_in(prepared.plan, stored.plan)
    if stored.plan != wanted:
        raise IndexExistsError(
            f"the index {live.name!r} exists with another plan: {plan_difference(stored.plan, wanted)}; "
            "migrate it (esembed index migrate), choose another name, or delete it",
            index=live.name,
        )
    if prepared.plan.query is not None:
        stored = meta.with_raw_allowed(stored)  # it is the query of the caller's own plan
    pool = prepared.pool.for_plan(stored.plan)
    pool.accept_contracts(stored.contracts)
    return IndexState(
        client=client,
        live=live,
        stored=stored,
        capabilities=capabilities,
        pool=pool,
        notes=live.source_rules.notes(live.mapping),
        rerankers=rerankers,
    )


async def open_index(
    client: AsyncEngineClient,
    name: str,
    *,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    rerankers: Mapping[str, Reranker] | None = None,
    allow_raw: bool = False,
) -> IndexState:
    """Open an index that esembed made, or several of one plan; see ``AsyncIndex.open``."""
    live = await describe_all(client, name)
    if live is None:
        raise IndexNotFoundError(f"there is no index {name!r}", index=name)
    return await open_live(
        client,
        live,
        encoders=encoders,
        capabilities=capabilities,
        rerankers=rerankers,
        allow_raw=allow_raw,
    )


async def open_live(
    client: AsyncEngineClient,
    live: LiveIndex,
    *,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    rerankers: Mapping[str, Reranker] | None = None,
    allow_raw: bool = False,
) -> IndexState:
    """As :func:`open_index`, of what stands behind a name already looked up."""
    stored = _stored(live)
    if allow_raw:
        stored = meta.with_raw_allowed(stored)
    return IndexState(
        client=client,
        live=live,
        stored=stored,
        # Of several indices the first: each tells a version that the server has at least.
        capabilities=capabilities or await probe(client, index=live.names[0]),
        # Contracts are checked before an encoder's first use, not here: opening loads no model.
        pool=encoders.pool(stored.plan, stored.contracts),
        notes=live.source_rules.notes(live.mapping),
        rerankers=rerankers,
        allow_raw=allow_raw,
    )


def _stored(live: LiveIndex) -> meta.StoredMeta:
    """What the indices behind a name say about themselves, which must be the same.

    Raises:
        PlanError: one says nothing, or nothing readable.
        AliasError: several indices of different plans or encoders.
    """
    found = [(one.concrete_index, stored_meta(one.mapping)) for one in live.several or (live,)]
    for name, one in found:
        if one is None:
            behind = "" if name == live.name else f" (behind {live.name!r})"
            raise PlanError(
                f"the index {name!r}{behind} does not say how it was encoded (_meta.esembed is missing): "
                "esembed did not make it (use Index.attach), or its _meta was overwritten (esembed index "
                "repair --plan)"
            )
    (first_name, first), *others = [(name, one) for name, one in found if one is not None]
    for name, other in others:
        plan = _as_one_plan(other.plan, first.plan)
        difference = None
        if plan != first.plan:
            difference = plan_difference(first.plan, plan)
        else:
            for field, spec in plan.vector_fields():
                left, right = first.contracts.get(field), other.contracts.get(field)
                if spec.family != "lexical" and left is not None and right is not None:
                    changed = compare_contracts(left, right, field=field)
                    if changed and difference is None:
                        difference = f"the encoder of {field} ({', '.join(sorted(changed))})"
        if difference is not None:
            raise AliasError(
                f"{live.name!r} stands for indices of different plans, so no query can be made for all of "
                f"them: {first_name!r} and {name!r} differ in {difference}. Name one of them, or point the "
                "alias at indices of one plan",
                alias=live.name,
            )
    return first


def _as_one_plan(plan: IndexPlan, first: IndexPlan) -> IndexPlan:
    """A plan with what may differ among indices that are searched together taken from *first*."""
    sparse = dict(plan.sparse)
    for name, field in sparse.items():
        other = first.sparse.get(name)
        if field.family == "lexical" and other is not None:
            # Settled from the first documents of each index. It is in the documents' weights alone, and a
            # query's (the statistics of all indices, see IndexState.load_statistics) are the same for all.
            params = msgspec.structs.replace(field.params, avgdl=other.params.avgdl)
            sparse[name] = msgspec.structs.replace(field, params=params)
    # The default query may have learned weights, which are each index's own; the first one's is used. So is
    # what only people read.
    return plan.replace(sparse=sparse, query=first.query, description=first.description)


async def attach(
    client: AsyncEngineClient,
    name: str,
    plan: IndexPlan,
    *,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    rerankers: Mapping[str, Reranker] | None = None,
) -> IndexState:
    """Add a plan's vector fields to an index that exists; see ``AsyncIndex.attach``."""
    live = await _there(client, name, "attaching a plan")
    # Its fields and its _meta are the whole index's.
    live.require_whole("attaching a plan")
    known = capabilities or await probe(client, index=live.concrete_index)
    existing = match_existing_fields(plan, live.mapping, known)
    if existing.problems:
        raise PlanError("the plan doesn't fit the index: " + "; ".join(existing.problems))
    prepared = await prepare(existing.plan, known, encoders)
    if stored_meta(live.mapping) is not None:
        return _same_plan(client, live, prepared, known, rerankers)
    check_new(plan, [name for name, _ in plan.vector_fields() if name not in existing.fields])
    check_analysis_there(plan, live.settings)
    additions = attach_mapping(prepared.compiled, live.mapping, live.settings, known, existing.fields)
    stored = await prepared.describe_itself({ADOPTED: sorted(existing.fields)} if existing.fields else {})
    meta.build(stored)  # raises where _meta would be too large, before anything is changed
    # The fields first: a run that ends between the two leaves an index that repair can mend. The other way
    # round the index would name fields that it doesn't have.
    await client.request("PUT", f"/{index_path(live.concrete_index)}/_mapping", body=additions)
    await write_meta(client, live.concrete_index, stored)
    return IndexState(
        client=client,
        live=await describe(client, name) or live,
        stored=stored,
        capabilities=known,
        pool=prepared.pool,
        notes=(*existing.notes, *prepared.compiled.notes, *live.source_rules.notes(live.mapping)),
        rerankers=rerankers,
    )


async def repair(
    client: AsyncEngineClient,
    name: str,
    plan: IndexPlan,
    *,
    encoders: Encoders,
    capabilities: Capabilities | None = None,
    rerankers: Mapping[str, Reranker] | None = None,
    progress: Progress | None = None,
) -> IndexState:
    """Write a lost or damaged ``_meta`` again; see ``AsyncIndex.repair``."""
    live = await _there(client, name, "repair")
    if plan.lexical_fields:
        # What was counted is lost with _meta, and is counted again from the documents at the end.
        ingest.fields_to_count(live, plan)
    known = capabilities or await probe(client, index=live.concrete_index)
    existing = match_existing_fields(plan, live.mapping, known)
    prepared = await prepare(existing.plan, known, encoders)
    compiled = prepared.compiled
    # What else is in an index (one that a plan was attached to) is no contradiction.
    differences = (
        *existing.problems,
        *(
            line
            for line in drift(compiled, live.mapping, existing.fields)
            if not line.startswith(("+ ", "~ dynamic"))
        ),
    )
    if differences:
        raise MappingDriftError(
            f"the mapping of {name!r} is not what this plan compiles to:\n"
            + "\n".join(f"  - {line}" for line in differences),
            index=name,
            differences=differences,
        )
    # Where the whole mapping is the plan's, the index was made by create, which matches no existing fields.
    matched = sorted(existing.fields) if drift(compiled, live.mapping) else None
    stored = await prepared.describe_itself({} if matched is None else {ADOPTED: matched})
    meta.build(stored)  # raises where _meta would be too large, before anything is changed
    await put_pipelines(client, compiled.pipelines)
    for pipeline in compiled.pipelines:
        if live.settings.get("default_pipeline") != pipeline:
            path = f"/{index_path(live.concrete_index)}/_settings"
            await client.request("PUT", path, body={"index": {"default_pipeline": pipeline}})
    # Last, so that an index whose _meta can be read again has its pipeline, too.
    await write_meta(client, live.concrete_index, stored)
    state = IndexState(
        client=client,
        live=await describe(client, name) or live,
        stored=stored,
        capabilities=known,
        pool=prepared.pool,
        notes=(*compiled.notes, *live.source_rules.notes(live.mapping)),
        rerankers=rerankers,
    )
    if state.lexical_fields:
        # The hash of the counts was in _meta and is lost; the documents still have the words.
        await ingest.recount_terms(state, progress=progress)
    return state


async def delete(state: IndexState, *, dry_run: bool) -> list[str]:
    """Delete an index and what only it needed; see ``AsyncIndex.delete_index``."""
    live = state.live
    live.require_whole("deleting the index")
    before: list[str] = []
    if live.name != live.concrete_index:
        # The caller's own alias says nothing about who may lose the index behind it.
        if migration_state(state.stored).get("alias") != live.name:
            raise AliasError(
                f"{live.name!r} is an alias of {live.concrete_index!r} that esembed did not make; nothing "
                "was deleted. Name the index, if that is meant",
                alias=live.name,
            )
        before = await versions_before(state.client, live.name, live)
    going = [state.concrete_index]
    for name in before:
        if await is_unused(state.client, name):
            going.append(name)
    if left := await _versions_left(state, going):
        note = (
            f"{', '.join(left)}: made for {live.name!r} by a migration that was rolled back or is under "
            "way, and not deleted; delete each by its own name"
        )
        state.notes = (*(one for one in state.notes if one != note), note)
    if dry_run:
        return going
    for name in going:
        await state.client.request("DELETE", f"/{index_path(name)}")
    # After the index: both look whether another index still names them.
    await drop_pipeline(state.client, str(live.settings.get("default_pipeline", "")))
    for digest in state.stored.statistics.values():
        await delete_statistics(state.client, digest)
    return going


async def _versions_left(state: IndexState, going: Collection[str]) -> list[str]:
    """The versions of the name that deleting these leaves, and that no alias stands for."""
    if state.live.name == state.live.concrete_index:
        return []
    try:
        found = await versions(state.client, state.live.name)
    except EngineRequestError as error:
        if error.status != 403:
            raise
        return []  # a key for the version that it deletes sees no others
    left = [name for name, own in found.items() if name not in going and own.get("alias") == state.live.name]
    return [name for name in sorted(left) if await is_unused(state.client, name)]


def existing_fields(state: IndexState) -> list[str]:
    """The vector fields that the index had before the plan was attached, which nothing is encoded for."""
    names = state.stored.rest.get(ADOPTED)
    # _meta is untrusted input: anything may stand there.
    return [str(name) for name in names] if isinstance(names, list) else []


async def _there(client: AsyncEngineClient, name: str, what: str) -> LiveIndex:
    live = await describe(client, name, what=what)
    if live is None:
        raise IndexNotFoundError(f"there is no index {name!r}", index=name)
    return live
