"""Floats to the whole numbers of ``byte`` and ``bit`` fields, on the client. Pure.

An engine's own quantization keeps the floats and learns its ranges by itself. These fields keep nothing
else: a byte is a float times the field's stored ``scale``, a bit is its sign. The scale stands in the plan,
so in ``_meta``, and documents and queries of all times are quantized alike.
"""

from __future__ import annotations

from typing import Any

from esembed.lazy import np, npt
from esembed.plan import DenseField, SparseField
from esembed.types import FloatArray, SparseVector

__all__ = [
    "UNIT_SPREADS",
    "calibrate",
    "confidence_interval",
    "from_bits",
    "is_no_vector",
    "quantize",
    "to_bits",
    "to_bytes",
    "unit_scale",
]

UNIT_SPREADS = 6.0
"""Without a calibration, 127 stands for this many standard deviations of a unit vector's component."""

_TAIL = 1e-4  # clipped on each side together: one outlier would coarsen the steps of all other values


def calibrate(vectors: FloatArray) -> float:
    """The scale that maps all but one in ten thousand components into -127…127, four digits.

    Args:
        vectors: float32, shape (n, dims), as they will be quantized (of length 1 for cosine).
    """
    reach = float(np.quantile(np.abs(vectors), 1 - _TAIL)) if vectors.size else 0.0
    return float(f"{127 / max(reach, 1e-12):.4g}")


def unit_scale(dims: int) -> float:
    """A scale for vectors of length 1 when nothing was measured: from the dims alone."""
    return float(f"{127 * dims**0.5 / UNIT_SPREADS:.4g}")


def confidence_interval(dims: int) -> float:
    """The middle share of all components that Lucene's 7-bit scalar quantization shall not clip, from the
    dims alone: 1 − 1/(dims + 1), at least the 0.9 that OpenSearch takes, six digits."""
    return max(0.9, round(1 - 1 / (dims + 1), 6))


def to_bytes(vectors: npt.NDArray[Any], scale: float, *, normalize: bool) -> npt.NDArray[np.int8]:
    """Whole numbers from -127 to 127, shape unchanged.

    Args:
        vectors: floats, shape (dims,) or (n, dims).
        normalize: bring rows to length 1 first (cosine).
    """
    values: FloatArray = np.asarray(vectors, np.float32)
    if normalize:
        norms: FloatArray = np.linalg.norm(values, axis=-1, keepdims=True)
        values = (values / np.where(norms > 0, norms, 1)).astype(np.float32)
    codes: npt.NDArray[np.int8] = np.clip(np.rint(values * scale), -127, 127).astype(np.int8)
    return codes


def to_bits(vectors: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """One bit a dimension (set where it is above 0), eight in a signed byte: shape (…, dims / 8)."""
    return np.packbits(np.asarray(vectors) > 0, axis=-1).view(np.int8)


def from_bits(packed: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """-1 and 1 for the bits of :func:`to_bits`: shape (…, dims) from (…, dims / 8), of any number
    type."""
    bits = np.unpackbits(np.asarray(packed).astype(np.int8).view(np.uint8), axis=-1)
    return np.where(bits > 0, 1, -1).astype(np.int8)


def quantize(field: DenseField, vector: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """A vector of a byte or bit field as that field stores it; one that is quantized already stays.

    Args:
        vector: shape (dims,): floats, or int8; of bit fields also shape (dims / 8,).

    Raises:
        ValueError: floats where the plan has no scale for them, so that rounding would lose everything.
    """
    if vector.dtype == np.int8:
        return vector
    if field.element_type == "bit" and len(vector) == field.dims:
        return to_bits(vector)
    if field.element_type == "byte" and field.scale is not None:
        return to_bytes(vector, field.scale, normalize=field.similarity == "cosine")
    if not ((vector == np.rint(vector)) & (vector >= -128) & (vector <= 127)).all():
        remedy = "; set scale in the plan to have floats coded" if field.element_type == "byte" else ""
        raise ValueError(f"{field.element_type} fields take whole numbers from -128 to 127{remedy}")
    return vector.astype(np.int8)


def is_no_vector(field: DenseField | SparseField, vector: npt.NDArray[Any] | SparseVector) -> bool:
    """Whether what an encoder made for a text says nothing: it knows no word of it (all zeros, no weight),
    or nothing is left of it once it is stored.

    This alone decides, for documents and for queries: such a text has no vector. It isn't stored, and as a
    query it finds nothing. A point at the origin would be near to something (l2_norm), or equally far from
    everything (max_inner_product), and both engines refuse it under cosine.

    Args:
        vector: dense, shape (dims,), or sparse; of finite numbers.
    """
    if isinstance(vector, SparseVector):
        return not np.any(vector.values)
    if not np.any(vector):
        return True
    if not isinstance(field, DenseField) or field.element_type == "bit":
        return False  # a bit says which side of 0 a number is on, so all of them may be 0
    if field.element_type == "byte" and field.similarity == "cosine":
        try:
            vector = quantize(field, vector)
        except ValueError:  # no whole numbers and no scale: the error is that of whoever stores it
            return False
    return field.has_no_direction(vector)
