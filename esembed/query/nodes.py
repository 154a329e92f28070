"""The nodes of the query algebra: immutable, equal by value, the same in Python, TOML and JSON.

People write the lower-case functions of :mod:`esembed.query`; these classes are what they return.
``repr`` prints the Python that makes a node (with ``from esembed import query as q``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from esembed.query.base import FrozenMap, Node, freeze, thaw

__all__ = [
    "Bool",
    "BoostBy",
    "Collapse",
    "Exists",
    "Filter",
    "FrozenMap",
    "GeoDistance",
    "Ids",
    "Knn",
    "Linear",
    "Match",
    "MatchAll",
    "MatchPhrase",
    "MultiMatch",
    "Nested",
    "Node",
    "Normalizer",
    "Prefix",
    "Query",
    "Range",
    "RankFeature",
    "Raw",
    "Rescore",
    "Rrf",
    "Scalar",
    "Sparse",
    "Term",
    "Terms",
    "freeze",
    "thaw",
]

Scalar = bool | int | float | str
Normalizer = Literal["minmax", "l2", "zscore", "none", "bound"]


# -- text ------------------------------------------------------------------------------------------


class Match(Node, frozen=True, kw_only=True, tag="match"):
    """Full text, scored by BM25. Made by :func:`esembed.query.match`."""

    _builder: ClassVar[str] = "match"
    _positional: ClassVar[tuple[str, ...]] = ("text",)
    text: str | None = None
    fields: tuple[str, ...] = ()
    operator: Literal["or", "and"] = "or"
    fuzziness: str | int | None = None
    minimum_should_match: str | int | None = None
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    damp_words: int | None = None
    name: str | None = None


class MultiMatch(Node, frozen=True, kw_only=True, tag="multi_match"):
    """Full text over several fields, with a choice of how they combine."""

    _builder: ClassVar[str] = "multi_match"
    _positional: ClassVar[tuple[str, ...]] = ("text",)
    text: str | None = None
    fields: tuple[str, ...] = ()
    kind: Literal["best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix"] = (
        "best_fields"
    )
    operator: Literal["or", "and"] = "or"
    tie_breaker: float | None = None
    fuzziness: str | int | None = None
    minimum_should_match: str | int | None = None
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    name: str | None = None


class MatchPhrase(Node, frozen=True, kw_only=True, tag="match_phrase"):
    """Words in this order, at most *slop* places apart."""

    _builder: ClassVar[str] = "match_phrase"
    _positional: ClassVar[tuple[str, ...]] = ("field", "text")
    field: str
    text: str | None = None
    slop: int = 0
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    name: str | None = None


# -- vectors and features --------------------------------------------------------------------------


class Knn(Node, frozen=True, kw_only=True, tag="knn"):
    """The nearest vectors. Made by :func:`esembed.query.knn`."""

    _builder: ClassVar[str] = "knn"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    text: str | None = None
    vector: tuple[float, ...] | None = None
    k: int | None = None
    num_candidates: int | None = None
    similarity: float | None = None
    filter: Filter | None = None
    oversample: float | None = None
    exact: bool = False
    chunks: int = 1
    boost: float = 1.0
    name: str | None = None


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Elasticsearch's token pruning; the engine's names and defaults."""

    tokens_freq_ratio_threshold: float = 5.0
    tokens_weight_threshold: float = 0.4
    only_score_pruned_tokens: bool = False

    def __repr__(self) -> str:
        values = msgspec.structs.asdict(self).items()
        return f"q.PruneOptions({', '.join(f'{name}={value!r}' for name, value in values)})"


class Sparse(Node, frozen=True, kw_only=True, tag="sparse"):
    """The inner product with a sparse vector. Made by :func:`esembed.query.sparse`."""

    _builder: ClassVar[str] = "sparse"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    text: str | None = None
    vector: Mapping[str, float] | None = None
    max_terms: int | None = None
    min_weight: float | None = None
    prune: bool | PruneOptions | None = None
    k: int | None = None
    heap_factor: float | None = None
    filter: Filter | None = None
    chunks: int = 1
    boost: float = 1.0
    scale: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vector is not None:
            msgspec.structs.force_setattr(self, "vector", FrozenMap(self.vector))


class RankFeature(Node, frozen=True, kw_only=True, tag="rank_feature"):
    """A stored number (popularity, PageRank) or one feature of many, as a score."""

    _builder: ClassVar[str] = "rank_feature"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    feature: str | None = None
    function: Literal["saturation", "log", "sigmoid", "linear"] = "saturation"
    pivot: float | None = None
    scaling_factor: float | None = None
    exponent: float | None = None
    boost: float = 1.0
    filter: Filter | None = None
    name: str | None = None


# -- filters ---------------------------------------------------------------------------------------


class Term(Node, frozen=True, kw_only=True, tag="term"):
    """The field's exact value."""

    _builder: ClassVar[str] = "term"
    _positional: ClassVar[tuple[str, ...]] = ("field", "value")
    field: str
    value: Scalar


class Terms(Node, frozen=True, kw_only=True, tag="terms"):
    """One of several exact values."""

    _builder: ClassVar[str] = "terms"
    _positional: ClassVar[tuple[str, ...]] = ("field", "values")
    field: str
    values: tuple[Scalar, ...]


class Range(Node, frozen=True, kw_only=True, tag="range"):
    """Values between bounds; at least one bound."""

    _builder: ClassVar[str] = "range"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    gte: int | float | str | None = None
    gt: int | float | str | None = None
    lte: int | float | str | None = None
    lt: int | float | str | None = None
    format: str | None = None
    time_zone: str | None = None


class Exists(Node, frozen=True, kw_only=True, tag="exists"):
    """The document has a value in the field."""

    _builder: ClassVar[str] = "exists"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str


class Prefix(Node, frozen=True, kw_only=True, tag="prefix"):
    """Keyword values that begin so."""

    _builder: ClassVar[str] = "prefix"
    _positional: ClassVar[tuple[str, ...]] = ("field", "value")
    field: str
    value: str


class Ids(Node, frozen=True, kw_only=True, tag="ids"):
    """Documents by id."""

    _builder: ClassVar[str] = "ids"
    _spread: ClassVar[str] = "values"
    values: tuple[str, ...]


class GeoDistance(Node, frozen=True, kw_only=True, tag="geo_distance"):
    """Within *distance* (``"12km"``) of a point."""

    _builder: ClassVar[str] = "geo_distance"
    _positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    lat: float
    lon: float
    distance: str


class Nested(Node, frozen=True, kw_only=True, tag="nested"):
    """A query on the objects of a nested field."""

    _builder: ClassVar[str] = "nested"
    _positional: ClassVar[tuple[str, ...]] = ("path", "query")
    path: str
    query: Query
    score_mode: Literal["max", "avg", "sum", "min", "none"] = "max"
    chunks: int = 0
    filter: Filter | None = None
    name: str | None = None


class Bool(Node, frozen=True, kw_only=True, tag="bool"):
    """Clauses combined; scores of *must* and *should* add up."""

    _builder: ClassVar[str] = "bool_"
    must: tuple[Query, ...] = ()
    should: tuple[Query, ...] = ()
    filter: tuple[Filter, ...] = ()
    must_not: tuple[Filter, ...] = ()
    minimum_should_match: int | str | None = None
    boost: float = 1.0
    name: str | None = None


class MatchAll(Node, frozen=True, kw_only=True, tag="match_all"):
    """Every document."""

    _builder: ClassVar[str] = "match_all"
    boost: float = 1.0
    filter: Filter | None = None
    name: str | None = None


class Raw(Node, frozen=True, kw_only=True, tag="raw"):
    """A clause in the engine's own JSON."""

    _builder: ClassVar[str] = "raw"
    _positional: ClassVar[tuple[str, ...]] = ("bodies",)
    bodies: Mapping[str, Any]
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "bodies", freeze(self.bodies))


# -- fusion and stages -----------------------------------------------------------------------------


class Rrf(Node, frozen=True, kw_only=True, tag="rrf"):
    """Legs fused by reciprocal rank."""

    _builder: ClassVar[str] = "rrf"
    _spread: ClassVar[str] = "legs"
    legs: tuple[Query, ...]
    weights: tuple[float, ...] | None = None
    rank_constant: int = 60
    rank_window_size: int | None = None
    filter: Filter | None = None
    name: str | None = None


class Linear(Node, frozen=True, kw_only=True, tag="linear"):
    """Legs fused by a weighted sum of (normalised) scores."""

    _builder: ClassVar[str] = "linear"
    _spread: ClassVar[str] = "legs"
    legs: tuple[Query, ...]
    weights: tuple[float, ...] | None = None
    normalizer: Normalizer = "minmax"
    complete: bool | None = None
    rank_window_size: int | None = None
    filter: Filter | None = None
    name: str | None = None


class Rescore(Node, frozen=True, kw_only=True, tag="rescore"):
    """The first hits of a query scored again, by another query or a cross-encoder."""

    _builder: ClassVar[str] = "rescore"
    _positional: ClassVar[tuple[str, ...]] = ("query",)
    query: Query
    by: Query | None = None
    reranker: str | None = None
    inference_id: str | None = None
    fields: tuple[str, ...] = ()
    text: str | None = None
    window_size: int = 50
    query_weight: float = 0.0
    rescore_weight: float = 1.0
    name: str | None = None


class Collapse(Node, frozen=True, kw_only=True, tag="collapse"):
    """The best hit of each value of a field."""

    _builder: ClassVar[str] = "collapse"
    _positional: ClassVar[tuple[str, ...]] = ("query", "field")
    query: Query
    field: str
    name: str | None = None


class BoostBy(Node, frozen=True, kw_only=True, tag="boost_by"):
    """Scores multiplied by (or added to) a function of a numeric field."""

    _builder: ClassVar[str] = "boost_by"
    _positional: ClassVar[tuple[str, ...]] = ("query", "field")
    query: Query
    field: str
    factor: float = 1.0
    modifier: Literal["none", "log1p", "log2p", "ln1p", "ln2p", "square", "sqrt", "reciprocal"] = "none"
    missing: float = 1.0
    mode: Literal["multiply", "sum"] = "multiply"
    max_boost: float | None = None
    filter: Filter | None = None
    name: str | None = None


Filter = (
    Term
    | Terms
    | Range
    | Exists
    | Prefix
    | Ids
    | GeoDistance
    | Nested
    | Bool
    | MatchAll
    | Match
    | MatchPhrase
    | Raw
)
"""What may stand as a filter: it selects, its score doesn't count."""

Query = (
    Match
    | MultiMatch
    | MatchPhrase
    | Knn
    | Sparse
    | RankFeature
    | Term
    | Terms
    | Range
    | Exists
    | Prefix
    | Ids
    | GeoDistance
    | Nested
    | Bool
    | MatchAll
    | Raw
    | Rrf
    | Linear
    | Rescore
    | Collapse
    | BoostBy
)
"""Any node of the algebra; msgspec reads and writes it by the tag ``type``."""
