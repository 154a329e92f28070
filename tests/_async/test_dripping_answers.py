"""A server that sends a byte now and then keeps the time-out of each read and never ends its answer. A call
that is no search ends there, too, by the wait that its caller was told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from esembed import AsyncIndex, DenseField, FilterField, IndexPlan, IngestOptions, TextField
from esembed._async import client as engine_client
from esembed.errors import EngineUnavailableError
from esembed.ingest import backoff
from esembed.ingest.sources import index as index_source

from . import search_world  # noqa: F401 - puts the tests' folder on the path
from ._shim import official

from junk_proxy import junk_proxy  # isort: skip

PLAN = IndexPlan(
    text={"body": TextField()},
    dense={"v": DenseField(encoder="precomputed", dims=2, quantization="hnsw")},
    filter={"lang": FilterField()},
)
WAIT = 0.4
OPTIONS = IngestOptions(max_wait_seconds=WAIT, learn_weights=False, flush_interval_seconds=0.01)
Verb = Callable[[AsyncIndex], Awaitable[Any]]


def records(body: str) -> list[dict[str, Any]]:
    return [{"_id": str(n), "body": f"red {body}", "lang": "en", "v": [1.0, n]} for n in range(4)]


async def _copy(index: AsyncIndex) -> Any:
    """Reads the index by a scan, and writes nothing that differs."""
    return await index.ingest(await index.documents(), OPTIONS)


async def _load(index: AsyncIndex) -> Any:
    return await index.ingest(records(str(time.monotonic())), OPTIONS)


async def _sync(index: AsyncIndex) -> Any:
    options = IngestOptions(
        max_wait_seconds=WAIT, learn_weights=False, flush_interval_seconds=0.01, sync=True, sync_max_delete=1
    )
    return await index.ingest(records("fox")[:2], options)


async def _inspect(index: AsyncIndex) -> Any:
    return await AsyncIndex.open(index.client.official, index.name, capabilities=index.capabilities)


@pytest.fixture
async def dripping(
    client: Any, esembed_engine: Any, esembed_index_name: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Any, AsyncIndex]]:
    """The proxy, and an index of four documents that is opened through it."""
    monkeypatch.setattr(backoff, "SHORTEST_REQUEST_SECONDS", WAIT)
    monkeypatch.setattr(index_source, "MAX_WAIT_SECONDS", WAIT)
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    await index.ingest(records("fox"), IngestOptions(learn_weights=False))
    await index.refresh()
    with junk_proxy(esembed_engine.url) as proxy:
        other = official(esembed_engine.engine, proxy.url)
        try:
            yield proxy, await AsyncIndex.open(other, esembed_index_name, capabilities=index.capabilities)
        finally:
            proxy.drips = 0.0  # what still drips ends
            await other.close()


@pytest.mark.parametrize(
    ("api", "verb"),
    [
        ("/_search", _copy),
        ("open", _copy),
        ("_settings", _load),
        ("_mget", _load),
        ("_bulk", _load),
        ("/_search", _sync),
    ],
)
async def test_no_call_outlasts_its_wait(
    dripping: tuple[Any, AsyncIndex], esembed_engine: Any, api: str, verb: Verb
) -> None:
    proxy, index = dripping
    if api == "open":  # of a point in time
        api = "_pit" if esembed_engine.engine == "elasticsearch" else "point_in_time"
    proxy.api, proxy.drips = api, 0.1
    started = time.monotonic()
    with pytest.raises(
        EngineUnavailableError,
        match=r"max_wait_seconds = 0\.4 passed while waiting for the end|no \(whole\) answer",
    ):
        await verb(index)
    assert proxy.changed
    assert time.monotonic() - started < 20 * WAIT  # some are asked several times, at the end of a run, too
    proxy.api = None
    assert await index.count() == 4
    assert (await verb(index)).read


async def test_what_states_no_wait_ends_after_minutes(
    dripping: tuple[Any, AsyncIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, index = dripping
    assert engine_client.ANSWER_SECONDS == 600
    monkeypatch.setattr(engine_client, "ANSWER_SECONDS", WAIT)
    proxy.api, proxy.drips = f"/{index.name}", 0.1
    with pytest.raises(
        EngineUnavailableError, match=r"0\.4 s passed while waiting for the end of the engine's answer"
    ):
        await _inspect(index)
    proxy.api = None
    await _inspect(index)
