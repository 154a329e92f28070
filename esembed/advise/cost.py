"""Bytes, machines, hours and dollars: what a plan will need, predicted from its parts.

The parts per document were checked against Elasticsearch 9.5's and OpenSearch 3.6's own statistics; what
a prediction is made of stands in the result, so that it can be argued with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["EncodeCost", "Footprint", "encode_cost", "footprint", "human_bytes", "human_count"]

_CODE_BYTES = {
    # What Lucene writes, checked against _disk_usage and file sizes of real segments (docs/quantization.md):
    # per dimension, and per vector: interval ends, correction and component sum
    "float": (4.0, 0),
    "bfloat16": (2.0, 0),
    "int8": (1.0, 16),
    "int7": (1.0, 4),
    "int7_clipped": (1.0, 4),
    "int4": (0.5, 16),
    "bbq": (0.125, 14),
    "byte": (1.0, 0),
    "bit": (0.125, 0),
}
SHARD_BYTES = 40 * 2**30
"""A comfortable shard; Elastic's advice is 10 to 50 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What the vectors of one field take.

    Attributes:
        documents: vectors.
        ram_bytes: what has to stay in memory for fast searches: codes and graph.
        disk_bytes: codes, graph and full vectors.
        bytes_per_document: of the disk.
        shards: primaries of at most 40 GiB.
        nodes: to hold the RAM, each with *node_ram_bytes* of which half is for the page cache.
    """

    documents: int
    ram_bytes: int
    disk_bytes: int
    bytes_per_document: float
    shards: int
    nodes: int


def footprint(
    documents: int,
    dims: int,
    form: str,
    *,
    graph: bool = True,
    m: int = 16,
    node_ram_bytes: int = 64 * 2**30,
    replicas: int = 0,
) -> Footprint:
    """The field's RAM and disk.

    Args:
        form: one of :data:`~esembed.advise.simulate.FORMS`.
        graph: an HNSW graph over it (no: flat).
        m: the graph's links; a node of the bottom layer has up to 2·m.
    """
    per_dim, per_vector = _CODE_BYTES[form]
    codes = documents * (dims * per_dim + per_vector)
    full = 0.0 if form in ("float", "bfloat16", "byte", "bit") else documents * dims * 4.0
    links = documents * _link_bytes(documents, m) if graph else 0.0
    ram = codes + links
    disk = codes + links + full
    copies = 1 + replicas
    return Footprint(
        documents=documents,
        ram_bytes=int(ram * copies),
        disk_bytes=int(disk * copies),
        bytes_per_document=disk / max(documents, 1),
        shards=max(1, math.ceil(disk / SHARD_BYTES)),
        nodes=max(1, math.ceil(ram * copies / (node_ram_bytes / 2))),
    )


def _link_bytes(documents: int, m: int) -> float:
    """Bytes of one document in Lucene's graph file.

    Of the up to 2·m links of the bottom layer the diversity rule leaves about 1.25·m (measured: 19.8 and
    21.5 at m = 16). They are sorted, and their gaps written as group varints: whole bytes, and two bits
    for the length. The rest is for the number of links, the offset, and the layers above.
    """
    links = 1.25 * m
    gap = max(documents, 2) / (links + 1)
    size = 0.25 + 1.0 + sum(math.exp(-(256.0**byte) / gap) for byte in range(1, 4))
    return links * size + 4.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCost:
    """What encoding takes.

    Attributes:
        hours: of one machine or accelerator.
        usd: at the price given, or None.
        tokens_per_second: what it was computed from.
    """

    hours: float
    usd: float | None
    tokens_per_second: float


def encode_cost(
    documents: int,
    tokens_per_document: float,
    *,
    tokens_per_second: float | None = None,
    flops_per_token: float | None = None,
    flops_per_second: float | None = None,
    utilization: float = 0.4,
    usd_per_hour: float | None = None,
) -> EncodeCost:
    """Hours and dollars to encode, from a speed measured here or from an accelerator's FLOP/s.

    Args:
        tokens_per_second: measured; else the next two are needed.
        flops_per_token: about 2 × the parameters that each token passes through.
        flops_per_second: the accelerator's peak in the dtype used.
        utilization: the share of the peak that encoders reach, 0…1.

    Raises:
        ValueError: neither a speed nor both FLOP figures.
    """
    if tokens_per_second is None:
        if flops_per_token is None or flops_per_second is None:
            raise ValueError("give tokens_per_second, or flops_per_token and flops_per_second")
        tokens_per_second = flops_per_second * utilization / flops_per_token
    hours = documents * tokens_per_document / tokens_per_second / 3600
    usd = None if usd_per_hour is None else hours * usd_per_hour
    return EncodeCost(hours=hours, usd=usd, tokens_per_second=tokens_per_second)


def human_bytes(number: float) -> str:
    """``1.5 GiB``."""
    for name in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {name}"
        number /= 1024
    return f"{number:.3g} TiB"


def human_count(number: int) -> str:
    """``5 million``; what isn't round in millions stays as it is, with commas."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size and number % (size // 100) == 0:
            return f"{number / size:g} {word}"
    return f"{number:,}"
