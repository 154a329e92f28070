"""``static:``: model2vec and gensim are the oracles, on models made here."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode.base import DenseEncoder
from esembed.encode.lexical.words import WordSplitter
from esembed.encode.registry import load as load_spec
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams

pytest.importorskip("tokenizers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

WORDS = [*"the cat sat on a mat dogs run fast over lazy foxes and jump".split(), "##s", "##ing"]  # noqa: SIM905
TEXTS = [
    "The cat sat on a mat",
    "dogs running over lazy foxes",
    "",
    "zebra ???",
    "cats and cats and the cat " * 40,
    "fast fast fast",
]


def load(spec: str, params: EncoderParams | None = None) -> Any:
    """Untyped, since the dense half of the union is what these tests mean."""
    return load_spec(spec, params)


def make_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def make_model2vec(folder: Path, *, config: dict[str, Any], kind: str) -> Path:
    tokenizer = make_tokenizer(folder)
    size = tokenizer.get_vocab_size()
    rng = np.random.default_rng(1)
    tensors = {"embeddings": rng.standard_normal((size, 16)).astype(np.float32)}
    if kind == "weighted":
        tensors["embeddings"] = tensors["embeddings"][:7]
        tensors["mapping"] = rng.integers(0, 7, size)
        tensors["weights"] = rng.random(size).astype(np.float32)
    elif kind == "int8":
        tensors["embeddings"] = (tensors["embeddings"] * 40).astype(np.int8)
    elif kind == "half":
        tensors["embeddings"] = tensors["embeddings"].astype(np.float16)
    safetensors_numpy.save_file(tensors, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["plain", "weighted", "int8", "half"])
@pytest.mark.parametrize("config", [{}, {"normalize": True, "max_length": 20}])
def test_model2vec_folders_come_out_as_model2vec_does_it(
    tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    model2vec = pytest.importorskip("model2vec")
    folder = make_model2vec(tmp_path / "m", config=config, kind=kind)
    encoder = load(f"static:{folder}")
    assert isinstance(encoder, DenseEncoder)
    ours = encoder.encode_document(TEXTS)
    theirs = model2vec.StaticModel.from_pretrained(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(
        ours, theirs, rtol=1e-2 if kind == "half" else 1e-4, atol=2e-3 if kind == "half" else 1e-5
    )
    assert ours.dtype == np.float32
    assert encoder.info.max_seq_length == config.get("max_length", 512)
    assert encoder.stats.truncated == (1 if config else 0)
    assert str(tmp_path) not in repr(encoder.info)


def test_a_static_embedding_folder_comes_out_as_its_mean(tmp_path: Path) -> None:
    folder = tmp_path / "st"
    tokenizer = make_tokenizer(folder / "0_StaticEmbedding")
    table = np.random.default_rng(2).standard_normal((tokenizer.get_vocab_size(), 8)).astype(np.float32)
    safetensors_numpy.save_file(
        {"embedding.weight": table}, str(folder / "0_StaticEmbedding" / "model.safetensors")
    )
    modules = [{"type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    ours = load(f"static:{folder}").encode_query(TEXTS)
    for text, vector in zip(TEXTS, ours, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        np.testing.assert_allclose(vector, table[ids].mean(axis=0) if ids else np.zeros(8), atol=1e-5)
    modules.append({"type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(
        np.linalg.norm(load(f"static:{folder}").encode_query(["cat"]), axis=1), 1, 1e-6
    )
    modules.append({"type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="Dense"):
        load(f"static:{folder}")


def test_dims_prompts_and_length(tmp_path: Path) -> None:
    folder = make_model2vec(tmp_path / "m", config={}, kind="plain")
    full = load(f"static:{folder}", EncoderParams(normalize=False)).encode_query(["cat"])
    short = load(f"static:{folder}", EncoderParams(dims=4, normalize=True)).encode_query(["cat"])
    np.testing.assert_allclose(short, full[:, :4] / np.linalg.norm(full[:, :4]), rtol=1e-5)
    prompted = load(f"static:{folder}", EncoderParams(query_prompt="the ")).encode_query(["cat"])
    np.testing.assert_allclose(prompted, load(f"static:{folder}").encode_document(["the cat"]))
    first = load(f"static:{folder}", EncoderParams(max_seq_length=1))
    np.testing.assert_allclose(first.encode_query(["the cat"]), first.encode_query(["the"]))
    assert first.stats.truncated == 1
    with pytest.raises(EncoderError, match="have 16 dimensions"):
        load(f"static:{folder}", EncoderParams(dims=17))


def test_long_and_many_texts_equal_short_and_few(tmp_path: Path) -> None:
    folder = make_model2vec(tmp_path / "m", config={"max_length": None}, kind="plain")
    encoder = load(f"static:{folder}")
    words = np.random.default_rng(3).choice(WORDS[:14], 150_000)
    long = " ".join(words)
    [vector] = encoder.encode_document([long])
    vocabulary = {w: encoder.encode_document([w])[0] for w in WORDS[:14]}
    np.testing.assert_allclose(vector, np.mean([vocabulary[w] for w in words], axis=0), atol=1e-3)
    many = encoder.encode_document([" ".join(words[i : i + 50]) for i in range(0, 150_000, 50)])
    np.testing.assert_allclose(many[7], encoder.encode_document([" ".join(words[350:400])])[0], atol=1e-5)


def test_folders_that_are_no_static_model(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no file or folder"):
        load(f"static:{tmp_path / 'nowhere'}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(EncoderError, match=r"no model\.safetensors; pytorch_model\.bin is pickled"):
        load(f"static:{tmp_path}")
    make_tokenizer(tmp_path / "t")
    safetensors_numpy.save_file({"other": np.zeros(3)}, str(tmp_path / "t" / "model.safetensors"))
    with pytest.raises(EncoderError, match="holds other and not"):
        load(f"static:{tmp_path / 't'}")
    safetensors_numpy.save_file({"embeddings": np.zeros((3, 4))}, str(tmp_path / "t" / "model.safetensors"))
    with pytest.raises(EncoderError, match="only 3 vectors"):
        load(f"static:{tmp_path / 't'}")
    (tmp_path / "t" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(EncoderError, match="can't be read"):
        load(f"static:{tmp_path / 't'}")
    with pytest.raises(EncoderError, match="takes dims"):
        load(f"static:{tmp_path}", EncoderParams(top_k=3))


# -- word vectors: gensim writes and reads them ----------------------------------------------------

CORPUS = [
    s.split()
    for s in (
        "the cat sat on the mat",
        "the dog ran over the mat",
        "a cat and a dog ran fast",
        "Paris is the capital",
    )
] * 5


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    gensim = pytest.importorskip("gensim.models")
    folder = tmp_path_factory.mktemp("words")
    vectors = gensim.Word2Vec(CORPUS, vector_size=10, min_count=1, workers=1, epochs=1, seed=1).wv
    vectors.save_word2vec_format(str(folder / "w2v.bin"), binary=True)
    vectors.save_word2vec_format(str(folder / "w2v.vec"))
    lines = (folder / "w2v.vec").read_text().splitlines()[1:]
    (folder / "glove.txt").write_text("\n".join(lines) + "\n")
    return folder, vectors


# gensim leaves the file open when it reads one without a header.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["w2v.bin", "w2v.vec", "glove.txt"])
def test_word_vectors_are_averaged(words: Any, name: str) -> None:
    folder, vectors = words
    encoder = load(f"static:{folder / name}", EncoderParams(normalize=False))
    got = encoder.encode_document(["The cat, Paris; nonsenseword", "", "nonsenseword"])
    expected = np.mean([vectors["the"], vectors["cat"], vectors["Paris"]], axis=0)
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-6)
    assert not got[1:].any()
    assert encoder.info.extra["cased"] is True
    unit = load(f"static:{folder / name}").encode_document(["cat"])
    np.testing.assert_allclose(np.linalg.norm(unit), 1.0, rtol=1e-6)


def test_sif_weighs_frequent_words_less(words: Any) -> None:
    folder, vectors = words
    encoder = load(f"static:{folder / 'w2v.bin'}", EncoderParams(pooling="sif", normalize=False))
    count = len(vectors.key_to_index)
    zipf = 1 / np.arange(1, count + 1)
    p = zipf / zipf.sum()

    def weighted(word: str) -> Any:
        return vectors[word] * 1e-3 / (1e-3 + p[vectors.key_to_index[word]])

    expected = (weighted("the") + weighted("cat")) / 2
    np.testing.assert_allclose(encoder.encode_query(["the cat"])[0], expected, rtol=1e-4)
    assert encoder.info.pooling == "sif"


def test_fasttext_makes_vectors_of_unknown_words(tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim.models")
    from gensim.models.fasttext import load_facebook_vectors, save_facebook_model

    model = gensim.FastText(CORPUS, vector_size=8, min_count=1, workers=1, epochs=1, bucket=200, seed=1)
    save_facebook_model(model, str(tmp_path / "ft.bin"))
    oracle = load_facebook_vectors(str(tmp_path / "ft.bin"))
    encoder = load(f"static:{tmp_path / 'ft.bin'}", EncoderParams(normalize=False))
    got = encoder.encode_document(["catlike", "the catlike"])
    np.testing.assert_allclose(got[0], oracle["catlike"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(got[1], (oracle["catlike"] + oracle["the"]) / 2, rtol=1e-4, atol=1e-7)
    assert encoder.info.extra["subwords"] is True
    # here the file has counts, so p is the word's own share
    sif = load(f"static:{tmp_path / 'ft.bin'}", EncoderParams(pooling="sif", normalize=False))
    share = oracle.get_vecattr("the", "count") / sum(len(s) for s in CORPUS)
    np.testing.assert_allclose(
        sif.encode_query(["the"])[0], oracle["the"] * 1e-3 / (1e-3 + share), rtol=1e-4, atol=1e-8
    )


def test_files_that_are_no_word_vectors(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    (tmp_path / "x.kv").write_bytes(b"\x80")
    with pytest.raises(EncoderError, match="pickled"):
        load(f"static:{tmp_path / 'x.kv'}")
    for name, raw in [
        ("a.bin", b"\x00\x01\x02" * 50),
        ("b.txt", b"hello\nworld\n"),
        ("c.vec", b"2 3\ncat 1 2\n"),
    ]:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(EncoderError, match=f"{name} can't be read as word vectors"):
            load(f"static:{tmp_path / name}")
    (tmp_path / "nan.vec").write_text("1 2\ncat nan 1\n")
    with pytest.raises(EncoderError, match="NaN"):
        load(f"static:{tmp_path / 'nan.vec'}")


def test_cased_tables_keep_case() -> None:
    assert WordSplitter(keep_case=True).split("Paris IS") == ["Paris", "IS"]
    assert WordSplitter(keep_case=True).hash != WordSplitter().hash


def test_words_of_a_glove_file_may_hold_spaces(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    from esembed.encode.static.word_vectors import open_word_source

    path = tmp_path / "glove.txt"
    lines = ["the 1 2 3", ". . . 4 5 6", "at name@domain.com 7 8 9 "]
    for first in range(3):  # the first line decides the format
        order = lines[first:] + lines[:first]
        path.write_text("\n".join([*order, "the 0 0 1"]) + "\n")
        source = open_word_source(path, pooling="mean", max_seq_length=None)
        table = dict(zip(source._index, source._table.tolist(), strict=True))
        assert table == {"the": [1, 2, 3], ". . .": [4, 5, 6], "at name@domain.com": [7, 8, 9]}


def _fasttext(words: int, dims: int, tail: bytes) -> bytes:
    arguments = struct.pack("<2i12id", 793_712_314, 12, dims, *[1] * 11, 0.1)
    return arguments + struct.pack("<3iqq", words, words, 0, 1, -1) + tail


@pytest.mark.parametrize(
    "content",
    [
        b"1000000000 1000000000\n" + b"a " + b"\x01" * 80,
        b"1000000000 1000000000\na 0 0 0\n",
        b"9" * 5_000 + b" 3\na 0 0 0\n",
        b"3 0\na\n",
        b"a " + b"0 " * 2_000_000 + b"\n",
        b"a 1 2\nb " + b"0 " * 2_000_000 + b"\n",
        _fasttext(1_000_000_000, 1_000_000, b""),
        _fasttext(2**31 - 1, 1, b"a"),
        _fasttext(-1, 4, b""),
        _fasttext(3, -4, b"a\0" * 20),
        _fasttext(3, 4, b"a\0" + b"\1" * 9 + b"never ends"),
        _fasttext(1, 4, b"a\0" + b"\0" * 9 + struct.pack("<?2q", False, 2**40, 2**40)),
        _fasttext(0, 0, b""),
        struct.pack("<i", 793_712_314),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_word_vectors_that_lie_about_themselves(tmp_path: Path, content: bytes, packed: bool) -> None:
    pytest.importorskip("gensim")
    from esembed.encode.static.word_vectors import open_word_source

    path = tmp_path / ("words.bin.gz" if packed else "words.bin")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(EncoderError, match=r"can't be read as word vectors|holds no word vectors"):
        open_word_source(path, pooling="mean", max_seq_length=None)
