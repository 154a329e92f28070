"""Kills and faults: in the end every record is there once, equal to a clean run, and the report adds up.

The short version runs with the others. ``ESEMBED_CHAOS_KILLS`` (of the ingest process) and
``ESEMBED_CHAOS_ENGINE_KILLS`` set how many kills each engine gets; the long run is 100 and 20.
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
from ingest_help import Target, make, records, snapshot
from query_engines import World, official_client, world

from esembed._sync.client import EngineClient
from esembed.errors import EngineUnavailableError

KILLS = int(os.environ.get("ESEMBED_CHAOS_KILLS", "5"))
ENGINE_KILLS = int(os.environ.get("ESEMBED_CHAOS_ENGINE_KILLS", "1"))
CHILD = Path(__file__).with_name("ingest_child.py")
World.__test__ = False  # type: ignore[attr-defined]


def url_of(target: World) -> str:
    """Where this engine is, told by its official client."""
    if target.capabilities.kind == "elasticsearch":
        return str(next(iter(target.official.transport.node_pool.all())).base_url)
    return str(target.official.transport.hosts[0].get("url") or _host(target.official.transport.hosts[0]))


def _host(host: dict[str, Any]) -> str:
    return f"http{'s' if host.get('use_ssl') else ''}://{host['host']}:{host.get('port', 9200)}"


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


def test_a_third_of_the_requests_goes_wrong(query_world: World) -> None:
    clean = make(query_world, suffix="-clean")
    clean.ingest(mixed(300))
    kind = query_world.capabilities.kind
    with fault_proxy(url_of(query_world), seed=7) as proxy:
        official = official_client(proxy.url, kind)
        through = EngineClient(official)
        faulty = make(World(official, through, query_world.capabilities, query_world.name), suffix="-faulty")
        sent_before = through.requests_sent
        report = faulty.ingest(
            mixed(300), max_chunk_bytes=12_000, max_in_flight=4, max_wait_seconds=60, linger_seconds=0.02
        )
        official.close()
    assert report.dead == 0
    assert report.retried_requests > 0
    assert set(proxy.faults) == set(FAULTS), f"every fault was met: {proxy.faults}"
    # One layer retries: what the proxy saw is what the report counts, neither less nor more.
    assert proxy.bulk_requests == report.requests
    assert through.requests_sent - sent_before >= report.requests
    assert_same(clean.all(), snapshot(query_world.client, faulty.index, kind))


def child(world_: World, index: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CHILD), world_.capabilities.kind, url_of(world_), index, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kills_of_the_ingest_lose_and_double_nothing(query_world: World, tmp_path: Path) -> None:
    rows = records(600)
    rows[5] = {"id": "d5", "n": 5}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    clean = make(query_world, suffix="-clean")
    clean.ingest(rows)
    target = make(query_world, suffix="-killed")
    chance = random.Random(3)
    killed = 0
    while killed < KILLS:
        process = child(query_world, target.index, path)
        started = time.monotonic()
        before = target.count()
        # Killed at a random moment once it writes; the start of Python is not what is tested.
        while process.poll() is None and target.count() == before and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        if target.count() >= 590:
            target.world.client.request("DELETE", f"/{target.index}")
            target = make(query_world, suffix="-killed")
    process = child(query_world, target.index, path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["adds_up"]
    assert (report["read"], report["dead"]) == (600, 1)
    assert report["indexed"] + report["unchanged"] == 599
    assert_same(clean.all(), target.all())


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_kills_of_the_engine_are_waited_out(kind: str, tmp_path: Path) -> None:
    if os.environ.get("ESEMBED_CHAOS", "1") == "0":
        pytest.skip("ESEMBED_CHAOS=0")
    local = pytest.importorskip("esembed.engine.local", reason="the local engines need the extra local")
    name = f"chaos-{os.getpid()}"
    rows = records(400)
    chance = random.Random(11)
    try:
        engine = local.start(kind, name=name)
        port = int(engine.url.rpartition(":")[2])
        with world(engine.url, kind) as live:
            clean = make(live, suffix="-clean")
            clean.ingest(rows)
            target = make(live, suffix="-survivor")
            kind_ = live.capabilities.kind
            killer = Killer(local, kind, name, port, chance, ENGINE_KILLS, target)
            target.encoders["emb"].seconds_per_text = 0.01 * max(1, ENGINE_KILLS)
            killer.start()
            report = target.ingest(
                rows,
                max_chunk_bytes=6_000,
                max_wait_seconds=180,
                linger_seconds=0.02,
                encode_batch_documents=16,
            )
            killer.join()
            assert killer.kills == ENGINE_KILLS
            assert killer.error is None
            assert (report.indexed, report.dead) == (400, 0)
            assert_same(snapshot(live.client, clean.index, kind_), snapshot(live.client, target.index, kind_))
    finally:
        local.destroy(kind, name=name)


class Killer(threading.Thread):
    """Kills the engine (SIGKILL) at random moments of a load and starts it again on the same port."""

    def __init__(
        self, local: Any, kind: str, name: str, port: int, chance: random.Random, kills: int, target: Target
    ) -> None:
        super().__init__(daemon=True)
        self.local, self.kind, self.name_, self.port = local, kind, name, port
        self.chance, self.wanted, self.target = chance, kills, target
        self.kills = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while self.kills < self.wanted:
                time.sleep(1.0 + self.chance.random() * 2)
                found = self.local.status(self.kind, name=self.name_)
                os.kill(found.pid, signal.SIGKILL)
                self.kills += 1
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
    report = target.ingest(records(20), max_wait_seconds=60, tuning=False)
    thread.join()
    assert report.indexed == 20
    assert any("read-only" in notice for notice in report.notices)
    client.request("PUT", path, body=block)
    try:
        with pytest.raises(EngineUnavailableError, match="run the same command again"):
            target.ingest(records(25), max_wait_seconds=1, tuning=False)
    finally:
        client.request("PUT", path, body={"index.blocks.read_only_allow_delete": None})
    assert target.ingest(records(25)).unchanged == 20
