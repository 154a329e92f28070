"""What becomes of the values that databases, data frames and spreadsheets hand over."""

from __future__ import annotations

import math
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from esembed.errors import RecordError
from esembed.ingest.sources.mapper import RecordMapper
from esembed.ingest.stages.prepare import Preparer
from esembed.plan import IndexPlan
from esembed.types import Document

PLAN = IndexPlan.from_toml(
    """
    [text.title]
    [filter.on]
    type = "boolean"
    [filter.name]
    """
)


class Timestamp(datetime):
    """As pandas has it: a subclass."""


class NaT(datetime):
    """pandas' missing time, which equals nothing."""

    __hash__ = datetime.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


def prepared(**source: Any) -> dict[str, Any]:
    return Preparer(PLAN, {}).prepare(Document("1", source)).source


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Decimal("1.10"), 1.1),
        (Decimal("12.00"), 12),
        (Decimal(2**63 - 1), 2**63 - 1),
        (Decimal("1e30"), 1e30),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({3, 1}), [1, 3]),
        ([{"price": Decimal("0.5")}], [{"price": 0.5}]),
        (Path("x/y"), "x/y"),
        (Timestamp(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (NaT(2024, 1, 1), None),
        (uuid.UUID(int=5), uuid.UUID(int=5)),
        (date(2024, 1, 2), date(2024, 1, 2)),
    ],
)
def test_values_of_databases_and_data_frames(value: Any, stored: Any) -> None:
    got = prepared(title="t", more=value)["more"]
    assert got == stored
    assert type(got) is type(stored)


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), math.nan])
def test_a_decimal_that_is_no_number_is_refused_like_a_float(value: Any) -> None:
    with pytest.raises(RecordError, match="JSON has no form"):
        prepared(title="t", more=value)


def test_what_has_no_form_in_json_is_named_with_the_way_out() -> None:
    with pytest.raises(RecordError, match=r"'more' .*datetime\.timedelta; make it text or a number"):
        prepared(title="t", more=timedelta(seconds=1))
    with pytest.raises(RecordError, match=r"'more' .*bytes; make it text"):
        prepared(title="t", more=b"x")


def test_booleans_of_spreadsheets_in_boolean_fields_only() -> None:
    """``true`` stays text, as engines take it, so that hashes made before stay what they are."""
    for text, stored in (("True", True), ("FALSE", False), ("true", "true"), ("yes", "yes")):
        assert prepared(title="t", on=text)["on"] == stored
        assert prepared(title="t", name=text)["name"] == text


def test_an_id_may_be_a_uuid() -> None:
    mapped = RecordMapper(id_field="key")(Document(None, {"key": uuid.UUID(int=5)}))
    assert mapped is not None
    assert mapped.id == "00000000-0000-0000-0000-000000000005"
