"""A query to requests, pure: which path, which window, which bodies.

The paths: one leg is one ``_search``. A fusion is one ``_search`` where the engine fuses with the same
result (Elasticsearch's retrievers where the licence has them, OpenSearch's ``hybrid`` with an inline
pipeline where ranks are global), else one ``_msearch`` and :mod:`esembed.fusion`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect.elasticsearch.query import ElasticsearchQuery
from esembed.dialect.query import Json
from esembed.encode.tokens import TokenIds
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.fusion import FusionNode, LegRef
from esembed.plan import IndexPlan
from esembed.plan.legs import leg_names, sum_legs
from esembed.query.nodes import (
    Bool,
    Collapse,
    Knn,
    Linear,
    Query,
    Rescore,
    Rrf,
)
from esembed.query.tree import add_filter, walk
from esembed.search.compiled import CompiledSearch, Leg, SearchOptions
from esembed.search.facets import check_aggregations
from esembed.search.legs import LegCompiler, milliseconds
from esembed.search.page import highlight_spec, source_spec
from esembed.search.window import DEFAULT_WINDOW, check_timeouts, page_window

__all__ = ["DEFAULT_WINDOW", "Compiler", "compile_query", "to_body"]

EXPLAINED_HITS = 1000  # how many hits of each leg of a sum are asked for to explain a page
INLINE_WINDOW = 200  # up to here the legs bring the stored fields; beyond, the page is fetched alone


def compile_query(
    query: Query,
    capabilities: Capabilities,
    options: SearchOptions | None = None,
    *,
    plan: IndexPlan | None = None,
    mapping: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    token_ids: Mapping[str, TokenIds] | None = None,
) -> CompiledSearch:
    """Compile a query whose texts are bound and whose vectors are filled in.

    Args:
        query: what to search for.
        capabilities: the engine.
        options: page, sources, highlights …
        plan: the index's plan; without it, names and types are taken as the query implies them.
        mapping: field → type of the live mapping, for fields that the plan doesn't know.
        formats: date field → its format in the live mapping.
        token_ids: sparse field → its id table (SEISMIC).

    Raises:
        QueryError: a field that isn't there or is used wrongly, a page beyond the window …
        UnsupportedFeatureError: what the engine lacks, all of it.
    """
    compiler = Compiler(
        capabilities,
        options or SearchOptions(),
        plan=plan,
        mapping=mapping,
        formats=formats,
        token_ids=token_ids,
    )
    return compiler.compile(query)


def to_body(
    query: Query,
    profile: str | Capabilities,
    *,
    plan: IndexPlan | None = None,
    **options: Any,
) -> Json | list[Json]:
    """The body of ``_search``, or the lines of ``_msearch`` where the fusion is ours."""
    if isinstance(profile, str):
        capabilities: Capabilities = importlib.import_module("esembed.capabilities").profile(profile)
    else:
        capabilities = profile
    try:
        asked = SearchOptions(**options)
    except TypeError as error:
        raise QueryError(f"to_body: {error}") from error
    compiled = compile_query(query, capabilities, asked, plan=plan)
    if compiled.body is not None and not compiled.legs:
        return compiled.body
    return [dict(line) for line in compiled.lines({})]


class Compiler(LegCompiler):
    """One query's compilation; keeps what later round trips are compiled with."""

    def compile(self, query: Query) -> CompiledSearch:
        """See :func:`compile_query`."""
        core, stages = _unwrap(query)
        if isinstance(core, Knn) and core.k is not None and not self.options.offset and not stages:
            # The k nearest are fewer than a page: a short first page is what was asked for.
            self.options = replace(self.options, size=min(self.options.size, core.k))
        self.scope.window = window = page_window(core, stages, self.options, self.capabilities)
        if isinstance(core, (Rrf, Linear)):
            compiled = self._fusion(core, stages, window)
        else:
            compiled = self._single(core, stages, window)
        names = [leg.name for leg in self.legs] if isinstance(core, (Rrf, Linear)) else []
        check_timeouts(self.options, names)
        if self.scope.gaps:
            raise UnsupportedFeatureError(self.scope.gaps, profile=self.capabilities.profile)
        return replace(compiled, notes=tuple(self.scope.notes))

    # -- one leg -------------------------------------------------------------------------------------

    def _single(self, core: Query, stages: list[Rescore | Collapse], window: int) -> CompiledSearch:
        options = self.options
        leg = self._leg(core, "", window)
        ours = self._stages_are_ours(core, stages) or leg.is_chunk_document
        if ours:
            if options.sort or options.search_after:
                raise QueryError(
                    "sort and search_after don't go with rescore or chunk documents", field="sort"
                )
            (name,) = leg_names((core,))
            node = FusionNode(kind="linear", children=(LegRef(name, 0),), weights=(1.0,), window=window)
            self.legs = [self._leg(core, name, window)]
            return self._client(node, stages, window, [core])
        body = self._body_of(core, self._scope(core))
        if isinstance(core, Knn):
            body["size"] = min(options.size, window - options.offset)
        else:
            body["size"] = options.size
        if options.offset:
            body["from"] = options.offset
        body["_source"] = source_spec(options.source, self.plan)
        self._extras(body, core)
        for stage in stages:
            if isinstance(stage, Collapse):
                body["collapse"] = {"field": self.scope.sortable(stage.field, "collapse").path}
            elif stage.by is not None:
                scaled = self._scope(core).with_(align_scores=True, inner_hits=False)
                body["rescore"] = {
                    "window_size": stage.window_size,
                    "query": {
                        "rescore_query": self.dialect.clause(stage.by, scaled),
                        "query_weight": stage.query_weight,
                        "rescore_query_weight": stage.rescore_weight,
                    },
                }
        if options.sort is not None:
            if stages:
                raise QueryError("sort doesn't go with rescore or collapse's best hit by score", field="sort")
            body["sort"] = list(options.sort)
            if options.search_after is not None:
                body["search_after"] = list(options.search_after)
                body.pop("from", None)
        elif options.search_after is not None:
            raise QueryError("search_after needs sort", field="search_after")
        inference = self._inference(core, stages)
        if inference is not None:
            body = {**{k: v for k, v in body.items() if k not in ("query", "knn")}, **inference}
        parts = self._explained(core) if options.explain and not stages else ()
        return CompiledSearch(
            path="single",
            body=body,
            legs=parts,
            fusion=FusionNode(
                kind="linear",
                children=tuple(LegRef(part.name, i) for i, part in enumerate(parts)),
                weights=(1.0,) * len(parts),
                normalizer="none",
                window=EXPLAINED_HITS,
            )
            if parts
            else None,
            window=window,
            convert=leg.convert,
            counted=not any(isinstance(n, Knn) for n in walk(core)) and not stages,
            options=options,
        )

    def _explained(self, core: Query) -> tuple[Leg, ...]:
        """The legs of a sum that is one request, as requests of their own: what each gave to a hit."""
        found = []
        for part, name in zip(sum_legs(core), leg_names(sum_legs(core)), strict=True):
            if isinstance(core, Bool):
                for extra in (*core.filter, *(Bool(must_not=(no,)) for no in core.must_not)):
                    part = add_filter(part, extra)
            # Inside the sum scores are the engine's own, brought to one scale but not converted.
            found.append(replace(self._leg(part, name, EXPLAINED_HITS, align_scores=True), convert=None))
        return tuple(found)

    def _stages_are_ours(self, core: Query, stages: list[Rescore | Collapse]) -> bool:
        if not stages:
            return False
        if len(stages) > 1:
            return True
        (stage,) = stages
        if isinstance(stage, Collapse):
            return False
        if stage.inference_id is not None:
            return False
        if stage.by is None:
            return True
        vectors = [n for n in walk(stage.by) if isinstance(n, Knn)]
        exact = self.capabilities.kind == "opensearch" or self.capabilities.scripts
        # A kNN as the rescoring query scores only its own k hits; by ids it scores the whole window.
        return any(not (node.exact and exact) for node in vectors)

    def _inference(self, core: Query, stages: list[Rescore | Collapse]) -> Json | None:
        """Elasticsearch's ``text_similarity_reranker`` around a query, where an endpoint is named."""
        stage = next((s for s in stages if isinstance(s, Rescore) and s.inference_id is not None), None)
        if stage is None:
            return None
        if self.capabilities.kind != "elasticsearch" or not self.capabilities.rrf:
            self.scope.gap(
                "rescore by inference_id is Elasticsearch's text_similarity_reranker and needs an "
                "Enterprise or "
                "trial licence; use reranker=, which runs on your side"
            )
            return None
        if len(stages) > 1 or not isinstance(self.dialect, ElasticsearchQuery):
            raise QueryError("rescore by inference_id goes with no other stage", field="inference_id")
        return {
            "retriever": {
                "text_similarity_reranker": {
                    "retriever": self.dialect.retriever(core, self.scope.with_(inner_hits=False)),
                    "field": stage.fields[0],
                    "inference_id": stage.inference_id,
                    "inference_text": stage.text,
                    "rank_window_size": stage.window_size,
                }
            }
        }

    def _extras(self, body: Json, core: Query) -> None:
        options = self.options
        if options.highlight is not None and options.highlight is not False:
            body["highlight"] = highlight_spec(options.highlight, self.scope, None)
        if options.aggregations:
            body["aggs"] = check_aggregations(options.aggregations, self.scope)
        if options.timeout_seconds is not None:
            body["timeout"] = milliseconds(options.timeout_seconds)

    # -- fusion --------------------------------------------------------------------------------------

    def _fusion(self, core: Rrf | Linear, stages: list[Rescore | Collapse], window: int) -> CompiledSearch:
        options = self.options
        if options.sort is not None or options.search_after is not None:
            raise QueryError(
                "sort and search_after don't go with fusion: its order is the fused score, which only exists "
                "within the window. Page with offset or cursor, or sort a single query",
                field="sort",
            )
        core = _push_filters(core)
        node = self._node(core, "", window, align_scores=False)
        if any(isinstance(s, Rescore) and s.inference_id for s in stages):
            return self._server_rerank(core, stages, window)
        gaps = self._server_gaps(core, stages)
        if options.fusion == "server" and gaps:
            raise UnsupportedFeatureError(gaps, profile=self.capabilities.profile)
        differs = self.dialect.fusion_differs(core)
        if options.fusion == "client" or gaps or (options.fusion == "auto" and differs):
            leaves = [leg.node for leg in self.legs]
            return self._client(node, stages, window, leaves)
        if differs:
            self.scope.note(differs)
        return self._server(core, node, stages, window)

    def _server_rerank(
        self, core: Rrf | Linear, stages: list[Rescore | Collapse], window: int
    ) -> CompiledSearch:
        inference = self._inference(core, stages) or {}
        for gap in self.dialect.fusion_gaps(core, self.scope):
            self.scope.gap(gap)
        body = {
            **inference,
            "size": self.options.size,
            "_source": source_spec(self.options.source, self.plan),
        }
        if self.options.offset:
            body["from"] = self.options.offset
        self._extras(body, core)
        return CompiledSearch(path="server", body=body, window=window, options=self.options)

    def _server_gaps(self, core: Rrf | Linear, stages: list[Rescore | Collapse]) -> list[str]:
        gaps = list(self.dialect.fusion_gaps(core, self.scope))
        on_elasticsearch = self.capabilities.kind == "elasticsearch"
        for stage in stages:
            if isinstance(stage, Rescore):
                gaps.append('rescore after a fusion runs on our side; fusion="auto"')
            elif not on_elasticsearch:
                gaps.append('hybrid collapses each leg before it fuses, not the fused list; fusion="auto"')
        if any(leg.is_chunk_document for leg in self.legs):
            gaps.append(
                'chunks that are documents of their own are brought together on our side; fusion="auto"'
            )
        if isinstance(core, Linear) and any(leg.convert for leg in self.legs):
            gaps.append(
                'dot_product scores differ from Elasticsearch\'s until they are converted; fusion="auto"'
            )
        if self.options.leg_timeouts_seconds:
            gaps.append('legs have time-outs of their own only where the fusion is ours; fusion="auto"')
        return gaps

    def _server(
        self, core: Rrf | Linear, node: FusionNode, stages: list[Rescore | Collapse], window: int
    ) -> CompiledSearch:
        options = self.options
        scope = self.scope.with_(names=[])
        if isinstance(self.dialect, ElasticsearchQuery):
            body: Json = {"retriever": self.dialect.retriever(core, scope)}
        else:
            body = self.dialect.hybrid_body(core, scope)
        body["size"] = options.size
        if options.offset:
            body["from"] = options.offset
        body["_source"] = source_spec(options.source, self.plan)
        self._extras(body, core)
        if options.count:
            body["track_total_hits"] = True
        for stage in stages:
            if isinstance(stage, Collapse):
                body["collapse"] = {"field": self.scope.sortable(stage.field, "collapse").path}
        shards = self.plan.index.shards if self.plan is not None else 1
        legs = [replace(leg, body={**leg.body, "_source": False}) for leg in self.legs]
        return CompiledSearch(
            path="server",
            body=body,
            legs=tuple(legs) if options.explain else (),
            fusion=node,
            window=window,
            score_factor=self.dialect.score_factor(core),
            approximate=shards > 1,
            options=options,
        )

    def _client(
        self, node: FusionNode, stages: list[Rescore | Collapse], window: int, leaves: list[Query]
    ) -> CompiledSearch:
        options = self.options
        documents = any(leg.is_chunk_document for leg in self.legs)
        highlighted = options.highlight is not None and options.highlight is not False
        light = self.inline or options.source not in (None, True)
        inline = light and window <= INLINE_WINDOW and not documents and not highlighted
        fields = [s.field for s in stages if isinstance(s, Collapse)]
        paths = [self.scope.sortable(name, "collapse").path for name in fields]
        legs = []
        for leg in self.legs:
            body = dict(leg.body)
            if inline:
                body["_source"] = source_spec(options.source, self.plan)
            if paths:
                body["fields"] = [*body.get("fields", ()), *paths]
            legs.append(replace(leg, body=body))
        union: Json | None = None
        if options.aggregations or options.count:
            if documents:
                raise QueryError(
                    "count and aggregations would count chunks, since they are documents of their own here; "
                    'ask for them with a query of the text fields alone, or use chunk.store = "nested"',
                    field="aggregations" if options.aggregations else "count",
                )
            union = {
                **self.dialect.union_body(leaves, self.scope),
                "size": 0,
                "track_total_hits": True,
            }
            if options.aggregations:
                union["aggs"] = check_aggregations(options.aggregations, self.scope)
        return CompiledSearch(
            path="client",
            body=None,
            legs=tuple(legs),
            union=union,
            fusion=node,
            stages=tuple(stages),
            window=window,
            inline=inline,
            options=options,
        )

    def _node(
        self, node: Rrf | Linear, prefix: str, window: int, *, align_scores: bool, complete: bool = False
    ) -> FusionNode:
        """The fusion as data; its leaves are appended to ``self.legs``."""
        children: list[LegRef | FusionNode] = []
        raw = isinstance(node, Linear) and node.normalizer in ("none", "bound")
        whole = isinstance(node, Linear) and (
            node.normalizer == "bound" if node.complete is None else node.complete
        )
        for leg, short in zip(node.legs, leg_names(node.legs), strict=True):
            name = f"{prefix}{short}"
            if isinstance(leg, (Rrf, Linear)):
                inner = leg.rank_window_size or window
                children.append(
                    replace(
                        self._node(leg, f"{name}/", min(inner, window), align_scores=raw, complete=whole),
                        name=name,
                    )
                )
            else:
                children.append(LegRef(name, len(self.legs), whole))
                made = self._leg(leg, name, window, align_scores=raw)
                self.legs.append(replace(made, complete=whole))
        weights = node.weights or (1.0,) * len(node.legs)
        if isinstance(node, Rrf):
            return FusionNode(
                kind="rrf",
                children=tuple(children),
                weights=weights,
                rank_constant=node.rank_constant,
                window=window,
            )
        return FusionNode(
            kind="linear",
            children=tuple(children),
            weights=weights,
            normalizer=node.normalizer,
            window=window,
        )


def _unwrap(query: Query) -> tuple[Query, list[Rescore | Collapse]]:
    """The query inside the stages, and the stages from the inside out."""
    stages: list[Rescore | Collapse] = []
    while isinstance(query, (Rescore, Collapse)):
        stages.append(query)
        query = query.query
    return query, stages[::-1]


def _push_filters(node: Rrf | Linear) -> Rrf | Linear:
    """The fusion's filter inside every leg."""
    legs: list[Query] = []
    for leg in node.legs:
        inner = add_filter(leg, node.filter)
        legs.append(_push_filters(inner) if isinstance(inner, (Rrf, Linear)) else inner)
    pushed: Rrf | Linear = node.replace(legs=tuple(legs), filter=None)
    return pushed
