"""Query JSON from strangers, as far as it is taken, sent to real engines: they still answer after each."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import mutations
import query_data

from esembed import Index
from esembed import query as q
from esembed.cli._connect import Connection
from esembed.errors import EngineUnavailableError, EsembedError, InvariantError
from esembed.plan import DenseField, IndexPlan
from esembed.pytest_plugin import EngineHandle

# Measured to take about 15 seconds on two cores; about one in ten is taken and sent.
EXAMPLES = 1_400
SLOWEST_SECONDS = 10.0
"""For one search among 12 documents. An engine stops none by itself."""


def _plan() -> IndexPlan:
    plan = query_data.plan()
    dims = plan.dense["embedding"].dims
    vectors = DenseField(encoder="precomputed", dims=dims, quantization="hnsw", optional=True)
    return plan.replace(dense={"embedding": vectors})


def test_queries_on_an_engine(esembed_engine: EngineHandle, esembed_index_name: str) -> None:
    client = Connection(url=esembed_engine.url).client()
    try:
        index = Index.create(client, esembed_index_name, _plan())
        documents = [{"_id": name, **fields} for name, fields in query_data.documents().items()]
        report = index.ingest(documents)
        assert report.indexed == len(documents), report.errors[:3]
        sent = 0

        def check(value: Any) -> None:
            nonlocal sent
            try:
                query = q.from_dict(value)
            except InvariantError:
                raise
            except EsembedError:
                return
            sent += 1
            started = time.monotonic()
            try:
                index.search(query, text="red fox", deadline_seconds=SLOWEST_SECONDS)
            except InvariantError:
                raise
            except EngineUnavailableError as error:
                raise AssertionError(f"the engine stayed away: {error}: {str(value)[:500]}") from error
            except EsembedError:
                pass
            assert time.monotonic() - started < SLOWEST_SECONDS, str(value)[:500]
            assert index.count() == len(documents)

        mutations.fuzz(mutations.load("query"), EXAMPLES, check)
        print(f"{sent} queries were sent")
        assert sent > 20
    finally:
        client.close()
