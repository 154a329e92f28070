"""A proxy before each real engine answers junk for one API: an error of the tree or a right answer, each
time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from esembed import AsyncIndex, DenseField, FilterField, IndexPlan, IngestOptions, TextField
from esembed import query as q
from esembed.errors import EngineUnavailableError, EsembedError, InvariantError
from esembed.ingest.backoff import UNREADABLE_ATTEMPTS

from . import search_world  # noqa: F401 - puts the tests' folder on the path
from ._shim import official

from junk_proxy import JUNK, junk_proxy, part_of  # isort: skip

PLAN = IndexPlan(
    text={"body": TextField()},
    dense={"v": DenseField(encoder="precomputed", dims=2, quantization="hnsw")},
    filter={"lang": FilterField()},
)
BM25, DENSE = q.match("red", fields=["body"]), q.knn("v", vector=[1.0, 0.0])
OPTIONS = IngestOptions(max_wait_seconds=0.05, learn_weights=False, flush_interval_seconds=0.01)


def records(body: str) -> list[dict[str, Any]]:
    return [{"_id": str(n), "body": f"red {body}", "lang": "en", "v": [1.0, n]} for n in range(4)]


Verb = Callable[[AsyncIndex], Awaitable[Any]]


async def _hybrid(index: AsyncIndex) -> Any:
    return await index.search(q.rrf(BM25, DENSE))


async def _client(index: AsyncIndex) -> Any:
    return await index.search(q.rrf(BM25, DENSE), fusion="client", explain=True)


async def _plain(index: AsyncIndex) -> Any:
    return await index.search(BM25, count=True)


async def _many(index: AsyncIndex) -> Any:
    return await index.search_many([BM25, q.rrf(BM25, DENSE)])


async def _count(index: AsyncIndex) -> Any:
    return await index.count()


async def _get(index: AsyncIndex) -> Any:
    return await index.get("1")


async def _load(index: AsyncIndex) -> Any:
    return await index.ingest(records("blue"), OPTIONS)


async def _copy(index: AsyncIndex) -> Any:
    """Reads the index by a scan, and writes nothing that differs."""
    return await index.ingest(await index.documents(), OPTIONS)


VERBS: list[tuple[str, Verb]] = [
    ("_search", _plain),
    ("_search", _hybrid),
    ("_msearch", _client),
    ("_msearch", _many),
    ("_count", _count),
    ("_doc", _get),
    ("_settings", _load),
    ("_mapping", _load),
    ("_mget", _load),
    ("_bulk", _load),
    ("_search", _copy),
    ("_pit", _copy),
    ("point_in_time", _copy),
]


@pytest.fixture
async def proxied(
    client: Any, esembed_engine: Any, esembed_index_name: str
) -> AsyncIterator[tuple[Any, AsyncIndex]]:
    """The junk proxy, and a filled index of four documents that is opened through it."""
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    await index.ingest(records("fox"), OPTIONS)
    await index.refresh()
    with junk_proxy(esembed_engine.url) as proxy:
        other = official(esembed_engine.engine, proxy.url)
        try:
            yield proxy, await AsyncIndex.open(other, esembed_index_name, capabilities=index.capabilities)
        finally:
            await other.close()


@pytest.mark.asyncio
async def test_junk_of_each_api_is_an_error_of_the_tree(
    proxied: tuple[Any, AsyncIndex],
) -> None:
    proxy, behind = proxied
    for api, verb in VERBS:
        await _spoiled(proxy, api, verb, behind)
    # Nothing stays broken, and what was read last is what is there.
    proxy.api = None
    assert await behind.count() == 4
    assert len(await _hybrid(behind)) == 4


@pytest.mark.asyncio
async def test_a_scan_of_answers_that_cannot_be_read_ends_after_a_few(
    proxied: tuple[Any, AsyncIndex], esembed_engine: Any
) -> None:
    """A scan waits ten minutes for an engine that is away. One that answers is not away."""
    proxy, behind = proxied
    # Each page, and what opens the scan.
    apis = ["_search", "_pit" if esembed_engine.engine == "elasticsearch" else "point_in_time"]
    for api in apis:
        for junk, proxy.cut in [
            (b"<html>login</html>", False),
            (b"", True),
            (b'{"_shards":', False),
            (b'{"_shards": {"fail', True),
        ]:
            proxy.api, proxy.changed = api, 0
            proxy.change = lambda _status, _body, junk=junk: (200, junk)
            with pytest.raises(EngineUnavailableError, match="was cut, or isn't JSON"):
                await _copy(behind)
            assert proxy.changed == UNREADABLE_ATTEMPTS
    # One that is cut is asked for again, and nothing is lost.
    proxy.cut, proxy.api, left = False, "_search", [b"<html>", b"{"]
    proxy.change = lambda status, body: (200, left.pop()) if left else (status, body)
    assert (await _copy(behind)).read == 4
    assert left == []


async def _spoiled(proxy: Any, api: str, verb: Verb, index: AsyncIndex) -> None:
    bodies: list[bytes] = []

    def keep(status: int, body: bytes) -> tuple[int, bytes]:
        bodies.append(body)
        return status, body

    proxy.api, proxy.change = api, keep
    await verb(index)
    # Its own answers, cut and each part left out, beside what no engine answers.
    wrong = [*JUNK, *(part_of(bodies[0]) if bodies else ())]
    for junk in wrong[:: 12 if verb in (_load, _copy) else 1]:  # a load takes half a second
        proxy.change = lambda _status, _body, junk=junk: (200, junk)
        try:
            await verb(index)
        except EsembedError as error:
            if isinstance(error, InvariantError):
                raise
    proxy.api = None
