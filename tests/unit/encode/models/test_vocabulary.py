"""Ids of a vocabulary's tokens."""

from __future__ import annotations

import pytest

from esembed.encode.models.vocabulary import token_ids
from esembed.errors import EncoderError


def test_an_id_is_the_position_and_belongs_to_one_token() -> None:
    assert token_ids(["[PAD]", "cat", "dog"]) == {"[PAD]": 0, "cat": 1, "dog": 2}
    with pytest.raises(EncoderError, match="twice"):
        token_ids(["a", "b", "a"])
