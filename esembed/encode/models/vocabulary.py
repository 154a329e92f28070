"""A model's vocabulary: ids and tokens, rows of scores to sparse vectors, weights that need no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.models.folder import ModelFiles, open_tensors
from esembed.encode.models.json_files import optional_json, read_json
from esembed.encode.models.sparse_folder import StaticSide
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.errors import EncoderError
from esembed.types import FloatArray, SparseVector

__all__ = ["StaticWeights", "Vocabulary", "readable", "token_ids"]

_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})


def readable(token: str) -> str:
    """A vocabulary entry as people read it: ``##ing`` and plain words as they are, the word-start marks
    of byte-level BPE and SentencePiece as a space."""
    return token.translate(_MARKS)


def token_ids(tokens: Sequence[str]) -> dict[str, int]:
    """Token → id, its position in the vocabulary: what SEISMIC fields store.

    Raises:
        EncoderError: a token stands in it twice, so that its id would be a matter of chance.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise EncoderError("token ids need distinct tokens, and some stand in this vocabulary twice")
    return ids


class Vocabulary:
    """Ids to tokens, and which ids never appear in a vector.

    Attributes:
        tokens: the token of each id; ids without one have a placeholder.
        excluded: ids of special tokens and ids without a token.
    """

    def __init__(self, tokenizer: TextTokenizer, size: int) -> None:
        names = [tokenizer.id_to_token(i) for i in range(size)]
        self.tokens = tuple(name if name is not None else f"[no token {i}]" for i, name in enumerate(names))
        absent = {i for i, name in enumerate(names) if name is None}
        self.excluded = tuple(sorted(absent | {i for i in tokenizer.special_ids if i < size}))

    def vector(
        self, ids: npt.NDArray[Any], weights: FloatArray, *, top_k: int | None, threshold: float
    ) -> SparseVector:
        """The weights above *threshold* in descending order (ties by id), at most *top_k*."""
        keep = np.flatnonzero(weights > threshold)
        ids, weights = ids[keep], weights[keep]
        if top_k is not None and len(ids) > 4 * top_k:  # sort only what can stay, ties included
            edge = np.partition(weights, len(weights) - top_k)[len(weights) - top_k]
            keep = np.flatnonzero(weights >= edge)
            ids, weights = ids[keep], weights[keep]
        order = np.lexsort((ids, -weights))[:top_k]
        return SparseVector(tuple(self.tokens[i] for i in ids[order]), weights[order].astype(np.float32))


class StaticWeights:
    """Inference-free vectors: the weight of each distinct token of a text.

    As sentence-transformers' ``SparseStaticEmbedding`` and OpenSearch's doc-only models do it (Geng et
    al. 2024): a token counts once, special tokens not at all.

    Raises:
        EncoderError: the weights aren't there or don't fit the tokenizer.
    """

    def __init__(self, side: StaticSide, name: str) -> None:
        files = ModelFiles(folder=side.folder, name=name)
        self.tokenizer = TextTokenizer(files, None)
        size = self.tokenizer.vocabulary_size
        self.max_seq_length = _tokenizer_limit(side.folder)
        self.vocabulary = Vocabulary(self.tokenizer, size)
        if side.weights is None:
            self.weights = _from_tensors(side.folder, name)
        else:
            self.weights = _from_file(side.weights, self.vocabulary.tokens, name)
        if len(self.weights) < size:
            raise EncoderError(
                f"{name}: {len(self.weights)} token weights for a vocabulary of {size}", spec=f"splade:{name}"
            )
        self.tokenizer_hash = files.tokenizer_hash()
        self._special = np.array(self.vocabulary.excluded, np.int64)

    def encode(
        self, texts: Sequence[str], prompt: str, *, top_k: int | None, threshold: float
    ) -> tuple[list[SparseVector], int, int]:
        """The vectors, the tokens, and how many texts were cut."""
        tokenized = self.tokenizer(texts, prompt)
        vectors, tokens, truncated = [], 0, 0
        for ids in tokenized.ids:
            real = ids[~np.isin(ids, self._special)]
            if self.max_seq_length is not None and len(real) > self.max_seq_length:
                truncated += 1
                real = real[: self.max_seq_length]
            tokens += len(real)
            distinct = np.unique(real)
            vectors.append(
                self.vocabulary.vector(distinct, self.weights[distinct], top_k=top_k, threshold=threshold)
            )
        return vectors, tokens, truncated


def _tokenizer_limit(folder: Path) -> int | None:
    value = optional_json(folder / "tokenizer_config.json").get("model_max_length")
    return int(value) if isinstance(value, int | float) and 0 < value < 1_000_000_000 else None


def _from_tensors(folder: Path, name: str) -> FloatArray:
    tensors = open_tensors(folder, name)
    if "weight" not in tensors or tensors["weight"].ndim != 1:
        raise EncoderError(
            f"{name}: {folder.name}/model.safetensors holds no token weights (a vector named weight)",
            spec=f"splade:{name}",
        )
    weights = np.array(tensors["weight"], dtype=np.float32)
    return _finite(weights, f"{folder.name}/model.safetensors", name)


def _from_file(path: Path, tokens: Sequence[str], name: str) -> FloatArray:
    """``idf.json`` (token → weight), or ``query_token_weights.txt`` (token, tab, weight by line)."""
    stored: Mapping[str, Any]
    try:
        if path.suffix == ".json":
            stored = read_json(path)
        else:
            lines = path.read_text(encoding="utf-8").split("\n")
            rows = (line.rpartition("\t") for line in lines if line.strip())
            stored = {token: float(weight) for token, _, weight in rows}
        positions = {token: i for i, token in enumerate(tokens)}
        weights = np.zeros(len(tokens), np.float32)
        for token, weight in stored.items():
            if token in positions:
                with np.errstate(over="ignore"):  # refused below
                    weights[positions[token]] = float(weight)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EncoderError(f"{name}: {path.name} can't be read ({error})", spec=f"splade:{name}") from error
    if not weights.any():
        raise EncoderError(f"{name}: {path.name} has no weight for any token", spec=f"splade:{name}")
    return _finite(weights, path.name, name)


def _finite(weights: FloatArray, file: str, name: str) -> FloatArray:
    if not np.isfinite(weights).all():
        raise EncoderError(
            f"{name}: a token's weight in {file} is no number that float32 holds", spec=f"splade:{name}"
        )
    return weights
