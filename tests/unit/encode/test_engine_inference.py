"""``engine:``: nothing is encoded here, and what a plan with such a field compiles to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from esembed import query as q
from esembed.capabilities import profile
from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import DenseEncoder, SparseEncoder
from esembed.encode.model_check import check_contract, describe_contract, make_contract
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.errors import (
    ContractError,
    EncoderError,
    PlanError,
    QueryError,
    RecordError,
    UnsupportedFeatureError,
)
from esembed.ingest.options import IngestOptions
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.stages.encode import EncodeStage
from esembed.ingest.stages.prepare import Preparer
from esembed.ingest.stages.serialize import SerializeStage
from esembed.plan import DenseField, IndexPlan, SparseField, TextField
from esembed.plan.params import EncoderParams
from esembed.search.compile import compile_query
from esembed.types import Document


def test_it_encodes_nothing_and_says_who_does() -> None:
    encoder = load("engine:.elser-2-elasticsearch")
    assert isinstance(encoder, SparseEncoder)
    assert (encoder.info.type, encoder.info.dims) == ("sparse", None)
    for encode in (encoder.encode_document, encoder.encode_query):
        with pytest.raises(EncoderError, match="inside the engine"):
            encode(["a"])


def test_kind_and_dims() -> None:
    encoder = load("engine:.multilingual-e5-small-elasticsearch", EncoderParams(dims=384))
    assert isinstance(encoder, DenseEncoder)
    assert (encoder.info.type, encoder.info.dims) == ("dense", 384)
    assert load("engine:sparse/aVeif4oB5Vm0Tdw8zYO2").info.type == "sparse"
    assert load("engine:dense/my-sparse-looking").info.model == "my-sparse-looking"
    with pytest.raises(EncoderError, match="decides how"):
        load("engine:x", EncoderParams(pooling="cls"))
    with pytest.raises(EncoderError, match="needs the name"):
        load("engine:")


def plan(**dense: Any) -> IndexPlan:
    return IndexPlan(
        text={"title": TextField(), "body": TextField()},
        dense={
            "emb": DenseField(**{"encoder": "engine:e5", "source": ("title", "body"), "dims": 384} | dense)
        },
        sparse={"terms": SparseField(encoder="engine:sparse/elser", source=("body",))},
    )


def test_a_plan_compiles_to_the_mapping_and_the_pipeline_that_fills_it() -> None:
    for name, expected in (
        (
            "elasticsearch-enterprise",
            [
                {
                    "inference": {
                        "model_id": "e5",
                        "input_output": [{"input_field": "esembed_text_emb", "output_field": "emb"}],
                        "ignore_missing": True,
                    }
                },
                {
                    "inference": {
                        "model_id": "elser",
                        "input_output": [{"input_field": "esembed_text_terms", "output_field": "terms"}],
                        "ignore_missing": True,
                    }
                },
            ],
        ),
        (
            "opensearch",
            [
                {"text_embedding": {"model_id": "e5", "field_map": {"esembed_text_emb": "emb"}}},
                {"sparse_encoding": {"model_id": "elser", "field_map": {"esembed_text_terms": "terms"}}},
            ],
        ),
    ):
        compiled = compile_mapping(plan(), profile(name))
        ((pipeline, body),) = compiled.pipelines.items()
        texts = ["esembed_text_emb", "esembed_text_terms"]
        assert body["processors"] == [*expected, {"remove": {"field": texts, "ignore_missing": True}}]
        assert compiled.body["settings"]["index"]["default_pipeline"] == pipeline
        assert set(compiled.body["mappings"]["properties"]) >= {"emb", "terms"}
        assert not any(name.startswith("esembed_text") for name in compiled.body["mappings"]["properties"])
        assert sum("no canaries" in note for note in compiled.notes) == 2
        same = compile_mapping(plan(quantization="int8_hnsw"), profile(name))
        other = compile_mapping(plan(encoder="engine:e6"), profile(name))
        assert same.pipelines == compiled.pipelines != other.pipelines
    without = IndexPlan(text={"body": TextField()})
    assert "default_pipeline" not in compile_mapping(without, profile("opensearch")).body["settings"]["index"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("elasticsearch-basic", "Enterprise or trial license, this one is basic"),
        ("elasticsearch-reduced", "no machine-learning modules"),
        ("opensearch-no-native", "ml-commons plugin"),
    ],
)
def test_an_engine_without_inference_is_a_gap_with_a_way_out(name: str, why: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=why) as caught:
        compile_mapping(plan(), profile(name))
    assert len(caught.value.gaps) == 2
    assert all("runs in your process" in gap for gap in caught.value.gaps)
    query = q.knn("emb", text="x")
    with pytest.raises(UnsupportedFeatureError, match="encoded by the engine"):
        compile_query(query, profile(name), plan=plan())
    # where it couldn't be asked (a search-only key) the index has what it was made with
    unknown = replace(profile(name), unknown=("inference: not asked",))
    assert compile_query(query, unknown, plan=plan()).body


def test_a_paid_license_is_not_what_is_missing() -> None:
    trial = replace(profile("elasticsearch-enterprise"), license="trial", inference=False)
    with pytest.raises(UnsupportedFeatureError, match="not there, or not visible to this key") as caught:
        compile_mapping(plan(), trial)
    assert "license" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "engine:"}, r"dense\.emb\.encoder: engine: needs the name"),
        ({"encoder": "engine:sparse/x"}, "is sparse, the field is dense"),
        ({"params": EncoderParams(dims=64)}, r"dense\.emb\.params: the endpoint decides"),
        ({"element_type": "byte"}, "makes floats"),
        ({"chunked": True}, "whole fields"),
        ({"source": ()}, "needs source"),
    ],
)
def test_what_the_endpoint_decides_cant_stand_in_the_plan(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(**changes)


def test_dims_must_be_written_and_storage_left_alone() -> None:
    with pytest.raises(PlanError, match="write dims"):
        compile_mapping(plan(dims=None), profile("opensearch"))
    with pytest.raises(PlanError, match="dot"):
        IndexPlan(dense={"a.b": DenseField(encoder="engine:e5", source=("body",), dims=3)})
    stored = {"encoder": "engine:elser", "source": ["body"], "storage": "seismic"}
    with pytest.raises(PlanError, match="SEISMIC"):
        IndexPlan.from_dict({"sparse": {"terms": stored}})
    features = IndexPlan.from_dict({"sparse": {"terms": {**stored, "storage": "rank_features"}}})
    assert compile_mapping(features, profile("opensearch")).pipelines
    with pytest.raises(UnsupportedFeatureError, match="sparse_vector fields only"):
        compile_mapping(features, profile("elasticsearch-enterprise"))


def test_options_that_need_the_vector_are_refused_and_a_vector_is_taken() -> None:
    known = profile("elasticsearch-enterprise")
    for query, option in (
        (q.knn("emb", text="x", exact=True), "exact"),
        (q.sparse("terms", text="x", max_terms=3), "max_terms"),
        (q.sparse("terms", text="x", min_weight=0.5), "min_weight"),
    ):
        with pytest.raises(QueryError, match=f"{option} needs the query's vector"):
            compile_query(query, known, plan=plan())
    compiled = compile_query(q.knn("emb", vector=[0.1] * 384, exact=True), known, plan=plan())
    assert "script_score" in str(compiled.body)


def test_records_carry_their_text_to_the_engine_and_no_vector() -> None:
    wanted = plan()
    pool = EncoderPool(wanted, allow_encoders=None)
    encoders = {name: pool.encoder(name) for name, _ in wanted.vector_fields()}
    assert [encoders[name].info.type for name in ("emb", "terms")] == ["dense", "sparse"]
    assert encoders["emb"].info.dims == 384
    capabilities, options = profile("opensearch"), IngestOptions(strict=True)
    outcomes = Outcomes(options)
    outcomes.start()
    preparer = Preparer(wanted, encoders)
    source = {"title": "a", "body": "b"}
    with pytest.raises(RecordError, match="a field that esembed keeps for itself"):
        preparer.prepare(Document("1", {**source, "esembed_text_emb": "not mine"}))
    encode = EncodeStage(wanted, capabilities, options, encoders=encoders, outcomes=outcomes)
    encode.start()
    (record,) = encode([preparer.prepare(Document("1", source))])
    serialize = SerializeStage(wanted, capabilities, options, outcomes=outcomes)
    document = json.loads(serialize.action(record).lines[0].splitlines()[1])
    digest = document.pop("esembed_hash")
    assert digest.endswith(".0")
    assert document == {
        "title": "a",
        "body": "b",
        "esembed_text_emb": "a\nb",
        "esembed_text_terms": "b",
    }


def test_the_contract_has_no_canaries_and_tells_endpoints_apart() -> None:
    old = make_contract(load("engine:e5", EncoderParams(dims=384)))
    assert "canaries" not in old
    assert old["declared"] == {
        "model": "e5",
        "kind": "dense",
        "dims": 384,
        "normalize": False,
        "extra": {"task": "text_embedding"},
    }
    check_contract(old, load("engine:dense/e5", EncoderParams(dims=384)))
    with pytest.raises(ContractError, match="e6"):
        check_contract(old, load("engine:e6", EncoderParams(dims=384)))
    shown = describe_contract(old)
    assert (shown["canaries"], "name" in shown["checked_by"]) == ("none", True)


def test_opening_allows_nothing_that_only_the_index_says() -> None:
    with pytest.raises(EncoderError, match="allow_encoders"):
        EncoderPool(plan(), allow_encoders=()).encoder("emb")
    assert EncoderPool(plan(), allow_encoders=["engine:e5"]).encoder("emb").info.model == "e5"
