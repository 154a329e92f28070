"""Logs of clicks, as UBI and tables have them; what is wrong in them is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from esembed.evaluate.click_logs import read_click_log, read_ubi
from esembed.evaluate.clicks import Impression


def event(query: Any, document: Any, action: str = "click") -> dict[str, Any]:
    return {
        "action_name": action,
        "query_id": query,
        "client_id": "c1",
        "timestamp": "2026-05-01T10:00:01Z",
        "event_attributes": {
            "object": {"object_id": document, "object_id_field": "_id"},
            "position": {"ordinal": 1},
        },
    }


def test_ubi() -> None:
    queries = [
        {
            "query_id": "q1",
            "user_query": "Red fox",
            "client_id": "c1",
            "timestamp": "2026-05-01T10:00:00Z",
            "query_response_hit_ids": ["a", 7, "b", None],
        },
        {"query_id": "q2", "user_query": "blue", "query_response_hit_ids": []},
        {"query_id": "q3", "user_query": 5, "query_response_hit_ids": ["a"]},
        {"user_query": "no id", "query_response_hit_ids": ["a"]},
        {"query_id": "q4", "user_query": "none"},
    ]
    events = [
        event("q1", "7"), event("q1", 7), event("q1", "b", "purchase"), event("q1", "a", "view"),
        event(None, "a"), event("q1", {"x": 1}), {"action_name": "click", "query_id": "q1"},
        event("gone", "a"),
    ]  # fmt: skip
    problems: Counter[str] = Counter()
    found = list(read_ubi(queries, events, problems=problems))
    assert found == [
        Impression(
            query="Red fox",
            shown=["a", "7", "b", ""],
            clicked={"7": 2, "b": 1},
            session="c1",
            time=1777629600.0,
        ),
        Impression(query="blue", shown=[], clicked={}),
    ]
    assert problems == {
        "clicks without a query_id or an object_id": 3,
        "queries without a query_id, a user_query or query_response_hit_ids": 3,
        "clicks of queries that are not in the log": 1,
    }


def test_a_table() -> None:
    def row(query: Any, id: Any, position: Any, clicked: Any = 0, **more: Any) -> dict[str, Any]:
        return {"query": query, "id": id, "position": position, "clicked": clicked, **more}

    rows = [
        row("red", "a", 1, session="s", time=1777629600000),
        row("red", "b", "3", "TRUE", session="s", time=1777629600000),
        row("red", "a", 1, 1, session="s", time=1777629600000),  # the list again
        row("red", "b", 2, session="t"),
        row("blue", 5, 1, True),
        row("blue", "x", 0),
        row("blue", "", 2),
        row(None, "a", 2),
        row("blue", "a", "many"),
        row("blue", "a", 10**9),
        row("blue", "y", 2.0, "no", time="not a time"),
    ]
    problems: Counter[str] = Counter()
    found = list(read_click_log(rows, problems=problems))
    assert found == [
        Impression(query="red", shown=["a", "", "b"], clicked={"b": 1}, session="s", time=1777629600.0),
        Impression(query="red", shown=["a"], clicked={"a": 1}, session="s", time=1777629600.0),
        Impression(query="red", shown=["", "b"], clicked={}, session="t"),
        Impression(query="blue", shown=["5"], clicked={"5": 1}),
        Impression(query="blue", shown=["", "y"], clicked={}),
    ]
    assert problems == {"rows without a query, an id or a position from 1": 5}
    assert list(read_click_log([])) == []
