"""What the ingest tests share: an encoder without a model, a plan, an index on a live engine."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from query_engines import World

from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.errors import EncoderError
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.pipeline import run_ingest
from esembed.plan import DenseField, FilterField, IndexPlan, LoadOptions, SparseField, TextField

DIMS = 32


@dataclass
class HashEncoder:
    """Unit vectors from a hash of the text: any two texts differ, the same text never does."""

    name: str = "hash"
    seconds_per_text: float = 0.0
    texts: list[str] = field(default_factory=list)
    stats: EncodeStats = field(default_factory=EncodeStats)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(spec="hash", type="dense", dims=DIMS, model=self.name, normalize=True)

    def encode_document(self, texts: Sequence[str]) -> Any:
        if any("REFUSED" in text for text in texts):
            raise EncoderError("this word is not for me")
        if self.seconds_per_text:
            time.sleep(self.seconds_per_text * len(texts))
        out = np.empty((len(texts), DIMS), np.float32)
        for row, text in enumerate(texts):
            seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
            vector = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(DIMS)
            out[row] = vector / np.linalg.norm(vector)
        with self._lock:
            self.texts.extend(texts)
            self.stats.add(EncodeStats(len(texts), sum(len(text.split()) for text in texts)))
        return out

    encode_query = encode_document

    def close(self) -> None:
        pass


PLAN = IndexPlan(
    text={"title": TextField(), "body": TextField()},
    dense={"emb": DenseField(encoder="custom:hash", source=("title", "body"), dims=DIMS)},
    sparse={"terms": SparseField(encoder="lexical", source=("title", "body"))},
    filter={"n": FilterField(type="integer"), "lang": FilterField()},
)
LOADED = PLAN.replace(load=LoadOptions(refresh=False))
"""The same, without refreshes during a load."""


def records(count: int, *, version: str = "") -> list[dict[str, Any]]:
    """Small records, each another one."""
    return [
        {"id": f"d{n}", "title": f"title {n} {version}".strip(), "body": f"body of {n % 7} words", "n": n}
        for n in range(count)
    ]


@dataclass
class Target:
    """An index on a live engine, and how to put records into it."""

    world: World
    index: str
    plan: IndexPlan
    encoders: dict[str, Any]

    def ingest(self, source: Any, **options: Any) -> IngestReport:
        options.setdefault("flush_interval_seconds", 0.05)
        report = run_ingest(
            source,
            client=self.world.client,
            index=self.index,
            plan=self.plan,
            capabilities=self.world.capabilities,
            encoders=self.encoders,
            options=IngestOptions(**options),
        )
        assert report.adds_up, report.to_dict()
        return report

    def all(self) -> dict[str, dict[str, Any]]:
        """Every document with its vectors, by id."""
        return snapshot(self.world.client, self.index, self.world.capabilities.engine)

    def count(self) -> int:
        self.world.client.request("POST", f"/{self.index}/_refresh")
        return int(self.world.client.request("GET", f"/{self.index}/_count").body["count"])


def snapshot(client: Any, index: str, kind: str) -> dict[str, dict[str, Any]]:
    """Every document with its vectors, by id; up to 10,000."""
    client.request("POST", f"/{index}/_refresh", timeout_seconds=120)
    body: dict[str, Any] = {"size": 10_000, "query": {"match_all": {}}}
    if kind == "elasticsearch":
        body["_source"] = {"exclude_vectors": False}
    hits = client.request("POST", f"/{index}/_search", body=body, timeout_seconds=120).body["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


def make(world: World, plan: IndexPlan = PLAN, *, suffix: str = "", dense: Any = None) -> Target:
    """A fresh index with this plan."""
    compiled = compile_mapping(plan, world.capabilities)
    index = world.name + suffix
    world.client.request("PUT", f"/{index}", body=compiled.body)
    encoders: dict[str, Any] = {}
    for name in plan.dense:
        if plan.dense[name].encoder != "precomputed":
            encoders[name] = dense or HashEncoder()
    for name, part in plan.sparse.items():
        if part.encoder != "precomputed":
            encoders[name] = LexicalEncoder()
    return Target(world, index, compiled.resolved, encoders)
