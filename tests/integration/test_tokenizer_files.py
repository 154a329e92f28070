"""Token ids are AutoTokenizer's: a folder of every tokenizer class that transformers maps, with each option.

A folder that isn't read here alike must be refused with an EncoderError; ids that differ are the one thing
that may not happen.
"""

from __future__ import annotations

import base64
import importlib
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from esembed.encode.models.folder import ModelFiles
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.encode.models.tokenizer_classes import (
    BY_MODEL_TYPE,
    CLASS_WINS,
    CLASSES,
    FILE_WINS,
    PYTHON_ONLY,
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
    # byte-level classes want a vocabulary of bytes, SentencePiece's one with a token for each byte
    if name == "BPE":
        pieces = kind in ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
        attempts.sort(key=lambda one: ("<0x00>" if pieces else "Ġ") not in dict(one["vocab"]))
    for arguments in attempts:
        try:
            made = found(**arguments)
            for text in TEXTS:
                made(text)
        except Exception:  # noqa: BLE001 - a class that takes another form of vocabulary
            continue
        return made
    return None


MAPPED = {str(one).removesuffix("Fast") for one in auto.TOKENIZER_MAPPING_NAMES.values() if one}
NAMES = sorted((MAPPED | set(CLASSES)) - {"MistralCommonBackend", ""})
WORDPIECE = sorted(name for name, kind in CLASSES.items() if kind.model == "WordPiece")
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
    for kind in NAMES:
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


def _compare(folder: Path, *, alone: bool = False) -> str:
    """``equal`` or ``refused``; fails where ids differ. *alone* reads it without transformers."""
    try:
        oracle = transformers.AutoTokenizer.from_pretrained(str(folder))
        wanted = [oracle(text)["input_ids"] for text in TEXTS]
    except Exception:  # noqa: BLE001 - what transformers can't read isn't compared
        wanted = None
    with pytest.MonkeyPatch.context() as patch:
        if alone:
            patch.setitem(sys.modules, "transformers", None)
        try:
            ours = TextTokenizer(ModelFiles(folder=folder, name=folder.name), None)
            got = [ids.tolist() for ids in ours(TEXTS).ids]
        except EncoderError:
            return "refused"
    if wanted is None:
        return "no oracle"
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
    for kind in sorted(PYTHON_ONLY):
        found = auto.tokenizer_class_from_name(kind)
        if isinstance(found, type) and "dummy" not in found.__module__:
            assert not issubclass(found, backend), kind
    for kind in sorted(set(CLASSES) - {"", "PreTrainedTokenizer"}):
        found = auto.tokenizer_class_from_name(kind)
        if isinstance(found, type):
            assert issubclass(found, backend), kind


@pytest.mark.parametrize("kind", WORDPIECE)
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


@pytest.mark.parametrize("model_type", sorted(BY_MODEL_TYPE))
def test_a_folder_that_names_no_class(model_type: str, folders: dict[str, Path], tmp_path: Path) -> None:
    kind = BY_MODEL_TYPE[model_type]
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


@pytest.mark.parametrize("model_type", sorted(FILE_WINS))
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


# -- at random -----------------------------------------------------------------------------------

FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "keep_accents",
         "remove_space", "split_special_tokens", "do_basic_tokenize", "clean_up_tokenization_spaces",
         "legacy", "trim_offsets", "split_by_punct")  # fmt: skip
FLAGGED = {"content": "[SEP]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False,
           "__type": "AddedToken"}  # fmt: skip


def _random_options(pick: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {key: pick.choice([True, False, None]) for key in FLAGS if pick.random() < 0.25}

    def maybe(chance: float, key: str, *values: Any) -> None:
        if pick.random() < chance:
            found[key] = pick.choice(values)

    maybe(0.15, "additional_special_tokens", ["[QRY]"], ["[QRY]", "<ent>"], [], None, [FLAGGED])
    maybe(0.1, "extra_special_tokens", {"q_token": "[QRY]"}, ["[QRY]"], {}, [], None)
    maybe(0.1, "image_token", "[QRY]", "plain", None, 3)
    maybe(0.05, "extra_ids", 0, 5, 100)
    words = ("ENT", "<ent>", "plain", "word", "[SEP]", "</s>")
    if pick.random() < 0.15:
        found["added_tokens_decoder"] = {
            "A": ("[NEW]", pick.random() < 0.5), "B": (pick.choice(words), pick.random() < 0.5)
        }  # fmt: skip
    else:
        maybe(0.15, "added_tokens.json", {"[NEW]": 0, "<ent>": 1}, {"[QRY]": 0})
    maybe(0.1, "tokenizer_class", "PreTrainedTokenizerFast", "BertTokenizerFast", "NobodysTokenizer",
          "LlamaTokenizer", "XLMRobertaTokenizerFast", "RobertaTokenizer", "GPT2TokenizerFast", "T5Tokenizer",
          "TokenizersBackend", "Qwen2Tokenizer", "DebertaV2TokenizerFast", None)  # fmt: skip
    for key in ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token", "bos_token", "eos_token"):
        maybe(0.03, key, "[NEW]", "<s>", "[CLS]", FLAGGED, None, "plain")
    return found


def _edit(folder: Path, pick: random.Random) -> str:
    """A tokenizer.json as other versions write it, or somebody by hand; what was done."""
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    model, steps = stored["model"], stored.get("pre_tokenizer") or {}
    done = pick.choice(("no ends", "unknown", "no type", "flags", "list", "old space", "unclean", "no steps"))
    if done == "no ends":
        stored["post_processor"] = None
    elif done == "unknown":
        model["unk_token"] = pick.choice(["[UNK]", "<unk>", "plain"])
    elif done == "no type":
        model.pop("type", None)
    elif done == "flags" and stored["added_tokens"]:
        pick.choice(stored["added_tokens"]).update(lstrip=True)
    elif done == "list" and stored["added_tokens"]:
        stored["added_tokens"].remove(pick.choice(stored["added_tokens"]))
    elif done == "old space":
        for one in [steps, *(steps.get("pretokenizers") or ())]:
            if one.get("type") == "Metaspace":
                one.update(add_prefix_space=one.pop("prepend_scheme", "always") != "never", str_rep="▁")
                one.pop("split", None)
    elif done == "unclean" and (stored.get("normalizer") or {}).get("type") == "BertNormalizer":
        stored["normalizer"]["clean_text"] = False
    elif done == "no steps":
        stored[pick.choice(["normalizer", "pre_tokenizer"])] = None
    path.write_text(json.dumps(stored))
    return done


def _of_another_class(folder: Path, options: dict[str, Any], model_type: str) -> bool:
    """Whether only the model's type implies a class, and tokenizer.json has another kind of vocabulary."""
    stated = str(options.get("tokenizer_class") or "PreTrainedTokenizerFast")
    implied = CLASSES.get(CLASS_WINS.get(model_type) or BY_MODEL_TYPE.get(model_type) or "")
    if stated not in ("PreTrainedTokenizerFast", "TokenizersBackend") or implied is None or not implied.model:
        return False
    if "tokenizer_class" in options and model_type not in CLASS_WINS:
        return False
    return implied.model != json.loads((folder / "tokenizer.json").read_text())["model"].get("type")


def _stands(folder: Path) -> bool:
    """Whether a folder's tokenizer.json is read as it stands. transformers 5 puts the implied class's steps
    around a vocabulary that isn't made for them; the models were trained with the file."""
    found = TextTokenizer(ModelFiles(folder=folder, name="t"), None)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [text for text in TEXTS if not any(token in text for token in found.tokens() if len(token) > 3)]
    return [one.tolist() for one in found(texts).ids] == [plain.encode(text).ids for text in texts]


@pytest.mark.parametrize("alone", [False, True], ids=["converting", "alone"])
@pytest.mark.parametrize("seed", range(3))
def test_random_folders(seed: int, alone: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    pick = random.Random(seed)
    wrong, counts = [], Counter[str]()
    types = sorted({*BY_MODEL_TYPE, *FILE_WINS, *CLASS_WINS, "albert", "nobody"})
    for number in range(250):
        kind, options = pick.choice(sorted(folders)), _random_options(pick)
        target = tmp_path / str(number)
        _variant(folders[kind], target, options, bare=pick.random() < 0.5)
        edit = _edit(target, pick) if pick.random() < 0.3 else ""
        config = json.loads((target / "tokenizer_config.json").read_text())
        if pick.random() < 0.1:
            config.pop("tokenizer_class", None)
        if pick.random() < 0.1:
            keys = ("mask_token", "pad_token", "additional_special_tokens")
            moved = {key: config.pop(key) for key in keys if key in config}
            (target / "special_tokens_map.json").write_text(json.dumps(moved))
        (target / "tokenizer_config.json").write_text(json.dumps(config))
        model = {"model_type": pick.choice(types)} if pick.random() < 0.15 else {}
        (target / "config.json").write_text(json.dumps(model))
        if _of_another_class(target, config, model.get("model_type", "")):
            counts["as it stands"] += _stands(target)
            continue
        try:
            counts[_compare(target, alone=alone)] += 1
        except AssertionError as error:
            wrong.append(f"{kind} {model} {edit}: {options}: {str(error)[:200]}")
        shutil.rmtree(target)
    assert not wrong, "\n".join(wrong)
    assert counts["equal"] > (70 if alone else 120), counts


# -- files as they were published ----------------------------------------------------------------


def _charsmap(characters: str = "\t\n\r") -> str:
    """SentencePiece's character map (a double array of tries, then the texts) that makes spaces of these."""
    units = [0] * 1024
    for place, character in enumerate(characters):
        offset = 256 * (place + 1)
        units[ord(character)] = ord(character) | (1 << 8) | (offset << 10)
        units[ord(character) ^ offset] = 0  # the text at 0
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + b" \0").decode()


MAP = {"type": "Precompiled", "precompiled_charsmap": _charsmap()}
RUNS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
OLD_SPACE = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁"}
NEW_SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
UNIGRAMS: list[tuple[Any, Any]] = [
    (MAP, {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, OLD_SPACE]}),
    ({"type": "Sequence", "normalizers": [MAP, RUNS]}, OLD_SPACE),
    (
        {
            "type": "Sequence",
            "normalizers": [MAP, {"type": "Strip", "strip_left": False, "strip_right": True}, RUNS],
        },
        NEW_SPACE,
    ),
    (MAP, NEW_SPACE),
]
LLAMA_2 = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
PUBLISHED = [
    *(
        (kind, {"normalizer": normalizer, "pre_tokenizer": steps})
        for kind in ("XLMRobertaTokenizer", "CamembertTokenizer", "T5Tokenizer")
        for normalizer, steps in UNIGRAMS
    ),
    ("LlamaTokenizer", {"normalizer": LLAMA_2, "pre_tokenizer": None}),
    ("GemmaTokenizer", {"pre_tokenizer": None}),
    (
        "RobertaTokenizer",
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}},
    ),
    (
        "BertTokenizer",
        {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "lowercase": True,
            }
        },
    ),
]


@pytest.mark.parametrize(("kind", "parts"), PUBLISHED, ids=lambda one: one if isinstance(one, str) else "")
def test_files_as_older_versions_write_them(
    kind: str, parts: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """Ids are AutoTokenizer's without transformers, too; what an index stores of it is as it was."""
    _variant(folders[kind], tmp_path / "t", {}, bare=True)
    path = tmp_path / "t" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    assert _compare(tmp_path / "t", alone=True) == "equal"
    assert TextTokenizer(ModelFiles(folder=tmp_path / "t", name="t"), None).applied == {}


@pytest.mark.parametrize("kind", sorted(set(CLASSES) - {"", "PreTrainedTokenizer", "RetriBertTokenizer"}))
def test_known_classes_need_no_transformers(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for place, options in enumerate(({}, {"do_lower_case": False}, {"additional_special_tokens": ["[QRY]"]})):
        for bare in (False, True):
            target = tmp_path / f"{place}{bare}"
            _variant(folders[kind], target, options, bare=bare)
            alone = _compare(target, alone=True)
            # DebertaV2's own lower-casing is a step that its file lacks
            assert alone == "equal" or (kind == "DebertaV2Tokenizer" and options), (options, bare)


def test_a_token_that_the_model_has_no_row_for_stays_text(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = len(_wordpiece())
    options = {"pad_token": "[NEW]", "image_token": "[QRY]"}
    for size, known in ((rows, []), (rows + 1, ["[NEW]"]), (rows + 2, ["[NEW]", "[QRY]"])):
        target = tmp_path / str(size)
        _variant(folders["BertTokenizer"], target, options, bare=True)
        (target / "config.json").write_text(json.dumps({"vocab_size": size}))
        found = TextTokenizer(ModelFiles(folder=target, name="t", config={"vocab_size": size}), None)
        assert [token for token in ("[NEW]", "[QRY]") if token in found.tokens()] == known
        assert found.applied == {}
        assert max(max(ids) for ids in found(TEXTS).ids) < size


def test_a_text_that_the_vocabulary_has_nothing_for(folders: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "t"
    _variant(folders["TokenizersBackend"], target, {"tokenizer_class": "PreTrainedTokenizerFast"}, bare=True)
    path = target / "tokenizer.json"
    stored = json.loads(path.read_text())
    model = {"type": "WordLevel", "vocab": {"river": 0}, "unk_token": "[UNK]"}
    stored.update(model=model, added_tokens=[], pre_tokenizer={"type": "Whitespace"}, normalizer=None)
    stored["post_processor"] = None
    path.write_text(json.dumps(stored))
    (target / "tokenizer_config.json").write_text("{}")
    tokenizer = TextTokenizer(ModelFiles(folder=target, name="t"), None)
    assert tokenizer(["river river"]).ids[0].tolist() == [0, 0]
    with pytest.raises(EncoderError, match="t: its tokenizer can't read a text"):
        tokenizer(["river stone"])


def test_ends_are_the_class_s(folders: dict[str, Path], tmp_path: Path) -> None:
    """A file whose post-processor adds nothing: its class does, and the contract says so."""
    target = tmp_path / "t"
    _variant(folders["BertTokenizer"], target, {}, bare=True)
    path = target / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    assert _compare(target, alone=True) == "equal"
    found = TextTokenizer(ModelFiles(folder=target, name="t"), None)
    assert found.applied == {"ends": ["[CLS]", "[SEP]"]}


def test_a_class_of_another_vocabulary_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    _variant(folders["GPT2Tokenizer"], tmp_path / "t", {"tokenizer_class": "BertTokenizerFast"}, bare=True)
    with pytest.raises(
        EncoderError, match=r"works on a WordPiece vocabulary, and its tokenizer\.json holds a BPE"
    ):
        TextTokenizer(ModelFiles(folder=tmp_path / "t", name="t"), None)
    _variant(
        folders["GPT2Tokenizer"], tmp_path / "u", {"tokenizer_class": "PreTrainedTokenizerFast"}, bare=True
    )
    assert _compare(tmp_path / "u") == "equal"


@pytest.mark.parametrize(
    "model_type", ["roberta", "mpnet", "camembert", "xlm-roberta", "qwen2", "qwen3", "gpt2"]
)
@pytest.mark.parametrize("stated", [None, "PreTrainedTokenizerFast"])
def test_a_class_that_only_the_model_s_type_implies(
    model_type: str, stated: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A file that can't be of that class stands as it is, its own ends around a text."""
    _variant(folders["BertTokenizer"], tmp_path / "t", {}, bare=True)
    path = tmp_path / "t" / "tokenizer_config.json"
    options = json.loads(path.read_text())
    options.pop("tokenizer_class", None)
    path.write_text(json.dumps(options | ({"tokenizer_class": stated} if stated else {})))
    (tmp_path / "t" / "config.json").write_text(json.dumps({"model_type": model_type}))
    found = TextTokenizer(ModelFiles(folder=tmp_path / "t", name="t"), None)
    plain = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    for text in ("river stone", "How do I reset my password?", ""):
        assert found([text]).ids[0].tolist() == plain.encode(text).ids
    assert found.applied == {}


def test_a_class_that_is_stated_is_not_overruled(folders: dict[str, Path], tmp_path: Path) -> None:
    _variant(folders["BertTokenizer"], tmp_path / "t", {"tokenizer_class": "RobertaTokenizerFast"}, bare=True)
    (tmp_path / "t" / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(EncoderError, match="works on a BPE vocabulary"):
        TextTokenizer(ModelFiles(folder=tmp_path / "t", name="t"), None)
