"""The engines' scores beside the common scale."""

from __future__ import annotations

import pytest

from esembed.capabilities import profile
from esembed.dialect import dialect_for

ES, OS = profile("elasticsearch-basic"), profile("opensearch")
SIMILARITIES = ("cosine", "dot_product", "l2_norm", "max_inner_product")


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("value", [-0.75, 0.0, 0.5, 1.0])
def test_both_engines_scores_meet_on_the_common_scale(similarity, value):
    common = dialect_for(ES).scores.of_similarity(similarity, value)
    score = dialect_for(OS).scores.of_similarity(similarity, value)
    to_common = dialect_for(OS).scores.to_common(similarity)
    assert (to_common is None) is (similarity != "dot_product")
    assert (score if to_common is None else to_common(score)) == pytest.approx(common)
    assert dialect_for(ES).scores.to_common(similarity) is None


@pytest.mark.parametrize(
    ("name", "version", "factor"),
    [("elasticsearch-basic", None, 1.0), ("opensearch", "2.19", 1.0), ("opensearch", "3.6", 2.5)],
)
def test_bm25_has_its_old_factor_but_on_newer_opensearch(name, version, factor):
    assert dialect_for(profile(name, version)).scores.bm25_factor(1.5) == factor
