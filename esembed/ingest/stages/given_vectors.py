"""Vectors that a record brings itself, checked and in one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from esembed.dialect.quantize import quantize
from esembed.errors import RecordError
from esembed.plan import DenseField
from esembed.types import SparseVector

__all__ = ["given_dense", "given_sparse", "vector_bytes"]


def given_dense(name: str, part: DenseField, value: Any) -> npt.NDArray[Any]:
    """A dense vector that a record brings: float32 (int8 for byte and bit fields), shape (dims,).

    Raises:
        RecordError: wrong shape, type, NaN, or a norm that the similarity can't take.
    """
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name}: a list of numbers was expected", field=name) from None
    dims = part.dims
    signs = part.element_type == "bit" and dims is not None and vector.shape == (dims,)
    if part.element_type == "bit" and dims is not None and not signs:
        dims //= 8
    if vector.ndim != 1 or (dims is not None and len(vector) != dims):
        shape = "×".join(map(str, vector.shape)) or "a single number"
        raise RecordError(f"{name}: {dims} dims were expected, not {shape}", field=name)
    if not np.isfinite(vector).all():
        raise RecordError(
            f"{name}: NaN, null or infinity at dim {int(np.argmin(np.isfinite(vector)))}", field=name
        )
    if part.element_type in ("byte", "bit"):
        try:
            return quantize(part, vector)
        except ValueError as error:
            raise RecordError(f"{name}: {error}", field=name) from None
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if part.similarity == "cosine" and norm == 0.0:
        raise RecordError(f"{name}: a vector of length 0 has no direction, so no cosine", field=name)
    if part.similarity == "dot_product" and abs(norm - 1.0) > 1e-3:
        raise RecordError(
            f"{name}: dot_product needs vectors of length 1, this one has {norm:.4g}; normalise it, or use "
            "max_inner_product",
            field=name,
        )
    return vector


def given_sparse(name: str, value: Any) -> SparseVector:
    """A sparse vector that a record brings: a mapping, a SparseVector, or indices and values.

    Raises:
        RecordError: weights that are not finite and above 0, repeated indices, or another shape.
    """
    try:
        if isinstance(value, SparseVector):
            vector = value
        elif isinstance(value, Mapping) and set(value) == {"indices", "values"}:
            indices = value["indices"]
            if indices and all(isinstance(i, (int, np.integer)) for i in indices):
                indices = [int(i) for i in indices]
            else:
                indices = [str(i) for i in indices]
            vector = SparseVector(tuple(indices), np.asarray(value["values"], np.float32))
        elif isinstance(value, Mapping):
            vector = SparseVector.from_dict({str(k): float(v) for k, v in value.items()})
        else:
            raise ValueError("a mapping of feature to weight was expected")
    except (TypeError, ValueError) as error:
        raise RecordError(f"{name}: no sparse vector ({error})", field=name) from None
    if len(set(vector.indices)) != len(vector.indices):
        raise RecordError(f"{name}: an index stands twice", field=name)
    bad = ~(np.isfinite(vector.values) & (vector.values > 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise RecordError(
            f"{name}: the weight of {vector.indices[at]!r} is {vector.values[at]}; engines take weights "
            "above 0",
            field=name,
        )
    return vector


def vector_bytes(vector: npt.NDArray[Any] | SparseVector) -> bytes:
    """What a vector's hash is made of."""
    if isinstance(vector, SparseVector):
        pairs = sorted(zip(map(str, vector.indices), vector.values.tolist(), strict=True))
        return orjson.dumps(pairs)
    return vector.tobytes()
