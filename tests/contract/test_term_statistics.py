"""Term statistics of lexical fields are those of the whole index, whatever happened to the loads."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from query_engines import World
from term_child import rows

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed._sync.term_statistics import counted_state, load_statistics
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.ingest import term_counter
from esembed.ingest.term_counter import CountedState

World.__test__ = False  # type: ignore[attr-defined]

PLAN = IndexPlan.from_toml(
    '[text.body]\n[sparse.terms]\nencoder = "lexical"\nsource = ["body"]\nparams = { avgdl = 4.0 }\n'
)
CHUNKED = """
[text.body]
[sparse.terms]
encoder = "lexical"
chunked = true
params = {{ avgdl = 4.0 }}
[chunk]
source = ["body"]
max_tokens = 8
overlap_tokens = 0
boundary = "word"
store = "{store}"
"""


def options(**more: Any) -> IngestOptions:
    return IngestOptions(learn_weights=False, dead_letters=None, **more)


def kept(index: Index) -> LexicalStatistics:
    """The counts that queries of this index are weighted by from now on."""
    opened = Index.open(index.client.official, index.name)
    return load_statistics(opened.state.client, opened.state.stored.statistics["terms"])


def clean(world: World, records: list[dict[str, Any]], plan: IndexPlan = PLAN) -> LexicalStatistics:
    """The counts of a load that nothing happened to."""
    index = Index.create(world.official, f"{world.name}-clean", plan)
    try:
        index.ingest(records, options())
        return kept(index)
    finally:
        index.delete_index()


def check(world: World, index: Index, records: list[dict[str, Any]], plan: IndexPlan = PLAN) -> None:
    found, expected = kept(index), clean(world, records, plan)
    assert found == expected, (found.documents, expected.documents, found.unsettled, len(found.df))


@pytest.fixture
def index(query_world: World) -> Index:
    return Index.create(query_world.official, query_world.name, PLAN)


def engine_url(world: World) -> str:
    if world.client.engine == "elasticsearch":
        return str(next(iter(world.official.transport.node_pool.all())).base_url)
    host = world.official.transport.hosts[0]
    return f"http://{host['host']}:{host['port']}"


def test_a_load_that_was_killed_is_counted_whole_by_the_next(query_world: World, index: Index) -> None:
    child = str(Path(__file__).with_name("term_child.py"))
    for count in (300, 900):
        command = [sys.executable, child, query_world.client.engine, engine_url(query_world), index.name]
        killed = subprocess.run([*command, str(count)], timeout=120)
        assert killed.returncode == -signal.SIGKILL
    report = Index.open(index.client.official, index.name).ingest(rows(2_000), options())
    assert report.unchanged >= 900
    assert any("terms counted again over 2000 documents" in line for line in report.warnings)
    check(query_world, index, rows(2_000))
    # Nothing more to do, and nothing is done, from any object that has the index open.
    again = index.ingest(rows(2_000), options())
    assert (again.unchanged, again.stage_seconds.get("terms")) == (2_000, None)
    check(query_world, index, rows(2_000))


def test_a_load_that_ends_before_it_writes_the_counts_is_mended_by_a_run_without_changes(
    query_world: World, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.ingest(rows(200), options())

    def ends(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("esembed._sync.ingest._replace_statistics", ends)
        with pytest.raises(KeyboardInterrupt):
            Index.open(index.client.official, index.name).ingest(rows(300), options())
    report = index.ingest(rows(300), options())
    assert report.unchanged == 300
    check(query_world, index, rows(300))


def test_new_documents_are_added_without_counting_all_again(query_world: World, index: Index) -> None:
    for count in (100, 250, 251, 400):
        report = index.ingest(rows(count), options())
        assert "terms" not in report.stage_seconds
    check(query_world, index, rows(400))


CHANGES: Mapping[str, list[dict[str, Any]]] = {
    "replaced": [{"_id": "d3", "body": "teapot of another kind"}, {"_id": "new", "body": "kettle"}],
    "one after the other": [{"_id": "d3", "body": "kettle"}, {"_id": "d3", "body": "kettle kettle pot"}],
    "updated": [{"_id": "d3", "op": "update", "body": "kettle"}],
    "deleted": [{"_id": f"d{n}", "op": "delete"} for n in range(0, 100, 3)],
    "deleted, not there": [{"_id": "nobody", "op": "delete"}],
}


@pytest.mark.parametrize("name", CHANGES)
def test_deltas_are_those_of_a_clean_load(query_world: World, index: Index, name: str) -> None:
    index.ingest(rows(200), options())
    index.ingest(CHANGES[name], options())
    now = {row["_id"]: row["body"] for row in rows(200)}
    for row in CHANGES[name]:
        if row.get("op") == "delete":
            now.pop(row["_id"], None)
        else:
            now[row["_id"]] = row["body"]
    check(query_world, index, [{"_id": key, "body": body} for key, body in now.items()])
    hits = index.search(q.sparse("terms", text="kettle server"), size=5)
    expected = sorted(key for key, body in now.items() if "kettle" in body)
    assert sorted(hits.ids[: len(expected)]) == expected


def test_sync_single_changes_and_other_writers_are_counted(query_world: World, index: Index) -> None:
    index.ingest(rows(200), options())
    index.ingest(rows(190), options(sync=True))
    check(query_world, index, rows(190))
    index.delete("d7")
    index.update("d8", {"body": "kettle"})
    client = query_world.client
    client.request("DELETE", f"/{index.name}/_doc/d9")
    client.request("PUT", f"/{index.name}/_doc/d10", body={"body": "a pot by hand"})
    index.ingest([{"_id": "more", "body": "more"}], options())
    gone = ("d7", "d8", "d9", "d10")
    now = [row for row in rows(190) if row["_id"] not in gone]
    now += [{"_id": "d8", "body": "kettle"}, {"_id": "d10", "body": "a pot by hand"}]
    check(query_world, index, [*now, {"_id": "more", "body": "more"}])


def test_two_loads_at_a_time(query_world: World, index: Index) -> None:
    """Each one counts what it writes itself; the last one sees that there is more."""
    other = Index.open(index.client.official, index.name)

    def meanwhile() -> Any:
        yield from rows(100)[:50]
        other.ingest(rows(200)[100:], options())
        yield from rows(100)[50:]

    index.ingest(meanwhile(), options(flush_interval_seconds=0.01, encode_batch_documents=10))
    check(query_world, index, rows(200))


@pytest.mark.parametrize("store", ["nested", "documents"])
def test_chunks_are_counted_as_the_load_counts_them(query_world: World, store: str) -> None:
    plan = IndexPlan.from_toml(CHUNKED.format(store=store))
    index = Index.create(query_world.official, query_world.name, plan)
    text = "one two three four {} six seven eight nine ten eleven"
    records = [{"_id": f"d{n}", "body": text.format(f"five{n}")} for n in range(50)]
    index.ingest(records, options())
    first = kept(index)
    assert first.documents == 100
    index.refresh_statistics()
    assert kept(index) == first
    records[3] = {"_id": "d3", "body": "one"}
    index.ingest(records, options())
    check(query_world, index, records, plan)


def test_a_backfill_counts_each_document_once(query_world: World, index: Index) -> None:
    index.ingest(rows(100), options())
    index.backfill(options(skip_unchanged=False))
    check(query_world, index, rows(100))


def test_large_indices_tolerate_a_share_and_say_so(
    query_world: World, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_counter, "ALWAYS_RECOUNTED", 100)
    records = rows(400)
    index.ingest(records, options())
    for number in range(4):  # 1 % of 400
        records[number] = {"_id": f"d{number}", "body": "kettle"}
        report = index.ingest(records, options())
        assert any(f"{number + 1} of 400 documents were replaced" in line for line in report.warnings)
        assert kept(index).unsettled == number + 1
    index.delete("d399")
    del records[399]
    report = index.ingest(records, options())
    assert any("counted again over 399" in line for line in report.warnings)
    check(query_world, index, records)


@pytest.mark.parametrize("counted", [None, 1, {}, {"documents": "many"}, {"documents": True}])
def test_what_meta_says_of_the_counts_is_not_trusted(query_world: World, index: Index, counted: Any) -> None:
    assert CountedState.from_meta(counted) is None
    index.ingest(rows(20), options())
    meta = query_world.client.request("GET", f"/{index.name}/_mapping").body[index.concrete_index][
        "mappings"
    ]["_meta"]
    meta["esembed"]["counted"] = counted
    meta["esembed"]["statistics"]["terms"] = "0" * 64
    query_world.client.request("PUT", f"/{index.name}/_mapping", body={"_meta": meta})
    Index.open(index.client.official, index.name).ingest(rows(21), options())
    check(query_world, index, rows(21))


def test_the_state_of_an_index_changes_with_every_write(query_world: World, index: Index) -> None:
    client, path = query_world.client, f"/{index.name}/_doc"
    seen = [counted_state(client, index.name)]
    assert seen[0].documents == 0
    for method, body in (("PUT", {"body": "a"}), ("PUT", {"body": "a"}), ("DELETE", None), ("PUT", {})):
        client.request(method, f"{path}/1", body=body)
        seen.append(counted_state(client, index.name))
    # An index that was emptied has the terms of an empty one; all others differ.
    assert len({(s.documents, s.sequence_sum, s.sequence_last) for s in seen}) == len(seen) - 1
    assert [s.operations for s in seen] == [0, 1, 2, 3, 4]
    assert seen[1].changes_until(seen[4]) == 3
