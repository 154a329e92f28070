"""Judgments out of behavior: what people clicked, with what they were shown and where.

A click says little by itself: the first place is clicked because it is first. Two corrections, both over what
the log shows of each place:

* ``coec``, clicks over expected clicks (Zhang and Jones, 2007): a pair's clicks, divided by those that its
  places get on average.
* ``ipw``, inverse propensity weighting (Joachims, Swaminathan and Schnabel, 2017): each click counts as many
  times as its place is seldom looked at. Propensities are given, or estimated from the log by the
  position-based model: P(click) = P(place is looked at) · P(the document attracts), fitted by expectation
  maximization (Wang et al., 2018). Estimating takes documents that were shown at several places.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from esembed.errors import OptionsError
from esembed.evaluate.collection import Dataset, make_dataset
from esembed.option_checks import check_numbers

__all__ = ["ClickOptions", "ClickReport", "Impression", "judgments_from_clicks", "propensities"]

Correction: TypeAlias = Literal["coec", "ipw", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Impression:
    """One list that was shown to somebody.

    Attributes:
        query: what was typed.
        shown: document ids from the first place down; an empty text where it isn't known what was there.
        clicked: those of them that were clicked, with how often.
        session: whose it was, or "" where the log doesn't say.
        time: seconds since 1970, or None.
    """

    query: str
    shown: Sequence[str]
    clicked: Mapping[str, int]
    session: str = ""
    time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickOptions:
    """How clicks become judgments.

    Attributes:
        correction: for the places: ``ipw``, ``coec`` or ``none`` (clicks a showing).
        propensities: for ``ipw``: how often each place is looked at, from the first down, relative to the
            first; None estimates them from the log. The last holds for all below it.
        least_propensity: no click counts more than one over this.
        min_impressions: pairs of a query and a document that were shown less often have no grade.
        min_clicks: queries with fewer clicks in all are left out.
        max_session_queries, max_session_clicks: sessions beyond are taken for programs, and left out.
        grades: the bounds of grades 1, 2, 3 … : a pair's value as a share of its query's best.

    Raises:
        OptionsError: out of range.
    """

    correction: Correction = "ipw"
    propensities: Sequence[float] | None = None
    least_propensity: float = 0.05
    min_impressions: int = 3
    min_clicks: int = 3
    max_session_queries: int = 200
    max_session_clicks: int = 200
    grades: Sequence[float] = (0.1, 0.4, 0.75)

    def __post_init__(self) -> None:
        if self.correction not in ("coec", "ipw", "none"):
            raise OptionsError(f"ipw, coec or none, not {self.correction!r}", option="correction")
        check_numbers(
            self,
            whole={
                "min_impressions": (1, None),
                "min_clicks": (1, None),
                "max_session_queries": (1, None),
                "max_session_clicks": (1, None),
            },
            real={"least_propensity": (0.001, 1), "grades": (0.001, 1)},
        )
        given = self.propensities
        if given is not None and (not given or not all(0 < one <= 1 for one in given)):
            raise OptionsError("numbers above 0, at most 1, one for each place", option="propensities")
        bounds = list(self.grades)
        if not bounds or bounds != sorted(set(bounds)) or not all(0 < one <= 1 for one in bounds):
            raise OptionsError("ascending numbers above 0, at most 1", option="grades")


@dataclass(slots=True, kw_only=True)
class ClickReport:
    """What was read, what was left out and why.

    Attributes:
        impressions: lists that were read.
        clicks: clicks that were read.
        programs: impressions of sessions with more queries or clicks than a person's.
        doubles: clicks on what the same session had clicked for the same query.
        not_shown: clicks on documents that the list didn't show.
        few_clicks: queries with too few clicks.
        few_impressions: pairs that were shown too seldom.
        queries, judgments: what came of it.
        propensities: how often each place is looked at, relative to the first, as used.
    """

    impressions: int = 0
    clicks: int = 0
    programs: int = 0
    doubles: int = 0
    not_shown: int = 0
    few_clicks: int = 0
    few_impressions: int = 0
    queries: int = 0
    judgments: int = 0
    propensities: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.queries:,} queries with {self.judgments:,} judgments from {self.impressions:,} lists and "
            f"{self.clicks:,} clicks; left out: {self.programs:,} lists of programs, {self.doubles:,} "
            f"repeated clicks, {self.not_shown:,} clicks on what was not shown, {self.few_clicks:,} queries "
            f"with too few clicks, {self.few_impressions:,} pairs shown too seldom"
        )


class _Pairs:
    """Showings and clicks by pair and place."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        self.clicked: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pair number, place, showings and clicks, one entry for each pair at each place."""
        rows = [
            (number, place, count, self.clicked[pair][place])
            for number, (pair, places) in enumerate(self.shown.items())
            for place, count in places.items()
        ]
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2], table[:, 3]


def judgments_from_clicks(
    impressions: Iterable[Impression], options: ClickOptions | None = None, *, name: str = "clicks"
) -> tuple[Dataset, ClickReport]:
    """Queries with graded judgments out of a log, and what was left out.

    Queries are equal when their words are, case and blanks aside; the first spelling is kept. A pair that was
    shown often and never clicked has grade 0.

    Args:
        impressions: what was shown and clicked.
        options: how clicks count.
        name: the collection's.

    Returns:
        a collection without documents (they are in the index), and the report.
    """
    chosen = options or ClickOptions()
    report = ClickReport()
    pairs, texts = _collected(impressions, chosen, report)
    curve = _curve(pairs, chosen)
    report.propensities = [round(float(one), 4) for one in curve]
    values: dict[str, dict[str, float]] = defaultdict(dict)
    clicks: Counter[str] = Counter()
    for (query, document), places in pairs.shown.items():
        found = pairs.clicked[query, document]
        clicks[query] += sum(found.values())
        if sum(places.values()) < chosen.min_impressions:
            report.few_impressions += 1
            continue
        values[query][document] = _value(places, found, curve, chosen)
    qrels: dict[str, dict[str, int]] = {}
    for query, count in clicks.items():
        documents = values.get(query, {})
        best = max(documents.values(), default=0.0)
        if count < chosen.min_clicks:
            report.few_clicks += 1
            continue
        if best <= 0:
            continue
        qrels[query] = {doc: _grade(value / best, chosen.grades) for doc, value in documents.items()}
    ids = {query: f"c{number}" for number, query in enumerate(qrels, 1)}
    dataset = make_dataset(
        name,
        {ids[query]: texts[query] for query in qrels},
        {ids[query]: grades for query, grades in qrels.items()},
    )
    report.queries = len(dataset.queries)
    report.judgments = sum(len(grades) for grades in dataset.qrels.values())
    return dataset, report


def propensities(impressions: Iterable[Impression], *, rounds: int = 200) -> list[float]:
    """How often each place is looked at, relative to the first: the position-based model's, by expectation
    maximization.

    Args:
        impressions: in which documents stand at several places for the same query.
        rounds: of the maximization, at most.
    """
    pairs, _ = _collected(impressions, ClickOptions(), ClickReport())
    return [float(one) for one in _estimated(pairs, rounds)]


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def _collected(
    impressions: Iterable[Impression], options: ClickOptions, report: ClickReport
) -> tuple[_Pairs, dict[str, str]]:
    kept = list(impressions)
    queries: Counter[str] = Counter()
    clicks: Counter[str] = Counter()
    for one in kept:
        report.impressions += 1
        report.clicks += sum(one.clicked.values())
        if one.session:
            queries[one.session] += 1
            clicks[one.session] += sum(one.clicked.values())
    programs = {
        session
        for session in queries
        if queries[session] > options.max_session_queries or clicks[session] > options.max_session_clicks
    }
    pairs = _Pairs()
    texts: dict[str, str] = {}
    before: set[tuple[str, str, str]] = set()
    for one in kept:
        query = _folded(one.query)
        if one.session in programs:
            report.programs += 1
            continue
        if not query:
            continue
        texts.setdefault(query, one.query.strip())
        places = {document: place for place, document in reversed(list(enumerate(one.shown))) if document}
        for document, place in places.items():
            pairs.shown[query, document][place] += 1
        for document, count in one.clicked.items():
            if document not in places:
                report.not_shown += count
                continue
            key = (one.session, query, document)
            report.doubles += count - 1
            if one.session and key in before:
                report.doubles += 1
                continue
            before.add(key)
            pairs.clicked[query, document][places[document]] += 1
    return pairs, texts


def _curve(pairs: _Pairs, options: ClickOptions) -> np.ndarray:
    """What a place is worth: how often it is looked at, or clicked."""
    if not pairs.shown or options.correction == "none":
        return np.ones(1)
    if options.correction == "ipw":
        given = options.propensities
        curve = np.asarray(given, np.float64) if given is not None else _estimated(pairs, 200)
        least: np.ndarray = np.maximum(curve, options.least_propensity)
        return least
    _, place, shown, clicked = pairs.arrays()
    rates: np.ndarray = np.bincount(place, clicked) / np.maximum(np.bincount(place, shown), 1.0)
    return rates


def _estimated(pairs: _Pairs, rounds: int) -> np.ndarray:
    pair, place, shown, clicked = pairs.arrays()
    if not len(pair):
        return np.ones(1)
    looked = np.full(int(place.max()) + 1, 0.5)
    attracts = np.full(int(pair.max()) + 1, 0.5)
    all_of_place, all_of_pair = np.bincount(place, shown), np.bincount(pair, shown)
    missed = shown - clicked
    for _ in range(rounds):
        # Of showings without a click: how many were looked at, and how many would have attracted.
        rest = np.maximum(1.0 - looked[place] * attracts[pair], 1e-12)
        seen = clicked + missed * looked[place] * (1.0 - attracts[pair]) / rest
        liked = clicked + missed * attracts[pair] * (1.0 - looked[place]) / rest
        after = np.bincount(place, seen, len(looked)) / np.maximum(all_of_place, 1e-12)
        attracts = np.bincount(pair, liked, len(attracts)) / np.maximum(all_of_pair, 1e-12)
        moved = float(np.abs(after - looked).max())
        looked = after
        if moved < 1e-6:
            break
    return np.asarray(looked / looked[0] if looked[0] > 0 else np.ones_like(looked), np.float64).clip(
        0.0, 1.0
    )


def _value(
    shown: Mapping[int, int], clicked: Mapping[int, int], curve: np.ndarray, options: ClickOptions
) -> float:
    def at(place: int) -> float:
        return float(curve[min(place, len(curve) - 1)])

    if options.correction == "coec":
        expected = math.fsum(count * at(place) for place, count in shown.items())
        return sum(clicked.values()) / expected if expected > 0 else 0.0
    weighted = math.fsum(count / at(place) for place, count in clicked.items())
    return weighted / sum(shown.values())


def _grade(share: float, bounds: Sequence[float]) -> int:
    return sum(share >= bound for bound in bounds)
