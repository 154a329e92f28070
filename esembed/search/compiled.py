"""What a query was compiled to: the requests, and what to make of the answers. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from esembed.dialect.query import Json
from esembed.errors import QueryError
from esembed.fusion import FusionNode
from esembed.query.nodes import Collapse, Query, Rescore, Scalar

__all__ = ["CompiledSearch", "FusionPath", "Leg", "SearchOptions", "SourceFilter"]

FusionPath = Literal["auto", "server", "client"]
SourceFilter = bool | Sequence[str] | Mapping[str, Any] | None
"""Which stored fields come along: None is all but vectors, False none, a list these, a mapping the
engine's own ``includes`` and ``excludes``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a search asks for besides the query.

    Attributes:
        size: hits on the page, 0…10000.
        offset: hits before it.
        source: which stored fields come along.
        highlight: True for every text field, names of fields, or the engine's own object.
        aggregations: the engine's own object. Under fusion they count every document that some leg
            finds: all matches of a text leg, the k nearest of a dense one.
        explain: each leg's rank, score and share for every hit.
        sort, search_after: the engine's own; refused under fusion.
        fusion: who fuses: the engine where the result is the same (``auto``), always it, or always we.
        count: count under fusion, too, as aggregations do.
        timeout_seconds: the time after which the engine answers with what it has.
        leg_timeouts_seconds: the same for single legs, by name, where the fusion is ours.
    """

    size: int = 10
    offset: int = 0
    source: SourceFilter = None
    highlight: bool | Sequence[str] | Mapping[str, Any] | None = None
    aggregations: Mapping[str, Any] | None = None
    explain: bool = False
    sort: Sequence[Any] | None = None
    search_after: Sequence[Scalar | None] | None = None
    fusion: FusionPath = "auto"
    count: bool = False
    timeout_seconds: float | None = None
    leg_timeouts_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("offset", self.offset)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise QueryError(f"{name} must be a whole number, not {value!r}", field=name)
        if self.fusion not in ("auto", "server", "client"):
            raise QueryError(f"fusion is auto, server or client, not {self.fusion!r}", field="fusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One leg as a request of its own.

    Attributes:
        name: the leg's name; a nested fusion's legs carry its name in front (``inner/bm25``).
        node: the query, the fusion's filters put into it.
        body: the body of ``_search``.
        convert: what brings the engine's score to the common one, or None.
        is_chunk_document: its hits are chunks of their own; the hit that counts is their parent.
        align_scores: its score is combined with others as it is.
        complete: every candidate is to be scored by it.
    """

    name: str
    node: Query
    body: Json
    convert: Callable[[float], float] | None = None
    is_chunk_document: bool = False
    align_scores: bool = False
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSearch:
    """A compiled query.

    Attributes:
        path: ``single`` (one leg), ``server`` (the engine fuses) or ``client`` (we do).
        body: the body of ``_search`` for single and server, None for client.
        legs: the legs as requests of their own: for client fusion, and for ``explain`` on the server's.
        union: the request behind counts and aggregations of client fusion, or None.
        fusion: what to do with the legs' lists.
        stages: what is done on our side after the fusion, in this order.
        window: how many hits take part; paging ends there.
        inline: the legs bring the page's stored fields; else they are fetched for the page alone.
        score_factor: what the engine's fused scores are multiplied by.
        convert: what brings the single query's scores to the common scale, or None.
        counted: the single query's total is a count of matches (a kNN's isn't).
        approximate: fused by the engine over several shards.
        options: what was asked for.
        notes: what was resolved or cut.
    """

    path: Literal["single", "server", "client"]
    body: Json | None
    legs: tuple[Leg, ...] = ()
    union: Json | None = None
    fusion: FusionNode | None = None
    stages: tuple[Rescore | Collapse, ...] = ()
    window: int = 100
    inline: bool = True
    score_factor: float = 1.0
    convert: Callable[[float], float] | None = None
    counted: bool = True
    approximate: bool = False
    options: SearchOptions = SearchOptions()
    notes: tuple[str, ...] = ()

    @property
    def bodies(self) -> list[Json]:
        """Every body of the first round trip, in the order sent."""
        bodies = [] if self.body is None else [self.body]
        bodies.extend(leg.body for leg in self.legs)
        if self.union is not None:
            bodies.append(self.union)
        return bodies

    def lines(self, header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The lines of ``_msearch``, *header* before each body."""
        return [line for body in self.bodies for line in (header, body)]
