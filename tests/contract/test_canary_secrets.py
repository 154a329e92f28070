"""A secret with a mark in it, in every credential that esembed takes, is nowhere in what comes out.

What comes out: errors with their chains and reprs, log records at DEBUG (of every package), standard
output and error, files, reprs, reports, ``inspect`` and ``_meta``. The servers here quote each request's
headers back in their status line, their headers and their body, as proxies and debugging pages do.
"""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from query_engines import World

from esembed import AsyncIndex, Index, IndexPlan, IngestOptions
from esembed.cli import main
from esembed.encode.base import RuntimeOptions
from esembed.encode.registry import load
from esembed.encode.remote import OpenAIEncoder
from esembed.ingest.sources import FileSource, ReadOptions

MARK = "Zq7Canary8xW2pLmR5tKd"
SECRET = f"sk+/=&'{MARK}\"%25-end"
"""Signs around the mark that each quoting writes in another way; the mark itself stays, except in base64."""

PLAN = IndexPlan.from_toml(
    '[text.body]\n[filter.n]\ntype = "integer"\n[dense.v]\nencoder = "own:x"\nsource = ["body"]\ndims = 2\n'
)
ANSWERS = ["m400", "m401", "m404", "m503", "m302", "m200"]


def encoded(mark: str) -> list[str]:
    """The mark as it may stand there: plain, percent-encoded, and in base64 at each of three places."""
    raw = mark.encode()
    found = [mark, "".join(f"%{byte:02X}" for byte in raw), raw.hex()]
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw).decode()
        found.append(text[4 : 4 * ((len(raw) + shift) // 3)])
    return found


def places(text: str) -> list[str]:
    return [text[max(0, at - 150) : at + 30] for form in encoded(MARK) if (at := text.find(form)) >= 0]


def told(error: BaseException) -> str:
    """All that an error can be made to say: texts, reprs, attributes and the traceback, of its chain, too."""
    said, stack, seen = [], [error], set()
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        said += [str(one), repr(one), repr(one.args), repr(getattr(one, "__dict__", None))]
        said += traceback.format_exception(type(one), one, one.__traceback__)
        stack += [e for e in (one.__cause__, one.__context__, *one.args) if isinstance(e, BaseException)]
    return "\n".join(said)


class Quoting(http.server.BaseHTTPRequestHandler):
    """Answers as the path's first part says, and quotes the request's headers wherever it can."""

    elsewhere: ClassVar[int] = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        sent = self.rfile.read(length)
        mode = self.path.strip("/").partition("/")[0].rpartition(":")[2]
        quoted = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        if mode == "vectors":
            items = json.loads(sent)["input"]
            data = [{"index": i, "embedding": [0.6, 0.8]} for i in range(len(items))]
            status, body = 200, json.dumps({"data": data})
        elif mode == "records":
            status, body = 200, '{"id": "1", "body": "red fox"}\n{"id": "2", "body": "x", "n": "bad"}\n'
        else:
            status = int(mode[1:]) if mode[:1] == "m" and mode[1:].isdigit() else 502
            body = json.dumps({"error": {"type": "bad", "reason": quoted, "header": dict(self.headers)}})
            if status == 200:
                body = f"<html>{quoted} {self.path}</html>"
        # A reason phrase and headers are quoted by HTTP libraries' errors and logs.
        self.send_response(status, quoted.encode("latin-1", "replace").decode("latin-1")[:2000])
        self.send_header("x-echo", quoted[:4000])
        if status == 302:
            self.send_header("location", f"http://localhost:{self.elsewhere}/m200/")
        content = "application/json" if body.startswith(("{", "[")) else "text/html"
        self.send_header("content-type", content)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer


class Other(http.server.BaseHTTPRequestHandler):
    """Another origin, which must never see a credential."""

    seen: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.seen.append(f"{self.path} {self.headers}")
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET


@pytest.fixture
def address() -> Iterator[str]:
    """``127.0.0.1:PORT`` of the server that quotes."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Quoting, Other)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    Quoting.elsewhere = servers[1].server_port
    Other.seen.clear()
    yield f"127.0.0.1:{servers[0].server_port}"
    for server in servers:
        server.shutdown()
        server.server_close()
    assert not places("\n".join(Other.seen))


class Leaks:
    """What was looked at, and where the mark was found."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.looked_at = self.errors = 0

    def look(self, where: str, text: Any) -> None:
        self.looked_at += 1
        if places(str(text)):
            self.found[where] = places(str(text))[:2]

    def attempt(self, where: str, call: Callable[[], Any]) -> Any:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - whatever comes out is looked at
            self.errors += 1
            self.look(f"error of {where}", told(error))
            return None
        self.look(f"result of {where}", repr(result))
        return result


@pytest.fixture
def leaks(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Leaks]:
    caplog.set_level(logging.DEBUG)
    found = Leaks()
    yield found
    for record in caplog.get_records("call"):
        text = f"{record.getMessage()} {logging.Formatter().format(record)} {record.args!r}"
        found.look(f"log {record.name}: {record.module}", text)
    out = capfd.readouterr()
    found.look("stdout", out.out)
    found.look("stderr", out.err)
    assert found.looked_at > 3
    assert not found.found, json.dumps(found.found, indent=1)


class AwsCredentials:
    """What boto3 gives a signer."""

    access_key, secret_key, token = "AKIDEXAMPLE", SECRET, SECRET


def _with_user(url: str) -> str:
    return url.replace("://", f"://user:{quote(SECRET, safe='')}@")


def made(engine: str, url: str, *, is_async: bool) -> dict[str, Callable[[], Any]]:
    """Each way in which an official client takes a credential."""
    header = {"headers": {"Authorization": f"ApiKey {SECRET}"}}
    if engine == "elasticsearch":
        import elasticsearch

        es: Any = elasticsearch.AsyncElasticsearch if is_async else elasticsearch.Elasticsearch
        return {
            "api key": lambda: es(url, api_key=SECRET),
            "api key of two parts": lambda: es(url, api_key=("id", SECRET)),
            "bearer": lambda: es(url, bearer_auth=SECRET),
            "basic": lambda: es(url, basic_auth=("user", SECRET)),
            "header": lambda: es(url, **header),
            "URL": lambda: es(_with_user(url)),
            "line break": lambda: es(url, api_key=SECRET + "\n"),
            "curly quote": lambda: es(url, api_key=SECRET + "”"),
        }
    import opensearchpy as op

    os_: Any = op.AsyncOpenSearch if is_async else op.OpenSearch
    if is_async:
        aws: dict[str, Any] = {
            "http_auth": op.AWSV4SignerAsyncAuth(AwsCredentials(), "eu-west-1"),
            "connection_class": op.AsyncHttpConnection,
        }
    else:
        aws = {"http_auth": op.Urllib3AWSV4SignerAuth(AwsCredentials(), "eu-west-1")}
    ways = {
        "basic": lambda: os_(url, http_auth=("user", SECRET)),
        "basic as text": lambda: os_(url, http_auth=f"user:{SECRET}"),
        "header": lambda: os_(url, **header),
        "URL": lambda: os_(_with_user(url)),
        "line break": lambda: os_(url, headers={"Authorization": f"ApiKey {SECRET}\n"}),
        "curly quote": lambda: os_(url, headers={"Authorization": f"ApiKey {SECRET}”"}),
        "AWS": lambda: os_(url, **aws),
    }
    if not is_async:
        ways["requests"] = lambda: os_(
            url, http_auth=("user", SECRET), connection_class=op.RequestsHttpConnection
        )
    return ways


RECORDS = [{"_id": "1", "body": "red fox", "n": 1}, {"_id": "2", "body": "x", "n": "many"}]


def test_sync_clients(query_world: World, address: str, leaks: Leaks, tmp_path: Path) -> None:
    engine, name = query_world.client.engine, query_world.name
    for mode in [*ANSWERS, "no host"]:
        url = "http://127.0.0.1:9" if mode == "no host" else f"http://{address}/{mode}"
        for way, make in made(engine, url, is_async=False).items():
            leaks.attempt(f"{way}, {mode}", lambda m=make: Index.open(m(), name))
    assert leaks.errors > 40, "each of these fails"
    encoder = OpenAIEncoder("m", base_url=f"http://{address}/vectors", api_key=SECRET, dims=2)
    for way, make in made(engine, query_world.url, is_async=False).items():
        if way in ("line break", "curly quote"):
            continue
        # The engines run without security and pass over credentials, except that OpenSearch reads no ApiKey.
        client, letters = make(), tmp_path / "letters.jsonl"
        index = leaks.attempt(way, lambda c=client: Index.create(c, name, PLAN, encoder={"v": encoder}))
        assert index is not None, f"{way}: {leaks.found}"
        options = IngestOptions(dead_letters=letters)
        report = leaks.attempt(way, lambda i=index, o=options: i.ingest(RECORDS, o))
        assert report is not None
        assert report.indexed == 1
        leaks.look(f"{way}: report", json.dumps(report.to_dict(), default=str))
        leaks.look(f"{way}: inspect", json.dumps(index.inspect(), default=str))
        leaks.attempt(f"{way}: search", lambda i=index: i.search("fox"))
        mapping = query_world.client.request("GET", f"/{name}*/_mapping").body
        assert "_meta" in json.dumps(mapping)
        leaks.look(f"{way}: _meta", json.dumps(mapping))
        index.delete_index()
        client.close()
    leaks.attempt("pickle", lambda: pickle.dumps(encoder))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        leaks.look(path.name, path.read_bytes().decode("utf-8", "replace"))
    encoder.close()


def test_async_clients(query_world: World, address: str, leaks: Leaks) -> None:
    engine, name = query_world.client.engine, query_world.name

    async def one(where: str, make: Callable[[], Any], *, right: bool) -> None:
        client = None
        try:
            client = make()
            if right:
                index = await AsyncIndex.create(client, name, IndexPlan.from_toml("[text.body]\n"))
                leaks.look(f"{where}: inspect", f"{index!r} {await index.inspect()}")
                leaks.look(f"{where}: search", repr(await index.search("fox")))
                await index.delete_index()
            else:
                await AsyncIndex.open(client, name)
        except Exception as error:
            if right:
                raise
            leaks.errors += 1
            leaks.look(f"error of {where}", told(error))
        finally:
            if client is not None:
                await client.close()

    async def run() -> None:
        for mode in ANSWERS:
            for way, make in made(engine, f"http://{address}/{mode}", is_async=True).items():
                if (way, mode) == ("AWS", "m302"):
                    # opensearch-py's AsyncHttpConnection (3.2) follows redirects, and aiohttp takes only
                    # Authorization out: the session token travels. It signs nothing without the secret key.
                    continue
                await one(f"{way}, {mode}", make, right=False)
        for way, make in made(engine, query_world.url, is_async=True).items():
            if way not in ("line break", "curly quote"):
                await one(way, make, right=True)

    asyncio.run(run())
    assert leaks.errors > 30


@pytest.mark.parametrize("engine", ["elasticsearch", "opensearch", None])
def test_command_line(
    engine: str | None, address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("K", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("BROKEN", SECRET + "\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ways = [
        ["--api-key-env", "K"],
        ["--api-key-env", "BROKEN"],
        ["--api-key-env", SECRET],
        ["--username", "u", "--password-env", "K"],
        ["--username", "u", "--password-env", "BROKEN"],
    ]
    if engine != "elasticsearch":
        ways.append(["--aws-region", "eu-west-1"])
    for mode in ANSWERS:
        url = ["--url", f"http://{address}/{mode}", *(["--engine", engine] if engine else [])]
        for way in ways:
            for verb in (["index", "inspect", "x", "--debug"], ["search", "x", "fox", "--json"], ["doctor"]):
                code = leaks.attempt(f"{verb} {way}", lambda a=[*verb, *url, *way]: main(a))
                assert verb == ["doctor"] or code, (verb, way, mode)
    for wrong in (_with_user(f"http://{address}"), f"http://{address}/?key={SECRET}", f"http:/u:{SECRET}@h"):
        leaks.attempt("--url", lambda w=wrong: main(["index", "inspect", "x", "--url", w, "--debug"]))


def test_endpoints_and_proxies(address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(where: str, mode: str, key: str | None) -> None:
        def call() -> Any:
            encoder = OpenAIEncoder(
                "m", base_url=f"http://{address}/{mode}", api_key=key, dims=2, max_retries=0
            )
            try:
                leaks.look(f"repr of {where}", f"{encoder!r} {encoder.info!r} {pickle.dumps(encoder)!r}")
                return encoder.encode_query(["fox"])
            finally:
                encoder.close()

        leaks.attempt(where, call)

    for mode in [*ANSWERS, "vectors"]:
        for name, key in {"key": SECRET, "line break": SECRET + "\n", "quote": SECRET + "”"}.items():
            one(f"{name}, {mode}", mode, key)
    monkeypatch.setenv("K", SECRET + "\n")
    spec = f"openai:m@http://{address}/m401"
    leaks.attempt("load", lambda: load(spec, runtime=RuntimeOptions(api_key_env="K")))
    leaks.attempt("URL", lambda: load(f"openai:m@{_with_user(f'http://{address}/m401')}"))
    monkeypatch.setenv("http_proxy", _with_user(f"http://{address}"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for mode in ANSWERS:
        one(f"proxy, {mode}", mode, None)


def test_sources(address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="remote sources need the extra remote")
    monkeypatch.setattr("esembed.ingest.sources.remote.PAUSE_SECONDS", 0.01)
    for mode in [*ANSWERS, "records"]:
        at = f"http://{address}/{mode}"
        for url in (
            f"{_with_user(at)}/a.jsonl",
            f"{at}/a.jsonl?X-Amz-Signature={quote(SECRET, safe='')}",
            f"{at}/a.jsonl#{quote(SECRET, safe='')}",
            f"{_with_user(at)}/a.parquet",
        ):
            leaks.attempt(f"{mode} {url}", lambda u=url: list(FileSource([u])))
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install -e .[dev]")
    s3fs.S3FileSystem.clear_instance_cache()
    values = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
    secrets = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), SECRET)
    for name, value in {**values, **secrets, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}/m400")
    leaks.attempt("s3", lambda: list(FileSource(["s3://bucket/a.jsonl"])))
    s3fs.S3FileSystem.clear_instance_cache()


SCRIPT = """
import logging, sys, traceback
logging.basicConfig(level=logging.DEBUG)
from esembed.cli import main
from esembed.encode.registry import load
for spec in ("hf:someone/model", "static:someone/model"):
    try:
        load(spec)
    except Exception:
        traceback.print_exc()
    else:
        sys.exit("it loads")
for url in sys.argv[1:]:
    main(["index", "inspect", "x", "--debug", "--url", url, "--api-key-env", "K"])
"""


def test_a_process_with_a_hub_token(address: str, leaks: Leaks, tmp_path: Path) -> None:
    for mode in ("m401", "m400", "m302"):
        base = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "ESEMBED_"))}
        hub = {"HF_TOKEN": SECRET, "HF_ENDPOINT": f"http://{address}/{mode}", "HF_HOME": str(tmp_path / mode)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, f"http://{address}/{mode}"],
            env={**base, **hub, "K": SECRET, "HF_DEBUG": "0", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert "someone/model" in done.stderr, done.stderr[-2000:]
        leaks.look(f"stdout {mode}", done.stdout)
        leaks.look(f"stderr {mode}", done.stderr)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            leaks.look(path.name, path.read_bytes().decode("utf-8", "replace"))


def test_ingest_from_an_address(
    query_world: World, address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command line reads records from addresses with a password, a signature and a fragment; one of the
    records becomes a dead letter, which says where it stood."""
    pytest.importorskip("fsspec", reason="remote sources need the extra remote")
    monkeypatch.setattr("esembed.ingest.sources.remote.PAUSE_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    name = query_world.name
    index = Index.create(query_world.client.official, name, IndexPlan.from_toml(TEXT_PLAN))
    where = ["--index", name, "--url", query_world.url, "--engine", query_world.client.engine]
    quoted = quote(SECRET, safe="")
    try:
        for mode in ("records", "m401", "m302"):
            at = f"http://{address}/{mode}/a.jsonl"
            for source in (_with_user(at), f"{at}?X-Amz-Signature={quoted}", f"{at}#{quoted}"):
                for more in (["--json"], ["--strict"], ["--debug"]):
                    code = leaks.attempt(source, lambda a=["ingest", source, *where, *more]: main(a))
                    assert code, (source, more)
                code = leaks.attempt(source, lambda a=["advise", "plan.toml", source, "--json"]: main(a))
        letters = tmp_path / f"{name}.dead.jsonl"
        assert letters.exists()
        again = ["ingest", "--from-dead-letters", str(letters), "--dead-letters", "more.jsonl", *where]
        leaks.attempt("dead letters", lambda: main(again))
        for path in tmp_path.rglob("*"):
            if path.is_file():
                leaks.look(path.name, path.read_bytes().decode("utf-8", "replace"))
        leaks.look("_meta", json.dumps(query_world.client.request("GET", f"/{name}").body))
    finally:
        index.delete_index()


TEXT_PLAN = '[text.body]\n[filter.n]\ntype = "integer"\n'


def test_variables_and_files_that_hold_credentials(
    address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the command line and libraries look for credentials by themselves."""
    monkeypatch.chdir(tmp_path)
    for url in (_with_user(f"http://{address}/m401"), f"http://{address}/m401?key={SECRET}"):
        monkeypatch.setenv("ESEMBED_URL", url)
        for verb in (
            ["index", "inspect", "x"],
            ["doctor", "--json"],
            ["search", "x", "--index", "x", "--debug"],
        ):
            leaks.attempt(f"ESEMBED_URL {verb}", lambda v=verb: main(v))
    monkeypatch.delenv("ESEMBED_URL")
    for variable in ("ESEMBED_ENCODER_API_KEY_ENV", "ESEMBED_ENCODER_API_KEY", "ESEMBED_ENCODER_DEVICE"):
        monkeypatch.setenv(variable, SECRET)
        if variable.endswith("DEVICE"):
            continue  # whoever writes a key there sees it in the error of a device that isn't there
        leaks.attempt(variable, lambda: load(f"openai:m@http://{address}/m401"))
        monkeypatch.delenv(variable)
    monkeypatch.delenv("ESEMBED_ENCODER_DEVICE")
    pytest.importorskip("boto3", reason="signing needs the extra aws")
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[mine]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {SECRET}\n[broken]\naws_access_key_id = x\n{SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for mode in ANSWERS:
        for profile in ("mine", "broken", SECRET):
            where = [
                "--url",
                f"http://{address}/{mode}",
                "--aws-region",
                "eu-west-1",
                "--aws-profile",
                profile,
            ]
            if profile != SECRET:  # a profile's name is no secret, and is told where there is none of it
                leaks.attempt(
                    f"{profile} {mode}", lambda w=where: main(["index", "inspect", "x", *w, "--debug"])
                )


def test_options_of_sources(
    address: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fsspec's options hold credentials: its own, and an HTTP client's."""
    pytest.importorskip("fsspec", reason="remote sources need the extra remote")
    monkeypatch.setattr("esembed.ingest.sources.remote.PAUSE_SECONDS", 0.01)
    storages: list[dict[str, Any]] = [
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"headers": {"Authorization": f"Bearer {SECRET}\n"}},
        {"headers": {"X-Api-Key": SECRET}},
        {"client_kwargs": {"headers": {"Authorization": f"Bearer {SECRET}"}}},
    ]
    local = tmp_path / "a.jsonl"
    local.write_text("{}\n")
    for storage in storages:
        options = ReadOptions(storage=storage)
        leaks.look("repr", f"{options!r} {FileSource([str(local)], options)!r}")
        for mode in [*ANSWERS, "records"]:
            for name in ("a.jsonl", "a.parquet"):
                url = f"http://{address}/{mode}/{name}"
                leaks.attempt(f"{storage} {mode}", lambda u=url, o=options: list(FileSource([u], o)))


def test_the_plugin(address: str, leaks: Leaks, tmp_path: Path) -> None:
    """A test run by an engine's address with a password: refused, answered oddly, or nobody there."""
    (tmp_path / "test_it.py").write_text(
        "def test_it(esembed_opensearch):\n    assert not esembed_opensearch\n"
    )
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ESEMBED_", "PYTEST_"))}
    for url in (f"http://{address}/m401", f"http://{address}/m200", "http://127.0.0.1:9"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "esembed.pytest_plugin",
                "-p",
                "no:cacheprovider",
                "-l",
                "-q",
            ],
            cwd=tmp_path,
            env={**base, "ESEMBED_OPENSEARCH_URL": _with_user(url), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode, done.stdout
        leaks.errors += 1
        leaks.look(f"stdout {url}", done.stdout)
        leaks.look(f"stderr {url}", done.stderr)


def test_the_search_itself_finds_each_form() -> None:
    assert all(places(f"x {form} y") for form in encoded(MARK))
    for form in (repr(SECRET), quote(SECRET, safe=""), json.dumps(SECRET)):
        assert places(form)
    for user in ("u", "us", "use"):
        assert places(base64.b64encode(f"{user}:{SECRET}".encode()).decode())
