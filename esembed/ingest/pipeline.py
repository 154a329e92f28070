"""The pipeline: read → prepare → look up → chunk → encode → serialize → send, overlapped, bounded.

Each stage runs in a thread of its own (prepare with the reading, chunk with the look-up); between two threads
stands a queue bounded in bytes, so a slow engine or a slow encoder stops the reader and memory never grows.
The first failure ends all of them. Only :mod:`esembed.ingest.backoff` tries anything again.

:func:`run_ingest` is the whole: it changes the index's settings, runs a :class:`Pipeline`, puts them back
and compares the index with the source.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from typing import Any, Generic, TypeVar

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.alias import NO_ALIAS, AliasProperties
from esembed.dialect.source_rules import missing_source
from esembed.encode.base import Encoder
from esembed.encode.transformer.runner import interruptible
from esembed.errors import (
    DeleteLimitError,
    EsembedError,
    InvariantError,
    MappingDriftError,
    OptionsError,
    UnsupportedFeatureError,
)
from esembed.ingest.backoff import IngestCancelled, RetryPolicy
from esembed.ingest.id_table import IdTable
from esembed.ingest.load_settings import LoadSettings, check_durability
from esembed.ingest.options import ON_MISSING_TEXT, IngestOptions, IngestReport, LogProgress, Progress
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.progress import ProgressMeter, StageClock, StepProgress
from esembed.ingest.reconcile import reconcile
from esembed.ingest.record import PreparedRecord
from esembed.ingest.sources import Source, open_source
from esembed.ingest.sources.index import made_again
from esembed.ingest.stages.chunk import ChunkStage
from esembed.ingest.stages.encode import EncodeStage
from esembed.ingest.stages.lookup import LookupStage
from esembed.ingest.stages.prepare import PrepareStage
from esembed.ingest.stages.send import SendStage
from esembed.ingest.stages.serialize import SerializeStage
from esembed.ingest.target import TargetIndex
from esembed.ingest.written import WrittenSample, foreign_pipelines
from esembed.plan import IndexPlan
from esembed.transport import Transport

__all__ = ["ByteQueue", "Pipeline", "run_ingest"]

T = TypeVar("T")

LOOKUP_DOCUMENTS = 2_000
"""The most records in one look-up: a question for many ids costs the engine less than many questions, and
beyond this the answer's own size counts."""

RESTORE_WAIT_SECONDS = 5.0
"""How long the settings are tried to be restored after a failure: the person waits for the error, and the
next run can do it, too."""

TICK_SECONDS = 0.25
"""How often the thread that waits for the run looks around; progress is shown about as often."""


def run_ingest(
    records: Iterable[Any],
    *,
    client: Transport,
    index: str,
    plan: IndexPlan,
    capabilities: Capabilities,
    encoders: Mapping[str, Encoder],
    options: IngestOptions | None = None,
    progress: Progress | None = None,
    total: int | None = None,
    token_ids: Mapping[str, Mapping[str, int]] | None = None,
    stop: threading.Event | None = None,
    alias: AliasProperties = NO_ALIAS,
) -> IngestReport:
    """Put records into an index that exists. Blocks; run it in a thread from async code.

    Args:
        records: a Source, paths, or an iterable of mappings, Documents and (id, mapping) pairs.
        client: sends requests, without retries of its own; called from several threads.
        index: the index, or an alias of one.
        plan: the index's plan.
        capabilities: of the engine.
        encoders: field → encoder, for every vector field that isn't ``precomputed``.
        options: see IngestOptions.
        progress: told how far it is; None logs a line a minute.
        total: how many records there will be, where the source doesn't know.
        token_ids: sparse field → id table, for SEISMIC.
        stop: set it from outside to end the run early.
        alias: the properties of the alias that the caller named *index* by: what is written gets its
            routing, and documents that it hides are neither read nor replaced.

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
        DeleteLimitError: *sync* would delete more than ``sync_max_delete``; all the rest was done, and the
            error has the report.
    """
    options = options or IngestOptions()
    progress = progress or LogProgress()
    stop = stop or threading.Event()
    source = open_source(records)
    return _Run(
        source, client, index, plan, capabilities, encoders, options, progress, total, token_ids, stop, alias
    ).run()


class Pipeline:
    """The stages of one ingest, wired: their threads, the queues between them, one failure for all.

    Built from what the stages need; nothing starts before :meth:`run`.

    Args:
        source: the records.
        plan, capabilities, options: of the run.
        encoders: field → encoder.
        target: the index.
        outcomes: where records leave; started and closed by the caller.
        token_ids: sparse field → id table, for SEISMIC.
        stop: ends the run early when it is set; set by the first failure.

    Attributes:
        prepare, lookup, chunk, encode, serialize, send: the stages.
        clock: how long each was at work.
    """

    def __init__(
        self,
        source: Source,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        encoders: Mapping[str, Encoder],
        target: TargetIndex,
        outcomes: Outcomes,
        token_ids: Mapping[str, Mapping[str, int]] | None = None,
        stop: threading.Event,
    ) -> None:
        self._source, self._options, self._outcomes, self._stop = source, options, outcomes, stop
        of = (plan, capabilities, options)
        self.prepare = PrepareStage(*of, encoders=encoders, outcomes=outcomes)
        self.lookup = LookupStage(*of, target=target, preparer=self.prepare.preparer, outcomes=outcomes)
        self.chunk = ChunkStage(*of, encoders=encoders, outcomes=outcomes)
        self.encode = EncodeStage(*of, encoders=encoders, outcomes=outcomes)
        self.serialize = SerializeStage(*of, token_ids=token_ids, outcomes=outcomes)
        # Three queues and the sender's own share what may wait in all.
        quarter = max(1, options.buffer_bytes // 4)
        self.send = SendStage(*of, target=target, outcomes=outcomes, buffer_bytes=quarter)
        self.clock = StageClock()
        self._prepared: ByteQueue[PreparedRecord] = ByteQueue(quarter)
        self._to_encode: ByteQueue[list[PreparedRecord]] = ByteQueue(quarter)
        self._encoded: ByteQueue[list[PreparedRecord]] = ByteQueue(quarter)
        # Half a queue: the next batch gathers while one is looked up.
        self._batch_bytes = max(1, quarter // 2)
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def failed(self) -> bool:
        """Whether something ended the run."""
        return self._error is not None

    def start(self) -> None:
        """What the stages can prepare without the index. Raises what one of them can't do without."""
        self.prepare.start()
        self.chunk.start()
        self.encode.start()
        self.serialize.start()

    def run(self, *, ask: bool, tick: Callable[[], None]) -> None:
        """All records from the source to their outcomes. Blocks.

        Args:
            ask: whether the index is asked what it has (False: it is empty).
            tick: called a few times a second.

        Raises:
            BaseException: what ended the run, whatever thread it came from.
        """
        self.lookup.start(ask=ask, flush=self.send.flush_now)
        stages: list[tuple[str, Callable[[], None]]] = [
            ("read", self._read),
            ("lookup", self._look_up),
            ("encode", self._encode),
            ("serialize", self._serialize),
        ]
        threads = [
            # Daemons: a source that waits for its next byte (an open pipe) can't be woken, and must not keep
            # a process alive that was interrupted.
            threading.Thread(target=self._guard, args=(stage,), name=f"esembed-{name}", daemon=True)
            for name, stage in stages
        ]
        self.send.start(on_error=self.fail)
        for thread in threads:
            thread.start()
        try:
            while any(t.is_alive() for t in threads) or self.send.alive:
                if self._error is None:
                    # The senders are the last to end: the wait ends with them.
                    self.send.join(TICK_SECONDS)
                    self.send.report_stall()
                    if self._stop.is_set():
                        self.fail(IngestCancelled("the run was stopped; run it again, it resumes"))
                for thread in threads:
                    thread.join(0.05 if self._error is not None else 0)
                if self._error is not None:
                    self.send.join(0.2)
                tick()
        except BaseException as error:
            # An interrupt: what is out may still be answered and counted, but nobody waits for long.
            self.fail(error)
            self.send.join(10.0)
            for thread in threads:
                thread.join(5.0)
            raise
        if self._error is not None:
            raise self._error

    def fail(self, error: BaseException) -> None:
        """The first error ends the run; what follows from it is not another one."""
        with self._lock:
            if self._error is None:
                self._error = error
            elif isinstance(error, IngestCancelled):
                return
        self._stop.set()
        for queue in (self._prepared, self._to_encode, self._encoded):
            queue.abort()
        self._outcomes.in_flight.abort()
        self.send.abort()

    def report(self) -> IngestReport:
        """The reports of all stages and the records' outcomes, together."""
        parts = [stage.report() for stage in (self.prepare, self.lookup, self.chunk, self.encode)]
        parts += [self.serialize.report(), self.send.report(), self._outcomes.report()]
        whole = reduce(IngestReport.merge, parts)
        whole.bytes_read = self._source.bytes_read
        whole.stage_seconds = {**self.clock.seconds, **whole.stage_seconds}
        return whole

    # -- the threads ---------------------------------------------------------------------------------

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the run
            self.fail(error)

    def _read(self) -> None:
        records = iter(self._source)
        while True:
            with self.clock.timed("read"):
                read = next(records, None)
                if read is None:
                    break
                record = self.prepare(read)
            if record is not None:
                self._prepared.put(record, record.size)
        # Only here, when the source said that it has no more: sync deletes nothing after a run without this.
        self._outcomes.counts.complete = True
        self._prepared.close()

    def _look_up(self) -> None:
        # One question for many records costs the engine less; without questions no batch waits for it.
        most = max(self._options.encode_batch_documents, LOOKUP_DOCUMENTS if self.lookup.asks else 0)
        for batch in self._gathered(most):
            with self.clock.timed("lookup"):
                self.lookup(batch, self._forward)
        self._to_encode.close()
        if self.chunk.seconds:
            self.clock.shift("lookup", "chunk", self.chunk.seconds)

    def _gathered(self, most: int) -> Iterator[list[PreparedRecord]]:
        """Batches of up to *most* records, or of what comes within the flush interval."""
        while (first := self._prepared.get()) is not None:
            batch, size = [first], first.size
            until = time.monotonic() + self._options.flush_interval_seconds
            with contextlib.suppress(TimeoutError):
                while len(batch) < most and size < self._batch_bytes:
                    following = self._prepared.get(max(0.0, until - time.monotonic()))
                    if following is None:
                        break
                    batch.append(following)
                    size += following.size
            yield batch

    def _forward(self, records: list[PreparedRecord]) -> None:
        records = self.chunk(records)
        started = time.monotonic()
        most = self._options.encode_batch_documents
        for batch in (records[at : at + most] for at in range(0, len(records), most)):
            self._to_encode.put(batch, sum(record.size for record in batch))
        # Room in the queue is what the encoder owes, not work of this stage.
        self.clock.shift("lookup", None, time.monotonic() - started)

    def _encode(self) -> None:
        if self._options.encode_workers == 1:
            while (batch := self._to_encode.get()) is not None:
                self._hand_on(self._encode_batch(batch))
        else:
            # Several at a time, handed on in order: the order within an id must be the source's.
            workers = self._options.encode_workers
            with ThreadPoolExecutor(workers, "esembed-encode") as pool:
                waiting: deque[Future[list[PreparedRecord]]] = deque()
                while (batch := self._to_encode.get()) is not None:
                    waiting.append(pool.submit(self._encode_batch, batch))
                    while waiting and (len(waiting) >= workers or waiting[0].done()):
                        self._hand_on(waiting.popleft().result())
                for future in waiting:
                    self._hand_on(future.result())
        self._encoded.close()

    def _hand_on(self, records: list[PreparedRecord]) -> None:
        self._encoded.put(records, sum(record.encoded_size for record in records))

    def _encode_batch(self, batch: list[PreparedRecord]) -> list[PreparedRecord]:
        with self.clock.timed("encode"), interruptible(self._stop):
            return self.encode(batch)

    def _serialize(self) -> None:
        while (batch := self._encoded.get()) is not None:
            for record in batch:
                with self.clock.timed("serialize"):
                    action = self.serialize(record)
                if action is not None:
                    self.send.put(action)
        self.send.close()


class _Run:
    """One ingest: the pipeline, and what comes before and after it."""

    def __init__(
        self,
        source: Source,
        transport: Transport,
        index: str,
        plan: IndexPlan,
        capabilities: Capabilities,
        encoders: Mapping[str, Encoder],
        options: IngestOptions,
        progress: Progress,
        total: int | None,
        token_ids: Mapping[str, Mapping[str, int]] | None,
        stop: threading.Event,
        alias: AliasProperties,
    ) -> None:
        self.plan, self.capabilities, self.options, self.progress = plan, capabilities, options, progress
        self.index, self.stop, self.source = index, stop, source
        self.warnings: list[str] = []
        self._foreign_pipelines: list[str] = []
        self._lock = threading.Lock()
        self.retry = RetryPolicy(options.max_wait_seconds, stop, self.warn)
        self.target = TargetIndex(
            transport, index, capabilities, self.retry, options.request_timeout_seconds, alias=alias
        )
        self.outcomes = Outcomes(options)
        self._settled = 0
        made = {n: encoders[n] for n, p in plan.vector_fields() if not p.precomputed and n in encoders}
        self._encoders = made
        self.pipeline = Pipeline(
            source, plan, capabilities, options, encoders=made, target=self.target,
            outcomes=self.outcomes, token_ids=token_ids, stop=stop,
        )  # fmt: skip
        self.meter = ProgressMeter(source, self.outcomes.counts, total)

    def run(self) -> IngestReport:
        started = time.monotonic()
        self.outcomes.start()
        self.pipeline.start()
        for message in self.source.warnings:
            self.warn(message)
        if self.options.on_missing_text == "skip":
            self.warn(ON_MISSING_TEXT)
        for message in self.pipeline.chunk.warnings():
            self.progress.notice(message)
        settings = self.target.settings()
        check_durability(settings, self.index)
        self._check_inside(settings)
        self._check_kept()
        self._foreign_pipelines = foreign_pipelines(settings)
        rules = self.target.source_rules
        if self._foreign_pipelines or rules.ignore_malformed or rules.malformed:
            self.outcomes.sample = WrittenSample(self.plan)
        load = LoadSettings(self.target, self.plan, dialect_for(self.capabilities).mapping, self.warn)
        uuid = settings.get("uuid")
        self.target.pin(None if uuid is None else str(uuid))
        if self.options.verify or self.options.sync:
            self.outcomes.source_ids = IdTable()
        try:
            self.target.wait_for_primaries()
            # The count sees only what is searchable. Both before the settings are changed, which are restored
            # only once the stages have begun: a server that refuses one of these keeps its settings.
            self.target.refresh()
            empty = self.target.count() == 0
            if self.outcomes.source_ids is not None:
                # Who may not read the index back would be told when all of it is written.
                self.target.try_scan()
            if self.options.apply_load_settings:
                load.begin(settings)
            try:
                self.pipeline.run(ask=not empty, tick=self._tick)
            except BaseException:
                # Whatever happened: the index must not stay without refresh and replicas. What the
                # marker remembers is restored by the next run when this one can't.
                self._restore_quietly(load)
                raise
            self._tell_settled()
            self._restore(load)
            try:
                report = self._checked(uuid, empty)
            except DeleteLimitError as error:
                error.report.seconds = time.monotonic() - started
                raise
        finally:
            self.outcomes.close()
        report.seconds = time.monotonic() - started
        self._show("done")
        return report

    def warn(self, message: str) -> None:
        """Notify the person, and keep it for the report."""
        with self._lock:
            self.warnings.append(message)
        self.progress.notice(message)

    def _step(self, phase: str) -> StepProgress:
        return StepProgress(self.progress, phase, total=self.outcomes.counts.read)

    def _tick(self) -> None:
        self._show("load")
        self._tell_settled()

    def _tell_settled(self) -> None:
        watermark, told = self.outcomes.watermark, self.options.on_settled
        if watermark is None or told is None:
            return
        settled = watermark.where()
        if settled.records > self._settled:
            self._settled = settled.records
            told(settled)

    def _show(self, phase: str) -> None:
        self.progress.update(self.meter.state(phase, self.pipeline.encode.tokens))

    def _check_inside(self, settings: Mapping[str, Any]) -> None:
        """Fields that the engine encodes need the index's pipeline, and whole documents."""
        inside = sorted(self.pipeline.prepare.preparer.inside)
        if not inside:
            return
        names = ", ".join(inside)
        if self.options.vectors_only:
            raise OptionsError(
                f"{names}: vectors that the engine computes can't be filled in afterward (its ingest "
                "pipelines don't see partial updates); ingest the records again, or migrate to a new index",
                option="options.vectors_only",
            )
        wanted = dialect_for(self.capabilities).mapping.pipeline(self.plan)
        found = settings.get("default_pipeline")
        if wanted is not None and found != wanted[0]:
            raise MappingDriftError(
                f"{names}: the index's default_pipeline is {found or 'not set'}, and without {wanted[0]} "
                "nothing computes these vectors; esembed index repair puts it back",
                index=self.index,
                differences=(f"default_pipeline: {found or 'not set'} instead of {wanted[0]}",),
            )
        self.warnings.append(
            f"{names}: encoded by the engine; tokens, truncation and the model's identity are not seen here"
        )

    def _check_kept(self) -> None:
        """Partial updates of whole batches lose what isn't in ``_source``, in every document.

        Raises:
            UnsupportedFeatureError: *vectors_only* on an index that leaves other fields out.
        """
        if not self.options.vectors_only:
            return
        gone = missing_source(self.target.lost, made_again(self.plan))
        if gone:
            raise UnsupportedFeatureError(
                [
                    f"filling vector fields is a partial update of each document, which would lose "
                    f"{', '.join(map(repr, gone[:5]))}: {self.target.source_rules.reason(gone)}; ingest the "
                    "records from where they came from into an index made from the plan"
                ],
                profile=f"the index {self.index}",
            )

    def _look_at_what_was_done(self, report: IngestReport) -> None:
        """Tell what the engine did with records that isn't what was asked for."""
        named = ", ".join(map(repr, self._foreign_pipelines))
        who = f"the index's ingest pipeline {named}" if named else "the engine"
        if report.dropped:
            self.warn(
                f"{report.dropped} records were dropped by {who}: they are not in the index, and every run "
                "encodes them again; leave them out with a transform hook, or change the pipeline"
            )
        if report.rerouted:
            places = ", ".join(sorted(self.outcomes.elsewhere))
            self.warn(
                f"{report.rerouted} records were put elsewhere by {who} ({places}): they are not in the "
                "index under their id, and every run encodes them again; write there, or change the pipeline"
            )
        if self.outcomes.sample is not None:
            for line in self.outcomes.sample.compare(self.target, who):
                self.warn(line)

    def _restore_quietly(self, load: LoadSettings) -> None:
        # Set, it would end the retries of these requests, too: after one 429 the index would stay without its
        # replicas.
        self.stop.clear()
        self.retry.max_wait_seconds = min(self.retry.max_wait_seconds, RESTORE_WAIT_SECONDS)
        try:
            load.end()
        except EsembedError as error:
            self.warn(f"the index's settings could not be restored ({error}); the next run does it")

    def _restore(self, load: LoadSettings) -> None:
        # Settings first: a merge takes long, and a run that is killed in it leaves them as they were.
        load.end()
        segments = self.plan.load.force_merge_segments
        if segments is not None:
            # Minutes on a large index, in one request that says nothing before its end.
            with StepProgress(self.progress, "merge"):
                self.target.force_merge(segments)
        if self.options.refresh or self.outcomes.source_ids is not None:
            with StepProgress(self.progress, "refresh"):
                self.target.refresh()

    def _checked(self, uuid: Any, empty: bool) -> IngestReport:
        """The report, once the index is known to be the same and, where it was asked for, compared."""
        # The last look: an index that was made again since the last bulk request is seen here alone.
        if self.target.settings().get("uuid") != uuid:
            raise self.target.changed()
        report = self.pipeline.report()
        report.index = self.index
        for message in self.outcomes.about_letters():
            self.progress.notice(message)  # they are in the report already
        self._look_at_what_was_done(report)
        report.statistics_complete = empty and not self.outcomes.replaced
        refused: DeleteLimitError | None = None
        if self.outcomes.source_ids is not None:
            with self.pipeline.clock.timed("reconcile"):
                try:
                    reconcile(
                        self.target,
                        self.plan,
                        self.outcomes.source_ids,
                        self.options,
                        report,
                        phase=self._step,
                        warn=self.warn,
                        capabilities=self.capabilities,
                        encoders=self._encoders,
                    )
                except DeleteLimitError as error:
                    refused = error
            report.stage_seconds["reconcile"] = self.pipeline.clock.seconds["reconcile"]
        if self.options.refresh or self.outcomes.source_ids is not None:
            report.documents = self.target.documents()
        report.warnings += self.warnings
        if refused is not None:
            report.warnings.append(refused.message)
            refused.report = report
        if not report.adds_up:
            raise InvariantError(f"the counts don't add up: {report.to_dict()}")
        if refused is not None:
            raise refused
        return report


class ByteQueue(Generic[T]):
    """Items wait here, at most *limit_bytes* of them together (but always at least one).

    Raises:
        IngestCancelled: from put and get, once the run was aborted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> None:
        """Wait until there is room, then add."""
        with self._changed:
            while self._items and self._bytes + size > self._limit and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise IngestCancelled("stopped")
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def get(self, timeout_seconds: float | None = None) -> T | None:
        """The next item; None when the queue is closed and empty.

        Raises:
            TimeoutError: nothing came in time.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            while not self._items:
                if self._aborted:
                    raise IngestCancelled("stopped")
                if self._closed:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)
            if self._aborted:
                raise IngestCancelled("stopped")
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """End both sides now."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()
