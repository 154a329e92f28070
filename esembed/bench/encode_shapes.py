"""Models of known shapes with random weights, so that speed can be measured where no model hub is reached.

What they compute means nothing; how long it takes is what the trained model of that shape takes. Made with
transformers, with all-MiniLM-L6-v2's tokenizer.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "flops_per_token", "make_shape"]

SHAPES = {
    "bert-base": "110 million weights, mean pooling: BGE-base, E5-base, GTE-base",
    "mpnet-base": "110 million: all-mpnet-base-v2",
    "modernbert-base": "150 million, rotary positions, windows: ModernBERT-embed, GTE-ModernBERT",
    "qwen3-0.6b": "600 million, a causal decoder, last token: Qwen3-Embedding-0.6B",
    "splade": "BERT-base with its masked-LM head: SPLADE's models",
}
"""Name → the architecture of a well-known model, for models with random weights."""

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet")


def make_shape(name: str, folder: Path) -> Path:
    """Write the checkpoint of shape *name* of :data:`SHAPES` into *folder*, and return *folder*."""
    from esembed.encode.transformer.minilm import find_minilm

    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    kind: Any = transformers.AutoModel
    if name == "qwen3-0.6b":
        config = transformers.Qwen3Config(
            vocab_size=151_669, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, intermediate_size=3072, max_position_embeddings=32_768,
        )  # fmt: skip
    elif name == "mpnet-base":
        config = transformers.MPNetConfig(max_position_embeddings=514)
    elif name == "modernbert-base":
        config = transformers.ModernBertConfig(pad_token_id=0, cls_token_id=101, sep_token_id=102)
    else:
        config = transformers.BertConfig()
    if name == "splade":
        kind = transformers.AutoModelForMaskedLM
    transformers.utils.logging.disable_progress_bar()
    model: Any = kind.from_config(config, dtype=torch.float32)
    if name == "splade":
        # some hundreds of positive entries a text, as learned models have
        torch.nn.init.normal_(model.get_output_embeddings().bias, -2.6, 0.5)
    model.save_pretrained(str(folder))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(find_minilm() / file, folder / file)
    if name != "splade":
        _write_modules(
            folder, int(config.hidden_size), "lasttoken" if name == "qwen3-0.6b" else "mean_tokens"
        )
    return folder


def _write_modules(folder: Path, dims: int, pooling: str) -> None:
    """What sentence-transformers stores beside a model: a pooling and a normalization."""
    package = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    described = [
        {"idx": place, "name": str(place), "path": path, "type": f"{package}.{name}"}
        for place, (path, name) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    pooled = {
        "word_embedding_dimension": dims,
        "pooling_mode_mean_tokens": False,
        f"pooling_mode_{pooling}": True,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled), encoding="utf-8")


def flops_per_token(
    config: Mapping[str, Any], mean_length: float, *, masked_lm: bool = False
) -> float | None:
    """Multiplications and additions for one token.

    BERT-like: the linear layers' 2·(4·h² + 2·h·i) a layer and attention's 4·h·L. Causal decoders with
    gated layers: 2·(h·d·(2·heads + 2·kv) + 3·h·i), and half of attention's, since a token sees only those
    before it. With *masked_lm* the head's 2·(h² + h·V) as well. None for other shapes.
    """
    hidden, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    inner = config.get("intermediate_size")
    if not (isinstance(hidden, int) and isinstance(layers, int) and isinstance(inner, int)):
        return None
    kind = config.get("model_type")
    if kind in _BERT_LIKE:
        flops = layers * (2.0 * (4 * hidden * hidden + 2 * hidden * inner) + 4.0 * hidden * mean_length)
        return flops + 2.0 * hidden * (hidden + int(config["vocab_size"])) if masked_lm else flops
    if kind in ("llama", "mistral", "qwen2", "qwen3") and not masked_lm:
        heads = int(config["num_attention_heads"])
        pairs = int(config.get("num_key_value_heads") or heads)
        size = int(config.get("head_dim") or hidden // heads)
        linear = hidden * size * (2 * heads + 2 * pairs) + 3 * hidden * inner
        return layers * (2.0 * linear + 2.0 * heads * size * mean_length)
    return None
