"""Runs measured and compared: means with intervals, per query, against a baseline. No engine is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset, Problem, ProblemLog, Run, unique_hits
from esembed.evaluate.metrics import DEFAULT_MEASURES, Latency, measure
from esembed.evaluate.significance import Comparison, Interval, Test, bootstrap_interval, compare
from esembed.weights.known_items import Agreement, agreement

__all__ = ["Evaluation", "Measured", "evaluate_runs"]


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
