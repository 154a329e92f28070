"""Causal decoders as an OpenVINO graph: Llama, Mistral, Qwen2 and Qwen3, as embedding models use them.

Root-mean-square norms before attention and the gated layers, rotary positions, keys and values shared by
groups of heads (Touvron et al. 2023; Jiang et al. 2023; Yang et al. 2024 and 2025). Texts are padded on the
right, where no real token sees the padding, so there is no mask beyond the causal one. Attention is matmul +
softmax: the runtime fuses it, and it is faster than its operator for attention (14 % of all with 28 layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.backends.openvino_graph import Graph
from esembed.encode.foreign_errors import shown
from esembed.errors import EncoderError

__all__ = ["FAMILY", "hidden_states", "max_positions", "rope_theta", "rotary_tables", "unsupported"]

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""The values of ``model_type`` that are built here."""


_MOST_ANGLES = 1 << 27
"""A million tokens in heads of 128 dimensions: 1 GiB of angles. No tensor accounts for these numbers, so a
config.json could ask for any amount of memory."""


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why this model of :data:`FAMILY` can't be built here, or None when it can."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        return f"rotary positions of type {shown(kind)} (rope_parameters or rope_scaling in config.json)"
    if rope_theta(config) is None:
        return "config.json states no rope_theta"
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        return "attention in both directions"
    return None


def rope_theta(config: Mapping[str, Any]) -> float | None:
    """The base of the rotary positions' wave lengths; transformers 5 writes it into ``rope_parameters``."""
    rope = config.get("rope_parameters") or {}
    value = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    return float(value) if isinstance(value, int | float) else None


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence: the model's, or the window beyond which attention would be cut."""
    longest = int(config.get("max_position_embeddings", 32_768))
    window = config.get("sliding_window")
    slides = config.get("use_sliding_window", config["model_type"] == "mistral")
    return min(longest, int(window)) if window and slides else longest


def rotary_tables(
    theta: float, depth: int, positions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines, each float32 (positions, depth), the second half of the depth like the first."""
    if positions * depth > _MOST_ANGLES:
        raise EncoderError(
            f"config.json asks for rotary positions of {positions} tokens times {depth}, which is more than "
            "is built here"
        )
    waves = theta ** -(np.arange(0, depth, 2, dtype=np.float64) / depth)
    angles = np.arange(positions, dtype=np.float64)[:, None] * waves[None]
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def hidden_states(graph: Graph, ids: Any, mask: Any) -> Any:
    """The last layer's output behind the final norm, float32 (rows, length, hidden)."""
    from openvino import opset13 as ov

    config, p = graph.config, graph.prefix
    eps = float(config.get("rms_norm_eps", 1e-6))
    heads = int(config["num_attention_heads"])
    depth = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    x = ov.gather(graph.constant(graph.tensor(f"{p}embed_tokens.weight")), ids, graph.constant(0, np.int64))
    length = graph.length(ids)
    theta = rope_theta(config) or 0.0
    cosines, sines = rotary_tables(theta, depth, max_positions(config))
    tables = (graph.first(cosines, length), graph.first(sines, length))
    # the scores' factor is in the queries' tables: a pass over the scores less
    factor = np.float32(depth**-0.5)
    scaled = (graph.first(cosines * factor, length), graph.first(sines * factor, length))
    ahead = _ahead(graph, length)
    for i in range(int(config["num_hidden_layers"])):
        name = f"{p}layers.{i}."
        normed = graph.rms_norm(x, f"{name}input_layernorm", eps)
        x = graph.add(x, _attention(graph, f"{name}self_attn.", normed, heads, depth, scaled, tables, ahead))
        normed = graph.rms_norm(x, f"{name}post_attention_layernorm", eps)
        gate = graph.activation(
            graph.linear(normed, f"{name}mlp.gate_proj"), config.get("hidden_act", "silu")
        )
        wide = graph.multiply(gate, graph.linear(normed, f"{name}mlp.up_proj"))
        x = graph.add(x, graph.linear(wide, f"{name}mlp.down_proj"))
    return graph.rms_norm(x, f"{p}norm", eps)


def _ahead(graph: Graph, length: Any) -> Any:
    """(length, length): 0 at a query's own place and before, a large negative number after."""
    from openvino import opset13 as ov

    later = ov.less(graph.distances(length), graph.constant(0, np.int64))
    return ov.select(later, graph.constant(-10000.0), graph.constant(0.0))


def _attention(
    graph: Graph,
    name: str,
    x: Any,
    heads: int,
    depth: int,
    scaled: tuple[Any, Any],
    tables: tuple[Any, Any],
    ahead: Any,
) -> Any:
    from openvino import opset13 as ov

    pairs = int(graph.config.get("num_key_value_heads") or heads)
    eps = float(graph.config.get("rms_norm_eps", 1e-6))
    order = graph.constant([0, 2, 1, 3], np.int64)

    def split(part: str, count: int) -> Any:
        return graph.heads(graph.linear(x, name + part), count, depth)

    def placed(y: Any, norm: str, rotation: tuple[Any, Any]) -> Any:
        if graph.has(f"{name}{norm}.weight"):
            y = graph.rms_norm(y, name + norm, eps)
        return graph.rotated(ov.transpose(y, order), rotation)

    def shared(y: Any) -> Any:
        """Each head of keys and values for its group of queries."""
        if pairs == heads:
            return y
        places = graph.constant(np.repeat(np.arange(pairs), heads // pairs), np.int64)
        return ov.gather(y, places, graph.constant(1, np.int64))

    query = placed(split("q_proj", heads), "q_norm", scaled)
    key = shared(placed(split("k_proj", pairs), "k_norm", tables))
    value = shared(ov.transpose(split("v_proj", pairs), order))
    weights = ov.softmax(ov.add(ov.matmul(query, key, False, True), ahead), -1)
    mixed = ov.transpose(ov.matmul(weights, value, False, False), order)
    mixed = ov.reshape(mixed, graph.constant([0, 0, heads * depth], np.int64), True)
    return graph.linear(mixed, f"{name}o_proj")
