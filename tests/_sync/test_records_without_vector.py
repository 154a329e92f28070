# Generated from tests/_async/test_records_without_vector.py by scripts/run_unasync.py; change that file and run the script.
"""Records that go in without a vector: which may, how they are counted and named, and what is left behind."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexOptions, IndexPlan, IngestOptions, IngestReport
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.errors import IndexExistsError, OptionsError, RecordError
from esembed.ingest.options import NAMED_IDS, MissingVectors
from esembed.migration.options import MigrateOptions

WORDS = "3 4\nred 1 0 0 0\nfox 0 1 0 0\nblue 0 0 1 0\n"
QUICK = IngestOptions(learn_weights=False, verify=True)
UNKNOWN = "zzqx"


def plan(folder: Path, optional: str = "", more: str = "", **dense: Any) -> IndexPlan:
    """A static vector of the body, a learned-free sparse one of the title, and two precomputed ones."""
    file = folder / "words.vec.txt"
    file.write_text(WORDS)
    sections = {
        "dense.v": f'encoder = "static:{file}"\nsource = ["body"]',
        "sparse.s": 'encoder = "lexical"\nsource = ["title"]',
        "dense.own": "dims = 3",
        "sparse.mine": 'encoder = "precomputed"',
    }
    text = "".join(
        f"[{name}]\n{options}\n" + ("optional = true\n" if name.partition(".")[2] in optional.split() else "")
        for name, options in sections.items()
    )
    return IndexPlan.from_toml(f"[text.body]\n[text.title]\n{text}{more}")


WHOLE = {"body": "red fox", "title": "red", "own": [1, 0, 0], "mine": {"red": 1.0}}
ALL = "v s own mine"


def counts(report: IngestReport) -> dict[str, tuple[int, int, int, list[str]]]:
    found = report.without_vector
    return {name: (m.documents, m.chunks, m.unknown, sorted(m.ids)) for name, m in sorted(found.items())}


def stored(index: Index, doc_id: str) -> dict[str, Any]:
    found = index.get(doc_id, vectors=True)
    assert found is not None
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def test_each_field_says_for_itself(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path, "v mine"), alias=False)
    records = [
        {**WHOLE, "_id": "whole"},
        {**WHOLE, "_id": "no body", "body": None},
        {**WHOLE, "_id": "blank body", "body": "  "},
        {**WHOLE, "_id": "unknown", "body": UNKNOWN},
        {**WHOLE, "_id": "no mine", "mine": None},
        {**WHOLE, "_id": "empty mine", "mine": {}},
        {**WHOLE, "_id": "no title", "title": None},
        {**WHOLE, "_id": "unknown title", "title": "???"},
        {**WHOLE, "_id": "no own", "own": None},
        {**WHOLE, "_id": "zero own", "own": [0, 0, 0]},
    ]
    report = index.ingest(records, QUICK)
    assert report.adds_up
    assert (report.indexed, report.dead_lettered) == (7, 3)
    assert counts(report) == {
        "v": (3, 0, 1, ["blank body", "no body", "unknown"]),
        "mine": (2, 0, 1, ["empty mine", "no mine"]),
        "s": (1, 0, 1, ["unknown title"]),
    }
    reasons = {error.id: error.reason for error in report.errors}
    assert set(reasons) == {"no title", "no own", "zero own"}
    assert "let 's' be missing: optional = true in the plan" in reasons["no title"]
    assert "--optional own" in reasons["no own"]
    assert "no direction" in reasons["zero own"]
    assert report.verified is not None
    assert report.verified.vectors == {}, report.verified
    assert "v" not in stored(index, "unknown")
    assert "mine" not in stored(index, "empty mine")
    again = index.ingest(records, QUICK)
    assert again.unchanged == 7
    assert again.verified is not None
    assert again.verified.ok, "a text without a vector is as it should be"
    assert counts(again) == {}
    # The other legs find it, and it is not in the way of anybody.
    assert (index.search(q.match(UNKNOWN, fields="body"))).ids == ["unknown"]
    assert "unknown" not in (index.search(q.knn("v", text="red"))).ids


def test_verify_still_sees_a_vector_that_was_lost(
    client: Any, esembed_index_name: str, tmp_path: Path
) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path, ALL), alias=False)
    records = [{"_id": "known", "body": "red"}, {"_id": "unknown", "body": UNKNOWN}]
    index.ingest(records, QUICK)
    index.client.request(
        "POST", f"/{esembed_index_name}/_update/known", params={"refresh": "true"}, body={"doc": {"v": None}}
    )
    report = index.ingest(records, QUICK)
    assert report.verified is not None
    assert (report.verified.different, report.verified.vectors) == (("known",), {"v": 1})


def test_an_update_takes_the_old_vector_away(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path, ALL), alias=False)
    index.ingest([{**WHOLE, "_id": "1"}], QUICK)
    assert set(stored(index, "1")) >= {"v", "s", "own", "mine"}
    steps: list[tuple[dict[str, Any], str]] = [
        ({"body": UNKNOWN}, "v"),
        ({"title": "???"}, "s"),
        ({"own": [0, 0, 0]}, "own"),
        ({"mine": {}}, "mine"),
        ({"body": None}, "v"),
        ({"title": ""}, "s"),
        ({"own": None}, "own"),
        ({"mine": None}, "mine"),
    ]
    for change, field in steps:
        before = stored(index, "1")
        report = index.ingest([{"_id": "1", "op": "update", **change}], QUICK)
        assert report.updated == 1, (change, report)
        assert list(report.without_vector) == [field], change
        assert report.without_vector[field].ids == ["1"]
        now = stored(index, "1")
        assert set(before) - set(now) - {"body", "title"} == {field}, change
        assert report.verified is not None
        assert report.verified.vectors == {}, (change, report.verified)
        # And what comes back is there again.
        index.ingest([{"_id": "1", "op": "update", **{k: WHOLE[k] for k in change}}], QUICK)
        assert set(stored(index, "1")) == set(WHOLE) | {"v", "s"}, change
    index.update("1", {"body": UNKNOWN}, refresh=True)
    assert (index.search(q.knn("v", text="red"))).ids == []
    assert "own" in stored(index, "1")


def test_a_field_that_is_not_optional_refuses_an_update(
    client: Any, esembed_index_name: str, tmp_path: Path
) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path), alias=False)
    index.ingest([{**WHOLE, "_id": "1"}], QUICK)
    for change in ({"body": ""}, {"own": [0, 0, 0]}):
        with pytest.raises(RecordError):
            index.update("1", change)
    index.update("1", {"body": UNKNOWN}, refresh=True)
    assert "v" not in stored(index, "1")


def test_for_one_load(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path), alias=False)
    bare = [{"_id": str(number), "own": [1, 0, 0], "title": "red"} for number in range(NAMED_IDS + 2)]
    report = index.ingest(bare, IngestOptions(learn_weights=False, optional=["v", "mine"]))
    assert report.indexed == len(bare)
    assert {name: len(one.ids) for name, one in report.without_vector.items()} == {
        "v": NAMED_IDS,
        "mine": NAMED_IDS,
    }
    assert f"v: {len(bare)} documents without a vector: 0, 1, " in report.summary()
    assert report.summary().count(", …") == 2
    assert report.to_dict()["without_vector"]["v"]["documents"] == len(bare)
    assert (index.ingest([{"_id": "x"}], IngestOptions(learn_weights=False, optional=["*"]))).indexed == 1
    with pytest.raises(OptionsError, match="no vector field 'w'"):
        index.ingest(bare, IngestOptions(optional=["w"]))
    for wrong in ("v", [1]):
        with pytest.raises(OptionsError, match="a list of vector fields"):
            IngestOptions(optional=wrong)  # type: ignore[arg-type]


def test_the_old_switch_works_and_says_so(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path), alias=False)
    with pytest.warns(DeprecationWarning, match="optional = true"):
        report = index.ingest([{"_id": "1"}], IngestOptions(learn_weights=False, on_missing_text="skip"))
    assert report.indexed == 1
    assert sorted(report.without_vector) == sorted(ALL.split())
    assert any("on_missing_text" in line for line in report.warnings)


CHUNKS = 'chunked = true\n[chunk]\nsource = ["body"]\nmax_tokens = 8\noverlap_tokens = 0\nboundary = "word"'
LONG = " ".join(["red fox blue"] * 4 + [UNKNOWN] * 12)


def chunked(folder: Path, store: str) -> IndexPlan:
    file = folder / "words.vec.txt"
    file.write_text(WORDS)
    return IndexPlan.from_toml(
        f'[text.body]\n[dense.v]\nencoder = "static:{file}"\noptional = true\n{CHUNKS}\nstore = "{store}"'
    )


@pytest.mark.parametrize("store", ["nested", "documents"])
def test_chunks(client: Any, esembed_index_name: str, tmp_path: Path, store: str) -> None:
    pytest.importorskip("semantic_text_splitter")
    index = Index.create(client, esembed_index_name, chunked(tmp_path, store), alias=False)
    records = [{"_id": "long", "body": LONG}, {"_id": "unknown", "body": UNKNOWN}, {"_id": "none"}]
    report = index.ingest(records, QUICK)
    assert report.indexed == 3, report
    found = report.without_vector["v"]
    assert (found.documents, sorted(found.ids)) == (2, ["long", "none", "unknown"])
    assert found.chunks == found.unknown > 1, "those of the long text, and the one of the unknown text"
    assert (index.search(q.knn("v", text="fox"))).ids == ["long"]
    again = index.ingest(records, QUICK)
    assert again.unchanged == 3
    assert again.verified is not None
    assert again.verified.ok, again.verified
    # Chunks of the text that was there before don't stay.
    for record in ({"_id": "long"}, {"_id": "long", "op": "update", "body": None}):
        index.ingest(records, QUICK)
        report = index.ingest([record], IngestOptions(learn_weights=False))
        assert report.without_vector["v"].ids == ["long"]
        assert (index.search(q.knn("v", text="fox"))).ids == []
        index.ingest(records, IngestOptions(learn_weights=False, skip_unchanged=False))


def test_backfill_and_migration(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    engine = EngineClient(client)
    settings = {"index": {"knn": True}} if engine.engine == "opensearch" else {}
    body = {"settings": settings, "mappings": {"properties": {"body": {"type": "text"}}}}
    engine.request("PUT", f"/{esembed_index_name}", body=body)
    for doc_id, text in {"1": "red", "2": UNKNOWN, "3": None}.items():
        engine.request(
            "PUT", f"/{esembed_index_name}/_doc/{doc_id}", params={"refresh": "true"}, body={"body": text}
        )
    file = tmp_path / "words.vec.txt"
    file.write_text(WORDS)
    made = IndexPlan.from_toml(
        f'[text.body]\n[dense.v]\nencoder = "static:{file}"\nsource = ["body"]\noptional = true'
    )
    index = Index.attach(client, esembed_index_name, made)
    report = index.backfill(IngestOptions(learn_weights=False))
    assert report.updated == 3
    assert counts(report) == {"v": (2, 0, 1, ["2", "3"])}
    assert (index.search(q.knn("v", text="red"))).ids == ["1"]
    # The text changes behind our back: the next backfill takes the old vector away.
    doc = {"doc": {"body": UNKNOWN}}
    path = f"/{esembed_index_name}/_update/1"
    engine.request("POST", path, params={"refresh": "true"}, body=doc)
    report = index.backfill(IngestOptions(learn_weights=False))
    assert counts(report) == {"v": (1, 0, 1, ["1"])}
    assert not (index.search(q.knn("v", text="red"))).ids
    alias = f"{esembed_index_name}-live"
    try:
        moved = index.migrate(made.replace(index=IndexOptions(shards=2)), options=MigrateOptions(alias=alias))
        assert moved.documents == 3
        assert {name: sorted(one.ids) for name, one in moved.without_vector.items()} == {"v": ["1", "2", "3"]}
    finally:
        for name in made_indices(engine, esembed_index_name):
            engine.request("DELETE", f"/{name}", ignore=[404])


def made_indices(engine: EngineClient, name: str) -> list[str]:
    """The versions that a migration made."""
    found = engine.request("GET", f"/{name}*", ignore=[404])
    return [one for one in found.body if one != name]


def test_optional_changes_in_place(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path), alias=False)
    index.ingest([{**WHOLE, "_id": "1"}], QUICK)
    looser = plan(tmp_path, "v s")
    with pytest.raises(IndexExistsError, match=r"dense\.v\.optional is not set in the index and true"):
        Index.create(client, esembed_index_name, looser, exist_ok=True, alias=False)
    report = index.migrate(looser, options=MigrateOptions(alias=f"{esembed_index_name}-live"))
    assert report.in_place
    assert report.notes == []
    allowed = [looser.dense["v"].encoder]
    opened = Index.open(client, esembed_index_name, allow_encoders=allowed)
    assert opened.plan.dense["v"].optional
    assert opened.plan.sparse["s"].optional
    assert not opened.plan.dense["own"].optional
    loaded = opened.ingest([{"_id": "2", "own": [1, 0, 0], "mine": {"a": 1}}], QUICK)
    assert sorted(loaded.without_vector) == ["s", "v"]


def test_reports_merge_and_pickle() -> None:
    one = IngestReport(without_vector={"v": MissingVectors(documents=2, unknown=1, ids=["a", "b"])})
    two = IngestReport(
        without_vector={
            "v": MissingVectors(documents=9, chunks=3, ids=list("cdefghijk")),
            "w": MissingVectors(chunks=1, ids=["z"]),
        }
    )
    both = pickle.loads(pickle.dumps(one.merge(two)))
    assert both.without_vector["v"] == MissingVectors(
        documents=11, chunks=3, unknown=1, ids=list("abcdefghij")
    )
    assert both.without_vector["w"] == two.without_vector["w"]
    assert one.without_vector["v"].ids == ["a", "b"], "merging changes neither"
    assert "w: 1 chunk without a vector: z" in both.summary()
    assert "v: 11 documents and 3 chunks without a vector (1 with a text" in both.summary()
