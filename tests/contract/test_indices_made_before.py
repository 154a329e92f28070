"""Indices that earlier versions made, on each real engine: opened, searched, updated and migrated.

The fixtures are the requests that ``scripts/record_index.py`` recorded at that version, sent again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, MigrateOptions
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.plan.default_query import searchable_legs
from esembed.query.tree import resolve_text

FOLDER = Path(__file__).parents[1] / "fixtures"
STATISTICS = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1"}},
    "mappings": {
        "dynamic": "false",
        "properties": {"hash": {"type": "keyword"}, "part": {"type": "integer"}},
    },
}
TEXT = "path split directory file"
"""What the recorded default query searched for."""


def fixture(kind: str, plan: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FOLDER / "made_by_0_1_0" / f"{kind}.json").read_text(encoding="utf-8"))
    return made[plan]  # type: ignore[no-any-return]


@pytest.fixture
def client(esembed_engine: Any) -> Iterator[Any]:
    made = esembed_engine.client()
    yield made
    made.close()


def replay(client: Any, recorded: dict[str, Any], name: str) -> None:
    """Send what was recorded, to an index of another name."""
    engine = EngineClient(client)
    engine.request("PUT", "/esembed-statistics", body=STATISTICS, ignore=(400,))
    for sent in recorded["requests"]:
        path = sent["path"].replace(recorded["index"], name)
        body = sent["body"]
        if path.endswith("_bulk") and isinstance(body, list):
            body = json.loads(json.dumps(body).replace(f'"{recorded["index"]}"', f'"{name}"'))
        engine.request(sent["method"], path, params=sent["params"], body=body)
    engine.request("POST", f"/{name}/_refresh")


@pytest.mark.parametrize("plan", ["weighted", "chunked", "given"])
def test_it_opens_searches_updates_and_migrates(
    client: Any, esembed_engine: Any, esembed_index_name: str, plan: str
) -> None:
    recorded = fixture(esembed_engine.engine, plan)
    name = f"{esembed_index_name}-v1"
    replay(client, recorded, name)
    EngineClient(client).request(
        "POST", "/_aliases", body={"actions": [{"add": {"index": name, "alias": esembed_index_name}}]}
    )
    index = Index.open(client, esembed_index_name)
    count = index.count()

    assert index.inspect()["drift"] == []
    check_search(index, recorded)

    field, text = ("body", "entirely other words") if plan == "chunked" else ("title", "entirely other words")
    index.update("d1", {field: text}, refresh=True)
    assert index.search(q.match(text, fields=[field]), size=1).ids == ["d1"]
    assert index.count() == count
    again = index.get("d1", vectors=True)
    assert again is not None
    assert again[field] == text
    if plan == "weighted":
        # The vector went along with the text that it is made of.
        assert index.search(q.knn("embedding", text=f"{text}\n{again['body']}"), size=1).ids == ["d1"]

    changed = index.plan.replace(description="moved on")
    report = index.migrate(changed, options=MigrateOptions(in_place=False))
    assert report.documents == count
    moved = Index.open(client, esembed_index_name)
    assert moved.concrete_index != name
    assert (moved.count(), moved.plan.description) == (count, "moved on")
    assert moved.search(q.match(text, fields=[field]), size=1).ids == ["d1"]


def check_search(index: Index, recorded: dict[str, Any]) -> None:
    if recorded["default_query_finds"] is None:
        hits = index.search(q.knn("vector", vector=[1.0, 0.25, 0.5, -0.125]), size=3)
        assert hits.ids[0] == "d2"
        hits = index.search(q.sparse("features", vector={"w3": 1.0}), size=1)
        assert hits.ids == ["d3"]
        return
    wanted = recorded["default_query_finds"]
    hits = index.search(TEXT, size=5)
    # The default query has other weights and scores by now; its best hit is the same.
    assert hits.ids[0] == wanted[0][0]
    if recorded["index"] != "before-weighted":
        # What it was then, RRF of the legs, finds the same with the same scores.
        legs = searchable_legs(index.plan).values()
        hits = index.search(resolve_text(q.rrf(*legs) if len(legs) > 1 else next(iter(legs)), TEXT), size=5)
        assert hits.ids == [found for found, _ in wanted]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-4)
