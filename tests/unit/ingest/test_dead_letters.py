"""Dead letters: what comes back is what was read, and no run loses another's."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from esembed.errors import OptionsError, PermanentError, SourceError
from esembed.ingest.dead_letters import DeadLetters, UnreadableRecord, check_place, read_dead_letters
from esembed.ingest.options import IngestReport
from esembed.ingest.sources import FileSource, ReadOptions, dead_letter_source
from esembed.types import Document, ItemError, SparseVector

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]


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
    "text",
    [
        "a,b\n1,2\n",
        '{"id": "a"}\n',
        "\0",
        '["reason"]',
        '{"x": 1, "reason": ""}',
        "\n",
        " ",
        '{"reason": "refund", "customer": 5}\n',
        '{"esembed_dead_letter": "mine"}\n',
        "{" * 9000,
        '{"x": 1}\n{"esembed_dead_letter":2,"reason":"second"}\n',
    ],
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
    old = '{"reason":"old","error_type":null}\n'
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


# -- where they are written ----------------------------------------------------------------------------


def letter(reason: str) -> tuple[ItemError, None]:
    return ItemError(None, reason, None, None), None


def reasons(path: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in path.read_text().splitlines()]


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


def _link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


PLACES = {
    "a folder": lambda at: at,
    "a link to a folder": lambda at: _link(at / "to", "."),
    "a link to itself": lambda at: _link(at / "loop", "loop"),
    "below a file": lambda at: Path(__file__) / "x.jsonl",
    "NUL": lambda at: at / "a\0b",
    "half a character": lambda at: at / "\ud900",
    "too long": lambda at: at / ("a" * 300),
    "a socket": lambda at: _socket(at / "socket"),
    "a pipe that nobody reads": lambda at: _pipe(at / "pipe"),
    "a folder that takes no files": lambda at: Path("/proc/x/letters.jsonl"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_for_no_letters_is_refused_before_the_run(tmp_path: Path, name: str) -> None:
    if name == "a folder that takes no files" and not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    path = PLACES[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OptionsError, match=r"name a(nother)? file") as refused:
        DeadLetters(path)
    assert refused.value.option == "dead_letters"
    assert sorted(tmp_path.iterdir()) == before
    # The same before an index's _meta is touched or a model loaded; a pipe is opened by the run alone.
    if name != "a pipe that nobody reads":
        with pytest.raises(OptionsError, match=r"name a(nother)? file"):
            check_place(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user's rights")
def test_a_folder_that_can_not_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    """As another user: root may write anywhere."""
    child(
        "os.setgid(65534); os.setuid(65534)",
        "try: DeadLetters(Path('/usr/letters.jsonl'))",
        "except OptionsError as error: assert 'Permission denied; name another file' in str(error)",
        "else: raise SystemExit(2)",
    )


def child(*lines: str) -> None:
    """Run lines in a process of their own."""
    imports = (
        "import os, signal, sys; from pathlib import Path; from esembed.errors import OptionsError",
        "from esembed.types import ItemError; from esembed.ingest.dead_letters import DeadLetters",
    )
    subprocess.run([sys.executable, "-c", "\n".join(imports + lines)], check=True, timeout=60)


def test_a_place_is_looked_at_and_nothing_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "letters.jsonl"
    letters = DeadLetters(path)
    assert list(tmp_path.iterdir()) == []
    letters.write(*letter("one"))
    letters.close()
    assert reasons(path) == ["one"]


@pytest.mark.parametrize("there", ["", None, "letters"])
def test_two_runs_at_once_lose_nothing(tmp_path: Path, there: str | None) -> None:
    path = tmp_path / "dead.jsonl"
    if there == "letters":
        earlier = DeadLetters(path)
        earlier.write(*letter("earlier"))
        earlier.close()
    elif there is not None:
        path.write_text(there)
    runs = [DeadLetters(path) for _ in range(4)]
    for number in range(5):
        for run, letters in enumerate(runs):
            letters.write(*letter(f"{run}.{number}"))
    for letters in runs:
        letters.close()
    assert runs[0].written == path
    for run, letters in enumerate(runs):
        assert letters.written is not None
        assert reasons(letters.written) == [f"{run}.{n}" for n in range(5)], "each has a file of its own"
        assert bool(letters.warnings) == (run > 0)
    if there == "letters":
        assert runs[0].moved is not None
        assert reasons(runs[0].moved) == ["earlier"]
    # What another run wrote meanwhile is an earlier run's to the next one.
    late = DeadLetters(path)
    late.write(*letter("late"))
    late.close()
    assert reasons(path) == ["late"]
    assert sum(len(reasons(file)) for file in tmp_path.iterdir()) == 21 + (there == "letters")


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Racing for the same name, empty at the start."""
    path = tmp_path / "dead.jsonl"
    path.touch()
    code = """if True:
        import sys
        from pathlib import Path
        from esembed.ingest.dead_letters import DeadLetters
        from esembed.types import ItemError
        for run in range(10):
            letters = DeadLetters(Path(sys.argv[1]))
            for n in range(3):
                letters.write(ItemError(None, f"{sys.argv[2]}.{run}.{n}", None, None), None)
            letters.close()
    """
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    found = sorted(reason for file in tmp_path.iterdir() for reason in reasons(file))
    assert found == sorted(f"{p}.{run}.{n}" for p in range(4) for run in range(10) for n in range(3))


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    with pytest.raises(subprocess.CalledProcessError):
        child(
            f"DeadLetters(Path({str(path)!r})).write(ItemError(None, 'killed', None, None), None)",
            "os.kill(os.getpid(), signal.SIGKILL)",
        )
    letters = DeadLetters(path)
    letters.write(*letter("next"))
    letters.close()
    assert (reasons(path), reasons(tmp_path / "dead.jsonl.1")) == (["next"], ["killed"])
    assert letters.warnings == []


@pytest.mark.parametrize("how", ["removed", "renamed", "folder removed"])
def test_a_file_that_goes_away_meanwhile(tmp_path: Path, how: str) -> None:
    path = tmp_path / "folder" / "dead.jsonl"
    letters = DeadLetters(path)
    letters.write(*letter("one"))
    if how == "renamed":
        path.rename(tmp_path / "kept.jsonl")
    else:
        path.unlink()
    if how == "folder removed":
        path.parent.rmdir()
    letters.write(*letter("two"))
    letters.close()
    assert reasons(path) == ["two"]
    assert "was removed or renamed" in letters.warnings[0]
    if how == "renamed":
        assert reasons(tmp_path / "kept.jsonl") == ["one"]


def test_a_file_of_another_program_that_comes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    path.write_text("a,b\n")
    letters.write(*letter("one"))
    letters.close()
    assert path.read_text() == "a,b\n"
    assert letters.written is not None
    assert reasons(letters.written) == ["one"]


@pytest.mark.parametrize("foreign", ["a,b\n1,2\n", '{"id": "1", "reason": "x"}\n'])
def test_a_hard_link_to_a_file_of_something_else(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "mine").write_text(foreign)
    os.link(tmp_path / "mine", tmp_path / "dead.jsonl")
    with pytest.raises(OptionsError, match="is no dead-letter file"):
        DeadLetters(tmp_path / "dead.jsonl")
    assert (tmp_path / "mine").read_text() == foreign


def test_a_hard_link_to_letters_keeps_them(tmp_path: Path) -> None:
    path, kept = tmp_path / "dead.jsonl", tmp_path / "kept.jsonl"
    for reason in ("one", "two"):
        letters = DeadLetters(path)
        letters.write(*letter(reason))
        letters.close()
        if not kept.exists():
            os.link(path, kept)
    assert (reasons(kept), reasons(path)) == (["one"], ["two"])


@pytest.mark.parametrize("damage", [b"\0" * 50, b'{"esembed_dead_letter":2,"rea', b"\xff\xfe{", b"[" * 2000])
def test_letters_with_damage_between_them_are_kept_and_read(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "dead.jsonl"
    good = b'{"esembed_dead_letter":2,"reason":"r","record":{"n":1}}\n'
    path.write_bytes(good + damage + b"\n" + good + damage)
    found = list(dead_letter_source(path))
    assert [isinstance(one, Document) for one in found] == [True, False, True, False]
    assert [one.position for one in found if isinstance(one, UnreadableRecord)] == [
        "dead.jsonl:2",
        "dead.jsonl:4",
    ]
    letters = DeadLetters(path)
    letters.write(*letter("new"))
    letters.close()
    assert (tmp_path / "dead.jsonl.1").read_bytes() == good + damage + b"\n" + good + damage
    # Where the first line is the damaged one, whose file it is can't be told for sure: it stays where it is,
    # and can be tried again.
    path.write_bytes(damage + b"\n" + good)
    assert [isinstance(one, Document) for one in dead_letter_source(path)] == [False, True]
    if not damage.startswith(b'{"esembed'):
        with pytest.raises(OptionsError, match="is no dead-letter file"):
            DeadLetters(path)


def test_what_is_no_dead_letter_file_is_not_played_again(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    path.write_text('{"id": "1"}\n' * 5)
    with pytest.raises(SourceError, match="is no dead-letter file; a file of records is read as a source"):
        dead_letter_source(path)
    path.write_text("")
    assert list(dead_letter_source(path)) == []
    for wrong in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(SourceError, match="there is no dead-letter file"):
            dead_letter_source(wrong)


def test_a_letter_beyond_the_limit_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    good = b'{"esembed_dead_letter":2,"reason":"r","record":{"n":1}}\n'
    path.write_bytes(good + good[:-2] + b" " * 50_000 + b"}\n" + good)
    first, second, third = dead_letter_source(path, ReadOptions(max_record_bytes=1000))
    assert isinstance(first, Document)
    assert isinstance(third, Document)
    assert isinstance(second, UnreadableRecord)
    assert "longer than 8000 bytes; raise max_record_bytes" in second.message


def test_dead_letters_are_no_source(tmp_path: Path) -> None:
    path = tmp_path / "books.dead.jsonl"
    letters = DeadLetters(path)
    letters.write(ItemError(None, "why", None, "f:1"), Document(None, {"n": 1}))
    letters.close()
    with pytest.raises(SourceError, match=r"books\.dead\.jsonl is a dead-letter file; --from-dead-letters"):
        FileSource([path])
    (tmp_path / "books.jsonl").write_text('{"n": 2}\n')
    for name in (str(tmp_path), f"{tmp_path}/*.jsonl"):
        source = FileSource([name])
        assert "is a dead-letter file" in source.warnings[0]
        assert [record.source for record in source if isinstance(record, Document)] == [{"n": 2}]


def test_reports_of_any_text_are_json(tmp_path: Path) -> None:
    letters = DeadLetters(None)
    letters.write(ItemError("\ud800", "half \udc80", None, "f\udcff:1"), None)
    report = IngestReport(errors=letters.errors, reasons=list(letters.reasons.values()))
    assert json.loads(report.to_json())["errors"][0]["id"] == "\\ud800"
    report.warnings.append("folder\udcff/x is not read")
    json.loads(report.to_json())


@pytest.mark.skipif(resource is None, reason="needs limits of a process")
def test_after_a_failed_write_the_next_begins_at_the_cut(tmp_path: Path) -> None:
    assert resource is not None
    path = tmp_path / "dead.jsonl"
    letters, failed = DeadLetters(path), 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for number in range(300):
            try:
                letters.write(*letter(f"{number}"))
            except PermanentError as error:
                assert "Make room" in str(error)  # noqa: PT017
                failed += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    letters.write(*letter("after"))
    letters.close()
    assert failed
    assert reasons(path) == [*map(str, range(300 - failed)), "after"]
