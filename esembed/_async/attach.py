"""A plan on an index that is there already: attached to it, or written into it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from esembed._version import __version__
from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.adopt import ADOPTED, adopt
from esembed.dialect.mapping import compile_mapping, drift
from esembed.dialect.settle import attach_mapping, stored_meta, with_dims
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.errors import IndexNotFoundError, MappingDriftError, PlanError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.plan import IndexPlan

from ._shim import in_thread
from .client import AsyncEngineClient
from .live import describe, index_path, put_pipelines, update_meta
from .probe import probe

if TYPE_CHECKING:
    from .index import AsyncIndex

__all__ = ["AttachMixin"]


class AttachMixin:
    """How :class:`AsyncIndex` comes to an index that it did not make."""

    stored: meta.StoredMeta

    @property
    def _adopted(self) -> list[str]:
        names = self.stored.rest.get(ADOPTED)
        return [str(name) for name in names] if isinstance(names, list) else []

    @classmethod
    async def attach(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        backfill: bool = True,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        options: IngestOptions | None = None,
        progress: Progress | None = None,
    ) -> tuple[AsyncIndex, IngestReport | None]:
        """Add the plan's vector fields to an index that exists, and fill them for its documents.

        The plan names the index's own text and filter fields, which are left as they are. The same call
        resumes a backfill that was interrupted. A field whose encoder is ``given`` and that the index has
        already is searched as it is: no document is written for it.

        Args:
            backfill: fill the new fields now, else :meth:`backfill` does it later.
            options, progress: of the backfill.

        Returns:
            the index, and the backfill's report (None without one).

        Raises:
            IndexNotFoundError: no such index.
            PlanError: a text or filter field of the plan is missing in the index or of another type, or a
                given field has other dims, another similarity … there.
            UnsupportedFeatureError: the engine, or this index's settings, can't take the fields.
        """
        made = cast("type[AsyncIndex]", cls)
        engine = AsyncEngineClient(client)
        live = await describe(engine, name)
        if live is None:
            raise IndexNotFoundError(f"there is no index {name!r}", index=name)
        known = capabilities or await probe(engine)
        there = adopt(plan, live.mapping, known)
        if there.problems:
            raise PlanError("the plan doesn't fit the index: " + "; ".join(there.problems))
        plan, adopted = there.plan, there.fields
        pool = EncoderPool(plan, encoder=encoder, allow_encoders=None, runtime=runtime)
        resolved = await in_thread(with_dims, plan, lambda field: pool.encoder(field).info.dims)
        compiled = compile_mapping(resolved, known)
        present = stored_meta(live.mapping)
        if present is not None:
            index = made._from_existing(engine, live, compiled.resolved, known, encoder, runtime)
        else:
            additions = attach_mapping(compiled, live.mapping, live.settings, known, adopted)
            contracts = await in_thread(pool.for_plan(compiled.resolved).make_contracts)
            stored = meta.StoredMeta(
                plan=compiled.resolved,
                contracts=contracts,
                written_by=__version__,
                rest={ADOPTED: sorted(adopted)} if adopted else {},
            )
            data = meta.build(stored)
            await engine.request("PUT", f"/{index_path(live.concrete)}/_mapping", body=additions)
            await update_meta(engine, live.concrete, lambda _: data)
            index = made(
                client=engine,
                live=await describe(engine, name) or live,
                stored=stored,
                capabilities=known,
                pool=pool.for_plan(compiled.resolved),
                notes=(*there.notes, *compiled.notes),
            )
        to_fill = set(dict(index.plan.vector_fields())) - set(index._adopted)
        return index, await index.backfill(options, progress=progress) if backfill and to_fill else None

    @classmethod
    async def repair(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
    ) -> AsyncIndex:
        """Write a lost or damaged ``_meta`` again. The caller vouches that *plan* is the one the
        index was made with; its mapping must agree with the live one.

        Raises:
            IndexNotFoundError: no such index.
            MappingDriftError: the live mapping is not what the plan compiles to; nothing was written.
        """
        made = cast("type[AsyncIndex]", cls)
        engine = AsyncEngineClient(client)
        live = await describe(engine, name)
        if live is None:
            raise IndexNotFoundError(f"there is no index {name!r}", index=name)
        known = capabilities or await probe(engine)
        there = adopt(plan, live.mapping, known)
        plan = there.plan
        pool = EncoderPool(plan, encoder=encoder, allow_encoders=None, runtime=runtime)
        resolved = await in_thread(with_dims, plan, lambda field: pool.encoder(field).info.dims)
        compiled = compile_mapping(resolved, known)
        # What else is in an index (one that a plan was attached to) is no contradiction.
        differences = (
            *there.problems,
            *(
                line
                for line in drift(compiled, live.mapping, there.fields)
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
        contracts = await in_thread(pool.for_plan(compiled.resolved).make_contracts)
        stored = meta.StoredMeta(
            plan=compiled.resolved,
            contracts=contracts,
            written_by=__version__,
            rest={ADOPTED: sorted(there.fields)} if drift(compiled, live.mapping) else {},
        )
        data = meta.build(stored)
        await put_pipelines(engine, compiled.pipelines)
        for pipeline in compiled.pipelines:
            if live.settings.get("default_pipeline") != pipeline:
                path = f"/{index_path(live.concrete)}/_settings"
                await engine.request("PUT", path, body={"index": {"default_pipeline": pipeline}})
        await update_meta(engine, live.concrete, lambda _: data)
        index = made(
            client=engine,
            live=await describe(engine, name) or live,
            stored=stored,
            capabilities=known,
            pool=pool.for_plan(compiled.resolved),
            notes=tuple(compiled.notes),
        )
        if index._lexical():
            await index.refresh_statistics()
        return index
