"""Programs that start at once and create the index that they need: one makes it, all open it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from esembed import Index, IndexPlan

PLAN = IndexPlan.from_toml("[text.body]\n")
PROGRAMS = 4


@pytest.mark.parametrize("alias", [True, False], ids=["alias", "plain"])
def test_programs_that_create_one_index_at_once(
    esembed_engine: Any, esembed_index_name: str, alias: bool
) -> None:
    started = Barrier(PROGRAMS)

    def start(number: int) -> str:
        client = esembed_engine.client()
        started.wait(30)
        index = Index.create(client, esembed_index_name, PLAN, alias=alias, exist_ok=True)
        index.ingest([{"_id": str(number), "body": "red fox"}])
        return index.concrete_index

    for _ in range(3):
        with ThreadPoolExecutor(PROGRAMS) as programs:
            made = set(programs.map(start, range(PROGRAMS)))
        assert made == {f"{esembed_index_name}-v1" if alias else esembed_index_name}
        index = Index.open(esembed_engine.client(), esembed_index_name)
        index.refresh()
        assert index.count() == PROGRAMS
        index.delete_index()
