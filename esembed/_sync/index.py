# Generated from esembed/_async/index.py by scripts/run_unasync.py; change that file and run the script.
"""A plan on a live engine: create it, open it, fill it, search it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from esembed._version import __version__
from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.fields import mapped_types
from esembed.dialect.mapping import compile_mapping, drift
from esembed.dialect.settle import (
    fill_in,
    plan_difference,
    stored_meta,
    with_dims,
    with_meta,
)
from esembed.encode import contract
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.errors import IndexExistsError, IndexNotFoundError, PlanError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.migration.options import MigrateOptions, MigrationReport
from esembed.plan import IndexPlan
from esembed.query import Query
from esembed.search.options import Reranker, check_rerankers

from . import relevance, weights
from ._shim import as_sync, in_thread
from .attach import AttachMixin
from .client import EngineClient
from .documents import DocumentsMixin
from .live import Live, check_name, describe, drop_pipeline, index_path, put_pipelines
from .probe import probe
from .search import Searcher

if TYPE_CHECKING:
    from esembed.evaluate.datasets import Dataset, Run
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.tuning import Tuned, TuneOptions
    from esembed.weights.estimate import TrustOptions, TrustReport

__all__ = ["Index"]

P = ParamSpec("P")
R = TypeVar("R")


def _by_searcher(
    method: Callable[Concatenate[Searcher, P], R],
) -> Callable[Concatenate[Index, P], R]:
    """A method of the searcher as a method of the index: same parameters, same types, same docstring."""

    @functools.wraps(method)
    def call(self: Index, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.searcher(), *args, **kwargs)

    return call  # type: ignore[return-value]


class Index(AttachMixin, DocumentsMixin):
    """A plan on a live engine. Made by :meth:`create`, :meth:`open` or :meth:`attach`.

    Attributes:
        name: the name it was asked for by (an index or an alias).
        concrete: the one index behind that name.
        plan: the plan as the index has it, ``auto`` values resolved.
        capabilities: what the engine can do.
        client: the seam over the caller's client.
        pool: the encoders of the plan's fields.
        rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``.
        notes: what was resolved or can't be checked, one line each.
    """

    def __init__(
        self,
        *,
        client: EngineClient,
        live: Live,
        stored: meta.StoredMeta,
        capabilities: Capabilities,
        pool: EncoderPool,
        notes: tuple[str, ...] = (),
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> None:
        self.client = client
        self.name = live.name
        self.concrete = live.concrete
        self.uuid = live.uuid
        self.plan = stored.plan
        self.stored = stored
        self.capabilities = capabilities
        self.pool = pool
        self.notes = notes
        self.rerankers = check_rerankers(rerankers)
        self._live = live
        self._searcher: Searcher | None = None

    def __repr__(self) -> str:
        behind = "" if self.concrete == self.name else f" (alias of {self.concrete})"
        known = self.capabilities
        return f"<{type(self).__name__} {self.name}{behind} on {known.kind} {known.version}>"

    # -- making and opening --------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        exist_ok: bool = False,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> Index:
        """Create the index that *plan* describes.

        Args:
            client: the official client; it stays the caller's.
            name: the new index's name.
            plan: what it is; ``auto`` values and missing dims are resolved and recorded.
            exist_ok: an index that exists with the same plan is opened instead.
            encoder: encoders to use instead of loading the plan's, one or one for each field.
            runtime: how loaded encoders run here.
            capabilities: skip probing.
            rerankers: see :meth:`open`.

        Raises:
            IndexExistsError: it exists (with another plan, where *exist_ok*).
            UnsupportedFeatureError: the engine lacks something; nothing was created.
            PlanError, EncoderError: the plan or a model is wrong; nothing was created.
        """
        check_name(name)
        engine = EngineClient(client)
        known = capabilities or probe(engine)
        # A plan that the engine can't do is refused before a model is loaded for it.
        compile_mapping(with_dims(plan, lambda _: 64), known)
        pool = EncoderPool(plan, encoder=encoder, allow_encoders=None, runtime=runtime)
        resolved = in_thread(with_dims, plan, lambda field: pool.encoder(field).info.dims)
        compiled = compile_mapping(resolved, known)
        existing = describe(engine, name)
        if existing is not None:
            opened = cls._from_existing(
                engine, existing, compiled.resolved, known, encoder, runtime, rerankers
            )
            if not exist_ok:
                raise IndexExistsError(
                    f"the index {name!r} exists already; open it (exist_ok=True, --exist-ok), or delete it "
                    "first",
                    index=name,
                )
            return opened
        ready = pool.for_plan(compiled.resolved)
        contracts = in_thread(ready.make_contracts)
        stored = meta.StoredMeta(plan=compiled.resolved, contracts=contracts, written_by=__version__)
        body = with_meta(compiled.body, meta.build(stored))
        put_pipelines(engine, compiled.pipelines)
        engine.request("PUT", f"/{index_path(name)}", body=body)
        live = describe(engine, name)
        if live is None:
            raise IndexNotFoundError(f"{name!r} was created and is gone already", index=name)
        return cls(
            client=engine,
            live=live,
            stored=stored,
            capabilities=known,
            pool=ready,
            notes=(*compiled.notes, *ready.similarity_notes(), *ready.sharing_notes()),
            rerankers=rerankers,
        )

    @classmethod
    def _from_existing(
        cls,
        engine: EngineClient,
        live: Live,
        resolved: IndexPlan,
        capabilities: Capabilities,
        encoder: Encoder | Mapping[str, Encoder] | None,
        runtime: RuntimeOptions | None,
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> Index:
        stored = stored_meta(live.mapping)
        if stored is None:
            raise IndexExistsError(
                f"the index {live.name!r} exists and esembed did not make it; choose another name, or add "
                "vector fields to it with Index.attach (esembed index attach)",
                index=live.name,
            )
        wanted = fill_in(resolved, stored.plan)
        if stored.plan != wanted:
            raise IndexExistsError(
                f"the index {live.name!r} exists with another plan: {plan_difference(stored.plan, wanted)}; "
                "migrate it (esembed index migrate), choose another name, or delete it",
                index=live.name,
            )
        pool = EncoderPool(
            stored.plan, encoder=encoder, allow_encoders=None, runtime=runtime, contracts=stored.contracts
        )
        return cls(
            client=engine,
            live=live,
            stored=stored,
            capabilities=capabilities,
            pool=pool,
            rerankers=rerankers,
        )

    @classmethod
    def open(
        cls,
        client: Any,
        name: str,
        *,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        allow_encoders: Collection[str] = (),
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> Index:
        """Open an index that esembed made; it says itself what it is.

        No model is loaded here: that happens at the first search or record that needs one, and its
        contract is checked then. What the index says about itself is not trusted with loading models:
        apart from ``minilm``, ``lexical`` and ``given``, an encoder must be passed or allowed.

        Args:
            client: the official client.
            name: an index, or an alias of one index.
            encoder: the encoder, or one for each field.
            allow_encoders: spec strings that may be loaded (``["hf:intfloat/e5-small-v2"]``).
            runtime: how loaded encoders run here.
            capabilities: skip probing.
            rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``: any function of a query
                and n texts that gives n scores, larger is better. It runs in a thread, on your side.

        Raises:
            IndexNotFoundError: no such index.
            PlanError: it has no (readable) plan; attach or repair it.
        """
        engine = EngineClient(client)
        live = describe(engine, name)
        if live is None:
            raise IndexNotFoundError(f"there is no index {name!r}", index=name)
        stored = stored_meta(live.mapping)
        if stored is None:
            raise PlanError(
                f"the index {name!r} does not say how it was encoded (_meta.esembed is missing): esembed did "
                "not make it (use Index.attach), or its _meta was overwritten (esembed index repair --plan)"
            )
        known = capabilities or probe(engine)
        pool = EncoderPool(
            stored.plan,
            encoder=encoder,
            allow_encoders=allow_encoders,
            runtime=runtime,
            contracts=stored.contracts,
        )
        return cls(
            client=engine, live=live, stored=stored, capabilities=known, pool=pool, rerankers=rerankers
        )

    # -- looking at it, and its end ------------------------------------------------------------

    @property
    def fields(self) -> dict[str, str]:
        """Every field that the index had when it was opened, by dotted name, with its type: what can be
        filtered, sorted and counted by, in the plan or not."""
        return mapped_types(self._live.mapping)

    def inspect(self) -> dict[str, Any]:
        """What the index is, for people and scripts; loads no model.

        Returns:
            JSON values: ``index``, ``concrete_index``, ``engine``, ``documents``, ``plan``,
            ``contracts``, ``statistics``, ``drift`` (differences of the live mapping) and ``notes``.
        """
        live = describe(self.client, self.name)
        mapping = live.mapping if live is not None else {}
        return {
            "index": self.name,
            "concrete_index": self.concrete,
            "engine": f"{self.capabilities.kind} {self.capabilities.version}",
            "license": self.capabilities.license,
            "documents": self.count(),
            "written_by": self.stored.written_by,
            "plan": self.plan.to_dict(),
            "contracts": {name: contract.describe(value) for name, value in self.stored.contracts.items()},
            "statistics": dict(self.stored.statistics),
            "drift": list(drift(compile_mapping(self.plan, self.capabilities), mapping, self._adopted)),
            "notes": list(self.notes),
        }

    def migrate(
        self,
        plan: IndexPlan,
        *,
        options: MigrateOptions | None = None,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        old_encoder: Encoder | Mapping[str, Encoder] | None = None,
        allow_encoders: Collection[str] = (),
        runtime: RuntimeOptions | None = None,
        progress: Progress | None = None,
    ) -> MigrationReport:
        """Move to another plan without downtime, behind an alias; see :mod:`esembed._sync.migration`.

        *encoder* serves the new plan; *old_encoder* and *allow_encoders* the old one, whose results are
        compared where ``options.queries`` are given.

        This object goes on with the old version; open the alias again, or use an
        :class:`~esembed._sync.follower.Follower`, to search the new one.

        Raises:
            what :func:`esembed._sync.migration.migrate` raises; nothing is changed before it is sure
            that it can work.
        """
        from .migration import migrate

        return migrate(
            self.client.official,
            self.name,
            plan,
            options=options,
            encoder=encoder,
            old_encoder=old_encoder,
            allow_encoders=allow_encoders,
            runtime=runtime,
            capabilities=self.capabilities,
            progress=progress,
        )

    def rollback(
        self,
        *,
        carry_back: bool = True,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        allow_encoders: Collection[str] = (),
        runtime: RuntimeOptions | None = None,
    ) -> MigrationReport:
        """Point the alias at the version before; *encoder* is the old version's.

        Raises:
            what :func:`esembed._sync.migration.rollback` raises.
        """
        from .migration import rollback

        return rollback(
            self.client.official,
            self.name,
            carry_back=carry_back,
            encoder=encoder,
            allow_encoders=allow_encoders,
            runtime=runtime,
            capabilities=self.capabilities,
        )

    def drop(self) -> None:
        """Delete the index, its companion statistics, and its pipeline where no other index runs it."""
        from .term_statistics import delete_statistics

        self.client.request("DELETE", f"/{index_path(self.concrete)}")
        drop_pipeline(self.client, str(self._live.settings.get("default_pipeline", "")))
        for digest in self.stored.statistics.values():
            delete_statistics(self.client, digest)

    def close(self) -> None:
        """Free the encoders that were loaded for this index. The client stays the caller's."""
        self.pool.close()

    # -- searching -----------------------------------------------------------------------------

    search = _by_searcher(Searcher.search)
    search_many = _by_searcher(Searcher.search_many)

    def searcher(self) -> Searcher:
        """What searches: encoders warm, query vectors cached. Made at the first search."""
        if self._searcher is None:
            self._searcher = Searcher(
                self.client,
                self.concrete,
                self.plan,
                self.capabilities,
                self.pool,
                live=self._live,
                rerankers=self.rerankers,
                before_encoding=self.load_statistics,
            )
        return self._searcher

    def warm(self) -> None:
        """Load, check and run every encoder that a text can be searched with, so that the first search of
        a backend doesn't wait for a model.

        Raises:
            EncoderError, ContractError: an encoder can't be loaded, or isn't the one that filled the index.
        """
        (self.searcher()).warm()

    def _changed(self) -> None:
        self._searcher = None

    # -- its relevance ---------------------------------------------------------------------------

    def evaluate(
        self,
        dataset: Dataset | str,
        *,
        configurations: Mapping[str, Query] | None = None,
        runs: Mapping[str, Run] | None = None,
        measures: Sequence[str] | None = None,
        size: int = 100,
        latency_queries: int = 30,
        published: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Evaluation:
        """Measure the default query beside its legs and untuned fusions, on judged queries.

        Args:
            dataset: a BEIR folder, a CSV, ``ir_datasets:ID``, or what ``load_dataset`` made.
            configurations: further queries by name, their texts open.
            runs: further runs by name, from files or other tools.
            measures: None is nDCG@10, recall@100, MRR@10, MAP, success@1 and @5.
            size: how many hits are asked for.
            latency_queries: how many queries are timed one after another; 0 times none.
            published: outside figures for the report: name → measure → value.

        Raises:
            EsembedError: no judged queries, the extra isn't installed; what a search raises.
        """
        return relevance.evaluate(
            as_sync(self),
            dataset,
            configurations=configurations,
            runs=runs,
            measures=measures,
            size=size,
            latency_queries=latency_queries,
            published=published,
        )

    def tune(
        self,
        dataset: Dataset | str,
        *,
        options: TuneOptions | None = None,
        write: bool = True,
        progress: Callable[[str], None] | None = None,
    ) -> tuple[Tuned, Query]:
        """Fit the default query to judged queries; on few it stays as it is. See ``esembed tune``.

        Args:
            options: see :class:`~esembed.evaluate.tuning.TuneOptions`.
            write: store the query and its evidence, where something better was found.
            progress: told what is being done, one line each (from another thread).

        Returns:
            the choice with its evidence, and the query.

        Raises:
            EsembedError: no judged queries, the extra isn't installed, or the default query's reranker
                wasn't given.
        """
        counterpart = as_sync(self)
        result = relevance.tune(counterpart, dataset, options=options, write=write, progress=progress)
        self._take_over(counterpart)
        return result

    def learn_weights(
        self, options: TrustOptions | None = None, *, write: bool = True
    ) -> tuple[TrustReport, Query | None]:
        """Estimate without judgements how far each leg can be trusted, and store the default query that
        follows: one request, weighted. :meth:`ingest` does it by itself.

        A query that the plan's author or :meth:`tune` wrote is kept.

        Args:
            options: see :class:`~esembed.weights.estimate.TrustOptions`.
            write: store it.

        Returns:
            the report, and the query, or None when there is nothing to weigh.
        """
        counterpart = as_sync(self)
        result = weights.learn(counterpart, options=options, write=write)
        self._take_over(counterpart)
        return result

    def _after_ingest(self, options: IngestOptions, report: IngestReport, progress: Progress | None) -> None:
        weights.learn_after_ingest(self, options, report, progress)

    def _take_over(self, counterpart: Any) -> None:
        """Go on with what the sync counterpart stored while it worked in a thread."""
        if counterpart.stored is not self.stored:
            self.stored = counterpart.stored
            self.plan = counterpart.stored.plan
            self._changed()
