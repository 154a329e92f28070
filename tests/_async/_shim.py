"""What async and sync tests differ in; the twin is written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


def official(kind: str, url: str) -> Any:
    """The official async client."""
    if kind == "elasticsearch":
        import elasticsearch

        return elasticsearch.AsyncElasticsearch(url)
    import opensearchpy

    return opensearchpy.AsyncOpenSearch(url)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """The results of calls that overlap."""
    return list(await asyncio.gather(*calls))


OVERLAP = True
