"""Answers to hits. Pure: parsed JSON in, values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from esembed.dialect.meta import PARENT_FIELD
from esembed.errors import AnswerError, EngineRequestError, EngineUnavailableError, EsembedError
from esembed.fusion import Fused, LegList, fuse
from esembed.query.nodes import Collapse
from esembed.search.compile import CompiledLeg, CompiledSearch
from esembed.search.page import Cursor
from esembed.search.request import Request
from esembed.search.sorting import count_keys, sorted_digest
from esembed.transport import Response, error_from_response
from esembed.types import Hit, Hits, LegContribution

__all__ = [
    "LegAnswer",
    "best_chunk",
    "checked_item",
    "end_note",
    "hit_of",
    "merge_hits",
    "msearch_items",
    "next_cursor",
    "ranked_by_engine",
    "shard_failure",
    "single_hits",
    "ties_by_id",
    "total_of",
]

_PASSING = ("rejected_execution", "circuit_breaking", "no_shard_available", "node_not_connected", "timeout")


class LegAnswer:
    """What one leg's answer holds. Hits are made of it only for the page: a window is long.

    Args:
        body: the leg's answer.
        leg: the leg.
        chunk_path: where chunks keep their text, when they are documents of their own.

    Attributes:
        ranked: ids and common scores, best first.
        took_ms: the engine's time.
        timed_out: the engine's time was up.
    """

    __slots__ = ("_chunk_path", "_leg", "_raw", "ranked", "timed_out", "took_ms")

    def __init__(self, body: Mapping[str, Any], leg: CompiledLeg, chunk_path: str | None) -> None:
        self._leg = leg
        self._chunk_path = chunk_path if leg.is_chunk_document else None
        hits = body["hits"]["hits"]
        convert = leg.to_common
        self._raw: dict[str, Mapping[str, Any]] = {raw["_id"]: raw for raw in hits}
        if leg.is_chunk_document or len(self._raw) < len(hits):
            self._raw = {}
            for raw in hits:  # the first one of each is the best one
                doc_id = raw["_id"]
                if leg.is_chunk_document:
                    doc_id = str(((raw.get("fields") or {}).get(PARENT_FIELD) or (doc_id,))[0])
                self._raw.setdefault(doc_id, raw)
        scores = [raw.get("_score") or 0.0 for raw in self._raw.values()]
        if convert is not None:
            scores = [convert(score) for score in scores]
        self.ranked = LegList(list(self._raw), scores)
        self.took_ms = float(body.get("took", 0))
        self.timed_out = bool(body.get("timed_out", False))

    def __contains__(self, doc_id: str) -> bool:
        return doc_id in self._raw

    def raw(self, doc_id: str) -> Mapping[str, Any] | None:
        """A document's hit as the engine returned it, or None."""
        return self._raw.get(doc_id)

    def chunks(self, raw: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chunks that a hit of this leg brought, best first."""
        if self._chunk_path is not None and _parent(raw):
            return [_chunk_document(raw, self._leg.name, self._chunk_path)]
        return _chunks(raw, self._leg.name)

    def source(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """The stored fields that a hit of this leg brought; a chunk has none of its parent's."""
        return {} if self._chunk_path is not None and _parent(raw) else raw.get("_source") or {}

    def value(self, doc_id: str, path: str) -> Any:
        """The first value of a field that was asked for by ``fields``, or None.

        Raises:
            AnswerError: an object or a list, which no field that can be grouped by holds.
        """
        raw = self._raw.get(doc_id)
        found = ((raw or {}).get("fields") or {}).get(path)
        value = found[0] if isinstance(found, list) and found else None
        if isinstance(value, (dict, list)):
            raise AnswerError(
                f"leg {self._leg.name}: the answer has no value of {path!r} for document {doc_id!r}, but a "
                f"{type(value).__name__}",
                status=200,
            )
        return value


def _chunks(raw: Mapping[str, Any], leg: str | None) -> list[dict[str, Any]]:
    """The inner hits of a hit as flat chunks, best first."""
    chunks: list[dict[str, Any]] = []
    for name, inner in (raw.get("inner_hits") or {}).items():
        for item in inner["hits"]["hits"]:
            nested = item.get("_nested") or {}
            path = nested.get("field", name)
            chunk: dict[str, Any] = {"_score": item.get("_score"), "_offset": nested.get("offset")}
            if leg is not None:
                chunk["_leg"] = leg
            for key, value in (item.get("fields") or {}).items():
                if key == path and value and isinstance(value[0], Mapping):
                    # Elasticsearch groups a nested object's fields under its path.
                    chunk.update({k: _first(v) for k, v in value[0].items()})
                else:
                    chunk[key.removeprefix(f"{path}.")] = _first(value)
            if isinstance(item.get("_source"), Mapping):
                chunk.update(item["_source"])
            chunks.append(chunk)
    return chunks


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _parent(raw: Mapping[str, Any]) -> Any:
    return (raw.get("fields") or {}).get(PARENT_FIELD)


def _chunk_document(raw: Mapping[str, Any], leg: str | None, chunk_path: str) -> dict[str, Any]:
    """A chunk that is a document of its own, as a chunk of its parent."""
    chunk = (raw.get("_source") or {}).get(chunk_path)
    text = chunk.get("text") if isinstance(chunk, Mapping) else None
    return {"_score": raw.get("_score"), "_id": raw["_id"], "_leg": leg, "text": text}


def _fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = raw.get("fields")
    return {k: v for k, v in found.items() if k != PARENT_FIELD} if found else {}


def hit_of(
    raw: Mapping[str, Any], score: float | None = None, contributions: Sequence[LegContribution] = ()
) -> Hit:
    """One hit as the engine returned it.

    Args:
        score, contributions: what to put in place of the raw score.
    """
    if score is None:
        score = raw.get("_score") or 0.0
    # By position: ten hits a search, and names cost a third of making one.
    return Hit(
        str(raw["_id"]),
        float(score),
        raw.get("_source") or {},
        raw.get("_index"),
        raw.get("highlight") or {},
        tuple(_chunks(raw, None)) if "inner_hits" in raw else (),
        tuple(contributions),
        _fields(raw) if "fields" in raw else {},
        sort=tuple(raw["sort"]) if "sort" in raw else (),
    )


def merge_hits(fused: Sequence[Fused], answers: Sequence[LegAnswer | None], explain: bool) -> list[Hit]:
    """The fused hits with what the legs know about them: the first stored fields, all chunks."""
    present = [answer for answer in answers if answer is not None]
    merged = []
    for item in fused:
        found = [(answer, raw) for answer in present if (raw := answer.raw(item.id)) is not None]
        first: Mapping[str, Any] = {}
        source: Mapping[str, Any] = {}
        chunks: list[dict[str, Any]] = []
        fields: dict[str, Any] = {}
        for answer, raw in found:
            if not source:
                source = answer.source(raw)
                if source or not first:
                    first = raw
            chunks += answer.chunks(raw)
            if "fields" in raw:
                fields.update(_fields(raw))
        merged.append(
            Hit(
                id=item.id,
                score=item.score,
                source=source,
                index=first.get("_index"),
                highlight=first.get("highlight") or {},
                chunks=tuple(chunks),
                fields=fields,
                contributions=item.contributions if explain else (),
            )
        )
    return merged


def single_hits(
    body: Mapping[str, Any],
    compiled: CompiledSearch,
    contributions: Callable[[str], Sequence[LegContribution]] | None = None,
) -> list[Hit]:
    """The hits of a request whose ranking is final: one leg, or fused by the engine."""
    hits = []
    options = compiled.options
    transform, factor = compiled.to_common, compiled.score_factor
    explained = compiled.request.legs[0].name if options.explain else None
    raws = body["hits"]["hits"]
    if options.sort is None:
        raws = ties_by_id(raws)
    elif compiled.request.shown:
        raws = [raw for raw in raws if raw["_id"] not in compiled.request.shown][: options.size]
    for position, raw in enumerate(raws, options.offset + 1):
        score = (raw.get("_score") or 0.0) * factor
        if transform is not None:
            score = transform(score)
        parts: Sequence[LegContribution] = ()
        if contributions is not None:
            parts = contributions(str(raw["_id"]))
        elif explained is not None:
            parts = (LegContribution(explained, position, score, score),)
        hits.append(hit_of(raw, score, parts))
    return hits


def ties_by_id(raws: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Hits in their order, those of equal scores by id.

    Engines order equal scores by where a document lies in the index, which differs between engines, between
    copies of a shard and after a merge. Runs are sorted, not the whole list: behind the head that a rescore
    stage scored again, scores start again. What fell outside the page is not known here.
    """
    scores = [raw.get("_score") for raw in raws]
    if len(set(scores)) == len(scores):
        return raws
    runs = groupby(raws, key=lambda raw: raw.get("_score"))
    return [raw for _, run in runs for raw in sorted(run, key=lambda raw: str(raw["_id"]))]


def msearch_items(body: Mapping[str, Any], count: int, where: str) -> list[Any]:
    """The answers of ``_msearch``, one for each search that was sent.

    Raises:
        AnswerError: not as many as were sent.
    """
    items: list[Any] = body["responses"]
    if len(items) != count:
        raise AnswerError(f"POST {where}: {count} searches were sent, {len(items)} answered", status=200)
    return items


def checked_item(answer: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """An item of ``_msearch``. Raises the error that it is."""
    if "error" in answer:
        status = int(answer.get("status", 500))
        raise error_from_response("POST", where, Response(status, answer))
    return answer


def ranked_by_engine(
    compiled: CompiledSearch, answers: Sequence[Mapping[str, Any]], where: str, *, partial: bool
) -> Hits:
    """The page of a single query or of a fusion that the engine did.

    Args:
        answers: the ranked one, then each leg's where the page is explained.
        where: the path they came from, for messages.
        partial: an answer without all shards is taken, and said in ``legs_missing``.

    Raises:
        EsembedError: the engine refused, or shards failed.
    """
    request, options = compiled.request, compiled.options
    body = checked_item(answers[0], where)
    missing = dict(request.legs_missing)
    lost = shard_failure(body)
    if lost is not None:
        if not partial:
            raise lost
        names = [request.legs[0].name]
        if request.fusion is not None:
            names = [child.name for child in request.fusion.children]
        missing.update(dict.fromkeys(names, f"{lost}: what the others found was used"))
    contributions = None
    if compiled.legs and compiled.fusion is not None:
        lists = [
            LegAnswer(checked_item(answer, where), leg, None).ranked
            for answer, leg in zip(answers[1:], compiled.legs, strict=True)
        ]
        fused = {hit.id: hit.contributions for hit in fuse(compiled.fusion, lists)}

        def contributions(doc: str) -> Sequence[LegContribution]:
            return fused.get(doc, ())

    # Where the counts aren't the hits' own, they come last.
    counts = body if compiled.match_any is None else checked_item(answers[-1], where)
    hits = single_hits(body, compiled, contributions)
    if options.sort is not None and compiled.body is not None:
        # In a point in time Elasticsearch appends a value of its own, by which its shards' documents differ.
        keys = count_keys(compiled.body["sort"])
        for hit in hits:
            hit.sort = hit.sort[:keys]
    total, relation = total_of(body)
    if not (options.count if compiled.path == "server" else compiled.counted):
        total = None
    # A total that is a lower bound ends nothing.
    cursor = next_cursor(compiled, len(hits), total if relation == "eq" else None, _ties(hits, request))
    if options.sort is not None and options.search_after is None:
        for hit in hits:
            # The last value is that of the key which this side put behind the caller's (sorting.TIE).
            hit.sort = hit.sort[:-1]
    return Hits(
        hits,
        total=total,
        total_relation=relation if total is not None else "eq",
        took_ms=float(body.get("took", 0)),
        timed_out=bool(body.get("timed_out", False)),
        legs_missing=missing,
        aggregations=counts.get("aggregations") or {},
        next_cursor=cursor,
        path=compiled.path,
        approximate=compiled.approximate,
        notes=compiled.notes + end_note(compiled, cursor, len(hits), windowed=compiled.request.windowed),
    )


def next_cursor(
    compiled: CompiledSearch,
    shown: int,
    total: int | None,
    ties: Sequence[Hit] = (),
    word_sums: Mapping[str, float] | None = None,
) -> str | None:
    """The cursor to the page after this one, or None where there is none.

    Args:
        total: how many hits (of a collapsed query groups) there are to page through, where that is known.
        ties: of a sorted search the documents that were shown with the values of the last one.
        word_sums: what later pages in the same point in time go by.
    """
    options, request = compiled.options, compiled.request
    end = request.paged + shown
    by_values = options.sort is not None and not request.windowed
    more = shown == options.size > 0 and (by_values or end < request.end) and (total is None or end < total)
    if not more or options.search_after is not None:
        return None
    return Cursor(
        version=1,
        offset=end,
        window=request.window,
        digest=sorted_digest(request.digest, options.sort),
        after=list(ties[-1].sort) if by_values else None,
        shown=[hit.id for hit in ties] if by_values else [],
        settled=request.settled,
        point_in_time=None if request.point_in_time is None else request.point_in_time.id,
        word_sums={} if request.point_in_time is None else dict(word_sums or {}),
    ).encode()


def _ties(hits: Sequence[Hit], request: Request) -> list[Hit]:
    """The documents shown so far, on this page or before it, that have the sort values of its last hit."""
    if not hits or request.options.sort is None:
        return []
    last = hits[-1].sort
    before = [Hit(id, 0.0, sort=last) for id in request.shown] if list(last) == request.after else []
    return before + [hit for hit in hits if hit.sort == last]


def end_note(compiled: CompiledSearch, cursor: str | None, shown: int, *, windowed: bool) -> tuple[str, ...]:
    """What to say where pages end with their window: there may be hits (or groups) beyond it.

    Args:
        shown: hits on the page.
        windowed: the window may have cut off hits.
    """
    request, end = compiled.request, compiled.request.paged + shown
    if request.goes_on:
        if end < request.end or cursor is not None:
            return ()
        return (
            f"pages end with hit {request.end}, the engine's max_result_window; narrow the query by filters",
        )
    if request.fusion is not None and not request.stages and cursor is None and windowed:
        if end < request.window:
            return ()
        return (
            f"pages end with the window of {request.window} hits; with keep_alive_seconds from the first "
            f"page on, or {request.window_name}, they go on",
        )
    collapsed = next((stage for stage in request.stages if isinstance(stage, Collapse)), None)
    if collapsed is None or cursor is not None or not windowed or not compiled.options.size:
        return ()
    return (
        f"collapse on {collapsed.field}: these are the last groups among the first {request.window} hits; "
        f"where there are more, {request.window_name} reaches them",
    )


def best_chunk(doc_id: str, answers: Sequence[LegAnswer | None]) -> str | None:
    """The text of the best chunk that the first leg with one brought for a document."""
    for answer in answers:
        raw = answer.raw(doc_id) if answer is not None else None
        chunks = answer.chunks(raw) if answer is not None and raw is not None else []
        if chunks and chunks[0].get("text"):
            return str(chunks[0]["text"])
    return None


def shard_failure(body: Mapping[str, Any]) -> EsembedError | None:
    """The error that failed shards are, in an answer whose status is 200 all the same; None when every
    shard answered. What the others found is in such an answer."""
    shards = body.get("_shards") or {}
    failed = int(shards.get("failed", 0))
    if not failed:
        return None
    failures: Sequence[Mapping[str, Any]] = shards.get("failures") or [{}]
    first = failures[0].get("reason") or {}
    cause = first.get("caused_by") or {}
    kind, parts = first.get("type"), [first.get("reason"), cause.get("reason")]
    why = ": ".join(str(part) for part in (kind, *parts) if part)
    message = f"{failed} of {shards.get('total', '?')} shards failed" + (f" ({why})" if why else "")
    if kind is None or any(word in str(kind) for word in _PASSING):
        return EngineUnavailableError(message)
    return EngineRequestError(message, status=200, error_type=kind, reason=why)


def total_of(body: Mapping[str, Any]) -> tuple[int | None, Any]:
    """The total and its relation, or (None, "eq") where the engine didn't count."""
    total = body["hits"].get("total")
    if total is None:
        return None, "eq"
    if isinstance(total, int):
        return total, "eq"
    return int(total["value"]), total.get("relation", "eq")
