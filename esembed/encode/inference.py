"""``engine:ENDPOINT``: the engine itself computes the vectors, at ingest and at search.

Elasticsearch: an inference endpoint (``.elser-2-elasticsearch``, ``.multilingual-e5-small-elasticsearch``,
or one made with ``PUT _inference/…``). OpenSearch: the id of a model deployed through ml-commons. No
vector passes through this process; the functions below only say what the mapping, the ingest pipeline
and the query look like. Bodies follow the published specifications:

- Elasticsearch's specification (elastic/elasticsearch-specification: ``SemanticTextProperty``,
  ``InferenceProcessor``, ``SparseVectorQuery``, ``QueryVectorBuilder``), and its reference pages
  "Semantic text field type", "Inference processor", "Sparse vector query", "Knn query";
- OpenSearch's documentation of the processors ``text_embedding`` and ``sparse_encoding``, of the
  queries ``neural`` and ``neural_sparse``, and of the field type ``semantic`` (from 3.1).

None was run to its end: no engine here has a machine-learning module. What was checked: OpenSearch 3.6.0
stores the ingest pipelines and parses the queries and the field up to the missing model; Elasticsearch
9.5.3 parses the ``sparse_vector`` query likewise; the other Elasticsearch bodies are checked against the
classes that the official client generates from the specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from esembed.encode.base import EncoderInfo, EncoderParams, EncodeStats, RuntimeOptions
from esembed.errors import EncoderError, PlanError

__all__ = [
    "EngineEncoder",
    "elasticsearch_ingest_pipeline",
    "elasticsearch_knn",
    "elasticsearch_semantic_match",
    "elasticsearch_semantic_text",
    "elasticsearch_sparse_vector",
    "load",
    "opensearch_ingest_pipeline",
    "opensearch_neural",
    "opensearch_neural_sparse",
    "opensearch_semantic_field",
]

Kind = Literal["dense", "sparse"]


class EngineEncoder:
    """Stands in a plan where the engine encodes. It holds the endpoint's name and encodes nothing.

    Args:
        endpoint: the inference endpoint (Elasticsearch) or model id (OpenSearch).
        kind: what the endpoint returns.
        dims: dimensions of a dense endpoint, where the mapping must say.
    """

    def __init__(self, endpoint: str, *, kind: Kind = "dense", dims: int | None = None) -> None:
        if not endpoint or any(c.isspace() for c in endpoint):
            raise EncoderError(
                "engine: needs the name of an inference endpoint or the id of a deployed model "
                "(engine:.elser-2-elasticsearch)",
                spec=f"engine:{endpoint}",
            )
        self.endpoint = endpoint
        self._kind: Kind = kind
        self._dims = dims
        self._stats = EncodeStats()

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(
            spec=f"engine:{self.endpoint}",
            kind=self._kind,
            dims=self._dims if self._kind == "dense" else None,
            model=self.endpoint,
            runtime={"backend": "engine"},
        )

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    def encode_document(self, texts: Sequence[str]) -> NoReturn:
        """Raises EncoderError: the engine encodes when the document arrives."""
        self._refuse("document's text is sent as it is and its ingest pipeline or semantic field")

    def encode_query(self, texts: Sequence[str]) -> NoReturn:
        """Raises EncoderError: the engine encodes when the query arrives."""
        self._refuse("query's text is sent as it is and the query clause")

    def _refuse(self, what: str) -> NoReturn:
        raise EncoderError(
            f"engine:{self.endpoint} computes its vectors inside the engine: the {what} names the endpoint. "
            "To have vectors here (for evaluation, say), use the same model as hf:… or openai:…",
            spec=f"engine:{self.endpoint}",
        )

    def close(self) -> None:
        """Nothing to release."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> EngineEncoder:
    """``ENDPOINT``, or ``sparse/ENDPOINT`` and ``dense/ENDPOINT`` where the name doesn't tell.

    A name with ``elser`` or ``sparse`` in it is sparse, any other dense.

    Raises:
        EncoderError: no endpoint, or params other than dims: the endpoint has its own.
    """
    del runtime
    spec = f"engine:{rest}"
    if params != EncoderParams(dims=params.dims):
        raise EncoderError(
            "the endpoint decides how it encodes; in the plan only dims can stand beside it", spec=spec
        )
    prefix, slash, name = rest.partition("/")
    if slash and prefix in ("sparse", "dense"):
        kind: Kind = "sparse" if prefix == "sparse" else "dense"
        return EngineEncoder(name, kind=kind, dims=params.dims)
    lower = rest.lower()
    return EngineEncoder(
        rest, kind="sparse" if "elser" in lower or "sparse" in lower else "dense", dims=params.dims
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
    endpoint: str, fields: Mapping[str, str], *, description: str = ""
) -> dict[str, Any]:
    """An ingest pipeline whose ``inference`` processor fills vector fields of one's own mapping.

    Args:
        fields: source field → vector field (``sparse_vector`` or ``dense_vector``).

    Raises:
        PlanError: no fields.
    """
    _need(fields)
    pipeline: dict[str, Any] = {"description": description} if description else {}
    pipeline["processors"] = [
        {
            "inference": {
                "model_id": endpoint,
                "input_output": [
                    {"input_field": source, "output_field": target} for source, target in fields.items()
                ],
            }
        }
    ]
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
    body = {"query_text": text}
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
