"""What transformers' tokenizer classes make of a folder, for the classes that are known here exactly.

A class of transformers 5 takes the vocabulary out of tokenizer.json and builds the steps around it anew, from
the options in tokenizer_config.json and its own defaults; the steps in the file count for some classes only.
:func:`fit` brings a file's steps to what its class makes. Where the file is of another kind than its class it
says so, and doesn't guess: transformers 4 reads such a file as it stands, transformers 5 gives other ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esembed.encode.foreign_errors import shown

__all__ = [
    "BY_MODEL_TYPE",
    "CLASSES",
    "CLASS_WINS",
    "FILE_WINS",
    "NAMED",
    "PYTHON_ONLY",
    "TokenizerClass",
    "content",
    "fit",
    "is_byte_level",
    "model_kind",
    "normalizer_options",
]

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The tokens that every class has an option for, in the order in which transformers adds them."""

Steps = list[dict[str, Any]]


@dataclass(slots=True)
class Parts:
    """A tokenizer.json in parts, which a class's shape changes to what the class makes.

    Attributes:
        model: its vocabulary with the settings of that.
        normalizers: the steps on a text.
        steps: the pre-tokenizers, which cut it into words.
        options: tokenizer_config.json.
        applied: takes what was changed by an option and has an effect on ids, for the contract.
    """

    model: dict[str, Any]
    normalizers: Steps
    steps: Steps
    options: Mapping[str, Any]
    applied: dict[str, Any]


Shape = Callable[[Parts], str | None]
"""Returns what isn't as the class has it, or None."""


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """A class that is known exactly.

    Attributes:
        model: the kind of its vocabulary, as tokenizer.json calls it; empty: the file counts as it stands.
        shape: brings the steps of a file to the class's own; None for those of the file.
        tokens: the named tokens that it has where the options name none.
        ends: keys of the tokens that it puts before and after a text; None where the file's post-processor
            counts.
        extra: further special tokens that it has where the options list none.
        flags: the flags that it gives a named token which isn't in the list of added tokens, by its key; the
            empty key stands for all others.
        plain: it adds all special tokens once more, without flags.
        turned: values of ``add_prefix_space`` with which it is converted by transformers: some make other
            word starts, which the file doesn't show.
        stated: the contract holds the options as they are stated, since this class was once converted by
            transformers always.
    """

    model: str = ""
    shape: Shape | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str | None, str | None] | None = None
    extra: tuple[str, ...] = ()
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    plain: bool = False
    turned: tuple[Any, ...] = ()
    stated: bool = False

    def turns(self, options: Mapping[str, Any]) -> bool:
        """Whether *options* turn the blank before words off, which is converted by transformers."""
        return "add_prefix_space" in options and options["add_prefix_space"] in self.turned


def content(token: Any) -> str | None:
    """The text of a token as the options state it: a string, or an object with its flags; None for none."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) and value else None


def _named(key: str, known: Mapping[str, str], options: Mapping[str, Any]) -> str | None:
    return content(options[key]) if key in options else known.get(key)


def fit(
    stored: dict[str, Any], kind: TokenizerClass, options: Mapping[str, Any], applied: dict[str, Any]
) -> str | None:
    """Bring *stored*, a tokenizer.json, to what its class makes of it.

    Args:
        stored: changed in place; its model is of the class's kind.
        options: tokenizer_config.json.
        applied: takes what was changed by an option and has an effect on ids.

    Returns:
        What the file has that the class doesn't, in words, or None where it fits.
    """
    if kind.shape is None:
        return None
    before = [_flat(stored.get("normalizer"), "normalizers")]
    before.append(_flat(stored.get("pre_tokenizer"), "pretokenizers"))
    known = {"unk_token": _named("unk_token", kind.tokens, options)}
    normalizers, steps = ([dict(one) for one in part] for part in before)
    parts = Parts(stored["model"], normalizers, steps, {**options, **known}, applied)
    reason = kind.shape(parts)
    if reason is None:
        # what is as the class has it stays as it is written: the file may be large, and is then read as it is
        if parts.normalizers != before[0]:
            stored["normalizer"] = _one(parts.normalizers, "normalizers")
        if parts.steps != before[1]:
            stored["pre_tokenizer"] = _one(parts.steps, "pretokenizers")
    return reason


def model_kind(stored: Mapping[str, Any]) -> str:
    """The model of a tokenizer.json (``BPE`` …), which files of before tokenizers 0.9 don't state."""
    model = stored["model"]
    if model.get("type"):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _flat(step: Any, key: str) -> Steps:
    if step is None:
        return []
    if not isinstance(step, dict):
        raise TypeError(f"a step of tokenizer.json is {shown(step)}")
    return (
        [one for part in step[key] for one in _flat(part, key)] if step.get("type") == "Sequence" else [step]
    )


def _one(steps: Steps, key: str) -> dict[str, Any] | None:
    return {"type": "Sequence", key: steps} if len(steps) > 1 else (steps[0] if steps else None)


def _kinds(steps: Steps) -> list[str]:
    return [str(step.get("type")) for step in steps]


def _told(file: Parts) -> str:
    kinds = [*_kinds(file.normalizers), *_kinds(file.steps)]
    return f"tokenizer.json has the steps {shown(kinds)}, which aren't those of its class"


def is_byte_level(stored: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json works on bytes, as GPT-2's does and SentencePiece's don't."""
    found = [*_flat(stored.get("pre_tokenizer"), "pretokenizers"), *_flat(stored.get("decoder"), "decoders")]
    return "ByteLevel" in _kinds(found)


# -- the kinds of vocabulary ---------------------------------------------------------------------


def _wordpiece(file: Parts) -> str | None:
    """BERT's (Devlin et al. 2019): the normalizer follows three options, which are taken as their defaults
    where they are absent, whatever tokenizer.json says."""
    if _kinds(file.normalizers) != ["BertNormalizer"] or _kinds(file.steps) != ["BertPreTokenizer"]:
        return _told(file)
    odd = (
        file.normalizers[0].get("clean_text", True) is not True
        or file.model.get("continuing_subword_prefix", "##") != "##"
        or file.model.get("max_input_chars_per_word", 100) != 100
    )
    if odd:
        return "tokenizer.json sets clean_text, continuing_subword_prefix or max_input_chars_per_word"
    for key, value in normalizer_options(file.options).items():
        # older files leave a key out where it has this default
        if file.normalizers[0].get(key, {"strip_accents": None}.get(key, True)) != value:
            file.applied[key] = file.normalizers[0][key] = value
    unknown = file.options.get("unk_token")
    if unknown not in file.model.get("vocab", ()):
        return f"its vocabulary lacks the unknown token {shown(unknown)}"
    if file.model.get("unk_token") != unknown:
        file.applied["unk_token"] = file.model["unk_token"] = unknown
    return None


def normalizer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """BERT's three options by their names in tokenizer.json; the defaults are the class's own."""
    chinese, accents = options.get("tokenize_chinese_chars", True), options.get("strip_accents")
    return {
        "handle_chinese_chars": bool(chinese),
        "strip_accents": None if accents is None else bool(accents),
        "lowercase": bool(options.get("do_lower_case", True)),
    }


def _odd_bpe(model: Mapping[str, Any], *, byte_fallback: bool, fuse: bool | None) -> bool:
    return bool(
        model.get("dropout")
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
        or model.get("ignore_merges")
        or bool(model.get("byte_fallback")) != byte_fallback
        or (fuse is not None and bool(model.get("fuse_unk")) != fuse)
    )


_ODD = "the model in tokenizer.json has settings that aren't those of its class"


def _byte_level(*before: dict[str, Any]) -> Shape:
    """Byte-level BPE (Radford et al. 2019): ``add_prefix_space`` of the options counts, and is false where it
    is absent. *before* stand before the step on bytes."""

    def shape(file: Parts) -> str | None:
        normal, cuts = ["NFC"] if before else [], [*_kinds(list(before)), "ByteLevel"]
        if _kinds(file.normalizers) != normal or _kinds(file.steps) != cuts:
            return _told(file)
        last = file.steps[-1]
        same = all(
            {k: one.get(k) for k in expected} == expected
            for one, expected in zip(file.steps, before, strict=False)
        )
        if not same or bool(last.get("use_regex", True)) is bool(before):
            return _told(file)
        # without an unknown token a byte that the vocabulary lacks is left out
        if file.model.get("unk_token") is not None and not _BYTES.issubset(file.model.get("vocab", ())):
            return _ODD
        if _odd_bpe(file.model, byte_fallback=False, fuse=None):
            return _ODD
        space = bool(file.options.get("add_prefix_space", False))
        if last.get("add_prefix_space", True) is not space:
            last["add_prefix_space"] = file.applied["add_prefix_space"] = space
        return None

    return shape


def _alphabet() -> frozenset[str]:
    """The 256 characters that stand for bytes: printable ones for themselves, the rest from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return frozenset(chr(n) for n in plain) | frozenset(chr(0x100 + n) for n in range(256 - len(plain)))


_BYTES = _alphabet()
_NFC = {"type": "NFC"}
_QWEN_SPLIT = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
"""Qwen2's words, as its published tokenizer.json has them: GPT-4's, with numbers cut into digits."""

_SPACE = "▁"


def _metaspace(scheme: str, *, split: bool) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": split}


def _same_metaspace(step: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    # before tokenizers 0.15 the scheme was a flag, and each word was split
    scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
    return (
        step.get("replacement") == _SPACE
        and scheme == wanted["prepend_scheme"]
        and bool(step.get("split", True)) is wanted["split"]
    )


def _unigram(unknown: int | None) -> Shape:
    """SentencePiece's unigrams (Kudo 2018) with its character map, cut at white space.

    Args:
        unknown: the id of the unknown token; None for where the vocabulary has it.
    """

    def shape(file: Parts) -> str | None:
        # transformers has converted SentencePiece files in three ways since 2020: with a cut at white space;
        # with runs of spaces replaced instead; with blanks at the end removed, too. Its class in version 5
        # makes the first of all of them. They differ in texts that end in a blank, which is a token of its
        # own in the second.
        charsmap = [step for step in file.normalizers if step.get("type") == "Precompiled"][:1]
        rest = [step for step in file.normalizers if step.get("type") != "Precompiled"]
        wanted = [{"type": "WhitespaceSplit"}, _metaspace("always", split=True)]
        known = all(_is_blank_step(step) for step in rest) and (not rest or charsmap)
        if not known or len(charsmap) + len(rest) != len(file.normalizers):
            return _told(file)
        if _kinds(file.steps) not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]):
            return _told(file)
        if not _same_metaspace(file.steps[-1], wanted[1]) or (len(file.steps) == 1 and not charsmap):
            return _told(file)
        if rest or len(file.steps) == 1:
            file.normalizers, file.steps = charsmap, wanted
        vocabulary = file.model.get("vocab") or []
        place = unknown
        if place is None:
            names = (i for i, entry in enumerate(vocabulary) if entry[0] == file.options.get("unk_token"))
            place = next(names, 0)
        if file.model.get("unk_id") != place or file.model.get("byte_fallback"):
            return _ODD
        return None

    return shape


def _is_blank_step(step: Mapping[str, Any]) -> bool:
    kind = step.get("type")
    if kind == "Strip":
        return True
    pattern = step.get("pattern")
    runs = isinstance(pattern, dict) and pattern.get("Regex") == " {2,}"
    return kind == "Replace" and runs and step.get("content") in (" ", _SPACE)


def _deberta(file: Parts) -> str | None:
    lower = [{"type": "Lowercase"}] if file.options.get("do_lower_case") else []
    wanted = [
        *lower,
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
        _NFC,
        {"type": "Strip", "strip_left": False, "strip_right": True},
    ]
    punctuation = {"type": "Punctuation", "behavior": "Isolated"}
    cuts = [punctuation] if file.options.get("split_by_punct") else []
    scheme = "always" if file.options.get("add_prefix_space", True) else "first"
    last = _metaspace(scheme, split=True)
    if file.normalizers != wanted or file.steps[:-1] != cuts or _kinds(file.steps)[-1:] != ["Metaspace"]:
        return _told(file)
    unknown = [file.options.get("unk_token"), 0.0]
    vocabulary = file.model.get("vocab") or []
    place = vocabulary.index(unknown) if unknown in vocabulary else file.options.get("unk_id", 1)
    if file.model.get("unk_id") != place or file.model.get("byte_fallback"):
        return _ODD
    return None if _same_metaspace(file.steps[-1], last) else _told(file)


def _llama(file: Parts) -> str | None:
    """SentencePiece's BPE with bytes for what it doesn't know (Touvron et al. 2023)."""
    if _odd_bpe(file.model, byte_fallback=True, fuse=True) or not _RAW.issubset(file.model.get("vocab", ())):
        return _ODD
    wanted = _metaspace("always" if file.options.get("legacy", False) else "first", split=False)
    # Llama 2's published file writes the blank before a text in its normalizer; the class of transformers 5
    # does so in a step of its own, which adds none where the text begins with a blank.
    if file.normalizers == _LLAMA_2 and not file.steps:
        file.normalizers, file.steps = [], [wanted]
        return None
    if file.normalizers or _kinds(file.steps) != ["Metaspace"] or not _same_metaspace(file.steps[0], wanted):
        return _told(file)
    return None


_RAW = frozenset(f"<0x{n:02X}>" for n in range(256))
_LLAMA_2 = [
    {"type": "Prepend", "prepend": _SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
]


def _gemma(file: Parts) -> str | None:
    if _odd_bpe(file.model, byte_fallback=True, fuse=True) or not _RAW.issubset(file.model.get("vocab", ())):
        return _ODD
    if file.normalizers != _LLAMA_2[1:]:
        return _told(file)
    # the normalizer leaves no space to split at
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return None if file.steps in ([], [split]) else _told(file)


# -- the classes ---------------------------------------------------------------------------------

_BERT_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}  # fmt: skip
_ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
    "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
_END = "<|endoftext|>"
_LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

_BERT = TokenizerClass("WordPiece", _wordpiece, _BERT_TOKENS, ("cls_token", "sep_token"))
_ROBERTA = TokenizerClass("BPE", _byte_level(), _ROBERTA_TOKENS, ("cls_token", "sep_token"))
_FILE = TokenizerClass()

CLASSES: Mapping[str, TokenizerClass] = {
    **dict.fromkeys(
        (
            "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer",
            "MobileBertTokenizer", "RetriBertTokenizer", "SqueezeBertTokenizer",
        ),
        _BERT,
    ),
    "MPNetTokenizer": TokenizerClass(
        "WordPiece", _wordpiece, {**_ROBERTA_TOKENS, "unk_token": "[UNK]"}, ("cls_token", "sep_token"),
        flags={"": {"normalized": True}, "mask_token": {"normalized": True, "lstrip": True}},
    ),
    **dict.fromkeys(("BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "RobertaTokenizer"), _ROBERTA),
    "DebertaTokenizer": TokenizerClass(
        "BPE", _byte_level(), {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"},
        ("cls_token", "sep_token"), stated=True,
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        "Unigram", _deberta, {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"},
        ("cls_token", "sep_token"), stated=True,
    ),
    "GPT2Tokenizer": TokenizerClass(
        "BPE", _byte_level(), {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    ),
    "Qwen2Tokenizer": TokenizerClass(
        "BPE", _byte_level(_QWEN_SPLIT), {"eos_token": _END, "unk_token": _END, "pad_token": _END},
        plain=True,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", _unigram(3), _ROBERTA_TOKENS, ("bos_token", "eos_token"), turned=(False, None),
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram", _unigram(None), _ROBERTA_TOKENS, ("bos_token", "eos_token"), turned=(False, None),
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"), flags={"mask_token": {"lstrip": True}},
    ),
    "T5Tokenizer": TokenizerClass(
        "Unigram", _unigram(2), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        (None, "eos_token"), turned=(False,), extra=tuple(f"<extra_id_{n}>" for n in range(100)),
    ),
    "LlamaTokenizer": TokenizerClass("BPE", _llama, _LLAMA_TOKENS, turned=(False,)),
    "GemmaTokenizer": TokenizerClass(
        "BPE", _gemma,
        {
            "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        turned=(False,),
    ),
    "PreTrainedTokenizer": _FILE, "TokenizersBackend": _FILE, "": _FILE,
}  # fmt: skip
"""The classes by their names without ``Fast``. The empty name is a folder whose tokenizer.json counts as it
stands. Tests compare ids with those of transformers' AutoTokenizer over generated folders of each."""

PYTHON_ONLY = frozenset(
    {
        "BartphoTokenizer", "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertweetTokenizer",
        "BioGptTokenizer", "BlenderbotSmallTokenizer", "ByT5Tokenizer", "CTRLTokenizer", "CanineTokenizer",
        "ClvpTokenizer", "CpmAntTokenizer", "EsmTokenizer", "FSMTTokenizer", "FlaubertTokenizer",
        "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "M2M100Tokenizer", "MarianTokenizer",
        "MyT5Tokenizer", "PerceiverTokenizer", "PhobertTokenizer", "ProphetNetTokenizer", "RoCBertTokenizer",
        "SiglipTokenizer", "TapasTokenizer", "XLMTokenizer",
    }
)  # fmt: skip
"""Programs in Python, some around other packages (MeCab, VnCoreNLP's output, sacremoses). A tokenizer.json
beside them is somebody's approximation: transformers doesn't read it, either."""

BY_MODEL_TYPE = {
    "bert": "BertTokenizer", "convbert": "BertTokenizer", "distilbert": "BertTokenizer",
    "electra": "BertTokenizer", "ernie": "BertTokenizer", "megatron-bert": "BertTokenizer",
    "mobilebert": "MobileBertTokenizer", "nomic_bert": "BertTokenizer",
    "squeezebert": "BertTokenizer", "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer", "longformer": "RobertaTokenizer", "bart": "RobertaTokenizer",
    "data2vec-text": "RobertaTokenizer", "roberta-prelayernorm": "RobertaTokenizer",
    "deberta": "DebertaTokenizer", "deberta-v2": "DebertaV2Tokenizer",
    "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "opt": "GPT2Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer",
    "gte": "XLMRobertaTokenizer", "jina_embeddings_v3": "XLMRobertaTokenizer",
    "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer", "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer", "t5gemma": "GemmaTokenizer",
    "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer", "t5": "T5Tokenizer", "mt5": "T5Tokenizer", "llama": "",
}  # fmt: skip
"""The class of a folder whose files name none. transformers 5 has none for Llama, and reads the file."""

CLASS_WINS = {
    "hyperclovax_vision_v2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3_5": "Qwen3_5Tokenizer",
    "qwen3_5_moe": "Qwen3_5Tokenizer", "qwen3_5_moe_text": "Qwen3_5Tokenizer",
    "qwen4_exp": "Qwen3_5Tokenizer", "siglip2": "Siglip2Tokenizer",
}  # fmt: skip
"""Model types whose published folders name another class than transformers 5 takes for them."""

FILE_WINS = frozenset(
    {
        "EvollaModel", "arctic", "aria", "beam", "bigbird_pegasus", "camembertv2-base", "canary", "chatlm",
        "cohere_asr", "ernie4_5", "ernie4_5_moe", "flex_olmo", "fuyu", "glm", "glm4", "glm4_moe",
        "glm4_moe_lite", "glm4v", "glm4v_moe", "glm_image", "glmasr", "got_ocr2", "gpt_bigcode",
        "gradium_phonon_tts", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared", "h2ovl_chat",
        "hyperclovax", "hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba", "kimi_k25",
        "kimi_linear", "kosmos-2", "llava", "llava_next", "mimo_v2_flash", "minicpm3", "minicpm_ocr",
        "minicpmv", "minicpmv4_6", "minicpmv4_7", "minimax_m2", "ministral", "ministral3", "mistral",
        "mistral3", "mistral_large4", "mixtral", "modernbert", "modernbert-decoder", "molmo", "molmo2",
        "nemo_speechlm", "nemotron", "nvfp4", "nystromformer", "olmo2", "olmo3", "olmo_hybrid", "opencua",
        "openvla", "paddleocr_vl", "pegasus_x", "persimmon", "phi3", "phi3_v", "phimoe", "pix2struct",
        "pixtral", "pocket_tts", "smolvlm", "stablelm", "step3_vl", "umt5", "vipllava", "voxtral",
        "voxtral_realtime", "xlm-roberta-xl",
    }
)  # fmt: skip
"""Model types whose published folders name another tokenizer's class (ModernBERT's say BertTokenizer or
PreTrainedTokenizerFast): transformers 5 reads their tokenizer.json as it stands."""
