"""Dead letters: what comes back is what was read, and no run loses another's."""

from __future__ import annotations

import ipaddress
import json
import math
import os
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from esembed.errors import OptionsError, PermanentError
from esembed.ingest.dead_letters import DeadLetters, UnreadableRecord, read_dead_letters
from esembed.types import Document, ItemError, SparseVector


def test_dead_letters_come_back(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    assert not path.exists()
    record = {"a": "\ud800", "x": float("nan"), "v": np.ones(2, np.float32)}
    letters.write(ItemError("7", "why", 400, "f:3"), Document("7", record, "update"), field="a")
    letters.write(ItemError(None, "broken", None, "f:4"), None, raw=b'{"id": "8", "ok": true}')
    letters.write(ItemError(None, "broken", None, "f:5"), None, raw=b"\xff{")
    letters.close()
    first, second, third = read_dead_letters(path)
    assert isinstance(first, Document)
    assert (first.id, first.op, first.position) == ("7", "update", "f:3")
    assert first.source["a"] == "\ud800"
    assert math.isnan(first.source["x"])
    assert first.source["v"].dtype == np.float32
    assert first.source["v"].tolist() == [1.0, 1.0]
    assert isinstance(second, Document)
    assert second.source == {"id": "8", "ok": True}
    assert isinstance(third, UnreadableRecord)
    assert third.raw == b"\xff{"


def test_no_run_removes_letters(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.with_name("dead.jsonl.2").write_text("another program's")
    for number in range(4):
        letters = DeadLetters(path)
        before = sorted(file.name for file in tmp_path.iterdir())
        assert letters.moved is None, "not before a letter"
        letters.write(ItemError(None, f"run {number}", None, f"f:{number}"), Document(None, {"n": number}))
        letters.close()
        assert len(sorted(tmp_path.iterdir())) == len(before) + 1
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert files.pop("dead.jsonl.2") == "another program's"
    assert {name: json.loads(text)["record"]["n"] for name, text in files.items()} == {
        "dead.jsonl": 3, "dead.jsonl.1": 0, "dead.jsonl.3": 1, "dead.jsonl.4": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", '{"id": "a"}\n', "\0", '["reason"]', '{"x": 1, "reason": ""}']
)
def test_a_file_of_something_else_is_no_place_for_dead_letters(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(OptionsError, match=r"is no dead-letter file.*Name another file"):
        DeadLetters(path)
    assert path.read_text() == text
    path.write_text("")
    letters = DeadLetters(path)  # an empty file is a name that somebody made (mktemp)
    letters.write(ItemError(None, "why", None, "f:1"), None)
    letters.close()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.csv"]


def test_letters_of_the_release_before_are_read_as_they_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(
        '{"reason":"r","error_type":"E","status":400,"position":"f:1","field":null,"id":"a","op":"update",'
        '"record":{"n":"x"}}\n'
        '{"reason":"r","error_type":"E","status":null,"position":"f:2","field":null,"id":null,"raw":"{\\"id"}\n'
    )
    first, second = read_dead_letters(path)
    assert isinstance(first, Document)
    assert (first.id, first.op, first.source, first.position) == ("a", "update", {"n": "x"}, "f:1")
    assert isinstance(second, UnreadableRecord)
    DeadLetters(path)


class _Odd:
    def __str__(self) -> str:
        raise ValueError("not even this")


def _deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


UTC = timezone.utc
ROUND = [
    0.1 + 0.2, 5e-324, -0.0, 2**63, 2**64, -(2**70), 10**5000, True, None, "", "a\\udc80b", "\ud83d\ude00",
    "\0", datetime(2024, 1, 31, 12, 30, 0, 1, tzinfo=UTC), datetime(1, 1, 1), date(9999, 12, 31), time(1, 2),
    timedelta(days=-1, microseconds=5), Decimal("1.10"), Decimal("1E+400"), UUID(int=5), {"b", "a"},
    frozenset({1}), {date(2024, 1, 1), None}, (1, (2, {"x": b"\xff\0"})), bytearray(b"x"), Path("a/b"),
    np.float32(0.1), np.int64(5), np.bool_(True), np.datetime64("2024-01-01T00:00:00.123456789"),
    np.array([[1, 2], [3, 4]], np.uint8), np.array([1.5, np.nan, -np.inf], np.float16),
    np.array(["2024", "NaT"], "M8[D]"), np.array(["a", "bc"]),
    np.array([{"a"}, None], object), np.zeros(0),
    {1: "x", None: {2.5: []}}, {"a/b": {"~c": Decimal(1)}, "": {"0": b""}}, {"half \udc80": 1},
    ipaddress.ip_address("::1"), ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_network("10.0.0.0/8"),
    SparseVector(("a", "b"), np.array([0.1, 2], np.float32)), _deep(240), OrderedDict(a=1), [[], {}, ()],
    SparseVector((3, 5), np.array([0.1, 2], np.float32)),
]  # fmt: skip


@pytest.mark.parametrize("value", ROUND, ids=lambda value: f"{type(value).__name__}")
def test_a_letter_comes_back_equal(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    letters.write(ItemError(None, "why", None, None), Document(None, {"v": value}))
    letters.close()
    json.loads(path.read_text())
    (document,) = read_dead_letters(path)
    assert isinstance(document, Document), document
    found = document.source["v"]
    if isinstance(value, np.ndarray):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)
    elif isinstance(value, bytearray):
        assert found == bytes(value)
    else:
        assert found == value
        if not isinstance(value, (Path, OrderedDict, int, set)):
            assert repr(found) == repr(value), "0.0 == -0.0, True == 1"


def test_values_of_pandas_come_back(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    record = {"t": pandas.Timestamp("2024-01-01T00:00:00.123456789Z"), "none": pandas.NaT, "na": pandas.NA}
    letters.write(ItemError(None, "why", None, None), Document(None, record))
    letters.close()
    (document,) = read_dead_letters(path)
    assert isinstance(document, Document)
    assert document.source["t"] == record["t"]
    assert document.source["none"] is pandas.NaT
    assert document.source["na"] is pandas.NA


@pytest.mark.parametrize("value", [object(), _Odd(), [_Odd()], 1j, {"x": np.zeros(1, "V3")}, _deep(3_000)])
def test_what_a_letter_can_not_hold_is_not_played_again(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    letters.write(ItemError("a", "why", None, "f:1"), Document(None, {"id": "a", "v": value}))
    letters.close()
    (back,) = read_dead_letters(path)
    assert isinstance(back, UnreadableRecord)
    assert "which a letter can't hold; read the record from its source again. It was: why" in back.message


def test_a_letter_that_was_repaired_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    record = {"n": math.inf, "day": date(2024, 1, 1), "tags": {"a"}, "gone": b"x", "deep": {"x": Decimal(1)}}
    letters.write(ItemError(None, "why", None, None), Document(None, record))
    letters.close()
    line = json.loads(path.read_text())
    line["record"] |= {"n": 5, "day": "2024", "tags": "a", "deep": None}
    del line["record"]["gone"]
    path.write_text(json.dumps(line))
    (back,) = read_dead_letters(path)
    assert isinstance(back, Document)
    assert back.source == {"n": 5, "day": "2024", "tags": "a", "deep": None}


@pytest.mark.parametrize(
    "change",
    [
        {"types": {"/a": "os.system"}}, {"types": {"/a": "array:|V9"}}, {"types": [1]}, {"types": {"/a": 5}},
        {"record": 5}, {"record": None}, {"op": "index", "read": {"op": "drop"}}, {"esembed_dead_letter": 3},
        {"types": {"/a": "scalar:|O"}}, {"lost": [1]}, {"types": {"/a": "array:<Q99999"}}, {"read": [1]},
    ],
)  # fmt: skip
def test_a_letter_that_was_spoiled_is_one_unreadable_record(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "dead.jsonl"
    good = {"esembed_dead_letter": 2, "reason": "why", "position": "f:1", "record": {"a": "x"}}
    path.write_text(json.dumps(good | change) + "\n" + json.dumps(good) + "\n")
    first, second = read_dead_letters(path)
    assert isinstance(first, UnreadableRecord), first
    assert isinstance(second, Document)


def test_dead_letters_never_replace_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        letters = DeadLetters(pipe)
        letters.write(ItemError("7", "why", None, "f:3"), Document("7", {"a": 1}))
        letters.close()
        assert b'"why"' in reader.read()
    assert pipe.is_fifo()
    assert not (tmp_path / "pipe.1").exists()
    with pytest.raises(OptionsError, match="is a folder; name a file"):
        DeadLetters(tmp_path)
    old = '{"reason":"old"}\n'
    (tmp_path / "real.jsonl").write_text(old)
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    letters = DeadLetters(tmp_path / "link.jsonl")
    letters.write(ItemError("7", "why", None, "f:3"), None)
    letters.close()
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl.1").read_text() == old
    assert b'"why"' in (tmp_path / "real.jsonl").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk_under_the_dead_letters_is_an_error_with_the_record() -> None:
    letters = DeadLetters(Path("/dev/full"))
    with pytest.raises(PermanentError, match=r"No space left on device.*goes on where it was.*f:3.*: why"):
        letters.write(ItemError("7", "why", None, "f:3"), Document("7", {"a": 1}))
    letters.close()
    assert Path("/dev/full").is_char_device()
