"""Token ids are AutoTokenizer's: a folder of every tokenizer class that transformers maps, with each option.

A folder that isn't read here alike must be refused with an EncoderError; ids that differ are the one thing
that may not happen.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from esembed.encode.models.folder import ModelFiles
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.models.tokenizer_files import (
    _AS_THE_FILE,
    _BY_MODEL_TYPE,
    _BYTE_LEVEL,
    _FILE_WINS,
    _PYTHON_ONLY,
    _WORDPIECE,
)
from esembed.errors import EncoderError

transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")
auto: Any = importlib.import_module("transformers.models.auto.tokenization_auto")

TEXTS = [
    "How do I Reset my PASSWORD on an iPhone 15 Pro?",  # Latin
    "naïve café — Łódź, Çeşme, Đà Nẵng, ﬁne straße İstanbul",
    "привет мир, Ёлка и Ёж",  # Cyrillic
    "Ελλάδα, ΑΒΓ ά έ",  # Greek
    "שלום עולם שָׁלוֹם",  # Hebrew
    "مرحبا بالعالم، كِتَاب",  # Arabic
    "नमस्ते दुनिया",  # Devanagari
    "বাংলা ভাষা",  # Bengali
    "தமிழ் மொழி",  # Tamil
    "తెలుగు భాష",  # Telugu
    "ગુજરાતી ભાષા",  # Gujarati
    "ਪੰਜਾਬੀ ਬੋਲੀ",  # Gurmukhi
    "ภาษาไทย ๑๒๓",  # Thai
    "ພາສາລາວ",  # Lao
    "မြန်မာဘာသာ",  # Burmese
    "ភាសាខ្មែរ",  # Khmer
    "한국어 말하기",  # Hangul
    "東京タワー と ひらがな",  # Kanji, Katakana, Hiragana
    "中文字符测试，很好。",  # Han
    "ქართული ენა",  # Georgian
    "Հայերեն լեզու",  # Armenian
    "አማርኛ ቋንቋ",  # Ethiopic
    "ᠮᠣᠩᠭᠣᠯ ᏣᎳᎩ \U0001f642\U0001f469\u200d\U0001f4bb",  # Mongolian, Cherokee, emoji
    "  split   a path\tinto\u00a0folder\u2028and\u3000file: /var/log/app.log (v2.1)  \n",
    "plain [NEW] word [QRY]paris <ent> xENTy",
    "",
]
WORDS = ["paris", "Paris", "river", "plain", "word", "password", "folder", "the", "and", "new", "ent"]


def _letters() -> list[str]:
    """Most characters of the texts (some stay unknown), by how often they occur."""
    found = Counter("".join(TEXTS).replace(" ", ""))
    found.update("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:/()[]<>?")
    return [one for one, _ in found.most_common(420) if not one.isspace()]


def _wordpiece() -> dict[str, int]:
    special = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "<s>",
        "<pad>",
        "</s>",
        "<mask>",
        "<cls>",
        "<sep>",
    ]
    letters = _letters()
    return {
        w: i for i, w in enumerate(dict.fromkeys([*special, *WORDS, *letters, *(f"##{c}" for c in letters)]))
    }


def _bytes() -> tuple[dict[str, int], list[tuple[str, str]]]:
    special = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        "<|endoftext|>",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
    ]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "p"), ("p", "a"), ("Ġ", "r"), ("Ġr", "i"), ("r", "i"), ("pa", "r"), ("Ġp", "a")]
    words = [
        *special,
        *alphabet,
        *(a + b for a, b in merges),
        *(c + "</w>" for c in alphabet),
        "<bos>",
        "<eos>",
    ]
    return {w: i for i, w in enumerate(dict.fromkeys(words))}, merges


def _unigram() -> list[tuple[str, float]]:
    special = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "<cls>",
        "<sep>",
        "<eod>",
    ]
    marks = ["▁", *(f"▁{w}" for w in WORDS)]
    return [(w, -float(i)) for i, w in enumerate(dict.fromkeys([*special, *marks, *_letters()]))]


def _metaspace_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    special = ["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<mask>"]
    raw = [f"<0x{n:02X}>" for n in range(256)]
    merges = [("▁", "p"), ("▁p", "a"), ("p", "a"), ("▁", "r"), ("▁r", "i")]
    words = [*special, *raw, "▁", *_letters(), *(a + b for a, b in merges)]
    return {w: i for i, w in enumerate(dict.fromkeys(words))}, merges


def _make(kind: str) -> Any:
    """A small tokenizer of that class, or None where it has no fast form."""
    found = auto.tokenizer_class_from_name(kind)
    base = importlib.import_module("transformers.tokenization_utils_tokenizers").TokenizersBackend
    if found is None or not isinstance(found, type) or not issubclass(found, base):
        return None
    model = getattr(found, "model", None)
    name = getattr(model, "__name__", "")
    attempts: list[dict[str, Any]] = []
    if name == "WordPiece":
        attempts.append({"vocab": _wordpiece()})
    elif name == "Unigram":
        attempts.append({"vocab": _unigram()})
    else:
        for vocab, merges in (_metaspace_bpe(), _bytes()):
            attempts.append({"vocab": vocab, "merges": merges})
        attempts.append({"vocab": _unigram()})
        attempts.append({"vocab": _wordpiece()})
    # byte-level classes want a vocabulary of bytes
    if name == "BPE":
        attempts.reverse()
        attempts.sort(key=lambda one: "Ġ" not in one["vocab"] if isinstance(one["vocab"], dict) else True)
    for arguments in attempts:
        try:
            made = found(**arguments)
            for text in TEXTS:
                made(text)
        except Exception:  # noqa: BLE001 - a class that takes another form of vocabulary
            continue
        return made
    return None


CLASSES = sorted(
    {str(one) for one in auto.TOKENIZER_MAPPING_NAMES.values() if one} - {"MistralCommonBackend"}
)
CLASSES = sorted({one.removesuffix("Fast") for one in CLASSES} | _WORDPIECE | _BYTE_LEVEL)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": False},
    {"tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"keep_accents": True, "remove_space": False},
    {"split_special_tokens": True},
    {"add_bos_token": False},
    {"do_lower_case": True, "strip_accents": True, "tokenize_chinese_chars": False},
    {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
    {"tokenizer_class": "NobodysTokenizer"},
    {"additional_special_tokens": ["[QRY]"]},
    {"added_tokens_decoder": {"NEXT": ("[NEW]", True), "AFTER": ("ENT", False)}},
    {"added_tokens.json": {"[NEW]": 0, "<ent>": 1}},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for kind in CLASSES:
        tokenizer = _make(kind)
        if tokenizer is not None:
            made[kind] = tmp_path_factory.mktemp("t") / kind
            tokenizer.save_pretrained(str(made[kind]))
            (made[kind] / "config.json").write_text("{}")
    return made


def _variant(folder: Path, target: Path, options: dict[str, Any], *, bare: bool) -> None:
    """A copy with these options; *bare* without the options that the class saved itself."""
    shutil.copytree(folder, target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    if bare:
        config = {k: v for k, v in config.items() if k == "tokenizer_class" or k.endswith("_token")}
    size = 1 + max(tokenizers.Tokenizer.from_file(str(target / "tokenizer.json")).get_vocab(True).values())
    more = dict(options)
    if "added_tokens_decoder" in more:
        known = config.get("added_tokens_decoder", {})
        stored = json.loads((target / "tokenizer.json").read_text())["added_tokens"]
        known = known or {str(one.pop("id")): one for one in stored}
        for place, (text, special) in enumerate(more.pop("added_tokens_decoder").values()):
            known[str(size + place)] = {
                "content": text, "special": special, "normalized": not special,
                "lstrip": False, "rstrip": False, "single_word": False,
            }  # fmt: skip
        more["added_tokens_decoder"] = known
    listed = more.pop("added_tokens.json", None)
    if listed is not None:
        config.pop("added_tokens_decoder", None)
        (target / "added_tokens.json").write_text(json.dumps({t: size + i for t, i in listed.items()}))
    path.write_text(json.dumps({**config, **more}))


def _compare(folder: Path) -> str:
    """``equal`` or ``refused``; fails where ids differ."""
    try:
        oracle = transformers.AutoTokenizer.from_pretrained(str(folder))
        wanted = [oracle(text)["input_ids"] for text in TEXTS]
    except Exception:  # noqa: BLE001 - what transformers can't read isn't compared
        return "no oracle"
    try:
        ours = TextTokenizer(ModelFiles(folder=folder, name=folder.name), None)
    except EncoderError:
        return "refused"
    got = [ids.tolist() for ids in ours(TEXTS).ids]
    for text, a, b in zip(TEXTS, wanted, got, strict=True):
        assert b == (a or [ours.pad_id]), (folder.name, text)
    return "equal"


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: json.dumps(one)[:60])
@pytest.mark.parametrize("bare", [False, True], ids=["saved", "bare"])
def test_every_class(options: dict[str, Any], bare: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    assert len(folders) > 30
    wrong, counts = [], Counter[str]()
    for kind, folder in folders.items():
        target = tmp_path / kind
        _variant(folder, target, options, bare=bare)
        try:
            counts[_compare(target)] += 1
        except AssertionError as error:
            wrong.append(f"{kind}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)
    assert counts["equal"] > 25, counts


def test_the_lists_are_transformers_own() -> None:
    """Classes that are refused as programs in Python are just that, and those read here aren't."""
    backend = importlib.import_module("transformers.tokenization_utils_tokenizers").TokenizersBackend
    for kind in sorted(_PYTHON_ONLY):
        found = auto.tokenizer_class_from_name(kind)
        if isinstance(found, type) and "dummy" not in found.__module__:
            assert not issubclass(found, backend), kind
    for kind in sorted((_WORDPIECE | _BYTE_LEVEL | _AS_THE_FILE) - {"", "PreTrainedTokenizer"}):
        found = auto.tokenizer_class_from_name(kind)
        if isinstance(found, type):
            assert issubclass(found, backend), kind


@pytest.mark.parametrize("kind", sorted(_WORDPIECE))
@pytest.mark.parametrize("options", OPTIONS[:6], ids=lambda one: json.dumps(one)[:60])
def test_vocabularies_alone(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    words = list(_wordpiece())
    words.insert(20, "\u2028")
    folder = tmp_path / "v"
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join([*words, "\x85", "last"]) + "\n", encoding="utf-8", newline="\n"
    )
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **options}))
    assert _compare(folder) in ("equal", "no oracle")


@pytest.mark.parametrize("model_type", sorted(_BY_MODEL_TYPE))
def test_a_folder_that_names_no_class(model_type: str, folders: dict[str, Path], tmp_path: Path) -> None:
    kind = _BY_MODEL_TYPE[model_type]
    mapped = auto.TOKENIZER_MAPPING_NAMES.get(model_type, kind)
    assert mapped.removesuffix("Fast") in (kind, "TokenizersBackend")
    if kind in folders:
        _variant(
            folders[kind], tmp_path / kind, {"do_lower_case": False, "add_prefix_space": True}, bare=True
        )
        config = json.loads((tmp_path / kind / "tokenizer_config.json").read_text())
        config.pop("tokenizer_class", None)
        (tmp_path / kind / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert _compare(tmp_path / kind) in ("equal", "no oracle")


@pytest.mark.parametrize("model_type", sorted(_FILE_WINS))
def test_a_folder_whose_class_is_not_its_models(
    model_type: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    if auto.TOKENIZER_MAPPING_NAMES.get(model_type) is None:
        pytest.skip("this transformers doesn't know it")
    for kind in ("BertTokenizer", "RobertaTokenizer"):
        _variant(
            folders[kind], tmp_path / kind, {"do_lower_case": False, "add_prefix_space": True}, bare=True
        )
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert _compare(tmp_path / kind) in ("equal", "no oracle")


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_ends_that_the_options_add(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["GPT2Tokenizer" if kind == "GPT2Tokenizer" else "LlamaTokenizer"]
    _variant(source, tmp_path / "plain", {"tokenizer_class": kind}, bare=True)
    _variant(
        source,
        tmp_path / "ends",
        {"tokenizer_class": kind, "add_bos_token": True, "add_eos_token": True},
        bare=True,
    )
    plain, ends = (TextTokenizer(ModelFiles(folder=tmp_path / n, name=n), None) for n in ("plain", "ends"))
    options = json.loads((tmp_path / "ends" / "tokenizer_config.json").read_text())
    begin, end = (ends.tokens()[options[key]] for key in ("bos_token", "eos_token"))
    for text in (TEXTS[0], "river, plain", "A"):
        [without], [got] = plain([text]).ids, ends([text]).ids
        rest = without.tolist()
        rest = rest[1:] if rest[:1] == [begin] else rest
        assert got.tolist() == [begin, *rest, end], text
    assert ends.applied["add_eos_token"] is True


CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    *(
        (kind, {"tokenizer_class": stated})
        for kind in (
            "AlbertTokenizer", "BertTokenizer", "CLIPTokenizer", "GPT2Tokenizer", "LlamaTokenizer",
            "NougatTokenizer", "OpenAIGPTTokenizer", "T5Tokenizer", "XLMRobertaTokenizer", "XLNetTokenizer",
        )
        for stated in (
            "BertTokenizerFast", "GPT2TokenizerFast", "LlamaTokenizer", "RobertaTokenizer", "T5Tokenizer",
            "XLMRobertaTokenizerFast",
        )
    ),
    *(
        (kind, {key: token})
        for kind in ("BertTokenizer", "MPNetTokenizer", "RobertaTokenizer", "BartTokenizer", "Qwen2Tokenizer",
                     "XLMRobertaTokenizer", "T5Tokenizer", "LlamaTokenizer")
        for key in ("cls_token", "sep_token", "unk_token", "mask_token", "bos_token", "eos_token")
        for token in ("[NEW]", "<s>", None)
    ),
    ("Qwen2Tokenizer", {"additional_special_tokens": ["[QRY]", "<ent>"], "extra_special_tokens": ["[NEW]"]}),
    ("XLMRobertaTokenizer", {"add_prefix_space": None}),
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in CONTRADICTIONS}))
def test_a_file_that_its_class_or_tokens_contradict(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Converted or refused: never read as the file says."""
    wrong = []
    for place, options in enumerate(options for one, options in CONTRADICTIONS if one == kind):
        _variant(folders[kind], tmp_path / str(place), options, bare=True)
        try:
            _compare(tmp_path / str(place))
        except AssertionError as error:
            wrong.append(f"{options}: {str(error)[:200]}")
    assert not wrong, "\n".join(wrong)


def test_ends_that_contradict_the_file_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "t"
    _variant(folders["BertTokenizer"], target, {"add_eos_token": True, "eos_token": "</s>"}, bare=False)
    with pytest.raises(EncoderError, match=r"add_eos_token = true, and tokenizer\.json adds '\[SEP\]' there"):
        TextTokenizer(ModelFiles(folder=target, name="t"), None)


def test_what_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for place, (options, words) in enumerate(
        (
            ({"tokenizer_class": "PhobertTokenizer"}, "PhobertTokenizer, which is a program in Python"),
            ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer, which is a program"),
            ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "brings a tokenizer of its own"),
            ({"added_tokens_decoder": {}, "additional_special_tokens": []}, ""),
        )
    ):
        target = tmp_path / str(place)
        shutil.copytree(folders["BertTokenizer"], target)
        path = target / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
        if not words:
            assert _compare(target) == "equal"
            continue
        with pytest.raises(EncoderError, match=words):
            TextTokenizer(ModelFiles(folder=target, name="t"), None)
    path.write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"9999": {"content": "x"}}})
    )
    with pytest.raises(EncoderError, match="'x' should have id 9999"):
        TextTokenizer(ModelFiles(folder=target, name="t"), None)


def test_what_changes_ids_is_told_and_nothing_else(folders: dict[str, Path], tmp_path: Path) -> None:
    """What goes into the contract: nothing where the files agree, so that contracts stay as they are."""
    for place, (options, applied) in enumerate(
        (
            ({}, set()),
            ({"do_lower_case": True}, set()),
            ({"do_lower_case": False}, {"lowercase"}),
            ({"tokenize_chinese_chars": False}, {"handle_chinese_chars"}),
            ({"added_tokens.json": {"[NEW]": 0}}, {"added_tokens"}),
            ({"split_special_tokens": True}, {"split_special_tokens"}),
        )
    ):
        _variant(folders["BertTokenizer"], tmp_path / str(place), options, bare=False)
        found = TextTokenizer(ModelFiles(folder=tmp_path / str(place), name="t"), None)
        assert set(found.applied) == applied, options


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"model": {"type": "WordPiece", "vocab": [1, 2], "unk_id": 0}}',
        '{"model": {"type": ["x"]}}',
        '{"model": {"unk_id": -5, "vocab": []}}',
        '{"model": {"vocab": [{}], "unk_id": 0}}',
        '{"normalizer": '
        + '{"normalizers": [' * 900
        + "{}"
        + "]}" * 900
        + ', "model": {"type": "WordPiece"}}',
        '{"normalizer": {"pattern": 5, "normalizers": 7}, "model": {}}',
        '{"model": {"type": "WordPiece"}, "post_processor": {"single": [{"SpecialToken": 5}]}}',
        '{"model": {}, "post_processor": {"cls": [1, 2], "sep": {}}}',
    ],
    ids=lambda text: text[:40],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "XLMRobertaTokenizer", "LlamaTokenizer", "Qwen2Tokenizer"])
def test_a_file_of_odd_values_is_one_error(
    text: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["BertTokenizer"], tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text(text)
    options = {"tokenizer_class": kind, "unk_token": "x", "cls_token": ["a"], "sep_token": 5}
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(EncoderError, match="tokenizer"):
        TextTokenizer(ModelFiles(folder=tmp_path / "t", name="t"), None)
