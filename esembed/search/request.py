"""A query with its plan and options, normalized once: which legs, which fusion, which window, which texts.

Everything later (compiling, encoding, answering) reads the :class:`Request`; nothing asks the query again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from esembed.deadline import ENGINE_SHARE
from esembed.errors import EsembedError, QueryError
from esembed.fusion import FusionNode, LegRef
from esembed.plan import IndexPlan
from esembed.plan.default_query import default_legs
from esembed.plan.fields import MAX_CANDIDATES
from esembed.plan.legs import drop_legs, expand_by_leg, leg_names, query_legs, select_legs
from esembed.query.nodes import (
    Bool,
    Filter,
    Floor,
    Knn,
    Linear,
    Match,
    MultiMatch,
    Node,
    Operator,
    Query,
    Rescore,
    Rrf,
    Sparse,
    Stage,
)
from esembed.query.tree import add_filter, resolve_text, too_deep, transform, walk
from esembed.search.calibration import Calibration
from esembed.search.options import SearchOptions
from esembed.search.page import Cursor, PointInTime, SettledWords
from esembed.search.sorting import sorted_digest

__all__ = [
    "DEFAULT_WINDOW",
    "Request",
    "RequestLeg",
    "check_query",
    "make_request",
    "query_digest",
    "resolve",
]

DEFAULT_WINDOW = 100
"""How many hits of each leg take part in a fusion that names no ``rank_window_size``."""

Vector = Any
"""A query vector as the compilers take it: a tuple of floats, or token → weight."""


class RequestLeg(msgspec.Struct, frozen=True, kw_only=True):
    """One leg: what it searches, and what its scores are for.

    Attributes:
        name: a leg of a fusion inside the fusion carries its name in front (``inner/bm25``).
        query: the filters of the fusions around it put inside.
        complete: every candidate is to be scored by it, not only its own hits.
        align_scores: its scores are added to others' as they are, so engines' differences are taken out.
        timeout_seconds: after which the engine answers with what it has, or None.
        asked: the query as it was before its words were settled (see :mod:`esembed.search.words`): what a
            score can reach, and whose curve it is read by, follow from it. None where nothing was settled.
    """

    name: str
    query: Query
    complete: bool = False
    align_scores: bool = False
    timeout_seconds: float | None = None
    asked: Query | None = None

    @property
    def scored_as(self) -> Query:
        """What the scores are those of."""
        return self.asked or self.query


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One search, ready to be compiled once its texts are encoded.

    Attributes:
        query: all of it, as it was resolved: text put in, filters added, legs chosen.
        inner: the query inside the stages.
        stages: rescore, collapse and others, from the inside out.
        legs: of a fusion, nested ones included, in the order of its leaves; of another query itself.
        fusion: how the legs are combined, or None.
        window: how many hits take part.
        end: the last hit that paging reaches.
        options: the page within the window, time-outs by leg.
        nodes: every node of the query, once walked.
        digest: equal for equal queries, whoever asks them.
        after: of a sorted search that a cursor goes on with, the values that it goes on behind, else None.
        shown: the documents of exactly these values that were on an earlier page.
        paged: how many hits lie before the page; with *after* they are not in the options' offset.
        legs_missing: leg → why it was left out.
        notes: what was found out about its words before it was compiled, for people.
        settled: the same for the pages that follow; None before it was asked for.
        point_in_time: what all its pages see; None before it was opened, or where none is asked for.
        word_sums: of legs, what the first page in that point in time found out about their words.
    """

    query: Query
    inner: Query
    stages: tuple[Stage, ...]
    legs: tuple[RequestLeg, ...]
    fusion: FusionNode | None
    window: int
    end: int
    options: SearchOptions
    nodes: tuple[Query, ...]
    digest: str
    legs_missing: Mapping[str, str]
    after: Sequence[Any] | None = None
    shown: Sequence[str] = ()
    paged: int = 0
    notes: tuple[str, ...] = ()
    settled: SettledWords | None = None
    point_in_time: PointInTime | None = None
    word_sums: Mapping[str, float] = {}

    @property
    def unencoded(self) -> list[Knn | Sparse]:
        """The vector nodes that have a text and no vector."""
        return [n for n in self.nodes if isinstance(n, (Knn, Sparse)) and n.vector is None]

    @property
    def windowed(self) -> bool:
        """Whether its hits end with the window: a fusion knows no more of its legs, a kNN finds k, and behind
        the head that was rescored other scores stand. Everything else the engine pages through, a collapsed
        query group by group, and a bool with a kNN in it, whose k stays that of the first page."""
        return (
            (self.fusion is not None and not self.goes_on)
            or isinstance(self.inner, Knn)
            or any(stage.head is not None for stage in self.stages)
        )

    @property
    def goes_on(self) -> bool:
        """Whether pages go on beyond the window, by lists that grow (:meth:`grown`): of one leg that isn't a
        search for the k nearest, and of a fusion in a point in time, without which the lists of two pages
        would not be the same."""
        if any(stage.head is not None for stage in self.stages):
            return False
        if self.fusion is None:
            return not self.finds_nearest
        return self.options.keep_alive_seconds is not None

    def grown(self, doublings: int, most: int) -> Request | None:
        """The same with lists twice as long for each doubling, at most *most*; None where the ones before
        reached that. Of the legs alone: counts and stored fields are the page's."""
        if self.window << (doublings - 1) >= most:
            return None
        window = min(self.window << doublings, most)

        def grow(node: FusionNode) -> FusionNode:
            children = tuple(grow(one) if isinstance(one, FusionNode) else one for one in node.children)
            return replace(node, children=children, window=min(node.window << doublings, most))

        def widen(query: Query) -> Query:
            if isinstance(query, Knn) and query.k is None and query.num_candidates is not None:
                # It can't be below k, which is the window.
                count = min(query.num_candidates << doublings, MAX_CANDIDATES)
                wider: Query = query.replace(num_candidates=max(count, window))
                return wider
            return query

        options = replace(self.options, aggregations=None, count=False, highlight=None, source=False)
        options = replace(options, offset=0, size=0)
        return replace(
            self,
            fusion=None if self.fusion is None else grow(self.fusion),
            legs=tuple(replace(leg, query=transform(leg.query, widen)) for leg in self.legs),
            window=window,
            options=options,
        )

    @property
    def window_name(self) -> str:
        """What a larger window is asked for by."""
        return "a larger k" if isinstance(self.inner, Knn) else "a larger rank_window_size"

    @property
    def finds_nearest(self) -> bool:
        """Whether its hits are the k nearest of something, so that their number says nothing."""
        return any(isinstance(node, Knn) for node in walk(self.inner))

    def with_vectors(self, vectors: Mapping[tuple[str, str], Vector]) -> Request:
        """The same with these vectors, by field and text, in place of texts; others keep theirs."""
        if not vectors:
            return self

        def fill(node: Query) -> Query:
            if isinstance(node, (Knn, Sparse)) and node.vector is None:
                vector = vectors.get((node.field, str(node.text)))
                if vector is not None:
                    filled: Query = replace(node, text=None, vector=vector)
                    return filled
            return node

        return replace(
            self,
            inner=self.inner if self.fusion is not None else transform(self.inner, fill),
            stages=tuple(_fill_stage(stage, fill) for stage in self.stages),
            legs=tuple(replace(leg, query=transform(leg.query, fill)) for leg in self.legs),
        )

    def without(self, failed: Mapping[tuple[str, str], EsembedError], *, max_window: int) -> Request:
        """The same without the legs whose texts, by field and text, can't be encoded.

        Raises:
            EsembedError: the first of *failed*, when no leg is left.
        """
        if not failed:
            return self
        missing: dict[str, str] = {}
        legs = query_legs(self.inner)
        names = leg_names(legs)
        for leg, name in zip(legs, names, strict=True):
            for node in walk(leg):
                if isinstance(node, (Knn, Sparse)) and node.vector is None:
                    error = failed.get((node.field, str(node.text)))
                    if error is not None:
                        missing[name] = str(error)
        if len(missing) == len(legs):
            raise next(iter(failed.values()))
        seconds = self.options.leg_timeouts_seconds
        kept = {name: value for name, value in seconds.items() if name not in missing}
        made = make_request(
            drop_legs(self.query, missing),
            replace(self.options, leg_timeouts_seconds=kept),
            max_window=max_window,
        )
        return replace(
            made,
            digest=self.digest,
            legs_missing=missing,
            settled=self.settled,
            paged=self.paged,
            point_in_time=self.point_in_time,
            word_sums=self.word_sums,
        )

    def ending_in(self, seconds: float) -> Request:
        """The same whose legs take no longer than that in the engine, where they had more or no limit.

        Args:
            seconds: what is left until the deadline.
        """
        most = max(seconds * ENGINE_SHARE, 0.001)

        def cap(own: float | None) -> float:
            return most if own is None else min(own, most)

        return replace(
            self,
            options=replace(self.options, timeout_seconds=cap(self.options.timeout_seconds)),
            legs=tuple(replace(leg, timeout_seconds=cap(leg.timeout_seconds)) for leg in self.legs),
        )


def _fill_stage(stage: Stage, fill: Any) -> Stage:
    """A stage whose own query has its vectors; the query it stands around is compiled by itself."""
    if isinstance(stage, Rescore) and stage.by is not None:
        filled: Rescore = stage.replace(by=transform(stage.by, fill))
        return filled
    return stage


def check_query(value: Any, name: str, such: str) -> Any:
    """The value, which is a query. Raises QueryError."""
    if not isinstance(value, Node):
        raise QueryError(
            f"{name} must be a query of esembed.query ({such}), not {type(value).__name__}; the engine's own "
            "JSON goes through q.raw",
            field=name,
        )
    return value


def resolve(
    query: str | Query,
    plan: IndexPlan,
    *,
    text: str | None = None,
    filter: Filter | None = None,
    legs: Collection[str] | None = None,
    fuzziness: str | int | None = None,
    operator: Operator | None = None,
) -> Query:
    """The query that is meant: a string asks the plan's default query; text, legs and filter are put in.

    Args:
        fuzziness, operator: of the texts that the string or *text* is put in, in place of what they have.

    Raises:
        QueryError: no query, no such leg, or a leg without a text.
    """
    if isinstance(query, str):
        if text is not None:
            raise QueryError("query is the text already; leave text= out", field="text")
        asked = resolve_text(_with_options(default_legs(plan, legs), fuzziness, operator), query)
    else:
        asked = check_query(query, "query", "a text, q.match(…), q.rrf(…)")
        if text is None:
            for name, value in (("fuzziness", fuzziness), ("operator", operator)):
                if value is not None:
                    raise QueryError(
                        f"{name} goes with words that are passed beside the query: leave its text out and "
                        f"pass text=, or write it in the query: q.match({name}={value!r})",
                        field=name,
                    )
        try:
            asked = resolve_text(_with_options(select_legs(asked, legs), fuzziness, operator), text)
        except RecursionError:  # before it is walked level by level, which refuses fewer
            raise too_deep() from None
    return add_filter(asked, filter)


def _with_options(query: Query, fuzziness: str | int | None, operator: Operator | None) -> Query:
    """A query whose open texts, those that what was typed is put in, have these options.

    A phrase or a prefix beside them stays as it is: its kind knows no typing errors.

    Raises:
        QueryError: it has no text that takes one of them.
    """
    changes = {"fuzziness": fuzziness, "operator": operator}
    changes = {name: value for name, value in changes.items() if value is not None}
    taken: set[str] = set()

    def put(node: Query) -> Query:
        if not isinstance(node, (Match, MultiMatch)) or node.text is not None:
            return node
        mine = changes
        if isinstance(node, MultiMatch):
            mine = {name: value for name, value in changes.items() if node.takes(name, value)}
        taken.update(mine)
        return node.replace(**mine)

    found = transform(query, put)
    for name, value in changes.items():
        if name not in taken:
            raise QueryError(
                f"the query has no full text that takes the words of the search and {name}={value!r}; leave "
                "it out",
                field=name,
            )
    return found


def make_request(
    query: Query,
    options: SearchOptions,
    *,
    max_window: int,
    cursor: str | None = None,
    routing: str = "",
    calibration: Calibration | None = None,
) -> Request:
    """The request that a resolved query and its options are.

    Args:
        max_window: how deep the engine pages (``index.max_result_window``).
        cursor: from ``hits.next_cursor`` of the same query, in place of ``options.offset``.
        routing: the shards that are asked; a cursor leads to the same ones only.
        calibration: what ``q.floor`` cuts by; where pages are of one point in time, a cursor ends with it.

    Raises:
        QueryError: a page beyond the window, a time-out of no leg, options that don't go together, or a
            cursor of another query.
    """
    post_filter = options.post_filter
    filtered = add_filter(query, post_filter)
    # First: what is nested too deep is refused here, and encoding it would fail.
    nodes = tuple(walk(filtered))
    digest = query_digest(filtered)
    if routing:
        digest = _joined(digest, routing)
    if options.keep_alive_seconds is not None and any(isinstance(node, Floor) for node in nodes):
        # Cut by another measure, a page would begin among hits that were shown.
        digest = _joined(digest, repr(calibration))
    if options.keep_alive_seconds is not None and (options.search_after is not None or not options.size):
        raise QueryError(
            "keep_alive_seconds is for the pages that a cursor leads to, and size=0 and search_after have "
            "none; leave it out",
            field="keep_alive_seconds",
        )
    if post_filter is not None and not options.aggregations:
        # Nothing is to be counted without it, so it is a filter like any other, also for the k nearest.
        query, options, post_filter = filtered, replace(options, post_filter=None), None
    first_window: int | None = None
    after: Sequence[Any] | None = None
    shown: Sequence[str] = ()
    where: Cursor | None = None
    kept: PointInTime | None = None
    if cursor is not None:
        if options.offset or options.search_after is not None:
            raise QueryError("pass cursor, offset or search_after, one of them", field="cursor")
        where = Cursor.decode(cursor, sorted_digest(digest, options.sort))
        if (where.point_in_time is None) != (options.keep_alive_seconds is None):
            raise QueryError(
                "the cursor is of a search without keep_alive_seconds, whose pages see the index as it is by "
                "then; leave it out, or start at the first page"
                if where.point_in_time is None
                else "pass keep_alive_seconds with each page: the cursor doesn't say how long the engine is "
                "to keep the index as the first page saw it",
                field="keep_alive_seconds",
            )
        if where.point_in_time is not None and options.keep_alive_seconds is not None:
            kept = PointInTime(id=where.point_in_time, keep_alive_seconds=options.keep_alive_seconds)
        if where.after is not None and options.sort is not None:
            after, shown = where.after, where.shown
        else:
            query, options, first_window = _at_cursor(query, options, where)
            nodes = tuple(walk(add_filter(query, post_filter)))
    inner, stages = _unwrap(query)
    if isinstance(inner, Knn) and inner.k is not None and not options.offset and not stages:
        # The k nearest are fewer than a page: a short first page is what was asked for.
        options = replace(options, size=min(options.size, inner.k))
    if where is not None and where.after is None:
        # The last page is what is left.
        end = _end(inner, stages, options, max_window, first_window)
        options = replace(options, size=max(0, min(options.size, end - options.offset)))
    window = _window(inner, stages, options, max_window, first_window)
    legs: list[RequestLeg] = []
    fusion: FusionNode | None = None
    if isinstance(inner, (Rrf, Linear)):
        if options.sort is not None or options.search_after is not None:
            raise QueryError(
                "sort and search_after don't go with fusion: its order is the fused score, which only exists "
                "within the window. Page with offset or cursor, or sort a single query",
                field="sort",
            )
        if options.leg_timeouts_seconds:
            by_leg = expand_by_leg(options.leg_timeouts_seconds, inner.legs, "leg_timeouts_seconds")
            options = replace(options, leg_timeouts_seconds=by_leg)
        if options.min_score is not None and isinstance(inner, Rrf):
            raise QueryError(
                "min_score means nothing under RRF, whose scores are ranks: the best of a hopeless list "
                "scores as the best of a good one. Fuse by q.linear, or cut what is no better than chance: "
                "q.floor(query, p=…)",
                field="min_score",
            )
        fusion = _fusion(inner, inner.filter, "", window, options, legs)
    else:
        (name,) = leg_names((inner,))
        leg = RequestLeg(name=name, query=inner, timeout_seconds=options.timeout_seconds)
        legs.append(leg)
    if any(isinstance(stage, Floor) for stage in stages):
        # Scores are read by curves that hold for both engines.
        legs = [replace(leg, align_scores=True) for leg in legs]
    _check_timeouts(options, [leg.name for leg in legs] if fusion is not None else [])
    return Request(
        query=query,
        inner=inner,
        stages=tuple(stages),
        legs=tuple(legs),
        fusion=fusion,
        window=window,
        end=_end(inner, stages, options, max_window, first_window),
        options=options,
        nodes=nodes,
        digest=digest,
        legs_missing={},
        after=after,
        shown=shown,
        paged=options.offset if where is None else where.offset,
        settled=None if where is None else where.settled,
        point_in_time=kept,
        word_sums={} if where is None or kept is None else where.word_sums,
    )


def _fusion(
    node: Rrf | Linear,
    filter: Filter | None,
    prefix: str,
    window: int,
    options: SearchOptions,
    legs: list[RequestLeg],
) -> FusionNode:
    """The fusion as data; its leaves are appended to *legs*, the fusions' filters inside them."""
    children: list[LegRef | FusionNode] = []
    linear = node if isinstance(node, Linear) else None
    # Scores are added as they are, so engines must agree on them; ranks and scaled lists don't care.
    align = linear is not None and linear.normalizer in ("none", "bound", "floor")
    complete = linear is not None and (
        linear.normalizer == "bound" if linear.complete is None else linear.complete
    )
    for leg, short in zip(node.legs, leg_names(node.legs), strict=True):
        name = f"{prefix}{short}"
        if isinstance(leg, (Rrf, Linear)):
            inner = min(leg.rank_window_size or window, window)
            child = _fusion(leg, _both(leg.filter, filter), f"{name}/", inner, options, legs)
            children.append(replace(child, name=name))
            continue
        # A similarity of identical vectors scores 1 on the common scale, whatever the list holds.
        limit = leg.boost if isinstance(leg, Knn) else None
        children.append(LegRef(name, len(legs), complete, limit))
        legs.append(
            RequestLeg(
                name=name,
                query=add_filter(leg, filter),
                complete=complete,
                align_scores=align,
                timeout_seconds=options.leg_timeouts_seconds.get(name, options.timeout_seconds),
            )
        )
    how: dict[str, Any] = (
        {"kind": "rrf", "rank_constant": node.rank_constant}
        if isinstance(node, Rrf)
        else {"kind": "linear", "normalizer": node.normalizer}
    )
    weights = node.weights or (1.0,) * len(node.legs)
    return FusionNode(children=tuple(children), weights=weights, window=window, **how)


def _both(one: Filter | None, other: Filter | None) -> Filter | None:
    """A filter of what two ask."""
    if one is None or other is None:
        return one or other
    return Bool(filter=(one, other))


def _unwrap(query: Query) -> tuple[Query, list[Stage]]:
    """The query inside the stages, and the stages from the inside out."""
    stages: list[Stage] = []
    while isinstance(query, Stage):
        stages.append(query)
        query = query.query
    return query, stages[::-1]


def _at_cursor(query: Query, options: SearchOptions, where: Cursor) -> tuple[Query, SearchOptions, int]:
    """The page that a cursor points to, with the window that its search began with."""

    def widen(node: Query) -> Query:
        if isinstance(node, (Rrf, Linear)) and node.rank_window_size is None:
            widened: Query = node.replace(rank_window_size=where.window)
            return widened
        return node

    widened = transform(query, widen)
    if isinstance(widened, Knn) and widened.k is None:
        widened = widened.replace(k=where.window)
    return widened, replace(options, offset=where.offset), where.window


def _window(
    core: Query,
    stages: Sequence[Stage],
    options: SearchOptions,
    limit: int,
    first_window: int | None,
) -> int:
    """How many hits take part in a search: the page must end within them.

    Args:
        first_window: of the search that a cursor goes on with. Pages of different windows don't join.

    Raises:
        QueryError: a page beyond the window, or a window beyond the engine's.
    """
    end = options.offset + options.size
    if options.offset < 0 or options.size < 0:
        raise QueryError(f"size ({options.size}) and offset ({options.offset}) must be ≥ 0", field="size")
    if end > limit:
        raise QueryError(
            f"the page ends at hit {end}, beyond the engine's max_result_window of {limit}; narrow the query "
            "(filters), or sort and use search_after",
            field="offset",
        )
    knn = isinstance(core, Knn)
    window = _window_of(core, stages, options, first_window)
    if isinstance(core, Knn) and core.k is not None and window > limit:
        raise QueryError(f"k = {window} is beyond this engine's limit of {limit}; lower it", field="k")
    for stage in stages:
        if stage.head is not None and end > stage.head:
            raise QueryError(
                f"the page ends at hit {end}, beyond {stage.builder()}'s window_size of {stage.head}; raise "
                "it",
                field="window_size",
            )
    if end > _end(core, stages, options, limit, first_window):
        name = "k" if knn else "rank_window_size"
        raise QueryError(
            f"the page ends at hit {end}, beyond {name} = {window}; raise {name} (keep it the same for all "
            "pages of a search)",
            field=name,
        )
    if window > limit:
        raise QueryError(
            f"rank_window_size = {window} is beyond the engine's max_result_window of {limit}",
            field="rank_window_size",
        )
    return window


def _window_of(core: Query, stages: Sequence[Stage], options: SearchOptions, first_window: int | None) -> int:
    if isinstance(core, Knn) and core.k is not None:
        return core.k
    asked = core.rank_window_size if isinstance(core, (Rrf, Linear)) else None
    deep = max((stage.head or 0 for stage in stages), default=0)
    return asked or first_window or max(DEFAULT_WINDOW, options.size, deep)


def _end(
    core: Query, stages: Sequence[Stage], options: SearchOptions, limit: int, first_window: int | None
) -> int:
    """Where the pages end: with the engine's limit, a stage's head, or a window that doesn't go on."""
    heads = [stage.head for stage in stages if stage.head is not None]
    ends = [limit, *heads]
    goes_on = isinstance(core, (Rrf, Linear)) and not heads and options.keep_alive_seconds is not None
    if isinstance(core, (Rrf, Linear, Knn)) and not goes_on:
        ends.append(_window_of(core, stages, options, first_window))
    return min(ends)


def _check_timeouts(options: SearchOptions, names: Sequence[str]) -> None:
    """Raises QueryError for a time-out that isn't above 0, or of a leg that isn't among *names*."""
    given = options.leg_timeouts_seconds
    if options.timeout_seconds is None and not given:
        return
    for name, seconds in {"timeout_seconds": options.timeout_seconds, **given}.items():
        if seconds is not None and not seconds > 0:
            raise QueryError(f"{name}: a time-out must be > 0 seconds, not {seconds}", field=name)
    unknown = sorted(set(given) - set(names))
    if unknown:
        there = f"there are: {', '.join(names)}" if names else "it has none; use timeout_seconds"
        raise QueryError(
            f"leg_timeouts_seconds: the query has no leg {unknown[0]!r} ({there})",
            field="leg_timeouts_seconds",
        )


def _joined(digest: str, more: str) -> str:
    return hashlib.sha256(f"{digest} {more}".encode()).hexdigest()[:16]


def query_digest(query: Query) -> str:
    """16 hex digits that tell one query from another; equal queries have equal digests, in any process."""
    # MessagePack keeps a float's eight bytes; writing 384 of them as decimals took 15 µs of a search's 160.
    data = msgspec.msgpack.encode(query, order="deterministic", enc_hook=str)
    return hashlib.sha256(data).hexdigest()[:16]
