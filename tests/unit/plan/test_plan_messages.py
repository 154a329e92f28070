"""What a person reads who wrote a plan wrong, or has another one than the index."""

from __future__ import annotations

import pytest

from esembed.errors import PlanError
from esembed.plan import IndexPlan
from esembed.plan.checks import check_new
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


SIZED = '[text.body]\n[sparse.s]\nencoder = "precomputed"\nstorage = "seismic"\n'


@pytest.mark.parametrize(
    ("section", "option", "taken", "refused"),
    [
        ("index", "replicas", (0, 1024), (-1, 1025, 10**9, 2**63 - 1)),
        ("load", "replicas", (0, 1024), (-1, 1025, 10**9)),
        ("load", "force_merge_segments", (1, 10_000), (0, -1, 10_001)),
        ("load", "graph_threshold", (-1, 0, 2**31 - 3), (-2, 2**31 - 2, 10**15)),
        ("sparse.s.seismic", "n_postings", (1, 2**31 - 1), (0, -1, 2**31)),
        ("sparse.s.seismic", "cluster_ratio", (0.1, 1.0), (-0.1, 1.1, 1e300)),
        ("sparse.s.seismic", "summary_prune_ratio", (0.4,), (-1.0, 2.0)),
        ("sparse.s.seismic", "approximate_threshold", (0, 10**6), (-1, 2**31)),
        ("sparse.s.seismic", "quantization_ceiling_ingest", (3.0,), (-1.0, 1e300)),
        ("sparse.s.seismic", "quantization_ceiling_search", (3.0,), (-1.0, 1e300)),
    ],
)
def test_what_sizes_an_engines_memory_is_bounded(
    section: str, option: str, taken: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for value in taken:
        check_new(IndexPlan.from_toml(f"{SIZED}[{section}]\n{option} = {value!r}\n"))
    for value in refused:
        with pytest.raises(PlanError, match=rf"{section}\.{option}: it must lie between"):
            check_new(IndexPlan.from_toml(f"{SIZED}[{section}]\n{option} = {value!r}\n"))


def test_long_values_are_cut_to_where_they_differ() -> None:
    words = [f'"word{n}"' for n in range(60)]
    first = PLAN.replace("dims = 384", f"dims = 384\nseparator = {'x' * 200 + 'old' + 'y' * 200!r}")
    second = first.replace("xold", "xnew")
    said = plan_difference(IndexPlan.from_toml(first), IndexPlan.from_toml(second))
    assert "xxold" in said
    assert "xxnew" in said
    assert len(said) < 300
    one, other = (
        PLAN.replace('source = ["title"]', f"source = [{', '.join(w)}]") for w in (words, words[:-1])
    )
    said = plan_difference(IndexPlan.from_toml(one), IndexPlan.from_toml(other))
    assert '"word59"]' in said
    assert '"word58"]' in said
