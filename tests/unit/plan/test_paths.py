"""Dotted paths, and the texts that a plan's fields are made from."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import ChunkOptions, DenseField, IndexPlan, SparseField, TextField
from esembed.errors import RecordError
from esembed.plan import paths


@pytest.mark.parametrize(
    ("record", "path", "found"),
    [
        ({"a": 1}, "a", 1),
        ({"a": 1}, "b", None),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": {"x": 1}, "a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": [{"b": 1}, {"c": 2}, {"b": [3, 4]}]}, "a.b", [1, 3, 4]),
        ({"a": [[{"b": 1}], {"b": 2}]}, "a.b", [1, 2]),
        ({"a": [1, 2]}, "a.b", None),
        ({"a": None}, "a.b", None),
        ({"a": "text"}, "a.b", None),
    ],
)
def test_a_dotted_key_and_an_object_are_one_path(record: dict[str, Any], path: str, found: Any) -> None:
    assert paths.get(record, path) == found


def test_texts_are_flat_and_hold_no_null() -> None:
    assert paths.texts({"a": [{"b": "x"}, {"b": None}, {"b": ["y", 3]}]}, "a.b") == ["x", "y", "3"]
    assert paths.texts({"a": 1}, "b") == []


def test_the_text_of_a_field() -> None:
    plan = IndexPlan(
        text={"title": TextField(), "tags": TextField()},
        dense={
            "whole": DenseField(encoder="minilm", source=("title", "sections.text"), separator=" | "),
            "cut": DenseField(encoder="minilm", chunked=True),
        },
        sparse={"terms": SparseField(source=("title",))},
        chunk=ChunkOptions(source=("title", "body")),
    )
    record = {"title": "T", "sections": [{"text": "one"}, {"text": "two"}], "body": 7, "tags": ["a", "b"]}
    assert plan.vector_text("whole", record) == "T | one\ntwo"
    assert plan.vector_text("cut", record) == "T\n\n7"
    assert plan.vector_text("terms", {"body": "x"}) is None
    assert plan.vector_text("terms", {"title": ""}) == ""
    assert plan.searched_text(record) == "T\na\nb"
    assert plan.vector_source("cut") == ("title", "body")
    with pytest.raises(RecordError, match="title holds a dict"):
        plan.vector_text("terms", {"title": {"en": "x"}})


@pytest.mark.parametrize(
    ("record", "path", "found"),
    [
        ({"a.b": 1}, "a", "a.b"),
        ({"a": {"b.c": 1}}, "a.b", "a.b.c"),
        ({"x.a": {"b.c.d": 1}}, "x.a.b", "x.a.b.c.d"),
        ({"a": {"b": {"c": 1}}}, "a.b", None),
        ({"ab.c": 1, "a": [{"b.c": 1}]}, "a", None),
        ({}, "a", None),
    ],
)
def test_flat_keys_below_a_path(record: dict[str, Any], path: str, found: str | None) -> None:
    assert paths.flat_below(record, path) == found
