"""The command line on real engines: the whole way, and what people get wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed.cli import main
from esembed.cli._connect import Connection
from esembed.evaluate.datasets import read_run
from esembed.pytest_plugin import EngineHandle

PLAN = """
id_field = "id"
[text.body]
[dense.vector]
encoder = "precomputed"
dims = 3
quantization = "hnsw"
[sparse.terms]
encoder = "lexical"
source = ["body"]
[filter.lang]
[filter.year]
type = "integer"
"""

RECORDS = [
    {"id": "a", "body": "a lighthouse on a lonely coast", "vector": [1, 0, 0], "lang": "en", "year": 1994},
    {"id": "b", "body": "bread with a thick crust", "vector": [0, 1, 0], "lang": "en", "year": 2016},
    {"id": "c", "body": "Brot mit dicker Kruste", "vector": [0, 0.9, 0.1], "lang": "de", "year": 2020},
]


@pytest.fixture
def url(esembed_engine: EngineHandle) -> str:
    """Each engine's address in turn."""
    return esembed_engine.url


@pytest.fixture
def name(esembed_index_name: str) -> str:
    """A name of our own; the plugin deletes it afterward."""
    return esembed_index_name


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run one command line against the engine: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, words), "--url", url])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def write(path: Path, records: list[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def count(url: str, name: str) -> int:
    client = Connection(url=url).client()
    try:
        client.indices.refresh(index=name)
        return int(client.count(index=name)["count"])
    finally:
        client.close()


def exists(url: str, name: str) -> bool:
    client = Connection(url=url).client()
    try:
        return bool(client.indices.exists(index=name))
    finally:
        client.close()


def test_from_plan_to_hits_and_away(run: Run, name: str, plan: Path, tmp_path: Path, url: str) -> None:
    assert run("index", "create", name, plan)[0] == 0
    data = write(tmp_path / "records.jsonl", RECORDS)
    foreign = write(tmp_path / "mine.html", [{"mine": 1}])
    for page, why in ((foreign, "isn't written over"), (tmp_path, "a folder"), ("no/x.html", "no folder no")):
        code, _, err = run("ingest", data, "--index", name, "--html", page)
        assert (code, why in err) == (2, True), err
    code, _, err = run("ingest", data, "--index", name, "--html", "x", "--dead-letters", "./x")
    assert (code, "the same file" in err) == (2, True), err
    code, out, err = run("ingest", data, "--index", name, "--json", "--html", "ingest.html")
    assert code == 0, err
    report = json.loads(out)
    assert (report["read"], report["indexed"], report["dead_lettered"]) == (3, 3, 0)
    assert report["conclusion"] == f"All 3 records are in {name}-v1: 3 indexed"
    assert report["conclusion"] in (tmp_path / "ingest.html").read_text(encoding="utf-8")
    if Path("/dev/full").exists():
        code, out, err = run("ingest", data, "--index", name, "--json", "--html", "/dev/full")
        assert (code, json.loads(out)["unchanged"]) == (1, 3), "the report is printed, whatever the disk does"
        assert "the page: " in err

    code, out, err = run("search", "thick crust", "--index", name, "--json")
    assert code == 0, err
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["b"], "the default query"
    code, out, err = run("search", "thick crust", "--index", name, "--legs", "bm25", "--json")
    assert code == 0, err
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["b"]
    code, out, _ = run("search", "thick crust", "--index", name, "--legs", "sparse", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["b"]
    code, out, _ = run(
        "search", "bread Brot", "--index", name, "--legs", "bm25,sparse", "--filter", "lang=de", "--json"
    )
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["c"]
    code, out, _ = run("search", "a", "-i", name, "--legs", "bm25", "--filter", "year<2000", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["a"]
    code, out, err = run("search", "bread", "--index", name, "--legs", "bm25")
    assert code == 0
    assert "bread with a thick crust" in out
    assert "1 hit" in err

    code, out, _ = run("index", "inspect", name, "--json")
    found = json.loads(out)
    assert found["documents"] == 3
    assert found["drift"] == []
    assert IndexPlan.from_dict(found["plan"]).filter.keys() == {"lang", "year"}
    assert run("index", "inspect", name)[0] == 0

    assert run("index", "delete", name, "--yes")[0] == 0
    assert not exists(url, name)


def test_measuring_and_tuning(run: Run, name: str, plan: Path, tmp_path: Path) -> None:
    pytest.importorskip("ir_measures", reason="needs the eval extra")
    assert run("index", "create", name, plan)[0] == 0
    run("ingest", write(tmp_path / "records.jsonl", RECORDS), "--index", name)
    judgments = tmp_path / "judgments.csv"
    judgments.write_text(
        "query,document,grade\nthick crust,b,2\nlonely coast,a,1\nlonely coast,lost,1\nKruste,c,good\n"
    )
    code, out, err = run(
        "eval", "index", name, judgments, "--json", "--html", "report.html", "--save-runs", "runs"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["queries"] == 2
    assert found["configurations"]["bm25"]["measures"]["success@1"]["mean"] == 1.0
    problems = {problem["kind"]: problem["count"] for problem in found["problems"]}
    assert problems == {"bad-grade": 1, "query-without-judgments": 1, "not-in-index": 1}
    assert "relevant documents that the index does not hold" in err
    assert found["conclusion"].startswith("default has ")
    assert found["conclusion"].endswith("bm25 finds the same")
    assert found["warning"] is None
    assert found["configurations"]["bm25"]["judged@10"] == 1.0
    code, out, err = run("eval", "index", name, judgments, "--html", "report.html")
    assert out.startswith(found["conclusion"][:60])
    assert "judged@10" in out
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    runs = sorted((tmp_path / "runs").iterdir())
    assert [file.name for file in runs] == ["bm25.run", "default.run"]
    assert read_run(runs[0])["q1"][0][0] == "b"
    code, out, _ = run("tune", name, judgments, "--json")
    assert code == 0
    tuned = json.loads(out)
    assert (tuned["queries"], tuned["chosen"]) == (2, tuned["default"])
    assert tuned["conclusion"] == "Keep the default query: nothing beat it by enough on 2 queries"
    assert tuned["judged@10"] == {"in use": 1.0, "chosen": 1.0}
    words = ("--next-plan", "next.toml", "--no-write", "--html", "tune.html")
    code, out, err = run("tune", name, judgments, *words)
    assert code == 0
    assert out.startswith(tuned["conclusion"])
    assert tuned["conclusion"] in (tmp_path / "tune.html").read_text(encoding="utf-8")
    assert "kept" in out
    assert "… 2 judged queries, legs: bm25" in err
    assert "query (not stored)" in err
    assert "next.toml is not written" in err
    assert not (tmp_path / "next.toml").exists()
    for verb in (("tune", name, judgments), ("search", "crust", "--index", name)):
        code, _, err = run(*verb, "--cross-encoder", "cross")
        assert code == 2
        assert "NAME=MODEL" in err
    code, out, _ = run("eval", "weights", name, "--json", "--html", "weights.html")
    assert code == 0
    conclusion = "The default query stays as it is: a single leg has nothing to be weighed against"
    assert json.loads(out)["conclusion"] == conclusion
    assert "a single leg has nothing to be weighed against" in json.loads(out)["notes"]
    assert conclusion in (tmp_path / "weights.html").read_text(encoding="utf-8")
    _, out, err = run("eval", "weights", name, "--no-write")
    assert out.startswith(conclusion)
    assert "single leg" not in err, "said once"
    assert "stays as it is" not in err
    code, _, err = run("eval", "bootstrap", name)
    assert code == 1
    assert "14 words" in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_load_that_is_ended_by_a_signal_says_how_to_go_on(
    run: Run, name: str, plan: Path, url: str, sent: signal.Signals, code: int
) -> None:
    assert run("index", "create", name, plan)[0] == 0
    # A shell's background process ignores SIGINT, and a child would inherit that.
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from esembed.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", script, "ingest", "-", "--index", name, "--url", url]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert load.stdin is not None
        assert load.stderr is not None
        for lines in (1, 40):  # each is indexed when it comes, and the input stays open
            for record in ({**RECORDS[0], "id": f"r{n}"} for n in range(lines)):
                load.stdin.write(json.dumps(record) + "\n")
            load.stdin.flush()
            while count(url, name) < lines:
                assert load.poll() is None
                time.sleep(0.2)
        load.send_signal(sent)
        told = load.stderr.read()
        assert load.wait(60) == code, told
    assert "interrupted: what the engine confirmed is in; the same command goes on" in told
    assert "Traceback" not in told


def test_a_second_ingest_leaves_unchanged_records_alone(
    run: Run, name: str, plan: Path, tmp_path: Path
) -> None:
    run("index", "create", name, plan)
    data = write(tmp_path / "records.jsonl", RECORDS)
    run("ingest", data, "--index", name)
    code, out, _ = run("ingest", data, "--index", name, "--json")
    assert code == 0
    assert json.loads(out)["unchanged"] == 3


def test_bad_records_go_to_the_dead_letters_and_the_others_get_in(
    run: Run, name: str, plan: Path, tmp_path: Path, url: str
) -> None:
    run("index", "create", name, plan)
    bad = [
        '{"id": "broken", "body": ',
        {"id": "no-source", "vector": [1, 0, 0]},
        {"id": "dims", "body": "x", "vector": [1, 0]},
        '{"id": "nan", "body": "x", "vector": [1, NaN, 0]}',
    ]
    data = write(tmp_path / "records.jsonl", [*RECORDS, *bad])
    letters = tmp_path / "letters.jsonl"
    code, out, err = run("ingest", data, "--index", name, "--dead-letters", letters, "--json")
    assert code == 3, err
    report = json.loads(out)
    assert (report["read"], report["indexed"], report["dead_lettered"]) == (7, 3, 4)
    assert report["adds_up"] is True
    reasons = [json.loads(line) for line in letters.read_text().splitlines()]
    assert len(reasons) == 4
    text = letters.read_text()
    assert "records.jsonl:4" in text, "the broken line is named by its number"
    assert "body" in text
    assert "3" in text
    assert count(url, name) == 3
    letters.write_text(text.replace('"no-source"', '"fixed", "body": "y"').replace("[1,0]", "[1,0,0]"))
    code, out, err = run("ingest", "--from-dead-letters", letters, "--index", name, "--json")
    report = json.loads(out)
    assert (code, report["indexed"], report["dead_lettered"]) == (3, 2, 2), err


def test_json_is_printed_however_the_run_ends(
    run: Run, name: str, plan: Path, tmp_path: Path, url: str
) -> None:
    run("index", "create", name, plan)
    run("ingest", write(tmp_path / "records.jsonl", RECORDS), "--index", name)
    data = write(tmp_path / "fewer.jsonl", [RECORDS[0], "{broken"])
    code, out, err = run("ingest", data, "--index", name, "--sync", "--verify", "--json")
    report = json.loads(out)
    assert (code, report["sync_deleted"], report["unchanged"], report["dead_lettered"]) == (3, 0, 1, 1), err
    assert report["verified"]["extra_count"] == 2
    assert "sync deleted nothing" in err
    assert count(url, name) == 3
    for words, wanted in (
        ([data, "--strict"], 1),
        (["nowhere.jsonl"], 2),
        ([write(tmp_path / "one.jsonl", RECORDS[:1]), "--sync"], 7),
        ([data, "--transform", "no:thing"], 2),
    ):
        code, out, err = run("ingest", *words, "--index", name, "--json")
        error = json.loads(out)["error"]
        assert (code, error["exit_code"]) == (wanted, wanted), err
        assert f"error: {error['message']}" in err
    code, out, _ = run("index", "inspect", f"{name}-none", "--json")
    assert (code, json.loads(out)["error"]["exit_code"]) == (code, code)


def test_an_index_is_read_from_another(run: Run, name: str, plan: Path, tmp_path: Path, url: str) -> None:
    run("index", "create", name, plan)
    run("index", "create", f"{name}-copy", plan)
    data = write(tmp_path / "records.jsonl", RECORDS)
    run("ingest", data, "--index", name)
    code, out, err = run("ingest", "--from-index", name, "--index", f"{name}-copy", "--json")
    assert (code, json.loads(out)["indexed"]) == (0, 3), err
    code, out, _ = run("ingest", data, "--index", f"{name}-copy", "--verify", "--json")
    assert (code, json.loads(out)["unchanged"]) == (0, 3), "precomputed vectors came along"
    code, _, err = run("ingest", "--from-index", name, "--index", name)
    assert code == 2
    assert "both" in err
    code, _, err = run("ingest", data, "--from-index", name, "--index", name)
    assert (code, "name what to read" in err) == (2, True)


def test_strict_stops_at_the_first(run: Run, name: str, plan: Path, tmp_path: Path) -> None:
    run("index", "create", name, plan)
    data = write(tmp_path / "records.jsonl", ["{broken", *RECORDS])
    code, _, err = run("ingest", data, "--index", name, "--strict")
    assert code == 1
    assert "records.jsonl:1" in err


def test_a_file_that_is_not_there(run: Run, name: str, plan: Path) -> None:
    run("index", "create", name, plan)
    code, _, err = run("ingest", "nowhere.jsonl", "--index", name)
    assert code in (1, 2)
    assert "nowhere.jsonl" in err


def test_an_unknown_field_in_the_plan_creates_nothing(run: Run, name: str, tmp_path: Path, url: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN + "\n[text.title]\nanalyser = 'english'\n")
    code, _, err = run("index", "create", name, path)
    assert code == 2
    assert "analyser" in err
    assert not exists(url, name)


def test_an_index_with_another_plan_is_left_alone(
    run: Run, name: str, plan: Path, tmp_path: Path, url: str
) -> None:
    assert run("index", "create", name, plan)[0] == 0
    assert run("index", "create", name, plan)[0] == 1
    assert run("index", "create", name, plan, "--exist-ok")[0] == 0
    other = tmp_path / "other.toml"
    other.write_text(PLAN.replace("dims = 3", "dims = 4"))
    code, _, err = run("index", "create", name, other, "--exist-ok")
    assert code == 1
    assert "another plan" in err
    code, out, _ = run("index", "inspect", name, "--json")
    assert json.loads(out)["plan"]["dense"]["vector"]["dims"] == 3


def test_what_the_engine_lacks_is_refused_before_anything_is_sent(
    run: Run, name: str, tmp_path: Path, url: str
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace('quantization = "hnsw"', 'quantization = "bbq_hnsw"'))  # needs 64 dims
    code, _, err = run("index", "create", name, path)
    assert code in (2, 6)
    assert "bbq" in err
    assert not exists(url, name)


def test_what_is_not_there_is_named(run: Run, name: str, plan: Path) -> None:
    code, _, err = run("search", "x", "--index", name)
    assert code == 1
    assert name in err
    run("index", "create", name, plan)
    code, _, err = run("search", "x", "--index", name, "--legs", "splade")
    assert code == 2
    assert "there are bm25, terms" in err
    code, _, err = run("search", "x", "--index", name, "--filter", "author=x")
    assert code == 2
    assert "lang, year" in err


def test_attach_fills_an_index_that_exists(run: Run, name: str, url: str, tmp_path: Path) -> None:
    client = Connection(url=url).client()
    try:
        client.indices.create(
            index=name,
            body={
                "mappings": {
                    "properties": {
                        "body": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
                        "lang": {"type": "keyword"},
                        "year": {"type": "integer"},
                        "day": {"type": "date", "format": "dd.MM.yyyy"},
                    }
                }
            },
        )
        for record in RECORDS:
            body = {name: record[name] for name in ("body", "lang", "year")}
            body["day"] = f"31.01.{record['year']}"
            client.index(index=name, id=record["id"], body=body, refresh=True)
        path = tmp_path / "attach.toml"
        path.write_text(
            '[text.body]\n[filter.lang]\n[sparse.terms]\nencoder = "lexical"\nsource = ["body"]\n'
        )
        code, out, err = run("index", "attach", name, path, "--json")
        assert code == 0, err
        assert json.loads(out)["backfill"]["dead_lettered"] == 0
        code, out, err = run("search", "Kruste", "--index", name, "--legs", "sparse", "--json")
        assert code == 0, err
        assert [hit["id"] for hit in json.loads(out)["hits"]] == ["c"]
        assert client.get(index=name, id="c")["_source"]["body"] == "Brot mit dicker Kruste"
        # What the plan doesn't name is filtered by all the same.
        for condition, ids in (
            ("year>=2016", ["b", "c"]),
            ("year!=2016", ["a", "c"]),
            ("day<01.02.1994", ["a"]),
            ("body.raw=Brot mit dicker Kruste", ["c"]),
        ):
            words = ("crust coast Kruste", "--index", name, "--legs", "bm25", "--filter", condition)
            code, out, err = run("search", *words, "--json")
            assert code == 0, err
            assert sorted(hit["id"] for hit in json.loads(out)["hits"]) == ids
        for condition, part in (
            (
                "yaer=2016",
                "no field 'yaer' to filter by; it has body.raw, day, lang, year; did you mean 'year'",
            ),
            ("year=soon", "holds numbers (integer)"),
            ("body=x", "filter by body.raw"),
            (
                "day>2024-13-45",
                "'day', of type date: '2024-13-45' is not a date: it isn't written as dd.MM.yyyy",
            ),
        ):
            code, _, err = run("search", "crust", "--index", name, "--filter", condition)
            assert code == 2
            assert part in " ".join(err.split()), err
    finally:
        client.close()


def test_a_lost_meta_is_repaired(run: Run, name: str, plan: Path, url: str, tmp_path: Path) -> None:
    run("index", "create", name, plan)
    run("ingest", write(tmp_path / "records.jsonl", RECORDS), "--index", name)
    client = Connection(url=url).client()
    try:
        client.indices.put_mapping(index=name, body={"_meta": {}})
    finally:
        client.close()
    code, _, err = run("search", "bread", "--index", name, "--legs", "bm25")
    assert code == 2
    assert "repair" in err
    code, out, _ = run("index", "inspect", name, "--json")
    assert code == 2
    # The average length was fixed by the first ingest; the plan with it is what a person has kept.
    code, _, err = run("index", "repair", name, "--plan", plan)
    assert code == 0, err
    code, out, _ = run("search", "bread", "--index", name, "--legs", "bm25", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["b"]


def test_a_dry_run_sends_nothing(run: Run, name: str, plan: Path, url: str) -> None:
    code, out, err = run("index", "create", name, plan, "--dry-run")
    assert code == 0, err
    assert "vector" in json.loads(out)["mappings"]["properties"]
    assert not exists(url, name)


def test_doctor_says_what_the_engine_can_do(run: Run, url: str) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    engine = json.loads(out)["engine"]
    assert engine["address"] == url
    assert engine["kind"] in ("opensearch", "elasticsearch")
    assert "hnsw" in engine["quantizations"]


def test_the_index_opens_in_python_as_well(run: Run, name: str, plan: Path, url: str, tmp_path: Path) -> None:
    run("index", "create", name, plan)
    run("ingest", write(tmp_path / "records.jsonl", RECORDS), "--index", name)
    client = Connection(url=url).client()
    try:
        index = Index.open(client, name)
        document = index.get("a")
        assert document is not None
        assert document["body"] == RECORDS[0]["body"]
        assert "vector" not in document
    finally:
        client.close()


def test_the_average_length_is_that_of_the_transformed_records(
    run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BM25 as a vector divides by it, and documents hold it, so it must be right at the first record."""
    (tmp_path / "test_hook_of_mine.py").write_text(
        "def both(record):\n    return {**record, 'body': record['title'] + ' ' + record['text']}\n"
    )
    path = tmp_path / "plan.toml"
    path.write_text('[text.body]\n[sparse.terms]\nencoder = "lexical"\nsource = ["body"]\n')
    data = write(
        tmp_path / "r.jsonl", [{"_id": str(i), "title": "one two", "text": "three four"} for i in range(9)]
    )
    assert run("index", "create", name, path)[0] == 0
    code, _, err = run("ingest", data, "--index", name, "--transform", "test_hook_of_mine:both")
    assert code == 0, err
    _, out, _ = run("index", "inspect", name, "--json")
    assert json.loads(out)["plan"]["sparse"]["terms"]["params"]["avgdl"] == 4.0


def test_what_has_no_vector_is_told(run: Run, name: str, tmp_path: Path) -> None:
    words = tmp_path / "words.vec.txt"
    words.write_text("2 2\nred 1 0\nfox 0 1\n")
    plan = tmp_path / "plan.toml"
    text = f'[text.body]\n[dense.v]\nencoder = "static:{words}"\nsource = ["body"]\n'
    plan.write_text(text)
    assert run("index", "create", name, str(plan))[0] == 0
    allow = ["--allow-encoder", f"static:{words}"]
    records = tmp_path / "records.jsonl"
    records.write_text(
        '{"_id": "1", "body": "red"}\n{"_id": "2", "body": "zzqx"}\n{"_id": "3", "tag": "x"}\n'
    )
    ingest = ["ingest", str(records), "--index", name, *allow, "--dead-letters", str(tmp_path / "dead.jsonl")]
    code, _, err = run(*ingest)
    assert code == 3
    assert "v: 1 document without a vector (1 with a text that its encoder knows nothing of): 2" in err
    assert "--optional v" in err
    code, out, _ = run(*ingest, "--optional", "v", "--rewrite", "--json")
    assert code == 0
    assert json.loads(out)["without_vector"] == {
        "v": {"documents": 2, "chunks": 0, "unknown": 1, "ids": ["2", "3"]}
    }
    code, out, err = run("search", "zzqx", "--index", name, *allow)
    assert code == 0
    assert "v: the query has no vector" in err
    code, out, _ = run("search", "zzqx", "--index", name, *allow, "--json")
    assert any("no vector" in note for note in json.loads(out)["notes"])
    code, out, err = run("search", "???", "--index", name, *allow)
    assert code == 0, "nothing found is no error"
    assert "0 hits" in err


def test_a_search_by_words_starts_light(name: str, url: str) -> None:
    """In a process of its own; a program that calls main() keeps its packages whole."""
    client = Connection(url=url).client()
    try:
        Index.create(client, name, IndexPlan.from_toml("[text.body]")).ingest(RECORDS[:2])
    finally:
        client.close()
    words = ["search", "lighthouse", "-i", name, "--url", url]
    heavy = {"numpy", "pandas", "pyarrow", "aiohttp", "httpx", "torch", "openvino", "transformers"}
    for before, call, expected in (
        (f"sys.argv = {['esembed', *words]!r}", "main()", "loaded: []"),
        ("", f"main({words!r})", "loaded: ['aiohttp'"),
    ):
        code = (
            f"import sys\nfrom esembed.cli import main\n{before}\nassert {call} == 0\n"
            f"print('loaded:', sorted({heavy!r} & set(sys.modules)))\n"
            # What was hidden can be imported afterward.
            "import numpy, pyarrow, aiohttp\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "lonely coast" in done.stdout
        assert expected in done.stdout.splitlines()[-1]


def test_sorted_pages(run: Run, name: str, url: str, tmp_path: Path) -> None:
    plan, records = tmp_path / "plan.toml", tmp_path / "records.jsonl"
    plan.write_text("id_field = 'id'\n[text.body]\n[filter.year]\ntype = 'integer'\n")
    rows = [{"id": f"{n}", "body": "lighthouse", "year": 2000 + n // 3} for n in range(9)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("index", "create", name, plan)[0] == 0
    assert run("ingest", records, "--index", name)[0] == 0
    seen: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        code, out, err = run(
            "search", "lighthouse", "-i", name, "--sort", "year:desc", "-n", "4", "--json", *cursor
        )
        assert code == 0, err
        shown = json.loads(out)
        seen += [hit["id"] for hit in shown["hits"]]
        assert all(hit["sort"] == [2000 + int(hit["id"]) // 3] for hit in shown["hits"])
        cursor = ["--cursor", shown["next_cursor"] or ""]
    assert sorted(seen) == [str(n) for n in range(9)]
    assert cursor == ["--cursor", ""]
    code, _, err = run("search", "lighthouse", "-i", name, "--sort", "body")
    assert code == 2
    assert "body" in err
    assert run("search", "lighthouse", "-i", name, "--routing", "a,b")[0] == 2


def test_the_key_of_the_plan_is_filtered_by(run: Run, name: str, url: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('id_field = "sku"\n[text.title]\n')
    assert run("index", "create", name, plan)[0] == 0
    rows = [{"sku": f"A-{n}", "title": "red fox"} for n in range(3)]
    assert run("ingest", write(tmp_path / "rows.jsonl", rows), "--index", name)[0] == 0
    code, out, err = run("search", "fox", "-i", name, "-f", "sku=A-1", "--json")
    assert (code, [hit["id"] for hit in json.loads(out)["hits"]]) == (0, ["A-1"]), err
    code, out, err = run(
        "delete", "-i", name, "-f", "sku=A-0", "-f", "sku=A-2", "--max-delete", "1", "--json"
    )
    assert (code, json.loads(out)["deleted"]) == (0, 2), err
    code, out, err = run("update", "-i", name, "-f", "sku>A-0", "--set", "title=blue")
    assert (code, "[filter.sku]" in err) == (2, True), err


def test_a_sync_that_would_delete_too_much(run: Run, name: str, plan: Path, url: str, tmp_path: Path) -> None:
    assert run("index", "create", name, plan)[0] == 0
    data = write(tmp_path / "records.jsonl", RECORDS)
    assert run("ingest", data, "--index", name)[0] == 0
    half = write(tmp_path / "half.jsonl", [{**RECORDS[0], "year": 1999}])
    code, out, err = run("ingest", half, "--index", name, "--sync", "--json", "--html", "nightly.html")
    assert code == 7, err
    report = json.loads(out)
    assert (report["indexed"], report["sync_withheld"], report["sync_deleted"]) == (1, 2, 0)
    assert report["documents"] == count(url, name) == 3
    assert "--sync-max-delete" in err
    page = (tmp_path / "nightly.html").read_text(encoding="utf-8")
    assert "not deleted by sync" in page
    assert "documents in the index now" in page
    code, out, err = run("ingest", half, "--index", name, "--sync")
    assert code == 7
    assert "2 not deleted by sync" in out + err
    code, _, err = run("ingest", half, "--index", name, "--sync", "--sync-max-delete", "1", "--verify")
    assert code == 0, err
    assert "2 deleted by sync" in err
    assert "verified: 1 as in the source" in err


def test_what_matches_a_filter(run: Run, name: str, url: str, tmp_path: Path) -> None:
    plan, data = tmp_path / "plan.toml", write(tmp_path / "records.jsonl", RECORDS)
    plan.write_text(PLAN)
    assert run("index", "create", name, plan)[0] == 0
    assert run("ingest", data, "--index", name)[0] == 0
    code, out, err = run("delete", "-i", name, "--filter", "lang=en", "--dry-run")
    assert code == 0
    assert "2 documents match" in out + err
    code, _, err = run("delete", "-i", name, "--filter", "lang=en")
    assert code == 7
    assert "max_delete" in err
    assert "--max-delete" in err
    code, out, err = run(
        "update", "-i", name, "-f", "lang=en", "--set", "year=2001", "--set", "lang=en-GB", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["updated"] == 2
    code, out, err = run("delete", "-i", name, "-f", "year=2001", "--max-delete", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["deleted"] == 2
    assert count(url, name) == 1
    code, out, err = run("update", "-i", name, "-f", "lang=de", "--set", "year=soon")
    assert code == 3
    assert "year" in out + err
    for words in (["--set", "year"], ["--set", "=3"], ["--set", "year=1", "--set", "year=2"]):
        assert run("update", "-i", name, "-f", "lang=de", *words)[0] == 2
    assert run("delete", "-i", name)[0] == 2
    assert run("delete", "-i", name, "-f", "colour=red")[0] == 2
    assert count(url, name) == 1
