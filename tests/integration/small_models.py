"""Small random models that tests save to a folder, as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TAILS = ["##ing", "##ed", *(f"##{letter}" for letter in LETTERS)]
PLAIN = ["the", "cat", "sat", "on", "mat", "dog", "ran", "fast", "over", "lazy", "fox", "jump", "14", "3"]
WORDS = [*LETTERS, *TAILS, *PLAIN, ".", ",", "?", *(f"word{i}" for i in range(400))]


def make_tokenizer(folder: Path) -> Any:
    """A folder with vocab.txt, read back: transformers 5 builds a five-token vocabulary otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert len(tokenizer) == len(SPECIAL) + len(WORDS)
    return tokenizer


def make_masked_lm(folder: Path) -> Path:
    """A BERT with its masked-LM head."""
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        initializer_range=0.3,
    )
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():  # a bias that matters, as in a trained head
        model.get_output_embeddings().bias.normal_(-1.0, 1.0)
    model.eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def make_m3(folder: Path, *, words: int = 0, seed: int = 0) -> Path:
    """BGE-M3 in small: an XLM-R with a tokenizer, the modules of its dense side, and ``sparse_linear.pt``.

    Args:
        words: further words of the vocabulary.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    names = ["<s>", "<pad>", "</s>", "<unk>", *PLAIN, ".", ",", "?", *(f"word{i}" for i in range(words))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(names[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special})
    )
    torch.manual_seed(seed)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(names),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.3,
    )
    transformers.XLMRobertaModel(config, add_pooling_layer=False).eval().save_pretrained(str(folder))
    linear = torch.nn.Linear(32, 1)
    torch.save(linear.state_dict(), folder / "sparse_linear.pt")
    torch.save(torch.nn.Linear(32, 32).state_dict(), folder / "colbert_linear.pt")
    modules = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (kind, path) in enumerate(modules)
            ]
        )
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    return folder


def make_cross_encoder(folder: Path) -> Path:
    """A BERT with one output for a pair of texts."""
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        num_labels=1,
        initializer_range=0.6,
    )
    transformers.BertForSequenceClassification(config).eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def make_static(folder: Path) -> Path:
    """A model2vec folder."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    names = ["[PAD]", "[UNK]", *PLAIN]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(0).standard_normal((len(names), 8)).astype(np.float32)
    save_file({"embeddings": table}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder
