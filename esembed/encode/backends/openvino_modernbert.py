"""ModernBERT as an OpenVINO graph (Warner et al. 2024).

Norms come before attention and the gated layers, positions are rotary, and most layers see a window only: as
many tokens to each side as half of ``local_attention``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esembed.encode.backends.openvino_decoder import rotary_tables
from esembed.encode.backends.openvino_graph import Graph

__all__ = ["FAMILY", "hidden_states", "max_positions", "unsupported"]

FAMILY = ("modernbert",)
"""The values of ``model_type`` that are built here."""


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why this model can't be built here, or None when it can."""
    for kind in ("global", "local"):
        if _theta(config, kind) is None:
            return f"config.json states no rotary base (rope_theta) for {kind} attention"
    if not _listed(config):
        return "layer_types in config.json has fewer entries than num_hidden_layers"
    return None


def _listed(config: Mapping[str, Any]) -> bool:
    """Whether ``layer_types``, where it is stated, has a kind for each layer."""
    kinds = config.get("layer_types")
    return not kinds or len(kinds) >= int(config["num_hidden_layers"])


def _theta(config: Mapping[str, Any], kind: str) -> float | None:
    """transformers 5 writes ``rope_parameters`` by the kind of layer, before there was ``…_rope_theta``."""
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        layer = rope.get("full_attention" if kind == "global" else "sliding_attention")
        if not isinstance(layer, dict) or layer.get("rope_type", "default") != "default":
            return None
        value = layer.get("rope_theta")
    else:
        value = config.get(f"{kind}_rope_theta") or config.get("global_rope_theta")
    return float(value) if isinstance(value, int | float) else None


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence, in tokens."""
    return int(config.get("max_position_embeddings", 8192))


def hidden_states(graph: Graph, ids: Any, mask: Any) -> Any:
    """The last layer's output behind the final norm, float32 (rows, length, hidden)."""
    from openvino import opset13 as ov

    config, p = graph.config, graph.prefix
    eps = float(config.get("norm_eps", 1e-5))
    heads = int(config["num_attention_heads"])
    depth = int(config["hidden_size"]) // heads
    length = graph.length(ids)
    words = graph.constant(graph.tensor(f"{p}embeddings.tok_embeddings.weight"))
    x = graph.layer_norm(ov.gather(words, ids, graph.constant(0, np.int64)), f"{p}embeddings.norm", eps)
    padding = graph.padding_bias(mask)
    biases = {"global": padding, "local": ov.add(padding, _beyond_window(graph, length))}
    tables: dict[str, Any] = {}
    for kind in ("global", "local"):
        whole = rotary_tables(_theta(config, kind) or 0.0, depth, max_positions(config))
        tables[kind] = tuple(graph.first(one, length) for one in whole)
    for i in range(int(config["num_hidden_layers"])):
        name, kind = f"{p}layers.{i}.", _kind(config, i)
        normed = graph.layer_norm(x, f"{name}attn_norm", eps) if graph.has(f"{name}attn_norm.weight") else x
        x = graph.add(x, _attention(graph, f"{name}attn.", normed, heads, depth, tables[kind], biases[kind]))
        wide = graph.linear(graph.layer_norm(x, f"{name}mlp_norm", eps), f"{name}mlp.Wi")
        taken, gate = ov.split(wide, graph.constant(-1, np.int64), 2).outputs()
        act = config.get("hidden_activation", "gelu")
        x = graph.add(x, graph.linear(ov.multiply(graph.activation(taken, act), gate), f"{name}mlp.Wo"))
    return graph.layer_norm(x, f"{p}final_norm", eps)


def _kind(config: Mapping[str, Any], layer: int) -> str:
    kinds = config.get("layer_types")
    if kinds:
        return "global" if kinds[layer] == "full_attention" else "local"
    return "global" if layer % int(config.get("global_attn_every_n_layers", 3)) == 0 else "local"


def _beyond_window(graph: Graph, length: Any) -> Any:
    """(length, length): 0 within the window, a large negative number beyond."""
    from openvino import opset13 as ov

    reach = int(graph.config.get("local_attention", 128)) // 2
    away = ov.abs(graph.distances(length))
    return ov.select(
        ov.less_equal(away, graph.constant(reach, np.int64)), graph.constant(0.0), graph.constant(-10000.0)
    )


def _attention(
    graph: Graph, name: str, x: Any, heads: int, depth: int, tables: tuple[Any, Any], bias: Any
) -> Any:
    from openvino import opset13 as ov

    fused = graph.tensor(f"{name}Wqkv.weight")
    bias_of = graph.tensor(f"{name}Wqkv.bias") if graph.has(f"{name}Wqkv.bias") else None
    width = heads * depth

    def split(place: int, axes: list[int], scale: float = 1.0) -> Any:
        part = slice(place * width, (place + 1) * width)
        added = None if bias_of is None else bias_of[part] * np.float32(scale)
        y = graph.affine(x, fused[part] * np.float32(scale), added)
        return ov.transpose(graph.heads(y, heads, depth), graph.constant(axes, np.int64))

    query = graph.rotated(split(0, [0, 2, 1, 3], depth**-0.5), tables)
    key = graph.rotated(split(1, [0, 2, 1, 3]), tables)
    value = split(2, [0, 2, 1, 3])
    weights = ov.softmax(ov.add(ov.matmul(query, key, False, True), bias), -1)
    mixed = ov.transpose(ov.matmul(weights, value, False, False), graph.constant([0, 2, 1, 3], np.int64))
    return graph.linear(ov.reshape(mixed, graph.constant([0, 0, width], np.int64), True), f"{name}Wo")
