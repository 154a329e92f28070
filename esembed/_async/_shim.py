"""The few things that differ between async and sync by more than a keyword; the twin is written by hand."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

from esembed.errors import EventLoopError
from esembed.transport import Response

__all__ = [
    "IS_ASYNC",
    "LATE",
    "Batcher",
    "Lock",
    "LoopGuard",
    "as_sync",
    "done",
    "gather",
    "in_thread",
    "iterable",
    "sleep",
    "stoppable",
    "thread_transport",
    "within",
]

IS_ASYNC = True
"""Whether this is the async half of the package."""
Lock = asyncio.Lock
"""A lock of the event loop, or of threads."""
T = TypeVar("T")
LATE: Any = object()
"""In place of the result of a call that didn't end in time."""


async def sleep(seconds: float) -> None:
    """Wait without holding up the loop."""
    await asyncio.sleep(seconds)


async def gather(*calls: Awaitable[T]) -> Sequence[T]:
    """All results in the order of the calls; the calls overlap."""
    return await asyncio.gather(*calls)


_given_up: set[asyncio.Task[Any]] = set()
"""Tasks that go on unwaited for; the loop itself holds them weakly, and one could vanish in mid-air."""


async def within(
    seconds: float, calls: Sequence[Callable[[], Awaitable[Any]]], *, keep: bool = False
) -> list[Any]:
    """The results of calls that overlap, in their order; LATE for one that didn't end in time.

    Args:
        keep: those that are late go on; else they are cancelled.

    Raises:
        what the first one raised that raised in time; then the others go on.
    """
    tasks = [asyncio.ensure_future(call()) for call in calls]
    try:
        ended, _ = await asyncio.wait(tasks, timeout=max(0.0, seconds), return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    failed = next((task for task in tasks if task in ended and task.exception() is not None), None)
    for task in tasks:
        if task not in ended:
            _given_up.add(task)
            task.add_done_callback(_forget)
            if failed is None and not keep:
                task.cancel()
    if failed is not None:
        failed.result()
    return [task.result() if task in ended else LATE for task in tasks]


def _forget(task: asyncio.Task[Any]) -> None:
    """A task that nobody waits for has ended."""
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, or asyncio complains that nobody did


async def in_thread(function: Callable[..., T], *args: Any, sender: Any = None) -> T:
    """A blocking call (an encoder, a file) off the loop.

    Args:
        sender: the :func:`thread_transport` that the call sends its requests with. When the awaiting task is
            cancelled, the next request is refused, and the call has ended before the cancellation goes on.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function, *args))
    if sender is None:
        return await task
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        sender.stop()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # looked at, or asyncio complains that nobody did
        raise


async def stoppable(function: Callable[[threading.Event], T]) -> T:
    """A long blocking call off the loop that ends early when its event is set.

    When the awaiting task is cancelled, the event is set, and the call has ended before the cancellation
    goes on: nothing is written behind the caller's back.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(function, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Exception):
            await asyncio.shield(task)
        raise


class _NoLoop:
    """A guard for what threads use: each request goes to the client's own loop."""

    def check(self) -> None:
        """Nothing to check: :meth:`_FromThreads.request` refuses where that loop can't answer."""


class _FromThreads:
    """Lets threads send requests through a client that lives on an event loop."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._stopped = threading.Event()
        self.engine = client.engine
        self.loop = _NoLoop()

    def stop(self) -> None:
        """Refuse what comes after."""
        self._stopped.set()

    def request(self, method: str, path: str, **options: Any) -> Response:
        """One request, from any thread but the loop's own; blocks until it is answered.

        Raises:
            asyncio.CancelledError: it was stopped. Nothing that handles errors or tries again catches it.
            RuntimeError: the loop has ended, or it is the caller's own; waiting would never end.
        """
        if self._stopped.is_set():
            raise asyncio.CancelledError
        if not self._loop.is_running() or asyncio._get_running_loop() is self._loop:
            raise RuntimeError(f"{method} {path}: the event loop of this client can't answer here")
        call = asyncio.run_coroutine_threadsafe(self._client.request(method, path, **options), self._loop)
        # A loop that has ended answers nobody, and tells nobody: it is looked at once a second.
        while not concurrent.futures.wait((call,), timeout=1.0).done:
            if not self._loop.is_running():
                call.cancel()
                raise RuntimeError(f"{method} {path}: the event loop ended before the answer came")
        answer: Response = call.result()
        return answer


def thread_transport(client: Any) -> Any:
    """What the ingest's threads send their requests with."""
    return _FromThreads(client, asyncio.get_running_loop())


class LoopGuard:
    """Remembers the event loop that a client is used in: its connections belong to that one."""

    def __init__(self) -> None:
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def check(self) -> None:
        """Raises EventLoopError in another loop than at the first call.

        Without it the symptoms depend on what the loop before left behind: an error of aiohttp's, one of the
        operating system's, or an answer that never comes.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = weakref.ref(loop)
        elif self._loop() is not loop:
            raise EventLoopError(
                "this async client (or the AsyncIndex made with it) was used in another event loop before, "
                "where its connections live; make the client and open the index in the loop that uses them "
                "(each asyncio.run makes a new one)"
            )


class Batcher:
    """Calls that come while one is being answered are answered together by the next.

    Nothing waits for company: an idle batcher starts at once, so a single caller loses no time.

    Args:
        function: blocking; answers a list in the list's order.
        max_batch: the most items in one call.
    """

    def __init__(self, function: Callable[[list[Any]], Sequence[Any]], max_batch: int = 64) -> None:
        self._function = function
        self._max_batch = max_batch
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self.calls = 0

    async def __call__(self, item: Any) -> Any:
        """The answer to one item. Raises what *function* raised for its batch."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
            self.calls += 1
            try:
                answers = await asyncio.to_thread(self._function, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it is raised again where the answer is awaited
                if len(batch) > 1:
                    # One caller's bad item must not fail the others': each on its own.
                    await asyncio.gather(*(self._alone(item, future) for item, future in batch))
                elif not batch[0][1].done():
                    batch[0][1].set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _alone(self, item: Any, future: asyncio.Future[Any]) -> None:
        try:
            (answer,) = await asyncio.to_thread(self._function, [item])
        except Exception as error:  # noqa: BLE001
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)


def iterable(records: Any) -> Any:
    """Records as the ingest's threads can take them: an async iterable is drawn on the loop."""
    if isinstance(records, AsyncIterable):
        from esembed.ingest.sources import from_async

        return from_async(records, asyncio.get_running_loop())
    return records


def as_sync(target: Any) -> Any:
    """An ``AsyncIndexTarget``'s sync counterpart, for blocking code in a thread. Its requests go through this
    loop's client; it shares the encoders, and what it stores is in its own state."""
    from esembed._sync.state import IndexState
    from esembed._sync.target import IndexTarget

    state = target.state
    return IndexTarget(
        IndexState(
            client=thread_transport(state.client),
            live=state.live,
            stored=state.stored,
            capabilities=state.capabilities,
            pool=state.pool,
            rerankers=state.rerankers,
            allow_raw=state.allow_raw,
        )
    )


class Done:
    """What a call that has ended already returns where it may be awaited."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def done() -> Done:
    """An awaitable with nothing to wait for. Leaving it un-awaited loses nothing and warns of nothing."""
    return Done()
