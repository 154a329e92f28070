"""An order in which each hit differs from those before it, pure: maximal marginal relevance.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing
summaries" (SIGIR 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from esembed.dialect.quantize_vectors import from_bits
from esembed.lazy import np

if TYPE_CHECKING:
    from esembed.types import FloatArray

__all__ = ["UNKNOWN", "marginal_relevance", "similarities"]

UNKNOWN = 0.5
"""How similar a document without a vector is to any other: as one at right angles to it."""


def similarities(vectors: Sequence[FloatArray | None], similarity: str, *, bits: bool = False) -> FloatArray:
    """How similar documents are, float64, shape (n, n): 1 for the same, as the engines score a kNN.

    Args:
        vectors: one of shape (dims,) for each document, or None.
        similarity: of the field. Where it is ``max_inner_product``, which has no largest value, vectors are
            compared by their cosine.
        bits: each component holds eight dimensions of one bit.
    """
    count = len(vectors)
    found: FloatArray = np.full((count, count), UNKNOWN)
    there = [place for place, vector in enumerate(vectors) if vector is not None]
    if not there:
        return found
    known: list[Any] = [vector for vector in vectors if vector is not None]
    rows: Any = np.stack(known).astype(np.float64)
    if bits:
        rows = from_bits(rows).astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    products = rows @ rows.T
    if similarity == "l2_norm" and not bits:
        apart = np.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
        values = 1.0 / (1.0 + apart)
    else:
        lengths = np.sqrt(squares)
        lengths[lengths == 0.0] = 1.0
        values = (1.0 + products / np.outer(lengths, lengths)) / 2.0
    found[np.ix_(there, there)] = values
    return found


def marginal_relevance(relevance: Sequence[float], similar: FloatArray, weight: float) -> list[int]:
    """Positions in the order in which they are chosen: the largest weight · r − (1 − weight) · s first.

    Args:
        relevance: r of each document, best first.
        similar: how similar two documents are, shape (n, n); s is the largest of those chosen before.
        weight: from 0 to 1.
    """
    worth: Any = weight * np.asarray(relevance, dtype=np.float64)
    nearest: Any = np.zeros(len(worth))
    left: Any = np.ones(len(worth), dtype=bool)
    order: list[int] = []
    for _ in range(len(worth)):
        # Rounded, since equal vectors differ in the last bits of their products: the better one is taken.
        value = np.where(left, np.round(worth - (1.0 - weight) * nearest, 9), -np.inf)
        chosen = int(value.argmax())
        order.append(chosen)
        left[chosen] = False
        nearest = np.maximum(nearest, similar[chosen])
    return order
