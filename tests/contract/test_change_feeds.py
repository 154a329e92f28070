"""Change feeds as databases send them, unwrapped by a transform hook, on every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ingest_help import Target, make
from query_engines import World

from esembed.ingest.sources import FileSource, dead_letter_source
from esembed.plan import DenseField, FilterField, IndexPlan, TextField

PLAN = IndexPlan(
    text={"title": TextField()},
    dense={"emb": DenseField(encoder="custom:hash", source=("title",), dims=32)},
    filter={"n": FilterField(type="integer")},
)


def debezium(record: dict[str, Any]) -> dict[str, Any]:
    """Debezium: ``before`` and ``after`` in an envelope, ``op`` c, u, d, r."""
    change = record["payload"]
    if change["op"] == "d":
        return {"op": "delete", "_id": str(change["before"]["key"])}
    row = change["after"]
    return {"_id": str(row.pop("key")), **row}


def _debezium(op: str, before: Any, after: Any) -> dict[str, Any]:
    return {"schema": {"type": "struct"}, "payload": {"op": op, "before": before, "after": after, "ts_ms": 1}}


DEBEZIUM = [
    _debezium("c", None, {"key": 1, "title": "one", "n": 1}),
    _debezium("r", None, {"key": 2, "title": "two", "n": 2}),
    _debezium("c", None, {"key": 3, "title": "three", "n": "bad"}),
    _debezium("u", {"key": 1, "title": "one"}, {"key": 1, "title": "uno", "n": 1}),
    _debezium("d", {"key": 2, "title": "two"}, None),
]


def dynamodb(record: dict[str, Any]) -> dict[str, Any]:
    """A DynamoDB stream: values wrapped in their types, ``eventName`` INSERT, MODIFY, REMOVE."""
    change = record["dynamodb"]
    if record["eventName"] == "REMOVE":
        return {"op": "delete", "_id": change["Keys"]["pk"]["S"]}
    row = {name: value.get("S") or value.get("N") for name, value in change["NewImage"].items()}
    row["_id"] = row.pop("pk")
    return row


def _dynamodb(event: str, key: str, **fields: Any) -> dict[str, Any]:
    image = {"pk": {"S": key}} | {k: {"N" if k == "n" else "S": str(v)} for k, v in fields.items()}
    change = {"Keys": {"pk": {"S": key}}} | ({"NewImage": image} if fields else {})
    return {"eventID": "x", "eventName": event, "dynamodb": change}


DYNAMODB = [
    _dynamodb("INSERT", "1", title="one", n=1),
    _dynamodb("INSERT", "2", title="two", n=2),
    _dynamodb("INSERT", "3", title="three", n="bad"),
    _dynamodb("MODIFY", "1", title="uno", n=1),
    _dynamodb("REMOVE", "2"),
]


def logical(record: dict[str, Any]) -> dict[str, Any] | None:
    """PostgreSQL's logical decoding (wal2json, format 2): ``action`` B, I, U, D, C, columns as a list."""
    if record["action"] in "BC":
        return None
    if record["action"] == "D":
        return {"op": "delete", "id": record["identity"][0]["value"]}
    columns = {column["name"]: column["value"] for column in record["columns"]}
    # An update of a table whose unchanged large values aren't sent: the rest of the document stays.
    return columns | ({"op": "update"} if record["action"] == "U" else {})


def _logical(action: str, **columns: Any) -> dict[str, Any]:
    listed = [{"name": name, "type": "text", "value": value} for name, value in columns.items()]
    return {"action": action, "schema": "public", "identity" if action == "D" else "columns": listed}


LOGICAL = [
    {"action": "B"},
    _logical("I", id=1, title="one", n=1),
    _logical("I", id=2, title="two", n=2),
    _logical("I", id=3, title="three", n="bad"),
    {"action": "C"},
    _logical("U", id=1, title="uno"),
    _logical("D", id=2),
]

FEEDS = [(debezium, DEBEZIUM), (dynamodb, DYNAMODB), (logical, LOGICAL)]


def _documents(target: Target) -> dict[str, Any]:
    return {key: (found["title"], int(found["n"])) for key, found in target.all().items()}


@pytest.mark.parametrize(("hook", "feed"), FEEDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_feed_in_its_envelope(
    query_world: World, tmp_path: Path, hook: Callable[[dict[str, Any]], Any], feed: list[dict[str, Any]]
) -> None:
    target = make(query_world, PLAN)
    source, letters = tmp_path / "feed.jsonl", tmp_path / "dead.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in feed))
    report = target.ingest(FileSource([source]), transform=hook, dead_letters=letters)
    assert (report.deleted, report.dead_lettered) == (1, 1), report
    assert report.skipped == sum(record.get("action") in ("B", "C") for record in feed)
    assert _documents(target) == {"1": ("uno", 1)}
    (letter,) = [json.loads(line) for line in letters.read_text().splitlines()]
    assert letter["id"] == "3"
    assert letter["record"] in feed, "as it was read: in its envelope"

    # Repaired by hand; the replay runs the hook again, once, and may be run again.
    letters.write_text(letters.read_text().replace('"bad"', '"3"'))
    for _ in range(2):
        again = target.ingest(dead_letter_source(letters), transform=hook, dead_letters=letters)
        assert (again.indexed + again.unchanged, again.dead_lettered) == (1, 0), again
        assert _documents(target) == {"1": ("uno", 1), "3": ("three", 3)}
    assert letters.exists(), "no run removes letters"

    # The whole feed once more, as at-least-once delivery does.
    target.ingest(feed, transform=hook)
    assert _documents(target) == {"1": ("uno", 1), "3": ("three", 3)}


def test_a_hook_may_change_what_it_is_given(query_world: World, tmp_path: Path) -> None:
    target = make(query_world, PLAN)
    letters = tmp_path / "dead.jsonl"

    def hook(record: dict[str, Any]) -> dict[str, Any]:
        record["title"] = " ".join(record.pop("words"))
        record["meta"]["seen"] += 1
        record["meta"]["list"].append("x")
        return record

    given = [
        {"_id": str(n), "words": ["a", "b"], "meta": {"seen": 0, "list": []}, "n": "bad"} for n in range(3)
    ]
    before = json.dumps(given)
    for _ in range(3):  # letters of letters of letters
        report = target.ingest(
            dead_letter_source(letters) if letters.exists() else given, transform=hook, dead_letters=letters
        )
        assert report.dead_lettered == 3
        assert json.dumps(given) == before, "the caller's objects"
        read = [json.loads(line)["record"] for line in letters.read_text().splitlines()]
        assert sorted(read, key=lambda r: str(r["_id"])) == given
    assert len(list(tmp_path.glob("dead.jsonl*"))) == 3


def test_what_one_record_raises_is_its_dead_letter(query_world: World, tmp_path: Path) -> None:
    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise OSError("the row is gone")

    class Reader:
        """An iterator that goes on after it raised, as csv.DictReader does."""

        def __init__(self) -> None:
            self._at = 0

        def __iter__(self) -> Reader:
            return self

        def __next__(self) -> dict[str, Any]:
            self._at += 1
            if self._at > 7:
                raise StopIteration
            if self._at in (2, 7):
                raise KeyError("a row")
            odd: dict[int, Any] = {3: {None: ["x"]}, 4: {0: "x"}, 5: Odd(title="x")}
            return odd.get(self._at) or {"id": str(self._at), "title": f"t{self._at}", "n": self._at}

    target = make(query_world, PLAN)
    report = target.ingest(Reader(), dead_letters=tmp_path / "dead.jsonl")
    assert (report.read, report.indexed, report.dead_lettered) == (7, 2, 5), report
    assert _documents(target) == {"1": ("t1", 1), "6": ("t6", 6)}
    assert report.read_errors == 5, "sync must not take their documents for gone"
