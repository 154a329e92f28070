"""Ids that come more than once in one run."""

from __future__ import annotations

import random

import pytest

from esembed.ingest import repeated_ids
from esembed.ingest.repeated_ids import RepeatedIds


@pytest.mark.parametrize("recent", [1, 3, 100, 16_384])
def test_each_that_comes_again_is_counted(monkeypatch: pytest.MonkeyPatch, recent: int) -> None:
    monkeypatch.setattr(repeated_ids, "RECENT", recent)
    ids = [f"d{n % 700}" for n in range(1000)] + [f"only{n}" for n in range(500)] + ["d1", "d1"]
    random.Random(3).shuffle(ids)
    found = RepeatedIds()
    for doc_id in ids:
        found.add(doc_id)
    assert found.count() == found.count() == len(ids) - len(set(ids))
    assert len(found.named) == len(set(found.named)) == 10
    assert all(ids.count(doc_id) > 1 for doc_id in found.named)
    assert not found.full


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_ids, "RECENT", 10)
    monkeypatch.setattr(repeated_ids, "REMEMBERED", 35)
    found = RepeatedIds()
    for _ in range(2):
        for number in range(100):
            found.add(f"d{number}")
    assert found.full
    assert found.count() == 30, "those of the first 30, which were remembered"
