"""What a value of another library becomes, in records, filters and ids alike."""

from __future__ import annotations

import ipaddress
import math
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from esembed import IndexPlan
from esembed import query as q
from esembed.dialect.documents import dumps
from esembed.errors import QueryError, RecordError
from esembed.ingest.stages.prepare import Preparer
from esembed.scalars import identifier, plain
from esembed.types import Document


class Level(IntEnum):
    HIGH = 3


class State(Enum):
    OPEN = "open"


class NAType:
    """As pandas has it."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __hash__(self) -> int:
        return 1


NAType.__module__ = "pandas._libs.missing"

SAME = [
    (Decimal("9.99"), 9.99),
    (Decimal("12.00"), 12),
    (Decimal("1E+3"), 1000),
    (Decimal("1e30"), 1e30),
    (Decimal(2**64 - 1), 2**64 - 1),
    (Fraction(1, 4), 0.25),
    (np.int64(3), 3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float64(0.1), 0.1),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array(5), 5),
    (Level.HIGH, 3),
    (State.OPEN, "open"),
    (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    (ipaddress.ip_address("::1"), "::1"),
    (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (Path("a/b"), "a/b"),
    (date(2024, 3, 1), "2024-03-01"),
    (datetime(2024, 3, 1, 12, tzinfo=timezone.utc), "2024-03-01T12:00:00+00:00"),
    (np.datetime64("2024"), "2024-01-01"),
    (np.datetime64("2024-03"), "2024-03-01"),
    (np.datetime64("2024-03-01", "W"), "2024-02-29"),
    (np.datetime64("2024-03-01"), "2024-03-01"),
    (np.datetime64("2024-03-01T12", "h"), "2024-03-01T12:00:00"),
    (np.datetime64("2024-03-01T12:30", "m"), "2024-03-01T12:30:00"),
    (np.datetime64("2024-03-01T12:30:01", "s"), "2024-03-01T12:30:01"),
    (np.datetime64("2024-03-01T12:30:01.5", "ms"), "2024-03-01T12:30:01.5"),
    (np.datetime64("2024-03-01T12:30:01.000001", "us"), "2024-03-01T12:30:01.000001"),
    (np.datetime64("2024-03-01T00:00:00", "ns"), "2024-03-01T00:00:00"),
    (np.datetime64("1970-01-01T00:00:01", "ps"), "1970-01-01T00:00:01"),
    (np.datetime64("1970-01-01T00:00:01", "as"), "1970-01-01T00:00:01"),
    (np.array("2024-03-01", dtype="M8[s]"), "2024-03-01T00:00:00"),
]
INEXACT = [
    2**64,
    -(2**63) - 1,
    Decimal("12345678901234567890123"),
    Decimal(1) / 3,
    Decimal("0.12345678901234567890"),
    Decimal("1E+999999999"),
    Decimal("1E-999999999"),
    Fraction(1, 3),
    ipaddress.ip_interface("10.0.0.1/8"),
    np.datetime64(1, "as"),
]


def stored(value: Any) -> Any:
    return Preparer(IndexPlan.from_toml("[text.t]"), {}).prepare(Document("1", {"f": value})).source["f"]


@pytest.mark.parametrize(("value", "wanted"), SAME)
def test_a_value_means_the_same_in_a_record_a_filter_and_a_list(value: Any, wanted: Any) -> None:
    assert plain(value) == wanted
    assert type(plain(value)) is type(wanted)
    assert dumps(stored(value)) == dumps(wanted)
    assert q.term("f", value) == q.term("f", wanted)
    assert q.terms("f", [value]) == q.terms("f", [wanted])
    if not isinstance(wanted, bool):
        assert q.range("f", gte=value) == q.range("f", gte=wanted)


@pytest.mark.parametrize("value", INEXACT)
def test_what_is_not_exact_is_refused_with_the_field(value: Any) -> None:
    with pytest.raises(RecordError, match=r"^price: ") as record:
        Preparer(IndexPlan.from_toml("[text.t]"), {}).prepare(Document("1", {"price": value}))
    assert record.value.field == "price"
    for make in (lambda: q.term("price", value), lambda: q.terms("price", [value])):
        with pytest.raises(QueryError, match="'price'") as refused:
            make()
        assert refused.value.field == "price"
    with pytest.raises(QueryError):
        q.range("price", lte=value)


@pytest.mark.parametrize("value", [NAType(), np.datetime64("NaT")])
def test_no_value_is_null_in_a_record_and_refused_in_a_filter(value: Any) -> None:
    assert plain(value) is None
    assert stored([value, "a"]) == [None, "a"]
    for make in (lambda: q.term("f", value), lambda: q.range("f", gte=value, lte=1)):
        with pytest.raises(QueryError):
            make()


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, np.float32("nan"), Decimal("NaN"), Decimal("Infinity")],
)
def test_no_bound_vanishes(value: Any) -> None:
    for name in ("gte", "gt", "lte", "lt"):
        with pytest.raises(QueryError, match="finite"):
            q.range("price", **{name: value})


def test_arrays_of_times_in_records() -> None:
    days = np.array(["2024-03-01", "NaT"], dtype="M8[ns]")
    assert stored(days) == ["2024-03-01T00:00:00", None]
    assert stored({"a": [days]}) == {"a": [["2024-03-01T00:00:00", None]]}
    assert stored(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("a", "a"), (7, "7"), (2**70, str(2**70)), (np.int32(7), "7"), (np.str_("a"), "a"), (Decimal("5"), "5"),
     (Decimal(2**70), str(2**70)), (UUID(int=5), str(UUID(int=5))), (Level.HIGH, "3"), (State.OPEN, "open")],
)  # fmt: skip
def test_ids(value: Any, wanted: str) -> None:
    assert identifier(value) == wanted
    assert q.ids(value) == q.ids([value]) == q.ids(wanted)


@pytest.mark.parametrize(
    "value", [1.0, 1e300, math.nan, True, np.bool_(True), Decimal("1.5"), Decimal("1E+999999999"), None,
              date(2024, 1, 1), np.datetime64("2024-01-01"), b"a", np.longdouble(1)]
)  # fmt: skip
def test_what_is_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="an id is a string"):
        identifier(value)
    with pytest.raises(QueryError, match="an id is a string"):
        q.ids([value])
