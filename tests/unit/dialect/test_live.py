"""A live mapping beside a plan: given fields that the index has."""

from __future__ import annotations

import pytest

from esembed.capabilities import profile
from esembed.dialect import dialect_for
from esembed.dialect.live import (
    mapped_types,
    match_existing_fields,
    merged_mapping,
    missing_fields,
    nested_path,
    settings_drift,
    type_of,
)
from esembed.plan import DenseField, DiskOptions, IndexOptions, IndexPlan, LoadOptions, SparseField

ES, OS = profile("elasticsearch-basic"), profile("opensearch")


def match(capabilities, live, **fields):
    plan = IndexPlan(
        dense={n: f for n, f in fields.items() if isinstance(f, DenseField)},
        sparse={n: f for n, f in fields.items() if isinstance(f, SparseField)},
    )
    return match_existing_fields(plan, {"properties": live}, capabilities)


@pytest.mark.parametrize(("capabilities", "names"), [
    (ES, ("hnsw", "int8_hnsw", "int4_hnsw", "bbq_hnsw", "flat", "int8_flat")),
    (OS, ("hnsw", "int8_hnsw", "bbq_hnsw", "on_disk_1x", "on_disk_4x", "on_disk_16x", "faiss_hnsw",
          "faiss_fp16", "flat")),
])  # fmt: skip
def test_a_field_is_read_back_as_it_was_compiled(capabilities, names):
    for name in names:
        field = DenseField(dims=128, quantization=name, similarity="dot_product")
        compiled = dialect_for(capabilities).mapping.compile(IndexPlan(dense={"e": field}))
        live = compiled.body["mappings"]["properties"]
        found = match(capabilities, live, e=DenseField(dims=128, similarity="dot_product"))
        assert (found.problems, found.fields) == ((), {"e"})
        assert found.plan.dense["e"].quantization == name
        assert match(capabilities, live, e=field).problems == ()


def test_contradictions_come_all_at_once():
    live = {"e": {"type": "dense_vector", "dims": 4, "similarity": "l2_norm", "index": False,
                  "index_options": {"type": "hnsw", "m": 8}}}  # fmt: skip
    found = match(ES, live, e=DenseField(dims=8, quantization="int8_hnsw", m=16))
    assert [line.partition(":")[0] for line in found.problems] == [
        "dense.e",
        "dense.e.dims",
        "dense.e.similarity",
        "dense.e.quantization",
        "dense.e.m",
    ]
    assert "a dense field is knn_vector here" in match(OS, live, e=DenseField(dims=4)).problems[0]


def test_options_on_disk_are_read_back():
    paid = profile("elasticsearch-enterprise")
    live = {"e": {"type": "dense_vector", "dims": 4, "similarity": "cosine", "index_options": {
        "type": "bbq_disk", "cluster_size": 384, "default_visit_percentage": 0.0, "bits": 1}}}  # fmt: skip
    found = match(paid, live, e=DenseField(dims=4))
    assert (found.problems, found.plan.dense["e"].quantization) == ((), "bbq_disk")
    same = DiskOptions(cluster_size=384, default_visit_percentage=0, bits=1, precondition=False)
    assert match(paid, live, e=DenseField(dims=4, disk=same)).problems == ()
    other = DiskOptions(cluster_size=64, bits=2, precondition=True, on_disk_rescore=False)
    assert match(paid, live, e=DenseField(dims=4, disk=other)).problems == (
        "dense.e.disk.cluster_size: 64 in the plan, 384 in the index",
        "dense.e.disk.bits: 2 in the plan, 1 in the index",
        "dense.e.disk.precondition: True in the plan, False in the index",
    )


def test_settings_that_differ_from_the_plan_are_told():
    index = IndexOptions(filter_heuristic="acorn", early_termination=True)
    compiled = dialect_for(ES).mapping.compile(IndexPlan(index=index))
    live = {"dense_vector": {"hnsw_filter_heuristic": "acorn", "hnsw_enable_early_termination": "true"}}
    assert settings_drift(compiled, live) == ()
    heuristic, termination = settings_drift(compiled, {"dense_vector": {"hnsw_filter_heuristic": "fanout"}})
    assert heuristic.startswith("~ index.filter_heuristic (dense_vector.hnsw_filter_heuristic): ")
    assert heuristic.endswith("the plan says acorn, the index has fanout")
    assert termination.startswith("~ index.early_termination (")
    assert termination.endswith("the plan says True, the index has nothing")
    optimized = dialect_for(OS).mapping.compile(IndexPlan(index=IndexOptions(memory_optimized_search=True)))
    assert settings_drift(optimized, {"knn": "true", "knn.memory_optimized_search": "true"}) == ()


def test_an_oversample_that_an_existing_mapping_lacks_is_told():
    wanted = DenseField(dims=4, quantization="int8_hnsw", oversample=3.0)
    bare = {"e": {"type": "dense_vector", "dims": 4, "index_options": {"type": "int8_hnsw"}}}
    (note,) = match(ES, bare, e=wanted).notes
    assert "oversample" in note
    bare["e"]["index_options"]["rescore_vector"] = {"oversample": 3.0}
    (note,) = match(ES, bare, e=wanted).notes
    assert "oversample" not in note
    # There the query sends it, whatever the mapping says.
    old = profile("elasticsearch-basic", "9.0")
    del bare["e"]["index_options"]["rescore_vector"]
    assert "oversample" not in match(old, bare, e=wanted).notes[0]


def test_a_sparse_fields_type_is_each_engines_own():
    live = {"s": {"type": "sparse_vector"}}
    assert match(ES, live, s=SparseField(encoder="precomputed")).plan.sparse["s"].storage == "sparse_vector"
    assert match(OS, live, s=SparseField(encoder="precomputed")).plan.sparse["s"].storage == "seismic"
    assert match(ES, live, s=SparseField(encoder="precomputed", storage="rank_features")).problems
    assert (
        "rank_features or sparse_vector"
        in match(ES, {"s": {"type": "text"}}, s=SparseField(encoder="precomputed")).problems[0]
    )


def test_what_the_index_has_not_or_encoders_fill_is_left_alone():
    live = {"other": {"type": "dense_vector", "dims": 4}}
    found = match(ES, live, e=DenseField(dims=4))
    assert (found.fields, found.notes, found.problems) == (frozenset(), (), ())
    made = match(ES, {"e": {"type": "keyword"}}, e=DenseField(dims=384, encoder="minilm", source=("body",)))
    assert (made.fields, made.problems) == (frozenset(), ())


def test_settings_for_a_load():
    load = LoadOptions(refresh=False, replicas=0, graph_threshold=-1)
    settings, notes = dialect_for(OS).mapping.load_settings(load)
    assert settings == {
        "refresh_interval": "-1",
        "number_of_replicas": 0,
        "knn.advanced.approximate_threshold": -1,
    }
    assert notes == ()
    settings, notes = dialect_for(ES).mapping.load_settings(load)
    assert settings == {"refresh_interval": "-1", "number_of_replicas": 0}
    assert "does nothing here" in notes[0]


def test_types_of_keys_and_nested_objects():
    types = {"labels": "flattened", "parts": "nested", "parts.name": "keyword"}
    assert type_of("labels.color", types) == "keyword"
    assert nested_path("parts.name", types) == "parts"
    assert missing_fields(["labels.color", "gone"], types) == ["gone"]


def test_mappings_of_several_indices_are_one():
    first = {
        "_meta": {"from": "first"},
        "properties": {
            "n": {"type": "keyword"},
            "meta": {"properties": {"a": {"type": "keyword"}}},
            "t": {"type": "text"},
        },
    }
    second = {
        "_meta": {"from": "second"},
        "_source": {"excludes": ["t"]},
        "properties": {
            "n": {"type": "long", "fields": {"raw": {"type": "keyword"}}},
            "meta": {"properties": {"a": {"type": "date"}, "b": {"properties": {"c": {"type": "ip"}}}}},
            "t": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
            "parts": {"type": "nested", "properties": {"p": {"type": "long"}}},
        },
        "runtime": {"shade": {"type": "keyword"}},
    }
    whole = merged_mapping([first, second])
    assert mapped_types(whole) == {
        "n": "keyword",  # the first one's, and its sub-fields
        "meta": "object",
        "meta.a": "keyword",
        "meta.b": "object",
        "meta.b.c": "ip",
        "t": "text",
        "t.keyword": "keyword",
        "parts": "nested",
        "parts.p": "long",
        "shade": "keyword",
    }
    assert whole["_meta"] == {"from": "first"}
    assert whole["_source"] == {"excludes": ["t"]}, "what one of them leaves out isn't whole"
    assert mapped_types(merged_mapping([second, first]))["n"] == "long"
    assert first["properties"]["meta"] == {"properties": {"a": {"type": "keyword"}}}, "unchanged"
