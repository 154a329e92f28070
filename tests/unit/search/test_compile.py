"""What a request is compiled to, for profiles of engines that aren't here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from esembed import DenseField, IndexPlan
from esembed import query as q
from esembed.capabilities import profile
from esembed.dialect.mapping import compile_mapping
from esembed.errors import UnsupportedFeatureError
from esembed.query import Query
from esembed.search.compile import compile_query, to_body
from esembed.search.options import SearchOptions


def test_an_inner_window_that_the_engine_would_widen_is_fused_by_the_client() -> None:
    capabilities = profile("elasticsearch-enterprise")
    inner = q.rrf(q.match("a", fields=["t"]), q.knn("v", vector=[1, 2]), rank_window_size=20)
    query = q.rrf(inner, q.match("b", fields=["t"]), rank_window_size=50)
    assert compile_query(query, capabilities).path == "client"
    with pytest.raises(UnsupportedFeatureError, match="rank_window_size = 20 inside a fusion of 50"):
        compile_query(query, capabilities, SearchOptions(fusion="server"))
    same = query.replace(legs=(inner.replace(rank_window_size=50), query.legs[1]))
    assert compile_query(same, capabilities).path == "server"


NEAREST = q.knn("v", vector=[1, 2], k=5, num_candidates=50)
"""Before 3.5, OpenSearch finds 50 documents by it (k-NN#3037)."""


@pytest.mark.parametrize("profile_name", ["elasticsearch-basic", "opensearch"])
def test_a_knn_leg_brings_no_more_than_k_hits(profile_name: str) -> None:
    compiled = compile_query(
        q.rrf(NEAREST, q.match("a", fields=["t"])), profile(profile_name), SearchOptions(fusion="client")
    )
    assert [leg.body["size"] for leg in compiled.legs] == [5, 100]


@pytest.mark.parametrize(
    ("query", "options"),
    [
        (q.bool_(must=q.match("a", fields=["t"]), should=NEAREST), {}),
        (NEAREST, {"count": True}),
        (NEAREST, {"aggregations": {"n": {"terms": {"field": "lang"}}}}),
        (q.linear(NEAREST, q.match("a", fields=["t"]), normalizer="l2"), {"fusion": "server"}),
    ],
)
def test_where_no_size_can_cut_a_knn_to_k_more_candidates_are_refused(query: Query, options: Any) -> None:
    old = profile("opensearch", "3.4")
    with pytest.raises(UnsupportedFeatureError, match="num_candidates"):
        compile_query(query, old, SearchOptions(**options))
    compile_query(query, profile("opensearch", "3.5"), SearchOptions(**options))
    if "fusion" in options:
        assert compile_query(query, old).path == "client"
    faiss = IndexPlan(dense={"v": DenseField(dims=2, quantization="faiss_hnsw")})
    compile_query(query, old, SearchOptions(**options), plan=faiss, mapping={"t": "text", "lang": "keyword"})


@pytest.mark.parametrize(
    ("engine", "version", "element", "sent"),
    [
        ("elasticsearch-basic", None, "float", {"rescore_vector": {"oversample": 0}}),
        ("elasticsearch-basic", "9.0", "float", {}),  # rescores nothing unasked, and refuses a 0
        ("elasticsearch-basic", None, "byte", {}),
        ("opensearch", None, "float", {"rescore": False}),
        ("opensearch", "2.19", "float", {"rescore": False}),
        ("opensearch", None, "byte", {}),
    ],
)
def test_an_oversample_of_0_switches_rescoring_off(
    engine: str, version: str | None, element: str, sent: dict[str, Any]
) -> None:
    capabilities = profile(engine, version)
    plan = IndexPlan(dense={"v": DenseField(dims=2, element_type=element, quantization="hnsw")})
    body = to_body(q.knn("v", vector=[1, 2], oversample=0), capabilities, plan=plan)
    leg = body["knn"] if "knn" in body else body["query"]["knn"]["v"]
    assert {name: leg[name] for name in leg if name.startswith("rescore")} == sent


@pytest.mark.parametrize(
    ("engine", "version", "sent"),
    [
        ("opensearch", None, True),
        ("opensearch", "2.19", True),
        ("elasticsearch-basic", "8.18", True),
        ("elasticsearch-basic", "9.0", True),
        ("elasticsearch-basic", None, False),  # its mapping holds it
    ],
)
def test_a_fields_oversample_is_sent_where_the_mapping_cannot_hold_it(
    engine: str, version: str | None, sent: bool
) -> None:
    quantization = "on_disk_4x" if engine == "opensearch" else "int8_hnsw"
    plan = IndexPlan(dense={"v": DenseField(dims=2, quantization=quantization, oversample=2.5)})
    capabilities = profile(engine, version)
    mapping = compile_mapping(plan, capabilities)
    held = "rescore_vector" in json.dumps(mapping.body)
    assert held is not sent
    assert any("sent with each query" in note for note in mapping.notes) is sent
    for query, number in ((q.knn("v", vector=[1, 2]), 2.5), (q.knn("v", vector=[1, 2], oversample=4), 4.0)):
        text = json.dumps(to_body(query, capabilities, plan=mapping.resolved))
        asked = sent or number == 4.0
        assert (f'"oversample": {number}' in text or f'"oversample_factor": {number}' in text) is asked
