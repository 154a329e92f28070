"""The one layer that tries again: how long, how often, and what the person hears of it.

Whatever may pass by itself (no connection, 429, 502–504, a read-only block, a red index) is waited
out with jittered, exponential pauses (tenacity), up to ``max_wait_seconds`` without any progress. The
official clients' own retries are off: two layers would multiply their attempts, and only this one knows
whether anything moves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import tenacity

from esembed.errors import EngineUnavailableError, EsembedError

__all__ = ["IngestCancelled", "RetryPolicy", "RetryableError"]

SHORTEST_REQUEST_SECONDS = 10.0
"""What a request that is out is given, however short the wait is: an engine under load needs seconds for a
large bulk request, and one that was cut off is sent twice."""

REPORT_AFTER_SECONDS = 2.0
"""Shorter waits are not worth a message: a busy engine answers 429 for a second and goes on."""

LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A ``Retry-After`` beyond this is cut: proxies send hours, and the engine is often back long before."""


UNREADABLE_ATTEMPTS = 4
"""Answers in a row that are cut or no JSON, after which a request is not sent again. An engine that is
restarted cuts one; a proxy that cuts each, or answers with its own page, does so as long as it is asked."""


class IngestCancelled(EsembedError):
    """The run was asked to end; what ended it is raised elsewhere."""


class RetryableError(Exception):
    """Something is left to be sent again, after the seconds that the engine asked for (or None)."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class RetryPolicy:
    """Waits that all senders share: one message for an outage, an end when nothing moves for too long.

    It pickles as what it was built from: the copy measures its own waits and nobody is notified of them.

    Args:
        max_wait_seconds: how long without any answer that settles something.
        stop: set when the run is to end.
        notify: takes messages for the person.
        base_seconds, cap_seconds: the first and the longest pause.

    Attributes:
        waited_seconds: all pauses so far, of all threads together.
    """

    def __init__(
        self,
        max_wait_seconds: float,
        stop: threading.Event | None = None,
        notify: Callable[[str], None] | None = None,
        *,
        base_seconds: float = 0.1,
        cap_seconds: float = 10.0,
    ) -> None:
        self.max_wait_seconds = max_wait_seconds
        self.waited_seconds = 0.0
        self._bounds = (base_seconds, cap_seconds)
        self._stop = stop or threading.Event()
        self._notify = notify or _nobody
        self._lock = threading.Lock()
        self._progress = time.monotonic()
        self._since: float | None = None
        self._reported = False
        # Random over the whole interval ("full jitter"): senders that were refused together must not
        # come back together.
        self._wait = tenacity.wait_random_exponential(multiplier=base_seconds, max=cap_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        return _policy, (self.max_wait_seconds, *self._bounds)

    def progress(self) -> None:
        """The engine settled something."""
        with self._lock:
            self._progress = time.monotonic()
            since, reported = self._since, self._reported
            self._since, self._reported = None, False
        if reported and since is not None:
            self._notify(f"the engine takes requests again, after {time.monotonic() - since:.0f} s")

    def stalled_seconds(self) -> float:
        """How long nothing was settled; 0 where the person knows already."""
        with self._lock:
            return 0.0 if self._reported else time.monotonic() - self._progress

    def report_stall(self, message: str) -> None:
        """Say what is waited for, once; the end of that wait is reported, too."""
        with self._lock:
            reported, self._reported = self._reported, True
            self._since = self._since or self._progress
        if not reported:
            self._notify(message)

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        error = _error(state)
        now = time.monotonic()
        pause = state.next_action.sleep if state.next_action is not None else 0.0
        message = None
        with self._lock:
            if self._since is None:
                self._since = now
            if not self._reported and now + pause - self._since > REPORT_AFTER_SECONDS:
                self._reported = True
                message = f"waiting for the engine, up to {self.max_wait_seconds:.0f} s: {error}"
            self.waited_seconds += pause
        if message:
            self._notify(message)

    def _left(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the wait has been long enough."""
        with self._lock:
            last = self._progress
        # A call that began after the last progress has its own start.
        return max(last, state.start_time) + self.max_wait_seconds - time.monotonic()

    def _give_up(self, state: tenacity.RetryCallState) -> bool:
        return self._stop.is_set() or self._left(state) <= 0

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = _error(state)
        asked = getattr(error, "retry_after_seconds", None)
        pause = float(self._wait(state)) if asked is None else min(float(asked), LONGEST_RETRY_AFTER_SECONDS)
        # The last attempt comes when the time is up, not a pause later.
        return max(0.0, min(pause, self._left(state)))

    def request_seconds(self, wanted: float | None) -> float:
        """The time-out of one request: *wanted*, and no longer than the whole wait (but for the shortest)."""
        most = max(self.max_wait_seconds, SHORTEST_REQUEST_SECONDS)
        return most if wanted is None else min(wanted, most)

    def retrying(self) -> tenacity.Retrying:
        """tenacity's loop over a callable that raises EngineUnavailableError or RetryableError."""
        unreadable = 0

        def give_up(state: tenacity.RetryCallState) -> bool:
            nonlocal unreadable
            unreadable = unreadable + 1 if _is_unreadable(_error(state)) else 0
            return unreadable >= UNREADABLE_ATTEMPTS or self._give_up(state)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((RetryableError, EngineUnavailableError)),
            wait=self._pause,
            stop=give_up,
            # A run that is stopped doesn't sleep to the end of its pause.
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=self._before_sleep,
            # The engine's own error, which exhausted() quotes, not tenacity's RetryError around it.
            reraise=True,
        )

    def exhausted(self, error: BaseException) -> EsembedError:
        """The error for a wait that came to its end."""
        if self._stop.is_set():
            return IngestCancelled("stopped")
        if isinstance(error, EngineUnavailableError) and _is_unreadable(error):
            return error  # not a matter of waiting longer
        return EngineUnavailableError(
            f"the engine did not settle anything for {self.max_wait_seconds:.0f} s (last: {error}). What was "
            "confirmed is in the index; repair the engine and run the same command again: it resumes",
            status=getattr(error, "status", None),
        )


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _is_unreadable(error: BaseException | None) -> bool:
    return isinstance(error, EngineUnavailableError) and error.unreadable


def _policy(max_wait_seconds: float, base_seconds: float, cap_seconds: float) -> RetryPolicy:
    return RetryPolicy(max_wait_seconds, base_seconds=base_seconds, cap_seconds=cap_seconds)


def _nobody(message: str) -> None:
    """Where no person listens."""
