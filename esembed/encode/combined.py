"""Dense and sparse vectors of one text from one pass, where both come from the same transformer.

Two fields of a plan can share the pass: ``encoder={"embedding": both.dense, "terms": both.sparse}``.
Whichever field is encoded first runs the network; the other finds its vectors ready. The result is what
``hf:`` and ``splade:`` give apart, and ``info`` says the same, so an index filled either way can be
searched either way.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from esembed.encode.base import EncoderInfo, EncoderParams, EncodeStats, RuntimeOptions
from esembed.encode.dense_stages import dense_recipe
from esembed.encode.pooling import DenseHead
from esembed.encode.sparse_files import SparseFiles, SpladeSide, open_sparse_model
from esembed.encode.splade import SpladeEncoder, SpladeRunner
from esembed.encode.tokenizer import TextTokenizer
from esembed.errors import EncoderError
from esembed.types import DenseMatrix, SparseVector

__all__ = ["CombinedEncoder", "load_combined"]

Side = Literal["document", "query"]
T = TypeVar("T")

_REMEMBERED_CALLS = 4


def load_combined(
    name: str,
    *,
    dense: EncoderParams | None = None,
    sparse: EncoderParams | None = None,
    runtime: RuntimeOptions | None = None,
) -> CombinedEncoder:
    """A masked-LM checkpoint or SparseEncoder folder as a dense and a sparse encoder.

    Args:
        name: folder or hub id.
        dense, sparse: what changes each kind of vector; prompts, length and revision are the sparse
            side's and serve both.

    Raises:
        EncoderError: as ``splade:`` and ``hf:`` would; documents that need no network; dense params
            that would need a pass of their own.
    """
    sparse = sparse or EncoderParams()
    files = open_sparse_model(name, revision=sparse.revision, runtime=runtime)
    return CombinedEncoder(
        files, dense or EncoderParams(), sparse, runtime or RuntimeOptions.from_environment()
    )


class CombinedEncoder:
    """One transformer, two heads. Safe to call from several threads.

    Attributes:
        dense: the dense half, a ``DenseEncoder``.
        sparse: the sparse half, a ``SparseEncoder``.
    """

    def __init__(
        self, files: SparseFiles, dense: EncoderParams, sparse: EncoderParams, runtime: RuntimeOptions
    ) -> None:
        side = files.document
        spec = f"splade:{files.name}"
        if not isinstance(side, SpladeSide) or files.query is not side:
            raise EncoderError(
                f"{files.name} encodes queries without its transformer, so there is no pass to share: use "
                "hf: and splade: apart",
                spec=spec,
            )
        if dense != EncoderParams(dims=dense.dims, normalize=dense.normalize, pooling=dense.pooling):
            raise EncoderError(
                "the dense half takes dims, normalize and pooling; prompts and length are set on the sparse "
                "half, for both",
                spec=spec,
            )
        self._dense_params = dense
        self._recipe: Any = None

        def dense_head(hidden_size: int) -> DenseHead:
            recipe = self._recipe = dense_recipe(side.files, hidden_size, dense.pooling)
            if dense.dims is not None and not 1 <= dense.dims <= recipe.dims:
                raise EncoderError(f"{files.name} has {recipe.dims} dimensions, not {dense.dims}", spec=spec)
            self._dims = dense.dims or recipe.dims
            cut = self._dims < recipe.dims
            wanted = dense.normalize
            self._normalize = bool(recipe.normalize or cut) if wanted is None else wanted
            return DenseHead(
                recipe.modes, recipe.stages, dims=self._dims if cut else None, normalize=self._normalize
            )

        self._splade = SpladeEncoder(files, sparse, runtime, first=dense_head)
        self._runner: SpladeRunner = self._splade.runner
        self._ready: collections.OrderedDict[tuple[str, Side, tuple[str, ...]], Any] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()
        self._stats = {"dense": EncodeStats(), "sparse": EncodeStats()}
        self.dense: _Half[DenseMatrix] = _Half(self, "dense", self._dense_info(files))
        self.sparse: _Half[list[SparseVector]] = _Half(self, "sparse", self._splade.info)

    def _dense_info(self, files: SparseFiles) -> EncoderInfo:
        sparse, recipe = self._splade.info, self._recipe
        return EncoderInfo(
            spec=f"hf:{files.name}",
            kind="dense",
            dims=self._dims,
            model=sparse.model,
            revision=sparse.revision,
            weights_hash=sparse.weights_hash,
            tokenizer_hash=sparse.tokenizer_hash,
            pooling="+".join(recipe.modes),
            normalize=self._normalize,
            max_seq_length=sparse.max_seq_length,
            query_prompt=sparse.query_prompt,
            document_prompt=sparse.document_prompt,
            extra={"stages": list(recipe.described)} if recipe.described else {},
            runtime=sparse.runtime,
        )

    def encode_document(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Both kinds: float32 (len(texts), dims), and one sparse vector for each text."""
        return self._both("document", texts)

    def encode_query(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Like :meth:`encode_document`, with the query's prompt and limit."""
        return self._both("query", texts)

    def _both(self, side: Side, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        began = time.perf_counter()
        prompt, top_k, threshold = self._splade.settings(side)
        dense = np.empty((len(texts), self._dims), np.float32)
        sparse: list[Any] = [None] * len(texts)
        count = EncodeStats()
        for members, outputs in self._runner.passes(texts, prompt, count):
            dense[members] = outputs[0]
            made = self._runner.vectors(outputs[1:], top_k=top_k, threshold=threshold)
            for member, vector in zip(members, made, strict=True):
                sparse[int(member)] = vector
        if not np.isfinite(dense).all():
            raise EncoderError(
                f"{self.dense.info.spec} gave NaN or infinity: use dtype='float32'", spec=self.dense.info.spec
            )
        with self._lock:
            for stats in self._stats.values():
                stats.texts += len(texts)
                stats.tokens += count.tokens
                stats.truncated += count.truncated
                stats.seconds += (time.perf_counter() - began) / 2  # one pass, shared by both
        return dense, sparse

    def _half(self, kind: Literal["dense", "sparse"], side: Side, texts: Sequence[str]) -> Any:
        key = (kind, side, tuple(texts))
        with self._lock:
            if key in self._ready:
                return self._ready.pop(key)
        dense, sparse = self._both(side, texts)
        other = ("sparse", side, key[2]) if kind == "dense" else ("dense", side, key[2])
        with self._lock:
            self._ready[other] = sparse if kind == "dense" else dense
            while len(self._ready) > _REMEMBERED_CALLS:
                self._ready.popitem(last=False)
        return dense if kind == "dense" else sparse

    def close(self) -> None:
        """Release the model; either half may ask for it."""
        self._splade.close()


class _Half(Generic[T]):
    """One kind of a combined encoder's vectors, as an encoder of its own."""

    def __init__(self, whole: CombinedEncoder, kind: Literal["dense", "sparse"], info: EncoderInfo) -> None:
        self._whole, self._kind, self._info = whole, kind, info

    @property
    def info(self) -> EncoderInfo:
        return self._info

    @property
    def stats(self) -> EncodeStats:
        return self._whole._stats[self._kind]

    @property
    def tokenizer(self) -> TextTokenizer:
        """What counts its tokens; an ingest measures chunks with it."""
        return self._whole._runner.tokenizer

    def encode_document(self, texts: Sequence[str]) -> T:
        vectors: T = self._whole._half(self._kind, "document", texts)
        return vectors

    def encode_query(self, texts: Sequence[str]) -> T:
        vectors: T = self._whole._half(self._kind, "query", texts)
        return vectors

    def close(self) -> None:
        self._whole.close()
