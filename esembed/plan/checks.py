"""What can't stand in a plan: fields that contradict each other."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from esembed.errors import PlanError
from esembed.plan.encoders import spec_problem
from esembed.plan.fields import (
    MAX_CANDIDATES,
    ChunkOptions,
    DenseField,
    FilterField,
    IndexOptions,
    LoadOptions,
    SparseField,
    TextField,
)
from esembed.plan.params import EncoderParams
from esembed.query.nodes import MAX_BOOST

__all__ = ["check_new", "validate"]


class Fields(Protocol):
    """What of a plan is checked here; :class:`~esembed.plan.index_plan.IndexPlan` is made of it."""

    @property
    def text(self) -> Mapping[str, TextField]: ...
    @property
    def filter(self) -> Mapping[str, FilterField]: ...
    @property
    def chunk(self) -> ChunkOptions | None: ...
    @property
    def analysis(self) -> Mapping[str, Any]: ...
    @property
    def version_field(self) -> str | None: ...
    @property
    def index(self) -> IndexOptions: ...
    @property
    def load(self) -> LoadOptions: ...
    def vector_fields(self) -> Iterator[tuple[str, DenseField | SparseField]]: ...


def _engine(name: str, field: DenseField | SparseField, where: str) -> None:
    """A field whose vectors the engine computes: what its endpoint decides can't stand in the plan."""
    section = where.partition(".")[0]
    endpoint = field.endpoint
    if not endpoint or any(c.isspace() for c in endpoint):
        raise PlanError(
            "engine: needs the name of an inference endpoint or the id of a deployed model "
            "(engine:.elser-2-elasticsearch)",
            path=f"{where}.encoder",
        )
    prefix = field.encoder.removeprefix("engine:").removesuffix(endpoint).rstrip("/")
    if prefix not in ("", section):
        raise PlanError(f"{field.encoder!r} is {prefix}, the field is {section}", path=f"{where}.encoder")
    if field.chunked:
        raise PlanError(
            "the engine encodes whole fields here: leave chunked out, or name an encoder that runs on your "
            "side",
            path=f"{where}.chunked",
        )
    if "." in name:
        raise PlanError("a field that the engine fills can't have a dot in its name", path=where)
    if field.params != EncoderParams():
        raise PlanError(
            "the endpoint decides how it encodes; leave params out (dims = … stands in the field itself)",
            path=f"{where}.params",
        )
    if isinstance(field, SparseField) and field.storage == "seismic":
        raise PlanError(
            "engines fill rank_features and sparse_vector fields, not SEISMIC ones; leave storage out",
            path=f"{where}.storage",
        )
    if isinstance(field, DenseField) and field.element_type not in ("float", "bfloat16"):
        raise PlanError(
            f'the endpoint makes floats, so element_type = "{field.element_type}" can\'t be filled; leave it '
            "out and choose a quantization",
            path=f"{where}.element_type",
        )


MAX_DIMS = 65_536
"""More than any engine's (Elasticsearch 4,096, OpenSearch 16,000): the compilers name theirs."""
MAX_GRAPH = 10_000
"""The largest ``m`` and ``ef_construction``: both are memory and time for each vector. Elasticsearch's own
limits are 512 and 3,200; OpenSearch has none that holds for all of its libraries."""
MAX_SHARDS = 1024
"""What both engines take (es.index.max_number_of_shards)."""
MAX_REPLICAS = 1024
"""More than any cluster has nodes. The engines have no limit of their own but that on all shards of a cluster
(cluster.max_shards_per_node), which they count in 32 bits: so this, times MAX_SHARDS, stays far below."""
MAX_SEGMENTS = 10_000
"""A merge to more segments than that is none."""
_INT = 2**31 - 1
"""What the engines read as an integer."""
_SEISMIC: dict[str, tuple[float, float]] = {
    "n_postings": (1, _INT),
    "cluster_ratio": (0, 1),
    "summary_prune_ratio": (0, 1),
    "approximate_threshold": (0, _INT),
    "quantization_ceiling_ingest": (0, MAX_BOOST),
    "quantization_ceiling_search": (0, MAX_BOOST),
}
_DISK: dict[str, tuple[float, float]] = {
    # As Elasticsearch 9.5.3 takes them.
    "cluster_size": (64, 65_536),
    "default_visit_percentage": (0, 100),
    "flat_index_threshold": (-1, _INT),
}
MAX_FIELDS = 1000
"""index.mapping.total_fields.limit of both engines."""
MAX_NAME = 255
"""Characters of a field's name."""
MAX_CHUNK_TOKENS = 131_072
"""More than any encoder reads at once."""
RESERVED = "esembed_"
"""What begins so is ours inside an index (``esembed_hash`` …)."""
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Joiners, which Persian and Indic words are written with; other invisible characters only mislead."""


def _within(value: float | None, least: float, most: float, where: str) -> None:
    if value is not None and not least <= value <= most:
        raise PlanError(f"it must lie between {least:.10g} and {most:.10g}, not {value}", path=where)


def check_new(plan: Fields, names: Collection[str] | None = None) -> None:
    """What can't be made anew, though an index that is there may have it: it is read, searched and filled.

    Args:
        names: only these fields' names are new; None: all of them.

    Raises:
        PlanError: a name that engines, terminals or queries read otherwise, or more than an engine takes.
    """
    fields = [
        (f"{section}.{name}", name)
        for section in ("text", "dense", "sparse", "filter")
        for name in getattr(plan, section)
    ]
    if len(fields) > MAX_FIELDS:
        raise PlanError(f"the plan has {len(fields)} fields; engines take {MAX_FIELDS} in an index")
    if plan.chunk is not None:
        fields.append(("chunk.path", plan.chunk.path))
        if plan.chunk.max_tokens > MAX_CHUNK_TOKENS:
            raise PlanError(f"max_tokens must be ≤ {MAX_CHUNK_TOKENS}", path="chunk.max_tokens")
    for name, field in plan.vector_fields():
        for option in ("m", "ef_construction") if isinstance(field, DenseField) else ():
            _within(getattr(field, option), 1, MAX_GRAPH, f"dense.{name}.{option}")
        if isinstance(field, DenseField):
            for option, bounds in _DISK.items():
                _within(getattr(field.disk, option), *bounds, f"dense.{name}.disk.{option}")
        else:
            for option, bounds in _SEISMIC.items():
                _within(getattr(field.seismic, option), *bounds, f"sparse.{name}.seismic.{option}")
    for where, name in fields:
        problem = _name_problem(name) if names is None or name in names else None
        if problem is not None:
            shown = where if where == "chunk.path" else where.partition(".")[0]
            raise PlanError(f"the field name {name!r:.100} {problem}; choose another", path=shown)


def _name_problem(name: str) -> str | None:
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters, and {MAX_NAME} are taken"
    if name.startswith(RESERVED):
        return f"begins with {RESERVED}, which esembed's own fields do"
    if any(part != part.strip() or not part for part in name.split(".")):
        return "has a blank at an end, or is empty between dots"
    for character in name:
        if character in "*^":
            return f"has {character!r}, which queries read as a pattern or a boost"
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS:
            return f"has the invisible character {character!r}"
    return None


def validate(plan: Fields) -> None:
    """Raises PlanError naming the path of what is wrong."""
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
        if not 0 <= text.boost <= MAX_BOOST:
            raise PlanError(f"boost must be ≥ 0 and finite, not {text.boost}", path=f"text.{name}.boost")
        for parameter, most in (("k1", MAX_BOOST), ("b", 1.0)):
            value = getattr(text, parameter)
            if value is not None and not 0 <= value <= most:
                raise PlanError(
                    f"{parameter} must lie between 0 and {most:.4g}, not {value}",
                    path=f"text.{name}.{parameter}",
                )
    for name, field in plan.vector_fields():
        section = "dense" if isinstance(field, DenseField) else "sparse"
        where = f"{section}.{name}"
        family = field.family
        if family == "engine":
            _engine(name, field, where)
        elif problem := spec_problem(field.encoder):
            raise PlanError(problem, path=f"{where}.encoder")
        if field.precomputed:
            if field.source:
                raise PlanError(
                    "precomputed vectors have no source fields; leave source out", path=f"{where}.source"
                )
            if isinstance(field, DenseField) and field.dims is None:
                raise PlanError("precomputed vectors need dims", path=f"{where}.dims")
        elif not field.source and not field.chunked:
            raise PlanError(f'encoder {field.encoder!r} needs source = ["field", …]', path=f"{where}.source")
        if field.chunked and plan.chunk is None:
            raise PlanError("chunked = true needs a [chunk] section", path=f"{where}.chunked")
        if isinstance(field, DenseField):
            if field.dims is not None and not 1 <= field.dims <= MAX_DIMS:
                problem = "≥ 1" if field.dims < 1 else f"≤ {MAX_DIMS}"
                raise PlanError(f"dims must be {problem}, not {field.dims}", path=f"{where}.dims")
            if field.scale is not None and (field.element_type != "byte" or not 0 < field.scale < 1e9):
                raise PlanError(
                    'scale is of element_type = "byte" fields, and above 0', path=f"{where}.scale"
                )
            if field.candidates is not None:
                _within(field.candidates.least, 1, MAX_CANDIDATES, f"{where}.candidates.least")
                for option in ("per_k", "filtered"):
                    value = getattr(field.candidates, option)
                    _within(value, 1, MAX_CANDIDATES, f"{where}.candidates.{option}")
                if field.quantization.endswith("flat"):
                    raise PlanError(
                        f"{field.quantization} compares with every vector; leave candidates out",
                        path=f"{where}.candidates",
                    )
            if field.oversample is not None and not 1 <= field.oversample <= 10:
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
    _check_analysis(plan.analysis)
    for name, filter_field in plan.filter.items():
        _check_filter(name, filter_field)
    if plan.version_field is not None:
        _check_version_field(plan, plan.version_field, seen)
    if not 1 <= plan.index.shards <= MAX_SHARDS:
        problem = "≥ 1" if plan.index.shards < 1 else f"≤ {MAX_SHARDS}, as engines take no more"
        raise PlanError(f"shards must be {problem}", path="index.shards")
    # Of an index that is there, too: each load puts these, and _meta is anybody's to write.
    _within(plan.index.replicas, 0, MAX_REPLICAS, "index.replicas")
    _within(plan.load.replicas, 0, MAX_REPLICAS, "load.replicas")
    _within(plan.load.force_merge_segments, 1, MAX_SEGMENTS, "load.force_merge_segments")
    # Two below the greatest integer is OpenSearch's own limit (approximate_threshold, 3.6).
    _within(plan.load.graph_threshold, -1, _INT - 2, "load.graph_threshold")


ANALYSIS = ("analyzer", "normalizer", "tokenizer", "filter", "char_filter")
"""What the engines keep under ``index.analysis``."""


def _check_analysis(analysis: Mapping[str, Any]) -> None:
    for section, members in analysis.items():
        where = f"analysis.{section}"
        if section not in ANALYSIS:
            raise PlanError(f"there are {', '.join(ANALYSIS)}, and no {section!r}", path="analysis")
        if not isinstance(members, Mapping):
            raise PlanError(f"takes names with a definition each, not {type(members).__name__}", path=where)
        for name, definition in members.items():
            if not isinstance(definition, Mapping) or not definition:
                raise PlanError(
                    'takes the engine\'s own definition, as in {type = "custom", tokenizer = "standard"}',
                    path=f"{where}.{name}",
                )


def _check_filter(name: str, field: FilterField, outer: str = "") -> None:
    where = f"filter.{outer}{name}"
    if field.normalizer is not None and field.type != "keyword":
        raise PlanError(f"a {field.type} has no normalizer; keyword fields do", path=f"{where}.normalizer")
    if bool(field.fields) is not (field.type == "nested"):
        raise PlanError(
            'nested has fields = …, and no other type does (type = "nested")', path=f"{where}.fields"
        )
    for key, inner in field.fields.items():
        if outer or inner.type in ("nested", "rank_feature"):
            raise PlanError(f"{inner.type} can't lie in nested objects", path=f"{where}.fields.{key}")
        if not key or key.startswith("_") or "." in key:
            raise PlanError("a name can't be empty, have a dot or start with _", path=f"{where}.fields")
        _check_filter(key, inner, f"{name}.fields.")


VERSION_TYPES = ("integer", "long", "date", "keyword")
"""Types of filter fields that whole numbers, or times, are written into."""


def _check_version_field(plan: Fields, name: str, seen: Mapping[str, str]) -> None:
    where = "version_field"
    if not name or name.startswith(RESERVED):
        raise PlanError(f"{name!r} can't be a field of records", path=where)
    field = plan.filter.get(name)
    if field is None and name in seen:
        raise PlanError(f"{name!r} is a {seen[name]} field, and a version is a number or a time", path=where)
    if field is not None and field.type not in VERSION_TYPES:
        raise PlanError(
            f"{name!r} is of type {field.type}, and a version is a whole number or a time "
            f"({', '.join(VERSION_TYPES)})",
            path=where,
        )
    if field is None and plan.index.dynamic == "strict":
        # A migration reads it from the documents, so it must be in them.
        raise PlanError(f'{name!r} must be a filter field where dynamic = "strict"', path=where)
