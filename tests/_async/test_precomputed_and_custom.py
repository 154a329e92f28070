"""Vectors and encoders from elsewhere: an index that holds vectors already, and an encoder of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, DenseField, FilterField, IndexOptions, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed.errors import EncoderError, IndexExistsError, PlanError

from .search_world import data

PLAN = IndexPlan(
    text={"title": TextField()},
    dense={"vec.title": DenseField(dims=8, similarity="l2_norm")},
    sparse={"terms": SparseField(encoder="precomputed")},
    filter={"lang": FilterField()},
    index=IndexOptions(dynamic="true"),  # as an index is that nobody told otherwise
)
DOCS = data.documents(12)


async def foreign(client: Any, name: str, **dense: Any) -> AsyncEngineClient:
    """An index with dense and sparse vectors that somebody else made and filled."""
    engine = AsyncEngineClient(client)
    settings: dict[str, Any] = {"number_of_shards": 1}
    if engine.engine == "opensearch":
        settings["knn"] = True
        encoder = {"name": "sq", "parameters": {"bits": 7}}
        method = {"name": "hnsw", "engine": "lucene", "parameters": {"encoder": encoder, "m": 12}}
        vector = {"type": "knn_vector", "dimension": 8, "space_type": "l2", "method": method}
        terms: dict[str, Any] = {"type": "rank_features"}
    else:
        options = {"type": "int8_hnsw", "m": 12}
        vector = {"type": "dense_vector", "dims": 8, "similarity": "l2_norm", "index_options": options}
        terms = {"type": "sparse_vector"}
    properties = {
        "title": {"type": "text"},
        "lang": {"type": "keyword"},
        "vec": {"properties": {"title": {**vector, **dense}}},
        "terms": terms,
    }
    body = {"settings": {"index": settings}, "mappings": {"_meta": {"owner": "us"}, "properties": properties}}
    await engine.request("PUT", f"/{name}", body=body)
    for number, (doc_id, doc) in enumerate(DOCS.items()):
        source = {"title": doc["title"], "lang": doc["lang"], "terms": doc["terms"]}
        source["vec"] = {"title": doc["embedding"].tolist()}
        refresh = {"refresh": "true"} if number == len(DOCS) - 1 else None
        await engine.request("PUT", f"/{name}/_doc/{doc_id}", params=refresh, body=source)
    return engine


async def test_vectors_that_are_there_are_searched_as_they_are(client: Any, esembed_index_name: str) -> None:
    engine = await foreign(client, esembed_index_name)
    index = await AsyncIndex.attach(client, esembed_index_name, PLAN)
    assert index.fields_to_fill == ()
    assert index.plan.dense["vec.title"].quantization == "int8_hnsw"
    assert any("the index has it, 8 dims, l2_norm, int8_hnsw" in note for note in index.notes)
    stats = await engine.request("GET", f"/{esembed_index_name}/_stats/docs,indexing")
    primaries = stats.body["_all"]["primaries"]
    assert primaries["indexing"]["index_total"] == len(DOCS), "no document was written"
    again = await AsyncIndex.attach(client, esembed_index_name, PLAN)
    assert again.fields_to_fill == ()
    assert again.plan == index.plan

    opened = await AsyncIndex.open(client, esembed_index_name)
    assert (await opened.inspect())["drift"] == []
    wanted = DOCS["d003"]
    hits = await opened.search(q.knn("vec.title", vector=wanted["embedding"].tolist()), size=3)
    assert hits.ids[0] == "d003"
    near = sorted(DOCS, key=lambda i: float(((DOCS[i]["embedding"] - wanted["embedding"]) ** 2).sum()))
    assert set(hits.ids) <= set(near[:5])  # quantized
    only = q.term("lang", wanted["lang"])
    fused = await opened.search(
        q.rrf(
            q.knn("vec.title", vector=wanted["embedding"].tolist()), q.sparse("terms", vector=wanted["terms"])
        ),
        filter=only,
    )
    assert fused.ids[0] == "d003"
    assert all(hit.source["lang"] == wanted["lang"] for hit in fused)
    with pytest.raises(EncoderError, match="pass vector="):
        await opened.search(q.knn("vec.title"), text="red dog")
    # Who has the model that made them passes it, and texts are encoded.
    mine = data.TinyDense()
    with_model = await AsyncIndex.open(client, esembed_index_name, encoder={"vec.title": mine})
    assert len(await with_model.search(q.knn("vec.title"), text="red dog")) == 10
    assert mine.calls == [1]

    # The index's own word is lost and written again.
    await engine.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {}})
    more = {"properties": {"more": {"type": "keyword"}}}
    await engine.request("PUT", f"/{esembed_index_name}/_mapping", body=more)
    await AsyncIndex.repair(client, esembed_index_name, PLAN)
    opened = await AsyncIndex.open(client, esembed_index_name)
    assert opened.plan == index.plan
    assert (await opened.inspect())["drift"] == ["+ more: in the index (keyword), not in the plan"]
    new = [{"_id": "new", "title": "red", "vec.title": [1.0] * 8, "terms": {"red": 1.0}}]
    report = await opened.ingest(new)
    assert (report.indexed, report.dead_lettered) == (1, 0), report.errors
    await opened.refresh()
    assert (await opened.search(q.knn("vec.title", vector=[1.0] * 8), size=1)).ids == ["new"]


async def test_what_does_not_fit_is_told_with_both(client: Any, esembed_index_name: str) -> None:
    engine = await foreign(client, esembed_index_name)
    wrong = DenseField(dims=16, element_type="byte", quantization="hnsw", m=16)
    with pytest.raises(PlanError) as caught:
        await AsyncIndex.attach(client, esembed_index_name, PLAN.replace(dense={"vec.title": wrong}))
    text = str(caught.value)
    assert "dense.vec.title.dims: 16 in the plan, 8 in the index" in text
    assert "dense.vec.title.similarity: 'cosine' in the plan, 'l2_norm' in the index" in text
    assert "dense.vec.title.element_type: 'byte' in the plan, 'float' in the index" in text
    assert "dense.vec.title.m: 16 in the plan, 12 in the index" in text
    exact = DenseField(dims=8, similarity="l2_norm", quantization="hnsw")
    with pytest.raises(PlanError, match="quantization: 'hnsw' in the plan, 'int8_hnsw' in the index"):
        await AsyncIndex.attach(client, esembed_index_name, PLAN.replace(dense={"vec.title": exact}))
    swapped = PLAN.replace(text={}, sparse={"title": SparseField(encoder="precomputed")})
    with pytest.raises(PlanError, match=r"sparse\.title: it is text in the index"):
        await AsyncIndex.attach(client, esembed_index_name, swapped)
    made = PLAN.replace(sparse={"terms": SparseField(encoder="lexical", source=("title",))})
    with pytest.raises(PlanError, match=r'terms: the index has a field .* write encoder = "precomputed"'):
        await AsyncIndex.attach(client, esembed_index_name, made)
    answer = await engine.request("GET", f"/{esembed_index_name}/_mapping")
    mapping = answer.body[esembed_index_name]["mappings"]
    assert mapping["_meta"] == {"owner": "us"}
    assert set(mapping["properties"]) == {"title", "lang", "vec", "terms"}, "nothing was changed"


async def test_given_vectors_stay_while_another_field_is_filled(client: Any, esembed_index_name: str) -> None:
    engine = await foreign(client, esembed_index_name)
    mine = data.TinyDense()
    own = DenseField(encoder="custom:tiny", source=("title",), quantization="hnsw")
    plan = PLAN.replace(dense={**PLAN.dense, "made": own})
    with pytest.raises(EncoderError, match=r"custom:tiny.*encoder="):
        await AsyncIndex.attach(client, esembed_index_name, plan)
    index = await AsyncIndex.attach(client, esembed_index_name, plan, encoder={"made": mine})
    assert index.fields_to_fill == ("made",)
    report = await index.backfill()
    assert (report.read, report.dead_lettered, report.adds_up) == (len(DOCS), 0, True)
    assert index.plan.dense["made"].dims == data.DIMS
    await engine.request("POST", f"/{esembed_index_name}/_refresh")
    opened = await AsyncIndex.open(client, esembed_index_name, encoder={"made": mine})
    title = DOCS["d000"]["title"]
    hits = await opened.search(q.knn("made"), text=title, size=1)
    assert hits[0].source["title"] == title
    vector = DOCS["d005"]["embedding"].tolist()
    assert (await opened.search(q.knn("vec.title", vector=vector), size=1)).ids == ["d005"]
    assert (await opened.search(q.sparse("terms", vector=DOCS["d005"]["terms"]), size=1)).ids == ["d005"]


async def test_an_encoder_of_ones_own_has_a_name_in_the_plan(client: Any, esembed_index_name: str) -> None:
    own = DenseField(encoder="custom:tiny", source=("title",), quantization="hnsw")
    plan = IndexPlan(text={"title": TextField()}, dense={"made": own}, id_field="id")
    mine = data.TinyDense()
    index = await AsyncIndex.create(client, esembed_index_name, plan, encoder=mine)
    report = await index.ingest([{"id": word, "title": word} for word in ("red", "dog", "house")])
    assert (report.indexed, report.dead_lettered) == (3, 0)
    opened = await AsyncIndex.open(client, esembed_index_name, encoder={"made": mine})
    assert (await opened.search(q.knn("made"), text="dog", size=1)).ids == ["dog"]
    without = await AsyncIndex.open(client, esembed_index_name)
    with pytest.raises(EncoderError, match=r"custom:tiny.*Index\.open\(…, encoder=mine\)"):
        await without.search(q.knn("made"), text="dog")
    assert (await without.search(q.match("dog"))).ids == ["dog"]
    other = plan.replace(dense={"made": DenseField(encoder="custom:other", source=("title",))})
    with pytest.raises(IndexExistsError, match="custom:other"):
        await AsyncIndex.create(client, esembed_index_name, other, encoder=mine, exist_ok=True)
