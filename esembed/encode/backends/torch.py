"""The torch backend: any architecture that transformers knows, on CUDA, MPS or the CPU.

Batches come sorted by length, so that padding is a few per cent; heads get the real tokens only.
A batch that doesn't fit into the device's memory is halved and the run goes on with the smaller
size. Results are fetched one batch behind, so that the device never waits for the host.
"""

from __future__ import annotations

import collections
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esembed.encode.backends.base import Head, Outputs, TokenBatch
from esembed.encode.backends.cpu import available_threads, dtype_notes, has_amx
from esembed.encode.base import RuntimeOptions
from esembed.encode.foreign_errors import foreign_errors
from esembed.encode.models.folder import usable_positions
from esembed.encode.processes import ForkSafeLock, ProcessMark, use_torch
from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = ["TorchBackbone", "TorchProgram", "resolve_device"]

# Measured on a CPU only: no GPU was at hand.
_BATCH_TOKENS = {"cuda": 32_768, "mps": 8_192, "cpu": 2_048}
# Encoder-decoders whose encoder transformers loads alone (AutoModelForTextEncoding).
_ENCODERS_OF_PAIRS = ("t5", "mt5", "umt5")


def resolve_device(runtime: RuntimeOptions, spec: str) -> torch.device:
    """``auto`` to CUDA, MPS or the CPU; anything else as it is, if it is there.

    Raises:
        EncoderError: no such device here.
    """
    name = runtime.devices[0] if runtime.devices else runtime.device
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it isn't there"
        raise EncoderError(f"device {name!r} can't be used: {reason}", spec=spec) from error
    return device


def _resolve_dtype(runtime: RuntimeOptions, device: torch.device) -> torch.dtype:
    if runtime.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[runtime.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if has_amx() else torch.float32
    return torch.float16 if device.type == "mps" else torch.float32


class TorchBackbone:
    """A transformers model on one device. See :class:`~esembed.encode.backends.base.Backbone`.

    Raises:
        EncoderError: transformers doesn't know the architecture, or the device isn't there.
    """

    def __init__(self, files: ModelFiles, runtime: RuntimeOptions) -> None:
        use_torch(files.name)
        self._files = files
        self.process = ProcessMark()
        self.device = resolve_device(runtime, files.name)
        self.dtype = _resolve_dtype(runtime, self.device)
        facts: dict[str, Any] = {
            "backend": "torch",
            "backend_version": torch.__version__,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        if self.device.type == "cuda":
            facts["device_name"] = torch.cuda.get_device_name(self.device)
        if self.device.type == "cpu":
            threads = runtime.threads or available_threads()
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            facts["threads"] = threads
            if notes := dtype_notes(runtime.dtype, files.name):
                facts["notes"] = notes
        self.runtime: Mapping[str, Any] = facts
        config = _load_config(files)
        self.hidden_size = int(config.hidden_size)
        self.max_positions = usable_positions(config.to_dict())
        self.batch_tokens = runtime.batch_tokens or _BATCH_TOKENS.get(self.device.type, 4096)
        self.pad_multiple = 8 if self.device.type != "cpu" else 1
        self._models: dict[bool, Any] = {}

    def program(self, head: Head) -> TorchProgram:
        """Load the model (with its masked-LM head where *head* needs it), once for each kind."""
        key = head.needs_masked_lm
        if True in self._models:  # the one with the head serves both
            key = True
        if key not in self._models:
            model = _load_model(self._files, self.device, self.dtype, masked_lm=key)
            self._models[key] = model
            # not every architecture has the fused attention that was asked for
            attention = getattr(model.config, "_attn_implementation", None) or "eager"
            self.runtime = {**self.runtime, "attention": attention}
        return TorchProgram(self._models[key], head, self.device, self._files.name)

    def close(self) -> None:
        """Let the model go."""
        self._models.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _load_config(files: ModelFiles) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(files.transformer_folder), trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise EncoderError(
            f"transformers doesn't know the architecture of {files.name} "
            f"(model_type {files.config.get('model_type')!r}): {str(error).splitlines()[0]}",
            spec=files.name,
        ) from error
    if getattr(config, "is_encoder_decoder", False) and config.model_type not in _ENCODERS_OF_PAIRS:
        raise EncoderError(
            f"{files.name} is an encoder-decoder ({config.model_type}), which isn't known here"
        )
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise EncoderError(
            f"{files.name} (model_type {config.model_type!r}) is no text encoder", spec=files.name
        )
    return config


def _load_model(files: ModelFiles, device: torch.device, dtype: torch.dtype, *, masked_lm: bool) -> Any:
    transformers: Any = importlib.import_module("transformers")
    hf_logging: Any = importlib.import_module("transformers.utils.logging")
    config = _load_config(files)
    if config.model_type in _ENCODERS_OF_PAIRS:
        kind: Any = transformers.AutoModelForTextEncoding
    else:
        kind = transformers.AutoModelForMaskedLM if masked_lm else transformers.AutoModel
    files.tensors()  # a pickled or missing checkpoint is refused here, with its reason
    extra: dict[str, Any] = {}
    try:
        if not masked_lm:
            made: Any = transformers.MODEL_MAPPING[type(config)]
            made = made[0] if isinstance(made, list | tuple) else made
            if "add_pooling_layer" in inspect.signature(made).parameters:
                # Nobody reads the pooler's output, and many checkpoints lack its tensors.
                extra["add_pooling_layer"] = False
    except KeyError:
        pass
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        arguments = {"dtype": dtype, "trust_remote_code": False, "local_files_only": True, **extra}
        folder = str(files.transformer_folder)
        with foreign_errors(files.name, "be loaded by transformers"):
            model, report = _from_pretrained(kind, folder, arguments)
    finally:
        hf_logging.set_verbosity(before)
        if bars:
            hf_logging.enable_progress_bar()
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        # left alone, transformers would fill them with random numbers
        raise EncoderError(
            f"{files.name} lacks {len(missing)} tensors of its architecture ({', '.join(missing[:3])} …)",
            spec=files.name,
        )
    return model.to(device).eval()


def _from_pretrained(kind: Any, folder: str, arguments: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    try:
        found = kind.from_pretrained(
            folder, attn_implementation="sdpa", use_safetensors=True, output_loading_info=True, **arguments
        )
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        found = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **arguments)
    model, report = found
    return model, report


class TorchProgram:
    """A model with a head. Calls may come from several threads; they take turns on the device."""

    def __init__(self, model: Any, head: Head, device: torch.device, name: str) -> None:
        self._model = model
        self._name = name
        self._head = head
        self._device = device
        self._lock = ForkSafeLock()
        self._most_tokens: int | None = None
        names = inspect.signature(model.base_model.forward).parameters
        # Decoders keep each layer's keys and values otherwise, which only generating text needs.
        self._extra = {"use_cache": False} if "use_cache" in names else {}

    def run(self, batches: Iterable[TokenBatch]) -> Iterator[Outputs]:
        """See :class:`~esembed.encode.backends.base.Program`."""
        waiting: collections.deque[list[_Pending]] = collections.deque()
        for batch in batches:
            with self._lock, foreign_errors(self._name, "be run by torch"):
                waiting.append(self._start(batch))
            if len(waiting) > 1:
                yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())

    def _start(self, batch: TokenBatch) -> list[_Pending]:
        """Queue the work of one batch, in as many parts as the device's memory asks for."""
        parts, todo = [], [batch]
        while todo:
            part = todo.pop()
            tokens = part.ids.size
            if self._most_tokens is not None and tokens > self._most_tokens and len(part.ids) > 1:
                todo.extend(_halves(part))
                continue
            try:
                parts.append(self._forward(part))
            except torch.OutOfMemoryError as error:
                if len(part.ids) == 1:
                    raise EncoderError(
                        f"one text of {tokens} tokens doesn't fit into the memory of {self._device}: lower "
                        "max_seq_length, or take another device"
                    ) from error
                self._most_tokens = tokens // 2
                todo.extend(_halves(part))
            if self._device.type == "cuda" and todo:
                torch.cuda.empty_cache()
        return parts

    def _forward(self, batch: TokenBatch) -> _Pending:
        rows, width = batch.ids.shape
        with torch.inference_mode():
            ids = self._to_device(batch.ids.astype(np.int64))
            offsets = self._to_device(np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int64))
            full = bool((batch.lengths == width).all())
            if full:
                hidden = self._model.base_model(input_ids=ids, **self._extra).last_hidden_state
                packed = hidden.reshape(rows * width, -1)
            else:
                mask = batch.mask.astype(np.int64)
                hidden = self._model.base_model(
                    input_ids=ids, attention_mask=self._to_device(mask), **self._extra
                ).last_hidden_state
                # an index made on the host: a boolean one would make the host wait for the device
                places = self._to_device(np.flatnonzero(mask))
                packed = hidden.reshape(rows * width, -1).index_select(0, places)
            outputs = self._head.torch(self._model, packed, offsets)
            return _Pending.of(outputs, self._device)

    def _to_device(self, values: Any) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def close(self) -> None:
        """Let the model go."""
        self._model = None


class _Pending:
    """Outputs on their way to the host."""

    __slots__ = ("event", "tensors")

    def __init__(self, tensors: list[torch.Tensor], event: Any) -> None:
        self.tensors = tensors
        self.event = event

    @classmethod
    def of(cls, outputs: tuple[Any, ...], device: torch.device) -> _Pending:
        # NumPy has no bfloat16.
        plain = [one.float() if one.dtype in (torch.bfloat16, torch.float16) else one for one in outputs]
        if device.type != "cuda":
            return cls([one.cpu() for one in plain], None)
        hosts = []
        for one in plain:
            host = torch.empty(one.shape, dtype=one.dtype, pin_memory=True)
            host.copy_(one, non_blocking=True)
            hosts.append(host)
        cuda: Any = torch.cuda
        event = cuda.Event()
        event.record(torch.cuda.current_stream(device))
        return cls(hosts, event)

    def arrays(self) -> Outputs:
        if self.event is not None:
            self.event.synchronize()
        return tuple(tensor.numpy() for tensor in self.tensors)


def _halves(batch: TokenBatch) -> list[TokenBatch]:
    """Two batches; the first rows are popped first, so the order of rows is kept."""
    middle = len(batch.ids) // 2
    cuts = (slice(middle, None), slice(0, middle))
    return [TokenBatch(batch.ids[cut, : int(batch.lengths[cut].max())], batch.lengths[cut]) for cut in cuts]


def _finish(parts: list[_Pending]) -> Outputs:
    arrays = [part.arrays() for part in parts]
    if len(arrays) == 1:
        return arrays[0]
    return tuple(np.concatenate(columns) for columns in zip(*arrays, strict=True))
