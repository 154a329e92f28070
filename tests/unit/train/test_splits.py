"""Splits by document, and what is remembered rather than learned."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from esembed.evaluate.collection import Dataset, DatasetError, make_dataset
from esembed.train.splits import (
    components,
    folds_by_document,
    near_equal,
    seen_queries,
    split_by_document,
)


def collection(seed: int, queries: int = 200, documents: int = 400) -> Dataset:
    random = Random(seed)
    qrels = {
        f"q{number}": {f"d{random.randrange(documents)}": random.choice((0, 1, 2)) for _ in range(3)}
        for number in range(queries)
    }
    for number, grades in enumerate(qrels.values()):
        grades[f"d{number}"] = 1
    texts = {query: f"question about {query}" for query in qrels}
    return make_dataset("made", texts, qrels)


def relevant(dataset: Dataset) -> set[str]:
    return {doc for grades in dataset.qrels.values() for doc, grade in grades.items() if grade > 0}


@pytest.mark.parametrize("seed", range(5))
def test_no_relevant_document_is_on_both_sides(seed: int) -> None:
    dataset = collection(seed, queries=60)
    split = split_by_document(dataset, test_share=0.3, seed=seed)
    assert not relevant(split.train) & relevant(split.test)
    assert set(split.train.queries) | set(split.test.queries) == set(dataset.queries)
    assert not seen_queries(split.train.qrels, split.test.qrels)
    share = len(split.test.queries) / len(dataset.queries)
    assert share <= 0.3 + 1 / 60
    assert share >= 0.3 - split.largest
    assert split_by_document(dataset, test_share=0.3, seed=seed) == split


def test_components_are_those_of_a_plain_search() -> None:
    for seed in range(4):
        qrels = collection(seed, queries=80, documents=200).qrels
        near = {
            one: {
                other
                for other in qrels
                if {d for d, g in qrels[one].items() if g > 0} & {d for d, g in qrels[other].items() if g > 0}
            }
            for one in qrels
        }
        expected = []
        left = set(qrels)
        while left:
            group, waiting = set(), [next(iter(left))]
            while waiting:
                one = waiting.pop()
                if one not in group:
                    group.add(one)
                    waiting += near[one]
            expected.append(group)
            left -= group
        found = components(qrels)
        assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
        assert [len(group) for group in found] == sorted(map(len, found), reverse=True)


def test_each_query_is_tested_once() -> None:
    dataset = collection(1, queries=60)
    splits = folds_by_document(dataset, folds=4, seed=3)
    tested = list(itertools.chain.from_iterable(split.test.queries for split in splits))
    assert sorted(tested) == sorted(dataset.queries)
    for split in splits:
        assert not relevant(split.train) & relevant(split.test)


def test_what_hangs_together_is_not_split() -> None:
    qrels = {f"q{number}": {"d": 1, f"d{number}": 1} for number in range(9)}
    dataset = make_dataset("one", {query: query for query in qrels}, qrels)
    with pytest.raises(DatasetError, match="100% of its 9 queries hang together"):
        split_by_document(dataset)
    with pytest.raises(DatasetError, match="there are 1"):
        folds_by_document(dataset, folds=2)
    for share in (0, 1, -1, 2, float("nan")):
        with pytest.raises(DatasetError, match="test_share"):
            split_by_document(dataset, test_share=share)


def test_seen_queries() -> None:
    train = {"a": {"1": 1, "2": 0}}
    test = {"b": {"1": 2}, "c": {"2": 1}, "d": {"1": 0, "3": 1}}
    assert seen_queries(train, test) == {"b"}


def test_nearly_equal_texts_against_all_pairs() -> None:
    random = Random(2)
    words = [f"w{number}" for number in range(12)]

    def texts(prefix: str) -> dict[str, str]:
        return {f"{prefix}{n}": " ".join(random.choices(words, k=random.randint(0, 7))) for n in range(150)}

    one, other = texts("a"), texts("b")

    def near(a: str, b: str) -> bool:
        x, y = set(a.split()), set(b.split())
        return bool(x) and len(x & y) >= 0.8 * len(x | y)

    expected = [(a, b) for a in one for b in sorted(other) if near(one[a], other[b])]
    assert near_equal(one, other) == expected
    assert near_equal({"a": "How to parse JSON?"}, {"b": "how to: parse json"}) == [("a", "b")]
