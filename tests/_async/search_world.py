"""One engine with a small collection on it, for the search tests."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed._async.live import describe
from esembed._async.probe import probe
from esembed._async.search import AsyncSearcher
from esembed.encode.pool import EncoderPool
from esembed.plan import IndexPlan

from ._shim import official

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import query_data as data

__all__ = ["BM25", "DENSE", "DOCS", "SPARSE", "VECTOR", "World", "data", "searcher", "world"]

VECTOR = [0.1, 0.5, -0.3, 0.2, 0.9, -0.1, 0.4, 0.3]
DOCS = data.documents()
BM25 = q.match("red dog", fields=["title^2", "body"], name="bm25")
DENSE = q.knn("embedding", vector=VECTOR, name="dense")
SPARSE = q.sparse("terms", vector={"red": 1.7, "cat": 0.6}, name="sparse")


class World:
    """One engine with a small collection on it."""

    def __init__(self, client: AsyncEngineClient, capabilities: Any, kind: str) -> None:
        self.client = client
        self.capabilities = capabilities
        self.kind = kind
        self.names: list[str] = []
        self.encoder = data.TinyDense()

    async def fill(
        self, plan: IndexPlan, docs: dict[str, dict[str, Any]], declared: IndexPlan | None = None
    ) -> AsyncSearcher:
        """A new index with these documents; *declared* is the plan that searches go by."""
        name = f"esembed-search-{uuid.uuid4().hex[:10]}"
        self.names.append(name)
        await self.client.request("PUT", f"/{name}", body=data.mapping_body(plan, self.capabilities))
        lines = data.bulk_bytes(plan, self.capabilities, docs)
        answer = await self.client.request("POST", f"/{name}/_bulk", params={"refresh": "true"}, body=lines)
        assert not answer.body["errors"], str(answer.body)[:500]
        used = declared or plan
        live = await describe(self.client, name)
        pool = EncoderPool(used, encoder={"embedding": self.encoder})
        return AsyncSearcher(
            self.client,
            name,
            used,
            self.capabilities,
            pool,
            live=live,
            rerankers={
                "length": lambda text, texts: [float(len(t)) for t in texts],
                "read": lambda text, texts: [
                    len(chunk) * 1000.0 + len(title) for chunk, title in (t.split("\n") for t in texts)
                ],
            },
        )


@pytest.fixture(scope="module", params=["elasticsearch", "opensearch"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Each engine in turn, cleaned up afterward."""
    client = official(request.param, data.engine_url(request, request.param))
    seam = AsyncEngineClient(client)
    made = World(seam, await probe(seam), request.param)
    yield made
    for name in made.names:
        await seam.request("DELETE", f"/{name}", ignore=(404,))
    await client.close()


@pytest.fixture(scope="module")
async def searcher(world: World) -> AsyncSearcher:
    """A searcher over sixty documents."""
    return await world.fill(data.plan(), DOCS)
