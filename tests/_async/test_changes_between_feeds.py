"""Partial updates and deletes between two runs of a feed of records with versions: the feed's own record of
the same version is written again, an older one is not."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan
from esembed import query as q
from esembed.ingest.options import IngestOptions
from esembed.types import Document

PLAIN = """
id_field = "sku"
version_field = "rev"
[text.title]
[filter.price]
type = "float"
[filter.lang]
[sparse.words]
encoder = "lexical"
source = ["title"]
[dense."meta.v"]
encoder = "precomputed"
dims = 4
"""
CHUNKED = """
id_field = "sku"
version_field = "rev"
[text.title]
[filter.price]
type = "float"
[filter.lang]
[sparse.words]
encoder = "lexical"
chunked = true
[chunk]
source = ["title"]
store = "STORE"
max_tokens = 8
overlap_tokens = 0
"""
FORMS = {
    "plain": PLAIN,
    "nested": CHUNKED.replace("STORE", "nested"),
    "documents": CHUNKED.replace("STORE", "documents"),
}
LONG = " ".join(f"amber{n}" for n in range(30))


def _record(form: str, key: str, rev: int, **more: Any) -> dict[str, Any]:
    vector = {"meta": {"v": [1, 0, 0, 0], "color": "red"}} if form == "plain" else {}
    return {"sku": key, "title": LONG, "price": 2.5, "lang": "en", "rev": rev, **vector, **more}


async def _version(index: AsyncIndex, key: str) -> int:
    answer = await index.client.request("GET", f"/{index.concrete_index}/_doc/{key}")
    return int(answer.body["_version"])


async def _found(index: AsyncIndex, text: str, **filters: Any) -> set[str]:
    filter = [q.term(name, value) for name, value in filters.items()]
    return set((await index.search(q.sparse("words"), text=text, filter=filter or None)).ids)


@pytest.mark.parametrize("form", FORMS)
async def test_a_partial_update_keeps_the_version(client: Any, esembed_index_name: str, form: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(FORMS[form]))
    await index.ingest([_record(form, key, 7) for key in "abc"])
    await index.update("a", {"price": 9.0}, refresh=True)
    report = await index.update_by_query(q.term("lang", "en"), {"lang": "de"})
    assert (report.updated, report.dead_lettered) == (3, 0)
    feed = await index.ingest([{"op": "update", "sku": "a", "title": "cobalt fox"}])
    assert (feed.updated, feed.dead_lettered) == (1, 0)
    assert [await _version(index, key) for key in "abc"] == [7, 7, 7]
    # What each of them set is found, what none of them named is still there.
    assert await _found(index, "cobalt", lang="de") == {"a"}
    assert await _found(index, "amber17", lang="de") == {"b", "c"}
    assert not await _found(index, "amber17", lang="en")
    stored = await index.get("a", vectors=True)
    assert stored is not None
    assert (stored["price"], stored["title"], stored["rev"]) == (9.0, "cobalt fox", 7)
    if form == "plain":
        assert stored["meta"]["color"] == "red"
        assert stored["meta"]["v"] == pytest.approx([1, 0, 0, 0])
        hits = await index.search(q.knn("meta.v", k=3, vector=[1, 0, 0, 0]))
        assert set(hits.ids) == {"a", "b", "c"}
    # The same record of the feed, and an older one.
    again = await index.ingest([_record(form, "a", 7), _record(form, "b", 6), _record(form, "c", 8)])
    assert (again.indexed, again.outdated) == (2, 1)
    assert await _found(index, "amber17", lang="en") == {"a", "c"}
    assert not await _found(index, "cobalt")
    assert (await index.ingest([_record(form, "a", 7)])).unchanged == 1
    verified = await index.ingest([_record(form, "a", 7), _record(form, "c", 8)], IngestOptions(verify=True))
    assert verified.verified is not None
    assert verified.verified.ok
    assert verified.verified.same == 2


@pytest.mark.parametrize("form", FORMS)
async def test_what_was_deleted_may_come_again(client: Any, esembed_index_name: str, form: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(FORMS[form]))
    feed = [_record(form, key, 7) for key in "abcd"]
    await index.ingest(feed)
    await index.delete("a")
    await index.delete("a")  # gone already
    await index.delete_by_query(q.ids("b"), max_delete=1)
    report = await index.ingest([feed[0], feed[3]], IngestOptions(sync=True, sync_max_delete=1))
    assert (report.indexed, report.outdated, report.sync_deleted) == (1, 0, 1)
    report = await index.ingest([Document("d", {}, op="delete"), {"op": "delete", "sku": "a", "rev": 7}])
    assert (report.deleted, report.outdated, report.dead_lettered) == (2, 0, 0)
    assert await index.count() == 0
    older = await index.ingest([_record(form, key, 6) for key in "abcd"])
    assert (older.indexed, older.outdated) == (0, 4)
    report = await index.ingest(feed)
    assert (report.indexed, report.outdated) == (4, 0)
    assert await _found(index, "amber17") == set("abcd")
    assert [await _version(index, key) for key in "abcd"] == [7] * 4


async def test_one_run_that_changes_and_deletes(client: Any, esembed_index_name: str) -> None:
    """What takes its document's version waits for the record before it."""
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(PLAIN))
    feed: list[Any] = [
        _record("plain", "a", 5),
        {"op": "update", "sku": "a", "price": 1.0},
        Document("a", {}, op="delete"),
        _record("plain", "a", 5, price=4.0),
        {"op": "update", "sku": "a", "lang": "fr"},
        _record("plain", "b", 2),
        Document("b", {}, op="delete"),
        {"op": "delete", "sku": "b", "rev": 1},
    ]
    report = await index.ingest(feed)
    assert (report.indexed, report.updated, report.deleted, report.outdated) == (3, 2, 2, 1)
    assert report.adds_up
    assert await _version(index, "a") == 5
    stored = await index.get("a")
    assert stored is not None
    assert (stored["price"], stored["lang"]) == (4.0, "fr")


async def test_a_newer_version_refuses_an_update_that_was_computed_before(
    client: Any, esembed_index_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(PLAIN))
    await index.ingest([_record("plain", "a", 5)])
    from esembed.ingest.target import TargetIndex

    bulk, line = TargetIndex.bulk, b'{"index":{"_id":"a","version":6,"version_type":"external_gte"}}\n{}\n'

    def overtaken(self: TargetIndex, payload: bytes) -> Any:
        bulk(self, line)
        return bulk(self, payload)

    monkeypatch.setattr(TargetIndex, "bulk", overtaken)
    report = await index.ingest([{"op": "update", "sku": "a", "price": 1.0}])
    assert (report.updated, report.dead_lettered, report.outdated) == (0, 1, 0)
    assert "send the update again" in report.errors[0].reason
    assert await _version(index, "a") == 6


async def test_a_backfill_keeps_versions(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(PLAIN))
    await index.ingest([_record("plain", "a", 7)])
    # Its hash is gone, as in an index that esembed did not fill.
    body = {**_record("plain", "a", 7), "title": "quartz fox"}
    await index.client.request(
        "PUT",
        f"/{index.concrete_index}/_doc/a",
        params={"version": 7, "version_type": "external_gte", "refresh": "true"},
        body=body,
    )
    report = await index.backfill()
    assert report.updated == 1
    assert await _version(index, "a") == 7
    assert await _found(index, "quartz") == {"a"}
    stored = await index.get("a")
    assert stored is not None
    assert (stored["title"], stored["meta"]["color"], stored["rev"]) == ("quartz fox", "red", 7)


async def test_chunks_keep_their_filters_in_an_update(client: Any, esembed_index_name: str) -> None:
    """Without versions, too: a new text makes new chunks, which have the filter fields of the document."""
    toml = FORMS["documents"].replace('version_field = "rev"\n', "")
    index = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(toml))
    await index.ingest([_record("documents", "a", 1)])
    await index.update("a", {"title": "cobalt fox"}, refresh=True)
    assert await _found(index, "cobalt", lang="en") == {"a"}
