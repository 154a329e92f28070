"""Choose the fusion by judged queries, and know when the evidence is too thin to change anything.

Every candidate is measured once on every query; cross-validation, splits and intervals are then sums
over subsets. Three steps, each on the same queries:

1. the start: the default, a single leg or an untuned fusion, whichever is best; another one must beat the
   default by its mean difference *minus* half of that difference's standard error, paired over queries;
2. weights: each kind's grid of weights, its scores smoothed over neighboring weights, so that a lucky
   point doesn't win. A candidate must beat the start likewise;
3. a leg whose help isn't shown (a quarter of a standard error) is dropped.

Whatever the judged queries say, words keep the least weight that names and codes need
(:data:`~esembed.plan.default_query.TEXT_LEAST`): judged queries seldom ask for them.

The three together are cross-validated, and where they clearly lose to the default on queries that they
didn't see (by a standard error), the default stays.

On fewer than 50 queries the multiple grows, up to four at none: so few queries keep the default, as they
should. The rules were compared over halves of eight collections and a
weakened encoder; see docs/quality.md.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from esembed import query as q
from esembed.deprecation import renamed_attributes
from esembed.errors import EsembedError
from esembed.evaluate.leg_table import FusionConfig, LegTable, untuned
from esembed.evaluate.significance import Interval, bootstrap_interval
from esembed.option_checks import SEED, check_numbers
from esembed.plan import IndexPlan
from esembed.plan.default_query import TEXT_LEAST
from esembed.query import Query
from esembed.query.nodes import MAX_WINDOW

__all__ = ["SplitResult", "TuneOptions", "Tuned", "fused_query", "split_protocol", "tune"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What is searched and how it is judged.

    Attributes:
        kinds: fusion kinds to try.
        rank_constants: of rrf.
        windows: how many of each leg's hits take part, at most what was collected.
        steps: points on the weight axis of two legs (more legs: 7 on each axis).
        patience: end the search once more kinds than this, one after another, brought nothing.
        tolerance: what counts as bringing something, in nDCG.
        folds: of the cross-validation.
        latency_ms: leg → its measured milliseconds, when they shall count.
        latency_weight: nDCG that a hundred milliseconds are worth.
        seed: of folds and intervals.
    """

    kinds: tuple[str, ...] = ("floor", "minmax", "rrf", "zscore", "l2")
    rank_constants: tuple[int, ...] = (10, 60)
    windows: tuple[int, ...] = (100,)
    steps: int = 17
    patience: int = 2
    tolerance: float = 0.0005
    folds: int = 5
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    latency_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={
                "rank_constants": (1, None),
                "windows": (1, MAX_WINDOW),
                "steps": (2, 1000),
                "patience": (0, None),
                "folds": (2, 1000),
                "seed": SEED,
            },
            real={"tolerance": (0, 1), "latency_weight": (0, None)},
        )


@renamed_attributes(axes="parameters")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The choice and its evidence.

    Attributes:
        legs: the legs' names, in the order of the weights.
        config: what was chosen; the default itself when nothing beat it.
        default: what it was compared with.
        queries: how many were judged.
        score: nDCG@10 of the choice on all of them (optimistic: it was chosen there).
        baseline: of the default.
        gain: cross-validated difference to the default, with its 95 % interval over queries.
        dropped: legs whose help can't be shown.
        tried: how many configurations were measured.
        reason: one line for a person.
        parameters: the other settings that were tried (see :mod:`esembed.evaluate.leg_parameters`).
        similarity: text field → the ``k1`` and ``b`` that did better; an engine fixes them when an index is
            created, so they are for the next version of the index.
        query: the query that the choice stands for; None where no index was tuned.
        names: ``asked``, ``in use`` and ``chosen``: how many exact names of documents (of text fields with
            ``keyword = true``) were searched for, and how many of them each finds first; empty where there
            are none, or nothing was to be changed. What finds fewer is not chosen.
        judged: ``in use`` and ``chosen`` → the share of the first 10 hits of that fusion that somebody judged
            (judged@10), 0…1; empty where no index was tuned.
        warning: a sentence where that is low, or None.
    """

    legs: tuple[str, ...]
    config: FusionConfig
    default: FusionConfig
    queries: int
    score: Interval
    baseline: Interval
    gain: Interval
    dropped: tuple[str, ...]
    tried: int
    reason: str
    parameters: tuple[Any, ...] = ()
    similarity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    query: Query | None = None
    names: Mapping[str, int] = field(default_factory=dict)
    judged: Mapping[str, float | None] = field(default_factory=dict)
    warning: str | None = None

    @property
    def changes(self) -> list[tuple[str, Interval]]:
        """What is chosen in place of what is in use: a label and its cross-validated gain. Empty where all
        stays; BM25's k1 and b are not among them, which are for the next version of the index."""
        own = next((one for one in self.parameters if one.parameter == QUERY_IN_USE), None)
        kept = own is not None and own.chosen == own.default
        found: list[tuple[str, Interval]] = []
        if not kept and (own is not None or self.config != self.default):
            found.append((self.config.label(self.legs), self.gain if own is None else own.gain))
        for one in self.parameters:
            if one.chosen == one.default or one.parameter in (QUERY_IN_USE, NEXT_VERSION):
                continue
            if not kept or one.parameter == RERANKER:
                found.append((f"{one.parameter}: {one.chosen}", one.gain))
        return found

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence: what to choose and what it gains, or that the query stays."""
        changes, asked = self.changes, f"{self.queries} {'query' if self.queries == 1 else 'queries'}"
        later = (
            f"; {_values(self.similarity)} did better and are for its next version" if self.similarity else ""
        )
        if self.names and self.names["chosen"] < self.names["in use"]:
            finds, asked = self.names["in use"], f"{self.names['asked']} exact names"
            return (
                f"Keep the default query: it finds {finds} of {asked} first, what was fitted "
                f"{self.names['chosen']}{later}"
            )
        if not changes:
            return f"Keep the default query: nothing beat it by enough on {asked}{later}"
        if len(changes) == 1:
            label, gain = changes[0]
            return (
                f"Choose {label}: nDCG@10 {gain.mean:+.3f} (95 % {gain.low:+.3f} … {gain.high:+.3f}), "
                f"cross-validated over {asked}{later}"
            )
        listed = "; ".join(f"{label} {gain.mean:+.3f}" for label, gain in changes)
        return f"Choose {listed}: gains in nDCG@10, cross-validated over {asked}{later}"

    def __iter__(self) -> Iterator[Any]:
        """The report and the query, as a pair was returned before; deprecated."""
        warnings.warn("tune returns one report; use its .query", DeprecationWarning, stacklevel=2)
        yield self
        yield self.query

    def next_plan(self, plan: IndexPlan) -> IndexPlan:
        """*plan* with :attr:`similarity`, to migrate to: ``index.migrate(tuned.next_plan(index.plan))``.

        Vectors are copied, the text is indexed again. Tune again afterward: the weights were fitted
        to the old scores.
        """
        text = {
            name: msgspec.structs.replace(spec, **self.similarity.get(name, {}))
            for name, spec in plan.text.items()
        }
        return plan.replace(text=text)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the evidence that is stored beside the query."""
        return {
            "conclusion": self.conclusion,
            "chosen": self.config.label(self.legs),
            "default": self.default.label(self.legs),
            "queries": self.queries,
            "ndcg@10": round(self.score.mean, 4),
            "default_ndcg@10": round(self.baseline.mean, 4),
            "cross_validated_gain": [round(x, 4) for x in (self.gain.mean, self.gain.low, self.gain.high)],
            "dropped": list(self.dropped),
            "reason": self.reason,
            **({"exact_names": dict(self.names)} if self.names else {}),
            **({"judged@10": dict(self.judged), "warning": self.warning} if self.judged else {}),
            **({"parameters": [one.to_dict() for one in self.parameters]} if self.parameters else {}),
            **({"similarity": {k: dict(v) for k, v in self.similarity.items()}} if self.similarity else {}),
        }


QUERY_IN_USE, RERANKER, NEXT_VERSION = "the query in use", "reranker", "bm25: k1 and b"
"""Parameters with a meaning of their own: the default query itself where it is no plain fusion of the legs,
the last stage, and what an engine fixes when an index is created."""

FEWEST_QUERIES = 10
"""Below this not even a standard error can be told, and the default stays."""


DOUBT = 1.0
"""How many standard errors a choice may lose in cross-validation before the default is kept instead."""


SHOWN = 0.25
"""How many standard errors a leg's help must reach on 50 queries or more to count as shown."""


def _values(similarity: Mapping[str, Mapping[str, float]]) -> str:
    """``k1 1.6, b 0.5 of title``, for each text field."""
    return "; ".join(
        f"{', '.join(f'{key} {value:g}' for key, value in values.items())} of {name}"
        for name, values in similarity.items()
    )


def caution(queries: int) -> float:
    """How many standard errors a gain must exceed: 0.5 from 50 queries on, 4 at none."""
    return 0.5 + 3.5 * max(0.0, 1 - queries / 50)


@dataclass(frozen=True, slots=True)
class _Grid:
    """One kind over a grid of weights; *shape* has an axis for each leg's weight but the last's."""

    configs: tuple[FusionConfig, ...]
    shape: tuple[int, ...]

    def smoothed(self, values: Floats) -> Floats:
        """Means over the neighbors two steps each way; *values* has shape (configs,)."""
        found: Any = values.reshape(self.shape)
        for axis in range(len(self.shape)):
            ends = [np.take(found, [0, 0], axis=axis), found, np.take(found, [-1, -1], axis=axis)]
            padded = np.concatenate(ends, axis=axis)
            length = int(found.shape[axis])
            shifted = [np.take(padded, range(i, i + length), axis=axis) for i in range(5)]
            found = np.mean(shifted, axis=0)
        flat: Floats = found.reshape(-1)
        return flat


def grids(table: LegTable, default: FusionConfig, options: TuneOptions) -> list[_Grid]:
    """Each kind over weights of all legs, and of each pair where there are more than two."""
    count = len(table.legs)
    groups = [tuple(range(count))] if count > 1 else []
    if count > 2:
        groups += itertools.combinations(range(count), 2)
    spreads = table.spreads()
    found: list[_Grid] = []
    for group in groups:
        # Three legs at the steps of two would be hundreds of configurations for each kind and window.
        steps = options.steps if len(group) == 2 else 7
        for kind in options.kinds:
            # Raw scores are of unlike size: one over the typical spread within a list.
            center = [1 / spreads[i] if kind == "bound" else 1.0 for i in group]
            # e**2.4 is 11 : 1, beyond which the lighter leg decides only ties; raw scores are of unlike
            # size, so that their grid has to be wider.
            reach = 4.0 if kind == "bound" else 2.4
            factors = np.exp(np.linspace(-reach, reach, steps))
            rows = list(itertools.product(factors, repeat=len(group) - 1))
            for constant in options.rank_constants if kind == "rrf" else (60,):
                for window in options.windows:
                    configs = []
                    for row in rows:
                        weights = [0.0] * count
                        raw = [c * f for c, f in zip(center, (*row, 1.0), strict=True)]
                        # Of raw scores the weights are what they are; of all others shares of 1.
                        total = 1.0 if kind == "bound" else sum(raw)
                        for i, weight in zip(group, raw, strict=True):
                            weights[i] = float(f"{weight / total:.4g}")
                        configs.append(
                            FusionConfig(
                                kind=kind,  # type: ignore[arg-type]
                                weights=tuple(weights),
                                rank_constant=constant,
                                window=window,
                            )
                        )
                    found.append(_Grid(tuple(configs), (steps,) * (len(group) - 1)))
    return found


def _cost(table: LegTable, config: FusionConfig, options: TuneOptions) -> float:
    if not options.latency_weight:
        return 0.0
    # Legs run side by side in one round trip: the slowest counts, the others a little.
    times = sorted(options.latency_ms.get(table.legs[i], 0.0) for i in config.used)
    return options.latency_weight * (times[-1] + 0.25 * sum(times[:-1])) / 100


class _Search:
    """Everything measured once; :meth:`choose` then only adds up."""

    def __init__(
        self, table: LegTable, default: FusionConfig, options: TuneOptions, words: str | None = None
    ) -> None:
        self.table, self.default, self.options = table, default, options
        self._words = None if words is None else table.legs.index(words)
        self._spreads = table.spreads()
        self._least = min(TEXT_LEAST, self._share(default))
        basic = dict.fromkeys([default, *untuned(table.legs).values()])
        self.basic = [config for config in basic if self._allowed(config)]
        self.grids = grids(table, default, options)
        self.tried = len({*self.basic, *(c for grid in self.grids for c in grid.configs)})
        self._measured: list[Floats | None] = [None] * len(self.grids)
        self._refused = [
            np.array([not self._allowed(config) for config in grid.configs]) for grid in self.grids
        ]

    def _share(self, config: FusionConfig) -> float:
        """What words weigh of a sum of 1; 1 where there is no such leg."""
        if self._words is None:
            return 1.0
        raw = config.kind == "bound"
        weights = [w * (s if raw else 1.0) for w, s in zip(config.weights, self._spreads, strict=True)]
        return weights[self._words] / sum(weights)

    def _allowed(self, config: FusionConfig) -> bool:
        return self._share(config) >= self._least - 1e-6

    def _of(self, position: int) -> Floats:
        """nDCG of a grid, shape (configs, queries)."""
        values = self._measured[position]
        if values is None:
            values = np.array([self.table.ndcg(config) for config in self.grids[position].configs])
            self._measured[position] = values
        return values

    def choose(self, subset: Indices) -> FusionConfig:
        """The best on *subset*; the default on few queries."""
        table, options = self.table, self.options
        if len(subset) < FEWEST_QUERIES:
            return self.default
        root = math.sqrt(len(subset))
        multiple = caution(len(subset))
        # 1. the start.
        chosen, best = self.default, 0.0
        base = table.ndcg(self.default)[subset]
        for config in self.basic:
            difference = table.ndcg(config)[subset] - base
            value = float(difference.mean()) - multiple / root * float(difference.std())
            value -= _cost(table, config, options) - _cost(table, self.default, options)
            if value > best + 1e-12:
                chosen, best = config, value
        # 2. weights. Kinds come in order; the search ends early once two of them bring nothing more.
        start, base = chosen, table.ndcg(chosen)[subset]
        best, idle, kind = 0.0, 0, ""
        for position, grid in enumerate(self.grids):
            if grid.configs[0].kind != kind:
                kind, idle = grid.configs[0].kind, idle + 1
            if idle > options.patience:
                break
            differences = self._of(position)[:, subset] - base
            values = grid.smoothed(differences.mean(axis=1)) - multiple / root * differences.std(axis=1)
            costs = np.array([_cost(table, c, options) for c in grid.configs]) - _cost(table, start, options)
            values -= costs
            values[self._refused[position]] = -np.inf
            place = int(values.argmax())
            if values[place] > best + options.tolerance:
                chosen, best, idle = grid.configs[place], float(values[place]), 0
        return self._drop(chosen, subset)

    def decide(self, subset: Indices) -> tuple[FusionConfig, Floats]:
        """:meth:`choose`, unless the same choosing, done on four fifths of *subset*, does worse than the
        default on the rest, by more than :data:`DOUBT` standard errors.

        Returns:
            the choice, and the cross-validated gain over the default for each query of *subset*.
        """
        table, options = self.table, self.options
        chosen, gains = self.choose(subset), np.zeros(len(subset))
        if len(subset) < FEWEST_QUERIES:
            return chosen, gains
        order = np.random.default_rng(options.seed).permutation(len(subset))
        base = table.ndcg(self.default)[subset]
        cost = 0.0
        for fold in np.array_split(order, max(2, options.folds)):
            picked = self.choose(np.delete(subset, fold))
            gains[fold] = table.ndcg(picked)[subset[fold]] - base[fold]
            saved = _cost(table, picked, options) - _cost(table, self.default, options)
            cost += saved * len(fold) / len(subset)
        doubt = DOUBT * float(gains.std()) / math.sqrt(len(subset))
        if float(gains.mean()) - cost + doubt < -options.tolerance:
            chosen = self.default
        return chosen, gains

    def _drop(self, chosen: FusionConfig, subset: Indices) -> FusionConfig:
        """Leave out each leg whose help isn't shown. On few queries, where nothing is shown, a leg must be
        shown to hurt."""
        table, options = self.table, self.options
        root = math.sqrt(max(1, len(subset)))
        while len(chosen.used) > 1:
            weakest: tuple[float, FusionConfig] | None = None
            for leg in chosen.used:
                weights = tuple(0.0 if i == leg else w for i, w in enumerate(chosen.weights))
                other = replace(chosen, weights=weights)
                if not self._allowed(other):
                    continue
                difference = table.ndcg(chosen)[subset] - table.ndcg(other)[subset]
                help_ = float(difference.mean())
                help_ += (caution(len(subset)) - 0.5 - SHOWN) / root * float(difference.std())
                help_ -= _cost(table, chosen, options) - _cost(table, other, options)
                shown = help_ < 0 or (help_ == 0 and len(subset) >= 50)
                if shown and (weakest is None or help_ < weakest[0]):
                    weakest = (help_, other)
            if weakest is None:
                break
            chosen = weakest[1]
        return chosen


def tune(
    table: LegTable,
    *,
    default: FusionConfig | None = None,
    options: TuneOptions | None = None,
    words: str | None = None,
) -> Tuned:
    """Choose a fusion for the table's legs.

    Args:
        table: the legs' lists and the judgments.
        default: what the choice must beat; None is untuned RRF (or the only leg).
        options: see :class:`TuneOptions`.
        words: the leg that finds words; what is chosen weighs it as much as the default does, or
            :data:`~esembed.plan.default_query.TEXT_LEAST`. None leaves all weights free.
    """
    options = options or TuneOptions()
    if default is None:
        basic = untuned(table.legs)
        default = basic.get("rrf", next(iter(basic.values())))
    everything = np.arange(len(table.queries))
    search = _Search(table, default, options, words)
    chosen, gains = search.decide(everything)
    gain = bootstrap_interval(gains, seed=options.seed)
    dropped = tuple(name for i, name in enumerate(table.legs) if i not in chosen.used and i in default.used)
    if chosen == default:
        reason = f"nothing beat the default by enough on {len(everything)} queries"
        if gain.mean < 0:
            reason += f"; what looked better lost {-gain.mean:.4f} on queries that it was not chosen on"
    else:
        reason = (
            f"cross-validated gain {gain.mean:+.4f} (95 % {gain.low:+.4f} … {gain.high:+.4f}) "
            f"on {len(everything)} queries"
        )
    return Tuned(
        legs=table.legs,
        config=chosen,
        default=default,
        queries=len(everything),
        score=bootstrap_interval(table.ndcg(chosen), seed=options.seed),
        baseline=bootstrap_interval(table.ndcg(default), seed=options.seed),
        gain=gain,
        dropped=dropped,
        tried=search.tried,
        reason=reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """Tuning proven on other queries than those it saw.

    Attributes:
        splits: how many random halves.
        tuned: mean test-half nDCG@10 of what was tuned on the training half, with its interval over
            queries (each query's mean over the splits that tested it).
        reference: of the single leg or untuned fusion that was best on the training half.
        difference: tuned − reference, its mean and the middle 95 % over splits.
        default: of the default.
        kept_default: in how many splits tuning kept the default.
    """

    splits: int
    tuned: Interval
    reference: float
    difference: Interval
    default: float
    kept_default: int


def split_protocol(
    table: LegTable,
    *,
    default: FusionConfig | None = None,
    splits: int = 50,
    options: TuneOptions | None = None,
) -> SplitResult:
    """Fit on one half of the queries and test on the other, over many random halves.

    Raises:
        EsembedError: fewer than 4 queries.
    """
    options = options or TuneOptions()
    count = len(table.queries)
    if count < 4:
        raise EsembedError(f"halves need at least 4 judged queries, not {count}")
    basic = untuned(table.legs)
    start = default or basic.get("rrf", next(iter(basic.values())))
    rng = np.random.default_rng(options.seed)
    search = _Search(table, start, options)
    rows: list[tuple[float, float, float]] = []
    sums, tested = np.zeros(count), np.zeros(count)
    kept = 0
    for _ in range(splits):
        order = rng.permutation(count)
        train, test = order[: count // 2], order[count // 2 :]
        chosen, _ = search.decide(train)
        kept += chosen == start
        sums[test] += table.ndcg(chosen)[test]
        tested[test] += 1
        reference = max(basic.values(), key=lambda c: float(table.ndcg(c)[train].mean()))
        rows.append(
            (
                float(table.ndcg(chosen)[test].mean()),
                float(table.ndcg(reference)[test].mean()),
                float(table.ndcg(start)[test].mean()),
            )
        )
    array = np.array(rows)
    difference = array[:, 0] - array[:, 1]
    low, high = np.quantile(difference, [0.025, 0.975])
    return SplitResult(
        splits=splits,
        tuned=bootstrap_interval((sums / np.maximum(tested, 1))[tested > 0], seed=options.seed),
        reference=float(array[:, 1].mean()),
        difference=Interval(float(difference.mean()), float(low), float(high)),
        default=float(array[:, 2].mean()),
        kept_default=kept,
    )


def fused_query(config: FusionConfig, legs: Mapping[str, Query]) -> Query:
    """The query that a configuration stands for, from the legs' own queries (named as in the table).

    ``bound`` becomes a ``bool`` of boosted clauses, one request everywhere; the leg's own boost is
    multiplied.
    """
    names = list(legs)
    used = [(legs[names[i]], config.weights[i]) for i in config.used]
    if len(used) == 1:
        return used[0][0]
    if config.kind == "rrf":
        return q.rrf(
            *(leg for leg, _ in used),
            weights=[weight for _, weight in used],
            rank_constant=config.rank_constant,
            rank_window_size=config.window,
        )
    if config.kind != "bound":
        return q.linear(
            *(leg for leg, _ in used),
            weights=[weight for _, weight in used],
            normalizer=config.kind,
            rank_window_size=config.window,
        )
    largest = max(weight for _, weight in used)
    boosted: list[Query] = []
    for leg, weight in used:
        own = getattr(leg, "boost", 1.0)
        changed: Any = {"boost": float(f"{own * weight / largest:.4g}")}
        if getattr(leg, "k", 0) is None:
            changed["k"] = config.window
        boosted.append(leg.replace(**changed))
    return q.bool_(should=boosted, minimum_should_match=1)
