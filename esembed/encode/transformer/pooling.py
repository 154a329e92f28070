"""Token embeddings to one vector for each text: a model's recipe, and the head on either backend.

The modes and their order of concatenation are sentence-transformers' ``Pooling`` module (Reimers and
Gurevych 2019; weighted mean: Muennighoff 2022), then any ``Dense``, ``LayerNorm`` and ``Normalize``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from esembed.encode.foreign_errors import shown
from esembed.encode.models.folder import ModelFiles, Module
from esembed.encode.transformer.token_weights import token_weights_file
from esembed.errors import EncoderError

__all__ = ["POOLING_MODES", "DenseHead", "DenseRecipe", "Stage", "dense_recipe"]

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The ways to make one vector of those of all tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What follows pooling.

    Attributes:
        kind: ``dense`` (x·Wᵀ + b, then the activation), ``layer_norm`` or ``normalize``.
        weight: float32, (out, in) for dense, (dims,) for layer_norm.
        bias: float32 (out,), or None.
        residual: float32 (out, in) for a projected residual connection of dense, or None.
        activation: of dense: ``identity``, ``tanh``, ``relu``, ``gelu``, ``sigmoid`` or ``silu``.
        add_input: dense adds its input (or its projection by *residual*) to its result.
    """

    kind: Literal["dense", "layer_norm", "normalize"]
    weight: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None
    residual: npt.NDArray[np.float32] | None = None
    activation: str = "identity"
    add_input: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class DenseHead:
    """Pooling and what follows it. Gives one output, float32 of shape (rows, dims).

    Attributes:
        modes: one or more of ``POOLING_MODES``, concatenated in the order given.
        stages: applied in order.
        skip: leading tokens (a prompt's) left out of pooling, except of ``lasttoken``.
        dims: keep this many leading dimensions (Matryoshka: Kusupati et al. 2022), or None for all.
        normalize: scale to length 1 at the very end.
    """

    modes: tuple[str, ...] = ("mean",)
    stages: tuple[Stage, ...] = ()
    skip: int = 0
    dims: int | None = None
    normalize: bool = False

    @property
    def needs_masked_lm(self) -> bool:
        return False

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        from openvino import opset13 as ov

        axis = graph.constant([1], np.int64)
        used = self._skipped_openvino(graph, mask)
        wide = ov.unsqueeze(used, graph.constant([2], np.int64))
        parts = [_pool_openvino(mode, graph, hidden, mask, wide, self.skip) for mode in self.modes]
        x = ov.concat(parts, 1) if len(parts) > 1 else parts[0]
        for stage in self.stages:
            x = _stage_openvino(stage, graph, x)
        if self.dims is not None:
            x = ov.slice(
                x,
                graph.constant([0], np.int64),
                graph.constant([self.dims], np.int64),
                graph.constant([1], np.int64),
                axis,
            )
        if self.normalize:
            x = _unit_openvino(graph, x)
        return [x]

    def _skipped_openvino(self, graph: Any, mask: Any) -> Any:
        from openvino import opset13 as ov

        if not self.skip:
            return mask
        ones = ov.add(ov.multiply(mask, graph.constant(0.0)), graph.constant(1.0))
        position = ov.cum_sum(ones, graph.constant(1, np.int64))
        kept = ov.convert(ov.greater(position, graph.constant(float(self.skip))), "f32")
        return ov.multiply(mask, kept)

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        import torch

        x = torch.cat([_pool_torch(mode, hidden, offsets, self.skip) for mode in self.modes], dim=-1)
        for stage in self.stages:
            x = _stage_torch(stage, x)
        if self.dims is not None:
            x = x[:, : self.dims]
        if self.normalize:
            x = torch.nn.functional.normalize(x, dim=-1)
        return (x,)


def _unit_openvino(graph: Any, x: Any) -> Any:
    from openvino import opset13 as ov

    # the floor is under the square root here: 1e-24 is torch's 1e-12 of functional.normalize
    return ov.normalize_l2(x, graph.constant([1], np.int64), 1e-24, "max")


def _pool_openvino(mode: str, graph: Any, hidden: Any, mask: Any, wide: Any, skip: int) -> Any:
    """*wide* is the mask of the tokens that take part, (rows, length, 1)."""
    from openvino import opset13 as ov

    axis = graph.constant([1], np.int64)
    if mode in ("cls", "lasttoken"):
        if mode == "cls" and not skip:
            return ov.gather(hidden, graph.constant(0, np.int64), graph.constant(1, np.int64))
        count = ov.convert(ov.reduce_sum(mask, axis), "i64")
        last = ov.subtract(count, graph.constant(1, np.int64))
        place = last
        if mode == "cls":
            start = graph.constant(skip, np.int64)
            place = ov.select(ov.greater_equal(last, start), start, graph.constant(0, np.int64))
        return ov.gather(hidden, place, graph.constant(1, np.int64), batch_dims=1)
    if mode == "max":
        # just above float32's lowest: an infinity times the mask's zero would be NaN
        floor = ov.multiply(ov.subtract(graph.constant(1.0), wide), graph.constant(-3.0e38))
        return ov.reduce_max(ov.add(ov.multiply(hidden, wide), floor), axis)
    weights = wide
    if mode == "weightedmean":
        ones = ov.add(ov.multiply(mask, graph.constant(0.0)), graph.constant(1.0))
        position = ov.cum_sum(ones, graph.constant(1, np.int64))
        weights = ov.multiply(wide, ov.unsqueeze(position, graph.constant([2], np.int64)))
    total = ov.reduce_sum(ov.multiply(hidden, weights), axis)
    # sentence-transformers' own floor: a prompt that is left out may have been the whole text.
    size = ov.maximum(ov.reduce_sum(weights, axis), graph.constant(1e-9))
    if mode == "mean_sqrt_len_tokens":
        size = ov.sqrt(size)
    return ov.divide(total, size)


def _stage_openvino(stage: Stage, graph: Any, x: Any) -> Any:
    from openvino import opset13 as ov

    if stage.kind == "normalize":
        return _unit_openvino(graph, x)
    if stage.weight is None:
        return x
    if stage.kind == "layer_norm":
        # torch's default, which sentence-transformers' LayerNorm leaves as it is; it isn't in the module's
        # config.
        y = ov.mvn(x, graph.constant([-1], np.int64), True, 1e-5, "inside_sqrt")
        y = ov.multiply(y, graph.constant(stage.weight))
        return y if stage.bias is None else ov.add(y, graph.constant(stage.bias))
    y = graph.activation(graph.affine(x, stage.weight, stage.bias), stage.activation)
    if stage.add_input:
        y = ov.add(y, x if stage.residual is None else graph.affine(x, stage.residual))
    return y


def _pool_torch(mode: str, hidden: Any, offsets: Any, skip: int) -> Any:
    """Pooling over packed rows, accumulated in float32; (rows, hidden) float32."""
    import torch

    lengths = offsets[1:] - offsets[:-1]
    if mode == "lasttoken":
        return hidden[offsets[1:] - 1].float()
    if mode == "cls":
        first = offsets[:-1] + torch.where(lengths > skip, skip, 0)
        return hidden[first].float()
    rows = len(lengths)
    row = torch.repeat_interleave(torch.arange(rows, device=hidden.device), lengths, output_size=len(hidden))
    place = torch.arange(len(hidden), device=hidden.device) - offsets[:-1][row]
    values = hidden.float()
    if skip:
        kept = place >= skip
        row, place, values = row[kept], place[kept], values[kept]
        lengths = (lengths - skip).clamp(min=0)
    if mode == "max":
        empty = torch.full((rows, hidden.shape[1]), float("-inf"), device=hidden.device)
        return empty.scatter_reduce(0, row[:, None].expand_as(values), values, reduce="amax")
    if mode == "weightedmean":
        weight = (place + 1).float()
        values = values * weight[:, None]
        size = torch.zeros(rows, device=hidden.device).index_add(0, row, weight)
    else:
        size = lengths.float()
    total = torch.zeros((rows, hidden.shape[1]), device=hidden.device).index_add(0, row, values)
    size = size.clamp(min=1e-9)[:, None]
    return total / (size.sqrt() if mode == "mean_sqrt_len_tokens" else size)


def _stage_torch(stage: Stage, x: Any) -> Any:
    import torch
    from torch.nn import functional

    if stage.kind == "normalize":
        return functional.normalize(x, dim=-1)
    if stage.weight is None:
        return x
    weight = torch.from_numpy(np.array(stage.weight)).to(x.device)
    bias = None if stage.bias is None else torch.from_numpy(np.array(stage.bias)).to(x.device)
    if stage.kind == "layer_norm":
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, 1e-5)
    y = functional.linear(x, weight, bias)
    if stage.activation in ("tanh", "sigmoid"):
        y = getattr(torch, stage.activation)(y)
    elif stage.activation != "identity":
        y = getattr(functional, stage.activation)(y)
    if stage.add_input:
        y = y + (
            x if stage.residual is None else x @ torch.from_numpy(np.array(stage.residual)).to(x.device).T
        )
    return y


_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
}
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class DenseRecipe:
    """How a model turns token embeddings into one vector.

    Attributes:
        modes: pooling modes, concatenated.
        include_prompt: whether the prompt's tokens take part in pooling.
        stages: what follows, the trailing normalization left out.
        normalize: whether the model's last step scales to length 1.
        dims: the length of the result.
        described: the stages in words, for ``EncoderInfo.extra``.
        note: what had to be assumed, or None.
    """

    modes: tuple[str, ...]
    include_prompt: bool
    stages: tuple[Stage, ...]
    normalize: bool
    dims: int
    described: tuple[str, ...]
    note: str | None


def dense_recipe(files: ModelFiles, hidden_size: int, pooling: str | None = None) -> DenseRecipe:
    """Read the modules after the transformer.

    Args:
        files: the model.
        hidden_size: the width of its hidden states.
        pooling: replaces the model's own pooling mode.

    Raises:
        EncoderError: a module or an option that isn't known here; a head of a wrong shape.
    """
    if pooling is not None and pooling not in POOLING_MODES:
        raise EncoderError(f"pooling={pooling!r} is none of {', '.join(POOLING_MODES)}", spec=files.name)
    modes: tuple[str, ...] = (pooling,) if pooling else ()
    include_prompt, note, pooled = True, None, False
    stages: list[Stage] = []
    described: list[str] = []
    width = hidden_size * max(len(modes), 1)
    for module in files.modules:
        if module.kind == "Transformer" or module.kind == "Dropout":
            continue
        if module.kind == "Pooling":
            found = _pooling_modes(files, module.config)
            pooled, modes = True, modes or found
            include_prompt = bool(module.config.get("include_prompt", True))
            width = hidden_size * len(modes)
            continue
        if not pooled:
            raise _unknown(files, module, "before pooling")
        if module.kind == "Dense":
            stage = _dense(files, module, width)
            stages.append(stage)
            described.append(f"dense {width}->{_rows(stage)} {stage.activation}")
            width = _rows(stage)
        elif module.kind == "LayerNorm":
            tensors = files.module_tensors(module.path)
            stages.append(Stage("layer_norm", tensors["norm.weight"], tensors.get("norm.bias")))
            described.append("layer_norm")
        elif module.kind == "Normalize":
            if module.config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
                raise _unknown(files, module, "of token embeddings")
            stages.append(Stage("normalize"))
            described.append("normalize")
        else:
            raise _unknown(files, module)
    normalize = False
    if not files.modules and token_weights_file(files.transformer_folder) is not None:
        # what FlagEmbedding saves of a fine-tuned BGE-M3 says nothing about its dense side
        normalize, modes = True, modes or ("cls",)
        note = f"no modules.json beside BGE-M3's heads: pooling {modes[0]} and length 1 assumed"
    elif not files.modules and not modes:
        modes = ("lasttoken",) if _causal(files.config) else ("mean",)
        note = f"no modules.json: pooling {modes[0]} assumed"
    elif not modes:
        raise EncoderError(
            f"{files.name} has a transformer but no pooling (modules.json: "
            f"{', '.join(m.kind for m in files.modules)}): it is no dense encoder; SPLADE is splade:…",
            spec=files.name,
        )
    while stages and stages[-1].kind == "normalize":
        stages.pop()
        described.pop()
        normalize = True
    return DenseRecipe(modes, include_prompt, tuple(stages), normalize, width, tuple(described), note)


_CAUSAL = frozenset(
    {
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "granite",
        "granitemoe",
        "internlm2",
        "llama",
        "minicpm",
        "ministral",
        "mistral",
        "mixtral",
        "mpt",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "stablelm",
        "starcoder2",
        "xglm",
    }
)
"""Model types whose attention looks back only."""


def _causal(config: Mapping[str, Any]) -> bool:
    """Whether only the last token has seen the whole text. AutoModel.save_pretrained writes Qwen3Model where
    the causal model's own wrote Qwen3ForCausalLM, so the architecture's name alone doesn't say."""
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        return False
    names = [str(a) for a in config.get("architectures") or ()]
    return config.get("model_type") in _CAUSAL or any(name.endswith("ForCausalLM") for name in names)


def _rows(stage: Stage) -> int:
    return 0 if stage.weight is None else int(stage.weight.shape[0])


def _unknown(files: ModelFiles, module: Module, where: str = "") -> EncoderError:
    named = f"{module.kind} {where}".rstrip()
    hint = " Serve the model and use openai:MODEL@URL, or bring its vectors (precomputed)."
    if "Splade" in module.kind or "Sparse" in module.kind:
        hint = " It is a sparse model: splade:…"
    return EncoderError(
        f"{files.name} has a module {named} ({module.path or 'no folder'} in modules.json), which isn't "
        f"known here, and leaving it out would give other vectors.{hint}",
        spec=files.name,
    )


def _pooling_modes(files: ModelFiles, config: Mapping[str, Any]) -> tuple[str, ...]:
    stated = config.get("pooling_mode")
    if stated is None:
        flags = {k: v for k, v in config.items() if k.startswith("pooling_mode_")}
        unknown = [k for k, v in flags.items() if v and k not in _LEGACY_MODES]
        if unknown:
            raise EncoderError(
                f"{files.name}: {shown(unknown)} in the pooling module's config.json isn't known here",
                spec=files.name,
            )
        stated = [mode for key, mode in _LEGACY_MODES.items() if flags.get(key)] or ["mean"]
    modes = (stated,) if isinstance(stated, str) else tuple(stated)
    for mode in modes:
        if mode not in POOLING_MODES:
            raise EncoderError(
                f"{files.name}: pooling_mode {mode!r} in the pooling module's config.json isn't known here",
                spec=files.name,
            )
    return modes


def _dense(files: ModelFiles, module: Module, width: int) -> Stage:
    config = module.config
    places = {config.get("module_input_name") or "sentence_embedding"}
    places.add(config.get("module_output_name") or "sentence_embedding")
    if places != {"sentence_embedding"}:
        raise _unknown(files, module, f"on {', '.join(sorted(places))}")
    stated = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if stated not in _ACTIVATIONS:
        raise EncoderError(
            f"{files.name}/{module.path}/config.json: activation_function {stated} isn't known here",
            spec=files.name,
        )
    tensors = files.module_tensors(module.path)
    weight = tensors.get("linear.weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = None if weight is None else weight.shape
        raise EncoderError(
            f"{files.name}/{module.path}: a projection of {width} dimensions is needed, its weight has "
            f"shape {shape}",
            spec=files.name,
        )
    return Stage(
        "dense",
        weight,
        tensors.get("linear.bias"),
        tensors.get("residual.weight"),
        _ACTIVATIONS[stated],
        bool(config.get("use_residual", False)),
    )
