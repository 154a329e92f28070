"""A plain search never runs the engine's own JSON that somebody put into ``_meta``."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed.errors import QueryError, RecordError

EVERYTHING = {"opensearch": {"match_all": {}}, "elasticsearch": {"match_all": {}}}
PLAN = IndexPlan.from_toml("[text.body]\n")
OWN = PLAN.replace(query=q.rrf(q.raw(EVERYTHING), q.match(name="bm25")))


async def test_raw_in_meta(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    records = [{"_id": "1", "body": "red fox"}, {"_id": "2", "body": "blue hen"}]
    await index.ingest(records, IngestOptions(learn_weights=False, refresh=True))
    own = (await AsyncEngineClient(client).request("GET", f"/{esembed_index_name}/_mapping")).body
    mine = own[index.concrete_index]["mappings"]["_meta"]["esembed"]
    mine["plan"]["query"] = OWN.to_dict()["query"]
    await AsyncEngineClient(client).request(
        "PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {"esembed": mine}}
    )
    opened = await AsyncIndex.open(client, esembed_index_name)
    stored = opened.plan.query
    assert stored is not None
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        await opened.search("fox")
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        await opened.search(stored, text="fox")
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        await opened.search_many(["fox"])
    # What isn't raw runs, and so does what the caller brings.
    assert (await opened.search("fox", legs=["bm25"])).ids == ["1"]
    assert (await opened.search(q.match("fox"))).ids == ["1"]
    assert len(await opened.search(q.raw(EVERYTHING))) == 2
    trusted = await AsyncIndex.open(client, esembed_index_name, allow_raw=True)
    assert len(await trusted.search("fox")) == 2
    # It is the caller's own, who names it.
    same = await AsyncIndex.create(client, esembed_index_name, OWN, exist_ok=True)
    assert len(await same.search("fox")) == 2
    # Nothing was lost.
    assert (await AsyncIndex.open(client, esembed_index_name)).plan.to_dict() == OWN.to_dict()


async def test_an_own_raw_default_query_runs(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, OWN)
    report = await index.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(refresh=True))
    assert report.indexed == 1
    assert (await index.search("hen")).ids == ["1"]


async def test_our_own_fields_are_refused_in_records(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    report = await index.ingest(
        [{"_id": "1", "body": "a", "esembed_hash": "mine"}, {"_id": "2", "body": "b", "esembed_parent": "1"},
         {"_id": "3", "body": "c", "esembed_hash": None}],
        IngestOptions(learn_weights=False, refresh=True, dead_letters=None),
    )  # fmt: skip
    assert (report.indexed, report.dead_lettered) == (1, 2)
    with pytest.raises(RecordError, match="esembed_hash"):
        await index.update("3", {"esembed_hash": "mine"})
