"""An async client belongs to one event loop: in another one everything says so, by one error."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions
from esembed import query as q
from esembed.errors import EventLoopError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import query_data as data

PLAN = IndexPlan.from_toml('[text.body]\n[dense.v]\nencoder = "precomputed"\ndims = 2')
FUSED = q.rrf(q.match("fox"), q.knn("v", vector=[1, 0]))
RECORDS = [{"_id": str(number), "body": "red fox", "v": [1, number]} for number in range(5)]


def client_for(url: str, kind: str) -> Any:
    """A new async client of the engine's official package."""
    if kind == "elasticsearch":
        import elasticsearch

        return elasticsearch.AsyncElasticsearch(url)
    import opensearchpy

    return opensearchpy.AsyncOpenSearch(url)


CALLS: dict[str, Callable[[Any, AsyncIndex], Awaitable[Any]]] = {
    "search": lambda client, index: index.search(FUSED),
    "search_many": lambda client, index: index.search_many([FUSED, q.match("fox")]),
    "count": lambda client, index: index.count(),
    "get": lambda client, index: index.get("1"),
    "refresh": lambda client, index: index.refresh(),
    "delete": lambda client, index: index.delete("1"),
    "ingest": lambda client, index: index.ingest(RECORDS, IngestOptions(learn_weights=False)),
}


@pytest.mark.parametrize("kind", ["elasticsearch", "opensearch"])
def test_a_second_event_loop_is_named(request: pytest.FixtureRequest, kind: str) -> None:
    url, name = data.engine_url(request, kind), f"esembed-loops-{uuid.uuid4().hex[:8]}"
    loop = asyncio.new_event_loop()
    client = client_for(url, kind)
    try:
        index = loop.run_until_complete(AsyncIndex.create(client, name, PLAN, alias=False))
        options = IngestOptions(refresh=True, learn_weights=False)
        assert loop.run_until_complete(index.ingest(RECORDS, options)).indexed == 5
        assert len(loop.run_until_complete(index.search(FUSED))) == 5

        for call in CALLS.values():

            async def elsewhere(call: Callable[[Any, AsyncIndex], Awaitable[Any]] = call) -> None:
                await call(client, index)

            with pytest.raises(EventLoopError, match="open the index in the loop that uses them"):
                asyncio.run(elsewhere())
        # Where it belongs it goes on as if nothing had been.
        assert loop.run_until_complete(index.count()) == 5

        async def closing() -> None:
            async with index:
                pass
            await index.close()
            index.close()

        loop.run_until_complete(closing())
    finally:
        loop.run_until_complete(client.transport.perform_request("DELETE", f"/{name}"))
        loop.run_until_complete(client.close())
        loop.close()
