"""Reports of an evaluation, outside figures, and the compare_candidates between a leg's settings."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ir_measures", reason="needs the eval extra")

from esembed import query as q
from esembed import terminal
from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset, load_dataset
from esembed.evaluate.evaluation import Evaluation, evaluate_runs
from esembed.evaluate.leg_parameters import (
    bm25_parameters,
    choose,
    compare_candidates,
    leg_variants,
    rerank_variants,
)
from esembed.evaluate.reference import bm25s_run, read_published
from esembed.evaluate.report import html_page, report_dict, terminal_table
from esembed.plan import IndexPlan
from esembed.query import Query
from esembed.weights.scorers import LexicalScorer

Run = dict[str, list[tuple[str, float]]]


def evaluation() -> Evaluation:
    queries = {f"q{i}": f"<what> & why {i}?" for i in range(40)}
    qrels = {query: {"right": 1, "wrong": 0} for query in queries}
    good: Run = {query: [("right", 2.0), ("wrong", 1.0)] for query in queries}
    bad: Run = {query: [("wrong", 2.0), ("right", 1.0), ("right", 0.5)] for query in queries}
    bad["nobody asked"] = [("right", 1.0)]
    dataset = Dataset(name="demo", queries=queries, qrels=qrels)
    published = {"theirs": {"nDCG@10": 0.5, "R@100": 0.9}}
    return evaluate_runs(
        dataset, {"default": bad, "other": good}, published=published, titles={"right": "<b>bold</b>"}
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_says_what_was_found() -> None:
    found = evaluation()
    page = html_page(found)
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert tags.links == []
    assert "b" in tags.names
    assert "<b>bold</b>" not in page
    assert "&lt;what&gt; &amp; why" in page
    conclusion = "Choose other: 1.000 ndcg@10 over 40 queries, where default has 0.631 (p &lt; 0.001)."
    assert f"<p class=lead><b>{conclusion}</b>" in page
    assert "better on 40, worse on 0" in page
    assert "theirs" in page
    assert "documents listed twice" in page
    assert "not among the queries" in page


def test_the_same_as_json_and_in_the_terminal() -> None:
    found = evaluation()
    data = json.loads(json.dumps(report_dict(found)))
    (comparison,) = data["comparisons"]
    assert comparison["significant"]
    assert comparison["difference"]["mean"] == pytest.approx(1 - 1 / np.log2(3))
    assert {problem["kind"]: problem["count"] for problem in data["problems"]} == {
        "duplicate-id": 40,
        "unknown-query": 1,
    }
    assert len(data["configurations"]["default"]["per_query"]["ndcg@10"]) == 40
    table = terminal_table(found)
    assert [str(column.header) for column in table.columns][1] == "ndcg@10"
    assert table.row_count == 3


def test_published_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    one = {"flat": {"nDCG@10": 0.6789, "R@100": 0.9253}}
    file.write_text(json.dumps({"scifact": one, "nfcorpus": {"flat": {"nDCG@10": 0.32}}}))
    assert read_published(file, "scifact/train") == one
    with pytest.raises(EsembedError, match="no figures for 'cosqa'; it has scifact, nfcorpus"):
        read_published(file, "cosqa")
    file.write_text(json.dumps(one))
    assert read_published(file, "anything") == one
    file.write_text('{"a": {"b": "c"}}')
    with pytest.raises(EsembedError, match=r"no figures|name → measure"):
        read_published(file, "x")
    for text in ("{", "[" * 100_000, '{"a": ' * 5_000, '{"a":{"b":' + "9" * 5_000 + "}}"):
        file.write_text(text)
        with pytest.raises(EsembedError, match="can't be read as JSON"):
            read_published(file, "x")
    for value in ("1e400", "9" * 400, "true", "null"):
        file.write_text('{"a": {"b": ' + value + "}}")
        with pytest.raises(EsembedError, match=r"can't be read as JSON|name → measure|no figures"):
            read_published(file, "x")


def test_bm25s_on_the_documents_of_a_dataset(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs bm25s")
    (tmp_path / "qrels").mkdir()
    documents = [("a", "whales swim in the sea"), ("b", "trees grow on land"), ("c", "a whale of a tree")]
    lines = [json.dumps({"_id": i, "title": "", "text": text}) for i, text in documents]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "whales sea"}')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n")
    dataset = load_dataset(tmp_path)
    assert [document for document, _ in bm25s_run(dataset, language="none")["1"]] == ["a"]
    choice, pair = bm25_parameters(
        LexicalScorer(), (1.2, 0.75), dict(documents), dataset.queries, dataset.qrels
    )
    assert choice.chosen == choice.default == "k1 1.2, b 0.75"
    assert pair == (1.2, 0.75)


def test_the_page_says_whether_fusing_helps_and_how_sure_that_is() -> None:
    queries = {f"q{i}": f"what is {i}" for i in range(60)}
    dataset = Dataset(name="demo", queries=queries, qrels={query: {"right": 1} for query in queries})

    def run(hits: int) -> Run:
        return {query: [("right" if i < hits else "wrong", 1.0)] for i, query in enumerate(queries)}

    def page(fused: int) -> str:
        found = evaluate_runs(dataset, {"default": run(fused), "bm25": run(30), "dense": run(20)})
        return html_page(replace(found, legs=("bm25", "dense")))

    assert "Fusing helps: default is +0.333" in page(50)
    assert "p &lt; 0.001" in page(50)
    assert "Fusing hurts: default is -0.250" in page(15)
    assert "Fusing is not shown to help or to hurt: default is +0.017" in page(31)


def measured(runs: Mapping[str, Run], judged: int = 1, count: int = 60) -> Evaluation:
    """Queries with *judged* judgments each: ``right`` is relevant, ``d1`` and so on are not."""
    queries = {f"q{i}": f"what is {i}" for i in range(count)}
    grades = {"right": 1, **{f"d{i}": 0 for i in range(1, judged)}}
    return evaluate_runs(Dataset(name="demo", queries=queries, qrels=dict.fromkeys(queries, grades)), runs)


def found(hits: int, count: int = 60, rest: int = 0) -> Run:
    """The first *hits* queries find what is right, all of them *rest* further documents."""
    more = [(f"d{i}", 0.1 / i) for i in range(1, rest + 1)]
    return {f"q{i}": [("right" if i < hits else "other", 1.0), *more] for i in range(count)}


@pytest.mark.parametrize(
    ("runs", "begins", "says"),
    [
        (
            {"default": found(20), "bm25": found(50)},
            "Choose bm25: 0.833",
            "default has 0.333 (p < 0.001)",
        ),
        (
            {"default": found(50), "bm25": found(20)},
            "Keep default: 0.833",
            "the best of 2; bm25 follows",
        ),
        (
            {"default": found(30), "bm25": found(31)},
            "Keep default: 0.500",
            "a difference that chance may explain",
        ),
        (
            {"default": found(30), "bm25": found(30, rest=1)},
            "Keep default: 0.500",
            "the best of 2; bm25 follows",
        ),
        # A plan of one leg: its default query is that leg.
        ({"default": found(30), "bm25": found(30)}, "default has 0.500", "60 queries; bm25 finds the same"),
        ({"bm25": found(30)}, "bm25 has 0.500", "compared with nothing"),
        ({"default": found(0), "bm25": found(0)}, "Nothing relevant is found on 60 queries", "?"),
    ],
)
def test_an_evaluation_begins_with_its_conclusion(runs: Mapping[str, Run], begins: str, says: str) -> None:
    evaluation = measured(runs)
    sentence = evaluation.conclusion
    assert sentence.startswith(begins)
    assert says in sentence
    assert "\n" not in sentence
    assert report_dict(evaluation)["conclusion"] == sentence
    assert f"<p class=lead><b>{html.escape(sentence)}" in html_page(evaluation)
    alone = len(runs) == 1
    for heading in ("Query by query", "Where does each win alone?", "Do they find the same?"):
        assert (heading in html_page(evaluation)) is not alone, "what can't be compared is left out"


def test_how_much_of_the_first_hits_is_judged() -> None:
    well = measured({"default": found(30, rest=9), "bm25": found(40, rest=9)}, judged=10)
    assert well.judged == {"default": pytest.approx(0.95), "bm25": pytest.approx(0.9 + 40 / 600)}
    assert well.warning is None
    assert report_dict(well)["configurations"]["bm25"]["judged@10"] == well.judged["bm25"]
    assert "judged@10" in [str(column.header) for column in terminal_table(well).columns]
    assert "<th>judged@10</th>" in html_page(well)
    assert "<td>95%</td>" in html_page(well)

    few = measured({"default": found(30, rest=9), "bm25": found(40, rest=9)})
    assert few.warning is not None
    assert few.warning.startswith("Only 5% of the first 10 hits of default are judged (1.0 judgments")
    assert few.warning in html_page(few)
    assert report_dict(few)["warning"] == few.warning

    unlike = measured({"default": found(60, rest=9), "new": found(60, rest=20)}, judged=10)
    assert unlike.warning is None, "only the first ten count"
    unlike = measured({"default": found(60, rest=9), "new": found(0)}, judged=10)
    assert unlike.warning is not None
    assert "new" in unlike.warning

    # An answer to nothing has no share, and known items have one right document by construction.
    assert measured({"default": {}, "bm25": found(3)}).judged["default"] is None
    items = replace(few, known_items=True)
    assert (items.judged, items.warning) == ({}, None)
    assert items.conclusion.startswith("default finds its 60 known items with 0.500 ndcg@10")
    assert "which favors words" in html_page(items)
    assert "judged@10</th>" not in html_page(items)


def test_names_of_runs_are_foreign() -> None:
    name = "<img src=x>\x1b[2J"
    evaluation = measured({"default": found(20), name: found(50)})
    page = html_page(replace(evaluation, title=name, baseline="default"))
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;img src=x&gt;\\x1b[2J" in page


def test_names_of_runs_are_no_markup_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[/red]a[1] [bold]x"
    terminal.console().print(terminal_table(replace(measured({name: found(20)}), title=name)))
    assert capsys.readouterr().out.count(name) == 3, "title, row and what others are compared with"


# -- the comparison of candidates --------------------------------------------------------------------

PLAN = IndexPlan.from_toml(
    """
    [text.title]
    boost = 2.0
    [text.body]
    [dense.emb]
    encoder = "minilm"
    source = ["body"]
    dims = 384
    quantization = "int8_hnsw"
    [sparse.terms]
    encoder = "splade:x"
    source = ["body"]
    """
)


def test_a_race_stops_what_is_behind_and_takes_what_is_better() -> None:
    variants: Mapping[str, Query] = {
        "as planned": q.match(name="planned"),
        "better": q.match(name="better"),
        "worse": q.match(name="worse"),
    }
    chances = {"planned": 0.5, "better": 0.9, "worse": 0.1}
    queries = {f"q{i}": "" for i in range(200)}
    qrels = {query: {"right": 1} for query in queries}
    rng = np.random.default_rng(0)
    asked: dict[str, int] = dict.fromkeys(chances, 0)

    def ask(query: Query, block: Mapping[str, str]) -> Run:
        name = str(query.name)  # type: ignore[union-attr]
        asked[name] += len(block)
        return {one: [("right" if rng.random() < chances[name] else "wrong", 1.0)] for one in block}

    choice, query = compare_candidates("axis", variants, ask, queries, qrels)
    assert choice.chosen == "better"
    assert query == variants["better"]
    assert choice.gain.low > 0.2
    assert choice.stopped == 1
    assert asked["worse"] == 50, "stopped after two blocks"
    assert asked["planned"] == asked["better"] == 200
    few = dict(list(queries.items())[:9])
    choice, query = compare_candidates("axis", variants, ask, few, qrels)
    assert choice.chosen == "as planned", "nine queries change nothing"
    dear, _ = compare_candidates("axis", variants, ask, queries, qrels, costs={"better": 0.9})
    assert dear.chosen == "as planned"


def test_a_setting_must_win_on_queries_that_it_was_not_chosen_on() -> None:
    def measured(gains: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"planned": np.full(len(gains), 0.5), "other": 0.5 + gains}

    clear = choose("axis", measured(np.tile([0.1, 0.1, 0.1, -0.1], 25)), "planned")
    assert clear.chosen == "other"
    assert clear.gain.mean == pytest.approx(0.05)
    # Ahead by more than half a standard error on all of them, but one query alone is what wins: the part
    # without it keeps the setting in use, and those with it lose on the rest.
    lucky = choose("axis", measured(np.array([0.5, *[-0.003] * 59])), "planned")
    assert lucky.difference.mean > 0
    assert lucky.gain.mean < 0
    assert lucky.chosen == "planned"
    assert lucky.closest == "other"
    assert set(lucky.to_dict()) >= {"cross_validated_gain", "difference", "closest"}


def test_bm25_parameters_that_do_better_are_for_the_next_plan() -> None:
    # What is relevant says the word often and is long: dividing by the length is wrong here.
    texts = {f"long{i}": f"w{i} " * 4 + "filler " * 60 for i in range(60)}
    texts |= {f"short{i}": f"w{i} other" for i in range(60)}
    queries = {f"q{i}": f"w{i}" for i in range(60)}
    qrels = {f"q{i}": {f"long{i}": 1} for i in range(60)}
    choice, (_, b) = bm25_parameters(LexicalScorer(), (1.2, 0.75), texts, queries, qrels)
    assert b < 0.75
    assert choice.chosen != choice.default
    assert choice.gain.low > 0.2


def test_the_settings_of_each_leg() -> None:
    text = leg_variants(PLAN, "bm25", q.match(name="bm25"))["bm25: field boosts"]
    assert text["as planned"] == q.match(name="bm25")
    assert q.match(fields=["title^4", "body^1"], name="bm25") in text.values()
    assert q.match(fields=["body^1"], name="bm25") in text.values()
    dense = leg_variants(PLAN, "emb", q.knn("emb", k=100))
    assert set(dense) == {"emb: num_candidates", "emb: oversampling"}
    assert q.knn("emb", k=100, num_candidates=400) in dense["emb: num_candidates"].values()
    sparse = leg_variants(PLAN, "terms", q.sparse("terms"), prune=True)["terms: pruning"]
    assert q.sparse("terms", prune=True) in sparse.values()
    stages = rerank_variants(PLAN, q.match(), ["cross"])
    assert list(stages) == ["none", "cross, the first 10", "cross, the first 25", "cross, the first 50"]
