"""BERT's family as an OpenVINO graph: BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT and MPNet.

The arithmetic follows the published models (Devlin et al. 2019; Liu et al. 2019 for RoBERTa's position
offset; Sanh et al. 2019 for DistilBERT; Song et al. 2020 for MPNet, whose relative positions are those of
Raffel et al. 2020). Attention is written as matmul + softmax and not as the fused operator, because in
bfloat16 that is an order of magnitude closer to the float32 vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.backends.openvino_graph import Graph
from esembed.encode.models.folder import position_offset, usable_positions

__all__ = ["FAMILY", "hidden_states", "max_positions", "unsupported"]

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet")
"""The values of ``model_type`` that are built here."""


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why this model of :data:`FAMILY` can't be built here, or None when it can."""
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position_embedding_type {config['position_embedding_type']!r}"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is a decoder"
    if position_offset(config) is None:
        return "pad_token_id is null, and positions are counted from it (mostly 1, the id of <pad>)"
    return None


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence the position table allows (RoBERTa loses pad_token_id + 1 rows)."""
    return usable_positions({"max_position_embeddings": 512, **config}) or 0


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where one architecture keeps its tensors (the place of each layer's parts)."""

    layers: int
    heads: int
    eps: float
    act: str
    layer: str
    query: str
    key: str
    value: str
    out: str
    out_norm: str
    up: str
    down: str
    down_norm: str


def _shape(config: Mapping[str, Any]) -> _Shape:
    if config["model_type"] == "distilbert":
        return _Shape(
            config["n_layers"], config["n_heads"], 1e-12, config.get("activation", "gelu"),
            "transformer.layer.", "attention.q_lin", "attention.k_lin", "attention.v_lin",
            "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
        )  # fmt: skip
    if config["model_type"] == "mpnet":
        return _Shape(
            config["num_hidden_layers"], config["num_attention_heads"],
            float(config.get("layer_norm_eps", 1e-12)), config.get("hidden_act", "gelu"),
            "encoder.layer.", "attention.attn.q", "attention.attn.k", "attention.attn.v",
            "attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense",
            "output.LayerNorm",
        )  # fmt: skip
    return _Shape(
        config["num_hidden_layers"], config["num_attention_heads"],
        float(config.get("layer_norm_eps", 1e-12)), config.get("hidden_act", "gelu"),
        "encoder.layer.", "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
        "output.LayerNorm",
    )  # fmt: skip


def hidden_states(graph: Graph, ids: Any, mask: Any) -> Any:
    """The last layer's output, float32 (rows, length, hidden)."""
    from openvino import opset13 as ov

    shape = _shape(graph.config)
    x = _embeddings(graph, ids, shape.eps)
    bias = graph.padding_bias(mask)
    if graph.config["model_type"] == "mpnet":
        bias = ov.add(bias, _relative_bias(graph, ids))
    for i in range(shape.layers):
        x = _layer(graph, f"{graph.prefix}{shape.layer}{i}.", shape, x, bias)
    return x


def _relative_bias(graph: Graph, ids: Any) -> Any:
    """MPNet's addition to the scores, (1, heads, length, length), the same in all layers."""
    table = graph.tensor(f"{graph.prefix}encoder.relative_attention_bias.weight")
    longest = max_positions(graph.config)
    whole = table[_buckets(longest, len(table))].transpose(2, 0, 1)[None]
    return graph.first(whole, graph.length(ids), (2, 3))


def _buckets(length: int, buckets: int, most: int = 128) -> npt.NDArray[np.int64]:
    """Distances to buckets, (length, length): half for each side, exact when near, then logarithmic."""
    place = np.arange(length)
    away = place[:, None] - place[None]  # from a key to its query
    half = buckets // 2
    near = half // 2
    distance = np.abs(away)
    far = near + (
        np.log(np.maximum(distance, 1).astype(np.float32) / near) / math.log(most / near) * (half - near)
    ).astype(np.int64)
    within = np.where(distance < near, distance, np.minimum(far, half - 1))
    places: npt.NDArray[np.int64] = np.where(away < 0, half, 0) + within
    return places


def _embeddings(graph: Graph, ids: Any, eps: float) -> Any:
    from openvino import opset13 as ov

    name = f"{graph.prefix}embeddings."
    offset = position_offset(graph.config) or 0
    positions = graph.tensor(f"{name}position_embeddings.weight")[offset:]
    if graph.has(f"{name}token_type_embeddings.weight"):
        # a single text has type 0 throughout, so the row is added to the positions once
        positions = positions + graph.tensor(f"{name}token_type_embeddings.weight")[0]
    words = ov.gather(
        graph.constant(graph.tensor(f"{name}word_embeddings.weight")), ids, graph.constant(0, np.int64)
    )
    rows = graph.first(positions, graph.length(ids))
    return graph.layer_norm(graph.add(words, rows), f"{name}LayerNorm", eps)


def _layer(graph: Graph, name: str, shape: _Shape, x: Any, bias: Any) -> Any:
    from openvino import opset13 as ov

    width = graph.tensor(f"{name}{shape.query}.weight").shape[0]
    depth = width // shape.heads

    def heads(part: str, axes: list[int], scale: float = 1.0) -> Any:
        weight, b = graph.tensor(f"{name}{part}.weight"), graph.tensor(f"{name}{part}.bias")
        if scale != 1.0:  # into the weights: one pass over the queries less
            weight, b = weight * np.float32(scale), b * np.float32(scale)
        y = graph.heads(graph.affine(x, weight, b), shape.heads, depth)
        return ov.transpose(y, graph.constant(axes, np.int64))

    query = heads(shape.query, [0, 2, 1, 3], depth**-0.5)
    key = heads(shape.key, [0, 2, 3, 1])
    value = heads(shape.value, [0, 2, 1, 3])
    # In bfloat16 the vectors have a cosine of .99997 to float32's this way, of .99983 with
    # scaled_dot_product_attention (MiniLM, openvino 2026.4).
    weights = ov.softmax(ov.add(ov.matmul(query, key, False, False), bias), -1)
    mixed = ov.transpose(ov.matmul(weights, value, False, False), graph.constant([0, 2, 1, 3], np.int64))
    mixed = ov.reshape(mixed, graph.constant([0, 0, width], np.int64), True)
    x = graph.layer_norm(
        graph.add(x, graph.linear(mixed, name + shape.out)), name + shape.out_norm, shape.eps
    )
    wide = graph.activation(graph.linear(x, name + shape.up), shape.act)
    return graph.layer_norm(
        graph.add(x, graph.linear(wide, name + shape.down)), name + shape.down_norm, shape.eps
    )
