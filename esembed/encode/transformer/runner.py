"""Texts through a network: their length limit, windows sorted by length, batches cut by a token budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from esembed.encode.backends.base import Backbone, Outputs, Program, TokenBatch
from esembed.encode.base import EncodeStats
from esembed.errors import EncoderError, EsembedError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles
    from esembed.encode.models.tokenizer import TextTokenizer, Tokenized

__all__ = [
    "WINDOW_TEXTS",
    "Interrupted",
    "encode_passes",
    "interruptible",
    "length_limit",
    "make_batch",
    "plan_batches",
    "prefetched",
    "run_sorted",
]

WINDOW_TEXTS = 8192
"""Texts that are tokenized and sorted together; bounds memory, and padding is small at this size."""

T = TypeVar("T")
Ids = npt.NDArray[np.int32]

_stop: ContextVar[threading.Event | None] = ContextVar("esembed_encode_stop", default=None)


class Interrupted(EsembedError):
    """An encode call was left between two batches, because what waits for it wants to end."""


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Encode calls of this thread end with :class:`Interrupted` soon after *stop* is set.

    A call may hold minutes of work, and an interpreter that ends while a thread is inside a native
    library aborts.
    """
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def plan_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], batch_tokens: int, pad_multiple: int = 8
) -> list[npt.NDArray[np.int64]]:
    """Which texts go together: index arrays, the longest texts first (so that what doesn't fit shows early).

    Within a batch the padded tokens (rows × longest, rounded up to *pad_multiple*) stay within
    *batch_tokens*; a text that is longer than the budget gets a batch of its own.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches, start = [], 0
    while start < len(order):
        width = -(-int(sizes[order[start]]) // pad_multiple) * pad_multiple
        rows = max(1, batch_tokens // max(width, 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def make_batch(
    ids: Sequence[Ids], pad_id: int, pad_multiple: int = 1, limit: int | None = None
) -> TokenBatch:
    """Token ids as one right-padded array; its length a multiple of *pad_multiple*, at most *limit*."""
    lengths = np.fromiter((len(one) for one in ids), np.int32, len(ids))
    longest = int(lengths.max())
    width = -(-longest // pad_multiple) * pad_multiple
    if limit is not None:
        width = max(longest, min(width, limit))
    padded = np.full((len(ids), width), pad_id, dtype=np.int32)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
    return TokenBatch(padded, lengths)


def run_sorted(
    program: Program,
    ids: Sequence[Ids],
    *,
    pad_id: int,
    batch_tokens: int,
    pad_multiple: int = 8,
    limit: int | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], Outputs]]:
    """Run all of *ids*; yields for each batch the positions of its texts and the head's outputs.

    Raises:
        Interrupted: see :func:`interruptible`.
    """
    plan = plan_batches([len(one) for one in ids], batch_tokens, pad_multiple)
    stop = _stop.get()

    def batches() -> Iterator[TokenBatch]:
        for members in plan:
            if stop is not None and stop.is_set():
                raise Interrupted("the encode call was left, since its run ends")
            yield make_batch([ids[i] for i in members], pad_id, pad_multiple, limit)

    yield from zip(plan, program.run(batches()), strict=True)


def prefetched(make: Callable[[int], T], count: int) -> Iterator[T]:
    """``make(0) … make(count - 1)``, the next one made in a thread while the last one is used."""
    if count <= 1:
        for place in range(count):
            yield make(place)
        return
    with ThreadPoolExecutor(1, "esembed-tokenize") as pool:
        waiting: Future[T] | None = pool.submit(make, 0)
        for place in range(count):
            if waiting is None:
                break
            ready = waiting.result()
            waiting = pool.submit(make, place + 1) if place + 1 < count else None
            yield ready


def encode_passes(
    texts: Sequence[str],
    prompt: str,
    *,
    tokenizer: TextTokenizer,
    program: Program,
    backbone: Backbone,
    batch_tokens: int,
    count: EncodeStats,
) -> Iterator[tuple[npt.NDArray[np.int64], list[Ids], Outputs]]:
    """For each batch the positions of its texts, their token ids and the heads' outputs.

    Args:
        count: its tokens and truncated texts are added to, window by window.

    Raises:
        EncoderError: something in *texts* is no string, or this is a forked child.
        Interrupted: see :func:`interruptible`.
    """
    backbone.process.check()

    def tokenize(window: int) -> Tokenized:
        start = window * WINDOW_TEXTS
        return tokenizer(texts[start : start + WINDOW_TEXTS], prompt)

    for window, ready in enumerate(prefetched(tokenize, -(-len(texts) // WINDOW_TEXTS))):
        for members, outputs in run_sorted(
            program,
            ready.ids,
            pad_id=tokenizer.pad_id,
            batch_tokens=batch_tokens,
            pad_multiple=backbone.pad_multiple,
            limit=backbone.max_positions,
        ):
            yield members + window * WINDOW_TEXTS, [ready.ids[i] for i in members], outputs
        count.tokens += sum(len(one) for one in ready.ids)
        count.truncated += ready.truncated


def length_limit(files: ModelFiles, backbone: Backbone, wanted: int | None, spec: str) -> int | None:
    """The tokens kept of a text: what is wanted, else what the model's files say, at most what it can take.

    Raises:
        EncoderError: more are wanted than the model takes.
    """
    most = backbone.max_positions
    if wanted is not None and most is not None and wanted > most:
        raise EncoderError(f"{spec} takes at most {most} tokens, not max_seq_length={wanted}", spec=spec)
    limit = wanted or files.max_seq_length or most
    return limit if most is None or limit is None else min(limit, most)
