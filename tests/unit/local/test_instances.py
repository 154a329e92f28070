"""Names, folders and state files of local engines, without starting one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esembed.cli import main
from esembed.errors import EngineStartError
from esembed.local import docker
from esembed.local import server as local
from esembed.local.artifacts import engine_root

NAMES = [
    "", ".", "..", "a/b", "default/..", "default/../opensearch-other", "../../x", "a\\b", "A", "-a", "a*",
    "a b", "a\n", "a\0", "a" * 42, "%2e%2e", "a.b", "ä", "１", "\x1b[2J", "~", "$HOME", "a,b",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, use_cache_folder: Callable[[Path], None]) -> Path:
    use_cache_folder(tmp_path)
    instances = engine_root() / "instances"
    instances.mkdir(parents=True)
    return instances


@pytest.mark.parametrize("name", NAMES)
def test_each_verb_checks_the_name_first(name: str, root: Path) -> None:
    before = sorted(root.rglob("*"))
    verbs = (local.start, local.status, local.stop, local.destroy, local.logs, docker.start, docker.status)
    for verb in verbs:
        with pytest.raises(EngineStartError, match="lower-case letters"):
            verb("opensearch", name=name)
    for arguments in (["stop", "--purge", f"--name={name}"], ["status", f"--name={name}"]):
        assert main(["engine", *arguments]) == 1
    assert sorted(root.rglob("*")) == before


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_purge_removes_what_esembed_made_and_nothing_else(root: Path, tmp_path: Path) -> None:
    for made in ("opensearch-marked", "opensearch-old"):
        (root / made / "data-3.6.0").mkdir(parents=True)
        (root / made / "conf").mkdir()
    (root / "opensearch-marked" / local.MARK).touch()
    (root / "opensearch-marked" / "what the server wrote").touch()
    (root / "opensearch-mine").mkdir()
    (root / "opensearch-mine" / "thesis.txt").touch()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (root / "opensearch-link").symlink_to(victim)
    (root / "opensearch-file").touch()
    for name in ("marked", "old"):
        local.destroy("opensearch", name=name)
        assert not (root / f"opensearch-{name}").exists()
    for name in ("mine", "link", "file"):
        with pytest.raises(EngineStartError, match=r"did not make|no folder that esembed made"):
            local.destroy("opensearch", name=name)
        with pytest.raises(EngineStartError, match=r"did not make|no folder that esembed made"):
            local.start("opensearch", name=name)
    assert (root / "opensearch-mine" / "thesis.txt").exists()
    assert _tree(victim) == ["precious"]


GOOD: dict[str, Any] = {
    "url": "http://127.0.0.1:9", "pid": os.getpid(), "engine": "opensearch", "version": "3.6.0",
    "name": "default", "home": "/nowhere", "instance": "/x/opensearch-default", "log_path": "/x/log",
    "started_at": 1.0, "heap_mb": 512, "license": "apache2", "java": "/java", "username": None,
    "password": None, "ca_certs": None, "reused": False,
}  # fmt: skip
DAMAGED = {
    "empty": "",
    "cut": json.dumps(GOOD)[:80],
    "a list": "[]",
    "null": "null",
    "deep": "[" * 100_000,
    "NUL bytes": "\0" * 40,
    "no text": "\udcff\udcfe",
    "huge": json.dumps(GOOD) + " " * (1 << 20),
    "many digits": json.dumps(GOOD)[:-1] + ', "x": ' + "9" * 5000 + "}",
    "deep inside": json.dumps(GOOD)[:-1] + ', "java": ' + "[" * 50_000 + "]" * 50_000 + "}",
    **{
        f"{key} is {value!r}"[:30]: json.dumps(GOOD | {key: value})
        for key, value in [
            ("pid", "x"), ("pid", 2**70), ("pid", -1), ("pid", 1), ("pid", True), ("pid", None), ("pid", 1.5),
            ("started_at", None), ("started_at", "now"), ("started_at", 1e300), ("started_at", float("nan")),
            ("url", "http://evil.example:9200"), ("url", 7), ("url", "http://127.0.0.1:9@evil.example"),
            ("home", None), ("home", 3), ("log_path", []), ("name", "other"), ("engine", "elasticsearch"),
            ("instance", "/etc"), ("surprise", 1), ("password", 7), ("username", []), ("ca_certs", 7),
            ("reused", "yes"), ("log_path", None), ("instance", None), ("red_indices", ["a"]),
            ("url", "http://127.0.0.1:99999"), ("url", "http://127.0.0.1:0"), ("url", "http://127.0.0.1:９"),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_state_file_is_an_error_with_words_and_stop_mends_it(
    what: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = root / "opensearch-default"
    instance.mkdir()
    state = instance / "state.json"
    state.write_bytes(DAMAGED[what].encode("utf-8", "surrogateescape"))
    with pytest.raises(EngineStartError, match=r"is damaged.*esembed engine stop --engine opensearch"):
        local.status("opensearch")
    assert local.running() == []
    assert main(["search", "x", "--index", "i", "--engine", "opensearch"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert local.stop("opensearch") is False
    assert not state.exists()
    assert local.status("opensearch") is None


def test_a_pipe_or_a_folder_in_the_place_of_a_state_file_keeps_nobody(root: Path) -> None:
    instance = root / "opensearch-default"
    instance.mkdir()
    os.mkfifo(instance / "state.json")
    with pytest.raises(EngineStartError, match="is damaged"):
        local.status("opensearch")
    (instance / "state.json").unlink()
    (instance / "state.json").mkdir()
    with pytest.raises(EngineStartError, match="is damaged"):
        local.status("opensearch")
    assert local.running() == []


def test_a_stale_state_file_is_none(root: Path) -> None:
    (root / "opensearch-default").mkdir()
    (root / "opensearch-default" / "state.json").write_text(json.dumps(GOOD))
    assert local.status("opensearch") is None
