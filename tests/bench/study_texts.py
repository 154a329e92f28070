"""Real texts for the quantization study: sentences and overlapping windows of words, and their vectors.

Not for shipping: the collections are read where they lie, and vectors are kept in a folder outside.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COLLECTIONS = ("scifact", "npl", "med", "cosqa", "xquad-en", "xquad-de")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\s\.\s|\n\s*\n")
WINDOW, STRIDE = 24, 12
"""Words of a window, and from one window to the next: half is shared, as chunking does it."""


def _documents(folder: Path) -> Iterator[str]:
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield f"{record.get('title') or ''}\n\n{record.get('text') or ''}".strip()


def texts(data: Path) -> list[str]:
    """Distinct sentences (4 words or more) first, then distinct windows, in the collections' order."""
    sentences: dict[str, None] = {}
    windows: dict[str, None] = {}
    for name in COLLECTIONS:
        for document in _documents(data / name):
            for sentence in _SENTENCE.split(document):
                words = sentence.split()
                if len(words) >= 4:
                    sentences.setdefault(" ".join(words))
            words = document.split()
            for start in range(0, max(len(words) - WINDOW, 0) + 1, STRIDE):
                windows.setdefault(" ".join(words[start : start + WINDOW]))
    return [*sentences, *(text for text in windows if text not in sentences)]


def queries(data: Path, count: int) -> list[str]:
    """Questions of all collections, drawn with a fixed seed."""
    found: dict[str, None] = {}
    for name in COLLECTIONS:
        with (data / name / "queries.jsonl").open(encoding="utf-8") as lines:
            found.update((json.loads(line)["text"], None) for line in lines)
    return random.Random(7).sample(list(found), count)


def vectors(data: Path, cache: Path, count: int, asked: int) -> tuple[np.ndarray, np.ndarray]:
    """MiniLM's vectors of *count* texts and of *asked* queries: float32, length 1; encoded once.

    The texts are a sample with a fixed seed where there are more. Blocks that were encoded are kept,
    so that an interrupted run goes on.
    """
    from esembed.encode.base import RuntimeOptions
    from esembed.encode.registry import load
    from esembed.plan.params import EncoderParams

    cache.mkdir(parents=True, exist_ok=True)
    done, done_queries = cache / f"texts-{count}.npy", cache / f"queries-{asked}.npy"
    if done.exists() and done_queries.exists():
        return np.load(done), np.load(done_queries)
    all_texts = texts(data)
    print(
        f"{len(all_texts):,} distinct texts, {sum(map(len, all_texts)) / len(all_texts):.0f} characters each"
    )
    if len(all_texts) < count:
        raise SystemExit(f"only {len(all_texts)} texts, {count} asked for")
    chosen = random.Random(7).sample(all_texts, count)
    encoder = load("minilm", EncoderParams(), RuntimeOptions())
    parts = []
    for start in range(0, count, 10_000):
        block = cache / f"block-{count}-{start}.npy"
        if not block.exists():
            made = encoder.encode_document(chosen[start : start + 10_000])
            np.save(block, np.asarray(made, np.float32))
            print(f"{start + len(made):,} of {count:,} encoded", flush=True)
        parts.append(np.load(block))
    np.save(done_queries, np.asarray(encoder.encode_query(queries(data, asked)), np.float32))
    np.save(done, np.concatenate(parts))
    for start in range(0, count, 10_000):
        (cache / f"block-{count}-{start}.npy").unlink()
    return np.load(done), np.load(done_queries)
