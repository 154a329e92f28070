"""Dense and sparse vectors of one text from one pass, where both come from the same transformer.

An :class:`~esembed.encode.pool.EncoderPool` combines the fields of a plan by itself. The two halves are the
``hf:`` and the ``splade:`` encoder on one backbone: what they declare and what they make is what they
declare and make apart, so an index filled either way is searched either way. Whoever needs both vectors
of a text asks the :class:`CombinedEncoder`, which runs the network once.

A half that is asked alone pays for itself only. The sparse half takes the shared network along, since
pooling costs nothing beside it. The dense half has a network without the masked-LM head, which is made
when it is first needed; on torch it is the same model. BGE-M3's sparse head is as cheap as pooling, so
there one network serves all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from esembed.encode.backends import load_backbone
from esembed.encode.backends.base import Backbone, Head, LazyProgram, Program
from esembed.encode.base import Encoder, EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.models.folder import ModelFiles, open_model
from esembed.encode.models.sparse_folder import SparseFiles, SpladeSide, StaticSide, open_sparse_model
from esembed.encode.processes import ForkSafeLock, absolute, how_to_load, remember_call
from esembed.encode.transformer.dense import TransformerEncoder, dense_prompts, spec_of
from esembed.encode.transformer.splade import SpladeEncoder, sparse_prompts
from esembed.encode.transformer.token_weights import TokenWeightHead
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams
from esembed.types import DenseMatrix, SparseVector

__all__ = ["CombinedEncoder", "load_combined", "load_shared"]

Side = Literal["document", "query"]


def load_combined(
    name: str,
    *,
    dense: EncoderParams | None = None,
    sparse: EncoderParams | None = None,
    runtime: RuntimeOptions | None = None,
) -> CombinedEncoder:
    """A masked-LM checkpoint, SparseEncoder folder or BGE-M3 as a dense and a sparse encoder.

    Args:
        name: folder or hub id.
        dense, sparse: what changes each kind of vector; prompts, length and revision are the sparse
            side's and serve both.

    Raises:
        EncoderError: as ``splade:`` and ``hf:`` would; documents that need no network; dense params
            that would need a pass of their own.
    """
    dense, sparse = dense or EncoderParams(), sparse or EncoderParams()
    runtime = runtime or RuntimeOptions.from_environment()
    files = open_sparse_model(name, revision=sparse.revision, runtime=runtime)
    spec = f"splade:{files.name}"
    if isinstance(files.document, StaticSide):
        raise EncoderError(
            f"{files.name} encodes documents without a transformer, so there is no pass to share: use "
            "hf: and splade: apart",
            spec=spec,
        )
    if dense != EncoderParams(dims=dense.dims, normalize=dense.normalize, pooling=dense.pooling):
        raise EncoderError(
            "the dense half takes dims, normalize and pooling; prompts and length are set on the sparse "
            "half, for both",
            spec=spec,
        )
    prompts = sparse_prompts(files, sparse)
    given = dense
    dense = msgspec.structs.replace(
        dense,
        query_prompt=prompts["query"],
        document_prompt=prompts["document"],
        max_seq_length=sparse.max_seq_length,
    )
    if _skips_prompt(files.document.files, prompts["document"]):
        raise EncoderError(f"{files.name} pools without its prompt: use hf: and splade: apart", spec=spec)
    made = CombinedEncoder(files.document.files, files, dense, sparse, runtime)
    recipe = (absolute(name), given, sparse, runtime)
    remember_call(made, _load_part, "combined", *recipe)
    remember_call(made.dense, _load_part, "dense", *recipe)
    remember_call(made.sparse, _load_part, "sparse", *recipe)
    return made


def _load_part(
    part: Literal["combined", "dense", "sparse"],
    name: str,
    dense: EncoderParams,
    sparse: EncoderParams,
    runtime: RuntimeOptions,
) -> CombinedEncoder | Encoder:
    """What a pickle of a combined encoder, or of one half of it, loads where it is read."""
    combined = load_combined(name, dense=dense, sparse=sparse, runtime=runtime)
    return combined if part == "combined" else combined.dense if part == "dense" else combined.sparse


def load_shared(
    name: str, dense: EncoderParams, sparse: EncoderParams, runtime: RuntimeOptions
) -> CombinedEncoder | None:
    """``hf:NAME`` and ``splade:NAME`` on one network, or None where one pass can't make the documents'
    vectors of both: other lengths or document prompts, documents without a network, a folder that is
    only one of the two.

    Raises:
        EncoderError: the model can't be run, or params don't fit.
    """
    try:
        dense_files = open_model(name, revision=dense.revision, runtime=runtime)
        files = open_sparse_model(name, revision=sparse.revision, runtime=runtime)
    except EncoderError:
        return None  # loaded apart, the one that can't be read says why
    if isinstance(files.document, StaticSide):
        return None
    own = files.document.files
    _, prompt, _ = dense_prompts(dense_files, dense)
    same = (
        own.transformer_folder == dense_files.transformer_folder
        and own.lower_case == dense_files.lower_case
        and (dense.max_seq_length or dense_files.max_seq_length)
        == (sparse.max_seq_length or own.max_seq_length)
        and prompt == sparse_prompts(files, sparse)["document"]
        and not _skips_prompt(dense_files, prompt)
    )
    if not same:
        return None
    made = CombinedEncoder(dense_files, files, dense, sparse, runtime)
    remember_call(made, load_shared, absolute(name), dense, sparse, runtime)
    return made


def _skips_prompt(files: ModelFiles, prompt: str) -> bool:
    pooling = [module for module in files.modules if module.kind == "Pooling"]
    return bool(prompt) and not all(module.config.get("include_prompt", True) for module in pooling)


class CombinedEncoder:
    """One transformer, two heads. Safe to call from several threads.

    A shared pass is counted once: tokens, truncated texts and seconds in ``dense.stats``, the texts in
    both halves' stats.

    Args:
        dense_files: the model, as ``hf:`` reads it.
        files: the model, as ``splade:`` reads it.
        dense, sparse: params of each half; lengths and document prompts must come out the same.
        runtime: how it runs here.

    Attributes:
        dense: the dense half, a ``DenseEncoder``.
        sparse: the sparse half, a ``SparseEncoder``.
        shares_queries: whether one pass makes both vectors of a query, too (not where the prompts of
            queries differ, or the sparse half encodes them without the network).
    """

    def __init__(
        self,
        dense_files: ModelFiles,
        files: SparseFiles,
        dense: EncoderParams,
        sparse: EncoderParams,
        runtime: RuntimeOptions,
    ) -> None:
        side = files.document
        if isinstance(side, StaticSide):
            raise EncoderError(f"{files.name} encodes documents without a network")
        backbone = _Shared(load_backbone(side.files, runtime), masked_lm=isinstance(side, SpladeSide))
        try:
            self.dense = TransformerEncoder(
                dense_files, dense, runtime, spec=spec_of(dense_files), backbone=backbone
            )
            self.sparse = SpladeEncoder(
                files, sparse, runtime, backbone=backbone, first=self.dense.document_head
            )
        except BaseException:
            backbone.close()
            raise
        self._runner = self.sparse.runner
        if isinstance(self._runner.head, TokenWeightHead):
            self.dense.run_on(self._runner.program)
        same_query = self.dense.info.query_prompt == self.sparse.info.query_prompt
        self.shares_queries = (
            self.sparse.one_network and same_query and self.dense.query_head is self.dense.document_head
        )
        self.dense.combined = self.sparse.combined = self

    def __reduce__(self) -> Any:
        """Pickled as what it was loaded from: the process that reads the pickle loads the model again."""
        return how_to_load(self)

    def encode_document(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Both kinds: float32 (len(texts), dims), and one sparse vector for each text.

        Raises:
            EncoderError: something in *texts* is no string, or NaN or infinity came out.
        """
        return self._both("document", texts)

    def encode_query(self, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        """Like :meth:`encode_document`, with the query's prompt and limit; two passes where queries don't
        share one."""
        if not self.shares_queries:
            return self.dense.encode_query(texts), self.sparse.encode_query(texts)
        return self._both("query", texts)

    def _both(self, side: Side, texts: Sequence[str]) -> tuple[DenseMatrix, list[SparseVector]]:
        if isinstance(texts, str):
            raise EncoderError("texts must be a sequence of strings, not one string: put it in a list")
        began = time.perf_counter()
        prompt, top_k, threshold = self.sparse.settings(side)
        dense = np.empty((len(texts), self.dense.info.dims or 0), np.float32)
        sparse: list[Any] = [None] * len(texts)
        count = EncodeStats(texts=len(texts))
        for members, ids, outputs in self._runner.passes(texts, prompt, count):
            dense[members] = outputs[0]
            made = self._runner.vectors(ids, outputs, top_k=top_k, threshold=threshold)
            for member, vector in zip(members, made, strict=True):
                sparse[int(member)] = vector
        self.dense.check(dense)
        count.seconds = time.perf_counter() - began
        self.dense.count(count)
        self.sparse.count(EncodeStats(texts=len(texts)))
        return dense, sparse

    def one_at_a_time(self) -> tuple[Encoder, Encoder]:
        """Two views, dense and sparse, for a caller that asks both for the vectors of the same few texts, one
        after the other: the first runs the pass, the second finds its vectors. What only one of them is
        asked for is kept as long as the views are."""
        made: dict[tuple[Side, tuple[str, ...]], tuple[Any, set[int]]] = {}
        lock = ForkSafeLock()

        def take(place: int, side: Side, texts: Sequence[str]) -> Any:
            key = (side, tuple(texts))
            with lock:
                if key not in made:
                    encode = self.encode_document if side == "document" else self.encode_query
                    made[key] = (encode(texts), set())
                vectors, taken = made[key]
                taken.add(place)
                if len(taken) == 2:
                    del made[key]
                return vectors[place]

        return _View(self.dense, partial(take, 0)), _View(self.sparse, partial(take, 1))

    def close(self) -> None:
        """Release the model; closing either half does the same."""
        self.dense.close()
        self.sparse.close()


class _View:
    """One half, whose vectors are made along with the other's."""

    def __init__(
        self, half: TransformerEncoder | SpladeEncoder, take: Callable[[Side, Sequence[str]], Any]
    ) -> None:
        self._half, self._take = half, take

    def __reduce__(self) -> Any:
        """Pickled as the half by itself."""
        return how_to_load(self._half)

    @property
    def info(self) -> EncoderInfo:
        return self._half.info

    @property
    def stats(self) -> EncodeStats:
        return self._half.stats

    def encode_document(self, texts: Sequence[str]) -> Any:
        return self._take("document", texts)

    def encode_query(self, texts: Sequence[str]) -> Any:
        return self._take("query", texts)

    def close(self) -> None:
        """Nothing: the half is closed by whoever made it."""


@dataclass(frozen=True, slots=True)
class _OfMaskedLM:
    """A head on the model that has its masked-LM head too, so that one model serves both."""

    head: Head

    @property
    def needs_masked_lm(self) -> bool:
        return True

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        return self.head.openvino(graph, hidden, mask)

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        return self.head.torch(model, hidden, offsets)


class _Shared:
    """A backbone of two encoders. In torch its programs are views of one model; in OpenVINO each is a
    network of its own, so it is built when it is first run."""

    def __init__(self, backbone: Backbone, masked_lm: bool) -> None:
        self._backbone, self._masked_lm = backbone, masked_lm
        self._lazy = backbone.runtime.get("backend") == "openvino"
        self.process = backbone.process
        self.hidden_size = backbone.hidden_size
        self.max_positions = backbone.max_positions
        self.batch_tokens = backbone.batch_tokens
        self.pad_multiple = backbone.pad_multiple

    @property
    def runtime(self) -> Mapping[str, Any]:
        return self._backbone.runtime

    def program(self, head: Head) -> Program:
        if self._lazy:
            return LazyProgram(lambda: self._backbone.program(head))
        return self._backbone.program(_OfMaskedLM(head) if self._masked_lm else head)

    def close(self) -> None:
        self._backbone.close()
