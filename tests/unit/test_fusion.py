"""Fusion by hand-computed values and by properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esembed.fusion import Bound, FusionNode, LegList, LegRef, collapse, fuse, normalize
from esembed.plan import DenseField, IndexPlan
from esembed.query import builders as q
from esembed.search.bounds import bound_of, idf_sum


def node(kind: str, count: int, **options: object) -> FusionNode:
    children = tuple(LegRef(f"leg{i}", i) for i in range(count))
    return FusionNode(kind=kind, children=children, **{"weights": (1.0,) * count, **options})  # type: ignore[arg-type]


A = LegList(["x", "y", "z"], [9.0, 4.0, 1.0])
B = LegList(["z", "w"], [0.5, 0.25])


def test_rrf_is_the_sum_of_reciprocal_ranks() -> None:
    fused = fuse(node("rrf", 2, weights=(2.0, 1.0)), [A, B])
    assert [hit.id for hit in fused] == ["z", "x", "y", "w"]
    assert fused[0].score == pytest.approx(2 / 63 + 1 / 61)
    assert [(s.leg, s.rank, s.score) for s in fused[0].contributions] == [("leg0", 3, 1.0), ("leg1", 1, 0.5)]
    assert [(s.leg, s.rank, s.contribution) for s in fused[3].contributions] == [
        ("leg0", None, 0.0),
        ("leg1", 2, 1 / 62),
    ]


@pytest.mark.parametrize(
    ("normalizer", "wanted"),
    [
        ("minmax", [1.0, 0.375, 0.0]),
        ("l2", [9 / math.sqrt(98), 4 / math.sqrt(98), 1 / math.sqrt(98)]),
        ("none", [9.0, 4.0, 1.0]),
        ("zscore", [(s - 14 / 3) / math.sqrt((81 + 16 + 1) / 3 - (14 / 3) ** 2) for s in (9.0, 4.0, 1.0)]),
    ],
)
def test_normalizers(normalizer: str, wanted: list[float]) -> None:
    assert normalize(A.scores, normalizer) == pytest.approx(wanted)  # type: ignore[arg-type]


def test_equal_scores() -> None:
    assert normalize([2.0, 2.0], "minmax") == [1.0, 1.0]
    assert normalize([2.0, 2.0], "zscore") == [0.0, 0.0]
    assert normalize([0.1] * 3, "zscore") == [0.0] * 3  # their mean is 0.10000000000000002
    assert normalize([0.0, 0.0], "l2") == [0.0, 0.0]
    assert normalize([], "minmax") == []
    tied = fuse(node("rrf", 2), [LegList(["b", "a"], [1, 1]), LegList(["a", "b"], [1, 1])])
    assert [hit.id for hit in tied] == ["a", "b"]
    assert tied[0].score == tied[1].score


def test_a_window_cuts_the_legs_and_the_result() -> None:
    fused = fuse(node("rrf", 2, window=2), [A, B])
    assert len(fused) == 2
    assert fused[0].id == "x"
    whole = FusionNode(
        kind="rrf", children=(LegRef("a", 0, whole=True), LegRef("b", 1)), weights=(1.0, 1.0), window=2
    )
    assert fuse(whole, [A, B])[0].id == "z"


def test_a_leg_that_did_not_answer_adds_nothing() -> None:
    assert [h.id for h in fuse(node("rrf", 2), [None, B])] == ["z", "w"]
    nested = FusionNode(
        kind="rrf",
        children=(
            FusionNode(name="inner", kind="linear", children=(LegRef("a", 0),), weights=(1.0,)),
            LegRef("b", 1),
        ),
        weights=(1.0, 1.0),
    )
    assert [h.id for h in fuse(nested, [None, B])] == ["z", "w"]
    assert [s.leg for s in fuse(nested, [A, B])[0].contributions] == ["inner", "b"]


def test_bounds_need_no_list() -> None:
    bounds = {"leg0": Bound(divisor=10.0), "leg1": Bound(factor=2.0, shift=-1.0)}
    fused = fuse(node("linear", 2, normalizer="bound"), [A, B], bounds=bounds)
    assert {h.id: h.score for h in fused} == pytest.approx({"x": 0.9, "y": 0.4, "z": 0.1 + 0.0, "w": -0.5})


def test_idf_sum_counts_words_that_no_document_has() -> None:
    vector = {
        "field_statistics": {"doc_count": 60},
        "terms": {
            "dog": {"doc_freq": 32, "term_freq": 1},
            "red": {"doc_freq": 29, "term_freq": 2},
            "zzz": {"term_freq": 1},
        },
    }
    wanted = math.log(1 + 28.5 / 32.5) + 2 * math.log(1 + 31.5 / 29.5) + math.log(1 + 60.5 / 0.5)
    assert idf_sum(vector) == pytest.approx(wanted)
    plan = IndexPlan(dense={"e": DenseField(dims=2), "l": DenseField(dims=2, similarity="l2_norm")})
    assert bound_of(q.match("x"), plan, 3.0) == (Bound(divisor=3.0), None)
    assert bound_of(q.knn("e", vector=[1, 2]), plan, None)[0](0.75) == 0.5
    assert "no bound" in (bound_of(q.knn("l", vector=[1, 2]), plan, None)[1] or "")
    assert bound_of(q.sparse("s", vector={"a": 1, "b": 3}), plan, None)[0](2.0) == 0.5


def test_collapse_keeps_the_best_of_each_group_and_one_without() -> None:
    fused = fuse(node("rrf", 1), [LegList(list("abcde"), [5, 4, 3, 2, 1])])
    groups = {"a": "g", "b": None, "c": "g", "d": None, "e": "h"}
    assert [h.id for h in collapse(fused, groups)] == ["a", "b", "e"]


lists = st.lists(
    st.dictionaries(st.sampled_from("abcdefghij"), st.floats(0, 100), max_size=8), min_size=1, max_size=4
)


def test_floor_of_vectors_ends_at_the_highest_possible_score() -> None:
    assert normalize([0.7, 0.6, 0.5], "floor", 1.0) == pytest.approx([0.4, 0.2, 0.0])
    # Of a similarity without a greatest value the list's best is the limit.
    assert normalize([5.0, 3.0, 1.0], "floor", 1.0) == pytest.approx([1.0, 0.5, 0.0])
    # One hit alone is as good as it gets; hits that are all alike tell nothing apart.
    assert normalize([0.7], "floor", 1.0) == [1.0]
    assert normalize([0.7, 0.7], "floor", 1.0) == [0.0, 0.0]


def test_floor_of_words_is_zero_while_the_list_is_not_full() -> None:
    # What such a list doesn't hold isn't found: hits that are all alike count, all of them.
    assert normalize([4.0, 3.0, 2.0], "floor", window=100) == pytest.approx([1.0, 0.75, 0.5])
    assert normalize([9.0] * 12, "floor", window=100) == [1.0] * 12
    assert normalize([9.0, 8.9], "floor", window=100)[1] > 0.98
    assert normalize([0.0, 0.0], "floor", window=100) == [1.0, 1.0]
    # A fusion inside the fusion can score below 0.
    assert normalize([2.0, 0.0, -2.0], "floor", window=100) == pytest.approx([1.0, 0.5, 0.0])


def test_floor_of_one_leg_is_a_share_of_its_best() -> None:
    vague = LegList([f"d{i:02}" for i in range(20)], [10.0 - i / 10 for i in range(20)])
    vectors = LegList(["a", "b", "c"], [0.7, 0.6, 0.5])
    for found, limit in ((vague, None), (vectors, 1.0)):
        inner = FusionNode(
            kind="linear",
            children=(LegRef("one", 0, limit=limit), LegRef("two", 1, limit=limit)),
            weights=(0.4, 0.6),
            normalizer="floor",
            window=20,
        )
        alone = FusionNode(
            kind="linear",
            children=(LegRef("one", 0, limit=limit),),
            weights=(1.0,),
            normalizer="floor",
            window=20,
        )
        around = FusionNode(kind="linear", children=(inner,), weights=(1.0,), normalizer="floor", window=20)
        assert fuse(inner, [found, found])[0].score < 0.5
        for node in (alone, around):
            fused = fuse(node, [found, found])
            assert fused[0].score == 1.0
            assert fused[-1].score == pytest.approx(0.0)
            assert [hit.id for hit in fused] == found.ids


def test_floor_of_words_counts_a_full_list_by_how_clear_its_best_is() -> None:
    code = [10.0, *[2.0] * 19]
    assert normalize(code, "floor", window=20) == [1.0, *[0.0] * 19]
    # A question whose words stand everywhere: the tenth is about as good as the best.
    vague = [10.0 - 0.1 * i for i in range(20)]
    values = normalize(vague, "floor", window=20)
    assert values[0] == pytest.approx(0.9 / 1.9)
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)
    # What lies beyond the list is worth as much as its last hit: hits that are all alike are worth nothing.
    assert normalize([3.0] * 20, "floor", window=20) == [0.0] * 20
    assert normalize([3.0], "floor", window=1) == [1.0]
    assert normalize([3.0, 1.0], "floor", window=2) == [1.0, 0.0]


def test_a_name_that_one_leg_finds_beats_a_list_of_likes() -> None:
    """Why ``floor``: words find one document, vectors list others that are hardly nearer than the rest."""
    words = LegList(["named", "named too"], [9.0, 8.9])  # two documents hold the name
    vectors = LegList([f"d{i}" for i in range(50)], [0.62 - 0.001 * i for i in range(50)])
    children = (LegRef("words", 0), LegRef("vectors", 1, limit=1.0))
    for normalizer, first in (("floor", "named"), ("minmax", "d0")):
        how = FusionNode(kind="linear", children=children, weights=(0.25, 0.75), normalizer=normalizer)  # type: ignore[arg-type]
        found = [hit.id for hit in fuse(how, [words, vectors])[:2]]
        assert found[0] == first
        assert (found[1] == "named too") == (normalizer == "floor")


@given(
    lists,
    st.sampled_from(["rrf", "minmax", "l2", "zscore", "none", "floor"]),
    st.randoms(use_true_random=False),
)
def test_shares_add_up_and_the_order_of_the_legs_is_no_matter(drawn, what, rng) -> None:  # type: ignore[no-untyped-def]
    legs = [
        LegList(*map(list, zip(*sorted(d.items(), key=lambda t: -t[1]), strict=True)))
        if d
        else LegList([], [])
        for d in drawn
    ]
    weights = [rng.uniform(0.1, 2) for _ in legs]
    kind, normalizer = ("rrf", "none") if what == "rrf" else ("linear", what)
    fused = fuse(node(kind, len(legs), weights=tuple(weights), normalizer=normalizer), legs)
    for hit in fused:
        assert math.fsum(s.contribution for s in hit.contributions) == pytest.approx(hit.score)
    assert [h.score for h in fused] == sorted((h.score for h in fused), reverse=True)
    order = list(range(len(legs)))
    rng.shuffle(order)
    again = fuse(
        node(kind, len(legs), weights=tuple(weights[i] for i in order), normalizer=normalizer),
        [legs[i] for i in order],
    )
    assert [(h.id, h.score) for h in again] == [(h.id, h.score) for h in fused]
