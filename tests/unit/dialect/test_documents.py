"""How each engine takes a document and gives it back."""

from __future__ import annotations

import pickle

import numpy as np
import orjson
import pytest

from esembed.capabilities import PROFILES, profile
from esembed.dialect import dialect_for
from esembed.dialect.documents import dumps
from esembed.errors import RecordError
from esembed.plan import DenseField, IndexPlan, SparseField
from esembed.types import SparseVector

ES, OS = profile("elasticsearch-basic"), profile("opensearch")


def documents(capabilities):
    return dialect_for(capabilities).documents


@pytest.mark.parametrize(
    ("capabilities", "storage", "wanted", "target"),
    [
        (ES, "auto", "sparse_vector", "elasticsearch.sparse_vector"),
        (ES, "rank_features", "rank_features", "elasticsearch.rank_features"),
        (OS, "auto", "rank_features", "opensearch.rank_features"),
        (OS, "seismic", "seismic", "opensearch.sparse_vector"),
    ],
)
def test_a_sparse_fields_storage_and_names(capabilities, storage, wanted, target):
    field = SparseField(storage=storage)
    assert documents(capabilities).sparse_storage(field) == wanted
    assert documents(capabilities).token_target(field) == target
    assert documents(capabilities).sparse_storage(None) == documents(capabilities).auto_storage


@pytest.mark.parametrize("capabilities", [ES, OS])
@pytest.mark.parametrize("storage", ["auto", "rank_features"])
def test_a_sparse_vector_comes_back(capabilities, storage):
    form, field = documents(capabilities), SparseField(storage=storage)
    weights = {"a.b": 0.5, "": 2.0, "plain": 1.25, "%2E": 0.25}
    stored = orjson.loads(dumps(form.sparse_value("s", field, SparseVector.from_dict(weights))))
    assert form.read_sparse(field, stored) == weights
    assert form.read_sparse(field, None) is None


def test_seismic_ids_come_back_as_numbers():
    field = SparseField(storage="seismic")
    stored = documents(OS).sparse_value("s", field, SparseVector.from_dict({"cat": 1.5}), {"cat": 7})
    assert stored == {"7": np.float32(1.5)}
    assert documents(OS).read_sparse(field, {"7": 1.5}) == {7: 1.5}


def test_a_weight_that_engines_refuse_names_its_field():
    with pytest.raises(RecordError, match="above 0") as caught:
        documents(ES).sparse_value("s", SparseField(), SparseVector(("a",), np.array([0.0], np.float32)))
    assert caught.value.field == "s"


@pytest.mark.parametrize(("name", "version", "packed"), [("elasticsearch-basic", "9.5", True),
                                                         ("elasticsearch-basic", "9.2", False),
                                                         ("opensearch", None, False)])  # fmt: skip
def test_a_dense_vector_comes_back_exactly(name, version, packed):
    form, field = documents(profile(name, version)), DenseField(dims=3)
    vector = np.array([0.1, -2.5, 1e-8], np.float32)
    stored = orjson.loads(dumps(form.dense_value(field, vector)))
    assert isinstance(stored, str) is packed
    np.testing.assert_array_equal(form.read_dense(stored), vector)
    assert form.read_dense(None) is None


def test_vectors_are_asked_for_where_the_engine_leaves_them_out():
    new, old = documents(ES), documents(profile("elasticsearch-basic", "9.1"))
    assert new.source_params(excludes=["a", "b"], vectors=True) == {
        "_source_excludes": "a,b",
        "_source_exclude_vectors": "false",
    }
    assert new.source_filter(excludes=["a"], vectors=True) == {"excludes": ["a"], "exclude_vectors": False}
    assert new.source_filter(excludes=["a"]) == {"excludes": ["a"]}
    for form in (old, documents(OS)):
        assert form.source_params(vectors=True) == {}
        assert form.source_filter(vectors=True) == {"excludes": []}


def test_points_in_time():
    assert documents(ES).pit.close_body("x") == {"id": "x"}
    assert documents(OS).pit.close_body("x") == {"pit_id": ["x"]}


@pytest.mark.parametrize("name", PROFILES)
def test_a_dialect_travels_to_another_process(name):
    dialect = dialect_for(profile(name))
    for part in (dialect.documents, dialect.mapping, dialect.scores, dialect.documents.bulk(IndexPlan())):
        assert pickle.loads(pickle.dumps(part)) == part
