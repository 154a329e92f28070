"""``splade:NAME-or-FOLDER``: learned sparse vectors from a transformer.

Read as they stand: sentence-transformers' SparseEncoder folders, plain masked-LM checkpoints,
OpenSearch's doc-only models with an inference-free query side, and BGE-M3 (see ``sparse_files``).
Features are the vocabulary's tokens as strings, unique for each id; ``dialect.tokens`` makes engine field
names of them. Special tokens never appear, whatever the model gives them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from esembed.encode.backends import load_backbone
from esembed.encode.backends.base import Backbone, Head, JoinedHead, Outputs, Program
from esembed.encode.base import DenseSparseEncoder, EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.counting import EncodeCounter
from esembed.encode.models.checks import check_tokens, vocabulary_size
from esembed.encode.models.folder import ModelFiles
from esembed.encode.models.sparse_folder import (
    SparseFiles,
    SpladeSide,
    StaticSide,
    TokenWeightSide,
    open_sparse_model,
)
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.models.vocabulary import StaticWeights, Vocabulary, readable
from esembed.encode.processes import how_to_load
from esembed.encode.transformer.runner import encode_passes, length_limit
from esembed.encode.transformer.splade_head import SpladeHead, raw_threshold, rows_of, weights_of
from esembed.encode.transformer.token_weights import TokenWeightHead, heaviest, read_token_weights
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams
from esembed.types import FloatArray, SparseVector

__all__ = ["SpladeEncoder", "SpladeRunner", "load", "sparse_prompts"]

_FOREIGN = ("dims", "normalize", "pooling", "k1", "b", "avgdl", "language", "stop_words", "statistics")


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> SpladeEncoder:
    """The encoder of the folder or hub id *rest*; for :func:`esembed.encode.registry.load`.

    Raises:
        EncoderError: no such model, a dense one, a head that isn't known, remote code, a pickled
            checkpoint, params that don't fit.
    """
    return SpladeEncoder(open_sparse_model(rest, revision=params.revision, runtime=runtime), params, runtime)


def sparse_prompts(files: SparseFiles, params: EncoderParams) -> dict[str, str]:
    """What stands before queries and documents: side → text."""
    prompts = files.prompts
    document = next((prompts[k] for k in ("document", "passage", "corpus") if prompts.get(k)), "")
    return {
        "query": prompts.get("query", "") if params.query_prompt is None else params.query_prompt,
        "document": document if params.document_prompt is None else params.document_prompt,
    }


class SpladeEncoder:
    """A sparse model. Implements :class:`~esembed.encode.base.SparseEncoder`.

    Args:
        files: the model, read.
        params: what changes the vectors. ``top_k`` and ``query_top_k`` default to the model's own
            ``max_active_dims``, else to all; ``threshold`` drops weights at or under it.
        runtime: how it runs here.
        backbone: runs the documents' network, where another encoder uses it too; None loads one.
        first: another head for the documents' pass; see :class:`SpladeRunner`.

    Attributes:
        combined: set where this is the sparse half of a
            :class:`~esembed.encode.base.DenseSparseEncoder`.

    Raises:
        EncoderError: see :func:`load`.
    """

    def __init__(
        self,
        files: SparseFiles,
        params: EncoderParams,
        runtime: RuntimeOptions,
        *,
        backbone: Backbone | None = None,
        first: Head | None = None,
    ) -> None:
        spec = f"splade:{files.name}"
        foreign = [name for name in _FOREIGN if getattr(params, name) is not None]
        if foreign:
            raise EncoderError(f"{spec}: {', '.join(foreign)} mean nothing to a SPLADE encoder", spec=spec)
        self._top_k = params.top_k or files.max_active_dims
        self._query_top_k = params.query_top_k or files.max_active_dims
        self._threshold = params.threshold or 0.0
        if min(self._top_k or 1, self._query_top_k or 1) < 1 or not self._threshold >= 0:
            raise EncoderError(f"{spec}: top_k must be at least 1 and threshold at least 0", spec=spec)
        self._prompts = sparse_prompts(files, params)
        self.combined: DenseSparseEncoder | None = None
        self._sides: dict[str, SpladeRunner | StaticWeights] = {}
        for name, side in (("document", files.document), ("query", files.query)):
            same = name == "query" and side is files.document
            if same:
                self._sides[name] = self._sides["document"]
            elif isinstance(side, StaticSide):
                self._sides[name] = StaticWeights(side, files.name)
            else:
                top_k = self._device_top_k(files, side)
                shared = (backbone, first) if name == "document" else (None, None)
                self._sides[name] = SpladeRunner(side, params, runtime, spec, top_k, *shared)
        self._info = self._describe(files, spec, params)
        self._stats = EncodeCounter()

    def _device_top_k(self, files: SparseFiles, side: SpladeSide | TokenWeightSide) -> int | None:
        """What may be cut on the device: the larger limit of all sides that *side* encodes."""
        limits = [self._top_k] if side is files.document else []
        limits += [self._query_top_k] if side is files.query else []
        known = [limit for limit in limits if limit is not None]
        return max(known) if len(known) == len(limits) else None

    def _describe(self, files: SparseFiles, spec: str, params: EncoderParams) -> EncoderInfo:
        document, query = self._sides["document"], self._sides["query"]
        vocabulary = document.vocabulary
        extra: dict[str, Any] = {"vocabulary": len(vocabulary.tokens), "special_tokens": "excluded"}
        if self._top_k is not None:
            extra["top_k"] = self._top_k
        if self._query_top_k is not None:
            extra["query_top_k"] = self._query_top_k
        if self._threshold:
            extra["threshold"] = self._threshold
        if document.tokenizer.applied:
            extra["tokenizer"] = dict(document.tokenizer.applied)
        if isinstance(query, StaticWeights):
            extra["query"] = "static"
            extra["query_weights_hash"] = hashlib.sha256(query.weights.tobytes()).hexdigest()
            extra["query_tokenizer_hash"] = query.tokenizer_hash
        if isinstance(document, StaticWeights):
            weights_hash = hashlib.sha256(document.weights.tobytes()).hexdigest()
            pooling, runtime = "static", {"backend": "numpy", "device": "cpu", "dtype": "float32"}
        else:
            weights_hash = document.weights_hash()
            pooling = document.pooling
            if document.activation is not None:
                extra["activation"] = document.activation
            runtime = dict(document.backbone.runtime)
        return EncoderInfo(
            spec=spec,
            type="sparse",
            model=files.name,
            revision=files.revision,
            weights_hash=weights_hash,
            tokenizer_hash=document.tokenizer_hash,
            pooling=pooling,
            max_seq_length=document.max_seq_length,
            query_prompt=self._prompts["query"],
            document_prompt=self._prompts["document"],
            extra=extra,
            runtime=runtime,
        )

    def __reduce__(self) -> Any:
        """Pickled as what it was loaded from: the process that reads the pickle loads the model again."""
        return how_to_load(self)

    @property
    def info(self) -> EncoderInfo:
        """What this encoder declares; equal on every backend except for ``runtime``."""
        return self._info

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens by id, for ``models.vocabulary.token_ids`` (SEISMIC)."""
        return self._sides["document"].vocabulary.tokens

    @property
    def tokenizer(self) -> TextTokenizer:
        """What counts the tokens of documents; an ingest measures chunks with it."""
        return self._sides["document"].tokenizer

    @property
    def runner(self) -> SpladeRunner:
        """The network that encodes documents.

        Raises:
            EncoderError: documents need none.
        """
        side = self._sides["document"]
        if not isinstance(side, SpladeRunner):
            raise EncoderError(f"{self._info.spec} runs no network", spec=self._info.spec)
        return side

    @property
    def one_network(self) -> bool:
        """Whether queries are encoded by the network of the documents."""
        return self._sides["query"] is self._sides["document"]

    def settings(self, side: Literal["document", "query"]) -> tuple[str, int | None, float]:
        """Prompt, top_k and threshold of documents or queries."""
        return self._prompts[side], self._top_k if side == "document" else self._query_top_k, self._threshold

    def encode_document(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector for each text in the order given; weights > threshold, heaviest first, ties by id.

        Raises:
            EncoderError: something in *texts* is no string, or NaN or infinity came out.
        """
        return self._encode("document", texts, self._top_k)

    def encode_query(self, texts: Sequence[str]) -> list[SparseVector]:
        """Like :meth:`encode_document`, with the query's prompt, limit and, maybe, its own model."""
        return self._encode("query", texts, self._query_top_k)

    def _encode(self, name: str, texts: Sequence[str], top_k: int | None) -> list[SparseVector]:
        if isinstance(texts, str):
            raise EncoderError("texts must be a sequence of strings, not one string: put it in a list")
        began = time.perf_counter()
        side = self._sides[name]
        vectors, tokens, truncated = side.encode(
            texts, self._prompts[name], top_k=top_k, threshold=self._threshold
        )
        self.count(EncodeStats(len(texts), tokens, truncated, time.perf_counter() - began))
        return vectors

    def count(self, more: EncodeStats) -> None:
        """Add to the stats."""
        self._stats.add(more)

    @staticmethod
    def decode(vector: SparseVector, top_k: int | None = None) -> list[tuple[str, float]]:
        """Words and weights for people, heaviest first."""
        heaviest = vector.top(len(vector) if top_k is None else top_k)
        return [
            (readable(str(token)), float(weight))
            for token, weight in zip(heaviest.indices, heaviest.values, strict=True)
        ]

    def close(self) -> None:
        """Release the model."""
        for side in self._sides.values():
            if isinstance(side, SpladeRunner):
                side.close()


class SpladeRunner:
    """A transformer on a backend, with a sparse head.

    Args:
        side: the model and how its scores are pooled.
        device_top_k: the most features that are needed of any text, or None for all.
        backbone: runs the network; None loads it.
        first: another head; its one output then stands first in :meth:`passes` (dense and sparse from
            one pass).

    Attributes:
        head: what makes sparse weights of hidden states.
        program: the network with its heads.
        pooling, activation: what ``info`` tells of the head.
    """

    def __init__(
        self,
        side: SpladeSide | TokenWeightSide,
        params: EncoderParams,
        runtime: RuntimeOptions,
        spec: str,
        device_top_k: int | None,
        backbone: Backbone | None = None,
        first: Head | None = None,
    ) -> None:
        self.files: ModelFiles = side.files
        self.backbone: Backbone = load_backbone(side.files, runtime) if backbone is None else backbone
        self.max_seq_length = length_limit(side.files, self.backbone, params.max_seq_length, spec)
        self.tokenizer = TextTokenizer(side.files, self.max_seq_length)
        check_tokens(self.tokenizer.tokens(), self.files.config, self.files.tensors(), self.files.name)
        self.tokenizer_hash = side.files.tokenizer_hash()
        self.vocabulary = Vocabulary(self.tokenizer, vocabulary_size(self.files.config, self.files.name))
        self.head: SpladeHead | TokenWeightHead
        self.activation: str | None = None
        if isinstance(side, TokenWeightSide):
            self.pooling = "token_weights_max"
            self.head = TokenWeightHead(*read_token_weights(side.weights, self.backbone.hidden_size))
        else:
            self.pooling, self.activation = f"splade_{side.strategy}", side.activation
            threshold = params.threshold or 0.0
            self.head = SpladeHead(
                side.strategy,
                side.activation,
                self.vocabulary.excluded,
                device_top_k,
                raw_threshold(threshold, side.activation) if side.strategy == "max" else threshold,
            )
        self.batch_tokens = runtime.batch_tokens or self.backbone.batch_tokens
        self._spec = spec
        self._all_ids = np.arange(len(self.vocabulary.tokens))
        self._excluded = np.zeros(len(self.vocabulary.tokens), bool)
        self._excluded[list(self.vocabulary.excluded)] = True
        self._others = 0 if first is None else 1
        head: Head = self.head if first is None else JoinedHead((first, self.head))
        self.program: Program = self.backbone.program(head)

    def weights_hash(self) -> str:
        """sha256 over the tensors that the weights come from."""
        hashed = self.files.weights_hash()
        if isinstance(self.head, TokenWeightHead):
            own = self.head.weight.tobytes() + np.float32(self.head.bias).tobytes()
            hashed = hashlib.sha256(hashed.encode() + own).hexdigest()
        return hashed

    def encode(
        self, texts: Sequence[str], prompt: str, *, top_k: int | None, threshold: float
    ) -> tuple[list[SparseVector], int, int]:
        """The vectors, the tokens, and how many texts were cut."""
        vectors: list[SparseVector | None] = [None] * len(texts)
        count = EncodeStats()
        for members, ids, outputs in self.passes(texts, prompt, count):
            made = self.vectors(ids, outputs, top_k=top_k, threshold=threshold)
            for member, vector in zip(members, made, strict=True):
                vectors[int(member)] = vector
        return [vector for vector in vectors if vector is not None], count.tokens, count.truncated

    def passes(
        self, texts: Sequence[str], prompt: str, count: EncodeStats
    ) -> Iterator[tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int32]], Outputs]]:
        """For each batch the positions of its texts, their token ids and the heads' outputs; adds to
        *count*."""
        return encode_passes(
            texts,
            prompt,
            tokenizer=self.tokenizer,
            program=self.program,
            backbone=self.backbone,
            batch_tokens=self.batch_tokens,
            count=count,
        )

    def vectors(
        self,
        tokens: Sequence[npt.NDArray[np.int32]],
        outputs: Outputs,
        *,
        top_k: int | None,
        threshold: float,
    ) -> list[SparseVector]:
        """One batch as vectors.

        Args:
            tokens: the token ids of each text.
            outputs: the heads'.

        Raises:
            EncoderError: NaN or infinity came out.
        """
        outputs = outputs[self._others :]
        if not np.isfinite(outputs[0]).all():
            raise EncoderError(
                f"{self._spec} gave NaN or infinity in {self.backbone.runtime.get('dtype')}: use "
                "dtype='float32' (or 'bfloat16')",
                spec=self._spec,
            )
        return [
            self.vocabulary.vector(
                self._all_ids if ids is None else ids, weights, top_k=top_k, threshold=threshold
            )
            for ids, weights in self._rows(tokens, outputs)
        ]

    def _rows(
        self, tokens: Sequence[npt.NDArray[np.int32]], outputs: Outputs
    ) -> Iterator[tuple[npt.NDArray[Any] | None, FloatArray]]:
        """Ids and weights of each row; ids are None where a row has a weight for every id."""
        if isinstance(self.head, TokenWeightHead):
            yield from heaviest(outputs[0], tokens, self._excluded)
            return
        for ids, row in rows_of(outputs):
            yield ids, weights_of(row, self.head.activation) if self.head.strategy == "max" else row

    def close(self) -> None:
        self.program.close()
        self.backbone.close()
