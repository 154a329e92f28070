"""What a checkpoint must be before its numbers mean anything: a whole model of plain floating-point
weights, with a row for each token and the shapes that its configuration states.

Each of these, left unchecked, gave vectors that look like vectors: int8 weights read without their scales
had a cosine of -.09 to the model's own, and tokens beyond the table all got the vector of its last row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from esembed.encode.foreign_errors import shown
from esembed.encode.models.json_files import checked, read_json
from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.tensors import Tensors

__all__ = [
    "check_config",
    "check_folder",
    "check_shapes",
    "check_tokens",
    "check_weights",
    "other_format",
    "vocabulary_size",
]

_FLOATS = ("F64", "F32", "F16", "BF16")
_SCALES = ("weight_scale", "weight_scale_inv", "scb", "qzeros", "scales", "absmax", "quant_state")
"""Last parts of the names that quantized checkpoints keep beside the weights (compressed-tensors, FP8,
bitsandbytes, GPTQ and AWQ); no float model has them."""

_TABLES = (
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embedding.weight",
    "shared.weight",
)
"""How architectures call the table of word embeddings, behind any prefix."""

_DEQUANTIZE = (
    "Take the model's unquantized revision, or write one where its packages are installed: "
    "AutoModel.from_pretrained(…).dequantize(), then save_pretrained"
)


def other_format(folder: Path) -> str | None:
    """What *folder* holds instead of a model's safetensors, and what to do; None where nothing is known."""
    if any(folder.glob("*.gguf")):
        return (
            "holds GGUF files, llama.cpp's quantized form of a model. Take the model that they were made "
            "from, or serve them (llama-server --embedding) and use openai:MODEL@URL"
        )
    if any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx")):
        return (
            "holds only an ONNX export. Take the model that it was made from (its model.safetensors), or "
            "serve it and use openai:MODEL@URL"
        )
    if any(folder.glob("openvino*.xml")) or any(folder.glob("openvino/*.xml")):
        return (
            "holds only an OpenVINO export. Take the model that it was made from, with its model.safetensors"
        )
    if any(folder.glob("*.h5")) or any(folder.glob("*.msgpack")):
        return (
            "holds only TensorFlow's or Flax's weights. Load them once with transformers (from_tf=True or "
            "from_flax=True) and save_pretrained, which writes safetensors"
        )
    return None


def check_folder(folder: Path, name: str) -> None:
    """Refuse an adapter's folder, which is a part of a model. Beside a whole model, too: transformers with
    peft applies what it finds there, and which of the two the author meant can't be told.

    Raises:
        EncoderError: says what it is, of which model, and what to do.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        stated = read_json(path)
    except EncoderError:
        stated = {}
    base, kind = (
        str(stated.get(key) or default)[:200]
        for key, default in (("base_model_name_or_path", "a base model"), ("peft_type", "PEFT"))
    )
    raise EncoderError(
        f"{name} has an adapter ({kind}, adapter_config.json) for {base}, which isn't applied here. Merge it "
        "once: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(FOLDER), with "
        "the tokenizer and the modules beside it. If the folder's weights are merged already, delete "
        "adapter_config.json and adapter_model.safetensors",
        spec=name,
    )


_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
_Sizes = _Size | list[_Size] | None  # some architectures have a width for each layer
_Epsilon = Annotated[float, msgspec.Meta(gt=0, lt=1)]


_Name = Annotated[str, msgspec.Meta(max_length=100)]
_Theta = Annotated[float, msgspec.Meta(gt=0, lt=1e30)]


class _Config(msgspec.Struct):
    """What config.json may say of an architecture, as far as a network is built from it.

    Bounds are far beyond any model's: without them a number made up asks for memory or time that no weights
    account for.
    """

    model_type: _Name | None = None
    architectures: Annotated[list[_Name], msgspec.Meta(max_length=20)] | None = None
    hidden_size: _Size | None = None
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    n_layers: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None  # DistilBERT's names
    n_heads: _Size | None = None
    dim: _Size | None = None
    hidden_dim: _Size | None = None
    activation: _Name | None = None
    num_attention_heads: _Sizes = None
    num_key_value_heads: _Sizes = None
    intermediate_size: _Sizes = None
    head_dim: _Size | None = None
    vocab_size: _Size | None = None
    type_vocab_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] | None = None
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=-1, le=1 << 40)] | None = None
    # A null here is no missing key, which has a default.
    layer_norm_eps: _Epsilon = 1e-12
    rms_norm_eps: _Epsilon = 1e-6
    norm_eps: _Epsilon = 1e-5
    hidden_act: Annotated[str, msgspec.Meta(pattern=r"^\w{1,60}$")] | None = None
    hidden_activation: _Name | None = None
    position_embedding_type: _Name | None = None
    relative_attention_num_buckets: _Size | None = None
    is_decoder: bool | None = None
    add_cross_attention: bool | None = None
    pad_token_id: int | None = None
    global_attn_every_n_layers: Annotated[int, msgspec.Meta(ge=1)] = 3
    local_attention: Annotated[int, msgspec.Meta(ge=-1)] = 128
    layer_types: list[_Name] | None = None
    global_rope_theta: _Theta | None = None
    local_rope_theta: _Theta | None = None
    rope_theta: _Theta | dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    sliding_window: Annotated[int, msgspec.Meta(ge=-1)] | None = None


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json that holds what it can't hold, and a quantized checkpoint by what it says there.

    Raises:
        EncoderError: names the field, or the method.
    """
    checked(config, _Config, "config.json", name)
    for key in ("quantization_config", "compression_config"):
        stated = config.get(key)
        if stated:
            method = stated.get("quant_method") if isinstance(stated, Mapping) else None
            raise EncoderError(
                f"{name} is quantized ({method or 'it does not say how'}; {key} in config.json), and "
                f"only float weights are read. {_DEQUANTIZE}",
                spec=name,
            )


def check_weights(tensors: Tensors, name: str) -> None:
    """Refuse weights that are integers, or that come with scales: config.json doesn't always say so.

    Buffers of integers (``position_ids``, GPT-2's ``attn.bias``) are no weights.

    Raises:
        EncoderError: names a tensor.
    """
    for tensor in tensors:
        last = tensor.rpartition(".")[2].lower()
        dtype = tensors.file_of(tensor).entries[tensor][0]
        if last in _SCALES or (dtype not in _FLOATS and "weight" in last):
            raise EncoderError(
                f"{name} is quantized (tensor {tensor} of {dtype}), and only float weights are read. "
                f"{_DEQUANTIZE}",
                spec=name,
            )


def _table(tensors: Tensors) -> tuple[str, tuple[int, ...]] | None:
    """The word embeddings' name and shape, or None where the architecture calls them otherwise."""
    found = [name for name in tensors if name.endswith(_TABLES)]
    # the shortest is the encoder's own: a masked-LM head or a decoder may repeat it under a longer name
    best = min(found, key=len, default=None)
    return None if best is None else (best, tensors.file_of(best).entries[best][1])


def vocabulary_size(config: Mapping[str, Any], name: str) -> int:
    """The scores that a masked-LM head gives, as config.json states it.

    Raises:
        EncoderError: it states none.
    """
    stated = config.get("vocab_size")
    if not isinstance(stated, int) or stated < 1:
        raise EncoderError(f"{name}: config.json states no vocab_size", spec=name)
    return stated


def check_tokens(tokens: Mapping[str, int], config: Mapping[str, Any], tensors: Tensors, name: str) -> None:
    """Refuse a tokenizer that has ids beyond the table of word embeddings.

    Raises:
        EncoderError: names both sizes and a token.
    """
    table = _table(tensors)
    stated = config.get("vocab_size")
    rows = table[1][0] if table is not None and table[1] else stated
    if not isinstance(rows, int):
        return
    beyond = [(i, token) for token, i in tokens.items() if i >= rows]
    if beyond:
        least = min(beyond)
        raise EncoderError(
            f"{name}: the tokenizer has ids up to {max(beyond)[0]}, the model {rows} rows of word "
            f"embeddings: {shown(least[1])} (id {least[0]}) has no vector. Tokens were added "
            "(tokenizer.json, tokenizer_config.json) and the model not resized "
            "(model.resize_token_embeddings), or tokenizer and weights are of two models",
            spec=name,
        )


def check_shapes(config: Mapping[str, Any], tensors: Tensors, name: str) -> None:
    """Compare the tensors' shapes with config.json, where both say something.

    Raises:
        EncoderError: names the tensor, its shape and what the configuration says.
    """
    table = _table(tensors)
    if table is not None and len(table[1]) != 2:
        raise EncoderError(
            f"{name}: {table[0]} has the shape {table[1]}, and a table of word embeddings has two dimensions",
            spec=name,
        )
    if table is not None:
        _same(config, name, table[0], table[1], 0, ("vocab_size",))
    for tensor in tensors:
        shape = tensors.file_of(tensor).entries[tensor][1]
        for ending, axis, keys in _SHAPES:
            if tensor.endswith(ending):
                _same(config, name, tensor, shape, axis, keys)
    width = _number(config, ("hidden_size", "dim", "n_embd", "d_model"))
    heads = _number(config, ("num_attention_heads", "n_heads", "n_head"))
    _check_heads(config, tensors, name, width)
    if width and heads and "head_dim" not in config and width % heads:
        raise EncoderError(
            f"{name}: config.json divides {width} dimensions among {heads} attention heads",
            spec=name,
        )


def _check_heads(config: Mapping[str, Any], tensors: Tensors, name: str, width: int | None) -> None:
    """Queries and keys of a decoder: tables of positions are made from these before a weight is read."""
    heads, depth = _number(config, ("num_attention_heads",)), _number(config, ("head_dim",))
    depth = depth or (width // heads if width and heads else None)
    pairs = _number(config, ("num_key_value_heads",)) or heads
    if not heads or not depth:
        return
    for ending, count in (("self_attn.q_proj.weight", heads), ("self_attn.k_proj.weight", pairs)):
        for tensor in tensors:
            if not tensor.endswith(ending) or config.get("model_type") not in _PLAIN_DECODERS:
                continue
            shape = tensors.file_of(tensor).entries[tensor][1]
            if len(shape) == 2 and shape[0] != (count or 0) * depth:
                raise EncoderError(
                    f"{name}: {tensor} has the shape {shape}, and config.json says {count} heads of {depth} "
                    "dimensions: they are of two models, or one of them was edited. Fetch both from the same "
                    "revision",
                    spec=name,
                )


_PLAIN_DECODERS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose every layer has heads as config.json says."""

_SHAPES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("embeddings.position_embeddings.weight", 0, ("max_position_embeddings",)),
    ("embeddings.token_type_embeddings.weight", 0, ("type_vocab_size",)),
    ("attention.self.query.weight", 0, ("hidden_size",)),
    ("attention.q_lin.weight", 0, ("dim",)),
    ("attention.attn.q.weight", 0, ("hidden_size",)),
    ("intermediate.dense.weight", 0, ("intermediate_size",)),
    ("ffn.lin1.weight", 0, ("hidden_dim",)),
    ("mlp.up_proj.weight", 0, ("intermediate_size",)),
    ("mlp.up_proj.weight", 1, ("hidden_size",)),
    ("encoder.relative_attention_bias.weight", 0, ("relative_attention_num_buckets",)),
    ("encoder.relative_attention_bias.weight", 1, ("num_attention_heads",)),
)
"""Ending of a tensor's name, its axis, and the keys that state its size."""


def _number(config: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _same(
    config: Mapping[str, Any],
    name: str,
    tensor: str,
    shape: tuple[int, ...],
    axis: int,
    keys: tuple[str, ...],
) -> None:
    stated = _number(config, keys)
    if stated is not None and (len(shape) != 2 or shape[axis] != stated):
        raise EncoderError(
            f"{name}: {tensor} has the shape {shape}, and config.json says {keys[0]} = {stated}: they are of "
            "two models, or one of them was edited. Fetch both from the same revision",
            spec=name,
        )
