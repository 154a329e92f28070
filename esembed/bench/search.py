"""Search latency over the official client's, and throughput of concurrent users.

``esembed bench search --url http://localhost:9200 [--documents 3000 --queries 300 --users 32 --json]``

An index of random texts and vectors is made and deleted again. Each query is sent by the official client
(the very body that esembed compiles) and by ``search()``, in turn and in changing order, so that both see
the same caches and the same noise; the overhead is the median of the paired differences. Vectors are
given, so encoding takes no part. Throughput, on the async path: the same queries one by one, by N
concurrent users, and by N users of the official client, which is what the engine and the client can do.
With ``--encoder minilm`` (or another spec) a hybrid search that encodes its text is measured as well; no text
comes twice, so that nothing is cached.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import typer

from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed._async.search import AsyncSearcher
from esembed._sync.client import EngineClient
from esembed._sync.live import describe
from esembed._sync.probe import probe
from esembed._sync.search import Searcher
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.mapping import compile_mapping
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.plan import DenseField, FilterField, IndexPlan, TextField
from esembed.plan.params import EncoderParams
from esembed.query import Query
from esembed.query.tree import legs_to_encode
from esembed.search.compile import compile_query
from esembed.search.options import SearchOptions
from esembed.search.request import query_digest
from esembed.search.view import View

__all__ = ["Latency", "app", "bench_search", "main"]

app = typer.Typer(help="Search latency over the official client, and concurrency.")
VOCABULARY = 5_000
ROUNDS = 6
"""Rounds of the concurrent users, ours and the official client's in turns, in alternating order: a single
pair swung by ±.1 with what the engine's JVM and the other processes did at the moment."""


@dataclass(frozen=True)
class Latency:
    """One kind of query, milliseconds; requests are HTTP requests for one search."""

    query: str
    path: str
    requests: float
    official_p50: float
    official_p99: float
    esembed_p50: float
    esembed_p99: float
    overhead_p50: float
    overhead_cpu_p50: float


@dataclass(frozen=True)
class Throughput:
    """Searches a second: one by one, by many users at once, and by as many of the official client's (None
    where texts are encoded, which it can't do); and how many encode calls the users' texts took."""

    query: str
    users: int
    one_by_one: float
    concurrent: float
    official_concurrent: float | None = None
    encode_calls: int | None = None


def _text(rng: random.Random, words: int) -> str:
    """Words with a Zipf-like distribution."""
    return " ".join(f"w{min(VOCABULARY, int(rng.paretovariate(0.7)))}" for _ in range(words))


def _fill(
    client: EngineClient, capabilities: Capabilities, name: str, documents: int, field: DenseField
) -> IndexPlan:
    dims = field.dims or 0
    plan = IndexPlan(
        text={"body": TextField()},
        dense={"embedding": field},
        filter={"lang": FilterField()},
    )
    compiled = compile_mapping(plan, capabilities)
    plan = compiled.resolved
    client.request("PUT", f"/{name}", body=dict(compiled.body))
    form, rng, noise = (
        dialect_for(capabilities).documents.bulk(plan),
        random.Random(1),
        np.random.default_rng(1),
    )
    for start in range(0, documents, 500):
        data = b""
        for number in range(start, min(start + 500, documents)):
            source = {"body": _text(rng, rng.randint(20, 120)), "lang": rng.choice(["en", "de"])}
            vector = noise.normal(size=dims).astype(np.float32)
            data += form.index_lines(
                f"doc{number}", form.body(source, {"embedding": vector}, content_hash=None)
            )
        client.request("POST", f"/{name}/_bulk", body=data, timeout_seconds=300)
    client.request("POST", f"/{name}/_forcemerge", params={"max_num_segments": 1}, timeout_seconds=300)
    client.request("POST", f"/{name}/_refresh")
    return plan


def _queries(kind: str, count: int, dims: int) -> list[Query]:
    rng, noise = random.Random(2), np.random.default_rng(2)
    found: list[Query] = []
    for _ in range(count):
        text = q.match(_text(rng, 4), fields="body")
        dense = q.knn("embedding", vector=noise.normal(size=dims).astype(np.float32))
        encoded = q.rrf(text, q.knn("embedding", text=text.text))
        kinds: dict[str, Query] = {
            "bm25": text,
            "knn": dense,
            "hybrid": q.rrf(text, dense),
            "hybrid, encoded": encoded,
        }
        found.append(kinds[kind])
    return found


def _official(official: Any, engine: str, name: str, compiled: Any, preference: str) -> Callable[[], Any]:
    """The official client's own call for the same bodies."""
    params = {"preference": preference}
    if compiled.body is not None:
        if engine == "elasticsearch":
            return lambda: official.search(index=name, body=compiled.body, **params)
        return lambda: official.search(index=name, body=compiled.body, params=params)
    lines = View(path=name, params=params).lines(compiled.bodies)
    if engine == "elasticsearch":
        return lambda: official.msearch(index=name, searches=lines)
    return lambda: official.msearch(index=name, body=lines)


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds by the clock, and of this thread's CPU (which other processes don't disturb)."""
    started, busy = time.perf_counter(), time.thread_time()
    call()
    return (time.perf_counter() - started) * 1000, (time.thread_time() - busy) * 1000


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share * 100))


def bench_search(
    make_client: Callable[[], Any],
    make_async_client: Callable[[], Any],
    *,
    documents: int = 3000,
    dims: int = 384,
    queries: int = 300,
    users: int = 32,
    encoder: Encoder | None = None,
) -> tuple[list[Latency], list[Throughput]]:
    """Measure; the index made for it is deleted.

    Args:
        make_client, make_async_client: the official clients.
        documents, dims: the index.
        queries: of each kind.
        users: concurrent searches on the async path.
        encoder: a dense encoder, for searches that encode their texts; *dims* are its then.
    """
    official = make_client()
    client = EngineClient(official)
    capabilities = probe(client)
    name = f"esembed-bench-{uuid.uuid4().hex[:8]}"
    try:
        dims = (encoder.info.dims or dims) if encoder is not None else dims
        spec = encoder.info.spec if encoder is not None else "precomputed"
        field = DenseField(dims=dims, encoder=spec, source=("body",) if encoder is not None else ())
        plan = _fill(client, capabilities, name, documents, field)
        pool = EncoderPool(plan, encoder=encoder, runtime=RuntimeOptions(query_cache_bytes=0))
        searcher = Searcher(client, name, plan, capabilities, pool, live=describe(client, name))
        latencies, throughputs = [], []
        for kind in ("bm25", "knn", "hybrid"):
            todo = _queries(kind, queries, dims)
            latencies.append(_latency(kind, todo, searcher, official, client, capabilities, plan, name))
            throughputs.append(
                asyncio.run(_throughput(kind, todo, make_async_client, capabilities, pool, name, users))
            )
        if encoder is not None:
            kind = "hybrid, encoded"
            todo = _queries(kind, 3 * queries, dims)
            throughputs.append(
                asyncio.run(_throughput(kind, todo, make_async_client, capabilities, pool, name, users))
            )
    finally:
        client.request("DELETE", f"/{name}", ignore=(404,))
    return latencies, throughputs


def _latency(
    kind: str,
    todo: list[Query],
    searcher: Searcher,
    official: Any,
    client: EngineClient,
    capabilities: Capabilities,
    plan: IndexPlan,
    name: str,
) -> Latency:
    compiled = [compile_query(query, capabilities, SearchOptions(), plan=plan) for query in todo]
    calls = [
        _official(official, capabilities.engine, name, one, f"esembed-{query_digest(query)}")
        for one, query in zip(compiled, todo, strict=True)
    ]
    for call, query in list(zip(calls, todo, strict=True))[:50]:
        call()
        searcher.search(query)
    theirs, ours, differences, busier = [], [], [], []
    before = client.requests_sent
    for number, (call, query) in enumerate(zip(calls, todo, strict=True)):

        def own(query: Query = query) -> Any:
            return searcher.search(query)

        first, second = (call, own) if number % 2 else (own, call)
        a, b = _timed(first), _timed(second)
        their, our = (a, b) if number % 2 else (b, a)
        theirs.append(their[0])
        ours.append(our[0])
        differences.append(our[0] - their[0])
        busier.append(our[1] - their[1])
    return Latency(
        query=kind,
        path=compiled[0].path,
        requests=(client.requests_sent - before) / len(todo),
        official_p50=_percentile(theirs, 0.5),
        official_p99=_percentile(theirs, 0.99),
        esembed_p50=_percentile(ours, 0.5),
        esembed_p99=_percentile(ours, 0.99),
        overhead_p50=statistics.median(differences),
        overhead_cpu_p50=statistics.median(busier),
    )


async def _throughput(
    kind: str,
    todo: list[Query],
    make_client: Callable[[], Any],
    capabilities: Capabilities,
    pool: EncoderPool,
    name: str,
    users: int,
) -> Throughput:
    official = make_client()
    try:
        searcher = AsyncSearcher(AsyncEngineClient(official), name, pool.plan, capabilities, pool)

        async def ours(query: Query) -> None:
            await searcher.search(query)

        async def rate(call: Callable[[Any], Any], items: Sequence[Any], count: int) -> float:
            waiting = list(items)

            async def user() -> None:
                while waiting:
                    await call(waiting.pop())

            started = time.perf_counter()
            await asyncio.gather(*(user() for _ in range(count)))
            return len(items) / (time.perf_counter() - started)

        if legs_to_encode(todo[0]):  # thirds, so that no text comes twice
            third = len(todo) // 3
            await rate(ours, todo[:third], users)
            alone = await rate(ours, todo[third : 2 * third], 1)
            before = searcher.encode_calls
            together = await rate(ours, todo[2 * third :], users)
            return Throughput(kind, users, alone, together, encode_calls=searcher.encode_calls - before)
        calls = []
        for query in todo:
            one = compile_query(query, capabilities, SearchOptions(), plan=pool.plan)
            calls.append(
                _official(official, capabilities.engine, name, one, f"esembed-{query_digest(query)}")
            )

        async def theirs(call: Callable[[], Any]) -> None:
            await call()

        await rate(ours, todo, users)  # opens the connections
        alone = await rate(ours, todo, 1)
        mine, official_rates = [], []
        for number in range(ROUNDS):
            if number % 2:
                official_rates.append(await rate(theirs, calls, users))
                mine.append(await rate(ours, todo, users))
            else:
                mine.append(await rate(ours, todo, users))
                official_rates.append(await rate(theirs, calls, users))
        together, reference = statistics.median(mine), statistics.median(official_rates)
    finally:
        await official.close()
    return Throughput(kind, users, alone, together, reference)


@app.command()
def main(
    url: Annotated[str, typer.Option(help="The engine's address.")],
    engine: Annotated[str, typer.Option(help="elasticsearch or opensearch.")] = "opensearch",
    documents: Annotated[int, typer.Option(help="Documents in the index.", min=100)] = 3000,
    dims: Annotated[int, typer.Option(help="Dimensions of the dense field.", min=2)] = 384,
    queries: Annotated[int, typer.Option(help="Queries of each kind.", min=10)] = 300,
    users: Annotated[int, typer.Option(help="Concurrent users.", min=1)] = 32,
    encoder: Annotated[
        str, typer.Option(help="A dense encoder's spec (minilm): measure searches that encode, too.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search latency over the official client's, and throughput of concurrent users."""
    if engine == "elasticsearch":
        import elasticsearch

        makers: tuple[Callable[[], Any], Callable[[], Any]] = (
            lambda: elasticsearch.Elasticsearch(url),
            lambda: elasticsearch.AsyncElasticsearch(url, connections_per_node=users),
        )
    elif engine == "opensearch":
        import opensearchpy

        makers = (
            lambda: opensearchpy.OpenSearch(url),
            lambda: opensearchpy.AsyncOpenSearch(url, maxsize=users),
        )
    else:
        raise typer.BadParameter("engine is elasticsearch or opensearch", param_hint="--engine")
    latencies, throughputs = bench_search(
        *makers,
        documents=documents,
        dims=dims,
        queries=queries,
        users=users,
        encoder=load(encoder, EncoderParams(), RuntimeOptions()) if encoder else None,
    )
    if as_json:
        print(
            json.dumps(
                {"latency": [asdict(x) for x in latencies], "throughput": [asdict(x) for x in throughputs]}
            )
        )
        return
    print(f"{documents} documents, {dims} dims, {queries} queries of each kind; milliseconds\n")
    print("| query | path | requests | official p50 / p99 | esembed p50 / p99 | overhead p50 | CPU |")
    print("|---|---|---|---|---|---|---|")
    for one in latencies:
        print(
            f"| {one.query} | {one.path} | {one.requests:.2f} | {one.official_p50:.2f} / "
            f"{one.official_p99:.2f} "
            f"| {one.esembed_p50:.2f} / {one.esembed_p99:.2f} | {one.overhead_p50:.2f} "
            f"| {one.overhead_cpu_p50:.2f} |"
        )
    print(f"\n| query | one by one, a second | {users} users, a second | official client, {users} users |")
    print("|---|---|---|---|")
    for two in throughputs:
        last = "" if two.official_concurrent is None else f"{two.official_concurrent:.0f}"
        if two.encode_calls is not None:
            last = f"({queries} texts in {two.encode_calls} encode calls)"
        print(f"| {two.query} | {two.one_by_one:.0f} | {two.concurrent:.0f} | {last} |")


if __name__ == "__main__":
    app()
