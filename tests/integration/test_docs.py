"""The Python blocks of the documentation run as they stand, on both engines."""

from __future__ import annotations

import ast
import html
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed import AsyncIndex, Index, IndexPlan
from esembed import query as q

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = ("What a search page needs", "Paging")

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


def blocks(page: str, section: str | None) -> list[str]:
    """The Python blocks of one section, or of what stands before the first."""
    text = (DOCS / page).read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    (body,) = part[:1] if section is None else [one for one in part if one.startswith(f"{section}\n")]
    return re.findall(r"^```python\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL)


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


async def test_what_an_ingest_page_shows(index: Any) -> None:
    messages = [
        {"key": f"m{n}", "value": {"title": "a letter", "year": 1980 + n}, "offset": n} for n in range(20)
    ]
    names: dict[str, Any] = {"index": index, "messages": messages, "committed": []}
    feed, by_query = (blocks("ingest.md", name) for name in ("Change feeds", "Documents that match a filter"))
    for block in feed:
        await run(block, names)
    assert names["committed"][-1] == 20
    await index.refresh()
    for block in by_query:
        await run(block, names)
    assert await index.count() == 12 + 20 - 10
    assert (await index.search(q.match_all(), filter=q.term("lang", "de-DE"))).total == 4
