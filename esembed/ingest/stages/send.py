"""Bulk requests on their way: several in flight, paced, tried again, settled one by one."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from esembed.capabilities import Capabilities
from esembed.errors import AuthorizationError, EngineRequestError, EsembedError, IndexNotFoundError
from esembed.ingest.backoff import IngestCancelled, RetryableError
from esembed.ingest.bulk import BulkAction, BulkQueue, Pacer
from esembed.ingest.bulk_answer import classify
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan

__all__ = ["BulkOutcomes", "SendStage"]

LAST_BYTES = 256 * 1024
"""What is left at the end is cut no smaller than this."""

STALL_SECONDS = 10.0
"""The person is told when nothing was answered for so long."""


class BulkOutcomes(Protocol):
    """Told what became of each action, from the senders' threads; :class:`Outcomes` is one."""

    def confirmed(self, action: BulkAction) -> None:
        """It is in."""
        ...

    def refused(self, action: BulkAction, reason: str, status: int | None, error_type: str | None) -> None:
        """It can't get in."""
        ...


class SendStage:
    """Threads that take actions from a queue bounded in bytes and send them.

    Args:
        plan, capabilities, options: of the run.
        target: sends one bulk request and knows how to wait.
        outcomes: told what becomes of each action.
        buffer_bytes: the most bytes that wait here; None takes a quarter of the options' ``buffer_bytes``.
    """

    name = "bulk"

    def __init__(
        self,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        target: TargetIndex,
        outcomes: BulkOutcomes,
        buffer_bytes: int | None = None,
    ) -> None:
        self._built_from: dict[str, Any] = {
            "target": target,
            "outcomes": outcomes,
            "buffer_bytes": buffer_bytes,
        }
        self._plan, self._capabilities, self._options = plan, capabilities, options
        self._target, self._outcomes = target, outcomes
        self._limit = max(1, options.buffer_bytes // 4) if buffer_bytes is None else buffer_bytes
        self._on_error: Callable[[BaseException], None] | None = None
        self._error: BaseException | None = None
        self._queue = BulkQueue()
        self._pacer = Pacer(max_bytes=options.max_request_bytes, max_in_flight=options.max_in_flight)
        self._changed = threading.Condition()
        self._active = 0
        self._out: dict[int, float] = {}  # thread → since when its request is out
        self._closed = self._aborted = self._flushing = False
        self._oldest = 0.0
        self._busy_since = 0.0
        self._busy_seconds = 0.0
        self._requests = self._retried_requests = self._retried_items = self._bytes_sent = 0
        self._threads: list[threading.Thread] = []

    def __reduce__(self) -> tuple[Any, ...]:
        build = functools.partial(
            SendStage, self._plan, self._capabilities, self._options, **self._built_from
        )
        return build, ()

    def start(self, *, on_error: Callable[[BaseException], None] | None = None) -> None:
        """Start the threads.

        Args:
            on_error: called once with what ended the sending; without it :meth:`put` and :meth:`join` raise
                that error.
        """
        self._on_error = on_error
        self._threads = [
            threading.Thread(target=self._run, name=f"esembed-bulk-{n}", daemon=True)
            for n in range(self._options.max_in_flight)
        ]
        for thread in self._threads:
            thread.start()

    def report(self) -> IngestReport:
        """Requests, bytes, retries and waits so far."""
        with self._changed:
            return IngestReport(
                requests=self._requests,
                retried_requests=self._retried_requests,
                retried_items=self._retried_items,
                bytes_sent=self._bytes_sent,
                waited_seconds=self._target.retry.waited_seconds,
                stage_seconds={self.name: self._busy()},
            )

    def flush_now(self, wanted: bool) -> None:
        """Send at once whatever comes, as long as somebody waits for it to be settled."""
        with self._changed:
            self._flushing = wanted
            self._changed.notify_all()

    # -- the producer's side -----------------------------------------------------------------------

    def put(self, action: BulkAction) -> None:
        """Queue an action; waits while too many bytes wait already.

        Raises:
            IngestCancelled: the run ends. Without *on_error*: what ended the sending.
        """
        with self._changed:
            while self._queue.waiting_bytes and self._queue.waiting_bytes + action.size > self._limit:
                if self._aborted:
                    break
                self._changed.wait()
            if self._aborted:
                raise self._error or IngestCancelled("stopped")
            first = not self._queue.has_ready
            if first:
                self._oldest = time.monotonic()
            self._queue.add(action)
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
        if self._error is not None:
            raise self._error
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether any thread still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def _busy(self) -> float:
        running = time.monotonic() - self._busy_since if self._active else 0.0
        return self._busy_seconds + running

    # -- the threads ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (actions := self._next()) is not None:
                try:
                    self._deliver(actions)
                finally:
                    with self._changed:
                        self._active -= 1
                        if not self._active:
                            self._busy_seconds += time.monotonic() - self._busy_since
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the run
            if self._on_error is not None:
                self._on_error(error)
                return
            with self._changed:
                self._error = self._error or error
            self.abort()

    def _next(self) -> list[BulkAction] | None:
        with self._changed:
            while not self._aborted:
                # Idle, not empty: what waits behind an id that is out comes to the front when that one is
                # settled.
                if self._closed and self._queue.idle:
                    return None
                wait: float | None = None
                if self._queue.has_ready and self._active < self._pacer.in_flight:
                    wait = self._oldest + self._options.flush_interval_seconds - time.monotonic()
                    if self._may_go() or wait <= 0:
                        actions = self._queue.take(self._next_bytes(), self._options.max_request_documents)
                        self._oldest = time.monotonic()
                        if not self._active:
                            self._busy_since = self._oldest
                        self._active += 1
                        self._changed.notify_all()
                        return actions
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
        return full or self._closed or self._flushing or starved

    def _deliver(self, actions: Sequence[BulkAction]) -> None:
        """Send until every action is settled; only what failed is sent again."""
        left = list(actions)
        following: list[BulkAction] = []
        first = True

        def attempt() -> None:
            nonlocal left, first
            if self._aborted:
                raise IngestCancelled("stopped")
            again, first = not first, False
            left, reason, retry_after = self._send(left, following, again=again)
            if left:
                raise RetryableError(reason, retry_after_seconds=retry_after)

        try:
            self._target.retry.retrying()(attempt)
        except RetryableError as error:
            raise self._target.retry.exhausted(error) from error
        if following:
            self._deliver(following)

    def _send(
        self, actions: list[BulkAction], following: list[BulkAction], *, again: bool
    ) -> tuple[list[BulkAction], str, float | None]:
        """One request: the actions that are to be sent again, why, and after how many seconds. Actions that
        have more to send once this got in are added to *following*."""
        payload = b"".join(line for action in actions for line in action.lines)
        started = time.monotonic()
        status, body, retry_after = self._bulk(payload)
        seconds = time.monotonic() - started
        verdict = classify(actions, status, body, index=self._target.concrete_index)
        with self._changed:
            self._requests += 1
            self._retried_requests += again
            self._retried_items += verdict.retried_lines
            self._bytes_sent += len(payload)
            if status == 413 or verdict.oversized:
                self._pacer.too_large(len(payload))
            elif verdict.pushed_back:
                self._pacer.pushed_back()
            elif status == 200:
                self._pacer.answered(len(payload), seconds)
        if verdict.fatal is not None:
            raise self._fatal(*verdict.fatal, body)
        done = []
        for action in verdict.done:
            if action.then and not action.outdated:
                action.lines, action.then = action.then, []
                following.append(action)
            else:
                done.append(action)
        self._resolve(*done, *(action for action, *_ in verdict.dead))
        for action in done:
            self._outcomes.confirmed(action)
        for action, reason, code, kind in verdict.dead:
            self._outcomes.refused(action, reason, code, kind)
        if verdict.done or verdict.dead or verdict.split:
            self._target.retry.progress()
        if verdict.split:
            if len(verdict.retry) == 1:
                self._deliver_lines(verdict.retry[0])
            else:
                middle = len(verdict.retry) // 2
                self._deliver(verdict.retry[:middle])
                self._deliver(verdict.retry[middle:])
            return [], "", None
        if verdict.oversized and sum(len(action.lines) for action in verdict.retry) > 1:
            for action in verdict.retry:
                if len(action.lines) > 1:
                    self._deliver_lines(action)
                else:
                    self._deliver([action])
            return [], "", None
        return verdict.retry, verdict.blocked or _why(status, body), retry_after

    def _bulk(self, payload: bytes) -> tuple[int | None, Any, float | None]:
        mine = threading.get_ident()
        with self._changed:
            self._out[mine] = time.monotonic()
        try:
            return self._target.bulk(payload)
        finally:
            with self._changed:
                del self._out[mine]

    def report_stall(self) -> None:
        """Say what is waited for, once a request is out for long and nothing was settled meanwhile: an
        engine holds what comes for a shard that is away, up to a minute, and says nothing."""
        with self._changed:
            out = time.monotonic() - min(self._out.values()) if self._out else 0.0
        retry = self._target.retry
        if min(out, retry.stalled_seconds()) < STALL_SECONDS:
            return
        seconds = retry.request_seconds(self._options.request_timeout_seconds)
        retry.report_stall(
            f"no answer to a bulk request for {out:.0f} s: {self._target.diagnose_stall()}. It is given "
            f"{seconds:.0f} s, then sent again, for up to "
            f"{retry.max_wait_seconds:.0f} s without progress; after that the run ends, and the same "
            "command resumes"
        )

    def _deliver_lines(self, action: BulkAction) -> None:
        """A action of several lines that is too large for one request: line by line, in order."""
        for line in action.lines[:-1]:
            part = BulkAction(action.id, action.op, [line], tag=None)
            problem: list[tuple[str, int | None, str | None]] = []
            self._deliver_part(part, problem)
            action.changed |= part.changed
            action.dropped |= part.dropped
            action.went_to = action.went_to or part.went_to
            if problem:
                self._resolve(action)
                self._outcomes.refused(action, *problem[0])
                return
        action.lines = action.lines[-1:]
        self._deliver([action])

    def _deliver_part(self, part: BulkAction, problem: list[tuple[str, int | None, str | None]]) -> None:
        def attempt() -> None:
            status, body, retry_after = self._bulk(part.lines[0])
            verdict = classify([part], status, body, index=self._target.concrete_index)
            with self._changed:
                self._requests += 1
                self._retried_items += verdict.retried_lines
                self._bytes_sent += part.size
            if verdict.fatal is not None:
                raise self._fatal(*verdict.fatal, body)
            if verdict.retry:
                raise RetryableError(verdict.blocked or _why(status, body), retry_after_seconds=retry_after)
            problem.extend((reason, code, kind) for _, reason, code, kind in verdict.dead)
            self._target.retry.progress()

        try:
            self._target.retry.retrying()(attempt)
        except RetryableError as error:
            raise self._target.retry.exhausted(error) from error

    def _resolve(self, *actions: BulkAction) -> None:
        with self._changed:
            for action in actions:
                self._queue.release(action)
            self._changed.notify_all()

    def _fatal(self, reason: str, status: int, body: object) -> EsembedError:
        index = self._target.index
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
