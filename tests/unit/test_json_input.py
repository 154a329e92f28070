"""JSON from outside: how much is taken, what is said of more, and that no other error comes out."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from esembed import IndexPlan
from esembed import query as q
from esembed.capabilities import profile
from esembed.dialect import meta
from esembed.dialect.mapping import compile_mapping
from esembed.errors import PlanError, QueryError
from esembed.json_input import JsonInputError, JsonLimits, check_json, parse_json, parse_toml
from esembed.plan.checks import check_new

LIMITS = JsonLimits(characters=1000, depth=5, values=50, objects=10, bits=64)


def nested(levels: int) -> Any:
    data: Any = 1
    for _ in range(levels):
        data = {"a": data}
    return data


RING: dict[str, Any] = {}
RING["again"] = RING
WIDE: list[Any] = []
WIDE.extend([WIDE] * 9)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (nested(6), r"a\.a\.a\.a\.a: it is nested deeper than 5 levels"),
        (nested(100_000), "nested deeper"),
        (RING, "nested deeper"),
        (WIDE, "more than 50 values"),
        ({"a": ["x"] * 51}, "a: more than 50 values"),
        ({"a": {"b": [{}] * 11}}, "more than 10 objects"),
        ({"a": [{"b": "x" * 1001}]}, r"a\[0\]: more than 1,000 characters"),
        ({"x" * 1001: 1}, "more than 1,000 characters"),
        ({"a": {1: 2}}, "a: the name 1 is no text"),
        ({"a": {"b": 10**30}}, r"a\.b: a number of 100 bits"),
        ({"a": [[1, 2**64]]}, r"a\[0\]\[1\]: a number of 65 bits"),
        ({"a": -(2**63) - 1}, "a: a number of 65 bits"),
        ({"a": ["x", "\ud800"]}, r"a\[1\]: '\\ud800' in a text is not valid Unicode"),
        ({"a": {"\udfff": 1}}, r"a: '\\udfff' in a text is not valid Unicode"),
        ({"\ud800": {"b": 10**30}}, r"'\\ud800' in a text is not valid Unicode"),
        ("\ud800", r"'\\ud800' in a text is not valid Unicode"),
    ],
)
def test_more_than_is_taken_is_named(data: Any, message: str) -> None:
    with pytest.raises(JsonInputError, match=message):
        check_json(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        nested(5),
        {"a": [1.5] * 40},
        {"a": 2**63},
        {"a": -(2**63)},
        {"é": "\U0001f600"},
        [],
        None,
        "x",
        {"a": float("nan")},
    ],
)
def test_what_the_limits_take_stays_as_it_is(data: Any) -> None:
    assert check_json(data, LIMITS) is data


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 900,
        "{",
        "",
        b"\xff",
        '"\\ud800',
        "nul",
        '{"a" 1}',
        "[1,]",
        7,
        None,
    ],
)
def test_texts_that_are_no_json_or_too_much(text: Any) -> None:
    with pytest.raises(JsonInputError):
        parse_json(text, JsonLimits(characters=10_000_000, bits=64))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 50_000,
        "x = " + "{a=" * 5000 + "1" + "}" * 5000,
        "a" + ".a" * 20_000 + " = 1",
        "[a" + ".a" * 20_000 + "]",
        '["a"' + '."a"' * 20_000 + "]",
        "x = " + "1" * 5000,
        "x = 1\nx = 2",
        "x = '",
        'x = "\\ud800"',
    ],
)
def test_toml_bombs(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(JsonInputError):
        parse_toml(text, JsonLimits(characters=1_000_000))
    assert time.monotonic() - started < 30  # 9 seconds and more for each of several before


def test_a_text_with_many_dots_is_no_key() -> None:
    dots = "Yes. No! " * 200
    assert (
        parse_toml(f'x = "{dots}"\n# {dots}\ny = """\n{dots}\n"""', JsonLimits(characters=10_000))["x"]
        == dots
    )


# -- queries -------------------------------------------------------------------------------------------

RAW = {"type": "raw", "bodies": {"opensearch": {"match_all": {}}, "elasticsearch": {"match_all": {}}}}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (RAW, None),
        ({"type": "rrf", "legs": [{"type": "match"}, RAW]}, "legs[1]"),
        ({"type": "match", "filter": RAW}, "filter"),
        ({"type": "rescore", "query": {"type": "match"}, "by": RAW}, "by"),
        ({"type": "bool", "must_not": [{"type": "nested", "path": "p", "query": RAW}]}, "must_not[0].query"),
    ],
)
def test_raw_is_taken_only_where_it_is_allowed(data: dict[str, Any], path: str | None) -> None:
    for read in (q.from_dict, lambda data, **options: q.from_json(json.dumps(data), **options)):
        with pytest.raises(QueryError, match="allow_raw=True") as caught:
            read(data)
        assert caught.value.field == path
        assert read(data, allow_raw=True) == q.from_dict(data, allow_raw=True)
    with pytest.raises(PlanError, match="allow_raw=True"):
        IndexPlan.from_dict({"text": {"t": {}}, "query": data})
    with pytest.raises(PlanError, match="allow_raw=True"):
        IndexPlan.from_json(json.dumps({"text": {"t": {}}, "query": data}))
    plan = IndexPlan.from_dict({"text": {"t": {}}, "query": data}, allow_raw=True)
    assert IndexPlan.from_toml(plan.to_toml(), allow_raw=True) == plan


def test_an_error_says_where() -> None:
    leg = {"type": "knn", "field": "v", "k": 0}
    with pytest.raises(QueryError, match=r"^legs\[1\]\.query: k must be ≥ 1, not 0") as caught:
        q.from_dict(
            {"type": "rrf", "legs": [{"type": "match"}, {"type": "boost_by", "field": "n", "query": leg}]}
        )
    assert caught.value.field == "k"
    with pytest.raises(QueryError, match=r"^k must be"):
        q.from_dict(leg)


def test_python_made_depth_is_the_querys_error() -> None:
    deep = q.term("a", 1)
    for _ in range(400):
        deep = q.bool_(filter=[deep])
    from esembed import to_body

    for query in (deep, q.match("x", fields=["t"], filter=deep)):
        with pytest.raises(QueryError, match="nested deeper than 50 levels"):
            to_body(query, "opensearch")


# -- plans ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a\x1b[31m", "a\nb", "a\u202eb", "a\0b", "*", "a*", " ", " a", "a ", "a. b", "a^5", "esembed_hash",
     "esembed_x", "a\u2028b", "\ufeffa", "a\x85b", "x" * 256],
)  # fmt: skip
@pytest.mark.parametrize("section", ["text", "filter", "sparse"])
def test_names_that_are_not_made_anymore(name: str, section: str) -> None:
    field = {"encoder": "precomputed"} if section == "sparse" else {}
    plan = IndexPlan.from_dict({section: {name: field}})
    with pytest.raises(PlanError, match="choose another") as caught:
        check_new(plan)
    assert len(str(caught.value)) < 500
    for engine in ("opensearch", "elasticsearch-basic"):
        with pytest.raises(PlanError):
            compile_mapping(plan, profile(engine))
        if name != "esembed_hash":
            compile_mapping(plan, profile(engine), new=False)  # one that is there is read
    check_new(plan, [])


@pytest.mark.parametrize(
    "name", ["größe", "a b", "a-b/c", "a.b", "日本語", "a$", "می\u200cخواهم", "a:b", "x" * 255]
)
def test_names_that_stay(name: str) -> None:
    check_new(IndexPlan.from_dict({"text": {name: {}}}))


@pytest.mark.parametrize(
    "data",
    [
        {"text": {"a": {"boost": float("inf")}}},
        {"text": {"a": {"boost": float("nan")}}},
        {"text": {"a": {"boost": 1e39}}},
        {"text": {"a": {"k1": float("nan")}}},
        {"text": {"a": {"b": 2}}},
        {"text": {"a": {}}, "index": {"shards": 10**9}},
        {"dense": {"v": {"dims": 10**9}}},
        {"dense": {"v": {"dims": 10**30}}},
        {"dense": {"v": {"dims": 4, "oversample": float("nan")}}},
        {"dense": {"v": {"dims": 4, "m": 10**6}}},
        {"dense": {"v": {"dims": 4, "ef_construction": 10**9}}},
        {"text": {f"f{i}": {} for i in range(1001)}},
        {"text": {"a": {}}, "description": "x" * 2_000_000},
    ],
    ids=range(13),
)
def test_numbers_and_sizes_of_plans(data: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        check_new(IndexPlan.from_dict(data))


# -- _meta ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {"format": 1, "plan": {"text": {"a": {}}}, "extra": 10**30},
        {"format": 10**30},
        {"format": True, "plan": {}},
        {"format": 1, "plan": nested(200)},
        {"format": 1, "plan": {"query": nested(5000)}},
        {"format": 1, "plan": {"dense": {"v": {"dims": 1e30}}}},
        {"format": 1, "plan": {"text": {"a": {"boost": 1e400}}}},
        {"format": 1, "x": [[]] * 30_000},
        {"format": 1, "x": "y" * 100_000},
    ],
    ids=range(9),
)
def test_meta_that_nobody_wrote(own: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        meta.parse(own)
    assert len(str(caught.value)) < 1000


def test_raw_in_meta_is_kept_and_does_not_run() -> None:
    data = {"text": {"t": {}}, "query": {"type": "rrf", "legs": [RAW, {"type": "match"}]}}
    plan = IndexPlan.from_dict(data, allow_raw=True)
    own = {"format": 1, "plan": plan.to_dict()}
    stored = meta.parse(own)
    assert stored.plan == plan
    assert hash(stored.plan.query) == hash(plan.query)
    assert meta.build(stored)["plan"] == own["plan"]
    allowed = meta.with_raw_allowed(stored)
    assert allowed.plan == plan
    assert meta.with_raw_allowed(allowed) is allowed


# -- anything ------------------------------------------------------------------------------------------


def any_json(random_: random.Random, depth: int) -> Any:
    kind = random_.randrange(8 if depth else 6)
    if kind == 6:
        return [any_json(random_, depth - 1) for _ in range(random_.randrange(4))]
    if kind == 7:
        names = ["type", "legs", "query", "filter", "field", "text", "k", "weights", "values", "must", "a"]
        return {random_.choice(names): any_json(random_, depth - 1) for _ in range(random_.randrange(6))}
    words = ["rrf", "knn", "match", "bool", "term", "range", "rescore", "raw", "", "\ud800", "x^2", "*"]
    return [random_.choice(words), random_.choice([0, -1, 10**9, 10**30]), 1e400, None, True, 0.5][kind]


def test_whatever_comes_is_a_query_or_its_error() -> None:
    random_, longest = random.Random(7), 0
    for _ in range(3000):
        data = any_json(random_, 5)
        for read in (q.from_dict, lambda data: IndexPlan.from_dict({"text": {"t": {}}, "query": data})):
            try:
                read(data)
            except (QueryError, PlanError) as error:
                longest = max(longest, len(str(error)))
    assert longest < 20_000
