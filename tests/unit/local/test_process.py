"""Finding Java, recognizing processes, reading logs, refusing wrong options: without a server."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from esembed.errors import EngineStartError
from esembed.local import java, process
from esembed.local import server as local
from esembed.local.config import Security, User
from esembed.local.server import EngineInfo


def _jdk(home: Path, version: str, modules: str = "jdk.jdi@1 jdk.incubator.vector@1") -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "{version}"\' >&2; '
        f"else echo {modules}; fi\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return home


def _only(monkeypatch: pytest.MonkeyPatch, *homes: Path) -> None:
    monkeypatch.setattr(java, "java_candidates", lambda: iter([(home, "JAVA_HOME") for home in homes]))


def test_the_first_java_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _jdk(tmp_path / "a", "1.8.0_402"), _jdk(tmp_path / "b", "21.0.3")
    newest = _jdk(tmp_path / "c", "25")
    _only(monkeypatch, old, tmp_path / "nothing", new, newest)
    assert (java.find_java().home, java.find_java().major) == (new, 21)
    assert java.find_java(min_major=22).major == 25
    assert java.find_java(min_major=17, max_major=23).major == 21


def test_no_java_says_what_was_seen_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = _jdk(tmp_path / "jre", "21.0.1", modules="java.base@21")
    _only(monkeypatch, _jdk(tmp_path / "old", "17.0.15"), cut, tmp_path / "nothing")
    with pytest.raises(EngineStartError) as caught:
        java.find_java()
    text = caught.value.message
    assert "Java 21 or newer" in text
    assert "is Java 17.0.15" in text
    assert "without jdk.jdi, jdk.incubator.vector: a full JDK is needed" in text
    assert "has no bin/java" in text
    assert "JAVA_HOME" in text
    assert "--docker" in text
    _only(monkeypatch)
    with pytest.raises(EngineStartError, match="none at all"):
        java.find_java()


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("PATH", str(_jdk(tmp_path / "onpath", "21") / "bin"))
    assert [source for _, source in java.java_candidates()][:2] == ["JAVA_HOME", "PATH"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "esembed-marker"]) as child:
        yield child
        child.kill()


def test_a_pid_alone_proves_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    began = process.create_time(sleeper.pid)
    assert began is not None
    assert process.is_ours(sleeper.pid, began, "esembed-marker")
    assert not process.is_ours(sleeper.pid, began - 60, "esembed-marker")
    assert not process.is_ours(sleeper.pid, began, "another-server")
    process.end_process(sleeper.pid, timeout_seconds=10)
    assert not process.is_ours(sleeper.pid, began, "esembed-marker")
    assert process.create_time(sleeper.pid) is None


def test_ending_what_is_gone_is_fine() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    process.end_process(child.pid)


def test_a_port_in_use_is_named_with_its_holder() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(EngineStartError, match=rf"port {port} .* process {os.getpid()}"):
            process.check_port_free(port)
    process.check_port_free(port)
    process.check_port_free(0)


OPENSEARCH_LINE = (
    "[2026-01-01T00:00:00,000][INFO ][o.o.h.AbstractHttpServerTransport] [n] publish_address "
    "{127.0.0.1:38107}, bound_addresses {127.0.0.1:38107}"
)
TRANSPORT_LINE = "[i][INFO ][o.e.t.TransportService] [n] publish_address {127.0.0.1:9300}, bound_addresses {}"


def test_the_http_port_is_read_not_the_transport_port(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert process.published_port(log) is None
    log.write_text(TRANSPORT_LINE + "\n")
    assert process.published_port(log) is None
    log.write_text(TRANSPORT_LINE + "\n" + OPENSEARCH_LINE + "\n")
    assert process.published_port(log) == 38107


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "[ERROR][o.o.b.OpenSearch] BindHttpException; nested: BindException[Address already in use]",
            "in use",
        ),
        ("Error: Could not reserve enough space for 9437184KB object heap", "heap"),
        ("Caused by: java.nio.file.AccessDeniedException: /x", "may not read"),
        ("java.lang.IllegalStateException: failed to obtain node locks", "stop it first"),
        ("[ERROR] something new and odd", "something new and odd"),
    ],
)
def test_the_log_tells_the_cause(tmp_path: Path, line: str, cause: str) -> None:
    log = tmp_path / "l"
    log.write_text("[INFO ] fine\n" + line + "\n    at java.base/x.y(Z.java:1)\n")
    told, shown = process.explain_log(log, tmp_path / "absent")
    assert cause in told
    assert line in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "solr"}, "'opensearch' or 'elasticsearch'"),
        ({"heap_mb": 10}, "at least 256"),
        ({"heap_mb": 1 << 30}, "choose less"),
        ({"port": 70_000}, "65535"),
        ({"name": "../etc"}, "lower-case letters"),
        ({"trial": True}, "Elasticsearch"),
        ({"security": True}, "security plugin"),
        ({"version": "0.1"}, "pinned versions"),
    ],
)
def test_wrong_options_are_refused_before_anything_happens(
    tmp_path: Path, use_cache_folder: Callable[[Path], None], options: dict[str, object], message: str
) -> None:
    use_cache_folder(tmp_path / "cache")
    with pytest.raises(EngineStartError, match=message):
        local.start(**({"engine": "opensearch"} | options))  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


def test_no_engine_is_not_an_error(tmp_path: Path, use_cache_folder: Callable[[Path], None]) -> None:
    use_cache_folder(tmp_path / "cache")
    assert local.status("opensearch") is None
    assert local.running() == []
    assert local.stop("opensearch") is False
    assert local.logs("opensearch") == []


def test_passwords_are_not_in_reprs() -> None:
    user = User(name="reader", password="hunter2")
    info = EngineInfo(
        url="https://127.0.0.1:1",
        pid=1,
        engine="elasticsearch",
        version="9.5.3",
        name="x",
        home=Path("h"),
        instance=Path("i"),
        log_path=Path("l"),
        started_at=0.0,
        heap_mb=512,
        license="basic",
        java="j",
        username="esembed",
        password="hunter2",
    )
    for shown in (repr(user), repr(Security(users=(user,))), repr(info)):
        assert "hunter2" not in shown


def test_a_zombie_counts_as_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        while psutil.pid_exists(child.pid) and psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert process.create_time(child.pid) is None


SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_server_that_somebody_killed_is_no_zombie(tmp_path: Path) -> None:
    pid = process.spawn(SLEEP, env={}, log=tmp_path / "log", uid=None, cwd=tmp_path)
    assert process.create_time(pid) is not None
    os.kill(pid, 9)
    for _ in range(500):
        if process.create_time(pid) is None:
            break
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


def test_a_server_that_outlives_its_starter_is_no_warning(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from esembed.local import process; here = Path(sys.argv[1]); "
        "print(process.spawn(sys.argv[2:], env={}, log=here / 'log', uid=None, cwd=here))"
    )
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", script, str(tmp_path), *SLEEP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    server = psutil.Process(int(done.stdout))
    server.kill()
    server.wait()
    assert done.stderr == ""
