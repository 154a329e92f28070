"""What an index is: fields, encoders, quantization, chunks, the default query.

A plan is declarative, immutable, equal by value, and the same in Python, TOML and JSON::

    [text.title]
    boost = 2.0
    [text.body]
    analyzer = "english"

    [dense.embedding]
    encoder = "minilm"
    source = ["title", "body"]

    [sparse.terms]
    encoder = "lexical"
    source = ["title", "body"]

    [filter.lang]
    type = "keyword"

Nothing here talks to an engine; ``esembed.dialect`` compiles a plan for a capability profile.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from esembed.encode.base import EncoderParams
from esembed.errors import PlanError
from esembed.query import Query
from esembed.query.nodes import FrozenMap

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "ChunkOptions",
    "DenseField",
    "FilterField",
    "IndexOptions",
    "IndexPlan",
    "LoadOptions",
    "Quantization",
    "SeismicOptions",
    "SparseField",
    "TextField",
    "engine_endpoint",
]


T = TypeVar("T")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The settings every part of a plan shares: keyword-only, immutable, strict about names."""

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


class TextField(_Part, frozen=True, kw_only=True):
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


class DenseField(_Part, frozen=True, kw_only=True):
    """A dense vector field.

    Attributes:
        encoder: a spec string (``minilm``, ``hf:…``, ``given`` …). ``engine:ENDPOINT``: the engine computes
            the vectors; *dims* must be written then.
        source: the fields whose text is encoded, joined by *separator*; empty for ``given``.
        separator: what stands between the joined fields.
        dims: how many dimensions; None takes the encoder's (``given`` needs it).
        similarity: ``cosine``, ``dot_product``, ``l2_norm`` or ``max_inner_product``.
        element_type: what one dimension is in the engine.
        scale: ``byte`` fields: floats times this, rounded and cut to ±127, are what is stored (see
            ``esembed advise``). None: found from the dims for encoders; ``given`` bytes stay as they are.
        quantization: ``auto`` is resolved at compile time and recorded; any other value is kept.
        m, ef_construction: HNSW's graph parameters, else the engine's defaults.
        oversample: rescore this many times k candidates with the full vectors.
        model_id: OpenSearch: the trained k-NN model of ``faiss_pq`` and ``faiss_ivf``.
        params: encoder parameters that change the vectors.
        chunked: encode chunks of the text (see ``IndexPlan.chunk``) instead of the whole.
    """

    encoder: str = "given"
    source: tuple[str, ...] = ()
    separator: str = "\n"
    dims: int | None = None
    similarity: Similarity = "cosine"
    element_type: Literal["float", "byte", "bit", "bfloat16"] = "float"
    scale: float | None = None
    quantization: Quantization = "auto"
    m: int | None = None
    ef_construction: int | None = None
    oversample: float | None = None
    model_id: str | None = None
    params: EncoderParams = EncoderParams()
    chunked: bool = False


class SeismicOptions(_Part, frozen=True, kw_only=True):
    """OpenSearch's SEISMIC parameters, by the engine's own names; None keeps its default."""

    n_postings: int | None = None
    cluster_ratio: float | None = None
    summary_prune_ratio: float | None = None
    approximate_threshold: int | None = None
    quantization_ceiling_ingest: float | None = None
    quantization_ceiling_search: float | None = None


class SparseField(_Part, frozen=True, kw_only=True):
    """A sparse vector field.

    Attributes:
        encoder: ``lexical``, ``splade:…``, ``engine:ENDPOINT``, ``given`` …
        source: the fields whose text is encoded, joined by *separator*; empty for ``given``.
        separator: what stands between the joined fields.
        storage: how the engine keeps it; ``auto`` is ``sparse_vector`` on Elasticsearch and
            ``rank_features`` on OpenSearch.
        prune: let Elasticsearch prune query tokens (tuned for ELSER, so off by default).
        seismic: parameters of ``storage = "seismic"``.
        params: encoder parameters that change the vectors.
        chunked: encode chunks of the text instead of the whole.
    """

    encoder: str = "lexical"
    source: tuple[str, ...] = ()
    separator: str = "\n"
    storage: Literal["auto", "sparse_vector", "rank_features", "seismic"] = "auto"
    prune: bool = False
    seismic: SeismicOptions = SeismicOptions()
    params: EncoderParams = EncoderParams()
    chunked: bool = False


class FilterField(_Part, frozen=True, kw_only=True):
    """A field to filter, sort, facet or boost by, never analysed.

    Attributes:
        type: Elasticsearch's field type.
        format: for dates, the engine's format string.
        positive_score_impact: ``rank_feature`` only: False where a larger value is worse.
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
    ] = "keyword"
    format: str | None = None
    positive_score_impact: bool = True


class ChunkOptions(_Part, frozen=True, kw_only=True):
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


class IndexOptions(_Part, frozen=True, kw_only=True):
    """Settings that the index is created with; None leaves the engine's default."""

    shards: int = 1
    replicas: int | None = None
    refresh_interval: str | None = None
    dynamic: Literal["true", "false", "strict"] = "false"


class LoadOptions(_Part, frozen=True, kw_only=True):
    """What is changed during a bulk load, and put back before it is called done.

    Attributes:
        refresh: False switches periodic refresh off during the load.
        replicas: replicas during the load, else unchanged.
        force_merge_segments: merge to at most this many segments afterwards, else don't.
        graph_threshold: OpenSearch: during the load only segments with more vectors than this get an
            HNSW graph (``index.knn.advanced.approximate_threshold``; -1 builds none), so that graphs
            are built once, by the merges afterwards. Other engines have no such setting.
    """

    refresh: bool = True
    replicas: int | None = None
    force_merge_segments: int | None = None
    graph_threshold: int | None = None


class IndexPlan(_Part, frozen=True, kw_only=True):
    """What an index is. See the module's docstring for its TOML.

    Attributes:
        text, dense, sparse, filter: the fields by name; a name stands in one section only.
        chunk: how texts are cut, where a field has ``chunked``.
        id_field: the record's field that holds its id, else the id comes with the record or from
            its content.
        query: the default query (its ``text`` left out), else text and dense legs fused by RRF, and
            a learned sparse leg where there is one.
        index, load: index settings.
        description: for people.

    Raises:
        PlanError: on creation, when fields contradict each other.
    """

    text: Mapping[str, TextField] = FrozenMap()
    dense: Mapping[str, DenseField] = FrozenMap()
    sparse: Mapping[str, SparseField] = FrozenMap()
    filter: Mapping[str, FilterField] = FrozenMap()
    chunk: ChunkOptions | None = None
    id_field: str | None = None
    query: Query | None = None
    index: IndexOptions = IndexOptions()
    load: LoadOptions = LoadOptions()
    description: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for section in ("text", "dense", "sparse", "filter"):
            msgspec.structs.force_setattr(self, section, FrozenMap(getattr(self, section)))
        _validate(self)

    # -- reading and writing -------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> IndexPlan:
        """From plain values. Raises PlanError naming the path of what is wrong."""
        parts = dict(data)
        for section, kind in _SECTIONS.items():
            named = parts.get(section)
            if isinstance(named, Mapping):
                # One field at a time: msgspec's own path would not name it.
                parts[section] = {
                    name: _convert(value, kind, f"{section}.{name}") for name, value in named.items()
                }
        return _convert(parts, cls, "")

    @classmethod
    def from_toml(cls, text: str) -> IndexPlan:
        """From TOML text. Raises PlanError."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"not TOML: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def from_json(cls, text: str | bytes) -> IndexPlan:
        """From JSON text. Raises PlanError."""
        try:
            return cls.from_dict(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise PlanError(f"not JSON: {error}") from error

    @classmethod
    def load_file(cls, path: str | Path) -> IndexPlan:
        """From a ``.toml`` or ``.json`` file. Raises PlanError (also when it can't be read)."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"can't read the plan {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"the plan {path} is not UTF-8 text") from error
        try:
            return cls.from_json(text) if path.suffix == ".json" else cls.from_toml(text)
        except PlanError as error:
            raise PlanError(f"in {path.name}: {error.message}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what equals its default is left out, so that diffs stay small."""
        data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        for section in ("text", "dense", "sparse", "filter"):
            if not data.get(section):
                data.pop(section, None)
        return data

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back as an equal plan."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    def to_json(self) -> str:
        """JSON text, keys in a fixed order."""
        return msgspec.json.encode(self.to_dict(), order="deterministic").decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The plan's JSON Schema (2020-12), for editors and checks in other languages."""
        return msgspec.json.schema(cls)

    # -- looking at it -------------------------------------------------------------------------

    def vector_fields(self) -> Iterator[tuple[str, DenseField | SparseField]]:
        """Every dense and sparse field with its name, dense first."""
        yield from self.dense.items()
        yield from self.sparse.items()

    def field_path(self, name: str) -> str:
        """The name a vector field has in the mapping: under the chunks' path where it is chunked
        and chunks are nested."""
        part = self.dense.get(name) or self.sparse.get(name)
        if part is not None and part.chunked and self.chunk is not None and self.chunk.store == "nested":
            return f"{self.chunk.path}.{name}"
        return name

    def only(self, vectors: Collection[str]) -> IndexPlan:
        """The same with these vector fields alone, and without a default query."""
        return self.replace(
            dense={name: part for name, part in self.dense.items() if name in vectors},
            sparse={name: part for name, part in self.sparse.items() if name in vectors},
            query=None,
        )

    def replace(self, **changes: Any) -> IndexPlan:
        """A copy with these attributes changed, validated again."""
        return msgspec.structs.replace(self, **changes)


_SECTIONS: dict[str, Any] = {
    "text": TextField,
    "dense": DenseField,
    "sparse": SparseField,
    "filter": FilterField,
}


def _convert(value: Any, kind: type[T], where: str) -> T:
    """*value* as *kind*; a PlanError names the path and, for a typing error, what was meant."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `")
        inner = inner.rstrip("`").removeprefix("$").lstrip(".")
        path = ".".join(part for part in (where, inner) if part)
        hint = ""
        unknown = re.search(r"unknown field `(.*)`", text)
        if unknown:
            known = getattr(kind, "__struct_fields__", ())
            close = difflib.get_close_matches(unknown[1], known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if not inner:
                hint += f" (there are: {', '.join(known)})"
        raise PlanError(text[:1].lower() + text[1:] + hint, path=path) from error


def engine_endpoint(spec: str) -> str | None:
    """``"engine:my-e5"`` → ``"my-e5"``, ``"engine:sparse/ID"`` → ``"ID"``; None for any other spec."""
    family, _, rest = spec.partition(":")
    if family != "engine":
        return None
    kind, slash, name = rest.partition("/")
    return name if slash and kind in ("dense", "sparse") else rest


def _validate_engine(name: str, part: DenseField | SparseField, where: str) -> None:
    """A field whose vectors the engine computes: what its endpoint decides can't stand in the plan."""
    section = where.partition(".")[0]
    endpoint = engine_endpoint(part.encoder)
    if not endpoint or any(c.isspace() for c in endpoint):
        raise PlanError(
            "engine: needs the name of an inference endpoint or the id of a deployed model "
            "(engine:.elser-2-elasticsearch)",
            path=f"{where}.encoder",
        )
    prefix = part.encoder.removeprefix("engine:").removesuffix(endpoint).rstrip("/")
    if prefix not in ("", section):
        raise PlanError(f"{part.encoder!r} is {prefix}, the field is {section}", path=f"{where}.encoder")
    if part.chunked:
        raise PlanError(
            "the engine encodes whole fields here: leave chunked out, or name an encoder that runs on your "
            "side",
            path=f"{where}.chunked",
        )
    if "." in name:
        raise PlanError("a field that the engine fills can't have a dot in its name", path=where)
    if part.params != EncoderParams():
        raise PlanError(
            "the endpoint decides how it encodes; leave params out (dims = … stands in the field itself)",
            path=f"{where}.params",
        )
    if isinstance(part, SparseField) and part.storage == "seismic":
        raise PlanError(
            "engines fill rank_features and sparse_vector fields, not SEISMIC ones; leave storage out",
            path=f"{where}.storage",
        )
    if isinstance(part, DenseField) and part.element_type not in ("float", "bfloat16"):
        raise PlanError(
            f'the endpoint makes floats, so element_type = "{part.element_type}" can\'t be filled; leave it '
            "out and choose a quantization",
            path=f"{where}.element_type",
        )


def _validate(plan: IndexPlan) -> None:
    seen: dict[str, str] = {}
    for section in ("text", "dense", "sparse", "filter"):
        for name in getattr(plan, section):
            if not name or name.startswith(("_", ".")) or name.endswith(".") or ".." in name:
                raise PlanError(
                    "a field name can't be empty, start with _ or ., or end with .", path=f"{section}.{name}"
                )
            if name in seen:
                raise PlanError(f"the name is already a {seen[name]} field", path=f"{section}.{name}")
            seen[name] = section
    for name, text in plan.text.items():
        if not text.boost >= 0:
            raise PlanError(f"boost must be ≥ 0, not {text.boost}", path=f"text.{name}.boost")
    for name, part in plan.vector_fields():
        section = "dense" if isinstance(part, DenseField) else "sparse"
        where = f"{section}.{name}"
        family = part.encoder.partition(":")[0]
        if family == "engine":
            _validate_engine(name, part, where)
        if family == "given":
            if part.source:
                raise PlanError(
                    "given vectors have no source fields; leave source out", path=f"{where}.source"
                )
            if isinstance(part, DenseField) and part.dims is None:
                raise PlanError("given vectors need dims", path=f"{where}.dims")
        elif not part.source and not part.chunked:
            raise PlanError(f'encoder {part.encoder!r} needs source = ["field", …]', path=f"{where}.source")
        if part.chunked and plan.chunk is None:
            raise PlanError("chunked = true needs a [chunk] section", path=f"{where}.chunked")
        if isinstance(part, DenseField):
            if part.dims is not None and part.dims < 1:
                raise PlanError(f"dims must be ≥ 1, not {part.dims}", path=f"{where}.dims")
            if part.scale is not None and (part.element_type != "byte" or not 0 < part.scale < 1e9):
                raise PlanError(
                    'scale is of element_type = "byte" fields, and above 0', path=f"{where}.scale"
                )
            if part.oversample is not None and not 1 <= part.oversample <= 10:
                raise PlanError("oversample must lie between 1 and 10", path=f"{where}.oversample")
            if family == "lexical":
                raise PlanError("lexical is a sparse encoder; put it under [sparse]", path=f"{where}.encoder")
    if plan.chunk is not None:
        if plan.chunk.max_tokens < 8:
            raise PlanError("max_tokens must be ≥ 8", path="chunk.max_tokens")
        if not 0 <= plan.chunk.overlap_tokens < plan.chunk.max_tokens:
            raise PlanError("overlap_tokens must be ≥ 0 and below max_tokens", path="chunk.overlap_tokens")
        if plan.chunk.path in seen:
            raise PlanError(
                f"{plan.chunk.path!r} is already a {seen[plan.chunk.path]} field", path="chunk.path"
            )
    if plan.index.shards < 1:
        raise PlanError("shards must be ≥ 1", path="index.shards")
