"""``hf:NAME-or-FOLDER``: any sentence-transformers or Hugging Face encoder, as a dense encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from esembed.encode.backends import load_backbone
from esembed.encode.backends.base import Backbone, Program
from esembed.encode.base import DenseSparseEncoder, EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.counting import EncodeCounter
from esembed.encode.models.checks import check_tokens
from esembed.encode.models.folder import ModelFiles, open_model
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.processes import how_to_load
from esembed.encode.transformer.pooling import DenseHead, dense_recipe
from esembed.encode.transformer.prompts import resolve_prompts
from esembed.encode.transformer.runner import encode_passes, length_limit
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams
from esembed.types import DenseMatrix

__all__ = ["TransformerEncoder", "dense_prompts", "load", "spec_of"]

_FOREIGN = ("top_k", "query_top_k", "threshold", "k1", "b", "avgdl", "language", "statistics")


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> TransformerEncoder:
    """The encoder of the folder or hub id *rest*.

    Raises:
        EncoderError: no such model, a module or architecture that isn't understood, remote code, a
            pickled checkpoint, params that don't fit.
    """
    files = open_model(rest, revision=params.revision, runtime=runtime)
    return TransformerEncoder(files, params, runtime, spec=spec_of(files))


def spec_of(files: ModelFiles) -> str:
    """The spec as ``info`` tells it: never a path of this machine."""
    return f"hf:{files.hub_id or files.folder.resolve().name}"


def dense_prompts(files: ModelFiles, params: EncoderParams) -> tuple[str, str, str | None]:
    """The prompts of queries and documents, and a note where they come from the family's name."""
    query, document, note = resolve_prompts(files.hub_id or files.folder.resolve().name, files.prompts)
    query = query if params.query_prompt is None else params.query_prompt
    return query, document if params.document_prompt is None else params.document_prompt, note


class TransformerEncoder:
    """A transformer with pooling. Implements :class:`~esembed.encode.base.DenseEncoder`.

    Args:
        files: the model, read.
        params: what changes the vectors.
        runtime: how it runs here.
        spec: what ``info.spec`` says.
        backbone: runs the network, where another encoder uses it too; None loads one.

    Attributes:
        similarity: what the model's files say, or None.
        document_head, query_head: what is computed from the hidden states of documents, of queries.
        combined: set where this is the dense half of a
            :class:`~esembed.encode.base.DenseSparseEncoder`.

    Raises:
        EncoderError: see :func:`load`.
    """

    def __init__(
        self,
        files: ModelFiles,
        params: EncoderParams,
        runtime: RuntimeOptions,
        *,
        spec: str,
        backbone: Backbone | None = None,
    ) -> None:
        foreign = [name for name in _FOREIGN if getattr(params, name) is not None]
        if foreign:
            raise EncoderError(f"{spec}: {', '.join(foreign)} mean nothing to a dense encoder", spec=spec)
        self._backbone = load_backbone(files, runtime) if backbone is None else backbone
        recipe = dense_recipe(files, self._backbone.hidden_size, params.pooling)
        if params.dims is not None and not 1 <= params.dims <= recipe.dims:
            raise EncoderError(
                f"{spec} gives {recipe.dims} dimensions, so dims={params.dims} can't be kept: take 1 to "
                f"{recipe.dims}",
                spec=spec,
            )
        cut = params.dims is not None and params.dims < recipe.dims
        normalize = params.normalize if params.normalize is not None else recipe.normalize or cut
        limit = length_limit(files, self._backbone, params.max_seq_length, spec)
        self._tokenizer = TextTokenizer(files, limit)
        check_tokens(self._tokenizer.tokens(), files.config, files.tensors(), files.name)
        query, document, prompt_note = dense_prompts(files, params)
        self.combined: DenseSparseEncoder | None = None
        self.similarity = files.similarity
        self._dims = params.dims or recipe.dims
        self._limit = limit

        def head(prompt: str) -> DenseHead:
            skip = 0 if recipe.include_prompt else self._tokenizer.prompt_length(prompt)
            return DenseHead(
                recipe.modes, recipe.stages, skip=skip, dims=params.dims if cut else None, normalize=normalize
            )

        self.document_head = self.query_head = head(document)
        self._document_program = self._query_program = self._backbone.program(self.document_head)
        if not recipe.include_prompt and query != document:
            self.query_head = head(query)
            self._query_program = self._backbone.program(self.query_head)
        self._batch_tokens = runtime.batch_tokens or self._backbone.batch_tokens
        extra: dict[str, object] = {}
        if self._tokenizer.applied:
            extra["tokenizer"] = dict(self._tokenizer.applied)
        if recipe.described:
            extra["stages"] = list(recipe.described)
        if not recipe.include_prompt:
            extra["include_prompt"] = False
        notes = [note for note in (recipe.note, prompt_note) if note]
        notes += self._backbone.runtime.get("notes", ())
        self._info = EncoderInfo(
            spec=spec,
            type="dense",
            dims=self._dims,
            model=files.hub_id or files.folder.resolve().name,
            revision=files.revision,
            weights_hash=files.weights_hash(),
            tokenizer_hash=files.tokenizer_hash(),
            pooling="+".join(recipe.modes),
            normalize=normalize,
            max_seq_length=limit,
            query_prompt=query,
            document_prompt=document,
            extra=extra,
            runtime={**self._backbone.runtime, **({"notes": notes} if notes else {})},
        )
        self._stats = EncodeCounter()

    def __reduce__(self) -> Any:
        """Pickled as what it was loaded from: the process that reads the pickle loads the model again."""
        return how_to_load(self)

    @property
    def info(self) -> EncoderInfo:
        """What this encoder declares; equal on every backend except for ``runtime``."""
        return self._info

    @property
    def stats(self) -> EncodeStats:
        """Texts, tokens, truncations and seconds so far."""
        return self._stats

    @property
    def tokenizer(self) -> TextTokenizer:
        """What counts its tokens; an ingest measures chunks with it."""
        return self._tokenizer

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given.

        Raises:
            EncoderError: something in *texts* is no string, or a vector came out with NaN or infinity.
        """
        return self._encode(texts, self._info.document_prompt, self._document_program)

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Like :meth:`encode_document`, with the query's prompt."""
        return self._encode(texts, self._info.query_prompt, self._query_program)

    def _encode(self, texts: Sequence[str], prompt: str, program: Program) -> DenseMatrix:
        if isinstance(texts, str):
            raise EncoderError("texts must be a sequence of strings, not one string: put it in a list")
        began = time.perf_counter()
        result = np.empty((len(texts), self._dims), dtype=np.float32)
        count = EncodeStats(texts=len(texts))
        for members, _, outputs in encode_passes(
            texts,
            prompt,
            tokenizer=self._tokenizer,
            program=program,
            backbone=self._backbone,
            batch_tokens=self._batch_tokens,
            count=count,
        ):
            result[members] = outputs[0]
        self.check(result)
        count.seconds = time.perf_counter() - began
        self.count(count)
        return result

    def check(self, vectors: DenseMatrix) -> None:
        """Raises EncoderError where one of them has NaN or infinity."""
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise EncoderError(
                f"{self._info.spec} gave NaN or infinity for texts[{int(np.argmin(finite))}] in "
                f"{self._info.runtime.get('dtype')}: use dtype='float32' (or 'bfloat16')",
                spec=self._info.spec,
            )

    def count(self, more: EncodeStats) -> None:
        """Add to the stats."""
        self._stats.add(more)

    def run_on(self, program: Program) -> None:
        """Encode with this program, whose first output is the document head's, instead of an own one."""
        self._document_program = self._query_program = program

    def close(self) -> None:
        """Release the model, and worker processes where there are any."""
        self._document_program.close()
        self._query_program.close()
        self._backbone.close()
