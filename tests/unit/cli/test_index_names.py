"""Bad names of indices and aliases reach no request, of any verb of the command line and any public entry.

The verbs, their options and the entries are walked, not listed: a new one is tried by itself. The engine is a
server that writes down what it is asked and has one index, ``good``.
"""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cli_verbs import WITH_SERVER, checks_name, label, line, takes_text

import esembed
from esembed.cli import main
from esembed.errors import AliasError, EsembedError
from esembed.migration.options import MigrateOptions
from esembed.plan import IndexPlan
from esembed.pytest_plugin import EngineHandle

BAD = [
    *(
        "a*",
        "*",
        "a?",
        "a,b",
        "a,-b",
        "-a",
        "_a",
        "+a",
        "<a-{now/d}>",
        "..",
        ".",
        "_all",
        "",
        " ",
        "a b",
        " a",
    ),
    *(
        "a\x00",
        "a\nb",
        "a\n",
        "a\tb",
        "a/b",
        "../a",
        "/",
        "a\\b",
        "c:a",
        "*:a",
        "a" * 256,
        "é" * 128,
        "a\u202eb",
    ),
    *("%2e%2e/a", "a#b", 'a"b', "a|b", "a\u2028b", "a\ud800", "a>b"),
]
"""What no engine takes as the name of one index, or takes for more than one."""
BAD_NEW = [*BAD, "Upper", ".hidden"]
"""What may be there, but can't be made."""

PLAN = IndexPlan.from_toml("[text.body]\n")
GOOD = {
    "aliases": {},
    "mappings": {"_meta": {"esembed": {"format": 1, "plan": PLAN.to_dict(), "contracts": {}}}},
    "settings": {"index": {"uuid": "u1", "number_of_replicas": "0", "provided_name": "good"}},
}


class Recorder(http.server.BaseHTTPRequestHandler):
    """An Elasticsearch that has one index, and forgets nothing that it is asked."""

    seen: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        status, body = 404, {"error": {"type": "index_not_found_exception", "reason": "no"}, "status": 404}
        if path == "/":
            status, body = 200, {"version": {"number": "9.5.3"}}
        elif path.rstrip("/") == "/good":
            status, body = 200, {"good": GOOD}
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("x-elastic-product", "Elasticsearch")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked."""
    seen: list[str] = []
    handler = type("Handler", (Recorder,), {"seen": seen})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", seen
    running.shutdown()
    running.server_close()


APIS = {"", "_nodes", "_license", "_analyze", "_cat", "_cluster", "_plugins", "_search"}
"""Where requests may go beside ``good`` and what is made from it: to the cluster itself."""


def strays(seen: list[str]) -> list[str]:
    """The requests that went anywhere else."""
    found = []
    for one in seen:
        first = unquote(one.partition(" ")[2].partition("?")[0].lstrip("/").partition("/")[0])
        ours = re.fullmatch(r"(good|esembed)[a-z0-9-]*", first) or first == "esembed-probe-matches-nothing-*"
        if first not in APIS and not ours:
            found.append(one)
    return found


# -- the command line --------------------------------------------------------------------------------


NAMED_LIKE_AN_INDEX = {"name", "index", "alias", "from_index", "old", "new", "target", "source_index"}

TEXTS = [
    (words, param) for words, command in WITH_SERVER.items() for param in command.params if takes_text(param)
]
NAMES = [(words, param) for words, param in TEXTS if checks_name(param)]


def called(one: Any) -> str:
    return " ".join(one) if isinstance(one, tuple) else label(one)


def test_there_is_something_to_try() -> None:
    assert len(WITH_SERVER) > 10
    found = {f"{' '.join(words)} {label(param)}" for words, param in NAMES}
    assert {"ingest --index", "ingest --from-index", "search --index", "index delete NAME"} <= found
    assert {"index migrate --alias", "index cleanup ALIAS", "index rollback ALIAS"} <= found


@pytest.mark.parametrize(("words", "command"), WITH_SERVER.items(), ids=map(" ".join, WITH_SERVER))
def test_what_is_called_a_name_is_checked(words: tuple[str, ...], command: Any) -> None:
    unchecked = [
        param.name
        for param in command.params
        if takes_text(param) and param.name in NAMED_LIKE_AN_INDEX and not checks_name(param)
    ]
    assert not unchecked, f"esembed {' '.join(words)}: give {unchecked} a callback of esembed.cli._names"


@pytest.mark.parametrize(("words", "param"), NAMES, ids=called)
def test_a_bad_name_is_refused_before_anything_is_sent(
    words: tuple[str, ...],
    param: Any,
    server: tuple[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, seen = server
    plan = tmp_path / "plan.toml"
    plan.write_text("[text.body]\n")
    new = "new" in getattr(getattr(param.callback, "__wrapped__", param.callback), "__name__", "")
    for name in BAD_NEW if new else BAD:
        seen.clear()
        code = main(line(words, url, plan, {param.name: name}))
        said = capsys.readouterr().err
        assert code == 2, (name, said)
        assert seen == [], (name, seen)
        assert f"{label(param)}: " in said, (name, said)
        assert "can't be the name of an index or alias" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "param"),
    [(words, param) for words, param in TEXTS if not checks_name(param)],
    ids=called,
)
def test_no_other_text_becomes_an_index(
    words: tuple[str, ...],
    param: Any,
    server: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a text is for, it is no part of a request's path."""
    monkeypatch.chdir(tmp_path)
    url, seen = server
    plan = tmp_path / "plan.toml"
    plan.write_text("[text.body]\n")
    for text in ("a*", "a,b", "_all", "../a", "c:a", "<a-{now/d}>"):
        seen.clear()
        main(line(words, url, plan, {param.name: text}))
        assert strays(seen) == [], text


# -- Python ------------------------------------------------------------------------------------------


def entries() -> Iterator[tuple[str, Any, str]]:
    """Every public callable that takes a client and a name: label, callable, the name's parameter."""
    for public in esembed.__all__:
        found = getattr(esembed, public)
        if not inspect.isclass(found):
            continue
        candidates = {"": found} | {
            name: getattr(found, name) for name in vars(found) if not name.startswith("_")
        }
        for method, call in candidates.items():
            if not callable(call):
                continue
            try:
                parameters = inspect.signature(call).parameters
            except ValueError:
                continue
            if "client" not in parameters or (method and inspect.isfunction(call)):
                continue
            for name in ("name", "index", "alias"):
                # Index.create's alias is a yes or no.
                if name in parameters and parameters[name].annotation != "bool":
                    yield f"{public}.{method}".rstrip("."), call, name


ENTRIES = list(entries())


def test_there_are_entries() -> None:
    found = {one for one, _, _ in ENTRIES}
    assert {"Index.open", "Index.create", "Index.attach", "Index.repair", "Index.abort_migration"} <= found
    assert {"AsyncIndex.delete_old_versions", "Follower", "AsyncFollower"} <= found


@pytest.mark.parametrize(("entry", "call", "parameter"), ENTRIES, ids=[one for one, _, _ in ENTRIES])
def test_an_entry_refuses_a_bad_name_before_anything_is_sent(
    entry: str, call: Any, parameter: str, server: tuple[str, list[str]]
) -> None:
    url, seen = server
    parameters = inspect.signature(call).parameters

    def arguments(client: Any, name: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"client": client, parameter: name}
        if "plan" in parameters:
            given["plan"] = PLAN
        return given

    async def in_loop(name: Any) -> None:
        from elasticsearch import AsyncElasticsearch

        client = AsyncElasticsearch(url)
        try:
            made = call(**arguments(client, name))
            if inspect.isawaitable(made):
                await made
            else:
                await made.search("x")  # a follower, which looks when it is used
        finally:
            await client.close()

    def blocking(name: Any) -> None:
        from elasticsearch import Elasticsearch

        with Elasticsearch(url) as client:
            made = call(**arguments(client, name))
            made.search("x")

    for name in [*(BAD_NEW if entry.endswith("create") else BAD), None, 7, ["a"], b"a"]:
        seen.clear()
        run = (lambda n: asyncio.run(in_loop(n))) if entry.startswith("Async") else blocking
        with pytest.raises(AliasError, match="can't be the name"):
            run(name)
        assert seen == [], (name, seen)


@pytest.mark.parametrize("name", BAD_NEW, ids=ascii)
def test_the_plugin_deletes_by_no_bad_name(name: str, server: tuple[str, list[str]]) -> None:
    url, seen = server
    seen.clear()
    handle = EngineHandle("elasticsearch", url, "a test", "url")
    with pytest.raises(AliasError, match="can't be the name"):
        handle.delete_indices(name)
    assert seen == []


@pytest.mark.parametrize("name", BAD_NEW, ids=ascii)
def test_a_migration_takes_no_bad_alias(name: str, server: tuple[str, list[str]]) -> None:
    from elasticsearch import Elasticsearch

    url, seen = server
    with Elasticsearch(url) as client:
        index = esembed.Index.open(client, "good")
        with pytest.raises(AliasError, match="can't be the name"):
            index.migrate(PLAN, options=MigrateOptions(alias=name))
    assert strays(seen) == []


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_reads_and_measures_takes_no_bad_name(name: str, server: tuple[str, list[str]]) -> None:
    from elasticsearch import Elasticsearch

    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe
    from esembed.advise.measure import TrialIndex
    from esembed.capabilities import profile
    from esembed.ingest.sources.index import IndexSource
    from esembed.plan import DenseField

    url, seen = server
    known = profile("elasticsearch-basic")
    seen.clear()
    with Elasticsearch(url) as official:
        client = EngineClient(official)
        with pytest.raises(EsembedError, match="can't be the name"):
            probe(client, index=name)
        with pytest.raises(EsembedError, match="can't be the name"):
            TrialIndex(official, known, DenseField(encoder="precomputed", dims=2), 2, name=name)
        if name not in ("a,b",):  # an alias of several is read by their names
            with pytest.raises(EsembedError, match="can't be the name"):
                list(IndexSource(client, name, PLAN, known))
    assert seen == []
