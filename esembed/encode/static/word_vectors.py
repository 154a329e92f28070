"""Static vectors by word: word2vec, GloVe and fastText files, read by gensim (extra ``static``)."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

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
_MAX_LINE = 1 << 20
"""Bytes of the longest line of a GloVe file: some 100,000 dimensions, where real ones have at most 4,096."""
_GZIP_RATIO = 1032
"""Deflate can't make anything smaller than this share of it."""
_FASTTEXT_ARGUMENTS = struct.Struct("<2i12id")
_FASTTEXT_COUNTS = struct.Struct("<3iqq")
"""Of fastText's binary form: magic, version and arguments; then words, words, labels, tokens, pruned ids."""


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
            raise ValueError("the word vectors hold NaN or infinite values; the file is damaged")
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
            _check_fasttext(path)
            vectors = load_facebook_vectors(str(path))
        else:
            first, header, binary = head.split(b"\n")[0], _has_header(head), _is_binary(head)
            if not header and (binary or len(first.split()) < 2):
                raise ValueError("neither word2vec, GloVe nor fastText")
            if header:
                _check_counts(path, first, binary)
            if header or binary:
                vectors = KeyedVectors.load_word2vec_format(
                    str(path), binary=binary, no_header=not header, unicode_errors="replace"
                )
            else:
                vectors = _read_glove(path, head, KeyedVectors)
        if not len(vectors.key_to_index):
            raise ValueError("it holds no word vectors")
        return WordSource(vectors, pooling=pooling, max_seq_length=max_seq_length, subwords=fasttext)
    except Exception as error:  # gensim raises anything, AssertionError and OverflowError among it
        raise EncoderError(
            f"{path.name} can't be read as word vectors (word2vec text or binary, GloVe text, fastText): "
            f"{str(error) or type(error).__name__}",
            spec=spec,
        ) from error


def _open(path: Path) -> IO[bytes]:
    """The file, unpacked where its name says that it is packed."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _check_counts(path: Path, first: bytes, binary: bool) -> None:
    """Hold what a word2vec file's first line says against the file's length, before gensim asks for a table
    of that size.

    Raises:
        ValueError: the file can't hold that many numbers.
    """
    words, dims = (int(part) for part in first.split())
    # A word of one byte and a separator; each number four bytes, or a separator and a digit.
    needed = words * (2 + dims * (4 if binary else 2))
    _check_size(path, needed, f"{words} words of {dims} dims")


def _check_size(path: Path, needed: int, what: str) -> None:
    most = path.stat().st_size * (_GZIP_RATIO if path.suffix == ".gz" else 1)
    if needed > most + _MAX_LINE:  # the last separators may be missing
        raise ValueError(f"its header says {what}, which its {path.stat().st_size} bytes can't hold")


def _check_fasttext(path: Path) -> None:
    """Hold the header against the file's length, and walk through the vocabulary: gensim 4.4 waits for ever
    for the end of a word where the file ends in one.

    Raises:
        ValueError: the file is shorter than it says, or a word never ends.
    """
    with _open(path) as file:
        dims = _FASTTEXT_ARGUMENTS.unpack(file.read(_FASTTEXT_ARGUMENTS.size))[2]
        words = _FASTTEXT_COUNTS.unpack(file.read(_FASTTEXT_COUNTS.size))[0]
        if dims < 1 or words < 0:
            raise ValueError(f"its header says {words} words of {dims} dims")
        # Each word: an end mark, a count of eight bytes, its kind.
        _check_size(path, words * (10 + 4 * dims), f"{words} words of {dims} dims")
        data, at = b"", 0
        for _ in range(words):
            end = data.find(b"\0", at)
            while end < 0 or end + 10 > len(data):
                more = file.read(_MAX_LINE)
                if not more or len(data) - at > 2 * _MAX_LINE:
                    raise ValueError("the file ends in its vocabulary")
                data, at = data[at:] + more, 0
                end = data.find(b"\0")
            at = end + 10


def _read_glove(path: Path, head: bytes, make: Any) -> Any:
    """GloVe's text as gensim's KeyedVectors.

    The numbers are counted from the right: words of the 840B vectors hold spaces (``at name@domain.com``,
    ``. . .``), at which gensim's own reader ends.

    Raises:
        ValueError: a line with too few numbers, or with what is none.
    """
    lines = head.split(b"\n")
    if len(head) == _MAX_LINE and len(lines) == 1:
        raise ValueError(f"its first line has more than {_MAX_LINE} bytes")
    whole = lines[:-1] if len(lines) > 1 else lines  # the last one may be cut
    dims = min(line.rstrip().count(b" ") for line in whole if line.strip())
    table: dict[str, Any] = {}
    with _open(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if not line.strip():
                continue
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                raise ValueError(f"line {number} has more than {_MAX_LINE} bytes")
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
        with _open(path) as handle:
            return bytes(handle.read(_MAX_LINE))
    except (OSError, EOFError, zlib.error) as error:
        raise EncoderError(f"{path.name} can't be read: {error}", spec=spec) from error


def _has_header(head: bytes) -> bool:
    """The word2vec formats begin with the number of words and of dimensions."""
    parts = head.split(b"\n", 1)[0].split()
    return len(parts) == 2 and all(part.isdigit() for part in parts)


def _is_binary(head: bytes) -> bool:
    """Whether what follows the first line is raw floats: then that doesn't end with a number."""
    lines = head.split(b"\n", 1)
    body = lines[1] if _has_header(head) and len(lines) == 2 else head
    first = body.split(b"\n", 1)[0]
    # The last number only: a word may hold spaces, so what stands before it may be a word.
    parts = first.rsplit(maxsplit=1)
    if len(parts) < 2 or b"\0" in first:
        return bool(first.strip())
    try:
        float(parts[1])
    except ValueError:
        return True
    return False
