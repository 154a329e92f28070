"""What a search asks for besides the query."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from esembed.deadline import Deadline
from esembed.errors import QueryError
from esembed.query.nodes import Filter, Scalar

__all__ = ["FusionPath", "Reranker", "SearchOptions", "SourceFilter", "check_rerankers", "http_timeout"]

FusionPath = Literal["auto", "server", "client"]
"""Where fusion may run."""
SourceFilter = bool | Sequence[str] | Mapping[str, Any] | None
"""Which stored fields come along: None is all but vectors, False none, a list these, a mapping the
engine's own ``includes`` and ``excludes``."""

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""A cross-encoder: a query and n texts to n scores, larger is better."""

LONGEST_KEEP_ALIVE = 86_400
"""Seconds: what the engines allow (``point_in_time.max_keep_alive``, ``search.max_keep_alive``)."""

HTTP_MARGIN_SECONDS = 5.0
"""How much longer the connection waits than the engine was told to take: its answer has to travel, and it
looks at its clock between segments only."""


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a search asks for besides the query.

    Attributes:
        size: hits on the page, 0…10000.
        offset: hits before it.
        source: which stored fields come along.
        highlight: True for every text field, names of fields, or the engine's own object.
        aggregations: the engine's own object. Under fusion they count every document that some leg
            finds: all matches of a text leg, the k nearest of a dense one.
        explain: each leg's rank, score and contribution for every hit.
        post_filter: narrows the hits, not what the aggregations count.
        min_score: hits of lower scores are left out, before any stage; refused under RRF, whose scores are
            ranks.
        sort, search_after: the engine's own; refused under fusion.
        keep_alive_seconds: the engine keeps the index as it is now (a point in time) for the pages that
            follow, each within that time after the one before, up to a day; pages of a fusion then go on
            beyond its window. None: each page searches the index as it is by then.
        fusion: who fuses: the engine where the result is the same (``auto``), always it (``server``), or
            always the client.
        count: count under fusion, too, as aggregations do.
        timeout_seconds: the time after which the engine answers with what it has.
        leg_timeouts_seconds: the same for single legs, by name or type, where the client fuses.
        deadline: when the whole search has to be over, or None.
    """

    size: int = 10
    offset: int = 0
    source: SourceFilter = None
    highlight: bool | Sequence[str] | Mapping[str, Any] | None = None
    aggregations: Mapping[str, Any] | None = None
    explain: bool = False
    post_filter: Filter | None = None
    min_score: float | None = None
    sort: Sequence[Any] | None = None
    search_after: Sequence[Scalar | None] | None = None
    keep_alive_seconds: float | None = None
    fusion: FusionPath = "auto"
    count: bool = False
    timeout_seconds: float | None = None
    leg_timeouts_seconds: Mapping[str, float] = {}
    deadline: Deadline | None = None

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("offset", self.offset)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise QueryError(f"{name} must be a whole number, not {value!r}", field=name)
        least = self.min_score
        if least is not None and (isinstance(least, bool) or not isinstance(least, (int, float))):
            raise QueryError(f"min_score must be a number, not {least!r}", field="min_score")
        if least is not None and not math.isfinite(least):
            raise QueryError(f"min_score must be a finite number, not {least}", field="min_score")
        kept = self.keep_alive_seconds
        if kept is not None and (
            isinstance(kept, bool) or not isinstance(kept, (int, float)) or not 0 < kept <= LONGEST_KEEP_ALIVE
        ):
            raise QueryError(
                f"keep_alive_seconds must be above 0 and at most {LONGEST_KEEP_ALIVE} (a day), not {kept!r}",
                field="keep_alive_seconds",
            )
        if self.fusion not in ("auto", "server", "client"):
            raise QueryError(f"fusion is auto, server or client, not {self.fusion!r}", field="fusion")

    @property
    def highlights(self) -> bool:
        """Whether highlights are asked for."""
        return self.highlight is not None and self.highlight is not False


def check_rerankers(rerankers: Mapping[str, Reranker] | None) -> dict[str, Reranker]:
    """A copy. Raises TypeError naming what can't be called."""
    for name, function in (rerankers or {}).items():
        if not callable(function):
            raise TypeError(
                f"rerankers[{name!r}] is a {type(function).__name__}, not a function of a query and texts"
            )
    return dict(rerankers or {})


def http_timeout(options: SearchOptions) -> float | None:
    """How long the connection waits, seconds; None is the client's own."""
    longest = max(options.leg_timeouts_seconds.values(), default=0.0)
    if options.timeout_seconds is not None:
        return max(longest, options.timeout_seconds) + HTTP_MARGIN_SECONDS
    # A leg without a time-out has the client's own, which is not to be cut to another leg's.
    return longest + HTTP_MARGIN_SECONDS if longest > HTTP_MARGIN_SECONDS else None
