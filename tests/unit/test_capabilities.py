"""Profiles by name, and what versions imply."""

from __future__ import annotations

import pytest

from esembed.capabilities import PROFILES, Version, profile
from esembed.errors import OptionsError


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_there_and_cached(name):
    made = profile(name)
    assert made.profile == name
    assert made.engine == name.partition("-")[0]
    assert profile(name) is made
    assert made.analyzers >= {"standard", "whitespace"}


@pytest.mark.parametrize(
    ("name", "version", "attribute", "value", "present"),
    [
        ("elasticsearch-basic", "8.15", "quantizations", "int4_hnsw", True),
        ("elasticsearch-basic", "8.15", "quantizations", "bbq_hnsw", False),
        ("elasticsearch-basic", "8.16", "quantizations", "bbq_hnsw", True),
        ("elasticsearch-basic", "9.5", "quantizations", "bbq_disk", False),
        ("elasticsearch-enterprise", "9.1", "quantizations", "bbq_disk", False),
        ("elasticsearch-enterprise", "9.2", "quantizations", "bbq_disk", True),
        ("elasticsearch-basic", "9.2", "quantizations", "bbq_disk", True),
        ("elasticsearch-basic", "9.3", "quantizations", "bbq_disk", False),
        ("elasticsearch-enterprise", "9.3", "quantizations", "bbq_disk", True),
        ("elasticsearch-enterprise", "9.2", "disk_options", "on_disk_rescore", False),
        ("elasticsearch-enterprise", "9.3", "disk_options", "on_disk_rescore", True),
        ("elasticsearch-enterprise", "9.4", "disk_options", "auto_calibrate", False),
        ("opensearch", "3.0", "quantizations", "on_disk_1x", False),
        ("opensearch", "3.1", "quantizations", "on_disk_1x", True),
        ("opensearch-no-native", "3.6", "quantizations", "on_disk_1x", False),
        ("elasticsearch-basic", "9.2", "element_types", "bfloat16", False),
        ("elasticsearch-basic", "9.3", "element_types", "bfloat16", True),
        ("opensearch", "3.6", "quantizations", "on_disk_32x", True),
        ("opensearch", "3.5", "quantizations", "flat", False),
        ("opensearch-no-native", "3.6", "quantizations", "bbq_hnsw", False),
        ("opensearch-no-native", "3.6", "quantizations", "on_disk_4x", True),
        ("opensearch-no-native", "3.6", "element_types", "bit", False),
        ("opensearch", "2.19", "sparse_storages", "seismic", False),
        ("elasticsearch-reduced", "9.5", "analyzers", "english", False),
        ("elasticsearch-basic", "9.5", "analyzers", "english", True),
    ],
)
def test_versions_and_licenses(name, version, attribute, value, present):
    assert (value in getattr(profile(name, version), attribute)) is present


@pytest.mark.parametrize(
    ("name", "version", "rrf", "weights", "base64"),
    [
        ("elasticsearch-basic", "9.5", False, False, True),
        ("elasticsearch-enterprise", "8.15", False, False, False),
        ("elasticsearch-enterprise", "9.1", True, False, False),
        ("elasticsearch-enterprise", "9.2", True, True, False),
        ("opensearch", "2.19", False, False, False),
        ("opensearch", "3.6", True, True, False),
    ],
)
def test_fusion_and_vectors(name, version, rrf, weights, base64):
    made = profile(name, version)
    assert (made.rrf, made.rrf_weights, made.base64_vectors) == (rrf, weights, base64)


@pytest.mark.parametrize(
    ("name", "version"),
    [("solr", None), ("opensearch", "2.11"), ("opensearch", "new"), ("elasticsearch", None)],
)
def test_wrong_names_and_versions(name, version):
    with pytest.raises(OptionsError):
        profile(name, version)


def test_versions_compare_as_numbers():
    assert Version.parse("9.10.0") > Version.parse("9.9.9-SNAPSHOT")
    assert str(Version.parse("3.6")) == "3.6.0"
