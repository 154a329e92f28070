"""What an engine's answers have to be, request by request; everything else is one error that names both."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from esembed.answers import check_answer
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
REQUESTS: dict[tuple[str, str], Any] = {
    ("POST", "/i/_search"): FOUND,
    ("POST", "/_search"): FOUND,
    ("POST", "/_search/scroll"): FOUND,
    ("POST", "/i/_msearch"): {"took": 1, "responses": [FOUND, {"error": {"type": "x"}, "status": 400}]},
    ("GET", "/i/_count"): {"count": 3, "_shards": {}},
    ("POST", "/i/_mget"): {"docs": [{"_id": "1", "found": True, "_source": {}}, {"_id": "2", "error": {}}]},
    ("GET", "/i/_doc/1"): {"_index": "i", "_id": "1", "found": True, "_source": {"a": 1}},
    ("GET", "/i"): {"i": {"aliases": {"a": {}}, "mappings": {}, "settings": {"index": {}}}},
    ("GET", "/i/_mapping"): {"i": {"mappings": {}}},
    ("GET", "/_mapping"): {},
    ("GET", "/i/_settings"): {"i": {"settings": {}}},
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
    ("GET", "/"): {"version": {}},
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


def _with(path: str, value: Any) -> dict[str, Any]:
    answer = copy.deepcopy(FOUND)
    at: Any = answer
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        at = at[part]
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
        (("GET", "/i"), {"i": {"mappings": []}}),
        (("GET", "/i"), {"i": {"aliases": {"a": 3}}}),
        (("GET", "/i/_settings"), {"i": {"settings": "x"}}),
        (("GET", "/i/_settings"), {"i": {"settings": {"index": "x"}}}),
        (("POST", "/i/_msearch"), {"responses": [{"error": {}, "status": "x"}]}),
        (("POST", "/i/_pit"), {"id": 3}),
    ],
    ids=str,
)
def test_other_answers(request_: tuple[str, str], answer: Any) -> None:
    with pytest.raises(AnswerError, match=request_[1]):
        check_answer(*request_, 200, answer)


def test_what_has_no_type() -> None:
    check_answer("HEAD", "/i", 200, None)
    check_answer("GET", "/_cat/plugins", 200, [{"component": "x"}])
    check_answer("POST", "/i/_bulk", 200, "junk")  # confirms nothing, and is sent again


def test_as_many_answers_as_searches() -> None:
    assert msearch_items({"responses": [1, 2]}, 2, "/i/_msearch") == [1, 2]
    for count in (1, 3):
        with pytest.raises(AnswerError, match=f"{count} searches were sent, 2 answered"):
            msearch_items({"responses": [1, 2]}, count, "/i/_msearch")
