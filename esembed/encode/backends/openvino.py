"""The OpenVINO backend: transformers on the CPU, no torch.

Precision is always set by us: left alone, the runtime takes bfloat16 wherever the machine has it.
Two compiled models share one graph: one of several streams for many batches, one of a single stream
over all threads for one batch (a query), each compiled when first needed. Each holds the weights in its own
order, so a large model has only the latter; there the second stream gains nothing.
"""

from __future__ import annotations

import collections
import contextlib
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from esembed.encode.backends import openvino_bert, openvino_decoder, openvino_modernbert
from esembed.encode.backends.base import Head, Outputs, TokenBatch
from esembed.encode.backends.cpu import available_threads, dtype_notes, has_amx
from esembed.encode.backends.openvino_graph import ACTIVATIONS, EMBEDDINGS, Graph
from esembed.encode.base import RuntimeOptions
from esembed.encode.foreign_errors import foreign_errors, shown
from esembed.encode.processes import ForkSafeLock, ProcessMark, leave_in_parent
from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = [
    "FAMILIES",
    "OpenVinoBackbone",
    "OpenVinoProgram",
    "build",
    "max_positions",
    "unsupported",
    "weights",
]

FAMILIES: dict[str, Any] = {
    family: module
    for module in (openvino_bert, openvino_decoder, openvino_modernbert)
    for family in module.FAMILY
}
"""Model types that are built here, and where."""

_NEEDED: Mapping[str, tuple[str, ...]] = {"distilbert": ("n_layers", "n_heads", "dim")}
"""What config.json must state of a model type, where that isn't called as everywhere."""

_BATCH_TOKENS = 1024
"""Padded tokens in one pass. A stream is one core, and at this size what a layer computes about fits into
its cache: 4 % more tokens a second of processor time than with 2,048, 11 % more than with 4,096 (MiniLM)."""
_LARGE = 200_000_000
"""Weights beyond the word embeddings from which a model counts as large."""
_LARGE_BATCH_TOKENS = 512


def unsupported(files: ModelFiles) -> str | None:
    """Why this model can't be built here, or None when it can."""
    config = files.config
    kind = config.get("model_type")
    if kind not in FAMILIES:
        return f"model_type {kind!r} is none of {', '.join(FAMILIES)}"
    for key in _NEEDED.get(str(kind), ("num_hidden_layers", "num_attention_heads", "hidden_size")):
        if not isinstance(config.get(key), int):  # nothing, or one for each layer
            return f"config.json states no one {key}"
    key = next((key for key in ("hidden_act", "activation", "hidden_activation") if key in config), "")
    if key and config[key] not in ACTIVATIONS:
        return f"{key} in config.json is {shown(config[key])}"
    if not isinstance(config.get("max_position_embeddings", 1), int):
        return "config.json states no max_position_embeddings but null"
    reason: str | None = FAMILIES[kind].unsupported(config)
    if reason is not None:
        return reason
    longest, most = files.max_seq_length, max_positions(config)
    if most < 1 or (longest or 0) > most:
        return (
            f"it takes texts of {longest or 'any number of'} tokens, and config.json "
            f"(max_position_embeddings, sliding_window) allows {most}"
        )
    return None


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence, in tokens, that the graph of *config* is right for."""
    longest: int = FAMILIES[config["model_type"]].max_positions(config)
    return longest


def _hidden_size(config: Mapping[str, Any]) -> int:
    """The width of the hidden states. :func:`unsupported` looked that it is stated."""
    return int(config.get("hidden_size") or config["dim"])


def weights(files: ModelFiles) -> int:
    """How many numbers the model has beyond its word embeddings."""
    tensors = files.tensors()
    return sum(
        math.prod(tensors.file_of(name).entries[name][1]) for name in tensors if not name.endswith(EMBEDDINGS)
    )


def build(files: ModelFiles, head: Any, precision: str = "f32") -> Any:
    """An ``openvino.Model``: inputs ``ids`` int32 (rows, length) and ``mask`` float32 (rows, length),
    outputs as *head* gives them. *precision* tells heads what the graph will be compiled for.

    Raises:
        EncoderError: a tensor is missing, or of another shape than config.json says.
    """
    import openvino as openvino_package
    from openvino import opset13 as ov

    graph = Graph(files, precision)
    ids = ov.parameter([-1, -1], np.int32, name="ids")
    mask = ov.parameter([-1, -1], np.float32, name="mask")
    hidden = FAMILIES[files.config["model_type"]].hidden_states(graph, ids, mask)
    graph.check_width(hidden, _hidden_size(files.config))
    outputs = head.openvino(graph, hidden, mask)
    return openvino_package.Model([output.output(0) for output in outputs], [ids, mask], "esembed")


class OpenVinoBackbone:
    """A transformer on the CPU. See :class:`~esembed.encode.backends.base.Backbone`.

    Raises:
        EncoderError: the architecture isn't built here, or float16 or a device other than the CPU is
            asked for.
    """

    def __init__(self, files: ModelFiles, runtime: RuntimeOptions) -> None:
        reason = unsupported(files)
        if reason is not None:
            raise EncoderError(
                f"the openvino backend can't run {files.name}: {reason}. Use backend='torch'", spec=files.name
            )
        if runtime.device not in ("auto", "cpu") or runtime.devices:
            raise EncoderError(
                f"the openvino backend runs on the CPU only, not on {runtime.devices or runtime.device!r}",
                spec=files.name,
            )
        if runtime.dtype == "float16":
            raise EncoderError(
                "the openvino backend computes in float32 or bfloat16 on a CPU, not in float16",
                spec=files.name,
            )
        dtype = runtime.dtype
        if dtype == "auto":
            # On a two-core Xeon with AMX 36.5 thousand tokens a second instead of 11.7 (MiniLM), at cosines
            # of .99997 and more.
            dtype = "bfloat16" if has_amx() else "float32"
        self._files = files
        self.process = ProcessMark()
        self._threads = runtime.threads or available_threads()
        self._precision = "bf16" if dtype == "bfloat16" else "f32"
        config = files.config
        self.hidden_size = _hidden_size(config)
        self.max_positions: int | None = max_positions(config)
        self._large = weights(files) >= _LARGE
        self.batch_tokens = runtime.batch_tokens or (_LARGE_BATCH_TOKENS if self._large else _BATCH_TOKENS)
        # Each new shape costs some milliseconds and memory: 253 of them took a process from 280 to 622 MB
        # (MiniLM, openvino 2026.4).
        self.pad_multiple = 8
        self.runtime: Mapping[str, Any] = {
            "backend": "openvino",
            "backend_version": _version(),
            "device": "cpu",
            "dtype": dtype,
            "threads": self._threads,
        }
        if notes := dtype_notes(runtime.dtype, files.name):
            self.runtime = {**self.runtime, "notes": notes}

    def program(self, head: Head) -> OpenVinoProgram:
        """Build the graph with *head* at its end."""
        with foreign_errors(self._files.name, "be built as an OpenVINO graph"):
            model = build(self._files, head, self._precision)
        return OpenVinoProgram(
            model, self._precision, self._threads, large=self._large, name=self._files.name
        )

    def close(self) -> None:
        """Nothing is held beyond the programs."""


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("openvino")


class OpenVinoProgram:
    """A compiled graph. Calls may come from several threads: each call has infer requests of its own."""

    def __init__(
        self, model: Any, precision: str, threads: int, *, large: bool = False, name: str = "the model"
    ) -> None:
        self._model = model
        self._name = name
        self._large = large
        self._precision = precision
        self._threads = threads
        self._lock = ForkSafeLock()
        self._compiled: dict[int, Any] = {}
        self._local = threading.local()

    def _compile(self, streams: int) -> Any:
        import openvino

        with self._lock:
            if streams not in self._compiled:
                settings = {
                    "INFERENCE_PRECISION_HINT": self._precision,
                    "EXECUTION_MODE_HINT": "PERFORMANCE",
                    "NUM_STREAMS": streams,
                    "INFERENCE_NUM_THREADS": self._threads,
                    "ENABLE_CPU_PINNING": False,
                }
                compiled = openvino.Core().compile_model(self._model, "CPU", settings)
                leave_in_parent(compiled)
                self._compiled[streams] = compiled
                # nothing else will be compiled from the graph, and it holds the weights a second time
                if len(self._compiled) == len({1, self._streams()}):
                    self._model = None  # and the weights as they were read
            return self._compiled[streams]

    def run(self, batches: Iterable[TokenBatch]) -> Iterator[Outputs]:
        """See :class:`~esembed.encode.backends.base.Program`."""
        source = iter(batches)
        first = next(source, None)
        if first is None:
            return
        second = next(source, None)
        if second is None:
            with foreign_errors(self._name, "be run by OpenVINO"):
                only = self._one(first)
            yield only
            return
        yield from self._many(_chain(first, second, source))

    def _one(self, batch: TokenBatch) -> Outputs:
        # One for each thread: a request that is running refuses another call ("Infer Request is busy").
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compile(1).create_infer_request()
        request.infer([batch.ids, batch.mask], share_inputs=True)
        # Copies: the memory is the request's, and the next batch writes over it.
        return tuple(np.array(tensor.data) for tensor in request.output_tensors)

    def _many(self, batches: Iterator[TokenBatch]) -> Iterator[Outputs]:
        with foreign_errors(self._name, "be compiled by OpenVINO"):
            compiled = self._compile(self._streams())
            requests = [compiled.create_infer_request() for _ in range(self._streams())]
        idle = collections.deque(requests)
        busy: collections.deque[tuple[Any, TokenBatch]] = collections.deque()
        try:
            for batch in batches:
                if not idle:
                    yield self._collect(busy, idle)
                request = idle.popleft()
                with foreign_errors(self._name, "be run by OpenVINO"):
                    request.start_async([batch.ids, batch.mask])
                busy.append((request, batch))
            while busy:
                yield self._collect(busy, idle)
        finally:
            for request, _ in busy:
                with contextlib.suppress(RuntimeError):  # the error that is under way says it already
                    request.wait()

    def _streams(self) -> int:
        return 1 if self._large else self._threads

    def _collect(
        self, busy: collections.deque[tuple[Any, TokenBatch]], idle: collections.deque[Any]
    ) -> Outputs:
        request, _ = busy[0]
        with foreign_errors(self._name, "be run by OpenVINO"):
            request.wait()
        busy.popleft()
        outputs = tuple(np.array(tensor.data) for tensor in request.output_tensors)
        idle.append(request)
        return outputs

    def close(self) -> None:
        """Let the compiled models go."""
        with self._lock:
            self._compiled.clear()
            self._local = threading.local()


def _chain(first: TokenBatch, second: TokenBatch, rest: Iterator[TokenBatch]) -> Iterator[TokenBatch]:
    yield first
    yield second
    yield from rest
