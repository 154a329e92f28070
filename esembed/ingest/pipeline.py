"""The flow: read → look up and cut → encode → serialise → bulk, overlapped, bounded, with back-pressure.

Each stage is a thread; between two stages stands a queue bounded in bytes, so a slow engine or a slow
encoder stops the reader and never grows memory. Only :mod:`esembed.ingest.target` and
:mod:`esembed.ingest.stages.send` try anything again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.inference import plan_pipeline
from esembed.encode.base import Encoder
from esembed.encode.transformer.runner import interruptible
from esembed.errors import (
    EsembedError,
    IndexChangedError,
    InvariantError,
    MappingDriftError,
    OptionsError,
    RecordError,
)
from esembed.ingest.ledger import Ledger
from esembed.ingest.load_settings import LoadTuning, check_durability
from esembed.ingest.options import IngestOptions, IngestReport, LogProgress, Progress
from esembed.ingest.outcomes import Ends
from esembed.ingest.progress import ProgressMeter, StageClock
from esembed.ingest.queues import ByteQueue
from esembed.ingest.reconcile import reconcile
from esembed.ingest.sources.mapper import RecordMapper, Source, open_source
from esembed.ingest.stages.chunk import Chunker
from esembed.ingest.stages.encode import BatchEncoder
from esembed.ingest.stages.lookup import Lookup, Pending
from esembed.ingest.stages.prepare import Preparer, Work
from esembed.ingest.stages.send import Sender
from esembed.ingest.stages.serialize import UnitBuilder
from esembed.ingest.target import Engine, Patience, Requester, Stopped
from esembed.plan import IndexPlan

__all__ = ["run_ingest"]

LOOKUP_DOCUMENTS = 2_000
"""The most records in one look-up."""


def run_ingest(
    records: Iterable[Any],
    *,
    client: Requester,
    index: str,
    plan: IndexPlan,
    capabilities: Capabilities,
    encoders: Mapping[str, Encoder],
    options: IngestOptions | None = None,
    progress: Progress | None = None,
    total: int | None = None,
    token_ids: Mapping[str, Mapping[str, int]] | None = None,
    stop: threading.Event | None = None,
) -> IngestReport:
    """Put records into an index that exists. Blocks; run it in a thread from async code.

    Args:
        records: a Source, paths, or an iterable of mappings, Documents and (id, mapping) pairs.
        client: sends requests, without retries of its own; called from several threads.
        index: the index, or an alias of one.
        plan: the index's plan.
        capabilities: of the engine.
        encoders: field → encoder, for every vector field that isn't ``given``.
        options: see IngestOptions.
        progress: told how far it is; None logs a line a minute.
        total: how many records there will be, where the source doesn't know.
        token_ids: sparse field → token → id, for SEISMIC.
        stop: set it from outside to end the run early.

    Returns:
        the report; its counts add up.

    Raises:
        RecordError: the first bad record, with ``strict``.
        PermanentError: more than ``max_errors`` dead letters, an encoder that takes no text at all.
        EngineUnavailableError: the engine was away for longer than ``max_wait_seconds``. The same call
            resumes.
        AuthorizationError, IndexNotFoundError, EngineRequestError: nothing can get in.
        OptionsError: the index has an asynchronous translog; options that contradict the plan.
        SourceError: a source that isn't there.
        MappingDriftError: what the engine encodes has lost its pipeline.
        IndexChangedError: the index was deleted and made again during the load.
    """
    return _Run(
        open_source(records), client, index, plan, capabilities, encoders, options or IngestOptions(),
        progress or LogProgress(), total, token_ids, stop or threading.Event(),
    ).run()  # fmt: skip


class _Run:
    """One ingest: its threads, its counts."""

    def __init__(
        self,
        source: Source,
        client: Requester,
        index: str,
        plan: IndexPlan,
        capabilities: Capabilities,
        encoders: Mapping[str, Encoder],
        options: IngestOptions,
        progress: Progress,
        total: int | None,
        token_ids: Mapping[str, Mapping[str, int]] | None,
        stop: threading.Event,
    ) -> None:
        self.source, self.plan, self.options, self.progress = source, plan, options, progress
        self.report = IngestReport(index=index)
        self.kind = capabilities.kind
        self.stop = stop
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self.clock = StageClock()
        self.encoders = {
            n: encoders[n] for n, p in plan.vector_fields() if not p.precomputed and n in encoders
        }
        self._before = {
            id(e): (e.stats.tokens, e.stats.truncated, e.stats.cost_usd) for e in self.encoders.values()
        }
        self.patience = Patience(options.max_wait_seconds, stop, self.notice)
        self.engine = Engine(client, index, self.patience, options.request_timeout_seconds)
        self.preparer = Preparer(
            plan,
            self.encoders,
            missing_text=options.missing_text,
            nan=options.nan,
            require_given=not options.vectors_only,
        )
        declared = {*plan.text, *plan.filter, *dict(plan.vector_fields())}
        self.mapper = RecordMapper(
            id_field=plan.id_field,
            op_field=None if options.op_field in declared else options.op_field,
            fields=options.fields,
            transform=options.transform,
        )
        self.pending = Pending()
        self.ends = Ends(self.report, options, self.pending, self.fail)
        chunked = any(part.chunked for part in self.preparer.encoded.values())
        self.chunker = Chunker(plan, self.encoders) if chunked and plan.chunk is not None else None
        if self.chunker is not None and plan.chunk is not None:
            if self.chunker.counted_by == "words":
                self.notice(
                    "the encoder shows no tokenizer: chunks are measured in words (4 tokens for 3 words)"
                )
            if self.chunker.max_tokens < plan.chunk.max_tokens:
                self.notice(f"chunks are kept to {self.chunker.max_tokens} tokens, what the encoder takes")
        quarter = max(1, options.buffer_bytes // 4)
        self.read_queue: ByteQueue[Work] = ByteQueue(quarter)
        self.encode_queue: ByteQueue[list[Work]] = ByteQueue(quarter)
        self.write_queue: ByteQueue[Future[list[Work]] | list[Work]] = ByteQueue(quarter)
        self.batch_bytes = max(1, quarter // 2)
        self.sender = Sender(
            self.engine,
            options,
            buffer_bytes=quarter,
            on_done=self.ends.done,
            on_dead=self.ends.refused,
            on_error=self.fail,
        )
        self.units = UnitBuilder(
            dialect_for(capabilities).documents.bulk(plan, token_ids), vectors_only=options.vectors_only
        )
        self.encode = BatchEncoder(plan, self.encoders, self.ends.bury_pending)
        for dense, sparse in self.encode.shared:
            self.report.notices.append(f"{dense}, {sparse}: both vectors from one pass of their model")
        self.meter = ProgressMeter(source, self.report, total)

    # -- the whole -------------------------------------------------------------------------------------

    def run(self) -> IngestReport:
        started = time.monotonic()
        settings = self.engine.settings()
        check_durability(settings, self.engine.index)
        self._check_inside(settings)
        tuning = LoadTuning(self.engine, self.plan, self.kind, self.notice)
        uuid = settings.get("uuid")
        if self.options.verify or self.options.sync:
            self.ends.seen = Ledger(None)
        if self.options.ledger is not None:
            binding = "/".join((*self.engine.identity(), self.preparer.contract))
            self.ends.ledger = Ledger(self.options.ledger, binding)
        try:
            self.engine.wait_for_primaries()
            if self.options.tuning:
                tuning.begin(settings)
            self.engine.refresh()
            empty = self.engine.count() == 0
            try:
                self._load(empty)
            except BaseException:
                # Whatever happened: the index must not stay without refresh and replicas. What the
                # marker remembers is put back by the next run when this one can't.
                self._restore_quietly(tuning)
                raise
            self._finish(tuning, uuid, empty)
        finally:
            self.ends.close()
            self._count(started)
        self.progress.update(self.meter.state("done", self._tokens()))
        return self.report

    def _check_inside(self, settings: Mapping[str, Any]) -> None:
        """Fields that the engine encodes need the index's pipeline, and whole documents."""
        inside = sorted(self.preparer.inside)
        if not inside:
            return
        names = ", ".join(inside)
        if self.options.vectors_only:
            raise OptionsError(
                f"{names}: vectors that the engine computes can't be filled in afterwards (its ingest "
                "pipelines don't see partial updates); ingest the records again, or migrate to a new index",
                option="options.vectors_only",
            )
        wanted = plan_pipeline(self.plan, self.kind)
        found = settings.get("default_pipeline")
        if wanted is not None and found != wanted[0]:
            raise MappingDriftError(
                f"{names}: the index's default_pipeline is {found or 'not set'}, and without {wanted[0]} "
                "nothing computes these vectors; esembed index repair puts it back",
                index=self.engine.index,
                differences=(f"default_pipeline: {found or 'not set'} instead of {wanted[0]}",),
            )
        self.report.notices.append(
            f"{names}: encoded by the engine; tokens, truncation and the model's identity are not seen here"
        )

    def _restore_quietly(self, tuning: LoadTuning) -> None:
        self.stop.clear()
        self.patience.max_wait_seconds = min(self.patience.max_wait_seconds, 5.0)
        try:
            tuning.end()
        except EsembedError as error:
            self.notice(f"the index's settings could not be put back ({error}); the next run does it")

    def _finish(self, tuning: LoadTuning, uuid: Any, empty: bool) -> None:
        tuning.end()
        tuning.merge()
        if self.options.refresh or self.ends.seen is not None:
            self.engine.refresh()
        if self.engine.settings().get("uuid") != uuid:
            raise IndexChangedError(
                f"the index {self.engine.index!r} was deleted and made again during the load; run it again",
                index=self.engine.index,
            )
        if self.ends.seen is not None:
            with self.clock.timed("reconcile"):
                reconcile(
                    self.engine, self.plan, self.ends.seen, self.options, self.report,
                    phase=lambda name: self.progress.update(self.meter.state(name, self._tokens())),
                )  # fmt: skip
        self.report.statistics = self.ends.statistics.result(self.encoders)
        self.report.statistics_complete = empty and not self.ends.statistics.unsettled

    def _load(self, empty: bool) -> None:
        self.lookup = Lookup(
            self.engine,
            self.plan,
            self.preparer,
            self.pending,
            chunker=self.chunker,
            ledger=None if self.options.verify else self.ends.ledger,
            ask=not empty,
            compare=self.options.resume,
            vectors_only=self.options.vectors_only,
            on_unchanged=self.ends.unchanged,
            on_dead=self.ends.bury,
            hurry=self.sender.hurry,
        )
        stages: list[tuple[str, Callable[[], None]]] = [
            ("read", self._read),
            ("lookup", self._look_up),
            ("encode", self._encode),
            ("serialise", self._serialise),
        ]
        threads = [
            threading.Thread(target=self._guard, args=(stage,), name=f"esembed-{name}", daemon=True)
            for name, stage in stages
        ]
        self.sender.start()
        for thread in threads:
            thread.start()
        try:
            while any(t.is_alive() for t in threads) or self.sender.alive:
                if self._error is None:
                    # The senders are the last to end: the wait ends with them.
                    self.sender.join(0.25)
                    self.sender.break_silence()
                    if self.stop.is_set():
                        self.fail(Stopped("the run was stopped; run it again, it resumes"))
                for thread in threads:
                    thread.join(0.05 if self._error is not None else 0)
                if self._error is not None:
                    self.sender.join(0.2)
                self.progress.update(self.meter.state("load", self._tokens()))
        except BaseException as error:
            self.fail(error)
            self.sender.join(10.0)
            for thread in threads:
                thread.join(5.0)
            raise
        if self._error is not None:
            raise self._error

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the run
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """The first error ends the run; what follows from it is not another one."""
        with self._lock:
            if self._error is None:
                self._error = error
            elif isinstance(error, Stopped):
                return
        self.stop.set()
        for queue in (self.read_queue, self.encode_queue, self.write_queue):
            queue.abort()
        self.pending.abort()
        self.sender.abort()

    def notice(self, message: str) -> None:
        """Tell the person, and keep it for the report."""
        with self._lock:
            self.report.notices.append(message)
        self.progress.notice(message)

    # -- stages ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        records = iter(self.source)
        while True:
            with self.clock.timed("read"):
                piece = next(records, None)
                if piece is None:
                    break
                self.report.read += 1
                work = self._prepare(piece)
            if work is not None:
                self.read_queue.put(work, work.size)
        self.report.complete = True
        self.read_queue.close()

    def _prepare(self, piece: Any) -> Work | None:
        if isinstance(piece, RecordError):
            self.report.read_errors += 1
            self.ends.bury(None, piece)
            return None
        document = None
        try:
            document = self.mapper(piece)
            if document is None:
                self.ends.skipped()
                return None
            return self.preparer.prepare(document)
        except RecordError as error:
            error.position = error.position or piece.position
            shown = document or piece
            if error.record_id is None:
                error.record_id = shown.id
            if error.record_id is None and not self._known_id(error, piece):
                self.report.read_errors += 1
            self.ends.bury(Work(document=shown, id=error.record_id or "", op=shown.op, source={}), error)
            return None

    def _known_id(self, error: RecordError, piece: Any) -> bool:
        """A dead letter whose id is known keeps its document from being taken for gone (sync)."""
        for key in ("_id", self.plan.id_field, "id"):
            value = piece.source.get(key) if key else None
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                error.record_id = str(value)
                return True
        return False

    def _look_up(self) -> None:
        # One question for many records costs the engine less; without questions no batch waits for it.
        most = max(self.options.encode_batch_documents, LOOKUP_DOCUMENTS if self.lookup.asks else 0)
        ended = False
        while not ended:
            batch: list[Work] = []
            size = 0
            try:
                first = self.read_queue.get()
                if first is None:
                    break
                batch, size = [first], first.size
                until = time.monotonic() + self.options.linger_seconds
                while len(batch) < most and size < self.batch_bytes:
                    following = self.read_queue.get(max(0.0, until - time.monotonic()))
                    if following is None:
                        ended = True
                        break
                    batch.append(following)
                    size += following.size
            except TimeoutError:
                pass
            with self.clock.timed("lookup"):
                self.lookup(batch, self._forward)
        self.encode_queue.close()
        if self.chunker is not None:
            self.clock.shift("lookup", "chunk", self.lookup.chunk_seconds)

    def _forward(self, works: list[Work]) -> None:
        started = time.monotonic()
        most = self.options.encode_batch_documents
        for batch in (works[at : at + most] for at in range(0, len(works), most)):
            self.encode_queue.put(batch, sum(w.size for w in batch))
        # Room in the queue is what the encoder owes, not work of this stage.
        self.clock.shift("lookup", None, time.monotonic() - started)

    def _encode(self) -> None:
        if self.options.encode_workers == 1:
            while (batch := self.encode_queue.get()) is not None:
                done = self._encode_batch(batch)
                self.write_queue.put(done, sum(w.encoded_size for w in done))
        else:
            # Several at a time, handed on in order: the order within an id must be the source's.
            with ThreadPoolExecutor(self.options.encode_workers, "esembed-encode") as pool:
                waiting: deque[Future[list[Work]]] = deque()
                while (batch := self.encode_queue.get()) is not None:
                    waiting.append(pool.submit(self._encode_batch, batch))
                    while waiting and (len(waiting) >= self.options.encode_workers or waiting[0].done()):
                        done = waiting.popleft().result()
                        self.write_queue.put(done, sum(w.encoded_size for w in done))
                for future in waiting:
                    done = future.result()
                    self.write_queue.put(done, sum(w.encoded_size for w in done))
        self.write_queue.close()

    def _encode_batch(self, batch: list[Work]) -> list[Work]:
        with self.clock.timed("encode"), interruptible(self.stop):
            return self.encode(batch)

    def _serialise(self) -> None:
        while (batch := self.write_queue.get()) is not None:
            for work in batch if isinstance(batch, list) else batch.result():
                with self.clock.timed("serialise"):
                    try:
                        unit = self.units(work)
                    except RecordError as error:
                        error.record_id, error.position = work.id, work.document.position
                        self.ends.bury_pending(work, error)
                        continue
                self.sender.put(unit)
        self.sender.close()

    # -- counts ----------------------------------------------------------------------------------------------

    def _tokens(self) -> int:
        known = {id(e): e for e in self.encoders.values()}
        return sum(e.stats.tokens - self._before[key][0] for key, e in known.items())

    def _count(self, started: float) -> None:
        report = self.report
        report.seconds = time.monotonic() - started
        report.stage_seconds = {**self.clock.seconds, "bulk": self.sender.busy_seconds}
        known = {id(e): e for e in self.encoders.values()}
        report.tokens = self._tokens()
        report.truncated = sum(e.stats.truncated - self._before[k][1] for k, e in known.items())
        report.cost_usd = sum(e.stats.cost_usd - self._before[k][2] for k, e in known.items())
        report.chunks = self.lookup.chunks if hasattr(self, "lookup") else 0
        report.bytes_read = self.source.bytes_read
        report.bytes_sent = self.sender.bytes_sent
        report.requests = self.sender.requests
        report.retried_requests = self.sender.retried_requests
        report.retried_items = self.sender.retried_items
        report.waited_seconds = self.patience.waited_seconds
        report.errors = self.ends.dead.errors
        report.reasons = sorted(self.ends.dead.reasons.values(), key=lambda found: -found.count)
        report.dead_letters = self.options.dead_letters if self.ends.dead.count else None
        if report.complete and self._error is None and not report.adds_up:
            raise InvariantError(f"the counts don't add up: {report.to_dict()}")
