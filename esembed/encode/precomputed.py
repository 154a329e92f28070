"""``precomputed``: the records bring the vectors (images, products, users …), and are checked here.

A vector that is wrong in a small way (NaN, another model's length, not of unit length where the engine
counts on it) is found out weeks later in bad results, so each one is looked at before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.errors import EncoderError, RecordError
from esembed.plan import DenseField
from esembed.plan.params import EncoderParams
from esembed.types import DenseMatrix, FloatArray, SparseVector

__all__ = ["PrecomputedEncoder", "load", "load_custom", "validate_dense", "validate_sparse"]

_UNIT_TOLERANCE = 1e-3
"""How far from 1 a length may be: rounding (by a model in float16, to a few digits in JSON) leaves it off."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> PrecomputedEncoder:
    """The placeholder.

    Raises:
        EncoderError: the spec has a rest, or params other than ``dims``.
    """
    if rest:
        raise EncoderError(f"precomputed takes no name after it (found {rest!r})", spec="precomputed")
    if params != EncoderParams(dims=params.dims):
        raise EncoderError(
            "precomputed encodes nothing, so it takes no parameter but dims", spec="precomputed"
        )
    return PrecomputedEncoder(params.dims)


def load_custom(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> NoReturn:
    """Raises EncoderError: ``custom:NAME`` stands for an encoder that only the caller has."""
    raise EncoderError(
        f"'custom:{rest}' is an encoder of your own: pass it, as in Index.open(…, encoder=mine) or "
        'encoder={"field": mine}; what esembed loads by itself is named hf:…, splade:…, static:… or minilm',
        spec=f"custom:{rest}",
    )


class PrecomputedEncoder:
    """Stands where an encoder would: it declares the dims, and says so when asked to encode."""

    def __init__(self, dims: int | None = None) -> None:
        self._info = EncoderInfo(spec="precomputed", type="dense", dims=dims)
        self._stats = EncodeStats()

    @property
    def info(self) -> EncoderInfo:
        """Spec and dims, nothing else."""
        return self._info

    @property
    def stats(self) -> EncodeStats:
        """Always zero."""
        return self._stats

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Raises EncoderError: the record must bring its vector."""
        self._refuse("each record must bring the vector in the field itself")

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Raises EncoderError: the query must bring its vector."""
        self._refuse("pass the query's vector: q.knn(field, vector=…) or q.sparse(field, vector=…)")

    def _refuse(self, instead: str) -> NoReturn:
        raise EncoderError(
            f"this field's encoder is 'precomputed', so there is no model to encode text: {instead}"
        )

    def close(self) -> None:
        """Nothing to release."""


def validate_dense(name: str, field_spec: DenseField, value: Any, *, may_be_zero: bool = False) -> FloatArray:
    """A record's vector for the field *name* as a float32 array, shape (dims,), checked.

    Vectors of byte and bit fields come back as they are, to be quantized; a bit field takes one sign for
    each dim, or dims / 8 packed bytes.

    Args:
        may_be_zero: one of length 0 is no error where the similarity can't take it: the caller leaves it out.

    Raises:
        RecordError: wrong shape, not numbers, NaN or infinity, or a length that the similarity can't take.
    """
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name}: a list of numbers was expected", field=name) from None
    dims = field_spec.dims
    signs = field_spec.element_type == "bit" and dims is not None and vector.shape == (dims,)
    if field_spec.element_type == "bit" and dims is not None and not signs:
        dims //= 8
    if vector.ndim != 1 or (dims is not None and len(vector) != dims):
        shape = "×".join(map(str, vector.shape)) or "a single number"
        raise RecordError(f"{name}: {dims} dims were expected, not {shape}", field=name)
    if not np.isfinite(vector).all():
        raise RecordError(
            f"{name}: NaN, null or infinity at dim {int(np.argmin(np.isfinite(vector)))}", field=name
        )
    if field_spec.element_type in ("byte", "bit"):
        return vector
    if field_spec.has_no_direction(vector) and not may_be_zero:
        raise RecordError(f"{name}: a vector of length 0 has no direction, so no cosine", field=name)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if field_spec.similarity == "dot_product" and abs(norm - 1.0) > _UNIT_TOLERANCE:
        raise RecordError(
            f"{name}: dot_product needs vectors of length 1, this one has {norm:.4g}; normalize it, or use "
            "max_inner_product",
            field=name,
        )
    return vector


def validate_sparse(name: str, value: Any) -> SparseVector:
    """A record's sparse vector for the field *name*, checked: of a mapping, or of indices and values.

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
        "".join(index for index in vector.indices if isinstance(index, str)).encode()  # no half characters
    except (TypeError, ValueError, OverflowError) as error:
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
