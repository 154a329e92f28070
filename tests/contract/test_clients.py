"""The official clients in all their forms: packages, connection classes, signers, several nodes."""

from __future__ import annotations

import asyncio
import http.server
import importlib
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import elasticsearch
import opensearchpy
import pytest
from query_engines import World

from esembed import AsyncIndex, Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed._sync.client import EngineClient
from esembed.cli import main
from esembed.errors import (
    EngineRequestError,
    EngineUnavailableError,
    IndexNotFoundError,
    OptionsError,
    UnsupportedFeatureError,
)

World.__test__ = False  # type: ignore[attr-defined]

PLAN = IndexPlan.from_toml('[text.body]\n[filter.n]\ntype = "integer"\n')


class Credentials:
    """What boto3 gives a signer."""

    access_key, secret_key, token = "AKIDEXAMPLE", "wJalrXUtnFEMI", None


def opensearch_clients(url: str) -> dict[str, Any]:
    signer = opensearchpy.Urllib3AWSV4SignerAuth(Credentials(), "eu-west-1")
    requests_signer = opensearchpy.RequestsAWSV4SignerAuth(Credentials(), "eu-west-1")
    requests = {"connection_class": opensearchpy.RequestsHttpConnection}
    return {
        "urllib3": opensearchpy.OpenSearch(url),
        "requests": opensearchpy.OpenSearch(url, **requests),
        "urllib3 signed": opensearchpy.OpenSearch(url, http_auth=signer),
        "requests signed": opensearchpy.OpenSearch(url, http_auth=requests_signer, **requests),
    }


def async_opensearch_clients(url: str) -> dict[str, Any]:
    own = {"connection_class": opensearchpy.AsyncHttpConnection}
    signer = opensearchpy.AWSV4SignerAsyncAuth(Credentials(), "eu-west-1")
    return {
        "aiohttp": opensearchpy.AsyncOpenSearch(url),
        "AsyncHttpConnection": opensearchpy.AsyncOpenSearch(url, **own),
        "AsyncHttpConnection signed": opensearchpy.AsyncOpenSearch(url, http_auth=signer, **own),
    }


def elasticsearch_clients(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for package in ("elasticsearch", "elasticsearch8", "elasticsearch9"):
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        found[package] = module.Elasticsearch(url)
        found[f"{package} requests"] = module.Elasticsearch(url, node_class="requests")
    return found


def test_every_sync_client_says_the_same(query_world: World) -> None:
    url = query_world.url
    made = (
        elasticsearch_clients(url)
        if query_world.client.engine == "elasticsearch"
        else opensearch_clients(url)
    )
    name, seen = query_world.name, {}
    for label, client in made.items():
        with pytest.raises(IndexNotFoundError):
            Index.open(client, name)
        index = Index.create(client, name, PLAN)
        records = [{"_id": "1", "body": "red fox", "n": 1}, {"_id": "2", "body": "x", "n": "many"}]
        report = index.ingest(records, IngestOptions(learn_weights=False, dead_letters=None))
        with pytest.raises(EngineRequestError, match="nonsense") as refused:
            index.search(q.raw({query_world.client.engine: {"nonsense": {}}}))
        seen[label] = (
            report.indexed,
            [error.reason for error in report.errors],
            index.search("fox").ids,
            index.get("nope"),
            (refused.value.status, refused.value.error_type, refused.value.reason),
        )
        index.delete_index()
        client.close()
    assert len(set(map(str, seen.values()))) == 1, seen


def test_every_async_client_says_the_same(opensearch_world: World) -> None:
    name = opensearch_world.name

    async def one(client: Any) -> tuple[Any, ...]:
        with pytest.raises(IndexNotFoundError):
            await AsyncIndex.open(client, name)
        index = await AsyncIndex.create(client, name, PLAN)
        records = [{"_id": "1", "body": "red fox", "n": 1}, {"_id": "2", "body": "x", "n": "many"}]
        report = await index.ingest(records, IngestOptions(learn_weights=False, dead_letters=None))
        with pytest.raises(EngineRequestError, match="nonsense") as refused:
            await index.search(q.raw({"opensearch": {"nonsense": {}}}))
        out = (
            report.indexed,
            [error.reason for error in report.errors],
            (await index.search("fox")).ids,
            await index.get("nope"),
            (refused.value.status, refused.value.error_type, refused.value.reason),
        )
        await index.delete_index()
        return out

    async def main() -> dict[str, Any]:
        seen = {}
        for label, client in async_opensearch_clients(opensearch_world.url).items():
            seen[label] = await one(client)
            await client.close()
        return seen

    seen = asyncio.run(main())
    assert len(set(map(str, seen.values()))) == 1, seen


@pytest.mark.parametrize(
    "options",
    [
        {"hosts": [{"host": "abc123.eu-west-1.aoss.amazonaws.com", "port": 443}], "use_ssl": True},
        {"hosts": ["https://abc123.us-gov-west-1.aoss-fips.amazonaws.com"]},
        {"hosts": ["https://abc123.cn-north-1.aoss.amazonaws.com.cn"]},
        {
            "hosts": ["https://search.example.com"],
            "http_auth": opensearchpy.Urllib3AWSV4SignerAuth(Credentials(), "eu-west-1", "aoss"),
        },
    ],
    ids=["host", "fips", "china", "signed for aoss"],
)
def test_amazons_serverless_collections_are_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeatureError, match="Serverless"):
        Index.create(opensearchpy.OpenSearch(**options), "books", PLAN)
    signed = opensearchpy.AsyncOpenSearch(
        "https://search.example.com",
        http_auth=opensearchpy.AWSV4SignerAsyncAuth(Credentials(), "eu-west-1", "aoss"),
        connection_class=opensearchpy.AsyncHttpConnection,
    )
    with pytest.raises(UnsupportedFeatureError, match="Serverless"):
        AsyncEngineClient(signed)
    managed = opensearchpy.OpenSearch("https://search-aoss-1.eu-west-1.es.amazonaws.com")
    assert EngineClient(managed).engine == "opensearch"


def test_a_server_without_an_api_is_refused_in_words_and_keeps_its_settings(query_world: World) -> None:
    """As Amazon's serverless collections behind a name of one's own."""
    with proxy(query_world.url, without="/_refresh") as url:
        client = client_of(query_world, url)
        index = Index.create(client, query_world.name, PLAN)
        with pytest.raises(EngineRequestError, match="no _refresh API"):
            index.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(dead_letters=None))
        client.close()
    settings = query_world.client.request("GET", f"/{query_world.name}/_settings").body
    assert settings[index.concrete_index]["settings"]["index"].get("refresh_interval") is None
    mapping = query_world.client.request("GET", f"/{query_world.name}/_mapping").body
    assert "esembed_load" not in mapping[index.concrete_index]["mappings"]["_meta"]


def test_a_node_that_is_down_costs_nothing_and_one_that_hangs_one_time_out(query_world: World) -> None:
    url = query_world.url
    with socket.socket() as hanging, socket.socket() as other:
        for each in (hanging, other):
            each.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{other.getsockname()[1]}"  # bound, but nobody listens
        client = EngineClient(client_of(query_world, [url, down]))
        for _ in range(8):  # whatever node comes first
            assert client.request("GET", "/_cluster/health").status == 200
        hanging.listen()
        silent = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        client = EngineClient(client_of(query_world, [silent, silent.replace("127.0.0.1", "localhost")]))
        started = time.monotonic()
        with pytest.raises(EngineUnavailableError):
            client.request("GET", "/_cluster/health", timeout_seconds=1.0)
        assert time.monotonic() - started < 1.9


def client_of(world: World, url: Any) -> Any:
    if world.client.engine == "elasticsearch":
        from elasticsearch import Elasticsearch

        return Elasticsearch(url, max_retries=5, retry_on_timeout=True)
    return opensearchpy.OpenSearch(url, max_retries=5, retry_on_timeout=True)


@contextmanager
def proxy(upstream: str, *, without: str) -> Iterator[str]:
    """A server before the engine that knows nothing of paths with *without*."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, raw, kind, product = 404, b"", "text/plain", None
            if without not in self.path:
                headers = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
                request = urllib.request.Request(
                    upstream + self.path, body or None, headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request) as answer:
                        status, raw, got = answer.status, answer.read(), answer.headers
                except urllib.error.HTTPError as error:
                    status, raw, got = error.code, error.read(), error.headers
                kind, product = got.get("content-type", kind), got.get("x-elastic-product")
            self.send_response(status)
            self.send_header("content-type", kind)
            if product:
                self.send_header("x-elastic-product", product)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else raw)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_client_that_is_too_new_for_the_server_is_told_once(
    elasticsearch_world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """As elasticsearch-py 9 is for a server 8: this one's media types are made those of the next release."""
    server = elasticsearch_world.capabilities.version
    for side in ("_sync", "_async"):
        base = importlib.import_module(f"elasticsearch.{side}.client._base")
        later = base._COMPAT_MIMETYPE_SUB.replace(f"={elasticsearch.__version__[0]}", f"={server.major + 1}")
        monkeypatch.setattr(base, "_COMPAT_MIMETYPE_SUB", later)
    url, name = elasticsearch_world.url, elasticsearch_world.name
    words = (
        rf"elasticsearch-py [\d.]+ is too new for this server, Elasticsearch {server}, which refuses all its "
        rf'requests: pip install "elasticsearch<{server.major + 1}"$'
    )
    with elasticsearch.Elasticsearch(url) as client:
        for call in (lambda: Index.create(client, name, PLAN), lambda: Index.open(client, name)):
            with pytest.raises(OptionsError, match=words) as caught:
                call()
            assert caught.value.option == "client"

    async def asked() -> None:
        async with elasticsearch.AsyncElasticsearch(url) as client:
            with pytest.raises(OptionsError, match=words):
                await AsyncIndex.create(client, name, PLAN)

    asyncio.run(asked())
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.to_toml())
    assert main(["index", "create", name, str(plan), "--url", url]) == 2
    assert re.search(words, capsys.readouterr().err.strip())
    main(["doctor", "--url", url, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert re.search(words, report["engine"]["problem"])
    assert report["engine"]["address"] == url
    assert not any("no engine is reached" in line for line in report["advice"])
