# Generated from tests/_async/test_synthetic_source.py by scripts/run_unasync.py; change that file and run the script.
"""Indices that build ``_source`` from what they index (synthetic on Elasticsearch, derived on OpenSearch):
whatever reads a document back and writes it again keeps every value and every vector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from esembed import (
    ChunkOptions,
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
from esembed.dialect.mapping import compile_mapping
from esembed.errors import EngineRequestError, UnsupportedFeatureError

from .search_world import data
from .test_source_rules import Bytes

QUIET = IngestOptions(learn_weights=False, refresh=True, dead_letters=None, verify=True)
SYNTHETIC = {"index.mapping.source.mode": "synthetic"}
PLAN = IndexPlan(
    text={"title": TextField(), "meta.note": TextField()},
    dense={
        "v": DenseField(encoder="precomputed", dims=4, similarity="l2_norm", quantization="hnsw"),
        "e": DenseField(encoder="custom:bytes", source=("title",), dims=4, quantization="hnsw"),
    },
    sparse={"terms": SparseField(encoder="precomputed")},
    filter={"tags": FilterField(), "year": FilterField(type="integer")},
)


def record(number: int) -> dict[str, Any]:
    """One whose lists come back in another order."""
    return {
        "_id": str(number),
        "title": f"page {number}",
        "meta": {"note": f"note {number}", "unmapped": [3, 1, 3]},
        "tags": ["z", "a", "z"],
        "year": 2000 + number,
        "v": [1.0, float(number), 0.0, 0.0],
        "terms": {f"w{number}.x": 1.5, "all": 1.0 + number},
    }


@contextmanager
def template(client: Any, name: str, settings: dict[str, Any]) -> Iterator[EngineClient]:
    """New indices whose names begin so have these settings, as the cluster's owners may want it."""
    engine = EngineClient(client)
    body = {"index_patterns": [f"{name}*"], "template": {"settings": settings}}
    engine.request("PUT", f"/_index_template/{name}", body=body)
    try:
        yield engine
    finally:
        engine.request("DELETE", f"/_index_template/{name}")
        for index in (engine.request("GET", f"/{name}*")).body:
            engine.request("DELETE", f"/{index}")


def found(index: Index) -> dict[str, list[str]]:
    """What every field finds."""
    queries = {
        "v": q.knn("v", vector=[1, 0, 0, 0], k=9),
        "e": q.knn("e", text="page 1", k=9),
        "terms": q.sparse("terms", vector={"all": 1.0}),
        "rare": q.sparse("terms", vector={"w1.x": 1.0}),
        "title": q.match("page", fields="title"),
        "note": q.match("note", fields="meta.note"),
        "tags": q.match_all(filter=q.term("tags", "z")),
        "year": q.match_all(filter=q.range("year", gte=2000)),
    }
    return {name: sorted((index.search(query)).ids) for name, query in queries.items()}


def test_nothing_is_lost_on_elasticsearch(client: Any, esembed_index_name: str) -> None:
    if EngineClient(client).engine != "elasticsearch":
        pytest.skip("OpenSearch's derived source knows no vectors, see below")
    name = esembed_index_name
    everything = ["0", "1", "2"]
    with template(client, name, SYNTHETIC) as engine:
        index = Index.create(client, f"{name}-v1", PLAN, encoder={"e": Bytes()}, alias=False)
        assert any("synthetic" in note for note in index.notes)
        assert any("synthetic" in line for line in (index.inspect())["drift"])
        report = index.ingest([record(number) for number in range(3)], QUIET)
        assert (report.indexed, report.dead_lettered, report.warnings) == (3, 0, [])
        before = found(index)
        assert before == {**dict.fromkeys(before, everything), "rare": ["1"]}
        assert (index.ingest([record(1)], QUIET)).unchanged == 1

        # Updates: of another field, of what is encoded, of what was brought.
        index.update("1", {"year": 2011}, refresh=True)
        assert found(index) == before
        index.update("1", {"title": "page one", "meta.note": "note one"}, refresh=True)
        assert found(index) == before
        assert (index.search(q.knn("e", text="page one"), size=1)).ids == ["1"]
        index.update("1", {"v": [1.0, 9.0, 0.0, 0.0]}, refresh=True)
        assert (index.search(q.knn("v", vector=[1, 9, 0, 0]), size=1)).ids == ["1"]
        assert found(index) == before
        document = index.get("1", vectors=True)
        assert document is not None
        assert document["meta"] == {"note": "note one", "unmapped": [3, 1, 3]}
        assert (document["tags"], document["year"]) == (["a", "z"], 2011)
        like = index.search(q.knn("v", vector=document["v"]), size=1)
        assert like.ids == ["1"]

        # A copy, by the index as a source.
        copy = Index.create(client, f"{name}-copy", PLAN, encoder={"e": Bytes()}, alias=False)
        report = copy.ingest(index.documents(), QUIET)
        assert (report.indexed, report.dead_lettered) == (3, 0), report.errors
        assert found(copy) == before

        # A migration takes over what it can and writes the rest again.
        encoder = Bytes()
        more = index.plan.replace(filter={**PLAN.filter, "meta.more": FilterField()})
        migrated = index.migrate(more, options=MigrateOptions(alias=f"{name}-alias"), encoder={"e": encoder})
        assert set(migrated.copied) == {"e", "v", "terms"}
        assert migrated.documents == 3
        after = Index.open(client, f"{name}-alias", encoder={"e": Bytes()})
        assert after.concrete_index != index.concrete_index
        assert found(after) == before
        assert (engine.request("GET", f"/{after.concrete_index}/_settings")).body

        # A backfill of a field that is new, in an index that somebody else made and filled.
        lesser = PLAN.replace(dense={"v": PLAN.dense["v"]})
        body = dict(compile_mapping(lesser, index.capabilities).body)
        body["mappings"]["properties"].pop("esembed_hash")
        engine.request("PUT", f"/{name}-foreign", body=body)
        for number in range(3):
            source = {key: value for key, value in record(number).items() if key not in ("_id", "terms")}
            source["terms"] = {"all": 1.0, **({"w1": 1.0} if number == 1 else {})}
            engine.request("PUT", f"/{name}-foreign/_doc/{number}", body=source)
        both = lesser.replace(dense={**lesser.dense, "e": PLAN.dense["e"]})
        attached = Index.attach(client, f"{name}-foreign", both, encoder={"e": Bytes()})
        assert attached.fields_to_fill == ("e",)
        filled = attached.backfill(IngestOptions(learn_weights=False, refresh=True, dead_letters=None))
        assert (filled.updated, filled.dead_lettered) == (3, 0), filled.errors
        assert found(attached) == {**before, "rare": []}


def test_chunks_on_elasticsearch(client: Any, esembed_index_name: str) -> None:
    if EngineClient(client).engine != "elasticsearch":
        pytest.skip("OpenSearch's derived source knows no vectors, see below")
    name = esembed_index_name
    tiny = DenseField(encoder="custom:tiny", dims=data.DIMS, quantization="hnsw", chunked=True)
    plan = IndexPlan(
        text={"title": TextField()},
        dense={"made": tiny},
        filter={"lang": FilterField()},
        chunk=ChunkOptions(source=("title",), max_tokens=8, overlap_tokens=0),
    )
    rows = [{"_id": str(n), "title": f"red dog. blue house {n}. " * 6, "lang": "en"} for n in range(3)]
    with template(client, name, SYNTHETIC):
        index = Index.create(client, f"{name}-v1", plan, encoder=data.TinyDense(), alias=False)
        assert (index.ingest(rows, QUIET)).indexed == 3
        index.update("1", {"lang": "de"}, refresh=True)
        hits = index.search(q.knn("made", text="red dog"), size=3)
        assert sorted(hits.ids) == ["0", "1", "2"]
        assert all("red dog" in hit.chunks[0]["text"] for hit in hits)
        migrated = index.migrate(
            index.plan.replace(filter={"lang": FilterField(), "n": FilterField()}),
            options=MigrateOptions(alias=f"{name}-alias"),
            encoder=data.TinyDense(),
        )
        assert (migrated.documents, migrated.vectors_encoded) == (3, 0), "chunk vectors are taken over"
        after = Index.open(client, f"{name}-alias", encoder=data.TinyDense())
        assert (after.search(q.knn("made", text="red dog"), size=3)).ids == hits.ids


def test_derived_source_on_opensearch(client: Any, esembed_index_name: str) -> None:
    if EngineClient(client).engine != "opensearch":
        pytest.skip("derived source is OpenSearch's")
    name = esembed_index_name
    plan = IndexPlan(
        text={"title": TextField()}, filter={"tags": FilterField(), "year": FilterField(type="integer")}
    )
    derived = {"index.derived_source.enabled": True}
    with template(client, name, derived) as engine:
        # It derives from doc values and stored fields, and no vector has any: the engine refuses the mapping.
        with pytest.raises(EngineRequestError, match=r"Derive source is not supported for field \[[ev]\]"):
            Index.create(client, f"{name}-v1", PLAN.replace(sparse={}), encoder={"e": Bytes()}, alias=False)
        assert (engine.request("GET", f"/{name}*")).body == {}, "no index is left behind"
        properties = {
            "title": {"type": "text", "store": True},
            "tags": {"type": "keyword"},
            "year": {"type": "integer"},
        }
        engine.request("PUT", f"/{name}-v1", body={"mappings": {"properties": properties}})
        index = Index.attach(client, f"{name}-v1", plan)
        assert any("synthetic" in note for note in index.notes)
        rows = [{k: v for k, v in record(n).items() if k not in ("v", "terms", "meta")} for n in range(3)]
        report = index.ingest(rows, QUIET)
        assert (report.indexed, report.dead_lettered) == (3, 0), report.errors
        index.update("1", {"year": 2011}, refresh=True)
        assert index.get("1") == {"title": "page 1", "tags": ["a", "z"], "year": 2011}
        assert sorted((index.search("page")).ids) == ["0", "1", "2"]
        assert (Index.open(client, f"{name}-v1")).plan == index.plan
        engine.request("PUT", f"/{name}-v2", body={"mappings": {"properties": properties}})
        more = plan.replace(dense={"e": PLAN.dense["e"]})
        with pytest.raises(UnsupportedFeatureError, match=r"index\.knn is fixed when an index is created"):
            Index.attach(client, f"{name}-v2", more, encoder={"e": Bytes()})
