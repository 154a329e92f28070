"""Recall of a live index against exact neighbors, on each real engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esembed import AsyncIndex, DenseField, FilterField, IndexPlan, IngestOptions, TextField
from esembed import query as q
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import OptionsError, QueryError, UnsupportedFeatureError
from esembed.evaluate.datasets import Dataset
from esembed.evaluate.recall import RecallOptions
from esembed.evaluate.recall_history import RecallHistory
from esembed.plan.fields import ChunkOptions

QUIET = IngestOptions(learn_weights=False)
DIMS = 64
COUNT = 600
RNG = np.random.default_rng(7)
VECTORS = RNG.standard_normal((COUNT, DIMS)).astype(np.float32)
VECTORS[1] = VECTORS[0]  # the same vector twice: either is right


def records() -> list[dict[str, Any]]:
    return [
        {
            "_id": str(i),
            "title": f"page {i}",
            "lang": "en" if i % 10 else "de",
            "year": i,
            "v": VECTORS[i].tolist(),
        }
        for i in range(COUNT)
    ]


def plan(**field: Any) -> IndexPlan:
    dense = DenseField(encoder="precomputed", dims=DIMS, **field)
    return IndexPlan(
        text={"title": TextField()},
        dense={"v": dense},
        filter={"lang": FilterField(), "year": FilterField(type="integer")},
    )


async def made(client: Any, name: str, **field: Any) -> AsyncIndex:
    index = await AsyncIndex.create(client, name, plan(**field))
    report = await index.ingest(records(), QUIET)
    assert report.indexed == COUNT, report.errors
    return index


@pytest.mark.parametrize("similarity", ["cosine", "l2_norm", "max_inner_product"])
async def test_whole_floats_lose_nothing_when_all_is_looked_at(
    client: Any, esembed_index_name: str, similarity: str
) -> None:
    index = await made(client, esembed_index_name, similarity=similarity, quantization="hnsw")
    report = await index.recall(RecallOptions(sample=40, exact="scan", num_candidates=COUNT))
    (row,) = report.rows
    assert row.codes is None
    assert row.queries == 40
    # Each document is near itself, and isn't counted; the twin of a twin is.
    assert row.exhaustive.mean == 1.0
    assert row.recall.mean == 1.0
    assert report.documents == COUNT
    assert report.segments is not None
    assert report.segments >= 1
    assert "recall@10 is 1.000" in report.conclusion


async def test_what_quantization_and_graph_lose_is_told_apart(client: Any, esembed_index_name: str) -> None:
    coarse = "bbq_hnsw" if "elasticsearch" in type(client).__module__ else "int8_hnsw"
    index = await made(client, esembed_index_name, quantization=coarse)
    options = RecallOptions(sample=60, sampled_filters=2, filter=q.range("year", lt=100), exact="scan")
    report = await index.recall(options)
    whole, year, english, german = report.rows
    assert [row.matching for row in report.rows] == [COUNT, 100, COUNT * 9 // 10, COUNT // 10]
    assert (english.filter, german.filter) == ("lang=en", "lang=de")
    for row in report.rows:
        assert row.recall.low <= row.recall.mean <= row.recall.high
        assert row.recall.mean == pytest.approx(1 - row.graph_loss - row.quantization_loss)
        assert row.codes is not None
        # Full vectors order the candidates better than the codes do.
        assert row.codes.mean <= row.exhaustive.mean + 0.02
    # So few match that the engines compare them all: no graph loses any.
    assert german.graph_loss == pytest.approx(0, abs=0.005)
    assert year.graph_loss == pytest.approx(0, abs=0.005)
    assert whole.quantization_loss > 0.01
    assert report.worst.recall.mean == min(row.recall.mean for row in report.rows)
    assert report.below(report.worst.recall.mean + 1e-9) == (report.worst,)
    assert report.below(report.worst.recall.mean) == ()
    if index.capabilities.engine == "opensearch":
        by_script = await index.recall(replace(options, exact="script"))
        for one, other in zip(report.rows, by_script.rows, strict=True):
            assert one.recall == other.recall
            assert one.exhaustive == other.exhaustive


async def test_by_the_numbers(client: Any, esembed_index_name: str) -> None:
    """The recall that is reported is that of the hits."""
    coarse = "bbq_hnsw" if "elasticsearch" in type(client).__module__ else "int8_hnsw"
    index = await made(client, esembed_index_name, quantization=coarse, similarity="cosine")
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    report = await index.recall(RecallOptions(k=5, sample=COUNT, exact="scan"))
    shares = []
    for i in range(COUNT):
        scores = unit @ unit[i]
        scores[i] = -2
        true = {str(j) for j in np.flatnonzero(scores >= np.sort(scores)[-5] - 1e-6)}
        hits = await index.search(q.knn("v", vector=VECTORS[i].tolist(), k=6), size=6, source=False)
        found = [hit for hit in hits.ids if hit != str(i)][:5]
        shares.append(len(true & set(found)) / 5)
        if i == 49:
            break
    # The first fifty are a sample of them all.
    assert report.rows[0].recall.mean == pytest.approx(np.mean(shares), abs=0.06)
    assert report.rows[0].queries == COUNT


@pytest.mark.parametrize(("element", "quantization"), [("byte", "hnsw"), ("bit", "hnsw")])
async def test_whole_numbers(client: Any, esembed_index_name: str, element: str, quantization: str) -> None:
    if element == "bit" and "opensearch" in type(client).__module__:
        pytest.skip("bit vectors are the native libraries' there")
    similarity = "l2_norm" if element == "bit" else "cosine"
    field = DenseField(
        encoder="precomputed",
        dims=DIMS,
        element_type=element,  # type: ignore[arg-type]
        quantization=quantization,  # type: ignore[arg-type]
        similarity=similarity,  # type: ignore[arg-type]
        scale=20.0 if element == "byte" else None,
    )
    index = await AsyncIndex.create(client, esembed_index_name, plan().replace(dense={"v": field}))
    assert (await index.ingest(records(), QUIET)).indexed == COUNT
    report = await index.recall(RecallOptions(sample=30, num_candidates=COUNT, exact="scan"))
    assert report.rows[0].recall.mean == 1.0
    assert any("vectors alone" in note for note in report.notes)


class Letters:
    """A deterministic encoder."""

    def __init__(self) -> None:
        self.info = EncoderInfo(spec="custom:letters", type="dense", dims=8, model="letters", normalize=True)
        self.stats = EncodeStats()

    def encode_document(self, texts: Any) -> Any:
        out = np.full((len(texts), 8), 0.01, np.float32)
        for i, text in enumerate(texts):
            for position, byte in enumerate(text.encode()):
                out[i, byte % 8] += 1 + (byte * (position + 1)) % 7
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    encode_query = encode_document

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("store", ["nested", "documents"])
async def test_chunks_and_texts(client: Any, esembed_index_name: str, store: str) -> None:
    chunked = IndexPlan(
        text={"body": TextField()},
        dense={
            "whole": DenseField(encoder="custom:letters", source=("body",), quantization="hnsw"),
            "cut": DenseField(encoder="custom:letters", chunked=True, quantization="hnsw"),
        },
        filter={"lang": FilterField()},
        chunk=ChunkOptions(source=("body",), max_tokens=8, overlap_tokens=0, store=store),  # type: ignore[arg-type]
    )
    words = ["graph", "vector", "segment", "merge", "recall", "engine", "shard", "filter", "query", "text"]
    rng = np.random.default_rng(3)
    index = await AsyncIndex.create(client, esembed_index_name, chunked, encoder=Letters())
    docs = [
        {"_id": str(i), "body": " ".join(rng.choice(words, 30).tolist()), "lang": "en" if i % 2 else "de"}
        for i in range(80)
    ]
    assert (await index.ingest(docs, QUIET)).indexed == 80
    report = await index.recall(RecallOptions(sample=20, exact="scan", num_candidates=2000))
    assert [row.field for row in report.rows] == ["whole", "cut"]
    assert [row.recall.mean for row in report.rows] == [1.0, 1.0]
    encoded = await index.recall(
        RecallOptions(sample=20, exact="scan", encode=True, num_candidates=2000, fields=("cut",))
    )
    assert encoded.asked == "texts of documents"
    assert encoded.rows[0].recall.mean == 1.0
    texts = await index.recall(
        RecallOptions(sample=3, num_candidates=2000, exact="scan"),
        queries=["merge a segment", "query text", "engine", "shard filter"],
    )
    assert [row.queries for row in texts.rows] == [3, 3]
    judged = Dataset(name="mine", queries={"1": "merge"}, qrels={"1": {"1": 1}}, unjudged={"2": "vector"})
    assert (await index.recall(RecallOptions(exact="scan"), queries=judged)).asked == "mine"
    filtered = RecallOptions(sample=20, filter=q.term("lang", "en"), exact="scan", fields=("cut",))
    if store == "documents":
        with pytest.raises(UnsupportedFeatureError, match="chunks"):
            await index.recall(filtered)
    else:
        assert (await index.recall(filtered)).rows[1].matching == 40
    if index.capabilities.engine == "opensearch":
        by_script = await index.recall(RecallOptions(sample=20, filter=q.term("lang", "en")))
        assert by_script.exact == "script"
        assert len(by_script.rows) == 4


async def test_vectors_outside_of_source(client: Any, esembed_index_name: str) -> None:
    """Where no stored vector can be read, texts are asked and the engine compares; else they are read."""
    index = await AsyncIndex.create(
        client,
        esembed_index_name,
        IndexPlan(
            text={"title": TextField()},
            dense={"v": DenseField(encoder="custom:letters", source=("title",), quantization="hnsw")},
        ),
        encoder=Letters(),
    )
    state = index.state
    body = {"mappings": dict(state.live.mapping) | {"_source": {"excludes": ["v"]}}}
    if index.capabilities.engine == "opensearch":
        body["settings"] = {"index": {"knn": True}}
    other = f"{esembed_index_name}-lean"
    await index.client.request("PUT", f"/{other}", body=body)
    lean = await AsyncIndex.open(client, other, encoder=Letters())
    docs = [{"_id": str(i), "title": f"page {i} of {i * i}"} for i in range(120)]
    assert (await lean.ingest(docs, QUIET)).indexed == 120
    options = RecallOptions(sample=10, num_candidates=120)
    try:
        if index.capabilities.engine == "opensearch":
            with pytest.raises(UnsupportedFeatureError, match="by queries"):
                await lean.recall(options)
        else:
            assert (await lean.recall(options)).rows[0].recall.mean == 1.0
        report = await lean.recall(options, queries=["page 7", "page 100"])
        assert report.rows[0].recall.mean == 1.0
    finally:
        await lean.delete_index()


async def test_an_alias_with_a_filter_shows_its_part(client: Any, esembed_index_name: str) -> None:
    index = await made(client, esembed_index_name, quantization="hnsw")
    add = {"index": index.concrete_index, "alias": f"{esembed_index_name}-de"}
    body = {"actions": [{"add": {**add, "filter": {"term": {"lang": "de"}}}}]}
    await index.client.request("POST", "/_aliases", body=body)
    part = await AsyncIndex.open(client, f"{esembed_index_name}-de")
    for exact in ("scan", "auto"):
        report = await part.recall(RecallOptions(sample=200, exact=exact))  # type: ignore[arg-type]
        (row,) = report.rows
        assert (row.matching, row.queries, report.documents) == (60, 60, 60)
        assert row.recall.mean == 1.0


async def test_the_history(client: Any, esembed_index_name: str, tmp_path: Any) -> None:
    index = await made(client, esembed_index_name, quantization="hnsw")
    file = tmp_path / "recall.jsonl"
    told: list[str] = []
    report = await index.recall(RecallOptions(sample=10), history=file, progress=told.append)
    assert told[0] == "v: drawing 10 documents"
    await index.recall(RecallOptions(sample=10), history=str(file))
    first, *lines = file.read_text().splitlines()
    assert json.loads(first) == {"esembed_recall_history": 1}
    assert len(lines) == 2
    history = RecallHistory.open(file)
    assert history.unreadable == 0
    assert history.past[0].recall_of("v", "") == pytest.approx(report.rows[0].recall.mean)
    assert history.past[0].uuid == index.uuid
    other = tmp_path / "notes.txt"
    other.write_text("not a history\n")
    before = index.client.requests_sent
    with pytest.raises(OptionsError, match="no recall history"):
        await index.recall(RecallOptions(sample=10), history=other)
    assert index.client.requests_sent == before
    assert other.read_text() == "not a history\n"


async def test_what_cant_be_measured(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, plan(quantization="hnsw"))
    with pytest.raises(QueryError, match="nothing to measure"):
        await index.recall()
    with pytest.raises(OptionsError, match="no dense field 'title'"):
        await index.recall(RecallOptions(fields=("title",)))
    with pytest.raises(QueryError, match="nope"):
        await index.recall(RecallOptions(filter=q.term("nope", 1)))
    with pytest.raises(OptionsError, match="none of them blank"):
        await index.recall(queries=[" "])
    if index.capabilities.engine == "elasticsearch" and not index.capabilities.scripts:
        with pytest.raises(OptionsError, match="no scripts"):
            await index.recall(RecallOptions(exact="script"))
