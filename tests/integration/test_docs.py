"""Python, TOML, JSON and commands of the documentation run as they stand, on both engines."""

from __future__ import annotations

import ast
import asyncio
import html
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed import AsyncIndex, Index, IndexPlan
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.cli import main
from esembed.errors import EngineRequestError, PlanError
from esembed.pytest_plugin import EngineHandle

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = ("What a search page needs", "Words over several fields", "Paging")

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="runs in a checkout")

PLAN = """
id_field = "id"
[text.title]
boost = 2.0
[text.body]
[filter.lang]
[filter.year]
type = "integer"
[filter.published]
type = "date"
[dense.embedding]
encoder = "minilm"
source = ["title", "body"]
quantization = "hnsw"
"""


def records() -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "title": f"Splitting file names, part {number}",
            "body": "How to split a path into folder and file name.",
            "lang": "en" if number % 3 else "de",
            "year": 1990 + number,
            "published": f"2024-03-{number + 1:02}",
        }
        for number in range(12)
    ]


def blocks(page: str, section: str | None, language: str = "python") -> list[str]:
    """The blocks of a section with its subsections, of a subsection or of what stands below the page's title;
    None: of what stands before the first section."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for marks in ("##", "#{1,3}"):
        part = re.split(rf"^{marks} ", text, flags=re.MULTILINE)
        found = part[:1] if section is None else [one for one in part if one.startswith(f"{section}\n")]
        if found:
            break
    (body,) = found
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    return [text for written_in, text in fences if written_in == language]


def commands(page: str, section: str) -> list[str]:
    """The lines of a section's blocks that call esembed, without their comments."""
    lines = "".join(blocks(page, section, "")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("esembed ")]


def call(command: str, index: str, url: str, *more: str) -> int:
    """Run a command of the documentation, with *index* in the place of ``books``."""
    words = [re.sub(r"^books\b", index, word) for word in shlex.split(command)]
    assert words[0] == "esembed"
    return main([*words[1:], "--url", url, *more])


async def run(block: str, names: dict[str, Any]) -> Any:
    """Run a block; the value of its last line, where that is an expression."""
    tree = ast.parse(block)
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Assign([ast.Name("shown", ast.Store())], tree.body[-1].value)
        tree.body[-1] = ast.fix_missing_locations(ast.copy_location(last, tree.body[-1]))
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    done = eval(compile(tree, "docs", "exec", flags), names)
    if inspect.isawaitable(done):
        await done
    return names.get("shown")


@pytest.fixture
async def index(esembed_engine: Any, esembed_index_name: str) -> Any:
    """The index that the page talks about."""
    pytest.importorskip("openvino")
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import AsyncElasticsearch as Client
    else:
        from opensearchpy import AsyncOpenSearch as Client
    async with Client(esembed_engine.url) as client:
        made = await AsyncIndex.create(client, esembed_index_name, IndexPlan.from_toml(PLAN))
        await made.ingest(records())
        yield made
        await made.close()


async def test_a_search_page(index: Any) -> None:
    names: dict[str, Any] = {"index": index, "q": q}
    shown = [await run(block, names) for section in SECTIONS for block in blocks("backend.md", section)]
    assert len(shown) >= 7
    facets = [hits for hits in (await _facets(index, names)) if hits]
    assert facets == [{"en": 8, "de": 4}]
    page = names["page"]
    assert len(page) == 2
    assert page[-1].sort[1] in ("en", "de")


async def test_misspelled_words(index: Any) -> None:
    names: dict[str, Any] = {"index": index, "q": q}
    (block,) = blocks("backend.md", "Misspelled, unknown and too many words")
    notes = re.findall(r"^hits.notes +# (.*?) …$", block, flags=re.MULTILINE)
    parts = block.split("hits.notes")
    assert len(notes) == len(parts) - 1 == 2
    for part, note in zip(parts, [*notes, None], strict=True):
        await run(part.partition("\n")[2] if part.lstrip().startswith("#") else part, names)
        assert len(names["hits"])
        assert note is None or any(note in one for one in names["hits"].notes)


async def test_two_facets_each_count_under_the_others_choice(index: Any) -> None:
    names: dict[str, Any] = {"index": index, "q": q}
    block = next(one for one in blocks("backend.md", SECTIONS[0]) if "def facet" in one)
    buckets = await run(block, names)
    assert {hit.source["lang"] for hit in names["hits"]} == {"de"}
    assert {hit.source["year"] for hit in names["hits"]} == {1990, 1993}
    assert {bucket["key"]: bucket["doc_count"] for bucket in buckets} == {"de": 2, "en": 1}
    years = names["hits"].aggregations["year"]["values"]["buckets"]
    assert {bucket["key"] for bucket in years} == {1990, 1993, 1996, 1999}
    # What a reader tries next: nothing is chosen.
    names = {"index": index, "q": q}
    await run(block.replace('["de"]', "[]").replace("[1990, 1993, 1994]", "[]"), names)
    assert len(names["hits"]) == 10
    years = names["hits"].aggregations["year"]["values"]["buckets"]
    assert len(years) == 12


async def test_a_query_of_the_readers_own_in_the_plan(index: Any) -> None:
    toml = blocks("plan.md", "The default query", "toml")[0]
    plan = IndexPlan.from_toml(toml)
    assert IndexPlan.from_toml(plan.to_toml()) == plan
    client = index.state.client.official
    made = await AsyncIndex.create(client, f"{index.name}-own", plan)
    try:
        await made.ingest(
            [
                {"_id": "sklearn", "name": "scikit-learn", "summary": "machine learning in Python"},
                {"_id": "image", "name": "scikit-image", "summary": "image processing"},
                {"_id": "course", "name": "learn", "summary": "a course: learn Python with scikit"},
            ]
        )
        await made.refresh()
        assert (await made.search("scikit-learn")).ids[0] == "sklearn"
        assert (await made.search("scikit-im")).ids[0] == "image"
        phrase = q.multi_match("scikit-le", kind="phrase_prefix")
        assert (await made.search(phrase)).ids == ["sklearn"]
        loose = q.multi_match("scikit-le", kind="bool_prefix", operator="and")
        assert set((await made.search(loose)).ids) == {"sklearn", "course"}
        exact = await made.search("python", filter=q.term("name.keyword", "scikit-learn"))
        assert exact.ids == ["sklearn"]
        assert (await made.search("scikit-laern", fuzziness="missing")).ids[0] == "sklearn"
    finally:
        await made.delete_index()


async def test_nothing_relevant_popular_and_different_together(index: Any) -> None:
    from esembed.demo import corpus

    rows: list[dict[str, Any]] = []
    for record in corpus.records():
        words = record["doc"].split()[:60]
        if len(words) >= 20:
            body = " ".join(words)
            rows.append({"id": f"r{len(rows)}", "title": " ".join(words[:5]), "body": body, "year": 2000})
        if len(rows) == 120:
            break
    await index.ingest(rows)
    await index.refresh()
    await index.learn_floor()
    (block,) = blocks("backend.md", "Nothing relevant, popular and different, together")
    names: dict[str, Any] = {"index": index, "q": q}
    await run(block, names)
    hits = names["hits"]
    assert len(hits) == 10
    assert all(hit.id.isdecimal() for hit in hits)
    assert max(hit.score for hit in hits) > 1.05
    nothing = await index.search(q.diversify(names["liked"], "embedding"), text="zebra mortgage violin")
    assert len(nothing) < 5


async def _facets(index: Any, names: dict[str, Any]) -> list[dict[str, int]]:
    block = next(one for one in blocks("backend.md", SECTIONS[0]) if "post_filter" in one)
    buckets = await run(block, names)
    assert {hit.source["lang"] for hit in names["hits"]} == {"de"}
    return [{bucket["key"]: bucket["doc_count"] for bucket in buckets}]


async def test_reports_that_begin_with_their_conclusion(
    index: Any, esembed_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ir_measures", reason="needs the eval extra")
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import Elasticsearch as Client
    else:
        from opensearchpy import OpenSearch as Client
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("ingest.md", "What the report says")
    names: dict[str, Any] = {"index": index, "records": records()}
    await run(block, names)
    assert names["report"].conclusion == f"All 12 records are in {index.concrete_index}: 12 unchanged"
    assert names["report"].conclusion in (tmp_path / "report.html").read_text(encoding="utf-8")

    rows = [f"file names,{number},{int(number < 4)}" for number in range(8)]
    (tmp_path / "judgments.csv").write_text("\n".join(["query,document,grade", *rows]))
    random = np.random.default_rng(0)
    names |= {
        "index": Index.open(Client(esembed_engine.url), index.name),
        "q": q,
        "plan": index.plan,
        "vectors": random.standard_normal((300, 384)).astype(np.float32),
        "queries": random.standard_normal((20, 384)).astype(np.float32),
    }
    for page, section, name, begins in (
        ("evaluation.md", "The learned default query", "report", "The default query stays as it is: only"),
        (
            "evaluation.md",
            "Judged queries: `esembed eval index`",
            "evaluation",
            ("Keep default: ", "Choose "),
        ),
        ("evaluation.md", "Fitting: `esembed tune`", "tuned", "Keep the default query: "),
        (
            "quantization.md",
            None,
            "advice",
            ("Choose ", "Nothing that was tried keeps recall@10 0.9 for 5 mil"),
        ),
    ):
        (block,) = blocks(page, section)
        await run(block, names)
        assert names[name].conclusion.startswith(begins), names[name].conclusion
    assert 0 < names["evaluation"].judged["default"] <= 1
    for file, kept in (("report.html", "evaluation"), ("advice.html", "advice")):
        page = (tmp_path / file).read_text(encoding="utf-8")
        assert f"<p class=lead><b>{html.escape(names[kept].conclusion)}" in page
    names["index"].close()
    names["index"].client.official.close()


async def test_recall_is_watched(
    index: Any,
    esembed_engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import Elasticsearch as Client
    else:
        from opensearchpy import OpenSearch as Client
    monkeypatch.chdir(tmp_path)
    await index.refresh()
    section = "Watching recall: `esembed recall`"
    (block,) = blocks("evaluation.md", section)
    with Client(esembed_engine.url) as client:
        names: dict[str, Any] = {"index": Index.open(client, index.name)}
        await run(block, names)
        assert names["report"].conclusion.startswith("recall@10 is ")
        assert [row.matching for row in names["report"].rows] == [12, 8]
        assert names["below"] == ()
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\$ (esembed recall .*)$", text, flags=re.MULTILINE)
    more = ("--json", "--html", str(tmp_path / "page.html"))
    capsys.readouterr()

    def ask(*words: str) -> tuple[int, Any]:
        code = call(command, index.name, esembed_engine.url, *words)
        return code, json.loads(capsys.readouterr().out)

    code, report = await asyncio.to_thread(ask, *more)
    assert (code, report["below"], report["min_recall"]) == (0, [], 0.95)
    assert [row["filter"] for row in report["rows"]] == ["", "lang=en", "lang=de"]
    assert len((tmp_path / "recall.jsonl").read_text().splitlines()) == 3
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "lang=de" in page
    assert page.count("<td>1.000</td>") > 3
    (tmp_path / "texts").write_text("splitting file names\n\npart 7\n")
    code, report = await asyncio.to_thread(ask, "--json", "--queries", "texts", "--k", "3", "--sample", "1")
    assert (code, report["k"], [row["queries"] for row in report["rows"]]) == (0, 3, [1, 1, 1])


def test_a_recall_that_is_too_low_is_an_exit_code(
    esembed_engine: EngineHandle, esembed_index_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 64))
    coarse = "bbq_hnsw" if esembed_engine.engine == "elasticsearch" else "int8_hnsw"
    plan = f'[dense.v]\nencoder = "precomputed"\ndims = 64\nquantization = "{coarse}"\n'
    index = Index.create(esembed_engine.client(), esembed_index_name, IndexPlan.from_toml(plan))
    index.ingest([{"_id": str(n), "v": vectors[n].tolist()} for n in range(400)])
    for least, code in (("0", 0), ("1", 1)):
        found = call(
            "esembed recall books --sample 30", esembed_index_name, esembed_engine.url, "--min-recall", least
        )
        shown = capsys.readouterr()
        assert found == code
        assert shown.out.startswith("recall@10 is 0.")
        assert ("below 1: v;" in shown.err) is bool(code)
    assert call("esembed recall books --field w", esembed_index_name, esembed_engine.url) == 2
    assert "no dense field 'w'" in capsys.readouterr().err
    assert call("esembed recall books --exact both", esembed_index_name, esembed_engine.url) == 2


async def test_what_an_ingest_page_shows(index: Any) -> None:
    messages = [
        {"key": f"m{n}", "value": {"title": "a letter", "year": 1980 + n}, "offset": n} for n in range(20)
    ]
    names: dict[str, Any] = {"index": index, "messages": messages, "committed": []}
    feed, by_query = (
        blocks("ingest.md", name) for name in ("How far a feed is settled", "Documents that match a filter")
    )
    for block in feed:
        await run(block, names)
    assert names["committed"][-1] == 20
    await index.refresh()
    for block in by_query:
        await run(block, names)
    assert await index.count() == 12 + 20 - 10
    assert (await index.search(q.match_all(), filter=q.term("lang", "de-DE"))).total == 4


@pytest.fixture
def engine(esembed_engine: EngineHandle) -> EngineClient:
    """Requests of the reader's own."""
    return EngineClient(esembed_engine.client())


def test_what_the_readme_does_on_the_command_line(
    esembed_engine: EngineHandle,
    esembed_index_name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setenv("COLUMNS", "160")
    lines = commands("../README.md", "An ETL script")
    assert [line.split()[1] for line in lines] == ["index", "ingest", "search"]
    for line in lines:
        assert call(line, esembed_index_name, esembed_engine.url) == 0
        shown = capsys.readouterr()
    assert "b99" not in shown.out
    index = Index.open(esembed_engine.client(), esembed_index_name)
    assert index.concrete_index == f"{esembed_index_name}-v1"
    # Of a hit the title is shown: the field of the highest boost, whatever comes first in the document.
    first = next(iter(index.search("splitting file names", filter=q.term("lang", "en"))))
    assert str(first.source["title"]) in shown.out


def test_commands_for_what_matches_a_filter(
    esembed_engine: EngineHandle, esembed_index_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "ingest.md").read_text(encoding="utf-8")
    delete, update = re.findall(r"`(esembed (?:delete|update) [^`]*)`", page)
    plan = IndexPlan.from_toml("[text.title]\n[filter.lang]\n[filter.year]\ntype = 'integer'\n")
    index = Index.create(esembed_engine.client(), esembed_index_name, plan)
    index.ingest([{"_id": str(n), "title": "a", "lang": "de", "year": 1980 + n} for n in range(20)])
    assert call(delete, esembed_index_name, esembed_engine.url, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["read"], index.count()) == (10, 20)
    # Half of the index is more than goes unless one says so.
    assert call(delete.replace(" --dry-run", ""), esembed_index_name, esembed_engine.url) == 7
    assert "max-delete" in capsys.readouterr().err
    assert index.count() == 20
    assert call(update, esembed_index_name, esembed_engine.url) == 0
    index.refresh()
    assert index.search(q.match_all(), filter=q.term("lang", "de-DE")).total == 20


def test_records_out_of_order(esembed_engine: EngineHandle, esembed_index_name: str) -> None:
    (toml,) = blocks("ingest.md", "Records out of order", "toml")
    plan = IndexPlan.from_toml(f"{toml}\n[text.title]\n")
    index = Index.create(esembed_engine.client(), esembed_index_name, plan)
    newer = {"id": "1", "title": "new", "updated_at": "2026-01-02T00:00:00Z"}
    older = {"id": "1", "title": "old", "updated_at": "2026-01-01T00:00:00Z"}
    assert index.ingest([newer]).indexed == 1
    report = index.ingest([older, {"op": "delete", "id": "1", "updated_at": "2026-01-01T12:00:00Z"}])
    assert (report.outdated, index.get("1")["title"]) == (2, "new")
    # What a reader tries next: a record that doesn't say when it is from, and a partial update.
    report = index.ingest([{"id": "2", "title": "when?"}, {"op": "update", **newer, "title": "newer"}])
    assert (report.read, report.dead_lettered) == (2, 2)


def test_an_analyzer_of_the_readers_own(
    esembed_engine: EngineHandle, esembed_index_name: str, engine: EngineClient
) -> None:
    (toml,) = blocks("plan.md", "Analyzers of your own", "toml")
    client = esembed_engine.client()
    if esembed_engine.engine == "elasticsearch":
        with pytest.raises(PlanError, match="reduced distribution"):
            Index.create(client, esembed_index_name, IndexPlan.from_toml(toml))
    else:
        index = Index.create(client, esembed_index_name, IndexPlan.from_toml(toml))
        index.ingest([{"_id": "a", "title": "<b>Television</b> stand", "brand": "Böse"}])
        index.refresh()
        assert index.search("tv", filter=q.term("brand", "BOSE")).ids == ["a"]
        # What a reader tries next: another list of synonyms, for documents that are there.
        wider = IndexPlan.from_toml(toml.replace('"tv, television"', '"tv, television, telly"'))
        index.migrate(wider)
        assert Index.open(client, esembed_index_name).search("telly").ids == ["a"]
    # A definition of what every build has, the reduced one, too.
    core = IndexPlan.from_toml(toml).to_dict()
    core["analysis"] = {
        "analyzer": {"words": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase", "cut"]}},
        "filter": {"cut": {"type": "stop", "stopwords": ["stand"]}},
    }
    core["text"]["title"] = {"analyzer": "words"}
    del core["filter"]
    index = Index.create(client, f"{esembed_index_name}-core", IndexPlan.from_dict(core))
    index.ingest([{"_id": "a", "title": "Television stand"}])
    index.refresh()
    assert (index.search("TELEVISION").ids, index.search("stand").ids) == (["a"], [])


async def test_values_that_belong_together(esembed_engine: EngineHandle, esembed_index_name: str) -> None:
    (toml,) = blocks("plan.md", "Values that belong together", "toml")
    block = blocks("plan.md", "Values that belong together")[0]
    plan = IndexPlan.from_toml(f"[text.title]\n[filter.sku]\n{toml}")
    red_s, red_m = {"color": "Red", "size": "S", "stock": 3}, {"color": "red", "size": "M", "stock": 1}
    blue_m = {"color": "blue", "size": "M", "stock": 5}
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import AsyncElasticsearch as Client
    else:
        from opensearchpy import AsyncOpenSearch as Client
    async with Client(esembed_engine.url) as client:
        index = await AsyncIndex.create(client, esembed_index_name, plan)
        await index.ingest(
            [
                {"_id": "apart", "title": "shirt", "sku": "SH-1-X", "variants": [red_s, blue_m]},
                {"_id": "together", "title": "shirt", "sku": "SH-2-X", "variants": [red_m, blue_m]},
                {"_id": "sold", "title": "shirt", "sku": "SH-3-Y", "variants": [{**red_m, "stock": 0}]},
            ]
        )
        await index.refresh()
        names: dict[str, Any] = {"index": index, "q": q}
        await run(block, names)
        assert names["hits"].ids == ["together"]
        pattern = await index.search("shirt", filter=q.wildcard("sku", "SH-*-X"))
        assert set(pattern.ids) == {"apart", "together"}
        # What a reader tries next: everything but that.
        others = await index.search("shirt", filter=q.bool_(must_not=[q.nested("variants", names["one"])]))
        assert set(others.ids) == {"apart", "sold"}


def test_a_migration_under_the_name(
    esembed_engine: EngineHandle,
    esembed_index_name: str,
    engine: EngineClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, url = esembed_index_name, esembed_engine.url
    (template,) = blocks("migration.md", "Index templates, lifecycle policies, snapshots", "json")
    engine.request(
        "PUT", f"/_index_template/{name}", body=json.loads(template.replace('"books-', f'"{name}-'))
    )
    try:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "plan.toml").write_text("[text.body]\n")
        (tmp_path / "new-plan.toml").write_text("[text.body]\n[filter.lang]\n")
        assert call("esembed index create books plan.toml", name, url) == 0
        index = Index.open(esembed_engine.client(), name)
        index.ingest([{"_id": str(n), "body": "red fox", "lang": "en"} for n in range(3)])
        with pytest.raises(EngineRequestError, match="does not match pattern"):
            engine.request("POST", f"/{name}/_rollover", body={})

        migrate, rollback = commands(
            "migration.md", "Migration: another model or another quantization, while people search"
        )
        assert call(migrate, name, url) == 0
        index = Index.open(esembed_engine.client(), name)
        assert index.concrete_index == f"{name}-v2"
        assert index.search("fox", filter=q.term("lang", "en")).total == 3
        settings = engine.request("GET", f"/{name}-v*/_settings").body
        assert set(settings) == {f"{name}-v1", f"{name}-v2"}
        for one in settings.values():
            assert one["settings"]["index"]["refresh_interval"] == "5s"
        assert call(rollback, name, url) == 0
        assert Index.open(esembed_engine.client(), name).concrete_index == f"{name}-v1"
        # What a reader tries next: to tidy up at once, which keeps what searchers may still use.
        assert call("esembed index cleanup books", name, url) == 2
        assert "--min-age-minutes" in capsys.readouterr().err
        assert call("esembed index delete books --yes", name, url) == 0
        left = engine.request("GET", f"/{name}-v*/_settings").body
        assert f"{name}-v1" not in left
    finally:
        engine.request("DELETE", f"/_index_template/{name}")
    capsys.readouterr()


async def test_judgments_out_of_clicks() -> None:
    (block,) = blocks("evaluation.md", "Judgments from clicks, and splits by document")
    names: dict[str, Any] = {}
    await run(block, names)
    assert names["report"].judgments == 2
