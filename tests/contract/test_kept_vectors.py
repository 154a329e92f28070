"""Records that change without their texts: their vectors stay, and nothing is encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ingest_help import DIMS, PLAN, HashEncoder, make, records
from query_engines import World

from esembed.plan import ChunkOptions, DenseField, IndexPlan, SparseField

NESTED = PLAN.replace(
    dense={"emb": DenseField(encoder="custom:hash", dims=DIMS, chunked=True)},
    sparse={},
    chunk=ChunkOptions(source=("body",), max_tokens=12, overlap_tokens=0),
)
TWO = PLAN.replace(
    dense={
        "meta.a": DenseField(encoder="custom:hash", source=("title",), dims=DIMS, similarity="l2_norm"),
        "b": DenseField(encoder="custom:hash", source=("body",), dims=DIMS, element_type="byte", scale=100.0),
    },
    sparse={"terms": SparseField(encoder="lexical", source=("title",))},
)


def _rows(*, price: int, **more: Any) -> list[dict[str, Any]]:
    long = " ".join(f"Sentence {n} of it is here." for n in range(9))
    return [
        {**row, "body": f"{row['body']} {long}", "n": price, "meta": {"x": 1}, **more} for row in records(30)
    ]


@pytest.mark.parametrize("plan", [PLAN, NESTED, TWO], ids=["plain", "nested", "two"])
def test_another_price_encodes_nothing(query_world: World, plan: IndexPlan) -> None:
    target = make(query_world, plan, dense=(encoder := HashEncoder()))
    target.ingest(_rows(price=1))
    before, encoded = target.all(), len(encoder.texts)
    quiet = target.ingest(_rows(price=0))
    assert len(encoder.texts) == encoded
    assert quiet.reused_vectors == 30 * len(plan.dense)
    report = target.ingest(_rows(price=2), verify=True)
    assert (report.indexed, report.created) == (30, 0)
    assert report.reused_vectors == 30 * len(plan.dense)
    assert not report.without_vector
    assert report.verified is not None
    assert report.verified.ok
    assert report.verified.same == 30
    after = target.all()
    for doc_id, was in before.items():
        now = after[doc_id]
        assert now["n"] == 2
        for name in ("emb", "b", "terms"):
            if name in was:
                assert _same(now[name], was[name])
        if "chunks" in was:
            assert [c["text"] for c in now["chunks"]] == [c["text"] for c in was["chunks"]]
            assert all(_same(a["emb"], b["emb"]) for a, b in zip(now["chunks"], was["chunks"], strict=True))
    encoded = len(encoder.texts)
    again = target.ingest(_rows(price=3), skip_unchanged=False)
    assert again.reused_vectors == 0
    assert len(encoder.texts) > encoded, "a rewrite encodes all"
    assert target.ingest(_rows(price=3)).unchanged == 30


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return bool(one == other)
    # Elasticsearch keeps unit vectors for cosine, and multiplies their lengths back.
    return bool(np.allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=1e-5))


def test_only_the_texts_that_change_are_encoded(query_world: World) -> None:
    target = make(query_world, TWO, dense=(encoder := HashEncoder()))
    target.ingest(_rows(price=1))
    encoder.texts.clear()
    rows = _rows(price=1)
    rows[3] = {**rows[3], "title": "another title"}
    rows[4] = {**rows[4], "body": "another body", "n": 9}
    report = target.ingest([*rows, {**rows[5], "n": 5}, {**rows[5], "n": 6}])
    assert sorted(set(encoder.texts)) == sorted(
        {"another title", "another body", rows[5]["title"], rows[5]["body"]}
    )
    assert report.reused_vectors == 2, "of a record that comes twice nothing is kept: it is on its way"
    assert target.all()["d5"]["n"] == 6


def test_a_text_that_others_changed_is_encoded_again(query_world: World) -> None:
    target = make(query_world, dense=(encoder := HashEncoder()))
    target.ingest(_rows(price=1))
    encoder.texts.clear()
    # By hand, past esembed: the vector is still the old text's.
    change = {"doc": {"title": "by hand"}}
    target.world.client.request(
        "POST", f"/{target.index}/_update/d3", body=change, params={"refresh": "true"}
    )
    rows = _rows(price=2)
    rows[3] = {**rows[3], "title": "by hand"}
    report = target.ingest(rows, verify=True)
    assert report.reused_vectors == 29
    assert report.verified is not None
    assert report.verified.ok
    assert any(text.startswith("by hand") for text in encoder.texts)
    wanted = HashEncoder().encode_document([f"by hand\n{rows[3]['body']}"])[0]
    assert target.plan.dense["emb"].source_text(rows[3]) == f"by hand\n{rows[3]['body']}"
    assert _same(target.all()["d3"]["emb"], wanted)


def test_another_encoder_keeps_nothing(query_world: World) -> None:
    target = make(query_world, dense=HashEncoder())
    target.ingest(_rows(price=1))
    target.encoders["emb"] = HashEncoder(name="another")
    assert target.ingest(_rows(price=2)).reused_vectors == 0
