"""Which tokenizer a model's folder means: the one place that decides.

tokenizer.json is not the whole of it. What transformers makes of a folder also depends on the class that
tokenizer_config.json (else config.json) names, on options there, and on tokens that were added in three
other files. The classes below are known exactly: tests generate folders of every class in transformers'
mapping and compare token ids with AutoTokenizer's. Anything else is converted by transformers where that is
installed, or refused: ids that are only nearly right give vectors that are only nearly right.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esembed.encode.models.json_files import optional_json, read_json
from esembed.errors import EncoderError

__all__ = ["TokenizerFiles", "check_growth", "read_tokenizer"]

_WORDPIECE = frozenset(
    {
        "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer",
        "MPNetTokenizer", "MobileBertTokenizer", "RetriBertTokenizer",
        "SqueezeBertTokenizer",
    }
)  # fmt: skip
"""BERT's tokenizer (Devlin et al. 2019) under its names: the normalizer follows three options, which are
taken as their defaults where they are absent, whatever tokenizer.json says."""

_BYTE_LEVEL = frozenset(
    {
        "BartTokenizer", "GPT2Tokenizer", "LEDTokenizer", "LongformerTokenizer", "Qwen2Tokenizer",
        "RobertaTokenizer",
    }
)  # fmt: skip
"""Byte-level BPE: ``add_prefix_space`` of the options counts, and is false where it is absent."""

_AS_THE_FILE = frozenset(
    {
        "CamembertTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "LlamaTokenizer", "PreTrainedTokenizer",
        "T5Tokenizer", "TokenizersBackend", "XLMRobertaTokenizer", "",
    }
)  # fmt: skip
"""What tokenizer.json says is what they do. The empty name is a folder that names no class."""

_PYTHON_ONLY = frozenset(
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

_BY_MODEL_TYPE = {
    "bert": "BertTokenizer", "convbert": "BertTokenizer", "distilbert": "BertTokenizer",
    "electra": "BertTokenizer", "ernie": "BertTokenizer", "megatron-bert": "BertTokenizer",
    "mobilebert": "MobileBertTokenizer", "nomic_bert": "BertTokenizer",
    "squeezebert": "BertTokenizer", "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer", "longformer": "RobertaTokenizer", "bart": "RobertaTokenizer",
    "data2vec-text": "RobertaTokenizer", "roberta-prelayernorm": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "opt": "GPT2Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer", "llama": "LlamaTokenizer",
    "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer",
    "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "t5": "T5Tokenizer", "mt5": "T5Tokenizer",
}  # fmt: skip
"""The class of a folder whose files name none."""

_FILE_WINS = frozenset(
    {
        "bigbird_pegasus", "glm", "glm4", "granite", "internlm2", "jamba", "mistral", "mixtral", "modernbert",
        "modernbert-decoder", "nemotron", "nystromformer", "olmo2", "olmo3", "pegasus_x", "persimmon", "phi3",
        "stablelm", "umt5", "xlm-roberta-xl",
    }
)  # fmt: skip
"""Model types whose published folders name another tokenizer's class (ModernBERT's say BertTokenizer or
PreTrainedTokenizerFast): transformers 5 reads their tokenizer.json as it stands."""

_OPTIONS = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "keep_accents",
    "remove_space",
    "do_basic_tokenize",
    "wordpieces_prefix",
)
"""Options that may change the ids of a class that isn't known here."""

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A folder's tokenizer.

    Attributes:
        tokenizer: a ``tokenizers.Tokenizer``.
        options: tokenizer_config.json, special_tokens_map.json merged into it where it lists no added tokens.
        applied: what has an effect on ids and stands in no file that
            :func:`~esembed.encode.models.hashes.tokenizer_hash` covers: goes into the encoder contract.
    """

    tokenizer: Any
    options: Mapping[str, Any]
    applied: Mapping[str, Any]


def read_tokenizer(folder: Path, name: str) -> TokenizerFiles:
    """The tokenizer that *folder* means.

    Args:
        folder: holds the tokenizer's files (and config.json).
        name: the model's, for messages.

    Raises:
        EncoderError: there is none, a file is damaged, its class is a program in Python or the author's own,
            files contradict each other, or it needs transformers, which isn't installed.
    """
    try:
        import tokenizers  # noqa: F401
    except ModuleNotFoundError as error:
        raise EncoderError(
            'a transformer needs the package tokenizers: pip install "esembed[openvino]" or "esembed[torch]"',
            spec=name,
        ) from error
    options, config = optional_json(folder / "tokenizer_config.json"), optional_json(folder / "config.json")
    if "added_tokens_decoder" not in options:
        # transformers reads the older file only where the newer one lists no tokens
        options = {**options, **optional_json(folder / "special_tokens_map.json")}
    kind = _class(options, config, name)
    if kind in _PYTHON_ONLY:
        raise EncoderError(
            f"{name} has a {kind}, which is a program in Python without a tokenizer.json that does the same. "
            "Serve the model and use openai:MODEL@URL, or bring its vectors (precomputed)",
            spec=name,
        )
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder, name, kind, options)
    # A folder of token weights (the query side of a sparse model) has no config.json: vocab.txt is BERT's
    if (kind in _WORDPIECE or (not kind and not config)) and (folder / "vocab.txt").is_file():
        return _from_vocabulary(folder, name, kind, options)
    return _by_transformers(folder, name, kind, options)


def _class(options: Mapping[str, Any], config: Mapping[str, Any], name: str) -> str:
    """The exact name of the class, without ``Fast``; empty where nothing says or the file alone counts."""
    code = options.get("auto_map")
    if code and (not isinstance(code, Mapping) or code.get("AutoTokenizer")):
        raise EncoderError(
            f"{name} brings a tokenizer of its own (auto_map in tokenizer_config.json): that is code from "
            "the model's author, which isn't run here. Serve the model and use openai:MODEL@URL",
            spec=name,
        )
    model_type = config.get("model_type")
    if model_type in _FILE_WINS:
        return ""
    stated = options.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(stated, str) and stated:
        return stated.removesuffix("Fast")
    return _BY_MODEL_TYPE.get(str(model_type), "")


# -- tokenizer.json ------------------------------------------------------------------------------


def _from_json(folder: Path, name: str, kind: str, options: Mapping[str, Any]) -> TokenizerFiles:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    stored = read_json(path)
    try:
        check_growth(stored.get("normalizer"), name)
        agrees = _agree(kind, stored, options)
    except EncoderError:
        raise
    except Exception as error:  # lists where objects are due, and the like
        raise EncoderError(f"{name}: tokenizer.json can't be read ({error})", spec=name) from error
    known = kind in _WORDPIECE or kind in _BYTE_LEVEL or kind in _AS_THE_FILE
    # XLM-R's, CamemBERT's and Llama's classes make other word starts with it, which the file doesn't show
    turned = kind in _AS_THE_FILE and kind not in ("", "TokenizersBackend", "PreTrainedTokenizer")
    turned = turned and not options.get("add_prefix_space", True)
    doubtful = turned or (known and not agrees)
    if doubtful or (
        not known and (importlib.util.find_spec("transformers") or any(key in options for key in _OPTIONS))
    ):
        return _by_transformers(folder, name, kind, options)
    try:
        applied: dict[str, Any] = {}
        if kind in _WORDPIECE:
            _set_normalizer(stored, options, applied)
        if kind in _BYTE_LEVEL:
            _set_prefix_space(stored, bool(options.get("add_prefix_space", False)), applied)
        # A file that nothing changes is read as it is: it may be large
        tokenizer = Tokenizer.from_str(json.dumps(stored)) if applied else Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise EncoderError(f"{name}: tokenizer.json can't be read ({error})", spec=name) from error
    _add_tokens(tokenizer, folder, name, options, applied)
    _add_ends(tokenizer, name, options, applied)
    _split_special(tokenizer, options, applied)
    return TokenizerFiles(tokenizer, options, applied)


_MODELS = {
    **dict.fromkeys(_WORDPIECE, "WordPiece"),
    **dict.fromkeys(_BYTE_LEVEL, "BPE"),
    **dict.fromkeys(("CodeLlamaTokenizer", "GemmaTokenizer", "LlamaTokenizer"), "BPE"),
    **dict.fromkeys(("CamembertTokenizer", "T5Tokenizer", "XLMRobertaTokenizer"), "Unigram"),
}
"""The ``model.type`` of each class that builds its tokenizer anew from the file's vocabulary: transformers 5
keeps neither the file's normalizer nor its pre-tokenizer there."""


def _agree(kind: str, stored: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json is what *kind* would build with these special tokens."""
    if not isinstance(stored.get("model"), dict):
        return True  # damaged: the library says how
    model, own = stored["model"], None
    if isinstance(model.get("unk_token"), str):
        own = model["unk_token"]
    elif isinstance(model.get("unk_id"), int) and isinstance(model.get("vocab"), list):
        own = next((str(entry[0]) for entry in model["vocab"][model["unk_id"] :][:1]), None)
    if own and "unk_token" in options and _content(options["unk_token"]) != own:
        return False
    if options.get("extra_special_tokens") and options.get("additional_special_tokens"):
        return False  # their order, and with it the ids, is transformers'
    if kind not in _MODELS:
        return True
    # Files of tokenizers before 0.10 leave the type out
    if model.get("type", _MODELS[kind]) != _MODELS[kind] or model.get("end_of_word_suffix"):
        return False
    normal = _steps(stored.get("normalizer"), "normalizers")
    split = _steps(stored.get("pre_tokenizer"), "pretokenizers")
    if kind in _WORDPIECE:
        fits = split == {"BertPreTokenizer"}
    elif kind == "Qwen2Tokenizer":
        fits = normal <= {"NFC"} and split == {"Split", "ByteLevel"}
    elif kind in _BYTE_LEVEL:
        fits = not normal and split == {"ByteLevel"}
    elif kind == "GemmaTokenizer":
        fits = normal == {"Replace"} and split <= {"Split"}
    elif _MODELS[kind] == "BPE":
        # Llama 2's files write the word start in the normalizer, newer ones in the pre-tokenizer
        fits = normal <= {"Prepend", "Replace"} and (split == {"Metaspace"} or (not split and bool(normal)))
    else:
        fits = not normal & {"NFC", "NFD", "NFKD", "StripAccents", "Lowercase"} and "Metaspace" in split
    if not fits:
        return False
    # A class puts its own tokens around a text, where the file's step may name others
    ends = _ends(stored.get("post_processor"))
    if not ends:
        return kind not in _BYTE_LEVEL or kind in ("GPT2Tokenizer", "Qwen2Tokenizer")
    wanted = {"cls_token": ends[0], "sep_token": ends[-1]}
    if len(ends) != 2 and (kind in _WORDPIECE or kind in ("XLMRobertaTokenizer", "CamembertTokenizer")):
        return False
    if kind == "T5Tokenizer":
        if len(ends) != 1:
            return False
        wanted = {"eos_token": ends[-1]}
    elif kind in ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"):
        wanted = {"bos_token": ends[0]}
    elif kind in ("XLMRobertaTokenizer", "CamembertTokenizer"):
        wanted |= {"bos_token": ends[0], "eos_token": ends[-1]}
    return all(key not in options or _content(options[key]) == end for key, end in wanted.items())


def _steps(step: Any, key: str) -> set[str]:
    """The types of a normalizer's or pre-tokenizer's steps; *key* names the list in a sequence."""
    if not isinstance(step, dict):
        return set()
    inner = step.get(key)
    if not isinstance(inner, list):
        return {str(step.get("type"))}
    return {name for one in inner for name in _steps(one, key)}


def _ends(step: Any) -> list[str]:
    """The tokens that a post-processor puts around a single text, in order."""
    if not isinstance(step, dict):
        return []
    if isinstance(step.get("processors"), list):
        return [end for one in step["processors"] for end in _ends(one)]
    if isinstance(step.get("single"), list):
        parts = [one.get("SpecialToken") for one in step["single"] if isinstance(one, dict)]
        return [str(one.get("id")) for one in parts if isinstance(one, dict)]
    pairs = [step.get(key) for key in ("cls", "sep")]
    return [str(one[0]) for one in pairs if isinstance(one, list) and one]


_MOST_GROWTH = 1_000
"""Times as long as its normalizer may make a text; published ones write a character or two for one."""


def check_growth(normalizer: Any, name: str) -> None:
    """Refuse a normalizer that makes long texts of short ones: six steps that write each letter 64 times make
    69 billion of one, before any limit of tokens counts."""
    growth, todo = 1.0, [normalizer]
    while todo:
        step = todo.pop()
        if not isinstance(step, dict):
            continue
        todo += step.get("normalizers") or ()
        pattern = step.get("pattern")
        text = pattern.get("String") if isinstance(pattern, dict) else None
        written = step.get("content") or step.get("prepend") or ""
        # a regular expression may match next to nothing
        growth *= max(1.0, (len(written) + (not text)) / max(1, len(text or "")))
        if growth > _MOST_GROWTH:
            raise EncoderError(
                f"{name}: the normalizer of tokenizer.json can make texts {growth:.0f} times as long; no "
                "model's does that. Take the tokenizer from where the model was published",
                spec=name,
            )


def _normalizer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """BERT's three, by the names in tokenizer.json; the defaults are the class's own."""
    chinese, accents = options.get("tokenize_chinese_chars", True), options.get("strip_accents")
    return {
        "handle_chinese_chars": bool(chinese),
        "strip_accents": None if accents is None else bool(accents),
        "lowercase": bool(options.get("do_lower_case", True)),
    }


def _set_normalizer(stored: dict[str, Any], options: Mapping[str, Any], applied: dict[str, Any]) -> None:
    """The options count, as in transformers 4 and 5, where the file's normalizer is BERT's."""
    normalizer = stored.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    for key, value in _normalizer_options(options).items():
        # older files leave a key out where it has this default
        if normalizer.get(key, {"strip_accents": None}.get(key, True)) != value:
            applied[key] = normalizer[key] = value


def _set_prefix_space(stored: dict[str, Any], wanted: bool, applied: dict[str, Any]) -> None:
    step = stored.get("pre_tokenizer") or {}
    for one in [step, *(step.get("pretokenizers") or ())]:
        if one.get("type") == "ByteLevel" and one.get("add_prefix_space") != wanted:
            one["add_prefix_space"] = applied["add_prefix_space"] = wanted


def _add_ends(tokenizer: Any, name: str, options: Mapping[str, Any], applied: dict[str, Any]) -> None:
    """``add_bos_token`` and ``add_eos_token``, where they are true and the file's post-processor lacks them.

    e5-mistral's tokenizer.json adds <s> only, and its vectors are those of the </s> that the option adds.
    transformers 4 obeyed it, 5 doesn't where there is a tokenizer.json. A false one is left to the file: in
    Qwen3-Embedding's folder it stands beside a post-processor that adds the token that is pooled.
    """
    from tokenizers import processors

    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    start = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    before, after = full[:start], full[start + len(bare) :]
    added: dict[str, Any] = {}
    for key, ends, option in (("bos_token", before, "add_bos_token"), ("eos_token", after, "add_eos_token")):
        token = _token_id(tokenizer, options, key) if options.get(option) is True else None
        if token is None or token in ends:
            continue
        if ends:
            raise EncoderError(
                f"{name}: tokenizer_config.json has {option} = true, and tokenizer.json adds "
                f"{tokenizer.id_to_token(ends[0])!r} there. Save the tokenizer as the model was trained",
                spec=name,
            )
        ends.append(token)
        added[option] = True
    if added:
        ids = {str(tokenizer.id_to_token(i)): i for i in (*before, *after)}
        single = [
            *(tokenizer.id_to_token(i) for i in before),
            "$A",
            *(tokenizer.id_to_token(i) for i in after),
        ]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=list(ids.items())
        )
        applied.update(added)


def _token_id(tokenizer: Any, options: Mapping[str, Any], key: str) -> int | None:
    content = _content(options.get(key))
    found = None if content is None else tokenizer.token_to_id(content)
    return None if found is None else int(found)


def _content(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) and value else None


def _split_special(tokenizer: Any, options: Mapping[str, Any], applied: dict[str, Any]) -> None:
    if options.get("split_special_tokens") is True:
        tokenizer.encode_special_tokens = applied["split_special_tokens"] = True


# -- added tokens --------------------------------------------------------------------------------


def _add_tokens(
    tokenizer: Any, folder: Path, name: str, options: Mapping[str, Any], applied: dict[str, Any]
) -> None:
    """Tokens of ``added_tokens_decoder``, else of added_tokens.json, then special ones, as transformers does.

    Raises:
        EncoderError: a token whose stated id isn't the one that it gets.
    """
    from tokenizers import AddedToken

    special = [text for key in _SPECIAL if (text := _content(options.get(key)))]
    extra = options.get("extra_special_tokens") or options.get("additional_special_tokens") or ()
    more = [
        text for one in (extra.values() if isinstance(extra, Mapping) else extra) if (text := _content(one))
    ]
    wanted: list[tuple[int | None, Any]] = []
    try:
        if "added_tokens_decoder" in options:
            for place, entry in options["added_tokens_decoder"].items():
                flags = {
                    key: bool(entry.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "special")
                }
                flags["normalized"] = bool(entry.get("normalized", not flags["special"]))
                wanted.append((int(place), AddedToken(entry["content"], **flags)))
        else:
            for text, place in optional_json(folder / "added_tokens.json").items():
                one = text in special or text in more
                wanted.append((int(place), AddedToken(text, special=one, normalized=not one)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EncoderError(f"{name}: the list of added tokens is damaged ({error!r})", spec=name) from error
    wanted.sort(key=lambda item: -1 if item[0] is None else item[0])
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    rows = optional_json(folder / "config.json").get("vocab_size")
    room = rows - tokenizer.get_vocab_size(True) - len(wanted) if isinstance(rows, int) else len(special)
    for text in dict.fromkeys((*special, *more)):
        if text in present or text in {token.content for _, token in wanted}:
            continue
        if text not in more and tokenizer.token_to_id(text) is None:
            # transformers adds a named token that the vocabulary lacks. Where the model has no row for it, a
            # text that holds it ends in an error there; here it stays a text like others.
            if room <= 0:
                continue
            room -= 1
        wanted.append((None, AddedToken(text, special=True, normalized=False)))
    new: list[tuple[str, int]] = []
    for place, token in wanted:
        if token.content in present:
            found = tokenizer.token_to_id(token.content)
        else:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
            found = tokenizer.token_to_id(token.content)
            new.append((token.content, int(found)))
        if place is not None and found != place:
            raise EncoderError(
                f"{name}: the added token {token.content!r} should have id {place} and gets {found}: the "
                "files of its tokenizer are of different states. Save the tokenizer again",
                spec=name,
            )
    standard = set(special)
    effect = sorted((text, place) for text, place in new if text not in standard)
    if effect:
        applied["added_tokens"] = hashlib.sha256(json.dumps(effect).encode()).hexdigest()[:16]


# -- vocab.txt -----------------------------------------------------------------------------------

_WORDPIECE_TOKENS = {
    "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}  # fmt: skip
_MPNET_TOKENS = {
    "unk_token": "[UNK]", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
    "mask_token": "<mask>",
}  # fmt: skip


def _from_vocabulary(folder: Path, name: str, kind: str, options: Mapping[str, Any]) -> TokenizerFiles:
    """BERT's tokenizer from vocab.txt alone (Devlin et al. 2019)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    try:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EncoderError(f"{name}: can't read vocab.txt: {error}", spec=name) from error
    # By "\n" only: bert-base-chinese has U+2028 and other line breaks of Unicode as tokens, and splitlines()
    # would move every later id by one.
    lines = text.removesuffix("\n").split("\n")
    ids = {line: place for place, line in enumerate(lines)}
    defaults = _MPNET_TOKENS if kind == "MPNetTokenizer" else _WORDPIECE_TOKENS
    names = {key: _content(options.get(key)) or value for key, value in defaults.items()}
    unknown, cls, sep = names["unk_token"], names["cls_token"], names["sep_token"]
    if unknown not in ids:
        raise EncoderError(f"{name}: vocab.txt lacks the unknown token {unknown!r}", spec=name)
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    chosen = _normalizer_options(options)
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **chosen)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    applied: dict[str, Any] = {
        key: value for key, value in chosen.items() if value != _normalizer_options({})[key]
    }
    _add_tokens(tokenizer, folder, name, {**names, **options}, applied)
    if cls in ids and sep in ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
        )
    _split_special(tokenizer, options, applied)
    return TokenizerFiles(tokenizer, {**names, **options}, applied)


# -- transformers --------------------------------------------------------------------------------


def _by_transformers(folder: Path, name: str, kind: str, options: Mapping[str, Any]) -> TokenizerFiles:
    what = f"its {kind}" if kind else "its files"
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"{name}: {what} can only be converted by transformers, which isn't installed: "
            'pip install "esembed[torch]"',
            spec=name,
        ) from error
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EncoderError(f"{name} has no tokenizer that can be read: {reason[0]}", spec=name) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(
            f"{name}: {what} is a program in Python, without a form that runs here. Serve the model and use "
            "openai:MODEL@URL",
            spec=name,
        )
    for text in ("How do I reset my Password? 東京", "naïve <s> [SEP] привет", ""):
        # some classes do more around a text than their fast half (language codes, other cleaning)
        try:
            same = list(loaded(text)["input_ids"]) == backend.encode(text).ids
        except Exception as error:  # the library raises bare Exception, for a missing unknown token too
            raise EncoderError(f"{name}: {what} can't encode a text ({error})", spec=name) from error
        if not same:
            raise EncoderError(
                f"{name}: {what} does more in Python than its form that runs here. Serve the model and use "
                "openai:MODEL@URL",
                spec=name,
            )
    keys = (*_OPTIONS, "add_bos_token", "add_eos_token", "split_special_tokens")
    applied = {key: options[key] for key in keys if isinstance(options.get(key), bool)}
    return TokenizerFiles(backend, options, applied)
