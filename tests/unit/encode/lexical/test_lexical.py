"""``lexical``: the dot product of its two sides is BM25, and its counts add up."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esembed.encode.base import RuntimeOptions, SparseEncoder
from esembed.encode.lexical.encoder import LexicalEncoder, load
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.lexical.words import ENGLISH_STOP_WORDS, WordSplitter
from esembed.encode.registry import load as load_spec
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams

WORDS = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "eel", "fox"]), max_size=12)


def textbook_bm25(
    query: list[str], document: list[str], collection: list[list[str]], k1: float, b: float, avgdl: float
) -> float:
    """Robertson and Zaragoza 2009, equation 3.15, with Lucene's idf; written from the sum, word by word."""
    score = 0.0
    for word in query:
        df = sum(1 for d in collection if word in d)
        idf = math.log(1 + (len(collection) - df + 0.5) / (df + 0.5))
        tf = document.count(word)
        if tf == 0:
            continue
        score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(document) / avgdl))
    return score


@settings(deadline=None)
@given(
    collection=st.lists(WORDS, min_size=1, max_size=8),
    query=WORDS,
    k1=st.floats(0, 3),
    b=st.floats(0, 1),
    avgdl=st.floats(0.5, 50),
)
def test_the_dot_product_is_bm25(
    collection: list[list[str]], query: list[str], k1: float, b: float, avgdl: float
) -> None:
    encoder = LexicalEncoder(k1=k1, b=b, avgdl=avgdl)
    texts = [" ".join(d) for d in collection]
    documents, counted = encoder.encode_and_count(texts)
    [q] = encoder.with_statistics(counted).encode_query([" ".join(query)])
    for document, vector in zip(collection, documents, strict=True):
        expected = textbook_bm25(query, document, collection, k1, b, avgdl)
        assert q.dot(vector) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_known_numbers() -> None:
    encoder = LexicalEncoder(avgdl=4.0)
    texts = ["The cat sat. The cat slept.", "A dog"]
    documents = encoder.encode_document(texts)
    assert documents[0].indices == ("the", "cat", "sat", "slept")
    # dl 6, avgdl 4: norm = 1.2 · (0.25 + 0.75 · 1.5) = 1.65
    np.testing.assert_allclose(
        documents[0].values, [4.4 / 3.65, 4.4 / 3.65, 2.2 / 2.65, 2.2 / 2.65], rtol=1e-6
    )
    [query] = encoder.with_statistics(encoder.statistics_of(texts)).encode_query(["cat cat bird"])
    assert query.indices == ("cat", "bird")
    np.testing.assert_allclose(query.values, [2 * math.log(2), math.log(6)], rtol=1e-6)


def test_queries_without_statistics_are_refused_and_empty_ones_weigh_alike() -> None:
    encoder = LexicalEncoder()
    with pytest.raises(EncoderError, match="with_statistics"):
        encoder.encode_query(["cat"])
    empty = encoder.with_statistics(LexicalStatistics.empty(encoder.analyzer))
    np.testing.assert_allclose(empty.encode_query(["cat dog"])[0].values, [math.log(2)] * 2, rtol=1e-6)
    assert encoder.statistics is None  # with_statistics left the first one alone


def test_empty_texts_and_texts_of_signs_give_empty_vectors() -> None:
    encoder = LexicalEncoder()
    assert [len(v) for v in encoder.encode_document(["", "  ", "?!…", "a"])] == [0, 0, 0, 1]


def test_pruning_keeps_the_heaviest() -> None:
    text = "a a a b b c"
    full = LexicalEncoder().encode_document([text])[0]
    assert LexicalEncoder(top_k=2).encode_document([text])[0].indices == ("a", "b")
    threshold = float(full.to_dict()["c"])
    assert LexicalEncoder(threshold=threshold).encode_document([text])[0].indices == ("a", "b")
    encoder = LexicalEncoder(query_top_k=1)
    queries = encoder.with_statistics(encoder.statistics_of(["a b", "a"])).encode_query(["a b"])
    assert queries[0].indices == ("b",)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Split a PATH into (folder, name)", ["split", "a", "path", "into", "folder", "name"]),
        ("os.path.split_ext 3.14", ["os", "path", "split", "ext", "3", "14"]),
        ("don’t 'quote' O'Neil", ["don't", "quote", "o'neil"]),
        ("東京タワーへ", ["東", "京", "タワー", "へ"]),
        ("हिन्दी नमस्ते", ["हिन्दी", "नमस्ते"]),
        ("Straße ÉCOLE", ["straße", "école"]),
        ("cafe\u0301", ["café"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert WordSplitter().split(text) == tokens


def test_stemming_and_stop_words() -> None:
    splitter = WordSplitter("english", ENGLISH_STOP_WORDS)
    assert splitter.split("The dog's connections were connected") == ["dog", "connect", "were", "connect"]
    assert WordSplitter("German").split("Häuser") == WordSplitter("german").split("Haus")
    with pytest.raises(EncoderError, match="no Snowball stemmer 'klingon'"):
        WordSplitter("klingon")
    hashes = {
        WordSplitter(lang, stop).hash for lang, stop in [("none", ""), ("english", ""), ("english", "a")]
    }
    assert len(hashes) == 3


def test_threads_get_the_same_stems() -> None:
    words = [f"connect{suffix}ing{i}s running jumps" for i, suffix in enumerate("abcdefgh" * 40)]
    expected = WordSplitter("english").split(" ".join(words))
    splitter = WordSplitter("english")
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(splitter.split(" ".join(words)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6))
def test_counts_add_up_and_can_be_taken_back(one: list[list[str]], two: list[list[str]]) -> None:
    a, b = (LexicalStatistics.count(x, analyzer="x") for x in (one, two))
    both = LexicalStatistics.count(one + two, analyzer="x")
    assert a.merge(b) == b.merge(a) == both
    assert both.subtract(b) == a
    assert both.df == dict(Counter(w for d in one + two for w in set(d)))


def test_counts_survive_the_companion_index() -> None:
    counted = LexicalStatistics.count([["a", "b."], ["a", ""], ["c"]], analyzer="x")
    counted = replace(counted, unsettled=2)
    documents = [json.loads(json.dumps(d)) for d in counted.to_documents(terms_per_document=2)]
    assert [d["kind"] for d in documents] == ["head", "terms", "terms"]
    again = LexicalStatistics.from_documents(reversed(documents))
    assert again == counted
    assert (again.documents, again.total_terms, again.unsettled) == (3, 5, 2)
    with pytest.raises(EncoderError, match="1 of 2 parts"):
        LexicalStatistics.from_documents(documents[:2])
    with pytest.raises(EncoderError, match="no head"):
        LexicalStatistics.from_documents(documents[1:])
    with pytest.raises(EncoderError, match="came twice"):
        LexicalStatistics.from_documents([*documents, documents[1]])
    with pytest.raises(EncoderError, match="two sets"):
        LexicalStatistics.from_documents([documents[0], *documents])
    documents[1]["df"][0] += 1
    with pytest.raises(EncoderError, match="hash"):
        LexicalStatistics.from_documents(documents)


def test_what_was_never_counted_cant_be_taken_back() -> None:
    counted = LexicalStatistics.count([["a"]], analyzer="x")
    with pytest.raises(EncoderError, match="'b' was counted in 0"):
        counted.subtract(LexicalStatistics.count([["b"]], analyzer="x"))
    with pytest.raises(EncoderError, match="more documents"):
        counted.subtract(LexicalStatistics.count([[], []], analyzer="x"))


def test_unlike_analyzers_dont_mix() -> None:
    english, plain = LexicalEncoder(language="english"), LexicalEncoder()
    with pytest.raises(EncoderError, match="different analyzers"):
        english.statistics_of(["a"]).merge(plain.statistics_of(["a"]))
    with pytest.raises(EncoderError, match="other tokens"):
        english.with_statistics(plain.statistics_of(["a"]))


def test_pinned_statistics() -> None:
    counted = LexicalEncoder().statistics_of(["a b"])
    pinned = load("", EncoderParams(statistics=counted.hash), RuntimeOptions())
    assert pinned.with_statistics(counted).statistics == counted
    with pytest.raises(EncoderError, match="pins"):
        pinned.with_statistics(counted.merge(counted))


def test_info_declares_what_documents_depend_on_and_only_records_the_counts() -> None:
    encoder = LexicalEncoder(language="english", avgdl=12)
    weighted = encoder.with_statistics(encoder.statistics_of(["a b c"]))
    assert isinstance(encoder, SparseEncoder)
    assert weighted.info.extra == encoder.info.extra
    assert weighted.info.extra["avgdl"] == 12.0
    assert weighted.info.runtime["statistics"] == weighted.statistics.hash  # type: ignore[union-attr]
    assert "snowballstemmer" in weighted.info.runtime["stemmer"]
    json.dumps(weighted.info.extra)


def test_the_registry_loads_it_and_params_that_mean_nothing_are_refused() -> None:
    encoder = load_spec("lexical", EncoderParams(k1=0.9, b=0.4, avgdl=33, language="german"))
    assert dict(encoder.info.extra) | {"k1": 0.9, "b": 0.4, "avgdl": 33.0} == dict(encoder.info.extra)
    with pytest.raises(EncoderError, match="pooling means nothing"):
        load_spec("lexical", EncoderParams(pooling="mean"))
    with pytest.raises(EncoderError, match="takes nothing"):
        load_spec("lexical:english")
    for bad in ({"k1": -1.0}, {"b": 1.5}, {"avgdl": 0.0}, {"avgdl": math.inf}, {"top_k": 0}):
        with pytest.raises(EncoderError, match="out of range"):
            load_spec("lexical", EncoderParams(**bad))


def test_a_sample_gives_avgdl() -> None:
    encoder = LexicalEncoder()
    assert encoder.average_length(["a b", "c d e f"]) == 3.0
    assert encoder.average_length([]) == 1.0


def test_stats_count() -> None:
    encoder = LexicalEncoder()
    encoder.encode_document(["a b", "c"])
    assert (encoder.stats.texts, encoder.stats.tokens) == (2, 3)
