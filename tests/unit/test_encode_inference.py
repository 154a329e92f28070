"""``engine:``: nothing is encoded here, and the bodies fit Elasticsearch's published specification.

The specification is at hand as the classes that the official client generates from it.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from elasticsearch.dsl import Q, field, types

from esembed.encode import inference
from esembed.encode.base import DenseEncoder, EncoderParams, SparseEncoder
from esembed.encode.registry import load
from esembed.errors import EncoderError, PlanError
from esembed.plan import DenseField, IndexPlan, SparseField, TextField


def parameters(of: Any) -> set[str]:
    return set(inspect.signature(of.__init__).parameters)


def test_it_encodes_nothing_and_says_who_does() -> None:
    encoder = load("engine:.elser-2-elasticsearch")
    assert isinstance(encoder, SparseEncoder)
    assert (encoder.info.kind, encoder.info.dims) == ("sparse", None)
    for encode in (encoder.encode_document, encoder.encode_query):
        with pytest.raises(EncoderError, match="inside the engine"):
            encode(["a"])


def test_kind_and_dims() -> None:
    encoder = load("engine:.multilingual-e5-small-elasticsearch", EncoderParams(dims=384))
    assert isinstance(encoder, DenseEncoder)
    assert (encoder.info.kind, encoder.info.dims) == ("dense", 384)
    assert load("engine:sparse/aVeif4oB5Vm0Tdw8zYO2").info.kind == "sparse"
    assert load("engine:dense/my-sparse-looking").info.model == "my-sparse-looking"
    with pytest.raises(EncoderError, match="decides how"):
        load("engine:x", EncoderParams(pooling="cls"))
    with pytest.raises(EncoderError, match="needs the name"):
        load("engine:")


def test_a_plan_refuses_it_and_says_what_to_do() -> None:
    text = {"body": TextField()}
    with pytest.raises(PlanError, match=r"dense\.emb\.encoder: engine:e5 .* make it with your client"):
        IndexPlan(text=text, dense={"emb": DenseField(encoder="engine:e5", source=("body",), dims=3)})
    with pytest.raises(PlanError, match=r"sparse\.terms\.encoder: engine:elser"):
        IndexPlan(text=text, sparse={"terms": SparseField(encoder="engine:elser", source=("body",))})


def test_semantic_text_is_as_specified() -> None:
    chunk = {"strategy": "sentence", "max_chunk_size": 250, "sentence_overlap": 1}
    body = inference.elasticsearch_semantic_text("e", search_endpoint="s", chunk=chunk)
    assert body == {
        "type": "semantic_text",
        "inference_id": "e",
        "search_inference_id": "s",
        "chunking_settings": chunk,
    }
    assert body.keys() - {"type"} <= parameters(field.SemanticText)
    assert chunk.keys() <= parameters(types.ChunkingSettings)
    assert inference.elasticsearch_semantic_text("e") == {"type": "semantic_text", "inference_id": "e"}


def test_elasticsearch_queries_are_as_specified() -> None:
    sparse = inference.elasticsearch_sparse_vector("f", "text", "e", prune=False, boost=2.0)
    assert sparse["sparse_vector"].keys() <= parameters(type(Q("sparse_vector", field="f"))) | {"boost"}
    assert Q(sparse).to_dict() == sparse
    semantic = inference.elasticsearch_semantic_match("f", "text")
    assert Q(semantic).to_dict() == semantic == {"semantic": {"field": "f", "query": "text"}}
    knn = inference.elasticsearch_knn("f", "t", "e", k=3, num_candidates=9, filter={"term": {"a": "b"}})
    assert knn.keys() <= parameters(type(Q("knn", field="f")))
    builder = knn["query_vector_builder"]
    assert builder.keys() <= parameters(types.QueryVectorBuilder)
    assert builder["text_embedding"].keys() == {"model_id", "model_text"}
    assert builder["text_embedding"].keys() <= parameters(types.TextEmbedding)
    with pytest.raises(PlanError, match="at least k"):
        inference.elasticsearch_knn("f", "t", "e", k=10, num_candidates=9)


def test_pipelines() -> None:
    assert inference.elasticsearch_ingest_pipeline("e", {"title": "v", "body": "w"}, description="d") == {
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
    assert inference.opensearch_ingest_pipeline("dense", "m", {"a": "v"}) == {
        "processors": [{"text_embedding": {"model_id": "m", "field_map": {"a": "v"}}}]
    }
    pruned = inference.opensearch_ingest_pipeline(
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
    with pytest.raises(PlanError, match="at least one"):
        inference.elasticsearch_ingest_pipeline("e", {})
    with pytest.raises(PlanError, match="sparse encodings"):
        inference.opensearch_ingest_pipeline("dense", "m", {"a": "v"}, prune_type="top_k", prune_ratio=8)
    with pytest.raises(PlanError, match="go together"):
        inference.opensearch_ingest_pipeline("sparse", "m", {"a": "v"}, prune_type="top_k")


def test_opensearch_queries_and_fields() -> None:
    assert inference.opensearch_neural("f", "t", "m", k=5) == {
        "neural": {"f": {"query_text": "t", "model_id": "m", "k": 5}}
    }
    assert inference.opensearch_neural_sparse("f", "t", analyzer="bert-uncased") == {
        "neural_sparse": {"f": {"query_text": "t", "analyzer": "bert-uncased"}}
    }
    assert inference.opensearch_neural_sparse("f", "t", model_id="m") == {
        "neural_sparse": {"f": {"query_text": "t", "model_id": "m"}}
    }
    with pytest.raises(PlanError, match="either"):
        inference.opensearch_neural_sparse("f", "t")
    assert inference.opensearch_semantic_field("m", search_model_id="s", chunking=True) == {
        "type": "semantic",
        "model_id": "m",
        "search_model_id": "s",
        "chunking": True,
    }
