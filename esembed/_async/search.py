"""Searching a live index: vectors for the texts, one round trip, client-side fusion."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from esembed.capabilities import Capabilities
from esembed.deadline import Deadline
from esembed.dialect import dialect_for
from esembed.dialect.alias import NO_ALIAS
from esembed.dialect.query import Json
from esembed.dialect.values import check_unicode, raise_named
from esembed.encode.engine_inference import EngineEncoder
from esembed.encode.pool import EncoderPool
from esembed.encode.query_cache import QueryVectorCache
from esembed.errors import (
    EncoderError,
    EngineRequestError,
    EsembedError,
    InvariantError,
    QueryError,
    TransientError,
)
from esembed.plan import IndexPlan
from esembed.plan.default_query import legs_beside
from esembed.query.nodes import (
    Bool,
    Filter,
    Knn,
    MatchAll,
    Operator,
    Query,
    Raw,
    Scalar,
    Sparse,
    filter_of,
)
from esembed.search.answer import msearch_items, ranked_by_engine
from esembed.search.calibration import Calibration
from esembed.search.compile import CompiledSearch, SearchCompiler
from esembed.search.options import (
    FusionPath,
    Reranker,
    SearchOptions,
    SourceFilter,
    check_rerankers,
    http_timeout,
)
from esembed.search.page import PointInTime, milliseconds
from esembed.search.request import Request, make_request, resolve
from esembed.search.view import View, lost
from esembed.search.words import uses_words
from esembed.types import Hits

from ._shim import in_thread
from .client import AsyncEngineClient
from .client_fusion import AsyncClientFusion
from .deadline import ended_by
from .live import LiveIndex, index_path
from .live_fields import AsyncLiveFields
from .query_vectors import AsyncQueryVectors
from .words import settle_words

__all__ = ["AsyncSearcher"]


class AsyncSearcher:
    """Searches one index. Safe to share; keeps encoders warm and query vectors cached.

    Args:
        client: the seam over the official client.
        index_name: an index or an alias of one.
        plan: what the index is.
        capabilities: what the engine can do.
        pool: the encoders.
        live: the index as the engine has it, for its mapping and for the alias's filter and routing; None
            skips that check, and is no alias.
        rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``.
        calibration: how random documents score, for ``q.floor``; None where it was not counted.
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
        live: LiveIndex | None = None,
        rerankers: Mapping[str, Reranker] | None = None,
        before_encoding: Callable[[str], Awaitable[None]] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.client = client
        self.index_name = index_name
        self.plan = plan
        self.capabilities = capabilities
        self.pool = pool
        self.rerankers = check_rerankers(rerankers)
        self._path = index_path(index_name)
        self._pit = dialect_for(capabilities).documents.pit
        self._alias = NO_ALIAS if live is None else live.alias
        shown = self._alias.filter
        # As a filter of the query, so that it reaches every leg and every kNN below it: the engines put an
        # alias's own filter beside the query, where it only thins out the k nearest of all tenants.
        self._alias_filters = () if shown is None else (Raw(bodies={client.engine: dict(shown)}),)
        # Terms are counted in one index; _termvectors refuses the alias of several.
        self._names = (index_name,) if live is None else live.names
        self._one_index = self._names[0]
        self._has_source = live is None or live.source_rules.enabled
        self._live = AsyncLiveFields(client, index_name, plan, live.mapping if live is not None else None)
        self._vectors = AsyncQueryVectors(plan, pool, before_encoding)
        self._fusing = AsyncClientFusion(client, index_name, plan, self.rerankers, calibration, live)
        self._made: tuple[Any, SearchCompiler] | None = None

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
        fuzziness: str | int | None = None,
        operator: Operator | None = None,
        source: SourceFilter = None,
        highlight: bool | Sequence[str] | Mapping[str, Any] | None = None,
        aggregations: Mapping[str, Any] | None = None,
        post_filter: Filter | Sequence[Filter] | None = None,
        min_score: float | None = None,
        explain: bool = False,
        sort: str | Mapping[str, Any] | Sequence[Any] | None = None,
        search_after: Sequence[Scalar | None] | None = None,
        keep_alive_seconds: float | None = None,
        fusion: FusionPath = "auto",
        count: bool = False,
        timeout_seconds: float | None = None,
        leg_timeouts_seconds: Mapping[str, float] | None = None,
        deadline_seconds: float | None = None,
        partial_results: bool = False,
        preference: str | None = None,
        routing: str | Sequence[str] | None = None,
    ) -> Hits:
        """A page of hits, best first, with what was asked for beside them: total, facets, the next page's
        cursor. The text of a leg that brings no vector is encoded first.

        Args:
            query: words from a search box (the plan's default query searches them), or a query.
            text: for the legs of a query that have none of their own.
            filter: put inside every leg; of several all must hold.
            size, offset, cursor: the page; ``hits.next_cursor`` leads to the next one.
            legs: only these legs of the (default) fusion, by name.
            fuzziness, operator: of the words of the string or *text*, as ``q.match`` takes them:
                ``"missing"`` allows typing errors in words that no document has, ``"relax"`` wants as many of
                the words as some document has. Either asks the engine first: one small request more.
            source: which stored fields come along; vectors don't unless they are named.
            highlight: True, names of text fields, or the engine's own object.
            aggregations: the engine's own object; see :class:`~esembed.search.options.SearchOptions`.
            post_filter: put on the hits and not on what *aggregations* count, so that each facet of a page
                still shows what else could be chosen in it; of several all must hold.
            min_score: hits that score less are left out, before any stage; the scores are those that hits
                show (of words each engine's own). Not under RRF, whose scores are ranks: ``q.floor`` cuts
                there.
            explain: each leg's rank, score and contribution.
            sort, search_after: the engine's own; not under fusion. ``hits.next_cursor`` goes on in the same
                order and loses no documents of equal values; *search_after* alone begins behind all of them.
            keep_alive_seconds: the pages that follow see the index as it is now, each within that time after
                the one before; those of a fusion go on beyond its window, to hit 10,000. The engine keeps
                what is deleted meanwhile, until the last page or that time. Pass it with each page.
            fusion: ``auto``, ``server`` or ``client``.
            count: count matches under fusion, too.
            timeout_seconds: after which the engine answers with what it has.
            leg_timeouts_seconds: the same for legs by name; fusion is client-side then.
            deadline_seconds: after which the search is over, whatever it waits for: a model, the engine, a
                client that has no end. With *partial_results* it answers with the legs that came by then,
                where there are any; else that is an EngineUnavailableError that says what took the time.
            partial_results: answer with the legs that came, and say so in ``legs_missing``, where one
                can't be encoded or is refused, some of its shards failed, or a rescore stage failed; else
                that is an error.
            preference: which shard copies; by default the same ones for the same query, so that pages
                agree.
            routing: ask only the shards of these routing values, as documents were written with.

        Raises:
            QueryError: a field that isn't there or is used wrongly, a page beyond the window …
            UnsupportedFeatureError: the engine lacks something.
            EncoderError, ContractError: a query can't be encoded for this index.
            EngineRequestError, EngineUnavailableError: the engine refused, or didn't answer (in time).
        """
        parts = not partial_results  # no advice to do what is done
        deadline = None if deadline_seconds is None else Deadline(deadline_seconds, in_parts=parts)
        options = SearchOptions(
            size=size,
            offset=offset,
            source=self._shown(source),
            highlight=highlight,
            aggregations=aggregations,
            explain=explain,
            post_filter=filter_of(post_filter),
            min_score=min_score,
            sort=[sort] if isinstance(sort, (str, Mapping)) else sort,
            search_after=search_after,
            keep_alive_seconds=keep_alive_seconds,
            fusion=fusion,
            count=count,
            timeout_seconds=timeout_seconds,
            leg_timeouts_seconds=leg_timeouts_seconds or {},
            deadline=deadline,
        )
        self._check_aggregations(aggregations)
        routed = self._alias.params_of_search(routing)
        # Before a text is encoded: a batch that another loop left behind would never be answered.
        self.client.loop.check()
        words = {"fuzziness": fuzziness, "operator": operator}
        request = self._request(
            query,
            options,
            text=text,
            filter=filter,
            legs=legs,
            cursor=cursor,
            words=words,
            routing=str(routed.get("routing") or ""),
        )
        if self._live.lacks(request.nodes, options):
            await self._live.look_again(request.nodes, deadline)
        if request.unencoded:
            request = await self._encoded(request, partial=partial_results)
        compiler = self._compiler()
        if uses_words(request):
            request = await self._settled(request, compiler, routed)
        asked = request.options
        if deadline is not None:
            request = request.ending_in(deadline.left())
        params = {"preference": preference or f"esembed-{request.digest}", **routed}
        # Compiled first: what can't be sent opens no point in time.
        compiled = compiler.compile(request, fetch_with_legs=self._fusing.fetch_with_legs)
        opened: PointInTime | None = None
        if request.options.keep_alive_seconds is not None and request.point_in_time is None:
            opened = await self._open(request.options.keep_alive_seconds, params, deadline)
            compiled = compiled.at(opened)
        view = View(path=self._path, params=params, point_in_time=compiled.request.point_in_time)
        if request.point_in_time is not None:
            await self._check_view(view, deadline)
        where = view.where("_search" if compiled.alone else "_msearch")
        try:
            response = await self.client.request(
                "POST",
                where,
                params=view.search_params if compiled.alone else None,
                body=view.body(compiled.bodies[0]) if compiled.alone else view.lines(compiled.bodies),
                timeout_seconds=http_timeout(asked),
                deadline=deadline,
            )
            answers = [response.body]
            if not compiled.alone:
                answers = msearch_items(response.body, len(compiled.bodies), where)
            hits = await self._hits(compiler, compiled, answers, where, partial_results, view)
            if deadline is not None and hits.timed_out and not partial_results:
                own = asked.timeout_seconds == request.options.timeout_seconds or (
                    hits.legs_missing
                    and all(name in asked.leg_timeouts_seconds for name in hits.legs_missing)
                )
                if not own:
                    # The engine stopped since it was told to, for the deadline's sake: a part is no answer.
                    raise deadline.error(f"the engine's answer to POST {where}")
        except BaseException as error:  # a caller that hangs up, too
            if opened is not None:
                await self._close(opened)
            if isinstance(error, EngineRequestError):
                raise_named(error, request.query)
            raise
        if view.point_in_time is not None and hits.next_cursor is None:
            await self._close(view.point_in_time)
        return hits

    async def search_many(
        self,
        queries: Sequence[str | Query],
        *,
        filter: Filter | Sequence[Filter] | None = None,
        size: int = 10,
        legs: Collection[str] | None = None,
        fuzziness: str | int | None = None,
        operator: Operator | None = None,
        source: SourceFilter = None,
        explain: bool = False,
        fusion: FusionPath = "auto",
        batch_size: int = 32,
        timeout_seconds: float | None = None,
        deadline_seconds: float | None = None,
    ) -> list[Hits]:
        """The hits of each of many queries, in their order, for offline work: texts are encoded together,
        requests go by ``_msearch``.

        Args:
            filter, size, legs, source, explain, fusion: as in :meth:`search`, for every query.
            fuzziness, operator: likewise; the engine is asked about each query by itself.
            batch_size: how many queries share a request.
            timeout_seconds: after which the engine answers each query with what it has.
            deadline_seconds: after which all of it is over, as in :meth:`search`.

        Raises:
            QueryError: *batch_size* is below 1; else as :meth:`search`, for the first query that fails.
        """
        if batch_size < 1:
            raise QueryError(f"batch_size must be ≥ 1, not {batch_size}", field="batch_size")
        options = SearchOptions(
            size=size,
            source=self._shown(source),
            explain=explain,
            fusion=fusion,
            timeout_seconds=timeout_seconds,
            deadline=None if deadline_seconds is None else Deadline(deadline_seconds, in_parts=False),
        )
        found: list[Hits] = []
        for start in range(0, len(queries), batch_size):
            batch = queries[start : start + batch_size]
            words = {"fuzziness": fuzziness, "operator": operator}
            found.extend(await self._many(batch, options, filter, legs, words))
        return found

    async def _many(
        self,
        queries: Sequence[str | Query],
        options: SearchOptions,
        filter: Filter | Sequence[Filter] | None,
        legs: Collection[str] | None,
        words: Mapping[str, Any],
    ) -> list[Hits]:
        requests = [self._request(query, options, filter=filter, legs=legs, words=words) for query in queries]
        deadline = options.deadline
        for request in requests:
            if self._live.lacks(request.nodes, options):
                await self._live.look_again(request.nodes, deadline)
        encode = functools.partial(self._encode_all, requests)
        vectors = await ended_by(deadline, "the vectors of the queries", encode, keep=True)
        requests = [await self._encoded(request, vectors) for request in requests]
        compiler = self._compiler()
        requests = [
            await self._settled(request, compiler, self._alias.search_params)
            if uses_words(request)
            else request
            for request in requests
        ]
        compiled = [
            compiler.compile(request, fetch_with_legs=self._fusing.fetch_with_legs) for request in requests
        ]
        view = View(path=self._path, params=self._alias.search_params)
        lines = view.lines([body for one in compiled for body in one.bodies])
        where = view.where("_msearch")
        response = await self.client.request(
            "POST", where, body=lines, timeout_seconds=http_timeout(options), deadline=deadline
        )
        answers = msearch_items(response.body, sum(len(one.bodies) for one in compiled), where)
        found: list[Hits] = []
        position = 0
        for one in compiled:
            mine = answers[position : position + len(one.bodies)]
            position += len(one.bodies)
            try:
                found.append(await self._hits(compiler, one, mine, where, False, view))
            except EngineRequestError as error:
                raise_named(error, one.request.query)
        return found

    async def encode_queries(self, field: str, texts: Sequence[str]) -> list[Sequence[float]]:
        """The vectors of texts as queries of a dense field, in their order; empty for a text that its
        encoder knows nothing in.

        Raises:
            EncoderError, ContractError: they can't be encoded for this index.
        """
        made = await self._vectors.of_many({field: dict.fromkeys(texts)})
        return [made[field, text] for text in texts]

    async def clause(self, filter: Filter | Sequence[Filter]) -> Json:
        """A filter as the engine takes it, checked as a search's: of what the alias shows, and without
        chunks that are documents of their own.

        Raises:
            QueryError: a field that isn't there or is used wrongly, or a search for vectors.
        """
        options = SearchOptions(size=0)
        request = self._request(Bool(filter=(filter_of(filter) or MatchAll(),)), options)
        if any(isinstance(node, (Knn, Sparse)) for node in request.nodes):
            raise QueryError("a filter of documents can't search for vectors", field="filter")
        if uses_words(request):
            raise QueryError(
                'a filter of documents says exactly which: fuzziness="missing" and operator="relax" mean '
                "what the index has; leave them out",
                field="filter",
            )
        if self._live.lacks(request.nodes, options):
            await self._live.look_again(request.nodes)
        body = self._compiler().compile(request).body
        if body is None:
            raise InvariantError("a filter was compiled to several requests")
        found: Json = body["query"]
        return found

    # -- preparing --------------------------------------------------------------------------------

    def _request(
        self,
        query: str | Query,
        options: SearchOptions,
        *,
        text: str | None = None,
        filter: Filter | Sequence[Filter] | None = None,
        legs: Collection[str] | None = None,
        cursor: str | None = None,
        words: Mapping[str, Any] | None = None,
        routing: str = "",
    ) -> Request:
        if text is not None:
            check_unicode(text, "text")
        if isinstance(query, str):
            check_unicode(query, "query")
        shown = filter_of(filter)
        if self._alias_filters:
            shown = filter_of([*self._alias_filters, *([] if shown is None else [shown])])
        resolved = resolve(query, self.plan, text=text, filter=shown, legs=legs, **(words or {}))
        most = self.capabilities.max_result_window
        request = make_request(
            resolved,
            options,
            max_window=most,
            cursor=cursor,
            routing=routing,
            calibration=self._fusing.calibration,
        )
        if isinstance(query, str) and legs and self.plan.query is not None:
            beside = legs_beside(self.plan, legs)
            if beside:
                note = f"{', '.join(beside)}: not in the default query, so the plan's own leg is searched"
                request = replace(request, notes=(*request.notes, note))
        return request

    async def _settled(
        self, request: Request, compiler: SearchCompiler, params: Mapping[str, Any]
    ) -> Request:
        """The request once the index was asked about its words."""
        try:
            return await settle_words(
                self.client, self.index_name, request, compiler, params, one_index=self._one_index
            )
        except EngineRequestError as error:
            raise_named(error, request.query)

    def _shown(self, source: SourceFilter) -> SourceFilter:
        """What comes along with the hits: nothing where the index keeps nothing. Both engines answer 400 to
        a ``_source`` filter there, and not to ``false``."""
        return source if self._has_source else False

    def _check_aggregations(self, aggregations: Any) -> None:
        """Refuse what counts documents that the alias hides.

        Raises:
            QueryError: a ``global`` aggregation, which leaves the query and its filters out.
        """
        if self._alias.filter is None:
            return
        level = [aggregations]
        while level:
            found = [one for one in level if isinstance(one, Mapping)]
            if any("global" in one for one in found):
                raise QueryError(
                    "a global aggregation counts all documents, and the alias shows those of its filter; "
                    "leave it out, or search the index by its own name",
                    field="aggregations",
                )
            level = [value for one in found for value in one.values()]

    def _compiler(self) -> SearchCompiler:
        """The compiler for what is known of the index now; the same one until something more is learned."""
        ids = self.pool.token_ids(ready_only=True)
        known = (self._live.types, self._live.formats, {name: id(table) for name, table in ids.items()})
        if self._made is None or self._made[0] != known:
            compiler = SearchCompiler(
                self.capabilities,
                plan=self.plan,
                mapping=self._live.types,
                formats=self._live.formats,
                columns=self._live.columns,
                analyzers=self._live.analyzers,
                token_ids=ids,
            )
            self._made = (known, compiler)
        return self._made[1]

    async def _encoded(
        self, request: Request, known: Mapping[tuple[str, str], Any] | None = None, *, partial: bool = False
    ) -> Request:
        """The request with a vector in every leg that has a text; legs that can't be encoded are left out
        where partial results are wanted. *known* holds the vectors of (field, text) that are made already."""
        nodes = request.unencoded
        if not nodes:
            return request
        deadline = request.options.deadline
        told = functools.partial(self._encoded_by_engine, nodes, partial)
        by_engine = await ended_by(deadline, "an encoder that the engine runs", told, keep=True)
        if known is not None:
            vectors = dict(known)
        else:
            wanted = list(dict.fromkeys((node.field, str(node.text)) for node in nodes))
            vectors = await self._vectors.of(
                [key for key in wanted if key[0] not in by_engine], partial, deadline
            )
        failed = {key: value for key, value in vectors.items() if isinstance(value, EsembedError)}
        for node in nodes:  # a text that the engine encodes stays in the leg, unless it may not
            error = by_engine.get(node.field)
            if error is not None:
                failed[node.field, str(node.text)] = error
        kept = request.without(failed, max_window=self.capabilities.max_result_window)
        return kept.with_vectors({key: value for key, value in vectors.items() if key not in failed})

    async def _encoded_by_engine(
        self, nodes: Sequence[Knn | Sparse], partial: bool
    ) -> dict[str, EsembedError | None]:
        """Those of the nodes' fields whose texts the engine encodes itself, each with None, or with what
        forbids it: what an index says about itself doesn't decide where a query's text goes."""
        found: dict[str, EsembedError | None] = {}
        for field in dict.fromkeys(node.field for node in nodes):
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

    async def _open(
        self, keep_alive_seconds: float, params: Mapping[str, Any], deadline: Deadline | None
    ) -> PointInTime:
        """The index as it is now, kept by the engine."""
        response = await self.client.request(
            "POST",
            f"/{self._path}/{self._pit.open}",
            params={"keep_alive": milliseconds(keep_alive_seconds), **params},
            deadline=deadline,
        )
        return PointInTime(id=response.body[self._pit.key], keep_alive_seconds=keep_alive_seconds)

    async def _check_view(self, view: View, deadline: Deadline | None) -> None:
        """Refuse a cursor whose point in time is over, or another index's, before anything is read there."""
        try:
            answer = await self.client.request(
                "POST", view.where("_search"), body=view.question(self._names), deadline=deadline
            )
        except EngineRequestError as error:
            raise lost(error) from error
        view.check(answer.body)

    async def _close(self, opened: PointInTime) -> None:
        """What no page will read. It ends by itself, too, so a failure is none of the search's."""
        with contextlib.suppress(EngineRequestError, TransientError):
            await self.client.request("DELETE", self._pit.close, body=self._pit.close_body(opened.id))

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

    async def _encode_all(self, requests: Sequence[Request]) -> dict[tuple[str, str], Any]:
        """The vectors of many requests by (field, text): one encode call for each field and batch."""
        wanted: dict[str, dict[str, None]] = {}
        for request in requests:
            nodes = request.unencoded
            by_engine = await self._encoded_by_engine(nodes, False) if nodes else {}
            for node in nodes:
                if node.field not in by_engine:
                    wanted.setdefault(node.field, {})[str(node.text)] = None
        return await self._vectors.of_many(wanted)

    # -- answering --------------------------------------------------------------------------------

    async def _hits(
        self,
        compiler: SearchCompiler,
        compiled: CompiledSearch,
        answers: Sequence[Any],
        where: str,
        partial: bool,
        view: View,
    ) -> Hits:
        if compiled.path == "client":
            return await self._fusing.hits(compiler, compiled, answers, view, partial=partial)
        return ranked_by_engine(compiled, answers, where, partial=partial)
