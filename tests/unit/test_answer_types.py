"""What an engine's answers have to be, request by request; everything else is one error that names both."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from esembed.answers import SequenceSum, check_answer, counted, last_sort, part, refused_line
from esembed.errors import AnswerError, EngineRequestError
from esembed.search.answer import msearch_items

HIT: dict[str, Any] = {"_index": "i", "_id": "1", "_score": 1.5, "_source": {"a": 1}, "fields": {"f": [1]}}
FOUND: dict[str, Any] = {
    "took": 3,
    "timed_out": False,
    "_shards": {"total": 1},
    "hits": {"total": {"value": 1, "relation": "eq"}, "max_score": 1.5, "hits": [HIT]},
    "aggregations": {"l": {"buckets": []}},
}
INDEX = {"i": {"aliases": {"a": {}}, "mappings": {}, "settings": {"index": {}}}}
REQUESTS: dict[tuple[str, str], Any] = {
    ("POST", "/i/_search"): FOUND,
    ("POST", "/_search"): FOUND,
    ("POST", "/_search/scroll"): FOUND,
    ("POST", "/i/_msearch"): {"took": 1, "responses": [FOUND, {"error": {"type": "x"}, "status": 400}]},
    ("GET", "/i/_count"): {"count": 3, "_shards": {}},
    ("POST", "/i/_mget"): {"docs": [{"_id": "1", "found": True, "_source": {}}, {"_id": "2", "error": {}}]},
    ("GET", "/i/_doc/1"): {"_index": "i", "_id": "1", "found": True, "_source": {"a": 1}},
    ("GET", "/i"): INDEX,
    ("GET", "/i/_mapping"): {"i": {"mappings": {"properties": {"a": {"type": "text", "fields": {}}}}}},
    ("GET", "/_mapping"): {},
    ("GET", "/i/_settings"): {"i": {"settings": {"index": {"uuid": "u", "translog": {}}}}},
    ("GET", "/i/_settings/index.x"): {"i": {"settings": {}, "defaults": {"index.x": ["a"]}}},
    ("POST", "/i/_termvectors"): {"term_vectors": {"a": {"terms": {"x": {"doc_freq": 1}}}}},
    ("GET", "/_cluster/health/i"): {"status": "red"},
    ("GET", "/_cluster/settings"): {"defaults": {"indices.query.bool.max_clause_count": "1024"}},
    ("GET", "/_nodes"): {"nodes": {"n": {"version": "9.5.3", "modules": [{"name": "m"}]}}},
    ("GET", "/_license"): {"license": {"type": "basic"}},
    ("GET", "/_plugins/_knn/stats"): {"nodes": {"n": {"faiss_initialized": True}}},
    ("GET", "/i/_alias"): {"i": {"aliases": {}}},
    ("PUT", "/i/_alias/a"): {"acknowledged": True},
    ("PUT", "/i/_mapping"): {"acknowledged": True},
    ("PUT", "/i/_settings"): {"acknowledged": True},
    ("PUT", "/i/_doc/1"): {"result": "created"},
    ("DELETE", "/i"): {"acknowledged": True},
    ("DELETE", "/_search/scroll"): {"succeeded": True},
    ("POST", "/i/_pit"): {"id": "x"},
    ("POST", "/i/_search/point_in_time"): {"pit_id": "x"},
    ("POST", "/i/_refresh"): {"_shards": {}},
    ("GET", "/_search/pipeline"): {"p": {}},
    ("GET", "/_nodes/stats/fs"): {"nodes": {}},
    ("GET", "/"): {"version": {"number": "9.5.3"}},
}
JUNK = [None, "", "x", "<html>", [], [1], 3, 0.5, True]


@pytest.mark.parametrize(("request_", "answer"), REQUESTS.items(), ids=lambda value: str(value)[:40])
def test_engines_answers_are_taken_and_junk_is_not(request_: tuple[str, str], answer: Any) -> None:
    check_answer(*request_, 200, answer)
    for junk in JUNK:
        with pytest.raises(AnswerError) as caught:
            check_answer(*request_, 200, junk)
        assert str(caught.value).startswith(f"{request_[0]} {request_[1]}: the answer (200)")
        assert isinstance(caught.value, EngineRequestError)


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _with(path: str, value: Any) -> dict[str, Any]:
    answer = copy.deepcopy(FOUND)
    at: Any = answer
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return answer


SPOILED = [
    ("hits", ...),
    ("hits", None),
    ("hits", []),
    ("hits.hits", ...),
    ("hits.hits", None),
    ("hits.hits", {}),
    ("hits.hits.0", 1),
    ("hits.hits.0", None),
    ("hits.hits.0._id", ...),
    ("hits.hits.0._id", 7),
    ("hits.hits.0._score", "a"),
    ("hits.hits.0._score", {}),
    ("hits.hits.0._source", None),
    ("hits.hits.0._source", []),
    ("hits.hits.0._source", "x"),
    ("hits.hits.0.fields", []),
    ("hits.hits.0.fields", {"f": 1}),
    ("hits.hits.0.sort", 3),
    ("hits.hits.0.highlight", {"f": "x"}),
    ("hits.hits.0.inner_hits", {"c": []}),
    ("hits.hits.0.inner_hits", {"c": {"hits": {"hits": [1]}}}),
    ("hits.hits.0.inner_hits", {"c": {"hits": {"hits": [{"_source": 5}]}}}),
    ("hits.total", "x"),
    ("hits.total", {"value": "3"}),
    ("hits.total", {"value": -1}),
    ("hits.total", {"value": True}),
    ("hits.total", {"value": 10**400}),
    ("hits.total", {"value": 1, "relation": 3}),
    ("hits.hits.0._score", float("nan")),
    ("hits.hits.0._score", float("inf")),
    ("hits.hits.0._score", 10**400),
    ("hits.hits.0._index", 3),
    ("hits.hits.0._routing", []),
    ("hits.hits.0._ignored", "x"),
    ("hits.hits.0.inner_hits", {"c": {"hits": {"hits": [{"_nested": "x"}]}}}),
    ("_shards", []),
    ("_shards", {"failed": "x"}),
    ("_shards", {"failed": 1, "failures": {}}),
    ("_shards", {"failed": 1, "failures": [3]}),
    ("_shards", {"failed": 1, "failures": [{"reason": {"caused_by": "x"}}]}),
    ("took", float("nan")),
    ("took", "x"),
    ("timed_out", "no"),
    ("aggregations", []),
    ("aggregations", {"l": 3}),
]


@pytest.mark.parametrize(("path", "value"), SPOILED, ids=lambda value: str(value)[:40])
def test_a_search_answer_is_checked_where_it_is_read(path: str, value: Any) -> None:
    spoiled = _with(path, value)
    with pytest.raises(AnswerError, match=r"\$|missing required field"):
        check_answer("POST", "/i/_search", 200, spoiled)
    with pytest.raises(AnswerError, match=r"POST /i/_msearch"):
        check_answer("POST", "/i/_msearch", 200, {"responses": [FOUND, spoiled]})


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (("GET", "/i/_count"), {}),
        (("GET", "/i/_count"), {"count": "3"}),
        (("GET", "/i/_count"), {"count": True}),
        (("GET", "/i/_count"), {"count": -1}),
        (("GET", "/i/_count"), {"count": 1.5}),
        (("POST", "/i/_mget"), {"docs": [3]}),
        (("POST", "/i/_mget"), {"docs": [{"_id": 3}]}),
        (("GET", "/i/_doc/1"), {"found": "yes"}),
        (("GET", "/i/_doc/1"), {"found": True, "_source": []}),
        (("GET", "/i"), {"i": {}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": []}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": {"_meta": 3}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": {"properties": {"a": 3}}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": {"properties": {"a": {"type": []}}}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": {"runtime": {"a": "x"}}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"mappings": {"_meta": nested(150)}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"aliases": {"a": 3}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"settings": {"index": {"uuid": 3}}}}),
        (("GET", "/i"), {"i": INDEX["i"] | {"settings": {"index": {"blocks": "x"}}}}),
        (("GET", "/i"), {"a*": INDEX["i"]}),
        (("GET", "/i"), {"a,b": INDEX["i"]}),
        (("GET", "/i"), {"": INDEX["i"]}),
        (("GET", "/i/_settings"), {"i": {}}),
        (("GET", "/i/_settings"), {"i": {"settings": {}}}),
        (("GET", "/i/_settings"), {"i": {"settings": "x"}}),
        (("GET", "/i/_settings"), {"i": {"settings": {"index": "x"}}}),
        (("GET", "/i/_settings"), {"i": {"settings": {"index": {"translog": None}}}}),
        (("GET", "/i/_settings/index.x"), {"i": {"defaults": {"index.x": 3}}}),
        (("GET", "/i/_mapping"), {"i": {}}),
        (("GET", "/i/_alias"), {"i": {}}),
        (("GET", "/i/_doc/1"), {"found": True, "_id": "2"}),
        (("GET", "/i/_doc/1"), {"_id": "1"}),
        (("GET", "/i/_doc/1"), {}),
        (("POST", "/i/_mget"), {"docs": [{"_id": "1", "fields": []}]}),
        (("POST", "/i/_msearch"), {"responses": [{"error": {}, "status": 200}]}),
        (("POST", "/i/_msearch"), {"responses": [{"error": {}, "status": 10**30}]}),
        (("POST", "/i/_search/point_in_time"), {"id": "x"}),
        (("POST", "/i/_pit"), {}),
        (("POST", "/i/_termvectors"), {"term_vectors": {"a": {"terms": {"x": {"doc_freq": 10**400}}}}}),
        (("GET", "/_cluster/settings"), {"defaults": {"a": {}}}),
        (("GET", "/_nodes"), {"nodes": {"n": {"modules": [3]}}}),
        (("GET", "/"), {"version": "9"}),
        (("POST", "/i/_msearch"), {"responses": [{"error": {}, "status": "x"}]}),
        (("POST", "/i/_pit"), {"id": 3}),
    ],
    ids=str,
)
def test_other_answers(request_: tuple[str, str], answer: Any) -> None:
    with pytest.raises(AnswerError, match=request_[1]):
        check_answer(*request_, 200, answer)


@pytest.mark.parametrize("levels", [150, 5_000, 100_000])
def test_depth(levels: int) -> None:
    fields = {"i": INDEX["i"] | {"mappings": {"properties": {"a": {"properties": nested(levels)}}}}}
    with pytest.raises(AnswerError, match="deep"):
        check_answer("GET", "/i", 200, fields)
    causes = FOUND | {"_shards": {"failed": 1, "failures": [{"reason": _causes(levels)}]}}
    if levels == 150:  # few enough to be followed
        check_answer("POST", "/i/_search", 200, causes)
        return
    with pytest.raises(AnswerError, match="deep"):
        check_answer("POST", "/i/_search", 200, causes)


def _causes(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"caused_by": value}
    return value


def test_flat_settings() -> None:
    answer = {"i": {"settings": {"index.refresh_interval": "1s"}}}
    check_answer("GET", "/i/_settings", 200, answer, {"flat_settings": "true"})
    with pytest.raises(AnswerError, match="GET /i/_settings"):
        check_answer("GET", "/i/_settings", 200, answer, {"flat_settings": "false"})
    with pytest.raises(AnswerError, match="GET /i/_settings"):
        check_answer("GET", "/i/_settings", 200, INDEX, {"flat_settings": "true"})


def test_what_one_request_asked_for() -> None:
    sums = {"aggregations": {"written": {"sum": 3.0, "max": None}}}
    assert part(SequenceSum, sums, "POST /i/_search").aggregations.written.sum == 3
    for odd in (
        {},
        {"aggregations": {}},
        {"aggregations": {"written": {}}},
        {"aggregations": {"written": {"sum": "x"}}},
    ):
        with pytest.raises(AnswerError, match="POST /i/_search"):
            part(SequenceSum, odd, "POST /i/_search")
    assert counted({"hits": {"total": {"value": 3}}}, "w") == counted({"hits": {"total": 3}}, "w") == 3
    with pytest.raises(AnswerError, match="no total"):
        counted({"hits": {}}, "w")
    assert last_sort([{}, {"sort": [1]}], "w", None) == [1]
    assert last_sort([{}, {"sort": [1]}], "w", [0]) == [1]
    with pytest.raises(AnswerError, match="the page before"):
        last_sort([{}, {"sort": [1]}], "w", [1])
    for hit in ({}, {"sort": None}, {"sort": []}):
        with pytest.raises(AnswerError, match="sort"):
            last_sort([hit], "w", None)


def test_each_line_of_a_bulk_request_is_confirmed() -> None:
    done, refused = {"index": {"status": 201}}, {"index": {"status": 429, "error": {"type": "x"}}}
    assert refused_line({"items": [done, done]}, 2, "w") is None
    found = refused_line({"items": [done, refused]}, 2, "w")
    assert found is not None
    assert (found.status, found.error) == (429, {"type": "x"})
    for odd in ({}, {"items": []}, {"items": [done]}, {"items": [done, {}]}, {"items": [done, {"index": 3}]}):
        with pytest.raises(AnswerError, match="w: the answer"):
            refused_line(odd, 2, "w")


def test_what_has_no_type() -> None:
    check_answer("HEAD", "/i", 200, None)
    check_answer("GET", "/_cat/plugins", 200, [{"component": "x"}])
    check_answer("POST", "/i/_bulk", 200, "junk")  # confirms nothing, and is sent again


def test_as_many_answers_as_searches() -> None:
    assert msearch_items({"responses": [1, 2]}, 2, "/i/_msearch") == [1, 2]
    for count in (1, 3):
        with pytest.raises(AnswerError, match=f"{count} searches were sent, 2 answered"):
            msearch_items({"responses": [1, 2]}, count, "/i/_msearch")
