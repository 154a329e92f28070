"""Old names of options and reports: they work for a release, and say what they are called now."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest

from esembed.capabilities import Capabilities, Version, profile
from esembed.deprecation import old_names
from esembed.encode.base import EncoderInfo
from esembed.ingest.options import IngestOptions, IngestReport, ProgressState

OPTIONS: dict[str, Any] = {
    "max_chunk_bytes": 7,
    "max_chunk_documents": 8,
    "linger_seconds": 0.7,
    "resume": False,
    "missing_text": "skip",
    "nan": "null",
    "tuning": False,
    "trust": False,
}


@pytest.mark.parametrize("old", OPTIONS)
def test_an_option_by_its_old_name(old: str) -> None:
    new = old_names(IngestOptions())[old]
    with pytest.warns(
        DeprecationWarning, match=rf"IngestOptions\.{old} is now {new}; the old name goes"
    ) as seen:
        options = IngestOptions(**{old: OPTIONS[old]})
    assert seen[0].filename == __file__, "it points to who wrote the old name"
    assert getattr(options, new) == OPTIONS[old]
    with pytest.warns(DeprecationWarning, match=new) as seen:
        assert getattr(options, old) == OPTIONS[old]
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=new):
        changed = dataclasses.replace(IngestOptions(), **{old: OPTIONS[old]})
    assert changed == options == IngestOptions(**{new: OPTIONS[old]})
    assert pickle.loads(pickle.dumps(options)) == options


def test_every_renamed_option_is_tried() -> None:
    assert set(old_names(IngestOptions())) == set(OPTIONS)


def test_a_report_by_its_old_names() -> None:
    report = IngestReport(read=2, indexed=1, dead_lettered=1, warnings=["w"])
    with pytest.warns(DeprecationWarning, match="dead_lettered"):
        assert report.dead == 1
    with pytest.warns(DeprecationWarning, match="warnings"):
        assert report.notices == ["w"]
    plain = json.loads(report.to_json())
    assert (plain["dead_lettered"], plain["dead"]) == (1, 1)
    assert (plain["warnings"], plain["notices"]) == (["w"], ["w"])
    with pytest.warns(DeprecationWarning, match="dead_lettered"):
        state = ProgressState(
            phase="load", read=1, done=1, dead=1, total=None, fraction=None, seconds=1.0,
            documents_per_second=1.0, eta_seconds=None,
        )  # fmt: skip
    assert state.dead_lettered == 1


def test_the_engine_and_an_encoders_type_by_their_old_name() -> None:
    with pytest.warns(DeprecationWarning, match="Capabilities.kind is now engine"):
        assert profile("opensearch").kind == "opensearch"  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="engine"):
        made = Capabilities(kind="opensearch", version=Version(3, 6))  # type: ignore[call-arg]
    assert made == Capabilities(engine="opensearch", version=Version(3, 6))
    with pytest.warns(DeprecationWarning, match="EncoderInfo.kind is now type"):
        info = EncoderInfo(spec="mine", kind="dense", dims=3)  # type: ignore[call-arg]
    assert info.type == "dense"


def test_results_by_the_old_names_of_their_attributes() -> None:
    from esembed import types
    from esembed.types import Hit, LegContribution

    hit = Hit("a", 1.0, contributions=(LegContribution("bm25", 1, 3.0, 0.5),))
    with pytest.warns(DeprecationWarning, match="Hit.shares is now contributions") as seen:
        (old,) = hit.shares  # type: ignore[attr-defined]
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="contribution"):
        assert old.share == 0.5
    with pytest.warns(DeprecationWarning, match="LegShare is now LegContribution"):
        assert types.LegShare is LegContribution  # type: ignore[attr-defined]
