"""The parts of a plan: fields, chunks, index settings; keyword-only, immutable, strict about names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from esembed.errors import RecordError
from esembed.lazy import np, npt
from esembed.plan import paths
from esembed.plan.encoders import canonical_spec, split_spec
from esembed.plan.params import EncoderParams
from esembed.query.nodes import FrozenMap

__all__ = [
    "CHUNK_SEPARATOR",
    "MAX_CANDIDATES",
    "MAX_SEISMIC_IDS",
    "PRECOMPUTED",
    "UNQUANTIZED",
    "CandidateRule",
    "ChunkOptions",
    "DenseField",
    "DiskOptions",
    "FilterField",
    "IndexOptions",
    "LoadOptions",
    "PlanStruct",
    "Quantization",
    "SeismicOptions",
    "SparseField",
    "TextField",
    "VectorField",
    "engine_endpoint",
    "joined_text",
]


PRECOMPUTED = "precomputed"
"""The encoder spec of a field whose vectors the caller brings."""

CHUNK_SEPARATOR = "\n\n"
"""Between the fields that are joined and then cut into chunks: a paragraph's end, where a chunk may end."""


def joined_text(source: Sequence[str], separator: str, record: Mapping[str, Any]) -> str | None:
    """The text of a record's fields, joined; None where it has none of them, "" where all are empty.

    Raises:
        RecordError: a field holds what is no text (an object, a boolean …).
    """
    found = [_as_text(path, value) for path in source if (value := paths.get(record, path)) is not None]
    return separator.join(text for text in found if text) if found else None


def _as_text(path: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, Mapping)):
        raise RecordError(f"{path} holds a {type(value).__name__}; an encoder needs text", field=path)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "\n".join(_as_text(path, item) for item in value if item is not None)
    raise RecordError(f"{path} holds a {type(value).__name__}; an encoder needs text", field=path)


class PlanStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every section of a plan shares: keyword-only, immutable, strict about names."""

    def __post_init__(self) -> None:
        # msgspec leaves out defaults by identity, and an equal struct is not always the same object.
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            if isinstance(value, msgspec.Struct) and value == field.default:
                msgspec.structs.force_setattr(self, field.name, field.default)


Similarity = Literal["cosine", "dot_product", "l2_norm", "max_inner_product"]

Quantization = Literal[
    "auto",
    # Elasticsearch's own literals; OpenSearch's equivalents are compiled where they exist.
    "hnsw",
    "int8_hnsw",
    "int4_hnsw",
    "bbq_hnsw",
    "flat",
    "int8_flat",
    "int4_flat",
    "bbq_flat",
    "bbq_disk",
    # OpenSearch only: a compression level on disk, and Faiss encoders.
    "on_disk_1x",
    "on_disk_2x",
    "on_disk_4x",
    "on_disk_8x",
    "on_disk_16x",
    "on_disk_32x",
    "faiss_hnsw",
    "faiss_fp16",
    "faiss_pq",
    "faiss_ivf",
    "faiss_binary",
]
"""How an engine keeps a dense field's vectors; Elasticsearch's literals, and k-NN's own."""

UNQUANTIZED = frozenset({"hnsw", "flat", "faiss_hnsw", "on_disk_1x"})
"""Quantizations that are none: full vectors alone are searched, so there is nothing to rescore."""


class TextField(PlanStruct, frozen=True, kw_only=True):
    """A full-text field, scored by BM25.

    Attributes:
        analyzer: a name both engines know (``standard``) or one that this engine has; refused at
            compile time where the engine lacks it.
        search_analyzer: likewise for queries, else *analyzer*.
        boost: its weight in the default query, ≥ 0.
        k1, b: BM25's parameters, else the engine's defaults (1.2, 0.75).
        keyword: also index the exact value as ``NAME.keyword``.
    """

    analyzer: str = "standard"
    search_analyzer: str | None = None
    boost: float = 1.0
    k1: float | None = None
    b: float | None = None
    keyword: bool = False


class VectorField(PlanStruct, frozen=True, kw_only=True):
    """What dense and sparse fields share: an encoder, the record's fields whose text it encodes, and whether
    a document may do without."""

    encoder: str = PRECOMPUTED
    source: tuple[str, ...] = ()
    separator: str = "\n"
    optional: bool = False

    def __post_init__(self) -> None:
        # Plans compare equal whichever name they were written with.
        spec = canonical_spec(self.encoder)
        if spec != self.encoder:
            msgspec.structs.force_setattr(self, "encoder", spec)
        super().__post_init__()

    @property
    def family(self) -> str:
        """The encoder's family, what stands before the colon of its spec (``hf``, ``lexical`` …)."""
        return split_spec(self.encoder)[0]

    @property
    def precomputed(self) -> bool:
        """Whether the caller brings the vectors; there is no encoder then, for records or for queries."""
        return self.family == PRECOMPUTED

    @property
    def endpoint(self) -> str | None:
        """The engine's inference endpoint that computes the vectors, or None."""
        return engine_endpoint(self.encoder)

    @property
    def encoded_here(self) -> bool:
        """Whether an encoder of this process makes the vectors."""
        return not self.precomputed and self.endpoint is None

    def source_text(self, record: Mapping[str, Any]) -> str | None:
        """The text that the field is encoded from; see :func:`joined_text`."""
        return joined_text(self.source, self.separator, record)


class DiskOptions(PlanStruct, frozen=True, kw_only=True):
    """Elasticsearch's options for vectors that stay on disk, by the engine's own names; None keeps its
    default.

    Attributes:
        cluster_size: ``bbq_disk``: vectors of a cluster, 64 to 65,536. From 9.2 on.
        default_visit_percentage: ``bbq_disk``: the share of the vectors that a query looks at where it says
            nothing, 0 to 100; 0 leaves it to ``num_candidates``. From 9.2 on.
        on_disk_rescore: ``bbq_disk`` and quantized graphs: full vectors are read from disk for rescoring,
            past the page cache. From 9.3 on.
        bits: ``bbq_disk``: 1, 2, 4 or 7 a dimension. From 9.4 on.
        precondition: ``bbq_disk``: rotate the vectors before they are coded; fixed at creation. From 9.4 on.
        flat_index_threshold: ``bbq_disk`` and graphs: segments with fewer vectors are searched one by one;
            -1 is the format's own, 0 never. From 9.4 on.
        auto_calibrate: ``bbq_disk``: each merge chooses bits, oversampling and preconditioning; fixed at
            creation. From 9.5 on.
    """

    cluster_size: int | None = None
    default_visit_percentage: float | None = None
    on_disk_rescore: bool | None = None
    bits: Literal[1, 2, 4, 7] | None = None
    precondition: bool | None = None
    flat_index_threshold: int | None = None
    auto_calibrate: bool | None = None


MAX_CANDIDATES = 10_000
"""The most candidates of a kNN search on a shard: both engines' limit."""


class CandidateRule(PlanStruct, frozen=True, kw_only=True):
    """How many candidates a search of a graph looks at on each shard: *per_k* times k, *least* at least, and
    *filtered* times as many beside a filter.

    The defaults are what Elasticsearch is told where a field has no rule of its own. ``esembed advise
    --index`` finds the numbers that keep a recall.

    Attributes:
        least: 1 to 10,000.
        per_k: ≥ 1. 1.5 is Elasticsearch's own default.
        filtered: ≥ 1.
    """

    # Never below 100: even there a graph misses .016 to .026 of the true neighbors (docs/quantization.md).
    least: int = 100
    per_k: float = 1.5
    filtered: float = 1.0

    def of(self, k: int, *, filtered: bool = False) -> int:
        """The number of candidates for k, at most 10,000 and never below k."""
        wanted = max(self.least, self.per_k * k) * (self.filtered if filtered else 1.0)
        # Rounded first: 1.1 times 10 is 11.000000000000002.
        return max(k, min(MAX_CANDIDATES, math.ceil(round(wanted, 6))))


class DenseField(VectorField, frozen=True, kw_only=True):
    """A dense vector field.

    Attributes:
        encoder: a spec string (``minilm``, ``hf:…``, ``precomputed`` …). ``engine:ENDPOINT``: the engine
            computes the vectors; *dims* must be written then.
        source: the fields whose text is encoded, joined by *separator*; empty for ``precomputed``.
        separator: what stands between the joined fields.
        optional: a record without text for it (or without its precomputed vector) goes in without the
            vector; else it can't get in. A text that the encoder knows no word of has none either way.
        dims: how many dimensions; None takes the encoder's (``precomputed`` needs it).
        similarity: ``cosine``, ``dot_product``, ``l2_norm`` or ``max_inner_product``.
        element_type: what one dimension is in the engine.
        scale: ``byte`` fields: floats times this, rounded and cut to ±127, are what is stored (see
            ``esembed advise``). None: found from the dims for encoders; ``precomputed`` bytes are kept.
        quantization: ``auto`` is resolved at compile time and recorded; any other value is kept.
        m, ef_construction: HNSW's graph parameters, else the engine's defaults.
        oversample: rescore this many times k candidates with the full vectors.
        disk: options of ``bbq_disk``, and of rescoring from disk.
        candidates: how many candidates a search looks at where the query says nothing; None leaves it to
            OpenSearch, and to :class:`CandidateRule`'s defaults on Elasticsearch.
        model_id: OpenSearch: the trained k-NN model of ``faiss_pq`` and ``faiss_ivf``.
        params: encoder parameters that change the vectors.
        chunked: encode chunks of the text (see ``IndexPlan.chunk``) instead of the whole.
    """

    encoder: str = PRECOMPUTED
    dims: int | None = None
    similarity: Similarity = "cosine"
    element_type: Literal["float", "byte", "bit", "bfloat16"] = "float"
    scale: float | None = None
    quantization: Quantization = "auto"
    m: int | None = None
    ef_construction: int | None = None
    oversample: float | None = None
    disk: DiskOptions = DiskOptions()
    candidates: CandidateRule | None = None
    model_id: str | None = None
    params: EncoderParams = EncoderParams()
    chunked: bool = False

    def has_no_direction(self, vector: Sequence[float] | npt.NDArray[Any]) -> bool:
        """Whether a vector, shape (dims,), has no direction that the engine could compare: cosine, length 0.

        Both engines sum squares in float32, so a vector may have length 0 without being all zeros:
        Elasticsearch 9.5.3 takes [1e-20, 0, …] and refuses [1e-23, 0, …] as one "with zero magnitude".
        """
        if self.similarity != "cosine":
            return False
        if any(value > 1e-15 or value < -1e-15 for value in vector):
            return False  # nearly always, at the first number: an array of 768 floats takes 30 µs to make
        values = np.asarray(vector, np.float32)
        return not float(np.sum(values * values, dtype=np.float32)) > 0.0


MAX_SEISMIC_IDS = 32_768
"""SEISMIC keeps 15 bits of a token id, and folds larger ids onto others without a word."""


class SeismicOptions(PlanStruct, frozen=True, kw_only=True):
    """OpenSearch's SEISMIC parameters, by the engine's own names; None keeps its default."""

    n_postings: int | None = None
    cluster_ratio: float | None = None
    summary_prune_ratio: float | None = None
    approximate_threshold: int | None = None
    quantization_ceiling_ingest: float | None = None
    quantization_ceiling_search: float | None = None


class SparseField(VectorField, frozen=True, kw_only=True):
    """A sparse vector field.

    Attributes:
        encoder: ``lexical``, ``splade:…``, ``engine:ENDPOINT``, ``precomputed`` …
        source: the fields whose text is encoded, joined by *separator*; empty for ``precomputed``.
        separator: what stands between the joined fields.
        optional: a record without text for it (or without its precomputed vector) goes in without the
            vector; else it can't get in. A text that the encoder knows no word of has none either way.
        storage: how the engine keeps it; ``auto`` is ``sparse_vector`` on Elasticsearch and
            ``rank_features`` on OpenSearch.
        prune: let Elasticsearch prune query tokens (tuned for ELSER, so off by default).
        seismic: parameters of ``storage = "seismic"``.
        params: encoder parameters that change the vectors.
        chunked: encode chunks of the text instead of the whole.
    """

    encoder: str = "lexical"
    storage: Literal["auto", "sparse_vector", "rank_features", "seismic"] = "auto"
    prune: bool = False
    seismic: SeismicOptions = SeismicOptions()
    params: EncoderParams = EncoderParams()
    chunked: bool = False


class FilterField(PlanStruct, frozen=True, kw_only=True):
    """A field to filter, sort, facet or boost by, never analyzed.

    Attributes:
        type: Elasticsearch's field type. ``nested`` keeps the values of each object of a list together, so
            that ``q.nested`` finds a red shirt of size M and not a red one beside one of size M.
        format: for dates, the engine's format string.
        positive_score_impact: ``rank_feature`` only: False where a larger value is worse.
        normalizer: ``keyword`` only: what is done to a value before it is kept and compared:
            ``lowercase``, or one of the plan's ``[analysis]``.
        fields: ``nested`` only: the fields of the objects.
    """

    type: Literal[
        "keyword",
        "boolean",
        "byte",
        "short",
        "integer",
        "long",
        "float",
        "double",
        "date",
        "ip",
        "geo_point",
        "rank_feature",
        "wildcard",
        "nested",
    ] = "keyword"
    format: str | None = None
    positive_score_impact: bool = True
    normalizer: str | None = None
    fields: Mapping[str, FilterField] = FrozenMap()

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "fields", FrozenMap(self.fields))


class ChunkOptions(PlanStruct, frozen=True, kw_only=True):
    """How long texts are cut for the fields with ``chunked = true``.

    Attributes:
        source: the fields that are joined and cut.
        max_tokens: the most tokens of the encoder in one chunk.
        overlap_tokens: how many of them the next chunk repeats.
        boundary: prefer to cut at sentences, at markdown structure, or anywhere between words.
        store: ``nested`` objects inside the document, or ``documents`` of their own with a parent id.
        path: the nested field's name.
    """

    source: tuple[str, ...]
    max_tokens: int = 200
    overlap_tokens: int = 20
    boundary: Literal["sentence", "markdown", "word"] = "sentence"
    store: Literal["nested", "documents"] = "nested"
    path: str = "chunks"

    def source_text(self, record: Mapping[str, Any]) -> str | None:
        """The text that is cut; see :func:`joined_text`."""
        return joined_text(self.source, CHUNK_SEPARATOR, record)


class IndexOptions(PlanStruct, frozen=True, kw_only=True):
    """Settings that the index is created with; None leaves the engine's default.

    Attributes:
        shards, replicas, refresh_interval: as the engines have them.
        dynamic: what becomes of fields that the plan doesn't know.
        filter_heuristic: Elasticsearch: how a graph is searched beside a filter. ``acorn`` compares only
            vectors that pass it, ``fanout`` all that it meets. From 9.1 on.
        early_termination: Elasticsearch: a search of a graph ends where it no longer finds nearer vectors.
            From 9.2 on.
        memory_optimized_search: OpenSearch: Faiss's graphs are read through the page cache, and not loaded
            whole. From 3.1 on.
    """

    shards: int = 1
    replicas: int | None = None
    refresh_interval: str | None = None
    dynamic: Literal["true", "false", "strict"] = "false"
    filter_heuristic: Literal["acorn", "fanout"] | None = None
    early_termination: bool | None = None
    memory_optimized_search: bool | None = None


class LoadOptions(PlanStruct, frozen=True, kw_only=True):
    """What is changed during a bulk load, and restored before it is called done.

    Attributes:
        refresh: False switches periodic refresh off during the load.
        replicas: replicas during the load, else unchanged.
        force_merge_segments: merge to at most this many segments afterward, else don't.
        graph_threshold: OpenSearch: during the load only segments with more vectors than this get an
            HNSW graph (``index.knn.advanced.approximate_threshold``; -1 builds none), so that graphs
            are built once, by the merges afterward. Other engines have no such setting.
    """

    refresh: bool = True
    replicas: int | None = None
    force_merge_segments: int | None = None
    graph_threshold: int | None = None


def engine_endpoint(spec: str) -> str | None:
    """``"engine:my-e5"`` → ``"my-e5"``, ``"engine:sparse/ID"`` → ``"ID"``; None for any other spec."""
    family, rest = split_spec(spec)
    if family != "engine":
        return None
    kind, slash, name = rest.partition("/")
    return name if slash and kind in ("dense", "sparse") else rest
