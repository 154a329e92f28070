"""Floats of an encoder in byte and bit fields: coded on the client, alike for documents and queries."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from esembed import query as q
from esembed._sync.client import EngineClient
from esembed._sync.index import Index
from esembed._sync.probe import probe
from esembed.dialect.quantize_vectors import calibrate, to_bits, to_bytes, unit_scale
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import UnsupportedFeatureError
from esembed.plan import IndexPlan


class Drawn:
    """A text's vector is drawn from its hash."""

    def __init__(self, length=1.0):
        self.length = length
        self.stats = EncodeStats()
        self.info = EncoderInfo(
            spec="hf:test/drawn", type="dense", dims=64, weights_hash="d" * 64, tokenizer_hash="t",
            pooling="mean", normalize=length == 1.0, max_seq_length=64,
        )  # fmt: skip

    def encode_document(self, texts):
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts]
        out = np.stack([np.random.default_rng(seed).standard_normal(64) for seed in seeds])
        return (out / np.linalg.norm(out, axis=1, keepdims=True) * self.length).astype(np.float32)

    encode_query = encode_document

    def close(self):
        """Nothing."""


@pytest.fixture
def client(esembed_engine):
    made = esembed_engine.client()
    yield made
    made.close()


def plan(**options):
    return IndexPlan.from_dict(
        {"text": {"body": {}}, "dense": {"e": {"encoder": "hf:test/drawn", "source": ["body"], **options}}}
    )


@pytest.mark.parametrize(
    "options",
    [
        {"element_type": "byte"},
        {"element_type": "byte", "scale": 300.0},
        {"element_type": "bit", "similarity": "l2_norm"},
    ],
    ids=["byte", "byte with a scale", "bit"],
)
@pytest.mark.parametrize("length", [1.0, 5.0])
def test_every_text_finds_itself(client, esembed_index_name, options, length):
    capabilities = probe(EngineClient(client))
    wanted = plan(**options)
    if options["element_type"] not in capabilities.element_types:
        with pytest.raises(UnsupportedFeatureError, match="native"):
            Index.create(client, esembed_index_name, wanted, encoder=Drawn(length))
        return
    index = Index.create(client, esembed_index_name, wanted, encoder=Drawn(length))
    report = index.ingest([(str(i), {"body": f"text {i}"}) for i in range(200)])
    assert (report.indexed, report.dead_lettered) == (200, 0)
    opened = Index.open(client, esembed_index_name, encoder=Drawn(length))
    if options["element_type"] == "byte":
        assert opened.plan.dense["e"].scale == options.get("scale", unit_scale(64))
    for i in range(0, 200, 20):
        assert opened.search(q.knn("e", text=f"text {i}", k=5), size=1).ids == [str(i)]
        given = Drawn().encode_query([f"text {i}"])[0]
        assert opened.search(q.knn("e", vector=given, k=5), size=1).ids == [str(i)]


def test_given_bytes_stay_and_given_floats_need_a_scale(client, esembed_index_name):
    bare = IndexPlan.from_dict({"dense": {"e": {"dims": 8, "element_type": "byte"}}})
    index = Index.create(client, esembed_index_name, bare)
    report = index.ingest([("a", {"e": [1, 2, 3, 4, 5, 6, 7, -128]}), ("b", {"e": [0.5] * 8})])
    assert (report.indexed, report.dead_lettered) == (1, 1)
    assert "scale" in report.errors[0].reason
    assert index.search(q.knn("e", vector=[1, 2, 3, 4, 5, 6, 7, -128], k=1), size=1).ids == ["a"]


def test_codes_and_their_calibration():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((2000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = calibrate(vectors)
    codes = to_bytes(vectors, scale, normalize=False)
    assert codes.dtype == np.int8
    assert (np.abs(codes) == 127).mean() < 2e-4
    assert np.abs(codes).max() == 127
    assert np.abs(codes / scale - vectors).max() < 0.6 / scale + np.abs(vectors).max() - 127 / scale
    assert np.array_equal(to_bytes(vectors * 9, scale, normalize=True), codes)
    bits = to_bits(vectors)
    assert bits.shape == (2000, 8)
    assert np.array_equal(np.unpackbits(bits.view(np.uint8), axis=1), (vectors > 0).astype(np.uint8))
