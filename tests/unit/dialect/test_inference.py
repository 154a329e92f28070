"""Bodies for vectors that the engine computes fit Elasticsearch's published specification.

The specification is at hand as the classes that the official client generates from it.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from elasticsearch.dsl import Q, field, types

from esembed.dialect.elasticsearch import inference as elasticsearch_inference
from esembed.dialect.opensearch import inference as opensearch_inference
from esembed.errors import OptionsError, QueryError


def parameters(of: Any) -> set[str]:
    return set(inspect.signature(of.__init__).parameters)


def test_semantic_text_is_as_specified() -> None:
    chunk = {"strategy": "sentence", "max_chunk_size": 250, "sentence_overlap": 1}
    body = elasticsearch_inference.semantic_text("e", search_endpoint="s", chunk=chunk)
    assert body == {
        "type": "semantic_text",
        "inference_id": "e",
        "search_inference_id": "s",
        "chunking_settings": chunk,
    }
    assert body.keys() - {"type"} <= parameters(field.SemanticText)
    assert chunk.keys() <= parameters(types.ChunkingSettings)
    assert elasticsearch_inference.semantic_text("e") == {"type": "semantic_text", "inference_id": "e"}


def test_elasticsearch_queries_are_as_specified() -> None:
    sparse = elasticsearch_inference.sparse_vector("f", "text", "e", prune=False, boost=2.0)
    assert sparse["sparse_vector"].keys() <= parameters(type(Q("sparse_vector", field="f"))) | {"boost"}
    assert Q(sparse).to_dict() == sparse
    semantic = elasticsearch_inference.semantic_match("f", "text")
    assert Q(semantic).to_dict() == semantic == {"semantic": {"field": "f", "query": "text"}}
    knn = elasticsearch_inference.knn("f", "t", "e", k=3, num_candidates=9, filter={"term": {"a": "b"}})
    assert knn.keys() <= parameters(type(Q("knn", field="f")))
    builder = knn["query_vector_builder"]
    assert builder.keys() <= parameters(types.QueryVectorBuilder)
    assert builder["text_embedding"].keys() == {"model_id", "model_text"}
    assert builder["text_embedding"].keys() <= parameters(types.TextEmbedding)
    with pytest.raises(QueryError, match="at least k"):
        elasticsearch_inference.knn("f", "t", "e", k=10, num_candidates=9)


def test_pipelines() -> None:
    assert elasticsearch_inference.ingest_pipeline("e", {"title": "v", "body": "w"}, description="d") == {
        "description": "d",
        "processors": [
            {
                "inference": {
                    "model_id": "e",
                    "input_output": [
                        {"input_field": "title", "output_field": "v"},
                        {"input_field": "body", "output_field": "w"},
                    ],
                }
            }
        ],
    }
    assert opensearch_inference.ingest_pipeline("dense", "m", {"a": "v"}) == {
        "processors": [{"text_embedding": {"model_id": "m", "field_map": {"a": "v"}}}]
    }
    pruned = opensearch_inference.ingest_pipeline(
        "sparse", "m", {"a": "v"}, prune_type="max_ratio", prune_ratio=0.1
    )
    assert pruned == {
        "processors": [
            {
                "sparse_encoding": {
                    "model_id": "m",
                    "field_map": {"a": "v"},
                    "prune_type": "max_ratio",
                    "prune_ratio": 0.1,
                }
            }
        ]
    }
    with pytest.raises(OptionsError, match="at least one"):
        elasticsearch_inference.ingest_pipeline("e", {})
    with pytest.raises(OptionsError, match="sparse encodings"):
        opensearch_inference.ingest_pipeline("dense", "m", {"a": "v"}, prune_type="top_k", prune_ratio=8)
    with pytest.raises(OptionsError, match="go together"):
        opensearch_inference.ingest_pipeline("sparse", "m", {"a": "v"}, prune_type="top_k")


def test_opensearch_queries_and_fields() -> None:
    assert opensearch_inference.neural("f", "t", "m", k=5) == {
        "neural": {"f": {"query_text": "t", "model_id": "m", "k": 5}}
    }
    assert opensearch_inference.neural_sparse("f", "t", analyzer="bert-uncased") == {
        "neural_sparse": {"f": {"query_text": "t", "analyzer": "bert-uncased"}}
    }
    assert opensearch_inference.neural_sparse("f", "t", model_id="m") == {
        "neural_sparse": {"f": {"query_text": "t", "model_id": "m"}}
    }
    with pytest.raises(QueryError, match="either"):
        opensearch_inference.neural_sparse("f", "t")
    assert opensearch_inference.semantic_field("m", search_model_id="s", chunking=True) == {
        "type": "semantic",
        "model_id": "m",
        "search_model_id": "s",
        "chunking": True,
    }
