# Generated from tests/_async/test_values.py by scripts/run_unasync.py; change that file and run the script.
"""Values in filters: the engines agree, or the query is refused before anything is sent."""

from __future__ import annotations

import ipaddress
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from esembed import FilterField, Index, IndexPlan, TextField
from esembed import query as q
from esembed.errors import EngineRequestError, QueryError
from esembed.query.nodes import Filter

TYPES: dict[str, Any] = {
    "small": "byte",
    "short": "short",
    "stock": "integer",
    "big": "long",
    "price": "float",
    "exact": "double",
    "ok": "boolean",
    "host": "ip",
    "day": "date",
}
PLAN = IndexPlan(
    text={"title": TextField()},
    filter={
        **{name: FilterField(type=type) for name, type in TYPES.items()},
        "key": FilterField(),
        "odd": FilterField(type="date", format="dd.MM.yyyy||epoch_second"),
    },
)
RECORD: dict[str, Any] = {
    "_id": "1",
    "title": "fox",
    "small": 3,
    "short": 3,
    "stock": np.int64(3),
    "big": 2**60 + 1,
    "price": 2.5,
    "exact": Decimal("9.99"),
    "ok": "TRUE",
    "host": ipaddress.ip_address("10.0.0.1"),
    "key": "a",
    "day": np.datetime64("2024-03-01T12:00:00", "ns"),
    "odd": "01.03.2024",
}
FOUND: list[Filter] = [
    q.term("stock", "3"),
    q.term("stock", " 3 "),
    q.term("stock", "3.0"),
    q.term("big", 2**60 + 1),
    q.term("exact", Decimal("9.99")),
    q.term("ok", "True"),
    q.term("ok", "true"),
    q.term("ok", np.bool_(True)),
    q.terms("ok", ["FALSE", "TRUE"]),
    q.term("host", ipaddress.ip_network("10.0.0.0/8")),
    q.term("host", "10.0.0.1"),
    q.term("host", "10.9.9.9/8"),
    q.range("host", gte="10.0.0.0", lte="10.0.0.9"),
    q.term("day", 1709294400000.0),
    q.range("day", gte=1709294400000.0, lte=1709294400000.5),
    q.range("day", gte=np.datetime64("2024-03"), time_zone="+02:00"),
    q.range("day", gte="2024-03-01", time_zone="UTC+2"),
    q.range("day", gte="2024-03-01", time_zone="Europe/Helsinki"),
    q.term("odd", date(2024, 3, 1)),
    q.term("odd", "01.03.2024"),
    q.terms("odd", [date(2024, 3, 1), "02.03.2024"]),
    q.range("odd", gte=date(2024, 3, 1), lt=np.datetime64("2024-03-02")),
    q.range("odd", gte="01.03.2024"),
    q.range("odd", gte="2024-03-01", format="yyyy-MM-dd"),
]
REFUSED: list[Filter] = [
    q.term("small", 128),
    q.term("short", -32769),
    q.term("stock", 10**12),
    q.terms("stock", [3, 10**12]),
    q.range("stock", lte=10**12),
    q.range("stock", lte="99999999999"),
    q.term("big", 2**63),
    q.range("big", lte=2**64 - 1),
    q.term("big", "9223372036854775808"),
    q.term("price", 1e300),
    q.range("price", lte="1e39"),
    q.term("exact", "1e400"),
    q.term("stock", "1_000"),
    q.term("stock", "nan"),
    q.term("stock", "٣"),
    q.term("stock", "0x10"),
    q.term("stock", ""),
    q.term("stock", True),
    q.term("ok", 1),
    q.term("ok", 1.0),
    q.term("ok", "1"),
    q.term("ok", "yes"),
    q.term("ok", ""),
    q.term("host", "nonsense"),
    q.term("host", ""),
    q.term("host", 5),
    q.term("host", "010.0.0.1"),
    q.term("host", "10.1"),
    q.term("host", " 10.0.0.1"),
    q.term("host", "10.0.0.0/33"),
    q.term("host", "10.0.0.0/255.0.0.0"),
    q.term("host", "::/129"),
    q.range("host", gte="10.0.0.0/8"),
    q.terms("host", ["10.0.0.1", "x"]),
    q.range("day", gte="2024-03-01", time_zone="Mars/Phobos"),
    q.range("day", gte="2024-03-01", time_zone="+25:00"),
    q.range("day", gte="2024-03-01", time_zone="europe/helsinki"),
    q.range("day", gte=2**63),
    q.term("day", True),
    q.term("odd", "2024-03-01"),
    q.range("odd", gte=date(2024, 3, 1), lt="02.03.2024"),
]


def test_values_find_what_records_stored_or_are_refused(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    report = index.ingest([RECORD])
    assert (report.indexed, report.dead_lettered) == (1, 0)
    index.refresh()
    for node in FOUND:
        assert (index.search(q.match("fox", filter=node))).ids == ["1"], node
        assert (index.search(q.bool_(must_not=[node]))).ids == [], node
    for node in REFUSED:
        with pytest.raises(QueryError) as refused:
            index.search(q.match("fox", filter=node))
        assert not isinstance(refused.value.__cause__, EngineRequestError), node
    # Names that Python knows and the engine's Java doesn't: the engine's refusal, named.
    with pytest.raises(QueryError, match="time zone 'ROC'"):
        index.search(q.match("fox", filter=q.range("day", gte="2024-03-01", time_zone="ROC")))
