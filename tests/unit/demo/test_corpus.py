"""The first-run corpus: the standard library's docstrings, read without importing anything."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from esembed.demo import corpus
from esembed.errors import PermanentError

FIELDS = {"id", "name", "object", "title", "kind", "module", "signature", "doc", "file", "line"}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return list(corpus.records())


def test_there_are_thousands_of_every_kind(records: list[dict[str, Any]]) -> None:
    kinds = Counter(record["kind"] for record in records)
    assert set(kinds) == {"module", "class", "function", "method"}
    assert kinds["function"] > 1000
    assert kinds["method"] > 1500
    assert kinds["class"] > 500
    assert kinds["module"] > 150


def test_records_are_whole_and_distinct(records: list[dict[str, Any]]) -> None:
    assert all(set(record) == FIELDS for record in records)
    assert len({record["id"] for record in records}) == len(records)
    assert min(len(record["doc"]) for record in records) >= corpus.MIN_DOC_CHARS
    for record in records:
        assert not any(part.startswith("_") for part in record["id"].split(".")), record["id"]
        assert record["file"] is None or not Path(record["file"]).is_absolute()
        assert (record["file"] is None) is (record["line"] is None)


def test_what_people_look_for_is_there(records: list[dict[str, Any]]) -> None:
    by_id = {record["id"]: record for record in records}
    split = by_id["os.path.split"]
    assert split["kind"] == "function"
    assert split["module"] == "os.path"
    assert split["signature"] == "split(p)"
    assert split["title"] == "os path split"
    assert split["line"] > 1
    # Written in C, known under their public names.
    for name in ("collections.deque", "math.hypot", "builtins.sorted", "itertools.chain", "os.getcwd"):
        assert name in by_id, name
    decode = by_id["json.decoder.JSONDecoder.decode"]
    assert (decode["kind"], decode["object"]) == ("method", "json.decoder.JSONDecoder")
    assert split["object"] == "os.path.split"


def test_the_order_and_the_fingerprint_are_stable(records: list[dict[str, Any]]) -> None:
    assert list(corpus.records()) == records
    assert corpus.fingerprint() == corpus.fingerprint()


def test_the_fingerprint_notices_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text('"""Something about JSON that is long enough."""\n')
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    before = corpus.fingerprint()
    (tmp_path / "csv.py").write_text('"""Something about CSV that is long enough."""\n')
    assert corpus.fingerprint() != before
    assert {record["id"] for record in corpus.records()} >= {"json", "csv"}


def test_a_python_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(PermanentError, match="no Python source files"):
        list(corpus.records())


def test_nothing_is_imported_and_optimised_python_sees_the_same(records: list[dict[str, Any]]) -> None:
    code = (
        "import hashlib, json, sys; from esembed.demo import corpus; found = list(corpus.records());"
        "assert 'tkinter' not in sys.modules and 'turtle' not in sys.modules and 'ftplib' not in sys.modules;"
        "print(len(found), hashlib.sha256(json.dumps(found).encode()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    digest = hashlib.sha256(json.dumps(records).encode()).hexdigest()
    assert result.stdout.split() == [str(len(records)), digest]


def test_common_modules_are_read_whole_and_say_nothing_twice(records: list[dict[str, Any]]) -> None:
    common = list(corpus.records(modules=corpus.COMMON))
    assert 2000 < len(common) < 3000
    assert [one for one in records if one in common] == common
    assert len({record["doc"] for record in common}) == len(common)
    named = [record for record in records if record["module"].split(".")[0] in corpus.COMMON]
    left_out = [record for record in named if record not in common]
    assert 0 < len(left_out) < 200
    assert {record["doc"] for record in left_out} <= {record["doc"] for record in common}
    assert sys.stdlib_module_names >= corpus.COMMON


def test_short_docstrings_can_be_left_out() -> None:
    long_only = list(corpus.records(min_doc_chars=500))
    assert long_only
    assert min(len(record["doc"]) for record in long_only) >= 500
