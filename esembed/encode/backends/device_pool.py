"""Several devices: a process for each, fed batch by batch, results in order.

Processes are spawned (CUDA can't be forked), so a script that uses this needs the usual
``if __name__ == "__main__":``. On CPUs the threads are shared out among the processes.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from esembed.encode.backends.base import Head, Outputs, Program, TokenBatch
from esembed.encode.backends.cpu import available_threads
from esembed.encode.base import RuntimeOptions
from esembed.encode.processes import ProcessMark, belongs_here
from esembed.errors import EncoderError, EsembedError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = ["DevicePool"]

_AHEAD = 2
"""Batches in flight for each device: one that runs, one that waits."""


def _serve(connection: Connection, folder: str, name: str, runtime: RuntimeOptions) -> None:
    """A worker: answers each message, in order, with ("ok", value) or ("error", exception)."""
    from pathlib import Path

    from esembed.encode.backends.torch import TorchBackbone
    from esembed.encode.models.folder import read_folder

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def drain() -> None:
        # always reading, so that the parent never blocks on a full pipe while we write to it
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                message = None
            inbox.put(message)
            if message is None:
                return

    threading.Thread(target=drain, daemon=True).start()
    programs: list[Program] = []
    try:
        backbone = TorchBackbone(read_folder(Path(folder), name=name), runtime)
        facts = (backbone.hidden_size, backbone.max_positions, backbone.batch_tokens, backbone.pad_multiple)
        connection.send(("ok", (*facts, dict(backbone.runtime))))
    except Exception as error:  # noqa: BLE001 - told to the parent
        connection.send(("error", _portable(error)))
        return
    while (message := inbox.get()) is not None:
        kind, payload = message
        try:
            if kind == "program":
                programs.append(backbone.program(payload))
                connection.send(("ok", len(programs) - 1))
            else:
                place, batch = payload
                connection.send(("ok", next(iter(programs[place].run([batch])))))
        except Exception as error:  # noqa: BLE001 - told to the parent
            connection.send(("error", _portable(error)))


def _portable(error: Exception) -> Exception:
    if isinstance(error, EsembedError):
        return error
    return EncoderError(f"{type(error).__name__}: {error}")


class _Worker:
    def __init__(self, device: str, files: ModelFiles, runtime: RuntimeOptions) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self._connection, theirs = context.Pipe()
        arguments = (theirs, str(files.folder), files.name, runtime)
        self._process = context.Process(target=_serve, args=arguments, daemon=True, name=f"esembed-{device}")
        self._process.start()
        belongs_here(self._process)
        theirs.close()

    def send(self, kind: str, payload: Any) -> None:
        try:
            self._connection.send((kind, payload))
        except OSError as error:
            raise self._gone() from error

    def receive(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if kind == "error":
            raise value
        return value

    def _gone(self) -> EncoderError:
        self._process.join(1)
        return EncoderError(f"the process for {self.device} ended (exit code {self._process.exitcode})")

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5)
        self._connection.close()


class DevicePool:
    """A torch backbone on several devices. See :class:`~esembed.encode.backends.base.Backbone`.

    Raises:
        EncoderError: a device isn't there, or the model can't be loaded on it.
    """

    def __init__(self, files: ModelFiles, runtime: RuntimeOptions) -> None:
        devices = runtime.devices
        self.process = ProcessMark()
        cpus = sum(1 for device in devices if device.startswith("cpu"))
        threads = runtime.threads or available_threads()
        self._workers: list[_Worker] = []
        self.lock = threading.Lock()
        try:
            for device in devices:
                share = max(1, threads // cpus) if device.startswith("cpu") else runtime.threads
                own = replace(runtime, device=device, devices=(), threads=share)
                self._workers.append(_Worker(device, files, own))
            facts = [worker.receive() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.hidden_size: int = facts[0][0]
        self.max_positions: int | None = facts[0][1]
        self.batch_tokens: int = min(fact[2] for fact in facts)
        self.pad_multiple: int = max(fact[3] for fact in facts)
        self.runtime: Mapping[str, Any] = {**facts[0][4], "devices": [fact[4]["device"] for fact in facts]}

    @property
    def workers(self) -> tuple[_Worker, ...]:
        """The processes, one for each device."""
        return tuple(self._workers)

    def program(self, head: Head) -> PoolProgram:
        """Load the model with *head* on every device."""
        with self.lock:
            for worker in self._workers:
                worker.send("program", head)
            places = [worker.receive() for worker in self._workers]
        return PoolProgram(self, places[0])

    def close(self) -> None:
        """End the processes."""
        if self.process.here:  # a forked child holds the same pipes, and the workers aren't its own
            for worker in self._workers:
                worker.stop()
        self._workers.clear()


class PoolProgram:
    """One head on every device of a pool. Calls from several threads take turns."""

    def __init__(self, pool: DevicePool, place: int) -> None:
        self._pool = pool
        self._place = place

    def run(self, batches: Iterable[TokenBatch]) -> Iterator[Outputs]:
        """See :class:`~esembed.encode.backends.base.Program`."""
        with self._pool.lock:
            workers = self._pool.workers
            if not workers:
                raise EncoderError("the encoder is closed")
            busy: collections.deque[_Worker] = collections.deque()
            try:
                for turn, batch in enumerate(batches):
                    worker = workers[turn % len(workers)]
                    worker.send("run", (self._place, batch))
                    busy.append(worker)
                    if len(busy) >= _AHEAD * len(workers):
                        yield busy.popleft().receive()
                while busy:
                    yield busy.popleft().receive()
            finally:
                # answers that nobody takes any more must not be taken for those of the next run
                for worker in busy:
                    try:
                        worker.receive()
                    except EncoderError:
                        continue

    def close(self) -> None:
        """The pool's processes hold the model until the pool is closed."""
