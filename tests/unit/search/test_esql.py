"""Queries as ES|QL: what has an equal, what is refused all at once, and that no text becomes syntax."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from esembed import IndexPlan, to_esql
from esembed import query as q
from esembed.capabilities import profile
from esembed.errors import EsembedError, QueryError, UnsupportedFeatureError
from esembed.query import Query

PLAN = IndexPlan.from_toml("""
[text.title]
[text.body]
[dense.e]
encoder = "precomputed"
dims = 2
quantization = "hnsw"
candidates = {least = 50, per_k = 2.0, filtered = 2.0}
[filter.lang]
[filter.year]
type = "integer"
[filter.day]
type = "date"
[filter."odd`name"]
[filter.lower]
normalizer = "lowercase"
""")
TITLE = q.match("red fox", fields="title")
NEAR = q.knn("e", vector=[0.5, 1e-9], k=10)


def esql(query: Query, engine: Any = "elasticsearch-enterprise", **options: Any) -> tuple[str, list[Any]]:
    made = to_esql(query, engine, index="books", plan=PLAN, **options)
    assert made.body == {"query": made.query, "params": list(made.params)}
    values = [value for one in made.params for value in one.values()]
    assert [name for one in made.params for name in one] == [f"p{i}" for i in range(1, len(values) + 1)]
    return made.query, values


def where(query: Query) -> tuple[str, list[Any]]:
    text, values = esql(query, source=False)
    found = re.fullmatch(
        r'FROM "books" METADATA _id, _index, _score\n\| WHERE (.*)\n\| SORT _score DESC\n\| LIMIT 10\n'
        r"\| KEEP _id, _index, _score",
        text,
    )
    assert found, text
    return found[1], values


@pytest.mark.parametrize(
    ("query", "text", "values"),
    [
        (TITLE, "MATCH(`title`, ?p1)", ["red fox"]),
        (
            q.match("fox", fields="title^2", operator="and", fuzziness="AUTO", minimum_should_match=1),
            'MATCH(`title`, ?p3, {"operator": ?p1, "fuzziness": ?p2, "minimum_should_match": 1, '
            '"boost": 2.0})',
            ["AND", "AUTO", "fox"],
        ),
        (q.match_phrase("title", "a b", slop=2), 'MATCH_PHRASE(`title`, ?p1, {"slop": 2})', ["a b"]),
        (NEAR, 'KNN(`e`, ?p1, {"k": 10, "min_candidates": 50})', [[0.5, 1e-9]]),
        (
            NEAR.replace(filter=q.term("lang", "en"), similarity=0.5, oversample=2, boost=3),
            '(KNN(`e`, ?p1, {"k": 10, "min_candidates": 100, "similarity": 0.5, "rescore_oversample": 2.0, '
            '"boost": 3.0}) AND `lang` == ?p2)',
            [[0.5, 1e-9], "en"],
        ),
        (NEAR.replace(k=None), 'KNN(`e`, ?p1, {"k": 100, "min_candidates": 200})', [[0.5, 1e-9]]),
        (NEAR.replace(num_candidates=77), 'KNN(`e`, ?p1, {"k": 10, "min_candidates": 77})', [[0.5, 1e-9]]),
        (
            q.bool_(should=[TITLE, q.match("x", fields="body")]),
            "((MATCH(`title`, ?p1) OR MATCH(`body`, ?p2)))",
            ["red fox", "x"],
        ),
        (
            q.bool_(
                must=[TITLE],
                filter=[q.terms("lang", ["a", "b"]), q.range("year", gte=3, lt=9), q.exists("day")],
                must_not=[q.term("year", 3), q.exists("year"), q.ids("1")],
            ),
            "(MATCH(`title`, ?p1) AND `lang` IN (?p2, ?p3) AND (`year` >= ?p4 AND `year` < ?p5) AND `day` IS "
            "NOT NULL AND (`year` IS NULL OR NOT (`year` == ?p6)) AND NOT (`year` IS NOT NULL) AND NOT (_id "
            "IN (?p7)))",
            ["red fox", "a", "b", 3, 9, 3, "1"],
        ),
        (
            q.bool_(
                filter=[q.range("day", gte="2024-01-01"), q.prefix("lang", "a"), q.wildcard("lang", "a*")]
            ),
            "((`day` >= ?p1::datetime) AND STARTS_WITH(`lang`, ?p2) AND `lang` LIKE ?p3)",
            ["2024-01-01", "a", "a*"],
        ),
        (q.bool_(filter=[q.term("lang", 3)]), "(`lang` == ?p1)", ["3"]),
        (q.match_all(), "TRUE", []),
    ],
)
def test_conditions(query: Query, text: str, values: list[Any]) -> None:
    made, params = where(query)
    assert (made, params) == (text, values)


def test_fusion_and_reranking() -> None:
    text, _ = esql(q.rrf(TITLE, NEAR, weights=(1, 0.5), rank_constant=20, filter=q.term("lang", "en")))
    assert text.split("\n") == [
        'FROM "books" METADATA _id, _index, _score',
        "| FORK (WHERE (MATCH(`title`, ?p1) AND `lang` == ?p2) | SORT _score DESC | LIMIT 100)",
        '       (WHERE (KNN(`e`, ?p3, {"k": 10, "min_candidates": 100}) AND `lang` == ?p4) | SORT _score DESC'
        + " | LIMIT 10)",
        '| FUSE RRF WITH {"rank_constant": 20, "weights": {"fork1": 1.0, "fork2": 0.5}}',
        "| SORT _score DESC",
        "| LIMIT 10",
        "| KEEP _id, _index, _score, `title`, `body`, `lang`, `year`, `day`, `odd``name`, `lower`",
    ]
    text, _ = esql(q.linear(TITLE, NEAR, normalizer="minmax", weights=(1e-7, 2)))
    assert 'FUSE LINEAR WITH {"normalizer": "minmax", "weights": {"fork1": 0.0000001, "fork2": 2.0}}' in text
    stage = q.rescore(q.rrf(TITLE, NEAR), inference_id="r", fields=["title"], text="x", window_size=30)
    text, values = esql(stage, size=5)
    assert (
        '| LIMIT 30\n| RERANK ?p3 ON `title` WITH {"inference_id": ?p4}\n| SORT _score DESC\n| LIMIT 5'
        in text
    )
    assert values[2:] == ["x", "r"]


@pytest.mark.parametrize("evil", ['" | DROP title', "`) OR TRUE //", "?p2 \\", "'; --", "a\nLIMIT 0"])
def test_no_text_becomes_syntax(evil: str) -> None:
    queries = [
        q.match(evil, fields="title", analyzer=evil),
        q.bool_(filter=[q.term("lang", evil), q.prefix("lang", evil), q.wildcard("lang", evil), q.ids(evil)]),
        q.rescore(TITLE, inference_id=evil, fields=["title"], text=evil),
    ]
    for query in queries:
        text, values = esql(query)
        assert evil not in text
        assert evil in values
    assert "`odd``name` == ?p1" in where(q.bool_(filter=[q.term("odd`name", evil)]))[0]
    with pytest.raises(EsembedError):
        to_esql(TITLE, "elasticsearch-basic", index=f'b" | {evil}', plan=PLAN)


def test_everything_that_cannot_be_said_comes_at_once() -> None:
    query = q.linear(
        q.match("x"),
        NEAR.replace(k=None, exact=True),
        q.bool_(must=[q.term("lang", "en")], must_not=[q.bool_(filter=[q.term("year", 1)])]),
        q.bool_(filter=[q.range("day", gte="now-1d"), q.term("lower", "a")]),
        normalizer="bound",
    )
    with pytest.raises(UnsupportedFeatureError) as caught:
        esql(query, "elasticsearch-reduced", offset=3, highlight=True)
    for words in (
        "x-pack-esql", "offset", "highlight", "normalizer 'bound'", "reads 2 fields", "exact has no equal",
        "term scores nothing", "must_not of bool_", "date math", "aren't normalized",
    ):  # fmt: skip
        assert any(words in gap for gap in caught.value.gaps), words
    for engine, words in (("opensearch", "use to_body"), (profile("elasticsearch-basic", "9.2"), "9.3")):
        with pytest.raises(UnsupportedFeatureError, match=words):
            esql(NEAR, engine)
    with pytest.raises(QueryError):
        esql(q.match("x", fields="no_such_field"))
    assert json.dumps(to_esql(NEAR, "elasticsearch-basic", index="b", plan=PLAN).body)
