"""Hits as JSON values."""

from __future__ import annotations

from typing import Any

from esembed.types import Hit, Hits

__all__ = ["hits_to_json"]


def hits_to_json(hits: Hits, seconds: float) -> dict[str, Any]:
    """A page of hits as JSON values, stable for scripts."""
    return {
        "total": hits.total,
        "total_relation": hits.total_relation,
        "took_ms": hits.took_ms,
        "seconds": round(seconds, 6),
        "path": hits.path,
        "approximate": hits.approximate,
        "timed_out": hits.timed_out,
        "legs_missing": dict(hits.legs_missing),
        "notes": list(hits.notes),
        "next_cursor": hits.next_cursor,
        "hits": [
            {
                "id": hit.id,
                "score": hit.score,
                "source": dict(hit.source),
                **_contributions(hit),
                **({"sort": list(hit.sort)} if hit.sort else {}),
                **({"chunks": [dict(chunk) for chunk in hit.chunks]} if hit.chunks else {}),
            }
            for hit in hits
        ],
    }


def _contributions(hit: Hit) -> dict[str, Any]:
    if not hit.contributions:
        return {}
    found = [
        {"leg": one.leg, "rank": one.rank, "score": one.score, "contribution": one.contribution}
        for one in hit.contributions
    ]
    # The names of 0.1.0, for scripts that read them.
    return {"contributions": found, "shares": [{**one, "share": one["contribution"]} for one in found]}
