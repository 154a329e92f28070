"""Vectors in nested objects that the records bring: attached, searched, written and copied as they are."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import (
    AsyncIndex,
    ChunkOptions,
    DenseField,
    FilterField,
    IndexPlan,
    IngestOptions,
    MigrateOptions,
    SparseField,
    TextField,
)
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed.errors import PlanError, QueryError

from .search_world import data

DOTTED = IndexPlan(
    text={"title": TextField()},
    dense={"parts.v": DenseField(dims=3, similarity="l2_norm")},
    sparse={"parts.terms": SparseField(encoder="precomputed")},
)
CHUNKED = IndexPlan(
    text={"title": TextField()},
    dense={"v": DenseField(dims=3, similarity="l2_norm", chunked=True)},
    sparse={"terms": SparseField(encoder="precomputed", chunked=True)},
    chunk=ChunkOptions(source=("title",), path="parts"),
)


def record(number: int) -> dict[str, Any]:
    """Three parts each, those of a higher page further away."""
    parts = [
        {
            "v": [1.0, float(number), float(page)],
            "terms": {f"w{page}.x": 1.0 + number},
            "page": page,
            "words": "s",
        }
        for page in range(3)
    ]
    return {"title": f"book {number}", "parts": parts}


async def foreign(client: Any, name: str, **extra: Any) -> AsyncEngineClient:
    """An index with nested objects that another pipeline made."""
    engine = AsyncEngineClient(client)
    opensearch = engine.engine == "opensearch"
    vector: dict[str, Any] = {"type": "dense_vector", "dims": 3, "similarity": "l2_norm"}
    vector["index_options"] = {"type": "hnsw"}
    if opensearch:
        method = {"name": "hnsw", "engine": "lucene"}
        vector = {"type": "knn_vector", "dimension": 3, "space_type": "l2", "method": method}
    terms = {"type": "rank_features" if opensearch else "sparse_vector"}
    inside = {"v": vector, "terms": terms, "page": {"type": "integer"}, "words": {"type": "text"}}
    properties = {"title": {"type": "text"}, "parts": {"type": "nested", "properties": inside}, **extra}
    settings = {"index": {"knn": True}} if opensearch else {}
    await engine.request(
        "PUT", f"/{name}", body={"settings": settings, "mappings": {"properties": properties}}
    )
    for number in range(3):
        params = {"refresh": "true"} if number == 2 else None
        # Token names as another program would send them, without dots.
        body = record(number)
        for part in body["parts"]:
            part["terms"] = {"w": 1.0 + number}
        await engine.request("PUT", f"/{name}/_doc/{number}", params=params, body=body)
    return engine


@pytest.mark.parametrize("plan", [DOTTED, CHUNKED], ids=["dotted", "chunked"])
async def test_they_are_attached_and_searched(client: Any, esembed_index_name: str, plan: IndexPlan) -> None:
    engine = await foreign(client, esembed_index_name)
    before = (await engine.request("GET", f"/{esembed_index_name}/_mapping")).body[esembed_index_name][
        "mappings"
    ]
    index = await AsyncIndex.attach(client, esembed_index_name, plan)
    assert index.fields_to_fill == ()
    assert index.plan.chunk is not None
    assert index.plan.chunk.path == "parts"
    assert (await AsyncIndex.attach(client, esembed_index_name, plan)).plan == index.plan
    after = (await engine.request("GET", f"/{esembed_index_name}/_mapping")).body[esembed_index_name][
        "mappings"
    ]
    assert after["properties"]["parts"] == before["properties"]["parts"], "nobody else's mapping is changed"

    opened = await AsyncIndex.open(client, esembed_index_name)
    drift = (await opened.inspect())["drift"]
    assert sorted(line.split(":")[0] for line in drift if "dynamic" not in line) == [
        "+ parts.page",
        "+ parts.words",
    ]
    for field in ("v", "parts.v"):
        hits = await opened.search(q.knn(field, vector=[1, 2, 0]))
        assert hits.ids == ["2", "1", "0"]
        assert (hits[0].chunks[0]["page"], hits[0].chunks[0]["words"]) == (0, "s")
        assert "v" not in hits[0].chunks[0]
    assert (await opened.search(q.sparse("terms", vector={"w": 1.0}))).ids == ["2", "1", "0"]
    fused = await opened.search(
        q.rrf(q.knn("v", vector=[1, 1, 0]), q.sparse("parts.terms", vector={"w": 1.0})), size=2
    )
    assert set(fused.ids) == {"1", "2"}
    # A filter says which documents, as everywhere; on a field of the objects it stands in q.nested.
    page = q.nested("parts", q.term("parts.page", 2))
    assert (await opened.search(q.knn("v", vector=[1, 2, 0], filter=page))).ids == ["2", "1", "0"]
    none = q.nested("parts", q.term("parts.page", 7))
    assert (await opened.search(q.knn("v", vector=[1, 2, 0], filter=none))).ids == []
    with pytest.raises(QueryError, match=r"q\.nested\('parts'"):
        await opened.search(q.knn("v", vector=[1, 2, 0], filter=q.term("parts.page", 2)))
    words = q.nested("parts", q.match("s", fields=["parts.words"]))
    assert len(await opened.search(words)) == 3

    # The index's own word is lost and written again.
    await engine.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {}})
    assert (await AsyncIndex.repair(client, esembed_index_name, plan)).plan == index.plan


async def test_records_bring_the_objects(client: Any, esembed_index_name: str) -> None:
    await foreign(client, esembed_index_name)
    index = await AsyncIndex.attach(client, esembed_index_name, DOTTED)
    bad = record(4)
    bad["parts"][1]["v"] = [1.0, 2.0]
    beside = {**record(5), "v": [1.0, 2.0, 3.0]}
    partly = record(6)
    del partly["parts"][0]["v"]
    rows = [
        {"_id": "3", **record(3)},
        {"_id": "bad", **bad},
        {"_id": "beside", **beside},
        {"_id": "partly", **partly},
        {"_id": "none", "title": "no parts"},
        {"_id": "flat", **record(7), "parts.v": [1.0, 2.0, 3.0]},
        {"_id": "flat page", **record(7), "parts.page": 3},
        {"_id": "text", "title": "x", "parts": "many"},
        {"_id": "null", "title": "x", "parts": [*record(7)["parts"], None]},
    ]
    options = IngestOptions(refresh=True, dead_letters=None, verify=True)
    report = await index.ingest(rows, options)
    assert report.indexed == 2, report.errors
    reasons = {error.id: error.reason for error in report.errors}
    assert "parts.v: 3 dims were expected, not 2" in reasons["bad"]
    assert "put each vector into its object" in reasons["beside"]
    assert "brings no vector 'v' in the objects 'parts'" in reasons["none"]
    assert "'parts.v' lies in the nested objects 'parts'" in reasons["flat"]
    assert "'parts.page' lies in the nested objects 'parts'" in reasons["flat page"]
    assert "item 0 is 'many', and objects were expected" in reasons["text"]
    assert "item 3 is None, and objects were expected" in reasons["null"]
    assert report.without_vector["v"].chunks == 1
    assert (await index.search(q.knn("v", vector=[1, 3, 0]), size=1)).ids == ["3"]
    assert (await index.search(q.sparse("terms", vector={"w2.x": 1.0}), size=1)).ids == ["partly"]
    again = await index.ingest(rows[:1], options)
    assert (again.unchanged, again.indexed) == (1, 0)
    moved = {"_id": "3", **record(3)}
    moved["parts"][0]["v"] = [9.0, 9.0, 9.0]
    assert (await index.ingest([moved], options)).indexed == 1, "another vector is another record"
    await index.update("3", {"title": "renamed"}, refresh=True)
    document = await index.get("3", vectors=True)
    assert document is not None
    assert (document["title"], document["parts"][0]["page"]) == ("renamed", 0)
    assert document["parts"][0]["v"] == [9.0, 9.0, 9.0]
    assert (await index.search(q.knn("v", vector=[9, 9, 9]), size=1)).ids == ["3"]


async def test_copies_and_migrations_take_them_along(client: Any, esembed_index_name: str) -> None:
    engine = await foreign(client, esembed_index_name)
    index = await AsyncIndex.attach(client, esembed_index_name, CHUNKED)
    await index.ingest([{"_id": "3", **record(3)}], IngestOptions(refresh=True, dead_letters=None))
    copy = f"{esembed_index_name}-copy"
    made = await AsyncIndex.create(client, copy, index.plan, alias=False)
    try:
        report = await made.ingest(await index.documents(), IngestOptions(refresh=True, dead_letters=None))
        assert (report.indexed, report.dead_lettered) == (4, 0), report.errors
        assert (await made.search(q.knn("v", vector=[1, 3, 0]), size=1)).ids == ["3"]
        assert (await made.search(q.sparse("terms", vector={"w2.x": 1.0}))).ids == ["3"]
        cut = DenseField(encoder="custom:tiny", dims=data.DIMS, quantization="hnsw", chunked=True)
        with pytest.raises(PlanError, match="another path"):
            await made.migrate(
                CHUNKED.replace(dense={"v2": cut}, sparse={}),
                options=MigrateOptions(alias=f"{copy}-alias"),
                encoder=data.TinyDense(),
            )
        more = made.plan.replace(filter={"lang": FilterField()})
        migrated = await made.migrate(more, options=MigrateOptions(alias=f"{copy}-alias"))
        assert (set(migrated.copied), migrated.documents) == ({"v", "terms"}, 4)
        assert migrated.vectors_copied == 2 * 3 * 4
        after = await AsyncIndex.open(client, f"{copy}-alias")
        assert (await after.search(q.knn("v", vector=[1, 3, 0]), size=1)).ids == ["3"]
        assert (await after.search(q.sparse("terms", vector={"w2.x": 1.0}))).ids == ["3"]
    finally:
        for name in (await engine.request("GET", f"/{copy}*")).body:
            await engine.request("DELETE", f"/{name}")


async def test_what_cannot_be_named_is_refused(client: Any, esembed_index_name: str) -> None:
    vector = DOTTED.dense["parts.v"]
    other = {"type": "nested", "properties": {"v": {"type": "keyword"}}}
    engine = await foreign(client, esembed_index_name, others=other)
    two = DOTTED.replace(sparse={}, dense={"parts.v": vector, "others.v": vector})
    with pytest.raises(PlanError, match="a plan has one path of nested objects"):
        await AsyncIndex.attach(client, esembed_index_name, two)
    taken = DOTTED.replace(sparse={}, filter={"v": FilterField()})
    with pytest.raises(PlanError, match=r"can't name it 'v'"):
        await AsyncIndex.attach(client, esembed_index_name, taken)
    wrong = DOTTED.replace(dense={"parts.v": DenseField(dims=4)})
    with pytest.raises(PlanError, match="dims: 4 in the plan, 3 in the index"):
        await AsyncIndex.attach(client, esembed_index_name, wrong)
    tiny = DenseField(encoder="custom:tiny", dims=data.DIMS, quantization="hnsw", chunked=True)
    cut = CHUNKED.replace(dense={"made": tiny}, sparse={})
    with pytest.raises(PlanError, match=r"parts: the index has a field of that name already"):
        await AsyncIndex.attach(client, esembed_index_name, cut, encoder=data.TinyDense())
    mapping = (await engine.request("GET", f"/{esembed_index_name}/_mapping")).body[esembed_index_name][
        "mappings"
    ]
    assert "_meta" not in mapping, "nothing was changed"


async def test_records_cannot_fill_the_chunks_that_are_cut(client: Any, esembed_index_name: str) -> None:
    tiny = DenseField(encoder="custom:tiny", dims=data.DIMS, quantization="hnsw", chunked=True)
    plan = CHUNKED.replace(dense={"made": tiny}, sparse={})
    index = await AsyncIndex.create(client, esembed_index_name, plan, encoder=data.TinyDense(), alias=False)
    rows = [
        {"_id": "a", "title": "red dog", "parts": [1]},
        {"_id": "b", "title": "red dog", "parts.made": [1.0] * data.DIMS},
        {"_id": "c", "title": "red dog"},
    ]
    report = await index.ingest(rows, IngestOptions(dead_letters=None, refresh=True))
    assert (report.indexed, report.dead_lettered) == (1, 2)
    assert "filled with the chunks" in report.errors[0].reason
    assert "'parts.made' lies in the nested objects" in report.errors[1].reason
    assert (await index.search(q.knn("made", text="red dog"))).ids == ["c"]
    mixed = plan.replace(sparse=CHUNKED.sparse)
    other = f"{esembed_index_name}-mixed"
    index = await AsyncIndex.create(client, other, mixed, encoder=data.TinyDense(), alias=False)
    try:
        with pytest.raises(PlanError, match="records can't bring vectors of the chunks"):
            await index.ingest([{"_id": "a", "title": "red dog"}], IngestOptions(dead_letters=None))
    finally:
        await index.delete_index()
