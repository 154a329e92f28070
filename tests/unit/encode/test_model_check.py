"""The encoder contract: every way to differ is found, none that doesn't matter is."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from esembed.encode import model_check
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.precomputed import PrecomputedEncoder
from esembed.errors import ContractError
from esembed.types import SparseVector

INFO = EncoderInfo(
    spec="hf:some/model",
    type="dense",
    dims=96,
    model="some/model",
    revision="c0ffee",
    weights_hash="a" * 64,
    tokenizer_hash="b" * 64,
    pooling="mean",
    normalize=True,
    max_seq_length=128,
    query_prompt="query: ",
    document_prompt="passage: ",
    extra={"heads": ["dense:768:96:tanh"], "layers": 6, "casing": "lower"},
    runtime={"backend": "openvino", "dtype": "float32"},
)
TABLE = np.random.default_rng(5).standard_normal((4096, 768)).astype(np.float32)


class Hashing:
    """A real little encoder: hashed words, pooled; everything that can differ is a switch."""

    def __init__(self, info=INFO, *, lower=True, limit=None, pool="mean", noise=0.0, table=TABLE, **other):
        self.info = info
        self.stats = EncodeStats()
        self.lower, self.limit, self.pool, self.noise, self.table = (
            lower,
            limit or info.max_seq_length,
            pool,
            noise,
            table,
        )
        self.normalize = other.get("normalize", info.normalize)
        self.strip = other.get("strip", False)
        self.ascii = other.get("ascii", False)
        self.scale = other.get("scale", 1.0)
        self.prompts = other.get("prompts", (info.query_prompt, info.document_prompt))
        self.reverse = other.get("reverse", False)
        self.bias = other.get("bias", 0.0)

    def _encode(self, texts, prompt):
        rows = []
        for text in texts:
            text = prompt + text
            if self.lower:
                text = text.lower()
            if self.ascii:
                text = text.encode("ascii", "ignore").decode()
            if self.strip:
                text = text.replace("\t", " ").replace("\n", " ").replace("/", " ")
            words = text.split()[: self.limit]
            if self.reverse:
                words = words[1:]
            ids = [sum(ord(c) * 31**i for i, c in enumerate(w)) % len(self.table) for w in words]
            vectors = self.table[ids]
            row = (
                vectors.mean(0)
                if self.pool == "mean"
                else vectors[0]
                if self.pool == "cls"
                else vectors.max(0)
            )
            rows.append(row[: self.info.dims] + self.bias)
        out = np.stack(rows)
        if self.noise:
            out = out + np.random.default_rng(1).standard_normal(out.shape) * self.noise * np.abs(out).mean()
        if self.normalize:
            out = out / np.linalg.norm(out, axis=1, keepdims=True)
        return (out * self.scale).astype(np.float32)

    def encode_document(self, texts):
        return self._encode(texts, self.prompts[1])

    def encode_query(self, texts):
        return self._encode(texts, self.prompts[0])

    def close(self):
        """Nothing."""


STORED = json.loads(json.dumps(model_check.make_contract(Hashing())))


def declared(**changes):
    return Hashing(dataclasses.replace(INFO, **changes))


OTHER_TABLE = TABLE + np.random.default_rng(6).standard_normal(TABLE.shape).astype(np.float32) * 0.2
DECLARED = {
    "revision": declared(revision="decaf"),
    "weights": declared(weights_hash="c" * 64),
    "tokenizer": declared(tokenizer_hash="c" * 64),
    "pooling": declared(pooling="cls"),
    "dims shorter": declared(dims=64),
    "dims longer": declared(dims=128),
    "normalize": declared(normalize=False),
    "max_seq_length shorter": declared(max_seq_length=64),
    "max_seq_length longer": declared(max_seq_length=256),
    "query prompt": declared(query_prompt="search: "),
    "query prompt gone": declared(query_prompt=""),
    "query prompt's space": declared(query_prompt="query:"),
    "document prompt": declared(document_prompt="text: "),
    "document prompt gone": declared(document_prompt=""),
    "prompts swapped": declared(query_prompt="passage: ", document_prompt="query: "),
    "head": declared(extra={**INFO.extra, "heads": ["dense:768:96:identity"]}),
    "head gone": declared(extra={"layers": 6, "casing": "lower"}),
    "layers": declared(extra={**INFO.extra, "layers": 5}),
    "casing": declared(extra={**INFO.extra, "casing": "kept"}),
    "something new": declared(extra={**INFO.extra, "whitening": "x"}),
}
UNDECLARED = {
    "other weights": Hashing(table=OTHER_TABLE),
    "casing": Hashing(lower=False),
    "truncation shorter": Hashing(limit=100),
    "truncation longer": Hashing(limit=140),
    "pooling cls": Hashing(pool="cls"),
    "pooling max": Hashing(pool="max"),
    "not normalized": Hashing(normalize=False),
    "scaled": Hashing(scale=1.1),
    "unicode lost": Hashing(ascii=True),
    "white space and slashes": Hashing(strip=True),
    "query prompt ignored": Hashing(prompts=("", INFO.document_prompt)),
    "document prompt ignored": Hashing(prompts=(INFO.query_prompt, "")),
    "prompts swapped": Hashing(prompts=("passage: ", "query: ")),
    "first token dropped": Hashing(reverse=True),
    "a bias": Hashing(bias=0.3),
    "eight bits": Hashing(noise=0.2),
}


def test_there_are_thirty_ways():
    assert len(DECLARED) + len(UNDECLARED) >= 30


@pytest.mark.parametrize("way", DECLARED)
def test_declared_differences_are_found_without_encoding(way):
    encoder = DECLARED[way]
    encoder.encode_document = encoder.encode_query = None
    with pytest.raises(ContractError) as caught:
        model_check.check_contract(STORED, encoder, field="e")
    assert caught.value.field == "e"
    assert caught.value.differences
    assert "migrate" in str(caught.value)


@pytest.mark.parametrize("way", UNDECLARED)
def test_undeclared_differences_are_caught_by_canaries(way):
    with pytest.raises(ContractError) as caught:
        model_check.check_contract(STORED, UNDECLARED[way], field="e")
    assert all(name.startswith("canaries") for name in caught.value.differences)


@pytest.mark.parametrize(
    "encoder",
    [
        Hashing(),
        Hashing(noise=0.01),
        declared(runtime={"backend": "torch", "dtype": "bfloat16"}),
        declared(spec="hf:/some/folder", model="folder", revision=None),
    ],
    ids=["itself", "rounding", "backend", "a copy in a folder"],
)
def test_what_does_not_matter_raises_nothing(encoder):
    model_check.check_contract(STORED, encoder, field="e")
    assert model_check.compare_contracts(STORED, model_check.make_contract(encoder)) == {}


def test_a_remote_encoder_is_judged_by_its_canaries():
    remote = EncoderInfo(
        spec="openai:x", type="dense", dims=96, model="x", query_prompt="query: ", document_prompt="passage: "
    )
    kwargs = {"normalize": True, "limit": 128}
    stored = model_check.make_contract(Hashing(remote, **kwargs))
    model_check.check_contract(stored, Hashing(remote, **kwargs), field="e")
    assert "canaries only" in model_check.describe_contract(stored)["checked_by"]
    with pytest.raises(ContractError, match="canaries"):
        model_check.check_contract(stored, Hashing(remote, **kwargs, table=OTHER_TABLE), field="e")


def test_sparse_and_given_encoders():
    lexical = LexicalEncoder(avgdl=50.0)
    stored = model_check.make_contract(lexical)
    assert "query" not in stored["canaries"]
    model_check.check_contract(stored, LexicalEncoder(avgdl=50.0), field="s")
    for other in (
        LexicalEncoder(avgdl=51.0),
        LexicalEncoder(avgdl=50.0, language="english"),
        LexicalEncoder(avgdl=50.0, k1=0.9),
    ):
        with pytest.raises(ContractError):
            model_check.check_contract(stored, other, field="s")
    assert "canaries" not in model_check.make_contract(PrecomputedEncoder(8))


def test_sparse_canaries_notice_other_weights():
    a = {"canaries": {"document": model_check._canaries([SparseVector.from_dict({"x": 1.0, "y": 2.0})])}}
    b = {"canaries": {"document": model_check._canaries([SparseVector.from_dict({"x": 1.9, "y": 1.0})])}}
    assert model_check._canary_differences(a, a, "s") == {}
    assert "canaries.document" in model_check._canary_differences(a, b, "s")


def test_it_is_small_and_holds_no_spec():
    text = json.dumps(STORED)
    assert len(text) < 2600
    assert "hf:" not in text


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"version": 99, "declared": {}},
        {"version": "1", "declared": {}},
        {"version": 1, "declared": []},
        {**STORED, "canaries": []},
        {**STORED, "canaries": {"document": {"dims": 10**9, "vectors": "AAAA", "norms": []}}},
        {**STORED, "canaries": {"document": {"dims": 64, "vectors": "not base64!", "norms": [1]}}},
        {**STORED, "canaries": {"document": {"dims": 64, "vectors": "AAAA" * 64, "norms": None}}},
        {**STORED, "canaries": {"document": "x" * 1000}},
    ],
)
def test_a_damaged_or_hostile_contract_is_a_clear_error(damage):
    with pytest.raises(ContractError):
        model_check.check_contract(damage, Hashing(), field="e")


def test_canaries_reach_beyond_the_limit_and_cover_case_and_unicode():
    texts = model_check.canaries(256)
    assert len(texts[-1].split()) > 256
    assert any(t != t.lower() for t in texts)
    assert any(not t.isascii() for t in texts)
    assert len(model_check.canaries(100_000)[-1].split()) <= model_check.LONGEST_CANARY
