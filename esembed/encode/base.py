"""What an encoder is: text (or what the caller brings) to vectors.

Two protocols, so that a class of one's own needs no base class: a :class:`DenseEncoder` returns
float32 arrays, a :class:`SparseEncoder` returns :class:`~esembed.types.SparseVector`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias, get_type_hints, runtime_checkable

import msgspec

from esembed.deprecation import renamed
from esembed.errors import EncoderError
from esembed.option_checks import check_numbers
from esembed.types import DenseMatrix, SparseVector

__all__ = [
    "DenseEncoder",
    "DenseSparseEncoder",
    "EncodeStats",
    "Encoder",
    "EncoderInfo",
    "RuntimeOptions",
    "SparseEncoder",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How an encoder runs here. Nothing of this changes what a vector means.

    Attributes:
        backend: ``auto``, ``openvino`` or ``torch``; auto is resolved and recorded in ``info.runtime``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` …
        devices: several devices, a worker process for each; empty means just *device*.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        attention: without effect, deprecated; ``packed`` gave the same vectors.
        batch_tokens: the most tokens (padding included) in one forward pass.
        threads: CPU threads, or None for all cores this process may use.
        api_key_env: the environment variable that holds a remote service's key.
        timeout_seconds: for one remote request.
        max_retries: for one remote batch.
        price_usd_per_million_tokens: to count the cost of a remote service.
        local_files_only: never ask the hub.
        query_cache_bytes: what the vectors of queries seen before may take in memory; 0 keeps none.
        query_batch: the most texts of concurrent searches that are encoded together.

    Raises:
        EncoderError: a value that an option can't have.
    """

    backend: Literal["auto", "openvino", "torch"] = "auto"
    device: str = "auto"
    devices: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "packed", "padded"] = "auto"
    batch_tokens: int | None = None
    threads: int | None = None
    api_key_env: str | None = None
    timeout_seconds: float = 60.0
    max_retries: int = 5
    price_usd_per_million_tokens: float | None = None
    local_files_only: bool = False
    query_cache_bytes: int = 16 * 1024 * 1024
    query_batch: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.devices, str):
            raise EncoderError(f"devices is a list of names, not one: devices=({self.devices!r},)")
        object.__setattr__(self, "devices", tuple(self.devices))  # a list can't be a key of shared models
        for name, known in (("backend", _BACKENDS), ("dtype", _DTYPES), ("attention", _ATTENTION)):
            if getattr(self, name) not in known:
                raise EncoderError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")
        if self.attention != "auto":
            warnings.warn(
                "attention has no effect any more: padded rows give the same vectors; leave it out",
                DeprecationWarning,
                stacklevel=3,
            )
        check_numbers(
            self,
            whole={
                "batch_tokens": (1, None),
                "threads": (1, None),
                "query_batch": (1, None),
                "query_cache_bytes": (0, None),
                "max_retries": (0, None),
            },
            real={"timeout_seconds": (0.001, None), "price_usd_per_million_tokens": (0, None)},
            error=lambda message, option: EncoderError(f"{option} {message}"),
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RuntimeOptions:
        """The defaults, with what ``ESEMBED_ENCODER_BACKEND``, ``ESEMBED_ENCODER_DTYPE`` … say (the name
        of any option in capitals; several devices are separated by commas). It is what counts wherever
        no options are handed in, so on the command line and in a container too.

        Raises:
            EncoderError: a variable of that prefix that names no option, or holds what it can't be.
        """
        values: dict[str, Any] = {}
        known, kinds = {one.name for one in fields(cls)}, get_type_hints(cls)
        for variable, text in sorted((os.environ if environ is None else environ).items()):
            if not variable.startswith(_PREFIX) or not text.strip():
                continue
            name = variable.removeprefix(_PREFIX).lower()
            if name not in known:
                raise EncoderError(
                    f"{variable} names no option; there are: "
                    f"{', '.join(_PREFIX + one.upper() for one in sorted(known))}"
                )
            value: Any = text.strip()
            if name == "devices":
                value = [part.strip() for part in value.split(",") if part.strip()]
            try:
                values[name] = msgspec.convert(value, kinds[name], strict=False)
            except msgspec.ValidationError as error:
                raise EncoderError(f"{variable}={text!r} can't be used: {error}") from error
        return cls(**values)


_PREFIX = "ESEMBED_ENCODER_"
_BACKENDS = ("auto", "openvino", "torch")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_ATTENTION = ("auto", "packed", "padded")


@renamed(kind="type")
@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInfo:
    """What an encoder declares about itself: the declared half of the encoder contract.

    Everything here changes the vectors, so everything here is compared. What does not (backend,
    dtype, device, batch size) is in *runtime*, recorded and never compared.

    Attributes:
        spec: the spec string it was made from (``minilm``, ``hf:intfloat/e5-small-v2`` …).
        type: ``dense`` or ``sparse``.
        dims: the number of dimensions returned (dense, after Matryoshka truncation), else None.
        model: the model's public name, or None; never a local path.
        revision: the hub revision (commit), or None.
        weights_hash: sha256 over the source tensors in canonical form, or None (remote, precomputed).
        tokenizer_hash: sha256 over the tokenizer's files, or None.
        pooling: ``mean``, ``cls``, ``max``, ``weightedmean``, ``lasttoken`` … or None.
        normalize: whether vectors are scaled to length 1.
        max_seq_length: tokens kept of each text, or None.
        query_prompt, document_prompt: text put before each query or document.
        extra: what else changes vectors (projection heads, pruning, term statistics' hash …),
            JSON values only.
        runtime: backend, dtype, device … recorded, not compared.
    """

    spec: str
    type: Literal["dense", "sparse"]
    dims: int | None = None
    model: str | None = None
    revision: str | None = None
    weights_hash: str | None = None
    tokenizer_hash: str | None = None
    pooling: str | None = None
    normalize: bool = False
    max_seq_length: int | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class EncodeStats:
    """What an encoder counted since it was made (or since ``reset``).

    Attributes:
        texts, tokens: how many were encoded (tokens after truncation, padding not counted).
        truncated: how many texts were longer than the model takes.
        seconds: time spent inside encode calls, summed over calls.
        cost_usd: money spent at a remote service, when its price is known.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0

    def add(self, more: EncodeStats) -> None:
        """Count what *more* counted as well."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(more, one.name))


@runtime_checkable
class DenseEncoder(Protocol):
    """Text to dense vectors. Calls may come from several threads; an encoder serializes itself."""

    @property
    def info(self) -> EncoderInfo:
        """What decides the vectors; constant while the encoder lives."""
        ...

    @property
    def stats(self) -> EncodeStats:
        """What was encoded so far."""
        ...

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given."""
        ...

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given."""
        ...

    def close(self) -> None:
        """Release memory, threads and connections; calling it twice does no harm."""
        ...


@runtime_checkable
class SparseEncoder(Protocol):
    """Text to sparse vectors. Calls may come from several threads."""

    @property
    def info(self) -> EncoderInfo:
        """What decides the vectors; constant while the encoder lives."""
        ...

    @property
    def stats(self) -> EncodeStats:
        """What was encoded so far."""
        ...

    def encode_document(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector for each text, in the order given."""
        ...

    def encode_query(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector for each text, in the order given."""
        ...

    def close(self) -> None:
        """Release memory, threads and connections; calling it twice does no harm."""
        ...


Encoder: TypeAlias = DenseEncoder | SparseEncoder
"""Any encoder."""


class DenseSparseEncoder(Protocol):
    """Both vectors of a text from a single forward pass of the model that two encoders share."""

    @property
    def dense(self) -> DenseEncoder:
        """The dense half by itself."""
        ...

    @property
    def sparse(self) -> SparseEncoder:
        """The sparse half by itself."""
        ...

    def encode_document(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Float32, shape (len(texts), dims), and one sparse vector for each text, in the order given."""
        ...

    def encode_query(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Float32, shape (len(texts), dims), and one sparse vector for each text, in the order given."""
        ...

    def one_at_a_time(self) -> tuple[Encoder, Encoder]:
        """Views of the dense and the sparse encoder for a caller that asks both for the same few texts."""
        ...
