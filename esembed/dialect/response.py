"""Answers to hits. Pure: parsed JSON in, values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from esembed.dialect.compiled import CompiledSearch, Leg
from esembed.dialect.meta import PARENT_FIELD
from esembed.fusion import Fused, LegList
from esembed.types import Hit, LegShare

__all__ = ["LegAnswer", "hit_of", "leg_answer", "merge_hits", "single_hits", "total_of"]


@dataclass(slots=True)
class LegAnswer:
    """What one leg's answer holds.

    Attributes:
        ranked: ids and common scores, best first.
        hits: id → its hit, with the stored fields and chunks that the leg brought.
        took_ms: the engine's time.
        timed_out: the engine gave up early.
    """

    ranked: LegList
    hits: dict[str, Hit] = field(default_factory=dict)
    took_ms: float = 0.0
    timed_out: bool = False


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


def hit_of(raw: Mapping[str, Any], *, leg: str | None = None, chunk_path: str | None = None) -> Hit:
    """One hit as the engine returned it.

    Args:
        leg: the leg's name, for its chunks.
        chunk_path: for chunks that are documents of their own: where their text is; the hit then is
            their parent.
    """
    fields = raw.get("fields") or {}
    source = raw.get("_source") or {}
    chunks = _chunks(raw, leg)
    doc_id = str(raw["_id"])
    parent = fields.get(PARENT_FIELD)
    if chunk_path is not None and parent:
        doc_id = str(parent[0])
        text = (source.get(chunk_path) or {}).get("text")
        chunks = [{"_score": raw.get("_score"), "_id": raw["_id"], "_leg": leg, "text": text}]
        source = {}
    score = raw.get("_score")
    return Hit(
        id=doc_id,
        score=0.0 if score is None else float(score),
        source=source,
        index=raw.get("_index"),
        highlight=raw.get("highlight") or {},
        chunks=tuple(chunks),
        fields={k: v for k, v in fields.items() if k != PARENT_FIELD},
    )


def leg_answer(body: Mapping[str, Any], leg: Leg, chunk_path: str | None) -> LegAnswer:
    """One leg's answer, its scores brought to the common scale."""
    hits: dict[str, Hit] = {}
    scores: list[float] = []
    for raw in body["hits"]["hits"]:
        hit = hit_of(raw, leg=leg.name, chunk_path=chunk_path if leg.parent_key else None)
        if hit.id in hits:
            continue
        score = leg.convert(hit.score) if leg.convert is not None else hit.score
        hits[hit.id] = replace(hit, score=score)
        scores.append(score)
    return LegAnswer(
        LegList(list(hits), scores), hits, float(body.get("took", 0)), bool(body.get("timed_out", False))
    )


def merge_hits(fused: Sequence[Fused], answers: Sequence[LegAnswer | None], explain: bool) -> list[Hit]:
    """The fused hits with what the legs know about them."""
    merged = []
    for item in fused:
        found = [a.hits[item.id] for a in answers if a is not None and item.id in a.hits]
        first = next((hit for hit in found if hit.source), found[0] if found else Hit(item.id, item.score))
        chunks = tuple(chunk for hit in found for chunk in hit.chunks)
        fields: dict[str, Any] = {}
        for hit in found:
            fields.update(hit.fields)
        merged.append(
            replace(
                first,
                score=item.score,
                chunks=chunks,
                fields=fields,
                shares=item.shares if explain else (),
            )
        )
    return merged


def single_hits(
    body: Mapping[str, Any],
    compiled: CompiledSearch,
    *,
    leg: str,
    shares: Callable[[str], Sequence[LegShare]] | None = None,
) -> list[Hit]:
    """The hits of a request whose ranking is final: one leg, or fused by the engine."""
    hits = []
    for position, raw in enumerate(body["hits"]["hits"], compiled.options.offset + 1):
        hit = hit_of(raw)
        score = hit.score * compiled.score_factor
        if compiled.convert is not None:
            score = compiled.convert(score)
        if shares is not None:
            hit = replace(hit, shares=tuple(shares(hit.id)))
        elif compiled.options.explain:
            hit = replace(hit, shares=(LegShare(leg, position, score, score),))
        hits.append(replace(hit, score=score))
    return hits


def total_of(body: Mapping[str, Any]) -> tuple[int | None, Any]:
    """The total and its relation, or (None, "eq") where the engine didn't count."""
    total = body["hits"].get("total")
    if total is None:
        return None, "eq"
    if isinstance(total, int):
        return total, "eq"
    return int(total["value"]), total.get("relation", "eq")
