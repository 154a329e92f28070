"""What a person reads who wrote a plan wrong, or has another one than the index."""

from __future__ import annotations

import pytest

from esembed.errors import PlanError
from esembed.plan import IndexPlan
from esembed.plan.diff import plan_difference

PLAN = """
id_field = "sku"
[text.title]
boost = 2.0
[dense.e]
encoder = "minilm"
source = ["title"]
dims = 384
[filter.lang]
[filter.place]
type = "geo_point"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("[filter.lang]", "[filter.brand]\n[filter.lang]", "[filter.brand] is new"),
        ("[filter.lang]\n", "", "[filter.lang] is gone"),
        ("384", "128", "dense.e.dims is 384 in the index and 128 in the plan"),
        ("boost = 2.0\n", "", "text.title.boost is 2.0 in the index and not set in the plan"),
        ('["title"]', '["x"]', 'dense.e.source is ["title"] in the index and ["x"] in the plan'),
        ('id_field = "sku"', "", 'id_field is "sku" in the index and not set in the plan'),
    ],
)
def test_only_what_differs_is_named(old: str, new: str, said: str) -> None:
    assert plan_difference(IndexPlan.from_toml(PLAN), IndexPlan.from_toml(PLAN.replace(old, new))) == said


def test_the_order_of_fields_is_no_difference() -> None:
    first = PLAN + "[filter.a]\n"
    second = PLAN.replace("[filter.lang]", "[filter.a]\n[filter.lang]")
    assert plan_difference(IndexPlan.from_toml(first), IndexPlan.from_toml(second)) == ""


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[filter.x]\ntype = 'keywrd'", "filter.x.type: there is no 'keywrd'; did you mean 'keyword'"),
        ("[dense.x]\nencoder = 'minilm'\nsimilarity = 'cos'", "'cosine'.*there are: cosine, dot_product"),
        ("[index]\ndynamic = 'y'", "index.dynamic: there is no 'y' .there are: false, strict, true"),
    ],
)
def test_a_word_that_is_none_is_told_with_those_that_are(toml: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        IndexPlan.from_toml(toml)
