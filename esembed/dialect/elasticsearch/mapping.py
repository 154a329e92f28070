"""Vector fields of a plan as Elasticsearch maps them.

``dense_vector``: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector;
``sparse_vector``: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/sparse-vector.
"""

from __future__ import annotations

from typing import Any

import msgspec

from esembed.capabilities import Version
from esembed.dialect.mapping_common import Draft, byte_scale, known_dims
from esembed.plan import DenseField, SparseField

__all__ = ["UPGRADES", "can_upgrade", "dense", "sparse"]

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

QUANTIZED = frozenset(
    {"int8_hnsw", "int4_hnsw", "bbq_hnsw", "int8_flat", "int4_flat", "bbq_flat", "bbq_disk"}
)


def can_upgrade(old: str, new: str) -> bool:
    """Whether the mapping of a field may go from *old* to *new* without a new index."""
    return old in UPGRADES and new in UPGRADES and UPGRADES.index(old) < UPGRADES.index(new)


def dense(name: str, part: DenseField, draft: Draft) -> tuple[dict[str, Any], DenseField]:
    """The field's mapping, and the field with ``auto`` and dims resolved. Gaps go to the draft."""
    where = f"dense.{name}"
    capabilities = draft.capabilities
    dims = known_dims(name, part)
    part = byte_scale(where, part, dims, draft)
    quantization = part.quantization
    if quantization == "auto":
        quantization = "hnsw" if part.element_type in ("byte", "bit") else "int8_hnsw"
        draft.notes.append(f'{where}: quantization "auto" is "{quantization}"')
    _check(where, part, dims, quantization, draft)
    options: dict[str, Any] = {"type": quantization}
    if quantization.endswith("hnsw"):
        if part.m is not None:
            options["m"] = part.m
        if part.ef_construction is not None:
            options["ef_construction"] = part.ef_construction
    elif part.m is not None or part.ef_construction is not None:
        draft.gap(
            where,
            f"m and ef_construction are of the HNSW graph, which {quantization} doesn't have",
            "leave them out, or take an _hnsw quantization",
        )
    if part.oversample is not None and quantization in QUANTIZED:
        if capabilities.mapping_rescore:
            options["rescore_vector"] = {"oversample": part.oversample}
        elif capabilities.rescore_vector:
            draft.notes.append(f"{where}: oversample is sent with each query (the mapping can't hold it)")
        else:
            draft.gap(
                f"{where}.oversample", "rescoring came with Elasticsearch 8.18", "update, or leave it out"
            )
    body: dict[str, Any] = {
        "type": "dense_vector",
        "dims": dims,
        "similarity": part.similarity,
        "index_options": options,
    }
    if part.element_type != "float":
        body["element_type"] = part.element_type
    return body, msgspec.structs.replace(part, dims=dims, quantization=quantization)


def _check(where: str, part: DenseField, dims: int, quantization: str, draft: Draft) -> None:
    capabilities = draft.capabilities
    if dims > capabilities.max_dims:
        draft.gap(
            f"{where}.dims",
            f"{dims} dims, Elasticsearch takes {capabilities.max_dims}",
            "shorten with params.dims (Matryoshka models), or take another encoder",
        )
    if part.element_type not in capabilities.element_types:
        draft.gap(
            f"{where}.element_type",
            f"{part.element_type!r} came with Elasticsearch 9.3, this is {capabilities.version}",
            'write element_type = "float", or update',
        )
    if quantization not in capabilities.quantizations:
        if quantization == "bbq_disk" and capabilities.version >= Version(9, 2):
            draft.gap(
                f"{where}.quantization",
                f"bbq_disk needs an Enterprise or trial licence, this one is {capabilities.license}",
                'write quantization = "bbq_hnsw", or change the licence',
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
    if quantization.startswith("bbq") and dims < 64:
        draft.gap(
            f"{where}.quantization", f"{quantization} needs at least 64 dims, not {dims}", 'write "int8_hnsw"'
        )
    if quantization.startswith("int4") and dims % 2:
        draft.gap(
            f"{where}.quantization",
            f"{quantization} needs an even number of dims, not {dims}",
            'write "int8_hnsw", or make dims even',
        )
    if part.element_type in ("byte", "bit") and quantization not in ("hnsw", "flat"):
        draft.gap(
            f"{where}.quantization",
            f"{part.element_type} vectors are not quantized further",
            'write quantization = "hnsw" or "flat"',
        )
    if part.element_type == "bit":
        if part.similarity != "l2_norm":
            draft.gap(
                f"{where}.similarity", "bit vectors are compared by Hamming distance", 'write "l2_norm"'
            )
        if dims % 8:
            draft.gap(f"{where}.dims", f"bit vectors need a multiple of 8 dims, not {dims}", "change dims")
    if part.model_id is not None:
        draft.gap(f"{where}.model_id", "trained k-NN models are OpenSearch's", "leave it out")
    if part.oversample is not None and quantization not in QUANTIZED:
        draft.gap(
            f"{where}.oversample",
            f"{quantization} keeps the full vectors, so there is nothing to rescore",
            "leave oversample out, or quantize",
        )


def sparse(name: str, part: SparseField, draft: Draft) -> tuple[dict[str, Any], SparseField]:
    """The field's mapping, and the field with its storage resolved. Gaps go to the draft."""
    where = f"sparse.{name}"
    capabilities = draft.capabilities
    storage = "sparse_vector" if part.storage == "auto" else part.storage
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
        # From 9.1 on the engine prunes query tokens by default, by thresholds made for ELSER.
        body["index_options"] = {"prune": part.prune}
    return body, msgspec.structs.replace(part, storage=storage)
