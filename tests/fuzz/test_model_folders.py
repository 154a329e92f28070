"""Model folders whose files lie: each loads and gives the vectors that it states, or is an error of the tree
that names the file or the entry; soon, in little memory.

The corpus holds small models as transformers and sentence-transformers write them: JSON and text as they are,
of each safetensors file the header and the number of bytes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import logging
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutations

from esembed.encode.backends.openvino_graph import EMBEDDINGS
from esembed.encode.base import RuntimeOptions
from esembed.encode.models.folder import read_folder
from esembed.encode.models.tensors import TensorFile, Tensors, read_pickled_tensors, weights_hash
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.registry import load
from esembed.errors import EsembedError, InvariantError
from esembed.types import SparseVector

pytest.importorskip("openvino")
pytestmark = pytest.mark.filterwarnings("ignore")

# Measured to take about 15 seconds each on two cores.
EXAMPLES = {"configs": 1_400, "headers": 2_000, "tokenizers": 3_000, "pickles": 4_000}
FOLDERS = mutations.load("model_folders")
RUNTIME = RuntimeOptions(backend="openvino", threads=1, local_files_only=True)
TEXTS = ["the cat sat on the mat.", "", "fasting Ünïcode 東京 \U0001f642 [MASK] <s>", "a " * 80]
NEAR = (-1, 1, 2, 8)
"""Changes of a number that stay close to what is right: shapes and sizes that don't fit each other."""
MEMORY = 400 * 1024 * 1024
"""What OpenVINO compiles a tiny model in, and torch's and transformers' import, with room."""

File = tuple[str, str]  # files or tensors, its name


def _numbers(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        here = stack.pop()
        items: Any = here.items() if isinstance(here, dict) else enumerate(here)
        for key, inner in items:
            if isinstance(inner, (dict, list)):
                stack.append(inner)
            elif type(inner) in (int, float):
                found.append((here, key))
    return found


def _damage(random: Random, data: bytes) -> bytes:
    """Bytes that were cut, changed, doubled."""
    if not data:
        return data
    at = random.randrange(len(data))
    return random.choice(
        [
            data[:at],
            data[:at] + bytes([random.randrange(256)]) + data[at + 1 :],
            data[:at] + data[at : at + 40] * 3 + data[at + 40 :],
            data[:at]
            + random.choice([b"\xff", b"\x00", b"\xed\xa0\x80", b'"', b"[" * 5000, b"9" * 500])
            + data[at:],
            b"",
            b"\xef\xbb\xbf" + data,
            data.decode(errors="replace").encode("utf-16"),
        ]
    )


_NO_EFFECT = {
    "transformers_version", "initializer_range", "use_cache", "dtype", "torch_dtype",
    "tie_word_embeddings", "attention_probs_dropout_prob", "hidden_dropout_prob", "attention_dropout",
    "embedding_dropout", "dropout", "mlp_dropout", "qa_dropout", "seq_classif_dropout",
    "classifier_dropout", "classifier_activation", "classifier_bias", "bos_token_id", "eos_token_id",
    "cls_token_id", "sep_token_id", "backend", "is_local", "local_files_only", "version", "truncation",
    "padding", "decoder", "trim_offsets", "pair", "type_id", "__version__", "idx", "name",
}  # fmt: skip
"""Keys that no vector depends on: changing them tries nothing."""

_LONG = "x" * 5_000
_ODD: Mapping[type, tuple[Any, ...]] = {
    bool: (None, 0, 1, "true", [True], {}),
    int: (0, 0, -1, -1, -5, 1, 3, 2**31, 10**9, 10**30, 0.5, "x", None, True),
    float: (0.0, -1.0, 1.0, float("nan"), float("inf"), 1e30, 1e308, 0, "x", None, True, [0.5]),
    str: (
        "",
        " ",
        "x",
        "a",
        "A",
        _LONG,
        "x" * 100_000,
        "..",
        "/etc",
        "\ud800",
        1,
        None,
        True,
        ["a"],
        {"a": "b"},
    ),
    type(None): (0, -1, 1, 10**30, "x", True, [], {}, 1e30),
    list: ([], {}, None, "x", 1, [None], [[]], ["x"], [{}]),
    dict: ({}, [], None, "x", 1, [["a", 1]], {"": None}, {"x": {}}),
}
"""In a value's place, by its type: what the type allows and the model doesn't, and other types."""


def _place(random: Random, root: dict[str, Any]) -> tuple[Any, Any]:
    """A place inside, found by going down: a vocabulary's thousand entries are no likelier than its type.
    Where there are objects and lists, these are likelier than single values; lists are stopped at more often:
    their entries' order and number matter (steps, templates)."""
    holder: Any = root
    key: Any = ""
    while isinstance(here := holder[key], (dict, list)) and random.random() < (
        0.85 if isinstance(here, dict) else 0.6
    ):
        keys = [k for k in here if k not in _NO_EFFECT] if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        weights = [3 if isinstance(here[k], (dict, list)) else 1 for k in keys]
        holder, key = here, random.choices(keys, weights)[0]
    return holder, key


def _altered(random: Random, value: Any) -> Any:
    """A file's value with one or two places altered."""
    root = {"": copy.deepcopy(value)}
    for _ in range(random.choice((1, 1, 1, 2))):
        holder, key = _place(random, root)
        here, how = holder[key], random.random()
        if how < 0.08 and holder is not root:
            del holder[key]
        elif how < 0.6 and isinstance(here, list):
            again = [one for one in here for _ in range(random.choice((1, 2)))]
            odd = (here * 2, again, here * 40, here[:1] * 400, here[:-1], here[::-1], [here])
            holder[key] = copy.deepcopy(random.choice(odd))
        elif how < 0.2 and isinstance(here, dict) and here:
            one, other = random.choice(list(here)), random.choice(list(here))
            here[one], here[other] = here[other], here[one]
        elif how < 0.3 and isinstance(here, str):
            holder[key] = random.choice((here + here, here.upper(), here[:-1], [here], {"content": here}))
        else:
            holder[key] = copy.deepcopy(random.choice(_ODD[type(here)]))
    return root[""]


def _changed(random: Random, value: Any) -> Any:
    """A file's value: altered where something depends on it, or in a number that stays close, or mutated as
    those of the other entrances."""
    if random.random() < 0.7:
        return _altered(random, value)
    if isinstance(value, (dict, list)) and random.random() < 0.5:
        value = copy.deepcopy(value)
        for _ in range(random.choice((1, 1, 2))):
            if numbers := _numbers(value):
                holder, key = random.choice(numbers)
                holder[key] = random.choice(
                    (*(holder[key] + n for n in NEAR), holder[key] * 2, holder[key] // 2)
                )
        return value
    return mutations.from_seed([value], random.randrange(2**24))


def _made(
    chosen: Callable[[dict[str, Any]], list[File]], keys: Mapping[str, tuple[str, ...]] = {}
) -> Callable[[list[Any], int], Any]:
    """From the corpus and a seed, a folder with some of the *chosen* files changed; of a file in *keys*, only
    these keys."""

    def make(corpus: list[Any], seed: int) -> Any:
        random = Random(seed)
        value = {**random.choice(corpus), "damage": {}, "gone": [], "encode": random.random() < 0.3}
        value["files"], value["tensors"] = dict(value["files"]), dict(value["tensors"])
        picked = [random.choice(chosen(value)) for _ in range(random.choice((1, 1, 1, 1, 2, 3)))]
        for group, name in dict.fromkeys(picked):  # a set's order is another one in each process
            how = random.random()
            if how < 0.04:
                value["gone"].append(name)
            elif how < 0.12:
                value["damage"][name] = random.randrange(2**24)
            elif group == "files":
                before, of_file = value["files"][name], keys.get(name)
                if of_file is None:
                    value["files"][name] = _changed(random, before)
                else:
                    part = _changed(random, {key: before[key] for key in of_file if key in before})
                    value["files"][name] = {**before, **part} if isinstance(part, dict) else part
            elif random.random() < 0.5:
                _resize(random, value, name)
            else:
                stated = value["tensors"][name]
                bytes_ = stated["bytes"] + (random.choice((0, 0, 0, -2, 2, -stated["bytes"])))
                length = random.choice((None, None, None, 0, 1, -1, 7, 10**6, 2**31, 2**63))
                header = _changed(random, stated["header"])
                value["tensors"][name] = {"header": header, "bytes": bytes_, "length": length}
        return value

    return make


def _resize(random: Random, value: dict[str, Any], name: str) -> None:
    """Another size of one tensor in a file that is right in itself: a change of the shape alone contradicts
    the offsets, which is refused before any check that compares tensors with config.json, or with each other.
    Half of the time config.json says the new size, too."""
    header = copy.deepcopy(value["tensors"][name]["header"])
    entries = [entry for key, entry in header.items() if key != "__metadata__"]
    sized = [entry for entry in entries if entry["shape"]]
    shape = random.choice(sized)["shape"]
    axis = random.randrange(len(shape))
    before = shape[axis]
    shape[axis] = after = max(0, random.choice((*(before + n for n in NEAR), before * 2, before // 2)))
    at = 0
    for entry in sorted(entries, key=lambda one: int(one["data_offsets"][0])):
        end = at + int(np.prod(entry["shape"], dtype=int)) * _WIDTHS[entry["dtype"]]
        entry["data_offsets"], at = [at, end], end
    value["tensors"][name] = {"header": header, "bytes": at, "made": True}
    config = value["files"].get("config.json")
    if isinstance(config, dict) and random.random() < 0.5:
        same = [key for key, number in config.items() if type(number) is int and number == before]
        if same:
            value["files"]["config.json"] = {**config, random.choice(same): after}


def _text(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (RecursionError, ValueError, TypeError):  # what is too deep for the writer is not for others
        return b'{"a": ' + b"[" * 20_000


_WIDTHS = {"F32": 4, "F16": 2, "I32": 4, "I64": 8}


@functools.cache
def _data(folder: str, file: str) -> bytes:
    """The numbers of a tensor file as it was."""
    return _data_for(next(one for one in FOLDERS if one["name"] == folder)["tensors"][file])


def _data_for(stated: dict[str, Any]) -> bytes:
    """Small numbers, and row numbers where they are integers, for a header that is right."""
    random, data = np.random.default_rng(5), bytearray(stated["bytes"])
    for name, entry in stated["header"].items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            width = _WIDTHS[entry["dtype"]]
            kind = f"<{'f' if entry['dtype'][0] == 'F' else 'i'}{width}"
            count = (end - start) // width
            values = random.normal(0, 0.2, count) if "f" in kind else np.arange(count) % 4
            data[start:end] = values.astype(kind).tobytes()
    return bytes(data)


def write(value: dict[str, Any], root: Path) -> int:
    """The folder that *value* describes; its size in bytes."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    size = 0
    for group in ("files", "tensors"):
        for name, stated in value[group].items():
            if name in value.get("gone", ()):
                continue
            if group == "files":
                data = stated.encode("utf-8", "replace") if isinstance(stated, str) else _text(stated)
            else:
                head = _text(stated["header"])
                length = len(head) if stated.get("length") is None else stated["length"] % 2**64
                numbers = _data_for(stated) if stated.get("made") else _data(value["name"], name)
                numbers = numbers[: max(0, stated["bytes"])]
                data = (
                    struct.pack("<Q", length) + head + numbers + bytes(max(0, stated["bytes"] - len(numbers)))
                )
            if name in value.get("damage", {}):
                data = _damage(Random(value["damage"][name]), data)
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            size += len(data)
    return size


@pytest.fixture
def root() -> Iterator[Path]:
    logging.disable(logging.CRITICAL)  # transformers warns of each odd folder
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        # Imported before memory is measured: transformers and torch take hundreds of megabytes.
        place = Path(folder) / "zzz"
        with contextlib.suppress(ModuleNotFoundError):
            from transformers import AutoTokenizer

            for one in FOLDERS:
                if one["name"] in ("bert", "llama"):
                    for gone in (["config.json"], ["tokenizer.json"]):
                        write({**one, "gone": gone}, place)
                        with contextlib.suppress(Exception):
                            AutoTokenizer.from_pretrained(str(place))
        yield place
    logging.disable(logging.NOTSET)


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def bounded(read: Callable[[], Any], size: int) -> Any:
    """As ``mutations.bounded``, with the memory of the whole process, since networks are built in C++."""
    counted = Path("/proc/self/clear_refs").exists()
    if counted:
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS:")
    try:
        return mutations.bounded(read, size)
    finally:
        if counted:
            peak = _memory("VmHWM:") - before
            assert peak <= MEMORY + 100 * size, f"{peak:,} bytes of memory for {size} bytes"


_PLAIN = {"type", "model", "name", "path", "content", "weight", "single", "pattern", "version", "types"}
"""Keys that an error may hold as a word."""


@functools.cache
def names_of(folder: str) -> set[str]:
    """What an error may name: files, and entries of JSON and tensor headers of the folder as it was."""
    found = {"modules.json", "safetensors", "config.json", "sentence_bert_config.json", "added_tokens.json"}
    original = next(one for one in FOLDERS if one["name"] == folder)
    for group in ("files", "tensors"):
        for name, stated in original[group].items():
            found.add(name.rpartition("/")[2])
            stack = [stated.get("header") if group == "tensors" else stated]
            while stack:
                here = stack.pop()
                if isinstance(here, dict):
                    found |= {key for key in here if len(key) > 3 and key not in _PLAIN}
                    stack += here.values()
                elif isinstance(here, list):
                    stack += here
    return found


def refused_or(read: Callable[[], Any], known: set[str]) -> Any:
    """What it returns; None for an error of the tree that names a file or an entry."""
    try:
        return read()
    except InvariantError:
        raise
    except EsembedError as error:
        said = str(error)
        assert any(name in said for name in known), f"names neither file nor entry: {said}"
        assert len(said) < 3_000, said
        return None


def check_vectors(vectors: Any, info: Any, texts: list[str]) -> None:
    if info.type == "dense":
        assert vectors.shape == (len(texts), info.dims)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        return
    assert len(vectors) == len(texts)
    for vector in vectors:
        assert isinstance(vector, SparseVector)
        assert np.isfinite(vector.values).all()
        assert (vector.values > 0).all()
        assert len(set(vector.indices)) == len(vector.indices)


_COUNTS = (
    "hidden_size", "dim", "num_hidden_layers", "n_layers", "num_attention_heads", "n_heads", "vocab_size",
    "num_key_value_heads", "head_dim", "intermediate_size", "hidden_dim", "type_vocab_size",
)  # fmt: skip


def check_counts(config: Mapping[str, Any]) -> None:
    """What config.json of a model that loads states can be so."""
    for key in _COUNTS:
        stated = config.get(key)
        if key == "intermediate_size" and isinstance(stated, list):
            continue  # a width for each layer; the tensors' shapes count
        assert stated is None or (type(stated) is int and stated >= 0), f"{key} = {stated!r} was taken"
        assert stated != 0 or key in ("num_hidden_layers", "n_layers", "type_vocab_size"), (
            f"{key} = 0 was taken"
        )


def check_rows(root: Path) -> None:
    """Each token of a model that loads has a row of its own, and config.json states as many."""
    files = read_folder(root)
    tensors = files.tensors()
    name = min((name for name in tensors if name.endswith(EMBEDDINGS)), key=len)
    rows = tensors.file_of(name).entries[name][1][0]
    assert files.config.get("vocab_size") in (None, rows), f"{files.config['vocab_size']} of {rows} rows"
    assert max(TextTokenizer(files, None).tokens().values()) < rows


def vectors_of(root: Path, family: str, *, encode: bool = True) -> Any:
    encoder: Any = load(f"{family}:{root}", runtime=RUNTIME)
    try:
        if not encode:
            return encoder.info, None
        made = [encoder.encode_document(TEXTS), encoder.encode_query(TEXTS[:1])]
        return encoder.info, made
    finally:
        encoder.close()


@pytest.mark.parametrize("value", FOLDERS, ids=[one["name"] for one in FOLDERS])
def test_the_corpus_loads(value: dict[str, Any], root: Path) -> None:
    write(value, root)
    info, made = vectors_of(root, value["family"])
    check_vectors(made[0], info, TEXTS)
    if value["family"] != "hf":
        return
    check_vectors(made[1], info, TEXTS[:1])
    assert np.ptp(made[0]) > 0


def test_configs(root: Path) -> None:
    def chosen(value: dict[str, Any]) -> list[File]:
        # The transformer's own settings more often than all other files together.
        files = [("files", name) for name in value["files"]]
        rest = [*files, *(("tensors", name) for name in value["tensors"])]
        own = [one for one in files if re.search(r"^(document_.*/)?config\.json$", one[1])]
        return rest + own * (len(rest) * 3 // 2)

    def check(value: Any) -> None:
        size = write(value, root)
        # A network that was built is compiled and run in some cases only: that takes ten times as long.
        encode = value["encode"] or value["family"] == "static"
        read = functools.partial(vectors_of, root, value["family"], encode=encode)
        found = bounded(lambda: refused_or(read, names_of(value["name"])), size)
        if found is None:
            return
        for name in ("config.json", "document_0_MLMTransformer/config.json"):
            if value["family"] != "static" and (root / name).is_file():
                check_counts(json.loads((root / name).read_text()))
        if value["family"] == "hf":
            check_rows(root)
        info, made = found
        if made is not None:
            check_vectors(made[0], info, TEXTS)
            check_vectors(made[1], info, TEXTS[:1])

    mutations.fuzz(FOLDERS, EXAMPLES["configs"], check, make=_made(chosen))


def test_tokenizers(root: Path) -> None:
    def chosen(value: dict[str, Any]) -> list[File]:
        names = (*["tokenizer.json"] * 5, *["tokenizer_config.json"] * 3, "vocab.txt")
        found = [("files", name) for name in names if name in value["files"]]
        return [*found, ("files", "config.json")]

    def tokens() -> Any:
        tokenizer = TextTokenizer(read_folder(root, name="zzz"), 16)
        return tokenizer, tokenizer(TEXTS, "the "), tokenizer.prompt_length("the ")

    def check(value: Any) -> None:
        size = write(value, root)
        found = bounded(lambda: refused_or(tokens, names_of(value["name"])), size)
        if found is None:
            return
        tokenizer, made, prompt = found
        listed = tokenizer.tokens()
        known = set(listed.values())
        assert 0 <= tokenizer.pad_id <= max(known, default=0)
        assert 0 <= prompt <= 64
        assert len(made.ids) == len(TEXTS)
        for ids in made.ids:
            assert 1 <= len(ids) <= 16
            # A Unigram vocabulary may list a token twice; get_vocab has the last of its ids.
            for i in set(ids.tolist()) - known - {tokenizer.pad_id}:
                assert listed.get(tokenizer.id_to_token(i), -1) > i, i

    folders = [one for one in FOLDERS if {"tokenizer.json", "vocab.txt"} & set(one["files"])]
    mutations.fuzz(
        [one for one in folders if one["family"] != "static"],
        EXAMPLES["tokenizers"],
        check,
        make=_made(chosen, {"config.json": ("pad_token_id", "model_type", "vocab_size")}),
    )


def test_tensor_headers(root: Path) -> None:
    def chosen(value: dict[str, Any]) -> list[File]:
        return [("tensors", name) for name in value["tensors"]]

    def everything(value: dict[str, Any]) -> None:
        for name in value["tensors"]:
            if name in value["gone"]:
                continue
            tensors = Tensors([TensorFile(root / name)])
            assert len(weights_hash({"": tensors})) == 64
            for one in tensors:
                tensors[one]

    def check(value: Any) -> None:
        size = write({**value, "files": {}}, root)
        read = functools.partial(everything, value)
        mutations.bounded(lambda: refused_or(read, names_of(value["name"])), size, memory=True)

    mutations.fuzz(FOLDERS, EXAMPLES["headers"], check, make=_made(chosen))


def test_pickled_tensors(root: Path) -> None:
    """``sparse_linear.pt`` of BGE-M3: a zip with a pickle in it, of which nothing is run."""
    torch = pytest.importorskip("torch")
    written = []
    for tensors in (
        {"weight": torch.ones(1, 8), "bias": torch.zeros(1)},
        {"linear.weight": torch.ones(4, 8).half().t(), "linear.bias": torch.zeros(4, dtype=torch.bfloat16)},
    ):
        data = io.BytesIO()
        torch.save(tensors, data)
        written.append(data.getvalue())

    def make(corpus: list[Any], seed: int) -> Any:
        random = Random(seed)
        data = random.choice(corpus)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice([*parts, *[n for n in parts if n.endswith("data.pkl")] * 6])
        for _ in range(random.choice((1, 1, 2, 5))):
            parts[name] = _damage(random, parts[name])
        if random.random() < 0.2:
            return _damage(random, data)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, content)
        return out.getvalue()

    def check(data: Any) -> None:
        root.mkdir(exist_ok=True, parents=True)
        path = root / "sparse_linear.pt"
        path.write_bytes(data)
        read = lambda: refused_or(lambda: read_pickled_tensors(path), {path.name})  # noqa: E731
        for name, values in (mutations.bounded(read, len(data), memory=True) or {}).items():
            assert isinstance(name, str)
            assert values.dtype == np.float32

    mutations.fuzz(written, EXAMPLES["pickles"], check, make=make)
