# Generated from tests/_async/test_raw_in_meta.py by scripts/run_unasync.py; change that file and run the script.
"""A plain search never runs the engine's own JSON that somebody put into ``_meta``."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.errors import QueryError, RecordError

EVERYTHING = {"opensearch": {"match_all": {}}, "elasticsearch": {"match_all": {}}}
PLAN = IndexPlan.from_toml("[text.body]\n")
OWN = PLAN.replace(query=q.rrf(q.raw(EVERYTHING), q.match(name="bm25")))


def test_raw_in_meta(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    records = [{"_id": "1", "body": "red fox"}, {"_id": "2", "body": "blue hen"}]
    index.ingest(records, IngestOptions(learn_weights=False, refresh=True))
    own = (EngineClient(client).request("GET", f"/{esembed_index_name}/_mapping")).body
    mine = own[index.concrete_index]["mappings"]["_meta"]["esembed"]
    mine["plan"]["query"] = OWN.to_dict()["query"]
    EngineClient(client).request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {"esembed": mine}})
    opened = Index.open(client, esembed_index_name)
    stored = opened.plan.query
    assert stored is not None
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        opened.search("fox")
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        opened.search(stored, text="fox")
    with pytest.raises(QueryError, match=r"allow_raw=True"):
        opened.search_many(["fox"])
    # What isn't raw runs, and so does what the caller brings.
    assert (opened.search("fox", legs=["bm25"])).ids == ["1"]
    assert (opened.search(q.match("fox"))).ids == ["1"]
    assert len(opened.search(q.raw(EVERYTHING))) == 2
    trusted = Index.open(client, esembed_index_name, allow_raw=True)
    assert len(trusted.search("fox")) == 2
    # It is the caller's own, who names it.
    same = Index.create(client, esembed_index_name, OWN, exist_ok=True)
    assert len(same.search("fox")) == 2
    # Nothing was lost.
    assert (Index.open(client, esembed_index_name)).plan.to_dict() == OWN.to_dict()


def test_an_own_raw_default_query_runs(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, OWN)
    report = index.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(refresh=True))
    assert report.indexed == 1
    assert (index.search("hen")).ids == ["1"]


def test_our_own_fields_are_refused_in_records(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    report = index.ingest(
        [{"_id": "1", "body": "a", "esembed_hash": "mine"}, {"_id": "2", "body": "b", "esembed_parent": "1"},
         {"_id": "3", "body": "c", "esembed_hash": None}],
        IngestOptions(learn_weights=False, refresh=True, dead_letters=None),
    )  # fmt: skip
    assert (report.indexed, report.dead_lettered) == (1, 2)
    with pytest.raises(RecordError, match="esembed_hash"):
        index.update("3", {"esembed_hash": "mine"})
