"""Judged queries split by document: what was learned from one part says nothing about the other's documents.

Split at random, a query's relevant documents stand on both sides, and what only remembers them looks like
what was learned.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from esembed.evaluate.collection import Dataset, DatasetError, Qrels

__all__ = ["Split", "components", "folds_by_document", "near_equal", "seen_queries", "split_by_document"]

NEAR = 0.8
"""Queries are nearly equal when they share this part of their words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Two parts of a collection that share no relevant document.

    Attributes:
        train, test: the parts, with the collection's documents.
        near: pairs (train query, test query) of ids whose texts are nearly equal although their documents
            differ: what is learned from the one may be remembered for the other.
        largest: the share of all queries that hang together by their documents in one component.
    """

    train: Dataset
    test: Dataset
    near: tuple[tuple[str, str], ...]
    largest: float


def components(qrels: Qrels) -> list[list[str]]:
    """Query ids that hang together by relevant documents: groups in the order of *qrels*, the largest first.

    Two queries are in one group if a chain of queries leads from one to the other, each sharing a relevant
    document (grade > 0) with the next.
    """
    parent: dict[str, str] = {query: query for query in qrels}

    def root(query: str) -> str:
        while parent[query] != query:
            parent[query] = parent[parent[query]]
            query = parent[query]
        return query

    first: dict[str, str] = {}
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if grade > 0:
                parent[root(query)] = root(first.setdefault(document, query))
    groups: dict[str, list[str]] = defaultdict(list)
    for query in qrels:
        groups[root(query)].append(query)
    return sorted(groups.values(), key=len, reverse=True)


def split_by_document(dataset: Dataset, *, test_share: float = 0.3, seed: int = 0) -> Split:
    """A train and a test part that share no relevant document.

    Args:
        dataset: the judged queries.
        test_share: of the queries, above 0 and below 1; met as nearly as whole components allow.
        seed: which components go where.

    Raises:
        DatasetError: the queries hang together, so that a part would be empty; *test_share* out of range.
    """
    if not 0 < test_share < 1:
        raise DatasetError(f"test_share is above 0 and below 1, not {test_share}", source=dataset.name)
    groups = components(dataset.qrels)
    wanted = round(test_share * len(dataset.queries))
    return _split(dataset, groups, set(_filled(groups, wanted, seed)))


def folds_by_document(dataset: Dataset, *, folds: int = 5, seed: int = 0) -> list[Split]:
    """Splits in which each query is tested once, by what was learned from the others' documents.

    Args:
        dataset: the judged queries.
        folds: how many, 2 or more.
        seed: which components go where.

    Raises:
        DatasetError: there are fewer components than folds.
    """
    groups = components(dataset.qrels)
    if folds < 2 or len(groups) < folds:
        raise DatasetError(
            f"{dataset.name}: {folds} folds need as many groups of queries that share no document, and there "
            f"are {len(groups)}",
            source=dataset.name,
        )
    random = Random(seed)
    random.shuffle(groups)
    groups.sort(key=len, reverse=True)
    parts: list[list[str]] = [[] for _ in range(folds)]
    for group in groups:
        min(parts, key=len).extend(group)
    return [_split(dataset, groups, set(part)) for part in parts]


def seen_queries(train: Qrels, test: Qrels) -> frozenset[str]:
    """The test queries of which a relevant document is relevant to a train query, too: what a method gains on
    them may be memory. That is of use where queries repeat, and says nothing about other documents."""
    known = {document for grades in train.values() for document, grade in grades.items() if grade > 0}
    return frozenset(
        query
        for query, grades in test.items()
        if any(grade > 0 and document in known for document, grade in grades.items())
    )


def near_equal(
    one: Mapping[str, str], other: Mapping[str, str], *, share: float = NEAR
) -> list[tuple[str, str]]:
    """Pairs (id in *one*, id in *other*) of texts that share at least *share* of their words (Jaccard), case
    and punctuation aside."""
    words = {query: _words(text) for query, text in other.items()}
    holding: dict[str, list[str]] = defaultdict(list)
    for query, own in words.items():
        for word in own:
            holding[word].append(query)
    pairs = []
    for query, text in one.items():
        mine = _words(text)
        if not mine:
            continue
        # So many of its words may be missing in the other, and of one more one is in it: the rarest.
        missing = len(mine) - math.ceil(share * len(mine) - 1e-9)
        rarest = sorted(mine, key=lambda word: (len(holding[word]), word))[: missing + 1]
        near = {found for word in rarest for found in holding[word]}
        for found in sorted(near):
            theirs = words[found]
            if len(mine & theirs) >= share * len(mine | theirs):
                pairs.append((query, found))
    return pairs


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _filled(groups: Sequence[list[str]], wanted: int, seed: int) -> Iterable[str]:
    """Queries of whole groups, about as many as wanted."""
    order = list(groups)
    Random(seed).shuffle(order)
    left = max(1, wanted)
    for group in order:
        if len(group) <= left:
            left -= len(group)
            yield from group


def _split(dataset: Dataset, groups: Sequence[list[str]], tested: set[str]) -> Split:
    test = dataset.subset(query for query in dataset.queries if query in tested)
    train = dataset.subset(query for query in dataset.queries if query not in tested)
    largest = max((len(group) for group in groups), default=0) / max(1, len(dataset.queries))
    if not test.queries or not train.queries:
        raise DatasetError(
            f"{dataset.name} can't be split by document: {largest:.0%} of its {len(dataset.queries)} queries "
            "hang together by the documents that are relevant to them",
            source=dataset.name,
        )
    return Split(train=train, test=test, near=tuple(near_equal(train.queries, test.queries)), largest=largest)
