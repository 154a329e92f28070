"""How far a run is, and how long it will take: honest where it can be told, silent where it can't."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from esembed.ingest.options import IngestReport, Progress, ProgressState
from esembed.ingest.sources import Source

__all__ = ["ProgressMeter", "StageClock", "StepProgress", "WholeProgress"]

WINDOW_SECONDS = 30.0
"""The rate is that of the last half minute: loads slow down as an index grows, and stall while it merges."""

SHOWN_EVERY_SECONDS = 0.5
"""A person sees no more, and a callback that draws costs the thread that does the work."""


class StageClock:
    """How long each stage was at work. Stages are threads, so their seconds overlap.

    Attributes:
        seconds: stage → seconds so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds to a stage's seconds."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._add(stage, time.monotonic() - started)

    def shift(self, stage: str, to: str | None, seconds: float) -> None:
        """Take seconds from one stage's account, for another's or nobody's."""
        self._add(stage, -seconds)
        if to is not None:
            self._add(to, seconds)

    def _add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class ProgressMeter:
    """Looks at the counts as they grow.

    Reading runs ahead of writing, so the share that is done is not the share that was read: settled
    records are taken at the average size of those read so far.

    Args:
        source: what is read.
        report: the counts.
        total: records in all, where the caller knows.
    """

    def __init__(self, source: Source, report: IngestReport, total: int | None) -> None:
        self._source, self._report = source, report
        self._total = total if total is not None else source.total_records
        self._started = time.monotonic()
        self._window: deque[tuple[float, int]] = deque([(self._started, 0)])

    def state(self, phase: str, tokens: int) -> ProgressState:
        """The state now."""
        report, now = self._report, time.monotonic()
        done = report.settled
        total, fraction = self._total, None
        if report.complete:
            total = report.read
        if total:
            fraction = min(1.0, done / total)
        elif self._source.total_bytes and report.read and self._source.bytes_read:
            per_record = self._source.bytes_read / report.read
            fraction = min(1.0, done * per_record / self._source.total_bytes)
        if now - self._window[-1][0] >= 1.0:
            self._window.append((now, done))
        while len(self._window) > 2 and now - self._window[0][0] > WINDOW_SECONDS:
            self._window.popleft()
        then, before = self._window[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        eta = None
        if fraction is not None and fraction < 1.0 and rate > 0 and done:
            eta = done * (1.0 - fraction) / fraction / rate if fraction > 0 else None
        return ProgressState(
            phase=phase,
            read=report.read,
            done=done,
            dead_lettered=report.dead_lettered,
            total=total,
            fraction=fraction,
            seconds=now - self._started,
            documents_per_second=rate,
            eta_seconds=eta if phase == "load" else None,
            tokens=tokens,
        )


class StepProgress:
    """Progress of a step that is no load: terms counted, ids compared, legs weighed. Safe from any thread.

    As a context manager it tells where the step is even while nothing moves (a merge, a model that loads):
    a thread of its own does, twice a second, until the block ends.

    Args:
        progress: who is told, or None.
        phase: the step's name, as in ``ProgressState.phase``.
        total: how many there will be, where that is known.
    """

    def __init__(self, progress: Progress | None, phase: str, *, total: int | None = None) -> None:
        self._progress, self._phase, self._total = progress, phase, total
        self._started = self._shown = time.monotonic()
        self._done = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        if progress is not None:
            progress.update(self._state())

    def __enter__(self) -> StepProgress:
        if self._progress is not None:
            self._thread = threading.Thread(target=self._tell_on, name=f"esembed-{self._phase}", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        if self._thread is not None:
            # Nobody is told of a step that has ended, once the next one has begun.
            self._thread.join()
        if self._error is not None and raised[0] is None:
            raise self._error

    def advance(self, count: int = 1, *, total: int | None = None) -> None:
        """So many more are done, of *total* where that is known by now."""
        with self._lock:
            self._done += count
            self._total = self._total if total is None else total
            due = time.monotonic() - self._shown >= SHOWN_EVERY_SECONDS and self._thread is None
        if due:
            self._tell()

    def _tell_on(self) -> None:
        while not self._ended.wait(SHOWN_EVERY_SECONDS):
            try:
                self._tell()
            except Exception as error:  # noqa: BLE001 - raised where the step ends
                self._error = error
                return

    def _tell(self) -> None:
        with self._lock:
            self._shown = time.monotonic()
            state = self._state()
        if self._progress is not None:
            self._progress.update(state)

    @property
    def done(self) -> int:
        """How many are done."""
        return self._done

    def _state(self) -> ProgressState:
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        # More may come than there were when the step began.
        total = None if self._total is None else max(self._total, self._done)
        return ProgressState(
            phase=self._phase,
            read=self._done,
            done=self._done,
            dead_lettered=0,
            total=total,
            fraction=self._done / total if total else None,
            seconds=seconds,
            documents_per_second=rate,
            eta_seconds=None if total is None or not rate else (total - self._done) / rate,
        )


class WholeProgress:
    """Tells a caller's progress of a run with steps after the load: ``done`` comes once, at the very end.

    Args:
        progress: who is told.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done: ProgressState | None = None

    def update(self, state: ProgressState) -> None:
        """Passes on all but ``done``."""
        if state.phase == "done":
            self._done = state
        else:
            self._progress.update(state)

    def notice(self, message: str) -> None:
        """Passes it on."""
        self._progress.notice(message)

    def end(self) -> None:
        """Now all is done."""
        if self._done is not None:
            self._progress.update(self._done)
