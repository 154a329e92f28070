"""How many candidates a live index's kNN searches have to look at: recall measured over ``num_candidates``.

More candidates find what a graph misses; what its codes lose they don't bring back, so that is told apart:
the neighbors that are searched for are those that an exhaustive search of the same index finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from esembed.errors import OptionsError, PlanError
from esembed.evaluate.significance import recall_to_keep
from esembed.evaluate.target import SearchTarget
from esembed.option_checks import check_numbers
from esembed.plan import CandidateRule, DenseField, IndexPlan
from esembed.plan.fields import MAX_CANDIDATES
from esembed.query import Filter
from esembed.query import builders as q

__all__ = [
    "CandidateChoice",
    "CandidateOptions",
    "CandidateTrial",
    "candidate_rule",
    "choose_candidates",
    "with_rule",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateOptions:
    """How the numbers are measured.

    Attributes:
        min_recall: the share of the exhaustive search's k neighbors to keep, 0 to 1.
        margin: what it must exceed that by; None: 1.64 standard errors of the queries' mean, so that other
            queries of the kind keep it, too.
        ks: for these k. The smallest sets ``least``, the largest ``per_k``.
        factors: multiples of k that are tried, ascending.
        sample: at most so many queries.

    Raises:
        OptionsError: out of range.
    """

    min_recall: float = 0.98
    margin: float | None = None
    ks: tuple[int, ...] = (10, 100)
    factors: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0)
    sample: int = 200

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={"ks": (1, 1000), "sample": (2, 10_000)},
            real={"min_recall": (0.001, 1), "margin": (0, 1), "factors": (1, 10_000)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateTrial:
    """One number of candidates.

    Attributes:
        k: of how many neighbors.
        filter: the filter in words, empty without.
        num_candidates: on each shard.
        recall: the mean share of the exhaustive search's neighbors that were found.
        standard_error: of that mean.
        latency_ms: the median of one search after another, round trip.
    """

    k: int
    filter: str
    num_candidates: int
    recall: float
    standard_error: float
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateChoice:
    """The rule that was found, and what it follows from.

    Attributes:
        field: the dense field.
        rule: how many candidates a search of it should look at.
        before: the field's rule until now; None is the default.
        trials: what was measured.
        queries: how many were asked.
        min_recall: what was asked for.
        kept: whether the rule keeps it everywhere; else it is the best there is.
    """

    field: str
    rule: CandidateRule
    before: CandidateRule | None
    trials: tuple[CandidateTrial, ...]
    queries: int
    min_recall: float
    kept: bool

    @property
    def conclusion(self) -> str:
        """One sentence."""
        rule = self.rule
        filtered = f", {rule.filtered:g} times as many beside a filter" if rule.filtered > 1 else ""
        end = f"keeps {self.min_recall:g} of" if self.kept else f"comes nearest to {self.min_recall:g} of"
        return (
            f"{self.field}: {rule.per_k:g} candidates for each of k, {rule.least} at least{filtered}, {end} "
            "what an exhaustive search finds"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "conclusion": self.conclusion,
            "field": self.field,
            "rule": msgspec.structs.asdict(self.rule),
            "before": None if self.before is None else msgspec.structs.asdict(self.before),
            "queries": self.queries,
            "min_recall": self.min_recall,
            "kept": self.kept,
            "trials": [asdict(trial) for trial in self.trials],
        }


def choose_candidates(
    index: SearchTarget,
    field: str | None,
    queries: Sequence[str | Sequence[float]],
    *,
    filters: Mapping[str, Filter] | None = None,
    options: CandidateOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> CandidateChoice:
    """Measure recall over the number of candidates and find the rule that keeps it.

    Args:
        field: a dense field with a graph; None: the only one.
        queries: texts, or vectors of shape (dims,).
        filters: words → a filter that is measured with, too.
        options: see :class:`CandidateOptions`.
        progress: told what is being done, one line each.

    Raises:
        PlanError: no such field, or one that is compared with every vector.
        OptionsError: too few queries; no document has a vector there.
    """
    settings = options or CandidateOptions()
    tell = progress or (lambda line: None)
    name, spec = _field(index.plan, field)
    asked = list(queries)[: settings.sample]
    if len(asked) < 2:
        raise OptionsError(f"{len(asked)} queries are too few to measure with", option="queries")
    trials: list[CandidateTrial] = []
    for words, condition in {"": None, **(filters or {})}.items():
        for k in sorted(set(settings.ks) if condition is None else {min(settings.ks)}):
            tell(f"{name}, k = {k}{words and ', ' + words}: {len(asked)} queries")
            trials += _trials(index, name, spec, asked, k, words, condition, settings)
    if not any(not trial.filter for trial in trials):
        raise OptionsError(
            f"no query has a neighbor by {name}: the index has no document with a vector there",
            option="field",
        )
    rule, kept = candidate_rule(trials, settings)
    return CandidateChoice(
        field=name,
        rule=rule,
        before=spec.candidates,
        trials=tuple(trials),
        queries=len(asked),
        min_recall=settings.min_recall,
        kept=kept,
    )


def _field(plan: IndexPlan, name: str | None) -> tuple[str, DenseField]:
    if name is None and len(plan.dense) != 1:
        listed = ", ".join(plan.dense) or "none"
        raise PlanError(f"the plan's dense fields are {listed}; name one", path="dense")
    name = name or next(iter(plan.dense))
    spec = plan.dense.get(name)
    if spec is None:
        raise PlanError(f"the plan has no dense field {name!r}", path=f"dense.{name}")
    if spec.quantization.endswith("flat"):
        raise PlanError(
            f"{spec.quantization} compares with every vector, so there are no candidates to choose",
            path=f"dense.{name}.quantization",
        )
    return name, spec


def _trials(
    index: SearchTarget,
    name: str,
    spec: DenseField,
    asked: Sequence[str | Sequence[float]],
    k: int,
    words: str,
    condition: Filter | None,
    settings: CandidateOptions,
) -> list[CandidateTrial]:
    def found(num_candidates: int) -> tuple[list[list[str]], float]:
        lists, times = [], []
        for one in asked:
            given: dict[str, Any] = {"text": one} if isinstance(one, str) else {"vector": tuple(one)}
            knn = q.knn(name, **given, k=k, num_candidates=num_candidates, filter=condition)
            started = time.perf_counter()
            hits = index.search(knn, size=k)
            times.append((time.perf_counter() - started) * 1000)
            lists.append([hit.id for hit in hits])
        return lists, float(np.median(times))

    # Texts are encoded by the first round, which is not timed.
    truth, _ = found(MAX_CANDIDATES)
    out: list[CandidateTrial] = []
    for number in sorted({min(MAX_CANDIDATES, int(np.ceil(k * factor))) for factor in settings.factors}):
        lists, latency = found(number)
        shares = [
            len(set(right) & set(ids)) / len(right) for right, ids in zip(truth, lists, strict=True) if right
        ]
        if not shares:  # nothing matches the filter
            break
        out.append(
            CandidateTrial(
                k=k,
                filter=words,
                num_candidates=number,
                recall=float(np.mean(shares)),
                standard_error=float(np.std(shares) / np.sqrt(len(shares))),
                latency_ms=latency,
            )
        )
        if out[-1].recall >= 1.0:
            break
    return out


def candidate_rule(trials: Sequence[CandidateTrial], options: CandidateOptions) -> tuple[CandidateRule, bool]:
    """The rule that follows from what was measured, and whether it keeps the recall asked for.

    For each k and filter it is the smallest number that keeps the recall, else the smallest of those within
    .002 of the best.
    """
    numbers: dict[tuple[int, str], int] = {}
    kept = True
    for key in dict.fromkeys((t.k, t.filter) for t in trials):
        of_key = sorted((t for t in trials if (t.k, t.filter) == key), key=lambda t: t.num_candidates)
        good = [
            t
            for t in of_key
            if t.recall >= min(1.0, recall_to_keep(options.min_recall, options.margin, t.standard_error))
        ]
        if not good:
            kept = False
            best = max(t.recall for t in of_key)
            good = [t for t in of_key if t.recall >= best - 0.002]
        numbers[key] = good[0].num_candidates
    ks = sorted({k for k, words in numbers if not words})
    least = numbers[ks[0], ""]
    rule = CandidateRule(least=least, per_k=max(1.0, round(numbers[ks[-1], ""] / ks[-1], 2)))
    plain = rule.of(ks[0])
    filtered = max((number for (_, words), number in numbers.items() if words), default=plain)
    return msgspec.structs.replace(rule, filtered=max(1.0, round(filtered / plain, 2))), kept


def with_rule(plan: IndexPlan, choice: CandidateChoice) -> IndexPlan:
    """The plan with the rule in its field."""
    field = msgspec.structs.replace(plan.dense[choice.field], candidates=choice.rule)
    return plan.replace(dense={**plan.dense, choice.field: field})
