"""OpenSearch's models (ml-commons): pipelines, queries and the field that does all by itself. Pure.

Bodies follow the documentation of the processors ``text_embedding`` and ``sparse_encoding``, of the queries
``neural`` and ``neural_sparse``, and of the field type ``semantic`` (from 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from esembed.capabilities import Capabilities
from esembed.dialect import inference as shared
from esembed.dialect.inference import VectorType, need_fields
from esembed.errors import OptionsError, QueryError

__all__ = ["inference_gap", "ingest_pipeline", "neural", "neural_sparse", "semantic_field"]


def inference_gap(capabilities: Capabilities) -> tuple[str, str] | None:
    """What is missing for computing vectors here, and the remedy; None where nothing is."""
    missing = "the ml-commons plugin (opensearch-ml) is not installed here"
    return shared.inference_gap(capabilities, missing)


def ingest_pipeline(
    kind: VectorType,
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
        OptionsError: no fields; pruning of dense vectors, or half of it.
    """
    need_fields(fields)
    if kind == "dense" and prune_type is not None:
        raise OptionsError("pruning is for sparse encodings; remove prune_type", option="prune_type")
    if (prune_type in (None, "none")) != (prune_ratio is None):
        raise OptionsError(
            "prune_type and prune_ratio go together: give both or neither", option="prune_ratio"
        )
    processor: dict[str, Any] = {"model_id": model_id, "field_map": dict(fields)}
    if prune_type is not None:
        processor["prune_type"] = prune_type
    if prune_ratio is not None:
        processor["prune_ratio"] = prune_ratio
    pipeline: dict[str, Any] = {"description": description} if description else {}
    pipeline["processors"] = [{"text_embedding" if kind == "dense" else "sparse_encoding": processor}]
    return pipeline


def neural(
    field: str, text: str, model_id: str, *, k: int, filter: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``neural`` query: the model encodes the text, k nearest documents come back."""
    body: dict[str, Any] = {"query_text": text, "model_id": model_id, "k": k}
    if filter is not None:
        body["filter"] = filter
    return {"neural": {field: body}}


def neural_sparse(
    field: str,
    text: str,
    *,
    model_id: str | None = None,
    analyzer: Literal["bert-uncased", "mbert-uncased"] | None = None,
) -> dict[str, Any]:
    """The ``neural_sparse`` query by text: through a model (or tokenizer model), or through a built-in
    analyzer with token weights (doc-only models; analyzers from 3.0).

    Raises:
        QueryError: both or neither of *model_id* and *analyzer*.
    """
    if (model_id is None) == (analyzer is None):
        raise QueryError("neural_sparse by text takes either model_id or analyzer", field="model_id")
    body: dict[str, Any] = {"query_text": text}
    body |= {"model_id": model_id} if model_id is not None else {"analyzer": str(analyzer)}
    return {"neural_sparse": {field: body}}


def semantic_field(
    model_id: str, *, search_model_id: str | None = None, chunking: bool = False
) -> dict[str, Any]:
    """A ``semantic`` field (3.1 and later): the engine adds the vector field and fills it."""
    field: dict[str, Any] = {"type": "semantic", "model_id": model_id}
    if search_model_id is not None:
        field["search_model_id"] = search_model_id
    if chunking:
        field["chunking"] = True
    return field
