"""What the engine did with a record is checked: dropped, put elsewhere, changed, left; vectors too."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from esembed import (
    AsyncIndex,
    ChunkOptions,
    DenseField,
    FilterField,
    IndexPlan,
    IngestOptions,
    SparseField,
    TextField,
)
from esembed._async.client import AsyncEngineClient
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.types import Document

QUIET = IngestOptions(learn_weights=False)
VERIFY = IngestOptions(learn_weights=False, verify=True)


class Bytes:
    """A deterministic encoder; another *salt* makes other vectors."""

    def __init__(self, salt: str = "") -> None:
        self.info = EncoderInfo(spec="custom:bytes", type="dense", dims=16, model="bytes", normalize=True)
        self.stats = EncodeStats()
        self.salt = salt

    def encode_document(self, texts: Any) -> Any:
        rows = []
        for text in texts:
            seed = list((self.salt + text).encode())
            rows.append(np.random.default_rng(seed).standard_normal(16))
        out = np.asarray(rows, np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    encode_query = encode_document

    def close(self) -> None:
        """Nothing."""


PLAN = IndexPlan(
    text={"body": TextField()},
    dense={
        "e": DenseField(encoder="custom:bytes", source=("body",), similarity="cosine"),
        "v": DenseField(encoder="precomputed", dims=4, similarity="l2_norm"),
    },
    sparse={"s": SparseField(encoder="lexical", source=("body",))},
    filter={"lang": FilterField()},
)


def records(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"_id": str(i), "body": f"river {i} bank", "lang": "en" if i % 2 else "de", "v": [1, i, 0, 0]}
        for i in range(count)
    ]


async def with_pipeline(client: Any, name: str, setting: str, *processors: Any) -> None:
    engine = AsyncEngineClient(client)
    made = await engine.request(
        "PUT", f"/_ingest/pipeline/{name}", body={"processors": list(processors)}, ignore=(400,)
    )
    if made.status == 400:
        pytest.skip("this Elasticsearch has no ingest processors")
    await engine.request("PUT", f"/{name}/_settings", body={"index": {setting: name}})


@pytest.fixture
def encoders() -> dict[str, Any]:
    return {"e": Bytes()}


@pytest.mark.parametrize("setting", ["default_pipeline", "final_pipeline"])
@pytest.mark.parametrize(
    ("processor", "indexed", "dropped", "rerouted", "told"),
    [
        (
            {"drop": {"if": "ctx.lang == 'de'"}},
            3,
            3,
            0,
            "3 records were dropped by the index's ingest pipeline",
        ),
        ({"set": {"field": "_index", "value": "esembed-test-elsewhere"}}, 0, 0, 6, "elsewhere"),
        ({"set": {"field": "_id", "value": "same"}}, 0, 0, 6, "the id 'same'"),
        ({"set": {"field": "body", "value": "another text"}}, 6, 0, 0, "changed 6 of 6.*'body'"),
        ({"set": {"field": "added", "value": 1}}, 6, 0, 0, "changed 6 of 6.*'added'"),
        ({"remove": {"field": "esembed_hash"}}, 6, 0, 0, "changed 6 of 6.*'esembed_hash'"),
        ({"lowercase": {"field": "lang"}}, 6, 0, 0, None),
    ],
)
async def test_a_pipeline_is_seen_by_what_it_does(
    client: Any,
    esembed_index_name: str,
    encoders: Any,
    processor: Any,
    indexed: int,
    dropped: int,
    rerouted: int,
    told: str | None,
    setting: str,
) -> None:

    if setting == "final_pipeline" and "_index" in str(processor):
        pytest.skip("a final pipeline may not change the index")
    name = esembed_index_name
    index = await AsyncIndex.create(client, name, PLAN, encoder=encoders)
    await with_pipeline(client, name, setting, processor)
    engine = AsyncEngineClient(client)
    try:
        report = await index.ingest(records(), QUIET)
        assert (report.indexed, report.dropped, report.rerouted) == (indexed, dropped, rerouted)
        assert report.adds_up
        assert await index.count() == (1 if "'same'" in str(told) else indexed)
        if told is None:
            assert report.warnings == [] or not any("pipeline" in line for line in report.warnings)
        else:
            assert any(re.search(told, line) for line in report.warnings), report.warnings
            assert str(dropped or rerouted or "read") in report.summary()
        again = await index.ingest(records(), VERIFY)
        assert again.verified is not None
        missing = 6 - indexed
        assert again.verified.missing_count == missing
        # Another text than its vector was made from, or no hash to go by, is not as it should be.
        assert again.verified.ok is (missing == 0 and "hash" not in str(told) and "body" not in str(told))
    finally:
        await engine.request("DELETE", "/esembed-test-elsewhere", ignore=(404,))
        await index.delete_index()
        await engine.request("DELETE", f"/_ingest/pipeline/{name}", ignore=(404,))


async def test_an_update_that_changes_nothing_is_unchanged(
    client: Any, esembed_index_name: str, encoders: Any
) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN, encoder=encoders)
    await index.ingest(records(3), QUIET)
    updates = [Document(str(i), {"lang": "fr"}, op="update") for i in range(3)]
    options = IngestOptions(learn_weights=False, skip_unchanged=False)
    first = await index.ingest(updates, options)
    again = await index.ingest(updates, options)
    assert (first.updated, first.unchanged) == (3, 0)
    assert (again.updated, again.unchanged, again.adds_up) == (0, 3, True)


async def overwrite(client: Any, name: str, doc_id: str, **fields: Any) -> None:
    """Another program's partial update."""
    path = f"/{name}/_update/{doc_id}"
    await AsyncEngineClient(client).request("POST", path, params={"refresh": "true"}, body={"doc": fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("e", None),
        ("v", None),
        ("s", []),
        ("e", [0.25] * 16),
        ("v", [0, 0, 0, 1]),
        ("v", [2, 4, 0, 0]),
    ],
)
async def test_verify_finds_lost_and_other_vectors(
    client: Any, esembed_index_name: str, encoders: Any, field: str, value: Any
) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN, encoder=encoders)
    fresh = await index.ingest(records(), VERIFY)
    assert fresh.verified is not None
    assert (fresh.verified.same, fresh.verified.ok, fresh.verified.vectors) == (6, True, {})
    quiet = await index.ingest(records(), VERIFY)
    assert (quiet.unchanged, quiet.verified and quiet.verified.ok) == (6, True), quiet.verified
    await overwrite(client, esembed_index_name, "2", **{field: value})
    report = await index.ingest(records(), VERIFY)
    assert report.unchanged == 6, "the hash is what it was"
    assert report.verified is not None
    assert (report.verified.ok, report.verified.vectors) == (False, {field: 1}), report.verified
    assert "2" in report.verified.different or value
    options = IngestOptions(learn_weights=False, verify=True, skip_unchanged=False)
    mended = await index.ingest(records(), options)
    assert mended.verified is not None
    assert mended.verified.ok


async def test_verify_encodes_some_texts_again(client: Any, esembed_index_name: str, encoders: Any) -> None:
    plan = PLAN.replace(sparse={}, dense={"e": PLAN.dense["e"]})
    index = await AsyncIndex.create(client, esembed_index_name, plan, encoder=encoders)
    rows = [{k: v for k, v in row.items() if k != "v"} for row in records()]
    await index.ingest(rows, QUIET)
    for doc_id in range(6):  # another model wrote over all of them
        vector = Bytes("other").encode_document([f"river {doc_id} bank"])[0]
        await overwrite(client, esembed_index_name, str(doc_id), e=vector.tolist())
    report = await index.ingest(rows, VERIFY)
    assert report.verified is not None
    assert report.verified.vectors == {"e": 6}
    assert any("6 of 6 stored texts" in line for line in report.warnings)


@pytest.mark.parametrize("quantization", ["hnsw", "int8_hnsw"])
@pytest.mark.parametrize("element_type", ["float", "byte"])
async def test_verify_knows_every_form_of_vector(
    client: Any, esembed_index_name: str, encoders: Any, quantization: str, element_type: str
) -> None:
    if element_type == "byte" and quantization != "hnsw":
        pytest.skip("bytes are quantized already")
    encoded = DenseField(
        encoder="custom:bytes",
        source=("body",),
        similarity="cosine",
        quantization=quantization,  # type: ignore[arg-type]
        element_type=element_type,  # type: ignore[arg-type]
    )
    brought = DenseField(encoder="precomputed", dims=4, similarity="dot_product")
    plan = PLAN.replace(dense={"e": encoded, "unit": brought})
    index = await AsyncIndex.create(client, esembed_index_name, plan, encoder=encoders)
    rows = [{**{k: v for k, v in row.items() if k != "v"}, "unit": [0.6, 0.8, 0, 0]} for row in records()]
    for _ in range(2):
        report = await index.ingest(rows, VERIFY)
        assert report.verified is not None
        assert (report.verified.same, report.verified.ok) == (6, True), (report.verified, report.warnings)


@pytest.mark.parametrize("store", ["nested", "documents"])
async def test_verify_knows_chunks(client: Any, esembed_index_name: str, encoders: Any, store: Any) -> None:
    plan = PLAN.replace(
        dense={"e": DenseField(encoder="custom:bytes", chunked=True, similarity="cosine")},
        chunk=ChunkOptions(source=("body",), store=store, max_tokens=16, overlap_tokens=2),
        sparse={},
    )
    index = await AsyncIndex.create(client, esembed_index_name, plan, encoder=encoders)
    rows = [{"_id": str(i), "body": "one two three. " * 20, "lang": "en"} for i in range(3)]
    for _ in range(2):
        report = await index.ingest(rows, VERIFY)
        assert report.verified is not None
        assert (report.verified.same, report.verified.ok) == (3, True), (report.verified, report.warnings)
    if store == "nested":
        await overwrite(client, esembed_index_name, "1", chunks=[])
        report = await index.ingest(rows, VERIFY)
        assert report.verified is not None
        assert report.verified.vectors == {"e": 1}


async def test_verify_asks_where_vectors_cant_be_read(
    client: Any, esembed_index_name: str, encoders: Any
) -> None:
    engine = AsyncEngineClient(client)
    opensearch = engine.engine == "opensearch"
    vector: dict[str, Any] = {"type": "dense_vector", "dims": 4, "similarity": "l2_norm"}
    vector["index_options"] = {"type": "hnsw"}
    if opensearch:
        method = {"name": "hnsw", "engine": "lucene"}
        vector = {"type": "knn_vector", "dimension": 4, "space_type": "l2", "method": method}
    mapping = {"_source": {"excludes": ["v"]}, "properties": {"body": {"type": "text"}, "v": vector}}
    settings = {"index": {"knn": True}} if opensearch else {}
    await engine.request("PUT", f"/{esembed_index_name}", body={"mappings": mapping, "settings": settings})
    dense = {"v": DenseField(encoder="precomputed", dims=4, similarity="l2_norm", quantization="hnsw")}
    plan = IndexPlan(text={"body": TextField()}, dense=dense)
    index = await AsyncIndex.attach(client, esembed_index_name, plan)
    rows = [{"_id": str(i), "body": f"river {i}", "v": [1, i, 0, 0]} for i in range(3)]
    first = await index.ingest(rows, VERIFY)
    assert first.verified is not None
    assert first.verified.ok, first.verified
    assert any("can't read the vectors" in line for line in first.warnings) is opensearch
    # A partial update by another program loses it on OpenSearch; Elasticsearch puts it back.
    lost: dict[str, Any] = {"other": "field"} if opensearch else {"v": None}
    await overwrite(client, esembed_index_name, "1", **lost)
    report = await index.ingest(rows, VERIFY)
    assert report.unchanged == 3
    assert report.verified is not None
    assert report.verified.vectors == {"v": 1}
