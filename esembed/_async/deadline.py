"""Calls that are waited for until a search's deadline and no longer, whatever they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from esembed.deadline import Deadline
from esembed.errors import EngineUnavailableError

from ._shim import LATE, within

__all__ = ["each_by", "ended_by"]

T = TypeVar("T")


async def ended_by(
    deadline: Deadline | None, what: str, call: Callable[[], Awaitable[T]], *, keep: bool = False
) -> T:
    """What a call returns.

    Args:
        deadline: None waits for as long as it takes.
        what: what is waited for, for the error.
        keep: a call that is given up goes on, for the sake of what it leaves behind (a loaded model, a
            cached vector); else it is cancelled where it can be.

    Raises:
        EngineUnavailableError: the deadline passed first.
    """
    if deadline is None:
        return await call()
    (found,) = await within(deadline.left(), (call,), keep=keep)
    if found is LATE:
        raise deadline.error(what)
    result: T = found
    return result


async def each_by(
    deadline: Deadline, seconds: float, calls: Sequence[tuple[str, Callable[[], Awaitable[Any]]]]
) -> list[Any]:
    """What several calls return that overlap, or the error of each that took more than *seconds*. They go on
    behind the caller's back, for the sake of what they leave behind.

    Args:
        deadline: the search's.
        seconds: for all of them.
        calls: each with what it is, for its error.
    """
    found = await within(seconds, [call for _, call in calls], keep=True)
    errors: list[EngineUnavailableError] = [deadline.error(what) for what, _ in calls]
    return [error if one is LATE else one for one, error in zip(found, errors, strict=True)]
