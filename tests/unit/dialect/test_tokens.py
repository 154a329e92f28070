"""The token codec: distinct tokens keep distinct names, and every name comes back as its token."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esembed.encode.tokens import (
    MAX_SEISMIC_IDS,
    TokenIds,
    TokenTarget,
    decode,
    decode_vector,
    encode,
    encode_vector,
)
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


def test_seismic_ids_are_dense_and_reversible() -> None:
    ids = TokenIds.from_vocabulary(["[PAD]", "cat", "dog"])
    vector = SparseVector(("dog", "cat"), np.array([1.0, 0.5], np.float32))
    assert encode_vector(vector, "opensearch.sparse_vector", ids) == {"2": 1.0, "1": 0.5}
    assert decode_vector({"2": 1.0, "1": 0.5}, "opensearch.sparse_vector", ids) == vector
    assert ids.to_tokens(ids.to_ids(vector)) == vector
    query = SparseVector(("dog", "unseen"), np.array([1.0, 2.0], np.float32))
    with pytest.raises(EncoderError, match="'unseen' has no id"):
        encode_vector(query, "opensearch.sparse_vector", ids)
    assert encode_vector(query, "opensearch.sparse_vector", ids, unknown="drop") == {"2": 1.0}
    assert len(ids.to_ids(query, drop_unknown=True)) == 1


def test_seismic_refuses_what_it_would_fold() -> None:
    with pytest.raises(EncoderError, match="fold"):
        encode_vector(SparseVector((40_000,), np.ones(1, np.float32)), "opensearch.sparse_vector")
    with pytest.raises(EncoderError, match="don't fit"):
        TokenIds.from_vocabulary([str(i) for i in range(MAX_SEISMIC_IDS + 1)])
    with pytest.raises(EncoderError, match="pass ids"):
        encode("cat", "opensearch.sparse_vector")
    with pytest.raises(EncoderError, match="no token id"):
        decode("7", "opensearch.sparse_vector", TokenIds(("a",)))


def test_a_large_vocabulary_is_mapped_by_count_and_says_what_it_lost() -> None:
    counts = {f"t{i}": i for i in range(1, 11)}
    with pytest.raises(EncoderError, match="lose the 7 rarest"):
        TokenIds.from_counts(counts, max_ids=3)
    ids = TokenIds.from_counts(counts, max_ids=3, drop_rare=True)
    assert ids.tokens == ("t10", "t9", "t8")
    assert ids.dropped == 7
    assert TokenIds.from_counts(dict(reversed(counts.items())), max_ids=3, drop_rare=True) == ids


def test_an_id_table_survives_json_and_notices_tampering() -> None:
    ids = TokenIds(("b", "a.", ""), dropped=4)
    data = json.loads(json.dumps(ids.to_json()))
    again = TokenIds.from_json(data)
    assert (again, again.hash, again.dropped) == (ids, ids.hash, 4)
    with pytest.raises(EncoderError, match="hash"):
        TokenIds.from_json({**data, "tokens": ["a.", "b", ""]})
    with pytest.raises(EncoderError, match="version"):
        TokenIds.from_json({**data, "version": 2})
    with pytest.raises(EncoderError, match="twice"):
        TokenIds(("a", "a"))
