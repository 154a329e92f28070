"""An index that many tests read, by the plugin's session-scoped factory, on real engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esembed import Index, IndexPlan, TextField
from esembed import query as q


@pytest.fixture(scope="module")
def shop(esembed_shared_index_factory: Callable[..., Index]) -> Index:
    index = esembed_shared_index_factory(IndexPlan(text={"name": TextField()}))
    index.ingest([{"_id": "1", "name": "a lamp"}, {"_id": "2", "name": "a chair"}])
    return index


SEEN: list[str] = []


def test_it_is_filled_once(shop: Index) -> None:
    SEEN.append(shop.uuid)
    assert shop.search(q.match("lamp")).ids == ["1"]


def test_and_read_again(shop: Index) -> None:
    assert shop.search(q.match("chair")).ids == ["2"]
    assert SEEN.count(shop.uuid) == 1 or not SEEN  # or run alone
