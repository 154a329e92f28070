"""The demo's plan and its model, without an engine."""

from __future__ import annotations

import pytest

from esembed.capabilities import profile
from esembed.demo import run
from esembed.encode.transformer import minilm
from esembed.errors import DownloadError


def test_another_corpus_is_another_index() -> None:
    capabilities = profile("opensearch")
    plans = [
        run.demo_plan(capabilities, fingerprint, limit, every=every)
        for fingerprint in ("a", "b")
        for limit in (None, 7)
        for every in (False, True)
    ]
    assert len({plan.description for plan in plans}) == len(plans)
    assert run.demo_plan(capabilities, "a").description == plans[0].description


def test_a_model_that_is_nowhere_is_said_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise DownloadError("the model hub doesn't answer")

    monkeypatch.setattr(minilm, "find_minilm", nowhere)
    with pytest.raises(DownloadError, match="doesn't answer"):
        run.fetch_model().result(30)
