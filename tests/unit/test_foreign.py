"""What others wrote, on its way to a terminal, JSON or a page."""

from __future__ import annotations

import ast
import html
import json
import logging
import pickle
import sys
import unicodedata
from pathlib import Path

import pytest
import tomllib
from hypothesis import given
from hypothesis import strategies as st

from esembed import terminal
from esembed.cli import main
from esembed.errors import EngineRequestError, EsembedError
from esembed.foreign import escaped, html_escaped, json_escaped

EVIL = "\x1b]0;owned\x07\x1b[2J\rred\x9b31m\x7f\u202egnp.exe\u2066\u200f\u061c\u2028\ufeff\U000e0041\ud800"
PACKAGE = Path(__file__).resolve().parents[2] / "esembed"


def obeyed(text: str) -> set[str]:
    """What a terminal would obey or can't show, by Unicode's own categories."""
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t"}
    bidi = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return found | {c for c in text if unicodedata.bidirectional(c) in bidi}


@given(st.text(st.characters(), max_size=50))
def test_nothing_that_is_obeyed_comes_through(text: str) -> None:
    shown = escaped(text)
    assert not obeyed(shown)
    assert escaped(shown) == shown
    assert not obeyed(html_escaped(text))
    assert not any(c in escaped(text, one_line=True) for c in "\n\t")


def test_each_character_by_category() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert not obeyed(escaped(every))
    words = "año naïve 漢字 עברית العربية 👩\u200d🚀 क्\u200dष e\u0301\tx\ny"
    assert escaped(words) == words


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_json_and_toml_mean_the_same(text: str) -> None:
    raw = json.dumps({"a": text}, ensure_ascii=False)
    assert json.loads(json_escaped(raw)) == {"a": text}
    assert not obeyed(json_escaped(raw))
    import tomli_w

    made = json_escaped(tomli_w.dumps({"a": text}))
    if not any(ord(c) > 0xFFFF for c in text):
        assert tomllib.loads(made) == {"a": text}


def test_a_page_shows_what_was_written() -> None:
    assert html.unescape(html_escaped("<b>'\"&")) == "<b>'\"&"
    assert "<" not in html_escaped("<script>")


def test_an_error_shows_no_control_character_and_keeps_its_message() -> None:
    error = EngineRequestError(f"the engine said {EVIL}", status=400, reason=EVIL)
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert not obeyed(str(one))
        assert one.message == f"the engine said {EVIL}"


def test_tables_notes_json_and_logs(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(("a", "b"), [(EVIL, {EVIL: [EVIL]}), (EsembedError(EVIL), {EVIL})], title=EVIL)
    terminal.note(EVIL)
    terminal.say(EVIL)
    terminal.complain(EVIL)
    table = terminal.table("name")
    table.add_row(EVIL.replace("\ud800", ""))
    terminal.console().print(table)
    with terminal.progress() as bars:
        bars.add_task(EVIL.replace("\ud800", ""))
    terminal.LogHandler().emit(logging.LogRecord("x", 30, "x", 1, "%s", (EVIL,), None))
    out, err = capsys.readouterr()
    assert "owned" in out
    assert "owned" in err
    assert not obeyed(out + err)
    terminal.print_json({EVIL: EVIL, "n": 2**70})
    out = capsys.readouterr().out
    assert not obeyed(out)
    assert json.loads(out) == {EVIL: EVIL, "n": 2**70}


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL],
        ["search", EVIL, EVIL, "--index", "i"],
        ["search", "x", f"--{EVIL}"],
        ["search", "x", "--index", "i", "--size", EVIL],
        ["ingest", f"{EVIL}.jsonl", "--index", "i", "--url", "http://127.0.0.1:1"],
        ["search", "x", "--index", "i", "--url", EVIL],
        ["index", "create", "x", f"{EVIL}.toml"],
        ["engine", "stop", "--name", EVIL],
        ["--debug", "index", "create", "x", f"{EVIL}.toml"],
    ],
)
def test_arguments_come_back_escaped(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word.replace("\ud800", "\udc80") for word in arguments]  # as Python reads a wrong byte
    assert main(arguments) != 0
    out, err = capsys.readouterr()
    assert not obeyed(out + err)


def test_an_unexpected_error_is_shown_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError(EVIL)

    monkeypatch.setattr("esembed.cli._connect.Connection.client", broken)
    assert main(["index", "inspect", "x", "--url", "http://127.0.0.1:1", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert not obeyed(out + err)
    assert json.loads(out)["error"]["type"] == "LookupError"


def test_verbs_print_through_the_one_door() -> None:
    """What writes to a terminal is in terminal.py; verbs call it."""
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("print", "typer.echo", "sys.stderr.write", "Console"), (
                path.name,
                node.lineno,
            )
            if called == "sys.stdout.write":
                assert "__version__" in ast.unparse(node), path.name


assert sys.version_info  # tomllib: 3.11
