"""The encoder contract on a real model: canaries alone find what differs; other runtimes raise no alarm."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("openvino")

from safetensors.numpy import load_file, save_file

from esembed.encode.base import RuntimeOptions
from esembed.encode.model_check import compare_contracts, make_contract
from esembed.encode.registry import load
from esembed.encode.transformer.minilm import find_minilm
from esembed.plan.params import EncoderParams

OPENVINO = {"backend": "openvino", "dtype": "float32"}


def contract_of(spec="minilm", params=None, **runtime):
    encoder = load(spec, params or EncoderParams(), RuntimeOptions(**{**OPENVINO, **runtime}))
    try:
        return make_contract(encoder)
    finally:
        encoder.close()


@pytest.fixture(scope="module")
def stored():
    return json.loads(json.dumps(contract_of()))


def edit(name):
    def change(folder, how):
        path = folder / name
        data = json.loads(path.read_text()) if path.is_file() else {}
        how(data)
        path.write_text(json.dumps(data))

    return change


def weights(folder, how):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path)


def scaled(suffix, factor):
    def how(tensors):
        for name in [n for n in tensors if n.endswith(suffix)]:
            tensors[name] = (tensors[name] * factor).astype(np.float32)

    return how


def swapped(data):
    vocabulary = data["model"]["vocab"]
    vocabulary["river"], vocabulary["window"] = vocabulary["window"], vocabulary["river"]


config, tokenizer, pooling = edit("config.json"), edit("tokenizer.json"), edit("1_Pooling/config.json")
options = edit("tokenizer_config.json")
IN_FILES = {
    "activation": (config, lambda c: c.update(hidden_act="relu")),
    "layers": (config, lambda c: c.update(num_hidden_layers=5)),
    "heads": (config, lambda c: c.update(num_attention_heads=6)),
    # in tokenizer.json they would have no effect: BERT's class follows the options, as in transformers
    "casing": (options, lambda o: o.update(do_lower_case=False)),
    "accents": (options, lambda o: o.update(strip_accents=False)),
    "a swapped vocabulary": (tokenizer, swapped),
    "pooling": (
        pooling,
        lambda p: p.update(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False),
    ),
    "fine-tuned weights": (weights, scaled("layer.3.attention.self.query.weight", 1.3)),
    "a lost bias": (weights, scaled("layer.0.output.dense.bias", 0.0)),
    "another embedding": (weights, scaled("token_type_embeddings.weight", 3.0)),
}
IN_PARAMS = {
    "query prompt": EncoderParams(query_prompt="query: "),
    "document prompt": EncoderParams(document_prompt="passage: "),
    "not normalized": EncoderParams(normalize=False),
    "pooled by cls": EncoderParams(pooling="cls"),
    "pooled by max": EncoderParams(pooling="max"),
    "shorter dims": EncoderParams(dims=256),
    "truncated": EncoderParams(max_seq_length=64),
}


def assert_found(stored, other, by_canaries=True):
    assert compare_contracts(stored, other)
    if by_canaries:
        blind = {**other, "declared": stored["declared"]}
        assert any(name.startswith("canaries") for name in compare_contracts(stored, blind))


@pytest.mark.parametrize("way", IN_PARAMS)
def test_other_params_are_found(stored, way):
    assert_found(stored, contract_of(params=IN_PARAMS[way]))


@pytest.mark.parametrize("way", IN_FILES)
def test_other_files_are_found(stored, way, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(find_minilm(), folder)
    change, how = IN_FILES[way]
    change(folder, how)
    assert_found(stored, contract_of(f"hf:{folder}"))


@pytest.mark.parametrize(
    "runtime",
    [
        {"dtype": "bfloat16"},
        {"batch_tokens": 600},
        {"backend": "torch"},
        {"backend": "torch", "dtype": "bfloat16"},
    ],
    ids=["openvino bf16", "other batches", "torch fp32", "torch bf16"],
)
def test_other_runtimes_raise_no_alarm(stored, runtime):
    if runtime.get("backend") == "torch":
        pytest.importorskip("torch")
    other = contract_of(**runtime)
    assert compare_contracts(stored, other) == {}
    assert compare_contracts(other, contract_of(dtype="bfloat16")) == {}


def test_a_copy_in_a_folder_is_the_same_model(stored, tmp_path):
    shutil.copytree(find_minilm(), tmp_path / "copy")
    assert compare_contracts(stored, contract_of(f"hf:{tmp_path / 'copy'}")) == {}
