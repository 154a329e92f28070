"""What is done with an engine whose answers are changed, entrance by entrance."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import mutations
import query_data
import replay

from esembed import Index
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed._sync.probe import probe
from esembed.capabilities import Capabilities, profile
from esembed.errors import EsembedError
from esembed.ingest.options import IngestOptions
from esembed.plan import IndexPlan

NAME = "esembed-fuzz-answers"
ALIAS = "esembed-fuzz-alias"
PROFILES = {"opensearch": "opensearch-no-native", "elasticsearch": "elasticsearch-reduced"}
VECTOR = [0.1, 0.5, -0.3, 0.2, 0.9, -0.1, 0.4, 0.3]
BM25 = q.match("red dog", fields=["title^2", "body"], name="bm25")
DENSE = q.knn("embedding", vector=VECTOR, name="dense")
SPARSE = q.sparse("terms", vector={"red": 1.7, "cat": 0.6}, name="sparse")


@dataclass(frozen=True)
class Scenario:
    """What is done, and which of its answers are changed (by their path's API).

    Attributes:
        entrance: the fuzz test it belongs to.
        run: takes a client and the engine's capabilities.
        apis: the last word, or the words, of the paths; empty is all.
        plan: of the index that it is recorded on.
    """

    entrance: str
    run: Callable[[Any, Capabilities], Any]
    apis: tuple[str, ...] = ()
    plan: Callable[[], IndexPlan] = query_data.plan


def _search(query: Any, **options: Any) -> Callable[[Any, Capabilities], Any]:
    def run(client: Any, capabilities: Capabilities) -> Any:
        hits = Index.open(client, NAME, capabilities=capabilities).search(query, preference="p", **options)
        return [(hit.id, hit.score, dict(hit.source), hit.chunks) for hit in hits], hits.total, repr(hits)

    return run


def _many(client: Any, capabilities: Capabilities) -> Any:
    queries = [BM25, q.rrf(BM25, DENSE), SPARSE]
    return [list(hits) for hits in Index.open(client, NAME, capabilities=capabilities).search_many(queries)]


def _records(count: int = 4) -> list[dict[str, Any]]:
    docs = query_data.documents(count)
    return [
        {"_id": doc_id, **doc, "embedding": doc["embedding"].tolist(), "body": doc["body"] + " again"}
        for doc_id, doc in docs.items()
    ] + [{"_id": "d999", "op": "delete", "_op": "delete"}]


def _ingest(**options: Any) -> Callable[[Any, Capabilities], Any]:
    def run(client: Any, capabilities: Capabilities) -> Any:
        index = Index.open(client, NAME, capabilities=capabilities)
        return index.ingest(
            _records(),
            # Nothing waits: an odd answer is sent again at once, and the run gives up.
            IngestOptions(
                max_wait_seconds=0.001, learn_weights=False, flush_interval_seconds=0.01, **options
            ),
        )

    return run


def _open(client: Any, capabilities: Capabilities) -> Any:
    index = Index.open(client, NAME, capabilities=capabilities)
    return index.inspect(), index.fields, index.notes, index.count()


def _attach(client: Any, capabilities: Capabilities) -> Any:
    # As if somebody else had made the index: the fields are fitted to those that are there.
    return Index.attach(client, NAME, query_data.plan(), capabilities=capabilities).fields


def _new_field(client: Any, capabilities: Capabilities) -> Any:
    index = Index.open(client, NAME, capabilities=capabilities)
    return list(index.search(BM25, filter=q.term("nowhere", "x")))


def _get(client: Any, capabilities: Capabilities) -> Any:
    index = Index.open(client, NAME, capabilities=capabilities)
    return index.get("d001"), index.get("d001", vectors=True), index.get("nothing")


def _scan(client: Any, capabilities: Capabilities) -> Any:
    return list(Index.open(client, NAME, capabilities=capabilities).documents())


def _count(client: Any, capabilities: Capabilities) -> Any:
    return Index.open(client, NAME, capabilities=capabilities).count()


def _probe(client: Any, _capabilities: Capabilities) -> Any:
    return probe(EngineClient(client), index=NAME)


def _versions(client: Any, _capabilities: Capabilities) -> Any:
    return Index.delete_old_versions(client, ALIAS, min_age_seconds=0)


def _statistics(client: Any, capabilities: Capabilities) -> Any:
    index = Index.open(client, NAME, capabilities=capabilities)
    index.refresh_statistics()
    index.load_statistics()
    return list(index.search("red dog"))


def _weights(client: Any, capabilities: Capabilities) -> Any:
    return Index.open(client, NAME, capabilities=capabilities).learn_weights(write=False)


def _lexical() -> IndexPlan:
    return IndexPlan.from_toml(
        '[text.title]\n[text.body]\n[sparse.words]\nencoder = "lexical"\nsource = ["body"]\n[filter.lang]\n'
    )


RESCORED = q.rescore(q.rrf(BM25, DENSE), by=SPARSE, window_size=20)
SCENARIOS = {
    "plain": Scenario(
        "search",
        _search(
            BM25,
            highlight=["title"],
            aggregations={"langs": {"terms": {"field": "lang"}}},
            count=True,
            explain=True,
        ),
        ("_search",),
    ),
    "knn": Scenario("search", _search(DENSE, sort=["price"]), ("_search",)),
    "collapse": Scenario("search", _search(q.collapse(BM25, "lang")), ("_search",)),
    "server": Scenario("search", _search(q.rrf(BM25, DENSE), explain=True), ("_search", "_msearch")),
    "client": Scenario(
        "msearch",
        _search(
            q.linear(BM25, DENSE, SPARSE, normalizer="bound"),
            fusion="client",
            explain=True,
            count=True,
            aggregations={"langs": {"terms": {"field": "lang"}}},
        ),
        ("_msearch", "_termvectors"),
    ),
    "partial": Scenario(
        "msearch",
        _search(q.rrf(BM25, DENSE), fusion="client", partial_results=True, highlight=["title"]),
        ("_msearch",),
    ),
    "rescored": Scenario("msearch", _search(RESCORED, fusion="client"), ("_msearch",)),
    "groups": Scenario(
        "msearch", _search(q.collapse(q.rrf(BM25, DENSE), "lang"), fusion="client"), ("_msearch",)
    ),
    "many": Scenario("msearch", _many, ("_msearch",)),
    "nested": Scenario(
        "msearch",
        _search(q.rrf(q.match("red", fields=["title"]), DENSE), fusion="client"),
        ("_msearch",),
        lambda: query_data.chunk_plan("nested"),
    ),
    "apart": Scenario(
        "msearch",
        _search(q.rrf(q.match("red", fields=["title"]), DENSE), fusion="client"),
        ("_msearch",),
        lambda: query_data.chunk_plan("documents"),
    ),
    "bulk": Scenario("bulk", _ingest(skip_unchanged=False), ("_bulk",)),
    "lookup": Scenario("mget", _ingest(), ("_mget",)),
    "get": Scenario("mget", _get, ("_doc/", "_search")),
    "load": Scenario(
        "settings", _ingest(verify=True), ("_settings", "_mapping", "_count", "_health", "_refresh")
    ),
    "open": Scenario("settings", _open, ()),
    "attach": Scenario("settings", _attach, ()),
    "look": Scenario("settings", _new_field, ("_mapping",)),
    "versions": Scenario("settings", _versions, ()),
    "probe": Scenario("settings", _probe, ()),
    "count": Scenario("count", _count, ("_count",)),
    "scan": Scenario("scan", _scan, ("_search", "_pit", "point_in_time", "_settings", "_mapping", "_count")),
    "statistics": Scenario("scan", _statistics, (), _lexical),
    "weights": Scenario("scan", _weights, ("_search",)),
}


def record_all() -> None:
    """Write the corpus anew, from both engines."""
    found: dict[str, list[str]] = {}
    for name, scenario in SCENARIOS.items():
        for engine in ("opensearch", "elasticsearch"):
            exchanges = _recorded(engine, scenario)
            lines = found.setdefault(f"answers_{scenario.entrance}", [])
            lines.append(json.dumps({"scenario": name, "engine": engine, "exchanges": exchanges}))
            print(f"{name} {engine}: {len(exchanges)} exchanges, {len(lines[-1])} bytes")
    for kind, lines in found.items():
        (mutations.CORPUS / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recorded(engine: str, scenario: Scenario) -> list[list[Any]]:
    capabilities = profile(PROFILES[engine])
    with replay.recorded(engine) as (client, tape):
        seam = EngineClient(client)

        def clean() -> None:
            for name in (NAME, f"{ALIAS}-v1", f"{ALIAS}-v2"):
                seam.request("DELETE", f"/{name}", ignore=(404,))

        clean()
        try:
            _fill(client, seam, scenario, capabilities)
            tape.recorded.clear()
            try:
                scenario.run(client, capabilities)
            except EsembedError as error:
                print(f"  ends with {error}")  # of "look", whose field is nowhere
            return [[one.method, one.path, one.status, one.body] for one in tape.recorded]
        finally:
            clean()


def _fill(client: Any, seam: EngineClient, scenario: Scenario, capabilities: Capabilities) -> None:
    plan = scenario.plan()
    index = Index.create(client, NAME, plan, capabilities=capabilities, alias=False)
    texts = {doc_id: doc["body"].split() for doc_id, doc in query_data.documents(12).items()}
    records = []
    for doc_id, doc in query_data.documents(12).items():
        record: dict[str, Any] = {
            "_id": doc_id,
            "title": doc["title"],
            "lang": doc["lang"],
            "body": doc["body"],
        }
        if plan.chunk is not None:
            chunks = [" ".join(texts[doc_id][:3]), " ".join(texts[doc_id][3:])]
            record["chunks"] = [text for text in chunks if text]
        elif "embedding" in plan.dense:
            record |= {"price": doc["price"], "place": doc["place"], "terms": doc["terms"]}
            record["embedding"] = doc["embedding"].tolist()
        records.append(record)
    if plan.chunk is not None:
        docs = {record.pop("_id"): record for record in records}
        lines = query_data.bulk_bytes(plan, capabilities, docs)
        seam.request("POST", f"/{NAME}/_bulk", params={"refresh": "true"}, body=lines)
    else:
        index.ingest(records, IngestOptions(learn_weights=False))
    index.refresh()
    if scenario is SCENARIOS["versions"]:
        for version in (1, 2):
            Index.create(client, f"{ALIAS}-v{version}", plan, capabilities=capabilities, alias=False)
        seam.request("PUT", f"/{ALIAS}-v2/_alias/{ALIAS}")


if __name__ == "__main__":
    os.environ.setdefault("ESEMBED_OPENSEARCH_URL", "http://127.0.0.1:9200")
    os.environ.setdefault("ESEMBED_ELASTICSEARCH_URL", "http://127.0.0.1:9201")
    record_all()
