# Generated from tests/_async/test_clause_budget.py by scripts/run_unasync.py; change that file and run the script.
"""One budget of clauses for a request: whatever its legs ask for together, the engine takes it."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q
from esembed._sync.search import Searcher
from esembed.dialect.scope import CLAUSE_HEADROOM, ClauseBudget
from esembed.errors import QueryError
from esembed.query import Query

from .search_world import DOCS, VECTOR, World, data, searcher, world  # noqa: F401 - fixtures

KNN = q.knn("embedding", vector=VECTOR, k=5)


def words(count: int) -> str:
    """A text of so many words, the first of which every other document has."""
    return " ".join(["red", *(f"word{number}" for number in range(count - 1))])


def tokens(count: int) -> dict[str, float]:
    """So many weights, the heaviest one of a word that documents have."""
    return {"red": 9.0, **{f"token{number}": 1.0 for number in range(count - 1)}}


SHAPES: dict[str, Any] = {
    "text": lambda n: q.match(words(n), fields="body"),
    "text in two fields": lambda n: q.match(words(n)),
    "required words": lambda n: q.multi_match(words(n // 2), kind="auto", minimum_should_match=1),
    "fuzzy": lambda n: q.match(words(n // 20), fields="body", fuzziness="AUTO"),
    "fuzzy in two fields": lambda n: q.multi_match(words(n), fuzziness=1),
    "prefix": lambda n: q.multi_match(words(n), kind="bool_prefix"),
    "sparse": lambda n: q.sparse("terms", vector=tokens(n)),
    "bool": lambda n: q.bool_(
        should=[q.match(words(n), fields="body"), q.sparse("terms", vector=tokens(n)), KNN]
    ),
    "deep": lambda n: q.bool_(
        must=q.boost_by(q.bool_(should=[q.match(words(n)), q.sparse("terms", vector=tokens(2 * n))]), "price")
    ),
    "hybrid": lambda n: q.rrf(q.match(words(n), fields="body"), q.sparse("terms", vector=tokens(2 * n)), KNN),
    "two texts": lambda n: q.linear(
        q.match(words(n), fields="body"), q.match(words(n), fields="title"), normalizer="l2"
    ),
    "completed": lambda n: q.linear(
        q.match(words(n), fields="body", scale=1), q.sparse("terms", vector=tokens(n)), normalizer="bound"
    ),
    "rescored": lambda n: q.rescore(
        q.match(words(n), fields="body"), by=q.sparse("terms", vector=tokens(n)), window_size=20
    ),
}
FILTERS = {
    "no": None,
    "fifty": [q.bool_(must_not=q.term("lang", f"t{number}")) for number in range(50)],
}


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_long_queries_are_answered(
    searcher: Searcher,  # noqa: F811
    shape: str,
    filters: str,
) -> None:
    limit = searcher.capabilities.max_clauses
    asked: Query
    for share in (0.3, 0.97, 3):
        asked = SHAPES[shape](int(limit * share))
        hits = searcher.search(asked, filter=FILTERS[filters], count=share < 1, size=20)
        assert hits.ids
        if share == 3 and "fuzzy" in shape:
            assert any("fuzzy" in note for note in hits.notes) or limit < 2000
        elif share == 3:
            assert any(str(limit) in note for note in hits.notes), hits.notes
        if share == 0.3 and "fuzzy" not in shape and shape != "deep":
            assert not [note for note in hits.notes if "totals" not in note]


def test_a_fusion_by_the_engine_shares_where_it_is_asked_for(
    searcher: Searcher,  # noqa: F811
) -> None:
    if not searcher.capabilities.rrf:
        pytest.skip("this engine fuses nothing itself")
    limit = searcher.capabilities.max_clauses
    query = SHAPES["hybrid"](int(limit * 0.6))
    auto = searcher.search(query)
    assert (auto.path, [note for note in auto.notes if "words" in note]) == ("client", [])
    forced = searcher.search(query, fusion="server")
    assert forced.path == "server"
    assert any("words" in note for note in forced.notes)
    assert any("query terms kept" in note for note in forced.notes)


def test_what_cannot_be_cut_is_refused(searcher: Searcher) -> None:  # noqa: F811
    limit = searcher.capabilities.max_clauses
    many = [q.term("lang", f"t{number}") for number in range(limit)]
    with pytest.raises(QueryError, match=f"takes {limit} in a request"):
        searcher.search(q.bool_(should=[q.bool_(should=many[::2]), q.bool_(should=many[1::2])]))
    with pytest.raises(QueryError, match=r"use q.terms"):
        searcher.search(q.rrf(q.match("red"), KNN), filter=q.bool_(should=many))


def test_what_an_analyzer_makes_of_words_is_refused_with_the_remedy(
    client: Any, esembed_index_name: str
) -> None:
    # Three terms of a word stand for its synonyms: an analyzer that every engine has.
    plan = IndexPlan.from_toml("""
    [text.title]
    search_analyzer = "parts"
    [text.body]
    search_analyzer = "parts"
    [analysis.analyzer.parts]
    type = "custom"
    tokenizer = "standard"
    filter = ["lowercase", "pairs"]
    [analysis.filter.pairs]
    type = "shingle"
    max_shingle_size = 4
    """)
    index = Index.create(client, esembed_index_name, plan)
    index.ingest([{"_id": "a", "title": "word1", "body": "red"}])
    limit = index.capabilities.max_clauses
    text = words(limit // 3)
    asked = q.multi_match(text, kind="cross_fields")
    with pytest.raises(QueryError, match=r"search analyzer makes several terms .*max_clause_count") as caught:
        index.search(asked)
    assert caught.value.field == "text"
    with pytest.raises(QueryError, match="shorten the text"):
        index.search_many([asked])
    assert (index.search(q.multi_match(words(10), kind="cross_fields"))).ids == ["a"]


def test_shares_are_even_and_small_askers_get_all() -> None:
    budget = ClauseBudget(1000 + CLAUSE_HEADROOM)
    budget.fixed = 100
    for wanted in (50, 2000, 700, 10):
        assert budget.grant(wanted) == wanted
    assert budget.exceeded
    shared = budget.shares()
    assert [shared.grant(wanted) for wanted in (50, 2000, 700, 10)] == [50, 420, 420, 10]
