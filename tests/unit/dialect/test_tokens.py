"""The token codec: distinct tokens keep distinct names, and every name comes back as its token."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esembed.dialect.tokens import TokenTarget, decode, encode, encode_vector
from esembed.errors import EncoderError, RecordError
from esembed.types import SparseVector

NAMED: list[TokenTarget] = [t for t in get_args(TokenTarget) if t != "opensearch.sparse_vector"]
ODD = ["", ".", "%", "%2E", "%%", "a.b", "a_b", "##x", "%u0041", "é", "\x00", "\ud800", "日本", "a b", "%25"]

tokens = st.one_of(
    st.sampled_from(ODD),
    st.text(alphabet=st.sampled_from("ab.%2Eu0_\x00\ud83d\ude00é")),
    st.text(alphabet=st.characters()),
)


@pytest.mark.parametrize("target", NAMED)
@given(token=tokens)
def test_a_name_comes_back_as_its_token(target: TokenTarget, token: str) -> None:
    assert decode(encode(token, target), target) == token


@pytest.mark.parametrize("target", NAMED)
@given(one=tokens, two=tokens)
def test_two_tokens_never_share_a_name(target: TokenTarget, one: str, two: str) -> None:
    assert (encode(one, target) == encode(two, target)) == (one == two)


@given(token=tokens)
def test_rank_features_get_neither_dots_nor_the_empty_string(token: str) -> None:
    for target in NAMED[1:]:
        name = encode(token, target)
        assert name
        assert "." not in name
        name.encode("utf-8")


def test_plain_tokens_are_left_as_they_are() -> None:
    for target in NAMED:
        assert [encode(t, target) for t in ("cat", "##ing", "naïve", "日本")] == [
            "cat",
            "##ing",
            "naïve",
            "日本",
        ]
    assert encode("3.14", "elasticsearch.sparse_vector") == "3.14"


def test_a_term_beyond_lucenes_limit_is_refused() -> None:
    with pytest.raises(RecordError, match="32766"):
        encode("é" * 20_000, "elasticsearch.sparse_vector")
    assert encode("a" * 32_766, "elasticsearch.rank_features") == "a" * 32_766


def test_seismic_takes_ids() -> None:
    ids = {"[PAD]": 0, "cat": 1, "dog": 2}
    vector = SparseVector(("dog", "cat"), np.array([1.0, 0.5], np.float32))
    assert encode_vector(vector, "opensearch.sparse_vector", ids) == {"2": 1.0, "1": 0.5}
    query = SparseVector(("dog", "unseen"), np.array([1.0, 2.0], np.float32))
    with pytest.raises(EncoderError, match="'unseen' has no id"):
        encode_vector(query, "opensearch.sparse_vector", ids)
    assert encode_vector(query, "opensearch.sparse_vector", ids, unknown="drop") == {"2": 1.0}
    assert decode("2", "opensearch.sparse_vector") == "2"


def test_seismic_refuses_what_it_would_fold() -> None:
    with pytest.raises(EncoderError, match="fold"):
        encode_vector(SparseVector((40_000,), np.ones(1, np.float32)), "opensearch.sparse_vector")
    with pytest.raises(EncoderError, match="pass ids"):
        encode("cat", "opensearch.sparse_vector")
