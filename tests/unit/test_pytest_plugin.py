"""The pytest plugin's options, order and reasons, each in a pytest of its own; no engine is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esembed.pytest_plugin import _Users

pytest_plugins = ["pytester"]

USES_OPENSEARCH = "def test_it(esembed_opensearch):\n    assert esembed_opensearch.engine == 'opensearch'\n"


@pytest.fixture(autouse=True)
def bare_machine(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, use_cache_folder: Callable[[Path], None]
) -> None:
    """No URL, no Docker API, no Java; a cache of its own."""
    for name in list(os.environ):
        if name.startswith(("ESEMBED_", "PYTEST_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:asyncio -p no:hypothesispytest -p no:anyio")
    use_cache_folder(pytester.path / "cache")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/nowhere.sock")
    monkeypatch.setenv("JAVA_HOME", str(pytester.path / "no-java"))
    # A machine without Java anywhere, whatever this one has; and nothing may be downloaded.
    pytester.makeconftest(
        "from esembed.local import java\n"
        "from pathlib import Path\n"
        "import os\n"
        "java.java_candidates = lambda: iter([(Path(os.environ['JAVA_HOME']), 'JAVA_HOME')])\n"
        "def nothing(*args):\n"
        "    raise java.EngineStartError('no network')\n"
        "java._download = nothing\n"
    )


def test_without_any_engine_the_test_is_skipped_with_each_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_OPENSEARCH)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    shown = " ".join(result.stdout.str().split())
    assert "no opensearch for tests: no Docker API at unix://" in shown
    assert "a local engine needs a full JDK, Java 21 or newer" in shown


def test_required_engines_make_it_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEMBED_REQUIRE_ENGINES", "1")
    pytester.makepyfile(USES_OPENSEARCH)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no opensearch for tests:*", "*ESEMBED_REQUIRE_ENGINES=1*"])
    assert "Traceback" not in result.stdout.str()


def test_each_mode_tries_only_its_own_way(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_OPENSEARCH)
    expected = {"docker": "Docker API", "local": "full JDK", "url": "no URL given (--esembed-opensearch-url)"}
    for mode, reason in expected.items():
        result = pytester.runpytest_subprocess("-rs", f"--esembed-engine={mode}")
        result.assert_outcomes(skipped=1)
        shown = result.stdout.str()
        assert reason in shown
        assert not any(other in shown for key, other in expected.items() if key != mode)


def test_a_mode_that_is_none_is_refused(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(USES_OPENSEARCH)
    assert pytester.runpytest_subprocess("--esembed-engine=cloud").ret == pytest.ExitCode.USAGE_ERROR
    monkeypatch.setenv("ESEMBED_ENGINE", "cloud")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*ESEMBED_ENGINE=cloud: it is auto, local, docker or url*"])


class _Engine(BaseHTTPRequestHandler):
    """As much of an engine as listing and deleting indices needs; remembers what it was asked."""

    names: list[str]
    asked: list[str]

    def _answer(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self.asked.append(f"GET {self.path.split('?')[0]}")
        if self.path.startswith("/_cat/indices/"):
            prefix = self.path.removeprefix("/_cat/indices/").split("*")[0].split("%2A")[0]
            self._answer([{"index": n} for n in self.names if n.startswith(prefix)])
        else:
            self._answer({n: {"aliases": {}} for n in self.names})

    def do_PUT(self) -> None:
        self.names.append(self.path.strip("/").split("?")[0])
        self._answer({"acknowledged": True})

    def do_DELETE(self) -> None:
        name = self.path.strip("/").split("?")[0]
        self.asked.append(f"DELETE {name}")
        self.names.remove(name)
        self._answer({"acknowledged": True})

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Engine,), {"names": ["somebody-elses"], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_comes_first_and_only_the_tests_own_indices_are_deleted(
    pytester: pytest.Pytester, server: ThreadingHTTPServer
) -> None:
    pytester.makepyfile(
        """
        def test_it(esembed_opensearch, esembed_index_name):
            assert esembed_opensearch.source == "url"
            client = esembed_opensearch.client()
            client.indices.create(index=esembed_index_name)
            client.indices.create(index=esembed_index_name + "-v2")
            assert esembed_opensearch.new_index_name() != esembed_opensearch.new_index_name()
        """
    )
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    result = pytester.runpytest_subprocess("-W", "error", f"--esembed-opensearch-url={url}")
    result.assert_outcomes(passed=1)
    handler = server.RequestHandlerClass
    assert issubclass(handler, _Engine)
    assert handler.names == ["somebody-elses"]
    deleted = [line for line in handler.asked if line.startswith("DELETE")]
    assert len(deleted) == 2
    assert not any("*" in line for line in deleted), "servers may refuse wildcards"


def test_the_url_may_come_from_the_environment(
    pytester: pytest.Pytester, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEMBED_OPENSEARCH_URL", f"http://127.0.0.1:{server.server_address[1]}")
    pytester.makepyfile(USES_OPENSEARCH)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_url_where_nothing_answers_is_one_line_and_no_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_OPENSEARCH)
    result = pytester.runpytest_subprocess("--esembed-opensearch-url=http://user:secret@127.0.0.1:1")
    result.assert_outcomes(errors=1)
    shown = result.stdout.str()
    assert "doesn't answer at 127.0.0.1:1" in shown
    assert "correct --esembed-opensearch-url" in shown
    assert "secret" not in shown
    assert "Traceback" not in shown


def test_one_test_runs_on_both_engines(pytester: pytest.Pytester, server: ThreadingHTTPServer) -> None:
    pytester.makepyfile(
        "def test_it(esembed_engine):\n    assert esembed_engine.engine in esembed_engine.url\n"
    )
    url = f"http://127.0.0.1:{server.server_address[1]}"
    result = pytester.runpytest_subprocess(
        "-v",
        f"--esembed-opensearch-url={url}/opensearch",
        f"--esembed-elasticsearch-url={url}/elasticsearch",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_it?opensearch?*", "*test_it?elasticsearch?*"])


def test_the_module_imports_only_pytest_and_the_standard_library() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import esembed.pytest_plugin; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "known = {*sys.stdlib_module_names, 'esembed', '_pytest'}; print(sorted(new - known))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_STATE = {"users": [os.getpid()], "owned": True, "url": "http://127.0.0.1:1", "how": "container x"}
_EMPTY = {"users": [], "owned": False, "url": None, "how": ""}
_BAD_STATES: dict[str, bytes] = {
    "empty": b"",
    "cut": json.dumps(_STATE).encode()[:30],
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "huge": json.dumps(_STATE).encode() + b" " * (1 << 20),
    "no text": b"\xff\xfe",
    "NUL bytes": b"\0" * 40,
    **{
        f"{key} is {value!r}"[:30]: json.dumps(_STATE | {key: value}).encode()
        for key, value in [
            ("users", None), ("users", 7), ("users", ["1"]), ("users", [2**70]), ("users", [-1]),
            ("users", [True]), ("users", [1.5]), ("users", {}), ("owned", "yes"), ("url", 7), ("how", None),
            ("url", "file:///etc/passwd"), ("surprise", 1),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("what", _BAD_STATES)
def test_a_damaged_file_of_users_is_a_fresh_start(what: str, tmp_path: Path) -> None:
    path = tmp_path / "opensearch.json"
    users = _Users(path)
    path.write_text(json.dumps(_STATE))
    assert users.read() == _STATE
    path.write_bytes(_BAD_STATES[what])
    assert users.read() == _EMPTY
    assert users.leave() == _EMPTY
    assert json.loads(path.read_text()) == _EMPTY


def test_a_pipe_in_the_place_of_the_file_of_users_keeps_nobody(tmp_path: Path) -> None:
    path = tmp_path / "opensearch.json"
    os.mkfifo(path)
    assert _Users(path).read() == _EMPTY
