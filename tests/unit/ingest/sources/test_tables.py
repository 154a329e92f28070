"""Arrow's types, one by one, nested, and with one cell that can't be said; frames as rows."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from esembed.errors import SourceError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.ingest.sources import FileSource, open_source
from esembed.types import Document

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

DAY = dt.date(2024, 1, 1)
FAR = 253_402_300_800 * 10**6 + 1
"""Microseconds until the year 10000, and one."""


def column(array: Any) -> list[Any]:
    """The values of one column as records have them; None is absent, a str in a set is a refusal."""
    found = []
    for record in open_source(pa.table({"v": array})):
        if isinstance(record, UnreadableRecord):
            found.append({record.message.removeprefix("the column 'v' can't be read here: ")})
        else:
            assert isinstance(record, Document)
            found.append(plain(record.source.get("v")))
    return found


def plain(value: Any) -> Any:
    """Arrays as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def rows(what: Any) -> list[Any]:
    return [record.source for record in open_source(what) if isinstance(record, Document)]


US, NS = pa.timestamp("us"), pa.timestamp("ns")


CASES: list[tuple[Any, list[Any]]] = [
    (pa.array([19_000, 3_000_000, -800_000, -719_529], pa.date32()),
     ["2022-01-08", "+10183-09-21", "-0221-09-04", "-0001-12-31"]),
    (pa.array([0, 86_400_000 * 3_000_000], pa.date64()), ["1970-01-01", "+10183-09-21T00:00:00.000"]),
    (pa.array([0, FAR, None], US), ["1970-01-01T00:00:00", "+10000-01-01T00:00:00.000001", None]),
    (pa.array([0, 2**62], pa.timestamp("s")), ["1970-01-01T00:00:00", "+146138514283-06-19T07:45:04"]),
    (pa.array([1, FAR], pa.timestamp("us", "Europe/Berlin")),
     ["1970-01-01T01:00:00.000001+01:00", "+10000-01-01T00:00:00.000001+00:00"]),
    (pa.array([1], pa.timestamp("us", "No/Where")), ["1970-01-01T00:00:00.000001+00:00"]),
    (pa.array([[1_500]], pa.list_(pa.timestamp("ns"))), [["1970-01-01T00:00:00.000001"]]),
    (pa.array([{"t": 1_500}, None], pa.struct([("t", pa.time64("ns"))])), [{"t": "00:00:00.000001"}, None]),
    (pa.array([[("k", 1_500)]], pa.map_(pa.string(), NS)), [{"k": "1970-01-01T00:00:00.000001"}]),
    (pa.array([[0], [FAR], [1]], pa.list_(pa.timestamp("us"))),
     [["1970-01-01T00:00:00"], ["+10000-01-01T00:00:00.000001"], ["1970-01-01T00:00:00.000001"]]),
    (pa.array([[("a", 1), ("a", 2)], [("b", 2)], None, []], pa.map_(pa.string(), pa.int64())),
     [{"a map has the key 'a' twice"}, {"b": 2}, None, {}]),
    (pa.array([[(1, [("x", 2.5)])]], pa.map_(pa.int32(), pa.map_(pa.string(), pa.float64()))),
     [{"1": {"x": 2.5}}]),
    (pa.array([[(DAY, "x")], [(DAY, None)]], pa.map_(pa.date32(), pa.string())),
     [{"2024-01-01": "x"}, {"2024-01-01": None}]),
    (pa.array([[(b"\xff", 1)], [(b"a", 1)]], pa.map_(pa.binary(), pa.int8())),
     [{"a map has a key that is no text: b'\\xff'"}, {"a": 1}]),
    (pa.array([[{"m": [("k", DAY)]}], []], pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.date32()))]))),
     [[{"m": {"k": "2024-01-01"}}], []]),
    (pa.array([b"abc", b"\xff", None]), ["abc", b"\xff", None]),
    (pa.array([b"ab", b"\xff\0"], pa.binary(2)), ["ab", b"\xff\0"]),
    (pa.array([[b"\xff"], [b"a"]], pa.list_(pa.binary())), [[b"\xff"], ["a"]]),
    (pa.array([Decimal("12345678901234567890"), None], pa.decimal128(20, 0)),
     [Decimal("12345678901234567890"), None]),
    (pa.array([[Decimal("1.10")]], pa.list_(pa.decimal256(40, 2))), [[Decimal("1.10")]]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pa.array([DAY, None]).dictionary_encode(), ["2024-01-01", None]),
    (pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"], pa.string_view())), ["a", "b"]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], pa.array([DAY, None])), ["2024-01-01", "2024-01-01", None]),
    (pa.array([[dt.timedelta(1)]], pa.list_(pa.duration("ns"))), [[dt.timedelta(1)]]),
    (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)).slice(1), [None, [3, 4]]),
    (pa.array([[1, None], [2, 3]], pa.list_(pa.float32())), [[1, None], [2, 3]]),
    (pa.array([[1_500, 1], [], None], pa.list_view(pa.timestamp("ns"))),
     [["1970-01-01T00:00:00.000001", "1970-01-01T00:00:00"], [], None]),
    (pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array([DAY, DAY])]),
     [1, "2024-01-01"]),
    (pa.UnionArray.from_dense(pa.array([1, 0], pa.int8()), pa.array([0, 0], pa.int32()),
                              [pa.array(["x"]), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8()))]),
     [{"k": 1}, "x"]),
    (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=5).bytes, None], pa.binary(16))),
     [str(uuid.UUID(int=5)), None]),
    (pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]),
                                    pa.array([[1, 2]], pa.list_(pa.float32(), 2))),
     [[1, 2]]),
    (pa.array([1, 2**64 - 1], pa.uint64()), [1, 2**64 - 1]),
    (pa.array([[2**64 - 1]], pa.list_(pa.uint64())), [[2**64 - 1]]),
    (pa.array([{}], pa.struct([])), [{}]),
    (pa.array([None, None]), [None, None]),
    (pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xffa")),
     [{"'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"}, "a"]),
]  # fmt: skip


@pytest.mark.parametrize(("array", "expected"), CASES, ids=lambda value: str(getattr(value, "type", "")))
def test_a_column_by_its_type(array: Any, expected: list[Any]) -> None:
    assert column(array) == expected
    # The same one level down, and with rows before it.
    inside = pa.StructArray.from_arrays([array], ["x"])
    assert column(inside) == [one if isinstance(one, set) else {"x": one} for one in expected]
    assert column(array.slice(1)) == expected[1:]


def test_int96_is_no_count_of_nanoseconds(tmp_path: Path) -> None:
    stamps = pa.array(
        [dt.datetime(9999, 12, 31), dt.datetime(2024, 5, 1, 12), dt.datetime(1, 1, 1)], pa.timestamp("us")
    )
    nested = pa.array([[dt.datetime(9999, 12, 31)], [], None], pa.list_(pa.timestamp("us")))
    pq.write_table(
        pa.table({"a": stamps, "b": nested}), tmp_path / "x.parquet", use_deprecated_int96_timestamps=True
    )
    found = rows(tmp_path / "x.parquet")
    assert [row["a"] for row in found] == [
        "9999-12-31T00:00:00",
        "2024-05-01T12:00:00",
        "0001-01-01T00:00:00",
    ]
    assert found[0]["b"] == ["9999-12-31T00:00:00"]


def test_frames_are_rows() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pandas.DataFrame(
        {
            "id": ["a", "b"],
            "n": pandas.array([1, None], dtype="Int64"),
            "f": [1.5, float("nan")],
            "o": [[1], {"x": None}],
        }
    )
    source = open_source(frame)
    assert source.total_records == 2
    assert rows(source) == [{"id": "a", "n": 1, "f": 1.5, "o": [1]}, {"id": "b", "o": {"x": None}}]
    assert rows(frame[["id", "n"]].set_index("id")) == [{"id": "a", "n": 1}, {"id": "b"}]
    table = polars.DataFrame(
        {"id": ["a", "b"], "c": polars.Series(["u", None], dtype=polars.Categorical), "d": [DAY, None],
         "s": [{"t": dt.datetime(2024, 1, 1)}, None]}
    )  # fmt: skip
    for frames in (table, table.to_arrow(), pa.table(table.to_arrow()).to_batches()[0]):
        first, second = rows(frames)
        assert first == {"id": "a", "c": "u", "d": "2024-01-01", "s": {"t": "2024-01-01T00:00:00"}}
        assert second == {"id": "b"}
    many = polars.DataFrame({"n": range(5_000)})
    assert [row["n"] for row in rows(many)] == list(range(5_000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pd, pl: pd.DataFrame([[1, 2]]), "a column named 0"),
        (lambda pd, pl: pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns with the same name, 'a'"),
        (lambda pd, pl: pd.DataFrame({("a", "b"): [1]}), r"a column named \('a', 'b'\)"),
        (lambda pd, pl: pd.Series([1]), "the Series has no rows"),
        (lambda pd, pl: pl.Series([1]), "the Series has no rows"),
        (lambda pd, pl: pl.DataFrame({"a": [1]}).lazy(), r"pass frame.collect\(\)"),
        (
            lambda pd, pl: pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]),
            "two columns with the same",
        ),
    ],
)
def test_what_is_no_frame_is_refused_before_anything_is_read(make: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(make(pytest.importorskip("pandas"), pytest.importorskip("polars")))


def test_a_table_that_is_no_table_is_one_dead_letter(tmp_path: Path) -> None:
    """The other files of the folder are read."""
    good = pa.table({"id": ["a"]})
    twice = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(twice, tmp_path / "1.parquet")
    with pa.OSFile(str(tmp_path / "2.arrow"), "wb") as file, pa.ipc.new_file(file, twice.schema) as writer:
        writer.write_table(twice)
    pq.write_table(good, tmp_path / "3.parquet")
    first, second, third = FileSource([tmp_path])
    for bad, name in ((first, "1.parquet"), (second, "2.arrow")):
        assert isinstance(bad, UnreadableRecord)
        assert "two columns with the same name, 'x'" in bad.message
        assert bad.position == name
    assert isinstance(third, Document)


@pytest.mark.parametrize("seed", range(300))
def test_a_damaged_arrow_file_ends_in_records_or_one_dead_letter(tmp_path: Path, seed: int) -> None:
    """Offsets, lengths and sizes that lie: Arrow itself reads beyond its buffers then."""
    random = Random(seed)
    table = pa.table({
        "t": pa.array(["x" * 9, None, "y"]), "l": pa.array([["a"], [], ["b", "c"]]),
        "s": pa.array([{"k": "v"}, None, {"k": "w"}]), "c": pa.array(["u", "v", "u"]).dictionary_encode(),
        "m": pa.array([[("k", "v")], None, []], pa.map_(pa.string(), pa.string())),
    })  # fmt: skip
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    data = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) - 8)
        data[at : at + 4] = random.choice([b"\xff" * 4, b"\0\0\0\x7f", b"\0\0\0\x80", b"\x40\0\0\0"])
    path.write_bytes(data)
    for found in FileSource([path]):
        assert isinstance(found, (Document, UnreadableRecord))
        assert (found.position or "").startswith("x.arrow")
