"""Quantization in numpy: what recall a form of storage keeps, without an engine.

``int8``, ``int4`` and ``bbq`` follow the optimized scalar quantization that Lucene and Elasticsearch use
(https://www.elastic.co/search-labs/blog/scalar-quantization-optimization): vectors are centered, each one
gets an interval of its own that minimizes the error along the vector, and the dot product is put together
from the codes and exact corrections. Queries have as many bits as documents, but 4 against 1.

That is the recall of the codes. What a search through an HNSW graph misses beyond it is not simulated but
estimated, by :func:`graph_share`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from esembed.dialect.quantize_vectors import calibrate, confidence_interval, to_bytes
from esembed.errors import OptionsError
from esembed.types import FloatArray

__all__ = [
    "FORMS",
    "exact_neighbors",
    "graph_share",
    "recall",
    "recalls",
    "simulate",
    "simulate_many",
    "unit",
]

FORMS = ("float", "bfloat16", "int8", "int7", "int7_clipped", "int4", "bbq", "byte", "bit")
"""What can be simulated: the arithmetic of the codes, whatever index is built over them. ``int7`` is Lucene's
scalar quantization on OpenSearch with the interval that esembed writes, ``int7_clipped`` with its own."""

IntArray = npt.NDArray[np.int64]

# The interval that loses least of a standard normal variable, by bits (Lloyd-Max, uniform grid).
_START = {1: 0.798, 4: 2.514, 8: 3.922}
# Lucene's OptimizedScalarQuantizer: how much the error across a vector counts beside that along it, and its
# rounds of coordinate descent.
_LAMBDA = 0.1
_ROUNDS = 5


def unit(vectors: FloatArray) -> FloatArray:
    """Rows scaled to length 1, float32, shape unchanged; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return scaled


def _blocks(count: int, size: int = 256) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _top(scores: FloatArray, k: int) -> IntArray:
    """The columns of the k largest scores of each row, best first (ties by column)."""
    k = min(k, scores.shape[1])
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    part.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1).astype(np.int64)


def exact_neighbors(vectors: FloatArray, queries: FloatArray, k: int) -> IntArray:
    """The rows nearest to each query by dot product, best first.

    Args:
        vectors: float32, shape (n, dims), of length 1 for cosine.
        queries: float32, shape (m, dims).

    Returns:
        int64, shape (m, min(k, n)).
    """
    return np.concatenate([_top(queries[rows] @ vectors.T, k) for rows in _blocks(len(queries))])


def recalls(found: IntArray, truth: IntArray, k: int) -> FloatArray:
    """Each query's share of the true first *k* that are among the *k* found: shape (m,)."""
    hits = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(found, truth, strict=True)]
    shares: FloatArray = (np.asarray(hits) / min(k, int(truth.shape[1]))).astype(np.float32)
    return shares


def recall(found: IntArray, truth: IntArray, k: int) -> float:
    """The mean of :func:`recalls`."""
    return float(recalls(found, truth, k).astype(np.float64).mean())


_LEAST_RESCORED = {"int7": 100, "int7_clipped": 100}
"""OpenSearch rescores at least so many candidates, whatever k and the factor are (k-NN's RescoreContext)."""


def graph_share(documents: int, num_candidates: int = 100) -> float:
    """The share of the codes' best that a search through an HNSW graph finds, 0…1.

    A fit to what Elasticsearch 9.5 and OpenSearch 3.6 missed of MiniLM's vectors with their default graphs
    (m 16, ef_construction 100): .001 of 3,000 vectors and .024 of 200,000 at 100 candidates, .006 of
    200,000 at 400. Another encoder's graph is easier or harder; measure it.
    """
    missed = 0.0238 * (documents / 200_000) ** 0.69 * (100 / num_candidates) ** 0.96
    return 1.0 - min(float(missed), 0.5)


def simulate(
    vectors: FloatArray, queries: FloatArray, form: str, k: int, *, oversample: float | None = None
) -> IntArray:
    """The rows that a search over quantized vectors finds, best first.

    Args:
        vectors: float32, shape (n, dims), of length 1.
        queries: float32, shape (m, dims), of length 1.
        form: one of :data:`FORMS`.
        k: how many.
        oversample: take this many times k candidates and rescore them with the full vectors.

    Returns:
        int64, shape (m, k).

    Raises:
        OptionsError: an unknown form.
    """
    return simulate_many(vectors, queries, form, k, (oversample,))[oversample]


def simulate_many(
    vectors: FloatArray, queries: FloatArray, form: str, k: int, oversamples: Sequence[float | None]
) -> dict[float | None, IntArray]:
    """:func:`simulate` for several oversampling factors; the codes are made and compared once."""
    score = _scorer(vectors, form)
    least = _LEAST_RESCORED.get(form, 0)
    wanted = {o: max(least, int(np.ceil(k * o))) if o else k for o in oversamples}
    found: dict[float | None, list[IntArray]] = {o: [] for o in oversamples}
    for rows in _blocks(len(queries)):
        candidates = _top(score(queries[rows]), max(wanted.values()))
        exact = np.einsum("qd,qcd->qc", queries[rows], vectors[candidates])
        for oversample, count in wanted.items():
            best = candidates[:, :k]
            if oversample:
                order = np.argsort(-exact[:, :count], axis=1, kind="stable")[:, :k]
                best = np.take_along_axis(candidates, order, axis=1)
            found[oversample].append(best)
    return {oversample: np.concatenate(parts) for oversample, parts in found.items()}


def _scorer(vectors: FloatArray, form: str) -> Callable[[FloatArray], FloatArray]:
    if form == "float":
        return lambda q: q @ vectors.T
    if form == "bfloat16":
        rounded = _bfloat16(vectors)
        return lambda q: q @ rounded.T
    if form == "byte":
        scale = calibrate(vectors)
        codes = unit(to_bytes(vectors, scale, normalize=False).astype(np.float32))
        return lambda q: unit(to_bytes(q, scale, normalize=False).astype(np.float32)) @ codes.T
    if form.startswith("int7"):
        return _scalar7(vectors, confidence_interval(vectors.shape[1]) if form == "int7" else 0.9)
    if form == "bit":
        signs = np.where(vectors > 0, 1, -1).astype(np.float32)
        return lambda q: np.where(q > 0, 1, -1).astype(np.float32) @ signs.T
    bits = {"int8": (8, 8), "int4": (4, 4), "bbq": (1, 4)}.get(form)
    if bits is None:
        raise OptionsError(f"no simulation of {form!r}; there are {', '.join(FORMS)}", option="form")
    center = vectors.mean(axis=0)
    codes = np.concatenate(
        [optimized(vectors[rows] - center, bits[0]) for rows in _blocks(len(vectors), 4096)]
    )
    constant = vectors @ center - float(center @ center)

    def score(q: FloatArray) -> FloatArray:
        result: FloatArray = optimized(q - center, bits[1]) @ codes.T + (q @ center)[:, None] + constant
        return result

    return score


def _scalar7(vectors: FloatArray, interval: float) -> Callable[[FloatArray], FloatArray]:
    """Lucene's 7-bit scalar quantization: one interval for all values, with a correction for each vector.

    As ``org.apache.lucene.util.quantization.ScalarQuantizer`` does it; *interval* is the middle share of
    all components that is not clipped.
    """
    sampled = vectors[:: max(1, len(vectors) // 25_000)]
    low, high = (float(v) for v in np.quantile(sampled, [(1 - interval) / 2, (1 + interval) / 2]))
    step = max(high - low, 1e-12) / 127

    def code(values: FloatArray) -> tuple[FloatArray, FloatArray]:
        steps = np.rint((np.clip(values, low, high) - low) / step).astype(np.float32)
        rounded = steps * np.float32(step)
        offsets = (low * (values - low / 2) + (values - low - rounded) * rounded).sum(axis=1)
        return rounded, offsets

    codes, own = code(vectors)

    def score(q: FloatArray) -> FloatArray:
        asked, theirs = code(q)
        result: FloatArray = asked @ codes.T + own + theirs[:, None]
        return result

    return score


def _bfloat16(values: FloatArray) -> FloatArray:
    """Cut to 16 bits as the engine does it."""
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    cut: FloatArray = raw.view(np.float32)
    return cut


def optimized(centered: FloatArray, bits: int) -> FloatArray:
    """Each row rounded to a grid of 2^bits points between ends of its own, as float32 again.

    The ends minimize (1 - λ)·(x·(x - x̂))²/‖x‖² + λ·‖x - x̂‖², λ = 0.1, by alternating between rounding
    and the least-squares solution for the ends; a row stops when it no longer gains.
    """
    x = np.asarray(centered, np.float32)
    points = (1 << bits) - 1
    norm2 = np.maximum((x * x).sum(axis=1), 1e-20)
    mean, spread = x.mean(axis=1), x.std(axis=1)
    low = np.maximum(mean - _START[bits] * spread, x.min(axis=1))
    high = np.minimum(mean + _START[bits] * spread, x.max(axis=1))

    def grid(a: FloatArray, b: FloatArray) -> FloatArray:
        step = np.maximum(b - a, 1e-12)[:, None] / points
        share: FloatArray = np.rint((np.clip(x, a[:, None], b[:, None]) - a[:, None]) / step) / points
        return share

    def values(a: FloatArray, b: FloatArray, share: FloatArray) -> FloatArray:
        out: FloatArray = a[:, None] + (b - a)[:, None] * share
        return out

    def loss(rounded: FloatArray) -> FloatArray:
        error = x - rounded
        along = (x * error).sum(axis=1)
        total: FloatArray = (1 - _LAMBDA) * along**2 / norm2 + _LAMBDA * (error * error).sum(axis=1)
        return total

    share = grid(low, high)
    best = loss(values(low, high, share))
    scale = (1 - _LAMBDA) / norm2
    for _ in range(_ROUNDS):
        rest = 1 - share
        aa, ab, bb = (rest * rest).sum(axis=1), (rest * share).sum(axis=1), (share * share).sum(axis=1)
        ax, bx = (x * rest).sum(axis=1), (x * share).sum(axis=1)
        m0, m1, m2 = (
            scale * ax * ax + _LAMBDA * aa,
            scale * ax * bx + _LAMBDA * ab,
            scale * bx * bx + _LAMBDA * bb,
        )
        determinant = m0 * m2 - m1 * m1
        solvable = np.abs(determinant) > 1e-12
        divisor = np.where(solvable, determinant, 1)
        new_low = np.where(solvable, (m2 * ax - m1 * bx) / divisor, low).astype(np.float32)
        new_high = np.where(solvable, (m0 * bx - m1 * ax) / divisor, high).astype(np.float32)
        new_share = grid(new_low, new_high)
        now = loss(values(new_low, new_high, new_share))
        better = now < best
        if not better.any():
            break
        low, high = np.where(better, new_low, low), np.where(better, new_high, high)
        share = np.where(better[:, None], new_share, share)
        best = np.where(better, now, best)
    return values(low, high, share).astype(np.float32)
