"""The values that pass between the parts: documents, sparse vectors, hits. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from esembed.deprecation import renamed_attributes, warn_renamed
from esembed.lazy import np, npt

__all__ = [
    "ENGINES",
    "DenseMatrix",
    "Document",
    "Engine",
    "FloatArray",
    "Hit",
    "Hits",
    "ItemError",
    "LegContribution",
    "SparseVector",
]

Engine = Literal["elasticsearch", "opensearch"]
"""The two engines, by name."""

ENGINES: tuple[Engine, ...] = get_args(Engine)
"""Their names, for what has one answer for each engine."""

if TYPE_CHECKING:
    FloatArray = npt.NDArray[np.float32]
else:
    FloatArray = Any  # so that no module needs NumPy for an annotation
"""A float32 array; its shape is stated where it is used."""

DenseMatrix = FloatArray
"""A float32 array of shape (n, dims)."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse vector: feature names (tokens) or ids with positive weights.

    Attributes:
        indices: the features, distinct; token strings, or int for id spaces (SEISMIC).
        values: float32, shape (len(indices),), finite and > 0 for documents and queries alike.
    """

    indices: tuple[str, ...] | tuple[int, ...]
    values: FloatArray

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float32)
        if values.ndim != 1 or len(values) != len(self.indices):
            raise ValueError(
                f"a sparse vector needs one value for each index: {len(self.indices)} indices, "
                f"values of shape {values.shape}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "indices", tuple(self.indices))

    @classmethod
    def from_dict(cls, weights: Mapping[str, float] | Mapping[int, float]) -> SparseVector:
        """``{"token": weight}`` as a vector, in the mapping's order."""
        names: Any = tuple(weights)
        return cls(names, np.fromiter(weights.values(), np.float32, len(weights)))

    def to_dict(self) -> dict[str, float]:
        """Feature name → weight (ids become decimal strings), as engines take it."""
        return {str(i): float(v) for i, v in zip(self.indices, self.values, strict=True)}

    def top(self, n: int) -> SparseVector:
        """The *n* heaviest features (ties by position), in descending weight."""
        order = np.argsort(-self.values, kind="stable")[:n]
        names: Any = tuple(self.indices[i] for i in order)
        return SparseVector(names, self.values[order])

    def dot(self, other: SparseVector) -> float:
        """The inner product, in float64."""
        mine = self.to_dict()
        return float(sum(mine.get(name, 0.0) * value for name, value in other.to_dict().items()))

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseVector):
            return NotImplemented
        return self.indices == other.indices and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.indices, self.values.tobytes()))


@dataclass(frozen=True, slots=True)
class Document:
    """One record on its way into an index.

    Attributes:
        id: the document id, or None to derive one from the content.
        source: the fields as they came; vectors that the caller brings (``precomputed``) are in here too.
        op: ``index`` replaces the document, ``update`` merges fields into it, ``delete`` removes it.
        position: where it stood in its source (``books.jsonl:17``), for messages.
        routing: the value that decides which shard has the document; None leaves it to the id, or to the
            alias that is written by.
        version: of the record, as its source counts them; where the index has a newer one, it stays. Taken
            from the record where the plan has a ``version_field``.
        unless_changed: sequence number and primary term of the document as it was seen: a delete that finds
            another one leaves it alone.
    """

    id: str | None
    source: Mapping[str, Any]
    op: Literal["index", "update", "delete"] = "index"
    position: str | None = None
    routing: str | None = None
    version: int | None = None
    unless_changed: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    """One record that did not get in, and why.

    Attributes:
        id: the document id, or None when the record never got that far.
        reason: what happened, for a person.
        status: the engine's HTTP status for this item, or None when it never was sent.
        position: where the record stood in its source, or None.
        error_type: the engine's or our own name of the error.
    """

    id: str | None
    reason: str
    status: int | None = None
    position: str | None = None
    error_type: str | None = None


@renamed_attributes(share="contribution")
@dataclass(frozen=True, slots=True)
class LegContribution:
    """What one leg gave to a hit (``explain=True``).

    Attributes:
        leg: the leg's name (``bm25``, ``dense`` …).
        rank: the hit's rank in that leg, from 1; None when the leg did not return it.
        score: the leg's raw score; None likewise.
        contribution: the part of the fused score that came from this leg; those of a hit add up to its
            score within float32.
    """

    leg: str
    rank: int | None
    score: float | None
    contribution: float


# Not frozen: a frozen dataclass sets each attribute by object.__setattr__, 1.5 µs for a hit where this takes
# 0.5, and a search's own work for a page of ten is some 70 µs. Nothing here reads a hit again.
@renamed_attributes(shares="contributions")
@dataclass(slots=True)
class Hit:
    """One search result.

    Attributes:
        id: the document id.
        score: the (fused) score, larger is better.
        source: the document's fields, vectors left out.
        index: the concrete index it came from.
        highlight: field → fragments, where asked for.
        chunks: the best chunks of a chunked document, best first, each its fields and ``_score``.
        contributions: each leg's part, where ``explain=True``.
        fields: collapse and stored fields as the engine returned them.
        rescored: the score after a rescore stage, else None.
        sort: of a sorted search the values that it was sorted by, one for each key.
    """

    id: str
    score: float
    source: Mapping[str, Any] = field(default_factory=dict)
    index: str | None = None
    highlight: Mapping[str, Sequence[str]] = field(default_factory=dict)
    chunks: Sequence[Mapping[str, Any]] = ()
    contributions: Sequence[LegContribution] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    rescored: float | None = None
    sort: Sequence[Any] = ()


@dataclass(slots=True)
class Hits(Sequence[Hit]):
    """A page of results, best first: a sequence of :class:`Hit` that knows its circumstances.

    Attributes:
        hits: the page.
        total: matching documents, or None where no honest number exists.
        total_relation: ``eq``, or ``gte`` when *total* is a lower bound.
        took_ms: the engine's own time, milliseconds.
        timed_out: the engine timed out on some shard.
        legs_missing: leg name → why it did not answer; empty when all did.
        aggregations: as the engine returned them.
        next_cursor: pass it as ``cursor=`` for the next page; None on the last one.
        path: how the result was fused: ``single``, ``server`` or ``client``.
        approximate: server fusion over several shards, whose window is not global.
        notes: what the compiler resolved or cut (terms pruned …), one line each.
    """

    hits: Sequence[Hit]
    total: int | None = None
    total_relation: Literal["eq", "gte"] = "eq"
    took_ms: float = 0.0
    timed_out: bool = False
    legs_missing: Mapping[str, str] = field(default_factory=dict)
    aggregations: Mapping[str, Any] = field(default_factory=dict)
    next_cursor: str | None = None
    path: Literal["single", "server", "client"] = "single"
    approximate: bool = False
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def ids(self) -> list[str]:
        """The document ids, best first."""
        return [hit.id for hit in self.hits]


def __getattr__(name: str) -> Any:
    if name == "LegShare":
        warn_renamed("LegShare", "LegContribution")
        return LegContribution
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
