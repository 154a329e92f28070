"""Advice: the arithmetic of codes, the choice, the costs; without an engine."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from esembed.advise.advise import Target, Trial, advise, choose
from esembed.advise.cost import encode_cost, footprint, human_count
from esembed.advise.report import COLUMNS, html_page, human_bytes, left_out_lines, plot, rows, svg
from esembed.advise.simulate import FORMS, exact_neighbors, optimized, recall, simulate, unit
from esembed.capabilities import profile
from esembed.errors import OptionsError, PlanError
from esembed.plan import IndexPlan


@pytest.fixture(scope="module")
def sample():
    """Clusters in 128 dims, as embeddings have them: neighbors are close, but not equal."""
    rng = np.random.default_rng(11)
    centers = rng.standard_normal((60, 128))
    spread = 1 / np.sqrt(1 + np.arange(128))
    vectors = centers[rng.integers(60, size=3100)] * 0.5 + rng.standard_normal((3100, 128)) * spread * 2
    made = unit(vectors.astype(np.float32))
    return made[:3000], made[3000:]


PLAN = IndexPlan.from_dict({"text": {"body": {}}, "dense": {"e": {"dims": 128}}})


def test_exact_neighbors_are_the_sorted_dot_products(sample):
    vectors, queries = sample
    found = exact_neighbors(vectors, queries, 5)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :5]
    assert np.array_equal(found, expected)


def test_recall_falls_with_the_bits_and_rises_with_oversampling(sample):
    vectors, queries = sample
    truth = exact_neighbors(vectors, queries, 10)
    plain = {form: recall(simulate(vectors, queries, form, 10), truth, 10) for form in FORMS}
    assert plain["float"] == 1.0
    assert plain["int8"] > 0.95
    assert plain["int8"] >= plain["int4"] >= plain["bbq"] >= plain["bit"]
    rescored = [recall(simulate(vectors, queries, "bbq", 10, oversample=o), truth, 10) for o in (1.5, 3, 6)]
    assert plain["bbq"] < rescored[0] < rescored[1] <= rescored[2]


def test_opensearch_rescores_a_hundred_candidates_at_least(sample):
    vectors, queries = sample
    few = simulate(vectors, queries, "int7_clipped", 10, oversample=1.5)
    hundred = simulate(vectors, queries, "int7_clipped", 10, oversample=10)
    assert few.tolist() == hundred.tolist()
    assert few.tolist() != simulate(vectors, queries, "int7_clipped", 10).tolist()


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_optimized_ends_beat_plain_ones_and_stay_on_a_grid(bits):
    x = np.random.default_rng(2).standard_normal((50, 96)).astype(np.float32)
    rounded = optimized(x, bits)
    assert max(len(np.unique(row.round(5))) for row in rounded) <= 2**bits

    # What the ends are optimised for: the error along the vector, where plain ends are the extremes.
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    plain = low + np.rint((x - low) / step) * step

    def loss(y):
        along = (x * (x - y)).sum(1) ** 2 / (x * x).sum(1)
        return (0.9 * along + 0.1 * ((x - y) ** 2).sum(1)).mean()

    assert loss(rounded) < loss(plain)


def test_a_zero_vector_stays_zero():
    assert not optimized(np.zeros((1, 16), np.float32), 4).any()
    assert not unit(np.zeros((1, 16), np.float32)).any()


def test_the_choice_keeps_the_target_at_the_least_ram(sample):
    vectors, queries = sample
    advice = advise(
        vectors,
        queries,
        PLAN,
        "e",
        target=Target(min_recall=0.95),
        capabilities=profile("elasticsearch-basic"),
    )
    chosen = advice.chosen
    assert chosen is not None
    assert chosen.recall >= 0.95 + 1.64 * chosen.standard_error
    assert chosen.standard_error > 0
    assert chosen.held_back >= 0.93
    cheaper = [
        t for t in advice.trials if t.ram_bytes < chosen.ram_bytes and not t.quantization.endswith("flat")
    ]
    assert all(t.recall < 0.95 + 1.64 * t.standard_error for t in cheaper)
    assert advice.plan.dense["e"].quantization == chosen.quantization
    assert advice.plan.dense["e"].oversample == chosen.oversample
    assert IndexPlan.from_toml(advice.plan.to_toml()) == advice.plan
    assert [s["documents"] for s in advice.scales] == [10**6, 10**7, 10**8]


def test_what_an_engine_lacks_is_never_chosen(sample):
    vectors, queries = sample
    advice = advise(
        vectors,
        queries,
        PLAN,
        "e",
        target=Target(min_recall=0.5),
        capabilities=profile("opensearch-no-native"),
    )
    assert advice.chosen.quantization in ("int8_hnsw", "on_disk_4x", "byte")
    assert any("native" in (t.gap or "") for t in advice.trials if t.quantization == "bbq_hnsw")


def test_an_impossible_target_has_no_choice_and_budgets_count(sample):
    vectors, queries = sample
    es = profile("elasticsearch-basic")
    none = advise(
        vectors, queries, PLAN, "e", target=Target(min_recall=0.95, max_ram_bytes=1000), capabilities=es
    )
    assert none.chosen is None
    assert none.plan is None
    small = advise(
        vectors, queries, PLAN, "e", target=Target(min_recall=0.9, documents=1000), capabilities=es
    )
    assert small.chosen.quantization.endswith("flat")


def test_shorter_dims_are_tried(sample):
    vectors, queries = sample
    advice = advise(
        vectors,
        queries,
        PLAN,
        "e",
        target=Target(min_recall=0.3, margin=0),
        capabilities=profile("elasticsearch-basic"),
        quantizations=["int8_hnsw"],
        dims=[64],
    )
    assert {t.dims for t in advice.trials} == {128, 64}
    assert advice.plan.dense["e"].dims == advice.chosen.dims == 64


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("none", (3000, 128), {}),
        ("e", (3000, 64), {}),
        ("e", (5, 128), {}),
        ("e", (3000, 128), {"dims": [500]}),
        ("e", (3000, 128), {"quantizations": ["zip"]}),
    ],
)
def test_wrong_input_is_refused(sample, name, shape, options):
    vectors, queries = sample
    with pytest.raises(PlanError if name == "none" else OptionsError):
        advise(
            vectors[: shape[0], : shape[1]],
            queries,
            PLAN,
            name,
            capabilities=profile("elasticsearch-basic"),
            **options,
        )


def test_footprints_and_costs():
    eight, one = footprint(10**6, 384, "int8"), footprint(10**6, 384, "bbq")
    assert 384 * 10**6 < eight.ram_bytes < 460 * 10**6
    assert one.ram_bytes < eight.ram_bytes / 3
    assert footprint(10**6, 384, "float", graph=False).disk_bytes == 384 * 4 * 10**6
    assert footprint(10**8, 1024, "float").nodes > footprint(10**8, 1024, "bbq").nodes
    assert footprint(10**6, 384, "int8", replicas=1).disk_bytes == pytest.approx(2 * eight.disk_bytes, abs=2)
    cost = encode_cost(10**6, 100, flops_per_token=22.8e6, flops_per_second=100e12, usd_per_hour=3.6)
    assert cost.usd == pytest.approx(cost.hours * 3.6)
    assert cost.hours == pytest.approx(1e8 / (100e12 * 0.4 / 22.8e6) / 3600)
    with pytest.raises(ValueError, match="tokens_per_second"):
        encode_cost(1, 1)


def test_table_and_plot(sample):
    vectors, queries = sample
    advice = advise(vectors, queries, PLAN, "e", capabilities=profile("elasticsearch-basic"))
    table = rows(advice)
    assert all(len(row) == len(COLUMNS) for row in table)
    assert sum(row[0].endswith("*") for row in table) == 1
    usable = [t for t in advice.trials if t.gap is None and not t.quantization.endswith("flat")]
    assert usable == advice.choosable
    root = ET.fromstring(plot(advice))
    circles = [e for e in root.iter() if e.tag.endswith("circle") and list(e)]
    assert len(circles) == 2 * len(usable), "RAM and disk; nothing measured latency or index time"
    timed = [replace(t, latency_ms=2.0, index_seconds=9.0) for t in usable]
    panels = [e.text for e in ET.fromstring(svg(timed, goal=0.9)).iter() if e.get("font-weight")]
    assert panels == ["RAM", "disk", "latency, ms", "index time, s"]
    assert human_bytes(1536) == "1.5 KiB"


def test_the_conclusion_is_a_choice_or_what_comes_nearest(sample):
    vectors, queries = sample
    es = profile("elasticsearch-basic")
    target = Target(min_recall=0.9, documents=5_000_000)
    advice = advise(vectors, queries, PLAN, "e", target=target, capabilities=es)
    t = advice.chosen
    again = "" if t.oversample is None else f" with oversample {t.oversample:g}"
    room = f"{human_bytes(t.ram_bytes)} RAM and {human_bytes(t.disk_bytes)} disk for 5 million documents"
    assert advice.conclusion == f"Choose {t.quantization}{again}: recall@10 {t.recall:.3f}, {room}"
    assert advice.to_dict()["conclusion"] == advice.conclusion

    tight = replace(target, max_ram_bytes=2**20)
    none = advise(vectors, queries, PLAN, "e", target=tight, capabilities=es, quantizations=["int8_hnsw"])
    assert none.conclusion.startswith(
        "Nothing that was tried keeps recall@10 0.9 within 1 MiB RAM for 5 million documents: int8_hnsw"
    )
    assert "raise the budget" in none.conclusion
    dims = advise(
        vectors, queries, PLAN, "e", target=Target(min_recall=0.3), capabilities=es, quantizations=["hnsw"],
        dims=[64],
    )  # fmt: skip
    assert " at 64 dims: recall@10" in dims.conclusion
    lacking = advise(
        vectors, queries, PLAN, "e", capabilities=profile("opensearch-no-native"), quantizations=["bbq_hnsw"]
    )
    assert lacking.conclusion.startswith("Nothing can be chosen for 1 million documents")
    assert "<svg" not in html_page(lacking)


def test_what_cannot_be_chosen_is_a_line_and_neither_row_nor_dot(sample):
    vectors, queries = sample
    advice = advise(vectors, queries, PLAN, "e", capabilities=profile("opensearch-no-native"))
    shown = {row[0].removesuffix(" *") for row in rows(advice)}
    assert shown == {t.quantization for t in advice.choosable}
    assert not any(name.endswith("flat") or name == "bbq_hnsw" for name in shown)
    lines = "\n".join(left_out_lines(advice))
    assert "bbq_hnsw" in lines
    assert "native" in lines
    named = PLAN.replace(dense={"embedding": PLAN.dense["e"]})
    other = advise(vectors, queries, named, "embedding", capabilities=profile("opensearch-no-native"))
    gap = next(t.gap for t in other.trials if t.quantization == "bbq_hnsw")
    assert "embedding" in gap
    many = advise(vectors, queries, PLAN, "e", capabilities=profile("elasticsearch-basic"))
    assert "flat: brute force, which is not advised above 100,000 documents" in "\n".join(
        left_out_lines(many)
    )
    small = Target(min_recall=0.5, documents=1000)
    few = advise(vectors, queries, PLAN, "e", target=small, capabilities=profile("elasticsearch-basic"))
    assert any(row[0].startswith("flat") for row in rows(few)), "brute force is a choice for a thousand"
    assert "brute force" not in "\n".join(left_out_lines(few))


def test_the_page_begins_with_the_choice_and_the_plot_has_a_legend(sample):
    vectors, queries = sample
    advice = advise(vectors, queries, PLAN, "e", capabilities=profile("elasticsearch-basic"))
    page = html_page(advice, field="<b>e", costs=[{"what": "<i>here", "hours": 1.5, "usd": None}])
    assert f"<p class=lead><b>{advice.conclusion}.</b></p>" in page
    assert "<b>e" not in page
    assert "<i>here" not in page
    texts = [e.text for e in ET.fromstring(plot(advice)).iter() if e.tag.endswith("text")]
    assert {"recall@10", "RAM, logarithmic", "recall asked for", "chosen", "more oversampling"} <= set(texts)


@pytest.mark.parametrize(
    ("number", "words"),
    [(5_000_000, "5 million"), (1_500_000, "1.5 million"), (10**9, "1 billion"), (1_234_567, "1,234,567"),
     (20_000, "20,000"), (1, "1")],
)  # fmt: skip
def test_counts_in_words(number, words):
    assert human_count(number) == words


def test_disk_is_weighed_beside_ram():
    def trial(name, ram, disk):
        return Trial(
            quantization=name, dims=8, oversample=None, simulated=0.99, ram_bytes=ram, disk_bytes=disk
        )

    trials = [trial("int8_hnsw", 100, 4_000), trial("bfloat16", 200, 200), trial("hnsw", 400, 400)]
    assert choose(trials, Target()).quantization == "bfloat16"
    assert choose(trials, Target(disk_per_ram=float("inf"))).quantization == "int8_hnsw"
    assert choose(trials, Target(max_ram_bytes=150)).quantization == "int8_hnsw"
    assert choose(trials, Target(disk_per_ram=1000.0, max_disk_bytes=300)).quantization == "bfloat16"
    # Bytes lose the floats: not for less than a tenth, disk included.
    near = [trial("byte", 100, 1_000), trial("int8_hnsw", 100, 1_200)]
    assert choose(near, Target()).quantization == "int8_hnsw"
    assert (
        choose([trial("byte", 100, 1_000), trial("int8_hnsw", 100, 4_000)], Target()).quantization == "byte"
    )
    with pytest.raises(OptionsError, match="disk_per_ram"):
        Target(disk_per_ram=0)
