# Generated from tests/_async/test_source_rules.py by scripts/run_unasync.py; change that file and run the script.
"""Indices that don't keep whole documents: nothing is lost by what reads a document back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from esembed import (
    DenseField,
    FilterField,
    Index,
    IndexPlan,
    IngestOptions,
    MigrateOptions,
    SparseField,
    TextField,
)
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import EsembedError, RecordError, UnsupportedFeatureError

QUIET = IngestOptions(learn_weights=False)
PLAN = IndexPlan(
    text={"title": TextField()},
    dense={"v": DenseField(encoder="precomputed", dims=4, similarity="l2_norm", quantization="hnsw")},
    filter={"state": FilterField()},
)
NEAREST = q.knn("v", vector=[1, 0, 0, 0], k=3)


class Bytes:
    """A deterministic encoder."""

    def __init__(self) -> None:
        self.info = EncoderInfo(spec="custom:bytes", type="dense", dims=4, model="bytes", normalize=True)
        self.stats = EncodeStats()
        self.texts: list[str] = []

    def encode_document(self, texts: Any) -> Any:
        self.texts += texts
        out = np.full((len(texts), 4), 0.01, np.float32)
        for i, text in enumerate(texts):
            for byte in text.encode():
                out[i, byte % 4] += 1 + byte % 7
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    encode_query = encode_document

    def close(self) -> None:
        """Nothing."""


def vector(client: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dense field's mapping, and the index settings it needs."""
    if "opensearch" in type(client).__module__:
        method = {"name": "hnsw", "engine": "lucene"}
        return {"type": "knn_vector", "dimension": 4, "space_type": "l2", "method": method}, {"knn": True}
    options = {"type": "hnsw"}
    return {"type": "dense_vector", "dims": 4, "similarity": "l2_norm", "index_options": options}, {}


def foreign(client: Any, name: str, source: Any, **properties: Any) -> EngineClient:
    """An index that esembed didn't make, with three documents."""
    engine = EngineClient(client)
    mapping, settings = vector(client)
    fields = {"title": {"type": "text"}, "state": {"type": "keyword"}, "v": mapping, **properties}
    body = {"settings": {"index": settings}, "mappings": {"_source": source, "properties": fields}}
    engine.request("PUT", f"/{name}", body=body)
    for i in range(3):
        document = {"title": f"page {i}", "state": "draft", "v": [1, i, 0, 0], "note": f"note {i}"}
        engine.request("PUT", f"/{name}/_doc/{i}", body=document)
    engine.request("POST", f"/{name}/_refresh")
    return engine


@pytest.mark.parametrize(
    "source",
    [
        {"excludes": ["v"]},
        {"excludes": ["v*", "unmapped"]},
        {"includes": ["title", "state"]},
        {"excludes": ["title"]},
        {"enabled": False},
    ],
    ids=str,
)
def test_an_update_loses_nothing(client: Any, esembed_index_name: str, source: Any) -> None:
    foreign(client, esembed_index_name, source)
    index = Index.attach(client, esembed_index_name, PLAN)
    assert any(line.startswith("~ _source") for line in (index.inspect())["drift"])
    again = Index.open(client, esembed_index_name)
    assert any("_source" in note for note in index.notes) is any("_source" in note for note in again.notes)
    # Elasticsearch keeps vectors beside _source and puts them back, so there nothing would be lost.
    lost = set(index.state.live.source_rules.lost(index.state.live.mapping)) - {"esembed_hash"}
    assert any("_source" in note for note in index.notes) is bool(lost)
    if lost:
        with pytest.raises(RecordError, match="send the whole record"):
            index.update("1", {"state": "final"}, refresh=True)
    else:
        assert index.capabilities.engine == "elasticsearch"
        index.update("1", {"state": "final"}, refresh=True)
    assert sorted((index.search(NEAREST)).ids) == ["0", "1", "2"]
    assert sorted((index.search(q.match("page"))).ids) == ["0", "1", "2"]
    # A whole record, and an update that brings what would be lost, are fine.
    whole = {"_id": "1", "title": "page one", "state": "final", "v": [1, 1, 0, 0]}
    report = index.ingest([whole], QUIET)
    assert report.indexed == 1, report.errors
    assert sorted((index.search(NEAREST)).ids) == ["0", "1", "2"]
    if "v" in str(source.get("excludes")):
        index.update("2", {"state": "final", "v": [1, 2, 0, 0]}, refresh=True)
        assert sorted((index.search(NEAREST)).ids) == ["0", "1", "2"]
        assert (index.search(q.match_all(filter=q.term("state", "final")))).ids == ["1", "2"]


def test_what_cant_be_read_back_is_refused(client: Any, esembed_index_name: str) -> None:
    engine = foreign(client, esembed_index_name, {"excludes": ["title"]})
    encoded = DenseField(encoder="custom:bytes", source=("title",), similarity="cosine")
    plan = PLAN.replace(dense={**PLAN.dense, "e": encoded})
    index = Index.attach(client, esembed_index_name, plan, encoder={"e": Bytes()})
    before = (engine.request("GET", f"/{esembed_index_name}")).body
    with pytest.raises(UnsupportedFeatureError, match=r"backfill reads documents back.*'title'"):
        index.backfill()
    with pytest.raises(UnsupportedFeatureError, match="a migration reads documents back"):
        index.migrate(PLAN, options=MigrateOptions(alias=f"{esembed_index_name}-alias"))
    with pytest.raises(UnsupportedFeatureError, match="a copy of"):
        index.documents()
    assert (engine.request("GET", f"/{esembed_index_name}")).body == before, "nothing was changed"


def test_a_repair_that_cant_count_terms_is_refused(client: Any, esembed_index_name: str) -> None:
    engine = foreign(client, esembed_index_name, {"excludes": ["title"]})
    plan = PLAN.replace(sparse={"terms": SparseField(encoder="lexical", source=("title",))})
    index = Index.attach(client, esembed_index_name, plan)
    engine.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {}})
    before = (engine.request("GET", f"/{esembed_index_name}")).body
    with pytest.raises(UnsupportedFeatureError, match=r"counting terms reads documents back.*'title'"):
        Index.repair(client, esembed_index_name, index.plan)
    assert (engine.request("GET", f"/{esembed_index_name}")).body == before, "nothing was changed"


def test_backfill_refuses_to_lose_other_fields(client: Any, esembed_index_name: str) -> None:
    foreign(client, esembed_index_name, {"excludes": ["v"]})
    encoded = DenseField(encoder="custom:bytes", source=("title",), similarity="cosine")
    plan = PLAN.replace(dense={"e": encoded})
    index = Index.attach(client, esembed_index_name, plan, encoder=Bytes())
    if index.capabilities.engine == "opensearch":
        with pytest.raises(UnsupportedFeatureError, match="would lose 'v'"):
            index.backfill()
    else:
        assert (index.backfill(QUIET)).updated == 3
        assert sorted((index.search(q.knn("e", text="page", k=3))).ids) == ["0", "1", "2"]
    engine = EngineClient(client)
    exists = {"query": {"exists": {"field": "v"}}}
    found = engine.request("POST", f"/{esembed_index_name}/_count", body=exists)
    assert found.body["count"] == 3
    assert sorted((index.search(q.match("page"))).ids) == ["0", "1", "2"]


def test_what_is_encoded_here_is_encoded_again(client: Any, esembed_index_name: str) -> None:
    """Vectors that our encoders make are out of _source: an update of another field brings them again."""
    name = esembed_index_name
    foreign(client, name, {"excludes": ["e", "s"]})
    plan = PLAN.replace(
        dense={**PLAN.dense, "e": DenseField(encoder="custom:bytes", source=("title",), similarity="cosine")},
        sparse={"s": SparseField(encoder="lexical", source=("title",))},
    )
    encoder = Bytes()
    index = Index.attach(client, name, plan, encoder={"e": encoder})
    filled = index.backfill(QUIET)
    assert filled.updated == 3, filled.errors
    encoder.texts.clear()
    index.update("1", {"state": "final"}, refresh=True)
    # Elasticsearch keeps vectors beside _source and puts them back before an update.
    assert encoder.texts == (["page 1"] if index.capabilities.engine == "opensearch" else [])
    for query in (q.knn("e", text="page", k=3), q.sparse("s", text="page"), NEAREST, q.match("page")):
        assert sorted((index.search(query)).ids) == ["0", "1", "2"]
    index.update("1", {"title": "page one"}, refresh=True)
    for query in (q.knn("e", text="page", k=3), q.sparse("s", text="page"), NEAREST, q.match("page")):
        assert sorted((index.search(query)).ids) == ["0", "1", "2"]
    options = MigrateOptions(alias=f"{name}-alias", ingest=QUIET)
    encoder.texts.clear()
    report = index.migrate(
        plan.replace(text={"title": TextField(k1=1.0)}), options=options, encoder={"e": encoder}
    )
    assert report.documents == 3
    moved = Index.open(client, f"{name}-alias", encoder={"e": encoder})
    for query in (q.knn("e", text="page", k=3), q.sparse("s", text="page"), NEAREST, q.match("page")):
        assert sorted((moved.search(query)).ids) == ["0", "1", "2"]
    rows = moved.get("0", vectors=True)
    assert rows is not None
    assert "e" in rows, "the new version keeps whole documents"


def test_stored_fields_are_read_back(client: Any, esembed_index_name: str) -> None:
    name = esembed_index_name
    stored = {"title": {"type": "text", "store": True}}
    foreign(client, name, {"excludes": ["title"]}, **stored)
    encoder = Bytes()
    plan = PLAN.replace(
        dense={**PLAN.dense, "e": DenseField(encoder="custom:bytes", source=("title",), similarity="cosine")}
    )
    index = Index.attach(client, name, plan, encoder={"e": encoder})
    assert (index.get("1") or {})["title"] == "page 1"
    copy = Index.create(client, f"{name}-copy", PLAN)
    report = copy.ingest(index.documents(), QUIET)
    assert (report.indexed, sorted((copy.search(q.match("page"))).ids)) == (3, ["0", "1", "2"])
    options = MigrateOptions(alias=f"{name}-alias", ingest=QUIET)
    moved = index.migrate(PLAN, options=options)
    assert moved.documents == 3
    whole = Index.open(client, f"{name}-alias")
    assert (whole.get("1") or {})["title"] == "page 1"
    assert sorted((whole.search(NEAREST)).ids) == ["0", "1", "2"]


def test_vectors_are_read_from_doc_values_or_refused(client: Any, esembed_index_name: str) -> None:
    name = esembed_index_name
    foreign(client, name, {"excludes": ["v"]})
    index = Index.attach(client, name, PLAN)
    assert (index.get("1") or {})["title"] == "page 1"
    spread = q.diversify(NEAREST, "v", relevance=0.0)
    if index.capabilities.engine == "opensearch":
        with pytest.raises(UnsupportedFeatureError, match="diversify reads documents back"):
            index.search(spread, size=3)
        with pytest.raises(UnsupportedFeatureError, match=r"get\(vectors=True\)"):
            index.get("1", vectors=True)
        with pytest.raises(UnsupportedFeatureError, match="a migration"):
            index.migrate(PLAN, options=MigrateOptions(alias=f"{name}-alias"))
        return
    assert (index.search(spread, size=3)).ids == ["0", "2", "1"]
    assert (index.get("1", vectors=True) or {})["v"] == [1, 1, 0, 0]
    options = MigrateOptions(alias=f"{name}-alias", ingest=QUIET)
    index.migrate(PLAN.replace(text={"title": TextField(k1=1.0)}), options=options)
    moved = Index.open(client, f"{name}-alias")
    assert sorted((moved.search(NEAREST)).ids) == ["0", "1", "2"]


TEMPLATES = {
    "excludes": {"mappings": {"_source": {"excludes": ["v"]}}},
    "includes": {"mappings": {"_source": {"includes": ["title"]}}},
    "off": {"mappings": {"_source": {"enabled": False}}},
    "malformed": {"settings": {"index.mapping.ignore_malformed": True}},
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_template_of_the_cluster_loses_nothing(
    client: Any, esembed_index_name: str, template: dict[str, Any]
) -> None:
    engine, name = EngineClient(client), esembed_index_name
    body = {"index_patterns": [f"{name}*"], "priority": 900, "template": template}
    engine.request("PUT", f"/_index_template/{name}", body=body)
    try:
        plan = PLAN.replace(filter={**PLAN.filter, "n": FilterField(type="integer")})
        index = Index.create(client, name, plan)
        rows = [{"_id": str(i), "title": f"page {i}", "state": "draft", "v": [1, i, 0, 0]} for i in range(3)]
        report = index.ingest([*rows, {**rows[0], "_id": "bad", "n": "many"}], QUIET)
        assert (report.indexed, report.dead_lettered) == (3, 1), "a value that doesn't fit is refused"
        live = index.state.live
        try:
            index.update("1", {"state": "final"}, refresh=True)
            assert not live.source_rules.lost(live.mapping)
        except RecordError:
            assert any("_source" in note for note in index.notes)
            assert (index.inspect())["drift"] != []
        assert sorted((index.search(NEAREST)).ids) == ["0", "1", "2"]
        assert sorted((index.search(q.match("page"))).ids) == ["0", "1", "2"]
        verified = index.ingest(rows[::2], IngestOptions(learn_weights=False, verify=True))
        assert verified.unchanged == 2, "the hash is read where it is kept"
        assert verified.verified is not None
        assert (verified.verified.same, verified.verified.different_count) == (2, 0)
        synced = index.ingest(rows, IngestOptions(learn_weights=False, sync=True))
        assert synced.sync_deleted == 0
    finally:
        engine.request("DELETE", f"/_index_template/{name}")


def test_values_that_are_ignored_are_told(client: Any, esembed_index_name: str) -> None:
    number = {"n": {"type": "integer", "ignore_malformed": True}}
    foreign(client, esembed_index_name, {}, **number)
    plan = PLAN.replace(filter={**PLAN.filter, "n": FilterField(type="integer")})
    index = Index.attach(client, esembed_index_name, plan)
    assert any("ignore_malformed is set for n" in note for note in index.notes)
    record = {"_id": "9", "title": "page 9", "state": "new", "v": [1, 0, 0, 0], "n": "many"}
    report = index.ingest([record], QUIET)
    assert report.indexed == 1
    assert any("'n'" in line and "can't be searched" in line for line in report.warnings), report.warnings
    assert not any("can't be searched" in w for w in (index.ingest([record], QUIET)).warnings)


def test_attach_is_still_unpacked_as_a_pair(client: Any, esembed_index_name: str) -> None:
    foreign(client, esembed_index_name, {})
    attached = Index.attach(client, esembed_index_name, PLAN)
    with pytest.warns(DeprecationWarning, match="attach returns the index alone"):
        index, report = attached
    assert (index, report) == (attached, None)
    assert issubclass(UnsupportedFeatureError, EsembedError)
