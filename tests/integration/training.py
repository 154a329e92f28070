"""What tests of training need: the extra, small models, a small world of topics on an engine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest

NEEDED = ("sentence_transformers", "datasets", "accelerate", "peft")


def need_training() -> None:
    """Skip the module without the extra ``train``, or fail where it must be there."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if not lacking:
        return
    reason = f"training needs the extra train: {', '.join(lacking)} not installed"
    if os.environ.get("ESEMBED_REQUIRE_TRAINING") == "1":
        raise RuntimeError(reason)
    pytest.skip(reason, allow_module_level=True)


TOPICS = 30


def documents(each: int = 4) -> list[dict[str, Any]]:
    """*each* documents about each topic: a title of the topic's words, and a body with some of them."""
    random = Random(1)
    made = []
    for topic in range(TOPICS):
        words = [f"word{topic * 10 + place}" for place in range(8)]
        for number in range(each):
            own = random.sample(words, 4)
            noise = [f"word{300 + random.randrange(90)}" for _ in range(4)]
            body = random.sample([*own, *noise], 8)
            made.append(
                {
                    "id": f"d{topic}-{number}",
                    "title": " ".join(random.sample(words, 3)),
                    "body": " ".join(body) + ". " + " ".join(random.sample(body, 6)) + ".",
                    "topic": f"topic {topic}",
                }
            )
    return made


def queries(each: int = 4) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """*each* queries about each topic; half of its documents are judged relevant."""
    random = Random(2)
    texts, qrels = {}, {}
    for topic in range(TOPICS):
        words = [f"word{topic * 10 + place}" for place in range(8)]
        for number in range(each):
            name = f"q{topic}-{number}"
            texts[name] = " ".join(random.sample(words, 3))
            qrels[name] = {f"d{topic}-0": 2, f"d{topic}-1": 1}
    return texts, qrels


def make_encoder(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A sentence-transformers folder: a small random BERT, the mean of its states, length 1."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from small_models import make_tokenizer

    inner = folder.with_name(f"{folder.name}-inner")
    tokenizer = make_tokenizer(inner)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        initializer_range=0.3,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(str(inner))
    tokenizer.save_pretrained(str(inner))
    transformer = Transformer(str(inner))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()]
    SentenceTransformer(modules=modules).save_pretrained(str(folder), create_model_card=False)
    return folder
