"""Numbers in options are numbers, and within their limits, whichever options they are."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import pytest

from esembed import IngestOptions, MigrateOptions, RuntimeOptions
from esembed.errors import EncoderError, EsembedError
from esembed.evaluate.candidates import CandidateOptions
from esembed.evaluate.clicks import ClickOptions
from esembed.evaluate.recall import RecallOptions
from esembed.evaluate.tuning import TuneOptions
from esembed.ingest.sources.readers import ReadOptions
from esembed.weights.estimate import WeightsOptions

OPTIONS: list[Any] = [
    CandidateOptions, ClickOptions, IngestOptions, MigrateOptions, ReadOptions, RecallOptions, RuntimeOptions,
    TuneOptions, WeightsOptions,
]  # fmt: skip
NUMBERS = {"int": int, "float": float, "int | None": int, "float | None": float}


def _numbers() -> list[Any]:
    found = []
    for options in OPTIONS:
        for one in dataclasses.fields(options):
            kind = str(one.type)
            if kind in NUMBERS or kind in ("tuple[int, ...]", "tuple[float, ...]"):
                found.append(pytest.param(options, one.name, kind, id=f"{options.__name__}.{one.name}"))
    return found


@pytest.mark.parametrize(("options", "name", "kind"), _numbers())
def test_what_is_no_number_or_out_of_range_names_its_option(options: Any, name: str, kind: str) -> None:
    wrong: list[Any] = ["7", True, -1, math.nan, math.inf, [], {}]
    if "int" in kind:
        wrong.append(1.5)
    if "None" not in kind:
        wrong.append(None)
    if kind.startswith("tuple"):
        wrong = [(one,) for one in wrong] + ["7", 3, (), None]
    for value in wrong:
        with pytest.raises(EsembedError, match=rf"{name}\b.* must be a"):
            options(**{name: value})


def test_defaults_are_within_their_limits() -> None:
    for options in OPTIONS:
        options()
    assert typing.cast(Any, RuntimeOptions(threads=2)).threads == 2
    with pytest.raises(EncoderError, match="threads must be a whole number of at least 1, not 0"):
        RuntimeOptions(threads=0)
