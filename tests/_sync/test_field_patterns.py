# Generated from tests/_async/test_field_patterns.py by scripts/run_unasync.py; change that file and run the script.
"""Names with ``*`` among the fields of a text query."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.errors import QueryError

PLAN = IndexPlan.from_toml("""
[text."title.en"]
[text."title.de"]
boost = 3.0
[text.body]
[text.long]
[filter."title.year"]
type = "integer"
[sparse.parts]
encoder = "lexical"
chunked = true
[chunk]
source = ["long"]
path = "title.chunks"
""")
ROWS = [
    {"_id": "en", "title": {"en": "fox", "year": 2020}, "body": "x", "long": "fox"},
    {"_id": "de", "title": {"de": "fox", "year": 2021}, "body": "x", "long": "x"},
    {"_id": "body", "title": {"en": "x"}, "body": "fox", "long": "x"},
]


def test_a_pattern_is_all_text_fields_that_it_fits(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    assert (index.ingest(ROWS)).indexed == 3
    for make in (q.match, q.multi_match):
        assert set((index.search(make("fox", fields=["title.*"]))).ids) == {"en", "de"}
        assert set((index.search(make("fox", fields="*"))).ids) == {"en", "de", "body"}
        assert (index.search(make("fox", fields=["b*y"]))).ids == ["body"]
        hits = index.search(make("fox", fields=["title.*", "body^100"]))
        assert hits.ids[0] == "body"
        assert len(hits) == 3
        # A field that stands there by its name keeps that boost.
        hits = index.search(make("fox", fields=["title.de^100", "title.*^0.1"]))
        assert hits.ids == ["de", "en"]
    for pattern in ("nothing*", "title.year*", "esembed_*", "title.chunks*", "*.x"):
        with pytest.raises(QueryError, match="no text field fits"):
            index.search(q.match("fox", fields=pattern))


def test_fields_that_the_plan_doesnt_know(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, IndexPlan.from_toml("[text.body]"))
    text = {"type": "text"}
    index.client.request(
        "PUT",
        f"/{esembed_index_name}/_mapping",
        body={
            "properties": {
                "notes": {"properties": {"a": text, "b": text, "n": {"type": "integer"}}},
                "list": {"type": "nested", "properties": {"c": text}},
            }
        },
    )
    index = Index.open(client, esembed_index_name)
    index.ingest([{"_id": "a", "body": "x", "notes": {"b": "fox", "n": 3}, "list": [{"c": "wolf"}]}])
    assert (index.search(q.match("fox", fields=["notes.*"]))).ids == ["a"]
    assert (index.search(q.match("fox", fields=["*"]))).ids == ["a"]
    assert not index.search(q.match("wolf", fields=["*"]))
