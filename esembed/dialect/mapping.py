"""A plan to what creates the index: settings and mappings. Pure.

:class:`MappingCompiler` is what the engines share; ``elasticsearch/mapping.py`` and ``opensearch/mapping.py``
say how vectors are mapped there, and what of a live index they read back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.documents import Storage
from esembed.dialect.inference import VectorType, ingest_pipeline
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.quantize_vectors import unit_scale
from esembed.errors import PlanError, UnsupportedFeatureError
from esembed.plan import (
    DenseField,
    FilterField,
    IndexOptions,
    IndexPlan,
    LoadOptions,
    Quantization,
    SparseField,
    TextField,
)
from esembed.plan.checks import check_new
from esembed.query.nodes import thaw

__all__ = [
    "SEARCH_SETTINGS",
    "CompiledMapping",
    "ExistingField",
    "MappingCompiler",
    "MappingDraft",
    "compile_mapping",
    "known_dims",
    "set_path",
]

KNOWN_DIMS = {"minilm": 384}
"""Encoders whose dims are known without loading them."""

KEYWORD_LIMIT = 8191
"""Characters that surely fit into Lucene's longest term (32,766 bytes): ``ignore_above`` of sub-fields,
whose whole text stays searchable in the field itself."""


SEARCH_SETTINGS = {
    "filter_heuristic": ("elasticsearch", "Elasticsearch 9.1", "dense_vector.hnsw_filter_heuristic"),
    "early_termination": ("elasticsearch", "Elasticsearch 9.2", "dense_vector.hnsw_enable_early_termination"),
    "memory_optimized_search": (
        "opensearch",
        "OpenSearch 3.1 with the k-NN native libraries",
        "knn.memory_optimized_search",
    ),
}
"""Options of a plan's ``[index]`` about searching vectors → the engine, what they need there, the setting."""


@dataclass(frozen=True, slots=True)
class CompiledMapping:
    """A plan, compiled.

    Attributes:
        body: ``{"settings": …, "mappings": …}``, ready for ``PUT /NAME``; ``_meta`` is not in it.
        resolved: the plan with every ``auto`` value, storage and dims as compiled.
        notes: what was resolved or has to be known, one line each.
        pipelines: name → body of the ingest pipeline that fills ``engine:`` fields; the index's settings name
            it, so it is to be there before the index.
    """

    body: dict[str, Any]
    resolved: IndexPlan
    notes: tuple[str, ...]
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class MappingDraft:
    """A mapping in the making.

    Attributes:
        properties: the mapping's properties, objects nested by path.
        settings: index settings, flat under ``index``.
        analyzers: those that the plan defines.
        gaps: what the engine lacks, each with its remedy.
        notes: what was resolved or has to be known.
    """

    properties: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    analyzers: Collection[str] = ()
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def gap(self, path: str, missing: str, remedy: str) -> None:
        """Remember what is missing; the compiler raises all of them together."""
        self.gaps.append(f"{path}: {missing}; {remedy}")


@dataclass(frozen=True, slots=True)
class ExistingField:
    """A plan's field beside one that an index has already.

    Attributes:
        field: the plan's field, with quantization and storage as the index has them.
        problems: how the two contradict each other, one line each.
        note: what was found.
    """

    field: DenseField | SparseField
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class MappingCompiler(ABC):
    """Compiles plans for one engine, and reads fields of its live mappings back.

    Attributes:
        capabilities: what the engine can do.
        dense_type: the type of a dense vector field.
        storages: a sparse field's type in a mapping → the storage that it is.
    """

    capabilities: Capabilities

    dense_type: ClassVar[str]
    storages: ClassVar[Mapping[str, Storage]]

    # -- a plan to a mapping -----------------------------------------------------------------------

    def compile(self, plan: IndexPlan) -> CompiledMapping:
        """What creates the index that *plan* describes.

        Explicit values are never changed: what the engine can't do is a gap.

        Raises:
            UnsupportedFeatureError: lists every gap with its remedy.
            PlanError: dims that only a loaded encoder could tell, a field inside another field.
        """
        draft = MappingDraft()
        if plan.analysis:
            draft.settings["analysis"] = thaw(plan.analysis)
            draft.analyzers = frozenset(plan.analysis.get("analyzer", ()))
        for name, text in plan.text.items():
            set_path(draft.properties, name, self.text(name, text, draft))
        for name, filter_field in plan.filter.items():
            set_path(draft.properties, name, self.filter(name, filter_field, draft))
        self._hidden_fields(plan, draft)
        draft.settings["number_of_shards"] = plan.index.shards
        # A value that doesn't fit is to be refused, not kept where no search finds it.
        draft.settings["mapping"] = {"ignore_malformed": False}
        if plan.index.replicas is not None:
            draft.settings["number_of_replicas"] = plan.index.replicas
        if plan.index.refresh_interval is not None:
            draft.settings["refresh_interval"] = plan.index.refresh_interval
        self._search_settings(plan.index, draft)
        dense, sparse = {}, {}
        for name, dense_field in plan.dense.items():
            body, dense[name] = self.dense(name, dense_field, draft)
            set_path(draft.properties, plan.field_path(name), body)
        for name, sparse_field in plan.sparse.items():
            body, sparse[name] = self.sparse(name, sparse_field, draft)
            set_path(draft.properties, plan.field_path(name), body)
        pipelines = self._pipelines(plan, draft)
        if draft.gaps:
            raise UnsupportedFeatureError(
                draft.gaps, profile=self.capabilities.label, unknown=self.capabilities.unknown
            )
        return CompiledMapping(
            body={
                "settings": {"index": draft.settings},
                "mappings": {
                    "dynamic": plan.index.dynamic,
                    # Both are written though they are the engines' defaults, since an index template of the
                    # cluster's owners may say otherwise. OpenSearch takes this object in place of the
                    # template's. Elasticsearch merges them: "enabled" is this one's then, and lists are
                    # joined, so what a template excludes stays excluded (seen on 9.5.3 with empty lists and
                    # with others). That is found in the live mapping, see dialect/source_rules.py.
                    "_source": {"enabled": True},
                    "properties": draft.properties,
                },
            },
            resolved=plan.replace(dense=dense, sparse=sparse),
            notes=tuple(draft.notes),
            pipelines=pipelines,
        )

    def _search_settings(self, options: IndexOptions, draft: MappingDraft) -> None:
        """How vectors are searched, where the index decides it."""
        for option, (engine, since, setting) in SEARCH_SETTINGS.items():
            value = getattr(options, option)
            if value is None:
                continue
            if option in self.capabilities.index_options:
                draft.settings[setting] = value
                continue
            here = self.capabilities.engine == engine
            draft.gap(
                f"index.{option}",
                f"it needs {since}, this is {self.capabilities.label}" if here else f"it is {since}'s alone",
                "leave it out",
            )

    def text(self, name: str, field: TextField, draft: MappingDraft) -> dict[str, Any]:
        """A text field's mapping. BM25's parameters become a similarity of the index, one for each distinct
        pair."""
        out: dict[str, Any] = {"type": "text", "analyzer": field.analyzer}
        if field.search_analyzer is not None:
            out["search_analyzer"] = field.search_analyzer
        for option in ("analyzer", "search_analyzer"):
            wanted = getattr(field, option)
            if wanted is None or wanted in self.capabilities.analyzers or wanted in draft.analyzers:
                continue
            # A key without the privilege for _nodes can't be told; the engine refuses what it lacks.
            if any(line.startswith("analyzers") for line in self.capabilities.unknown):
                draft.notes.append(f"text.{name}.{option}: whether {wanted!r} exists could not be asked for")
                continue
            remedy = f'write {option} = "standard"'
            if self.capabilities.distribution == "reduced":
                remedy += ", or use a full distribution (with the module analysis-common)"
            elif wanted in {"icu_analyzer", "kuromoji", "nori", "smartcn", "polish", "ukrainian"}:
                remedy += ", or install the engine's analysis plugin for it"
            draft.gap(f"text.{name}.{option}", f"there is no analyzer {wanted!r} here", remedy)
        if field.k1 is not None or field.b is not None:
            similarity = {
                "type": "BM25",
                # Lucene's defaults, written out, so that fields with the same two numbers share one
                # similarity.
                "k1": 1.2 if field.k1 is None else field.k1,
                "b": 0.75 if field.b is None else field.b,
            }
            # Engines configure BM25 as a similarity of the index, which fields name; equal pairs share one.
            known = draft.settings.setdefault("similarity", {})
            key = next((key for key, value in known.items() if value == similarity), None)
            if key is None:
                key = f"esembed_bm25_{len(known) + 1}"
                known[key] = similarity
            out["similarity"] = key
        if field.keyword:
            out["fields"] = {"keyword": {"type": "keyword", "ignore_above": KEYWORD_LIMIT}}
        return out

    def filter(self, name: str, field: FilterField, draft: MappingDraft) -> dict[str, Any]:
        """The mapping of a field to filter, sort, facet or boost by."""
        out: dict[str, Any] = {"type": field.type}
        if field.format is not None:
            out["format"] = field.format
        if field.normalizer is not None:
            out["normalizer"] = field.normalizer
        if field.fields:
            inner = {key: self.filter(f"{name}.{key}", one, draft) for key, one in field.fields.items()}
            out["properties"] = inner
        if field.type == "rank_feature":
            if not self.capabilities.rank_feature:
                draft.gap(
                    f"filter.{name}.type",
                    "there is no rank_feature field here",
                    "use a full distribution (with the module mapper-extras), or a numeric type",
                )
            if not field.positive_score_impact:
                out["positive_score_impact"] = False
        return out

    @abstractmethod
    def dense(self, name: str, field: DenseField, draft: MappingDraft) -> tuple[dict[str, Any], DenseField]:
        """A dense field's mapping, and the field with ``auto`` and dims resolved. Gaps go to the draft."""

    @abstractmethod
    def sparse(
        self, name: str, field: SparseField, draft: MappingDraft
    ) -> tuple[dict[str, Any], SparseField]:
        """A sparse field's mapping, and the field with its storage resolved. Gaps go to the draft."""

    def _hidden_fields(self, plan: IndexPlan, draft: MappingDraft) -> None:
        """The document's hash, and the object or documents that chunks are."""
        # Stored apart: a re-run reads it for every record, and out of _source it costs four times as much
        # where the engine must put the vectors back into that first.
        draft.properties[HASH_FIELD] = {"type": "keyword", "index": False, "store": True}
        if plan.chunk is None:
            return
        # A chunk's text is kept to be shown; what is searched are the document's own text fields.
        inside = {"text": {"type": "text", "index": False}}
        if plan.chunk.store == "nested":
            set_path(draft.properties, plan.chunk.path, {"type": "nested", "properties": inside})
        else:
            set_path(draft.properties, plan.chunk.path, {"properties": inside})
            draft.properties[PARENT_FIELD] = {"type": "keyword"}

    def _scaled(self, where: str, field: DenseField, dims: int, draft: MappingDraft) -> DenseField:
        """The field with the scale by which an encoder's floats become bytes; others as they are."""
        if field.element_type != "byte" or field.scale is not None or field.precomputed:
            return field
        if field.similarity not in ("cosine", "dot_product"):
            draft.gap(
                f"{where}.scale",
                f"for {field.similarity} it can't be found from the dims",
                "write scale = … (esembed advise prints the one of your vectors)",
            )
            return field
        scale = unit_scale(dims)
        draft.notes.append(
            f"{where}: scale is {scale:g}, for vectors of length 1; esembed advise finds the one of your "
            "vectors"
        )
        return msgspec.structs.replace(field, scale=scale)

    def _note_oversample(self, where: str, draft: MappingDraft) -> None:
        """Say where the field's oversample goes, if not into the mapping."""
        if self.capabilities.query_rescore:
            draft.notes.append(f"{where}: oversample is sent with each query (the mapping can't hold it)")

    # -- vectors that the engine computes ----------------------------------------------------------

    def pipeline(self, plan: IndexPlan) -> tuple[str, dict[str, Any]] | None:
        """Name and body of the ingest pipeline that fills the plan's ``engine:`` fields, or None."""
        return ingest_pipeline(plan, self.inference_processors)

    @abstractmethod
    def inference_gap(self) -> tuple[str, str] | None:
        """What is missing for computing vectors here, and the remedy; None where nothing is."""

    @abstractmethod
    def inference_processors(
        self, vectors: VectorType, endpoint: str, fields: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """What an ingest pipeline runs to fill vector fields.

        Args:
            fields: text field → vector field.
        """

    def _pipelines(self, plan: IndexPlan, draft: MappingDraft) -> dict[str, dict[str, Any]]:
        """The pipeline that computes vectors in the engine; the index runs it by default."""
        made = self.pipeline(plan)
        if made is None:
            return {}
        gap = self.inference_gap()
        for name, vector_field in plan.vector_fields():
            endpoint = vector_field.endpoint
            if endpoint is None:
                continue
            where = f"{'dense' if name in plan.dense else 'sparse'}.{name}"
            if gap is not None:
                draft.gap(f"{where}.encoder", *gap)
            if isinstance(vector_field, SparseField):
                self._check_inferred(where, vector_field, draft)
            draft.notes.append(
                f"{where}: the engine computes the vectors ({endpoint!r}); nothing here can tell when the "
                "model behind that name becomes another one (no canaries)"
            )
        name, body = made
        draft.settings["default_pipeline"] = name
        return {name: body}

    def _check_inferred(self, where: str, field: SparseField, draft: MappingDraft) -> None:
        """Whether the engine can search a field that it fills itself; a gap goes to the draft."""
        return

    # -- an index that is there --------------------------------------------------------------------

    def can_change_in_place(self, old: DenseField, new: DenseField) -> bool:
        """Whether the live field may become the new one by ``PUT _mapping``, without a new index."""
        return old == new

    dynamic_settings: ClassVar[frozenset[str]] = frozenset()
    """Those of :data:`SEARCH_SETTINGS` that an open index can change."""

    def changed_settings(self, old: IndexOptions, new: IndexOptions) -> dict[str, Any] | None:
        """What ``PUT _settings`` makes of the first the second, null where it has none; None where that needs
        a new index."""
        changes: dict[str, Any] = {}
        for option in msgspec.structs.fields(IndexOptions):
            value = getattr(new, option.name)
            if value == getattr(old, option.name):
                continue
            if option.name not in self.dynamic_settings:
                return None
            changes[SEARCH_SETTINGS[option.name][2]] = value
        return changes

    load_setting_names: ClassVar[tuple[str, ...]] = ()
    """Settings that :meth:`load_settings` may change here besides refresh interval and replicas."""

    def load_settings(self, load: LoadOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Index settings for the time of a bulk load, and notes on options that do nothing here."""
        settings: dict[str, Any] = {}
        if not load.refresh:
            settings["refresh_interval"] = "-1"
        if load.replicas is not None:
            settings["number_of_replicas"] = load.replicas
        return settings, ()

    def read_field(
        self, name: str, field: DenseField | SparseField, live: Mapping[str, Any]
    ) -> ExistingField:
        """The plan's field fitted to the live one of that name.

        Args:
            live: the field's live mapping.
        """
        if isinstance(field, DenseField):
            return self._read_dense(name, field, live)
        return self._read_sparse(name, field, live)

    def _read_dense(self, name: str, field: DenseField, live: Mapping[str, Any]) -> ExistingField:
        where = f"dense.{name}"
        if live.get("type") != self.dense_type:
            problem = (
                f"{where}: it is {live.get('type')} in the index, and a dense field is {self.dense_type} here"
            )
            return ExistingField(field, (problem,))
        problems = []
        if live.get("index") is False:
            problems.append(
                f"{where}: the index holds its vectors without indexing them (index: false), so a search "
                "can't find by them; read the index into one made from the plan"
            )
        found = self.live_options(field, live)
        quantization = self._live_quantization(field, live)
        if field.quantization != "auto":
            same = self.live_form(live) == self.planned_form(field, field.quantization)
            found["quantization"] = field.quantization if same else quantization
        for option in ("dims", "element_type", "similarity", "quantization", "m", "ef_construction"):
            planned, there = getattr(field, option), found.get(option)
            if option in ("m", "ef_construction") and planned is None:
                continue
            if there is not None and planned != there:
                problems.append(f"{where}.{option}: {planned!r} in the plan, {there!r} in the index")
        disk = found.get("disk") or {}
        for option, planned in msgspec.to_builtins(field.disk).items():
            there = disk.get(option, False if isinstance(planned, bool) else None)  # shown where it is true
            if there is not None and planned != there:
                problems.append(f"{where}.disk.{option}: {planned!r} in the plan, {there!r} in the index")
        if field.quantization == "auto":
            field = msgspec.structs.replace(field, quantization=quantization or "hnsw")
        note = (
            f"{where}: the index has it, {field.dims} dims, {field.similarity}, "
            f"{quantization or 'quantized its own way'}; its vectors are searched as they are"
        )
        # Where mappings hold the oversample, no query sends it.
        if self.capabilities.mapping_rescore and field.oversample not in (None, found.get("oversample")):
            note += (
                f"; its mapping lacks the plan's oversample ({field.oversample:g}), so give queries theirs"
            )
        return ExistingField(field, tuple(problems), note)

    def _live_quantization(self, field: DenseField, live: Mapping[str, Any]) -> str | None:
        """The plan's word for how the live field is quantized, or None where it has none."""
        form = self.live_form(live)
        for word in get_args(Quantization):
            if word != "auto" and form == self.planned_form(field, word):
                return str(word)
        return None

    @abstractmethod
    def live_options(self, field: DenseField, live: Mapping[str, Any]) -> dict[str, Any]:
        """Dims, element type, similarity, graph parameters, oversample and ``disk`` of a live dense field, by
        the plan's names; None for what it doesn't say.

        Args:
            field: the plan's field, whose similarity is taken where the live one has the same space.
        """

    @abstractmethod
    def live_form(self, live: Mapping[str, Any]) -> tuple[Any, ...]:
        """What tells one quantization from another in a live dense field's mapping."""

    @abstractmethod
    def planned_form(self, field: DenseField, quantization: str) -> tuple[Any, ...]:
        """The same of what *field* would be compiled to with this quantization."""

    def _read_sparse(self, name: str, field: SparseField, live: Mapping[str, Any]) -> ExistingField:
        where, live_type = f"sparse.{name}", str(live.get("type"))
        storage = self.storages.get(live_type)
        if storage is None:
            problem = (
                f"{where}: it is {live_type} in the index, and a sparse field is {' or '.join(self.storages)}"
            )
            return ExistingField(field, (problem,))
        problems: tuple[str, ...] = ()
        if field.storage not in ("auto", storage):
            problems = (f"{where}.storage: {field.storage!r} in the plan, {storage!r} in the index",)
        note = f"{where}: the index has it, as {storage}; its features are searched as they are"
        return ExistingField(msgspec.structs.replace(field, storage=storage), problems, note)


def compile_mapping(plan: IndexPlan, capabilities: Capabilities, *, new: bool = True) -> CompiledMapping:
    """What creates the index that *plan* describes, on an engine with these capabilities.

    Args:
        new: an index is to be made of it. False for one that is there, whose fields may have names that
            aren't made anymore.

    Raises:
        UnsupportedFeatureError, PlanError: as :meth:`MappingCompiler.compile`.
    """
    if new:
        check_new(plan)
    return dialect_for(capabilities).mapping.compile(plan)


def known_dims(name: str, field: DenseField) -> int:
    """The field's dims, where they are written down or known by the encoder's name.

    Raises:
        PlanError: only the loaded encoder could tell.
    """
    dims = field.dims or field.params.dims or KNOWN_DIMS.get(field.encoder)
    if dims is None:
        raise PlanError(
            f"not known without loading {field.encoder!r}: write dims = … (Index.create finds it by itself)",
            path=f"dense.{name}.dims",
        )
    return dims


def set_path(properties: dict[str, Any], path: str, mapping: Mapping[str, Any]) -> None:
    """Put a field's mapping under its dotted path, objects around it.

    Raises:
        PlanError: a field lies inside another one that is no object.
    """
    *outer, leaf = path.split(".")
    here = properties
    for name in outer:
        inner = here.setdefault(name, {"properties": {}})
        if inner.get("type", "object") not in ("object", "nested"):
            raise PlanError(f"the field {path!r} lies inside {name!r}, which is a {inner['type']} field")
        here = inner.setdefault("properties", {})
    if leaf in here:
        raise PlanError(f"the field {path!r} is also an object that holds other fields; rename one")
    here[leaf] = dict(mapping)
