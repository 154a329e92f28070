"""Answers of an engine, changed: an error of the tree or a value, soon, and nothing counted that was not
confirmed."""

from __future__ import annotations

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutations
import replay
import scenarios

from esembed._sync import live
from esembed.capabilities import profile
from esembed.encode import remote
from esembed.errors import EsembedError, InvariantError
from esembed.ingest.backoff import RetryPolicy
from esembed.ingest.options import IngestReport

# Measured to take about 15 seconds each on two cores.
EXAMPLES = {
    "search": 1_800,
    "msearch": 900,
    "bulk": 600,
    "mget": 1_200,
    "settings": 900,
    "count": 2_400,
    "scan": 300,
}


class Recordings:
    """One entrance's recordings, each replayed by a client of its own."""

    def __init__(self, entrance: str) -> None:
        self.parts: list[tuple[scenarios.Scenario, Any, replay.Tape, Any, list[int]]] = []
        for value in mutations.load(f"answers_{entrance}"):
            scenario = scenarios.SCENARIOS[value["scenario"]]
            exchanges = [replay.Exchange(*one) for one in value["exchanges"]]
            tape = replay.Tape(exchanges)
            spoiled = [
                number
                for number, one in enumerate(exchanges)
                if not scenario.apis or any(api in one.path for api in scenario.apis)
            ]
            capabilities = profile(scenarios.PROFILES[value["engine"]])
            client = replay.client(value["engine"], tape)
            self.parts.append((scenario, client, tape, capabilities, spoiled))

    def run(self, seed: int) -> tuple[Any, list[tuple[int, bytes]]]:
        """What one of them returns when one of its answers is changed (each time that it is asked for), and
        what was answered to the same request."""
        random = Random(seed)
        scenario, client, tape, capabilities, spoiled = random.choice(self.parts)
        target = random.choice(spoiled)
        one = tape.exchanges[target]
        answer = replay.changed(random, one.status, one.body.encode())
        given: list[tuple[int, bytes]] = []

        def change(number: int, status: int, body: bytes) -> tuple[int, bytes, dict[str, str]]:
            told = answer if number == target else (status, body, replay.JSON)
            if tape.exchanges[number].path == one.path:
                given.append(told[:2])
            return told

        tape.rewind()
        tape.change = change
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = max(4096, len(answer[1]))
            with mutations.in_time(16 * size):  # by the clock, of a machine that does other things, too
                run = functools.partial(_ended, functools.partial(scenario.run, client, capabilities))
                return mutations.bounded(run, size), given


def _ended(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except InvariantError:
        raise
    except EsembedError as error:
        str(error)
        return None


@pytest.fixture(autouse=True)
def _nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan asks again for ten minutes where an engine is away; here it gives up at once. ``_meta`` that is
    not as it was written is read again after pauses of seconds; no recording says what a run wrote."""
    begin = RetryPolicy.__init__

    def hasty(self: RetryPolicy, max_wait_seconds: float, *args: Any, **options: Any) -> None:
        begin(self, min(max_wait_seconds, 0.001), *args, **options)

    monkeypatch.setattr(RetryPolicy, "__init__", hasty)
    monkeypatch.setattr(live, "sleep", lambda seconds: None)
    for name in ("elastic_transport", "opensearch"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
        monkeypatch.setattr(logging.getLogger(f"{name}.node_pool"), "disabled", True)


@pytest.mark.parametrize("entrance", EXAMPLES)
def test_answers(entrance: str) -> None:
    recordings = Recordings(entrance)

    def check(seed: int) -> None:
        result, given = recordings.run(seed)
        if entrance == "bulk" and isinstance(result, IngestReport):
            confirmed = sum(_confirmed(status, body) for status, body in given)
            done = result.indexed + result.updated + result.deleted
            assert done <= confirmed, f"{done} counted of {confirmed} confirmed"

    mutations.fuzz(range(1), EXAMPLES[entrance], check, make=lambda _, seed: seed)


def _confirmed(status: int, body: bytes) -> int:
    """How many lines an answer confirms, by whatever it says."""
    try:
        items = json.loads(body)["items"]
        return sum(
            1
            for item in items
            for told in item.values()
            if 200 <= told["status"] < 300 or told["status"] == 404
        )
    except Exception:  # noqa: BLE001 - a hostile answer
        return 0


def test_embeddings() -> None:
    """What an endpoint answers: vectors of the right shape, all finite, or an error of the tree."""
    corpus = mutations.load("answers_embeddings")

    def check(seed: int) -> None:
        random = Random(seed)
        one = random.choice(corpus)
        status, body, headers = replay.changed(random, one["status"], json.dumps(one["body"]).encode())
        if random.random() < 0.3:
            headers |= {"retry-after-ms": random.choice(["", "-1", "9" * 400, "\xb2", "1e400", "x"])}
        # Bytes, as they come from a socket.
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = httpx.Response(status, content=body, headers=raw)

        def read() -> Any:
            if status == 200:
                return remote.parse_vectors(response, 2, url="http://e", spec="openai:m")
            error = remote.answer_error(response, url="http://e", spec="openai:m", scrub=str)
            remote.is_too_large(error)  # type: ignore[arg-type]
            raise error

        found = mutations.bounded(lambda: _ended(read), max(4096, len(body)), memory=True)
        if found is not None:
            vectors, _ = found
            assert vectors.shape[0] == 2
            assert vectors.shape[1] > 0
            assert np.isfinite(vectors).all()

    mutations.fuzz(range(1), 1_500, check, make=lambda _, seed: seed)
