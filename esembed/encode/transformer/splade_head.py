"""The SPLADE head: masked-LM scores pooled over tokens, for either backend, never materialised whole.

SPLADE's weight of a vocabulary entry is ``max over tokens of log(1 + relu(logit))`` (Formal et al.
2021, "SPLADE v2"). Both functions are monotone, so the maximum can be taken over the raw logits first,
exactly; the bias of an entry is the same for all tokens, so it is added after the maximum as well. What
is left per entry is a product and a maximum, done in chunks of the vocabulary: the largest array is
tokens × chunk, and rows × vocabulary goes out. In torch only real tokens take part; in OpenVINO padding
repeats the row's first token (a maximum doesn't mind), which spares a mask over the products. All this is
for ``max``; the old ``sum`` needs the logarithms of all products, and in OpenVINO holds them all.

The chunks are small enough for a core's cache, so that the maximum is taken where the product just was.
In OpenVINO's bfloat16 the types are written into the graph: the runtime would compute the product in
bfloat16 and convert all of it to float32 for the maximum, which took as long as the product itself.

The head returns raw maxima; :func:`weights_of` turns those that were kept into weights, in float32 even
where the network runs in bfloat16. In torch the pruning (*top_k*, *threshold*) is done on the device, and
only what is left of a row leaves it. OpenVINO's device is the host; there *top_k* is part of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from esembed.encode.backends.base import Outputs
from esembed.errors import EncoderError
from esembed.types import FloatArray

__all__ = ["SpladeHead", "raw_threshold", "rows_of", "weights_of"]

Activation = Literal["relu", "log1p_relu"]
Strategy = Literal["max", "sum"]

_NEVER = -1.0e9
"""The bias of an entry that is left out."""

_OPENVINO_CHUNK = 512
_TORCH_SCORES = {"cpu": 2_097_152, "other": 134_217_728}
"""Elements of tokens × chunk at once in torch."""
_LEAST_CHUNK = 256


def weights_of(scores: FloatArray, activation: Activation) -> FloatArray:
    """Raw maxima to weights, elementwise: log(1 + relu(x)), once more for ``log1p_relu``."""
    weights = np.maximum(scores, 0.0, dtype=np.float32)
    for _ in range(_logs(activation)):
        np.log1p(weights, out=weights)
    return weights


def raw_threshold(threshold: float, activation: Activation) -> float:
    """The raw maximum whose weight is *threshold*, a little less: what is above *threshold* stays above."""
    raw = threshold
    for _ in range(_logs(activation)):
        raw = math.expm1(raw)
    return raw * (1 - 1e-5)


def rows_of(outputs: Outputs) -> Iterator[tuple[npt.NDArray[Any] | None, FloatArray]]:
    """The ids and values of each row, from what a :class:`SpladeHead` returned; ids are None where a row
    holds a value for every id."""
    values = np.asarray(outputs[0], dtype=np.float32)
    if len(outputs) == 3:
        ends = np.cumsum(outputs[2])
        for start, end in zip(ends - outputs[2], ends, strict=True):
            yield outputs[1][start:end], values[start:end]
        return
    for place, row in enumerate(values):
        yield (outputs[1][place] if len(outputs) == 2 else None), row


@dataclass(frozen=True, slots=True)
class SpladeHead:
    """Masked-LM scores pooled over tokens.

    Outputs, for :func:`rows_of`. In torch three flat arrays of what is kept, row by row: float32 values,
    int32 ids, and int64 (rows,) how many each row has. In OpenVINO without *top_k* one float32 array
    (rows, vocabulary); with it two, float32 values and int32 ids (rows, top_k), in descending order. For
    ``max`` the values are raw logits' maxima (see :func:`weights_of`), for ``sum`` they are the weights.

    Attributes:
        strategy: ``max``, or ``sum`` (SPLADE's first version: Formal et al. 2021).
        activation: ``relu``, or ``log1p_relu`` with a second logarithm (OpenSearch's v3 models:
            Geng et al. 2025).
        excluded: ids that never appear (special tokens, ids without a token).
        top_k: how many of a row leave the device at most, or None for all.
        threshold: values at or under it stay on the device, in torch (see :func:`raw_threshold`). NaN is
            kept, for the caller to find.
    """

    strategy: Strategy = "max"
    activation: Activation = "relu"
    excluded: tuple[int, ...] = ()
    top_k: int | None = None
    threshold: float = 0.0

    @property
    def needs_masked_lm(self) -> bool:
        return True

    # -- OpenVINO --------------------------------------------------------------------------------

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        from openvino import opset13 as ov

        x, weight, bias = _openvino_parts(graph, hidden)
        bias = self._without_excluded(bias)
        axis = graph.constant([1], np.int64)
        wide = ov.unsqueeze(mask, graph.constant([2], np.int64))
        if self.strategy == "max":
            zero, one = graph.constant([0], np.int64), graph.constant([1], np.int64)
            first = ov.slice(x, zero, one, one, axis)
            x = ov.select(ov.greater(wide, graph.constant(0.5)), x, first)
        narrow = self.strategy == "max" and graph.precision == "bf16"
        if narrow:
            x = ov.convert(x, "bf16")
        parts: list[Any] = []
        for start in range(0, len(weight), _OPENVINO_CHUNK):
            stop = start + _OPENVINO_CHUNK
            if narrow:
                scores = ov.matmul(x, graph.bfloat16(weight[start:stop]), False, True)
            else:
                scores = graph.affine(x, weight[start:stop])
            if self.strategy == "max":  # an addition to each part here would make the runtime keep them all
                parts.append(ov.reduce_max(scores, axis))
                continue
            value = ov.add(scores, graph.constant(bias[start:stop]))
            for _ in range(_logs(self.activation)):
                value = ov.log(ov.add(ov.relu(value), graph.constant(1.0)))
            parts.append(ov.reduce_sum(ov.multiply(value, wide), axis))
        pooled = ov.concat(parts, 1) if len(parts) > 1 else parts[0]
        if narrow:
            pooled = ov.convert(pooled, "f32")
        if self.strategy == "max":
            pooled = ov.add(pooled, graph.constant(bias))
        if self.top_k is None:
            return [pooled]
        k = min(self.top_k, len(weight))
        top = ov.topk(pooled, graph.constant(k, np.int32), 1, "max", "value", "i32")
        return [_Output(top.output(0)), _Output(top.output(1))]

    def _without_excluded(self, bias: FloatArray) -> FloatArray:
        bias = np.array(bias, dtype=np.float32)
        bias[list(self.excluded)] = _NEVER
        return bias

    # -- torch -----------------------------------------------------------------------------------

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        import torch

        transform, weight, bias = _torch_parts(model)
        x = transform(hidden)
        lengths = (offsets[1:] - offsets[:-1]).tolist()
        budget = _TORCH_SCORES["cpu" if x.device.type == "cpu" else "other"]
        chunk = max(_LEAST_CHUNK, min(len(weight), budget // len(x)))
        pooled = torch.empty((len(lengths), len(weight)), dtype=torch.float32, device=x.device)
        bias = torch.zeros(len(weight), device=x.device) if bias is None else bias.float().clone()
        if self.excluded:
            bias[torch.tensor(self.excluded, device=x.device)] = _NEVER
        buffer = torch.empty(len(x) * chunk, dtype=x.dtype, device=x.device)
        for start in range(0, len(weight), chunk):
            part = slice(start, min(start + chunk, len(weight)))
            # (tokens, chunk), the largest array there is, in the same place each time
            scores = buffer[: len(x) * (part.stop - start)].view(len(x), -1)
            torch.mm(x, weight[part].T, out=scores)
            if self.strategy == "max":
                pooled[:, part] = _by_row(scores, lengths, "amax").float() + bias[part]
                continue
            value = scores.float() + bias[part]
            for _ in range(_logs(self.activation)):
                value = value.relu_().log1p_()
            pooled[:, part] = _by_row(value, lengths, "sum")
        ids = None
        if self.top_k is not None and self.top_k < len(weight):
            pooled, ids = torch.topk(pooled, self.top_k, dim=1)
        keep = ~(pooled <= self.threshold)
        places = keep.view(-1).nonzero()[:, 0]
        ids = places % len(weight) if ids is None else ids.view(-1)[places]
        return pooled.view(-1)[places], ids.to(torch.int32), keep.sum(1)


def _by_row(values: Any, lengths: list[int], how: Literal["amax", "sum"]) -> Any:
    """(tokens, n) of packed rows to (rows, n); rows of one length take a single operation."""
    import torch

    if len(set(lengths)) == 1:
        return getattr(values.view(len(lengths), lengths[0], -1), how)(1)
    return torch.stack([getattr(row, how)(0) for row in values.split(lengths)])


class _Output:
    """One output of a node with several, where the graph's builder expects a node of one."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def output(self, number: int) -> Any:
        return self._port


def _logs(activation: Activation) -> int:
    return 2 if activation == "log1p_relu" else 1


def _openvino_parts(graph: Any, hidden: Any) -> tuple[Any, FloatArray, FloatArray]:
    """The masked-LM head's transform applied to *hidden*; the decoder's weight and bias."""
    config, words = graph.config, f"{graph.prefix}embeddings.word_embeddings.weight"
    eps = float(config.get("layer_norm_eps", 1e-12))
    if graph.has("cls.predictions.transform.dense.weight"):
        name, norm = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
        act, decoder = config.get("hidden_act", "gelu"), "cls.predictions.decoder.weight"
        biases: tuple[str, ...] = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    elif graph.has("vocab_transform.weight"):
        name, norm, eps = "vocab_transform", "vocab_layer_norm", 1e-12
        act, decoder = config.get("activation", "gelu"), "vocab_projector.weight"
        biases = ("vocab_projector.bias",)
    elif graph.has("head.dense.weight") and graph.has("head.norm.weight"):  # ModernBERT
        name, norm, eps = "head.dense", "head.norm", float(config.get("norm_eps", 1e-5))
        act, decoder, biases = (
            config.get("classifier_activation", "gelu"),
            "decoder.weight",
            ("decoder.bias",),
        )
        words = f"{graph.prefix}embeddings.tok_embeddings.weight"
    elif graph.has("lm_head.dense.weight"):
        name, norm, act = "lm_head.dense", "lm_head.layer_norm", "gelu"
        decoder, biases = "lm_head.decoder.weight", ("lm_head.bias", "lm_head.decoder.bias")
    else:
        raise EncoderError(
            "this checkpoint has no masked-LM head (it was saved as a bare encoder), and SPLADE is read from "
            "that head: take the model that was saved with it, or use hf: for dense vectors"
        )
    x = graph.layer_norm(graph.activation(graph.linear(hidden, name), act), norm, eps)
    weight = graph.tensor(decoder if graph.has(decoder) else words)
    bias = next((graph.tensor(b) for b in biases if graph.has(b)), np.zeros(len(weight), np.float32))
    return x, weight, bias


def _torch_parts(model: Any) -> tuple[Callable[[Any], Any], Any, Any]:
    """The same of a transformers masked-LM model."""
    from torch.nn import functional

    decoder = model.get_output_embeddings()
    if decoder is None:
        raise EncoderError("this model has no masked-LM head, which SPLADE is read from")
    weight, bias = decoder.weight, getattr(decoder, "bias", None)
    if hasattr(model, "cls") and hasattr(model.cls, "predictions"):  # BERT
        head = model.cls.predictions
        return head.transform, weight, head.bias if bias is None else bias
    if hasattr(model, "vocab_transform"):  # DistilBERT

        def distilbert(x: Any) -> Any:
            return model.vocab_layer_norm(model.activation(model.vocab_transform(x)))

        return distilbert, weight, bias
    if hasattr(model, "lm_head") and hasattr(model.lm_head, "layer_norm"):  # RoBERTa, XLM-R, MPNet
        head = model.lm_head

        def roberta(x: Any) -> Any:
            return head.layer_norm(functional.gelu(head.dense(x)))

        return roberta, weight, head.bias if bias is None else bias
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        return model.head, weight, bias
    raise EncoderError(
        f"the masked-LM head of {type(model).__name__} isn't known here (BERT, DistilBERT, RoBERTa, XLM-R, "
        "MPNet and ModernBERT are)"
    )
