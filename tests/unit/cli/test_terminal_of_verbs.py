"""No verb lets foreign text command a terminal: not an engine's answers, nor arguments, nor names of files.

The verbs are walked, so that a new one is tried by itself. The engine is a server whose answers are full of
what terminals obey: ids, texts, reasons, names of fields, settings and aliases, ``_meta``.
"""

from __future__ import annotations

import http.server
import json
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cli_verbs import VERBS, WITH_SERVER, is_path, line, takes_text

from esembed.cli import main
from esembed.plan import IndexPlan

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\nred\x9b31m\x7f\u202egnp.exe\u2066\u200f\u061c\u2028\ufeff\U000e0041"
ARGUMENT = EVIL.replace("\n", "")
"""The same without line feeds, which are shown as they are in errors of several lines."""

PLAN = IndexPlan.from_toml(
    "[text.body]\n[dense.v]\nencoder = 'precomputed'\ndims = 2\n[filter.n]\ntype = 'keyword'\n"
)


def obeyed(text: str) -> set[str]:
    """What a terminal would obey, by Unicode's own categories."""
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t"}
    bidi = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return found | {c for c in text if unicodedata.bidirectional(c) in bidi}


def evil_index() -> dict[str, Any]:
    """One index with foreign text wherever text may stand."""
    contract = {"dims": 2, "model": EVIL, EVIL: EVIL, "spec": f"custom:{EVIL}"}
    own = {
        "format": 1,
        "plan": PLAN.to_dict() | {"description": EVIL},
        "contracts": {"v": contract},
        "esembed": EVIL,
        "evidence": {"summary": EVIL, "trust": {"documents": 3, EVIL: EVIL}},
        "adopted": [EVIL],
        "migration": {"alias": "good", "from": "good-v1", "to": EVIL, "state": EVIL},
        EVIL: EVIL,
    }
    fields = {
        "body": {"type": "text", "analyzer": EVIL},
        "v": {"type": "dense_vector", "dims": 2, "index": True, "similarity": "cosine"},
        "n": {"type": "keyword"},
        EVIL: {"type": EVIL},
    }
    return {
        "aliases": {EVIL: {}, "good": {}},
        "mappings": {"_meta": {"esembed": own, EVIL: EVIL}, "properties": fields, "dynamic": "false"},
        "settings": {
            "index": {
                "uuid": EVIL,
                "number_of_replicas": "0",
                "number_of_shards": "1",
                "provided_name": EVIL,
                "default_pipeline": EVIL,
                "refresh_interval": EVIL,
                EVIL: EVIL,
            }
        },
    }


HIT = {
    "_id": EVIL,
    "_score": 1.0,
    "_source": {"body": EVIL, EVIL: EVIL, "n": EVIL},
    "_index": EVIL,
    "sort": [1],
}


class Evil(http.server.BaseHTTPRequestHandler):
    """An engine of which each word is hostile. *kind*: ``answers``, or ``errors`` where it refuses all."""

    kind: ClassVar[str] = "answers"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        status, body = self._of(path, sent)
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("x-elastic-product", "Elasticsearch")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _of(self, path: str, sent: bytes) -> tuple[int, Any]:
        if path == "/":
            return 200, {"version": {"number": "9.5.3", "build_flavor": EVIL}, "name": EVIL, "tagline": EVIL}
        error = {"type": EVIL, "reason": EVIL, "root_cause": [{"type": EVIL, "reason": EVIL}]}
        refused = 403, {"error": error, "status": 403}
        if self.kind == "errors":
            return refused
        api = path.rstrip("/").rpartition("/")[2]
        if path.strip("/").startswith("good") and "/_" not in path and self.command == "GET":
            return 200, {"good-v2": evil_index()}
        if api in ("_mapping", "_settings", "_alias") and self.command == "GET":
            return 200, {"good-v2": evil_index()}
        if api == "_search":
            total = {"value": 3, "relation": "eq"}
            return 200, {"hits": {"total": total, "hits": [HIT]}, "_shards": {"failed": 0}}
        if api == "_count":
            return 200, {"count": 3, "_shards": {"failed": 0}}
        if api == "_mget":
            return 200, {"docs": []}
        if api == "_bulk":
            items = []
            for row in sent.decode().splitlines():
                action, *_ = json.loads(row) or {"": ""}
                if action in ("index", "create", "update", "delete"):
                    said = json.loads(row)[action]
                    items.append({action: {"_id": said.get("_id"), "status": 400, "error": error}})
            return 200, {"errors": True, "items": items}
        if api in ("_refresh", "_forcemerge") or self.command in ("PUT", "DELETE"):
            return 200, {"acknowledged": True}
        return refused

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer


@pytest.fixture(scope="module", params=["answers", "errors"])
def evil(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of such a server."""
    handler = type("Handler", (Evil,), {"kind": request.param})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Files with foreign names: a plan, records, runs, judged queries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    name = ARGUMENT.replace("/", "").replace("\x00", "")
    plan = tmp_path / f"plan{name}.toml"
    plan.write_text(
        "[text.body]\n[dense.v]\nencoder = 'precomputed'\ndims = 2\n[filter.n]\ntype = 'keyword'\n"
    )
    records = tmp_path / f"records{name}.jsonl"
    rows = [{"_id": f"{EVIL}{n}", "body": EVIL, "v": [1.0, 0.0], "n": EVIL, EVIL: EVIL} for n in range(3)]
    records.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"v": EVIL}]) + "{" + EVIL)
    run = tmp_path / f"run{name}.txt"
    run.write_text("q1 Q0 d1 1 1.0 x\n")
    judged = tmp_path / f"judged{name}.csv"
    judged.write_text(f"query,id\n{ARGUMENT!r},{ARGUMENT!r}\nred fox,1\n", encoding="utf-8")
    (folder := tmp_path / f"folder{name}").mkdir()
    (binary := tmp_path / f"binary{name}").write_bytes(b"\xff\xfe\x00\x9b31m\n" * 3)
    found = {"plan": plan, "records": records, "run": run, "judged": judged}
    return found | {"folder": folder, "binary": binary}


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One command line; fails where its output could command a terminal, or isn't the JSON it should be."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert not obeyed(out + err), (arguments, sorted(map(ascii, obeyed(out + err))))
    assert "Traceback" not in err, (arguments, err)
    if "--json" in arguments and code != 2:
        json.loads(out)


SKIPPED = {
    ("demo",): "downloads a model and indexes 5,000 documents",
    ("bench", "encode"): "measures for minutes",
    ("bench", "ingest"): "measures for minutes",
    ("bench", "search"): "measures for minutes",
}
"""Verbs whose foreign text is an engine's words in errors, which other verbs print by the same door."""


def json_too(words: tuple[str, ...]) -> list[list[str]]:
    """Without and with ``--json``, where the verb has it."""
    has = any("--json" in param.opts for param in VERBS[words].params)
    return [[], ["--json"]] if has else [[]]


def inserted(arguments: list[str], words: tuple[str, ...], more: list[str]) -> list[str]:
    return [*words, *more, *arguments[len(words) :]]


@pytest.mark.parametrize("words", [w for w in WITH_SERVER if w not in SKIPPED], ids=" ".join)
def test_what_an_engine_says(
    words: tuple[str, ...], evil: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = {}
    for param in WITH_SERVER[words].params:
        if param.name in ("files", "sample"):
            given[param.name] = str(files["records"])
        elif param.name in ("dataset", "source", "collection", "judgments"):
            given[param.name] = str(files["judged"])
        elif param.name == "text":
            given[param.name] = ARGUMENT
    if words == ("index", "delete"):
        more = ["--yes"]
    elif words == ("ingest",):
        more = ["--max-wait-seconds", "2"]
    else:
        more = []
    for extra in json_too(words):
        run(inserted(line(words, evil, files["plan"], given), words, [*more, *extra]), capsys)


@pytest.mark.parametrize("words", [w for w in VERBS if w not in SKIPPED], ids=" ".join)
def test_arguments_and_names_of_files(
    words: tuple[str, ...], files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://127.0.0.1:9" if words in WITH_SERVER else None
    texts = [p.name for p in VERBS[words].params if takes_text(p)]
    paths = [p.name for p in VERBS[words].params if is_path(p)]
    for name in texts:
        run(line(words, url, files["plan"], {name: ARGUMENT}), capsys)
    for name in paths:
        missing = f"no{ARGUMENT}.toml"
        for value in (*(str(files[one]) for one in ("plan", "run", "folder", "binary")), missing, "\udcff"):
            run(line(words, url, files["plan"], {name: value}), capsys)
    run([*words, f"--no-such-{ARGUMENT}"], capsys)
    run([*words, *[ARGUMENT] * 9], capsys)


def test_there_are_verbs() -> None:
    assert len(WITH_SERVER) > 12
    assert set(SKIPPED) < set(VERBS)
    assert ("engine", "stop") in VERBS
