"""Where a dotted path stands in a record, and updates written where the stored document has the field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from esembed.errors import RecordError
from esembed.plan import paths


@pytest.mark.parametrize(
    ("stored", "change", "merged"),
    [
        ({"meta": {"state": 1}}, {"meta.state": 2}, {"meta": {"state": 2}}),
        ({"meta.state": 1}, {"meta": {"state": 2}}, {"meta.state": 2}),
        ({"m.s": 1, "m": {"a": 1}}, {"m": {"s": 2, "a": 2}}, {"m.s": 2, "m": {"a": 2}}),
        ({"a": {"b": {"c": 1}}}, {"a.b.c": 2}, {"a": {"b": {"c": 2}}}),
        ({"a": {"b.c": 1}}, {"a.b.c": 2}, {"a": {"b.c": 2}}),
        ({"a.b": {"c": 1}}, {"a": {"b": {"c": 2}}}, {"a.b": {"c": 2}}),
        ({"a": {"b": 1}}, {"a.c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"x": 1}, {"a.c": 2}, {"x": 1, "a.c": 2}),
        ({"x": 1}, {"a": {"c": 2}}, {"x": 1, "a.c": 2}),
        ({"meta": {"state": 1, "a": 1}}, {"meta.state": None}, {"meta": {"a": 1}}),
        ({"meta.state": 1}, {"meta": {"state": None}}, {}),
        ({"meta.state": 1, "meta.a": 1}, {"meta": None}, {}),
        ({"meta": {"state": 1}, "meta.state": 1}, {"meta.state": 2}, {"meta.state": 2, "meta": {}}),
        ({"meta": {"state": [1, 2]}}, {"meta.state": [3]}, {"meta": {"state": [3]}}),
        ({"a": 1}, {"a": 2, "b": []}, {"a": 2, "b": []}),
    ],
)  # fmt: skip
def test_an_update_is_written_where_the_document_has_the_field(
    stored: dict[str, Any], change: dict[str, Any], merged: dict[str, Any]
) -> None:
    before = copy.deepcopy((stored, change))
    assert paths.merge(stored, paths.align(stored, change)) == merged
    assert (stored, change) == before


def test_what_no_update_can_mean() -> None:
    with pytest.raises(RecordError, match=r"'meta\.state' twice") as twice:
        paths.align({}, {"meta": {"state": 1}, "meta.state": 2})
    assert twice.value.field == "meta.state"
    assert paths.align({"meta": {}}, {"meta": {"state": 1}, "meta.state": 1}) == {"meta": {"state": 1}}
    with pytest.raises(RecordError, match=r"list of objects at 'a\.s'"):
        paths.align({"a": {"s": [{"text": "x"}]}}, {"a.s.text": "y"})


def test_taking_and_putting_copies_what_it_changes() -> None:
    record: dict[str, Any] = {"a": {"v": [1], "b": {"w": 2}}, "a.v": None, "c": {"v": 3}}
    taken = dict(record)
    assert paths.pop(taken, "a.v") == [1]
    assert paths.pop(taken, "a.b.w") == 2
    assert paths.pop(taken, "c.v") == 3
    assert paths.pop(taken, "no.such") is None
    assert taken == {}
    assert record == {"a": {"v": [1], "b": {"w": 2}}, "a.v": None, "c": {"v": 3}}
    put = dict(record)
    paths.put(put, paths.place(record, "a.b.x"), 5)
    paths.put(put, paths.place(record, "d.e"), 6)
    assert put["a"] == {"v": [1], "b": {"w": 2, "x": 5}}
    assert put["d.e"] == 6
    assert "x" not in record["a"]["b"]
