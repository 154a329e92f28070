"""A request to bodies, pure: which path, and what is sent on it.

The paths: one leg is one ``_search``. A fusion is one ``_search`` where the engine fuses with the same
result (Elasticsearch's retrievers where the license has them, OpenSearch's ``hybrid`` with an inline
pipeline where ranks are global), else one ``_msearch`` and :mod:`esembed.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from esembed.capabilities import Capabilities, profile
from esembed.dialect import dialect_for
from esembed.dialect.meta import PARENT_FIELD
from esembed.dialect.query import Json
from esembed.dialect.scope import ClauseBudget, Scope
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.fusion import FusionNode, LegRef
from esembed.plan import IndexPlan
from esembed.query.nodes import (
    Bool,
    Collapse,
    Diversify,
    Exists,
    Ids,
    Knn,
    Query,
    Rescore,
    Sparse,
    TextNode,
)
from esembed.query.tree import add_filter, walk
from esembed.search.facets import check_aggregations
from esembed.search.options import SearchOptions, SourceFilter
from esembed.search.page import PointInTime, hidden_fields, highlight_spec, milliseconds, source_spec
from esembed.search.request import Request, RequestLeg, make_request
from esembed.search.sorting import TIE, before_ties, check_search_after, check_sort

__all__ = ["CompiledLeg", "CompiledSearch", "SearchCompiler", "compile_query", "to_body"]

FEW_NODES = 8
"""A query of fewer nodes can't be nested too deep for an engine: each becomes three clauses at most."""

FETCHED_WINDOW = 200
"""Up to this window the legs bring their hits' stored fields along; beyond, the page is fetched alone."""


_CHUNKS_GAP = 'chunks that are documents of their own are brought together in the client; fusion="auto"'
_COUNTS_GAP = (
    'aggregations beside a post_filter are counted in a search of their own, without it; fusion="auto"'
)


class CompiledLeg(msgspec.Struct, frozen=True, kw_only=True):
    """One leg as a request of its own.

    Attributes:
        leg: what was asked.
        body: the body of ``_search``.
        to_common: what brings the engine's score to the common scale, or None.
        is_chunk_document: its hits are chunks of their own; the hit that counts is their parent.
    """

    leg: RequestLeg
    body: Json
    to_common: Callable[[float], float] | None = None
    is_chunk_document: bool = False

    @property
    def name(self) -> str:
        """The leg's name."""
        return self.leg.name


class CompiledSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled request.

    Attributes:
        request: what was compiled.
        scope: what it was compiled against; later round trips are compiled with it, too.
        path: ``single`` (one leg), ``server`` (the engine fuses) or ``client``.
        body: the body of ``_search`` for single and server, None for client.
        legs: the legs as requests of their own: for client fusion, and for ``explain`` on the server's.
        match_any: the request behind counts and aggregations where they aren't those of the hits' own (client
            fusion; a sorted kNN with a post_filter), or None.
        fusion: what to do with the legs' lists, or None.
        fetch_with_legs: the legs bring the page's stored fields; else they are fetched for the page alone.
        grown: the same with longer and longer lists, where the page lies beyond the window.
        score_factor: what the engine's fused scores are multiplied by.
        to_common: what brings the single query's scores to the common scale, or None.
        counted: the single query's total is a count of matches (a kNN's isn't).
        approximate: fused by the engine over several shards.
        notes: what was resolved or cut.
    """

    request: Request
    scope: Scope
    path: Literal["single", "server", "client"]
    body: Json | None
    legs: tuple[CompiledLeg, ...] = ()
    match_any: Json | None = None
    fusion: FusionNode | None = None
    fetch_with_legs: bool = True
    grown: tuple[CompiledSearch, ...] = ()
    score_factor: float = 1.0
    to_common: Callable[[float], float] | None = None
    counted: bool = True
    approximate: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was resolved or cut, for people."""
        return tuple(self.scope.notes)

    @property
    def options(self) -> SearchOptions:
        """The request's options."""
        return self.request.options

    @property
    def alone(self) -> bool:
        """Whether it is one body, for ``_search``; else several, for ``_msearch``."""
        return self.body is not None and not self.legs and self.match_any is None

    @property
    def bodies(self) -> list[Json]:
        """Every body of the first round trip, in the order sent."""
        bodies = [] if self.body is None else [self.body]
        bodies.extend(leg.body for leg in self.legs)
        if self.match_any is not None:
            bodies.append(self.match_any)
        for longer in self.grown:
            bodies.extend(longer.bodies)
        return bodies

    def at(self, point_in_time: PointInTime) -> CompiledSearch:
        """The same, with a cursor that leads on in that point in time."""
        return replace(self, request=replace(self.request, point_in_time=point_in_time))


def compile_query(
    query: Query,
    capabilities: Capabilities,
    options: SearchOptions | None = None,
    *,
    plan: IndexPlan | None = None,
    mapping: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    token_ids: Mapping[str, Mapping[str, int]] | None = None,
) -> CompiledSearch:
    """Compile a query whose texts are resolved and whose vectors are filled in.

    Args:
        query: what to search for.
        capabilities: the engine.
        options: page, sources, highlights …
        plan: the index's plan; without it, names and types are taken as the query implies them.
        mapping: field → type of the live mapping, for fields that the plan doesn't know.
        formats: date field → its format in the live mapping.
        token_ids: sparse field → token → id (SEISMIC).

    Raises:
        QueryError: a field that isn't there or is used wrongly, a page beyond the window …
        UnsupportedFeatureError: what the engine lacks, all of it.
    """
    compiler = SearchCompiler(capabilities, plan=plan, mapping=mapping, formats=formats, token_ids=token_ids)
    asked = make_request(query, options or SearchOptions(), max_window=capabilities.max_result_window)
    return compiler.compile(asked)


def to_body(
    query: Query,
    engine: str | Capabilities,
    *,
    plan: IndexPlan | None = None,
    **options: Any,
) -> Json | list[Json]:
    """The body of ``_search``, or the lines of ``_msearch`` where the client fuses.

    Args:
        engine: a capability profile's name (``opensearch``, ``elasticsearch-basic`` …), or capabilities.
        options: as :class:`~esembed.search.options.SearchOptions` has them.

    Raises:
        QueryError, UnsupportedFeatureError: it can't be compiled for that engine.
    """
    capabilities = profile(engine) if isinstance(engine, str) else engine
    try:
        asked = SearchOptions(**options)
    except TypeError as error:
        raise QueryError(f"to_body: {error}") from error
    compiled = compile_query(query, capabilities, asked, plan=plan)
    if compiled.body is not None and compiled.alone:
        return compiled.body
    return [line for body in compiled.bodies for line in ({}, body)]


class SearchCompiler:
    """Compiles the searches of one index; made once, safe to share.

    Args:
        capabilities: the engine.
        plan: the index's plan, or None.
        mapping, formats, token_ids: see :func:`compile_query`.
        columns, analyzers: see :func:`~esembed.dialect.field_types.mapped_columns` and ``mapped_analyzers``.
        fetch_with_legs: whether the legs of a client fusion may bring stored fields along.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        *,
        plan: IndexPlan | None = None,
        mapping: Mapping[str, str] | None = None,
        formats: Mapping[str, str] | None = None,
        columns: Mapping[str, bool] | None = None,
        analyzers: Mapping[str, str | None] | None = None,
        token_ids: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.plan = plan
        self.dialect = dialect_for(capabilities).query
        self._scope = Scope(
            capabilities=capabilities,
            plan=plan,
            mapping={**(plan.inner_types() if plan is not None else {}), **(mapping or {})},
            formats=formats,
            columns=columns or {},
            analyzers=analyzers,
            token_ids=token_ids or {},
        )
        self.hidden = hidden_fields(plan)
        chunk = plan.chunk if plan is not None else None
        self._chunk_documents = chunk if chunk is not None and chunk.store == "documents" else None

    @property
    def scope(self) -> Scope:
        """The fields that queries may use, for questions; what is noted there is nobody's."""
        return self._scope.with_(notes=[], gaps=[], names=[])

    def source(self, source: SourceFilter) -> Any:
        """The engine's ``_source`` for what was asked; see :func:`~esembed.search.page.source_spec`."""
        return source_spec(source, self.hidden, exclude_vectors=self.capabilities.exclude_vectors)

    def compile(self, request: Request, *, fetch_with_legs: bool = True) -> CompiledSearch:
        """The bodies of a request, and what to make of their answers.

        Args:
            fetch_with_legs: whether the legs of a client fusion may bring stored fields along.

        Raises:
            QueryError: a field that isn't there or is used wrongly.
            UnsupportedFeatureError: what the engine lacks, all of it.
        """
        scope = self._scope.with_(window=request.window, notes=list(request.notes), gaps=[], names=[])
        for stage in request.stages:
            if isinstance(stage, Diversify):
                _check_one_vector(stage, scope)
        if request.options.fusion == "server" and any(isinstance(s, Diversify) for s in request.stages):
            compiled = self._diversified_by_engine(request, scope)
        elif request.fusion is not None:
            compiled = self._fused(request, request.fusion, scope, fetch_with_legs)
        elif gaps := self._single_gaps(request, scope):
            if request.options.fusion == "server":
                raise UnsupportedFeatureError(
                    gaps, profile=self.capabilities.label, unknown=self.capabilities.unknown
                )
            compiled = self._single_by_client(request, scope, fetch_with_legs)
        else:
            compiled = self._single(request, scope)
        if scope.gaps:
            raise UnsupportedFeatureError(
                scope.gaps, profile=self.capabilities.label, unknown=self.capabilities.unknown
            )
        most = self.dialect.max_levels
        if most is not None and len(request.nodes) >= FEW_NODES:
            _check_levels(compiled.bodies, most)
        return compiled

    # -- one leg -------------------------------------------------------------------------------------

    def _single(self, request: Request, scope: Scope) -> CompiledSearch:
        options, core, stages = request.options, request.inner, request.stages
        asked = self._no_chunk_documents(core, scope)
        match_any: Json | None = None
        if _counts_apart(request):
            match_any = self._match_any([asked], options, scope)
            asked = add_filter(asked, options.post_filter)
            options = replace(options, aggregations=None, post_filter=None)
        body, _ = self._within_budget(lambda within: self.dialect.leg_body(asked, within), scope)
        body["size"] = (
            min(options.size, request.window - options.offset) if isinstance(core, Knn) else options.size
        )
        if (options.aggregations or options.count) and self.dialect.finds_more_than_k(core, scope):
            scope.gap(
                "count and aggregations of a knn whose num_candidates is above k count all candidates on "
                "this version; leave num_candidates out, or give a larger k"
            )
        if options.offset:
            body["from"] = options.offset
        body["_source"] = self.source(options.source)
        self._add_extras(body, options, scope)
        for stage in stages:
            if isinstance(stage, Collapse):
                body["collapse"] = {"field": scope.usable(stage.field, "collapse").path}
            elif isinstance(stage, Rescore) and stage.by is not None:
                aligned, by = (
                    scope.with_(align_scores=True, inner_hits=False, adds=stage.query_weight > 0),
                    stage.by,
                )
                rescore, _ = self._within_budget(partial(self.dialect.clause, by), aligned)
                body["rescore"] = {
                    "window_size": stage.window_size,
                    "query": {
                        "rescore_query": rescore,
                        "query_weight": stage.query_weight,
                        "rescore_query_weight": stage.rescore_weight,
                    },
                }
        if options.sort is not None:
            if stages:
                raise QueryError("sort doesn't go with rescore or collapse's best hit by score", field="sort")
            keys = check_sort(options.sort, scope)
            after = options.search_after
            if after is None:  # values of the caller's are one for each of his keys
                keys.append(TIE)
                after = request.after
            body["sort"] = keys
            if after is not None:
                body["search_after"] = check_search_after(after, keys)
                body.pop("from", None)
            if request.shown:
                # Two shards may have a document each of the same values and sequence number: the page begins
                # with those, and the ones that were shown are taken out.
                body["search_after"] = before_ties(body["search_after"])
                body["size"] += len(request.shown)
        elif options.search_after is not None:
            raise QueryError("search_after needs sort", field="search_after")
        reranked = self._engine_rerank(request, scope)
        if reranked is not None:
            body = {**{k: v for k, v in body.items() if k not in ("query", "knn")}, **reranked}
        return CompiledSearch(
            request=request,
            scope=scope,
            path="single",
            body=body,
            match_any=match_any,
            to_common=self._to_common(core, scope),
            counted=not stages and not request.finds_nearest,
        )

    def _single_by_client(self, request: Request, scope: Scope, fetch_with_legs: bool) -> CompiledSearch:
        """One leg whose stages or chunks need later round trips: a fusion of that leg alone."""
        if request.options.sort or request.options.search_after:
            why = "chunks that are documents of their own: search the text fields alone"
            if request.stages:
                why = f"{request.stages[-1].builder()}, which ranks or cuts by score"
            elif request.options.min_score is not None:
                why = "min_score of a knn: give the knn a similarity, which leaves out what is less alike"
            raise QueryError(f"sort and search_after don't go with {why}", field="sort")
        end = request.options.offset + request.options.size
        if end > request.window and not request.goes_on:
            raise QueryError(
                f"the page ends at hit {end}, beyond the {request.window} nearest that are searched for; "
                "give the knn a larger k",
                field="offset",
            )
        (leg,) = request.legs
        fusion = FusionNode(
            kind="linear", children=(LegRef(leg.name, 0),), weights=(1.0,), window=request.window
        )
        return self._by_client(request, fusion, scope, fetch_with_legs)

    def _single_gaps(self, request: Request, scope: Scope) -> list[str]:
        """Why one leg's search takes more than a request of the engine's; empty where it doesn't."""
        options, gaps = request.options, []
        if self._stages_need_the_client(request):
            stages = " and ".join(f"{stage.builder()}()" for stage in request.stages)
            gaps.append(f'{stages} here runs in the client; fusion="auto"')
        if self._finds_chunk_documents(request.inner, scope):
            gaps.append(_CHUNKS_GAP)
        if _counts_apart(request) and options.sort is None and options.search_after is None:
            gaps.append(_COUNTS_GAP)
        # Whether an engine asks it of the k nearest, and before or after its stages, differs.
        if options.min_score is not None and (request.stages or request.finds_nearest):
            gaps.append('min_score of these hits is looked at in the client; fusion="auto"')
        return gaps

    def _stages_need_the_client(self, request: Request) -> bool:
        if not request.stages:
            return False
        if len(request.stages) > 1:
            return True
        (stage,) = request.stages
        if isinstance(stage, Collapse):
            return False
        if not isinstance(stage, Rescore):
            return True
        if stage.inference_id is not None:
            return False
        if stage.by is None:
            return True
        vectors = [node for node in walk(stage.by) if isinstance(node, Knn)]
        exact = self.dialect.scores_vectors_exactly(self.capabilities)
        # A kNN as the rescoring query scores only its own k hits; by ids it scores the whole window.
        return any(not (node.exact and exact) for node in vectors)

    def _engine_rerank(self, request: Request, scope: Scope) -> Json | None:
        """The engine's own reranker around the query, where an endpoint is named."""
        stage = next(
            (s for s in request.stages if isinstance(s, Rescore) and s.inference_id is not None), None
        )
        if stage is None:
            return None
        if len(request.stages) > 1:
            raise QueryError("rescore by inference_id goes with no other stage", field="inference_id")
        return self.dialect.rerank(stage, request.fusion, _queries(request), scope.with_(inner_hits=False))

    def _add_extras(self, body: Json, options: SearchOptions, scope: Scope) -> None:
        if options.highlight is not None and options.highlights:
            body["highlight"] = highlight_spec(options.highlight, scope, None)
        if options.aggregations:
            body["aggs"] = check_aggregations(options.aggregations, scope)
        if options.post_filter is not None:
            body["post_filter"] = self.dialect.clause(options.post_filter, scope)
        if options.min_score is not None:
            body["min_score"] = options.min_score
        if options.timeout_seconds is not None:
            body["timeout"] = milliseconds(options.timeout_seconds)

    # -- fusion --------------------------------------------------------------------------------------

    def _fused(
        self, request: Request, fusion: FusionNode, scope: Scope, fetch_with_legs: bool
    ) -> CompiledSearch:
        if any(isinstance(s, Rescore) and s.inference_id for s in request.stages):
            return self._reranked_by_engine(request, fusion, scope)
        options = request.options
        gaps = self._server_gaps(request, fusion, scope)
        if options.fusion == "server" and gaps:
            raise UnsupportedFeatureError(
                gaps, profile=self.capabilities.label, unknown=self.capabilities.unknown
            )
        differs = self.dialect.fusion_differs(fusion)
        if options.fusion == "client" or gaps or (options.fusion == "auto" and differs):
            return self._by_client(request, fusion, scope, fetch_with_legs)
        # What the engine can't do in the form that its own fusion takes may be fine in a request of the leg's
        # own (a nested filter beside nested vectors in Elasticsearch's retrievers).
        attempt = scope.with_(notes=list(scope.notes), gaps=[], names=[])
        compiled = self._by_server(request, fusion, attempt)
        if attempt.gaps and options.fusion == "auto":
            return self._by_client(request, fusion, scope, fetch_with_legs)
        for gap in attempt.gaps:
            scope.gap(gap)
        if differs:
            attempt.note(differs)
        return compiled

    def _server_gaps(self, request: Request, fusion: FusionNode, scope: Scope) -> list[str]:
        """Why the engine can't fuse this with the same result; empty where it can."""
        gaps = list(self.dialect.fusion_gaps(fusion, scope))
        for stage in request.stages:
            if not isinstance(stage, Collapse):
                gaps.append(f'{stage.builder()} after a fusion runs in the client; fusion="auto"')
            elif not self.dialect.collapses_fused:
                gaps.append('hybrid collapses each leg before it fuses, not the fused list; fusion="auto"')
        if any(self._finds_chunk_documents(leg.query, scope) for leg in request.legs):
            gaps.append(_CHUNKS_GAP)
        if fusion.kind == "linear" and any(self._to_common(leg.query, scope) for leg in request.legs):
            gaps.append(
                'dot_product scores differ from Elasticsearch\'s until they are converted; fusion="auto"'
            )
        if request.options.post_filter is not None:
            gaps.append(_COUNTS_GAP)
        if any(self.dialect.finds_more_than_k(leg.query, scope) for leg in request.legs):
            gaps.append('a kNN with num_candidates above k finds more than k documents here; fusion="auto"')
        if request.goes_on:
            gaps.append('pages beyond the window (keep_alive_seconds) are fused in the client; fusion="auto"')
        if request.options.min_score is not None:
            gaps.append('min_score of a fused list is looked at in the client; fusion="auto"')
        if request.options.leg_timeouts_seconds:
            gaps.append('legs have time-outs of their own only where the fusion is ours; fusion="auto"')
        return gaps

    def _by_server(self, request: Request, fusion: FusionNode, scope: Scope) -> CompiledSearch:
        options = request.options
        body, exceeded = self._within_budget(
            lambda within: self.dialect.fusion_body(fusion, _queries(request), within), scope
        )
        if exceeded and options.fusion == "auto":
            # Cut less: a request of its own for each leg has the whole budget.
            scope.gap(
                f"the legs together have more than the {self.capabilities.max_clauses} clauses that this "
                'engine takes in a request; fusion="auto" sends each by itself'
            )
        body["size"] = options.size
        if options.offset:
            body["from"] = options.offset
        body["_source"] = self.source(options.source)
        self._add_extras(body, options, scope)
        if options.count:
            body["track_total_hits"] = True
        for stage in request.stages:
            if isinstance(stage, Collapse):
                body["collapse"] = {"field": scope.usable(stage.field, "collapse").path}
        shards = self.plan.index.shards if self.plan is not None else 1
        return CompiledSearch(
            request=request,
            scope=scope,
            path="server",
            body=body,
            legs=tuple(self._leg(leg, scope, request.window) for leg in request.legs)
            if options.explain
            else (),
            fusion=fusion,
            score_factor=self.dialect.score_factor(fusion),
            approximate=shards > 1,
        )

    def _reranked_by_engine(self, request: Request, fusion: FusionNode, scope: Scope) -> CompiledSearch:
        body = self._engine_rerank(request, scope) or {}
        for gap in self.dialect.fusion_gaps(fusion, scope):
            scope.gap(gap)
        body["size"] = request.options.size
        body["_source"] = self.source(request.options.source)
        if request.options.offset:
            body["from"] = request.options.offset
        self._add_extras(body, request.options, scope)
        return CompiledSearch(request=request, scope=scope, path="server", body=body)

    def _diversified_by_engine(self, request: Request, scope: Scope) -> CompiledSearch:
        """The engine's own form of diversify, which isn't the same on both (``q.diversify`` says how)."""
        options, (stage, *others) = request.options, request.stages
        gaps = []
        if others or not isinstance(stage, Diversify):
            gaps.append('the engine diversifies with no other stage; fusion="auto"')
        if options.offset:
            gaps.append('the engine diversifies a first page; fusion="auto"')
        if options.sort is not None or options.search_after is not None:
            raise QueryError("sort doesn't go with diversify, which is an order itself", field="sort")
        if request.fusion is not None:
            gaps.extend(self.dialect.fusion_gaps(request.fusion, scope))
        for gap in gaps:
            scope.gap(gap)
        body: Json = {}
        if isinstance(stage, Diversify) and not gaps:
            body = self.dialect.diversify(stage, request.fusion, _queries(request), options.size, scope) or {}
        body["size"] = options.size
        body["_source"] = self.source(options.source)
        self._add_extras(body, options, scope)
        return CompiledSearch(
            request=request,
            scope=scope,
            path="single" if request.fusion is None else "server",
            body=body,
            fusion=request.fusion,
            score_factor=1.0 if request.fusion is None else self.dialect.score_factor(request.fusion),
            to_common=None if request.fusion is not None else self._to_common(request.inner, scope),
            counted=False,
        )

    def _by_client(
        self, request: Request, fusion: FusionNode, scope: Scope, fetch_with_legs: bool
    ) -> CompiledSearch:
        options = request.options
        asked: Sequence[RequestLeg] = request.legs
        if options.post_filter is not None:
            asked = [replace(leg, query=add_filter(leg.query, options.post_filter)) for leg in asked]
        legs = [self._leg(leg, scope, request.window) for leg in asked]
        documents = any(leg.is_chunk_document for leg in legs)
        small = fetch_with_legs or options.source not in (None, True)
        small = small and options.offset + options.size <= request.window
        fetch = small and request.window <= FETCHED_WINDOW and not documents and not options.highlights
        stored = self.source(options.source) if fetch else None
        paths = [
            scope.usable(stage.field, "collapse").path
            for stage in request.stages
            if isinstance(stage, Collapse)
        ]
        for leg in legs:
            if fetch:
                leg.body["_source"] = stored
            if paths:
                leg.body["fields"] = [*leg.body.get("fields", ()), *paths]
        match_any: Json | None = None
        if options.aggregations or options.count:
            if documents:
                raise QueryError(
                    "count and aggregations would count chunks, since they are documents of their own here; "
                    'ask for them with a query of the text fields alone, or use chunk.store = "nested"',
                    field="aggregations" if options.aggregations else "count",
                )
            match_any = self._match_any(_queries(request), options, scope)
        return CompiledSearch(
            request=request,
            scope=scope,
            path="client",
            body=None,
            legs=tuple(legs),
            match_any=match_any,
            fusion=fusion,
            fetch_with_legs=fetch,
            grown=tuple(self._grown(request)),
        )

    def _grown(self, request: Request) -> Iterator[CompiledSearch]:
        """Up to the one whose list holds the page."""
        end, doublings = request.options.offset + request.options.size, 0
        while request.goes_on and end > request.window << doublings:
            doublings += 1
            longer = self.grown(request, doublings)
            if longer is None:
                return
            yield longer

    def grown(self, request: Request, doublings: int) -> CompiledSearch | None:
        """The next part of a fusion's pages (:meth:`Request.grown`), or None at the end of what the engine
        takes."""
        longer = request.grown(doublings, self.capabilities.max_result_window)
        return None if longer is None else self.compile(longer, fetch_with_legs=False)

    def _match_any(self, queries: list[Query], options: SearchOptions, scope: Scope) -> Json:
        """One request for everything that some leg finds, behind counts and aggregations."""
        # One budget for all legs, where their own requests have one each.
        quiet = scope.with_(notes=[])
        union, cut = self._within_budget(lambda within: self.dialect.union_body(queries, within), quiet)
        if cut:
            scope.note(
                "totals and aggregations leave out what only the last words or the lightest terms find; "
                f"this engine takes {self.capabilities.max_clauses} clauses in a request"
            )
        body = {**union, "size": 0, "track_total_hits": True}
        counted = replace(options, highlight=None, timeout_seconds=None, min_score=None)
        self._add_extras(body, counted, scope)
        return body

    # -- legs ----------------------------------------------------------------------------------------

    def _within_budget(self, build: Callable[[Scope], Json], scope: Scope) -> tuple[Json, bool]:
        """A request's query with no more clauses than the engine takes, and whether it had to be cut.

        Compiled once, and a second time only where the first asked for too much.
        """
        budget = ClauseBudget(self.capabilities.max_clauses)
        body = build(scope.with_(names=[], clauses=budget))
        if not budget.exceeded:
            return body, False
        return build(scope.with_(names=[], clauses=budget.shares())), True

    def _leg(self, leg: RequestLeg, scope: Scope, window: int) -> CompiledLeg:
        inner = scope.with_(names=[], window=window, align_scores=leg.align_scores)
        asked = self._no_chunk_documents(leg.query, scope)
        body, _ = self._within_budget(lambda within: self.dialect.leg_body(asked, within), inner)
        # Of the k nearest, whose number an engine may take for that of each shard, or may not keep to at all.
        k = leg.query.k if isinstance(leg.query, Knn) else None
        body["size"] = window if k is None else min(window, k)
        body["_source"] = False
        body["track_total_hits"] = False
        is_chunk_document = self._finds_chunk_documents(leg.query, scope)
        if is_chunk_document and self._chunk_documents is not None:
            body["collapse"] = {"field": PARENT_FIELD}
            body["_source"] = [f"{self._chunk_documents.path}.text"]
        if leg.timeout_seconds is not None:
            body["timeout"] = milliseconds(leg.timeout_seconds)
        return CompiledLeg(
            leg=leg,
            body=body,
            to_common=self._to_common(leg.query, scope),
            is_chunk_document=is_chunk_document,
        )

    def _to_common(self, query: Query, scope: Scope) -> Callable[[float], float] | None:
        """What brings a leg's scores to the common scale; None where they are on it."""
        if not isinstance(query, Knn):
            return None
        field = scope.dense(query.field).spec
        similarity = field.similarity if field is not None else "cosine"
        return dialect_for(self.capabilities).scores.to_common(similarity)

    def _no_chunk_documents(self, query: Query, scope: Scope) -> Query:
        """Where chunks are documents of their own, legs of whole documents must not find them."""
        if self._chunk_documents is None or self._finds_chunk_documents(query, scope):
            return query
        return add_filter(query, Bool(must_not=(Exists(field=PARENT_FIELD),)))

    def _finds_chunk_documents(self, query: Query, scope: Scope) -> bool:
        if self._chunk_documents is None:
            return False
        for node in walk(query):
            if isinstance(node, Knn):
                found = scope.dense(node.field).is_chunk_document
            elif isinstance(node, Sparse):
                found = scope.sparse(node.field).is_chunk_document
            else:
                found = isinstance(node, TextNode) and any(
                    scope.text(name).is_chunk_document
                    for name, _ in (scope.searched_fields(node) if node.named_fields else ())
                )
            if found:
                return True
        return False

    # -- later round trips -----------------------------------------------------------------------------

    def scores_for(
        self, query: Query, ids: Sequence[str], scope: Scope, *, align_scores: bool, adds: bool = False
    ) -> Json:
        """A query's scores of these documents alone, exactly: a filter this narrow makes the engines compare
        vector by vector.

        Args:
            align_scores, adds: see :class:`~esembed.dialect.scope.Scope`.
        """
        if isinstance(query, Knn):
            knn: Knn = query.replace(k=len(ids), num_candidates=None, visit_percentage=None)
            if knn.exact and not self.dialect.scores_vectors_exactly(self.capabilities):
                oversample = 1.0 if self.capabilities.rescore_vector else None
                knn = knn.replace(exact=False, oversample=oversample)
            query = knn
        narrowed = add_filter(query, Ids(values=tuple(ids)))
        inner = scope.with_(names=[], window=len(ids), align_scores=align_scores, adds=adds, inner_hits=False)
        body, _ = self._within_budget(lambda within: self.dialect.leg_body(narrowed, within), inner)
        return {**body, "size": len(ids), "_source": False, "track_total_hits": False}


def _counts_apart(request: Request) -> bool:
    """Whether hits and counts are two searches: an engine's post_filter thins out the k nearest, where the
    filter inside finds k that it lets pass."""
    return request.options.post_filter is not None and request.finds_nearest


def _check_one_vector(stage: Diversify, scope: Scope) -> None:
    """Raises QueryError where hits can't be compared by the field of a diversify."""
    info = scope.dense(stage.field, "diversify")
    if info.nested is not None or info.is_chunk_document:
        raise QueryError(
            f"diversify compares documents by one vector each, and {stage.field!r} has one for each chunk; "
            "name a dense field that isn't chunked",
            field="field",
        )


_AROUND = frozenset({"bool", "nested", "function_score", "script_score", "dis_max", "constant_score", "knn"})
"""Clauses that hold clauses."""


def _check_levels(bodies: Sequence[Json], most: int) -> None:
    """Raises QueryError for a body whose clauses lie deeper inside each other than the engine takes."""
    waiting: list[tuple[Any, int]] = [(body.get(part), 1) for body in bodies for part in ("query", "knn")]
    while waiting:
        value, level = waiting.pop()
        if level > most:
            raise QueryError(
                f"the query is nested deeper than the {most} levels that this engine takes "
                "(indices.query.bool.max_nested_depth); write it flatter: several clauses in a bool_"
            )
        if isinstance(value, Mapping):
            waiting.extend((inner, level + (name in _AROUND)) for name, inner in value.items())
        elif isinstance(value, list) and value and not isinstance(value[0], (int, float, str)):
            waiting.extend((inner, level) for inner in value)


def _queries(request: Request) -> list[Query]:
    return [leg.query for leg in request.legs]
