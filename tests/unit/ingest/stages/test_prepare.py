"""What becomes of the values that databases, data frames and spreadsheets hand over."""

from __future__ import annotations

import math
import random
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode.base import EncoderInfo
from esembed.errors import RecordError
from esembed.ingest.sources.mapper import RecordMapper
from esembed.ingest.stages.prepare import Preparer
from esembed.plan import IndexPlan
from esembed.scalars import iso_year
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


DATES = IndexPlan.from_toml(
    """
    [filter.when]
    type = "date"
    [filter.day]
    type = "date"
    format = "yyyy-MM-dd"
    [filter."at.end"]
    type = "date"
    format = "strict_date_optional_time||epoch_millis"
    """
)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("+10000-01-01", 253402300800000), ("+10183-09-21", 3_000_000 * 86_400_000),
        ("+10000-01-01T00:00:00.123456+01:00", 253402300800123 - 3_600_000),
        ("+292278994-08-17T07:12:55.807Z", 2**63 - 1), ("-10184-01-01T12", -383543208000000),
        (np.datetime64("12345-01-01T00:00:01"), 327403382401000),
        (np.datetime64("-0044-03-15"), "-0044-03-15"), (np.datetime64("12345", "Y"), 327403382400000),
        ("9999-12-31", "9999-12-31"), ("-0001-01-01", "-0001-01-01"), ("+1", "+1"), ("-5", "-5"), ("", ""),
        (["+10000-01-01", None, "2024-01-01"], [253402300800000, None, "2024-01-01"]),
    ],
)  # fmt: skip
def test_dates_beyond_the_year_9999(value: Any, stored: Any) -> None:
    assert Preparer(DATES, {}).prepare(Document("1", {"when": value})).source["when"] == stored
    nested = Preparer(DATES, {}).prepare(Document("1", {"at": {"end": value}})).source["at"]["end"]
    assert nested == stored
    # A field that takes no milliseconds has it as it was written.
    kept = Preparer(DATES, {}).prepare(Document("1", {"day": "+10000-01-01"})).source["day"]
    assert kept == "+10000-01-01"


@pytest.mark.parametrize("seed", range(50))
def test_far_dates_are_numpys(seed: int) -> None:
    millis = random.Random(seed).choice([-1, 1]) * random.Random(seed + 100).randint(26 * 10**13, 2**63 - 1)
    text = iso_year(str(np.datetime64(millis, "ms")))
    assert Preparer(DATES, {}).prepare(Document("1", {"when": text})).source["when"] == millis


@pytest.mark.parametrize(
    "value",
    [
        "+292278994-08-17T07:12:55.808Z", "+999999999-12-31", "-292278994-01-01", "+10001-02-29",
        "+10000-13-01", "+10000-01-01T24:00",
    ],
)  # fmt: skip
def test_no_date_is_made_another_one(value: str) -> None:
    """OpenSearch stores the last day that it knows in place of a later one."""
    with pytest.raises(RecordError, match=r"^when: .*(is not a date|further away)"):
        Preparer(DATES, {}).prepare(Document("1", {"when": value}))


VECTORS = IndexPlan.from_toml(
    """
    [text.title]
    [dense.v]
    encoder = "precomputed"
    dims = 2
    [dense."meta.w"]
    encoder = "precomputed"
    dims = 2
    optional = true
    [sparse."meta.terms"]
    encoder = "precomputed"
    """
)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"v": None}, "v"), ({"meta.terms": None}, "meta.terms"), ({"meta": {"terms": None}}, "meta.terms"),
        ({"meta": None}, "meta.terms"), ({"v": None, "title": "x"}, "v"),
    ],
)  # fmt: skip
def test_null_over_a_vector_that_each_document_has_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(RecordError, match=f"takes the vector '{field}' away.*--optional {field}") as refused:
        Preparer(VECTORS, {}, optional=["meta.w"]).prepare(Document("1", change, "update"))
    assert refused.value.field == field
    allowed = Preparer(VECTORS, {}, optional=["*"]).prepare(Document("1", change, "update"))
    assert field in allowed.wanted - allowed.vectors.keys()


@pytest.mark.parametrize("change", [{"meta": {"w": None}}, {"meta.w": None}])
def test_null_over_a_vector_that_may_be_missing(change: dict[str, Any]) -> None:
    record = Preparer(VECTORS, {}).prepare(Document("1", change, "update"))
    assert record.wanted == {"meta.w"}
    assert record.vectors == {}


def test_a_value_for_what_esembed_keeps_is_refused() -> None:
    plan = IndexPlan.from_toml(
        """
        [chunk]
        source = ["title"]
        path = "parts.chunks"
        [dense.v]
        encoder = "static:x"
        chunked = true
        """
    )
    encoder: Any = type("E", (), {"info": EncoderInfo(spec="static:x", type="dense", dims=2)})()
    preparer = Preparer(plan, {"v": encoder})
    for op in ("index", "update"):
        for source in (
            {"esembed_hash": "x"}, {"esembed_parent": "x"}, {"parts.chunks": []}, {"parts": {"chunks": {}}},
        ):  # fmt: skip
            with pytest.raises(RecordError, match=r"keeps for itself|is filled with the chunks"):
                preparer.prepare(Document("1", {"title": "x", **source}, op))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"parts": None}, {"parts": []}, {"a": None}, {"a": {"parts": None}}])
def test_an_update_that_takes_the_nested_objects_away(change: dict[str, Any]) -> None:
    path = "parts" if "parts" in change else "a.parts"
    plan = IndexPlan.from_toml(
        f"""
        [chunk]
        source = ["title"]
        path = "{path}"
        [dense.v]
        encoder = "precomputed"
        dims = 2
        chunked = true
        """
    )
    with pytest.raises(RecordError, match="takes the vector 'v' away"):
        Preparer(plan, {}).prepare(Document("1", change, "update"))
    assert Preparer(plan, {}, optional=["v"]).prepare(Document("1", change, "update")).id == "1"
