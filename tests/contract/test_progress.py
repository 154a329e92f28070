"""Progress of every stage: an ingest's, a migration's; in Python and on the command line."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from migrate_help import Salted, plan
from query_engines import World

from esembed import Index, IndexPlan, IngestOptions, MigrateOptions
from esembed._sync import weights
from esembed.cli import main
from esembed.encode.pool import EncoderPool
from esembed.ingest import term_statistics
from esembed.ingest.options import ProgressState
from esembed.ingest.target import TargetIndex

World.__test__ = False  # type: ignore[attr-defined]

PLAN = IndexPlan.from_toml(
    """
    [text.body]
    [sparse.terms]
    encoder = "lexical"
    source = ["body"]
    params = { avgdl = 3.0 }
    [load]
    force_merge_segments = 1
    """
)
ROWS = [{"_id": f"d{n}", "body": f"words of number {n}"} for n in range(120)]


class Told:
    def __init__(self) -> None:
        self.states: list[ProgressState] = []

    def update(self, state: ProgressState) -> None:
        self.states.append(state)

    def notice(self, message: str) -> None:
        pass

    @property
    def phases(self) -> list[str]:
        return [phase for phase, _ in itertools.groupby(state.phase for state in self.states)]

    def of(self, phase: str) -> list[ProgressState]:
        return [state for state in self.states if state.phase == phase]


def slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float = 1.3) -> None:
    """Let a step take long enough to be told of twice."""
    whole = getattr(owner, name)

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, slowly)


def options(**more: Any) -> IngestOptions:
    return IngestOptions(dead_letters=None, **more)


def test_every_stage_of_an_ingest_is_told_of(query_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    two_legs = PLAN.replace(dense=plan("a").dense)
    index = Index.create(
        query_world.official, query_world.name, two_legs, encoder={"e": Salted("a")}, alias=False
    )
    index.ingest(ROWS, options(learn_weights=False))
    for owner, name in (
        (EncoderPool, "encoders"),
        (TargetIndex, "force_merge"),
        (weights, "learn"),
        (term_statistics, "_source"),
    ):
        slow(monkeypatch, owner, name, 0.02 if name == "_source" else 1.3)
    told = Told()
    changed = [{**row, "body": "other words"} for row in ROWS[:100]]
    index.ingest(changed, options(verify=True, sync=True, sync_max_delete=1.0), progress=told)
    order = ["encoders", "load", "merge", "refresh", "verify", "sync", "terms", "weights", "done"]
    assert told.phases == order
    for phase in ("encoders", "merge", "weights"):
        seconds = [state.seconds for state in told.of(phase)]
        assert len(seconds) >= 2, phase
        assert seconds == sorted(seconds)
    assert all(state.eta_seconds is None for state in told.of("merge"))
    assert told.of("terms")[-1].total == 100
    assert told.states[-1].done == 100


def test_what_a_progress_raises_ends_the_run(query_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.create(query_world.official, query_world.name, PLAN, alias=False)
    slow(monkeypatch, TargetIndex, "force_merge")

    class Raises(Told):
        def update(self, state: ProgressState) -> None:
            if state.phase == "merge" and state.seconds > 0.3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        index.ingest(ROWS, options(), progress=Raises())


def test_every_stage_of_a_migration_is_told_of(query_world: World) -> None:
    name = query_world.name
    index = Index.create(query_world.official, name, plan("a"), encoder=Salted("a"), alias=False)
    index.ingest(ROWS, options())
    told = Told()
    settings = MigrateOptions(alias=f"{name}-alias", queries=["words of number 3", "words"])
    report = index.migrate(
        plan("b"), encoder=Salted("b"), old_encoder=Salted("a"), options=settings, progress=told
    )
    try:
        assert {"load", "gate", "compare"} <= set(told.phases)
        assert told.phases.count("done") == 1
        assert told.phases[-1] == "done"
    finally:
        query_world.client.request("DELETE", f"/{report.new}")


def test_a_rollback_and_a_repair_are_told_of(query_world: World) -> None:
    name = query_world.name + "-back"
    encoder = Salted("a")
    Index.create(query_world.official, f"{name}-v1", plan("a"), encoder=encoder, alias=False).ingest(
        [{"id": f"d{n}", "body": f"text {n}", "n": n} for n in range(40)], IngestOptions(refresh=True)
    )
    try:
        Index.open(query_world.official, f"{name}-v1", encoder=encoder).migrate(
            plan("b"), encoder=Salted("b"), options=MigrateOptions(alias=name)
        )
        back = Told()
        Index.open(query_world.official, name, encoder=Salted("b")).rollback(encoder=encoder, progress=back)
        assert {"load", "compare"} <= set(back.phases)
        assert back.phases.count("done") == 1
        assert back.phases[-1] == "done"
        counted = f"{name}-counted"
        index = Index.create(query_world.official, counted, PLAN, alias=False)
        index.ingest(ROWS, IngestOptions(refresh=True))
        repaired = Told()
        Index.repair(query_world.official, counted, index.plan, progress=repaired)
        assert "terms" in repaired.phases
    finally:
        for made in (f"{name}-v1", f"{name}-v2", f"{name}-counted"):
            query_world.client.request("DELETE", f"/{made}", ignore=(404,))


def test_the_command_line_names_a_phase_after_some_seconds(
    query_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Index.create(query_world.official, query_world.name, PLAN, alias=False)
    monkeypatch.setattr("esembed.cli.ingest.QUIET_SECONDS", 0.4)
    slow(monkeypatch, TargetIndex, "force_merge")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)
    host: Any = query_world.official.transport
    if query_world.client.engine == "elasticsearch":
        url = str(next(iter(host.node_pool.all())).base_url)
    else:
        url = f"http://{host.hosts[0]['host']}:{host.hosts[0]['port']}"
    assert (
        main(["ingest", "rows.jsonl", "--index", query_world.name, "--url", url, "--no-learn-weights"]) == 0
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("merge: ")]
    assert len(lines) == 1
    assert lines[0].endswith(" s")
