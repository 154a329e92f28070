"""Values of any kind in a dead letter: they come back the same, or the letter says that it can't be played
again. Nothing else, whatever stands inside what."""

from __future__ import annotations

import enum
import ipaddress
import math
import sys
import uuid
from collections import OrderedDict, UserDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutations

from esembed.ingest.dead_letters import DeadLetters, UnreadableRecord, read_dead_letters
from esembed.types import Document, ItemError, SparseVector

# Measured to take about 15 seconds on two cores.
EXAMPLES = 3_000


class Color(enum.Enum):
    RED = "red"


class Flag(enum.IntFlag):
    A = 1


class Word(str):
    """A text with a way of its own."""

    def __str__(self) -> str:
        return "another"


LEAVES: list[Any] = [
    None, True, False, 0, -1, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**5000), 0.1, -0.0,
    5e-324, 1e308, math.nan, math.inf, -math.inf, "", "a", "\ud800", "\\ud800", "a\\udc80", "\0",
    "\U0001f332", "~1/~0", "#", b"", b"\xff\0", bytearray(b"x"), memoryview(b"xy"), datetime(1, 1, 1),
    datetime(9999, 12, 31, 23, 59, 59, 999999),
    datetime(2024, 3, 31, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))), date(2024, 2, 29),
    time(1, 2, 3), time(1, tzinfo=timezone.utc), timedelta(days=-1, microseconds=1), timedelta.max,
    Decimal("1.10"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN"), Decimal("1E+999999"),
    Decimal("Infinity"), Fraction(1, 3), uuid.UUID(int=7), ipaddress.ip_address("::1"),
    ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_network("10.0.0.0/8"), Path("a/b"), Path("/"),
    Color.RED, Flag.A, Word("word"), 1j, object(), object, len, range(3), ..., np.float32(0.1),
    np.float16(1), np.longdouble(1.5), np.int8(-5), np.uint64(2**64 - 1), np.bool_(True),
    np.datetime64("2024-01-01T00:00:00.123456789"), np.datetime64("NaT"), np.datetime64(10**15, "Y"),
    np.timedelta64(5, "ns"), np.str_("\ud800"), np.bytes_(b"x"), np.complex64(1), np.void(b"x"),
    np.array([1, 2], np.int16), np.array([[0.5], [np.nan]], np.float32), np.array([], np.float64),
    np.array(5.0), np.array(["a", "\ud800"]), np.array([b"a"]), np.array(["2024", "NaT"], "M8[D]"),
    np.array([1j]), np.array([{"a": 1}, None, 2**70], object), np.zeros((2, 0)),
    np.array([(1, 2)], "i4,i4"), np.ma.array([1], mask=[1]),
    SparseVector(("a", "b"), np.array([1, 2], np.float32)), SparseVector((), np.zeros(0, np.float32)),
    SparseVector((3, 2**40), np.array([0.5, 1e-45], np.float32)),
]  # fmt: skip


def value(random: Random, depth: int = 0) -> Any:
    if depth > 6 or random.random() < 0.4:
        return random.choice(LEAVES)
    items = [value(random, depth + 1) for _ in range(random.choice([0, 1, 1, 2, 3]))]
    kind = random.choice(
        [list, tuple, dict, dict, dict, set, frozenset, OrderedDict, UserDict, MappingProxyType, "deep"]
    )
    if kind in (list, tuple):
        return kind(items)
    if kind == "deep":
        inside = value(random, depth + 1)
        for _ in range(random.choice([5, 100, 245, 251, 300, 1100])):
            inside = [inside] if random.random() < 0.5 else {"x": inside}
        return inside
    hashable = [item for item in items if _hashable(item)]
    if kind in (set, frozenset):
        return kind(hashable)
    keys = [random.choice(["a", "b/c", "", "~", "0", "\ud800", "types"]) for _ in items]
    pairs = dict(zip(keys, items, strict=True))
    if hashable and random.random() < 0.2:
        pairs[random.choice(hashable)] = 1
    return pairs if kind is dict else kind(pairs)


def _hashable(item: Any) -> bool:
    try:
        hash(item)
    except (TypeError, ValueError):
        return False
    return True


def _in_order(item: Any) -> str:
    """Equal for an item and what comes back of it."""
    if isinstance(item, memoryview):
        return repr(bytes(item))
    if isinstance(item, enum.Enum):
        return repr(item.value)
    return repr(str.__str__(item) if isinstance(item, str) else item)


def same(one: Any, back: Any) -> bool:
    """Equal, of the same type where that decides what is stored, to the last digit."""
    stack = [(one, back)]
    while stack:
        one, back = stack.pop()
        if isinstance(one, enum.Enum):
            one = one.value
        if isinstance(one, np.ndarray) and not one.ndim:
            one = one[()]
        if isinstance(one, np.ma.MaskedArray):
            one = one.tolist()
        if isinstance(one, np.ndarray):
            if not isinstance(back, np.ndarray) or (one.shape, one.dtype.kind) != (
                back.shape,
                back.dtype.kind,
            ):
                return False
            one, back = list(one.ravel()), list(back.ravel())
            if len(one) != len(back):
                return False
            stack += zip(one, back, strict=True)
        elif isinstance(one, SparseVector):
            if not isinstance(back, SparseVector) or one.indices != back.indices:
                return False
            stack.append((one.values, back.values))
        elif hasattr(one, "items"):
            if not isinstance(back, dict) or len(one) != len(back):
                return False
            for (k, v), (bk, bv) in zip(one.items(), back.items(), strict=True):
                stack += [(k, bk), (v, bv)]
        elif isinstance(one, (list, tuple)):
            if type(one) is not type(back) or len(one) != len(back):
                return False
            stack += zip(one, back, strict=True)
        elif isinstance(one, (set, frozenset)):
            if type(one) is not type(back) or len(one) != len(back):
                return False
            stack.append((sorted(one, key=_in_order), sorted(back, key=_in_order)))
        elif isinstance(one, (bytearray, memoryview)):
            stack.append((bytes(one), back))
        elif isinstance(one, (str, int)) and not isinstance(one, bool):
            kind = str if isinstance(one, str) else int
            if not isinstance(back, kind) or isinstance(back, bool) or kind.__ne__(back, one):
                return False
        elif type(one) is not type(back) or str(one) != str(back):
            return False
    return True


def test_values_come_back_or_are_said_to_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"

    def check(record: Any) -> None:
        path.unlink(missing_ok=True)
        letters = DeadLetters(path)
        letters.write(ItemError(None, "why", None, "f:1"), Document(None, {"v": record}))
        letters.close()
        (back,) = read_dead_letters(path)
        if isinstance(back, UnreadableRecord):
            assert "which a letter can't hold" in back.message, back.message
        else:
            assert same({"v": record}, back.source), back.source

    mutations.fuzz([], EXAMPLES, check, make=lambda _, seed: value(Random(seed)))
