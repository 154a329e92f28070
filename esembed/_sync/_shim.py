"""The few things that differ between async and sync by more than a keyword; the twin is written by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["IS_ASYNC", "gather", "in_thread", "requester", "sleep"]

IS_ASYNC = False
T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def gather(*results: T) -> Sequence[T]:
    """The results, which in sync code are there already."""
    return results


def in_thread(function: Callable[..., T], *args: Any) -> T:
    """A blocking call, made where we stand."""
    return function(*args)


def requester(client: Any) -> Any:
    """What the ingest's threads send their requests with: the client, which is safe to share."""
    return client
