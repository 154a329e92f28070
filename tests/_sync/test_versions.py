# Generated from tests/_async/test_versions.py by scripts/run_unasync.py; change that file and run the script.
"""A feed whose records come out of order, and how far it is settled."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.errors import PlanError
from esembed.ingest.options import IngestOptions, Settled
from esembed.types import Document

PLAN = IndexPlan.from_toml("""
id_field = "id"
version_field = "rev"
[text.title]
[sparse.words]
encoder = "lexical"
source = ["title"]
""")
CHUNKED = IndexPlan.from_toml("""
id_field = "id"
version_field = "rev"
[text.body]
[sparse.parts]
encoder = "lexical"
chunked = true
[chunk]
source = ["body"]
store = "documents"
max_tokens = 8
overlap_tokens = 0
""")


def _title(key: str, rev: int) -> dict[str, Any]:
    return {"id": key, "title": f"{key} revision {rev}", "rev": rev}


@pytest.mark.parametrize("runs", [1, 3])
def test_the_newest_wins_in_any_order(client: Any, esembed_index_name: str, runs: int) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    feed = [_title(f"k{n}", rev) for n in range(20) for rev in range(1, 7)]
    random.Random(7).shuffle(feed)
    outdated = 0
    for part in range(runs):
        report = index.ingest(feed[part::runs])
        assert report.adds_up
        assert report.dead_lettered == 0
        outdated += report.outdated
    assert outdated > 0
    hits = index.search(q.match_all(), size=100)
    assert {hit.id: hit.source["rev"] for hit in hits} == {f"k{n}": 6 for n in range(20)}
    assert all(hit.source["title"].endswith("revision 6") for hit in hits)
    # All of it again changes nothing; the newest ones may be written once more, behind older ones that are
    # on their way.
    again = index.ingest(feed)
    assert again.indexed <= 20
    assert again.indexed + again.unchanged + again.outdated == len(feed)
    hits = index.search(q.match_all(), size=100)
    assert {hit.source["rev"] for hit in hits} == {6}
    index.load_statistics()
    assert index.state.pool.encoder("words").statistics.documents == 20


def test_a_delete_that_comes_late_or_early(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest([_title("a", 5), _title("b", 5)])
    report = index.ingest(
        [
            {"op": "delete", "id": "a", "rev": 4},  # older than what is there
            {"op": "delete", "id": "b", "rev": 6},
            _title("b", 5),  # older than its delete
        ]
    )
    assert (report.deleted, report.outdated) == (1, 2)
    assert (index.search(q.match_all())).ids == ["a"]
    # Of our own: no version is asked for.
    index.update("a", {"title": "by hand"}, refresh=True)
    index.delete("a", refresh=True)
    assert index.count() == 0


def test_sync_and_verify_leave_newer_ones(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest([_title("a", 5), _title("b", 5), _title("c", 1)])
    report = index.ingest(
        [_title("a", 3), _title("b", 6)], IngestOptions(sync=True, verify=True, sync_max_delete=0.5)
    )
    assert (report.outdated, report.indexed, report.sync_deleted) == (1, 1, 1)
    assert report.verified is not None
    assert report.verified.different_count == 0
    assert (report.verified.same, report.verified.newer) == (1, 1)
    hits = index.search(q.match_all())
    assert {hit.id: hit.source["rev"] for hit in hits} == {"a": 5, "b": 6}


def test_chunks_of_an_older_record_stay_out(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, CHUNKED)
    short, long = "alpha beta", " ".join(f"gamma{n}" for n in range(60))
    index.ingest([{"id": "a", "body": short, "rev": 9}])
    report = index.ingest([{"id": "a", "body": long, "rev": 8}])
    assert report.outdated == 1
    assert not index.search(q.sparse("parts"), text="gamma1 gamma50")
    assert (index.search(q.sparse("parts"), text="alpha")).ids == ["a"]
    newer = index.ingest([{"id": "a", "body": long, "rev": 10}, {"id": "b", "body": long, "rev": 1}])
    assert (newer.indexed, newer.created, newer.outdated) == (2, 1, 0)
    assert set((index.search(q.sparse("parts"), text="gamma50")).ids) == {"a", "b"}
    assert (index.ingest([{"id": "a", "body": long, "rev": 10}])).unchanged == 1
    gone = index.ingest([{"op": "delete", "id": "a", "rev": 9}, {"op": "delete", "id": "b", "rev": 2}])
    assert (gone.deleted, gone.outdated) == (1, 1)
    assert (index.search(q.sparse("parts"), text="gamma50")).ids == ["a"]


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        ("17", 17),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), 1_767_312_000_000_000),
        ("2026-01-02T00:00:00Z", 1_767_312_000_000_000),
        ("2026-01-02", 1_767_312_000_000_000),
        ("2026-01-02T01:00:00.000001+01:00", 1_767_312_000_000_001),
    ],
    ids=str,
)
def test_what_a_version_is(client: Any, esembed_index_name: str, value: Any, version: int) -> None:
    plan = IndexPlan.from_toml('id_field = "id"\nversion_field = "meta.at"\n[text.title]\n')
    index = Index.create(client, esembed_index_name, plan)
    report = index.ingest([{"id": "a", "title": "fox", "meta": {"at": value}}])
    assert report.indexed == 1
    answer = index.client.request("GET", f"/{esembed_index_name}/_doc/a")
    assert answer.body["_version"] == version


def test_what_no_version_is(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    values: list[Any] = [-1, 2**63, 1.5, True, "soon", [1], {"a": 1}, "9" * 30, float("nan")]
    rows = [{"id": f"d{n}", "title": "fox", "rev": value} for n, value in enumerate(values)]
    report = index.ingest([*rows, {"id": "none", "title": "fox"}])
    assert report.dead_lettered == len(rows) + 1
    assert all("rev" in error.reason for error in report.errors)
    index.ingest([_title("a", 1)])
    partial = index.ingest([{"op": "update", "id": "a", "title": "b", "rev": 2}])
    assert "can't carry a version" in partial.errors[0].reason
    assert (index.ingest([{"op": "update", "id": "a", "title": "b"}])).updated == 1


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('version_field = ""\n[text.title]\n', "can't be a field"),
        ('version_field = "title"\n[text.title]\n', "is a text field"),
        ('version_field = "x"\n[filter.x]\ntype = "boolean"\n', "is of type boolean"),
        ('version_field = "x"\n[text.title]\n[index]\ndynamic = "strict"\n', "must be a filter field"),
        ('version_field = "esembed_hash"\n[text.title]\n', "can't be a field"),
    ],
)
def test_plans_that_have_no_version(toml: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        IndexPlan.from_toml(toml)


def test_a_migration_keeps_versions(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, f"{esembed_index_name}-v1", PLAN, alias=False)
    alias = f"{esembed_index_name}-a"
    index.client.request(
        "POST",
        "/_aliases",
        body={"actions": [{"add": {"index": f"{esembed_index_name}-v1", "alias": alias}}]},
    )
    index.ingest([_title("a", 5), _title("b", 5)])
    opened = Index.open(client, alias)
    report = opened.migrate(PLAN.replace(description="second"))
    moved = Index.open(client, alias)
    assert moved.concrete_index != index.concrete_index
    assert report is not None
    late = moved.ingest([_title("a", 4), _title("b", 6)])
    assert (late.outdated, late.indexed) == (1, 1)
    moved.delete_index()


# -- how far it is settled -------------------------------------------------------------------------------


def test_what_is_settled_may_be_committed(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    told: list[Settled] = []
    rows: list[Document] = []
    for number in range(300):
        source: dict[str, Any] = {"title": f"fox {number}", "rev": number}
        if number % 7 == 0:
            source = {"title": "no version"}  # a dead letter
        rows.append(Document(f"d{number % 200}", source, position=f"orders/0@{number}"))
    options = IngestOptions(
        on_settled=told.append,
        dead_letters=tmp_path / "dead.jsonl",
        max_request_documents=10,
        flush_interval_seconds=0.05,
        transform=lambda record: None if record.get("rev") == 13 else record,
    )
    report = index.ingest(rows, options)
    assert report.adds_up
    assert report.skipped == 1
    assert told[-1] == Settled(records=300, position="orders/0@299")
    counts = [one.records for one in told]
    assert counts == sorted(set(counts))
    assert all(one.position == f"orders/0@{one.records - 1}" for one in told)


def test_nothing_is_told_that_is_on_its_way(client: Any, esembed_index_name: str) -> None:
    """Whenever it is told, the engine has what it was told of."""
    index = Index.create(client, esembed_index_name, PLAN)
    told: list[Settled] = []

    def feed() -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            if number >= 2_000 or (told and told[-1].records > 500):
                return
            yield _title(f"d{number}", 1)

    class Stop(Exception):
        pass

    def settled(one: Settled) -> None:
        told.append(one)
        raise Stop

    with pytest.raises(Stop):
        index.ingest(feed(), IngestOptions(on_settled=settled, max_request_documents=20))
    index.refresh()
    there = set((index.search(q.match_all(), size=2_000)).ids)
    assert {f"d{number}" for number in range(told[0].records)} <= there
    assert told[0].records > 0
