"""Nothing relevant is an answer: hits that are no better than chance are cut, on both engines."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from esembed import AsyncIndex, DenseField, IndexPlan, IngestOptions, SparseField, TextField
from esembed import query as q
from esembed.errors import OptionsError, QueryError, UnsupportedFeatureError

from .search_world import data

COUNT = 150
QUIET = IngestOptions(learn_weights=False)
TOPICS = [data.WORDS[start : start + 3] for start in range(0, 15, 3)]
"""Five topics of three words each: a document is of one, so random others have nothing to do with it."""


def text(number: int) -> str:
    """Sixteen words of one topic, the first three apart as a title."""
    words = TOPICS[number % 5]
    return " ".join([f"code{number}x", *(words[(number // 5 + step) % 3] for step in range(16))])


@pytest_asyncio.fixture
async def index(client: Any) -> AsyncIterator[AsyncIndex]:
    """An index that has counted how random documents score."""
    plan = IndexPlan(
        text={"body": TextField(analyzer="standard")},
        dense={"vector": DenseField(encoder="custom:tiny", source=("body",), quantization="hnsw")},
        sparse={"given": SparseField(encoder="precomputed", optional=True)},
    )
    name = f"esembed-floor-{uuid.uuid4().hex[:8]}"
    made = await AsyncIndex.create(client, name, plan, encoder={"vector": data.TinyDense()})
    await made.ingest([{"id": f"d{n:03}", "body": text(n)} for n in range(COUNT)], options=QUIET)
    await made.refresh()
    try:
        yield made
    finally:
        await made.delete_index()


async def test_hits_that_are_no_better_than_chance_are_cut(index: AsyncIndex) -> None:
    query = q.floor(q.rrf(q.match(), q.knn("vector")), p=0.02)
    with pytest.raises(QueryError, match=r"index\.learn_floor\(\)"):
        await index.search(query, text="red green blue")
    counted = await index.learn_floor(documents=80)
    assert set(counted.legs) == {"bm25", "vector"}
    assert set(counted.together) == {"bm25+vector"}
    found = await index.search(query, text=text(7), size=50)
    assert "d007" in [hit.id for hit in found]
    assert len(found) < 50
    assert len(await index.search(query.query, text=text(7), size=50)) == 50
    nothing = await index.search(query, text="wholly unrelated question")
    assert list(nothing) == []
    assert "is better than chance" in nothing.notes[-1]
    assert nothing.next_cursor is None
    # Stored in the index: whoever opens it can use it.
    again = await AsyncIndex.open(
        index.state.client.official, index.name, encoder={"vector": data.TinyDense()}
    )
    assert [hit.id for hit in await again.search(query, text=text(7), size=50)] == [hit.id for hit in found]


async def test_one_leg_and_other_fusions(index: AsyncIndex) -> None:
    await index.learn_floor(documents=80)
    # A fifth of the random documents is of the text's topic, and the words find no others.
    for inner, p in ((q.match(), 0.25), (q.knn("vector"), 0.1), (q.linear(q.match(), q.knn("vector")), 0.1)):
        query = q.floor(inner, p=p)
        whole = [hit.id for hit in await index.search(inner, text=text(12), size=60)]
        kept = [hit.id for hit in await index.search(query, text=text(12), size=60)]
        assert "d012" in kept
        assert len(kept) <= 35
        assert kept == [name for name in whole if name in kept]
        first = await index.search(query, text=text(12), size=3)
        second = await index.search(query, text=text(12), size=3, cursor=first.next_cursor)
        assert [hit.id for hit in [*first, *second]] == kept[:6]
    none = await index.search(q.floor(q.match(), p=0.05), text=text(12), count=True)
    assert none.total is None
    with pytest.raises(QueryError, match="can't judge the scores of leg 'bool'"):
        await index.search(q.floor(q.bool_(must=[q.match("red")])))


async def test_smaller_shares_keep_fewer_hits(index: AsyncIndex) -> None:
    await index.learn_floor(documents=80)
    inner = q.rrf(q.match(), q.knn("vector"))
    kept = [
        {hit.id for hit in await index.search(q.floor(inner, p=p), text=text(3), size=100)}
        for p in (0.3, 0.05, 0.01, 0.001)
    ]
    assert kept == sorted(kept, key=len, reverse=True)
    assert all(fewer <= more for more, fewer in itertools.pairwise(kept))


async def test_too_little_to_count_from(client: Any) -> None:
    name = f"esembed-floor-{uuid.uuid4().hex[:8]}"
    plan = IndexPlan(text={"body": TextField(analyzer="standard")})
    made = await AsyncIndex.create(client, name, plan)
    try:
        await made.ingest([{"id": "a", "body": "short"}])
        await made.refresh()
        with pytest.raises(QueryError, match="too few documents, or too short ones"):
            await made.learn_floor()
    finally:
        await made.delete_index()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"texts": 0}, "texts"),
        ({"texts": "many"}, "texts"),
        ({"documents": 49}, "documents"),
        ({"documents": 1e3}, "documents"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
    ],
)
async def test_numbers_of_counting_are_checked(index: AsyncIndex, options: Any, named: str) -> None:
    with pytest.raises(OptionsError, match=f"{named}: must be a whole number"):
        await index.learn_floor(**options)


async def test_an_engine_is_not_said_to_cut(index: AsyncIndex) -> None:
    await index.learn_floor(documents=80)
    for query in (q.floor(q.knn("vector")), q.floor(q.rrf(q.match(), q.knn("vector")))):
        with pytest.raises(UnsupportedFeatureError, match="floor"):
            await index.search(query, text=text(3), fusion="server")


async def test_misspelled_words_are_judged_as_words(index: AsyncIndex) -> None:
    await index.learn_floor(documents=80)
    query, words = (
        q.floor(q.rrf(q.match(), q.knn("vector")), p=0.4),
        " ".join(["code7x", *TOPICS[2], "qqzzq"]),
    )
    found = await index.search(query, text=words, fuzziness="missing", size=50)
    assert "no document has 'qqzzq'" in found.notes[0]
    # No word is like it, so the same documents are better than chance as without the question.
    assert 0 < len(found) < 50
    assert found.ids == (await index.search(query, text=words, size=50)).ids
    nothing = await index.search(q.floor(q.match()), text="qqzzq wwxxw", fuzziness="missing")
    assert list(nothing) == []


async def test_pages_end_where_scores_are_counted_anew(index: AsyncIndex) -> None:
    await index.learn_floor(documents=80)
    query = q.floor(q.rrf(q.match(), q.knn("vector")), p=0.3)
    first = await index.search(query, text=text(7), size=3, keep_alive_seconds=30)
    assert first.next_cursor is not None
    second = await index.search(query, text=text(7), size=3, keep_alive_seconds=30, cursor=first.next_cursor)
    assert not {hit.id for hit in first} & {hit.id for hit in second}
    await index.learn_floor(documents=60, seed=5)
    with pytest.raises(QueryError, match="learn_floor has run since"):
        await index.search(query, text=text(7), size=3, keep_alive_seconds=30, cursor=second.next_cursor)


async def test_candidates_of_an_empty_index(client: Any) -> None:
    name = f"esembed-floor-{uuid.uuid4().hex[:8]}"
    plan = IndexPlan(dense={"vector": DenseField(encoder="precomputed", dims=4, quantization="hnsw")})
    made = await AsyncIndex.create(client, name, plan)
    try:
        with pytest.raises(
            OptionsError, match="no query has a neighbor by vector: the index has no document"
        ):
            await made.choose_candidates([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], field="vector")
    finally:
        await made.delete_index()
