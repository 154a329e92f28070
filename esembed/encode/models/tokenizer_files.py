"""Which tokenizer a model's folder means: the one place that decides.

tokenizer.json is not the whole of it. What transformers makes of a folder also depends on the class that
tokenizer_config.json (else config.json) names, on options there, and on tokens that were added in three
other files. The classes of ``tokenizer_classes`` are known exactly: tests generate folders of every class in
transformers' mapping and compare token ids with AutoTokenizer's. Anything else is converted by transformers
where that is installed, or refused: ids that are only nearly right give vectors that are only nearly right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esembed.encode.foreign_errors import foreign_errors, shown
from esembed.encode.models.added_tokens import AddedTokens
from esembed.encode.models.json_files import optional_json, read_json
from esembed.encode.models.tokenizer_classes import (
    BY_MODEL_TYPE,
    CLASS_WINS,
    CLASSES,
    FILE_WINS,
    NAMED,
    PYTHON_ONLY,
    TokenizerClass,
    content,
    fit,
    is_byte_level,
    model_kind,
    normalizer_options,
)
from esembed.errors import EncoderError

__all__ = ["TokenizerFiles", "check_growth", "read_tokenizer"]

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
        options = _merged(options, optional_json(folder / "special_tokens_map.json"))
    kind = _class(options, config, name)
    if kind in PYTHON_ONLY:
        raise EncoderError(
            f"{name} has a {kind}, which is a program in Python without a tokenizer.json that does the same. "
            "Serve the model and use openai:MODEL@URL, or bring its vectors (precomputed)",
            spec=name,
        )
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder, name, kind, options, config)
    # A folder of token weights (the query side of a sparse model) has no config.json: vocab.txt is BERT's
    known = CLASSES["BertTokenizer"] if not kind and not config else CLASSES.get(kind)
    if known is not None and known.model == "WordPiece" and (folder / "vocab.txt").is_file():
        return _from_vocabulary(folder, name, known, options, config)
    what = f"its {kind} without a tokenizer.json" if kind else "a folder without tokenizer.json"
    return _by_transformers(folder, name, options, what, None)


_FURTHER = ("extra_special_tokens", "additional_special_tokens")


def _merged(options: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json goes before tokenizer_config.json, but for the tokens without a name."""
    found = {**options, **older}
    given = next((options[key] for key in _FURTHER if options.get(key)), None)
    if any(key in options for key in _FURTHER):
        for key in _FURTHER:
            found.pop(key, None)
        found["extra_special_tokens"] = given
        listed = older.get("extra_special_tokens")
        if isinstance(listed, list) and isinstance(given or [], list):
            found["extra_special_tokens"] = [
                *(given or []),
                *(one for one in listed if one not in (given or [])),
            ]
    return found


_LONGEST_NAME = 100


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
    if model_type in FILE_WINS:
        return ""
    if model_type in CLASS_WINS:
        return CLASS_WINS[model_type]
    stated = options.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(stated, str) and stated:
        return stated[:_LONGEST_NAME].removesuffix("Fast")
    # transformers has classes for model types that aren't known here
    unknown = f"tokenizer of model_type {str(model_type)[:_LONGEST_NAME]}"
    return BY_MODEL_TYPE.get(model_type, unknown) if isinstance(model_type, str) and model_type else ""


# -- tokenizer.json ------------------------------------------------------------------------------


def _from_json(
    folder: Path, name: str, kind: str, options: Mapping[str, Any], config: Mapping[str, Any]
) -> TokenizerFiles:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    stored = read_json(path)
    applied: dict[str, Any] = {}
    # the library raises bare Exception, and panics; lists where objects are due, and the like
    with foreign_errors(f"{name}: tokenizer.json", "be read", spec=name):
        check_growth(stored.get("normalizer"), name)
        known = CLASSES.get(kind)
        if kind == "LlamaTokenizer" and is_byte_level(stored):
            # Llama 3's folders name Llama 2's class; transformers 5 reads their file as it stands
            known = CLASSES[""]
        if known is not None and known.shape is not None and not _is_of(stored, known, options):
            if _names_no_class(options, config):
                # Only the model's type implies the class, and the file is another one's. transformers 4 read
                # such a file as it stands, and so the model was trained; 5 makes tokens of it that the model
                # has no rows for (seen with RoBERTa, MPNet and Qwen2 over WordPiece, 5.23).
                known = CLASSES[""]
            elif model_kind(stored) != known.model:
                raise EncoderError(
                    f"{name} has a {kind}, which works on a {known.model} vocabulary, and its tokenizer.json "
                    f"holds a {model_kind(stored)[:_LONGEST_NAME]}: one of them is another model's. Where "
                    'tokenizer.json is right, set "tokenizer_class": "PreTrainedTokenizerFast" in '
                    "tokenizer_config.json",
                    spec=name,
                )
        if known is None or known.turns(options):
            # CodeLlama's tokenizer.json was once read as it stands, but for this option
            once = kind == "CodeLlamaTokenizer" and options.get("add_prefix_space") is not False
            return _by_transformers(folder, name, options, f"its {kind}", path if once else None)
        written = _steps(stored)
        reason = fit(stored, known, options, applied)
        if reason is None:
            tokens = AddedTokens(folder, name, known, options, stored.get("added_tokens") or ())
            gone = tokens.drop(stored)
            if gone:
                applied["dropped_tokens"] = _digest(gone)
            # A file that nothing changes is read as it is: it may be large
            same = _steps(stored) == written
            tokenizer = Tokenizer.from_file(str(path)) if same else Tokenizer.from_str(json.dumps(stored))
            tokens.add(tokenizer, config.get("vocab_size"), applied)
            # MiniLM's file pads each text to 128 tokens: its ends would seem to be others than its class's
            tokenizer.no_padding()
            tokenizer.no_truncation()
            reason = _set_ends(tokenizer, known, tokens.named, applied)
        if reason is not None:
            return _by_transformers(folder, name, options, reason, None if known.stated else path)
        if known.stated:
            applied = _stated(options)
        _add_ends(tokenizer, name, options, applied)
    _split_special(tokenizer, options, applied)
    return TokenizerFiles(tokenizer, options, applied)


_OF_NO_MODEL = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that read any tokenizer.json as it stands."""


def _names_no_class(options: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the folder leaves its tokenizer's class to the model's type, or to tokenizer.json."""
    stated = options.get("tokenizer_class") or config.get("tokenizer_class")
    return not isinstance(stated, str) or stated in _OF_NO_MODEL


def _is_of(stored: Mapping[str, Any], known: TokenizerClass, options: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json can be one of this class: its kind of vocabulary, with the tokens that the
    class puts around a text."""
    if model_kind(stored) != known.model:
        return False
    vocabulary = stored["model"].get("vocab") or ()
    words = set(vocabulary) if isinstance(vocabulary, Mapping) else {one[0] for one in vocabulary}
    words |= {one.get("content") for one in stored.get("added_tokens") or ()}
    ends = (content(options.get(key)) or known.tokens.get(key) for key in known.ends or () if key is not None)
    return all(end in words for end in ends)


def _steps(stored: Mapping[str, Any]) -> str:
    """What may be changed of a tokenizer.json before it is read."""
    keys = ("normalizer", "pre_tokenizer", "added_tokens")
    return json.dumps([*(stored.get(key) for key in keys), stored["model"].get("unk_token")])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


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


def _set_ends(
    tokenizer: Any, known: TokenizerClass, named: Mapping[str, str], applied: dict[str, Any]
) -> str | None:
    """The tokens before and after a text, for a class that puts its own there whatever the file's
    post-processor does. Returns why it can't, or None."""
    if known.ends is None:
        return None
    texts = [named.get(key) for key in known.ends if key is not None]
    ids = [tokenizer.token_to_id(text) for text in texts if text is not None]
    if None in ids or len(ids) < len(texts):
        return (
            f"its class puts the tokens {', '.join(map(shown, texts))} around a text, which it doesn't have"
        )
    before, after = ids[: len(ids) - 1], ids[-1:]
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    if tokenizer.encode("a").ids != [*before, *bare, *after]:
        _put_around(tokenizer, before, after)
        applied["ends"] = texts
    return None


def _add_ends(tokenizer: Any, name: str, options: Mapping[str, Any], applied: dict[str, Any]) -> None:
    """``add_bos_token`` and ``add_eos_token``, where they are true and the file's post-processor lacks them.

    e5-mistral's tokenizer.json adds <s> only, and its vectors are those of the </s> that the option adds.
    transformers 4 obeyed it, 5 doesn't where there is a tokenizer.json. A false one is left to the file: in
    Qwen3-Embedding's folder it stands beside a post-processor that adds the token that is pooled.
    """
    if True not in (options.get("add_bos_token"), options.get("add_eos_token")):
        return
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
        _put_around(tokenizer, before, after)
        applied.update(added)


def _put_around(tokenizer: Any, before: Sequence[int], after: Sequence[int]) -> None:
    from tokenizers import processors

    names = {token: str(tokenizer.id_to_token(token)) for token in (*before, *after)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(names[token] for token in before), "$A", *(names[token] for token in after)],
        special_tokens=[(name, token) for token, name in names.items()],
    )


def _token_id(tokenizer: Any, options: Mapping[str, Any], key: str) -> int | None:
    text = content(options.get(key))
    found = None if text is None else tokenizer.token_to_id(text)
    return None if found is None else int(found)


def _split_special(tokenizer: Any, options: Mapping[str, Any], applied: dict[str, Any]) -> None:
    if options.get("split_special_tokens") is True:
        tokenizer.encode_special_tokens = applied["split_special_tokens"] = True


# -- vocab.txt -----------------------------------------------------------------------------------


def _from_vocabulary(
    folder: Path, name: str, known: TokenizerClass, options: Mapping[str, Any], config: Mapping[str, Any]
) -> TokenizerFiles:
    """BERT's tokenizer from vocab.txt alone (Devlin et al. 2019)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    try:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EncoderError(f"{name}: can't read vocab.txt: {error}", spec=name) from error
    # By "\n" only: bert-base-chinese has U+2028 and other line breaks of Unicode as tokens, and splitlines()
    # would move every later id by one.
    lines = text.removesuffix("\n").split("\n")
    ids = {line: place for place, line in enumerate(lines)}
    tokens = AddedTokens(folder, name, known, options)
    unknown = tokens.named.get("unk_token")
    if unknown not in ids:
        raise EncoderError(f"{name}: vocab.txt lacks the unknown token {shown(unknown)}", spec=name)
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    chosen = normalizer_options(options)
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **chosen)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    defaults = normalizer_options({})
    applied: dict[str, Any] = {key: value for key, value in chosen.items() if value != defaults[key]}
    tokens.add(tokenizer, config.get("vocab_size"), applied)
    reason = _set_ends(tokenizer, known, tokens.named, {})
    if reason is not None:
        raise EncoderError(f"{name}: {reason}; vocab.txt is another model's, or was cut", spec=name)
    _split_special(tokenizer, options, applied)
    return TokenizerFiles(tokenizer, {**options, **tokens.named}, applied)


# -- transformers --------------------------------------------------------------------------------

# Case, accents, other scripts, special tokens as text, no text: where classes differ that do more in Python.
_PROBES = ("How do I reset my Password? 東京", "naïve <s> [SEP] привет", "")


def _by_transformers(
    folder: Path, name: str, options: Mapping[str, Any], what: str, once: Path | None
) -> TokenizerFiles:
    """The tokenizer as transformers makes it.

    Args:
        what: what of the folder isn't known here, for messages.
        once: the tokenizer.json of a class that was once read as it stands; else None.

    Raises:
        EncoderError: transformers isn't installed, can't read the folder, or makes a program in Python of it.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"{name}: {what} can only be converted by transformers, which isn't installed: "
            'pip install "esembed[torch]"',
            spec=name,
        ) from error
    files = f"{name}: {what} in tokenizer.json, tokenizer_config.json or a vocabulary"
    with foreign_errors(files, "be read by transformers", spec=name):
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        backend = getattr(loaded, "backend_tokenizer", None)
        # some classes do more around a text than their fast half (language codes, other cleaning)
        same = backend is not None and all(
            list(loaded(probe)["input_ids"]) == backend.encode(probe).ids for probe in _PROBES
        )
    if backend is None:
        raise EncoderError(
            f"{name}: {what} is a program in Python, without a form that runs here. Serve the model and use "
            "openai:MODEL@URL",
            spec=name,
        )
    if not same:
        raise EncoderError(
            f"{name}: {what} does more in Python than its form that runs here. Serve the model and use "
            "openai:MODEL@URL",
            spec=name,
        )
    applied = _stated(options) if once is None else _effect(once, backend, options, type(loaded).__name__)
    return TokenizerFiles(backend, options, applied)


def _effect(path: Path, backend: Any, options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What *backend* does that its tokenizer.json at *path* doesn't: nothing where they give the same ids, so
    that an index whose vectors were made from the file as it stands keeps its contract."""
    from tokenizers import Tokenizer

    listed = {one["content"] for one in read_json(path).get("added_tokens") or ()}
    listed |= {content(options.get(key)) for key in NAMED}
    added = {token.content: place for place, token in backend.get_added_tokens_decoder().items()}
    new = sorted((token, place) for token, place in added.items() if token not in listed)
    applied: dict[str, Any] = {"added_tokens": _digest(new)} if new else {}
    try:
        with foreign_errors(path.name, "be read"):
            plain = Tokenizer.from_file(str(path))
            _split_special(plain, options, applied)
            alike = all(plain.encode(probe).ids == backend.encode(probe).ids for probe in _PROBES)
    except EncoderError:
        alike = False  # what the library can't read had no vectors
    return applied if alike else {**applied, "converted": kind}


def _stated(options: Mapping[str, Any]) -> dict[str, Any]:
    keys = (*_OPTIONS, "add_bos_token", "add_eos_token", "split_special_tokens")
    return {key: options[key] for key in keys if isinstance(options.get(key), bool)}
