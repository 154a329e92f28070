"""Dense encoders against sentence-transformers, on MiniLM and on small random models of each family.

All oracle tests are in this one module, because importing the oracle takes ten seconds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("openvino")

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from esembed.encode.base import RuntimeOptions
from esembed.encode.registry import load
from esembed.encode.transformer.minilm import find_minilm
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams

WORDS = [
    "a",
    "the",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "house",
    "tree",
    "river",
    "mountain",
    "query",
    "passage",
    "represent",
    "this",
    "sentence",
    "for",
    "searching",
    "relevant",
    "passages",
    "instruct",
    "given",
    "web",
    "search",
    "retrieve",
    "that",
    "answer",
    "run",
    "runs",
    "walked",
    "blue",
    "green",
    "red",
    "water",
    "split",
    "path",
    "into",
    "folder",
    "and",
    "file",
    "name",
    "return",
    "value",
    "of",
    "function",
    "object",
    "list",
    "string",
    "number",
    "time",
    "error",
]
TEXTS = [
    "the cat sat on the mat",
    "",
    "river",
    "split a path into folder and file name " * 3,
    "Return the value of a function, or an ERROR: unknownword! ünïcödé 東京",
    "mountain water " * 400,
    "a",
    *[" ".join(np.random.default_rng(i).choice(WORDS, 3 + 5 * i)) for i in range(12)],
]
DECLARED = ("spec", "dims", "weights_hash", "tokenizer_hash", "pooling", "normalize", "max_seq_length")


def _tokenizer(kind: str) -> Any:
    special = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
    }
    special["qwen"] = ["<unk>", "<|endoftext|>"]
    names = special[kind]
    letters = [chr(c) for c in range(97, 123)]
    words = dict.fromkeys(
        [*names, *WORDS, *letters, *(f"##{c}" for c in letters)]
    )  # each once: no gap in ids
    ids = {word: i for i, word in enumerate(words)}
    unknown = "[UNK]" if kind == "bert" else "<unk>"
    raw = Tokenizer(models.WordPiece(ids, unk_token=unknown))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>"), "qwen": ("", "<|endoftext|>")}[
        kind
    ]
    template = f"{first} $A {last}".strip()
    raw.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, ids[t]) for t in (first, last) if t]
    )
    raw.add_special_tokens(names)
    options: dict[str, Any] = {"unk_token": unknown, "model_max_length": 128}
    options |= {
        "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"},
        "roberta": {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"},
        "qwen": {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "padding_side": "left"},
    }[kind]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **options)


def _model(kind: str, vocabulary: int, width: int = 48, spread: float = 0.3) -> Any:
    torch.manual_seed(7)
    small = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 2 * width, "initializer_range": spread}
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**small, max_position_embeddings=128))
    if kind == "xlm-roberta":
        config = transformers.XLMRobertaConfig(
            **small,
            max_position_embeddings=130,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            type_vocab_size=1,
        )
        return transformers.XLMRobertaModel(config)
    if kind == "mpnet":
        return transformers.MPNetModel(
            transformers.MPNetConfig(**small, max_position_embeddings=130, pad_token_id=1)
        )
    if kind == "t5":
        return transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=vocabulary, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4
            )
        )
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=vocabulary, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=128
        )
        return transformers.DistilBertModel(config)
    if kind == "modernbert":
        config = transformers.ModernBertConfig(
            **small, max_position_embeddings=128, pad_token_id=0, cls_token_id=2, sep_token_id=3,
            bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        return transformers.ModernBertModel(config)
    if kind in ("llama", "mistral", "qwen2"):
        name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[kind]
        config = getattr(transformers, f"{name}Config")(
            **small, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=1, bos_token_id=1,
            pad_token_id=None,
        )  # fmt: skip
        return getattr(transformers, f"{name}Model")(config)
    config = transformers.Qwen3Config(
        **small, num_key_value_heads=2, head_dim=width // 4, max_position_embeddings=256,
        tie_word_embeddings=True, eos_token_id=1, pad_token_id=None, bos_token_id=1,
    )  # fmt: skip
    return transformers.Qwen3Model(config)


TOKENIZERS = {
    "bert": "bert",
    "xlm-roberta": "roberta",
    "distilbert": "bert",
    "modernbert": "bert",
    "qwen3": "qwen",
    "llama": "qwen",
    "mistral": "qwen",
    "qwen2": "qwen",
    "mpnet": "roberta",
    "t5": "qwen",
}
ONLY_TORCH = ("t5",)
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a sentence-transformers folder with random weights."""
    plain: dict[str, Path] = {}

    def build(
        kind: str,
        pooling: str | tuple[str, ...] = "mean",
        *,
        dense: dict[str, Any] | None = None,
        normalize: bool = False,
        prompts: dict[str, str] | None = None,
        include_prompt: bool = True,
    ) -> Path:
        if kind not in plain:
            plain[kind] = tmp_path_factory.mktemp(f"plain-{kind}")
            tokenizer = _tokenizer(TOKENIZERS[kind])
            tokenizer.save_pretrained(plain[kind])
            _model(kind, len(tokenizer)).save_pretrained(plain[kind])
        modules: list[Any] = [Transformer(str(plain[kind]))]
        modules.append(Pooling(48, pooling, include_prompt=include_prompt))
        if dense is not None:
            torch.manual_seed(11)
            width = 48 * (1 if isinstance(pooling, str) else len(pooling))
            modules.append(Dense(width, 24, **dense))
        if normalize:
            modules.append(Normalize())
        folder = tmp_path_factory.mktemp(f"st-{kind}")
        SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder))
        return folder

    return build


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Loads an encoder and closes it after the test."""
    encoders: list[Any] = []

    def load_one(folder: Path | str, backend: str, dtype: str = "float32", **params: Any) -> Any:
        spec = folder if folder == "minilm" else f"hf:{folder}"
        runtime = RuntimeOptions(backend=backend, dtype=dtype, device="cpu", threads=2)  # type: ignore[arg-type]
        encoders.append(load(str(spec), EncoderParams(**params), runtime))
        return encoders[-1]

    yield load_one
    for encoder in encoders:
        encoder.close()


def cosines(a: Any, b: Any) -> Any:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def oracle(folder: Path | str, texts: list[str], side: str = "document", **kwargs: Any) -> Any:
    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if side == "query" else model.encode_document
    return encode(texts, **kwargs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_minilm(backend: str, dtype: str, opened: Callable[..., Any]) -> None:
    encoder = opened("minilm", backend, dtype)
    mine = encoder.encode_document(TEXTS)
    reference = oracle(find_minilm(), TEXTS)
    assert mine.dtype == np.float32
    assert cosines(mine, reference).min() >= (0.9999 if dtype == "float32" else 0.999)
    if dtype == "float32":
        assert np.abs(mine - reference).max() < 1e-4
    assert encoder.info.max_seq_length == 256
    assert encoder.stats.truncated == 1


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_each_pooling(
    pooling: str, backend: str, make: Callable[..., Path], opened: Callable[..., Any]
) -> None:
    folder = make("bert", pooling)
    encoder = opened(folder, backend)
    reference = oracle(folder, TEXTS)
    mine = encoder.encode_document(TEXTS)
    assert np.abs(mine - reference).max() < 1e-4 * np.abs(reference).max()
    assert cosines(mine, reference).min() >= 0.9999


@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize("kind", ["xlm-roberta", "distilbert", "mpnet"])
def test_other_shapes(kind: str, backend: str, make: Callable[..., Path], opened: Callable[..., Any]) -> None:
    folder = make(kind, normalize=True)
    assert cosines(opened(folder, backend).encode_document(TEXTS), oracle(folder, TEXTS)).min() >= 0.9999


@pytest.mark.parametrize(
    ("kind", "backend"),
    [(kind, b) for kind in ("modernbert", *DECODERS) for b in ("openvino", "torch")]
    + [(kind, "auto") for kind in ONLY_TORCH],
)
def test_rotary_shapes_and_those_that_only_torch_builds(
    kind: str, backend: str, make: Callable[..., Path], opened: Callable[..., Any]
) -> None:
    prompts = {"query": "instruct: given a web search query, retrieve relevant passages\nquery:"}
    folder = make(kind, "lasttoken" if kind in DECODERS else "cls", normalize=True, prompts=prompts)
    encoder = opened(folder, backend)
    assert encoder.info.runtime["backend"] == ("torch" if backend == "auto" else backend)
    assert encoder.info.runtime.get("attention", "sdpa") in ("sdpa", "eager")
    assert cosines(encoder.encode_document(TEXTS), oracle(folder, TEXTS)).min() >= 0.9999
    queries = [text for text in TEXTS if len(text) < 1000]
    assert cosines(encoder.encode_query(queries), oracle(folder, queries, "query")).min() >= 0.9999
    plain, prompted = encoder.encode_document(queries), encoder.encode_query(queries)
    assert cosines(plain, prompted).min() < 0.999


@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize(
    "dense",
    [
        {},
        {"activation_function": torch.nn.Identity(), "bias": False},
        {"activation_function": torch.nn.GELU(), "use_residual": True},
    ],
    ids=["tanh", "identity", "residual"],
)
def test_projection_heads(
    dense: dict[str, Any], backend: str, make: Callable[..., Path], opened: Callable[..., Any]
) -> None:
    folder = make("bert", ("cls", "mean"), dense=dense, normalize=True)
    encoder = opened(folder, backend)
    assert encoder.info.dims == 24
    assert cosines(encoder.encode_document(TEXTS), oracle(folder, TEXTS)).min() >= 0.9999


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_prompts_left_out_of_pooling(
    backend: str, make: Callable[..., Path], opened: Callable[..., Any]
) -> None:
    prompts = {"query": "represent this sentence for searching ", "document": "represent this "}
    folder = make("bert", ("mean", "cls", "weightedmean"), prompts=prompts, include_prompt=False)
    encoder = opened(folder, backend)
    texts = [text for text in TEXTS if text]  # of an empty one only [SEP] is left
    for side in ("query", "document"):
        mine = getattr(encoder, f"encode_{side}")(texts)
        assert cosines(mine, oracle(folder, texts, side)).min() >= 0.9999


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (kind, b)
        for kind in ("bert", "xlm-roberta", "distilbert", "mpnet", "modernbert")
        for b in ("openvino", "torch")
    ]
    + [(kind, "torch") for kind in ONLY_TORCH],
)
def test_bfloat16_of_each_family(
    kind: str, backend: str, make: Callable[..., Path], opened: Callable[..., Any]
) -> None:
    folder = make(kind, "mean", normalize=True)
    mine = opened(folder, backend, "bfloat16").encode_document(TEXTS)
    assert cosines(mine, oracle(folder, TEXTS)).min() >= 0.999


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_in_bfloat16(kind: str, opened: Callable[..., Any], tmp_path: Path) -> None:
    # Weights spread by 1/sqrt(width), as a model starts out and about stays. With the 0.3 of the other tests,
    # twice that, decoders miss .999 in bfloat16 whoever runs them (sentence-transformers .9984 to .9988).
    tokenizer = _tokenizer("qwen")
    tokenizer.save_pretrained(tmp_path / "plain")
    _model(kind, len(tokenizer), 256, 1 / 16).save_pretrained(tmp_path / "plain")
    modules = [Transformer(str(tmp_path / "plain")), Pooling(256, "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    exact = oracle(tmp_path / "model", TEXTS)
    for backend in ("openvino", "torch"):
        assert cosines(opened(tmp_path / "model", backend).encode_document(TEXTS), exact).min() >= 0.9999
        mine = opened(tmp_path / "model", backend, "bfloat16").encode_document(TEXTS)
        assert cosines(mine, exact).min() >= 0.999


def test_what_the_graph_would_get_wrong_is_left_to_torch(
    make: Callable[..., Path], opened: Callable[..., Any], tmp_path: Path
) -> None:
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "rotary positions of type 'linear' (rope_parameters or rope_scaling in config.json)": (
            "llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}
        ),
        "texts of 128 tokens, and config.json (max_position_embeddings, sliding_window) allows 16": (
            "mistral", {"sliding_window": 16}
        ),
        "texts of 128 tokens, and config.json (max_position_embeddings, sliding_window) allows -1": (
            "qwen3", {"max_position_embeddings": -1}
        ),
        "hidden_act in config.json is 'quick_gelu'": ("qwen3", {"hidden_act": "quick_gelu"}),
    }  # fmt: skip
    for place, (reason, (kind, change)) in enumerate(changes.items()):
        folder = tmp_path / str(place)
        shutil.copytree(make(kind, "lasttoken", normalize=True), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(EncoderError, match=re.escape(f"{reason}. Use backend='torch'")):
            opened(folder, "openvino")
        encoder = opened(folder, "auto")
        assert encoder.info.runtime["backend"] == "torch"
        assert cosines(encoder.encode_document(TEXTS), oracle(folder, TEXTS)).min() >= 0.9999


def test_matryoshka_is_renormalized(opened: Callable[..., Any]) -> None:
    mine = opened("minilm", "openvino", dims=64).encode_document(TEXTS)
    reference = oracle(find_minilm(), TEXTS, truncate_dim=64, normalize_embeddings=True)
    assert mine.shape == (len(TEXTS), 64)
    assert np.allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5)
    assert cosines(mine, reference).min() >= 0.9999


def test_backends_and_dtypes_declare_the_same(make: Callable[..., Path], opened: Callable[..., Any]) -> None:
    folder = make("bert", dense={}, prompts={"query": "query: "})
    infos = [opened(folder, b, d).info for b in ("openvino", "torch") for d in ("float32", "bfloat16")]
    declared = [{name: getattr(info, name) for name in info.__slots__ if name != "runtime"} for info in infos]
    assert all(one == declared[0] for one in declared)
    assert len({json.dumps(dict(info.runtime), sort_keys=True) for info in infos}) == 4


def test_a_plain_folder_is_mean_pooled_and_says_so(
    make: Callable[..., Path], opened: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(make("bert"), folder)
    (folder / "modules.json").unlink()
    encoder = opened(folder, "auto")
    assert encoder.info.runtime["notes"] == ["no modules.json: pooling mean assumed"]
    assert cosines(encoder.encode_document(TEXTS), oracle(make("bert"), TEXTS)).min() >= 0.9999


def test_results_do_not_depend_on_batch_mates(make: Callable[..., Path], opened: Callable[..., Any]) -> None:
    for folder, backend in (
        (make("bert"), "openvino"),
        (make("bert"), "torch"),
        (make("qwen3", "lasttoken"), "torch"),
    ):
        encoder = opened(folder, backend)
        together = encoder.encode_document(TEXTS)
        alone = np.concatenate([encoder.encode_document([text]) for text in TEXTS])
        assert np.abs(together - alone).max() < 1e-4 * np.abs(together).max()
