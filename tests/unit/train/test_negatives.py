"""The share of false negatives, told from where the known positives rank."""

from __future__ import annotations

from random import Random

import pytest

from esembed.errors import OptionsError
from esembed.train.negatives import MiningOptions, false_share


def simulated(seed: int, hidden: float) -> tuple[list[int], list[int], list[int], float]:
    """Lists of 30 with three answers each near the top, of which some are hidden."""
    random = Random(seed)
    known, others, chosen = [], [], []
    false = 0
    for _ in range(400):
        answers = {min(29, int(random.expovariate(0.35))) for _ in range(3)}
        shown = {rank for rank in answers if random.random() >= hidden}
        rest = [rank for rank in range(30) if rank not in shown]
        known += shown
        others += rest
        chosen += rest[:3]
        false += sum(rank in answers for rank in rest[:3])
    return known, others, chosen, false / len(chosen)


def test_the_bound_holds_and_grows_with_what_is_hidden() -> None:
    bounds = []
    for hidden in (0.0, 0.3, 0.6):
        known, others, chosen, truth = simulated(1, hidden)
        bound = false_share(known, others, chosen)
        assert bound is not None
        assert truth - 0.02 <= bound < 1
        bounds.append(bound)
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0] + 0.1


def test_few_positives_tell_nothing() -> None:
    assert false_share([0] * 29, [1] * 100, [1]) is None
    assert false_share([0] * 30, [], []) is None


def test_options_out_of_range_are_refused() -> None:
    for wrong in (
        {"range_min": -1},
        {"num_negatives": 0},
        {"sampling_strategy": "best"},
        {"output_format": "pairs"},
        {"range_max": 2},
    ):
        with pytest.raises(OptionsError):
            MiningOptions(**wrong)  # type: ignore[arg-type]
