"""``static:FOLDER-or-FILE``: one vector for each token, averaged. No network is run.

Three kinds of sources:

- model2vec folders (``model.safetensors`` with ``embeddings``, ``tokenizer.json``, ``config.json``),
  read directly: token weights, a vocabulary mapping (vocabulary quantization) and the length limit as
  model2vec applies them;
- sentence-transformers folders with a ``StaticEmbedding`` module (``embedding.weight``);
- word vectors in the word2vec (text, binary), GloVe (text) and fastText (``.vec``, ``.bin``) formats, by
  gensim (extra ``static``); a fastText ``.bin`` also makes vectors of unknown words from their subwords.
  Averaged plainly, or with SIF weights (``pooling = "sif"``): a / (a + p(word)), a = 0.001, from Arora,
  Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings", 2017. p comes from the
  file's counts where it has them (fastText ``.bin``), else from the word's rank by Zipf's law, since
  these files are sorted by frequency. The paper's removal of a common component is not done: it would
  make a vector depend on the texts around it.

Pickled formats (gensim's own ``save``, ``.pt``) are refused: reading one runs its code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from esembed.credentials import hide_in_logs
from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.counting import EncodeCounter
from esembed.encode.processes import how_to_load
from esembed.encode.static.token_vectors import Sums, open_token_source
from esembed.encode.static.word_vectors import open_word_source
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams
from esembed.types import DenseMatrix

__all__ = ["StaticEncoder", "load"]


class Source(Protocol):
    """Texts to sums of token vectors."""

    @property
    def dims(self) -> int: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def max_seq_length(self) -> int | None: ...
    @property
    def weights_hash(self) -> str: ...
    @property
    def tokenizer_hash(self) -> str: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...

    def sums(self, texts: Sequence[str]) -> Sums: ...


class StaticEncoder:
    """Averages of token vectors. Safe to call from several threads.

    A text without a known token gives a zero vector.

    Args:
        source: the table (see :func:`load`).
        spec, model: as in ``EncoderInfo``.
        dims: keep the leading dimensions.
        normalize: scale to length 1; None takes the source's own setting.
        query_prompt, document_prompt: text put before each query or document.

    Raises:
        EncoderError: more dims than the table has.
    """

    def __init__(
        self,
        source: Source,
        *,
        spec: str,
        model: str | None = None,
        dims: int | None = None,
        normalize: bool | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
    ) -> None:
        if dims is not None and not 1 <= dims <= source.dims:
            raise EncoderError(f"dims = {dims}, but the vectors have {source.dims} dimensions", spec=spec)
        self._source, self._spec, self._model = source, spec, model
        self._dims = dims or source.dims
        self._normalize = source.normalize if normalize is None else normalize
        self._query_prompt, self._document_prompt = query_prompt, document_prompt
        self._stats = EncodeCounter()

    def __reduce__(self) -> Any:
        """Pickled as what it was loaded from: the process that reads the pickle loads the model again."""
        return how_to_load(self)

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(
            spec=self._spec,
            type="dense",
            dims=self._dims,
            model=self._model,
            weights_hash=self._source.weights_hash,
            tokenizer_hash=self._source.tokenizer_hash,
            pooling=str(self._source.extra.get("pooling", "mean")),
            normalize=self._normalize,
            max_seq_length=self._source.max_seq_length,
            query_prompt=self._query_prompt,
            document_prompt=self._document_prompt,
            extra=dict(self._source.extra),
            runtime={"backend": "numpy", "device": "cpu", "dtype": "float32"},
        )

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    @property
    def tokenizer(self) -> Any:
        """What counts its tokens (an ingest measures chunks with it), or None for vectors of whole words."""
        return getattr(self._source, "tokenizer", None)

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given."""
        return self._encode(texts, self._document_prompt)

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given."""
        return self._encode(texts, self._query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str) -> DenseMatrix:
        started = time.perf_counter()
        if prompt:
            texts = [prompt + text for text in texts]
        sums = self._source.sums(texts)
        vectors = (sums.sums / np.maximum(sums.counts, 1)[:, None])[:, : self._dims]
        if self._normalize:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, np.float32(1e-32))
        seconds = time.perf_counter() - started
        self._stats.add(EncodeStats(len(texts), int(sums.counts.sum()), sums.truncated, seconds))
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Nothing to release."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> StaticEncoder:
    """A folder, file or hub name as an encoder; for :func:`esembed.encode.registry.load`.

    Raises:
        EncoderError: no such thing, a pickled or unknown format, params that it can't take.
    """
    spec = f"static:{rest}"
    allowed = EncoderParams(
        dims=params.dims,
        max_seq_length=params.max_seq_length,
        query_prompt=params.query_prompt,
        document_prompt=params.document_prompt,
        normalize=params.normalize,
        pooling=params.pooling,
        revision=params.revision,
    )
    if params != allowed or params.pooling not in (None, "mean", "sif"):
        raise EncoderError(
            "a static encoder takes dims, max_seq_length, prompts, normalize, revision and pooling "
            '("mean" or "sif"); remove the other params',
            spec=spec,
        )
    path = Path(rest).expanduser() if rest else Path("/nonexistent")
    model = None if path.exists() else rest
    source: Source
    if path.is_file():
        source = open_word_source(
            path, pooling=params.pooling or "mean", max_seq_length=params.max_seq_length
        )
    else:
        if params.pooling == "sif":
            raise EncoderError(
                "SIF weights are for word vectors; a model2vec table has its weights in it", spec=spec
            )
        folder = path if path.is_dir() else _from_hub(rest, params.revision, runtime.local_files_only)
        source = open_token_source(folder, max_seq_length=params.max_seq_length)
    return StaticEncoder(
        source,
        spec=f"static:{path.name}" if model is None else spec,
        model=path.name if model is None else model,
        dims=params.dims,
        normalize=params.normalize,
        query_prompt=params.query_prompt or "",
        document_prompt=params.document_prompt or "",
    )


def _from_hub(name: str, revision: str | None, local_files_only: bool) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise EncoderError(
            f"there is no file or folder {name!r}, and it is no name on the hub (owner/model) either",
            spec=f"static:{name}",
        )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise EncoderError(
            f'{name} is not a local folder, and fetching it needs: pip install "esembed[static]"',
            spec=f"static:{name}",
        ) from error
    hide_in_logs()  # the hub's token
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=["*.json", "*.safetensors", "0_StaticEmbedding/*"],
                ignore_patterns=["*.bin", "*.pt", "*.pkl"],
            )
        )
    except Exception as error:  # noqa: BLE001 - the hub's own errors, and its HTTP library's
        refused = EncoderError(
            f"there is no local folder {name!r}, and the hub can't give it: {type(error).__name__}",
            spec=f"static:{name}",
        )
    raise refused  # outside: the hub's errors quote answers, in which a proxy may quote the token
