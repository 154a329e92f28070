"""Bodies for vectors computed in the engine: parsed by real engines, as far as one without models goes.

The local engines have no machine-learning module, so what can be shown is that they understand the body
and only then miss the model. An engine that has one would answer 404 for the model instead.
"""

from __future__ import annotations

from typing import Any

import pytest
from query_engines import World

from esembed.dialect.elasticsearch import inference as elasticsearch_inference
from esembed.dialect.opensearch import inference as opensearch_inference

ANY = (400, 404, 500)


def answer(world: World, method: str, path: str, body: dict[str, Any]) -> str:
    return str(world.client.request(method, path, body=body, ignore=ANY).body)


def created(world: World, kind: str) -> None:
    body = {"mappings": {"properties": {"f": {"type": kind}}}}
    world.client.request("PUT", f"/{world.name}", body=body)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_opensearch_stores_the_ingest_pipelines(opensearch_world: World, kind: Any) -> None:
    body = opensearch_inference.ingest_pipeline(kind, "some-model", {"text": "vector"}, description="d")
    path = f"/_ingest/pipeline/{opensearch_world.name}"
    try:
        opensearch_world.client.request("PUT", path, body=body)
        stored = opensearch_world.client.request("GET", path).body[opensearch_world.name]
        assert stored["processors"] == body["processors"]
    finally:
        opensearch_world.client.request("DELETE", path, ignore=(404,))


@pytest.mark.parametrize(
    "query",
    [
        opensearch_inference.neural("v", "text", "some-model", k=3),
        opensearch_inference.neural_sparse("f", "text", model_id="some-model"),
    ],
    ids=["neural", "neural_sparse"],
)
def test_opensearch_understands_the_queries(opensearch_world: World, query: dict[str, Any]) -> None:
    world = opensearch_world
    world.client.request(
        "PUT", f"/{world.name}", body={"mappings": {"properties": {"f": {"type": "rank_features"}}}}
    )
    said = answer(world, "POST", f"/{world.name}/_search", {"query": query})
    assert "MLModelGetAction" in said or "some-model" in said
    assert "parsing_exception" not in said


def test_opensearch_understands_the_semantic_field(opensearch_world: World) -> None:
    field = opensearch_inference.semantic_field("some-model", search_model_id="other")
    said = answer(
        opensearch_world, "PUT", f"/{opensearch_world.name}", {"mappings": {"properties": {"s": field}}}
    )
    assert "some-model" in said
    assert "mapper_parsing_exception" not in said


def test_elasticsearch_understands_the_sparse_vector_query(elasticsearch_world: World) -> None:
    world = elasticsearch_world
    world.client.request(
        "PUT", f"/{world.name}", body={"mappings": {"properties": {"f": {"type": "sparse_vector"}}}}
    )
    query = elasticsearch_inference.sparse_vector("f", "text", ".elser-2-elasticsearch")
    said = answer(world, "POST", f"/{world.name}/_search", {"query": query})
    assert "inference" in said
    assert "parsing_exception" not in said
    wrong = {"sparse_vector": {**query["sparse_vector"], "no_such_option": 1}}
    assert "no_such_option" in answer(world, "POST", f"/{world.name}/_search", {"query": wrong})
