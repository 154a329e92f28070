"""Bulk requests on their way: several in flight, paced, tried again, settled one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from esembed.errors import AuthorizationError, EngineRequestError, EsembedError, IndexNotFoundError
from esembed.ingest.bulk import BulkQueue, BulkUnit, Pacer, judge
from esembed.ingest.options import IngestOptions
from esembed.ingest.target import Again, Engine, Stopped

__all__ = ["Sender"]

LAST_BYTES = 256 * 1024
"""What is left at the end is cut no smaller than this."""

SILENCE_SECONDS = 10.0
"""The person is told when nothing was answered for so long."""

Dead = Callable[[BulkUnit, str, "int | None", "str | None"], None]


class Sender:
    """Threads that take units from a queue bounded in bytes and send them.

    Args:
        engine: sends one bulk request and knows how to wait.
        options: limits.
        buffer_bytes: the most bytes that wait here.
        on_done: called with every unit that got in, from a sender's thread.
        on_dead: called with every unit that can't get in, its reason, status and error type.
        on_error: called once with what ended the sending.

    Attributes:
        requests, retried_requests, retried_items, bytes_sent: counts.
    """

    def __init__(
        self,
        engine: Engine,
        options: IngestOptions,
        *,
        buffer_bytes: int,
        on_done: Callable[[BulkUnit], None],
        on_dead: Dead,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._options = options
        self._limit = buffer_bytes
        self._on_done, self._on_dead, self._on_error = on_done, on_dead, on_error
        self._queue = BulkQueue()
        self._pacer = Pacer(max_bytes=options.max_chunk_bytes, max_in_flight=options.max_in_flight)
        self._changed = threading.Condition()
        self._active = 0
        self._out: dict[int, float] = {}  # thread → since when its request is out
        self._closed = self._aborted = self._hurried = False
        self._oldest = 0.0
        self._busy_since = 0.0
        self._busy_seconds = 0.0
        self.requests = self.retried_requests = self.retried_items = self.bytes_sent = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"esembed-bulk-{n}", daemon=True)
            for n in range(options.max_in_flight)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def hurry(self, wanted: bool) -> None:
        """Send at once whatever comes, as long as somebody waits for it to be settled."""
        with self._changed:
            self._hurried = wanted
            self._changed.notify_all()

    # -- the producer's side -----------------------------------------------------------------------

    def put(self, unit: BulkUnit) -> None:
        """Queue a unit; waits while too many bytes wait already. Raises Stopped."""
        with self._changed:
            while self._queue.waiting_bytes and self._queue.waiting_bytes + unit.size > self._limit:
                if self._aborted:
                    break
                self._changed.wait()
            if self._aborted:
                raise Stopped("stopped")
            first = not self._queue.has_ready
            if first:
                self._oldest = time.monotonic()
            self._queue.add(unit)
            # Nobody is woken for nothing: only to begin the wait for company, or when a request may go.
            if first or (self._active < self._pacer.in_flight and self._may_go()):
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes: send what is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the threads; whether all have ended."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether any thread still runs."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def busy_seconds(self) -> float:
        """Seconds during which at least one request was out."""
        with self._changed:
            running = time.monotonic() - self._busy_since if self._active else 0.0
            return self._busy_seconds + running

    # -- the threads ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (units := self._next()) is not None:
                try:
                    self._deliver(units)
                finally:
                    with self._changed:
                        self._active -= 1
                        if not self._active:
                            self._busy_seconds += time.monotonic() - self._busy_since
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the run
            self._on_error(error)

    def _next(self) -> list[BulkUnit] | None:
        with self._changed:
            while not self._aborted:
                if self._closed and self._queue.idle:
                    return None
                wait: float | None = None
                if self._queue.has_ready and self._active < self._pacer.in_flight:
                    wait = self._oldest + self._options.linger_seconds - time.monotonic()
                    if self._may_go() or wait <= 0:
                        units = self._queue.take(self._next_bytes(), self._options.max_chunk_documents)
                        self._oldest = time.monotonic()
                        if not self._active:
                            self._busy_since = self._oldest
                        self._active += 1
                        self._changed.notify_all()
                        return units
                self._changed.wait(wait)
            return None

    def _next_bytes(self) -> int:
        """The most bytes in the next request; what is left in the end is shared by all that may go, so
        that the last one isn't waited for alone."""
        limit = self._pacer.limit_bytes
        if not self._closed:
            return limit
        free = max(1, self._pacer.in_flight - self._active)
        return min(limit, max(self._queue.ready_bytes // free + 1, LAST_BYTES))

    def _may_go(self) -> bool:
        """Whether the next request goes without waiting for company."""
        full = self._queue.ready_bytes >= self._pacer.limit_bytes
        # What is behind another of its id can only go on when that one goes now.
        starved = self._queue.waiting_bytes > self._limit // 2
        return full or self._closed or self._hurried or starved

    def _deliver(self, units: Sequence[BulkUnit]) -> None:
        """Send until every unit is settled; only what failed is sent again."""
        left = list(units)
        following: list[BulkUnit] = []
        first = True

        def attempt() -> None:
            nonlocal left, first
            if self._aborted:
                raise Stopped("stopped")
            again, first = not first, False
            left, reason, retry_after = self._send(left, following, again=again)
            if left:
                raise Again(reason, retry_after_seconds=retry_after)

        try:
            self._engine.patience.retrying()(attempt)
        except Again as error:
            raise self._engine.patience.gave_up(error) from error
        if following:
            self._deliver(following)

    def _send(
        self, units: list[BulkUnit], following: list[BulkUnit], *, again: bool
    ) -> tuple[list[BulkUnit], str, float | None]:
        """One request: the units that are to be sent again, why, and after how many seconds. Units that
        have more to send once this got in are added to *following*."""
        payload = b"".join(line for unit in units for line in unit.lines)
        started = time.monotonic()
        status, body, retry_after = self._bulk(payload)
        seconds = time.monotonic() - started
        verdict = judge(units, status, body)
        with self._changed:
            self.requests += 1
            self.retried_requests += again
            self.retried_items += verdict.retried_lines
            self.bytes_sent += len(payload)
            if status == 413 or verdict.oversized:
                self._pacer.too_large(len(payload))
            elif verdict.pushed_back:
                self._pacer.pushed_back()
            elif status == 200:
                self._pacer.answered(len(payload), seconds)
        if verdict.fatal is not None:
            raise self._fatal(*verdict.fatal, body)
        done = []
        for unit in verdict.done:
            if unit.then:
                unit.lines, unit.then = unit.then, []
                following.append(unit)
            else:
                done.append(unit)
        self._settle(*done, *(unit for unit, *_ in verdict.dead))
        for unit in done:
            self._on_done(unit)
        for unit, reason, code, kind in verdict.dead:
            self._on_dead(unit, reason, code, kind)
        if verdict.done or verdict.dead or verdict.split:
            self._engine.patience.progress()
        if verdict.split:
            if len(verdict.retry) == 1:
                self._deliver_lines(verdict.retry[0])
            else:
                middle = len(verdict.retry) // 2
                self._deliver(verdict.retry[:middle])
                self._deliver(verdict.retry[middle:])
            return [], "", None
        if verdict.oversized and sum(len(unit.lines) for unit in verdict.retry) > 1:
            for unit in verdict.retry:
                if len(unit.lines) > 1:
                    self._deliver_lines(unit)
                else:
                    self._deliver([unit])
            return [], "", None
        return verdict.retry, verdict.blocked or _why(status, body), retry_after

    def _bulk(self, payload: bytes) -> tuple[int | None, Any, float | None]:
        mine = threading.get_ident()
        with self._changed:
            self._out[mine] = time.monotonic()
        try:
            return self._engine.bulk(payload)
        finally:
            with self._changed:
                del self._out[mine]

    def break_silence(self) -> None:
        """Say what is waited for, once a request is out for long and nothing was settled meanwhile: an
        engine holds what comes for a shard that is away, up to a minute, and says nothing."""
        with self._changed:
            out = time.monotonic() - min(self._out.values()) if self._out else 0.0
        patience = self._engine.patience
        if min(out, patience.silent_seconds()) < SILENCE_SECONDS:
            return
        seconds = patience.request_seconds(self._options.request_timeout_seconds)
        patience.tell(
            f"no answer to a bulk request for {out:.0f} s: {self._engine.why_silent()}. It is given "
            f"{seconds:.0f} s, then sent again, for up to "
            f"{patience.max_wait_seconds:.0f} s without progress; after that the run ends, and the same "
            "command resumes"
        )

    def _deliver_lines(self, unit: BulkUnit) -> None:
        """A unit of several lines that is too large for one request: line by line, in order."""
        for line in unit.lines[:-1]:
            part = BulkUnit(unit.id, unit.op, [line], tag=None)
            problem: list[tuple[str, int | None, str | None]] = []
            self._deliver_part(part, problem)
            if problem:
                self._settle(unit)
                self._on_dead(unit, *problem[0])
                return
        unit.lines = unit.lines[-1:]
        self._deliver([unit])

    def _deliver_part(self, part: BulkUnit, problem: list[tuple[str, int | None, str | None]]) -> None:
        def attempt() -> None:
            status, body, retry_after = self._bulk(part.lines[0])
            verdict = judge([part], status, body)
            with self._changed:
                self.requests += 1
                self.retried_items += verdict.retried_lines
                self.bytes_sent += part.size
            if verdict.fatal is not None:
                raise self._fatal(*verdict.fatal, body)
            if verdict.retry:
                raise Again(verdict.blocked or _why(status, body), retry_after_seconds=retry_after)
            problem.extend((reason, code, kind) for _, reason, code, kind in verdict.dead)
            self._engine.patience.progress()

        try:
            self._engine.patience.retrying()(attempt)
        except Again as error:
            raise self._engine.patience.gave_up(error) from error

    def _settle(self, *units: BulkUnit) -> None:
        with self._changed:
            for unit in units:
                self._queue.release(unit)
            self._changed.notify_all()

    def _fatal(self, reason: str, status: int, body: object) -> EsembedError:
        index = self._engine.index
        if status == 404:
            return IndexNotFoundError(f"the index {index!r} is gone: {reason}", index=index)
        kind = AuthorizationError if status in (401, 403) else EngineRequestError
        return kind(f"bulk into {index!r} was refused: {reason}", status=status, reason=reason, body=body)


def _why(status: int | None, body: object) -> str:
    if status is None or status == 200:
        return "no (whole) answer to a bulk request"
    error = body.get("error") if isinstance(body, dict) else None
    reason = error.get("reason") if isinstance(error, dict) else error
    return f"status {status} {reason or ''}".rstrip()
