"""Recall: options, the exact neighbors that a scan keeps, the history file and what others write into it."""

import json
from pathlib import Path

import numpy as np
import pytest

from esembed.errors import OptionsError
from esembed.evaluate.recall import RecallOptions, RecallReport, RecallRow, _Comparison, _Nearest, _right
from esembed.evaluate.recall_history import MARK, RecallHistory
from esembed.evaluate.recall_report import html_page, notes, rows
from esembed.evaluate.significance import Interval
from esembed.plan import DenseField


def report(at: str = "2026-11-29T10:00:00+00:00", recall: float = 0.9, name: str = "books") -> RecallReport:
    row = RecallRow(
        field="v",
        filter="lang=<b>de</b>\x1b[2J",
        matching=10,
        queries=5,
        recall=Interval(recall, recall - 0.1, 1.0000000000000002),
        exhaustive=Interval(0.95, 0.9, 1.0),
        codes=Interval(0.7, 0.6, 0.8),
    )
    return RecallReport(
        index=name, concrete_index=f"{name}-v1", uuid="u", engine="elasticsearch 9.5.3", at=at, k=10,
        asked="vectors of documents", exact="scan", documents=100, deleted=3, segments=4, rows=(row,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"k": 0}, "k:"),
        ({"k": True}, "k:"),
        ({"k": 1.5}, "k:"),
        ({"sample": 0}, "sample:"),
        ({"sample": 10**9}, "sample:"),
        ({"sampled_filters": 4}, "sampled_filters:"),
        ({"num_candidates": 10}, "num_candidates:"),
        ({"num_candidates": 10_001}, "num_candidates:"),
        ({"exact": "both"}, "exact:"),
        ({"fields": "v"}, "fields:"),
    ],
)
def test_options_out_of_range(wrong, named):
    with pytest.raises(OptionsError, match=named):
        RecallOptions(**wrong)


@pytest.mark.parametrize("seed", range(20))
def test_a_scan_keeps_the_best_documents_however_their_chunks_are_spread(seed):
    rng = np.random.default_rng(seed)
    owners = [f"d{i}" for i in rng.integers(0, 40, 300)]
    scores = rng.standard_normal((5, 300)).round(1)  # with ties
    chosen = rng.random(300) < 0.7
    kept = _Nearest(5, 12)
    for start in range(0, 300, 37):
        part = slice(start, start + 37)
        kept.add(owners[part], scores[:, part], chosen[part])
    for row, found in enumerate(kept.lists()):
        best: dict[str, float] = {}
        for owner, score, taken in zip(owners, scores[row], chosen, strict=True):
            if taken:
                best[owner] = max(best.get(owner, -np.inf), score)
        assert [score for _, score in found] == sorted(best.values(), reverse=True)[:12]
        assert all(best[owner] == score for owner, score in found)


def test_documents_at_the_same_distance_as_the_kth_are_as_right():
    near = [("a", 1.0), ("self", 1.0), ("b", 0.5), ("c", 0.5 - 1e-9), ("d", 0.4)]
    assert _right(near, "self", 2) == ({"a", "b", "c"}, 2)
    assert _right(near, None, 10) == ({"a", "self", "b", "c", "d"}, 5)
    assert _right([("self", 1.0)], "self", 2) == (frozenset(), 0)
    # Squared distances far from 0 and scores near it: the tolerance is a share.
    assert _right([("a", -1e-8), ("b", -2e-8)], None, 1) == ({"a"}, 1)


@pytest.mark.parametrize("similarity", ["cosine", "dot_product", "l2_norm", "max_inner_product"])
def test_vectors_are_compared_in_the_fields_own_measure(similarity):
    rng = np.random.default_rng(0)
    vectors, query = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal(8)
    scores = _Comparison(DenseField(dims=8, similarity=similarity), [query.tolist()])(vectors)[0]
    query32 = query.astype(np.float32)
    if similarity == "l2_norm":
        expected = -np.linalg.norm(vectors - query32, axis=1)
    else:
        expected = vectors @ query32
        if similarity == "cosine":
            expected = expected / np.linalg.norm(vectors, axis=1)
    assert (np.argsort(-scores) == np.argsort(-expected)).all()


def test_bits_are_compared_by_hamming_distance():
    rng = np.random.default_rng(0)
    vectors, query = rng.integers(-128, 128, (50, 8)), rng.integers(-128, 128, 8)
    field = DenseField(dims=64, element_type="bit", similarity="l2_norm", quantization="hnsw")
    scores = _Comparison(field, [query.tolist()])(vectors.astype(np.float32))[0]
    bits = np.unpackbits((vectors ^ query).astype(np.int8).view(np.uint8), axis=1).sum(1).astype(int)
    assert (scores == 64 - 2 * bits).all()


def test_a_history_is_begun_and_gone_on_with(tmp_path: Path):
    path = tmp_path / "recall.jsonl"
    history = RecallHistory.open(path)
    assert not path.exists()
    history.append(report())
    with path.open("ab") as file:
        file.write(b'{"at": "2026-11-29T10')  # a run that was killed while it wrote
    again = RecallHistory.open(path)
    assert (len(again.past), again.unreadable) == (1, 1)
    later = report("2026-11-30T10:00:00+00:00", 0.8)
    assert again.before(later) == history.past[0]
    assert again.before(report("2026-11-28T10:00:00+00:00")) is None
    assert again.before(report("2026-11-30T10:00:00+00:00", name="films")) is None
    again.append(later)
    last = RecallHistory.open(path)
    assert [one.recall_of("v", report().rows[0].filter) for one in last.past] == [0.9, 0.8]
    assert last.unreadable == 1
    assert path.read_bytes().count(MARK.encode()) == 1


HEAD = json.dumps({MARK: 1})


def _line(**changes):
    import msgspec

    from esembed.evaluate.recall_history import PastRecall

    return json.dumps({**msgspec.to_builtins(PastRecall.of(report())), **changes})


@pytest.mark.parametrize(
    "line",
    [
        "[]", "null", "1e999", "\x00", '"' + "a" * 300_000 + '"', "[" * 100_000,
        _line(at="yesterday"), _line(at="2026-11-29T10:00:00+00:00\n\x1b[2J"), _line(k=-1), _line(k=1e300),
        _line(index="a" * 3_000), _line(rows=[{}]), _line(rows=None), _line(documents="many"),
        _line(rows=[{**json.loads(_line())["rows"][0], "recall": 2}]),
        _line(rows=[{**json.loads(_line())["rows"][0], "recall": None}]),
    ],
)  # fmt: skip
def test_lines_of_others_are_counted_and_left_out(tmp_path: Path, line: str):
    path = tmp_path / "recall.jsonl"
    path.write_text(f"{HEAD}\n{line.replace(chr(10), ' ')}\n{_line()}\n")
    history = RecallHistory.open(path)
    assert (len(history.past), history.unreadable) == (1, 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"notes\n", "no recall history"),
        (b"\xff\xfe", "no recall history"),
        (b"\n" + HEAD.encode(), "no recall history"),
        (json.dumps({MARK: 2}).encode(), "version 2"),
        (json.dumps({MARK: "1"}).encode(), "no recall history"),
        (json.dumps({MARK: 1, "more": 1}).encode(), "no recall history"),
        (b"[" * 100_000, "no recall history"),
    ],
)
def test_other_files_are_never_written_to(tmp_path: Path, content: bytes, why: str):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(OptionsError, match=why):
        RecallHistory.open(path)
    assert path.read_bytes() == content


def test_places_where_no_history_can_be(tmp_path: Path):
    for path in (tmp_path, tmp_path / "no" / "file", Path("/dev/null")):
        with pytest.raises(OptionsError, match="history"):
            RecallHistory.open(path)


def test_the_page_shows_texts_as_texts(tmp_path: Path):
    history = RecallHistory.open(tmp_path / "h")
    history.append(report("2026-11-28T10:00:00+00:00", 0.97))
    history.append(report())
    shown = html_page(report(), history)
    assert "<b>de</b>" not in shown
    assert "\x1b" not in shown
    assert "0.970" in shown
    assert "2026-11-28" in shown
    before = history.before(report())
    (cells,) = rows(report(), before)
    assert cells[-1] == "0.970"
    assert "4 segments (before, 2026-11-28" in notes(report(), before)[1]
    assert report().conclusion == (
        "recall@10 is 0.900 (0.800–1.000) in v, lang=<b>de</b>\x1b[2J: the graph loses 0.050, "
        "quantization 0.050"
    )
