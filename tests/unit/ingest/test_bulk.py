"""The sans-I/O half of bulk: what goes together, what an answer means, how the pace adapts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esembed.ingest.bulk import BulkAction, BulkQueue, Pacer
from esembed.ingest.bulk_answer import classify


def action(doc_id: str, size: int = 10, lines: int = 1, op: Any = "index") -> BulkAction:
    return BulkAction(doc_id, op, [b"x" * size for _ in range(lines)])


def ok(status: int = 200, result: str = "created") -> dict[str, Any]:
    return {"index": {"status": status, "result": result}}


def bad(status: int, kind: str, reason: str = "because") -> dict[str, Any]:
    return {"index": {"status": status, "error": {"type": kind, "reason": reason}}}


def test_requests_keep_to_bytes_and_lines() -> None:
    queue = BulkQueue()
    for n in range(10):
        queue.add(action(str(n), size=40))
    assert [u.id for u in queue.take(100, 100)] == ["0", "1"]
    assert [u.id for u in queue.take(10_000, 3)] == ["2", "3", "4"]
    queue.add(action("large", size=1000))
    assert len(queue.take(10_000, 100)) == 6


def test_a_document_beyond_the_limit_goes_alone() -> None:
    queue = BulkQueue()
    queue.add(action("huge", size=1000))
    queue.add(action("small"))
    assert [u.id for u in queue.take(100, 100)] == ["huge"]
    assert [u.id for u in queue.take(100, 100)] == ["small"]


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4), st.integers(0, 1_000))
def test_one_of_an_id_in_flight_and_in_order(ids: list[str], size: int, seed: int) -> None:
    chance = random.Random(seed)
    queue = BulkQueue()
    expected: dict[str, list[int]] = {}
    actions = []
    for n, doc_id in enumerate(ids):
        expected.setdefault(doc_id, []).append(n)
        actions.append(BulkAction(doc_id, "index", [b"x"], tag=n))
    settled: dict[str, list[int]] = {}
    flying: list[BulkAction] = []
    pending = list(actions)
    while pending or flying or not queue.idle:
        if pending and chance.random() < 0.5:
            queue.add(pending.pop(0))
        flying += queue.take(size, 100)
        assert len({u.id for u in flying}) == len(flying)
        if flying and (not pending or chance.random() < 0.5):
            done = flying.pop(chance.randrange(len(flying)))
            settled.setdefault(done.id, []).append(done.tag)
            queue.release(done)
    assert settled == expected
    assert queue.waiting_bytes == 0


def test_only_failed_items_go_again() -> None:
    actions = [action("a"), action("b"), action("c"), action("d")]
    answer = {
        "items": [
            ok(201),
            bad(429, "es_rejected_execution_exception"),
            bad(400, "document_parsing_exception", "no number"),
            bad(503, "unavailable_shards_exception"),
        ]
    }
    verdict = classify(actions, 200, answer)
    assert [u.id for u in verdict.done] == ["a"]
    assert actions[0].created
    assert [u.id for u in verdict.retry] == ["b", "d"]
    assert [(u.id, reason, status) for u, reason, status, _ in verdict.dead] == [("c", "no number", 400)]
    assert verdict.pushed_back
    assert verdict.blocked == "because"


def test_within_a_record_what_follows_the_failure_goes_again() -> None:
    group = BulkAction("a", "index", [b"1", b"2", b"3"])
    verdict = classify([group], 200, {"items": [ok(), bad(429, "x"), ok()]})
    assert verdict.retry == [group]
    assert group.lines == [b"2", b"3"]


def test_answers_that_are_none() -> None:
    for status, body in ((None, None), (200, {}), (200, {"items": [ok()]}), (200, "<html>")):
        actions = [action("a"), action("b")]
        verdict = classify(actions, status, body)
        assert verdict.retry == actions, (status, body)
        assert not verdict.dead


def test_too_large_splits_until_one_is_left() -> None:
    two = [action("a"), action("b")]
    assert classify(two, 413, None).split
    assert classify([action("a", lines=2)], 413, None).split
    one = action("a")
    for _ in range(3):
        assert classify([one], 413, None).retry == [one], "a proxy may have meant another request"
    verdict = classify([one], 413, None)
    assert verdict.dead[0][0].id == "a"
    assert "http.max_content_length" in verdict.dead[0][1]


def test_a_400_for_the_whole_request_isolates_the_line() -> None:
    body = {"error": {"type": "illegal_argument_exception", "reason": "id too long"}}
    assert classify([action("a"), action("b")], 400, body).split
    assert classify([action("a")], 400, body).dead[0][1] == "id too long"


def test_blocks_wait_and_closed_indices_end_the_run() -> None:
    block = bad(403, "cluster_block_exception", "index has read-only-allow-delete block")
    verdict = classify([action("a")], 200, {"items": [block]})
    assert verdict.retry
    assert verdict.blocked is not None
    assert "read-only" in verdict.blocked
    assert classify([action("a")], 200, {"items": [bad(400, "index_closed_exception")]}).fatal
    assert classify([action("a")], 403, {"error": {"type": "security_exception", "reason": "no"}}).fatal
    whole = {"error": {"type": "cluster_block_exception", "reason": "read-only"}}
    assert classify([action("a")], 403, whole).retry


def test_deleting_what_is_not_there_is_done() -> None:
    gone = action("a", op="delete")
    verdict = classify([gone], 200, {"items": [{"delete": {"status": 404, "result": "not_found"}}]})
    assert verdict.done == [gone]


def test_a_500_is_tried_three_times() -> None:
    one = action("a")
    for _ in range(3):
        assert classify([one], 200, {"items": [bad(500, "null_pointer_exception")]}).retry == [one]
    assert classify([one], 200, {"items": [bad(500, "null_pointer_exception")]}).dead


def test_the_pace_follows_the_engine() -> None:
    pacer = Pacer(max_bytes=8_000_000, max_in_flight=4)
    start = pacer.limit_bytes
    for _ in range(40):
        pacer.answered(pacer.limit_bytes, 0.1)
    assert pacer.limit_bytes == 8_000_000 > start
    assert pacer.in_flight == 4
    pacer.pushed_back()
    assert pacer.in_flight == 2
    pacer.too_large(5_000_000)
    assert pacer.limit_bytes > 5_000_000, "as much was accepted before: it was not the size"
    pacer = Pacer(max_bytes=8_000_000, max_in_flight=4)
    pacer.answered(1_000_000, 0.1)
    pacer.too_large(2_000_000)
    assert pacer.limit_bytes == 1_200_000
    for _ in range(40):
        pacer.answered(pacer.limit_bytes, 0.1)
    assert pacer.limit_bytes == 1_200_000, "what was refused as too large is never tried again"
    for _ in range(40):
        pacer.answered(pacer.limit_bytes, 30.0)
    assert pacer.limit_bytes == 65_536


def test_a_429_that_waiting_can_not_cure() -> None:
    reason = (
        "rejected execution of primary operation [coordinating_and_primary_bytes=30000212, replica_bytes=0, "
        "all_bytes=30000212, primary_operation_bytes=120000048, max_primary_bytes=107374182]"
    )
    answer = bad(429, "es_rejected_execution_exception", reason)
    together = classify([action("a"), action("b")], 200, {"items": [ok(), answer]})
    assert together.oversized
    assert [u.id for u in together.retry] == ["b"]
    alone = classify([action("b")], 200, {"items": [answer]})
    assert "heap" in alone.dead[0][1]
    passing = reason.replace("120000048", "100000000")
    assert classify([action("b")], 200, {"items": [bad(429, "x", passing)]}).retry


@pytest.mark.parametrize(
    "item",
    [
        1, None, [], {}, "index",
        {"delete": {"status": 200}}, {"update": {"status": 200}}, {"create": {"status": 201}},
        {"index": {"status": 200}, "delete": {"status": 200}},
        {"index": None}, {"index": 200}, {"index": []}, {"index": {}},
        *({"index": {"status": status}} for status in (None, "200", "ok", 200.0, True, -1, 0, 10**30, [200])),
    ],
)  # fmt: skip
def test_an_item_that_answers_something_else_confirms_nothing(item: Any) -> None:
    one, two = (
        BulkAction(n, "index", [b'{"index":{"_id":"' + n.encode() + b'"}}\n{"delete":1}\n']) for n in "ab"
    )
    verdict = classify([one, two], 200, {"items": [ok(), item]})
    assert (verdict.done, verdict.dead, verdict.retry) == ([], [], [one, two])


def test_a_delete_answered_for_another_id_confirms_nothing() -> None:
    lines = [b'{"delete":{"_id":"a#1"}}\n', b'{"delete":{"_id":"a"}}\n']
    right = [{"delete": {"status": 200, "_id": "a#1"}}, {"delete": {"status": 404, "_id": "a"}}]
    action = BulkAction("a", "delete", list(lines))
    assert classify([action], 200, {"items": right}).done == [action]
    for other in ("b", "", 1, None, "ab"):
        action = BulkAction("a", "delete", list(lines))
        wrong = [right[0], {"delete": {"status": 404, "_id": other}}]
        assert classify([action], 200, {"items": wrong}).retry == [action]


def test_a_refusal_of_another_record_confirms_nothing() -> None:
    def actions() -> list[BulkAction]:
        return [BulkAction(n, "index", [b'{"index":{"_id":"' + n.encode() + b'"}}\n{"a":1}\n']) for n in "ab"]

    def answer(second: Any) -> Any:
        return {"items": [{"index": {"_id": "a", "status": 201}}, {"index": {"status": 400, **second}}]}

    for who in ("b", "b#3", "moved-by-a-pipeline"):
        verdict = classify(actions(), 200, answer({"_id": who, "error": {"type": "t", "reason": "r"}}))
        assert [dead[0].id for dead in verdict.dead] == ["b"]
    for odd in ("a", None, 3, ["a"], {}):
        verdict = classify(actions(), 200, answer({"_id": odd, "error": {}}))
        assert [one.id for one in verdict.retry] == ["a", "b"]
        assert not verdict.dead
