"""Quantizations measured on each real engine: recall near the simulated one, sizes near the estimate."""

from __future__ import annotations

import numpy as np
import pytest

from esembed._sync.client import EngineClient
from esembed._sync.probe import probe
from esembed.advise.advise import CANDIDATES, Target, advise
from esembed.advise.cost import footprint
from esembed.advise.measure import measure
from esembed.advise.simulate import exact_neighbors, graph_share, recall, simulate_many, unit
from esembed.dialect.quantize_vectors import calibrate
from esembed.plan import DenseField, IndexPlan


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(4)
    spread = 1 / np.sqrt(1 + np.arange(128) / 8)
    made = unit((rng.standard_normal((1030, 128)) * spread).astype(np.float32))
    return made[:1000], made[1000:]


@pytest.fixture
def live(esembed_engine):
    client = esembed_engine.client()
    return client, probe(EngineClient(client))


def test_measured_and_emulated_agree(live, sample):
    client, capabilities = live
    vectors, queries = sample
    truth = exact_neighbors(vectors, queries, 10)
    for name in ("int8_hnsw", "bbq_hnsw", "byte"):
        candidate = CANDIDATES[name].on(capabilities)
        if candidate.quantization not in capabilities.quantizations:
            continue
        form = candidate.form
        part = DenseField(
            dims=128,
            quantization=candidate.quantization,
            element_type=candidate.element_type,
            scale=calibrate(vectors) if form == "byte" else None,
        )
        seen = measure(client, capabilities, vectors, queries, truth, part, oversamples=(1.0, 3.0))
        codes = simulate_many(vectors, queries, form, 10, (None, 3.0))
        for oversample, shares in seen.shares.items():
            simulated = recall(codes[oversample if oversample > 1 else None], truth, 10) * graph_share(1000)
            # 300 neighbors: one in a hundred is three of them.
            assert float(np.mean(shares)) == pytest.approx(simulated, abs=0.06), (name, oversample)
        # Elasticsearch builds no graph over so few vectors.
        least, most = (footprint(1000, 128, form, graph=graph) for graph in (False, True))
        assert least.ram_bytes * 0.999 <= seen.ram_bytes <= most.ram_bytes * 1.1, name
        assert least.disk_bytes * 0.999 <= seen.vector_disk_bytes <= most.disk_bytes * 1.1, name
        assert seen.disk_bytes > seen.vector_disk_bytes


def test_nothing_is_left_behind(live, sample):
    client, capabilities = live
    vectors, queries = sample
    plan = IndexPlan(dense={"e": DenseField(dims=128)})
    advice = advise(
        vectors[:200],
        queries[:6],
        plan,
        "e",
        target=Target(min_recall=0.5),
        capabilities=capabilities,
        client=client,
        quantizations=["hnsw", "int8_hnsw"],
        oversamples=(None,),
    )
    assert advice.chosen is not None
    assert advice.chosen.measured is not None
    answer = EngineClient(client).request("GET", "/_cat/indices/esembed-advise-*", params={"format": "json"})
    assert answer.body == []
