"""Which fusion should be the default? Legs, untuned fusions and the learned default, on BEIR folders.

::

    python tests/bench/fusion_default.py ../shared/data --cache /tmp/fusion-cache [--sets scifact npl]

No engine is needed: BM25 is computed exactly (Lucene's formula, the ``english`` or ``standard`` words), the
dense leg is an exact search by ``minilm``. The learned default fuses lists of 100 with the weights that
``estimate_weights`` finds on at most 1,000 documents. Vectors are kept under ``--cache``. Prints Markdown:
nDCG@10 with 95 % intervals, and the share of codes (one for each of 300 documents, in no other)
that are found first.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.encode.lexical.words import ENGLISH_STOP_WORDS
from esembed.encode.registry import load
from esembed.evaluate.datasets import Dataset, load_dataset
from esembed.evaluate.leg_table import FusionConfig, LegTable
from esembed.evaluate.significance import bootstrap_interval
from esembed.plan.default_query import TEXT_PRIOR
from esembed.weights.estimate import estimate_weights
from esembed.weights.scorers import DenseScorer, LexicalScorer, SampledDocument

Matrix = npt.NDArray[np.float32]
SETS = ("scifact", "scifact/train", "npl", "med", "cosqa", "cosqa/dev", "xquad-en", "xquad-de")
WINDOW = 100


class CachedEncoder:
    """``minilm`` that keeps every vector in one file, by the hash of its text."""

    def __init__(self, folder: Path, dims: int | None = None) -> None:
        self._dims = dims
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "minilm.npz"
        self._vectors: dict[str, Matrix] = {}
        if self._path.exists():
            with np.load(self._path) as stored:
                self._vectors = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))
        self._encoder = load("minilm")

    @property
    def info(self) -> EncoderInfo:
        return self._encoder.info

    @property
    def stats(self) -> EncodeStats:
        return self._encoder.stats

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        keys = [hashlib.sha1(" ".join(text.split()).encode()).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if missing:
            found = self._encoder.encode_document(list(missing.values()))
            self._vectors.update(zip(missing, found, strict=True))
            self.save()
        vectors = np.stack([self._vectors[key] for key in keys])[:, : self._dims]
        unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    encode_query = encode_document

    def save(self) -> None:
        unfinished = self._path.with_suffix(".part.npz")
        np.savez(unfinished, keys=list(self._vectors), vectors=np.stack(list(self._vectors.values())))
        os.replace(unfinished, self._path)

    def close(self) -> None:
        self._encoder.close()


FORMS = {
    "RRF": FusionConfig(kind="rrf", weights=(1.0, 1.0), window=WINDOW),
    "min-max": FusionConfig(kind="minmax", weights=(0.5, 0.5), window=WINDOW),
    "min-max .4 : .6": FusionConfig(kind="minmax", weights=(0.4, 0.6), window=WINDOW),
    "not learned": FusionConfig(kind="floor", weights=(TEXT_PRIOR, 1 - TEXT_PRIOR), window=WINDOW),
}
CODES = 300


def measure(dataset: Dataset, encoder: CachedEncoder, analyzer: str, prefix: bool) -> list[str]:
    documents = [(str(d.id), f"{d.source['title']}\n{d.source['text']}".strip()) for d in dataset.documents()]
    language = analyzer if analyzer != "standard" else "none"
    if dataset.name.endswith("-de") and analyzer == "english":
        analyzer = language = "german"
    stop_words = ENGLISH_STOP_WORDS if analyzer == "english" else ()
    ids, texts = [one for one, _ in documents], [text for _, text in documents]
    queries = list(dataset.queries.values())
    vectors = encoder.encode_document(texts)
    # A code stands in the text that BM25 searches, behind what the encoder reads of a document.
    chosen = random.Random(7).sample(range(len(ids)), min(CODES, len(ids)))
    coded = {ids[i]: f"PN-{i + 10000}" if prefix else f"zx{i:05d}q" for i in chosen}
    searched = [f"{text}\n{coded[one]}" if one in coded else text for one, text in documents]
    bm25 = LexicalScorer(language=language, stop_words=stop_words)
    bm25.fit_texts(searched)
    sample = random.Random(0).sample(range(len(ids)), min(1000, len(ids)))
    started = time.perf_counter()
    report = estimate_weights(
        [SampledDocument(ids[i], searched[i], {"dense": vectors[i]}) for i in sample],
        {
            "bm25": LexicalScorer(language=language, stop_words=stop_words),
            "dense": DenseScorer("dense", encoder),
        },
        total=len(ids),
    )
    seconds = time.perf_counter() - started
    weights = (report.leg("bm25").weight, report.leg("dense").weight)
    forms = {**FORMS, "learned": FusionConfig(kind="floor", weights=weights, window=WINDOW)}

    def table(asked: dict[str, str], qrels: Mapping[str, Mapping[str, int]]) -> LegTable:
        words = bm25.scores(list(asked.values()))
        near = encoder.encode_query(list(asked.values())) @ vectors.T
        runs = {
            "bm25": {q: _top(ids, words[i], 0.0) for i, q in enumerate(asked)},
            "dense": {
                q: [(d, (1 + s) / 2) for d, s in _top(ids, near[i], -2.0)] for i, q in enumerate(asked)
            },
        }
        return LegTable(runs, qrels, limits={"dense": 1.0})

    judged = table(dict(zip(dataset.queries, queries, strict=True)), dataset.qrels)
    names = table({code: code for code in coded.values()}, {code: {one: 1} for one, code in coded.items()})
    alone = {leg: FusionConfig(kind="rrf", weights=w, window=WINDOW) for leg, w in LEGS.items()}
    rows = {name: judged.ndcg(config) for name, config in {**alone, **forms}.items()}
    cells = []
    for values in rows.values():
        interval = bootstrap_interval(values)
        cells.append(f"{interval.mean:.3f} ({interval.low:.3f}–{interval.high:.3f})")
    learned = float(rows["learned"].mean())
    best = max(float(rows[leg].mean()) for leg in LEGS)
    untuned = max(float(rows[name].mean()) for name in ("RRF", "min-max"))
    found = " / ".join(
        f"{float((names.ndcg(config) >= 1.0).mean()):.2f}"
        for config in (alone["BM25"], forms["RRF"], forms["not learned"], forms["learned"])
    )
    return [
        dataset.name,
        analyzer,
        str(len(queries)),
        *cells,
        f"{learned - best:+.3f}",
        f"{learned - untuned:+.3f}",
        f"{weights[0]:.2f} : {weights[1]:.2f}",
        found,
        f"{seconds:.1f}",
    ]


LEGS = {"BM25": (1.0, 0.0), "dense": (0.0, 1.0)}


def _top(ids: Sequence[str], row: Matrix, above: float) -> list[tuple[str, float]]:
    order = np.argsort(-row, kind="stable")[:WINDOW]
    return [(ids[i], float(row[i])) for i in order if row[i] > above]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder of BEIR folders")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--analyzers", nargs="+", default=("english", "standard"))
    parser.add_argument("--dims", type=int, help="only the first so many dims of each vector: a weak encoder")
    parser.add_argument("--prefix", action="store_true", help="codes that share a prefix, such as PN-12345")
    options = parser.parse_args()
    encoder = CachedEncoder(options.cache, options.dims)
    head = ["set", "words", "queries", *LEGS, *FORMS, "learned", "learned − best leg",
            "learned − best of RRF, min-max", "weights BM25 : dense",
            "codes found first: BM25 / RRF / not learned / learned", "estimate, s"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for name in options.sets:
        folder, _, split = name.partition("/")
        dataset = load_dataset(options.data / folder, split=split or "test")
        for analyzer in options.analyzers:
            print("| " + " | ".join(measure(dataset, encoder, analyzer, options.prefix)) + " |", flush=True)


if __name__ == "__main__":
    main()
