"""The frame of all pages: what comes from outside is text, charts have scales and legends, no other file is
written over."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esembed.errors import OptionsError
from esembed.report_page import (
    Bar,
    Html,
    Part,
    Section,
    axis_ticks,
    bar_chart,
    check_page_path,
    items,
    legend,
    page,
    stacked_bar,
    table,
    write_page,
)

HOSTILE = "<script>alert('x')</script>\x1b[2J\u202e\"&"


class Seen(HTMLParser):
    """Tags and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_all_that_is_not_html_yet_is_escaped_everywhere() -> None:
    parts = [Part(label=HOSTILE, value=2, color=HOSTILE), Part(label="b", value=1, color="#fff")]
    bodies = [
        table([HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], text_columns=2),
        items([HOSTILE]),
        legend([(HOSTILE, HOSTILE)]),
        bar_chart([Bar(label=HOSTILE, value=1, shown=HOSTILE, color=HOSTILE)], axis=HOSTILE, label=HOSTILE),
        stacked_bar(parts, axis=HOSTILE, label=HOSTILE),
    ]
    sections = [Section(heading=HOSTILE, hint=HOSTILE, body=body) for body in bodies]
    text = page(HOSTILE, conclusion=HOSTILE, intro=HOSTILE, more=HOSTILE, sections=sections)
    seen = Seen(text)
    assert "script" not in seen.tags
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&quot;" in text
    assert seen.tags.count("h2") == len(bodies)


def test_what_is_empty_is_left_out() -> None:
    assert (table(["a"], []), items([]), legend([])) == ("", "", "")
    assert bar_chart([], axis="x", label="x") == ""
    assert stacked_bar([Part(label="a", value=0, color="#000")], axis="x", label="x") == ""
    text = page("t", conclusion="It is so", sections=[Section(heading="none", body=Html(""))])
    assert "<h2>" not in text
    assert "<p class=lead><b>It is so.</b></p>" in text
    assert "<b>Is it?</b>" in page("t", conclusion="Is it?", sections=[])


@pytest.mark.parametrize("top", [0.0003, 0.0101, 0.73, 1.0, 7.0, 250.0, 3_000_000.0])
def test_scales_have_round_numbers_up_to_their_end(top: float) -> None:
    ticks = axis_ticks(top)
    assert ticks[0] == 0
    assert 4 <= len(ticks) <= 7
    assert top * 0.75 <= ticks[-1] <= top * (1 + 1e-9)


@pytest.mark.parametrize("top", [1, 2, 7, 12, 250, 3_000_000])
def test_scales_of_counts_have_whole_numbers(top: int) -> None:
    ticks = axis_ticks(top, whole=True)
    assert all(tick.is_integer() for tick in ticks)
    assert 2 <= len(ticks) <= 7
    assert ticks[-1] <= top


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_of_nothing(top: float) -> None:
    assert axis_ticks(top) == [0.0]


def test_charts_say_what_they_measure() -> None:
    bars = [Bar(label="a", value=0.5, shown="0.500", interval=(0.4, 0.6)), Bar(label="b", value=0, shown="0")]
    seen = Seen(bar_chart(bars, axis="nDCG@10, mean", label="of each"))
    assert {"a", "b", "0.500", "nDCG@10, mean", "0.2", "0.6"} <= set(seen.texts)
    stacked = Seen(stacked_bar([Part(label="in", value=3, color="#000")], axis="records", label="x"))
    assert {"in 3", "records"} <= set(stacked.texts)
    assert Seen(bar_chart(bars[1:], axis="s", label="all 0")).tags.count("rect") == 1


def test_only_a_page_of_ours_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    text = page("one", conclusion="x", sections=[])
    write_page(file, text)
    write_page(file, page("two", conclusion="x", sections=[]))
    assert "<title>two</title>" in file.read_text(encoding="utf-8")
    older = "<!doctype html>\n<title>x</title><style>\n:root{color-scheme:light dark;--ink:#1c2430;--soft"
    for known in ("", " \n", older):
        file.write_text(known)
        check_page_path(file)
        write_page(file, text)
    for foreign in ("id,name\n1,x\n", "<!doctype html><p>mine", "\x00\x01"):
        file.write_text(foreign)
        with pytest.raises(OptionsError, match="holds something else than a report"):
            write_page(file, text)
        assert file.read_text() == foreign


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "no" / "such.html", "a\0b.html"):
        with pytest.raises(OptionsError, match=r"^--html: "):
            check_page_path(wrong)
    check_page_path(None)
    check_page_path("report.html")
    assert not Path("report.html").exists()
    check_page_path(os.devnull)
    write_page(os.devnull, Html("x"))
