"""Which migrations leave what the legs of a search score as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from esembed import DenseField, EncoderParams, FilterField, IndexPlan, SparseField, TextField
from esembed.migration.copying import searched_alike
from esembed.plan import ChunkOptions

DENSE = DenseField(encoder="minilm", source=("body",), dims=8)
WORDS = SparseField(encoder="lexical", source=("body",))
PLAN = IndexPlan(text={"body": TextField()}, dense={"v": DENSE}, sparse={"w": WORDS})
UNCHANGED = {"v"}
"""The lexical field's contract is another one as soon as the index has settled its average length."""


def changed(field: msgspec.Struct, **changes: Any) -> Any:
    return msgspec.structs.replace(field, **changes)


@pytest.mark.parametrize(
    ("new", "unchanged", "alike"),
    [
        (PLAN, UNCHANGED, True),
        (PLAN.replace(dense={"v": changed(DENSE, quantization="int8_hnsw")}), UNCHANGED, True),
        (PLAN.replace(filter={"lang": FilterField()}), UNCHANGED, True),
        (PLAN, set(), False),
        (PLAN.replace(dense={"v": changed(DENSE, source=("title",))}), UNCHANGED, False),
        (PLAN.replace(sparse={"w": changed(WORDS, params=EncoderParams(b=0.1))}), UNCHANGED, False),
        (PLAN.replace(sparse={}), UNCHANGED, False),
        (PLAN.replace(text={"body": TextField(analyzer="english")}), UNCHANGED, False),
        (PLAN.replace(chunk=ChunkOptions(source=("body",))), UNCHANGED, False),
    ],
)
def test_learned_weights_hold_for_the_same_texts_and_vectors(
    new: IndexPlan, unchanged: set[str], alike: bool
) -> None:
    assert searched_alike(PLAN, new, unchanged) is alike
