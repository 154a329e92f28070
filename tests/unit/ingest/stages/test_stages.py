"""Stages as a distributed runner uses them: pickled, started elsewhere, their reports merged."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from esembed.capabilities import Capabilities, profile
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import EncoderError, EngineUnavailableError, InvariantError, PermanentError, RecordError
from esembed.ingest.backoff import RetryPolicy
from esembed.ingest.dead_letters import Reason
from esembed.ingest.id_table import IdTable
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.pipeline import run_ingest
from esembed.ingest.record import PreparedRecord
from esembed.ingest.sources import Source
from esembed.ingest.stages.chunk import Chunker, ChunkStage
from esembed.ingest.stages.encode import EncodeStage
from esembed.ingest.stages.lookup import LookupStage
from esembed.ingest.stages.prepare import PrepareStage
from esembed.ingest.stages.send import SendStage
from esembed.ingest.stages.serialize import SerializeStage
from esembed.ingest.target import TargetIndex
from esembed.plan import ChunkOptions, DenseField, FilterField, IndexPlan, SparseField, TextField
from esembed.transport import Response
from esembed.types import Document, ItemError

DIMS = 4
PLAN = IndexPlan(
    text={"title": TextField()},
    dense={"emb": DenseField(encoder="custom:letters", source=("title",), dims=DIMS)},
    sparse={"terms": SparseField(encoder="lexical", source=("title",))},
    filter={"n": FilterField(type="integer")},
)
CHUNKED = IndexPlan(
    dense={"emb": DenseField(encoder="custom:letters", source=("body",), dims=DIMS, chunked=True)},
    chunk=ChunkOptions(source=("body",), max_tokens=8, overlap_tokens=0, boundary="word", store="documents"),
)
CAPABILITIES = profile("elasticsearch-basic")
OPTIONS = IngestOptions(max_wait_seconds=5.0)


@dataclass
class Letters:
    """A vector of how often four letters stand in a text; it pickles."""

    stats: EncodeStats = field(default_factory=EncodeStats)

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(spec="custom:letters", type="dense", dims=DIMS, model="letters")

    def encode_document(self, texts: Sequence[str]) -> Any:
        self.stats.tokens += sum(len(text.split()) for text in texts)
        return np.array([[1 + text.count(letter) for letter in "etao"] for text in texts], np.float32)

    encode_query = encode_document

    def close(self) -> None:
        """Nothing."""


def encoders(plan: IndexPlan) -> dict[str, Any]:
    made: dict[str, Any] = {name: Letters() for name in plan.dense}
    return made | {name: LexicalEncoder() for name in plan.sparse}


@dataclass
class FakeIndex:
    """An engine with one index in this process's memory; it pickles with what it holds."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Response:
        if path.endswith("/_bulk"):
            return Response(200, {"items": list(self._bulk(body.splitlines()))})
        if path.endswith("/_mget"):
            found = [(doc_id, self.documents.get(doc_id)) for doc_id in body["ids"]]
            return Response(
                200, {"docs": [{"_id": i, "found": d is not None, "_source": d} for i, d in found]}
            )
        if path.endswith("/_settings"):
            return Response(200, {"fake": {"settings": {"index": {"uuid": "fake"}}}})
        if path.endswith("/_mapping"):
            return Response(200, {"fake": {"mappings": {}}})
        return Response(200, {"count": len(self.documents)})

    def _bulk(self, lines: Sequence[bytes]) -> Any:
        rest = iter(lines)
        for line in rest:
            ((op, action),) = orjson.loads(line).items()
            doc_id = action["_id"]
            new = doc_id not in self.documents
            if op == "delete":
                self.documents.pop(doc_id, None)
            else:
                body = orjson.loads(next(rest))
                if body.get("n") == 13:
                    yield {op: {"status": 400, "error": {"type": "unlucky", "reason": "thirteen"}}}
                    continue
                self.documents[doc_id] = body if op == "index" else {**self.documents[doc_id], **body["doc"]}
            yield {op: {"status": 200, "result": "created" if new else "updated"}}


def leave_out_five(record: dict[str, Any]) -> Mapping[str, Any] | None:
    return None if record.get("n") == 5 else record


def rows(start: int, end: int) -> list[Document | RecordError]:
    made: list[Document | RecordError] = [
        Document(str(n), {"title": f"number {n} of them", "n": n}, position=f"row {n}")
        for n in range(start, end)
    ]
    return [*made, Document(None, {"id": f"bad{start}", "title": {}}, position="bad"), RecordError("torn")]


@dataclass
class Stages:
    """All stages of one worker, in one piece."""

    index: FakeIndex
    outcomes: Outcomes
    prepare: PrepareStage
    lookup: LookupStage
    chunk: ChunkStage
    encode: EncodeStage
    serialize: SerializeStage
    send: SendStage

    @classmethod
    def built(
        cls, plan: IndexPlan, options: IngestOptions = OPTIONS, capabilities: Capabilities = CAPABILITIES
    ) -> Stages:
        index, outcomes = FakeIndex(), Outcomes(options)
        target = TargetIndex(index, "fake", capabilities, RetryPolicy(options.max_wait_seconds), 10.0)
        of, made = (plan, capabilities, options), encoders(plan)
        prepare = PrepareStage(*of, encoders=made, outcomes=outcomes)
        return cls(
            index,
            outcomes,
            prepare,
            LookupStage(*of, target=target, preparer=prepare.preparer, outcomes=outcomes),
            ChunkStage(*of, encoders=functools.partial(encoders, plan), outcomes=outcomes),
            EncodeStage(*of, encoders=functools.partial(encoders, plan), outcomes=outcomes),
            SerializeStage(*of, outcomes=outcomes),
            SendStage(*of, target=target, outcomes=outcomes),
        )

    def run(self, records: Sequence[Document | RecordError]) -> IngestReport:
        """One worker's share, stage by stage."""
        self.outcomes.start()
        stages = (self.prepare, self.lookup, self.chunk, self.encode, self.serialize, self.send)
        for stage in stages:
            stage.start()
        prepared = [found for record in records if (found := self.prepare(record)) is not None]
        going_on: list[PreparedRecord] = []
        self.lookup(prepared, going_on.extend)
        for record in self.encode(self.chunk(going_on)):
            if (action := self.serialize(record)) is not None:
                self.send.put(action)
        self.send.close()
        assert self.send.join(10.0)
        report = self.outcomes.report()
        for stage in stages:
            report = report.merge(stage.report())
        return report


def work(pickled: bytes, records: Sequence[Document | RecordError]) -> tuple[IngestReport, dict[str, Any]]:
    """What a worker does with the stages that it is sent."""
    stages: Stages = pickle.loads(pickled)
    return stages.run(records), stages.index.documents


COUNTS = [
    "read", "indexed", "updated", "deleted", "unchanged", "dead_lettered", "skipped", "created",
    "tokens", "truncated", "chunks", "read_errors",
]  # fmt: skip


def counts(report: IngestReport) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(report, name) for name in COUNTS}
    found["reasons"] = {(r.reason, r.count) for r in report.reasons}
    found["errors"] = sorted((e.id or "", e.reason) for e in report.errors)
    return found | {name: (s.documents, s.total_terms, s.df) for name, s in report.statistics.items()}


@pytest.mark.parametrize("plan", [PLAN, CHUNKED], ids=["whole", "chunked"])
def test_a_pickled_stage_does_what_the_one_at_hand_does(plan: IndexPlan) -> None:
    if plan is CHUNKED:
        pytest.importorskip("semantic_text_splitter")
    before = threading.active_count()
    stages = Stages.built(plan, IngestOptions(transform=leave_out_five))
    copy: Stages = pickle.loads(pickle.dumps(stages))
    assert threading.active_count() == before, "no stage starts a thread before it is started"
    for name in ("prepare", "lookup", "chunk", "encode", "serialize", "send"):
        alone = pickle.loads(pickle.dumps(getattr(stages, name)))
        assert alone.name == getattr(stages, name).name
        assert alone.report() == getattr(stages, name).report()
    text = " ".join(f"word{n}" for n in range(30))
    feed = [Document(str(n), {"body": f"{n} {text}"}, position=str(n)) for n in range(3)]
    records = rows(0, 20) if plan is PLAN else feed
    here, there = stages.run(records), copy.run(records)
    assert counts(here) == counts(there)
    assert stages.index.documents == copy.index.documents
    assert here.adds_up
    assert here.chunks == (24 if plan is CHUNKED else 0)
    # What is in is unchanged the next time, also for a stage that was sent with what it knows.
    again = Stages.built(plan, IngestOptions(transform=leave_out_five))
    again.index.documents.update(stages.index.documents)
    third = pickle.loads(pickle.dumps(again)).run(records)
    assert (third.unchanged, third.indexed) == (here.indexed, 0)


def test_two_workers_and_one_run_count_the_same() -> None:
    options = IngestOptions(transform=leave_out_five)
    pickled = pickle.dumps(Stages.built(PLAN, options))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        remote = pool.submit(work, pickled, rows(0, 12))
        ours, mine = work(pickled, rows(12, 30))
        theirs, other = remote.result(60)
    merged = ours.merge(theirs)
    index = FakeIndex()
    single = run_ingest(
        [*rows(0, 12), *rows(12, 30)],
        client=index,
        index="fake",
        plan=PLAN,
        capabilities=CAPABILITIES,
        encoders=encoders(PLAN),
        options=options,
    )
    assert counts(merged) == counts(single)
    assert {**mine, **other} == index.documents
    assert (single.read, single.indexed, single.dead_lettered, single.skipped) == (34, 28, 5, 1)
    assert merged.bytes_sent == single.bytes_sent
    assert merged.adds_up


def test_a_merge_keeps_to_what_each_half_knows() -> None:
    def terms(documents: int) -> LexicalStatistics:
        df = {"a": documents}
        return LexicalStatistics(analyzer="x", documents=documents, total_terms=9, df=df)

    one = IngestReport(
        index="i", read=3, indexed=2, dead_lettered=1, complete=True, seconds=2.0,
        stage_seconds={"read": 1.0, "bulk": 2.0},
        errors=[ItemError("a", "why 1", None, None)], reasons=[Reason("why 1", "f:1", 1)],
        statistics={"t": terms(2)}, statistics_complete=True, warnings=["n"],
    )  # fmt: skip
    two = IngestReport(
        read=1, dead_lettered=1, complete=False, seconds=3.0, stage_seconds={"read": 1.0},
        errors=[ItemError("b", "why 2", None, None)],
        reasons=[Reason("why 2", "f:2", 1), Reason("no", None, 5)],
        statistics={"t": terms(1)}, dead_letters=Path("d.jsonl"),
    )  # fmt: skip
    both = one.merge(two)
    assert (both.index, both.read, both.dead_lettered, both.seconds) == ("i", 4, 2, 3.0)
    assert both.stage_seconds == {"read": 2.0, "bulk": 2.0}
    assert [(r.reason, r.position, r.count) for r in both.reasons] == [("no", None, 5), ("why 1", "f:1", 2)]
    assert [e.id for e in both.errors] == ["a", "b"]
    assert both.statistics["t"].df == {"a": 3}
    assert not both.complete, "the second one read, and not to its end"
    assert not both.statistics_complete
    assert both.dead_letters == Path("d.jsonl")
    encoded = IngestReport(tokens=7)
    assert one.merge(encoded).complete, "who read nothing says nothing about the reading"
    assert one.merge(encoded).statistics_complete
    assert encoded.merge(one) == one.merge(encoded)
    assert IngestReport(complete=True).merge(IngestReport()).complete, "an empty source, read to its end"


def test_a_sender_on_its_own_raises_what_ended_it() -> None:
    class Closed(FakeIndex):
        def request(self, method: str, path: str, **more: Any) -> Response:
            return Response(403, {"error": {"type": "security_exception", "reason": "no"}})

    outcomes = Outcomes(OPTIONS)
    target = TargetIndex(Closed(), "fake", CAPABILITIES, RetryPolicy(1.0), 10.0)
    stage = SendStage(PLAN, CAPABILITIES, OPTIONS, target=target, outcomes=outcomes)
    stage.start()
    action = SerializeStage(PLAN, CAPABILITIES, OPTIONS, outcomes=outcomes).action(
        PreparedRecord(document=Document("1", {}), id="1", op="delete", source={})
    )
    stage.put(action)
    stage.close()
    with pytest.raises(PermanentError, match="security_exception"):
        stage.join(10.0)


# -- what one record raises is that record's dead letter, in every stage -----------------------------------


class Panic(BaseException):
    """What a panic in Rust code looks like to Python: no Exception."""


Panic.__module__ = "pyo3_runtime"


class Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


ODD = [
    ValueError("odd"),
    RuntimeError("odd"),
    KeyError("odd"),
    RecursionError("odd"),
    Panic("odd"),
    Unshowable(),
]


@dataclass
class Picky(Letters):
    """Raises for a text with *word* in it."""

    word: str = "odd"
    error: BaseException = field(default_factory=lambda: ValueError("odd"))
    lost_after: int | None = None
    taken: int = 0

    def encode_document(self, texts: Sequence[str]) -> Any:
        if self.lost_after is not None and self.taken >= self.lost_after:
            raise RuntimeError("the device is gone")
        if any(self.word in text for text in texts):
            raise self.error
        self.taken += len(texts)
        return super().encode_document(texts)


def feed(count: int, odd: Sequence[int]) -> list[Document]:
    return [
        Document(str(n), {"title": f"{'odd' if n in odd else 'even'} {n}", "n": 100 + n}, position=f"row {n}")
        for n in range(count)
    ]


def run(
    records: Sequence[Any], *, plan: IndexPlan = PLAN, index: FakeIndex | None = None, **more: Any
) -> tuple[IngestReport, FakeIndex]:
    index = index or FakeIndex()
    made = encoders(plan) | more.pop("encoders", {})
    options = IngestOptions(max_wait_seconds=5.0, **more)
    report = run_ingest(
        records, client=index, index="fake", plan=plan, capabilities=CAPABILITIES, encoders=made,
        options=options,
    )  # fmt: skip
    return report, index


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_a_text_that_an_encoder_can_not_take_is_one_dead_letter(error: BaseException) -> None:
    report, index = run(feed(30, [0, 8, 21]), encoders={"emb": Picky(error=error)})
    assert (report.indexed, report.dead_lettered) == (27, 3)
    assert sorted(e.position or "" for e in report.errors) == ["row 0", "row 21", "row 8"]
    assert {"0", "8", "21"}.isdisjoint(index.documents)
    assert report.errors[0].reason.startswith("the encoder of 'emb' refuses this text: ")


ODD_ANSWERS: list[Any] = [
    None, "x", [1.0] * DIMS, np.ones((1, DIMS), np.float32), np.array([1, None, 2, 3], object),
    np.array([1j] * DIMS), np.float32(1), np.array(["a"] * DIMS), {"a": 1.0}, np.array([np.nan] * DIMS),
    np.array([np.inf] * DIMS),
]  # fmt: skip


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_encoder_that_makes_no_vector_of_a_text(answer: Any) -> None:
    class Odd(Letters):
        def encode_document(self, texts: Sequence[str]) -> Any:
            made = super().encode_document(texts)
            return [answer if "odd" in text else row for text, row in zip(texts, made, strict=True)]

    report, _ = run(feed(9, [4]), encoders={"emb": Odd()})
    assert (report.indexed, report.dead_lettered, report.errors[0].position) == (8, 1, "row 4")
    if isinstance(answer, np.ndarray) and answer.dtype.kind == "f" and answer.ndim == 1:
        return
    with pytest.raises(EncoderError, match=r"it made .* for 'emb'; a vector is an array of real numbers"):
        run(feed(9, range(9)), encoders={"emb": Odd()})


@pytest.mark.parametrize("odd", [range(3), ()], ids=["after bad texts", "at once"])
def test_an_encoder_that_takes_nothing_any_more_ends_the_run(odd: Sequence[int]) -> None:
    """Else every record that is left would be a dead letter."""
    with pytest.raises(RuntimeError, match="the device is gone"):
        run(feed(40, odd), encoders={"emb": Picky(lost_after=10)}, encode_batch_documents=5)
    with pytest.raises(RuntimeError, match="the device is gone"):
        run(feed(40, odd), encoders={"emb": Picky(lost_after=0)})


@pytest.mark.parametrize("error", [MemoryError(), EngineUnavailableError("away"), InvariantError("a fault")])
def test_what_says_nothing_about_the_record_ends_the_run(error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(feed(30, [7]), encoders={"emb": Picky(error=error)})


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_a_text_that_can_not_be_cut_is_one_dead_letter(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("semantic_text_splitter")

    def cut(self: Chunker, text: str) -> list[str]:
        if "odd" in text:
            raise error
        return [text]

    monkeypatch.setattr(Chunker, "__call__", cut)
    records = [Document(str(n), {"body": "odd" if n == 3 else "even"}, position=str(n)) for n in range(9)]
    report, index = run(records, plan=CHUNKED)
    assert (report.indexed, report.dead_lettered) == (8, 1)
    assert report.errors[0].position == "3"
    assert report.errors[0].reason.startswith("cutting it into chunks failed: ")
    assert "3" not in index.documents


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    "stored",
    [{"big": 2**70}, {"big": -(2**64)}, {"list": [{"x": 10**30}]}, {"deep": _nested(300)}, {"s": "\ud800"}],
    ids=["big", "negative", "in a list", "deep", "half a character"],
)  # fmt: skip
def test_an_update_of_what_json_writers_refuse_is_one_dead_letter(stored: dict[str, Any]) -> None:
    """Other programs write what our own JSON writer doesn't take: OpenSearch stores integers of any length in
    fields that it doesn't index."""
    index = FakeIndex({"1": {"title": "one", "n": 1, **stored}, "2": {"title": "two", "n": 2}})
    updates = [Document(n, {"n": 5}, "update", f"row {n}") for n in "12"]
    report, _ = run(updates, index=index)
    assert (report.updated, report.dead_lettered) == (1, 1)
    assert (report.errors[0].id, report.errors[0].position) == ("1", "row 1")
    assert (index.documents["1"]["n"], index.documents["2"]["n"]) == (1, 5)


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_a_record_that_can_not_be_written_is_one_dead_letter(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = SerializeStage.action

    def once(self: SerializeStage, record: PreparedRecord) -> Any:
        if record.id == "3":
            raise error
        return action(self, record)

    monkeypatch.setattr(SerializeStage, "action", once)
    report, index = run(feed(9, []))
    assert (report.indexed, report.dead_lettered, report.errors[0].position) == (8, 1, "row 3")
    assert "3" not in index.documents


class _Bad(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("odd")

    values = items


@pytest.mark.parametrize(
    "record",
    [
        {"id": 10**5000, "title": "x"}, {"id": "\ud800", "title": "x"}, _Bad(id="x"), {"title": _Bad(a=1)},
        Document(5, {"title": "x"}), Document("\ud800", {"title": "x"}),  # type: ignore[arg-type]
        Document(["a"], {"title": {}}), {None: 1, "id": "z"},  # type: ignore[arg-type]
        Document("1", {"title": "x"}, "drop"), Document("1", {"title": "x"}, None),  # type: ignore[arg-type]
        Document("1", {"title": "x"}, ["index"]), Document("1", None),  # type: ignore[arg-type]
        Document("1", [1]), Document("1", {"title": "x"}, routing=5),  # type: ignore[arg-type]
        Document("1", {"title": "x"}, routing="\ud800"), Document("1", {}, "delete", routing="\ud800"),
        {"esembed_dead_letter": 2, "reason": "r", "record": {"title": "x"}, "title": "x"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("verify", [False, True])
def test_a_record_of_any_shape_is_one_dead_letter(record: Any, verify: bool) -> None:
    report, index = run([*feed(3, []), record, *feed(2, [])], verify=False, strict=False)
    assert (report.dead_lettered, len(index.documents)) == (1, 3)
    if verify:
        outcomes = Outcomes(OPTIONS)
        outcomes.start()
        outcomes.source_ids = IdTable()
        stage = PrepareStage(PLAN, CAPABILITIES, OPTIONS, encoders=encoders(PLAN), outcomes=outcomes)
        for read in Source([record]):
            assert stage(read) is None
        len(outcomes.source_ids)
        outcomes.close()
