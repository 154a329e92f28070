"""Static vectors by word: word2vec, GloVe and fastText files, read by gensim (extra ``static``)."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esembed.encode.lexical.words import WordSplitter
from esembed.encode.processes import ForkSafeLock
from esembed.encode.static.token_vectors import IntArray, Sums, block_sums
from esembed.errors import EncoderError
from esembed.types import FloatArray

__all__ = ["WordSource", "open_word_source"]

_SIF_A = 1e-3
"""The weight a / (a + p) of smooth inverse frequency, with the a of Arora et al. 2017."""
_FASTTEXT_MAGIC = struct.pack("<i", 793_712_314)
"""What fastText's binary models begin with."""
_PICKLED = (".kv", ".model", ".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib", ".ckpt")
_MAX_REMEMBERED = 200_000
"""Vectors made of subwords that are kept: bounds the memory of a text full of numbers or misspellings."""


class WordSource:
    """A table of vectors by word; with fastText's subwords, vectors for unknown words too.

    Args:
        vectors: gensim's KeyedVectors, or FastTextKeyedVectors.
        pooling: ``mean`` or ``sif``.
        max_seq_length: words kept of each text.
        subwords: whether *vectors* makes vectors of unknown words.
    """

    normalize = True

    def __init__(self, vectors: Any, *, pooling: str, max_seq_length: int | None, subwords: bool) -> None:
        self._index: dict[str, int] = vectors.key_to_index
        self._table: FloatArray = np.asarray(vectors.vectors, np.float32)
        if not np.isfinite(self._table).all():
            raise EncoderError("the word vectors hold NaN or infinite values; the file is damaged")
        self.dims = int(self._table.shape[1])
        self.max_seq_length = max_seq_length
        self._subwords = vectors if subwords else None
        cased = any(word != word.lower() for word in self._index)
        self._splitter = WordSplitter(keep_case=cased)
        self._factors = _sif_factors(vectors, len(self._table)) if pooling == "sif" else None
        self._made: dict[str, FloatArray | None] = {}
        self._lock = ForkSafeLock()
        self.tokenizer_hash = self._splitter.hash
        digest = hashlib.sha256("\n".join(self._index).encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(self._table).data)
        if subwords:
            digest.update(np.ascontiguousarray(vectors.vectors_ngrams, np.float32).data)
        self.weights_hash = digest.hexdigest()
        self.extra: dict[str, Any] = {"pooling": pooling, "subwords": subwords, "cased": cased}
        if self._factors is not None:
            self.extra["sif_a"] = _SIF_A

    def sums(self, texts: Sequence[str]) -> Sums:
        truncated = 0
        rows: list[IntArray] = []
        unknown: list[list[FloatArray]] = []
        for text in texts:
            words = self._splitter.split(text)
            if self.max_seq_length is not None and len(words) > self.max_seq_length:
                truncated += 1
                words = words[: self.max_seq_length]
            known: list[int] = []
            made: list[FloatArray] = []
            for word in words:
                row = self._row(word)
                if row is not None:
                    known.append(row)
                elif self._subwords is not None and (vector := self._make(word)) is not None:
                    made.append(vector)
            rows.append(np.array(known, np.int64))
            unknown.append(made)
        sums = block_sums(rows, self._gather, self.dims)
        for i, made in enumerate(unknown):
            for vector in made:  # too rare to be in the table, so the SIF weight would be 1
                sums[i] += vector
        counts = np.array([len(r) + len(m) for r, m in zip(rows, unknown, strict=True)], np.int64)
        return Sums(sums, counts, truncated)

    def _row(self, word: str) -> int | None:
        row = self._index.get(word)
        if row is None and self._splitter.keep_case:
            row = self._index.get(word.lower())
        return row

    def _gather(self, rows: IntArray) -> FloatArray:
        vectors = self._table[rows]
        return vectors if self._factors is None else vectors * self._factors[rows][:, None]

    def _make(self, word: str) -> FloatArray | None:
        """The mean of the word's subwords; None for a word too short to have any."""
        if word in self._made:
            return self._made[word]
        with self._lock:
            try:
                vector = np.asarray(self._subwords.get_vector(word), np.float32)  # type: ignore[union-attr]
            except KeyError:
                vector = None
            if vector is not None and not vector.any():
                vector = None
            if len(self._made) >= _MAX_REMEMBERED:
                self._made.clear()
            self._made[word] = vector
        return vector


def _sif_factors(vectors: Any, count: int) -> FloatArray:
    """a / (a + p): p from counts where the file has them, else from the rank (Zipf)."""
    if "count" in vectors.expandos and not _counts_are_ranks(vectors, count):
        counts = np.asarray(vectors.expandos["count"], np.float64)
        p = counts / max(1.0, counts.sum())
    else:
        p = 1.0 / np.arange(1, count + 1)
        p /= p.sum()
    factors: FloatArray = (_SIF_A / (_SIF_A + p)).astype(np.float32)
    return factors


def _counts_are_ranks(vectors: Any, count: int) -> bool:
    """gensim fills in count − rank where a file has no counts."""
    counts = np.asarray(vectors.expandos["count"])
    return len(counts) == count and bool((counts == count - np.arange(count)).all())


def open_word_source(path: Path, *, pooling: str, max_seq_length: int | None) -> WordSource:
    """A file of word vectors; its format is read from its first bytes.

    Raises:
        EncoderError: a pickled or unknown format, a damaged file, gensim missing.
    """
    spec = f"static:{path.name}"
    if path.suffix in _PICKLED:
        raise EncoderError(
            f"{path.name} is pickled (or NumPy's own form), and reading it could run code: save the vectors "
            "as word2vec or fastText binary (gensim: save_word2vec_format)",
            spec=spec,
        )
    head = _head(path, spec)
    try:
        from gensim.models import KeyedVectors  # type: ignore[import-untyped]
        from gensim.models.fasttext import load_facebook_vectors  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise EncoderError('word vectors need gensim: pip install "esembed[static]"', spec=spec) from error
    fasttext = head.startswith(_FASTTEXT_MAGIC)
    try:
        if fasttext:
            vectors = load_facebook_vectors(str(path))
        else:
            first, header, binary = head.split(b"\n")[0], _has_header(head), _is_binary(head)
            if not header and (binary or len(first.split()) < 2):
                raise ValueError("neither word2vec, GloVe nor fastText")
            if header or binary:
                vectors = KeyedVectors.load_word2vec_format(
                    str(path), binary=binary, no_header=not header, unicode_errors="replace"
                )
            else:
                vectors = _read_glove(path, head, KeyedVectors)
    except (
        ValueError,
        EOFError,
        OSError,
        struct.error,
        IndexError,
        NotImplementedError,
        MemoryError,
    ) as error:
        raise EncoderError(
            f"{path.name} can't be read as word vectors (word2vec text or binary, GloVe text, fastText): "
            f"{error}",
            spec=spec,
        ) from error
    if not len(vectors.key_to_index):
        raise EncoderError(f"{path.name} holds no word vectors", spec=spec)
    return WordSource(vectors, pooling=pooling, max_seq_length=max_seq_length, subwords=fasttext)


def _read_glove(path: Path, head: bytes, make: Any) -> Any:
    """GloVe's text as gensim's KeyedVectors.

    The numbers are counted from the right: words of the 840B vectors hold spaces (``at name@domain.com``,
    ``. . .``), at which gensim's own reader ends.

    Raises:
        ValueError: a line with too few numbers, or with what is none.
    """
    lines = head.split(b"\n")
    whole = lines[:-1] if len(lines) > 1 else lines  # the last one may be cut
    dims = min(line.rstrip().count(b" ") for line in whole if line.strip())
    table: dict[str, Any] = {}
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            word, *numbers = line.rstrip().rsplit(b" ", dims)
            if len(numbers) != dims:
                raise ValueError(f"line {number} has fewer than {dims} numbers after its word")
            # The first of equal words counts, as it does in gensim.
            table.setdefault(word.decode("utf-8", "replace"), np.array(numbers, np.float32))
    vectors = make(dims)
    vectors.add_vectors(list(table), np.array(list(table.values()), np.float32).reshape(len(table), dims))
    return vectors


def _head(path: Path, spec: str) -> bytes:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as handle:
            return bytes(handle.read(65_536))
    except OSError as error:
        raise EncoderError(f"{path.name} can't be read: {error}", spec=spec) from error


def _has_header(head: bytes) -> bool:
    """The word2vec formats begin with the number of words and of dimensions."""
    parts = head.split(b"\n", 1)[0].split()
    return len(parts) == 2 and all(part.isdigit() for part in parts)


def _is_binary(head: bytes) -> bool:
    """Whether what follows the first line is raw floats: then it is no valid text of numbers."""
    lines = head.split(b"\n", 1)
    body = lines[1] if _has_header(head) and len(lines) == 2 else head
    first = body.split(b"\n", 1)[0].split(b" ")
    try:
        for part in first[1:]:
            float(part or b"0")
    except ValueError:
        return True
    return False
