"""Elasticsearch's inference endpoints: pipelines, queries and the field that does all by itself. Pure.

Bodies follow elastic/elasticsearch-specification (``SemanticTextProperty``, ``InferenceProcessor``,
``SparseVectorQuery``, ``QueryVectorBuilder``) and the reference pages "Semantic text field type",
"Inference processor", "Sparse vector query", "Knn query".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import inference as shared
from esembed.dialect.inference import need_fields
from esembed.errors import QueryError

__all__ = [
    "inference_gap",
    "ingest_pipeline",
    "knn",
    "semantic_match",
    "semantic_text",
    "sparse_vector",
]


def inference_gap(capabilities: Capabilities) -> tuple[str, str] | None:
    """What is missing for computing vectors here, and the remedy; None where nothing is."""
    missing = f"inference endpoints need an Enterprise or trial license, this one is {capabilities.license}"
    if capabilities.paid:
        missing = "inference endpoints are not there, or not visible to this key (it needs monitor)"
    if capabilities.distribution == "reduced":
        missing = "this reduced build has no machine-learning modules"
    return shared.inference_gap(capabilities, missing)


def semantic_text(
    endpoint: str, *, search_endpoint: str | None = None, chunk: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A ``semantic_text`` field: the engine chunks, encodes and maps by itself (8.15 and later).

    Args:
        search_endpoint: another endpoint for queries (``search_inference_id``).
        chunk: ``chunking_settings`` (``{"strategy": "sentence", "max_chunk_size": 250,
            "sentence_overlap": 1}``).
    """
    field: dict[str, Any] = {"type": "semantic_text", "inference_id": endpoint}
    if search_endpoint is not None:
        field["search_inference_id"] = search_endpoint
    if chunk is not None:
        field["chunking_settings"] = dict(chunk)
    return field


def semantic_match(field: str, text: str, *, boost: float = 1.0) -> dict[str, Any]:
    """The ``semantic`` query on a ``semantic_text`` field."""
    body: dict[str, Any] = {"field": field, "query": text}
    if boost != 1.0:
        body["boost"] = boost
    return {"semantic": body}


def ingest_pipeline(
    endpoint: str, fields: Mapping[str, str], *, description: str = "", ignore_missing: bool = False
) -> dict[str, Any]:
    """An ingest pipeline whose ``inference`` processor fills vector fields of one's own mapping.

    Args:
        fields: source field → vector field (``sparse_vector`` or ``dense_vector``).
        ignore_missing: leave documents without a source field as they are (8.15 and later), else refuse them.

    Raises:
        OptionsError: no fields.
    """
    need_fields(fields)
    pipeline: dict[str, Any] = {"description": description} if description else {}
    processor: dict[str, Any] = {
        "model_id": endpoint,
        "input_output": [
            {"input_field": source, "output_field": target} for source, target in fields.items()
        ],
    }
    if ignore_missing:
        processor["ignore_missing"] = True
    pipeline["processors"] = [{"inference": processor}]
    return pipeline


def sparse_vector(
    field: str, text: str, endpoint: str, *, prune: bool | None = None, boost: float = 1.0
) -> dict[str, Any]:
    """A ``sparse_vector`` query whose text the endpoint (ELSER) expands (8.15 and later).

    Args:
        prune: None leaves the engine's default, which is tuned for ELSER.
    """
    body: dict[str, Any] = {"field": field, "inference_id": endpoint, "query": text}
    if prune is not None:
        body["prune"] = prune
    if boost != 1.0:
        body["boost"] = boost
    return {"sparse_vector": body}


def knn(
    field: str,
    text: str,
    endpoint: str,
    *,
    k: int,
    num_candidates: int,
    filter: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The body of ``knn`` (top level, query or retriever) whose vector the endpoint (E5 …) computes.

    Raises:
        QueryError: fewer candidates than k.
    """
    if not 1 <= k <= num_candidates:
        raise QueryError(
            f"num_candidates ({num_candidates}) must be at least k ({k}), and k at least 1",
            field="num_candidates",
        )
    body: dict[str, Any] = {
        "field": field,
        "query_vector_builder": {"text_embedding": {"model_id": endpoint, "model_text": text}},
        "k": k,
        "num_candidates": num_candidates,
    }
    if filter is not None:
        body["filter"] = filter
    return body
