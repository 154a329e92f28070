"""gRPC against HTTP on OpenSearch 3.6: bulk and kNN searches, elapsed time and processor time of both sides.

    pip install esembed grpcio opensearch-protobufs==1.3.0
    python tests/bench/grpc_transport.py http://127.0.0.1:9200 127.0.0.1:9400 PID [DOCUMENTS [ROUNDS]]

PID is the server's; a last word ``search`` measures searches alone. The server needs, in opensearch.yml,
``aux.transport.types: [transport-grpc]`` and ``aux.transport.transport-grpc.port: '9400'``. The protobufs are
of the version that lies in the server's ``modules/transport-grpc``. An index ``esembed-bench-grpc`` is made,
and deleted at the end.
"""

from __future__ import annotations

import http.client
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
from opensearch.protobufs.schemas import common_pb2 as pb
from opensearch.protobufs.services.document_service_pb2_grpc import DocumentServiceStub
from opensearch.protobufs.services.search_service_pb2_grpc import SearchServiceStub
from opensearchpy import OpenSearch
from opensearchpy.helpers import streaming_bulk

from esembed import DenseField, Index, IndexPlan, IngestOptions, TextField
from esembed import query as q
from esembed.dialect import dialect_for
from esembed.ingest.backoff import RetryPolicy
from esembed.ingest.target import TargetIndex

INDEX, BATCH, QUERIES = "esembed-bench-grpc", 250, 200
TEXT = "the graph of a segment is built when it is written, and again when it is merged " * 3
Times = tuple[float, float, float]


def main(url: str, address: str, pid: int, count: int, rounds: int, only_search: bool) -> None:
    """Measure, and print a line for each way."""
    client = OpenSearch(url, timeout=120)
    options = [("grpc.max_receive_message_length", 100 << 20), ("grpc.max_send_message_length", 100 << 20)]
    channel = grpc.insecure_channel(address, options=options)
    rng = np.random.default_rng(0)
    for dims in (384, 1024):
        vectors = rng.standard_normal((count, dims)).astype(np.float32)
        if only_search:
            index = made(client, dims, graphs=True)
            rows = ({"_id": str(n), "title": TEXT, "v": v} for n, v in enumerate(vectors))
            assert index.ingest(rows, IngestOptions(learn_weights=False)).indexed == count
        for graphs in () if only_search else (False, True):
            bulk(client, channel, pid, vectors, graphs, rounds)
        queries = rng.standard_normal((QUERIES, dims)).astype(np.float32)
        search(client, url, channel, pid, queries, rounds)
    client.indices.delete(index=f"{INDEX}-v1", ignore_unavailable=True)


def made(client: Any, dims: int, graphs: bool) -> Index:
    """A new index."""
    client.indices.delete(index=f"{INDEX}-v1", ignore_unavailable=True)
    dense = DenseField(encoder="precomputed", dims=dims, quantization="hnsw")
    index = Index.create(client, INDEX, IndexPlan(text={"title": TextField()}, dense={"v": dense}))
    settings: dict[str, Any] = {"refresh_interval": "-1"}
    if not graphs:
        settings["knn.advanced.approximate_threshold"] = -1
    client.indices.put_settings(index=INDEX, body={"index": settings})
    return index


def bulk(client: Any, channel: Any, pid: int, vectors: Any, graphs: bool, rounds: int) -> None:
    """Documents a second, by each way in turn into an index of its own."""
    stub = DocumentServiceStub(channel)
    lines = dialect_for(made(client, vectors.shape[1], graphs).capabilities).documents

    def by_esembed(index: Index) -> None:
        form = lines.bulk(index.plan)
        target = TargetIndex(index.client, INDEX, index.capabilities, RetryPolicy(60))
        for start in range(0, len(vectors), BATCH):
            payload = b"".join(
                form.index_lines(str(start + n), form.body({"title": TEXT}, {"v": v}, content_hash=None))
                for n, v in enumerate(vectors[start : start + BATCH])
            )
            status, answer, _ = target.bulk(payload)
            assert status == 200
            assert all(item["index"]["status"] == 201 for item in answer["items"])

    def by_grpc(index: Index) -> None:
        form = lines.bulk(index.plan)
        for start in range(0, len(vectors), BATCH):
            bodies = [
                pb.BulkRequestBody(
                    operation_container=pb.OperationContainer(index=pb.IndexOperation(x_id=str(start + n))),
                    object=orjson.dumps(
                        form.body({"title": TEXT}, {"v": v}, content_hash=None),
                        option=orjson.OPT_SERIALIZE_NUMPY,
                    ),
                )
                for n, v in enumerate(vectors[start : start + BATCH])
            ]
            answer = stub.Bulk(pb.BulkRequest(index=INDEX, bulk_request_body=bodies), timeout=120)
            assert not answer.errors
            assert len(answer.items) == len(bodies)

    def by_client(index: Index) -> None:
        actions = (
            {"_index": INDEX, "_id": str(n), "_source": {"title": TEXT, "v": v.tolist()}}
            for n, v in enumerate(vectors)
        )
        assert sum(ok for ok, _ in streaming_bulk(client, actions, chunk_size=BATCH)) == len(vectors)

    ways = {"esembed, HTTP": by_esembed, "gRPC": by_grpc, "opensearch-py": by_client}
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first one warms up
        names = list(ways)[number % 3 :] + list(ways)[: number % 3]
        for name in names:
            index = made(client, vectors.shape[1], graphs)
            found = measured(pid, lambda way=ways[name], index=index: way(index))
            if number:
                times[name].append(found)
    print(
        f"bulk, {vectors.shape[1]} dims, {len(vectors)} documents, {'with' if graphs else 'without'} graphs"
    )
    show(times, len(vectors), "docs/s")


def search(client: Any, url: str, channel: Any, pid: int, queries: Any, rounds: int) -> None:
    """Searches a second, one after another."""
    stub = SearchServiceStub(channel)
    index = Index.open(client, INDEX)
    client.indices.refresh(index=INDEX)
    client.indices.forcemerge(index=INDEX, max_num_segments=1)
    client.indices.refresh(index=INDEX)
    hidden = ["v", "esembed_hash"]

    def by_esembed() -> None:
        for vector in queries:
            assert len(index.search(q.knn("v", vector=vector.tolist(), k=10))) == 10

    def by_grpc() -> None:
        for vector in queries:
            body = pb.SearchRequestBody(
                size=10,
                query=pb.QueryContainer(knn=pb.KnnQuery(field="v", vector=vector.tolist(), k=10)),
                x_source=pb.SourceConfig(filter=pb.SourceFilter(excludes=hidden)),
            )
            answer = stub.Search(pb.SearchRequest(index=[INDEX], search_request_body=body), timeout=60)
            found = [orjson.loads(hit.x_source) for hit in answer.hits.hits]
            assert len(found) == 10
            assert found[0] == {"title": TEXT}

    def by_plain_http() -> None:
        """The same request without the official client."""
        plain = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        for vector in queries:
            query = {"knn": {"v": {"vector": vector, "k": 10}}}
            body = {"size": 10, "query": query, "_source": {"excludes": hidden}}
            sent = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
            plain.request("POST", f"/{INDEX}/_search", sent, {"Content-Type": "application/json"})
            assert len(orjson.loads(plain.getresponse().read())["hits"]["hits"]) == 10

    def by_client() -> None:
        for vector in queries:
            query = {"knn": {"v": {"vector": vector.tolist(), "k": 10}}}
            body = {"size": 10, "query": query, "_source": {"excludes": hidden}}
            assert len(client.search(index=INDEX, body=body)["hits"]["hits"]) == 10

    ways = {
        "esembed, HTTP": by_esembed,
        "plain HTTP": by_plain_http,
        "gRPC": by_grpc,
        "opensearch-py": by_client,
    }
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            found = measured(pid, way)
            if number > 1:
                times[name].append(found)
    print(f"kNN search, {queries.shape[1]} dims, k=10")
    show(times, len(queries), "searches/s")


def measured(pid: int, call: Callable[[], None]) -> Times:
    """Seconds: elapsed, of this processor time, of the server's."""
    theirs, mine, started = server_seconds(pid), time.process_time(), time.perf_counter()
    call()
    return time.perf_counter() - started, time.process_time() - mine, server_seconds(pid) - theirs


def server_seconds(pid: int) -> float:
    """Processor time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(times: dict[str, list[Times]], count: int, unit: str) -> None:
    """A line for each way: medians."""
    for name, values in times.items():
        wall, mine, theirs = (statistics.median(column) for column in zip(*values, strict=True))
        micro = f"client {mine / count * 1e6:,.0f} µs, server {theirs / count * 1e6:,.0f} µs each"
        print(f"  {name:14} {count / wall:6,.0f} {unit}; {micro}", flush=True)


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "search"]
    sizes = [int(word) for word in arguments[3:5]] + [2000, 4][len(arguments[3:5]) :]
    main(arguments[0], arguments[1], int(arguments[2]), *sizes, only_search="search" in sys.argv)
