"""``esembed advise`` as people call it: offline, and on each real engine."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from esembed.cli import main
from esembed.plan import IndexPlan

PLAN = '[dense.e]\nencoder = "precomputed"\ndims = 64\n'


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((640, 64)).astype(np.float32) / np.sqrt(
        1 + np.arange(64, dtype=np.float32) / 8
    )
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "plan.toml", tmp_path / "vectors.npy"


def run(capsys, *words):
    capsys.readouterr()
    code = main(["advise", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_offline_with_a_profile_and_costs(files, tmp_path, capsys):
    code, out, err = run(
        capsys, *files, "--offline", "--profile", "elasticsearch-basic@9.2", "--recall", "0.9",
        "--dims", "32", "--documents", "5000000", "--tokens-per-document", "200", "--tflops", "100",
        "--usd-per-hour", "2.5", "--plot", tmp_path / "plot.svg", "--output", tmp_path / "chosen.toml",
        "--json", "--html", tmp_path / "advice.html",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert {t["dims"] for t in told["trials"]} == {64, 32}
    assert told["conclusion"].startswith(f"Choose {told['chosen']['quantization']}")
    assert told["conclusion"].endswith("disk for 5 million documents")
    page = (tmp_path / "advice.html").read_text(encoding="utf-8")
    assert told["conclusion"] in page
    assert "at 100 TFLOP/s" in page
    assert {t["quantization"] for t in told["trials"] if "9.3" in (t["gap"] or "")} == {"bfloat16"}
    assert told["chosen"]["held_back"] > 0.85
    assert [s["documents"] for s in told["scales"]] == [10**6, 10**7, 10**8]
    (cost,) = told["encoding"]
    assert cost["hours"] == pytest.approx(5e6 * 200 / (100e12 * 0.4 / 22.8e6) / 3600)
    assert cost["usd"] == pytest.approx(cost["hours"] * 2.5)
    assert ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
    chosen = IndexPlan.load_file(tmp_path / "chosen.toml").dense["e"]
    assert chosen.quantization in told["chosen"]["quantization"] or chosen.element_type != "float"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--profile", "elasticsearch-basic@8.14"], "8.15"),
        (["--profile", "solr"], "opensearch-no-native"),
        (["--quantization", "zip"], "int8_hnsw"),
        (["--dims", "100"], "have 64"),
        (["--field", "other"], "other"),
    ],
)
def test_bad_input_is_named(files, capsys, words, part):
    code, _, err = run(capsys, *files, "--offline", *words)
    assert code == 2
    assert part in err


def test_an_impossible_target_ends_with_1_and_says_what_to_do(files, capsys):
    code, out, err = run(capsys, *files, "--offline", "--max-ram-gib", "0.0001")
    assert code == 1
    assert out.startswith("Nothing that was tried keeps recall@10 0.95 within 105 KiB RAM for 1 million")
    assert "--recall" in err


def test_on_a_real_engine(files, capsys, esembed_engine, tmp_path):
    chosen = ["--quantization", "hnsw", "--quantization", "int8_hnsw", "--quantization", "byte"]
    code, out, err = run(
        capsys, *files, "--url", esembed_engine.url, "--recall", "0.9", "--json", *chosen,
        "--plot", tmp_path / "plot.svg",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["engine"].startswith(esembed_engine.engine)
    assert all(t["measured"] is not None for t in told["trials"] if t["gap"] is None and not t["oversample"])
    titles = [e.text for e in ET.parse(tmp_path / "plot.svg").iter() if e.get("font-weight")]
    assert titles == ["RAM", "disk", "latency, ms", "index time, s"]
