"""What an index is: fields, encoders, quantization, chunks, the default query.

A plan is declarative, immutable, equal by value, and the same in Python, TOML and JSON::

    [text.title]
    boost = 2.0
    [text.body]
    analyzer = "english"

    [dense.embedding]
    encoder = "minilm"
    source = ["title", "body"]

    [sparse.terms]
    encoder = "lexical"
    source = ["title", "body"]

    [filter.lang]
    type = "keyword"

Nothing here talks to an engine; ``esembed.dialect`` compiles a plan for a capability profile.
"""

from __future__ import annotations

from esembed.plan.fields import (
    CandidateRule,
    ChunkOptions,
    DenseField,
    DiskOptions,
    FilterField,
    IndexOptions,
    LoadOptions,
    Quantization,
    SeismicOptions,
    SparseField,
    TextField,
    VectorField,
    engine_endpoint,
)
from esembed.plan.index_plan import IndexPlan
from esembed.plan.params import EncoderParams

__all__ = [
    "CandidateRule",
    "ChunkOptions",
    "DenseField",
    "DiskOptions",
    "EncoderParams",
    "FilterField",
    "IndexOptions",
    "IndexPlan",
    "LoadOptions",
    "Quantization",
    "SeismicOptions",
    "SparseField",
    "TextField",
    "VectorField",
    "engine_endpoint",
]
