"""Dense and sparse fields of one model: one network, one pass, and what they say and make apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import make_m3, make_masked_lm

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.encode.base import RuntimeOptions
from esembed.encode.model_check import canaries, check_contract, compare_contracts, make_contract
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.encode.transformer.combined import CombinedEncoder, load_combined
from esembed.errors import ContractError, EncoderError
from esembed.ingest.options import IngestOptions
from esembed.plan.params import EncoderParams

pytest.importorskip("torch")
pytest.importorskip("openvino")

TEXTS = ["The cat sat on the mat.", "a dog ran, jumping over lazy foxes?", "", "the fox " * 60, "fast"]
RUNTIMES = {
    "openvino": RuntimeOptions(backend="openvino", dtype="float32"),
    "torch": RuntimeOptions(backend="torch", device="cpu", dtype="float32"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("combined")
    return {"splade": make_masked_lm(root / "splade"), "m3": make_m3(root / "bge-m3")}


def plan_of(folder: Path, dense: Mapping[str, Any] | None = None, sparse: Mapping[str, Any] | None = None):
    return IndexPlan.from_dict(
        {
            "text": {"body": {}, "title": {}},
            "dense": {"embedding": {"encoder": f"hf:{folder}", "source": ["body"], **(dense or {})}},
            "sparse": {"terms": {"encoder": f"splade:{folder}", "source": ["body"], **(sparse or {})}},
        }
    )


def pool_of(plan: IndexPlan, runtime: RuntimeOptions = RUNTIMES["openvino"], **options: Any) -> EncoderPool:
    return EncoderPool(plan, **{"allow_encoders": None, "runtime": runtime, **options})


def same_sparse(mine: Any, theirs: Any) -> None:
    for one, two in zip(mine, theirs, strict=True):
        assert one.to_dict() == pytest.approx(two.to_dict(), abs=1e-5)


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("model", ["splade", "m3"])
def test_a_plan_is_enough(folders: dict[str, Path], model: str, backend: str) -> None:
    runtime = RUNTIMES[backend]
    params = {"params": {"top_k": 30, "query_top_k": 10, "threshold": 0.01}}
    plan = plan_of(folders[model], sparse=params)
    apart = (
        load(f"hf:{folders[model]}", runtime=runtime),
        load(f"splade:{folders[model]}", EncoderParams(**params["params"]), runtime),
    )
    pool = pool_of(plan, runtime)
    whole = pool.combined("terms")
    assert isinstance(whole, CombinedEncoder)
    assert (pool.encoder("embedding"), pool.encoder("terms")) == (whole.dense, whole.sparse)
    for half, other in zip((whole.dense, whole.sparse), apart, strict=True):
        assert half.info == other.info  # runtime too
    tokens = 0
    for side in ("encode_document", "encode_query"):
        dense, sparse = getattr(whole, side)(TEXTS)
        np.testing.assert_allclose(dense, getattr(apart[0], side)(TEXTS), atol=1e-5)
        same_sparse(sparse, getattr(apart[1], side)(TEXTS))
        tokens += apart[0].stats.tokens - tokens
        assert (whole.dense.stats.tokens, whole.sparse.stats.tokens) == (tokens, 0)
    assert whole.dense.stats.truncated == apart[0].stats.truncated > 0
    assert whole.sparse.stats.texts == whole.dense.stats.texts == 2 * len(TEXTS)
    # each half alone makes the same
    np.testing.assert_allclose(whole.dense.encode_query(TEXTS), apart[0].encode_query(TEXTS), atol=1e-5)
    same_sparse(whole.sparse.encode_query(TEXTS), apart[1].encode_query(TEXTS))
    for encoder in apart:
        encoder.close()
    pool.close()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_contracts_are_those_of_encoders_apart(folders: dict[str, Path], backend: str) -> None:
    runtime, plan = RUNTIMES[backend], plan_of(folders["splade"])
    with_pass = pool_of(plan, runtime)
    made = with_pass.make_contracts()
    whole = with_pass.combined("embedding")
    assert whole is not None
    texts = len(canaries(whole.dense.info.max_seq_length))
    assert whole.dense.stats.texts == whole.sparse.stats.texts == 2 * texts  # documents and queries, once
    assert whole.sparse.stats.tokens == 0
    apart = {
        "embedding": load(plan.dense["embedding"].encoder, runtime=runtime),
        "terms": load(plan.sparse["terms"].encoder, runtime=runtime),
    }
    for name, encoder in apart.items():
        other = make_contract(encoder)
        assert made[name]["declared"] == other["declared"]
        assert not compare_contracts(made[name], other)
        check_contract(made[name], encoder)
        encoder.close()
    with_pass.close()
    # and they are checked in one pass
    checking = pool_of(plan, runtime, contracts=made)
    whole = checking.combined("embedding")
    assert whole is not None
    assert (whole.dense.stats.texts, whole.sparse.stats.tokens) == (2 * texts, 0)
    checking.close()
    made["terms"]["declared"]["weights_hash"] = "0" * 64
    wrong = pool_of(plan, runtime, contracts=made)
    with pytest.raises(ContractError, match="terms: this encoder is not the one"):
        wrong.combined("embedding")
    assert wrong.encoder("embedding").info.type == "dense"
    wrong.close()


def test_asked_in_turn_the_second_finds_its_vectors(folders: dict[str, Path]) -> None:
    pool = pool_of(plan_of(folders["m3"]))
    views = pool.one_at_a_time(("embedding", "terms"))
    whole = pool.combined("embedding")
    assert whole is not None
    sparse = views["terms"].encode_document(TEXTS)
    dense = views["embedding"].encode_document(TEXTS)
    assert (whole.dense.stats.texts, whole.sparse.stats.tokens) == (len(TEXTS), 0)
    views["terms"].encode_document(TEXTS)  # taken once by each, it isn't kept
    assert whole.dense.stats.texts == 2 * len(TEXTS)
    np.testing.assert_allclose(dense, whole.dense.encode_document(TEXTS), atol=1e-5)  # type: ignore[arg-type]
    same_sparse(sparse, whole.sparse.encode_document(TEXTS))
    pool.close()


@pytest.mark.parametrize(
    ("dense", "sparse"),
    [
        ({"source": ["title"]}, {}),
        ({"source": ["title", "body"]}, {"source": ["body", "title"]}),
        ({"separator": " "}, {}),
        ({"params": {"max_seq_length": 20}}, {}),
        ({}, {"params": {"document_prompt": "the "}}),
        ({"params": {"revision": "a"}}, {}),
        ({"encoder": "minilm"}, {}),
        ({}, {"encoder": "lexical"}),
    ],
)
def test_what_differs_is_loaded_apart(
    folders: dict[str, Path], dense: dict[str, Any], sparse: dict[str, Any]
) -> None:
    pool = pool_of(plan_of(folders["splade"], dense, sparse))
    assert pool.combined("embedding") is None
    assert getattr(pool.encoder("embedding"), "combined", None) is None
    assert pool.sharing_notes() == []
    pool.close()


def test_the_same_in_other_words_is_shared(folders: dict[str, Path]) -> None:
    place = folders["splade"]
    params = {"max_seq_length": 20, "document_prompt": "the "}
    pool = pool_of(
        plan_of(
            place,
            {"encoder": f"hf:{place.parent}/./{place.name}/", "params": {**params, "dims": 8}},
            {"params": {**params, "query_prompt": "a dog "}},
        )
    )
    whole = pool.combined("embedding")
    assert whole is not None
    assert whole.dense.info.dims == 8
    # the prompts of queries differ: the documents share their pass, queries have one each
    assert not whole.shares_queries
    dense, sparse = whole.encode_query(TEXTS)
    np.testing.assert_array_equal(dense, whole.dense.encode_query(TEXTS))
    same_sparse(sparse, whole.sparse.encode_query(TEXTS))
    dense, _ = whole.encode_document(["cat"])
    np.testing.assert_allclose(dense, whole.dense.encode_document(["cat"]), atol=1e-5)
    [[note]] = [pool.sharing_notes()]
    assert note.startswith("embedding, terms: one pass of hf:")
    pool.close()


def test_what_may_be_loaded_is_not_widened(folders: dict[str, Path]) -> None:
    """``_meta`` is untrusted: allowing one of the two specs allows the other as little as before."""
    plan = plan_of(folders["splade"])
    pool = pool_of(plan, allow_encoders=[plan.dense["embedding"].encoder])
    assert getattr(pool.encoder("embedding"), "combined", "none") is None
    with pytest.raises(EncoderError, match="pass allow_encoders="):
        pool.encoder("terms")
    pool.close()
    own = load("lexical")
    pool = pool_of(plan, encoder={"terms": own})
    assert pool.combined("embedding") is None
    assert pool.encoder("terms") is own
    pool.close()


def test_two_halves_that_the_caller_brings_share(folders: dict[str, Path]) -> None:
    whole = load_combined(str(folders["splade"]), runtime=RUNTIMES["openvino"])
    plan = plan_of(folders["splade"], {"encoder": "hf:elsewhere"}, {"encoder": "splade:elsewhere"})
    pool = pool_of(plan, encoder={"embedding": whole.dense, "terms": whole.sparse}, allow_encoders=())
    assert pool.combined("terms") is whole
    pool.close()
    whole.close()


@pytest.mark.parametrize("model", ["splade", "m3"])
def test_a_query_for_one_half_pays_for_that_half(folders: dict[str, Path], model: str) -> None:
    pool = pool_of(plan_of(folders[model]))
    dense = pool.encoder("embedding")
    whole: Any = dense.combined  # type: ignore[union-attr]
    dense.encode_query(["the cat"])
    # the masked-LM head isn't built for it; M3's one number a token is
    assert whole.sparse.runner.program.made is (model == "m3")
    pool.close()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_from_many_threads(folders: dict[str, Path], backend: str) -> None:
    pool = pool_of(plan_of(folders["splade"]), RUNTIMES[backend])
    texts = [f"the word{i} cat" for i in range(24)]
    ready = threading.Barrier(6)

    def one(worker: int) -> Any:
        ready.wait()
        whole: Any = pool.combined("embedding")
        made = []
        for text in texts[worker * 4 : worker * 4 + 4]:
            dense, sparse = whole.encode_query([text])
            np.testing.assert_allclose(pool.encoder("embedding").encode_query([text]), dense, atol=1e-5)
            made.append((dense[0], sparse[0]))
        return made

    with ThreadPoolExecutor(6) as workers:
        found = [pair for made in workers.map(one, range(6)) for pair in made]
    dense, sparse = pool.combined("terms").encode_query(texts)  # type: ignore[union-attr]
    np.testing.assert_allclose([row for row, _ in found], dense, atol=1e-5)
    same_sparse([vector for _, vector in found], sparse)
    pool.close()


# -- on real engines -------------------------------------------------------------------------------


@pytest.fixture
def shared(esembed_index_factory: Callable[..., Index], folders: dict[str, Path]) -> Iterator[Index]:
    index = esembed_index_factory(
        plan_of(folders["splade"], sparse={"params": {"top_k": 40}}), runtime=RUNTIMES["openvino"]
    )
    yield index
    index.pool.close()


RECORDS = [
    {"id": str(i), "body": f"{text} word{i}", "title": "x"}
    for i, text in enumerate([*TEXTS[:2], *TEXTS[3:]] * 5)
]


def both(text: str) -> Any:
    return q.rrf(q.knn("embedding", text=text), q.sparse("terms", text=text))


def test_ingest_and_search_run_the_network_once(
    shared: Index, esembed_engine: Any, folders: dict[str, Path]
) -> None:
    assert any("one pass" in note for note in shared.notes)
    whole = shared.pool.combined("embedding")
    assert whole is not None
    before = (whole.dense.stats.texts, whole.dense.stats.tokens)
    report = shared.ingest(RECORDS, IngestOptions(refresh=True))
    assert report.indexed == len(RECORDS)
    assert any("one pass" in notice for notice in report.warnings)
    apart = (
        load(f"hf:{folders['splade']}", runtime=RUNTIMES["openvino"]),
        load(f"splade:{folders['splade']}", EncoderParams(top_k=40), RUNTIMES["openvino"]),
    )
    texts = [record["body"] for record in RECORDS]
    dense, sparse = apart[0].encode_document(texts), apart[1].encode_document(texts)
    assert whole.dense.stats.texts - before[0] == len(RECORDS)
    assert report.tokens == whole.dense.stats.tokens - before[1] == apart[0].stats.tokens
    assert whole.sparse.stats.tokens == 0
    for record, row, vector in zip(RECORDS, dense, sparse, strict=True):
        stored: Any = shared.get(record["id"], vectors=True)
        np.testing.assert_allclose(stored["embedding"], row, atol=1e-3)
        assert len(stored["terms"]) == len(vector.indices)  # type: ignore[union-attr]
    # a query of both legs is one pass and one call; of one leg, that half's
    calls = shared.searcher().encode_calls
    hybrid = both("the cat word3")
    seen = whole.dense.stats.texts
    found = shared.search(hybrid)
    assert (shared.searcher().encode_calls - calls, whole.dense.stats.texts - seen) == (1, 1)
    assert whole.sparse.stats.tokens == 0
    assert shared.search(hybrid).ids == found.ids
    assert shared.searcher().encode_calls - calls == 1  # from the cache
    shared.search(q.knn("embedding", text="a dog word7"))
    assert (shared.searcher().encode_calls - calls, whole.sparse.stats.tokens) == (2, 0)
    many = [both("fast fox"), both("lazy dog")]
    seen = whole.dense.stats.texts
    answers = shared.search_many(many)
    assert (whole.dense.stats.texts - seen, whole.sparse.stats.tokens) == (2, 0)
    # opened with encoders apart, it says the same
    client, runtime = esembed_engine.client(), RUNTIMES["openvino"]
    own = {"embedding": apart[0], "terms": apart[1]}
    again = Index.open(client, shared.name, encoder=own, runtime=runtime)  # type: ignore[arg-type]
    assert [hits.ids for hits in again.search_many(many)] == [hits.ids for hits in answers]
    for encoder in apart:
        encoder.close()
    # allowed one of the two, it answers with that one where partial results are wanted
    half = Index.open(client, shared.name, allow_encoders=[again.plan.dense["embedding"].encoder])
    hits = half.search(both("fast fox"), partial_results=True)
    assert hits.ids
    assert len(hits.legs_missing) == 1
    with pytest.raises(EncoderError, match="terms: the index says"):
        half.search(both("fast fox"))
    half.pool.close()


def test_an_update_runs_it_once(shared: Index) -> None:
    shared.ingest(RECORDS[:3], IngestOptions(refresh=True))
    whole = shared.pool.combined("embedding")
    assert whole is not None
    seen = whole.dense.stats.texts
    shared.update("1", {"body": "a fox"}, refresh=True)
    shared.update("1", {"title": "y"}, refresh=True)  # no text of a vector
    assert (whole.dense.stats.texts - seen, whole.sparse.stats.tokens) == (1, 0)
    np.testing.assert_allclose(
        shared.get("1", vectors=True)["embedding"],  # type: ignore[index]
        whole.dense.encode_document(["a fox"])[0],
        atol=1e-3,
    )


async def test_concurrent_searches_share_calls_and_passes(
    esembed_engine: Any, esembed_index_name: str, folders: dict[str, Path]
) -> None:
    from esembed import AsyncIndex

    if esembed_engine.engine == "elasticsearch":
        from elasticsearch import AsyncElasticsearch as Client
    else:
        from opensearchpy import AsyncOpenSearch as Client
    client = Client(esembed_engine.url)
    try:
        plan = plan_of(folders["m3"])
        index = await AsyncIndex.create(client, esembed_index_name, plan, runtime=RUNTIMES["openvino"])
        await index.ingest(RECORDS, IngestOptions(refresh=True))
        whole = index.pool.combined("terms")
        assert whole is not None
        seen = whole.dense.stats.texts
        texts = [f"the {word}" for word in ("cat", "dog", "fox", "mat", "cat", "dog")]
        hits = await asyncio.gather(*(index.search(both(text)) for text in texts))
        assert whole.dense.stats.texts - seen <= len(texts)
        assert whole.sparse.stats.tokens == 0
        assert hits[0].ids == hits[4].ids
        index.pool.close()
    finally:
        await client.close()
