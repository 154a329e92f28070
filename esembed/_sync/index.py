# Generated from esembed/_async/index.py by scripts/run_unasync.py; change that file and run the script.
"""An index: a plan on a live engine. Every public method, each thin over a function of this package."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from esembed.capabilities import Capabilities
from esembed.deprecation import warn_renamed
from esembed.dialect import meta
from esembed.dialect.live import drift, mapped_types, settings_drift
from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.model_check import describe_contract
from esembed.encode.pool import EncoderPool
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.migration.options import MigrateOptions, MigrationReport
from esembed.plan import IndexPlan
from esembed.plan.default_query import default_query
from esembed.query import Filter, Query
from esembed.search.options import Reranker
from esembed.types import Document

from . import aliases, by_query, documents, ingest, migration, opening, relevance, weights
from ._shim import done
from .client import EngineClient
from .live import describe_all
from .search import Searcher
from .state import Encoders, IndexState

if TYPE_CHECKING:
    from esembed.evaluate.candidates import CandidateChoice, CandidateOptions
    from esembed.evaluate.datasets import Dataset, Run
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.recall import RecallOptions, RecallReport
    from esembed.evaluate.tuning import Tuned, TuneOptions
    from esembed.search.calibration import Calibration
    from esembed.weights.estimate import WeightsOptions, WeightsReport

__all__ = ["Index"]

P = ParamSpec("P")
R = TypeVar("R")


def _by_searcher(
    method: Callable[Concatenate[Searcher, P], R],
) -> Callable[Concatenate[Index, P], R]:
    """A method of the searcher as a method of the index: same parameters, same types, same docstring."""

    # Hands on what is awaited: a coroutine around a coroutine is 2 % of a search's processor time.
    @functools.wraps(method)
    def call(self: Index, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.state.searcher, *args, **kwargs)

    return call  # type: ignore[return-value]


class Index:
    """A plan on a live engine. Made by :meth:`create`, :meth:`open`, :meth:`attach` or :meth:`repair`.

    The caller's official client carries every request; it is never changed, and never closed here.
    ``with`` (or :meth:`close`) frees the encoders that were loaded for the index.

    Whatever sends a request may raise, beside what each method names: EngineUnavailableError (no answer, or
    an engine that is busy), AuthorizationError, EngineRequestError (refused), AnswerError (an answer that is
    no engine's) and, in another event loop than the one it was opened in, EventLoopError.

    Attributes:
        state: what the functions of this package work on; not part of the public API.
    """

    def __init__(self, state: IndexState) -> None:
        self.state = state

    def __repr__(self) -> str:
        behind = "" if self.concrete_index == self.name else f" (alias of {self.concrete_index})"
        engine = self.capabilities
        return f"<{type(self).__name__} {self.name}{behind} on {engine.engine} {engine.version}>"

    def __iter__(self) -> Iterator[Any]:
        """The index and no report, as ``attach`` returned a pair before; deprecated."""
        warnings.warn(
            "Index.attach returns the index alone; index.backfill() fills it and returns the report",
            DeprecationWarning,
            stacklevel=2,
        )
        yield self
        yield None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the encoders that were loaded for this index. The client stays the caller's.

        They are freed when this returns. ``Index.close()`` may be awaited, like any other method, and
        does the same where it isn't.
        """
        self.state.pool.close()
        return done()

    # -- what it is --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name it was asked for by: an index or an alias."""
        return self.state.name

    @property
    def concrete_index(self) -> str:
        """The index behind that name, which requests are sent to; of several, their names with commas."""
        return self.state.concrete_index

    @property
    def concrete(self) -> str:
        """Deprecated: :attr:`concrete_index`."""
        warn_renamed("Index.concrete", "concrete_index")
        return self.concrete_index

    @property
    def uuid(self) -> str:
        """The UUID that the engine gave the index."""
        return self.state.live.uuid

    @property
    def plan(self) -> IndexPlan:
        """The plan as the index has it, ``auto`` values resolved."""
        return self.state.plan

    @property
    def default_query(self) -> Query:
        """What a plain string stands for, its texts left out: the plan's own query, else the one that was
        learned, else the one that a plan begins with. ``q.rescore(index.default_query, …)`` adds a stage.

        Raises:
            QueryError: the plan has nothing that a text can be searched in.
        """
        return default_query(self.plan)

    @property
    def stored(self) -> meta.StoredMeta:
        """What the index says about itself."""
        return self.state.stored

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self.state.capabilities

    @property
    def client(self) -> EngineClient:
        """What carries requests over the caller's client; ``index.client.official`` is that one."""
        return self.state.client

    @property
    def pool(self) -> EncoderPool:
        """The encoders of the plan's fields."""
        return self.state.pool

    @property
    def rerankers(self) -> Mapping[str, Reranker]:
        """Name → cross-encoder, for ``q.rescore(…, reranker=name)``."""
        return self.state.rerankers or {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was resolved or can't be checked, one line each."""
        return self.state.notes

    @property
    def created(self) -> bool:
        """Whether :meth:`create` made the index; False for one that was there and was opened."""
        return self.state.created

    @property
    def fields(self) -> dict[str, str]:
        """Every field that the index had when it was opened, by dotted name, with its type: what can be
        filtered, sorted and counted by, in the plan or not."""
        return mapped_types(self.state.live.mapping)

    @property
    def fields_to_fill(self) -> tuple[str, ...]:
        """The vector fields that an ingest or :meth:`backfill` fills: all of the plan's, but for those that
        the index had before the plan was attached."""
        there = opening.existing_fields(self.state)
        return tuple(name for name, _ in self.plan.vector_fields() if name not in there)

    def inspect(self) -> dict[str, Any]:
        """What the index is, for people and scripts; loads no model.

        Returns:
            JSON values: ``index``, ``concrete_index``, ``engine``, ``documents``, ``plan``,
            ``contracts``, ``statistics``, ``drift`` (differences of the live mapping and settings), ``alias``
            (the filter, routing and flags of the name it was opened by) and ``notes``.
        """
        state, stored = self.state, self.stored
        live = describe_all(self.client, self.name)
        mapping = live.mapping if live is not None else {}
        compiled = compile_mapping(self.plan, self.capabilities, new=False)
        return {
            "index": self.name,
            "concrete_index": self.concrete_index,
            "engine": f"{self.capabilities.engine} {self.capabilities.version}",
            "license": self.capabilities.license,
            "documents": documents.count(state),
            "written_by": stored.written_by,
            "plan": self.plan.to_dict(),
            "contracts": {name: describe_contract(value) for name, value in stored.contracts.items()},
            "statistics": dict(stored.statistics),
            "drift": [
                *drift(compiled, mapping, opening.existing_fields(state)),
                *(() if live is None else live.source_rules.drift(mapping)),
                *(() if live is None else settings_drift(compiled, live.settings)),
            ],
            "alias": {} if live is None else live.alias.to_dict(),
            "notes": list(self.notes),
        }

    # -- making and opening ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        alias: bool = True,
        exist_ok: bool = False,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> Index:
        """Create the index that *plan* describes, behind an alias, by which it can be migrated later.

        Args:
            client: the official client; it stays the caller's.
            name: what it is called: the alias of the new index ``NAME-v1``, and the name that all further
                calls take.
            plan: what it is; ``auto`` values and missing dims are resolved and recorded.
            alias: False makes an index that has the name itself; a migration will need another one for it.
            exist_ok: an index that exists with the same plan is opened instead; :attr:`created` tells.
            encoder: encoders to use instead of loading the plan's, one or one for each field.
            runtime: how loaded encoders run here.
            capabilities: skip probing.
            rerankers: see :meth:`open`.

        Raises:
            IndexExistsError: it exists (where *exist_ok*: with another plan, or as an alias although *alias*
                is False).
            UnsupportedFeatureError: the engine lacks something; nothing was created.
            PlanError, EncoderError: the plan or a model is wrong; nothing was created.
        """
        state = opening.create(
            EngineClient(client),
            name,
            plan,
            alias=alias,
            exist_ok=exist_ok,
            encoders=Encoders(encoder=encoder, runtime=runtime),
            capabilities=capabilities,
            rerankers=rerankers,
        )
        return cls(state)

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
        allow_raw: bool = False,
    ) -> Index:
        """Open an index that esembed made; it says itself what it is.

        No model is loaded here: that happens at the first search or record that needs one, and its
        contract is checked then. What the index says about itself is not trusted with loading models:
        apart from ``minilm``, ``lexical`` and ``precomputed``, an encoder must be passed or allowed.

        Args:
            client: the official client.
            name: an index, or an alias: its filter and routing hold for everything that is read by it, and
                for what is written. An alias of several indices of one plan can be searched.
            encoder: the encoder, or one for each field.
            allow_encoders: spec strings that may be loaded (``["hf:intfloat/e5-small-v2"]``).
            runtime: how loaded encoders run here.
            capabilities: skip probing.
            rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``: any function of a query
                and n texts that gives n scores, larger is better. It runs in a thread, in your process.
            allow_raw: run ``raw`` nodes, the engine's own JSON, of the default query that the index holds:
                only where you trust everybody who may write to the index.

        Raises:
            IndexNotFoundError: no such index.
            PlanError: it has no (readable) plan; attach or repair it.
            AliasError: a wildcard, a list, a data stream, or an alias of indices of different plans.
        """
        state = opening.open_index(
            EngineClient(client),
            name,
            encoders=Encoders(encoder=encoder, allow=allow_encoders, runtime=runtime),
            capabilities=capabilities,
            rerankers=rerankers,
            allow_raw=allow_raw,
        )
        return cls(state)

    @classmethod
    def attach(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
    ) -> Index:
        """Add the plan's vector fields to an index that exists; :meth:`backfill` fills them.

        The plan names the index's own text and filter fields, which are left as they are. The same call
        opens it again, and :meth:`backfill` goes on where it was interrupted. A field whose encoder is
        ``precomputed`` and that the index has already is searched as it is: no document is written for it.

        Args:
            client: the official client; it stays the caller's.
            name: an index, or an alias of one index.
            plan: what is added, and what is there.
            encoder, runtime, capabilities, rerankers: as in :meth:`create`.

        Raises:
            IndexNotFoundError: no such index.
            IndexExistsError: esembed made it, or attached to it, with another plan.
            PlanError: a text or filter field of the plan is missing in the index or of another type, or a
                given field has other dims, another similarity … there.
            UnsupportedFeatureError: the engine, or this index's settings, can't take the fields.
            AliasError: a wildcard, a list, a data stream, an alias of several indices or with a filter.
        """
        state = opening.attach(
            EngineClient(client),
            name,
            plan,
            encoders=Encoders(encoder=encoder, runtime=runtime),
            capabilities=capabilities,
            rerankers=rerankers,
        )
        return cls(state)

    @classmethod
    def repair(
        cls,
        client: Any,
        name: str,
        plan: IndexPlan,
        *,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        runtime: RuntimeOptions | None = None,
        capabilities: Capabilities | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """Write a lost or damaged ``_meta`` again.

        The caller vouches that *plan* is the one the index was made with; its mapping must agree with the
        live one.

        Args:
            client: the official client; it stays the caller's.
            name: an index, or an alias of one index.
            plan: what the index was made with.
            encoder, runtime, capabilities, rerankers: as in :meth:`create`.
            progress: is told how far the terms of lexical fields are counted again.

        Raises:
            IndexNotFoundError: no such index.
            UnsupportedFeatureError: the text of a lexical field is not in ``_source``, so that its terms can
                not be counted again; nothing was written.
            MappingDriftError: the live mapping is not what the plan compiles to; nothing was written.
        """
        state = opening.repair(
            EngineClient(client),
            name,
            plan,
            encoders=Encoders(encoder=encoder, runtime=runtime),
            capabilities=capabilities,
            rerankers=rerankers,
            progress=progress,
        )
        return cls(state)

    def delete_index(self, *, dry_run: bool = False) -> list[str]:
        """Delete the index, its term statistics, and its pipeline where no other index runs it.

        Opened by an alias that a migration moved, the version that it stands for is deleted, and the versions
        before it whose own ``_meta`` confirms that they were this alias's and that no alias stands for. A
        newer one, which was rolled back, is left, and :attr:`notes` name it.

        Args:
            dry_run: delete nothing; only name what would be deleted.

        Returns:
            The indices that were deleted, the one that was opened first.

        Raises:
            AliasError: opened by an alias that esembed did not make, that shows a part of the index, or that
                stands for several; nothing was deleted.
        """
        return opening.delete(self.state, dry_run=dry_run)

    def drop(self) -> None:
        """Deprecated: :meth:`delete_index`."""
        warn_renamed("Index.drop", "delete_index")
        self.delete_index()

    # -- searching ---------------------------------------------------------------------------------

    search = _by_searcher(Searcher.search)
    search_many = _by_searcher(Searcher.search_many)

    def searcher(self) -> Searcher:
        """What searches: encoders stay loaded, query vectors cached. Made at the first search."""
        return self.state.searcher

    def warm_up(self) -> None:
        """Load, check and run every encoder that a text can be searched with, so that the first search of
        a backend doesn't wait for a model.

        Raises:
            EncoderError, ContractError: an encoder can't be loaded, or isn't the one that filled the index.
        """
        self.state.searcher.warm()

    def warm(self) -> None:
        """Deprecated: :meth:`warm_up`."""
        warn_renamed("Index.warm", "warm_up")
        self.warm_up()

    # -- documents ---------------------------------------------------------------------------------

    def ingest(
        self,
        records: Any,
        options: IngestOptions | None = None,
        *,
        progress: Progress | None = None,
        total: int | None = None,
    ) -> IngestReport:
        """Encode and write records; stages overlap, memory is bounded, unchanged ones are skipped.

        Args:
            records: paths or globs, mappings, Documents, ``(id, mapping)`` pairs (any iterable, async ones
                with Index), another index (opened), or a source of ``esembed.ingest.sources``.
            options: see :class:`~esembed.ingest.options.IngestOptions`.
            progress: is told how far it is.
            total: how many records there will be, for the ETA.

        Returns:
            the report, whose counts add up. Records that could not get in are in its ``errors`` and in
            the dead-letter file; they don't raise, unless ``strict``.

        Raises:
            EngineUnavailableError: the engine stayed away too long; run again, it resumes.
            EncoderError, ContractError: an encoder can't be loaded, takes no text at all, or is not the one
                that filled the index.
            AliasError: opened by an alias of several indices, or one that is for reading.
            OptionsError, SourceError: options that contradict the plan or the index; a source that isn't
                there. Nothing was written, but for a DeleteLimitError.
            DeleteLimitError: *sync* would delete more than ``sync_max_delete``. The records are in, nothing
                was deleted, and ``error.report`` is the report.
            RecordError: the first record that can't get in, with ``strict``.
            PermanentError: more than ``max_errors`` of them, or a dead-letter file that can't be written.
            IndexChangedError: the index was deleted or made again during the load.
        """
        if isinstance(records, Index):
            records = records.documents()
        return ingest.ingest(self.state, records, options, progress=progress, total=total)

    def backfill(
        self, options: IngestOptions | None = None, *, progress: Progress | None = None
    ) -> IngestReport:
        """Fill the vector fields of documents that are in the index already, by partial updates that
        never overwrite a document changed meanwhile. Documents that have their vectors are skipped.

        Args:
            options, progress: as for :meth:`ingest`.

        Returns:
            the report; ``updated`` is how many documents were filled.

        Raises:
            AliasError: opened by an alias that shows a part of the index, or that stands for several.
            UnsupportedFeatureError: the index doesn't keep the texts, or a partial update would lose fields
                that it leaves out of ``_source``; nothing was written.
            EngineUnavailableError, EncoderError, ContractError: as for :meth:`ingest`.
        """
        return ingest.backfill(self.state, options, progress=progress)

    def update(
        self, id: str | int, fields: Mapping[str, Any], *, refresh: bool = False, routing: str | None = None
    ) -> None:
        """Merge *fields* into a document; vectors whose source text changes are encoded again, the
        others stay.

        Args:
            refresh: make it searchable before this returns.
            routing: the routing value that it was written with.

        Raises:
            RecordError: no such document, a field that can't be stored, or one that a partial update would
                lose.
            AliasError: opened by an alias of several indices, or one that is for reading.
            EncoderError, ContractError: a vector can't be made again for this index.
        """
        document = Document(documents.document_id(id), fields, op="update", routing=routing)
        ingest.change_one(self.state, document, refresh=refresh)

    def delete(self, id: str | int, *, refresh: bool = False, routing: str | None = None) -> None:
        """Remove a document and its chunks; no such document is fine.

        Args:
            refresh, routing: as for :meth:`update`. Without the routing value that it was written with, a
                document isn't found.

        Raises:
            RecordError: *id* can't be one.
            AliasError: opened by an alias of several indices, or one that is for reading.
        """
        document = Document(documents.document_id(id), {}, op="delete", routing=routing)
        ingest.change_one(self.state, document, refresh=refresh)

    def delete_by_query(
        self,
        filter: Filter | Sequence[Filter],
        *,
        max_delete: float = 0.1,
        dry_run: bool = False,
        options: IngestOptions | None = None,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Delete the documents that match, with their chunks, and take them out of the term statistics.

        A document that somebody changes between the moment that it is found and its delete stays, and counts
        as ``outdated``.

        Args:
            filter: which; of several all must hold.
            max_delete: the largest share of the index that may match, 0…1.
            dry_run: delete nothing; ``read`` of the report says how many match.
            options: of the run; those that make other records of a source are refused.
            progress: is told how far it is.

        Raises:
            DeleteLimitError: more match than *max_delete*; nothing was deleted.
            QueryError: no filter, or a field that isn't there or is used wrongly.
            AliasError: opened by an alias of several indices, or one that is for reading.
        """
        return by_query.delete_by_query(
            self.state, filter, max_delete=max_delete, dry_run=dry_run, options=options, progress=progress
        )

    def update_by_query(
        self,
        filter: Filter | Sequence[Filter],
        fields: Mapping[str, Any],
        *,
        dry_run: bool = False,
        options: IngestOptions | None = None,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Merge *fields* into the documents that match, as :meth:`update` does into one.

        Vectors whose texts change are encoded again. The fields are set whatever else somebody changes in a
        document meanwhile.

        Args:
            filter: which; of several all must hold.
            fields: the fields that change; None takes one away.
            dry_run: change nothing; ``read`` of the report says how many match.
            options, progress: as for :meth:`delete_by_query`.

        Raises:
            RecordError: no fields.
            QueryError, AliasError: as for :meth:`delete_by_query`.
        """
        return by_query.update_by_query(
            self.state, filter, fields, dry_run=dry_run, options=options, progress=progress
        )

    def get(
        self,
        id: str | int,
        *,
        vectors: bool = False,
        routing: str | None = None,
        deadline_seconds: float | None = None,
    ) -> dict[str, Any] | None:
        """The document's fields, or None when there is no such document.

        By an alias with a filter, and of several indices: as it was last refreshed, and None for a document
        that the alias doesn't show.

        Args:
            vectors: with its vectors, for a search of what is like it (``q.knn(…, vector=…)``).
            routing: the routing value that it was written with.
            deadline_seconds: after which it is an EngineUnavailableError, whatever the client waits for.

        Raises:
            RecordError: *id* can't be one.
            UnsupportedFeatureError: with *vectors*, one that the index keeps nowhere to be read from.
        """
        return documents.get(
            self.state, id, vectors=vectors, routing=routing, deadline_seconds=deadline_seconds
        )

    def documents(self) -> Any:
        """Every document as a source of records, as of when the reading begins: without the vectors that
        encoders made, with those that were given. ``target.ingest(source_index)`` reads it.

        Returns:
            a :class:`~esembed.ingest.sources.index.IndexSource`, to be iterated once.

        Raises:
            UnsupportedFeatureError: the index doesn't keep whole documents.
        """
        return documents.source(self.state)

    def count(self, *, deadline_seconds: float | None = None) -> int:
        """How many documents a search can find (chunks that are documents of their own not counted).

        Args:
            deadline_seconds: after which it is an EngineUnavailableError, whatever the client waits for.
        """
        return documents.count(self.state, deadline_seconds=deadline_seconds)

    def refresh(self) -> None:
        """Make what was written searchable."""
        documents.refresh(self.state)

    def load_statistics(self, field: str | None = None) -> None:
        """Give lexical fields the collection's term statistics, once; a search in them does it by itself.

        Args:
            field: only this one, where it is lexical; None is all of them.

        Raises:
            EncoderError: they are gone, or the credentials may not read them.
        """
        self.state.load_statistics(field)

    def refresh_statistics(self) -> None:
        """Count the terms of lexical fields again over all documents, without touching a document.

        Due when many documents were replaced or deleted, or when the counts were lost.

        Raises:
            AliasError: opened by an alias that shows a part of the index, or that stands for several.
            UnsupportedFeatureError: the index doesn't keep the text of a lexical field.
            AuthorizationError: the key may not write to the statistics index; nothing was read.
        """
        ingest.recount_terms(self.state)

    # -- relevance ---------------------------------------------------------------------------------

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
            self.state,
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
        tune_legs: bool = True,
        progress: Callable[[str], None] | None = None,
    ) -> Tuned:
        """Fit the default query to judged queries; on few it stays as it is. See ``esembed tune``.

        Args:
            options: see :class:`~esembed.evaluate.tuning.TuneOptions`.
            write: store the query and its evidence, where something better was found.
            tune_legs: try the legs' own settings (boosts, pruning, num_candidates …) before the fusion.
            progress: told what is being done, one line each (from another thread).

        Returns:
            the choice with its evidence; ``report.query`` is the query.

        Raises:
            EsembedError: no judged queries, the extra isn't installed, or the default query's reranker
                wasn't given.
        """
        return relevance.tune(
            self.state, dataset, options=options, write=write, tune_legs=tune_legs, progress=progress
        )

    def recall(
        self,
        options: RecallOptions | None = None,
        *,
        queries: Dataset | Sequence[str] | str | None = None,
        history: str | Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> RecallReport:
        """Measure recall@k of every dense field's searches against exact neighbors, what the graph misses and
        what quantization loses apart. It decays over merges and deletes. See ``esembed recall``.

        Args:
            options: see :class:`~esembed.evaluate.recall.RecallOptions`.
            queries: texts, or a dataset (or what ``load_dataset`` takes) whose queries are asked; None asks
                for documents of the index.
            history: a file that the figures are appended to (see :mod:`esembed.evaluate.recall_history`).
            progress: told what is being done, one line each (from another thread).

        Raises:
            OptionsError: no such field, nothing to ask with, a history file that is something else.
            UnsupportedFeatureError: stored vectors are needed that can't be read back.
            EncoderError, ContractError: texts can't be encoded for this index.
        """
        return relevance.recall(self.state, options, queries=queries, history=history, progress=progress)

    def choose_candidates(
        self,
        queries: Sequence[str | Sequence[float]],
        *,
        field: str | None = None,
        filters: Mapping[str, Filter] | None = None,
        options: CandidateOptions | None = None,
        write: bool = True,
        progress: Callable[[str], None] | None = None,
    ) -> CandidateChoice:
        """Measure the recall of this index's kNN searches over ``num_candidates``, and make the rule that
        keeps it the field's (``candidates`` in the plan). See ``esembed advise --index``.

        Args:
            queries: texts, or vectors of shape (dims,); some hundred.
            field: the dense field; None: the only one.
            filters: words → a filter that searches have, to be measured with, too.
            options: see :class:`~esembed.evaluate.candidates.CandidateOptions`.
            write: store the rule.
            progress: told what is being done, one line each (from another thread).

        Raises:
            PlanError: no such field, or one that is compared with every vector.
            OptionsError: too few queries.
        """
        return relevance.choose_candidates(
            self.state,
            queries,
            field=field,
            filters=filters,
            options=options,
            write=write,
            progress=progress,
        )

    def learn_weights(self, options: WeightsOptions | None = None, *, write: bool = True) -> WeightsReport:
        """Estimate without judgments what each leg of the default query should weigh, and store that query.
        :meth:`ingest` does it by itself.

        A query that the plan's author or :meth:`tune` wrote is kept.

        Args:
            options: see :class:`~esembed.weights.estimate.WeightsOptions`.
            write: store it.

        Returns:
            the report; ``report.query`` is the query, or None when there is nothing to weigh, or the query
            in use is kept.

        Raises:
            AliasError: opened by an alias that shows a part of the index, or that stands for several.
        """
        return weights.learn(self.state, options=options, write=write)

    def learn_floor(
        self, *, texts: int = weights.FLOOR_TEXTS, documents: int = weights.FLOOR_DOCUMENTS, seed: int = 0
    ) -> Calibration:
        """Count how random documents of the index score, and store it for ``q.floor``. :meth:`learn_weights`
        does it, too.

        Args:
            texts: pieces of documents that are asked, two of each; from 25 to 5,000.
            documents: random other documents, each scored for each text; from 50 to 5,000.
            seed: of drawing.

        Raises:
            OptionsError: out of range.
            QueryError: too few documents (50), or too short ones; chunks; no field that a text can be
                searched in.
            AliasError: opened by an alias that shows a part of the index, or that stands for several.
            AuthorizationError: what is counted couldn't be stored.
        """
        return weights.learn_floor(self.state, texts=texts, documents=documents, seed=seed)

    # -- versions behind an alias ------------------------------------------------------------------

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
        """Move to another plan without downtime, behind the alias that the index was opened by.

        A new version is filled while the old one is searched and written, then the alias moves in one step.
        Run it again after an interruption: it goes on where it was.

        This object goes on with the old version; open the alias again, or use an
        :class:`~esembed._sync.follower.Follower`, to search the new one.

        Args:
            plan: the new plan; the caller vouches for its encoders.
            options: see :class:`~esembed.migration.options.MigrateOptions`; an index that was opened by its
                own name needs ``alias``.
            encoder: encoders of the new plan, instead of loading them.
            old_encoder, allow_encoders: encoders of the old version, whose results are compared where
                ``options.queries`` are given.
            runtime: how loaded encoders run here.
            progress: is told how far the copying is.

        Raises:
            PlanError, UnsupportedFeatureError, EncoderError: refused; nothing was changed.
            AliasError, OptionsError: an index where an alias is needed, or a wrong alias, or one that shows a
                part of the index and that ``options.alias`` doesn't name; nothing was changed.
            PermanentError: too little disk, or another migration of the alias is running; nothing was
                changed. Or the gate was not passed; the old version serves on.
        """
        return migration.migrate(
            self.client,
            self.name,
            plan,
            options=options,
            encoders=Encoders(encoder=encoder, runtime=runtime),
            old_encoders=Encoders(encoder=old_encoder, allow=allow_encoders, runtime=runtime),
            capabilities=self.capabilities,
            progress=progress,
        )

    def rollback(
        self,
        *,
        replay_writes: bool = True,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        allow_encoders: Collection[str] = (),
        runtime: RuntimeOptions | None = None,
        progress: Progress | None = None,
        carry_back: bool | None = None,
    ) -> MigrationReport:
        """Point the alias at the version before, with what was written since brought into it.

        Args:
            replay_writes: bring writes and deletes since the swap into the old version; it needs the old
                encoder for changed documents. False: they are left in the newer version.
            encoder: the old version's encoders.
            allow_encoders: spec strings of the old version that may be loaded.
            runtime: how loaded encoders run here.
            progress: is told how far the writes since the swap are brought back.
            carry_back: the old name of *replay_writes*, deprecated.

        Raises:
            AliasError: no alias, or the index behind it did not come from a migration, or its origin is gone.
            PermanentError: a migration of the alias is running.
        """
        if carry_back is not None:
            warn_renamed("rollback(carry_back=…)", "replay_writes")
            replay_writes = carry_back
        return migration.rollback(
            self.client,
            self.name,
            replay_writes=replay_writes,
            encoders=Encoders(encoder=encoder, allow=allow_encoders, runtime=runtime),
            capabilities=self.capabilities,
            progress=progress,
        )

    @classmethod
    def abort_migration(cls, client: Any, alias: str) -> str | None:
        """Give up an unfinished migration: the half-filled version is deleted, writes are allowed again.

        Args:
            client: the official client; it stays the caller's.
            alias: the alias that was to be moved.

        Returns:
            the deleted index's name, or None when there was none.

        Raises:
            IndexNotFoundError: no such alias.
            PermanentError: the migration is running.
        """
        return aliases.abort_migration(EngineClient(client), alias)

    @classmethod
    def delete_old_versions(
        cls, client: Any, alias: str, *, keep: int = 1, min_age_seconds: float = 3600.0
    ) -> list[str]:
        """Delete old versions of an alias, those without an alias of their own.

        Args:
            client: the official client; it stays the caller's.
            alias: the alias.
            keep: how many versions before the present one stay for a rollback.
            min_age_seconds: the last swap must be older than this, so that every searcher has moved on.

        Returns:
            the names that were deleted.

        Raises:
            AliasError: no such alias, or its last swap is too recent.
        """
        return aliases.delete_old_versions(
            EngineClient(client), alias, keep=keep, min_age_seconds=min_age_seconds
        )
