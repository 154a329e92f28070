"""What an index keeps of a document: read from mappings and settings as the engines show them."""

from __future__ import annotations

from typing import Any

import pytest

from esembed.dialect.source_rules import SourceRules, missing_source
from esembed.errors import UnsupportedFeatureError

MAPPING: dict[str, Any] = {
    "properties": {
        "title": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
        "body": {"type": "text", "store": True},
        "v": {"type": "dense_vector", "dims": 3},
        "meta": {"properties": {"lang": {"type": "keyword"}, "n": {"type": "integer"}}},
        "chunks": {"type": "nested", "properties": {"text": {"type": "text", "store": True}}},
        "other": {"type": "alias", "path": "title"},
    }
}
LEAVES = {"title", "body", "v", "meta.lang", "meta.n", "chunks.text"}


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        ({}, set()),
        ({"enabled": True, "includes": [], "excludes": []}, set()),
        ({"includes": ["*"]}, set()),
        ({"excludes": ["nothing"]}, set()),
        ({"excludes": ["v"]}, {"v"}),
        ({"excludes": "v"}, {"v"}),
        ({"excludes": ["meta"]}, {"meta.lang", "meta.n"}),
        ({"excludes": ["meta.*"]}, {"meta.lang", "meta.n"}),
        ({"excludes": ["*.lang", "t*e"]}, {"meta.lang", "title"}),
        ({"excludes": ["me"]}, set()),
        ({"includes": ["title", "meta.n"]}, LEAVES - {"title", "meta.n"}),
        ({"includes": ["meta"], "excludes": ["meta.n"]}, LEAVES - {"meta.lang"}),
        ({"enabled": False}, LEAVES),
        ({"enabled": "false"}, LEAVES),
        ({"mode": "disabled"}, LEAVES),
        ({"mode": "synthetic"}, set()),
        ({"excludes": ["chunks.text"]}, {"chunks.text"}),
        ("junk", set()),
    ],
)
def test_what_is_lost(source: Any, lost: set[str]) -> None:
    mapping = {**MAPPING, "_source": source}
    rules = SourceRules.read(mapping, {})
    assert set(rules.lost(mapping)) == lost
    assert bool(rules.notes(mapping)) is bool(lost or rules.synthetic)
    assert bool(rules.drift(mapping)) is (
        rules != SourceRules() and not (rules.whole and not rules.synthetic)
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mapping": {"source": {"mode": "synthetic"}}}, "synthetic"),
        ({"mapping.source.mode": "synthetic"}, "synthetic"),
        ({"mode": "logsdb"}, "synthetic"),
        ({"mode": "logsdb", "mapping": {"source": {"mode": "stored"}}}, None),
        ({"derived_source": {"enabled": "true"}}, "synthetic"),
        ({"mapping": {"source": {"mode": "disabled"}}}, "switched off"),
        ({"mapping": {"ignore_malformed": "true"}}, "ignore_malformed"),
        ({"mapping": {"ignore_malformed": "false"}}, None),
        ({"mapping": {"total_fields": {"limit": "10"}}}, None),
    ],
)
def test_settings_count_too(settings: dict[str, Any], expected: str | None) -> None:
    rules = SourceRules.read(MAPPING, settings)
    lines = " ".join(rules.notes(MAPPING))
    assert (expected or "") in lines
    assert bool(lines) is bool(rules.drift(MAPPING)) is bool(expected)


def test_one_field_that_ignores_malformed_values_is_named() -> None:
    mapping = {"properties": {"n": {"type": "integer", "ignore_malformed": True}}}
    rules = SourceRules.read(mapping, {})
    assert "set for n:" in rules.notes(mapping)[0]
    assert rules.drift(mapping) == ("~ n.ignore_malformed: the plan says false, the index has true",)


def test_what_can_be_fetched_is_and_the_rest_is_refused() -> None:
    mapping = {**MAPPING, "_source": {"excludes": ["body", "v"]}}
    rules = SourceRules.read(mapping, {})
    fetch = rules.fetch(mapping, what="a copy", vector_doc_values=True)
    assert fetch.to_body() == {"stored_fields": ["body"], "docvalue_fields": ["v"]}
    hit = {"_source": {"title": "t"}, "fields": {"body": ["text"], "v": [[1.0, 2.0, 3.0]]}}
    assert fetch.document(hit) == {"title": "t", "body": "text", "v": [1.0, 2.0, 3.0]}
    assert fetch.document({"_source": None, "fields": {"body": ["a", "b"]}}) == {"body": ["a", "b"]}
    with pytest.raises(UnsupportedFeatureError, match=r"a copy .*'v'"):
        rules.fetch(mapping, what="a copy")
    assert rules.fetch(mapping, what="a copy", made=["v"]).stored == ("body",)
    assert not rules.fetch(mapping, what="a copy", wanted=["title", "meta"])
    nested = {**MAPPING, "_source": {"excludes": ["chunks.text"]}}
    with pytest.raises(UnsupportedFeatureError, match=r"chunks\.text"):
        SourceRules.read(nested, {}).fetch(nested, what="a copy")


def test_what_an_update_would_lose() -> None:
    assert missing_source({"v", "meta.n"}, ["v", "title"]) == ["meta.n"]
    assert missing_source({"v", "meta.n"}, ["v", "meta"]) == []
    assert missing_source({"metal"}, ["meta"]) == ["metal"]
