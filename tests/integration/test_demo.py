"""The demo's steps on both engines, with a part of its corpus."""

from __future__ import annotations

import json

import pytest

from esembed.cli import main
from esembed.demo import run
from esembed.pytest_plugin import EngineHandle

pytest.importorskip("openvino")

LIMIT = 240


@pytest.fixture
def clean(esembed_engine: EngineHandle, monkeypatch: pytest.MonkeyPatch, esembed_index_name: str) -> str:
    """The demo under another index name, so that a person's own demo is left alone."""
    monkeypatch.setattr(run, "INDEX", esembed_index_name)
    return esembed_engine.url


def test_twice(clean: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--url", clean, "--limit", str(LIMIT)]
    assert main([*arguments, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["documents"] == LIMIT
    assert first["index_reused"] is False
    by_id = {record["id"]: record for record in run.load_corpus(LIMIT)}
    assert set(by_id) >= {one for q in first["questions"] for a in q["answers"].values() for one in a["ids"]}
    assert [q["question"] for q in first["questions"]] == list(run.QUESTIONS)
    for question in first["questions"]:
        assert set(question["answers"]) == set(run.LEGS)
        assert all(len(answer["ids"]) == 5 for answer in question["answers"].values())
        # One hit of a class: "folder" stands in many methods of mailbox's classes and nowhere else.
        for answer in question["answers"].values():
            objects = [by_id[one]["object"] for one in answer["ids"]]
            assert len(set(objects)) == len(objects)

    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "complete and unchanged" in shown.err
    for part in (
        *run.QUESTIONS,
        "BM25",
        "dense",
        "sparse",
        "hybrid",
        "esembed search",
        "esembed engine stop",
    ):
        assert part in shown.out

    # Another corpus is another index: it is made again.
    assert main([*arguments[:-1], str(LIMIT // 2), "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index_reused"] is False


def test_stop_is_for_the_local_engine(clean: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", clean, "--stop"]) == 2
    assert "--url" in capsys.readouterr().err
