"""Is the difference real? Paired tests between configurations, Holm's correction, intervals.

- paired randomisation (sign flips of per-query differences): Smucker, Allan, Carterette, "A comparison
  of statistical significance tests for information retrieval evaluation", CIKM 2007;
- Student's paired t-test, the faster of the two, which agrees with it on means;
- Holm 1979, "A simple sequentially rejective multiple test procedure";
- percentile bootstrap over queries for intervals.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from esembed.errors import EsembedError

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "compare",
    "holm",
    "paired_p_value",
    "recall_to_keep",
]

Floats = npt.NDArray[np.float64]
Test = Literal["randomisation", "t-test"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval (95 % unless told otherwise)."""

    mean: float
    low: float
    high: float


def recall_to_keep(least: float, margin: float | None, standard_error: float) -> float:
    """The recall that a sample must show for other queries to keep *least*, too.

    Args:
        margin: by how much it must exceed that; None: by 1.64 standard errors of the queries' mean, so that
            other queries of the kind keep it in 19 of 20 samples (one-sided).
    """
    return least + (1.64 * standard_error if margin is None else margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two configurations over the same queries.

    Attributes:
        a, b: their names.
        difference: mean of *b* minus mean of *a*, with its interval.
        p_value: two-sided, of this pair alone.
        p_corrected: after Holm's correction over all pairs compared together.
        wins, losses, ties: queries where *b* is better, worse, equal.
        test: which test.
    """

    a: str
    b: str
    difference: Interval
    p_value: float
    p_corrected: float
    wins: int
    losses: int
    ties: int
    test: Test

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below .05."""
        return self.p_corrected < 0.05


def bootstrap_interval(
    values: Sequence[float] | Floats,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of *values* and its percentile bootstrap interval, resampling queries.

    Args:
        values: shape (n,), one value for each query.
        confidence: between 0 and 1.
        resamples: how many; 2,000 keeps the ends steady to about a fiftieth of the interval.
        seed: the same seed gives the same interval.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    # Multinomial counts instead of gathered copies: memory stays at resamples × n counts.
    counts = rng.multinomial(len(array), np.full(len(array), 1 / len(array)), size=resamples)
    means = counts @ array / len(array)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(array.mean()), float(low), float(high))


def paired_p_value(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    *,
    test: Test = "randomisation",
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value that *a* and *b* have the same mean, paired by position.

    The randomisation test counts the observed arrangement itself, so it is never 0; up to 12 non-zero
    differences it runs through all sign patterns instead of drawing them.

    Raises:
        EsembedError: different lengths, or the t-test without scipy.
    """
    if len(a) != len(b):
        raise EsembedError(f"paired tests need the same queries: {len(a)} values against {len(b)}")
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    nonzero = difference[np.abs(difference) > 1e-12]
    if not len(nonzero):
        return 1.0
    if test == "t-test":
        return _t_test(difference)
    observed = abs(nonzero.sum()) - 1e-12
    if len(nonzero) <= 12:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(nonzero))))
        return float(np.mean(np.abs(signs @ nonzero) >= observed))
    rng = np.random.default_rng(seed)
    hits, done = 0, 0
    while done < resamples:
        size = min(1000, resamples - done)
        signs = rng.integers(0, 2, size=(size, len(nonzero))) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ nonzero) >= observed))
        done += size
    return (hits + 1) / (resamples + 1)


def _t_test(difference: Floats) -> float:
    try:
        stats: Any = importlib.import_module("scipy.stats")
    except ModuleNotFoundError as error:
        raise EsembedError("the t-test needs the extra: pip install 'esembed[eval]'") from error
    if len(difference) < 2 or np.ptp(difference) < 1e-15:
        # One value, or the same difference everywhere: no variance to test against.
        return 1.0 if len(difference) < 2 else 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        corrected[index] = running
    return corrected


def compare(
    per_query: Mapping[str, Mapping[str, float]],
    *,
    baseline: str | None = None,
    test: Test = "randomisation",
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare configurations pairwise, or each with *baseline*, with Holm's correction over all pairs.

    Args:
        per_query: configuration → query id → value; every configuration over the same queries.
        baseline: the configuration that the others are compared with; None compares every pair.

    Raises:
        EsembedError: configurations over different queries, or no such baseline.
    """
    names = list(per_query)
    if baseline is not None and baseline not in per_query:
        raise EsembedError(f"no configuration {baseline!r}; there are {', '.join(names)}")
    pairs = (
        list(itertools.combinations(names, 2))
        if baseline is None
        else [(baseline, name) for name in names if name != baseline]
    )
    queries = list(per_query[names[0]]) if names else []
    arrays: dict[str, Floats] = {}
    for name in names:
        if per_query[name].keys() != per_query[names[0]].keys():
            raise EsembedError(f"{name} and {names[0]} were measured on different queries")
        arrays[name] = np.array([per_query[name][q] for q in queries], dtype=np.float64)
    p_values = [
        paired_p_value(arrays[a], arrays[b], test=test, resamples=resamples, seed=seed) for a, b in pairs
    ]
    result: list[Comparison] = []
    for (a, b), p_value, corrected in zip(pairs, p_values, holm(p_values), strict=True):
        difference = arrays[b] - arrays[a]
        result.append(
            Comparison(
                a=a,
                b=b,
                difference=bootstrap_interval(difference, seed=seed),
                p_value=p_value,
                p_corrected=corrected,
                wins=int(np.sum(difference > 1e-12)),
                losses=int(np.sum(difference < -1e-12)),
                ties=int(np.sum(np.abs(difference) <= 1e-12)),
                test=test,
            )
        )
    return result
