"""What a migration is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from esembed.deprecation import renamed
from esembed.ingest.options import IngestOptions, MissingVectors
from esembed.option_checks import check_numbers
from esembed.query.nodes import MAX_WINDOW

__all__ = ["MigrateOptions", "MigrationReport"]


@renamed(judge="quality_metric", small_catch_up="small_delta", max_catch_ups="max_delta_passes")
@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateOptions:
    """How a migration runs.

    Attributes:
        alias: give the index this alias first; needed where the name asked for is an index itself. By
            an alias that shows a part of the index (a filter, a routing), its own name here says that it
            is to be moved.
        in_place: change the quantization in the live mapping (and ``optional``) where the engine allows it
            and nothing else differs, instead of a new index.
        max_documents_per_second: read the old index no faster.
        small_delta: block writes once a delta pass copied this many documents or fewer, and took
            no longer than a second.
        max_delta_passes: … or after this many passes.
        queries: texts whose results are compared before the swap.
        k: how many results of each.
        min_overlap: the mean share of the old top *k* that must be in the new one, 0…1; None: no gate.
        quality_metric: a function of query → ids that says how good they are (nDCG against judgments); the
            new index must not score less than the old one by more than *max_drop*.
        max_drop: see *quality_metric*.
        disk_factor: refuse when less than this times the old index's primaries is free; 0 asks nothing.
        ingest: options of the copying runs.
    """

    alias: str | None = None
    in_place: bool = True
    max_documents_per_second: float | None = None
    small_delta: int = 500
    max_delta_passes: int = 10
    queries: Sequence[str] = ()
    k: int = 10
    min_overlap: float | None = None
    quality_metric: Callable[[Mapping[str, Sequence[str]]], float] | None = None
    max_drop: float = 0.0
    disk_factor: float = 1.5
    ingest: IngestOptions = field(default_factory=lambda: IngestOptions(op_field=None))

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={"small_delta": (0, None), "max_delta_passes": (1, None), "k": (1, MAX_WINDOW)},
            real={
                "max_documents_per_second": (0.001, None),
                "min_overlap": (0, 1),
                "max_drop": (0, None),
                "disk_factor": (0, None),
            },
            prefix="options.",
        )


@renamed(catch_ups="delta_passes")
@dataclass(slots=True, kw_only=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        alias, old, new: the names; *old* and *new* are equal after an in-place change.
        in_place: only the mapping was changed.
        resumed: an earlier run had begun it.
        encoded: fields whose vectors were made again.
        copied: fields whose vectors were taken over, precomputed ones included.
        vectors_copied: how many vectors were taken over.
        vectors_encoded: texts of copied fields whose vector was not at hand, and that were encoded.
        without_vector: vector field → the documents that were copied without a vector in it; one that was
            written meanwhile is copied, and counted, again.
        documents: in the new index, at the swap.
        delta_passes: documents copied by each pass after the first; the last one while writes were
            blocked.
        deleted: documents deleted meanwhile, or between two runs.
        blocked_seconds: how long writes were refused.
        seconds: in all.
        overlap: the mean overlap@k, where it was asked for.
        old_score, new_score: of *quality_metric*.
        notes: anything else.
    """

    alias: str
    old: str
    new: str
    in_place: bool = False
    resumed: bool = False
    encoded: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    vectors_copied: int = 0
    vectors_encoded: int = 0
    without_vector: dict[str, MissingVectors] = field(default_factory=dict)
    documents: int = 0
    delta_passes: list[int] = field(default_factory=list)
    deleted: int = 0
    blocked_seconds: float = 0.0
    seconds: float = 0.0
    overlap: float | None = None
    old_score: float | None = None
    new_score: float | None = None
    notes: list[str] = field(default_factory=list)
