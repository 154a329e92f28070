"""Field names that hold ``^``, which an index made by others (or by an old plan) may have."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions
from esembed import query as q
from esembed.dialect.live import split_boost
from esembed.errors import QueryError

NO_LEARNING = IngestOptions(learn_weights=False, refresh=True)
DOCUMENTS = [
    {"_id": "square", "t^2": "fox", "t": "hen", "u^2": "elk", "body": "cow"},
    {"_id": "plain", "t^2": "hen", "t": "fox", "u^2": "cow", "body": "elk"},
]


@pytest.fixture
async def index(client: Any, esembed_index_name: str) -> AsyncIndex:
    """An index of somebody else, with an esembed plan over one of its fields."""
    names = ("t^2", "t", "u^2", "body")
    mapping = {"properties": {name: {"type": "text"} for name in names}}
    await client.indices.create(
        index=esembed_index_name, body={"mappings": mapping, "settings": {"number_of_shards": 1}}
    )
    plan = IndexPlan.from_toml("[text.body]")
    made = await AsyncIndex.attach(client, esembed_index_name, plan)
    report = await made.ingest(DOCUMENTS, NO_LEARNING)
    assert (report.indexed, report.dead_lettered) == (2, 0)
    return made


async def ids(index: AsyncIndex, query: Any, **options: Any) -> list[str]:
    return (await index.search(query, **options)).ids


async def test_a_field_with_a_caret_is_the_field_that_is_meant(index: AsyncIndex) -> None:
    assert await ids(index, q.match("elk", fields=["u^2"])) == ["square"]
    assert await ids(index, q.match("elk", fields=["u^2^3"])) == ["square"]
    # More than one field: the engines' multi_match would search u, which isn't there.
    assert sorted(await ids(index, q.match("elk", fields=["u^2", "body"]))) == ["plain", "square"]
    assert await ids(index, q.match("elk", fields=["u^2^8", "body"])) == ["square", "plain"]
    assert await ids(index, q.match("elk", fields=["u^2", "body^8"])) == ["plain", "square"]
    assert await ids(index, q.match_phrase("t^2", "fox")) == ["square"]
    bounded = q.linear(q.match("elk", fields=["u^2"], name="a"), q.match("elk", name="b"), normalizer="bound")
    assert sorted(await ids(index, bounded)) == ["plain", "square"]


async def test_two_meanings_are_refused(index: AsyncIndex) -> None:
    with pytest.raises(QueryError, match=r"'t\^2' is a field of the index, and 't' with a boost of 2"):
        await ids(index, q.match("fox", fields=["t^2"]))
    assert await ids(index, q.match("fox", fields=["t^2^1"])) == ["square"]
    assert await ids(index, q.match("fox", fields=["t^2.0"])) == ["plain"]
    with pytest.raises(QueryError, match=r"multi_match can't search 'u\^2'"):
        await ids(index, q.multi_match("elk", fields=["u^2", "body"]))


@pytest.mark.parametrize(
    ("text", "fields", "meant"),
    [
        ("title", {"title"}, ("title", 1.0)),
        ("title^2", {"title"}, ("title", 2.0)),
        ("title^2", set(), ("title", 2.0)),
        ("title^0", {"title"}, ("title", 0.0)),
        ("a^2", {"a^2"}, ("a^2", 1.0)),
        ("a^2^.5", {"a^2"}, ("a^2", 0.5)),
        ("^2", {"^2"}, ("^2", 1.0)),
        ("a^", {"a^"}, ("a^", 1.0)),
    ],
)
def test_what_a_caret_means(text: str, fields: set[str], meant: tuple[str, float]) -> None:
    assert split_boost(text, fields.__contains__) == meant


@pytest.mark.parametrize("text", ["a^", "a^x", "a^-1", "a^nan", "a^inf", "a^1e39", "a^1e400"])
def test_a_boost_is_a_number(text: str) -> None:
    with pytest.raises(QueryError):
        split_boost(text, {"a"}.__contains__)
