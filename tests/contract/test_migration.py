"""Migration between two models of equal dims, under load, killed and resumed, on each real engine."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from migrate_help import Salted, plan

from esembed import IndexOptions, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed._async._shim import in_thread, thread_transport
from esembed._async.aliases import versions
from esembed._async.client import AsyncEngineClient
from esembed._async.follower import AsyncFollower
from esembed._async.index import AsyncIndex
from esembed._async.live import describe
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import (
    AliasError,
    EngineUnavailableError,
    IndexNotFoundError,
    OptionsError,
    PermanentError,
    PlanError,
    UnsupportedFeatureError,
)
from esembed.ingest.options import IngestOptions
from esembed.ingest.sources.index import read_index
from esembed.migration.lock import lock_index
from esembed.migration.options import MigrateOptions
from esembed.types import Document, SparseVector

FIXED = 200
"""Documents that the writer leaves alone, so that each must find itself at any time."""


@pytest.fixture
async def client(esembed_engine):
    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import AsyncElasticsearch

        made = AsyncElasticsearch(esembed_engine.url, request_timeout=60)
    else:
        from opensearchpy import AsyncOpenSearch

        made = AsyncOpenSearch(esembed_engine.url, timeout=60)
    yield made
    await made.close()


@pytest.fixture
async def alias(client, esembed_index_name):
    """An alias of an index with 600 documents, encoded by model a."""
    name = esembed_index_name
    index = await AsyncIndex.create(client, f"{name}-v1", plan("a"), encoder=Salted("a"), alias=False)
    await index.ingest([Document(f"d{i}", {"body": f"text {i}", "n": 0}) for i in range(600)])
    actions = [{"add": {"index": f"{name}-v1", "alias": name}}]
    await AsyncEngineClient(client).request("POST", "/_aliases", body={"actions": actions})
    return name


async def migrate(client, name, new_plan, **options):
    return await (await AsyncIndex.open(client, name)).migrate(new_plan, **options)


async def rollback(client, name, **options):
    return await (await AsyncIndex.open(client, name)).rollback(**options)


async def documents(client, name):
    engine = AsyncEngineClient(client)
    await engine.request("POST", f"/{name}/_refresh")
    answer = await engine.request("POST", f"/{name}/_search", body={"size": 5000, "_source": ["body"]})
    return {hit["_id"]: hit["_source"]["body"] for hit in answer.body["hits"]["hits"]}


class Load:
    """A writer (with deletes) and a searcher that run until they are told to stop."""

    def __init__(self, client, alias, truth):
        encoders = {"hf:test/a": Salted("a"), "hf:test/b": Salted("b")}
        self.reader = AsyncFollower(client, alias, ttl_seconds=0.2, encoders=encoders)
        self.follower = AsyncFollower(client, alias, ttl_seconds=0.2, encoders=encoders)
        self.truth = truth
        self.searches = self.writes = 0
        self.wrong = []
        self.stop = False
        self.random = random.Random(3)

    async def search(self):
        while not self.stop:
            i = self.random.randrange(FIXED)
            ids = (await self.reader.search(q.knn("e", text=f"text {i}", k=3), size=1)).ids
            if ids != [f"d{i}"]:
                self.wrong.append((i, ids))
            self.searches += 1
            await asyncio.sleep(0.01)

    async def write(self):
        options = IngestOptions(max_wait_seconds=0.3, refresh=False, apply_load_settings=False, strict=True)
        while not self.stop:
            self.writes += 1
            doc_id = f"d{self.random.randrange(FIXED, 700)}"
            delete = self.random.random() < 0.3
            body = {} if delete else {"body": f"text {doc_id} written {self.writes}", "n": self.writes}
            document = Document(doc_id, body, op="delete" if delete else "index")
            while True:
                try:
                    await self.follower.ingest([document], options)
                    break
                except EngineUnavailableError:
                    await asyncio.sleep(0.1)  # the write block before the swap
            if delete:
                self.truth.pop(doc_id, None)
            else:
                self.truth[doc_id] = body["body"]


async def test_under_load_killed_and_resumed_and_rolled_back(client, alias):
    truth = {f"d{i}": f"text {i}" for i in range(600)}
    load = Load(client, alias, truth)
    tasks = [asyncio.create_task(load.search()), asyncio.create_task(load.write())]
    try:
        # Slow enough to be killed in the middle of the copy, once the new version has documents.
        first = asyncio.create_task(
            migrate(
                client,
                alias,
                plan("b"),
                encoder=Salted("b"),
                options=MigrateOptions(max_documents_per_second=100),
            )
        )
        deadline = time.monotonic() + 30
        engine = AsyncEngineClient(client)
        while not (await versions(engine, alias)).get(f"{alias}-v2") and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await describe(engine, alias)).concrete_index == f"{alias}-v1"
        report = await migrate(
            client, alias, plan("b"), encoder=Salted("b"), options=MigrateOptions(small_delta=10)
        )
        await asyncio.sleep(0.5)
    finally:
        load.stop = True
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if r is not None] == []
    assert load.wrong == []
    assert load.searches > 5
    assert load.writes > 2
    assert report.resumed
    assert (report.old, report.new) == (f"{alias}-v1", f"{alias}-v2")
    assert load.reader.moves == 1
    assert await documents(client, alias) == truth

    late = await AsyncIndex.open(client, alias, encoder=Salted("b"))
    await late.ingest([Document("late", {"body": "written after the swap", "n": 1})])
    await late.delete("d1")
    back = await rollback(client, alias, encoder=Salted("a"))
    assert back.new == f"{alias}-v1"
    truth["late"] = "written after the swap"
    truth.pop("d1")
    assert await documents(client, alias) == truth
    old = await AsyncIndex.open(client, alias, encoder=Salted("a"))
    assert (await old.search(q.knn("e", text="written after the swap", k=3), size=1)).ids == ["late"]


@pytest.mark.parametrize("moment", ["copying", "blocked", "swapped"])
async def test_killed_at_any_moment_and_run_again(client, alias, esembed_engine, moment):
    child = Path(__file__).with_name("migrate_child.py")
    command = [sys.executable, str(child), esembed_engine.engine, esembed_engine.url, alias, moment]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    engine = AsyncEngineClient(client)
    before = await describe(engine, alias)
    assert before.concrete_index == (f"{alias}-v2" if moment == "swapped" else f"{alias}-v1")
    follower = AsyncFollower(client, alias, encoders={f"hf:test/{s}": Salted(s) for s in "ab"})
    assert (await follower.search(q.knn("e", text="text 7", k=3), size=1)).ids == ["d7"]

    report = await migrate(client, alias, plan("b"), encoder=Salted("b"))
    assert report.resumed
    assert (report.old, report.new) == (f"{alias}-v1", f"{alias}-v2")
    assert set(await versions(AsyncEngineClient(client), alias)) == {f"{alias}-v1", f"{alias}-v2"}
    assert (await versions(AsyncEngineClient(client), alias))[f"{alias}-v2"]["state"] == "done"
    assert await documents(client, alias) == {f"d{i}": f"text {i}" for i in range(600)}
    follower = AsyncFollower(client, alias, encoders={"hf:test/b": Salted("b")})
    assert (await follower.search(q.knn("e", text="text 7", k=3), size=1)).ids == ["d7"]
    await follower.ingest([Document("after", {"body": "writable", "n": 1})])
    assert await lock_holder(client, alias) is None, "the killed run's lock was taken over at once"


class Gated(Salted):
    """A model that waits until it may encode."""

    def __init__(self, salt):
        super().__init__(salt)
        self.asked, self.gate = threading.Event(), threading.Event()

    def encode_document(self, texts):
        if any(text.startswith("text") for text in texts):  # not the contract's canaries
            self.asked.set()
            assert self.gate.wait(60)
        return super().encode_document(texts)


async def lock_holder(client, alias):
    answer = await AsyncEngineClient(client).request("GET", f"/{lock_index(alias)}/_doc/claim", ignore=(404,))
    return answer.body.get("_source") if answer.status == 200 else None


async def test_two_migrations_of_one_alias_are_one(client, alias, monkeypatch):
    monkeypatch.setattr("esembed.migration.lock.BEAT_SECONDS", 0.2)
    model = Gated("b")
    first = asyncio.create_task(migrate(client, alias, plan("b"), encoder=model))
    assert await asyncio.to_thread(model.asked.wait, 60)
    wanted = rf"another migration of '{alias}' is running: migrate by process \d+ on .*, since "
    with pytest.raises(PermanentError, match=wanted):
        await migrate(client, alias, plan("c"), encoder=Salted("c"))
    with pytest.raises(PermanentError, match=wanted):
        await AsyncIndex.abort_migration(client, alias)
    with pytest.raises(PermanentError, match=wanted):
        await rollback(client, alias)
    model.gate.set()
    report = await first
    assert (report.new, report.documents) == (f"{alias}-v2", 600)
    assert await lock_holder(client, alias) is None
    assert set(await versions(AsyncEngineClient(client), alias)) == {f"{alias}-v1", f"{alias}-v2"}
    # What is hidden isn't found by a wildcard while it is there, and it is gone afterward.
    rows = await AsyncEngineClient(client).request(
        "GET", f"/{alias}*/_settings", params={"expand_wildcards": "all"}
    )
    assert set(rows.body) == {f"{alias}-v1", f"{alias}-v2"}


async def test_the_same_migration_thrice_at_once_is_done_once(client, alias, monkeypatch):
    monkeypatch.setattr("esembed.migration.lock.BEAT_SECONDS", 0.2)
    runs = [migrate(client, alias, plan("b"), encoder=Salted("b")) for _ in range(3)]
    ended = await asyncio.gather(*runs, return_exceptions=True)
    reports = [one for one in ended if not isinstance(one, PermanentError)]
    assert 1 <= len(reports) <= 3
    assert {(one.old, one.new) for one in reports} == {(f"{alias}-v1", f"{alias}-v2")}
    assert sum(one.documents == 600 for one in reports) == 1
    assert set(await versions(AsyncEngineClient(client), alias)) == {f"{alias}-v1", f"{alias}-v2"}
    assert await lock_holder(client, alias) is None


async def test_a_silent_lock_is_taken_over_and_its_owner_stops(client, alias, monkeypatch):
    monkeypatch.setattr("esembed.migration.lock.BEAT_SECONDS", 0.2)
    monkeypatch.setattr("esembed.migration.lock.SILENT_SECONDS", 1.5)
    model = Gated("b")
    first = asyncio.create_task(migrate(client, alias, plan("b"), encoder=model))
    assert await asyncio.to_thread(model.asked.wait, 60)
    held = await lock_holder(client, alias)
    # As if another machine had taken it, and ended after that without a word.
    engine = AsyncEngineClient(client)
    other = {**held, "owner": "other", "machine": "elsewhere", "host": "elsewhere"}
    await engine.request("PUT", f"/{lock_index(alias)}/_doc/claim", body=other)
    await asyncio.sleep(0.6)
    model.gate.set()
    with pytest.raises(PermanentError, match="another run took over"):
        await first
    assert (await lock_holder(client, alias))["owner"] == "other"
    assert (await describe(engine, alias)).concrete_index == f"{alias}-v1"
    report = await migrate(client, alias, plan("b"), encoder=Salted("b"))
    assert report.resumed
    assert report.documents == 600
    assert await lock_holder(client, alias) is None


async def test_a_scan_left_early_holds_nobody_up(client, alias):
    """Its generator may end on the loop's own thread, where a request could never be answered."""
    index = await AsyncIndex.open(client, alias)
    scan = read_index(thread_transport(AsyncEngineClient(client)), alias, index.capabilities)
    assert (await asyncio.to_thread(next, scan)).source["body"]
    del scan
    gc.collect()
    assert len(await documents(client, alias)) == 600


async def test_a_cancelled_call_has_ended_and_sends_no_more(client, alias):
    sender = thread_transport(AsyncEngineClient(client))
    begun = threading.Event()
    ended = threading.Event()

    def work():
        try:
            while True:
                sender.request("GET", f"/{alias}/_count")
                begun.set()
        finally:
            ended.set()

    call = asyncio.create_task(in_thread(work, sender=sender))
    assert await asyncio.to_thread(begun.wait, 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()
    with pytest.raises(RuntimeError, match="can't answer here"):
        thread_transport(AsyncEngineClient(client)).request("GET", f"/{alias}/_count")


async def test_an_alias_moved_by_hand_too_early_is_told(client, alias):
    options = MigrateOptions(queries=["text 1"], min_overlap=0.99)
    with pytest.raises(PermanentError, match="overlap"):
        await migrate(client, alias, plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=options)
    engine = AsyncEngineClient(client)
    actions = [
        {"remove": {"index": f"{alias}-v1", "alias": alias}},
        {"add": {"index": f"{alias}-v2", "alias": alias}},
    ]
    await engine.request("POST", "/_aliases", body={"actions": actions})
    with pytest.raises(AliasError, match="by hand"):
        await migrate(client, alias, plan("b"), encoder=Salted("b"))


async def test_queries_without_a_gate_are_compared_and_told(client, alias):
    options = MigrateOptions(queries=[f"text {i}" for i in range(5)], k=3)
    report = await migrate(
        client, alias, plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=options
    )
    assert report.new == f"{alias}-v2"
    assert 0 <= report.overlap <= 1


async def test_judged_queries_decide(client, alias):
    scores = iter([0.9, 0.5])
    worse = MigrateOptions(queries=["text 1"], quality_metric=lambda _: next(scores), max_drop=0.1)
    with pytest.raises(PermanentError, match="max_drop"):
        await migrate(client, alias, plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=worse)

    def judge(found):
        return sum(ids[0] == "d" + text.split()[1] for text, ids in found.items()) / len(found)

    good = MigrateOptions(queries=["text 1", "text 2"], quality_metric=judge)
    report = await migrate(
        client, alias, plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=good
    )
    assert (report.old_score, report.new_score) == (1.0, 1.0)


async def test_unchanged_fields_are_copied_not_encoded(client, alias):
    encoder = Salted("a")
    report = await migrate(client, alias, plan("a", m=24), encoder=encoder)
    assert report.copied == ("e",)
    assert report.vectors_copied >= 600
    # Canaries and the average are all that was encoded.
    assert encoder.stats.texts < 60
    index = await AsyncIndex.open(client, alias, encoder=encoder)
    assert (await index.search(q.knn("e", text="text 7", k=3), size=1)).ids == ["d7"]


class SaltedWords:
    """A sparse encoder whose model says which salt it has, in vectors and in its contract."""

    def __init__(self, salt):
        self.salt = salt
        self.info = EncoderInfo(spec="custom:words", type="sparse", model="words", weights_hash=salt)
        self.stats = EncodeStats()
        self.texts = []

    def encode_document(self, texts):
        self.texts += texts
        return [
            SparseVector.from_dict(
                {f"{self.salt}{word}": 1.0 for word in text.lower().split()[:20] or ["none"]}
            )
            for text in texts
        ]

    encode_query = encode_document

    def close(self):
        """Nothing."""


async def test_another_sparse_model_is_no_change_in_place(client, alias):
    """Which vectors may be missing can be changed in the plan alone, and is here together with the model."""
    alias = f"{alias}-words"
    field = SparseField(encoder="custom:words", source=("body",))
    before = IndexPlan(text={"body": TextField()}, sparse={"w": field})
    index = await AsyncIndex.create(client, f"{alias}-v1", before, encoder=SaltedWords("a"), alias=False)
    await index.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(learn_weights=False))
    after = before.replace(sparse={"w": msgspec.structs.replace(field, optional=True)})
    same = SaltedWords("a")
    report = await index.migrate(after, options=MigrateOptions(alias=alias), encoder=same)
    assert report.in_place, "the same model"
    assert "red fox" not in same.texts
    other = SaltedWords("b")
    index = await AsyncIndex.open(client, f"{alias}-v1", encoder=same)
    report = await index.migrate(before, options=MigrateOptions(alias=alias), encoder=other)
    assert not report.in_place
    assert "red fox" in other.texts
    moved = await AsyncIndex.open(client, alias, encoder=SaltedWords("b"))
    assert (await moved.search(q.sparse("w", text="red"))).ids == ["1"]


async def test_quantization_goes_up_in_place_where_the_engine_allows_it(client, alias, esembed_engine):
    if esembed_engine.engine == "opensearch":
        pytest.skip("OpenSearch changes no quantization in place")
    report = await migrate(client, alias, plan("a", quantization="bbq_hnsw"), encoder=Salted("a"))
    assert report.in_place
    assert report.new == f"{alias}-v1"
    live = await describe(AsyncEngineClient(client), alias)
    assert live.mapping["properties"]["e"]["index_options"]["type"] == "bbq_hnsw"
    reopened = await AsyncIndex.open(client, alias, encoder=Salted("a"))
    assert reopened.plan.dense["e"].quantization == "bbq_hnsw"


async def test_refusals_change_nothing(client, alias):
    engine = AsyncEngineClient(client)
    before = (await engine.request("GET", f"/{alias}*")).body

    async def refused(error, words, name, new, **options):
        with pytest.raises(error, match=words):
            await migrate(client, name, new, encoder=Salted("b"), options=MigrateOptions(**options))

    await refused(AliasError, "is an index", f"{alias}-v1", plan("b"))
    await refused(PermanentError, "are free", alias, plan("b"), disk_factor=1e15)
    await refused(IndexNotFoundError, "there is no index", f"{alias}-none", plan("b"))
    await refused(
        PermanentError, "int4_flat|even|lacks|can't", alias, plan("b", quantization="int4_flat", m=4)
    )
    await refused(OptionsError, "alias already", alias, plan("b"), alias=f"{alias}-other")
    for words, more in (
        ("at least 64 dims|native libraries", {"dims": 32, "quantization": "bbq_hnsw"}),
        ("even number|native libraries", {"dims": 33, "quantization": "int4_hnsw"}),
        ("license|no bbq_disk", {"quantization": "bbq_disk"}),
        ("OpenSearch's|native libraries", {"quantization": "faiss_fp16"}),
        ("OpenSearch's|native libraries", {"quantization": "on_disk_32x"}),
    ):
        await refused(UnsupportedFeatureError, words, alias, plan("b", **more))
    assert (await engine.request("GET", f"/{alias}*")).body == before


async def test_the_gate_keeps_the_old_version(client, alias):
    queries = [f"text {i}" for i in range(20)]
    options = MigrateOptions(queries=queries, min_overlap=0.99)
    with pytest.raises(PermanentError, match="overlap@10"):
        await migrate(client, alias, plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=options)
    engine = AsyncEngineClient(client)
    assert (await describe(engine, alias)).concrete_index == f"{alias}-v1"
    assert await AsyncIndex.abort_migration(client, alias) == f"{alias}-v2"
    assert await describe(engine, f"{alias}-v2") is None
    index = await AsyncIndex.open(client, alias, encoder=Salted("a"))
    await index.ingest([Document("after", {"body": "still writable", "n": 1})])


async def test_an_index_gets_an_alias_and_old_versions_are_cleaned_up(client, alias):
    other = f"{alias}-books"
    report = await migrate(
        client, f"{alias}-v1", plan("b"), encoder=Salted("b"), options=MigrateOptions(alias=other)
    )
    assert report.new == f"{other}-v2"
    with pytest.raises(AliasError, match="searchers may still"):
        await AsyncIndex.delete_old_versions(client, other)
    engine = AsyncEngineClient(client)
    actions = [{"remove": {"index": f"{alias}-v1", "alias": alias}}]
    await engine.request("POST", "/_aliases", body={"actions": actions})
    assert await AsyncIndex.delete_old_versions(client, other, keep=1, min_age_seconds=0) == []
    assert await AsyncIndex.delete_old_versions(client, other, keep=0, min_age_seconds=0) == [f"{alias}-v1"]


async def test_deleting_by_the_alias_takes_the_versions_that_it_left(client, alias):
    await migrate(client, alias, plan("b"), encoder=Salted("b"))
    index = await AsyncIndex.open(client, alias, encoder=Salted("b"))
    named = await index.delete_index(dry_run=True)
    assert named == [f"{alias}-v2", f"{alias}-v1"]
    engine = AsyncEngineClient(client)
    actions = [{"add": {"index": f"{alias}-v1", "alias": f"{alias}-kept"}}]
    await engine.request("POST", "/_aliases", body={"actions": actions})
    assert await index.delete_index(dry_run=True) == [f"{alias}-v2"]
    actions = [{"remove": {"index": f"{alias}-v1", "alias": f"{alias}-kept"}}]
    await engine.request("POST", "/_aliases", body={"actions": actions})
    assert await index.delete_index() == named
    assert [await describe(engine, name) for name in named] == [None, None]


@pytest.mark.parametrize("deleted", [1, 3, 400])
async def test_deletes_are_found_by_sequence_numbers(client, esembed_index_name, deleted, monkeypatch):
    from esembed._async.probe import probe
    from esembed.ingest.sources.index import read_documents
    from esembed.migration import copying

    monkeypatch.setattr(copying, "STRETCHES", 200)
    engine, name = AsyncEngineClient(client), esembed_index_name
    known = await probe(engine)
    options = IngestOptions(learn_weights=False)
    old = await AsyncIndex.create(
        client,
        f"{name}-old",
        plan("a").replace(index=IndexOptions(shards=3)),
        encoder=Salted("a"),
        alias=False,
    )
    new = await AsyncIndex.create(client, f"{name}-new", plan("a"), encoder=Salted("a"), alias=False)
    records = [Document(f"d{i}", {"body": f"text {i}", "n": 0}) for i in range(1_200)]
    await old.ingest(records, options)
    await old.ingest([Document(f"d{i}", {"body": f"again {i}", "n": 0}) for i in range(0, 900, 7)], options)
    await new.ingest(records, options)
    sender = thread_transport(engine)
    ids = copying.OldIds(sender, known, f"{name}-old", f"{name}-new", separate_chunks=False)

    def look():
        for _ in read_documents(sender, f"{name}-old", plan("a"), known, on_read=ids.read):
            pass

    await in_thread(look)
    assert await in_thread(ids.deleted) == {}
    gone = {f"d{i}" for i in random.Random(deleted).sample(range(1_200), deleted)}
    await old.ingest([Document(i, {}, op="delete") for i in gone], options)
    sent = engine.requests_sent
    assert await in_thread(ids.deleted) == dict.fromkeys(gone)
    assert engine.requests_sent - sent <= 10  # however many they are
    assert await in_thread(ids.deleted) == {}
    assert await in_thread(ids.counts) == (1_200 - deleted, 1_200)
    missing, extra, both = await in_thread(ids.compare, lambda count: None)
    assert (missing, set(extra), both) == ([], gone, 1_200 - deleted)
    ids.close()


async def test_writes_are_blocked_for_no_look_at_all_documents(client, alias, monkeypatch):
    """Deletes and writes until the last moment are in the new version, and the block reads only those."""
    from esembed._async import migration as module

    index = await AsyncIndex.open(client, alias, encoder=Salted("a"))
    await index.ingest([Document(f"d{i}", {"body": f"text {i}", "n": 0}) for i in range(600, 1_500)])
    block, seen = module.block_writes, []

    async def late(engine, name):
        await index.delete("d7")
        await index.ingest(
            [Document("d8", {"body": "late", "n": 1}), Document("new", {"body": "new", "n": 1})]
        )
        await block(engine, name)
        seen.append(engine.requests_sent)

    monkeypatch.setattr(module, "block_writes", late)
    monkeypatch.setattr(
        module.OldIds,
        "compare",
        lambda *_: pytest.fail("compared while writes are blocked") if seen else ([], {}, 0),
    )
    report = await migrate(client, alias, plan("b"), encoder=Salted("b"))
    assert (report.deleted, report.delta_passes[-1], report.documents) == (1, 2, 1_500)
    assert set(await documents(client, alias)) == {f"d{i}" for i in range(1_500) if i != 7} | {"new"}
    assert (await documents(client, alias))["d8"] == "late"


@pytest.mark.parametrize("late", ["nothing", "deletes"])
async def test_the_block_costs_requests_for_what_happened_since(client, alias, late, monkeypatch):
    from esembed._async import migration as module

    index = await AsyncIndex.open(client, alias, encoder=Salted("a"))
    block, swap, sent = module.block_writes, module.swap, []

    async def blocked(engine, name):
        if late == "deletes":
            for i in range(0, 600, 20):
                await index.delete(f"d{i}")
        await block(engine, name)
        sent.append(engine.requests_sent)

    async def swapped(engine, *args, **options):
        sent.append(engine.requests_sent)
        await swap(engine, *args, **options)

    monkeypatch.setattr(module, "block_writes", blocked)
    monkeypatch.setattr(module, "swap", swapped)
    report = await migrate(client, alias, plan("b"), encoder=Salted("b"))
    assert sent[1] - sent[0] <= (6 if late == "nothing" else 30)
    assert (report.deleted, report.documents) == ((0, 600) if late == "nothing" else (30, 570))
    assert len(await documents(client, alias)) == report.documents


async def test_precomputed_vectors_are_copied_and_counted(client, esembed_index_name):
    def with_precomputed(salt):
        fields = plan(salt).to_dict()
        fields["dense"]["own"] = {"encoder": "precomputed", "dims": 2}
        return IndexPlan.from_dict(fields)

    name = esembed_index_name
    index = await AsyncIndex.create(client, name, with_precomputed("a"), encoder=Salted("a"), alias=False)
    await index.ingest([Document(f"d{i}", {"body": f"text {i}", "own": [1.0, i + 1.0]}) for i in range(50)])
    report = await migrate(
        client, name, with_precomputed("b"), encoder=Salted("b"), options=MigrateOptions(alias=f"{name}-x")
    )
    assert (report.copied, report.encoded, report.vectors_copied) == (("own",), ("e",), 50)
    stored = await (await AsyncIndex.open(client, f"{name}-x")).get("d3", vectors=True)
    assert stored["own"] is not None


def fields_of(salt, **fields):
    """The plan of model *salt* with these fields instead (``s`` is sparse, the others dense; None: none)."""
    whole = plan(salt).to_dict()
    for name, field in fields.items():
        section = whole.setdefault("sparse" if name == "s" else "dense", {})
        section.pop(name, None)
        if field is not None:
            section[name] = field
    return IndexPlan.from_dict(whole)


async def test_a_field_that_becomes_precomputed_keeps_its_vectors(client, esembed_index_name, esembed_engine):
    """An encoder's dense and sparse vectors, and back to an encoder; what was brought before stays."""
    name = esembed_index_name
    lexical = {"encoder": "lexical", "source": ["body"]}
    own = {"encoder": "precomputed", "dims": 2}
    index = await AsyncIndex.create(
        client, f"{name}-v1", fields_of("a", s=lexical, own=own), encoder={"e": Salted("a")}, alias=False
    )
    await index.ingest([Document(f"d{i}", {"body": f"text {i}", "own": [1.0, i + 1.0]}) for i in range(60)])
    actions = [{"add": {"index": f"{name}-v1", "alias": name}}]
    await AsyncEngineClient(client).request("POST", "/_aliases", body={"actions": actions})
    before = await index.get("d7", vectors=True)
    brought = fields_of("a", e={"encoder": "precomputed", "dims": 64}, s={"encoder": "precomputed"}, own=None)
    report = await migrate(client, name, brought)
    assert (set(report.copied), report.encoded) == ({"e", "s"}, ())
    assert report.vectors_copied == 120  # those of "own" stay in the documents, without a field
    index = await AsyncIndex.open(client, name)
    after = await index.get("d7", vectors=True)
    assert after["own"] == [1.0, 8.0]
    assert after["s"] == before["s"]
    (hit,) = await index.search(
        q.knn("e", vector=Salted("a").encode_query(["text 7"])[0].tolist(), k=1), size=1
    )
    assert hit.id == "d7"
    (hit,) = await index.search(q.sparse("s", vector=after["s"]), size=1)
    assert hit.id == "d7"
    # Back to an encoder: the vectors that the record would bring are made again.
    report = await migrate(client, name, fields_of("b", s=None), encoder=Salted("b"))
    assert report.encoded == ("e",)
    (hit,) = await (await AsyncIndex.open(client, name, encoder=Salted("b"))).search(
        q.knn("e", text="text 7", k=1), size=1
    )
    assert hit.id == "d7"


@pytest.mark.parametrize(
    "field",
    [
        {"e": {"encoder": "precomputed", "dims": 32}},
        {"e": {"encoder": "precomputed", "dims": 64, "element_type": "bit", "similarity": "l2_norm"}},
        {"e": None, "s": {"encoder": "precomputed"}},
    ],
)
async def test_vectors_that_cannot_be_taken_over_are_refused(client, alias, field):
    wanted = fields_of("a", **field)
    if "s" in field:  # a sparse field of a dense one's name
        wanted = IndexPlan.from_dict({**wanted.to_dict(), "sparse": {"e": field["s"]}})
    with pytest.raises((PlanError, UnsupportedFeatureError), match=r"Nothing was changed|bit"):
        await migrate(client, alias, wanted)
    assert set(await versions(AsyncEngineClient(client), alias)) == {f"{alias}-v1"}
