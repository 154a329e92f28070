"""Misspelled words, synonyms, and queries whose words no document has all of."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from esembed import AsyncIndex, IndexPlan
from esembed import query as q
from esembed.errors import QueryError
from esembed.search.page import Cursor

PLAN = IndexPlan.from_toml("""
[text.name]
boost = 2.0
[text.summary]
[filter.lang]
""")
PACKAGES = [
    {"_id": "requests", "name": "requests", "summary": "elegant http library", "lang": "python"},
    {"_id": "httpx", "name": "httpx", "summary": "http client library for python", "lang": "python"},
    {"_id": "libwww", "name": "libwww", "summary": "http library for perl", "lang": "perl"},
    {"_id": "pylint", "name": "pylint", "summary": "checks code written in python", "lang": "python"},
]


@pytest.fixture
async def packages(client: Any, esembed_index_name: str) -> AsyncIndex:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    await index.ingest(PACKAGES)
    return index


async def test_typing_errors_in_words_that_no_document_has(packages: AsyncIndex) -> None:
    assert (await packages.search("pyhton", fuzziness="missing")).ids == ["httpx", "pylint"]
    assert not await packages.search("pyhton")
    hits = await packages.search("pyhton http library", fuzziness="missing")
    assert hits.ids[0] == "httpx"
    assert hits.notes == ("no document has 'pyhton': words like it are searched, too",)
    # What is spelled right finds what it did: "perl" is no "pearl" in a word that documents have.
    for query in ("perl library", "python http"):
        assert (await packages.search(query, fuzziness="missing")).ids == (await packages.search(query)).ids
    every = await packages.search("pyhton libary", fuzziness="missing", operator="and")
    assert every.ids == ["httpx"]
    # No word is like it: nothing is found, and nothing fails.
    assert not await packages.search("zzzzzzzz", fuzziness="missing")
    assert not await packages.search("   ", fuzziness="missing", operator="relax")


async def test_as_many_words_as_some_document_has(packages: AsyncIndex) -> None:
    for query, found, notes in (
        ("http library perl", {"libwww"}, ()),
        ("http library perl elegant", {"libwww", "requests"}, ("those with most of its words",)),
        ("perl elegant code x", {"libwww", "requests", "pylint"}, ("those with any of its words",)),
    ):
        hits = await packages.search(query, operator="relax")
        assert set(hits.ids) == found
        assert [note in hits.notes[0] for note in notes] == [True] * len(hits.notes)
    # Under a filter what passes it is asked for, with typing errors too.
    hits = await packages.search("http library perl", operator="relax", filter=q.term("lang", "python"))
    assert set(hits.ids) == {"httpx", "requests"}
    hits = await packages.search("htpt libary perl", operator="relax", fuzziness="missing")
    assert hits.ids == ["libwww"]
    assert not await packages.search("zzzzzzzz yyyyyyyy", operator="relax")


async def test_a_word_of_another_shard_is_not_missing(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("[text.name]\n[text.summary]\n[index]\nshards = 3")
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    words = [f"word{letter}{letter}x" for letter in "abcdefgh"]
    await index.ingest([{"_id": word, "name": word, "summary": "x"} for word in words])
    for word in words:
        hits = await index.search(word, fuzziness="missing")
        assert (hits.ids, hits.notes) == ([word], ())
    assert "wordzzx" in (await index.search("wordzzx", fuzziness="missing")).notes[0]
    # Numbers are no misspelled other numbers.
    await index.ingest([{"_id": "year", "name": "2026", "summary": "x"}])
    assert not await index.search("2027", fuzziness="missing")


async def test_a_filter_of_documents_is_exact(packages: AsyncIndex) -> None:
    for query in (q.match("pyhton", fuzziness="missing"), q.match("a b", operator="relax")):
        with pytest.raises(QueryError, match="says exactly which"):
            await packages.delete_by_query(query, dry_run=True)


async def test_in_a_query_of_ones_own(packages: AsyncIndex) -> None:
    fused = q.rrf(
        q.multi_match(kind="auto", fuzziness="missing", operator="relax", name="words"),
        q.match(fields="summary", operator="relax", name="summary"),
    )
    hits = await packages.search(fused, text="pyhton http elegant", explain=True, highlight=True)
    assert set(hits.ids) >= {"httpx", "requests"}
    assert any(note.startswith("words: no document has all of its words") for note in hits.notes)
    many = await packages.search_many(["pyhton", "perl"], fuzziness="missing")
    assert [set(found.ids) for found in many] == [{"httpx", "pylint"}, {"libwww"}]
    read = q.from_dict({"type": "match", "text": "pyhton", "fuzziness": "missing", "operator": "relax"})
    first = await packages.search(read, size=1, count=True)
    assert first.total == 2
    second = await packages.search(read, size=1, cursor=first.next_cursor)
    assert {*first.ids, *second.ids} == {"httpx", "pylint"}
    with pytest.raises(QueryError, match="by= of a rescore"):
        await packages.search(q.rescore(q.match("perl"), by=q.match("http", operator="relax")))


@pytest.mark.parametrize("prefix", ["phrase_prefix", "bool_prefix"])
@pytest.mark.parametrize("fuzziness", ["missing", "AUTO"])
async def test_beside_a_prefix_in_a_query_of_ones_own(
    client: Any, esembed_index_name: str, prefix: Any, fuzziness: str
) -> None:
    words = q.bool_(should=[q.multi_match(kind="auto"), q.multi_match(kind=prefix, fields="name", boost=3)])
    index = await AsyncIndex.create(client, esembed_index_name, PLAN.replace(query=words))
    await index.ingest(PACKAGES)
    hits = await index.search("requ", fuzziness=fuzziness, operator="relax")
    assert hits.ids[0] == "requests"
    assert "httpx" in (await index.search("pyhton", fuzziness=fuzziness)).ids
    alone = q.multi_match(kind="phrase_prefix", fields="name")
    with pytest.raises(QueryError, match=f"no full text .* fuzziness='{fuzziness}'") as caught:
        await index.search(alone, text="requ", fuzziness=fuzziness)
    assert caught.value.field == "fuzziness"


async def test_synonyms_of_the_plans_analysis(
    client: Any, esembed_engine: Any, esembed_index_name: str
) -> None:
    if esembed_engine.engine == "elasticsearch":
        pytest.skip("the local Elasticsearch has no module analysis-common")
    plan = IndexPlan.from_toml("""
    [text.name]
    search_analyzer = "with_synonyms"
    [text.summary]
    search_analyzer = "with_synonyms"
    [analysis.analyzer.with_synonyms]
    type = "custom"
    tokenizer = "standard"
    filter = ["lowercase", "synonyms"]
    [analysis.filter.synonyms]
    type = "synonym_graph"
    synonyms = ["py, python", "web server, httpd"]
    """)
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    await index.ingest([*PACKAGES, {"_id": "apache", "name": "apache", "summary": "httpd of the ASF"}])
    assert set((await index.search("py")).ids) == {"httpx", "pylint"}
    assert (await index.search("web server")).ids == ["apache"]
    # A synonym is a word that documents have.
    assert (await index.search("py", fuzziness="missing")).notes == ()
    assert (await index.search("web server", fuzziness="missing", operator="relax")).ids == ["apache"]


@pytest.mark.parametrize("kind", ["auto", "combined_fields"])
async def test_one_of_a_words_synonyms_is_enough_where_all_words_must_be_there(
    client: Any, esembed_engine: Any, esembed_index_name: str, kind: Any
) -> None:
    if esembed_engine.engine == "elasticsearch":
        pytest.skip("the local Elasticsearch has no module analysis-common")
    plan = IndexPlan.from_toml("""
    [text.name]
    boost = 2.0
    search_analyzer = "with_synonyms"
    [text.summary]
    search_analyzer = "with_synonyms"
    [analysis.analyzer.with_synonyms]
    type = "custom"
    tokenizer = "standard"
    filter = ["lowercase", "synonyms"]
    [analysis.filter.synonyms]
    type = "synonym_graph"
    synonyms = ["tv, television, telly", "usa, united states"]
    """)
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    await index.ingest(
        [
            {"_id": "one", "name": "television", "summary": "with a stand"},
            {"_id": "two", "name": "tv stand", "summary": "made of pine"},
            {"_id": "three", "name": "stand", "summary": "for flowers"},
            {"_id": "usa", "name": "usa", "summary": "a map"},
            {"_id": "states", "name": "map", "summary": "of the united states"},
            {"_id": "many", "name": "map", "summary": "of many states, united or not"},
        ]
    )

    async def found(text: str, **options: Any) -> set[str]:
        return set((await index.search(q.multi_match(text, kind=kind, **options))).ids)

    assert await found("tv stand", operator="and") == {"one", "two"}
    assert await found("telly", operator="and") == {"one", "two"}
    assert await found("usa map", operator="and") == {"usa", "states"}
    assert await found("united states map", minimum_should_match="100%") == {"usa", "states"}
    assert await found("telly", minimum_should_match="75%") == {"one", "two"}
    assert await found("telly stand pine", operator="relax") == {"two"}
    assert await found("telly flowers", minimum_should_match=1) == {"one", "two", "three"}
    # The words rank as they do where none must be there.
    ranked = await index.search(q.multi_match("tv stand", kind=kind, operator="and"))
    free = await index.search(q.multi_match("tv stand", kind=kind))
    scores = {hit.id: hit.score for hit in free}
    assert [(hit.id, hit.score) for hit in ranked] == [(one, scores[one]) for one in ranked.ids]
    assert (await index.search("telly flowers", operator="relax")).notes[0].startswith("no document has all")


async def test_what_is_left_of_a_text_is_no_name(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("[text.name]\nkeyword = true\n[text.summary]\n")
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    rows = [
        {"_id": "flask", "name": "flask", "summary": "a framework"},
        {"_id": "login", "name": "flask login", "summary": "a session for each user of flask"},
    ]
    await index.ingest(rows)
    right = await index.search("flask session")
    assert right.ids[0] == "login"
    assert (await index.search("flask sesion", fuzziness="missing")).ids == right.ids
    # Alone it is the name, with blanks around it, too.
    for text in ("flask", " flask\n"):
        assert (await index.search(text, fuzziness="missing")).ids[0] == "flask"


async def test_a_page_that_was_pasted_is_searched_as_it_is(packages: AsyncIndex) -> None:
    for text in (",".join(f"wrod{n}x" for n in range(200)), "".join(chr(0x4E00 + n) for n in range(200))):
        hits = await packages.search(f"perl {text}", fuzziness="missing", operator="relax")
        assert hits.ids[0] == "libwww"
        assert not any("words like" in note for note in hits.notes)


@pytest.mark.parametrize("options", [{"fuzziness": "missing"}, {"fuzziness": "AUTO"}, {}])
@pytest.mark.parametrize("around", ["alone", "fused"])
async def test_an_analyzer_that_nobody_has(packages: AsyncIndex, options: Any, around: str) -> None:
    asked = q.match("pyhton", fields="summary", analyzer="nope", **options)
    query = asked if around == "alone" else q.rrf(asked, q.match("http"))
    with pytest.raises(QueryError, match="analyzer 'nope': neither the index nor the engine") as caught:
        await packages.search(query)
    assert caught.value.field == "analyzer"
    with pytest.raises(QueryError, match="'nope'"):
        await packages.search_many([query])
    simple = q.match("pyhton", fields="summary", analyzer="simple", **options)
    await packages.search(simple)


async def test_a_boost_drowns_nothing_after_a_misspelling(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("[text.name]\nboost = 20.0\n[text.summary]\n")
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    named = {"_id": "pythen", "name": "pythen", "summary": "a snake of the tropics"}
    await index.ingest([*({k: v for k, v in row.items() if k != "lang"} for row in PACKAGES), named])
    query = "pyhton http client library"
    assert (await index.search(query.replace("pyhton", "python"))).ids[0] == "httpx"
    for fuzziness in ("missing", "AUTO"):
        hits = await index.search(query, fuzziness=fuzziness)
        assert hits.ids[0] == "httpx"
        # The name still counts for more than the summary.
        found = {hit.id: hit.score for hit in await index.search("pyhton", fuzziness=fuzziness)}
        assert found["pythen"] > found["pylint"]


async def test_a_cursor_stays_with_its_words(packages: AsyncIndex) -> None:
    both = {"fuzziness": "missing", "operator": "relax"}
    for query, added in (
        ("perl elegant", {"_id": "new", "name": "perl", "summary": "elegant"}),
        ("pyhton", {"_id": "typo", "name": "pyhton", "summary": "x"}),
    ):
        first = await packages.search(query, size=1, **both)
        await packages.ingest([{**added, "lang": "x"}])
        second = await packages.search(query, size=1, cursor=first.next_cursor, **both)
        # Asked anew it would have ended: the new document alone has all words.
        assert len(second) == 1
        assert second.ids[0] in {"libwww", "requests", "httpx", "pylint"}
        assert second.notes == first.notes
        # A new search sees the document.
        assert (await packages.search(query, size=1, **both)).ids == [added["_id"]]


async def test_what_a_cursor_can_ask_for(packages: AsyncIndex) -> None:
    query = "pyhton"
    first = await packages.search(query, size=1, fuzziness="missing", operator="relax")
    assert first.next_cursor is not None
    made = msgspec.json.decode(base64.urlsafe_b64decode(first.next_cursor + "==="), type=Cursor)
    assert made.settled is not None
    for wrong in (
        {"missing": [[0, 7]]},
        {"missing": []},
        {"missing": [[-1]]},
        {"steps": {"bm25": 4}},
        {"steps": {"bm25": -9}},
    ):
        odd = msgspec.structs.replace(made, settled=msgspec.structs.replace(made.settled, **wrong)).encode()
        with pytest.raises(QueryError, match="the cursor is broken"):
            await packages.search(query, size=1, fuzziness="missing", operator="relax", cursor=odd)


async def test_facets_beside_a_post_filter_stay_what_they_are(packages: AsyncIndex) -> None:
    langs = {"langs": {"terms": {"field": "lang"}}}
    chosen = q.term("lang", "python")
    query = "http library perl"
    whole = await packages.search(query, operator="relax", aggregations=langs)
    assert whole.ids == ["libwww"]
    # No Python package has all the words: with facets to choose from that is no hit, as the counts say …
    hits = await packages.search(query, operator="relax", aggregations=langs, post_filter=chosen)
    assert (hits.ids, hits.aggregations, hits.notes) == ([], whole.aggregations, ())
    # … and without them a post_filter is a filter like any other.
    relaxed = await packages.search(query, operator="relax", post_filter=chosen)
    assert set(relaxed.ids) == {"httpx", "requests"}
    # Which words are missing is asked of all documents, whatever is chosen.
    missing = {"fuzziness": "missing", "aggregations": langs}
    for more in ({}, {"post_filter": chosen}, {"post_filter": q.term("lang", "perl")}):
        hits = await packages.search("pyhton perl", **missing, **more)
        assert hits.notes == ("no document has 'pyhton': words like it are searched, too",)
        assert {b["key"]: b["doc_count"] for b in hits.aggregations["langs"]["buckets"]} == {
            "python": 2,
            "perl": 1,
        }


async def test_a_deleted_document_has_no_words(packages: AsyncIndex) -> None:
    typo = {"_id": "typo", "name": "pyhton", "summary": "x", "lang": "x"}
    await packages.ingest([typo])
    assert (await packages.search("pyhton", fuzziness="missing")).ids == ["typo"]
    # The segment still holds both: nothing was merged.
    await packages.ingest([{**typo, "name": "corrected"}])
    assert (await packages.search("pyhton", fuzziness="missing")).ids == ["httpx", "pylint"]
    await packages.ingest([typo])
    await packages.delete("typo", refresh=True)
    assert (await packages.search("pyhton", fuzziness="missing")).ids == ["httpx", "pylint"]


async def test_a_word_in_two_cases_is_one(packages: AsyncIndex) -> None:
    once = await packages.search("pyhton", fuzziness="missing")
    twice = await packages.search("pyhton Pyhton PYHTON", fuzziness="missing")
    assert twice.notes == once.notes
    assert [(hit.id, hit.score) for hit in twice] == [(hit.id, hit.score) for hit in once]


async def test_where_nothing_has_any_of_the_words(packages: AsyncIndex) -> None:
    for query in ("zzzzzzzz", "zzzzzzzz yyyyyyyy"):
        hits = await packages.search(query, operator="relax")
        assert (hits.ids, hits.notes) == ([], ("no document has any of its words",))
    fused = q.rrf(q.match("zzzz yyyy", operator="relax", name="words"), q.match("perl", name="plain"))
    hits = await packages.search(fused)
    assert (hits.ids, hits.notes) == (["libwww"], ("words: no document has any of its words",))
