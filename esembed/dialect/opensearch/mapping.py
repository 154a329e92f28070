"""Vector fields of a plan as OpenSearch maps them.

``knn_vector``: https://docs.opensearch.org/latest/mappings/supported-field-types/knn-vector and
…/knn-methods-engines; SEISMIC: https://docs.opensearch.org/latest/vector-search/ai-search/neural-sparse-seismic.
A request that needs missing native libraries would end the node, so each one is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from esembed.capabilities import Version
from esembed.dialect.auto_quantization import auto_quantization
from esembed.dialect.documents import Storage
from esembed.dialect.inference import VectorType
from esembed.dialect.mapping import MappingCompiler, MappingDraft, known_dims
from esembed.dialect.opensearch.documents import OpenSearchDocuments
from esembed.dialect.opensearch.inference import inference_gap, ingest_pipeline
from esembed.dialect.opensearch.scores import SPACE_TYPES
from esembed.dialect.quantize_vectors import confidence_interval
from esembed.plan import DenseField, DiskOptions, LoadOptions, SparseField
from esembed.plan.fields import UNQUANTIZED

__all__ = ["OpenSearchMapping", "is_faiss"]

NATIVE_REMEDY = (
    'write quantization = "int8_hnsw" (or "auto"), or use an OpenSearch with the k-NN native libraries '
    "(the official image, a managed service)"
)
TRAINED = frozenset({"faiss_pq", "faiss_ivf"})
_LUCENE = frozenset({"auto", "hnsw", "int8_hnsw", "on_disk_4x", "flat"})
SINCE = {"flat": Version(3, 6), "on_disk_1x": Version(3, 1)}
"""Quantizations that are younger than the oldest OpenSearch that is supported."""

GRAPH_THRESHOLD = "knn.advanced.approximate_threshold"
"""Segments with fewer vectors get no graph while it is set."""


def is_faiss(field: DenseField) -> bool:
    """Whether Faiss searches this field, as far as its plan tells (``auto`` may be either: no)."""
    return field.element_type == "bit" or field.quantization not in _LUCENE


class OpenSearchMapping(MappingCompiler):
    """Compiles plans for OpenSearch."""

    dense_type: ClassVar[str] = "knn_vector"
    # OpenSearch's type sparse_vector is SEISMIC.
    storages: ClassVar[Mapping[str, Storage]] = {
        "rank_features": "rank_features",
        "sparse_vector": "seismic",
    }

    # -- a plan to a mapping -----------------------------------------------------------------------

    def dense(self, name: str, field: DenseField, draft: MappingDraft) -> tuple[dict[str, Any], DenseField]:
        """A dense field's mapping, and the field with ``auto`` and dims resolved. Gaps go to the draft."""
        where = f"dense.{name}"
        dims = known_dims(name, field)
        field = self._scaled(where, field, dims, draft)
        quantization = auto_quantization(field, draft.notes, where)
        self._check(where, field, dims, quantization, draft)
        if field.oversample is not None:
            self._note_oversample(where, draft)
        if field.similarity == "dot_product":
            draft.notes.append(
                f"{where}: OpenSearch doesn't check that vectors for dot_product have length 1"
            )
        # Fixed when the index is created; without it a knn_vector has no graph to be found by.
        draft.settings["knn"] = True
        resolved = msgspec.structs.replace(field, dims=dims, quantization=quantization)
        return self.method(where, resolved, dims, draft.notes), resolved

    def method(self, where: str, field: DenseField, dims: int, notes: list[str]) -> dict[str, Any]:
        """The mapping of a field whose dims and quantization are settled, whatever this engine can do."""
        quantization = field.quantization
        space = SPACE_TYPES[field.similarity]
        if quantization in TRAINED:
            # dimension, space and method are the trained model's.
            return {"type": "knn_vector", "model_id": field.model_id}
        graph: dict[str, Any] = {}
        if field.m is not None:
            graph["m"] = field.m
        if field.ef_construction is not None:
            graph["ef_construction"] = field.ef_construction
        body: dict[str, Any] = {"type": "knn_vector", "dimension": dims, "space_type": space}

        def hnsw(engine: str, encoder: dict[str, Any] | None = None) -> dict[str, Any]:
            parameters = dict(graph)
            if encoder is not None:
                parameters["encoder"] = encoder
            return {"name": "hnsw", "engine": engine, **({"parameters": parameters} if parameters else {})}

        if field.element_type == "bit":
            return {**body, "space_type": "hamming", "data_type": "binary", "method": hnsw("faiss")}
        if field.element_type == "byte":
            engine = "faiss" if quantization == "faiss_hnsw" else "lucene"
            return {**body, "data_type": "byte", "method": hnsw(engine)}
        if quantization == "hnsw":
            return {**body, "method": hnsw("lucene")}
        if quantization == "int8_hnsw":
            notes.append(f"{where}: int8_hnsw is Lucene's 7-bit scalar quantization here")
            # Left out, 3.6.0 clips to about the middle nine tenths of all values: recall@10 of MiniLM vectors
            # was .904, with the interval that the documentation calls its default .985.
            parameters = {"bits": 7, "confidence_interval": confidence_interval(dims)}
            return {**body, "method": hnsw("lucene", {"name": "sq", "parameters": parameters})}
        # From 3.6 on Lucene has one bit of its own (in the SIMD library, so native code is needed all the
        # same); before, only Faiss's on-disk mode goes that far.
        if quantization == "bbq_hnsw" and self.capabilities.lucene_one_bit:
            notes.append(f"{where}: bbq_hnsw is Lucene's 1-bit scalar quantization here")
            return {**body, "method": hnsw("lucene", {"name": "sq", "parameters": {"bits": 1}})}
        if quantization == "flat":
            return {**body, "method": {"name": "flat", "engine": "lucene"}}
        if quantization == "faiss_hnsw":
            return {**body, "method": hnsw("faiss")}
        if quantization == "faiss_fp16":
            return {**body, "method": hnsw("faiss", {"name": "sq", "parameters": {"type": "fp16"}})}
        if quantization == "faiss_binary":
            return {**body, "method": hnsw("faiss", {"name": "binary", "parameters": {"bits": 1}})}
        level = {"int4_hnsw": "8x", "bbq_hnsw": "32x"}.get(quantization) or quantization.rpartition("_")[2]
        if not quantization.startswith("on_disk"):
            notes.append(f"{where}: {quantization} is Faiss's {level} compression on disk here")
        body |= {"mode": "on_disk", "compression_level": level}
        # 4x is Lucene's own codes, so it runs without the native libraries. The other levels are left to the
        # engine unless the plan sets the graph, which only a method can carry.
        if level == "4x":
            return {**body, "method": hnsw("lucene")}
        return {**body, "method": hnsw("faiss")} if graph else body

    def _check(
        self, where: str, field: DenseField, dims: int, quantization: str, draft: MappingDraft
    ) -> None:
        capabilities = self.capabilities
        if dims > capabilities.max_dims:
            draft.gap(
                f"{where}.dims", f"{dims} dims, OpenSearch takes {capabilities.max_dims}", "shorten them"
            )
        # Without the plugin everything below would be a gap, too, and none of them says why.
        if not capabilities.quantizations:
            draft.gap(where, "the k-NN plugin is not installed", "install opensearch-knn")
            return
        if field.element_type not in capabilities.element_types:
            reason, remedy = (
                "bit vectors need Faiss, whose native libraries are missing here",
                'write element_type = "float" or "byte"',
            )
            if field.element_type == "bfloat16":
                reason = "OpenSearch has no bfloat16 vectors"
                remedy = 'write element_type = "float", with quantization = "faiss_fp16" for 16 bits'
            draft.gap(f"{where}.element_type", reason, remedy)
        if field.disk != DiskOptions():
            draft.gap(
                f"{where}.disk",
                "these are options of Elasticsearch",
                'leave them out; here quantization = "on_disk_1x" … "on_disk_32x" keep vectors on disk',
            )
        if field.element_type == "bit" and (dims % 8 or field.similarity != "l2_norm"):
            draft.gap(
                where,
                "bit vectors need a multiple of 8 dims and are compared by Hamming distance",
                'change dims, write similarity = "l2_norm"',
            )
        if field.element_type in ("byte", "bit") and quantization not in ("hnsw", "faiss_hnsw"):
            draft.gap(
                f"{where}.quantization",
                f"{field.element_type} vectors are not quantized further",
                'write quantization = "hnsw"',
            )
        if quantization not in capabilities.quantizations:
            self._quantization_gap(where, quantization, draft)
        elif quantization in TRAINED and field.model_id is None:
            draft.gap(
                f"{where}.model_id",
                f"{quantization} needs a trained model",
                "train one (POST _plugins/_knn/models/NAME/_train) and write model_id = …",
            )
        if field.candidates is not None and quantization in TRAINED:
            draft.gap(f"{where}.candidates", f"{quantization} has no graph", "leave candidates out")
        if field.model_id is not None and quantization not in TRAINED:
            draft.gap(f"{where}.model_id", f"{quantization} is not trained", "leave model_id out")
        if quantization.endswith("flat") and (field.m is not None or field.ef_construction is not None):
            draft.gap(where, "m and ef_construction are of the HNSW graph", "leave them out")
        if quantization == "bbq_hnsw" and dims < 64:
            draft.gap(
                f"{where}.quantization", f"bbq_hnsw needs at least 64 dims, not {dims}", 'write "int8_hnsw"'
            )
        if field.oversample is not None and quantization in UNQUANTIZED:
            draft.gap(
                f"{where}.oversample",
                f"{quantization} keeps the full vectors, so there is nothing to rescore",
                "leave oversample out, or quantize",
            )

    def _quantization_gap(self, where: str, quantization: str, draft: MappingDraft) -> None:
        capabilities = self.capabilities
        if quantization in ("int8_flat", "int4_flat", "bbq_flat", "bbq_disk"):
            draft.gap(
                f"{where}.quantization", f"OpenSearch has no {quantization}", 'write "auto" or "int8_hnsw"'
            )
        elif quantization in SINCE and capabilities.version < SINCE[quantization]:
            draft.gap(
                f"{where}.quantization",
                f"{quantization} came with OpenSearch {SINCE[quantization]}",
                'write quantization = "hnsw", or update',
            )
        else:
            draft.gap(
                f"{where}.quantization",
                f"{quantization} needs the k-NN native libraries, which this OpenSearch doesn't have (a "
                "request that needs them would end the node)",
                NATIVE_REMEDY,
            )

    def sparse(
        self, name: str, field: SparseField, draft: MappingDraft
    ) -> tuple[dict[str, Any], SparseField]:
        """A sparse field's mapping, and the field with its storage resolved. Gaps go to the draft."""
        where = f"sparse.{name}"
        capabilities = self.capabilities
        storage = OpenSearchDocuments(capabilities).sparse_storage(field)
        if storage == "sparse_vector":
            draft.gap(
                f"{where}.storage",
                "sparse_vector is Elasticsearch's",
                'write storage = "rank_features", or "seismic" for large indices',
            )
        elif storage not in capabilities.sparse_storages:
            missing = (
                "SEISMIC needs OpenSearch 3.3 and the neural-search plugin"
                if storage == "seismic"
                else "there is no rank_features field here"
            )
            draft.gap(f"{where}.storage", missing, "use another storage, or an OpenSearch that has it")
        if field.prune:
            draft.notes.append(f"{where}: prune is Elasticsearch's and does nothing here")
        resolved = msgspec.structs.replace(field, storage=storage)
        if storage != "seismic":
            return {"type": "rank_features"}, resolved
        # Fixed when the index is created, as "knn" is.
        draft.settings["sparse"] = True
        parameters = msgspec.to_builtins(field.seismic)
        method: dict[str, Any] = {"name": "seismic"}
        if parameters:
            method["parameters"] = parameters
        return {"type": "sparse_vector", "method": method}, resolved

    # -- vectors that the engine computes ----------------------------------------------------------

    def inference_gap(self) -> tuple[str, str] | None:
        """What is missing for computing vectors here, and the remedy; None where nothing is."""
        return inference_gap(self.capabilities)

    def inference_processors(
        self, vectors: VectorType, endpoint: str, fields: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """``text_embedding`` or ``sparse_encoding``: each kind of model has its own processor."""
        processors: list[dict[str, Any]] = ingest_pipeline(vectors, endpoint, fields)["processors"]
        return processors

    # -- an index that is there --------------------------------------------------------------------

    load_setting_names: ClassVar[tuple[str, ...]] = (GRAPH_THRESHOLD,)

    def load_settings(self, load: LoadOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Index settings for the time of a bulk load, and notes on options that do nothing here."""
        settings, notes = super().load_settings(load)
        if load.graph_threshold is not None:
            settings[GRAPH_THRESHOLD] = load.graph_threshold
        return settings, notes

    def live_options(self, field: DenseField, live: Mapping[str, Any]) -> dict[str, Any]:
        """Dims, element type, similarity and graph parameters of a live dense field, by the plan's names."""
        element = live.get("data_type", "float")
        parameters = (live.get("method") or {}).get("parameters") or {}
        return {
            "dims": live.get("dimension"),
            "element_type": {"binary": "bit"}.get(element, element),
            "similarity": self._similarity(field, live),
            "m": parameters.get("m"),
            "ef_construction": parameters.get("ef_construction"),
        }

    def _similarity(self, field: DenseField, live: Mapping[str, Any]) -> str | None:
        if "model_id" in live:
            return None  # the trained model's
        # Older mappings name the space inside the method; without one OpenSearch takes l2.
        space = live.get("space_type") or (live.get("method") or {}).get("space_type") or "l2"
        if space == "hamming":
            return "l2_norm"
        names = [name for name, its_space in SPACE_TYPES.items() if its_space == space]
        return field.similarity if field.similarity in names else (names or [str(space)])[0]

    def live_form(self, live: Mapping[str, Any]) -> tuple[Any, ...]:
        """What tells one quantization from another in a live dense field's mapping."""
        method = live.get("method") or {}
        if "model_id" in live or method.get("name", "hnsw") not in ("hnsw", "flat"):
            return ("trained", method.get("name"))
        if live.get("mode") == "on_disk" or live.get("compression_level"):
            # 32x is what the engine takes for on_disk without a level.
            return ("on_disk", live.get("compression_level", "32x"))
        encoder = (method.get("parameters") or {}).get("encoder") or {}
        options = encoder.get("parameters") or {}
        return (
            method.get("engine", "faiss"),
            method.get("name", "hnsw"),
            encoder.get("name"),
            options.get("bits"),
            options.get("type"),
        )

    def planned_form(self, field: DenseField, quantization: str) -> tuple[Any, ...]:
        """The same of what *field* would be compiled to with this quantization."""
        wanted = msgspec.structs.replace(field, quantization=quantization)
        return self.live_form(self.method("", wanted, field.dims or 0, []))
