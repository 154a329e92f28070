"""Choose the fusion by judged queries, and know when the evidence is too thin to change anything.

Every candidate is measured once on every query; cross-validation, splits and intervals are then sums
over subsets. A candidate must beat the default by its mean difference *minus* a multiple of that
difference's standard error, paired over queries: half of it from 100 queries on, more on fewer, up to
four at none. So few queries keep the default, as they should.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed import query as q
from esembed.errors import EsembedError
from esembed.evaluate.legs import FusionConfig, LegTable, untuned
from esembed.evaluate.significance import Interval, bootstrap_interval
from esembed.query import Query

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
        steps: points on each weight axis in the first round.
        rounds: at most this many refinements around the best.
        tolerance: stop refining when a round gains less than this.
        folds: of the cross-validation.
        latency_ms: leg → its measured milliseconds, when they shall count.
        latency_weight: nDCG that a hundred milliseconds are worth.
        seed: of folds and intervals.
    """

    kinds: tuple[str, ...] = ("bound", "rrf", "minmax", "zscore", "l2")
    rank_constants: tuple[int, ...] = (10, 60)
    windows: tuple[int, ...] = (100,)
    steps: int = 9
    rounds: int = 3
    tolerance: float = 0.0005
    folds: int = 5
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    latency_weight: float = 0.0
    seed: int = 0


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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the evidence that is stored beside the query."""
        return {
            "chosen": self.config.label(self.legs),
            "default": self.default.label(self.legs),
            "queries": self.queries,
            "ndcg@10": round(self.score.mean, 4),
            "default_ndcg@10": round(self.baseline.mean, 4),
            "cross_validated_gain": [round(x, 4) for x in (self.gain.mean, self.gain.low, self.gain.high)],
            "dropped": list(self.dropped),
            "reason": self.reason,
        }


def caution(queries: int) -> float:
    """How many standard errors a gain must exceed: 0.5 from 100 queries on, 4 at none."""
    return 0.5 + 3.5 * max(0.0, 1 - queries / 100)


def candidates(table: LegTable, default: FusionConfig, options: TuneOptions) -> list[FusionConfig]:
    """The first round: single legs, the untuned ones, and each kind over a grid of weights."""
    count = len(table.legs)
    found = [default, *untuned(table.legs).values()]
    if count == 1:
        return list(dict.fromkeys(found))
    for kind in options.kinds:
        centre = _centre(table, default, kind)
        spread = 3.0 if kind == "bound" else 2.0
        for weights in _grid(centre, spread, options.steps if count == 2 else 5):
            for constant in options.rank_constants if kind == "rrf" else (60,):
                for window in options.windows:
                    found.append(
                        FusionConfig(kind=kind, weights=weights, rank_constant=constant, window=window)  # type: ignore[arg-type]
                    )
    return list(dict.fromkeys(found))


def _centre(table: LegTable, default: FusionConfig, kind: str) -> tuple[float, ...]:
    """Weights around which a kind is searched: the default's own where it is of that kind."""
    if default.kind == kind and len(default.used) == len(table.legs):
        return default.weights
    if kind != "bound":
        return (1.0,) * len(table.legs)
    # Raw scores of unlike size: one over the typical spread within a list.
    return tuple(1 / spread for spread in table_spreads(table))


def table_spreads(table: LegTable) -> list[float]:
    """Each leg's median difference between its best and its tenth score, never 0."""
    spreads: list[float] = []
    for column in range(len(table.legs)):
        gaps: list[float] = []
        for row in table._rows:
            listed = np.sort(row.scores[~np.isnan(row.scores[:, column]), column])[::-1]
            if len(listed) > 1:
                gaps.append(float(listed[0] - listed[min(9, len(listed) - 1)]))
        spreads.append(max(float(np.median(gaps)) if gaps else 1.0, 1e-6))
    return spreads


def _grid(centre: Sequence[float], spread: float, steps: int) -> list[tuple[float, ...]]:
    """The centre with every leg but the last multiplied by e^(−spread … spread), the last kept."""
    factors = np.exp(np.linspace(-spread, spread, steps))
    return [
        tuple(float(f"{c * f:.4g}") for c, f in zip(centre, (*row, 1.0), strict=True))
        for row in itertools.product(factors, repeat=len(centre) - 1)
    ]


def _cost(table: LegTable, config: FusionConfig, options: TuneOptions) -> float:
    if not options.latency_weight:
        return 0.0
    # Legs run side by side in one round trip: the slowest counts, the others a little.
    times = sorted(options.latency_ms.get(table.legs[i], 0.0) for i in config.used)
    return options.latency_weight * (times[-1] + 0.25 * sum(times[:-1])) / 100


def _choose(
    table: LegTable,
    configs: Sequence[FusionConfig],
    default: FusionConfig,
    subset: Indices,
    options: TuneOptions,
) -> FusionConfig:
    """The best on *subset*, by the mean difference to the default less the caution."""
    base = table.ndcg(default)[subset]
    multiple = caution(len(subset)) / math.sqrt(max(1, len(subset)))
    cost = _cost(table, default, options)
    best, best_value = default, 0.0
    for config in configs:
        difference = table.ndcg(config)[subset] - base
        value = float(difference.mean()) - multiple * float(difference.std())
        value -= _cost(table, config, options) - cost
        if value > best_value + 1e-12:
            best, best_value = config, value
    return best


def _drop(
    table: LegTable,
    configs: Sequence[FusionConfig],
    chosen: FusionConfig,
    subset: Indices,
    options: TuneOptions,
) -> FusionConfig:
    """Leave out each leg whose help, less the caution, is not above zero on *subset*."""
    while len(chosen.used) > 1:
        multiple = caution(len(subset)) / math.sqrt(max(1, len(subset)))
        weakest: tuple[float, FusionConfig] | None = None
        for leg in chosen.used:
            without = [c for c in configs if leg not in c.used and set(c.used) <= set(chosen.used)]
            if not without:
                continue
            other = max(without, key=lambda c: float(table.ndcg(c)[subset].mean()) - _cost(table, c, options))
            difference = table.ndcg(chosen)[subset] - table.ndcg(other)[subset]
            help_ = float(difference.mean()) - multiple * float(difference.std())
            help_ -= _cost(table, chosen, options) - _cost(table, other, options)
            if help_ <= 0 and (weakest is None or help_ < weakest[0]):
                weakest = (help_, other)
        if weakest is None:
            break
        chosen = weakest[1]
    return chosen


def _search(
    table: LegTable, default: FusionConfig, subset: Indices, options: TuneOptions
) -> tuple[FusionConfig, list[FusionConfig]]:
    """Rounds of ever finer grids, stopping early; the choice and everything tried."""
    configs = candidates(table, default, options)
    chosen = _choose(table, configs, default, subset, options)
    spread = 0.4
    for _ in range(options.rounds):
        if len(chosen.used) < 2:
            break
        finer = [replace(chosen, weights=w) for w in _grid(chosen.weights, spread, 5) if all(w)]
        configs = list(dict.fromkeys([*configs, *finer]))
        before = float(table.ndcg(chosen)[subset].mean())
        chosen = _choose(table, configs, default, subset, options)
        if float(table.ndcg(chosen)[subset].mean()) - before < options.tolerance:
            break
        spread /= 2
    return _drop(table, configs, chosen, subset, options), configs


def tune(
    table: LegTable, *, default: FusionConfig | None = None, options: TuneOptions | None = None
) -> Tuned:
    """Choose a fusion for the table's legs.

    Args:
        table: the legs' lists and the judgements.
        default: what the choice must beat; None is untuned RRF (or the only leg).
        options: see :class:`TuneOptions`.
    """
    options = options or TuneOptions()
    if default is None:
        basic = untuned(table.legs)
        default = basic.get("rrf", next(iter(basic.values())))
    everything = np.arange(len(table.queries))
    chosen, configs = _search(table, default, everything, options)
    rng = np.random.default_rng(options.seed)
    folds = np.array_split(rng.permutation(everything), max(2, min(options.folds, len(everything))))
    gains = np.zeros(len(everything))
    if len(everything) >= 4:
        for fold in folds:
            rest = np.setdiff1d(everything, fold)
            picked = _drop(table, configs, _choose(table, configs, default, rest, options), rest, options)
            gains[fold] = table.ndcg(picked)[fold] - table.ndcg(default)[fold]
    gain = bootstrap_interval(gains, seed=options.seed)
    dropped = tuple(name for i, name in enumerate(table.legs) if i not in chosen.used and i in default.used)
    if chosen == default:
        reason = f"nothing beat the default by enough on {len(everything)} queries"
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
        tried=len(configs),
        reason=reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """Tuning proven on other queries than those it saw.

    Attributes:
        splits: how many random halves.
        tuned: mean test-half nDCG@10 of what was tuned on the training half.
        reference: of the single leg or untuned fusion that was best on the training half.
        difference: tuned − reference, its mean and the middle 95 % over splits.
        default: of the default.
        kept_default: in how many splits tuning kept the default.
    """

    splits: int
    tuned: float
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
    rows: list[tuple[float, float, float]] = []
    kept = 0
    for _ in range(splits):
        order = rng.permutation(count)
        train, test = order[: count // 2], order[count // 2 :]
        chosen, _ = _search(table, start, train, options)
        kept += chosen == start
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
        tuned=float(array[:, 0].mean()),
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
