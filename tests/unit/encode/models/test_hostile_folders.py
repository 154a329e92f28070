"""Model folders whose files lie: each loads, or ends in an EncoderError, soon and in little memory."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode.base import RuntimeOptions
from esembed.encode.models.folder import read_folder
from esembed.encode.models.sparse_folder import StaticSide
from esembed.encode.models.tensors import TensorFile, read_pickled_tensors
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.models.vocabulary import StaticWeights
from esembed.encode.registry import load
from esembed.errors import EncoderError, EsembedError

pytest.importorskip("openvino")
RUNTIME = RuntimeOptions(backend="openvino", threads=1, local_files_only=True)
ST = "sentence_transformers.models."
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "x"]
FILES: dict[str, Any] = {
    "config.json": {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 8, "max_position_embeddings": 32,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
    },
    "tokenizer.json": {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": True,
                       "handle_chinese_chars": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(TOKENS)}},
    },
    "tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer", "model_max_length": 32, "do_lower_case": True,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "add_eos_token": False, "truncation_side": "right",
        "added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}}, "extra_special_tokens": {},
    },
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{ST}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{ST}Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{ST}Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": f"{ST}Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
    "2_Dense/config.json": {
        "in_features": 8, "out_features": 4, "bias": True, "use_residual": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
    "config_sentence_transformers.json": {"prompts": {"query": "q: "}, "similarity_fn_name": "cosine"},
    "sentence_bert_config.json": {
        "max_seq_length": 16, "do_lower_case": False, "transformer_task": "feature-extraction",
        "processing_kwargs": {"text": {"max_length": 12}, "common": {}}, "modality_config": {"text": {}},
    },
}  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 1, 3, 10**9, 2**31, 2**63, 10**30, -(2**70), 0.0, 1.5, math.nan, math.inf, -1e300, "",
    "x", "0", "../x", "/etc/passwd", "\x00", [], [1], ["a"], [[]], {}, {"a": 1}, [None], {"": {}},
]  # fmt: skip


def tensors() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (8, 8),
        "embeddings.position_embeddings.weight": (32, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
    }
    layer = "encoder.layer.0."
    for name in ("embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (8,)
    for name, rows, columns in (
        *((f"attention.self.{part}", 8, 8) for part in ("query", "key", "value")),
        ("attention.output.dense", 8, 8), ("intermediate.dense", 16, 8), ("output.dense", 8, 16),
    ):  # fmt: skip
        found[f"{layer}{name}.weight"], found[f"{layer}{name}.bias"] = (rows, columns), (rows,)
    return found


def safetensors(path: Path, shapes: dict[str, tuple[int, ...]], changes: dict[str, dict[str, Any]]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        header[name].update(changes.get(name, {}))
        at += size
    head = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(head)) + head + np.full(at // 4, 0.01, "<f4").tobytes())


def folder(root: Path, files: dict[str, Any], **changes: dict[str, Any]) -> Path:
    for name, value in {**FILES, **files}.items():
        path = root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if value is not None:
            path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    safetensors(root / "model.safetensors", tensors(), changes)
    safetensors(root / "2_Dense" / "model.safetensors", {"linear.weight": (4, 8), "linear.bias": (4,)}, {})
    return root


def outcome(spec: str) -> str:
    """``loads``, or what the EncoderError says."""
    began = time.process_time()
    try:
        encoder: Any = load(spec, runtime=RUNTIME)
        for texts in (["hello world", ""], ["x"]):
            encoder.encode_document(texts)
            encoder.encode_query(texts)
        encoder.close()
        said = "loads"
    except EsembedError as error:
        said = str(error)
    assert time.process_time() - began < 20
    return said


WORDS = "embeddings.word_embeddings.weight"


def test_the_folder_that_is_changed_loads(tmp_path: Path) -> None:
    assert outcome(f"hf:{folder(tmp_path, {})}") == "loads"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"num_hidden_layers": -1}, r"config\.json.*num_hidden_layers"),
        ("config.json", {"num_hidden_layers": 10**9}, r"config\.json.*num_hidden_layers"),
        ("config.json", {"num_attention_heads": 0}, r"config\.json.*num_attention_heads"),
        ("config.json", {"num_attention_heads": "2"}, r"config\.json.*num_attention_heads"),
        ("config.json", {"hidden_size": 8.0}, r"config\.json.*hidden_size"),
        ("config.json", {"hidden_size": True}, r"config\.json.*hidden_size"),
        ("config.json", {"layer_norm_eps": math.nan}, r"config\.json.*layer_norm_eps"),
        ("config.json", {"layer_norm_eps": None}, r"config\.json.*layer_norm_eps"),
        ("config.json", {"hidden_act": "x"}, r"hidden_act in config\.json is 'x'"),
        ("config.json", {"hidden_act": None}, r"hidden_act in config\.json is None"),
        ("config.json", {"max_position_embeddings": None}, r"config\.json.*max_position_embeddings"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": 1, "processing_kwargs": {}},
            r"max_seq_length=1 .*sentence_bert_config\.json",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "x"}, r"pooling_mode 'x'.*config\.json"),
        ("2_Dense/config.json", {"activation_function": "x"}, r"2_Dense/config\.json: activation_function x"),
        ("config.json", {"architectures": [5]}, r"config\.json.*architectures"),
        ("config.json", {"hidden_act": "__import__('os')"}, r"config\.json.*hidden_act"),
        ("config.json", {"rope_scaling": "yes"}, r"config\.json.*rope_scaling"),
        ("sentence_bert_config.json", {"max_seq_length": -5}, r"sentence_bert_config\.json.*max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, r"sentence_bert_config\.json.*max_seq_length"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": 5}}, r"sentence_bert_conf.*text"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, r"config_sentence_transf.*prompts"),
        ("config_sentence_transformers.json", {"similarity_fn_name": 5}, "similarity_fn_name"),
    ],
)  # fmt: skip
def test_a_field_that_can_not_be_right_is_named(
    file: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError, match=said):
        load(f"hf:{folder(tmp_path, {file: {**FILES[file], **change}})}", runtime=RUNTIME)


@pytest.mark.parametrize("long", ["x" * 5_000, "\u6771" * 100, "a/" * 50])
def test_paths_that_no_file_system_takes(long: str, tmp_path: Path) -> None:
    assert "modules.json" in outcome(
        f"hf:{folder(tmp_path, {'modules.json': [{**FILES['modules.json'][0], 'path': long}]})}"
    )
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": long}}))
    with pytest.raises(EncoderError, match=r"index\.json"):
        read_folder(tmp_path, modules=()).tensors()


@pytest.mark.parametrize("weight", [1e308, math.inf, math.nan])
def test_a_weight_that_float32_does_not_hold(weight: float, tmp_path: Path) -> None:
    root = folder(tmp_path, {"idf.json": {"hello": 1.5, "world": weight}})
    side = StaticSide(folder=root, weights=root / "idf.json")
    with pytest.raises(EncoderError, match=r"idf\.json is no number that float32 holds"):
        StaticWeights(side, "zzz")


@pytest.mark.parametrize("file", sorted(FILES))
@pytest.mark.parametrize("content", [b"[" * 100_000, b"5", b"", b"\xff\xfe{", b'{"a": ' + b"9" * 5000 + b"}"])
def test_files_that_hold_no_such_thing(file: str, content: bytes, tmp_path: Path) -> None:
    said = outcome(f"hf:{folder(tmp_path, {file: content})}")
    # an object with something unknown in it may be as good as an empty one
    assert file.rpartition("/")[2] in said or content.startswith(b"{")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**32, 2**32], "data_offsets": [0, 0]},
        {"shape": [2**70]},
        {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        {"shape": [0, 2**63], "data_offsets": [0, 0]},
        {"shape": [1] * 5000 + [8, 8]},
        {"shape": [8.9, 8]},
        {"shape": [True, 64]},
        {"shape": [-8, -8]},
        {"data_offsets": [256, 0]},
        {"data_offsets": [2**70, 2**70 + 256]},
        {"data_offsets": [0.0, 256.0]},
        {"dtype": ["F32"]},
        {"dtype": None},
    ],
)
def test_a_header_is_checked_against_the_file(change: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, {}, **{WORDS: change})
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        TensorFile(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", [[64], [4, 2, 8], []])
def test_a_table_of_another_rank(shape: list[int], tmp_path: Path) -> None:
    size = 4 * math.prod(shape)
    folder(tmp_path, {}, **{WORDS: {"shape": shape, "data_offsets": [0, size]}})
    with pytest.raises(EncoderError, match="two dimensions"):
        load(f"hf:{tmp_path}", runtime=RUNTIME)


def test_positions_that_no_weights_account_for() -> None:
    from esembed.encode.backends.openvino_decoder import rotary_tables

    with pytest.raises(EncoderError, match="rotary positions of 1000000000 tokens"):
        rotary_tables(1e6, 64, 10**9)
    assert rotary_tables(1e6, 128, 32_768)[0].shape == (32_768, 128)


@pytest.mark.parametrize(
    ("normalizer", "grows"),
    [
        ({"type": "Replace", "pattern": {"String": ""}, "content": "x" * 100_000}, True),
        ({"type": "Replace", "pattern": {"Regex": "x?"}, "content": "x" * 100_000}, True),
        ({"type": "Prepend", "prepend": "▁" * 100_000}, True),
        ({"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 64}] * 6}, True),
        ({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 64}]}] * 6}, True),
        ({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}]}, False),
    ],
)  # fmt: skip
def test_a_normalizer_that_makes_texts_long(normalizer: Any, grows: bool, tmp_path: Path) -> None:
    tokenizer = {**FILES["tokenizer.json"], "normalizer": normalizer}
    for kind in ("BertTokenizer", "NobodysTokenizer", "PreTrainedTokenizerFast"):
        options = {**FILES["tokenizer_config.json"], "tokenizer_class": kind}
        root = folder(tmp_path / kind, {"tokenizer.json": tokenizer, "tokenizer_config.json": options})
        assert ("times as long" in outcome(f"hf:{root}")) is grows


# -- what nobody thought of ------------------------------------------------------------------------


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*at, key))


def _changed(value: Any, at: tuple[Any, ...], new: Any, *, delete: bool) -> Any:
    if not at:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if delete:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


@pytest.mark.parametrize("seed", range(120))
def test_random_changes(seed: int, tmp_path: Path) -> None:
    """Any other exception, a hang or a crash fails the test; two minutes of this found nothing more."""
    rng = random.Random(seed)
    files = {name: value for name, value in FILES.items() if rng.random() < 0.9 or "/" not in name}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(files))
        at = rng.choice(list(_places(files[name])))
        files[name] = _changed(files[name], at, rng.choice(VALUES), delete=rng.random() < 0.1)
    header = {}
    if rng.random() < 0.25:
        key = rng.choice(("dtype", "shape", "data_offsets"))
        header[rng.choice(sorted(tensors()))] = {key: rng.choice([*VALUES, [8, 8], [0, 256], [2**64, 1]])}
    root = folder(tmp_path, {name: files.get(name, b"") for name in FILES if name in files}, **header)
    outcome(f"{rng.choice(('hf', 'hf', 'hf', 'splade', 'static'))}:{root}")


@pytest.mark.parametrize(
    ("single", "said"),
    [
        # tokenizers panics at a token that the template doesn't define
        ([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], ""),
        ([{"Sequence": {"id": "A", "type_id": 0}}] * 2, "post_processor in "),
        ([], "post_processor in "),
    ],
)
def test_a_post_processor_that_is_none(single: Any, said: str, tmp_path: Path) -> None:
    steps = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}
    options = {**FILES["tokenizer_config.json"], "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": {**FILES["tokenizer.json"], "post_processor": steps}}
    files |= {"tokenizer_config.json": options, "config.json": {"model_type": "modernbert"}}
    with pytest.raises(EncoderError, match=rf"{said}tokenizer\.json"):
        TextTokenizer(read_folder(folder(tmp_path, files)), 16)


@pytest.mark.parametrize("place", [999, 2**31])
def test_ends_that_are_no_token(place: int, tmp_path: Path) -> None:
    """No list of tokens has them, so that nothing compares them with the model's rows."""
    ends = {"type": "BertProcessing", "sep": ["[SEP]", place], "cls": ["[CLS]", 2]}
    options = {**FILES["tokenizer_config.json"], "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": {**FILES["tokenizer.json"], "post_processor": ends}}
    files |= {"tokenizer_config.json": options, "config.json": {"model_type": "modernbert"}}
    with pytest.raises(EncoderError, match=rf"the id {place} .*no token of the vocabulary"):
        TextTokenizer(read_folder(folder(tmp_path, files)), 16)


@pytest.mark.parametrize("place", [1 << 24, 2**31, 2**32 - 1])
def test_a_token_id_beyond_any_vocabulary(place: int, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(FILES["tokenizer.json"])
    tokenizer["model"]["vocab"]["x"] = place
    root = folder(tmp_path, {"tokenizer.json": tokenizer})
    with pytest.raises(EncoderError, match=r"tokenizer\.json"):
        load(f"hf:{root}", runtime=RUNTIME)


@pytest.mark.parametrize("long", ["x" * 100_000, "[" * 5000, "\x1b[2J" * 3000])
@pytest.mark.parametrize("file", sorted(FILES))
def test_what_a_file_holds_is_not_quoted_whole(file: str, long: str, tmp_path: Path) -> None:
    def longer(value: Any, at: tuple[Any, ...]) -> Any:
        return _changed(FILES[file], at, long, delete=False)

    for number, at in enumerate(_places(FILES[file])):
        assert len(outcome(f"hf:{folder(tmp_path / str(number), {file: longer(FILES[file], at)})}")) < 2_000


def test_a_file_that_pads_and_cuts_has_no_other_ends(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2's does: what its class puts around a text stood in the contract as a change."""
    ends = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    padding = {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    cut = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    plain = {**FILES["tokenizer.json"], "post_processor": ends}
    made = []
    for number, changes in enumerate(({}, {"padding": padding}, {"truncation": cut, "padding": padding})):
        root = folder(tmp_path / str(number), {"tokenizer.json": {**plain, **changes}})
        tokenizer = TextTokenizer(read_folder(root), 16)
        made.append(([ids.tolist() for ids in tokenizer(["hello world x"]).ids], dict(tokenizer.applied)))
    assert made[0] == made[1] == made[2]
    assert "ends" not in made[0][1]


@pytest.mark.parametrize("part", ["archive/data.pkl", "archive/data/0", "archive/byteorder"])
def test_parts_of_a_pickle_that_are_longer_than_the_file(part: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse_linear.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive/data.pkl", "archive/data/0", "archive/byteorder"):
            archive.writestr(name, b"little")
    data = bytearray(path.read_bytes())
    entry = data.index(part.encode(), data.index(b"PK\x01\x02")) - 46  # of the list of parts
    data[entry + 20 : entry + 24] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    tracemalloc.start()
    try:
        with pytest.raises(EncoderError, match=r"its parts are longer than the file"):
            read_pickled_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
