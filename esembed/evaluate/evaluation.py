"""Runs measured and compared: means with intervals, per query, against a baseline, and what follows from
them in one sentence. No engine is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset, Problem, ProblemLog, Qrels, Run, unique_hits
from esembed.evaluate.metrics import DEFAULT_MEASURES, Latency, measure
from esembed.evaluate.significance import Comparison, Interval, Test, bootstrap_interval, compare
from esembed.weights.known_items import Agreement, agreement

__all__ = [
    "JUDGED_DEPTH",
    "Evaluation",
    "Measured",
    "evaluate_runs",
    "judged_share",
    "judged_warning",
    "p_text",
    "share_shown",
]

JUDGED_DEPTH = 10
"""How far down hits are looked up among the judgments: as far as nDCG@10 looks."""

FEW_JUDGED = 0.5
"""Below this share of judged hits a warning is due: most of what is compared was never looked at."""

UNLIKE_JUDGED = 0.1
"""So much less judged than another one, a configuration is likely to look worse than it is: its hits were not
in the pool that somebody judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One configuration (a leg, a fusion, an outside run) over the judged queries.

    Attributes:
        name: as the report shows it.
        values: measure → mean with its 95 % interval over queries.
        per_query: measure → query id → value.
        run: query id → (document id, score), best first.
        latency: of single searches one after another, or None.
    """

    name: str
    values: Mapping[str, Interval]
    per_query: Mapping[str, Mapping[str, float]]
    run: Run
    latency: Latency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything a report shows.

    Attributes:
        title: what was measured.
        queries: query id → text, those that count.
        qrels: their judgments.
        measured: the configurations, in order.
        comparisons: each against *baseline* by the first measure, corrected for their number.
        baseline: its name.
        agreements: between legs.
        problems: of the collection and the runs.
        titles: document id → a line to show, where known.
        published: outside figures to stand beside these: name → measure → value.
        notes: configuration → what it is, one line for a person.
        legs: the configurations that are single legs, so that a report can say whether fusing helps.
        known_items: the queries were cut from the index's own documents, one right document each: they show
            whether documents can be found, not which configuration is better.
    """

    title: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    measured: Sequence[Measured]
    comparisons: Sequence[Comparison]
    baseline: str
    agreements: Sequence[Agreement] = ()
    problems: Sequence[Problem] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    legs: Sequence[str] = ()
    known_items: bool = False

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence: which configuration to choose, or that nothing is shown."""
        main, base = self.main, self.configuration(self.baseline)
        asked = f"{len(self.queries)} {'query' if len(self.queries) == 1 else 'queries'}"
        if self.known_items:
            found = ", ".join(f"{value.mean:.3f} {name}" for name, value in base.values.items())
            return f"{base.name} finds its {len(self.queries)} known items with {found}"
        own = base.values[main].mean
        others = [one for one in self.measured if one is not base and one.run != base.run]
        same = [one.name for one in self.measured if one is not base and one.run == base.run]
        best = max(others, key=lambda one: one.values[main].mean, default=None)
        if not any(one.values[main].mean for one in self.measured):
            return f"Nothing relevant is found on {asked}: are the judged ids those of the documents?"
        if best is None and same:
            return f"{base.name} has {own:.3f} {main} over {asked}; {' and '.join(same)} finds the same"
        if best is None:
            return f"{base.name} has {own:.3f} {main} over {asked}, and was compared with nothing"
        value = best.values[main].mean
        against = next(one for one in self.comparisons if one.b == best.name)
        sure = "" if against.significant else ", a difference that chance may explain"
        chance = f"({p_text(against.p_corrected)})"
        has = f"{own:.3f} {main} over {asked}"
        if value > own and against.significant:
            gain = f"where {base.name} has {own:.3f} {chance}"
            return f"Choose {best.name}: {value:.3f} {main} over {asked}, {gain}"
        if value > own:
            return f"Keep {base.name}: {has}; {best.name} has {value:.3f}{sure} {chance}"
        return (
            f"Keep {base.name}: {has}, the best of {len(self.measured)}; {best.name} follows with "
            f"{value:.3f}{sure} {chance}"
        )

    @property
    def judged(self) -> dict[str, float | None]:
        """Configuration → the share of its first 10 hits that somebody judged, 0…1, over all queries; None
        where it found nothing, and no entries for known items, whose other documents nobody could judge."""
        if self.known_items:
            return {}
        return {one.name: judged_share(one.run, self.qrels) for one in self.measured}

    @property
    def warning(self) -> str | None:
        """A sentence where too few of the first 10 hits were judged to trust differences, else None."""
        judgments = [len(grades) for grades in self.qrels.values()]
        return judged_warning(self.judged, sum(judgments) / max(1, len(judgments)))

    @property
    def main(self) -> str:
        """The measure that comparisons and plots use."""
        return next(iter(self.measured[0].values))

    def configuration(self, name: str) -> Measured:
        """The configuration of that name. Raises EsembedError."""
        for one in self.measured:
            if one.name == name:
                return one
        raise EsembedError(f"no configuration {name!r}; there are {', '.join(m.name for m in self.measured)}")


def p_text(value: float) -> str:
    """``p = 0.012``; a p below what three digits show is said so."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def judged_share(run: Run, qrels: Qrels) -> float | None:
    """The share of a run's first 10 hits (judged@10) that are among the judgments, relevant or not, over the
    judged queries that it answers; None where it answers none.

    A hit that nobody judged counts as not relevant in every measure, whatever it is.
    """
    seen = judged = 0
    for query, grades in qrels.items():
        for document, _ in list(run.get(query, ()))[:JUDGED_DEPTH]:
            seen += 1
            judged += document in grades
    return judged / seen if seen else None


def share_shown(share: float | None) -> str:
    """``40%``, or a dash where a configuration answered no judged query."""
    return "–" if share is None else f"{share:.0%}"


def judged_warning(shares: Mapping[str, float | None], judgments: float) -> str | None:
    """A sentence where few hits were judged, or unlike shares of them; None where all is well.

    Args:
        shares: configuration → its share, from :func:`judged_share`.
        judgments: how many a query has, on average.
    """
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        return None
    fewest, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    low, high = f"{known[fewest]:.0%}", f"{known[most]:.0%}"
    if known[fewest] < FEW_JUDGED:
        return (
            f"Only {low} of the first {JUDGED_DEPTH} hits of {fewest} are judged ({judgments:.1f} judgments "
            "a query), and what nobody judged counts as not relevant: judge more of them before a small "
            "difference decides."
        )
    if known[most] - known[fewest] > UNLIKE_JUDGED:
        return (
            f"Of the first {JUDGED_DEPTH} hits {high} of {most} are judged and {low} of {fewest}, and what "
            f"nobody judged counts as not relevant: {fewest} may look worse than it is."
        )
    return None


def evaluate_runs(
    dataset: Dataset,
    runs: Mapping[str, Run],
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    baseline: str | None = None,
    test: Test = "randomisation",
    title: str | None = None,
    latencies: Mapping[str, Latency | None] | None = None,
    titles: Mapping[str, str] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure runs that exist: from this index, from a TREC file, from another tool.

    Args:
        dataset: queries and judgments.
        runs: configuration → run.
        measures: the first one is compared and plotted.
        baseline: what the others are compared with; None is the first.

    Raises:
        EsembedError: no runs, no judged queries, or no such baseline.
    """
    if not runs:
        raise EsembedError("nothing to evaluate: no runs")
    if not dataset.queries:
        listed = "; ".join(problem.text for problem in dataset.problems)
        raise EsembedError(f"{dataset.name} has no query with a relevant document. {listed}")
    log = ProblemLog()
    measured: list[Measured] = []
    for name, run in runs.items():
        clean: dict[str, list[tuple[str, float]]] = {}
        for query, hits in run.items():
            if query not in dataset.queries and query not in dataset.unjudged:
                log.add("unknown-query", f"{query} (run {name})")
                continue
            clean[query] = unique_hits(hits, query, log)
        per_query = measure(dataset.qrels, clean, measures)
        values = {m: bootstrap_interval(list(v.values()), seed=seed) for m, v in per_query.items()}
        measured.append(
            Measured(
                name=name,
                values=values,
                per_query=per_query,
                run=clean,
                latency=(latencies or {}).get(name),
            )
        )
    first = measures[0]
    start = baseline or measured[0].name
    comparisons = compare(
        {m.name: m.per_query[first] for m in measured}, baseline=start, test=test, seed=seed
    )
    return Evaluation(
        title=title or dataset.name,
        queries=dataset.queries,
        qrels=dataset.qrels,
        measured=measured,
        comparisons=comparisons,
        baseline=start,
        agreements=agreement({m.name: m.run for m in measured}),
        problems=(*dataset.problems, *log.problems()),
        titles=titles or {},
        published=published or {},
    )
