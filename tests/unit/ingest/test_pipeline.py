"""The flow without an engine: what bounds it, what it tells on the way, how it cuts texts."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esembed.bench.ingest_parts import Sink, TimedEncoder, bench_plan
from esembed.capabilities import Capabilities, Version
from esembed.errors import OptionsError, PermanentError, RecordError
from esembed.ingest.dead_letters import MAX_REASONS, DeadLetters
from esembed.ingest.options import IngestOptions, IngestReport, LogProgress, ProgressState
from esembed.ingest.pipeline import run_ingest
from esembed.ingest.progress import ProgressMeter
from esembed.ingest.sources import FileSource, Source
from esembed.ingest.stages import send as sender
from esembed.ingest.stages.chunk import Chunker
from esembed.plan import ChunkOptions, DenseField, IndexPlan
from esembed.transport import Response
from esembed.types import ItemError

CAPABILITIES = Capabilities(engine="elasticsearch", version=Version(9, 5), base64_vectors=True)
BUFFER = 400_000


class Gate(Sink):
    """An engine that answers no bulk request before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.arrived = threading.Event()

    def request(self, method: str, path: str, **more: Any) -> Any:
        if path.endswith("/_bulk"):
            self.arrived.set()
            self.open.wait()
        return super().request(method, path, **more)


class SlowEncoder(TimedEncoder):
    """An encoder that makes no vector before it is told to."""

    def __init__(self) -> None:
        super().__init__(8, 0.0)
        self.open = threading.Event()
        self.arrived = threading.Event()

    def encode_document(self, texts: Any) -> Any:
        self.arrived.set()
        self.open.wait()
        return super().encode_document(texts)


class Counting:
    """Records, and how many were taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.count):
            self.taken += 1
            yield {"id": f"r{number}", "title": "t", "body": "word " * 100, "n": number}


def run(records: Any, client: Any, encoder: Any, *, progress: Any = None, **options: Any) -> IngestReport:
    options.setdefault("buffer_bytes", BUFFER)
    options.setdefault("max_request_bytes", 50_000)
    return run_ingest(
        records,
        client=client,
        index="sink",
        plan=bench_plan("custom:timed", 8),
        capabilities=CAPABILITIES,
        encoders={"emb": encoder},
        options=IngestOptions(flush_interval_seconds=0.01, **options),
        progress=progress,
    )


@pytest.mark.parametrize("slow", ["engine", "encoder"])
def test_whatever_is_slow_stops_the_reader(slow: str) -> None:
    """Memory is bounded because reading is: a stalled stage holds up all before it."""
    engine, encoder = Gate(), SlowEncoder()
    stalled = engine if slow == "engine" else encoder
    (encoder if slow == "engine" else engine).open.set()
    records = Counting(20_000)
    done: list[IngestReport] = []
    thread = threading.Thread(target=lambda: done.append(run(records, engine, encoder)), daemon=True)
    thread.start()
    assert stalled.arrived.wait(30)
    before = -1
    while before != records.taken:  # until the reader stands still
        before = records.taken
        time.sleep(0.5)
    # A record takes at least 500 bytes anywhere; four requests and one encode batch are out besides.
    assert records.taken < (BUFFER + 4 * 50_000 + 50_000) / 500 + 256
    stalled.open.set()
    thread.join(60)
    assert done[0].indexed == 20_000


def test_no_bulk_request_waits_for_the_encoder_to_be_done() -> None:
    """The first records are in the engine while later ones are still read."""
    engine, encoder = Gate(), TimedEncoder(8, 0.0)
    engine.open.set()

    def records() -> Iterator[dict[str, Any]]:
        yield from Counting(300)
        assert engine.arrived.wait(30), "nothing was sent while the source was still open"
        yield {"id": "last", "title": "t", "body": "b"}

    assert run(records(), engine, encoder).indexed == 301


def test_strict_stops_at_the_first_bad_record() -> None:
    rows = [{"id": "a", "title": "t"}, {"id": "b"}, {"id": "c", "title": {}}]
    with pytest.raises(RecordError, match="the fields 'title', 'body'") as caught:
        run(rows, Sink(), TimedEncoder(8, 0.0), strict=True)
    assert (caught.value.record_id, caught.value.position) == ("b", "record 2")


def test_a_full_disk_under_the_dead_letters_ends_the_run() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("needs /dev/full, a disk that is full")
    rows = [{"id": "a", "title": "t"}, {"id": "b"}, {"id": "c", "title": "t"}]
    with pytest.raises(PermanentError, match="No space left on device"):
        run(rows, Sink(), TimedEncoder(8, 0.0), dead_letters=full)
    assert full.is_char_device()


def test_the_report_has_every_stage_and_adds_up() -> None:
    records: list[Any] = [{"id": str(n), "title": "some words"} for n in range(50)]
    report = run([*records, {"id": "bad"}, 7], Sink(), TimedEncoder(8, 0.0), transform=_without_three)
    assert (report.read, report.indexed, report.dead_lettered, report.skipped) == (52, 49, 2, 1)
    plain = report.to_dict()
    assert plain["adds_up"]
    assert {"read", "lookup", "encode", "serialize", "bulk"} <= set(plain["stage_seconds"])
    assert set(plain["stage_shares"]) == set(plain["stage_seconds"])
    for name in ("tokens", "truncated", "cost_usd", "bytes_sent", "requests", "documents_per_second"):
        assert plain[name] >= 0
    assert plain["bytes_sent"] > 0
    paid = IngestReport(read=3, indexed=2, unchanged=1, seconds=1.5, tokens=40, truncated=1, cost_usd=0.00123)
    assert paid.summary() == (
        "3 read, 2 indexed (0 new, 2 replaced), 1 unchanged in 1.5 s (2/s); 40 tokens encoded for about "
        "0.00123 USD; 1 texts were cut to what their encoder takes"
    )


def test_the_report_groups_reasons_and_prints_as_its_summary() -> None:
    rows = [{"id": str(n), "title": {"n": n}} for n in range(40)]
    rows += [{"id": f"b{n}", "title": "t", "price": float("nan")} for n in range(3)]
    report = run(rows, Sink(), TimedEncoder(8, 0.0))
    assert [(found.count, found.position) for found in report.reasons] == [(40, "record 1"), (3, "record 41")]
    lines = str(report).splitlines()
    assert lines[0].startswith("43 read, 0 indexed, 43 dead")
    assert lines[1:] == [
        "  40 × title holds a dict; an encoder needs text (record 1)",
        "  3 × price is nan, which JSON has no form for; leave it out, or ingest with on_nan=null "
        "(--on-nan null) (record 41)",
    ]
    assert report.to_dict()["reasons"][0]["count"] == 40


def test_the_engines_reasons_are_grouped_without_what_is_the_single_records(tmp_path: Path) -> None:
    letters = DeadLetters(None)
    field = "failed to parse field [{}] of type [boolean] in document with id '{}'. "
    field += "Preview of field's value: '{}'"
    for n in range(30):
        reason = f"the engine refuses it: [1:{n}] " + field.format("on", f"S{n}", n)  # Elasticsearch
        letters.write(ItemError(str(n), reason, 400, f"f:{n}"), None)
        letters.write(
            ItemError(str(n), "the engine refuses it: " + field.format("off", n, n), 400, None), None
        )
    assert [found.count for found in letters.reasons.values()] == [30, 30]
    for n in range(MAX_REASONS + 50):
        letters.write(ItemError(None, "x" * n, None, None), None)
    assert len(letters.reasons) == MAX_REASONS + 1
    assert sum(found.count for found in letters.reasons.values()) == letters.count


def _without_three(record: dict[str, Any]) -> dict[str, Any] | None:
    return None if record["id"] == "3" else record


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in ("progress", "options"):
            monkeypatch.setattr(f"esembed.ingest.{module}.time.monotonic", lambda: self.now)


def test_the_rest_is_estimated_from_what_is_settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)
    report = IngestReport()
    meter = ProgressMeter(Source([{}] * 1000), report, None)
    assert meter.state("load", 0).eta_seconds is None, "nothing is settled: nothing can be said"
    for second in range(1, 11):
        clock.now += 1
        report.read, report.indexed = 90 * second, 10 * second
        state = meter.state("load", 0)
    assert (state.total, state.fraction, state.done) == (1000, 0.1, 100)
    assert state.documents_per_second == pytest.approx(10)
    assert state.eta_seconds == pytest.approx(90), "900 are left at 10 a second, however much was read"
    # A file: its bytes so far, at the average size of a record.
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 100)
    source, report = FileSource([path]), IngestReport()
    meter = ProgressMeter(source, report, None)
    source.bytes_read, report.read, report.indexed = 450, 50, 25
    clock.now += 5
    state = meter.state("load", 0)
    assert state.fraction == pytest.approx(0.25)
    assert state.eta_seconds == pytest.approx(15)
    # A generator has no end that could be known.
    meter = ProgressMeter(Source(iter([])), report, None)
    clock.now += 5
    assert meter.state("load", 0).eta_seconds is None


def test_a_log_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    progress = LogProgress()
    state = ProgressState(
        phase="load", read=90, done=50, dead_lettered=1, total=100, fraction=0.5, seconds=60.0,
        documents_per_second=2.5, eta_seconds=20.0,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "esembed.ingest"):
        for _ in range(150):
            clock.now += 1
            progress.update(state)
    assert len(caplog.records) == 2
    assert caplog.messages[0] == (
        "load: 50 records settled (50.0%), 1 dead, 2/s, 60 s so far, about 20 s left"
    )


# -- chunks ------------------------------------------------------------------------------------------------


class WordEncoder(TimedEncoder):
    """One token a word and one for each full stop; shows its tokenizer as transformer encoders do."""

    def __init__(self) -> None:
        super().__init__(8, 0.0)
        tokenizers = pytest.importorskip("tokenizers")
        words = ["[UNK]", ".", "#", *(f"w{n}" for n in range(400))]
        model = tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]")
        self.tokenizer = tokenizers.Tokenizer(model)
        self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        self.tokenizer.enable_truncation(5)  # what an encoder does for itself must not cut the count


def chunker(**options: Any) -> Chunker:
    pytest.importorskip("semantic_text_splitter")
    plan = IndexPlan(
        dense={"emb": DenseField(encoder="custom:hash", dims=8, chunked=True)},
        chunk=ChunkOptions(source=("body",), **options),
    )
    return Chunker(plan, {"emb": WordEncoder()})


def sentences(count: int, words: int) -> list[str]:
    return [" ".join(f"w{s * words + n}" for n in range(words)) + "." for s in range(count)]


def test_chunks_end_with_sentences_and_keep_to_the_encoders_tokens() -> None:
    parts = sentences(12, 7)  # eight tokens each
    cut = chunker(max_tokens=24, overlap_tokens=0)
    assert cut.counted_by == "tokenizer"
    assert cut(" ".join(parts)) == [" ".join(parts[n : n + 3]) for n in range(0, 12, 3)]


def test_chunks_overlap_by_whole_sentences() -> None:
    parts = sentences(9, 7)
    cut = chunker(max_tokens=24, overlap_tokens=8)(" ".join(parts))
    assert cut == [" ".join(parts[n : n + 3]) for n in range(0, 7, 2)]


def test_a_sentence_beyond_the_limit_is_cut_between_words() -> None:
    (long,) = sentences(1, 100)
    cut = chunker(max_tokens=30, overlap_tokens=0)(long)
    assert " ".join(cut) == long
    assert all(len(piece.split()) <= 30 for piece in cut)
    words = chunker(max_tokens=30, overlap_tokens=10, boundary="word")(long)
    assert [piece.split()[0] for piece in words] == ["w0", "w20", "w40", "w60", "w80"]


def test_markdown_is_cut_at_its_headings() -> None:
    text = "# w1 w2\n\nw3 w4 w5.\n\n# w6 w7\n\nw8 w9 w10.\n"
    assert chunker(max_tokens=9, overlap_tokens=0, boundary="markdown")(text) == [
        "# w1 w2\n\nw3 w4 w5.",
        "# w6 w7\n\nw8 w9 w10.",
    ]


def test_what_json_has_no_form_for_is_told_with_its_field() -> None:
    rows = [{"id": "a", "title": "t", "body": "b"}, {"id": "b", "title": "t", "body": "half of a \ud83d"}]
    report = run(rows, Sink(), TimedEncoder(8, 0.0))
    [error] = report.errors
    assert (error.id, error.position) == ("b", "record 2")
    assert error.reason.startswith("'body' can't be written as JSON: a string holds a lone surrogate")


class Red(Gate):
    """An engine that holds bulk requests for a shard without a node, as both engines do."""

    def request(self, method: str, path: str, **more: Any) -> Any:
        if "/_cluster/health" in path:
            return Response(200, {"status": "red" if self.arrived.is_set() else "green"})
        return super().request(method, path, **more)


def test_a_load_that_gets_no_answer_says_early_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "STALL_SECONDS", 0.3)
    engine, seen = Red(), []

    class Told(LogProgress):
        def notice(self, message: str) -> None:
            seen.append(message)
            engine.open.set()  # the shard comes back

    report = run(Counting(20), engine, TimedEncoder(8, 0.0), progress=Told(), max_wait_seconds=77.0)
    assert report.indexed == 20
    assert "sink is red, a primary shard is on no node" in seen[0]
    assert "It is given 77 s, then sent again, for up to 77 s without progress" in seen[0]
    assert "the same command resumes" in seen[0]
    assert seen[1:] == [seen[1]]
    assert "takes requests again" in seen[1]


@pytest.mark.parametrize("name", ["max_wait_seconds", "request_timeout_seconds", "flush_interval_seconds"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, True, "60", None])
def test_seconds_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(OptionsError, match=rf"options\.{name}: must be a number of at least"):
        IngestOptions(**{name: value})


@pytest.mark.parametrize("value", [0, 1.5, True, "4", None])
def test_counts_are_whole_numbers(value: Any) -> None:
    with pytest.raises(OptionsError, match=r"options\.max_in_flight: must be a whole number of at least 1"):
        IngestOptions(max_in_flight=value)
