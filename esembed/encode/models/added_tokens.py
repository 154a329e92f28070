"""The tokens that a folder adds to its vocabulary, in transformers' order and with its flags.

Four places name some: ``added_tokens_decoder`` in tokenizer_config.json, else added_tokens.json and
tokenizer.json's own list; the named tokens (``cls_token`` …) of the options or the class; and further special
ones. What is added first keeps its id; what is added again gets the later flags.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esembed.encode.foreign_errors import reason_of, shown
from esembed.encode.models.json_files import optional_json
from esembed.encode.models.tokenizer_classes import NAMED, TokenizerClass, content
from esembed.errors import EncoderError

__all__ = ["AddedTokens"]


class AddedTokens:
    """What a folder adds.

    Args:
        folder: holds added_tokens.json, if there is one.
        name: the model's, for messages.
        kind: the tokenizer's class.
        options: tokenizer_config.json, special_tokens_map.json merged into it.
        listed: tokenizer.json's own list.

    Attributes:
        named: key → text of the named tokens.

    Raises:
        EncoderError: a list is damaged.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        kind: TokenizerClass,
        options: Mapping[str, Any],
        listed: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._name, self._kind = name, kind
        own = "tokenizer_config.json" if "added_tokens_decoder" in options else "added_tokens.json"
        self._files = f"tokenizer.json or {own}"
        try:
            self._listed = {str(one["content"]): _token(one) for one in listed}
            self._stated = "added_tokens_decoder" in options
            self._read(folder, options)
        except EncoderError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EncoderError(
                f"{name}: {self._files} can't be right: the list of added tokens is damaged "
                f"({type(error).__name__}: {reason_of(error)})",
                spec=name,
            ) from error

    def _read(self, folder: Path, options: Mapping[str, Any]) -> None:
        extra, own = _further(self._kind, options)
        self._extra = [text for one in extra if (text := content(one))]
        specific = {key: text for key, one in own.items() if (text := content(one))}
        given = {key: content(options[key]) for key in NAMED if key in options}
        special = {*(text for text in given.values() if text), *self._extra}
        places: dict[int, Any] = {}
        if self._stated:
            places = {int(place): _token(one) for place, one in options["added_tokens_decoder"].items()}
        else:
            for text, place in optional_json(folder / "added_tokens.json").items():
                places[int(place)] = _token({"content": text, "special": text in special})
        self._places = sorted(places.items(), key=lambda item: item[0])
        stated = {**dict.fromkeys(NAMED), **self._kind.tokens, **given, **specific}
        self.named: dict[str, str] = {key: text for key, text in stated.items() if text}
        # a token of its own under a name, with the flags that the options or else the class give it
        self._flags = {
            text: _flags(options.get(key), self._kind, key) for key, text in reversed(self.named.items())
        }
        self._standard = {*self.named.values(), *self._kind.extra}

    def drop(self, stored: dict[str, Any]) -> list[str]:
        """Take out of *stored*, a tokenizer.json, what ``added_tokens_decoder`` doesn't list: a class that
        makes its tokenizer anew adds what is listed there only. Returns their texts."""
        if not self._stated or self._kind.shape is None:
            return []
        kept = {token.content for _, token in self._places}
        gone = [text for text in self._listed if text not in kept]
        if gone:
            stored["added_tokens"] = [one for one in stored["added_tokens"] if one["content"] in kept]
            self._listed = {text: token for text, token in self._listed.items() if text in kept}
        return gone

    def add(self, tokenizer: Any, rows: Any, applied: dict[str, Any]) -> None:
        """Add them to *tokenizer*.

        Args:
            rows: the ``vocab_size`` of config.json.
            applied: takes a hash of what tokenizer.json doesn't list.

        Raises:
            EncoderError: a token whose stated id isn't the one that it gets.
        """
        from tokenizers import AddedToken

        named = set(self.named.values())
        before, skipped, new = set(self._listed), set[str](), list[tuple[str, int]]()
        for place, token in self._places:
            if not token.special and token.content in named:
                token.special = True
            tokenizer.add_tokens([token])
            found = tokenizer.token_to_id(token.content)
            if found != place:
                raise EncoderError(
                    f"{self._name}: the added token {shown(token.content)} should have id {place} and gets "
                    f"{found}: {self._files} is of another state than the tokenizer's other files. Save the "
                    "tokenizer again",
                    spec=self._name,
                )
            if token.content not in before:
                new.append((token.content, int(found)))
        seen = before | {token.content for _, token in self._places}
        for text in dict.fromkeys([*self.named.values(), *self._extra]):
            if text in seen:
                continue
            # A pad_token that was named and never trained is common. Beyond the table it has no vector: a
            # text which holds it can't mean it.
            beyond = isinstance(rows, int) and tokenizer.token_to_id(text) is None and text not in self._extra
            if beyond and max(tokenizer.get_vocab(True).values(), default=-1) + 1 >= rows:
                skipped.add(text)
                continue
            tokenizer.add_tokens([AddedToken(text, **{"special": True, **self._flags.get(text, {})})])
            new.append((text, int(tokenizer.token_to_id(text))))
        if self._kind.plain:
            again = [
                text for text in dict.fromkeys([*self.named.values(), *self._extra]) if text not in skipped
            ]
            tokenizer.add_tokens([AddedToken(text, special=True) for text in again])
        effect = sorted((text, place) for text, place in new if text not in self._standard)
        if effect:
            applied["added_tokens"] = hashlib.sha256(json.dumps(effect).encode()).hexdigest()[:16]


def _further(kind: TokenizerClass, options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The special tokens without a name, and those under names of the model's own."""
    extra, old = options.get("extra_special_tokens"), options.get("additional_special_tokens")
    own = {
        key: value
        for key, value in options.items()
        if key.endswith("_token") and key not in NAMED and isinstance(value, str)
    }
    listed = "extra_special_tokens" in options
    if "additional_special_tokens" in options and not extra:
        extra, old, listed = old, None, True
    if isinstance(extra, Mapping):
        own.update(extra)
        listed = False
    if kind.extra and not listed:
        count = options.get("extra_ids")  # T5's
        most = count if isinstance(count, int) else len(kind.extra)
        old = old or kind.extra[:most]
    found = extra if listed else old
    return list(found or ()), own


def _token(stated: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken

    flags = {key: bool(stated.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "special")}
    flags["normalized"] = bool(stated.get("normalized", not flags["special"]))
    return AddedToken(stated["content"], **flags)


def _flags(stated: Any, kind: TokenizerClass, key: str) -> dict[str, bool]:
    if isinstance(stated, Mapping):
        return {k: bool(stated[k]) for k in ("lstrip", "rstrip", "single_word", "normalized") if k in stated}
    return dict(kind.flags.get(key, kind.flags.get("", {}))) if key in NAMED else {}
