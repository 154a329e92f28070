"""The small parts of a search: the cache of query vectors, batches of concurrent texts, quiet headers."""

from __future__ import annotations

import asyncio
import threading
import warnings
from typing import Any

import pytest

from esembed._async import client as async_client
from esembed._async._shim import Batcher
from esembed._sync import client as sync_client
from esembed.encode.query_cache import QueryVectorCache
from esembed.errors import EngineRequestError, EngineUnavailableError
from esembed.search.answer import shard_failure
from esembed.search.page import source_spec


def test_the_cache_keeps_to_its_bytes_and_drops_the_least_recently_used() -> None:
    vector = tuple([0.5] * 100)  # 400 bytes as float32, 64 for the entry, 1 for the text
    cache = QueryVectorCache(3 * 465)
    for text in "abc":
        cache.put("f", text, vector)
    assert cache.bytes == 3 * 465
    assert cache.get("f", "a") == vector
    cache.put("f", "d", vector)
    assert [cache.get("f", t) is not None for t in "abcd"] == [True, False, True, True]
    assert (cache.hits, cache.misses) == (4, 1)
    cache.put("f", "a", tuple([0.5] * 1000))  # larger than all of it: not kept, and nothing else is lost
    assert (len(cache), cache.bytes) == (3, 3 * 465)
    cache.put("f", "a", {"word": 1.0})
    assert cache.bytes == 2 * 465 + 65 + 4 + 12
    assert cache.get("other", "a") is None
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
    nothing = QueryVectorCache(0)
    nothing.put("f", "a", vector)
    assert nothing.get("f", "a") is None
    with pytest.raises(ValueError, match="max_bytes"):
        QueryVectorCache(-1)


def test_texts_that_come_meanwhile_share_the_next_call() -> None:
    calls: list[list[Any]] = []
    started, first = threading.Event(), threading.Event()

    def slow(items: list[Any]) -> list[Any]:
        calls.append(items)
        started.set()
        first.wait(5)
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]

    async def run() -> list[Any]:
        batcher = Batcher(slow, max_batch=4)
        alone = asyncio.create_task(batcher("a"))
        await asyncio.to_thread(started.wait, 5)
        others = [asyncio.create_task(batcher(x)) for x in ["b", "bad", "c", "d", "e"]]
        await asyncio.sleep(0.01)
        first.set()
        return list(await asyncio.gather(alone, *others, return_exceptions=True))

    found = asyncio.run(run())
    assert calls[:2] == [["a"], ["b", "bad", "c", "d"]]
    assert ["e"] in calls
    assert isinstance(found[2], ValueError)
    assert [x for x in found if isinstance(x, str)] == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize("module", [async_client, sync_client])
def test_header_warnings_of_our_own_requests_are_quiet_and_others_are_not(module: Any) -> None:
    class Header(Warning):
        pass

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            module._hush(Header, module=module._MODULE)
        assert sum(f[2] is Header for f in warnings.filters) == 1
        for name in (module.__name__, "shop.search"):
            warnings.warn_explicit("deprecated", Header, f"{name}.py", 1, module=name)
    assert [w.filename for w in seen] == ["shop.search.py"]


@pytest.mark.parametrize("module", [async_client, sync_client])
def test_a_warning_is_quiet_by_its_words(module: Any) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            module._hush(ResourceWarning, message="Sending a large body")
        assert sum(f[2] is ResourceWarning and f[1] is not None for f in warnings.filters) == 1
        for words in ("Sending a large body directly", "unclosed socket"):
            warnings.warn(words, ResourceWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["unclosed socket"]


def test_failed_shards_are_an_error_that_may_or_may_not_pass() -> None:
    assert shard_failure({"_shards": {"total": 3, "failed": 0}}) is None
    assert shard_failure({}) is None
    reason = {"type": "query_shard_exception", "reason": "no", "caused_by": {"reason": "Missing value"}}
    lasting = shard_failure({"_shards": {"total": 3, "failed": 1, "failures": [{"reason": reason}]}})
    assert isinstance(lasting, EngineRequestError)
    assert str(lasting) == "1 of 3 shards failed (query_shard_exception: no: Missing value)"
    busy = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
    passing = shard_failure({"_shards": {"total": 3, "failed": 2, "failures": [{"reason": busy}]}})
    assert isinstance(passing, EngineUnavailableError)


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        (None, {"excludes": ["hash", "v", "meta"]}),
        (False, False),
        ("v", {"includes": ["v"], "excludes": ["hash", "meta"]}),
        (["a", "v"], {"includes": ["a", "v"], "excludes": ["hash", "meta"]}),
        (["meta.x"], {"includes": ["meta.x"], "excludes": ["hash", "v"]}),
        ({"includes": ["v"]}, {"includes": ["v"], "excludes": ["hash", "meta"]}),
        ({"includes": "v"}, {"includes": ["v"], "excludes": ["hash", "meta"]}),
        ({"excludes": []}, {"excludes": [], "exclude_vectors": False}),
        (
            {"includes": ["m*"], "excludes": ["m.a"]},
            {"includes": ["m*"], "excludes": ["m.a"], "exclude_vectors": False},
        ),
        ({}, {"excludes": ["hash", "v", "meta"]}),
    ],
)
def test_a_hidden_field_that_is_named_comes_along(source: Any, sent: Any) -> None:
    assert source_spec(source, ["hash", "v", "meta"], exclude_vectors=True) == sent
