"""Which fusion should be the default? Legs, untuned fusions, the knowing default and tuning, on BEIR folders.

::

    python tests/bench/fusion_default.py ../shared/data --cache /tmp/fusion-cache [--sets scifact npl]

No engine is needed: BM25 is computed exactly (Lucene's formula, the ``english`` or ``standard`` words), the
dense leg is an exact search by ``minilm``. The knowing default is scored as its one request is: BM25 of
every document, cosines of the k nearest only. Vectors are kept under ``--cache``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.encode.lexical.words import ENGLISH_STOP_WORDS
from esembed.encode.registry import load
from esembed.evaluate.datasets import Dataset, load_dataset
from esembed.evaluate.leg_table import FusionConfig, LegTable, untuned
from esembed.evaluate.significance import bootstrap_interval
from esembed.evaluate.tuning import split_protocol
from esembed.weights.estimate import DenseScorer, LexicalScorer, estimate_trust
from esembed.weights.query import DAMP_WORDS

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


def measure(dataset: Dataset, encoder: CachedEncoder, analyzer: str, splits: int) -> list[str]:
    documents = [(str(d.id), f"{d.source['title']}\n{d.source['text']}".strip()) for d in dataset.documents()]
    ids = [identifier for identifier, _ in documents]
    queries = list(dataset.queries.values())
    language = analyzer if analyzer != "standard" else "none"
    if dataset.name.endswith("-de") and analyzer == "english":
        analyzer = language = "german"
    stop_words = ENGLISH_STOP_WORDS if analyzer == "english" else ()

    def lexical() -> LexicalScorer:
        return LexicalScorer(language=language, stop_words=stop_words)

    bm25 = lexical()
    bm25.fit([text for _, text in documents])
    texts = bm25.scores(queries)
    dense = encoder.encode_query(queries) @ encoder.encode_document([text for _, text in documents]).T
    report = estimate_trust(documents, {"bm25": lexical(), "dense": DenseScorer(encoder)})
    k = max(10, len(ids)) if len(ids) <= 1000 else 200

    def top(row: Matrix, count: int, floor: float) -> list[tuple[str, float]]:
        order = np.argsort(-row, kind="stable")[:count]
        return [(ids[i], float(row[i])) for i in order if row[i] > floor]

    def table(count: int) -> LegTable:
        runs = {
            "bm25": {q: top(texts[i], count, 0.0) for i, q in enumerate(dataset.queries)},
            "dense": {
                q: [(d, (1 + s) / 2) for d, s in top(dense[i], count, -2.0)]
                for i, q in enumerate(dataset.queries)
            },
        }
        at = {identifier: i for i, identifier in enumerate(ids)}
        completed = {
            "bm25": {
                q: {d: float(texts[i][at[d]]) for d, _ in runs["dense"][q]}
                for i, q in enumerate(dataset.queries)
            }
        }
        return LegTable(runs, dataset.qrels, completed=completed)

    lists = table(WINDOW)
    knowing = FusionConfig(
        kind="bound", weights=(report.leg("bm25").weight, 2 * report.leg("dense").weight), window=k
    )
    # The one request damps BM25 on very long queries.
    words = np.array([len(query.split()) for query in queries])
    texts = texts * np.minimum(1, DAMP_WORDS / np.maximum(1, words))[:, None]
    wide = table(k)
    rows = {name: lists.ndcg(config) for name, config in untuned(("bm25", "dense")).items()}
    rows["knowing"] = wide.ndcg(knowing)
    cells = []
    for values in rows.values():
        interval = bootstrap_interval(values)
        cells.append(f"{interval.mean:.3f} ({interval.low:.3f}–{interval.high:.3f})")
    proof = split_protocol(lists, default=FusionConfig(kind="bound", weights=knowing.weights), splits=splits)
    best = max(float(rows["bm25"].mean()), float(rows["dense"].mean()))
    trusts = f"{report.leg('bm25').trust:.2f} : {report.leg('dense').trust:.2f}"
    return [
        dataset.name,
        analyzer,
        str(len(queries)),
        *cells,
        f"{float(rows['knowing'].mean()) - best:+.3f}",
        trusts,
        f"{proof.tuned.mean:.3f} ({proof.tuned.low:.3f}–{proof.tuned.high:.3f})",
        f"{proof.difference.mean:+.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder of BEIR folders")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--analyzers", nargs="+", default=("english", "standard"))
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--dims", type=int, help="only the first so many dims of each vector: a weak encoder")
    options = parser.parse_args()
    encoder = CachedEncoder(options.cache, options.dims)
    head = ["set", "words", "queries", "BM25", "dense", "RRF", "min-max", "knowing", "knowing − best leg",
            "trust BM25 : dense", "tuned (other half)", "tuned − best untuned"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for name in options.sets:
        folder, _, split = name.partition("/")
        dataset = load_dataset(options.data / folder, split=split or "test")
        for analyzer in options.analyzers:
            row = measure(dataset, encoder, analyzer, options.splits)
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
