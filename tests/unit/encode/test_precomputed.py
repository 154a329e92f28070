"""Vectors that a record brings: what is refused, and in what form the others come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from esembed.encode.precomputed import validate_dense, validate_sparse
from esembed.errors import RecordError
from esembed.plan import DenseField
from esembed.types import SparseVector


def field(similarity: str = "cosine", **options: Any) -> DenseField:
    return DenseField(**{"dims": 3, "similarity": similarity, **options})


@pytest.mark.parametrize(
    ("vector", "similarity", "words"),
    [
        ([1.0, 2.0], "cosine", "3 dims were expected, not 2"),
        ([1.0, float("nan"), 0.0], "l2_norm", "at dim 1"),
        ([1.0, float("inf"), 0.0], "cosine", "at dim 1"),
        ([1.0, None, 2.0], "cosine", "at dim 1"),
        ([0.0, 0.0, 0.0], "cosine", "no direction"),
        ([2.0, 0.0, 0.0], "dot_product", "this one has 2"),
        ([[1.0, 0.0, 0.0]], "cosine", "not 1×3"),
        ([[1.0], [1.0, 2.0]], "cosine", "list of numbers"),
        ("abc", "cosine", "list of numbers"),
        ({"a": 1.0}, "cosine", "list of numbers"),
        (1.0, "cosine", "a single number"),
    ],
)
def test_dense_vectors_are_checked(vector: Any, similarity: str, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        validate_dense("emb", field(similarity), vector)
    assert caught.value.field == "emb"


def test_dense_vectors_that_are_right() -> None:
    assert validate_dense("e", field(), (1, 2, 3)).dtype == np.float32
    assert validate_dense("e", field("l2_norm"), [0, 0, 0]).tolist() == [0, 0, 0]
    assert validate_dense("e", field("dot_product"), np.array([1.0004, 0, 0])).tolist() == [
        pytest.approx(1.0004),
        0,
        0,
    ]
    assert validate_dense("e", field(element_type="byte"), [0, 0, 0]).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ({"a": 0.0}, "above 0"),
        ({"a": -1.0}, "above 0"),
        ({"a": float("nan")}, "above 0"),
        ({"indices": ["a"], "values": [1.0, 2.0]}, "no sparse vector"),
        ({"indices": ["a", "a"], "values": [1.0, 2.0]}, "stands twice"),
        ([1.0], "a mapping of feature to weight"),
    ],
)
def test_sparse_vectors_are_checked(vector: Any, words: str) -> None:
    with pytest.raises(RecordError, match=words):
        validate_sparse("spl", vector)


def test_sparse_vectors_that_are_right() -> None:
    assert validate_sparse("s", {"a": 1, "b": 0.5}) == SparseVector(("a", "b"), np.array([1, 0.5]))
    assert validate_sparse("s", {"indices": [3, 4], "values": [1.0, 2.0]}).indices == (3, 4)
    assert len(validate_sparse("s", SparseVector(("x",), np.array([2.0])))) == 1
