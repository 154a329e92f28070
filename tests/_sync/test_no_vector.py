# Generated from tests/_async/test_no_vector.py by scripts/run_unasync.py; change that file and run the script.
"""A text that its encoder knows no word of has no vector: its leg finds nothing and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import QueryError

WORDS = "3 4\nred 1 0 0 0\nfox 0 1 0 0\nblue 0 0 1 0\n"
DOCS = [
    {"_id": "1", "body": "red fox", "tag": "a", "price": 3},
    {"_id": "2", "body": "blue fox zzqx", "tag": "b", "price": 2},
    {"_id": "3", "body": "red blue", "tag": "a", "price": 1},
]
UNKNOWN = "zzqx"
"""A word that the second document has and no vector encoder knows."""


def plan(folder: Path, more: str = "", **dense: Any) -> IndexPlan:
    file = folder / "words.vec.txt"
    file.write_text(WORDS)
    options = "\n".join(f"{name} = {value!r}".replace("'", '"') for name, value in dense.items())
    return IndexPlan.from_toml(f"""
[text.body]
[filter.tag]
[filter.price]
type = "integer"
[dense.v]
encoder = "static:{file}"
source = ["body"]
{options}
{more}""")


def filled(client: Any, name: str, made: IndexPlan) -> Index:
    index = Index.create(client, name, made)
    report = index.ingest(DOCS, IngestOptions(learn_weights=False))
    assert report.indexed == len(DOCS), report
    return index


KNN = q.knn("v", text=UNKNOWN)
BM25 = q.match(UNKNOWN, fields="body")
SHAPES: dict[str, tuple[Any, list[str]]] = {
    "knn": (KNN, []),
    "exact": (q.knn("v", text=UNKNOWN, exact=True), []),
    "boosted knn": (q.knn("v", text=UNKNOWN, boost=2.0), []),
    "filtered knn": (q.knn("v", text=UNKNOWN, filter=q.term("tag", "a")), []),
    "similarity": (q.knn("v", text=UNKNOWN, similarity=0.5), []),
    "rrf": (q.rrf(BM25, KNN), ["2"]),
    "weighted rrf": (q.rrf(BM25, KNN, weights=[1, 2]), ["2"]),
    "rrf of nothing": (q.rrf(KNN, q.knn("v", text="???", name="other")), []),
    "inner rrf": (q.rrf(BM25, q.rrf(BM25, KNN)), ["2"]),
    **{
        f"linear {how}": (q.linear(BM25, KNN, weights=[0.6, 0.4], normalizer=how), ["2"])
        for how in ("minmax", "l2", "none", "floor", "zscore")
    },
    "linear bound": (q.linear(BM25.replace(scale=1), KNN, normalizer="bound"), ["2"]),
    "bool should": (q.bool_(should=[BM25, KNN]), ["2"]),
    "bool must": (q.bool_(must=[KNN]), []),
    "bool must of two": (q.bool_(must=[KNN, BM25]), []),
    "bool filter": (q.bool_(should=[BM25, KNN], filter=q.term("tag", "b"), minimum_should_match=1), ["2"]),
    "bool must_not": (q.bool_(must=[BM25], must_not=[KNN]), ["2"]),
    "bool of known and unknown": (q.bool_(should=[KNN, q.knn("v", text="fox", k=2)]), ["1", "2"]),
    "boost_by": (q.boost_by(KNN, "price"), []),
    "boost_by around a fusion's leg": (q.rrf(BM25, q.boost_by(KNN, "price")), ["2"]),
    "rescored by it": (q.rescore(BM25, by=KNN), ["2"]),
    "rescored": (q.rescore(q.rrf(BM25, KNN), by=q.match("fox", fields="body")), ["2"]),
    "rescored nothing": (q.rescore(KNN, by=BM25), []),
    "rescored by exact": (q.rescore(BM25, by=q.knn("v", text=UNKNOWN, exact=True)), ["2"]),
    "collapsed": (q.collapse(q.rrf(BM25, KNN), "tag"), ["2"]),
    "collapsed nothing": (q.collapse(KNN, "tag"), []),
}


@pytest.fixture
def index(client: Any, esembed_index_name: str, tmp_path: Path) -> Index:
    return filled(client, esembed_index_name, plan(tmp_path))


def test_its_leg_finds_nothing_in_every_query(index: Index) -> None:
    for name, (query, wanted) in SHAPES.items():
        for fusion in ("auto", "client"):
            for options in ({}, {"explain": True}, {"count": True}, {"partial_results": True}):
                hits = index.search(query, fusion=fusion, **options)  # type: ignore[arg-type]
                assert sorted(hits.ids) == wanted, (name, fusion, options)
                assert any(note.startswith("v: the query has no vector") for note in hits.notes), name
                assert hits.legs_missing == {}, name
        [hits] = index.search_many([query])
        assert sorted(hits.ids) == wanted, name


def test_the_engine_fuses_with_a_leg_of_nothing(index: Index) -> None:
    if not index.capabilities.rrf:
        pytest.skip("this license has no rrf of the engine's own")
    hits = index.search(q.rrf(BM25, KNN), fusion="server")
    assert (hits.path, hits.ids) == ("server", ["2"])
    assert any("no vector" in note for note in hits.notes)


def test_the_default_query_answers_whatever_stands_in_the_box(index: Index) -> None:
    for text, wanted in ((UNKNOWN, ["2"]), ("🦊", []), ("???", []), ("", []), (" ", [])):
        hits = index.search(text)
        assert hits.ids == wanted, text
        assert any("no vector" in note for note in hits.notes), text
    assert {"1", "3"} <= set((index.search("red")).ids)
    assert not any("no vector" in note for note in (index.search("red")).notes)
    paged = index.search(UNKNOWN, size=1, offset=5)
    assert not paged.ids
    assert paged.next_cursor is None
    facets = index.search(UNKNOWN, aggregations={"tags": {"terms": {"field": "tag"}}})
    assert facets.aggregations["tags"]["buckets"] == [{"key": "b", "doc_count": 1}]


@pytest.mark.parametrize(
    "dense",
    [
        {"similarity": "l2_norm"},
        {"similarity": "max_inner_product"},
        {"similarity": "dot_product"},
        {"element_type": "byte", "scale": 0.4},  # 0.4 is rounded to 0: nothing is left of any vector
        {"element_type": "byte", "similarity": "l2_norm", "scale": 100.0},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_whatever_vectors_are_compared_by(
    client: Any, esembed_index_name: str, tmp_path: Path, dense: dict[str, Any]
) -> None:
    index = Index.create(client, esembed_index_name, plan(tmp_path, **dense))
    for text in (UNKNOWN, "") if dense.get("scale") != 0.4 else (UNKNOWN, "red"):
        for query in (q.knn("v", text=text), q.rrf(q.match(text, fields="body"), q.knn("v", text=text))):
            hits = index.search(query)
            assert hits.ids == []
            assert any("no vector" in note for note in hits.notes)


@pytest.mark.parametrize("store", ["nested", "documents"])
def test_a_knn_over_chunks(client: Any, esembed_index_name: str, tmp_path: Path, store: str) -> None:
    pytest.importorskip("semantic_text_splitter")
    chunks = (
        f'chunked = true\n[chunk]\nsource = ["body"]\nmax_tokens = 8\noverlap_tokens = 0\nstore = "{store}"'
    )
    index = filled(client, esembed_index_name, plan(tmp_path, chunks))
    for query, wanted in (
        (KNN, []),
        (q.rrf(BM25, KNN), ["2"]),
        (q.linear(BM25, KNN), ["2"]),
        (q.collapse(q.rrf(BM25, KNN), "tag"), ["2"]),
    ):
        hits = index.search(query)
        assert hits.ids == wanted
        assert any("no vector" in note for note in hits.notes)


def test_a_sparse_leg_says_it_too(client: Any, esembed_index_name: str) -> None:
    made = IndexPlan.from_toml(
        '[text.body]\n[sparse.words]\nencoder = "lexical"\nsource = ["body"]\n'
        '[sparse.own]\nencoder = "precomputed"'
    )
    index = Index.create(client, esembed_index_name, made)
    index.ingest([{"body": "red fox", "own": {"red": 1.0}}], IngestOptions(learn_weights=False))
    for query in (
        q.sparse("words", text="???"),
        q.rrf(q.match("???", fields="body"), q.sparse("words", text="???")),
        q.sparse("own", vector={}),
        q.sparse("own", vector={"red": 1.0}, min_weight=2.0),
    ):
        hits = index.search(query)
        assert hits.ids == []
        assert any("finds nothing" in note for note in hits.notes), query


def test_a_vector_of_zeros_that_the_caller_wrote_is_an_error(index: Index) -> None:
    for vector in ([0.0] * 4, [-0.0] * 4, [1e-23, 0, 0, 0], np.zeros(4, np.float32)):
        for query in (q.knn("v", vector=vector), q.rrf(BM25, q.knn("v", vector=vector, exact=True))):
            with pytest.raises(QueryError, match="no direction"):
                index.search(query)
    assert (index.search(q.knn("v", vector=[1e-15, 0, 0, 0]))).ids
    with pytest.raises(QueryError, match="empty"):
        q.knn("v", vector=[])


class Zeros:
    """An encoder that knows no word at all."""

    info = EncoderInfo(spec="custom:zeros", type="dense", dims=4)
    stats = EncodeStats()

    def encode_document(self, texts: Any) -> Any:
        return np.zeros((len(texts), 4), np.float32)

    encode_query = encode_document

    def close(self) -> None: ...


def test_an_encoder_of_ones_own(client: Any, esembed_index_name: str) -> None:
    made = IndexPlan.from_toml('[text.body]\n[dense.v]\nencoder = "custom:zeros"\nsource = ["body"]')
    index = Index.create(client, esembed_index_name, made, encoder={"v": Zeros()})
    hits = index.search("red")
    assert not hits.ids
    assert any("no vector" in note for note in hits.notes)
