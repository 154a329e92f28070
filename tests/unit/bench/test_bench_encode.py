"""The encoder bench runs end to end on a handful of texts, and its arithmetic is right."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esembed.bench.encode import app, default_contenders, measure
from esembed.bench.encode_run import Contender, run_bench
from esembed.bench.encode_shapes import flops_per_token
from esembed.bench.encode_texts import mixed_texts
from esembed.encode.backends import cpu
from esembed.errors import RecordError
from esembed.evaluate.collection import DatasetError

pytest.importorskip("openvino")


def test_flops_of_minilm() -> None:
    config = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    assert flops_per_token(config, 0) == pytest.approx(21.2e6, rel=0.01)
    assert flops_per_token(config, 100) == pytest.approx(21.2e6 + 921_600, rel=0.01)
    assert flops_per_token({**config, "model_type": "t5"}, 0) is None
    head = flops_per_token({**config, "vocab_size": 30_522}, 0, masked_lm=True)
    assert head == pytest.approx(21.2e6 + 2 * 384 * (384 + 30_522), rel=0.01)
    decoder = {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "head_dim": 128}
    decoder |= {"num_attention_heads": 16, "num_key_value_heads": 8}
    flops = flops_per_token({**decoder, "model_type": "qwen3"}, 0)
    assert flops == pytest.approx(2 * 440e6, rel=0.01)  # 596 million weights, 155 of them word embeddings


def test_the_corpus_has_mixed_lengths() -> None:
    texts = mixed_texts(80)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) < 15
    assert max(lengths) > 150
    assert texts == mixed_texts(80)


def test_a_corpus_of_ones_own(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\nplain two\n\n')
    assert mixed_texts(5, source=source) == ["one", "plain two"]
    source.write_text("\n")
    with pytest.raises(RecordError, match="holds no texts"):
        mixed_texts(5, source=source)


BAD_LINES = {
    "cut": b'{"text": "one',
    "deep": b'{"text": ' + b"[" * 100_000,
    "a number": b'{"text": 7}',
    "a list": b'{"text": ["one"]}',
    "many digits": b'{"text": "one", "n": ' + b"9" * 5000 + b"}",
    "half a pair": b'{"text": "\\ud800"}',
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_of_a_corpus_is_an_error_that_names_it(what: str, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b'{"text": "one"}\n' + BAD_LINES[what] + b"\n")
    with pytest.raises(RecordError) as caught:
        mixed_texts(5, source=source)
    assert caught.value.position == "a.jsonl:2"


def test_a_corpus_that_is_no_text_or_no_file_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    with pytest.raises(DatasetError, match=r"can't read a\.jsonl"):
        mixed_texts(5, source=source)
    source.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DatasetError, match="not UTF-8"):
        mixed_texts(5, source=source)


@pytest.mark.parametrize(
    "prints", ["import", "[1]", '"x"', "[" * 100_000, '{"a": NaN}', "\xff", ""], ids=range(7)
)
def test_an_interpreter_that_answers_anything_is_absent_with_a_reason(prints: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    (tmp_path / "answer").write_text(prints + "\n" if prints else "", encoding="latin-1")
    python.write_text(f"#!/bin/sh\nread line\ncat {tmp_path}/answer\n")
    python.chmod(0o755)
    contender = Contender(name="odd", kind="st", backend="torch", python=str(python))
    with pytest.raises(RuntimeError, match=r"odd: (what it answered is no JSON object|the process ended)"):
        run_bench([contender], ["a"], ["b"], spec="minilm", model="m", tokens=1, max_seq_length=8, starts=1)


def test_an_interpreter_that_is_not_there_is_absent_with_a_reason() -> None:
    contender = Contender(name="gone", kind="st", backend="torch", python="/nowhere/python")
    with pytest.raises(RuntimeError, match="gone: can't run /nowhere/python: No such file"):
        run_bench([contender], ["a"], ["b"], spec="minilm", model="m", tokens=1, max_seq_length=8, starts=1)


def test_a_run_with_an_absent_peer() -> None:
    contenders = [
        Contender(name="a", kind="ours", backend="openvino", dtype="float32"),
        Contender(name="b", kind="ours", backend="openvino", dtype="float32"),
        Contender(name="gone", kind="ours", backend="nothing", dtype="float32"),
    ]
    result = measure(
        "minilm",
        texts=4,
        queries=4,
        rounds=2,
        contenders=contenders,
        max_seq_length=32,
        threads=1,
        usd_per_hour=3.6,
        starts=1,
        gemm_seconds=0.01,
    )
    assert [row.name for row in result.rows] == ["a", "b"]
    assert list(result.absent) == ["gone"]
    first, second = result.rows
    assert first.ratio is None
    assert second.ratio == pytest.approx(
        statistics.median(b / a for a, b in zip(first.rounds, second.rounds, strict=True))
    )
    assert second.cosine_min == pytest.approx(1.0, abs=1e-6)
    assert first.usd_per_million_tokens == pytest.approx(1000 / first.tokens_per_second)
    assert first.gemm_share is not None
    assert 0 < first.gemm_share < 2
    assert first.peak_bytes > 50e6
    assert first.tokens_per_cpu_second > 0
    assert set(result.gemm_flops) >= {"float32"}


def test_contenders_are_what_the_cpu_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esembed.bench.encode.has_bfloat16", lambda: False)
    monkeypatch.setattr("esembed.bench.encode.accelerator_present", lambda: False)
    assert not [one for one in default_contenders() if one.dtype == "bfloat16"]
    assert [one.dtype for one in default_contenders(ours=["torch-bfloat16"])][-1] == "bfloat16"
    on_gpu = [one.name for one in default_contenders(device="cuda") if one.dtype == "bfloat16"]
    assert on_gpu == ["ST bf16", "esembed torch bfloat16"]


@pytest.mark.parametrize(
    ("flags", "dtype", "told"),
    [
        ({"avx2", "avx512f"}, "bfloat16", True),
        ({"avx512_bf16"}, "bfloat16", False),
        ({"amx_bf16", "amx_tile"}, "bfloat16", False),
        ({"avx512f"}, "float16", True),
        ({"avx2"}, "float32", False),
        ({"avx2"}, "auto", False),
        ({"asimd", "bf16"}, "bfloat16", False),
        ({"asimd", "fphp"}, "bfloat16", True),
        ({"asimd", "fphp"}, "float16", False),
        (set(), "bfloat16", False),  # not Linux: unknown isn't absent
    ],
)
def test_a_dtype_that_the_cpu_only_emulates(
    flags: set[str], dtype: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esembed.encode.backends.cpu._flags", lambda: flags)
    assert (cpu.emulated(dtype) is not None) is told


def test_options_and_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esembed.bench.encode.has_bfloat16", lambda: True)
    names = [one.name for one in default_contenders(ours=["openvino-float32"])]
    assert names == ["ST default", "ST bf16", "ST openvino", "ST onnx", "esembed openvino float32"]
    assert {one.python for one in default_contenders("elsewhere") if one.kind == "st"} == {"elsewhere"}
    assert {one.python for one in default_contenders("elsewhere") if one.kind == "ours"} == {sys.executable}
    asked = CliRunner().invoke(app, ["--help"])
    assert asked.exit_code == 0
    assert json.dumps("minilm")[1:-1] in asked.output
