"""From a model's modules to a dense head (``pooling.DenseHead``), or a refusal that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esembed.encode.models.folder import ModelFiles, Module
from esembed.encode.transformer.pooling import POOLING_MODES, Stage
from esembed.encode.transformer.token_weights import token_weights_file
from esembed.errors import EncoderError

__all__ = ["DenseRecipe", "dense_recipe"]

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
        stages: what follows, the trailing normalisation left out.
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
        decoder = any(str(a).endswith("ForCausalLM") for a in files.config.get("architectures") or ())
        modes = ("lasttoken",) if decoder else ("mean",)
        note = f"no modules.json: pooling {modes[0]} assumed"
    elif not modes:
        raise EncoderError(
            f"{files.name} has a transformer but no pooling (modules: "
            f"{', '.join(m.kind for m in files.modules)}): it is no dense encoder; SPLADE is splade:…",
            spec=files.name,
        )
    while stages and stages[-1].kind == "normalize":
        stages.pop()
        described.pop()
        normalize = True
    return DenseRecipe(modes, include_prompt, tuple(stages), normalize, width, tuple(described), note)


def _rows(stage: Stage) -> int:
    return 0 if stage.weight is None else int(stage.weight.shape[0])


def _unknown(files: ModelFiles, module: Module, where: str = "") -> EncoderError:
    hint = " It is a sparse model: splade:…" if "Splade" in module.kind or "Sparse" in module.kind else ""
    return EncoderError(
        f"{files.name} has a module {module.kind} {where}".rstrip()
        + f" ({module.path or 'no folder'}), which isn't known here, and leaving it out would give other "
        f"vectors.{hint or ' Serve the model and use openai:MODEL@URL, or bring its vectors (given).'}",
        spec=files.name,
    )


def _pooling_modes(files: ModelFiles, config: Mapping[str, Any]) -> tuple[str, ...]:
    stated = config.get("pooling_mode")
    if stated is None:
        flags = {k: v for k, v in config.items() if k.startswith("pooling_mode_")}
        unknown = [k for k, v in flags.items() if v and k not in _LEGACY_MODES]
        if unknown:
            raise EncoderError(
                f"{files.name}: pooling {', '.join(unknown)} isn't known here", spec=files.name
            )
        stated = [mode for key, mode in _LEGACY_MODES.items() if flags.get(key)] or ["mean"]
    modes = (stated,) if isinstance(stated, str) else tuple(stated)
    for mode in modes:
        if mode not in POOLING_MODES:
            raise EncoderError(f"{files.name}: pooling {mode!r} isn't known here", spec=files.name)
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
            f"{files.name}/{module.path}: the activation {stated} isn't known here", spec=files.name
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
