"""Feature names and lexical weights on the real engines: each token is found, and scores add up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from query_engines import World

from esembed.dialect.tokens import TokenTarget, encode, encode_vector
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.models.vocabulary import token_ids
from esembed.types import SparseVector

ODD = ["", ".", "a.b", "a_b", "%", "%2E", "##x", "cat", "日本", "\x00", "a b", "*", "é", "[unused1]"]
TEXTS = [
    "Split a path into folder and name",
    "Join two paths; a path may be absolute",
    "The folder's name. The name of the folder.",
    "Nothing of that here",
]


def filled(world: World, target: TokenTarget, vectors: list[dict[str, float]]) -> None:
    field: dict[str, Any] = {"type": target.partition(".")[2]}
    settings: dict[str, Any] = {"number_of_shards": 1, "number_of_replicas": 0}
    if target == "opensearch.sparse_vector":
        field["method"] = {"name": "seismic", "parameters": {"approximate_threshold": 1000}}
        settings["sparse"] = True
    body = {"settings": {"index": settings}, "mappings": {"properties": {"f": field}}}
    world.client.request("PUT", f"/{world.name}", body=body)
    for i, vector in enumerate(vectors):
        world.client.request("PUT", f"/{world.name}/_doc/{i}", body={"f": vector})
    world.client.request("POST", f"/{world.name}/_refresh")


def search(world: World, query: dict[str, Any]) -> dict[int, float]:
    answer = world.client.request("POST", f"/{world.name}/_search", body={"query": query, "size": 50})
    return {int(hit["_id"]): hit["_score"] for hit in answer.body["hits"]["hits"]}


def queries(target: TokenTarget, weights: dict[str, float]) -> Iterator[dict[str, Any]]:
    if target == "elasticsearch.sparse_vector":
        yield {"sparse_vector": {"field": "f", "query_vector": weights, "prune": False}}
        return
    yield {"neural_sparse": {"f": {"query_tokens": weights}}}
    if target == "opensearch.rank_features":
        clauses = [
            {"rank_feature": {"field": f"f.{name}", "linear": {}, "boost": weight}}
            for name, weight in weights.items()
        ]
        yield {"bool": {"should": clauses}}


TARGETS: list[tuple[TokenTarget, str]] = [
    ("elasticsearch.sparse_vector", "elasticsearch_world"),
    ("opensearch.rank_features", "opensearch_world"),
    ("opensearch.sparse_vector", "opensearch_world"),
]


@pytest.mark.parametrize(("target", "engine"), TARGETS)
def test_every_token_is_found_by_itself(
    request: pytest.FixtureRequest, target: TokenTarget, engine: str
) -> None:
    world: World = request.getfixturevalue(engine)
    ids = token_ids([*ODD, "common"])
    vectors = [
        encode_vector(SparseVector((token, "common"), np.array([i + 1, 0.5], np.float32)), target, ids)
        for i, token in enumerate(ODD)
    ]
    filled(world, target, vectors)
    for i, token in enumerate(ODD):
        for query in queries(target, {encode(token, target, ids): 2.0}):
            found = search(world, query)
            assert found.keys() == {i}, (token, query)
            # SEISMIC keeps a byte of each weight, the others nine significant bits
            loose = target == "opensearch.sparse_vector"
            if not loose:
                assert found[i] == pytest.approx(2.0 * (i + 1), rel=0.01)


@pytest.mark.parametrize(("target", "engine"), TARGETS[:2])
def test_lexical_scores_are_the_dot_products(
    request: pytest.FixtureRequest, target: TokenTarget, engine: str
) -> None:
    world: World = request.getfixturevalue(engine)
    encoder = LexicalEncoder(language="english", avgdl=7.0)
    documents, counted = encoder.encode_and_count(TEXTS)
    filled(world, target, [encode_vector(vector, target) for vector in documents])
    [query] = encoder.with_statistics(counted).encode_query(["the folder's path name"])
    expected = {i: query.dot(vector) for i, vector in enumerate(documents) if query.dot(vector) > 0}
    for body in queries(target, encode_vector(query, target)):
        assert search(world, body) == pytest.approx(expected, rel=0.01)
