"""BERT-like encoders as OpenVINO graphs, built from config.json and the safetensors alone (no torch).

The arithmetic follows the published models (Devlin et al. 2019; Liu et al. 2019 for RoBERTa's position
offset; Sanh et al. 2019 for DistilBERT). Attention is written as matmul + softmax and not as the fused
operator, because in bfloat16 that is an order of magnitude closer to the float32 vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.modelfiles import ModelFiles

__all__ = ["Graph", "build", "unsupported"]

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")
_ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "relu",
    "silu",
    "swish",
    "tanh",
    "sigmoid",
    "identity",
)


def unsupported(files: ModelFiles) -> str | None:
    """Why this model can't be built here, or None when it can."""
    config = files.config
    kind = config.get("model_type")
    if kind not in (*_BERT_LIKE, "distilbert"):
        return f"model_type {kind!r} is none of {', '.join((*_BERT_LIKE, 'distilbert'))}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position_embedding_type {config['position_embedding_type']!r}"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is a decoder"
    act = config.get("hidden_act", config.get("activation", "gelu"))
    if act not in _ACTIVATIONS:
        return f"activation {act!r}"
    return None


def _present_name(name: str) -> str:
    """Checkpoints that came from TensorFlow call a layer norm's weight and bias gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name


class Graph:
    """Small building blocks over one model's tensors.

    Args:
        files: the model.
        precision: ``f32``, or ``bf16`` where the CPU computes in it.

    Attributes:
        config: the model's config.json.
        prefix: what stands before the encoder's tensor names in the file (``bert.`` …), maybe empty.
        precision: what products are computed in.
    """

    def __init__(self, files: ModelFiles, precision: str = "f32") -> None:
        self.config: Mapping[str, Any] = files.config
        self.precision = precision
        self._tensors = {_present_name(name): value for name, value in files.tensors().items()}
        self.prefix = next(
            (p for p in ("", "bert.", "roberta.", "distilbert.", "model.") if self._has_embeddings(p)), ""
        )
        self._name = files.name

    def _has_embeddings(self, prefix: str) -> bool:
        return f"{prefix}embeddings.word_embeddings.weight" in self._tensors

    def has(self, name: str) -> bool:
        """Whether the model has a tensor of that full name."""
        return name in self._tensors

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A source tensor as float32, by its full name in the file.

        Raises:
            EncoderError: the file has no such tensor.
        """
        if name not in self._tensors:
            raise EncoderError(
                f"{self._name} has no tensor {name!r}: the checkpoint is incomplete", spec=self._name
            )
        return self._tensors[name]

    def constant(self, value: npt.ArrayLike, dtype: Any = np.float32) -> Any:
        """*value* as a node."""
        from openvino import opset13 as ov

        return ov.constant(np.asarray(value, dtype=dtype, order="C"))

    def bfloat16(self, value: npt.NDArray[np.float32]) -> Any:
        """*value* as a node that holds it in bfloat16."""
        import openvino
        from openvino import opset13 as ov

        return ov.constant(np.ascontiguousarray(value), openvino.Type.bf16)

    def linear(self, x: Any, name: str) -> Any:
        """x·Wᵀ + b with the tensors ``name.weight`` and, where there is one, ``name.bias``."""
        bias = self.tensor(f"{name}.bias") if self.has(f"{name}.bias") else None
        return self.affine(x, self.tensor(f"{name}.weight"), bias)

    def affine(
        self, x: Any, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None = None
    ) -> Any:
        """x·Wᵀ + b; *weight* has shape (out, in)."""
        from openvino import opset13 as ov

        y = ov.matmul(x, self.constant(weight), False, True)
        return y if bias is None else ov.add(y, self.constant(bias))

    def layer_norm(self, x: Any, name: str, eps: float) -> Any:
        """Layer normalisation over the last axis with ``name.weight`` and ``name.bias``."""
        from openvino import opset13 as ov

        y = ov.mvn(x, self.constant([-1], np.int64), True, eps, "inside_sqrt")
        return ov.add(
            ov.multiply(y, self.constant(self.tensor(f"{name}.weight"))),
            self.constant(self.tensor(f"{name}.bias")),
        )

    def activation(self, x: Any, name: str) -> Any:
        """One of the activations that configs name (``gelu``, ``gelu_new``, ``relu`` …)."""
        from openvino import opset13 as ov

        if name == "gelu":
            return ov.gelu(x, "erf")
        if name in ("gelu_new", "gelu_pytorch_tanh"):
            return ov.gelu(x, "tanh")
        if name in ("silu", "swish"):
            return ov.swish(x)
        if name == "identity":
            return x
        if name in ("relu", "tanh", "sigmoid"):
            return getattr(ov, name)(x)
        raise EncoderError(f"the OpenVINO backend doesn't know the activation {name!r}", spec=self._name)

    def gelu(self, x: Any) -> Any:
        """The exact (erf) GELU."""
        return self.activation(x, "gelu")


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
    return _Shape(
        config["num_hidden_layers"], config["num_attention_heads"],
        float(config.get("layer_norm_eps", 1e-12)), config.get("hidden_act", "gelu"),
        "encoder.layer.", "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
        "output.LayerNorm",
    )  # fmt: skip


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence the position table allows (RoBERTa loses pad_token_id + 1 rows)."""
    rows = int(config.get("max_position_embeddings", 512))
    return rows - _position_offset(config)


def _position_offset(config: Mapping[str, Any]) -> int:
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert"):
        return int(config.get("pad_token_id", 1)) + 1
    return 0


def build(files: ModelFiles, head: Any, precision: str = "f32") -> Any:
    """An ``openvino.Model``: inputs ``ids`` int32 (rows, length) and ``mask`` float32 (rows, length),
    outputs as *head* gives them. *precision* tells heads what the graph will be compiled for.

    Raises:
        EncoderError: a tensor is missing.
    """
    import openvino as openvino_package
    from openvino import opset13 as ov

    graph = Graph(files, precision)
    shape, p = _shape(files.config), graph.prefix
    ids = ov.parameter([-1, -1], np.int32, name="ids")
    mask = ov.parameter([-1, -1], np.float32, name="mask")
    x = _embeddings(graph, ids, shape.eps)
    # (rows, 1, 1, length): 0 at tokens, a large negative number at padding
    bias = ov.unsqueeze(
        ov.multiply(ov.subtract(mask, graph.constant(1.0)), graph.constant(10000.0)),
        graph.constant([1, 2], np.int64),
    )
    for i in range(shape.layers):
        x = _layer(graph, f"{p}{shape.layer}{i}.", shape, x, bias)
    outputs = head.openvino(graph, x, mask)
    return openvino_package.Model([output.output(0) for output in outputs], [ids, mask], "esembed")


def _embeddings(graph: Graph, ids: Any, eps: float) -> Any:
    from openvino import opset13 as ov

    name = f"{graph.prefix}embeddings."
    offset = _position_offset(graph.config)
    positions = graph.tensor(f"{name}position_embeddings.weight")[offset:]
    if graph.has(f"{name}token_type_embeddings.weight"):
        # a single text has type 0 throughout, so the row is added to the positions once
        positions = positions + graph.tensor(f"{name}token_type_embeddings.weight")[0]
    words = ov.gather(
        graph.constant(graph.tensor(f"{name}word_embeddings.weight")), ids, graph.constant(0, np.int64)
    )
    length = ov.gather(ov.shape_of(ids), graph.constant([1], np.int64), graph.constant(0, np.int64))
    rows = ov.slice(
        graph.constant(positions),
        graph.constant([0], np.int64),
        length,
        graph.constant([1], np.int64),
        graph.constant([0], np.int64),
    )
    return graph.layer_norm(ov.add(words, rows), f"{name}LayerNorm", eps)


def _layer(graph: Graph, name: str, shape: _Shape, x: Any, bias: Any) -> Any:
    from openvino import opset13 as ov

    width = graph.tensor(f"{name}{shape.query}.weight").shape[0]
    depth = width // shape.heads
    split = graph.constant([0, 0, shape.heads, depth], np.int64)

    def heads(part: str, axes: list[int], scale: float = 1.0) -> Any:
        weight, b = graph.tensor(f"{name}{part}.weight"), graph.tensor(f"{name}{part}.bias")
        if scale != 1.0:  # into the weights: one pass over the queries less
            weight, b = weight * np.float32(scale), b * np.float32(scale)
        y = ov.reshape(graph.affine(x, weight, b), split, True)
        return ov.transpose(y, graph.constant(axes, np.int64))

    query = heads(shape.query, [0, 2, 1, 3], depth**-0.5)
    key = heads(shape.key, [0, 2, 3, 1])
    value = heads(shape.value, [0, 2, 1, 3])
    weights = ov.softmax(ov.add(ov.matmul(query, key, False, False), bias), -1)
    mixed = ov.transpose(ov.matmul(weights, value, False, False), graph.constant([0, 2, 1, 3], np.int64))
    mixed = ov.reshape(mixed, graph.constant([0, 0, width], np.int64), True)
    x = graph.layer_norm(ov.add(graph.linear(mixed, name + shape.out), x), name + shape.out_norm, shape.eps)
    wide = graph.activation(graph.linear(x, name + shape.up), shape.act)
    return graph.layer_norm(
        ov.add(graph.linear(wide, name + shape.down), x), name + shape.down_norm, shape.eps
    )
