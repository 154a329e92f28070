"""What legs are called, and how they are chosen."""

from __future__ import annotations

import pytest

from esembed import DenseField, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed.errors import QueryError
from esembed.plan.default_query import default_legs, default_query, legs_beside, searchable_legs
from esembed.plan.legs import expand_by_leg, leg_names, query_legs, select_legs

PLAN = IndexPlan(
    text={"title": TextField()},
    dense={
        "small": DenseField(encoder="minilm", source=("title",)),
        "large": DenseField(encoder="hf:x/y", source=("title",)),
        "brought": DenseField(dims=4),
    },
    sparse={
        "learned": SparseField(encoder="splade:x/y", source=("title",)),
        "words": SparseField(source=("title",)),
    },
)


def test_a_vector_leg_is_called_by_its_field() -> None:
    assert list(searchable_legs(PLAN)) == ["bm25", "small", "large", "learned"]
    assert leg_names(query_legs(default_query(PLAN))) == ["bm25", "small", "large", "learned"]
    legs = [
        q.match(),
        q.knn("a"),
        q.boost_by(q.knn("a"), "n"),
        q.sparse("s"),
        q.term("x", 1),
        q.match(name="own"),
    ]
    assert leg_names(legs) == ["bm25", "a", "a_2", "s", "term", "own"]


def test_lexical_stands_in_for_bm25_and_never_beside_it() -> None:
    assert list(searchable_legs(PLAN.replace(text={}))) == ["small", "large", "learned", "words"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["dense"], ["small", "large"]),
        (["large"], ["large"]),
        (["sparse", "bm25"], ["bm25", "learned"]),
        (["dense", "small", "learned"], ["small", "large", "learned"]),
    ],
)
def test_legs_are_chosen_by_name_or_by_type(asked: list[str], found: list[str]) -> None:
    chosen = select_legs(q.rescore(default_query(PLAN), by=q.match("x")), asked)
    assert leg_names(query_legs(chosen)) == found


def test_learned_weights_change_no_name() -> None:
    learned = q.linear(*searchable_legs(PLAN).values(), weights=[0.4, 0.3, 0.2, 0.1])
    assert leg_names(query_legs(learned)) == leg_names(query_legs(default_query(PLAN)))
    assert select_legs(learned, ["dense"]).weights == (0.3, 0.2)


@pytest.mark.parametrize(
    ("legs", "shown"),
    [
        (["bm25"], "q.match(None, name='bm25')"),
        (["words"], "q.sparse('words', name='words')"),
        (
            ["bm25", "small"],
            "q.linear(q.match(None, name='bm25'), q.knn('small', name='small'), weights=[0.4, 0.3])",
        ),
        (
            ["words", "bm25"],
            "q.rrf(q.match(None, name='bm25'), q.sparse('words', name='words'))",
        ),
    ],
)
def test_legs_of_the_default_query_keep_its_weights_and_another_leg_makes_rrf(
    legs: list[str], shown: str
) -> None:
    learned = q.linear(*searchable_legs(PLAN).values(), weights=[0.4, 0.3, 0.2, 0.1])
    assert repr(default_legs(PLAN.replace(query=learned), legs)) == shown


def test_a_query_of_ones_own_is_searched_by_its_own_legs() -> None:
    words = q.multi_match(kind="cross_fields", name="words")
    own = q.rescore(q.rrf(words, q.knn("small")), by=q.match_all(), window_size=20)
    plan = PLAN.replace(query=own)
    assert default_legs(plan, ["bm25"]) == own.replace(query=words)
    assert legs_beside(plan, ["bm25", "small", "words"]) == []
    # What the query has none of is the plan's.
    assert legs_beside(plan, ["bm25", "sparse"]) == ["learned"]
    assert [getattr(leg, "name", None) for leg in query_legs(default_legs(plan, ["bm25", "sparse"]))] == [
        "learned",
        "words",
    ]
    both = q.bool_(should=[q.multi_match(kind="auto"), q.match_phrase("body")], filter=q.exists("body"))
    assert default_legs(PLAN.replace(query=both), ["bm25"]) == both
    mixed = q.bool_(should=[q.match(), q.knn("small")])
    assert legs_beside(PLAN.replace(query=mixed), ["bm25"]) == ["bm25"]
    with pytest.raises(QueryError, match="no leg 'nope'"):
        default_legs(plan, ["bm25", "nope"])


def test_a_plan_names_its_legs_where_one_is_not_there() -> None:
    with pytest.raises(QueryError, match=r"no leg 'brought'; there are bm25, small, large, learned, words"):
        default_legs(PLAN, ["brought"])
    assert default_legs(PLAN, None) == default_query(PLAN)


def test_a_leg_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(QueryError, match=r"legs: no leg 'densest'; there are bm25, small, large, learned"):
        select_legs(default_query(PLAN), ["densest"])
    with pytest.raises(QueryError, match="no leg 'dense'; there are bm25"):
        select_legs(q.match("x"), ["dense"])
    with pytest.raises(QueryError, match="takes a list"):
        select_legs(default_query(PLAN), "dense")  # type: ignore[arg-type]


def test_a_value_by_type_goes_to_each_of_its_legs_and_a_name_counts_first() -> None:
    legs = query_legs(default_query(PLAN))
    found = expand_by_leg({"dense": 0.3, "small": 1.0, "bm25": 5.0}, legs, "leg_timeouts_seconds")
    assert found == {"small": 1.0, "large": 0.3, "bm25": 5.0}
