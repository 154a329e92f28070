"""Which files a name means, what their folders say, and files made for ``_bulk``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esembed.errors import SourceError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.ingest.sources import FileSource
from esembed.types import Document


def _write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"at": name}) + "\n")


def _read(what: Any) -> list[Any]:
    found = list(FileSource([what]))
    assert all(isinstance(record, Document) for record in found), found
    return [record.source for record in found if isinstance(record, Document)]


PARTITIONED = [
    "lang=en/year=2024/a.jsonl",
    "lang=de/year=__HIVE_DEFAULT_PARTITION__/a.jsonl",
    "lang=a%2Fb/a.jsonl",
]


@pytest.mark.parametrize("store", ["", "file://", "memory://"])
def test_the_names_of_folders_are_columns(tmp_path: Path, store: str) -> None:
    root = tmp_path / "run=5"
    _write(root, *PARTITIONED)
    if store == "memory://":
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").put(str(root), f"/{tmp_path.name}/run=5", recursive=True)
        start = f"memory://{tmp_path.name}/run=5"
    else:
        start = f"{store}{root}"
    expected = {
        PARTITIONED[0]: {"lang": "en", "year": "2024"},
        PARTITIONED[1]: {"lang": "de"},
        PARTITIONED[2]: {"lang": "a/b"},
    }
    assert {row.pop("at"): row for row in _read(start)} == expected, "run=5 is where they lie"
    few = {row.pop("at"): row for row in _read(f"{start}/lang=*/year=*/*.jsonl")}
    for name, row in few.items():
        assert row.items() >= expected[name].items()
    assert sorted(few) == sorted(PARTITIONED[:2])
    assert _read(f"{start}/{PARTITIONED[0]}") == [{"at": PARTITIONED[0]}], "one file is that file"


def test_what_the_file_says_itself_comes_first(tmp_path: Path) -> None:
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "lang=en" / "a.csv").write_text("id,lang\n1,fr\n2,\n")
    assert _read(tmp_path) == [{"id": "1", "lang": "fr"}, {"id": "2", "lang": "en"}]


OTHERS = [
    "_delta_log/000.json", "_temporary/0/part.jsonl", ".ipynb_checkpoints/a.csv", "__MACOSX/._a.jsonl",
    "._a.jsonl",
    ".git/x.json", "metadata/v1.metadata.json", "lang=en/_temporary/a.jsonl",
    ".hoodie/x.json", "_drafts/a.jsonl",
]  # fmt: skip
DATA = ["a.jsonl", "_index.jsonl", "b/c.jsonl", "metadata/notes.jsonl", "_part=1/a.jsonl", "v1.metadata.json"]


@pytest.mark.parametrize("store", ["", "memory://"])
def test_what_writers_keep_beside_the_data_is_passed_over(tmp_path: Path, store: str) -> None:
    _write(tmp_path, *OTHERS, *DATA)
    start = str(tmp_path)
    if store:
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").put(str(tmp_path), f"/{tmp_path.name}", recursive=True)
        start = f"memory://{tmp_path.name}"
    assert sorted(row["at"] for row in _read(start)) == sorted(DATA)
    source = FileSource([start])
    assert len(source.warnings) == 1
    assert f"{len(OTHERS)} files in folders" in source.warnings[0]
    assert sorted(row["at"] for row in _read(f"{start}/**/*.jsonl")) == sorted(
        n for n in DATA if n.endswith("l")
    )
    assert [row["at"] for row in _read(f"{start}/_drafts")] == ["_drafts/a.jsonl"], "named, so meant"
    assert [row["at"] for row in _read(f"{start}/_drafts/*.jsonl")] == ["_drafts/a.jsonl"]


NAMES = [
    "a[1].jsonl",
    "why?.jsonl",
    "[x]/a*.jsonl",
    "a{b}.jsonl",
    "q?.csv",
    "a%20b.jsonl",
    "a#b.jsonl",
    "what?x=1.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("store", ["", "file://", "memory://"])
def test_a_name_that_is_there_is_that_file(tmp_path: Path, name: str, store: str) -> None:
    lines = "at\nx\n" if name.endswith("csv") else '{"at": "x"}\n'
    for one in (name, "a1.jsonl", "whyx.jsonl"):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_text(lines if one == name else '{"at": "another"}\n')
    start = str(tmp_path)
    if store == "memory://":
        fsspec = pytest.importorskip("fsspec")
        with fsspec.filesystem("memory").open(f"/{tmp_path.name}/{name}", "wb") as out:
            out.write(lines.encode())
        start = tmp_path.name
    assert _read(f"{store}{start}/{name}") == [{"at": "x"}]


def test_a_pattern_is_one_where_there_is_no_such_file(tmp_path: Path) -> None:
    _write(tmp_path, "a1.jsonl", "a2.jsonl", "b1.jsonl")
    for pattern in ("a[12].jsonl", "a?.jsonl", "a*"):
        for store in ("", "file://"):
            assert [row["at"] for row in _read(f"{store}{tmp_path}/{pattern}")] == ["a1.jsonl", "a2.jsonl"]


def test_a_zstd_file_may_begin_with_what_is_passed_over(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    rows = [json.dumps({"n": n}).encode() + b"\n" for n in range(3)]
    frames = [zstandard.compress(row) for row in rows]
    for first in (0x50, 0x57, 0x5F):
        skipped = bytes([first]) + b"\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
        empty = bytes([first]) + b"\x2a\x4d\x18" + bytes(4)
        data = skipped + empty + frames[0] + skipped + frames[1] + frames[2] + skipped
        for name in ("a.jsonl.zst", "misnamed.jsonl"):
            (tmp_path / name).write_bytes(data)
            assert _read(tmp_path / name) == [{"n": 0}, {"n": 1}, {"n": 2}]
    (tmp_path / "cut.jsonl").write_bytes(data[: len(data) // 2])
    (tmp_path / "d.jsonl").write_bytes(rows[0])
    found = list(FileSource([tmp_path / "cut.jsonl", tmp_path / "d.jsonl"]))
    assert isinstance(found[-1], Document), "a spoiled file isn't the others' end"


BULK = [
    ({"index": {"_index": "old", "_id": "a", "routing": "r"}}, {"body": "river", "op": "data"}),
    ({"create": {"_id": 5}}, {"body": "stone"}),
    ({"index": {}}, {"id": "own", "body": "sea"}),
    ({"delete": {"_id": "c"}}, None),
    ({"update": {"_id": "a", "retry_on_conflict": 3}}, {"doc": {"body": "x"}}),
]


def test_a_file_made_for_bulk_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    lines = [json.dumps(one) for pair in BULK for one in pair if one is not None]
    path.write_text("\n\n".join(lines) + "\n")
    assert [(r.id, r.op, r.source, r.routing) for r in FileSource([path]) if isinstance(r, Document)] == [
        ("a", "index", {"body": "river", "op": "data"}, None),
        ("5", "index", {"body": "stone"}, None),
        (None, "index", {"id": "own", "body": "sea"}, None),
        ("c", "delete", {}, None),
        ("a", "update", {"body": "x"}, None),
    ]
    assert [r.position for r in FileSource([path])][:2] == ["x.ndjson:1", "x.ndjson:5"]


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        (['{"index": {"_id": "a"}}', "{broken"], ["broken JSON"]),
        (['{"index": {"_id": "a"}', '{"body": "x"}'], ["broken JSON"]),
        (['{"index": {"_id": "a"}', '{"delete": {"_id": "x"}}'], ["broken JSON"]),
        (['{"delete": {"_id": "x"}}', '{"body": "x"}'], ['there is none before this line: {"body"']),
        (['{"update": {"_id": "a"}}', '{"script": "x"}'], ["an update by a script"]),
        (['{"update": {"_id": "a"}}', '{"doc": {}, "doc_as_upsert": true}'], ["an update by a script"]),
        (['{"update": {}}', '{"doc": {}}'], ["names no document"]),
        (['{"delete": {}}'], ["names no document"]),
        (['{"index": {"_id": 1.5}}', '{"body": "x"}'], ["an id is a string"]),
        (['{"index": {"_id": "a"}}', "[1]"], ["this line is a list"]),
        (["{broken", "{broken", '{"body": "x"}'], ["broken JSON", "broken JSON"]),
    ],
)
def test_what_is_wrong_in_a_file_for_bulk_costs_itself(
    tmp_path: Path, lines: list[str], bad: list[str]
) -> None:
    good = ['{"index": {"_id": "g"}}', '{"body": "g"}']
    path = tmp_path / "x.ndjson"
    path.write_text("\n".join([*good, *lines, *good, '{"index": {"_id": "end"}}']))
    found = list(FileSource([path]))
    reasons = [record.message for record in found if isinstance(record, UnreadableRecord)]
    assert len(reasons) == len(bad) + 1
    assert all(text in reason for text, reason in zip(bad, reasons, strict=False)), reasons
    assert "the file ends after this action" in reasons[-1]
    assert [r.id for r in found if isinstance(r, Document) and r.op == "index"] == ["g", "g"]


@pytest.mark.parametrize(
    "row", [{"index": 5}, {"index": {"a": 1}}, {"delete": {"_id": "a"}, "x": 1}, {"create": []}]
)
def test_a_record_that_only_looks_like_an_action(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({"index": {"_id": "a"}}) + "\n")
    assert _read(path) == [row, {"index": {"_id": "a"}}]


@pytest.mark.parametrize(
    "number", ["123456789012345678901234567890", "-99999999999999999999", "18446744073709551616"]
)
@pytest.mark.parametrize(
    "form", ['{{"id": {}, "n": [{}]}}\n', '[{{"id": {}, "n": [{}]}}]', '{{\n"id": {}, "n": [{}]}}']
)
def test_integers_are_exact_whatever_their_length(tmp_path: Path, number: str, form: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(form.format(number, number))
    assert _read(path) == [{"id": int(number), "n": [int(number)]}]


def test_names_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "dangling.jsonl").symlink_to("nowhere")
    (tmp_path / "a.jsonl").write_text("")
    for name in (
        "a" * 300 + ".jsonl", "x\0.jsonl", "\ud900.jsonl", "loop.jsonl", "dangling.jsonl",
        "a.jsonl/b.jsonl", "[", "*" * 300 + "x", "**/nothing.jsonl",
    ):  # fmt: skip
        with pytest.raises(SourceError, match=r"there is no file|can't open .*: File name too long"):
            FileSource([str(tmp_path / name)])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user's rights")
def test_what_can_not_be_opened_is_an_error_that_says_so(tmp_path: Path) -> None:
    """As another user: root may read anything."""
    code = """if True:
        import os
        from esembed.errors import SourceError
        from esembed.ingest.sources import FileSource
        os.setgid(65534); os.setuid(65534)
        for name in ("/proc/1/fd", "/proc/1/fd/x.jsonl"):
            try:
                FileSource([name])
            except SourceError as error:
                assert str(error) == f"can't open {name}: Permission denied", error
            else:
                raise SystemExit(2)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
