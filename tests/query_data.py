"""Small collections for the search tests, the same on every run."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from esembed.dialect import dialect_for
from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import EncoderError
from esembed.plan import ChunkOptions, DenseField, FilterField, IndexPlan, SparseField, TextField
from esembed.types import SparseVector

WORDS = "red green blue dog cat house tree sun moon star fox river stone cloud bird".split()  # noqa: SIM905
DIMS = 8


def engine_url(request: pytest.FixtureRequest, kind: str) -> str:
    """Where the engine listens: a URL from outside, or the pytest plugin's engine."""
    url = os.environ.get(f"ESEMBED_{kind.upper()}_URL")
    if url:
        return url
    engine = request.getfixturevalue(f"esembed_{kind}")
    return str(engine if isinstance(engine, str) else engine.url)


def embed(text: str) -> np.ndarray[Any, Any]:
    """A vector that words decide: near for texts that share words. Shape (DIMS,), length 1."""
    total = np.zeros(DIMS)
    for word in text.lower().split():
        total += np.random.default_rng(sum(map(ord, word)) * 7919).normal(size=DIMS)
    norm = float(np.linalg.norm(total))
    return (total / norm if norm else np.full(DIMS, 1 / math.sqrt(DIMS))).astype(np.float32)


class TinyDense:
    """A real encoder, small: vectors by words. Counts its calls, and fails on the text "broken"."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.stats = EncodeStats()

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(spec="tiny", type="dense", dims=DIMS, normalize=True)

    def encode_document(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return np.stack([embed(text) for text in texts])

    def encode_query(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        self.calls.append(len(texts))
        if "broken" in texts:
            raise EncoderError("the model can't read this text", spec="tiny")
        return self.encode_document(texts)

    def close(self) -> None:
        """Nothing to release."""


def plan(**changes: Any) -> IndexPlan:
    """Text, dense, sparse and filters."""
    return IndexPlan(
        text={"title": TextField(boost=2.0), "body": TextField()},
        # Unquantized, so that every engine and every path compares the same vectors.
        dense={"embedding": DenseField(dims=DIMS, quantization="hnsw")},
        sparse={"terms": SparseField(encoder="precomputed")},
        filter={
            "lang": FilterField(),
            "price": FilterField(type="integer"),
            "place": FilterField(type="geo_point"),
        },
    ).replace(**changes)


def chunk_plan(store: str) -> IndexPlan:
    """Documents in chunks."""
    return IndexPlan(
        text={"title": TextField()},
        dense={"embedding": DenseField(dims=DIMS, quantization="hnsw", chunked=True)},
        sparse={"terms": SparseField(encoder="precomputed", chunked=True)},
        filter={"lang": FilterField()},
        chunk=ChunkOptions(source=("title",), store=store),  # type: ignore[arg-type]
    )


def documents(count: int = 60, seed: int = 1) -> dict[str, dict[str, Any]]:
    """Documents by id: fields, ``embedding`` and ``terms``."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    for number in range(count):
        body = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 14)))
        found[f"d{number:03}"] = {
            "title": rng.choice(WORDS),
            "body": body,
            "lang": rng.choice(["en", "de"]),
            "price": rng.randint(1, 50),
            "place": {"lat": 52.5 + number / 100, "lon": 13.4},
            "embedding": np.array([rng.gauss(0, 1) for _ in range(DIMS)], np.float32),
            "terms": {word: round(rng.random() + 0.1, 3) for word in rng.sample(WORDS, 4)},
        }
    return found


def mapping_body(the_plan: IndexPlan, capabilities: Any) -> dict[str, Any]:
    """The body of ``PUT /index``."""
    return dict(compile_mapping(the_plan, capabilities).body)


def bulk_bytes(the_plan: IndexPlan, capabilities: Any, docs: dict[str, dict[str, Any]]) -> bytes:
    """The documents as bulk lines; with ``chunks``, a list of texts, each becomes a chunk."""
    form = dialect_for(capabilities).documents.bulk(the_plan)
    data = b""
    for doc_id, doc in docs.items():
        source = {k: v for k, v in doc.items() if k not in ("embedding", "terms", "chunks")}
        chunk = the_plan.chunk
        if chunk is None:
            vectors = {"embedding": doc["embedding"], "terms": SparseVector.from_dict(doc["terms"])}
            data += form.index_lines(doc_id, form.body(source, vectors, content_hash="0"))
            continue
        parts = [(text, chunk_vectors(text)) for text in doc["chunks"]]
        if chunk.store == "nested":
            data += form.index_lines(doc_id, form.body(source, {}, content_hash="0", chunks=parts))
            continue
        data += form.index_lines(doc_id, form.body(source, {}, content_hash="0"))
        for number, (text, vectors) in enumerate(parts):
            body = form.chunk_body(doc_id, source, text, vectors, "0")
            data += form.index_lines(f"{doc_id}#{number}", body)
    return data


def chunk_vectors(text: str) -> dict[str, Any]:
    """One chunk's vectors."""
    words = dict.fromkeys(text.split(), 1.0)
    return {"embedding": embed(text), "terms": SparseVector.from_dict(words)}
