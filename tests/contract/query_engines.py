"""A live engine as the query tests want it: our client, its capabilities, names that are cleaned up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from esembed._sync.client import EngineClient
from esembed._sync.probe import probe
from esembed.capabilities import Capabilities


@dataclass
class World:
    """One engine."""

    official: Any
    client: EngineClient
    capabilities: Capabilities
    name: str

    @property
    def url(self) -> str:
        """The engine's address, as its official client has it."""
        if self.client.engine == "elasticsearch":
            return str(next(iter(self.official.transport.node_pool.all())).base_url)
        host = self.official.transport.hosts[0]
        return f"http://{host['host']}:{host['port']}"


def official_client(engine: Any, kind: str) -> Any:
    """The official client of a fixture's engine: a URL, a client, or what carries one of them."""
    for attribute in ("client", "url"):
        if not isinstance(engine, str) and not hasattr(engine, "transport") and hasattr(engine, attribute):
            found = getattr(engine, attribute)
            engine = found() if callable(found) and not hasattr(found, "transport") else found
    if not isinstance(engine, str):
        return engine
    if kind == "elasticsearch":
        import elasticsearch

        return elasticsearch.Elasticsearch(engine)
    import opensearchpy

    return opensearchpy.OpenSearch(engine)


@contextmanager
def world(engine: Any, kind: str) -> Iterator[World]:
    """The engine, and every index of this test's name deleted afterward."""
    official = official_client(engine, kind)
    client = EngineClient(official)
    name = f"esembed-query-{uuid.uuid4().hex[:10]}"
    capabilities = probe(client)
    if kind == "opensearch" and capabilities.diversify:
        # What diversifies in the engine; for good, since other tests on the same engine may run beside.
        factories = ["mmr_over_sample_factory", "mmr_rerank_factory"]
        setting = {"cluster.search.enabled_system_generated_factories": factories}
        client.request("PUT", "/_cluster/settings", body={"transient": setting})
    try:
        yield World(official, client, capabilities, name)
    finally:
        answer = client.request("GET", f"/_cat/indices/{name}*", params={"format": "json", "h": "index"})
        for row in answer.body:
            client.request("DELETE", f"/{row['index']}", ignore=(404,))
        if isinstance(engine, str):
            official.close()
