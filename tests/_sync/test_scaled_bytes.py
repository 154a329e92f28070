# Generated from tests/_async/test_scaled_bytes.py by scripts/run_unasync.py; change that file and run the script.
"""Precomputed vectors of byte fields: floats times a scale. What reads them gives the floats back, so that
whoever takes them, a query or another index, scales them once."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import ChunkOptions, DenseField, Index, IndexPlan, IngestOptions, MigrateOptions, TextField
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.errors import PlanError

QUIET = IngestOptions(learn_weights=False, refresh=True, dead_letters=None, verify=True)
VECTORS = {"a": [0.6, 0.8], "b": [0.8, 0.6], "c": [1.0, 0.0]}


def plan(scale: float | None = 100.0, similarity: Any = "l2_norm", **changes: Any) -> IndexPlan:
    field = DenseField(dims=2, similarity=similarity, element_type="byte", scale=scale, quantization="hnsw")
    return IndexPlan(text={"title": TextField()}, dense={"v": field}, **changes)


def codes(index: Index, doc_id: str) -> Any:
    """What the engine has."""
    path = f"/{index.concrete_index}/_doc/{doc_id}"
    params = {"_source_exclude_vectors": "false"} if index.capabilities.exclude_vectors else {}
    return (index.client.request("GET", path, params=params)).body["_source"]["v"]


def remove(client: Any, pattern: str) -> None:
    engine = EngineClient(client)
    for name in (engine.request("GET", f"/{pattern}")).body:
        engine.request("DELETE", f"/{name}")


@pytest.mark.parametrize("similarity", ["dot_product", "l2_norm", "cosine"])
def test_they_are_scaled_once(client: Any, esembed_index_name: str, similarity: Any) -> None:
    name = esembed_index_name
    index = Index.create(client, f"{name}-v1", plan(similarity=similarity), alias=False)
    rows = [{"_id": doc_id, "title": "x", "v": vector} for doc_id, vector in VECTORS.items()]
    report = index.ingest(rows, QUIET)
    assert (report.indexed, codes(index, "a")) == (3, [60, 80])
    try:
        for doc_id, vector in VECTORS.items():
            document = index.get(doc_id, vectors=True)
            assert document is not None
            assert document["v"] == pytest.approx(vector)
            like = index.search(q.knn("v", vector=document["v"]))
            direct = index.search(q.knn("v", vector=vector))
            assert like.ids[0] == doc_id
            assert [(hit.id, hit.score) for hit in like] == [(hit.id, hit.score) for hit in direct]
        copy = Index.create(client, f"{name}-copy", plan(similarity=similarity), alias=False)
        report = copy.ingest(index.documents(), QUIET)
        assert (report.indexed, report.dead_lettered) == (3, 0), report.errors
        assert [codes(copy, one) for one in "abc"] == [[60, 80], [80, 60], [100, 0]]
        assert (copy.ingest(index.documents(), QUIET)).unchanged == 3
        # Another scale, and no bytes any more.
        options = MigrateOptions(alias=f"{name}-alias", ingest=IngestOptions(learn_weights=False))
        index.migrate(plan(scale=50.0, similarity=similarity), options=options)
        moved = Index.open(client, f"{name}-alias")
        assert codes(moved, "a") == [30, 40]
        floats = DenseField(dims=2, similarity=similarity, quantization="hnsw")
        moved.migrate(plan().replace(dense={"v": floats}), options=MigrateOptions())
        moved = Index.open(client, f"{name}-alias")
        document = moved.get("a", vectors=True)
        assert document is not None
        assert document["v"] == pytest.approx(VECTORS["a"])
    finally:
        remove(client, f"{name}*")


def test_whole_numbers_stay_and_are_not_scaled_later(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, f"{esembed_index_name}-v1", plan(scale=None), alias=False)
    index.ingest([{"_id": "a", "title": "x", "v": [60, -80]}], QUIET)
    assert index.get("a", vectors=True) == {"title": "x", "v": [60, -80]}
    options = MigrateOptions(alias=f"{esembed_index_name}-alias")
    with pytest.raises(PlanError, match="a scale of 100 would cut them off"):
        index.migrate(plan(), options=options)
    index.migrate(plan(scale=None).replace(text={"title": TextField(k1=1.0)}), options=options)
    moved = Index.open(client, f"{esembed_index_name}-alias")
    assert codes(moved, "a") == [60, -80]
    remove(client, f"{esembed_index_name}*")


def test_in_nested_objects(client: Any, esembed_index_name: str) -> None:
    chunked = DenseField(
        dims=2, similarity="l2_norm", element_type="byte", scale=100.0, quantization="hnsw", chunked=True
    )
    nested = plan().replace(dense={"v": chunked}, chunk=ChunkOptions(source=(), path="parts"))
    index = Index.create(client, f"{esembed_index_name}-v1", nested, alias=False)
    rows = [{"_id": doc_id, "title": "x", "parts": [{"v": vector}]} for doc_id, vector in VECTORS.items()]
    assert (index.ingest(rows, QUIET)).indexed == 3
    document = index.get("b", vectors=True)
    assert document is not None
    assert document["parts"][0]["v"] == pytest.approx(VECTORS["b"])
    assert (index.search(q.knn("v", vector=document["parts"][0]["v"]), size=1)).ids == ["b"]
    copy = Index.create(client, f"{esembed_index_name}-copy", nested, alias=False)
    assert (copy.ingest(index.documents(), QUIET)).indexed == 3
    same = copy.get("b", vectors=True)
    assert same == document
    remove(client, f"{esembed_index_name}*")
