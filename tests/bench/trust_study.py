"""Are the estimate's two constants right, and does it hold on collections that it wasn't chosen on?

::

    python tests/bench/trust_study.py ../shared/data --cache /tmp/fusion-cache

Rows are the sets of fusion_default.py with both kinds of words, the encoder as it is and cut to 64, 24 and 8
dims; and collections made of them: smaller corpora, two languages in one, and texts of which three or six
tenths of the words are enciphered, so that the encoder can't read them and BM25 doesn't mind. For each the
default's nDCG@10 is computed at every ratio of weights, so that any exponent and factor can be judged
afterward: over all rows, and with one collection left out, on that one. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fusion_default import SETS, CachedEncoder

from esembed.encode.lexical.words import ENGLISH_STOP_WORDS
from esembed.evaluate.datasets import Dataset, load_dataset, make_dataset
from esembed.evaluate.leg_table import FusionConfig, LegTable
from esembed.weights.estimate import DenseScorer, LegTrust, LexicalScorer, TrustOptions, estimate_trust
from esembed.weights.query import DAMP_WORDS

RATIOS = 2.0 ** np.arange(-7, 7.01, 0.25)
EXPONENTS, FACTORS = (2.5, 3.0, 3.5, 4.0, 4.5), (4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
DIMS = (None, 64, 24, 8)


@dataclass(frozen=True)
class Collection:
    """Documents in order, queries and judgments."""

    documents: list[tuple[str, str]]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, dataset: Dataset) -> Collection:
        texts = [(str(d.id), f"{d.source['title']}\n{d.source['text']}".strip()) for d in dataset.documents()]
        return cls(texts, dataset.queries, dataset.qrels)

    def smaller(self, count: int, seed: int) -> Collection:
        """So many documents drawn at random, and the queries that still have an answer."""
        kept = random.Random(seed).sample(self.documents, count)
        ids = {identifier for identifier, _ in kept}
        qrels = {
            query: {document: grade for document, grade in grades.items() if document in ids}
            for query, grades in self.qrels.items()
        }
        left = make_dataset("smaller", self.queries, qrels)
        return Collection(kept, left.queries, left.qrels)

    def enciphered(self, share: float) -> Collection:
        """That share of the words, the same ones everywhere, in letters that mean nothing."""
        documents = [(identifier, encipher(text, share)) for identifier, text in self.documents]
        queries = {query: encipher(text, share) for query, text in self.queries.items()}
        return Collection(documents, queries, self.qrels)

    def beside(self, other: Collection) -> Collection:
        """Both in one index."""
        documents = [(side + i, t) for side, c in (("a", self), ("b", other)) for i, t in c.documents]
        queries = {side + q: t for side, c in (("a", self), ("b", other)) for q, t in c.queries.items()}
        qrels = {
            side + q: {side + d: g for d, g in grades.items()}
            for side, c in (("a", self), ("b", other))
            for q, grades in c.qrels.items()
        }
        return Collection(documents, queries, qrels)


_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
_SHIFT = str.maketrans(_CONSONANTS + _VOWELS, _CONSONANTS[7:] + _CONSONANTS[:7] + _VOWELS[2:] + _VOWELS[:2])


def encipher(text: str, share: float) -> str:
    def word(match: re.Match[str]) -> str:
        lower = match[0].lower()
        chance = int(hashlib.sha1(lower.encode()).hexdigest(), 16) % 1000 / 1000
        return lower.translate(_SHIFT) if chance < share else match[0]

    return re.sub("[A-Za-z]+", word, text)


def collections(data: Path) -> Iterator[tuple[str, tuple[str, ...], tuple[int | None, ...], Collection]]:
    """Name, words, dims, collection."""
    loaded: dict[str, Collection] = {}
    for name in SETS:
        folder, _, split = name.partition("/")
        loaded[name] = Collection.of(load_dataset(data / folder, split=split or "test"))
        yield name, ("german" if name == "xquad-de" else "english", "standard"), DIMS, loaded[name]
    made: dict[str, Callable[[], Collection]] = {
        "xquad-en + xquad-de": lambda: loaded["xquad-en"].beside(loaded["xquad-de"]),
        "xquad-de, 120 documents": lambda: loaded["xquad-de"].smaller(120, 1),
        "xquad-en, 120 documents": lambda: loaded["xquad-en"].smaller(120, 1),
        "scifact/train, 1500 documents": lambda: loaded["scifact/train"].smaller(1500, 0),
        "npl, 3000 documents": lambda: loaded["npl"].smaller(3000, 2),
        "cosqa/dev, 1500 documents": lambda: loaded["cosqa/dev"].smaller(1500, 3),
    }
    for share in (0.3, 0.6):
        made |= {
            f"xquad-en, {share} enciphered": lambda s=share: loaded["xquad-en"].enciphered(s),
            f"med, {share} enciphered": lambda s=share: loaded["med"].enciphered(s),
            f"cosqa, {share} enciphered": lambda s=share: loaded["cosqa"].smaller(2500, 0).enciphered(s),
            f"npl, {share} enciphered": lambda s=share: loaded["npl"].smaller(4000, 0).enciphered(s),
            f"scifact, {share} enciphered": lambda s=share: (
                loaded["scifact/train"].smaller(1500, 0).enciphered(s)
            ),
        }
    for name, make in made.items():
        yield name, ("standard",), (None,), make()


@dataclass(frozen=True)
class Row:
    """One collection, measured: nDCG@10 of the legs, and of the default at each of ``RATIOS``."""

    name: str
    legs: tuple[float, float]
    level: float
    curve: np.ndarray

    def gain(self, exponent: float, factor: float, chosen: float) -> float:
        """Of the default over the better leg; *factor* of BM25's scale, in units of the *chosen* one."""
        ratio = np.log2(np.exp(exponent * self.level) * factor / chosen)
        return float(np.interp(ratio, np.log2(RATIOS), self.curve)) - max(self.legs)


def measure(name: str, found: Collection, words: str, encoder: CachedEncoder, factor: float) -> Row:
    language = "none" if words == "standard" else words
    stop_words = ENGLISH_STOP_WORDS if words == "english" else ()
    ids, texts = [i for i, _ in found.documents], [t for _, t in found.documents]
    queries = list(found.queries.values())
    bm25 = LexicalScorer(language=language, stop_words=stop_words)
    bm25.fit(texts)
    lexical = bm25.scores(queries)
    dense = (1 + encoder.encode_query(queries) @ encoder.encode_document(texts).T) / 2
    k = max(10, len(ids)) if len(ids) <= 1000 else 200
    damp = np.array([min(1, DAMP_WORDS / max(1, len(query.split()))) for query in queries])[:, None]

    def table(text: np.ndarray, depth: int) -> LegTable:
        tops = [[np.argsort(-row, kind="stable")[:depth] for row in scores] for scores in (text, dense)]
        runs = {
            leg: {
                query: [(ids[i], float(scores[row, i])) for i in tops[side][row] if scores[row, i] > 0]
                for row, query in enumerate(found.queries)
            }
            for side, (leg, scores) in enumerate((("bm25", text), ("dense", dense)))
        }
        known = {
            query: {ids[i]: float(text[row, i]) for i in tops[1][row]}
            for row, query in enumerate(found.queries)
        }
        return LegTable(runs, found.qrels, completed={"bm25": known})

    lists, wide = table(lexical, 100), table(lexical * damp, k)
    legs = tuple(
        float(lists.ndcg(FusionConfig(kind="bound", weights=weights)).mean())
        for weights in ((1.0, 0.0), (0.0, 1.0))
    )
    scorers = {
        "bm25": LexicalScorer(language=language, stop_words=stop_words),
        "dense": DenseScorer(encoder),
    }
    report = estimate_trust(found.documents, scorers, options=TrustOptions(drop_below=0))
    text, vectors = report.leg("bm25"), report.leg("dense")
    curve = [
        float(
            wide.ndcg(
                FusionConfig(kind="bound", weights=(1 / text.scale, 2 * ratio / vectors.scale), window=k)
            ).mean()
        )
        for ratio in RATIOS
    ]
    level = math.log(_level(vectors) / _level(text))
    return Row(name, (legs[0], legs[1]), level, np.array(curve))


def _level(leg: LegTrust) -> float:
    return math.exp(float(np.mean([math.log(value + 0.01) for value in leg.quality.values()])))


def summary(gains: np.ndarray) -> str:
    return f"{gains.mean():+.4f} | {gains.min():+.4f} | {(gains < -0.01).sum()} of {len(gains)}"


def worth(gains: np.ndarray) -> float:
    """What is maximized: the mean, a loss of more than .005 counting five times more."""
    return float((gains - 5 * np.maximum(0, -0.005 - gains)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder of BEIR folders")
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    encoder = CachedEncoder(options.cache)
    exponent, factor = TrustOptions().exponent, 6.0
    rows: list[Row] = []
    print("| collection | words | dims | BM25 | dense | default − best leg | best possible |")
    print("|---|---|---|---|---|---|---|")
    for name, analyzers, dims, found in collections(options.data):
        for words in analyzers:
            for count in dims:
                encoder._dims = count
                row = measure(name, found, words, encoder, factor)
                rows.append(row)
                best = row.curve.max() - max(row.legs)
                print(
                    f"| {name} | {words} | {count or 'all'} | {row.legs[0]:.3f} | {row.legs[1]:.3f} "
                    f"| {row.gain(exponent, factor, factor):+.3f} | {best:+.3f} |",
                    flush=True,
                )
    gains = {
        pair: np.array([row.gain(*pair, factor) for row in rows])
        for pair in ((e, f) for e in EXPONENTS for f in FACTORS)
    }
    print("\n| exponent | factor | mean | worst | below −.01 |\n|---|---|---|---|---|")
    for pair, values in gains.items():
        print(f"| {pair[0]} | {pair[1]} | {summary(values)} |")
    print("\n| left out | chosen on the others | mean | worst | below −.01 |\n|---|---|---|---|---|")
    groups = np.array([re.split(r"[-/, ]", row.name)[0] for row in rows])
    for group in dict.fromkeys(groups.tolist()):
        inside = groups == group
        # Each of the other collections weighs alike, however many rows it has.
        others = [groups == other for other in set(groups.tolist()) - {group}]
        pair = max(gains, key=lambda p: sum(worth(gains[p][other]) for other in others))
        print(f"| {group} | {pair[0]}, {pair[1]} | {summary(gains[pair][inside])} |")


if __name__ == "__main__":
    main()
