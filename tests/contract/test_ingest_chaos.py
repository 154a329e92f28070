"""Kills and faults: in the end every record is there once, equal to a clean run, and the report adds up.

The short version runs with the others. The long one is
``ESEMBED_CHAOS=long pytest -n 0 -s tests/contract/test_ingest_chaos.py``: on each engine 100 kills of the
ingest process, 20 of the engine, and 3,000 records through a proxy that spoils a third of the requests.
``ESEMBED_CHAOS_KILLS``, ``ESEMBED_CHAOS_ENGINE_KILLS``,
``ESEMBED_CHAOS_RECORDS`` and ``ESEMBED_CHAOS_SEED`` set the parts; what happened is printed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_proxy import FAULTS, fault_proxy
from ingest_help import LOADED, Target, make, records, snapshot
from query_engines import World, official_client, world

from esembed._sync.client import EngineClient
from esembed.errors import EngineUnavailableError

LONG = os.environ.get("ESEMBED_CHAOS") == "long"
KILLS = int(os.environ.get("ESEMBED_CHAOS_KILLS", "100" if LONG else "5"))
ENGINE_KILLS = int(os.environ.get("ESEMBED_CHAOS_ENGINE_KILLS", "20" if LONG else "1"))
RECORDS = int(os.environ.get("ESEMBED_CHAOS_RECORDS", "3000" if LONG else "300"))
SEED = int(os.environ.get("ESEMBED_CHAOS_SEED", "3"))
CHILD = Path(__file__).with_name("ingest_child.py")
World.__test__ = False  # type: ignore[attr-defined]


def assert_same(left: dict[str, dict[str, Any]], right: dict[str, dict[str, Any]]) -> None:
    """Field by field; vectors within what the engine loses of a float32."""
    assert set(left) == set(right)
    for doc_id, mine in left.items():
        other = right[doc_id]
        assert set(mine) == set(other), doc_id
        for name, value in mine.items():
            if name == "emb":
                np.testing.assert_allclose(np.float32(value), np.float32(other[name]), atol=1e-6)
            else:
                assert value == other[name], (doc_id, name)


def mixed(count: int) -> list[dict[str, Any]]:
    """Records with repeats, updates and deletes in between, so that order matters."""
    feed: list[dict[str, Any]] = []
    for n, record in enumerate(records(count)):
        feed.append(record)
        if n % 10 == 4:
            feed.append({"op": "update", "id": record["id"], "n": n + 1000})
        if n % 10 == 7:
            feed.append({**record, "title": f"second version {n}"})
        if n % 25 == 9:
            feed.append({"op": "delete", "id": record["id"]})
    return feed


def told(what: str, **figures: Any) -> None:
    """One line for whoever runs with ``-s``."""
    print(f"chaos: {what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


@pytest.mark.timeout(900 + RECORDS)
def test_a_third_of_the_requests_goes_wrong(query_world: World) -> None:
    feed = mixed(RECORDS)
    clean = make(query_world, suffix="-clean")
    clean.ingest(feed)
    kind = query_world.capabilities.engine
    with fault_proxy(query_world.url, seed=SEED) as proxy:
        official = official_client(proxy.url, kind)
        through = EngineClient(official)
        world_ = World(official, through, query_world.capabilities, query_world.name)
        faulty = make(query_world, suffix="-faulty")
        faulty.world = world_
        report = faulty.ingest(
            feed, max_request_bytes=12_000, max_in_flight=4, max_wait_seconds=60, flush_interval_seconds=0.02
        )
        first_run = proxy.requests, through.requests_sent
        bulk_requests = proxy.bulk_requests
        again = faulty.ingest(
            records(30),
            max_request_bytes=12_000,
            max_wait_seconds=60,
            verify=True,
            flush_interval_seconds=0.02,
        )
        official.close()
    told(
        f"proxy, {kind}", records=report.read, requests=first_run[0], bulk=bulk_requests,
        spoiled=sum(proxy.faults.values()) + sum(proxy.other_faults.values()), faults=dict(proxy.faults),
        retried=report.retried_requests,
    )  # fmt: skip
    assert report.dead_lettered == 0, report.errors
    assert report.retried_requests > 0
    assert set(proxy.faults) == set(FAULTS), f"every fault was met: {proxy.faults}"
    # One layer retries: what the proxy saw is what was counted on this side, neither less nor more.
    assert bulk_requests == report.requests
    assert first_run[0] == first_run[1]
    assert again.verified is not None
    assert again.verified.ok
    clean.ingest(records(30))
    assert_same(clean.all(), snapshot(query_world.client, faulty.index, kind))


def child(world_: World, index: str, path: Path) -> subprocess.Popen[str]:
    """An ingest in a process of its own, as far as its first line: the imports are not what is tested."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), world_.capabilities.engine, world_.url, index, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready", process.communicate()[1]
    return process


def refresh_interval(target: Target) -> Any:
    found = target.world.client.request("GET", f"/{target.index}/_settings").body
    return found[target.index]["settings"]["index"].get("refresh_interval")


@pytest.mark.timeout(900 + 60 * KILLS)  # one took 50 s where four others worked on the same two cores
def test_kills_of_the_ingest_lose_and_double_nothing(query_world: World, tmp_path: Path) -> None:
    rows = records(600)
    rows[5] = {"id": "d5", "n": 5}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))

    def fresh(suffix: str) -> Target:
        made = make(query_world, LOADED, suffix=suffix)
        settings = {"index": {"refresh_interval": "7s"}}
        query_world.client.request("PUT", f"/{made.index}/_settings", body=settings)
        return made

    clean = fresh("-clean")
    process = child(query_world, clean.index, path)
    started = time.monotonic()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    whole = time.monotonic() - started
    target = fresh("-killed")
    chance = random.Random(SEED)
    killed = while_tuned = fills = 0
    while killed < KILLS:
        process = child(query_world, target.index, path)
        before, started = target.count(), time.monotonic()
        if killed % 2:
            # At any moment of a run: before the first write, during it, while settings are put back.
            time.sleep(chance.random() * whole)
        else:
            while process.poll() is None and target.count() == before and time.monotonic() - started < 60:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
            if killed % 10 == 0:
                told("so far", killed=killed, settings_left=while_tuned, fills_compared=fills)
        process.communicate()
        while_tuned += refresh_interval(target) == "-1"
        if target.count() >= 590:
            fills += 1
            finish(query_world, target, clean, path)
            target.world.client.request("DELETE", f"/{target.index}")
            target = fresh("-killed")
    report = finish(query_world, target, clean, path)
    told(
        f"kills of the ingest, {query_world.capabilities.engine}", killed=killed, settings_left=while_tuned,
        fills_compared=fills + 1, unchanged_in_the_last=report["unchanged"],
    )  # fmt: skip


def finish(world_: World, target: Target, clean: Target, path: Path) -> dict[str, Any]:
    """The same command once more, not killed: all is there once, and only what was missing is encoded."""
    there = -1
    while there != (there := target.count()):
        time.sleep(0.3)  # a request of the killed process may still be at work in the engine
    process = child(world_, target.index, path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    assert report["adds_up"]
    assert (report["read"], report["dead_lettered"]) == (600, 1)
    assert (report["unchanged"], report["indexed"]) == (there, 599 - there)
    assert report["encoded"] == 599 - there
    assert refresh_interval(target) == "7s"
    assert_same(clean.all(), target.all())
    return report


@pytest.mark.timeout(900 + 60 * ENGINE_KILLS)
@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_kills_of_the_engine_are_waited_out(kind: str, tmp_path: Path) -> None:
    if os.environ.get("ESEMBED_CHAOS") == "0":
        pytest.skip("ESEMBED_CHAOS=0")
    local = pytest.importorskip("esembed.local.server", reason="the local engines need the extra local")
    name = f"chaos-{os.getpid()}"
    rows = records(max(400, 60 * (ENGINE_KILLS + 1)))
    try:
        engine = local.start(kind, name=name)
        port = int(engine.url.rpartition(":")[2])
        with world(engine.url, kind) as live:
            clean = make(live, suffix="-clean")
            clean.ingest(rows)
            target = make(live, suffix="-survivor")
            watched = Watched(live.client)
            target.world = World(live.official, watched, live.capabilities, live.name)  # type: ignore[arg-type]
            killer = Killer(local, kind, name, port, random.Random(SEED), ENGINE_KILLS, watched)
            killer.start()
            report = target.ingest(
                killer.paced(rows),
                max_request_bytes=6_000,
                max_wait_seconds=300,
                flush_interval_seconds=0.02,
                encode_batch_documents=8,
            )
            killer.join()
            told(
                f"kills of the engine, {kind}", killed=killer.kills, bulk_requests_out=killer.while_out,
                requests=report.requests, retried=report.retried_requests,
                waited=f"{report.waited_seconds:.0f} s",
            )  # fmt: skip
            assert killer.error is None
            assert killer.kills == ENGINE_KILLS
            assert report.retried_requests > 0
            assert (report.indexed, report.dead_lettered) == (len(rows), 0)
            assert_same(snapshot(live.client, clean.index, kind), snapshot(live.client, target.index, kind))
    finally:
        local.destroy(kind, name=name)


class Watched:
    """A client that knows how many bulk requests are out."""

    def __init__(self, client: EngineClient) -> None:
        self.client, self.kind = client, client.engine
        self.out = 0
        self._lock = threading.Lock()

    def request(self, method: str, path: str, **more: Any) -> Any:
        bulk = path.endswith("/_bulk")
        with self._lock:
            self.out += bulk
        try:
            return self.client.request(method, path, **more)
        finally:
            with self._lock:
                self.out -= bulk


class Killer(threading.Thread):
    """Kills the engine (SIGKILL) at random moments of a load and starts it again on the same port.

    Attributes:
        kills, while_out: so far, and how many of them met a bulk request on its way.
    """

    def __init__(
        self, local: Any, kind: str, name: str, port: int, chance: random.Random, kills: int, watched: Watched
    ) -> None:
        super().__init__(daemon=True)
        self.local, self.kind, self.name_, self.port = local, kind, name, port
        self.chance, self.wanted, self.watched = chance, kills, watched
        self.kills = self.while_out = 0
        self.error: Exception | None = None

    def paced(self, rows: list[dict[str, Any]]) -> Any:
        """The records in as many parts as there are kills and one more: each kill is during the load."""
        for number, row in enumerate(rows):
            while self.is_alive() and number * (self.wanted + 1) >= len(rows) * (self.kills + 1):
                time.sleep(0.02)
            time.sleep(0.01)
            yield row

    def run(self) -> None:
        try:
            while self.kills < self.wanted:
                time.sleep(self.chance.random() * 1.5)
                until = time.monotonic() + 12.0  # the senders may be in a long pause
                while not self.watched.out and time.monotonic() < until:
                    time.sleep(0.001)
                found = self.local.status(self.kind, name=self.name_)
                self.while_out += self.watched.out > 0
                os.kill(found.pid, signal.SIGKILL)
                self.kills += 1
                told("engine killed", kills=self.kills, bulk_requests_out=self.while_out)
                time.sleep(0.5)
                self.local.start(self.kind, name=self.name_, port=self.port)
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.error = error


def test_a_read_only_block_is_waited_out(query_world: World) -> None:
    target = make(query_world)
    client, path = query_world.client, f"/{target.index}/_settings"
    block = {"index.blocks.read_only_allow_delete": True}
    client.request("PUT", path, body=block)

    def unblock() -> None:
        time.sleep(4)
        client.request("PUT", path, body={"index.blocks.read_only_allow_delete": None})

    thread = threading.Thread(target=unblock)
    thread.start()
    report = target.ingest(records(20), max_wait_seconds=60, apply_load_settings=False)
    thread.join()
    assert report.indexed == 20
    assert any("read-only" in notice for notice in report.warnings)
    client.request("PUT", path, body=block)
    try:
        with pytest.raises(EngineUnavailableError, match="run the same command again"):
            target.ingest(records(25), max_wait_seconds=1, apply_load_settings=False)
    finally:
        client.request("PUT", path, body={"index.blocks.read_only_allow_delete": None})
    assert target.ingest(records(25)).unchanged == 20
