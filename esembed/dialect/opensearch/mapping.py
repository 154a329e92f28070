"""Vector fields of a plan as OpenSearch maps them.

``knn_vector``: https://docs.opensearch.org/latest/mappings/supported-field-types/knn-vector and
…/knn-methods-engines; SEISMIC: https://docs.opensearch.org/latest/vector-search/ai-search/neural-sparse-seismic.
A request that needs missing native libraries would end the node, so each one is refused here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from esembed.capabilities import Version
from esembed.dialect.mapping_common import Draft, byte_scale, known_dims
from esembed.dialect.quantize import confidence_interval
from esembed.plan import DenseField, SparseField

__all__ = ["SPACES", "dense", "method", "sparse"]

SPACES = {
    "cosine": "cosinesimil",
    "dot_product": "innerproduct",
    "max_inner_product": "innerproduct",
    "l2_norm": "l2",
}

NATIVE_WAY_OUT = (
    'write quantization = "int8_hnsw" (or "auto"), or use an OpenSearch with the k-NN native libraries '
    "(the official image, a managed service)"
)
TRAINED = frozenset({"faiss_pq", "faiss_ivf"})


def dense(name: str, part: DenseField, draft: Draft) -> tuple[dict[str, Any], DenseField]:
    """The field's mapping, and the field with ``auto`` and dims resolved. Gaps go to the draft."""
    where = f"dense.{name}"
    dims = known_dims(name, part)
    part = byte_scale(where, part, dims, draft)
    quantization = part.quantization
    if quantization == "auto":
        quantization = "hnsw" if part.element_type in ("byte", "bit") else "int8_hnsw"
        draft.notes.append(f'{where}: quantization "auto" is "{quantization}"')
    _check(where, part, dims, quantization, draft)
    if part.oversample is not None:
        draft.notes.append(f"{where}: oversample is sent with each query (the mapping can't hold it)")
    if part.similarity == "dot_product":
        draft.notes.append(f"{where}: OpenSearch doesn't check that vectors for dot_product have length 1")
    draft.settings["knn"] = True
    resolved = msgspec.structs.replace(part, dims=dims, quantization=quantization)
    return method(where, resolved, dims, draft), resolved


def method(where: str, part: DenseField, dims: int, draft: Draft) -> dict[str, Any]:
    """The mapping of a field whose dims and quantization are settled, whatever this engine can do."""
    quantization = part.quantization
    space = SPACES[part.similarity]
    if quantization in TRAINED:
        # dimension, space and method are the trained model's.
        return {"type": "knn_vector", "model_id": part.model_id}
    graph: dict[str, Any] = {}
    if part.m is not None:
        graph["m"] = part.m
    if part.ef_construction is not None:
        graph["ef_construction"] = part.ef_construction
    body: dict[str, Any] = {"type": "knn_vector", "dimension": dims, "space_type": space}

    def hnsw(engine: str, encoder: dict[str, Any] | None = None) -> dict[str, Any]:
        parameters = dict(graph)
        if encoder is not None:
            parameters["encoder"] = encoder
        return {"name": "hnsw", "engine": engine, **({"parameters": parameters} if parameters else {})}

    if part.element_type == "bit":
        return {**body, "space_type": "hamming", "data_type": "binary", "method": hnsw("faiss")}
    if part.element_type == "byte":
        engine = "faiss" if quantization == "faiss_hnsw" else "lucene"
        return {**body, "data_type": "byte", "method": hnsw(engine)}
    if quantization == "hnsw":
        return {**body, "method": hnsw("lucene")}
    if quantization == "int8_hnsw":
        draft.notes.append(f"{where}: int8_hnsw is Lucene's 7-bit scalar quantization here")
        # Left out, 3.6.0 clips to about the middle nine tenths of all values: recall@10 of MiniLM vectors
        # was .904, with the interval that the documentation calls its default .985.
        parameters = {"bits": 7, "confidence_interval": confidence_interval(dims)}
        return {**body, "method": hnsw("lucene", {"name": "sq", "parameters": parameters})}
    if quantization == "bbq_hnsw" and draft.capabilities.version >= Version(3, 6):
        draft.notes.append(f"{where}: bbq_hnsw is Lucene's 1-bit scalar quantization here")
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
        draft.notes.append(f"{where}: {quantization} is Faiss's {level} compression on disk here")
    body |= {"mode": "on_disk", "compression_level": level}
    if level == "4x":
        return {**body, "method": hnsw("lucene")}
    return {**body, "method": hnsw("faiss")} if graph else body


def _check(where: str, part: DenseField, dims: int, quantization: str, draft: Draft) -> None:
    capabilities = draft.capabilities
    if dims > capabilities.max_dims:
        draft.gap(f"{where}.dims", f"{dims} dims, OpenSearch takes {capabilities.max_dims}", "shorten them")
    if not capabilities.quantizations:
        draft.gap(where, "the k-NN plugin is not installed", "install opensearch-knn")
        return
    if part.element_type not in capabilities.element_types:
        reason = (
            "bit vectors need Faiss, whose native libraries are missing here"
            if part.element_type == "bit"
            else f"OpenSearch has no {part.element_type} vectors"
        )
        draft.gap(f"{where}.element_type", reason, 'write element_type = "float" or "byte"')
    if part.element_type == "bit" and (dims % 8 or part.similarity != "l2_norm"):
        draft.gap(
            where,
            "bit vectors need a multiple of 8 dims and are compared by Hamming distance",
            'change dims, write similarity = "l2_norm"',
        )
    if part.element_type in ("byte", "bit") and quantization not in ("hnsw", "faiss_hnsw"):
        draft.gap(
            f"{where}.quantization",
            f"{part.element_type} vectors are not quantized further",
            'write quantization = "hnsw"',
        )
    if quantization not in capabilities.quantizations:
        _quantization_gap(where, quantization, draft)
    elif quantization in TRAINED and part.model_id is None:
        draft.gap(
            f"{where}.model_id",
            f"{quantization} needs a trained model",
            "train one (POST _plugins/_knn/models/NAME/_train) and write model_id = …",
        )
    if part.model_id is not None and quantization not in TRAINED:
        draft.gap(f"{where}.model_id", f"{quantization} is not trained", "leave model_id out")
    if quantization.endswith("flat") and (part.m is not None or part.ef_construction is not None):
        draft.gap(where, "m and ef_construction are of the HNSW graph", "leave them out")
    if quantization == "bbq_hnsw" and dims < 64:
        draft.gap(
            f"{where}.quantization", f"bbq_hnsw needs at least 64 dims, not {dims}", 'write "int8_hnsw"'
        )
    if part.oversample is not None and quantization in ("hnsw", "flat", "faiss_hnsw"):
        draft.gap(
            f"{where}.oversample",
            f"{quantization} keeps the full vectors, so there is nothing to rescore",
            "leave oversample out, or quantize",
        )


def _quantization_gap(where: str, quantization: str, draft: Draft) -> None:
    capabilities = draft.capabilities
    if quantization in ("int8_flat", "int4_flat", "bbq_flat", "bbq_disk"):
        draft.gap(f"{where}.quantization", f"OpenSearch has no {quantization}", 'write "auto" or "int8_hnsw"')
    elif quantization == "flat" and capabilities.version < Version(3, 6):
        draft.gap(
            f"{where}.quantization", "flat came with OpenSearch 3.6", 'write quantization = "hnsw", or update'
        )
    else:
        draft.gap(
            f"{where}.quantization",
            f"{quantization} needs the k-NN native libraries, which this OpenSearch doesn't have (a request "
            "that needs them would end the node)",
            NATIVE_WAY_OUT,
        )


def sparse(name: str, part: SparseField, draft: Draft) -> tuple[dict[str, Any], SparseField]:
    """The field's mapping, and the field with its storage resolved. Gaps go to the draft."""
    where = f"sparse.{name}"
    capabilities = draft.capabilities
    storage = "rank_features" if part.storage == "auto" else part.storage
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
    if part.prune:
        draft.notes.append(f"{where}: prune is Elasticsearch's and does nothing here")
    resolved = msgspec.structs.replace(part, storage=storage)
    if storage != "seismic":
        return {"type": "rank_features"}, resolved
    draft.settings["sparse"] = True
    parameters = msgspec.to_builtins(part.seismic)
    method: dict[str, Any] = {"name": "seismic"}
    if parameters:
        method["parameters"] = parameters
    return {"type": "sparse_vector", "method": method}, resolved
