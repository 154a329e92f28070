# Generated from tests/_async/test_junk_answers.py by scripts/run_unasync.py; change that file and run the script.
"""A proxy before each real engine answers junk for one API: an error of the tree or a right answer, each
time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from esembed import DenseField, FilterField, Index, IndexPlan, IngestOptions, TextField
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


Verb = Callable[[Index], Any]


def _hybrid(index: Index) -> Any:
    return index.search(q.rrf(BM25, DENSE))


def _client(index: Index) -> Any:
    return index.search(q.rrf(BM25, DENSE), fusion="client", explain=True)


def _plain(index: Index) -> Any:
    return index.search(BM25, count=True)


def _many(index: Index) -> Any:
    return index.search_many([BM25, q.rrf(BM25, DENSE)])


def _count(index: Index) -> Any:
    return index.count()


def _get(index: Index) -> Any:
    return index.get("1")


def _load(index: Index) -> Any:
    return index.ingest(records("blue"), OPTIONS)


def _copy(index: Index) -> Any:
    """Reads the index by a scan, and writes nothing that differs."""
    return index.ingest(index.documents(), OPTIONS)


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
def proxied(client: Any, esembed_engine: Any, esembed_index_name: str) -> Iterator[tuple[Any, Index]]:
    """The junk proxy, and a filled index of four documents that is opened through it."""
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest(records("fox"), OPTIONS)
    index.refresh()
    with junk_proxy(esembed_engine.url) as proxy:
        other = official(esembed_engine.engine, proxy.url)
        try:
            yield proxy, Index.open(other, esembed_index_name, capabilities=index.capabilities)
        finally:
            other.close()


def test_junk_of_each_api_is_an_error_of_the_tree(
    proxied: tuple[Any, Index],
) -> None:
    proxy, behind = proxied
    for api, verb in VERBS:
        _spoiled(proxy, api, verb, behind)
    # Nothing stays broken, and what was read last is what is there.
    proxy.api = None
    assert behind.count() == 4
    assert len(_hybrid(behind)) == 4


def test_a_scan_of_answers_that_cannot_be_read_ends_after_a_few(
    proxied: tuple[Any, Index], esembed_engine: Any
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
                _copy(behind)
            assert proxy.changed == UNREADABLE_ATTEMPTS
    # One that is cut is asked for again, and nothing is lost.
    proxy.cut, proxy.api, left = False, "_search", [b"<html>", b"{"]
    proxy.change = lambda status, body: (200, left.pop()) if left else (status, body)
    assert (_copy(behind)).read == 4
    assert left == []


def _spoiled(proxy: Any, api: str, verb: Verb, index: Index) -> None:
    bodies: list[bytes] = []

    def keep(status: int, body: bytes) -> tuple[int, bytes]:
        bodies.append(body)
        return status, body

    proxy.api, proxy.change = api, keep
    verb(index)
    # Its own answers, cut and each part left out, beside what no engine answers.
    wrong = [*JUNK, *(part_of(bodies[0]) if bodies else ())]
    for junk in wrong[:: 12 if verb in (_load, _copy) else 1]:  # a load takes half a second
        proxy.change = lambda _status, _body, junk=junk: (200, junk)
        try:
            verb(index)
        except EsembedError as error:
            if isinstance(error, InvariantError):
                raise
    proxy.api = None
