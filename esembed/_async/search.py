"""Searching a live index: vectors for the texts, one round trip, fusion where it is ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect.dates import dates_named
from esembed.dialect.values import check_unicode
from esembed.encode.engine_inference import EngineEncoder
from esembed.encode.pool import EncoderPool
from esembed.encode.query_cache import QueryVectorCache
from esembed.encode.tokens import TokenIds
from esembed.errors import EncoderError, EsembedError, QueryError
from esembed.fusion import fuse
from esembed.plan import IndexPlan
from esembed.plan.legs import default_query, expand_by_leg, leg_names, query_legs, select_legs
from esembed.query.checks import filter_of
from esembed.query.nodes import Filter, Knn, Linear, Query, Rrf, Scalar, Sparse
from esembed.query.tree import add_filter, bind, text_legs, transform
from esembed.search.answer import LegAnswer, shard_failure, single_hits, total_of
from esembed.search.compile import Compiler
from esembed.search.compiled import CompiledSearch, FusionPath, SearchOptions, SourceFilter
from esembed.search.page import next_cursor, query_digest
from esembed.search.request import (
    Reranker,
    at_cursor,
    check_query,
    check_rerankers,
    http_timeout,
    inner_query,
    without,
)
from esembed.transport import Response, error_from_response
from esembed.types import Hits

from ._shim import in_thread
from .client import AsyncEngineClient
from .client_fusion import AsyncFusing
from .live import Live, index_path
from .live_fields import AsyncLiveFields
from .query_vectors import AsyncQueryVectors

__all__ = ["AsyncSearcher"]


class AsyncSearcher:
    """Searches one index. Safe to share; keeps encoders warm and query vectors cached.

    Args:
        client: the seam over the official client.
        index_name: an index or an alias of one.
        plan: what the index is.
        capabilities: what the engine can do.
        pool: the encoders.
        live: the index as the engine has it, for its mapping; None skips that check.
        rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``.
        token_ids: sparse field → its id table (SEISMIC), where it is not its encoder's vocabulary.
        before_encoding: called with a field's name before its first text is encoded.
    """

    def __init__(
        self,
        client: AsyncEngineClient,
        index_name: str,
        plan: IndexPlan,
        capabilities: Capabilities,
        pool: EncoderPool,
        *,
        live: Live | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
        token_ids: Mapping[str, TokenIds] | None = None,
        before_encoding: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.client = client
        self.index_name = index_name
        self.plan = plan
        self.capabilities = capabilities
        self.pool = pool
        self.rerankers = check_rerankers(rerankers)
        self.token_ids = dict(token_ids or {})
        self._path = index_path(index_name)
        self._live = AsyncLiveFields(client, index_name, plan, live.mapping if live is not None else None)
        self._vectors = AsyncQueryVectors(plan, pool, before_encoding)
        self._fusing = AsyncFusing(self)

    # -- one search ------------------------------------------------------------------------------

    async def search(
        self,
        query: str | Query,
        *,
        text: str | None = None,
        filter: Filter | Sequence[Filter] | None = None,
        size: int = 10,
        offset: int = 0,
        cursor: str | None = None,
        legs: Collection[str] | None = None,
        source: SourceFilter = None,
        highlight: bool | Sequence[str] | Mapping[str, Any] | None = None,
        aggregations: Mapping[str, Any] | None = None,
        explain: bool = False,
        sort: str | Mapping[str, Any] | Sequence[Any] | None = None,
        search_after: Sequence[Scalar | None] | None = None,
        fusion: FusionPath = "auto",
        count: bool = False,
        timeout_seconds: float | None = None,
        leg_timeouts_seconds: Mapping[str, float] | None = None,
        partial_results: bool = False,
        preference: str | None = None,
    ) -> Hits:
        """The best hits.

        Args:
            query: words from a search box (the plan's default query searches them), or a query.
            text: for the legs of a query that have none of their own.
            filter: put inside every leg; of several all must hold.
            size, offset, cursor: the page; ``hits.next_cursor`` leads to the next one.
            legs: only these legs of the (default) fusion, by name.
            source: which stored fields come along; vectors don't unless they are named.
            highlight: True, names of text fields, or the engine's own object.
            aggregations: the engine's own object; see :class:`~esembed.search.compiled.SearchOptions`.
            explain: each leg's rank, score and share.
            sort, search_after: the engine's own; not under fusion.
            fusion: ``auto``, ``server`` or ``client``.
            count: count matches under fusion, too.
            timeout_seconds: after which the engine answers with what it has.
            leg_timeouts_seconds: the same for legs by name; the fusion is ours then.
            partial_results: answer with the legs that came, and say so in ``legs_missing``, where one
                can't be encoded or is refused, some of its shards failed, or a rescore stage failed; else
                that is an error.
            preference: which shard copies; by default the same ones for the same query, so that pages
                agree.

        Raises:
            QueryError: a field that isn't there or is used wrongly, a page beyond the window …
            UnsupportedFeatureError: the engine lacks something.
            EncoderError, ContractError: a query can't be encoded for this index.
            EngineRequestError, EngineUnavailableError: the engine refused, or didn't answer.
        """
        options = SearchOptions(
            size=size,
            offset=offset,
            source=source,
            highlight=highlight,
            aggregations=aggregations,
            explain=explain,
            sort=[sort] if isinstance(sort, (str, Mapping)) else sort,
            search_after=search_after,
            fusion=fusion,
            count=count,
            timeout_seconds=timeout_seconds,
            leg_timeouts_seconds=leg_timeouts_seconds or {},
        )
        bound = self._bound(query, text, filter, legs)
        if leg_timeouts_seconds and len(fused := query_legs(bound)) > 1:
            seconds = expand_by_leg(leg_timeouts_seconds, fused, "leg_timeouts_seconds")
            options = replace(options, leg_timeouts_seconds=seconds)
        digest = query_digest(bound)
        if cursor is not None:
            bound, options = at_cursor(bound, options, cursor, digest)
        await self._live.check(bound, aggregations)
        filled, missing = await self._filled(bound, partial_results)
        if missing and options.leg_timeouts_seconds:
            left = {k: v for k, v in options.leg_timeouts_seconds.items() if k not in missing}
            options = replace(options, leg_timeouts_seconds=left)
        compiler = self._compiler(options)
        compiled = compiler.compile(filled)
        params: dict[str, Any] = {"preference": preference or f"esembed-{digest}"}
        alone = compiled.body is not None and not compiled.legs
        with dates_named(filled):
            response = await self.client.request(
                "POST",
                f"/{self._path}/{'_search' if alone else '_msearch'}",
                params=params if alone else None,
                body=compiled.body if alone else compiled.lines(params),
                timeout_seconds=http_timeout(options),
            )
            answers: list[Any] = [response.body] if alone else list(response.body["responses"])
            return await self._hits(
                compiler, compiled, answers, filled, digest, missing, partial_results, params
            )

    async def search_many(
        self,
        queries: Sequence[str | Query],
        *,
        filter: Filter | Sequence[Filter] | None = None,
        size: int = 10,
        legs: Collection[str] | None = None,
        source: SourceFilter = None,
        explain: bool = False,
        fusion: FusionPath = "auto",
        batch_size: int = 32,
        timeout_seconds: float | None = None,
    ) -> list[Hits]:
        """Many searches for offline work: texts are encoded together, requests go by ``_msearch``.

        Args:
            batch_size: how many queries share a request.

        Raises:
            as :meth:`search`, for the first query that fails.
        """
        if batch_size < 1:
            raise QueryError(f"batch_size must be ≥ 1, not {batch_size}", field="batch_size")
        options = SearchOptions(
            size=size, source=source, explain=explain, fusion=fusion, timeout_seconds=timeout_seconds
        )
        found: list[Hits] = []
        for start in range(0, len(queries), batch_size):
            found.extend(await self._many(queries[start : start + batch_size], options, filter, legs))
        return found

    async def _many(
        self,
        queries: Sequence[str | Query],
        options: SearchOptions,
        filter: Filter | Sequence[Filter] | None,
        legs: Collection[str] | None,
    ) -> list[Hits]:
        bound = [self._bound(query, None, filter, legs) for query in queries]
        for query in bound:
            await self._live.check(query)
        vectors = await self._encode_all(bound)
        filled = [(await self._filled(query, False, vectors))[0] for query in bound]
        compilers = [self._compiler(options) for _ in filled]
        compiled = [c.compile(query) for c, query in zip(compilers, filled, strict=True)]
        lines: list[Mapping[str, Any]] = []
        for one in compiled:
            lines.extend(one.lines({}))
        response = await self.client.request(
            "POST", f"/{self._path}/_msearch", body=lines, timeout_seconds=http_timeout(options)
        )
        answers = list(response.body["responses"])
        found: list[Hits] = []
        position = 0
        for compiler, one, query in zip(compilers, compiled, filled, strict=True):
            mine = answers[position : position + len(one.bodies)]
            position += len(one.bodies)
            with dates_named(query):
                found.append(await self._hits(compiler, one, mine, query, query_digest(query), {}, False, {}))
        return found

    # -- preparing --------------------------------------------------------------------------------

    def _compiler(self, options: SearchOptions) -> Compiler:
        ids = {**self.pool.token_ids(ready_only=True), **self.token_ids}
        return Compiler(
            self.capabilities,
            options,
            plan=self.plan,
            mapping=self._live.types,
            formats=self._live.formats,
            token_ids=ids,
            inline=self._fusing.inline,
        )

    def _bound(
        self,
        query: str | Query,
        text: str | None,
        filter: Filter | Sequence[Filter] | None,
        legs: Collection[str] | None,
    ) -> Query:
        if text is not None:
            check_unicode(text, "text")
        if isinstance(query, str):
            if text is not None:
                raise QueryError("query is the text already; leave text= out", field="text")
            asked = bind(default_query(self.plan), check_unicode(query, "query"))
        else:
            asked = bind(check_query(query, "query", "a text, q.match(…), q.rrf(…)"), text)
        return add_filter(select_legs(asked, legs), filter_of(filter))

    async def _filled(
        self, query: Query, partial: bool, known: Mapping[tuple[str, str], Any] | None = None
    ) -> tuple[Query, dict[str, str]]:
        """The query with a vector in every leg that has a text; legs that can't be encoded left out where
        partial results are wanted. *known* holds the vectors of (field, text) where they are made already."""
        open_legs = text_legs(query)
        if not open_legs:
            return query, {}
        inside = await self._inside(open_legs, partial)
        if known is not None:
            vectors = dict(known)
        else:
            wanted = list(dict.fromkeys((leg.field, str(leg.text)) for leg in open_legs))
            wanted = [key for key in wanted if key[0] not in inside]
            vectors = await self._vectors.of(wanted, partial)
        for leg in open_legs:  # a text that the engine encodes stays in the leg, unless it may not
            if leg.field in inside:
                vectors[leg.field, str(leg.text)] = inside[leg.field]
        failed = {key: value for key, value in vectors.items() if isinstance(value, EsembedError)}
        missing: dict[str, str] = {}
        if failed:
            query, missing = without(query, failed)

        def fill(node: Query) -> Query:
            if isinstance(node, (Knn, Sparse)) and node.vector is None and node.field not in inside:
                filled: Query = msgspec.structs.replace(
                    node, text=None, vector=vectors[(node.field, str(node.text))]
                )
                return filled
            return node

        return transform(query, fill), missing

    async def _inside(self, legs: Sequence[Knn | Sparse], partial: bool) -> dict[str, EsembedError | None]:
        """Those of the legs' fields whose texts the engine encodes itself, each with None, or with what
        forbids it: what an index says about itself doesn't decide where a query's text goes."""
        found: dict[str, EsembedError | None] = {}
        for field in dict.fromkeys(leg.field for leg in legs):
            if self.pool.field(field).endpoint is None:
                continue
            try:
                encoder = await in_thread(self.pool.encoder, field)
            except EncoderError as error:
                if not partial:
                    raise
                found[field] = error
            else:
                if isinstance(encoder, EngineEncoder):
                    found[field] = None
        return found

    @property
    def cache(self) -> QueryVectorCache:
        """Query vectors by field and text."""
        return self._vectors.cache

    @property
    def encode_calls(self) -> int:
        """How many encode calls single searches have made; concurrent ones share them, and so do two
        fields that share a pass."""
        return self._vectors.encode_calls

    async def warm(self) -> None:
        """Load and run the encoder of every field that a text can be searched in."""
        await self._vectors.warm()

    async def _encode_all(self, queries: Sequence[Query]) -> dict[tuple[str, str], Any]:
        """The vectors of many queries by (field, text): one encode call for each field and batch."""
        wanted: dict[str, dict[str, None]] = {}
        for query in queries:
            legs = text_legs(query)
            inside = await self._inside(legs, False) if legs else {}
            for leg in legs:
                if leg.field in inside:
                    continue
                wanted.setdefault(leg.field, {})[str(leg.text)] = None
        return await self._vectors.of_many(wanted)

    # -- answering --------------------------------------------------------------------------------

    async def _hits(
        self,
        compiler: Compiler,
        compiled: CompiledSearch,
        answers: list[Any],
        query: Query,
        digest: str,
        missing: Mapping[str, str],
        partial: bool,
        params: Mapping[str, Any],
    ) -> Hits:
        if compiled.path == "client":
            return await self._fusing.hits(
                compiler, compiled, answers, query, digest, missing, partial, params
            )
        options = compiled.options
        body = self._good(answers[0])
        missing = dict(missing)
        lost = shard_failure(body)
        if lost is not None:
            if not partial:
                raise lost
            core = inner_query(query)
            names = leg_names(core.legs if isinstance(core, (Rrf, Linear)) else (core,))
            missing.update(dict.fromkeys(names, f"{lost}: what the others found was used"))
        leg = ""
        shares = None
        if compiled.path == "single" and options.explain:
            (leg,) = leg_names((inner_query(query),))
        if compiled.legs and compiled.fusion is not None:
            lists: list[LegAnswer] = [
                LegAnswer(self._good(answer), one, None)
                for answer, one in zip(answers[1:], compiled.legs, strict=True)
            ]
            fused = {hit.id: hit.shares for hit in fuse(compiled.fusion, [a.ranked for a in lists])}

            def shares(doc: str) -> Sequence[Any]:
                return fused.get(doc, ())

        hits = single_hits(body, compiled, leg=leg, shares=shares)
        total, relation = total_of(body)
        if compiled.path == "server":
            total = total if options.count else None
        elif not compiled.counted:
            total = None
        return Hits(
            hits,
            total=total,
            total_relation=relation if total is not None else "eq",
            took_ms=float(body.get("took", 0)),
            timed_out=bool(body.get("timed_out", False)),
            legs_missing=missing,
            aggregations=body.get("aggregations") or {},
            next_cursor=next_cursor(compiled, digest, len(hits), total),
            path=compiled.path,
            approximate=compiled.approximate,
            notes=compiled.notes,
        )

    def _good(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """An item of ``_msearch``. Raises the error that it is."""
        if "error" in answer:
            status = int(answer.get("status", 500))
            raise error_from_response("POST", f"/{self._path}/_msearch", Response(status, answer))
        return answer
