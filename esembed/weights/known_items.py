"""Known items: queries made from the corpus itself, for when there are no judgments.

A piece of a document becomes the query and the document the one right answer. With the *held-out* kinds
the piece is taken out of the document first, so that a leg can't win by finding it word for word: that
is closer to what people ask. See Azzopardi, de Rijke, Balog, "Building simulated queries for known-item
topics", SIGIR 2007.

Two rankings are also compared with each other: their overlap, and rank-biased overlap (Webber, Moffat,
Zobel, "A similarity measure for indefinite rankings", TOIS 2010).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from esembed.errors import EsembedError

__all__ = [
    "HELD_OUT",
    "Agreement",
    "Kind",
    "KnownItem",
    "agreement",
    "known_items",
    "overlap",
    "rank_biased_overlap",
    "sample",
]

Kind = Literal["first", "sentence", "half", "words", "window"]
"""How a query is cut: the title or ``first`` sentence, another ``sentence`` and words of one ``half`` are
held out of the document; ``words`` (scattered, shuffled) and a ``window`` stay in it."""

HELD_OUT: tuple[Kind, ...] = ("first", "sentence", "half")
"""The kinds whose words are held out of the document."""

_BREAK = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_LENGTHS = (4, 5, 6, 8, 10, 12)


@dataclass(frozen=True, slots=True)
class KnownItem:
    """One made-up query.

    Attributes:
        document_id: the right answer.
        kind: how it was cut.
        query: the query's text.
        rest: the document without the query's words, for held-out kinds; else None.
    """

    document_id: str
    kind: Kind
    query: str
    rest: str | None = None


def sample(documents: Iterable[tuple[str, str]], count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """*count* documents drawn evenly from a stream of any length (Vitter's reservoir), shuffled."""
    rng = random.Random(seed)
    kept: list[tuple[str, str]] = []
    for position, document in enumerate(documents):
        if len(kept) < count:
            kept.append(document)
        elif (slot := rng.randrange(position + 1)) < count:
            kept[slot] = document
    rng.shuffle(kept)
    return kept


def known_items(
    documents: Iterable[tuple[str, str]],
    *,
    count: int = 250,
    kinds: Sequence[Kind] = HELD_OUT,
    seed: int = 0,
) -> list[KnownItem]:
    """Queries from the first *count* documents that are long enough (14 words).

    Args:
        documents: (id, text); fields joined by line breaks, so that a title is the first sentence.
        count: how many documents; each gives one query of every kind.
        kinds: see :data:`Kind`.
        seed: the same seed and documents give the same queries.

    Raises:
        EsembedError: an unknown kind.
    """
    for kind in kinds:
        if kind not in get_args(Kind):
            raise EsembedError(f"no kind {kind!r} of known items; there are {', '.join(get_args(Kind))}")
    rng = random.Random(seed)
    items: list[KnownItem] = []
    taken = 0
    for document_id, text in documents:
        if taken >= count:
            break
        text = text.strip()
        words = text.split()
        if len(words) < 14:
            continue
        taken += 1
        length = rng.choice(_LENGTHS)
        for kind in kinds:
            query, rest = _CUTS[kind](rng, text, words, length)
            items.append(KnownItem(document_id, kind, query, rest))
    return items


def _sentences(text: str) -> list[str]:
    return [part for part in _BREAK.split(text) if len(part.split()) >= 3]


def _first(_: random.Random, text: str, words: list[str], length: int) -> tuple[str, str | None]:
    sentences = _sentences(text)
    first = sentences[0] if sentences else text
    if len(sentences) < 2 or len(first.split()) > len(words) * 0.7:
        third = len(words) // 3
        return " ".join(words[:third][: length * 2]), " ".join(words[third:])
    return " ".join(first.split()[: length * 2]), text.replace(first, " ", 1).strip()


def _sentence(rng: random.Random, text: str, words: list[str], length: int) -> tuple[str, str | None]:
    sentences = _sentences(text)
    if len(sentences) >= 3:
        chosen = rng.choice(sentences[1:])
        return " ".join(chosen.split()[: length * 2]), text.replace(chosen, " ", 1).strip()
    start, length = _place(rng, words, length)
    return " ".join(words[start : start + length]), " ".join(words[:start] + words[start + length :])


def _half(rng: random.Random, _: str, words: list[str], length: int) -> tuple[str, str | None]:
    half = len(words) // 2
    chosen = sorted(rng.sample(range(half), min(length, half)))
    return " ".join(words[i] for i in chosen), " ".join(words[half:])


def _words(rng: random.Random, _: str, words: list[str], length: int) -> tuple[str, str | None]:
    chosen = rng.sample(range(len(words)), min(length, len(words) // 2))
    return " ".join(words[i] for i in chosen), None


def _window(rng: random.Random, _: str, words: list[str], length: int) -> tuple[str, str | None]:
    start, length = _place(rng, words, length)
    return " ".join(words[start : start + length]), None


def _place(rng: random.Random, words: list[str], length: int) -> tuple[int, int]:
    length = min(length, len(words) // 2)
    return rng.randrange(0, len(words) - length + 1), length


_CUTS: Mapping[Kind, Callable[[random.Random, str, list[str], int], tuple[str, str | None]]] = {
    "first": _first,
    "sentence": _sentence,
    "half": _half,
    "words": _words,
    "window": _window,
}


# -- do two rankings agree? ------------------------------------------------------------------------


def overlap(a: Sequence[str], b: Sequence[str], depth: int = 10) -> float:
    """The share of the first *depth* that both rankings hold; two empty rankings agree (1.0)."""
    first, second = set(a[:depth]), set(b[:depth])
    size = max(len(first), len(second))
    return len(first & second) / size if size else 1.0


def rank_biased_overlap(a: Sequence[str], b: Sequence[str], p: float = 0.9) -> float:
    """Extrapolated rank-biased overlap (RBO_EXT, equation 32), between 0 and 1.

    Args:
        a, b: rankings of distinct ids, best first; lengths may differ.
        p: how patient the reader is: 0.9 puts 86 % of the weight on the first ten ranks.

    Raises:
        EsembedError: p outside of (0, 1), or an id twice in one ranking.
    """
    if not 0 < p < 1:
        raise EsembedError(f"p must lie between 0 and 1, not {p}")
    if len(set(a)) != len(a) or len(set(b)) != len(b):
        raise EsembedError("rank-biased overlap needs rankings without repeated ids")
    short, long_ = (a, b) if len(a) <= len(b) else (b, a)
    s, el = len(short), len(long_)
    if not el:
        return 1.0
    if not s:
        return 0.0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = 0
    overlaps: list[int] = []
    for depth in range(el):
        x = long_[depth]
        y = short[depth] if depth < s else None
        if y is not None and x == y:
            common += 1
        else:
            common += (x in seen_short) + (y is not None and y in seen_long)
        seen_long.add(x)
        if y is not None:
            seen_short.add(y)
        overlaps.append(common)
    x_s, x_l = overlaps[s - 1], overlaps[el - 1]
    total = sum(overlaps[d - 1] / d * p**d for d in range(1, el + 1))
    total += sum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, el + 1))
    return float((1 - p) / p * total + ((x_l - x_s) / el + x_s / s) * p**el)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two legs answer, averaged over queries.

    Attributes:
        a, b: the legs.
        queries: how many.
        overlap10: see :func:`overlap`, depth 10.
        rbo: see :func:`rank_biased_overlap`, p = 0.9.
    """

    a: str
    b: str
    queries: int
    overlap10: float
    rbo: float


def agreement(runs: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]) -> list[Agreement]:
    """Every pair of legs, over the queries that both answered."""
    names = list(runs)
    found: list[Agreement] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = [q for q in runs[a] if q in runs[b]]
            pairs = [([d for d, _ in runs[a][q]], [d for d, _ in runs[b][q]]) for q in shared]
            count = max(1, len(pairs))
            found.append(
                Agreement(
                    a,
                    b,
                    len(shared),
                    sum(overlap(x, y) for x, y in pairs) / count,
                    sum(rank_biased_overlap(x, y) for x, y in pairs) / count,
                )
            )
    return found
