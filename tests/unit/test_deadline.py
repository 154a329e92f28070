"""The clock of a search, and what it makes of time-outs."""

from __future__ import annotations

import pytest

from esembed import deadline as module
from esembed import query as q
from esembed.deadline import Deadline
from esembed.plan import IndexPlan
from esembed.search.options import SearchOptions
from esembed.search.request import make_request, resolve

PLAN = IndexPlan.from_toml('[text.body]\n[dense.v]\nencoder = "given"\ndims = 2')


def test_a_requests_time_out_is_never_lengthened_and_takes_few_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ends = Deadline(100.0)
    seen = set()
    for step in range(20_000):
        now[0] = step * 0.005
        for wanted in (None, 2.0, 65.0):
            seconds = ends.http_seconds(wanted)
            if seconds != wanted:
                assert seconds is not None
                assert ends.left() < seconds < max(2 * ends.left(), 0.03)
                assert seconds < (10.0 if wanted is None else wanted)
            seen.add(seconds)
    assert len(seen) < 32  # as many clients as are kept
    now[0] = 101.0
    assert (ends.left(), ends.http_seconds(None)) == (0.0, 0.015)


def test_legs_keep_shorter_time_outs_of_their_own() -> None:
    options = SearchOptions(leg_timeouts_seconds={"v": 0.1}, timeout_seconds=None)
    fused = q.rrf(q.match("a"), q.knn("v", vector=[1, 0]))
    request = make_request(resolve(fused, PLAN), options, max_window=10_000).ending_in(1.0)
    assert {leg.name: leg.timeout_seconds for leg in request.legs} == {"bm25": 0.8, "v": 0.1}
    assert request.options.timeout_seconds == 0.8
