# Generated from tests/_async/test_by_query.py by scripts/run_unasync.py; change that file and run the script.
"""Deleting and changing what matches a filter: chunks, statistics, limits, documents changed meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q
from esembed._sync import by_query as by_query_module
from esembed._sync._shim import in_thread
from esembed.errors import AliasError, DeleteLimitError, OptionsError, QueryError, RecordError
from esembed.ingest.options import IngestOptions
from esembed.types import Document

PLAN = IndexPlan.from_toml("""
id_field = "id"
[text.title]
[sparse.words]
encoder = "lexical"
source = ["title"]
[filter.lang]
[filter.year]
type = "integer"
""")

CHUNKED = """
id_field = "id"
[text.title]
[text.body]
[filter.lang]
[sparse.parts]
encoder = "lexical"
chunked = true
[chunk]
source = ["body"]
store = "STORE"
max_tokens = 8
overlap_tokens = 0
"""


def records(count: int = 100) -> list[dict[str, Any]]:
    return [
        {"id": f"d{n:03}", "title": f"red fox {n}", "lang": "de" if n % 10 == 0 else "en", "year": 1990 + n}
        for n in range(count)
    ]


def _ids(index: Index, filter: Any = None) -> set[str]:
    return set((index.search(q.match_all(), filter=filter, size=1000)).ids)


def test_what_matches_goes(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest(records(), IngestOptions(refresh=False))
    german = q.term("lang", "de")
    dry = index.delete_by_query(german, dry_run=True)
    assert dry.read == 10
    assert "dry run: 10 documents match" in dry.warnings[0]
    assert index.count() == 100
    report = index.delete_by_query(german)
    assert report.deleted == 10
    assert report.adds_up
    assert index.count() == 90
    assert not _ids(index, german)
    # The counts are those of what is left.
    index.load_statistics()
    statistics = index.state.pool.encoder("words").statistics
    assert statistics.documents == 90
    again = index.delete_by_query([german, q.range("year", gte=0)])
    assert again.read == 0


@pytest.mark.parametrize(
    ("filter", "error", "message"),
    [
        (None, QueryError, "which documents"),
        ([], QueryError, "which documents"),
        (q.term("colour", "red"), QueryError, "colour"),
        (q.range("year", gte="soon"), QueryError, "year"),
        ({"term": {"lang": "de"}}, QueryError, "filter must be a query"),
        (q.bool_(should=[q.sparse("words", text="fox")]), QueryError, "can't search for vectors"),
        (q.term("lang", "en"), DeleteLimitError, "90 of 100 documents match"),
        (q.match_all(), DeleteLimitError, "Nothing was deleted"),
    ],
)
def test_what_is_refused(
    client: Any, esembed_index_name: str, filter: Any, error: type[Exception], message: str
) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest(records())
    with pytest.raises(error, match=message):
        index.delete_by_query(filter)
    assert index.count() == 100
    if error is QueryError:
        with pytest.raises(error, match=message):
            index.update_by_query(filter, {"lang": "fr"})


def test_options_of_a_source_are_refused(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    for options in (
        IngestOptions(sync=True),
        IngestOptions(transform=lambda record: record),
        IngestOptions(fields={"a": "b"}),
        IngestOptions(vectors_only=True),
    ):
        with pytest.raises(OptionsError, match="is for records of a source"):
            index.delete_by_query(q.match_all(), options=options)
    with pytest.raises(OptionsError, match="between 0 and 1"):
        index.delete_by_query(q.match_all(), max_delete=2)
    for fields in ({}, None, [("a", 1)]):
        with pytest.raises(RecordError, match="mapping"):
            index.update_by_query(q.match_all(), fields)  # type: ignore[arg-type]


def test_fields_change_and_vectors_follow(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest(records(30))
    german = q.term("lang", "de")
    assert (index.update_by_query(german, {"year": 1}, dry_run=True)).read == 3
    report = index.update_by_query(german, {"title": "blauer Wal", "year": None})
    assert report.updated == 3
    assert report.adds_up
    wanted = {f"d{n:03}" for n in (0, 10, 20)}
    assert set((index.search(q.sparse("words"), text="Wal")).ids) == wanted
    assert _ids(index, q.bool_(must_not=[q.exists("year")])) == wanted
    # What is so already is unchanged.
    assert (index.update_by_query(german, {"title": "blauer Wal"})).unchanged == 3
    # A value that a field doesn't take is each record's own error.
    bad = index.update_by_query(german, {"year": "soon"})
    assert bad.dead_lettered == 3
    assert bad.adds_up


@pytest.mark.parametrize("store", ["nested", "documents"])
def test_chunks_go_along(client: Any, esembed_index_name: str, store: str) -> None:
    index = Index.create(client, esembed_index_name, IndexPlan.from_toml(CHUNKED.replace("STORE", store)))
    body = " ".join(f"word{n}" for n in range(40))
    rows = [
        {"id": f"d{n}", "title": f"t{n}", "body": f"{body} mark{n}", "lang": "de" if n < 2 else "en"}
        for n in range(6)
    ]
    index.ingest(rows)
    report = index.delete_by_query(q.term("lang", "de"), max_delete=0.5)
    assert (report.deleted, report.outdated) == (2, 0)
    hits = index.search(q.sparse("parts"), text="mark0 mark1 mark2", size=10)
    assert set(hits.ids) == {"d2"}
    whole = index.client.request("POST", f"/{esembed_index_name}/_count", body={"query": {"match_all": {}}})
    others = 4 if store == "nested" else whole.body["count"]
    assert index.count() == 4
    if store == "documents":
        left = index.client.request(
            "POST",
            f"/{esembed_index_name}/_search",
            body={"query": {"terms": {"esembed_parent": ["d0", "d1"]}}, "size": 5},
        )
        assert left.body["hits"]["hits"] == []
        assert others > 4
    # Their texts are encoded again, too.
    changed = index.update_by_query(q.ids(["d2"]), {"body": "entirely other"})
    assert changed.updated == 1
    assert set((index.search(q.sparse("parts"), text="entirely mark2")).ids) == {"d2"}


@pytest.mark.parametrize("store", ["none", "documents"])
def test_a_document_changed_meanwhile_stays(
    client: Any, esembed_index_name: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PLAN if store == "none" else IndexPlan.from_toml(CHUNKED.replace("STORE", store))
    index = Index.create(client, esembed_index_name, plan)
    body = " ".join(f"word{n}" for n in range(40))
    rows = [{"id": f"d{n}", "title": "t", "body": body, "lang": "de"} for n in range(4)]
    if store == "none":
        rows = [{k: v for k, v in row.items() if k != "body"} for row in rows]
    index.ingest(rows)
    found = in_thread(list, by_query_module._scan(index.state, {"match_all": {}}, None))
    index.update("d1", {"lang": "en"})
    monkeypatch.setattr(by_query_module, "_scan", lambda *_: found)
    if store == "documents":
        found = [document for document in found if "#" not in document.id]
    report = index.delete_by_query(q.term("lang", "de"), max_delete=1.0)
    assert (report.deleted, report.outdated, report.dead_lettered) == (3, 1, 0)
    assert report.adds_up
    assert "1 outdated" in report.summary()
    index.refresh()
    assert _ids(index) == {"d1"}
    if store == "documents":
        hits = index.search(q.sparse("parts"), text="word1 word39")
        assert hits.ids == ["d1"]
        assert hits[0].chunks


def test_through_an_alias(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN, alias=False)
    index.ingest(records(40))
    alias = f"{esembed_index_name}-de"
    index.client.request(
        "POST",
        "/_aliases",
        body={
            "actions": [
                {
                    "add": {
                        "index": esembed_index_name,
                        "alias": alias,
                        "filter": {"term": {"lang": "de"}},
                    }
                }
            ]
        },
    )
    tenant = Index.open(client, alias)
    report = tenant.delete_by_query(q.range("year", gte=2010), max_delete=1.0)
    assert report.deleted == 2
    assert index.count() == 38
    with pytest.raises(DeleteLimitError, match="2 of 2 documents"):
        tenant.delete_by_query(q.match_all())
    changed = tenant.update_by_query(q.match_all(), {"year": 7})
    assert changed.updated == 2
    assert _ids(index, q.term("year", 7)) == {"d000", "d010"}


def test_routing_is_kept(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("[text.title]\n[filter.lang]\n[index]\nshards = 3\n")
    index = Index.create(client, esembed_index_name, plan)
    index.ingest([Document(f"d{n}", {"title": "fox", "lang": "de"}, routing=f"tenant{n}") for n in range(12)])
    assert (index.update_by_query(q.term("lang", "de"), {"title": "wolf"})).updated == 12
    assert len(index.search("wolf", size=20)) == 12
    assert index.get("d5", routing="tenant5") == {"title": "wolf", "lang": "de"}
    index.update("d5", {"title": "bear"}, routing="tenant5", refresh=True)
    index.delete("d6", routing="tenant6", refresh=True)
    assert (index.search("bear")).ids == ["d5"]
    assert index.count() == 11
    assert (index.delete_by_query(q.match_all(), max_delete=1)).deleted == 11
    assert index.count() == 0


def test_an_alias_of_several_indices(client: Any, esembed_index_name: str) -> None:
    names = [f"{esembed_index_name}-{n}" for n in range(2)]
    for name in names:
        Index.create(client, name, PLAN, alias=False)
    alias = f"{esembed_index_name}-all"
    made = Index.open(client, names[0])
    made.client.request(
        "POST",
        "/_aliases",
        body={"actions": [{"add": {"index": name, "alias": alias}} for name in names]},
    )
    both = Index.open(client, alias)
    with pytest.raises(AliasError):
        both.delete_by_query(q.match_all(), max_delete=1)
    for name in names:
        (Index.open(client, name)).delete_index()
