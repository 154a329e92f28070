"""The local engines, for real: start, share, die, restart, refuse, and Elasticsearch with HTTPS."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed.cli import main
from esembed.errors import DownloadError, EncoderError, EngineStartError
from esembed.local import artifacts
from esembed.local import server as local
from esembed.local.config import Security, User
from esembed.local.server import EngineInfo

pytestmark = pytest.mark.timeout(900)
HEAP_MB = 512
START = (
    "import sys; from esembed.local import server as local; "
    f"i = local.start('opensearch', name=sys.argv[1], heap_mb={HEAP_MB}); print(i.pid, i.url, i.reused)"
)


def _request(
    url: str,
    *,
    body: Any = None,
    method: str = "GET",
    user: str = "",
    password: str = "",
    ca: Path | None = None,
) -> Any:
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    """A name for this run's own server; everything under it is removed afterward."""
    unique = f"test-{os.getpid()}"
    yield unique
    local.destroy("opensearch", name=unique)
    local.destroy("elasticsearch", name=unique)


@pytest.fixture(autouse=True)
def needs_a_server(request: pytest.FixtureRequest) -> None:
    """Skip or fail as the plugin does, where no local server can be had."""
    try:
        local.find_java()
    except EngineStartError as error:
        if os.environ.get("ESEMBED_REQUIRE_ENGINES") == "1":
            raise
        pytest.skip(error.message)


def test_two_starts_at_once_share_one_server(name: str) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", START, name], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    answers = [child.communicate(timeout=800)[0].split() for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert answers[0][:2] == answers[1][:2], "one process, one address"
    assert sorted(answer[2] for answer in answers) == ["False", "True"]
    info = local.status("opensearch", name=name)
    assert info is not None, "it outlives the processes that started it"
    assert [str(info.pid), info.url] == answers[0][:2]
    assert _request(info.url)["version"]["number"] == info.version == "3.6.0"


@pytest.fixture
def running(name: str) -> EngineInfo:
    return local.start("opensearch", name=name, heap_mb=HEAP_MB)


def test_it_listens_on_loopback_as_an_ordinary_user(running: EngineInfo) -> None:
    import psutil

    process = psutil.Process(running.pid)
    assert process.uids().real != 0
    listening = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening, "it listens"
    assert {ip.replace("::ffff:", "") for ip in listening} <= {"127.0.0.1", "::1"}
    state = running.instance / "state.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_the_plugins_are_there(running: EngineInfo) -> None:
    plugins = _request(f"{running.url}/_cat/plugins?format=json")
    assert {row["component"] for row in plugins} == {"opensearch-knn", "opensearch-neural-search"}


def test_other_options_are_refused_while_it_runs(running: EngineInfo) -> None:
    with pytest.raises(EngineStartError, match=r"not on port 1.*stop it first"):
        local.start("opensearch", name=running.name, port=1)
    again = local.start("opensearch", name=running.name, version="3.6.0")
    assert again == dataclasses.replace(running, reused=True)


def test_the_command_line_shows_it(running: EngineInfo, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--engine", "opensearch", "--name", running.name]
    assert main(["engine", "status", *where, "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["url"], shown["pid"], shown["docker"]) == (running.url, running.pid, False)
    assert "password" not in shown
    assert main(["engine", "status", *where]) == 0
    assert running.url in capsys.readouterr().out
    assert main(["engine", "start", *where]) == 0
    assert f"runs already at {running.url}" in capsys.readouterr().out
    assert main(["engine", "logs", *where, "--lines", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["engine", "start", *where, "--image", "x"]) == 2


def test_a_killed_server_leaves_a_stale_state_and_its_data(
    running: EngineInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    _request(f"{running.url}/kept/_doc/1?refresh", method="PUT", body={"text": "still here"})
    os.kill(running.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while local.status("opensearch", name=running.name) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert local.status("opensearch", name=running.name) is None
    assert main(["engine", "status", "--engine", "opensearch", "--name", running.name]) == 1
    # The pid of the dead server now belongs to somebody else: it must not be taken for the server.
    state = running.instance / "state.json"
    told = json.loads(state.read_text()) | {"pid": os.getpid()}
    state.write_text(json.dumps(told))
    assert local.status("opensearch", name=running.name) is None
    again = local.start("opensearch", name=running.name, heap_mb=HEAP_MB)
    assert (again.reused, again.pid) != (True, running.pid)
    assert _request(f"{again.url}/kept/_doc/1")["_source"] == {"text": "still here"}


def test_a_server_whose_starter_was_killed_is_replaced(running: EngineInfo) -> None:
    # Killed between the start and the state file, a starter leaves a server that holds the data.
    (running.instance / "state.json").unlink()
    again = local.start("opensearch", name=running.name, heap_mb=HEAP_MB)
    assert again.pid != running.pid
    assert _request(f"{again.url}/kept/_doc/1")["_source"] == {"text": "still here"}


def test_an_index_whose_data_is_damaged_does_not_keep_it_from_running(
    running: EngineInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in ("sound", "damaged"):
        _request(f"{running.url}/{index}/_doc/1?refresh", method="PUT", body={"text": "here"})
        _request(f"{running.url}/{index}/_flush", method="POST")
    uuid = _request(f"{running.url}/damaged/_settings")["damaged"]["settings"]["index"]["uuid"]
    assert local.stop("opensearch", name=running.name)
    segments = list(running.instance.glob(f"data-*/nodes/0/indices/{uuid}/0/index/segments_*"))
    assert segments
    for path in segments:
        path.write_bytes(b"no segments file")
    again = local.start("opensearch", name=running.name, heap_mb=HEAP_MB)
    assert again.red_indices == ("damaged",)
    assert _request(f"{again.url}/sound/_doc/1")["_source"] == {"text": "here"}
    assert "red_indices" not in json.loads((again.instance / "state.json").read_text())
    where = ["--engine", "opensearch", "--name", running.name]
    assert main(["engine", "start", *where]) == 0
    shown = capsys.readouterr()
    assert f"runs already at {again.url}" in shown.out
    assert "damaged is red: a primary shard can't be read" in " ".join(shown.err.split())
    assert main(["engine", "start", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["red_indices"] == ["damaged"]
    _request(f"{again.url}/damaged", method="DELETE")
    assert local.start("opensearch", name=running.name).red_indices == ()


def test_stop_ends_the_process_and_purge_removes_the_data(
    running: EngineInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--engine", "opensearch", "--name", running.name]
    assert main(["engine", "stop", *where]) == 0
    assert capsys.readouterr().out == "opensearch stopped\n"
    with pytest.raises(urllib.error.URLError):
        _request(running.url)
    assert main(["engine", "stop", *where]) == 0
    assert capsys.readouterr().out == "opensearch was not running\n"
    assert any(running.instance.glob("data-*")), "kept for the next start"
    assert main(["engine", "stop", *where, "--purge"]) == 0
    assert not running.instance.exists()


def test_a_port_in_use_is_refused_before_the_start(name: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(EngineStartError, match=rf"process {os.getpid()}.*choose another port"):
            local.start("opensearch", name=name, port=held.getsockname()[1], heap_mb=HEAP_MB)
    assert local.status("opensearch", name=name) is None


def test_a_server_that_dies_at_boot_shows_the_cause_of_its_log(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody takes the port between our look and the server's.
    monkeypatch.setattr(local, "check_port_free", lambda port: None)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(EngineStartError, match="the port is in use: stop what listens there") as caught:
            local.start("opensearch", name=name, port=held.getsockname()[1], heap_mb=HEAP_MB)
    assert "BindException" in caught.value.log_tail or "Address already in use" in caught.value.log_tail
    assert local.status("opensearch", name=name) is None
    assert local.logs("opensearch", 5, name=name), "the log stays for reading"


def test_a_download_with_another_checksum_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEMBED_CACHE_DIR", str(tmp_path))
    real = artifacts.assembly("opensearch").plugins[0].artifacts[0]
    with pytest.raises(DownloadError, match=f"SHA-256 {real.sha256}, pinned is 0000.*removed.*Try again"):
        artifacts.fetch(dataclasses.replace(real, sha256="0" * 64), local_repos=[])
    assert [path.name for path in tmp_path.rglob("*.zip")] == []


def test_elasticsearch_with_https_users_and_a_trial_license(name: str) -> None:
    security = Security(
        users=(User(name="reader", password="read-only-1", roles=("searcher",)),),
        roles={
            "searcher": {"indices": [{"names": ["books*"], "privileges": ["read", "view_index_metadata"]}]}
        },
    )
    info = local.start("elasticsearch", name=name, heap_mb=HEAP_MB, trial=True, security=security)
    assert info.url.startswith("https://127.0.0.1:")
    assert info.ca_certs is not None
    assert info.password is not None
    mine = {"user": "esembed", "password": info.password, "ca": info.ca_certs}
    assert _request(f"{info.url}/_license", **mine)["license"]["type"] == "trial"
    _request(f"{info.url}/books-1/_doc/1?refresh", method="PUT", body={"t": "x"}, **mine)
    reader = {"user": "reader", "password": "read-only-1", "ca": info.ca_certs}
    assert _request(f"{info.url}/books-1/_count", **reader)["count"] == 1
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _request(f"{info.url}/books-1", method="DELETE", **reader)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _request(info.url + "/_license", user="esembed", password="wrong", ca=info.ca_certs)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        _request(info.url + "/_license")
    _a_search_only_user_searches_one_index(info)
    log = "\n".join(local.logs("elasticsearch", 10_000, name=name))
    assert info.password not in log
    with pytest.raises(EngineStartError, match="with security"):
        local.start("elasticsearch", name=name)
    assert local.stop("elasticsearch", name=name)


def _a_search_only_user_searches_one_index(info: EngineInfo) -> None:
    """``read`` and ``view_index_metadata`` on one index are enough, for what doesn't lie in another."""
    from elasticsearch import Elasticsearch

    plan = IndexPlan(
        text={"title": TextField()},
        sparse={"terms": SparseField(encoder="lexical", source=("title",))},
    )

    def client(user: str, password: str) -> Elasticsearch:
        return Elasticsearch(info.url, basic_auth=(user, password), ca_certs=str(info.ca_certs))

    with client("esembed", str(info.password)) as owner, client("reader", "read-only-1") as reader:
        assert Index.create(owner, "books-2", plan).ingest([{"_id": "1", "title": "red fox"}]).indexed == 1
        index = Index.open(reader, "books-2")
        assert index.search("fox").ids == ["1"]
        lexical = q.sparse("terms", text="fox", name="terms")
        with pytest.raises(EncoderError, match="needs the privilege read on the index esembed-statistics"):
            index.search(lexical)
        hits = index.search(q.rrf(q.match("fox"), lexical), partial_results=True)
        assert (hits.ids, list(hits.legs_missing)) == (["1"], ["terms"])
