"""A plan whose vectors the engine computes, end to end, on an OpenSearch that has ml-commons.

``ESEMBED_ML_OPENSEARCH_URL`` names such an engine. Its models are connectors to a small server of this test,
so it needs in its settings: ``plugins.ml_commons.only_run_on_ml_node: false``,
``plugins.ml_commons.connector.private_ip_enabled: true``, and a
``plugins.ml_commons.trusted_connector_endpoints_regex`` that lets ``http://127.0.0.1`` through.
"""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from query_engines import World, world
from query_world import all_bodies, canonical, needs

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.dialect.mapping import compile_mapping
from esembed.errors import EncoderError, MappingDriftError, OptionsError, RecordError, UnsupportedFeatureError
from esembed.ingest.options import IngestOptions
from esembed.migration.options import MigrateOptions

DIMS = 384
RECORDS = [
    {"_id": "path", "title": "split a path into folder and file", "lang": "en"},
    {"_id": "cat", "title": "cats purr on the sofa", "lang": "en"},
    {"_id": "uhr", "title": "uhr und zeit anzeigen", "lang": "de"},
    {"_id": "net", "title": "open a socket to a server", "lang": "en"},
]


def embed(text: str) -> list[float]:
    """Hashed words, length 1."""
    vector = np.full(DIMS, 1e-3)
    for word in text.split():
        vector[zlib.crc32(word.encode()) % DIMS] += 1.0
    return [float(x) for x in vector / np.linalg.norm(vector)]


def expand(text: str) -> dict[str, float]:
    """A word's weight is what tells it apart: its length."""
    return {word: float(len(word)) for word in text.split()}


class _Models(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        texts = [asked] if isinstance(asked, str) else asked
        if self.path == "/sparse":
            answer: Any = [expand(text) for text in texts]
        else:
            answer = {"data": [{"index": i, "embedding": embed(t)} for i, t in enumerate(texts)]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@dataclass
class Live:
    """The engine and its two models."""

    world: World
    dense: str
    sparse: str

    def plan(self, **changes: Any) -> IndexPlan:
        """Fields that the engine encodes, beside text."""
        data = {
            "text": {"title": {}},
            "dense": {"embedding": {"encoder": f"engine:{self.dense}", "source": ["title"], "dims": DIMS}},
            "sparse": {"terms": {"encoder": f"engine:{self.sparse}", "source": ["title"]}},
            "filter": {"lang": {}},
        }
        return IndexPlan.from_dict({**data, **changes})

    @property
    def allowed(self) -> list[str]:
        """The spec strings, for ``allow_encoders``."""
        return [f"engine:{self.dense}", f"engine:{self.sparse}"]


def _model(client: Any, name: str, url: str, post_process: str | None) -> str:
    action = {
        "action_type": "predict",
        "method": "POST",
        "url": url,
        "headers": {"accept": "application/json"},
        "request_body": '{"input": ${parameters.input}}',
        "pre_process_function": "connector.pre_process.openai.embedding",
    }
    if post_process is not None:
        action["post_process_function"] = post_process
    connector = {
        "name": name,
        "description": "esembed's tests",
        "version": 1,
        "protocol": "http",
        "parameters": {"unused": "value"},
        "credential": {"unused": "value"},
        "actions": [action],
    }
    made = client.request("POST", "/_plugins/_ml/connectors/_create", body=connector).body
    body = {"name": name, "function_name": "remote", "connector_id": made["connector_id"]}
    path = "/_plugins/_ml/models/_register"
    model: str = client.request("POST", path, params={"deploy": "true"}, body=body).body["model_id"]
    for _ in range(100):
        if client.request("GET", f"/_plugins/_ml/models/{model}").body["model_state"] == "DEPLOYED":
            return model
        time.sleep(0.1)
    raise AssertionError(f"the model {name} was not deployed")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    url = os.environ.get("ESEMBED_ML_OPENSEARCH_URL")
    if not url:
        pytest.skip("ESEMBED_ML_OPENSEARCH_URL names no OpenSearch with ml-commons")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Models)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with world(url, "opensearch") as found:
            base = f"http://127.0.0.1:{server.server_port}"
            dense = _model(found.client, "dense", f"{base}/dense", "connector.post_process.openai.embedding")
            sparse = _model(found.client, "sparse", f"{base}/sparse", None)
            yield Live(found, dense, sparse)
            for model in (dense, sparse):
                found.client.request("POST", f"/_plugins/_ml/models/{model}/_undeploy")
                found.client.request("DELETE", f"/_plugins/_ml/models/{model}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def index(live: Live) -> Iterator[Index]:
    made = Index.create(live.world.official, f"{live.world.name}-main", live.plan())
    report = made.ingest(RECORDS, IngestOptions(refresh=True))
    assert (report.created, report.errors) == (4, [])
    assert any("encoded by the engine" in line for line in report.warnings)
    yield made
    made.delete_index()


def test_the_engine_fills_the_fields_and_forgets_the_texts(live: Live, index: Index) -> None:
    path = f"/{index.name}/_doc/path"
    stored = live.world.client.request("GET", path, params={"_source_includes": "*"}).body["_source"]
    assert set(stored) == {"title", "lang", "embedding", "terms", "esembed_hash"}
    assert np.allclose(stored["embedding"], embed(RECORDS[0]["title"]), atol=1e-6)
    assert stored["terms"] == expand(RECORDS[0]["title"])


def test_searching_by_text_is_searching_by_the_vector_that_the_model_makes(index: Index) -> None:
    text = "a path to a socket"
    by_text = index.search(q.knn("embedding", text=text))
    by_vector = index.search(q.knn("embedding", vector=embed(text)))
    assert [(h.id, h.score) for h in by_text] == [(h.id, h.score) for h in by_vector]
    by_text = index.search(q.sparse("terms", text=text, boost=2.0))
    by_vector = index.search(q.sparse("terms", vector=expand(text), boost=2.0))
    assert len(by_text) == 2
    assert by_text.ids == by_vector.ids
    assert [h.score for h in by_text] == pytest.approx([h.score for h in by_vector], rel=0.01)


def test_fused_by_the_engine_and_by_us_filtered_and_many(index: Index) -> None:
    server = index.search("uhr path", fusion="server", explain=True)
    client = index.search("uhr path", fusion="client")
    assert (server.path, client.path) == ("server", "client")
    assert [(h.id, pytest.approx(h.score, rel=1e-4)) for h in server] == [(h.id, h.score) for h in client]
    assert set(index.search("uhr path", filter=q.term("lang", "de")).ids) == {"uhr"}
    assert [hits.ids[0] for hits in index.search_many(["cats purr", "open socket"])] == ["cat", "net"]


def test_what_an_index_says_sends_no_text_to_a_model(live: Live, index: Index) -> None:
    opened = Index.open(live.world.official, index.name)
    with pytest.raises(EncoderError, match="allow_encoders"):
        opened.search("path")
    assert opened.search("path", legs=["bm25"]).ids == ["path"]
    partial = opened.search("path", partial_results=True)
    assert (partial.ids, set(partial.legs_missing)) == (["path"], {"dense", "sparse"})
    allowed = Index.open(live.world.official, index.name, allow_encoders=live.allowed)
    assert allowed.search("path").ids[0] == "path"
    assert "endpoint's name" in allowed.inspect()["contracts"]["embedding"]["checked_by"]
    assert allowed.inspect()["drift"] == []


def test_updates_resumes_and_what_is_refused(live: Live, index: Index) -> None:
    index.update("cat", {"lang": "fr"}, refresh=True)
    assert index.search(q.knn("embedding", text="cats purr"), filter=q.term("lang", "fr")).ids == ["cat"]
    assert index.ingest([RECORDS[0]]).unchanged == 1
    with pytest.raises(RecordError, match="send the whole"):
        index.update("cat", {"title": "dogs"})
    assert index.get("cat")["title"] == RECORDS[1]["title"]
    with pytest.raises(OptionsError, match="can't be filled in afterward"):
        index.backfill()
    plain = f"{live.world.name}-plain"
    body = {"mappings": {"properties": {"title": {"type": "text"}, "lang": {"type": "keyword"}}}}
    live.world.client.request("PUT", f"/{plain}", body={**body, "settings": {"index": {"knn": True}}})
    with pytest.raises(UnsupportedFeatureError, match="documents that are there already"):
        Index.attach(live.world.official, plain, live.plan())


def test_a_lost_pipeline_setting_is_noticed_and_repaired(live: Live, index: Index) -> None:
    settings = f"/{index.name}/_settings"
    live.world.client.request("PUT", settings, body={"index": {"default_pipeline": "_none"}})
    with pytest.raises(MappingDriftError, match="default_pipeline is _none"):
        index.ingest([{"_id": "new", "title": "new"}])
    repaired = Index.repair(live.world.official, index.name, live.plan())
    assert repaired.ingest([{"_id": "new", "title": "new", "lang": "en"}]).created == 1


def test_migrating_to_another_encoder_and_back(live: Live, index: Index) -> None:
    alias = f"{live.world.name}-live"
    local = {"terms": {"encoder": "lexical", "source": ["title"]}}
    report = index.migrate(live.plan(sparse=local), options=MigrateOptions(alias=alias))
    assert (report.documents, report.copied) == (4, ())
    moved = Index.open(live.world.official, alias, allow_encoders=live.allowed)
    assert moved.search("socket").ids[0] == "net"
    report = moved.migrate(live.plan())
    moved = Index.open(live.world.official, alias, allow_encoders=live.allowed)
    assert moved.search("socket").ids[0] == "net"
    pipelines = {
        name
        for plan in (live.plan(), live.plan(sparse=local))
        for name in compile_mapping(plan, index.capabilities).pipelines
    }
    for name in (report.old, report.new):
        Index.open(live.world.official, name).delete_index()
    left = live.world.client.request("GET", "/_ingest/pipeline").body
    # the index that everything began with still runs the first one
    assert pipelines & set(left) == set(compile_mapping(live.plan(), index.capabilities).pipelines)


def test_every_listed_body_is_taken(live: Live, index: Index) -> None:
    sent = set()
    for case, _, body in all_bodies("opensearch"):
        if "a model of ml-commons" in needs(body, "opensearch") and canonical(body) not in sent:
            sent.add(canonical(body))
            text = json.dumps(body).replace("my-e5", live.dense).replace("my-elser", live.sparse)
            answer = live.world.client.request(
                "POST", f"/{index.name}/_search", body=json.loads(text), ignore=range(400, 600)
            )
            assert answer.status == 200, (case.id, answer.body)
            assert answer.body["_shards"]["failed"] == 0, (case.id, answer.body)
    assert len(sent) >= 4
