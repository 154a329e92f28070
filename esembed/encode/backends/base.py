"""The interface between the encoders and what runs the network.

A *backbone* runs a transformer and hands its last hidden states to a *head*. The head (dense
pooling, SPLADE …) is built into the backend's own graph, so that nothing larger than the head's
result crosses back. A family of encoders therefore only writes a head; it works on every backend
that the head has a method for. A further backend (a native kernel, say) needs only :class:`Backbone`
and :class:`Program`.

::

    files = models.folder.open_model("name-or-folder", runtime=runtime)
    backbone = backends.load_backbone(files, runtime)  # auto is resolved here, see backbone.runtime
    program = backbone.program(head)                   # compiles; maybe several times, for several heads
    for outputs in program.run(batches):               # one tuple of arrays for each batch, in order
        ...

A head has two methods, one for each backend; each gets hidden states and returns outputs in the order
of the batch's rows, along the first axis: those of two halves of a batch one behind the other must be
those of the batch:

``head.openvino(graph, hidden, mask)``
    *graph* is an ``openvino_graph.Graph`` (``graph.tensor(name)`` reads a source tensor,
    ``graph.linear``, ``graph.layer_norm``, ``graph.gelu`` build on it), *hidden* an output of shape
    (rows, length, hidden) float32, *mask* (rows, length) float32 of ones and zeros. Returns a list
    of outputs.

``head.torch(model, hidden, offsets)``
    *model* is the transformers model (the one with its masked-LM head where ``needs_masked_lm`` is
    true, else the bare encoder), *hidden* a tensor (tokens, hidden) of the real tokens only, in the
    backbone's dtype; row r is ``hidden[offsets[r]:offsets[r + 1]]``; *offsets* is int64 (rows + 1,)
    on the same device. Returns a tuple of tensors.

:class:`JoinedHead` runs several heads on one pass, :class:`LazyProgram` compiles when it is first run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from esembed.encode.processes import ForkSafeLock, ProcessMark
from esembed.lazy import np, npt

__all__ = [
    "Backbone",
    "Head",
    "JoinedHead",
    "LazyProgram",
    "Outputs",
    "Program",
    "TokenBatch",
]

IntArray: TypeAlias = "npt.NDArray[np.int32]"
Outputs: TypeAlias = "tuple[npt.NDArray[Any], ...]"
"""What a head returned for one batch: arrays in the order of its rows, along the first axis."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Token ids of some texts, padded on the right.

    Right padding serves every model: encoders mask it, and in a causal decoder no real token ever
    sees it, so it equals left padding up to the rotary position's offset, which cancels out.

    Attributes:
        ids: int32, shape (rows, length).
        lengths: int32, shape (rows,): the real tokens of each row, at least 1.
    """

    ids: IntArray
    lengths: IntArray

    @property
    def mask(self) -> npt.NDArray[np.float32]:
        """Ones at real tokens, zeros at padding: float32, shape (rows, length)."""
        return (np.arange(self.ids.shape[1], dtype=np.int32) < self.lengths[:, None]).astype(np.float32)


class Head(Protocol):
    """What is computed from the last hidden states. Immutable and picklable; see the module's text."""

    @property
    def needs_masked_lm(self) -> bool:
        """Whether the torch model must come with its masked-LM head."""
        ...

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        """The outputs as nodes of an OpenVINO graph, from hidden states (rows, tokens, hidden_size)."""
        ...

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        """The head's outputs as tensors, from hidden states of all tokens and where each text begins."""
        ...


@dataclass(frozen=True, slots=True)
class JoinedHead:
    """Several heads on one pass; their outputs one after the other."""

    heads: tuple[Head, ...]

    @property
    def needs_masked_lm(self) -> bool:
        return any(head.needs_masked_lm for head in self.heads)

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        return [output for head in self.heads for output in head.openvino(graph, hidden, mask)]

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        return tuple(output for head in self.heads for output in head.torch(model, hidden, offsets))


class Program(Protocol):
    """A backbone with a head, ready to run. Calls may come from several threads."""

    def run(self, batches: Iterable[TokenBatch]) -> Iterator[Outputs]:
        """The head's outputs for each batch, in the order of the batches.

        Batches are taken as they are needed, a few ahead, so that the next is prepared while one
        runs. A single batch takes the path of the least latency.
        """
        ...

    def close(self) -> None:
        """Release what the device holds."""
        ...


class LazyProgram:
    """A program that is made when it is first run: where several heads share a backbone, what nobody asks
    for takes no memory."""

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make = make
        self._made: Program | None = None
        self._lock = ForkSafeLock()

    @property
    def made(self) -> bool:
        """Whether it was needed yet."""
        return self._made is not None

    def run(self, batches: Iterable[TokenBatch]) -> Iterator[Outputs]:
        """See :class:`Program`."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            made = self._made
        return made.run(batches)

    def close(self) -> None:
        """Let what was made go."""
        with self._lock:
            if self._made is not None:
                self._made.close()


class Backbone(Protocol):
    """A transformer on a device.

    Attributes:
        hidden_size: the width of the hidden states.
        max_positions: the longest sequence it takes, in tokens, or None for no limit of its own.
        batch_tokens: the padded tokens in one batch that suit this backend and device.
        pad_multiple: lengths are padded to a multiple of this (fewer shapes to compile).
        runtime: backend, device, dtype … as resolved: recorded in ``EncoderInfo.runtime``.
        process: where it was loaded; it is of no use in a forked child.
    """

    @property
    def process(self) -> ProcessMark: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def max_positions(self) -> int | None: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def pad_multiple(self) -> int: ...
    @property
    def runtime(self) -> Mapping[str, Any]: ...

    def program(self, head: Head) -> Program:
        """The backbone with *head* on it, compiled."""
        ...

    def close(self) -> None:
        """Release what the device holds."""
        ...
