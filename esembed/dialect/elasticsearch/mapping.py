"""Vector fields of a plan as Elasticsearch maps them.

``dense_vector``: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector;
``sparse_vector``: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/sparse-vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from esembed.capabilities import Version
from esembed.dialect.auto_quantization import auto_quantization
from esembed.dialect.documents import Storage
from esembed.dialect.elasticsearch.documents import ElasticsearchDocuments
from esembed.dialect.elasticsearch.inference import inference_gap, ingest_pipeline
from esembed.dialect.inference import VectorType
from esembed.dialect.mapping import MappingCompiler, MappingDraft, known_dims
from esembed.plan import DenseField, LoadOptions, SparseField

__all__ = ["ElasticsearchMapping"]

UPGRADES = (
    "flat",
    "int8_flat",
    "int4_flat",
    "bbq_flat",
    "hnsw",
    "int8_hnsw",
    "int4_hnsw",
    "bbq_hnsw",
)
"""Elasticsearch changes a field's quantization in place along this order, forwards only; segments keep
the old form until they are merged."""

CHANGEABLE = ("quantization", "oversample", "m", "ef_construction", "disk")
"""What ``PUT _mapping`` may change of a dense field that upgrades; all else needs a new index."""

FIXED_ON_DISK = ("precondition", "auto_calibrate")
"""What of ``disk`` can't be changed once the field is there (tried on 9.5.3: the others can)."""

DISK_FORMS = {
    "on_disk_rescore": ("int8_hnsw", "int4_hnsw", "bbq_hnsw", "bbq_disk"),
    "flat_index_threshold": ("hnsw", "int8_hnsw", "int4_hnsw", "bbq_hnsw", "bbq_disk"),
}
"""The quantizations that an option of ``disk`` is for; the others are for ``bbq_disk`` alone."""

QUANTIZED = frozenset(
    {"int8_hnsw", "int4_hnsw", "bbq_hnsw", "int8_flat", "int4_flat", "bbq_flat", "bbq_disk"}
)


class ElasticsearchMapping(MappingCompiler):
    """Compiles plans for Elasticsearch."""

    dense_type: ClassVar[str] = "dense_vector"
    storages: ClassVar[Mapping[str, Storage]] = {
        "rank_features": "rank_features",
        "sparse_vector": "sparse_vector",
    }

    # -- a plan to a mapping -----------------------------------------------------------------------

    def dense(self, name: str, field: DenseField, draft: MappingDraft) -> tuple[dict[str, Any], DenseField]:
        """A dense field's mapping, and the field with ``auto`` and dims resolved. Gaps go to the draft."""
        where = f"dense.{name}"
        dims = known_dims(name, field)
        field = self._scaled(where, field, dims, draft)
        quantization = auto_quantization(field, draft.notes, where)
        self._check(where, field, dims, quantization, draft)
        options: dict[str, Any] = {"type": quantization}
        if quantization.endswith("hnsw"):
            if field.m is not None:
                options["m"] = field.m
            if field.ef_construction is not None:
                options["ef_construction"] = field.ef_construction
        elif field.m is not None or field.ef_construction is not None:
            draft.gap(
                where,
                f"m and ef_construction are of the HNSW graph, which {quantization} doesn't have",
                "leave them out, or take an _hnsw quantization",
            )
        if field.oversample is not None and quantization in QUANTIZED:
            if self.capabilities.mapping_rescore:
                options["rescore_vector"] = {"oversample": field.oversample}
            elif not self.capabilities.rescore_vector:
                draft.gap(
                    f"{where}.oversample", "rescoring came with Elasticsearch 8.18", "update, or leave it out"
                )
            self._note_oversample(where, draft)
        options |= self._disk(where, field, quantization, draft)
        body: dict[str, Any] = {
            "type": "dense_vector",
            "dims": dims,
            "similarity": field.similarity,
            "index_options": options,
        }
        if field.element_type != "float":
            body["element_type"] = field.element_type
        return body, msgspec.structs.replace(field, dims=dims, quantization=quantization)

    def _disk(self, where: str, field: DenseField, quantization: str, draft: MappingDraft) -> dict[str, Any]:
        """The options of ``disk`` that the plan sets."""
        options: dict[str, Any] = msgspec.to_builtins(field.disk)
        for option in options:
            forms = DISK_FORMS.get(option, ("bbq_disk",))
            if option not in self.capabilities.disk_options:
                draft.gap(
                    f"{where}.disk.{option}",
                    f"this is Elasticsearch {self.capabilities.version}, which has no {option}",
                    "leave it out, or update",
                )
            elif quantization not in forms:
                draft.gap(
                    f"{where}.disk.{option}",
                    f"it is of {', '.join(forms)}, and the field is {quantization}",
                    'leave it out, or write quantization = "bbq_disk"',
                )
        if quantization == "bbq_disk" and not self.capabilities.paid:
            draft.notes.append(
                f"{where}: bbq_disk is of the Enterprise license; 9.2 doesn't ask for it, and from 9.3 on no "
                "new index is written without it"
            )
        return options

    def _check(
        self, where: str, field: DenseField, dims: int, quantization: str, draft: MappingDraft
    ) -> None:
        capabilities = self.capabilities
        if dims > capabilities.max_dims:
            draft.gap(
                f"{where}.dims",
                f"{dims} dims, Elasticsearch takes {capabilities.max_dims}",
                "shorten with params.dims (Matryoshka models), or take another encoder",
            )
        if field.element_type not in capabilities.element_types:
            draft.gap(
                f"{where}.element_type",
                f"{field.element_type!r} came with Elasticsearch 9.3, this is {capabilities.version}",
                'write element_type = "float", or update',
            )
        if quantization not in capabilities.quantizations:
            if quantization == "bbq_disk" and capabilities.version >= Version(9, 2):
                draft.gap(
                    f"{where}.quantization",
                    "bbq_disk is written by the module diskbbq, which this build lacks"
                    if capabilities.paid
                    else f"bbq_disk needs an Enterprise or trial license, this one is {capabilities.license}",
                    'write quantization = "bbq_hnsw", or '
                    + ("use a full distribution" if capabilities.paid else "change the license"),
                )
            elif quantization.startswith("bbq"):
                since = "9.2" if quantization == "bbq_disk" else "8.16"
                draft.gap(
                    f"{where}.quantization",
                    f"{quantization} came with Elasticsearch {since}, this is {capabilities.version}",
                    'write quantization = "int8_hnsw", or update',
                )
            else:
                draft.gap(
                    f"{where}.quantization",
                    f"{quantization} is OpenSearch's",
                    'write quantization = "auto" or one of hnsw, int8_hnsw, int4_hnsw, bbq_hnsw',
                )
        # bbq_disk takes any dims (tried on 9.2.0 and 9.5.3).
        if quantization in ("bbq_hnsw", "bbq_flat") and dims < 64:
            draft.gap(
                f"{where}.quantization",
                f"{quantization} needs at least 64 dims, not {dims}",
                'write "int8_hnsw"',
            )
        if quantization.startswith("int4") and dims % 2:
            draft.gap(
                f"{where}.quantization",
                f"{quantization} needs an even number of dims, not {dims}",
                'write "int8_hnsw", or make dims even',
            )
        if field.element_type in ("byte", "bit") and quantization not in ("hnsw", "flat"):
            draft.gap(
                f"{where}.quantization",
                f"{field.element_type} vectors are not quantized further",
                'write quantization = "hnsw" or "flat"',
            )
        if field.element_type == "bit":
            # Elasticsearch's own default for bits, and the only one it takes.
            if field.similarity != "l2_norm":
                draft.gap(
                    f"{where}.similarity", "bit vectors are compared by Hamming distance", 'write "l2_norm"'
                )
            if dims % 8:
                draft.gap(
                    f"{where}.dims", f"bit vectors need a multiple of 8 dims, not {dims}", "change dims"
                )
        if field.model_id is not None:
            draft.gap(f"{where}.model_id", "trained k-NN models are OpenSearch's", "leave it out")
        if field.oversample is not None and quantization not in QUANTIZED:
            draft.gap(
                f"{where}.oversample",
                f"{quantization} keeps the full vectors, so there is nothing to rescore",
                "leave oversample out, or quantize",
            )

    def sparse(
        self, name: str, field: SparseField, draft: MappingDraft
    ) -> tuple[dict[str, Any], SparseField]:
        """A sparse field's mapping, and the field with its storage resolved. Gaps go to the draft."""
        where = f"sparse.{name}"
        capabilities = self.capabilities
        storage = ElasticsearchDocuments(capabilities).sparse_storage(field)
        if storage == "seismic":
            draft.gap(f"{where}.storage", "SEISMIC is OpenSearch's", 'write storage = "sparse_vector"')
        elif storage not in capabilities.sparse_storages:
            draft.gap(
                f"{where}.storage",
                f"there is no {storage} field here",
                'write storage = "sparse_vector", or use a full distribution (with the module mapper-extras)',
            )
        body: dict[str, Any] = {"type": storage}
        if storage == "sparse_vector" and capabilities.sparse_index_options:
            # From 9.1 (and 8.19) on the engine prunes query tokens by default, by thresholds made for ELSER.
            body["index_options"] = {"prune": field.prune}
        return body, msgspec.structs.replace(field, storage=storage)

    # -- vectors that the engine computes ----------------------------------------------------------

    def inference_gap(self) -> tuple[str, str] | None:
        """What is missing for computing vectors here, and the remedy; None where nothing is."""
        return inference_gap(self.capabilities)

    def inference_processors(
        self, vectors: VectorType, endpoint: str, fields: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """One ``inference`` processor: the endpoint knows by itself what kind of vectors it makes."""
        processors: list[dict[str, Any]] = ingest_pipeline(endpoint, fields, ignore_missing=True)[
            "processors"
        ]
        return processors

    def _check_inferred(self, where: str, field: SparseField, draft: MappingDraft) -> None:
        if field.storage == "rank_features":
            draft.gap(
                f"{where}.storage", "an endpoint is searched in sparse_vector fields only", "leave it out"
            )

    # -- an index that is there --------------------------------------------------------------------

    def can_change_in_place(self, old: DenseField, new: DenseField) -> bool:
        """Whether the live field may become the new one by ``PUT _mapping``, without a new index."""
        if old.quantization != new.quantization:
            known = old.quantization in UPGRADES and new.quantization in UPGRADES
            if not known or UPGRADES.index(old.quantization) > UPGRADES.index(new.quantization):
                return False
        if any(getattr(old.disk, name) != getattr(new.disk, name) for name in FIXED_ON_DISK):
            return False
        kept = {name: getattr(old, name) for name in CHANGEABLE}
        return msgspec.structs.replace(new, **kept) == old

    dynamic_settings: ClassVar[frozenset[str]] = frozenset({"filter_heuristic", "early_termination"})

    def load_settings(self, load: LoadOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Index settings for the time of a bulk load, and notes on options that do nothing here."""
        settings, notes = super().load_settings(load)
        if load.graph_threshold is not None:
            notes = (*notes, "load.graph_threshold is a setting of OpenSearch; it does nothing here")
        return settings, notes

    def live_options(self, field: DenseField, live: Mapping[str, Any]) -> dict[str, Any]:
        """Dims, element type, similarity and graph parameters of a live dense field, by the plan's names."""
        element = live.get("element_type", "float")
        options = live.get("index_options")
        options = options if isinstance(options, Mapping) else {}  # a text field's are a word
        return {
            "dims": live.get("dims"),
            "element_type": element,
            # What Elasticsearch takes where the mapping says nothing; it leaves its defaults out of what it
            # shows.
            "similarity": str(live.get("similarity") or ("l2_norm" if element == "bit" else "cosine")),
            "m": options.get("m"),
            "ef_construction": options.get("ef_construction"),
            "oversample": (options.get("rescore_vector") or {}).get("oversample"),
            "disk": options,
        }

    def live_form(self, live: Mapping[str, Any]) -> tuple[Any, ...]:
        """What tells one quantization from another in a live dense field's mapping."""
        options = live.get("index_options")
        return (options.get("type") if isinstance(options, Mapping) else None,)

    def planned_form(self, field: DenseField, quantization: str) -> tuple[Any, ...]:
        """The same of what *field* would be compiled to with this quantization."""
        return (quantization,)
