"""Vectors that the engine computes itself: mappings' pipelines and queries that name an endpoint. Pure.

A plan's ``engine:ENDPOINT`` field is an ordinary vector field. The text that is to be encoded travels in a
hidden field; an ingest pipeline, the index's default one, hands it to the endpoint, puts the vector into the
field, and removes the text. Queries carry the text and the endpoint's name.

Bodies follow the published specifications:

- Elasticsearch's (elastic/elasticsearch-specification: ``SemanticTextProperty``, ``InferenceProcessor``,
  ``SparseVectorQuery``, ``QueryVectorBuilder``), and its reference pages "Semantic text field type",
  "Inference processor", "Sparse vector query", "Knn query";
- OpenSearch's documentation of the processors ``text_embedding`` and ``sparse_encoding``, of the queries
  ``neural`` and ``neural_sparse``, and of the field type ``semantic`` (from 3.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from esembed.capabilities import Capabilities
from esembed.dialect.meta import TEXT_PREFIX
from esembed.errors import PlanError
from esembed.plan import IndexPlan

__all__ = [
    "PIPELINE_PREFIX",
    "elasticsearch_ingest_pipeline",
    "elasticsearch_knn",
    "elasticsearch_semantic_match",
    "elasticsearch_semantic_text",
    "elasticsearch_sparse_vector",
    "inference_gap",
    "opensearch_ingest_pipeline",
    "opensearch_neural",
    "opensearch_neural_sparse",
    "opensearch_semantic_field",
    "plan_pipeline",
]

Kind = Literal["dense", "sparse"]

PIPELINE_PREFIX = "esembed-inference-"
"""Pipelines are named by the hash of what they do, so that equal plans share one."""


def plan_pipeline(plan: IndexPlan, kind: str) -> tuple[str, dict[str, Any]] | None:
    """Name and body of the ingest pipeline that fills a plan's ``engine:`` fields; None without such fields.

    Args:
        kind: ``elasticsearch`` or ``opensearch``.
    """
    by_endpoint: dict[tuple[Kind, str], dict[str, str]] = {}
    for name, part in plan.vector_fields():
        endpoint = part.endpoint
        if endpoint is not None:
            section: Kind = "dense" if name in plan.dense else "sparse"
            by_endpoint.setdefault((section, endpoint), {})[f"{TEXT_PREFIX}{name}"] = name
    if not by_endpoint:
        return None
    processors: list[Any] = []
    for (section, endpoint), fields in by_endpoint.items():
        if kind == "elasticsearch":
            made = elasticsearch_ingest_pipeline(endpoint, fields, ignore_missing=True)
        else:
            made = opensearch_ingest_pipeline(section, endpoint, fields)
        processors += made["processors"]
    texts = sorted(text for fields in by_endpoint.values() for text in fields)
    processors.append({"remove": {"field": texts, "ignore_missing": True}})
    body = {"description": "esembed: vectors that the engine computes", "processors": processors}
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return f"{PIPELINE_PREFIX}{digest}", body


def inference_gap(capabilities: Capabilities) -> tuple[str, str] | None:
    """What the engine lacks for computing vectors itself, and the way out; None where it can, or where it
    couldn't be asked."""
    if capabilities.inference or any(line.startswith("inference") for line in capabilities.unknown):
        return None
    if capabilities.kind == "elasticsearch":
        if capabilities.distribution == "reduced":
            missing = "this reduced build has no machine-learning modules"
        else:
            missing = (
                f"inference endpoints need an Enterprise or trial licence, this one is {capabilities.license}"
            )
    else:
        missing = "the ml-commons plugin (opensearch-ml) is not installed here"
    return missing, (
        "name an encoder that runs on your side (hf:…, splade:…, minilm), or an engine that has inference"
    )


# -- Elasticsearch ---------------------------------------------------------------------------------


def elasticsearch_semantic_text(
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


def elasticsearch_semantic_match(field: str, text: str, *, boost: float = 1.0) -> dict[str, Any]:
    """The ``semantic`` query on a ``semantic_text`` field."""
    body: dict[str, Any] = {"field": field, "query": text}
    if boost != 1.0:
        body["boost"] = boost
    return {"semantic": body}


def elasticsearch_ingest_pipeline(
    endpoint: str, fields: Mapping[str, str], *, description: str = "", ignore_missing: bool = False
) -> dict[str, Any]:
    """An ingest pipeline whose ``inference`` processor fills vector fields of one's own mapping.

    Args:
        fields: source field → vector field (``sparse_vector`` or ``dense_vector``).
        ignore_missing: leave documents without a source field as they are (8.15 and later), else refuse them.

    Raises:
        PlanError: no fields.
    """
    _need(fields)
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


def elasticsearch_sparse_vector(
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


def elasticsearch_knn(
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
        PlanError: fewer candidates than k.
    """
    if not 1 <= k <= num_candidates:
        raise PlanError(f"num_candidates ({num_candidates}) must be at least k ({k}), and k at least 1")
    body: dict[str, Any] = {
        "field": field,
        "query_vector_builder": {"text_embedding": {"model_id": endpoint, "model_text": text}},
        "k": k,
        "num_candidates": num_candidates,
    }
    if filter is not None:
        body["filter"] = filter
    return body


# -- OpenSearch ------------------------------------------------------------------------------------


def opensearch_ingest_pipeline(
    kind: Kind,
    model_id: str,
    fields: Mapping[str, str],
    *,
    prune_type: Literal["max_ratio", "alpha_mass", "top_k", "abs_value", "none"] | None = None,
    prune_ratio: float | None = None,
    description: str = "",
) -> dict[str, Any]:
    """An ingest pipeline with ``text_embedding`` (dense) or ``sparse_encoding`` (sparse).

    Args:
        fields: source field → ``knn_vector`` or ``rank_features`` field.
        prune_type, prune_ratio: of ``sparse_encoding``, both or neither.

    Raises:
        PlanError: no fields; pruning of dense vectors, or half of it.
    """
    _need(fields)
    if kind == "dense" and prune_type is not None:
        raise PlanError("pruning is for sparse encodings; remove prune_type")
    if (prune_type in (None, "none")) != (prune_ratio is None):
        raise PlanError("prune_type and prune_ratio go together: give both or neither")
    processor: dict[str, Any] = {"model_id": model_id, "field_map": dict(fields)}
    if prune_type is not None:
        processor["prune_type"] = prune_type
    if prune_ratio is not None:
        processor["prune_ratio"] = prune_ratio
    pipeline: dict[str, Any] = {"description": description} if description else {}
    pipeline["processors"] = [{"text_embedding" if kind == "dense" else "sparse_encoding": processor}]
    return pipeline


def opensearch_neural(
    field: str, text: str, model_id: str, *, k: int, filter: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``neural`` query: the model encodes the text, k nearest documents come back."""
    body: dict[str, Any] = {"query_text": text, "model_id": model_id, "k": k}
    if filter is not None:
        body["filter"] = filter
    return {"neural": {field: body}}


def opensearch_neural_sparse(
    field: str,
    text: str,
    *,
    model_id: str | None = None,
    analyzer: Literal["bert-uncased", "mbert-uncased"] | None = None,
) -> dict[str, Any]:
    """The ``neural_sparse`` query by text: through a model (or tokenizer model), or through a built-in
    analyzer with token weights (doc-only models; analyzers from 3.0).

    Raises:
        PlanError: both or neither of *model_id* and *analyzer*.
    """
    if (model_id is None) == (analyzer is None):
        raise PlanError("neural_sparse by text takes either model_id or analyzer")
    body: dict[str, Any] = {"query_text": text}
    body |= {"model_id": model_id} if model_id is not None else {"analyzer": str(analyzer)}
    return {"neural_sparse": {field: body}}


def opensearch_semantic_field(
    model_id: str, *, search_model_id: str | None = None, chunking: bool = False
) -> dict[str, Any]:
    """A ``semantic`` field (3.1 and later): the engine adds the vector field and fills it."""
    field: dict[str, Any] = {"type": "semantic", "model_id": model_id}
    if search_model_id is not None:
        field["search_model_id"] = search_model_id
    if chunking:
        field["chunking"] = True
    return field


def _need(fields: Mapping[str, str]) -> None:
    if not fields:
        raise PlanError("an inference pipeline needs at least one source field and its vector field")
