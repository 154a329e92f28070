"""Searching real engines: one query, the same answer, on every path."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import query as q
from esembed._async.search import AsyncSearcher
from esembed.dialect.values import count_words
from esembed.errors import EncoderError, QueryError, UnsupportedFeatureError
from esembed.plan import DenseField

from ._shim import OVERLAP, together
from .search_world import BM25, DENSE, DOCS, SPARSE, VECTOR, World, data


async def test_one_leg_and_a_fusion_are_one_round_trip(world: World, searcher: AsyncSearcher) -> None:
    for query, path in ((BM25, "single"), (q.rrf(BM25, DENSE, SPARSE), None)):
        before = world.client.requests_sent
        hits = await searcher.search(query)
        assert world.client.requests_sent == before + 1
        assert len(hits) == 10
        assert hits.path == (path or ("server" if world.capabilities.rrf else "client"))
        assert set(hits[0].source) == {"title", "body", "lang", "price", "place"}


@pytest.mark.parametrize("kind", ["rrf", "l2"])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.5], [0.0, 1.0, 3.0]])
async def test_fusion_by_the_engine_is_fusion_by_us_and_shares_add_up(
    searcher: AsyncSearcher, kind: str, weights: list[float] | None
) -> None:
    cheap = q.range("price", gte=5)
    legs = (BM25, DENSE, SPARSE)
    query = (
        q.rrf(*legs, weights=weights, filter=cheap)
        if kind == "rrf"
        else q.linear(*legs, normalizer="l2", weights=weights, filter=cheap)
    )
    auto = await searcher.search(query, size=40, explain=True)
    ours = await searcher.search(query, size=40, explain=True, fusion="client")
    assert ours.path == "client"
    assert auto.path == ("server" if searcher.capabilities.rrf else "client")
    assert {h.id: pytest.approx(h.score, abs=1e-6) for h in ours} == {h.id: h.score for h in auto}
    parts = {
        h.id: [(s.leg, s.rank, s.score, pytest.approx(s.contribution, abs=1e-6)) for s in h.contributions]
        for h in ours
    }
    for hit in (*auto, *ours):
        assert sum(share.contribution for share in hit.contributions) == pytest.approx(hit.score, abs=1e-6)
        assert [share.leg for share in hit.contributions] == ["bm25", "dense", "sparse"]
        assert parts[hit.id] == [(s.leg, s.rank, s.score, s.contribution) for s in hit.contributions]
        assert hit.source["price"] >= 5


async def test_filters_are_inside_every_leg(searcher: AsyncSearcher) -> None:
    wanted = {i for i, d in DOCS.items() if d["lang"] == "en" and d["price"] > 40}
    narrow = q.bool_(filter=[q.term("lang", "en"), q.range("price", gt=40)])
    assert wanted
    for query in (
        DENSE.replace(k=len(wanted)),
        q.rrf(BM25, DENSE),
        q.linear(BM25, DENSE, normalizer="none"),
    ):
        hits = await searcher.search(query, filter=narrow, size=len(wanted))
        assert set(hits.ids) == wanted


async def test_of_a_list_of_filters_all_must_hold(searcher: AsyncSearcher) -> None:
    parts = [q.term("lang", "en"), q.range("price", gt=40)]
    for query in (BM25, q.rrf(BM25, DENSE)):
        wanted = await searcher.search(query, filter=q.bool_(filter=parts), size=40)
        assert (await searcher.search(query, filter=parts, size=40)).ids == wanted.ids != []
        assert (await searcher.search(query, filter=parts[:1])).ids != wanted.ids
        assert (await searcher.search(query, filter=[])).ids == (await searcher.search(query)).ids
    first = await searcher.search_many(["red dog"], filter=parts)
    assert first[0].ids == (await searcher.search("red dog", filter=parts)).ids


async def test_one_sort_needs_no_list(searcher: AsyncSearcher) -> None:
    cheapest = await searcher.search(q.match_all(), sort=[{"price": "asc"}], size=3)
    assert (await searcher.search(q.match_all(), sort={"price": "asc"}, size=3)).ids == cheapest.ids
    prices = [h.source["price"] for h in await searcher.search(q.match_all(), sort="price", size=3)]
    assert prices == sorted(prices)


async def test_documents_by_their_ids(searcher: AsyncSearcher) -> None:
    some = sorted(DOCS)[:3]
    assert sorted((await searcher.search(q.ids(some))).ids) == some
    assert sorted((await searcher.search(q.ids(*some))).ids) == some


async def test_fewer_nearest_than_a_page_are_a_short_page(searcher: AsyncSearcher) -> None:
    hits = await searcher.search(DENSE.replace(k=3))
    assert hits.ids == (await searcher.search(DENSE, size=3)).ids
    assert hits.next_cursor is None
    with pytest.raises(QueryError, match="beyond k = 3"):
        await searcher.search(DENSE.replace(k=3), offset=3)


async def test_pages_join_without_gap_or_repeat(searcher: AsyncSearcher) -> None:
    for query in (q.rrf(BM25, DENSE), q.linear(BM25, SPARSE), DENSE, BM25):
        whole = await searcher.search(query, size=30)
        joined: list[str] = []
        cursor = None
        for _ in range(3):
            page = await searcher.search(query, size=10, cursor=cursor)
            joined += page.ids
            cursor = page.next_cursor
        assert joined == whole.ids
        assert (await searcher.search(query, size=10, offset=20)).ids == joined[20:]


async def test_a_cursor_is_checked(searcher: AsyncSearcher) -> None:
    cursor = (await searcher.search(q.rrf(BM25, DENSE), size=5)).next_cursor
    assert cursor is not None
    for broken, query in ((cursor, q.rrf(DENSE, BM25)), ("%%%", BM25), (cursor[:-4], q.rrf(BM25, DENSE))):
        with pytest.raises(QueryError, match="cursor"):
            await searcher.search(query, size=5, cursor=broken)
    last = await searcher.search(q.rrf(BM25, DENSE, rank_window_size=10), size=10)
    assert last.next_cursor is None


async def test_scores_added_as_they_are_agree_between_engines(searcher: AsyncSearcher) -> None:
    """BM25 with the factor k1 + 1 on both, cosine as (1 + cos) / 2, sparse as a dot product."""
    query = q.linear(BM25, DENSE, SPARSE, normalizer="none")
    hits = await searcher.search(query, size=5, explain=True)
    for hit in hits:
        doc = DOCS[hit.id]
        bm25, dense, sparse = hit.contributions
        product = 1.7 * doc["terms"].get("red", 0) + 0.6 * doc["terms"].get("cat", 0)
        assert sparse.contribution == pytest.approx(product, rel=0.005)
        unit = doc["embedding"] / float((doc["embedding"] ** 2).sum() ** 0.5)
        length = sum(x * x for x in VECTOR) ** 0.5
        cosine = float(sum(a * b for a, b in zip(unit, VECTOR, strict=True))) / length
        assert dense.contribution == pytest.approx((1 + cosine) / 2, abs=1e-5)
        assert bm25.contribution == pytest.approx(_bm25(doc), rel=0.05)


def _bm25(doc: dict[str, Any]) -> float:
    """The better field's BM25, with the factor k1 + 1 (lengths here are exact, the engines round)."""
    import math

    best = 0.0
    for field, boost in (("title", 2.0), ("body", 1.0)):
        texts = [d[field].split() for d in DOCS.values()]
        mean = sum(map(len, texts)) / len(texts)
        words, score = doc[field].split(), 0.0
        for word in ("red", "dog"):
            df = sum(word in text for text in texts)
            tf = words.count(word)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            score += idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        best = max(best, boost * score)
    return best


async def test_the_bound_normalizer_scores_every_candidate_by_every_leg(searcher: AsyncSearcher) -> None:
    query = q.linear(BM25.replace(scale=4.0), DENSE, normalizer="bound", rank_window_size=5)
    hits = await searcher.search(query, size=5, explain=True)
    for hit in hits:
        bm25, dense = hit.contributions
        assert dense.score is not None
        assert dense.contribution == pytest.approx(2 * dense.score - 1)
        if bm25.score is not None:
            assert bm25.contribution == pytest.approx(bm25.score / 4.0)
    bounded = await searcher.search(q.linear(BM25, DENSE, normalizer="bound"), size=5, explain=True)
    assert all(-1 <= share.contribution <= 3.5 for hit in bounded for share in hit.contributions)


async def test_collapse_rescore_and_boost(searcher: AsyncSearcher) -> None:
    collapsed = await searcher.search(q.collapse(q.rrf(BM25, DENSE), "lang"))
    assert sorted(h.source["lang"] for h in collapsed) == ["de", "en"]
    flat = await searcher.search(q.rrf(BM25, DENSE), size=60)
    assert collapsed.ids == [
        next(h.id for h in flat if h.source["lang"] == lang)
        for lang in dict.fromkeys(h.source["lang"] for h in flat)
    ]
    exact = q.knn("embedding", vector=VECTOR, exact=True)
    again = await searcher.search(q.rescore(q.rrf(BM25, SPARSE), by=exact, window_size=20), explain=True)
    assert [h.rescored for h in again] == sorted((h.rescored for h in again), reverse=True)  # type: ignore[type-var]
    for hit in again:
        assert sum(share.contribution for share in hit.contributions) == pytest.approx(hit.score, abs=1e-6)
    by_length = q.rescore(BM25, reranker="length", fields="body", text="x", window_size=20)
    longest = await searcher.search(by_length)
    lengths = [len(h.source["body"]) for h in longest]
    assert lengths == sorted(lengths, reverse=True)
    boosted = await searcher.search(q.boost_by(q.match_all(), "price"), size=5)
    assert [h.source["price"] for h in boosted] == sorted((d["price"] for d in DOCS.values()), reverse=True)[
        :5
    ]


async def test_facets_and_counts_are_the_same_on_every_path(searcher: AsyncSearcher) -> None:
    facets = {"langs": {"terms": {"field": "lang"}}}
    found = [
        await searcher.search(q.rrf(BM25, SPARSE), aggregations=facets, count=True, fusion=fusion)  # type: ignore[arg-type]
        for fusion in ("auto", "client")
    ]
    counted = [{b["key"]: b["doc_count"] for b in h.aggregations["langs"]["buckets"]} for h in found]
    assert counted[0] == counted[1]
    assert found[0].total == found[1].total == sum(counted[0].values())
    assert (await searcher.search(q.rrf(BM25, SPARSE))).total is None
    assert (await searcher.search(DENSE)).total is None
    assert (await searcher.search(BM25)).total == (await searcher.search(BM25, size=1)).total


async def test_highlights_and_stored_fields(searcher: AsyncSearcher) -> None:
    for query in (BM25, q.rrf(BM25, DENSE)):
        hits = await searcher.search(query, highlight=["body"], size=30)
        marked = [h for h in hits if h.highlight]
        assert marked
        assert all("<em>" in h.highlight["body"][0] for h in marked)
        some = await searcher.search(query, source=["title"])
        assert all(set(h.source) == {"title"} for h in some)
        assert all(not h.source for h in await searcher.search(query, source=False))


async def test_a_plain_string_is_the_default_query(world: World, searcher: AsyncSearcher) -> None:
    dense = DenseField(dims=data.DIMS, encoder="minilm", source=("body",), quantization="hnsw")
    wanted = data.plan(dense={"embedding": dense})
    searcher = await world.fill(data.plan(), DOCS, wanted)
    hits = await searcher.search("red dog", explain=True)
    assert [share.leg for share in hits[0].contributions] == ["bm25", "embedding"]
    only = await searcher.search("red dog", legs=["bm25"])
    assert only.ids == (await searcher.search(q.multi_match("red dog", kind="auto"))).ids
    calls = len(world.encoder.calls)
    assert (await searcher.search("red dog")).ids == hits.ids
    assert len(world.encoder.calls) == calls, "the vector was cached"
    with pytest.raises(QueryError, match="no leg 'bm52'"):
        await searcher.search("red dog", legs=["bm52"])


@pytest.mark.parametrize(
    "text",
    ['"red" AND dog~2', "body:red OR *:*", "re* /.*/", "{!term}", "red\\", "_exists_:body", "(((", "'; --"],
)
async def test_a_search_box_injects_nothing(searcher: AsyncSearcher, text: str) -> None:
    plain = "".join(c if c.isalnum() or c in "_:" else " " for c in text)
    found = await searcher.search(q.match(text, fields="body"), size=60)
    assert set(found.ids) <= {
        i for i, d in DOCS.items() if set(d["body"].split()) & set(plain.lower().split())
    }


@pytest.mark.parametrize(
    "text", [" ".join(f"word{n}" for n in range(9000)), "x" * 700_000, "字" * 9000, "", "?!", "a\x00b"]
)
async def test_a_search_box_takes_any_text(searcher: AsyncSearcher, text: str) -> None:
    # Two fields, and a few clauses are the engine's own.
    cut = 2 * count_words(f"red {text}") > searcher.capabilities.max_clauses - 24
    for query in (q.match(f"red {text}"), q.multi_match(f"red {text}", kind="cross_fields")):
        hits = await searcher.search(query, size=60)
        assert hits.ids  # the first word is searched, whatever follows
        assert bool(hits.notes) == cut
    hybrid = q.rrf(q.match(text), q.knn("embedding", text=text))
    assert len(await searcher.search(hybrid)) == 10


async def test_a_leg_that_fails_is_an_error_or_said_to_be_missing(
    world: World, searcher: AsyncSearcher
) -> None:
    query = q.rrf(BM25, q.knn("embedding", text="broken", name="dense"))
    with pytest.raises(EncoderError, match="can't read"):
        await searcher.search(query)
    hits = await searcher.search(query, partial_results=True)
    assert list(hits.legs_missing) == ["dense"]
    assert hits.ids
    refused = q.raw(
        {kind: {"match_phrase_prefix": {"price": "x"}} for kind in ("elasticsearch", "opensearch")},
        name="raw",
    )
    hits = await searcher.search(q.rrf(BM25, refused), fusion="client", partial_results=True)
    assert list(hits.legs_missing) == ["raw"]
    assert hits.ids == (await searcher.search(q.rrf(BM25), fusion="client")).ids
    with pytest.raises(EncoderError):
        await searcher.search(q.knn("embedding", text="broken"), partial_results=True)


async def test_a_field_missing_in_the_mapping_is_an_error(world: World) -> None:
    extra = data.plan().replace(
        dense={
            "embedding": DenseField(dims=data.DIMS, quantization="hnsw"),
            "newer": DenseField(dims=data.DIMS),
        }
    )
    searcher = await world.fill(data.plan(), DOCS, extra)
    with pytest.raises(QueryError, match="lacks 'newer'"):
        await searcher.search(q.rrf(BM25, q.knn("newer", vector=VECTOR)))
    assert (await searcher.search(BM25)).ids


async def test_many_searches_are_the_single_ones(world: World, searcher: AsyncSearcher) -> None:
    queries = [
        q.match("red"),
        q.rrf(BM25, DENSE),
        q.knn("embedding", text="blue star"),
        q.linear(BM25, SPARSE),
    ]
    before = world.client.requests_sent
    found = await searcher.search_many(queries, size=7)
    assert world.client.requests_sent == before + 1
    for query, hits in zip(queries, found, strict=True):
        single = await searcher.search(query, size=7)
        assert hits.ids == single.ids
        assert hits.path == single.path


async def test_concurrent_searches_share_encode_calls(world: World, searcher: AsyncSearcher) -> None:
    texts = [f"{a} {b}" for a in data.WORDS[:8] for b in data.WORDS[8:12]]
    searcher.cache.clear()
    world.encoder.calls.clear()
    found = await together(*(searcher.search(q.knn("embedding", text=text), size=3) for text in texts))
    assert sum(world.encoder.calls) == len(texts)
    if OVERLAP:
        assert len(world.encoder.calls) < len(texts)
    for text, hits in list(zip(texts, found, strict=True))[:4]:
        searcher.cache.clear()
        assert (await searcher.search(q.knn("embedding", text=text), size=3)).ids == hits.ids


@pytest.mark.parametrize("store", ["nested", "documents"])
async def test_the_best_chunk_comes_with_its_document(world: World, store: str) -> None:
    docs = {
        f"doc{n}": {
            "title": f"title {word}",
            "lang": "en" if n % 2 else "de",
            "chunks": [f"{word} stone", f"river {word} cloud", "sun moon"],
        }
        for n, word in enumerate(data.WORDS[:8])
    }
    plan = data.chunk_plan(store)
    searcher = await world.fill(plan, docs)
    vector = data.embed("river fox cloud").tolist()
    dense = q.knn("embedding", vector=vector, chunks=2)
    sparse = q.sparse("terms", vector={"dog": 2.0, "river": 1.0}, chunks=2)
    for query in (dense, sparse, q.rrf(dense, sparse)):
        hits = await searcher.search(query, size=5)
        assert len(set(hits.ids)) == len(hits.ids) == 5
        assert all(i in docs for i in hits.ids)
        best = hits[0]
        assert best.source["title"] == docs[best.id]["title"]
        assert best.chunks[0]["text"] in docs[best.id]["chunks"]
        assert "embedding" not in best.source
    top = (await searcher.search(sparse, size=1))[0]
    assert (top.id, top.chunks[0]["text"]) == ("doc3", "river dog cloud")
    counted = q.rrf(q.match("title"), dense)
    if store == "nested":
        assert (await searcher.search(counted, count=True)).total == 8
    else:
        with pytest.raises(QueryError, match="would count chunks"):
            await searcher.search(counted, count=True)
    read = await searcher.search(
        q.rescore(dense, reranker="read", fields=["chunks.text", "title"], text="x", window_size=10)
    )
    assert {h.id: h.rescored for h in read} == {
        h.id: float(len(h.chunks[0]["text"]) * 1000 + len(docs[h.id]["title"])) for h in read
    }
    with pytest.raises(QueryError, match="none of the 8 documents has a text in titel"):
        await searcher.search(q.rescore(dense, reranker="length", fields="titel", text="x", window_size=10))
    filtered = await searcher.search(q.rrf(q.match("title"), dense, filter=q.term("lang", "en")), size=10)
    assert sorted(filtered.ids) == ["doc1", "doc3", "doc5", "doc7"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (q.match("x", fields="bodi"), "did you mean 'body'"),
        (q.knn("embedding", vector=[1.0, 2.0]), "has 2 dimensions, the field 8"),
        (q.knn("title", vector=VECTOR), "knn needs a dense field"),
        (q.knn("embedding", vector=VECTOR, num_candidates=20), "below k=100"),
        (q.bool_(filter=q.term("body", "red")), "text field 'body'"),
        (q.bool_(filter=q.prefix("price", "1")), "prefix needs a keyword field"),
        (q.bool_(filter=q.term("embedding", 1)), "dense vector field"),
        (q.bool_(filter=q.geo_distance("lang", lat=1, lon=1, distance="1km")), "geo_point"),
        (q.bool_(should=[q.match("x", fields="body")] * 20_000), "max_clause_count"),
        (q.sparse("terms", vector={str(i): 1.0 for i in range(9)}, max_terms=20_000), "clause limit"),
        (q.rrf(BM25, DENSE, rank_window_size=5), "beyond rank_window_size = 5"),
        (q.rescore(BM25, by=SPARSE, window_size=5), "beyond rescore's window_size of 5"),
        (q.collapse(BM25, "body"), "collapse needs a keyword"),
        (q.bool_(must=[q.rrf(BM25, DENSE)]), "stands at the top"),
        (q.rescore(BM25, reranker="nope", fields="body", text="x"), "no reranker 'nope'"),
        (q.match(), "has no text"),
        (q.knn("embedding", vector=[0.0] * 8), "all zeros"),
        (q.bool_(filter=q.term("price", "cheap")), "'price', of type integer: 'cheap' is not a number"),
        (q.bool_(filter=q.terms("price", [1, True])), "True is not a number"),
        (q.bool_(filter=q.range("price", gte="x")), "range on 'price', of type integer"),
        (None, "not NoneType"),
        ({"match": {"body": "x"}}, "goes through q.raw"),
        ("half a pair \ud83e", "not valid Unicode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_queries_are_named_with_the_way_out(
    searcher: AsyncSearcher, query: Any, message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        await searcher.search(query)


async def test_what_does_not_go_together_is_refused(searcher: AsyncSearcher) -> None:
    with pytest.raises(QueryError, match="don't go with fusion"):
        await searcher.search(q.rrf(BM25, DENSE), sort=[{"price": "asc"}])
    for options, message in (
        ({"search_after": [1]}, "don't go with fusion"),
        ({"size": "10"}, "size must be a whole number, not '10'"),
        ({"offset": 1.5}, "offset must be a whole number"),
        ({"fusion": "servr"}, "fusion is auto, server or client"),
        ({"legs": "dense"}, "legs takes a list"),
        ({"legs": []}, "legs takes a list"),
        ({"filter": {"term": {"lang": "en"}}}, "filter must be a query"),
        ({"cursor": "x", "offset": 3}, "one of them"),
    ):
        with pytest.raises(QueryError, match=message):
            await searcher.search(q.rrf(BM25, DENSE), **options)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="max_result_window"):
        await searcher.search(BM25, size=10, offset=9_995)
    with pytest.raises(UnsupportedFeatureError, match="raw has no clause"):
        await searcher.search(
            q.raw({"elasticsearch" if searcher.capabilities.engine == "opensearch" else "opensearch": {}})
        )
    ordered = await searcher.search(BM25, sort=[{"price": "asc"}], size=5)
    prices = [h.source["price"] for h in ordered]
    assert prices == sorted(prices)
