"""``given``: the caller brings the vectors (images, products, users …), and they are checked here.

A vector that is wrong in a small way (NaN, another model's length, not of unit length where the engine
counts on it) is found out weeks later in bad results, so each one is looked at before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.errors import EncoderError, RecordError
from esembed.plan.params import EncoderParams
from esembed.types import DenseMatrix, FloatArray, SparseVector

__all__ = ["GivenEncoder", "load", "load_own", "validate_dense", "validate_sparse"]

_UNIT_TOLERANCE = 1e-3


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> GivenEncoder:
    """The placeholder.

    Raises:
        EncoderError: the spec has a rest, or params other than ``dims``.
    """
    if rest:
        raise EncoderError(f"given takes no name after it (found {rest!r})", spec="given")
    if params != EncoderParams(dims=params.dims):
        raise EncoderError("given encodes nothing, so it takes no parameter but dims", spec="given")
    return GivenEncoder(params.dims)


def load_own(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> NoReturn:
    """Raises EncoderError: ``own:NAME`` stands for an encoder that only the caller has."""
    raise EncoderError(
        f"'own:{rest}' is an encoder of your own: pass it, as in Index.open(…, encoder=mine) or "
        'encoder={"field": mine}; what esembed loads by itself is named hf:…, splade:…, static:… or minilm',
        spec=f"own:{rest}",
    )


class GivenEncoder:
    """Stands where an encoder would: it declares the dims, and says so when asked to encode."""

    def __init__(self, dims: int | None = None) -> None:
        self._info = EncoderInfo(spec="given", kind="dense", dims=dims)
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
        raise EncoderError(f"this field's encoder is 'given', so there is no model to encode text: {instead}")

    def close(self) -> None:
        """Nothing to release."""


def validate_dense(
    vector: Any,
    *,
    dims: int,
    similarity: str = "cosine",
    field: str,
    record_id: str | None = None,
    position: str | None = None,
) -> FloatArray:
    """*vector* as a float32 array of shape (dims,), checked.

    Args:
        vector: a sequence of numbers or a one-dimensional array of any real dtype.
        dims: the field's dimensions.
        similarity: ``cosine`` refuses a zero vector, ``dot_product`` wants length 1 (within 1e-3; it is
            then scaled to it, since engines check more narrowly), others take anything finite.
        field, record_id, position: for the message.

    Raises:
        RecordError: wrong shape, not numbers, NaN or infinity (also after the cast to float32), zero
            length, not of unit length.
    """

    def wrong(reason: str) -> RecordError:
        who = f"record {record_id!r}" if record_id is not None else "a record"
        return RecordError(
            f"{who}, field {field!r}: {reason}", record_id=record_id, field=field, position=position
        )

    if vector is None or isinstance(vector, str | bytes | Mapping):
        raise wrong(f"a vector of {dims} numbers is needed, not {type(vector).__name__}")
    try:
        raw = np.asarray(vector)
    except (ValueError, TypeError) as error:
        raise wrong(f"no vector of numbers ({error})") from error
    if raw.ndim != 1 or raw.dtype == object or raw.dtype.kind not in "fiu":
        shape = f"shape {raw.shape} and dtype {raw.dtype}"
        raise wrong(f"a vector of {dims} numbers is needed; this has {shape}")
    if len(raw) != dims:
        raise wrong(f"has {len(raw)} dimensions where the plan says {dims}: another model's vector?")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        place = int(np.argmin(finite))
        raise wrong(f"value {raw[place]} at position {place} is no finite float32 number")
    if similarity in ("cosine", "dot_product"):
        length = float(np.linalg.norm(values.astype(np.float64)))
        if length == 0.0:
            raise wrong(f"a vector of zeros has no direction, which similarity {similarity!r} needs")
        if similarity == "dot_product":
            if abs(length - 1.0) > _UNIT_TOLERANCE:
                raise wrong(
                    f"has length {length:.4g}, and similarity 'dot_product' wants length 1: scale it or take "
                    "'cosine' or 'max_inner_product' in the plan"
                )
            values = (values / np.float32(length)).astype(np.float32)
    return values


def validate_sparse(
    vector: Any,
    *,
    field: str,
    record_id: str | None = None,
    position: str | None = None,
    max_features: int | None = None,
    features: Literal["tokens", "ids"] | None = None,
) -> SparseVector:
    """*vector* as a :class:`~esembed.types.SparseVector`, checked.

    Args:
        vector: a SparseVector, a mapping of feature → weight, or a mapping with ``indices`` and
            ``values`` of equal length.
        field, record_id, position: for the message.
        max_features: the most features the field takes, or None.
        features: ``ids`` turns decimal strings (JSON keys) into int; ``tokens`` wants strings;
            None takes either.

    Raises:
        RecordError: wrong shape, empty, repeated features, a weight that isn't finite and positive in
            float32 (every engine refuses zero and negative weights).
    """

    def wrong(reason: str) -> RecordError:
        who = f"record {record_id!r}" if record_id is not None else "a record"
        return RecordError(
            f"{who}, field {field!r}: {reason}", record_id=record_id, field=field, position=position
        )

    if isinstance(vector, SparseVector):
        names: list[Any] = list(vector.indices)
        weights: list[Any] = list(vector.values)
    elif isinstance(vector, Mapping):
        if set(vector) == {"indices", "values"} and isinstance(vector["indices"], Sequence | np.ndarray):
            names, weights = list(vector["indices"]), list(vector["values"])
        else:
            names, weights = list(vector), list(vector.values())
    else:
        raise wrong(f"a mapping of feature to weight is needed, not {type(vector).__name__}")
    if len(names) != len(weights):
        raise wrong(f"{len(names)} indices but {len(weights)} values")
    if not names:
        raise wrong("the sparse vector is empty; leave the field out instead")
    if max_features is not None and len(names) > max_features:
        raise wrong(f"has {len(names)} features, at most {max_features} are taken")
    names = [_feature(name, features, wrong) for name in names]
    if len({type(name) for name in names}) > 1:
        raise wrong("mixes string features and integer ids")
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise wrong(f"feature {twice!r} occurs twice")
    for name, weight in zip(names, weights, strict=True):
        if isinstance(weight, bool | str) or not isinstance(weight, int | float | np.number):
            raise wrong(f"the weight of {name!r} is {weight!r}, no number")
        with np.errstate(over="ignore"):
            value = np.float32(weight)
        if not np.isfinite(value) or value <= 0:
            raise wrong(f"the weight of {name!r} is {weight!r}; it must be finite and above 0")
    return SparseVector(tuple(names), np.asarray(weights, dtype=np.float32))


def _feature(name: Any, features: str | None, wrong: Any) -> str | int:
    if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
        raise wrong(f"feature {name!r} is neither a string nor an integer")
    if isinstance(name, str):
        if features == "ids":
            if not name.isdecimal():
                raise wrong(f"feature {name!r} is no integer id, which this field wants")
            return int(name)
        return name
    if features == "tokens":
        raise wrong(f"feature {name!r} is an id; this field wants strings")
    if name < 0:
        raise wrong(f"feature id {name} is negative")
    return int(name)
