"""Folders whose weights are elsewhere, in part or in another form: each is right, or says what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_hostile_folders import FILES, RUNTIME, WORDS, folder, outcome, safetensors, tensors

from esembed.encode.registry import load
from esembed.errors import EncoderError

FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
INDEX = "model.safetensors.index.json"
Shapes = dict[str, tuple[int, ...]]


def sharded(root: Path, change: Callable[[Shapes, Shapes, dict[str, str]], None] | None = None) -> Path:
    """The small model in two shards. *change* is given both and the index's map."""
    folder(root, {})
    (root / "model.safetensors").unlink()
    shapes = tensors()
    halves = [dict(list(shapes.items())[:8]), dict(list(shapes.items())[8:])]
    places = {**dict.fromkeys(halves[0], FIRST), **dict.fromkeys(halves[1], SECOND)}
    if change is not None:
        change(halves[0], halves[1], places)
    for name, half in zip((FIRST, SECOND), halves, strict=True):
        safetensors(root / name, half, {})
    (root / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return root


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole: Any = load(f"hf:{folder(tmp_path / 'whole', {})}", runtime=RUNTIME)
    parts: Any = load(f"hf:{sharded(tmp_path / 'parts')}", runtime=RUNTIME)
    assert (whole.encode_document(["hello"]) == parts.encode_document(["hello"])).all()
    assert whole.info.weights_hash == parts.info.weights_hash
    for one in (whole, parts):
        one.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one, two, places: places.update({WORDS: "../other.safetensors"}), rf"{INDEX}.*other"),
        (lambda one, two, places: places.update({WORDS: "/etc/passwd"}), rf"{INDEX}.*passwd"),
        (lambda one, two, places: places.update({WORDS: "absent.safetensors"}), rf"{INDEX}.*absent"),
        (lambda one, two, places: places.update({WORDS: ""}), INDEX),
        (lambda one, two, places: places.update({WORDS: SECOND}), rf"{INDEX}.*{WORDS}.*{SECOND}"),
        (lambda one, two, places: places.update({"nobody.weight": FIRST}), rf"{INDEX}.*nobody"),
        (lambda one, two, places: two.update({WORDS: one[WORDS]}), rf"{WORDS}.*{FIRST} and in {SECOND}"),
        (lambda one, two, places: places.clear(), "safetensors"),
    ],
)
def test_shards_that_are_none(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=said):
        load(f"hf:{sharded(tmp_path / 'm', change)}", runtime=RUNTIME)


def test_shards_without_an_index_or_a_shard(tmp_path: Path) -> None:
    for number, missing in enumerate((INDEX, FIRST, SECOND)):
        root = sharded(tmp_path / str(number))
        (root / missing).unlink()
        with pytest.raises(EncoderError, match=missing):
            load(f"hf:{root}", runtime=RUNTIME)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_pointers_of_git_lfs(file: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "m", {})
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    (root / file).write_text(pointer)
    with pytest.raises(EncoderError, match=rf"{file}.*git lfs pull"):
        load(f"hf:{root}", runtime=RUNTIME)


@pytest.mark.parametrize(
    "stated",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "version": "gemm"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {"quant_method": "fp8"},
        "gptq",
        ["awq"],
        True,
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantized_checkpoints(stated: Any, key: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "m", {"config.json": {**FILES["config.json"], key: stated}})
    with pytest.raises(EncoderError, match=rf"quantized.*{key} in config\.json.*dequantize"):
        load(f"hf:{root}", runtime=RUNTIME)


@pytest.mark.parametrize("stated", [{}, None, False])
def test_a_model_that_only_has_a_place_for_it(stated: Any, tmp_path: Path) -> None:
    config = {**FILES["config.json"], "quantization_config": stated}
    assert outcome(f"hf:{folder(tmp_path / 'm', {'config.json': config})}") == "loads"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.onnx", "ONNX"), ("onnx/model.onnx", "ONNX"), ("m-q4_0.gguf", "GGUF"),
        ("openvino/openvino_model.xml", "OpenVINO"), ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"), ("pytorch_model.bin", "pickled"), ("x.pth", "pickled"),
        ("x.ckpt", "pickled"), ("pytorch_model-00001-of-00002.bin", "pickled"),
        ("adapter_config.json", "merge_and_unload"),
    ],
)  # fmt: skip
def test_weights_of_another_form(file: str, said: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "m", {})
    (root / "model.safetensors").unlink()
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a" * 5000}))
    said_here = outcome(f"hf:{root}")
    assert said in said_here
    assert len(said_here) < 1500
    # without anything else in it, too, whichever family reads it
    alone = tmp_path / "alone"
    (alone / file).parent.mkdir(parents=True)
    (alone / file).write_text("{}")
    for family in ("hf", "splade", "static"):
        found = outcome(f"{family}:{alone}")
        assert (
            said in found or (said == "pickled" and "config.json" in found) or "no model.safetensors" in found
        )
