"""Plans to mappings: every gap at once, with its remedy; explicit values stay; drift."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esembed.capabilities import profile
from esembed.dialect import dialect_for
from esembed.dialect.live import drift
from esembed.dialect.mapping import compile_mapping
from esembed.errors import PlanError, UnsupportedFeatureError
from esembed.plan import DenseField, DiskOptions, IndexOptions, IndexPlan

ES = profile("elasticsearch-basic")
OS = profile("opensearch")
LOCAL = profile("opensearch-no-native")
PAID = profile("elasticsearch-enterprise")
PAID_REDUCED = replace(PAID, quantizations=PAID.quantizations - {"bbq_disk"}, distribution="reduced")


def dense(**options):
    return IndexPlan.from_dict({"dense": {"e": {"encoder": "precomputed", "dims": 128, **options}}})


def field(plan, capabilities):
    return compile_mapping(plan, capabilities).body["mappings"]["properties"]["e"]


def gaps(plan, capabilities):
    with pytest.raises(UnsupportedFeatureError) as caught:
        compile_mapping(plan, capabilities)
    return caught.value.gaps


@pytest.mark.parametrize("capabilities", [ES, OS, LOCAL])
def test_auto_is_resolved_and_told(capabilities):
    compiled = compile_mapping(dense(), capabilities)
    assert compiled.resolved.dense["e"].quantization == "int8_hnsw"
    assert any("auto" in note for note in compiled.notes)
    again = compile_mapping(compiled.resolved, capabilities)
    assert again.body == compiled.body
    assert again.resolved == compiled.resolved


@pytest.mark.parametrize("quantization", sorted(ES.quantizations - {"auto"}))
def test_elasticsearch_takes_its_literals(quantization):
    assert field(dense(quantization=quantization), ES)["index_options"]["type"] == quantization


def test_elasticsearch_options():
    made = field(dense(quantization="bbq_hnsw", m=32, ef_construction=200, oversample=3.0), ES)
    assert made["index_options"] == {
        "type": "bbq_hnsw",
        "m": 32,
        "ef_construction": 200,
        "rescore_vector": {"oversample": 3.0},
    }
    assert field(dense(element_type="bfloat16"), ES)["element_type"] == "bfloat16"
    bit = field(dense(element_type="bit", similarity="l2_norm"), ES)
    assert (bit["element_type"], bit["index_options"]["type"]) == ("bit", "hnsw")


@pytest.mark.parametrize(
    ("options", "capabilities", "words"),
    [
        ({"dims": 32, "quantization": "bbq_hnsw"}, ES, "at least 64 dims"),
        ({"dims": 33, "quantization": "int4_hnsw"}, ES, "even number"),
        ({"dims": 5000}, ES, "4096"),
        ({"quantization": "bbq_disk"}, ES, "license"),
        ({"quantization": "on_disk_32x"}, ES, "OpenSearch's"),
        ({"quantization": "bbq_hnsw"}, profile("elasticsearch-basic", "8.15"), "8.16"),
        ({"element_type": "bfloat16"}, profile("elasticsearch-basic", "9.2"), "9.3"),
        ({"element_type": "byte", "quantization": "int8_hnsw"}, ES, "not quantized further"),
        ({"element_type": "bit"}, ES, "Hamming"),
        ({"element_type": "bit", "similarity": "l2_norm", "dims": 100}, ES, "multiple of 8"),
        ({"quantization": "flat", "m": 16}, ES, "HNSW"),
        ({"quantization": "hnsw", "oversample": 2.0}, ES, "nothing to rescore"),
        ({"quantization": "bbq_hnsw"}, LOCAL, "native libraries"),
        ({"quantization": "faiss_fp16"}, LOCAL, "native libraries"),
        ({"quantization": "flat"}, LOCAL, "native libraries"),
        ({"quantization": "on_disk_32x"}, LOCAL, "native libraries"),
        ({"element_type": "bit", "similarity": "l2_norm"}, LOCAL, "Faiss"),
        ({"element_type": "bfloat16"}, OS, "faiss_fp16"),
        ({"quantization": "bbq_disk"}, PAID_REDUCED, "module diskbbq"),
        ({"quantization": "bbq_disk", "disk": {"bits": 2}}, profile("elasticsearch-basic", "9.2"), "no bits"),
        ({"quantization": "int8_hnsw", "disk": {"cluster_size": 64}}, ES, "is of bbq_disk"),
        ({"quantization": "hnsw", "disk": {"on_disk_rescore": True}}, ES, "the field is hnsw"),
        ({"disk": {"auto_calibrate": True}}, OS, "options of Elasticsearch"),
        ({"quantization": "on_disk_1x"}, ES, "OpenSearch's"),
        ({"quantization": "on_disk_1x"}, LOCAL, "native libraries"),
        ({"quantization": "on_disk_1x"}, profile("opensearch", "2.19"), "came with OpenSearch 3.1"),
        ({"quantization": "on_disk_1x", "oversample": 2.0}, OS, "nothing to rescore"),
        ({"quantization": "int4_flat"}, OS, "no int4_flat"),
        ({"quantization": "faiss_pq"}, OS, "trained model"),
    ],
)
def test_what_the_engine_lacks_is_a_gap(options, capabilities, words):
    found = gaps(dense(**options), capabilities)
    assert any(words in gap for gap in found), found
    assert all(";" in gap for gap in found)


def test_all_gaps_come_at_once():
    plan = IndexPlan.from_dict(
        {
            "text": {"body": {"analyzer": "english"}},
            "dense": {
                "a": {"encoder": "precomputed", "dims": 31, "quantization": "int4_hnsw"},
                "b": {"encoder": "precomputed", "dims": 31, "quantization": "bbq_disk"},
            },
            "sparse": {"s": {"encoder": "precomputed", "storage": "seismic"}},
            "filter": {"pop": {"type": "rank_feature"}},
        }
    )
    found = gaps(plan, profile("elasticsearch-reduced"))
    for start in ("text.body", "dense.a", "dense.b", "sparse.s", "filter.pop"):
        assert any(gap.startswith(start) for gap in found)


@pytest.mark.parametrize(
    ("quantization", "part"),
    [
        ("hnsw", {"method": {"name": "hnsw", "engine": "lucene"}}),
        ("on_disk_4x", {"mode": "on_disk", "compression_level": "4x"}),
        ("on_disk_16x", {"mode": "on_disk", "compression_level": "16x"}),
        ("flat", {"method": {"name": "flat", "engine": "lucene"}}),
        ("faiss_hnsw", {"method": {"name": "hnsw", "engine": "faiss"}}),
    ],
)
def test_opensearch_forms(quantization, part):
    made = field(dense(quantization=quantization), OS)
    assert made.items() >= part.items()


def test_opensearch_never_names_a_native_method_without_the_libraries():
    for quantization in LOCAL.quantizations:
        made = field(dense(quantization=quantization), LOCAL)
        assert made["method"]["engine"] == "lucene"
        assert made["method"].get("parameters", {}).get("encoder", {}).get("parameters", {}).get("bits") in (
            None,
            7,
        )


def test_trained_faiss_fields_name_their_model():
    assert field(dense(quantization="faiss_ivf", model_id="m1"), OS) == {
        "type": "knn_vector",
        "model_id": "m1",
    }


def test_sparse_storages():
    plan = IndexPlan.from_dict({"sparse": {"e": {"encoder": "precomputed"}}})
    assert field(plan, ES) == {"type": "sparse_vector", "index_options": {"prune": False}}
    assert field(plan, profile("elasticsearch-basic", "8.16")) == {"type": "sparse_vector"}
    assert field(plan, OS) == {"type": "rank_features"}
    seismic = plan.from_dict(
        {"sparse": {"e": {"encoder": "precomputed", "storage": "seismic", "seismic": {"n_postings": 100}}}}
    )
    compiled = compile_mapping(seismic, LOCAL)
    assert compiled.body["settings"]["index"]["sparse"] is True
    assert field(seismic, LOCAL)["method"] == {"name": "seismic", "parameters": {"n_postings": 100}}


def test_bm25_parameters_become_similarities_shared_by_value():
    plan = IndexPlan.from_dict(
        {"text": {"a": {"k1": 0.9}, "b": {"k1": 0.9, "b": 0.75}, "c": {"b": 0.1}, "d": {}}}
    )
    body = compile_mapping(plan, ES).body
    names = [body["mappings"]["properties"][n].get("similarity") for n in "abcd"]
    assert names == ["esembed_bm25_1", "esembed_bm25_1", "esembed_bm25_2", None]
    assert body["settings"]["index"]["similarity"]["esembed_bm25_2"] == {"type": "BM25", "k1": 1.2, "b": 0.1}


def test_dotted_names_are_objects_and_chunks_nested():
    plan = IndexPlan.from_dict(
        {
            "text": {"meta.title": {}},
            "dense": {"e": {"encoder": "minilm", "chunked": True}},
            "chunk": {"source": ["meta.title"]},
        }
    )
    properties = compile_mapping(plan, ES).body["mappings"]["properties"]
    assert properties["meta"]["properties"]["title"]["type"] == "text"
    assert properties["chunks"]["type"] == "nested"
    assert properties["chunks"]["properties"]["e"]["dims"] == 384


def test_a_field_inside_a_field_is_refused():
    for text in ({"a": {}, "a.b": {}}, {"a.b": {}, "a": {}}):
        with pytest.raises(PlanError):
            compile_mapping(IndexPlan.from_dict({"text": text}), ES)


def test_unknown_dims_are_told():
    plan = IndexPlan.from_dict({"dense": {"e": {"encoder": "hf:some/model", "source": ["a"]}}})
    with pytest.raises(PlanError, match=r"dense\.e\.dims"):
        compile_mapping(plan, ES)


DISK = {
    "cluster_size": 128,
    "default_visit_percentage": 2.5,
    "on_disk_rescore": True,
    "bits": 2,
    "precondition": True,
    "flat_index_threshold": 0,
    "auto_calibrate": False,
}


def test_options_on_disk_are_written_as_they_are():
    plan = dense(dims=3, quantization="bbq_disk", oversample=2.0, disk=DISK)
    assert field(plan, PAID)["index_options"] == {
        "type": "bbq_disk",
        "rescore_vector": {"oversample": 2.0},
        **DISK,
    }
    assert IndexPlan.from_toml(plan.to_toml()) == plan
    assert IndexPlan.from_dict(plan.to_dict()) == plan
    rescored = dense(quantization="int8_hnsw", disk={"on_disk_rescore": True, "flat_index_threshold": 10})
    assert field(rescored, ES)["index_options"] == {
        "type": "int8_hnsw",
        "on_disk_rescore": True,
        "flat_index_threshold": 10,
    }
    old = compile_mapping(dense(quantization="bbq_disk"), profile("elasticsearch-basic", "9.2"))
    assert any("Enterprise" in note for note in old.notes)
    assert not any("Enterprise" in note for note in compile_mapping(plan, PAID).notes)


@pytest.mark.parametrize(
    ("option", "value"),
    [("cluster_size", 63), ("default_visit_percentage", 100.5), ("bits", 3), ("flat_index_threshold", -2)],
)
def test_options_on_disk_that_no_engine_takes(option, value):
    with pytest.raises(PlanError, match=rf"dense\.e\.disk\.{option}"):
        compile_mapping(dense(quantization="bbq_disk", disk={option: value}), PAID)


def test_what_the_index_decides_about_searching_vectors():
    def settings(capabilities, **options):
        plan = dense().replace(index=IndexOptions(**options))
        return compile_mapping(plan, capabilities).body["settings"]["index"]

    made = settings(ES, filter_heuristic="fanout", early_termination=True)
    assert made["dense_vector.hnsw_filter_heuristic"] == "fanout"
    assert made["dense_vector.hnsw_enable_early_termination"] is True
    assert settings(OS, memory_optimized_search=True)["knn.memory_optimized_search"] is True
    for capabilities, option, value, words in (
        (OS, "filter_heuristic", "acorn", "alone"),
        (OS, "early_termination", True, "alone"),
        (profile("elasticsearch-basic", "9.0"), "filter_heuristic", "acorn", "9.1"),
        (profile("elasticsearch-basic", "9.1"), "early_termination", False, "9.2"),
        (ES, "memory_optimized_search", True, "alone"),
        (LOCAL, "memory_optimized_search", True, "native libraries"),
        (profile("opensearch", "3.0"), "memory_optimized_search", True, "3.1"),
    ):
        found = gaps(dense().replace(index=IndexOptions(**{option: value})), capabilities)
        assert [words in gap and gap.startswith(f"index.{option}:") for gap in found] == [True]


def test_settings_of_an_open_index_that_can_be_changed():
    def changes(capabilities, **new):
        mapping = dialect_for(capabilities).mapping
        return mapping.changed_settings(IndexOptions(early_termination=True), IndexOptions(**new))

    assert changes(ES, early_termination=True) == {}
    assert changes(ES, filter_heuristic="acorn") == {
        "dense_vector.hnsw_filter_heuristic": "acorn",
        "dense_vector.hnsw_enable_early_termination": None,
    }
    assert changes(ES, early_termination=True, shards=2) is None
    assert changes(OS, early_termination=True, memory_optimized_search=True) is None


def test_in_place_upgrades_go_one_way():
    def can(old, new, capabilities=ES, **other):
        was, becomes = DenseField(dims=8, quantization=old), DenseField(dims=8, quantization=new, **other)
        return dialect_for(capabilities).mapping.can_change_in_place(was, becomes)

    assert can("int8_hnsw", "bbq_hnsw")
    assert can("flat", "hnsw")
    assert can("flat", "hnsw", m=32, oversample=2.0)
    assert can("int8_hnsw", "int8_hnsw")
    assert not can("bbq_hnsw", "int8_hnsw")
    assert not can("hnsw", "bbq_disk")
    assert can("bbq_disk", "bbq_disk", disk=DiskOptions(default_visit_percentage=5, bits=4))
    assert not can("bbq_disk", "bbq_disk", disk=DiskOptions(precondition=True))
    assert not can("flat", "hnsw", similarity="l2_norm")
    assert not can("int8_hnsw", "bbq_hnsw", OS)


def test_drift_names_what_changed():
    compiled = compile_mapping(IndexPlan.from_dict({"text": {"title": {}}, "dense": {"e": {"dims": 8}}}), ES)
    live = {
        "dynamic": "false",
        "properties": {
            "esembed_hash": {"type": "keyword", "index": False},
            "titel": {"type": "keyword"},
            "e": {
                "type": "dense_vector",
                "dims": 8,
                "index": True,
                "similarity": "cosine",
                "index_options": {"type": "int4_hnsw", "m": 16},
            },
        },
    }
    lines = drift(compiled, live)
    assert not any("esembed_hash" in line for line in lines), "stored apart or not, it is the same field"
    assert any(line.startswith("- title") and "titel" in line for line in lines)
    assert "~ e.index_options.type: the plan says int8_hnsw, the index has int4_hnsw" in lines
    assert any(line.startswith("+ titel") for line in lines)
    assert len(lines) == 3
