"""Numbers in options: that they are numbers, and within their limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from esembed.errors import EsembedError, OptionsError

__all__ = ["SEED", "Range", "check_numbers", "not_within"]

Range = tuple[float, float | None]
"""The least and the most, both included; None: no limit but infinity."""

SEED: Range = (0, 2**32 - 1)
"""What numpy and the engines' random scores take."""


def check_numbers(
    options: Any,
    *,
    whole: Mapping[str, Range] | None = None,
    real: Mapping[str, Range] | None = None,
    prefix: str = "",
    error: Callable[[str, str], EsembedError] | None = None,
) -> None:
    """Refuse an options object of which a number is none, or out of range.

    Args:
        options: a dataclass. Where a field's default is None, None stands for it; of a tuple each member is
            looked at.
        whole, real: field → its range, of whole and of any finite numbers.
        prefix: before the field's name in errors.
        error: what to raise, of the message and the option; None: an OptionsError.

    Raises:
        OptionsError: names the option, its range and the value.
    """
    defaults = {one.name: one.default for one in dataclasses.fields(options)}
    for whole_numbers, ranges in ((True, whole or {}), (False, real or {})):
        for name, limits in ranges.items():
            given = getattr(options, name)
            if given is None and defaults[name] is None:
                continue
            several = isinstance(defaults[name], tuple)
            members = given if several else (given,)
            problem = None
            if several and (not isinstance(given, (list, tuple)) or not given):
                members, problem = (), f"must be a list of numbers, not {given!r}"
            for value in members:
                problem = problem or not_within(value, limits, whole=whole_numbers)
            if problem is not None:
                if error is not None:
                    raise error(problem, f"{prefix}{name}")
                raise OptionsError(problem, option=f"{prefix}{name}")


def not_within(value: Any, limits: Range, *, whole: bool) -> str | None:
    """What is wrong with a number, as the rest of a sentence; None for one that is within its limits."""
    least, most = limits
    kinds = (int,) if whole else (int, float)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if number and least <= value < math.inf and (most is None or value <= most):
        return None
    what = "a whole number" if whole else "a number"
    said = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
    return f"must be {what} {said}, not {value!r}"
