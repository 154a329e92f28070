"""An ingest's report for people who look: its sentence, and its page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from esembed.errors import OptionsError
from esembed.ingest.dead_letters import Reason
from esembed.ingest.options import IngestReport, MissingVectors, VerifyResult
from esembed.ingest.report_page import OUTCOMES, html_page
from esembed.types import ItemError

EVIL = "<script>x</script>\x1b[2J\u202e"


class Seen(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report(**more: Any) -> IngestReport:
    values: dict[str, Any] = {"index": "books", "read": 12, "indexed": 12, "complete": True, "seconds": 3.2}
    return IngestReport(**(values | more))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (report(), "All 12 records are in books: 12 indexed"),
        (report(read=1, indexed=0, unchanged=1), "All 1 record are in books: 1 unchanged"),
        (report(indexed=9, skipped=3), "9 of 12 records are in books: 9 indexed, 3 skipped"),
        (report(indexed=9, deleted=3), "All 12 records are applied to books: 9 indexed, 3 deleted"),
        (
            report(indexed=9, dead_lettered=3, dead_letters=Path("books.dead.jsonl")),
            "3 of 12 records could not get into books; books.dead.jsonl has them with their reasons",
        ),
        (report(read=0, indexed=0), "No records were read for books"),
        (report(indexed=0), "12 records read and nothing written to books"),
        (
            report(complete=False),
            "All 12 records are in books: 12 indexed; the source was not read to its end",
        ),
        (
            report(without_vector={"e": MissingVectors(documents=2)}),
            "All 12 records are in books: 12 indexed; without a vector: 2 in e",
        ),
        (
            report(verified=VerifyResult(same=11, missing_count=1)),
            "All 12 records are in books: 12 indexed; the index differs from the source",
        ),
    ],
)
def test_the_conclusion(found: IngestReport, sentence: str) -> None:
    assert found.conclusion == sentence
    assert found.to_dict()["conclusion"] == sentence
    assert f"<p class=lead><b>{sentence}.</b></p>" in found.html_page()


def test_every_outcome_of_a_record_has_its_part() -> None:
    counts = {name: number for number, name in enumerate(OUTCOMES, 1)}
    found = report(**counts, read=sum(counts.values()))
    assert found.adds_up, "the names are those that sum to read"
    seen = Seen(found.html_page())
    assert {f"{name.replace('_', '-')} {number}" for name, number in counts.items()} <= set(seen.texts)
    assert "records" in seen.texts, "the scale says what it measures"


def test_all_that_a_report_can_hold_is_shown_as_text(tmp_path: Path) -> None:
    found = report(
        index=EVIL,
        indexed=8,
        dead_lettered=4,
        dead_letters=Path(EVIL.replace("/", "")),
        errors=[ItemError(id=EVIL, reason=EVIL, position=EVIL), ItemError(id=None, reason="no id")],
        reasons=[Reason(reason=EVIL, position=EVIL, count=3)],
        without_vector={EVIL: MissingVectors(documents=2, chunks=1, ids=[EVIL])},
        verified=VerifyResult(same=5, missing=(EVIL,), missing_count=1, extra=(EVIL,), extra_count=1,
                              vectors={EVIL: 2}),
        leg_weights={"bm25": 0.4, EVIL: 0.6},
        stage_seconds={"encode": 2.5, "bulk": 1.0, "idle": 0.0},
        tokens=1234, cost_usd=0.00012, warnings=[EVIL],
    )  # fmt: skip
    page = found.html_page()
    seen = Seen(page)
    assert "script" not in seen.tags
    assert not {"\x1b", "\u202e"} & set(page)
    assert page.count("&lt;script&gt;") >= 12
    assert {
        "encode",
        "2.5 s (78%)",
        "seconds at work",
        "1,234",
        "0.00012",
        "share of the score",
    } <= set(seen.texts)
    assert "idle" not in seen.texts

    file = tmp_path / "report.html"
    found.write_html(file)
    found.write_html(str(file))
    assert file.read_text(encoding="utf-8") == page
    # A report that was kept as JSON gives the same page.
    assert html_page(json.loads(found.to_json())) == page
    (tmp_path / "mine.html").write_text("<p>mine")
    with pytest.raises(OptionsError, match="isn't written over"):
        found.write_html(tmp_path / "mine.html")


def test_what_did_not_happen_has_no_section() -> None:
    page = report().html_page()
    for heading in ("Why some", "Without a vector", "Compared", "Warnings", "What each leg", "Figures"):
        assert (heading in page) is (heading == "Figures")


def test_a_later_run_has_the_weights() -> None:
    first, second = report(leg_weights={"a": 1.0}), report(leg_weights={"a": 0.4, "b": 0.6})
    assert first.merge(second).leg_weights == {"a": 0.4, "b": 0.6}
    assert second.merge(report()).leg_weights == {"a": 0.4, "b": 0.6}
