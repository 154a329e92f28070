"""The few things that differ between async and sync by more than a keyword; the twin is written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

__all__ = ["IS_ASYNC", "gather", "in_thread", "sleep"]

IS_ASYNC = True
T = TypeVar("T")


async def sleep(seconds: float) -> None:
    """Wait without holding up the loop."""
    await asyncio.sleep(seconds)


async def gather(*calls: Awaitable[T]) -> Sequence[T]:
    """All results in the order of the calls; the calls overlap."""
    return await asyncio.gather(*calls)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """A blocking call (an encoder, a file) off the loop."""
    return await asyncio.to_thread(function, *args)
