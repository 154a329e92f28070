"""Ingestion on both real engines: what gets in, what doesn't, what is left alone, what is put back."""

from __future__ import annotations

import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_help import DIMS, PLAN, HashEncoder, make, records
from query_engines import World

from esembed.dialect.mapping import compile_mapping
from esembed.encode.counting import EncodeCounter
from esembed.errors import (
    DeleteLimitError,
    EngineUnavailableError,
    IndexNotFoundError,
    OptionsError,
    RecordError,
)
from esembed.ingest.backoff import RetryableError, RetryPolicy
from esembed.ingest.sources import FileSource, dead_letter_source
from esembed.ingest.sources.index import IndexSource
from esembed.ingest.stages.lookup import LookupStage
from esembed.ingest.target import TargetIndex
from esembed.plan import ChunkOptions, DenseField, IndexPlan, LoadOptions, SparseField, TextField
from esembed.types import Document

World.__test__ = False  # type: ignore[attr-defined]


def vector_of(stored: Any) -> np.ndarray[Any, Any]:
    return np.asarray(stored, np.float32)


def test_records_get_in_with_their_vectors(query_world: World) -> None:
    target = make(query_world)
    report = target.ingest(records(300))
    assert (report.read, report.indexed, report.created, report.dead_lettered) == (300, 300, 300, 0)
    assert report.complete
    stored = target.all()
    assert len(stored) == 300
    expected = HashEncoder().encode_document(["title 7\nbody of 0 words"])[0]
    np.testing.assert_allclose(vector_of(stored["d7"]["emb"]), expected, atol=1e-6)
    assert set(stored["d7"]["terms"]) == {"title", "7", "body", "of", "0", "words"}
    statistics = report.statistics["terms"]
    assert report.statistics_complete
    assert (statistics.documents, statistics.df["title"], statistics.unsettled) == (300, 300, 0)
    assert report.to_dict()["adds_up"]


def test_an_unchanged_run_encodes_nothing(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(100))
    encoder = target.encoders["emb"]
    before = encoder.stats.texts
    again = target.ingest(records(100))
    assert (again.unchanged, again.indexed) == (100, 0)
    assert encoder.stats.texts == before
    changed = records(100)
    changed[3] = {**changed[3], "n": 1000}
    third = target.ingest(changed)
    assert (third.unchanged, third.indexed, third.created) == (99, 1, 0)
    assert not third.statistics_complete
    assert target.ingest(changed, skip_unchanged=False).indexed == 100
    target.encoders["emb"] = HashEncoder(name="another model")
    assert target.ingest(changed).indexed == 100, "another contract: encoded again"


class Meeting:
    """An encoder as one run sees it: its first call is under way while the other run makes its first."""

    def __init__(self, inner: Any, barrier: threading.Barrier) -> None:
        self.inner, self.stats, self.info = inner, inner.stats, inner.info
        self.barriers = [barrier] * 2

    def encode_document(self, texts: Any) -> Any:
        if self.barriers:
            self.barriers.pop().wait(60)
        made = self.inner.encode_document(texts)
        if self.barriers:
            self.barriers.pop().wait(60)
        return made

    def close(self) -> None:
        pass


def test_two_runs_on_one_encoder_count_their_own(query_world: World) -> None:
    inner, barrier = HashEncoder(stats=EncodeCounter()), threading.Barrier(2)
    plan = PLAN.replace(sparse={})
    targets = [make(query_world, plan, suffix=f"-{n}", dense=Meeting(inner, barrier)) for n in range(2)]
    rows = [records(40), [{**row, "body": "many more words in it " * 9} for row in records(40)]]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(target.ingest, given) for target, given in zip(targets, rows, strict=True)]
        reports = [run.result() for run in runs]
    expected = [sum(len(f"{r['title']}\n{r['body']}".split()) for r in given) for given in rows]
    assert [report.tokens for report in reports] == expected
    assert (inner.stats.texts, inner.stats.tokens) == (80, sum(expected))


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "older index"])
def test_hashes_are_looked_up_without_the_documents(query_world: World, stored: bool) -> None:
    target = make(query_world)
    client, path = query_world.client, f"/{target.index}"
    if not stored:  # as indices were made before the hash was stored apart
        body = compile_mapping(PLAN, query_world.capabilities).body
        del body["mappings"]["properties"]["esembed_hash"]["store"]
        client.request("DELETE", path)
        client.request("PUT", path, body=body)
    client.request("PUT", f"{path}/_settings", body={"index": {"refresh_interval": "-1"}})
    rows = records(40)
    target.ingest(rows, refresh=False)
    client.request("PUT", f"{path}/_doc/by-hand", body={"title": "without a hash"})
    engine = TargetIndex(client, target.index, query_world.capabilities, RetryPolicy(10), 10)
    answers = []
    ask = engine.call

    def watched(*what: Any, **more: Any) -> Any:
        answers.append(ask(*what, **more))
        return answers[-1]

    engine.call = watched  # type: ignore[method-assign]
    found = engine.hashes(["d1", "d2", "by-hand", "never there"])
    assert set(found) == {"d1", "d2", "by-hand"}, "also what was not refreshed yet"
    assert found["by-hand"] is None
    assert len(found["d1"] or "") > 50
    assert found["d1"] != found["d2"]
    read = [doc for doc in answers[-1].body["docs"] if "_source" in doc]
    assert bool(read) != stored, "the documents stay on the disk where the hash is stored apart"
    assert target.ingest(rows).unchanged == 40


def test_partial_updates_keep_what_they_do_not_touch(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(20))
    before = target.all()
    report = target.ingest(
        [
            {"op": "update", "id": "d1", "n": 99},
            {"op": "update", "id": "d2", "body": "something else entirely"},
            {"op": "delete", "id": "d3"},
            {"op": "delete", "id": "never there"},
            {"op": "update", "id": "missing", "n": 1},
            {"op": "update", "id": "d4", "n": 4},
        ]
    )
    assert (report.updated, report.deleted, report.dead_lettered, report.unchanged) == (2, 2, 1, 1)
    after = target.all()
    assert "d3" not in after
    assert after["d1"]["n"] == 99
    assert after["d1"]["terms"] == before["d1"]["terms"]
    np.testing.assert_allclose(vector_of(after["d1"]["emb"]), vector_of(before["d1"]["emb"]), atol=1e-6)
    expected = HashEncoder().encode_document(["title 2\nsomething else entirely"])[0]
    np.testing.assert_allclose(vector_of(after["d2"]["emb"]), expected, atol=1e-6)
    assert set(after["d2"]["terms"]) == {"title", "2", "something", "else", "entirely"}
    whole = {"id": "d2", "title": "title 2", "body": "something else entirely", "n": 2}
    assert target.ingest([whole]).unchanged == 1, "an updated document equals the whole one, hash and all"


def test_the_last_of_an_id_wins(query_world: World) -> None:
    target = make(query_world)
    feed: list[dict[str, Any]] = []
    for n in range(40):
        feed.append({"id": "same", "title": f"version {n}"})
        feed.append({"op": "update", "id": "same", "n": n})
        if n % 10 == 9:
            feed.append({"op": "delete", "id": "same"})
    feed.append({"id": "same", "title": "the last"})
    feed.append({"op": "update", "id": "same", "n": 7})
    report = target.ingest(feed)
    assert report.dead_lettered == 0
    stored = target.all()["same"]
    assert (stored["title"], stored["n"]) == ("the last", 7)
    two = [{"id": "same", "title": "older"}, {"id": "same", "title": "the last", "n": 7}]
    target.ingest(two)
    assert target.all()["same"]["title"] == "the last", "a look-up between the two must not decide"


def test_bad_records_are_dead_letters_and_come_back(query_world: World, tmp_path: Path) -> None:
    target = make(query_world)
    lines = [json.dumps(r).encode() for r in records(50)]
    lines[10] = b'{"id": "d10", "title": '
    lines[11] = b'{"id": "d11", "title": "t", "n": "no number"}'
    lines[12] = b'{"id": "d12", "n": 1}'
    lines[13] = b'{"id": "d13", "title": {"an": "object"}}'
    lines[14] = b'{"id": "d14", "title": "REFUSED"}'
    lines[15] = json.dumps({"id": "x" * 600, "title": "t"}).encode()
    lines[16] = '{"id": "d16", "title": "größer"}'.encode("latin-1")
    lines[17] = json.dumps({"id": "d17", "title": "t", "lang": "k" * 40_000}).encode()
    lines[18] = b'{"id": "d18", "title": "t", "n": NaN}'
    lines[19] = b'{"id": "d19", "title": "half of a \\ud83d"}'
    lines[20] = b'["d20", "t"]'
    lines[21] = json.dumps({"id": "d9", "title": "the same id again", "n": 9}).encode()
    lines[22] = json.dumps({"id": "d22", "title": "word " * 6_000_000}).encode()
    path, letters = tmp_path / "a.jsonl", tmp_path / "dead.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    report = target.ingest(FileSource([path]), dead_letters=letters, max_wait_seconds=60)
    dead = [json.loads(line) for line in letters.read_text().splitlines()]
    by_line = {d["position"]: d for d in dead}
    # Elasticsearch wants four times a document's size, out of a tenth of its heap: a small one refuses.
    big = by_line.pop("a.jsonl:23", None)
    assert big is None or "heap" in big["reason"]
    assert (report.read, report.indexed, report.dead_lettered) == (50, 39 - bool(big), 11 + bool(big))
    assert sorted(by_line) == [f"a.jsonl:{n}" for n in range(11, 22)]
    assert target.all()["d9"]["title"] == "the same id again"
    assert target.count() == 38 - bool(big)
    assert all(d["reason"] for d in dead)
    assert by_line["a.jsonl:12"]["status"] == 400
    assert by_line["a.jsonl:12"]["record"]["n"] == "no number"
    assert "not for me" in by_line["a.jsonl:15"]["reason"]
    text = letters.read_text().replace('"no number"', "5").replace("REFUSED", "fine")
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text(text)
    again = target.ingest(dead_letter_source(repaired), dead_letters=tmp_path / "again.jsonl")
    assert (again.indexed, again.dead_lettered) == (2, 9 + bool(big))
    with pytest.raises(RecordError, match="broken JSON") as caught:
        target.ingest(FileSource([path]), strict=True)
    assert caught.value.position == "a.jsonl:11", "the first one"


def test_a_record_of_30_megabytes(query_world: World) -> None:
    target = make(query_world)
    big = {"id": "big", "title": "t", "body": "word " * 6_000_000}
    report = target.ingest(
        [*records(5), big, *records(8)[5:]],
        max_request_bytes=1_000_000,
        buffer_bytes=4_000_000,
        max_wait_seconds=30,
    )
    # Elasticsearch wants four times a document's size, out of a tenth of its heap: a small one refuses.
    assert report.indexed == 9 or "heap" in report.errors[0].reason
    assert target.count() == report.indexed >= 8


def test_a_write_blocked_index_is_waited_for_no_longer_than_was_said(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(5))
    target.world.client.request(
        "PUT", f"/{target.index}/_settings", body={"index": {"blocks": {"write": True}}}
    )
    drawn = []

    def slow() -> Any:
        for record in records(400)[5:]:
            drawn.append(record)
            yield record
            time.sleep(0.1)

    # Records are read and looked up meanwhile, and the engine answers those questions.
    with pytest.raises(EngineUnavailableError, match=r"did not settle anything for 1 s .*blocked"):
        target.ingest(slow(), max_wait_seconds=1.0)
    assert len(drawn) < 395, "the run ended before its source"
    notices: list[str] = []
    retry = RetryPolicy(0.5, threading.Event(), notices.append)
    engine = TargetIndex(target.world.client, target.index, query_world.capabilities, retry)

    def blocked() -> None:
        status, body, _ = engine.bulk(b'{"index":{"_id":"x"}}\n{"title":"x"}\n')
        assert "blocked" in str(body), status
        raise RetryableError("blocked", retry_after_seconds=30.0)

    with pytest.raises(RetryableError):
        retry.retrying()(blocked)
    assert 0 < retry.waited_seconds <= 0.5, "the last pause ends with the wait"
    assert retry.request_seconds(120.0) == 10.0
    target.world.client.request(
        "PUT", f"/{target.index}/_settings", body={"index": {"blocks": {"write": None}}}
    )
    assert target.ingest(records(8)).indexed == 3


def test_given_vectors(query_world: World) -> None:
    plan = IndexPlan(
        text={"title": TextField()},
        dense={"image": DenseField(encoder="precomputed", dims=3)},
        sparse={"tags": SparseField(encoder="precomputed")},
    )
    target = make(query_world, plan)
    good = {"image": [1, 2, 3], "tags": {"a.b": 0.5, "c": 2}}
    rows: list[dict[str, Any]] = [
        {"id": "ok", **good},
        {"id": "numpy", **good, "image": np.array([3, 2, 1], np.float64)},
        {"id": "dims", **good, "image": [1, 2]},
        {"id": "nan", **good, "image": [1, float("nan"), 2]},
        {"id": "zero", **good, "image": [0, 0, 0]},
        {"id": "negative", **good, "tags": {"a": -1}},
        {"id": "none", "title": "x"},
    ]
    report = target.ingest(rows)
    reasons = {e.id: e.reason for e in report.errors}
    assert sorted(reasons) == ["dims", "nan", "negative", "none", "zero"]
    assert "3 dims were expected, not 2" in reasons["dims"]
    stored = target.all()
    np.testing.assert_allclose(vector_of(stored["numpy"]["image"]), [3, 2, 1], rtol=1e-6)
    assert target.ingest(rows[:2]).unchanged == 2
    changed = target.ingest([{"op": "update", "id": "ok", "tags": {"d": 1}}])
    assert changed.updated == 1
    assert set(target.all()["ok"]["tags"]) == {"d"}
    assert target.ingest([{"id": "ok", "image": [1, 2, 3], "tags": {"d": 1}}]).unchanged == 1


def test_a_refused_update_changes_nothing(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(3))
    before = target.all()
    report = target.ingest([{"op": "update", "id": "d1", "body": "another text", "n": "no number"}])
    assert (report.updated, report.dead_lettered) == (0, 1)
    after = target.all()
    assert after["d1"]["terms"] == before["d1"]["terms"], "the sparse vector is cleared in no other order"
    assert after["d1"]["esembed_hash"] == before["d1"]["esembed_hash"]
    assert target.ingest(records(3)).unchanged == 3


CHUNKED = IndexPlan(
    text={"title": TextField()},
    dense={"emb": DenseField(encoder="custom:hash", dims=DIMS, chunked=True)},
    filter=PLAN.filter,
    chunk=ChunkOptions(source=("body",), max_tokens=12, overlap_tokens=0),
)


def long_text(sentences: int, word: str = "alpha") -> str:
    return " ".join(f"Sentence {n} about {word} and nothing else." for n in range(sentences))


def test_nested_chunks(query_world: World) -> None:
    target = make(query_world, CHUNKED)
    report = target.ingest([{"id": "a", "title": "t", "body": long_text(6), "n": 1}])
    stored = target.all()["a"]
    assert len(stored["chunks"]) == report.chunks >= 3
    assert report.stage_seconds["chunk"] > 0
    assert report.stage_seconds["lookup"] >= 0
    expected = HashEncoder().encode_document([stored["chunks"][1]["text"]])[0]
    np.testing.assert_allclose(vector_of(stored["chunks"][1]["emb"]), expected, atol=1e-6)
    target.ingest([{"op": "update", "id": "a", "n": 2}])
    kept = target.all()["a"]
    assert kept["n"] == 2
    np.testing.assert_allclose(
        vector_of(kept["chunks"][1]["emb"]), vector_of(stored["chunks"][1]["emb"]), atol=1e-6
    )
    target.ingest([{"op": "update", "id": "a", "body": long_text(1)}])
    assert len(target.all()["a"]["chunks"]) == 1
    assert target.ingest([{"id": "a", "title": "t", "body": long_text(1), "n": 2}]).unchanged == 1


def test_chunks_as_documents_follow_their_parent(query_world: World) -> None:
    plan = CHUNKED.replace(
        chunk=ChunkOptions(source=("body",), max_tokens=12, overlap_tokens=0, store="documents")
    )
    target = make(query_world, plan)
    target.ingest(
        [{"id": "a", "title": "t", "body": long_text(6), "n": 1}, {"id": "b", "body": long_text(2)}]
    )
    stored = target.all()
    mine = sorted(i for i in stored if i.startswith("a#"))
    assert len(mine) >= 3
    assert {stored[i]["esembed_parent"] for i in mine} == {"a"}
    assert {stored[i]["n"] for i in mine} == {1}
    assert target.ingest([{"id": "a", "title": "t", "body": long_text(6), "n": 1}]).unchanged == 1
    target.ingest([{"op": "update", "id": "a", "n": 5}])
    assert {target.all()[i]["n"] for i in mine} == {5}
    target.ingest([{"id": "a", "title": "t", "body": long_text(2, "beta"), "n": 1}])
    after = target.all()
    left = [i for i in after if i.startswith("a#")]
    assert 0 < len(left) < len(mine)
    assert all("beta" in after[i]["chunks"]["text"] for i in left)
    target.ingest([{"op": "delete", "id": "a"}])
    assert not [i for i in target.all() if i.startswith("a")]
    report = target.ingest([{"id": "c", "body": long_text(3)}], sync=True, sync_max_delete=1.0)
    assert report.sync_deleted == 1
    assert {i.partition("#")[0] for i in target.all()} == {"c"}


class Stretched(HashEncoder):
    """Its vectors have another length where a text says so."""

    def encode_document(self, texts: Any) -> Any:
        out = super().encode_document(texts)
        return out * np.array([[2.0 if "STRETCHED" in text else 1.0] for text in texts], np.float32)


def test_a_refused_chunk_keeps_its_document_out(elasticsearch_world: World) -> None:
    plan = CHUNKED.replace(
        dense={"emb": DenseField(encoder="custom:hash", dims=DIMS, chunked=True, similarity="dot_product")},
        chunk=ChunkOptions(source=("body",), max_tokens=12, overlap_tokens=0, store="documents"),
    )
    target = make(elasticsearch_world, plan, dense=Stretched())
    bad = {"id": "a", "title": "t", "body": long_text(3) + " A STRETCHED sentence. " + long_text(2)}
    report = target.ingest([bad, {"id": "b", "title": "t", "body": long_text(2)}])
    assert (report.indexed, report.dead_lettered) == (1, 1)
    assert "a" not in target.all(), "a document that says it is whole must have all its chunks"
    assert target.ingest([bad]).dead_lettered == 1, "it isn't taken for unchanged"


def test_sync_deletes_only_what_it_may(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(100))
    broken = [*records(95), {"id": "d96", "n": 1}]
    report = target.ingest(broken, sync=True, verify=True)
    assert (report.sync_deleted, report.dead_lettered) == (4, 1)
    assert report.verified is not None
    assert not report.verified.extra_count, "what was only in the index is gone"
    assert (report.verified.same, report.verified.dead_lettered) == (95, 1)
    assert "d96" in target.all(), "a dead letter's older version stays"
    with pytest.raises(DeleteLimitError, match="sync_max_delete") as caught:
        target.ingest([*records(50), {"id": "new", "title": "t", "n": 1}], sync=True, verify=True)
    assert (caught.value.found, caught.value.total) == (46, 97)
    refused = pickle.loads(pickle.dumps(caught.value)).report
    assert (refused.indexed, refused.unchanged, refused.sync_withheld, refused.sync_deleted) == (1, 50, 46, 0)
    assert refused.complete
    assert refused.documents == target.count() == 97
    assert refused.verified.extra_count == 46
    assert refused.seconds > 0
    assert "46 that the source no longer has were not deleted" in refused.conclusion
    assert "not deleted by sync, though" in str(refused.html_page())
    target.world.client.request("DELETE", f"/{target.index}/_doc/new", params={"refresh": "true"})
    for unreadable in (7, {"title": "t", "_id": 1.5}, ("a", 5)):
        report = target.ingest([*records(94), unreadable], sync=True, verify=True)
        assert (report.sync_deleted, report.dead_lettered, report.read_errors) == (0, 1, 1)
        assert report.sync_withheld == 2
        assert report.verified is not None
        assert report.verified.extra_count == 2
        assert any("sync deleted nothing: 1 records of the source" in text for text in report.warnings)
        assert target.count() == 96
    last = target.ingest(records(50), sync=True, sync_max_delete=0.5)
    assert (last.sync_deleted, last.sync_withheld, last.documents) == (46, 0, 50)
    assert "46 deleted by sync" in last.summary()
    assert f"50 documents in {last.index} now" in last.summary()


def test_verify_finds_what_others_did(query_world: World) -> None:
    target = make(query_world)
    target.ingest(records(30))
    client = target.world.client
    client.request("DELETE", f"/{target.index}/_doc/d3", params={"refresh": "true"})
    client.request("PUT", f"/{target.index}/_doc/d4", params={"refresh": "true"}, body={"title": "by hand"})
    client.request("PUT", f"/{target.index}/_doc/foreign", params={"refresh": "true"}, body={"title": "x"})
    report = target.ingest(records(30), verify=True)
    assert report.indexed == 2, "missing and different ones are repaired"
    assert report.verified is not None
    assert report.verified.ok
    assert (report.verified.same, report.verified.extra) == (30, ("foreign",))


def test_a_ledger_is_accepted_and_changes_nothing(query_world: World, tmp_path: Path) -> None:
    target = make(query_world)
    file = tmp_path / "ledger.sqlite"
    file.write_text("something else")
    with pytest.warns(DeprecationWarning, match="ledger does nothing any more"):
        target.ingest(records(40), ledger=file)
    client, path = target.world.client, f"/{target.index}/_doc"
    client.request("DELETE", f"{path}/d3")
    client.request("PUT", f"{path}/d4", body={"title": "by hand"})
    with pytest.warns(DeprecationWarning, match="ledger does nothing any more"):
        again = target.ingest(records(40), ledger=file)
    assert (again.indexed, again.unchanged) == (2, 38), "whoever changed the index: it is asked"
    assert file.read_text() == "something else"


def test_load_settings_are_put_back_also_after_a_crash(query_world: World) -> None:
    plan = PLAN.replace(load=LoadOptions(refresh=False, replicas=0, force_merge_segments=1))
    target = make(query_world, plan)
    client, path = target.world.client, f"/{target.index}"
    client.request(
        "PUT", f"{path}/_settings", body={"index": {"refresh_interval": "7s", "number_of_replicas": 1}}
    )
    client.request("PUT", f"{path}/_mapping", body={"_meta": {"mine": 1}})
    during: list[Any] = []

    def source(fail: bool) -> Any:
        yield from records(10)
        during.append(client.request("GET", f"{path}/_settings").body[target.index]["settings"]["index"])
        if fail:
            raise RuntimeError("the source broke")

    def settings() -> tuple[Any, Any]:
        found = client.request("GET", f"{path}/_settings").body[target.index]["settings"]["index"]
        return found.get("refresh_interval"), found["number_of_replicas"]

    with pytest.raises(RuntimeError, match="the source broke"):
        target.ingest(source(True))
    assert (during[0]["refresh_interval"], during[0]["number_of_replicas"]) == ("-1", "0")
    assert settings() == ("7s", "1")
    # A killed process leaves the settings and the marker as they were during the load.
    client.request(
        "PUT", f"{path}/_settings", body={"index": {"refresh_interval": "-1", "number_of_replicas": 0}}
    )
    marker = {"settings": {"refresh_interval": "7s", "number_of_replicas": "1"}}
    client.request("PUT", f"{path}/_mapping", body={"_meta": {"mine": 1, "esembed_load": marker}})
    report = target.ingest(source(False))
    assert any("did not put" in notice for notice in report.warnings)
    assert settings() == ("7s", "1")
    meta = client.request("GET", f"{path}/_mapping").body[target.index]["mappings"]["_meta"]
    assert meta == {"mine": 1}


def test_the_graph_threshold_is_put_back(opensearch_world: World) -> None:
    target = make(opensearch_world, PLAN.replace(load=LoadOptions(graph_threshold=-1)))
    client, path = target.world.client, f"/{target.index}/_settings"
    name = "index.knn.advanced.approximate_threshold"
    client.request("PUT", path, body={name: 500})
    during: list[Any] = []

    def source() -> Any:
        yield from records(3)
        during.append(client.request("GET", path, params={"flat_settings": "true"}).body)
        yield from records(6)[3:]

    assert target.ingest(source()).indexed == 6
    after = client.request("GET", path, params={"flat_settings": "true"}).body
    assert during[0][target.index]["settings"][name] == "-1"
    assert after[target.index]["settings"][name] == "500"


def test_what_can_never_work_ends_the_run(query_world: World) -> None:
    target = make(query_world)
    client = target.world.client
    client.request("PUT", f"/{target.index}/_settings", body={"index": {"translog.durability": "async"}})
    with pytest.raises(OptionsError, match="translog"):
        target.ingest(records(1))
    client.request("DELETE", f"/{target.index}")
    with pytest.raises(IndexNotFoundError):
        target.ingest(records(1))


def test_an_index_closed_under_way_is_no_heap_of_dead_letters(query_world: World) -> None:
    target = make(query_world)

    def source() -> Any:
        yield from records(10)
        target.world.client.request("POST", f"/{target.index}/_close")
        yield from records(300)[10:]

    with pytest.raises(Exception, match=r"index_closed|closed"):
        target.ingest(source(), max_wait_seconds=5, flush_interval_seconds=2.0)
    target.world.client.request("POST", f"/{target.index}/_open")


def test_backfill_writes_vectors_only(query_world: World) -> None:
    target = make(query_world)
    client = target.world.client
    for n in range(5):
        client.request("PUT", f"/{target.index}/_doc/d{n}", body={"title": f"title {n}", "kept": n})
    from esembed.ingest.sources.index import read_index

    client.request("POST", f"/{target.index}/_refresh")

    def filled() -> Any:
        return read_index(client, target.index, query_world.capabilities, plan=target.plan)

    report = target.ingest(filled(), vectors_only=True)
    assert report.updated == 5
    stored = target.all()
    assert stored["d3"]["kept"] == 3
    expected = HashEncoder().encode_document(["title 3"])[0]
    np.testing.assert_allclose(vector_of(stored["d3"]["emb"]), expected, atol=1e-6)
    again = target.ingest(filled(), vectors_only=True)
    assert again.unchanged == 5


def test_documents_and_ids_from_content(query_world: World) -> None:
    target = make(query_world)
    first = target.ingest(
        [{"title": "no id"}, Document("explicit", {"title": "x"}), ("pair", {"title": "y"})]
    )
    assert first.indexed == 3
    assert target.ingest([{"title": "no id"}]).unchanged == 1
    assert {"explicit", "pair"} < set(target.all())


def test_a_red_index_is_waited_out(query_world: World) -> None:
    target = make(query_world)
    client, path = query_world.client, f"/{target.index}"
    body = compile_mapping(PLAN, query_world.capabilities).body
    somewhere = "index.routing.allocation.require._name"
    client.request("DELETE", path)
    body = {**body, "settings": {**body.get("settings", {}), somewhere: "no such node"}}
    client.request("PUT", path, body=body, params={"wait_for_active_shards": "0"})
    assert client.request("GET", f"/_cluster/health{path}").body["status"] == "red"

    def repair() -> None:
        time.sleep(4)
        client.request("PUT", f"{path}/_settings", body={somewhere: None})

    thread = threading.Thread(target=repair)
    thread.start()
    report = target.ingest(records(20), max_wait_seconds=120)
    thread.join()
    assert report.indexed == 20
    assert any("waiting for the engine, up to 120 s" in notice for notice in report.warnings)
    assert any("takes requests again" in notice for notice in report.warnings)


def test_another_index_is_a_source(query_world: World) -> None:
    plan = IndexPlan(
        text={"title": TextField()},
        # Under cosine Elasticsearch gives back what it normalized, rounded.
        dense={"image": DenseField(encoder="precomputed", dims=3, similarity="l2_norm")},
        sparse={"terms": SparseField(encoder="lexical", source=("title",))},
    )
    old, new = make(query_world, plan, suffix="-old"), make(query_world, plan, suffix="-new")
    rows = [{"id": f"d{n}", "title": f"title {n}", "image": [1, n, 2]} for n in range(1_200)]
    old.ingest(rows)
    source = IndexSource(query_world.client, old.index, plan, query_world.capabilities)
    scanned: list[int] = []

    def watched() -> Any:
        for document in source:
            if not scanned:
                # What is written once the reading has begun is not part of it.
                late = {"id": "late", "title": "late", "image": [1, 1, 1]}
                old.ingest([late, {"op": "delete", "id": "d7"}])
            scanned.append(1)
            yield document

    assert new.ingest(watched()).indexed == 1_200
    assert new.ingest(rows, verify=True).unchanged == 1_200, "ids, fields and given vectors as they were"
    # Of this index alone: other tests search beside.
    stats = query_world.client.request("GET", f"/{old.index}/_stats/search").body["_all"]["total"]["search"]
    open_ = {name: stats.get(name) for name in ("open_contexts", "scroll_current", "point_in_time_current")}
    assert not any(open_.values()), f"the point in time is closed: {open_}"


def test_what_is_settled_while_it_is_looked_up_is_looked_up_again(
    query_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LookupStage._stored

    def slow(self: LookupStage, prepared: Any, *more: Any) -> Any:
        answer = real(self, prepared, *more)
        for record in prepared:
            self._wait_for(record.id)
        return answer

    monkeypatch.setattr(LookupStage, "_stored", slow)
    target = make(query_world)
    first = records(3)
    other = {**first[1], "title": "another title"}
    feed = [*first, {"op": "update", "id": first[2]["id"], "n": 77}, other, first[0], first[1]]
    report = target.ingest(feed, encode_batch_documents=1)
    assert report.dead_lettered == 0, report.errors
    found = target.all()
    assert found[first[2]["id"]]["n"] == 77
    assert found[first[1]["id"]]["title"] == first[1]["title"], "the last one counts"


def test_ids_that_come_twice_and_blank_ones(query_world: World) -> None:
    target = make(query_world)
    rows = [*records(20), {**records(20)[3], "title": "the later one"}, records(20)[5]]
    report = target.ingest(rows)
    assert (report.read, report.duplicates, report.duplicate_ids) == (22, 2, ["d3", "d5"])
    assert "2 records with the id of an earlier one" in report.summary()
    assert "d3, d5" in str(report.html_page())
    assert target.all()["d3"]["title"] == "the later one"
    blank = target.ingest([{**records(1)[0], "id": " "}, {**records(1)[0], "id": "\u00a0\t"}, *records(2)])
    assert (blank.dead_lettered, blank.unchanged, blank.duplicates) == (2, 2, 0)
    assert all("blank" in error.reason for error in blank.errors)
    # One that came in before it was refused can be taken out.
    target.world.client.request(
        "PUT", f"/{target.index}/_doc/%20", params={"refresh": "true"}, body={"title": "x"}
    )
    assert target.ingest([{"id": " ", "op": "delete"}]).deleted == 1
    assert target.count() == 20
