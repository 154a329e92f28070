"""Which words of a text are in no document, and what becomes of the query then."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import IndexPlan, TextField
from esembed import query as q
from esembed.capabilities import profile
from esembed.errors import QueryError
from esembed.plan.default_query import default_query
from esembed.search.compile import SearchCompiler, compile_query
from esembed.search.options import SearchOptions
from esembed.search.request import make_request, resolve
from esembed.search.words import MAX_WORDS, Word, probe, settled, text_of, texts_of, uses_words, words_of

PLAN = IndexPlan(text={"name": TextField(), "body": TextField(search_analyzer="simple")})
PLAN_QUERY = default_query(PLAN)
SCOPE = SearchCompiler(profile("opensearch"), plan=PLAN).scope


def term(start: int, end: int, df: int | None = None) -> dict[str, Any]:
    frequency = {} if df is None else {"doc_freq": df}
    return {**frequency, "tokens": [{"start_offset": start, "end_offset": end}]}


def test_a_word_is_a_stretch_of_the_text() -> None:
    text = "wi-fi the pyhton \U0001f600 tv Pyhton 2027"
    twice = {
        "tokens": [{"start_offset": 10, "end_offset": 16}, {"start_offset": 23, "end_offset": 29}],
    }
    answer = {
        "term_vectors": {
            "name": {
                "terms": {
                    # The parts of a compound, one of which is known; offsets count UTF-16 units.
                    "wifi": term(0, 5),
                    "wi": term(0, 2),
                    "fi": term(3, 5, 4),
                    "pyhton": twice,
                    "tv": term(20, 22),
                    "2027": term(30, 34),
                }
            },
            "body": {"terms": {"pyhton": twice, "television": term(20, 22, 2)}},
            "empty": {},
        }
    }
    assert words_of(text, answer) == [
        Word("wi-fi", missing=False),
        Word("pyhton", missing=True),
        Word("tv", missing=False, rare=True),
        Word("2027", missing=False),
    ]
    assert words_of(text, {}) == []


def test_only_what_is_missing_is_searched_with_errors() -> None:
    node = q.multi_match("pyhton http library", kind="auto", fuzziness="missing", filter=q.exists("name"))
    text = text_of(node, SCOPE)
    assert text is not None
    assert text.body["per_field_analyzer"] == {"body": "simple"}
    words = {text: [Word("pyhton", True), Word("http", False), Word("library", False)]}
    assert settled(node, SCOPE, words, 2) == q.bool_(
        # What is left is no name, so not "auto"; these fields have different analyzers.
        should=[
            q.multi_match("http library", kind="cross_fields"),
            q.multi_match("pyhton", kind="auto", fuzziness="AUTO"),
        ],
        minimum_should_match=1,
        filter=[q.exists("name")],
    )
    known = {text: [Word("pyhton", False)]}
    assert settled(node, SCOPE, known, 2) == node.replace(fuzziness=None)
    every = settled(node.replace(operator="and", boost=2.0), SCOPE, words, 2)
    assert every == q.bool_(
        must=[
            q.multi_match("pyhton", kind="auto", fuzziness="AUTO"),
            q.multi_match("http", kind="cross_fields"),
            q.multi_match("library", kind="cross_fields"),
        ],
        filter=[q.exists("name")],
        boost=2.0,
    )
    most = settled(node.replace(minimum_should_match="60%"), SCOPE, words, 2)
    assert isinstance(most, type(every))
    assert (len(most.should), most.minimum_should_match) == (3, "60%")
    damped = q.match("pyhton http library", fuzziness="missing", damp_words=1)
    text = text_of(damped, SCOPE)
    assert text is not None
    found = settled(damped, SCOPE, {text: [Word("pyhton", True)]}, 2)
    assert (found.boost, found.should) == (pytest.approx(1 / 3), (q.match("pyhton", fuzziness="AUTO"),))


def test_as_many_words_as_some_document_has() -> None:
    node = q.match("red fox den", operator="relax")
    steps = [settled(node, SCOPE, {}, step) for step in range(3)]
    assert steps == [
        q.match("red fox den", operator="and"),
        q.match("red fox den", minimum_should_match="75%"),
        q.match("red fox den"),
    ]
    assert settled(node.replace(minimum_should_match=2), SCOPE, {}, 1).minimum_should_match == 2
    # A leg is asked with its filters; beside a kNN, which always finds something, its texts alone are.
    leg = q.bool_(must=[node], filter=[q.exists("name")])
    assert probe(leg) == leg
    assert probe(q.bool_(should=[node, q.knn("e", vector=[1.0])])) == node
    assert probe(q.match("red")) is None


def test_what_is_looked_up() -> None:
    def request(query: Any) -> Any:
        return make_request(query, SearchOptions(), max_window=10_000)

    plain = request(q.rrf(q.match("a"), q.match("b", fuzziness="AUTO")))
    assert not uses_words(plain)
    twice = request(q.rrf(q.match("a", fuzziness="missing"), q.match("a", fuzziness="missing", boost=2)))
    assert uses_words(twice)
    assert [text.text for text in texts_of(twice, SCOPE)] == ["a"]
    page = request(q.match("a " * (MAX_WORDS + 1), fuzziness="missing"))
    assert not texts_of(page, SCOPE)


def test_the_options_of_the_default_query() -> None:
    found = resolve("red fox", PLAN, fuzziness="missing", operator="relax")
    assert found == q.multi_match("red fox", kind="auto", name="bm25", fuzziness="missing", operator="relax")
    with pytest.raises(QueryError, match=r"write it in the query: q\.match\(operator='and'\)"):
        resolve(q.match("red fox"), PLAN, operator="and")
    with pytest.raises(QueryError, match="operator"):
        resolve("red fox", PLAN, operator="xor")  # type: ignore[arg-type]
    given = PLAN.replace(query=q.term("name.keyword", "x"), text={"name": TextField(keyword=True)})
    with pytest.raises(QueryError, match="no full text"):
        resolve("red fox", given, fuzziness="missing")
    # Of a query around it, where the words are put in: what has words of its own keeps them as they are.
    own = q.match("den", fields="body")
    stage = q.rescore(q.linear(PLAN_QUERY, own, normalizer="floor"), by=q.match_all(), query_weight=1)
    found = resolve(stage, PLAN, text="red fox", fuzziness="missing", operator="relax")
    asked = q.multi_match("red fox", kind="auto", name="bm25", fuzziness="missing", operator="relax")
    assert found == stage.replace(query=q.linear(asked, own, normalizer="floor"))
    with pytest.raises(QueryError, match="no full text"):
        resolve(own, PLAN, text="red fox", fuzziness="missing")


def test_compiled_without_an_index_nothing_is_known() -> None:
    compiled = compile_query(
        q.match("red fox", fields="name", operator="relax", fuzziness="missing", minimum_should_match=1),
        profile("opensearch"),
        plan=PLAN,
    )
    assert compiled.body is not None
    assert compiled.body["query"] == {"match": {"name": {"query": "red fox", "operator": "and"}}}


@pytest.mark.parametrize("kind", ["phrase", "phrase_prefix", "bool_prefix"])
def test_kinds_that_are_no_sets_of_words(kind: Any) -> None:
    with pytest.raises(QueryError, match="missing"):
        q.multi_match("red fo", kind=kind, fuzziness="missing")
