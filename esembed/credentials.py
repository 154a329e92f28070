"""What may be secret: checked where it comes in, and never shown. Pure.

:func:`checked_credential` refuses what a request's header can't hold, before a library puts it into an error.
:class:`Scrubber` masks known secrets in words that others wrote (an engine, a proxy, an HTTP library).
:func:`public_url` and :func:`without_url_secrets` leave out of addresses what may be secret.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from esembed.errors import OptionsError

__all__ = [
    "Scrubber",
    "basic_authorization",
    "checked_credential",
    "hide_in_logs",
    "is_header_error",
    "key_from_environment",
    "origin",
    "public_url",
    "without_secrets",
    "without_url_secrets",
]

MASK = "***"

_NAMED_LIKE_VARIABLES = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", re.ASCII)


def checked_credential(value: str, what: str, *, header: bool = True) -> str:
    """The value as it is, if a request can carry it.

    Args:
        value: the secret.
        what: where it came from (``the environment variable ES_KEY``), for people. Never the value.
        header: it stands in a header as it is (a key, a token): visible ASCII only. Otherwise it is
            encoded there (a password): any text without control characters (RFC 7617).

    Raises:
        OptionsError: naming the first character that can't be, and never the value.
    """
    for number, sign in enumerate(value, 1):
        control = sign < " " or "\x7f" <= sign < "\xa0" or "\ud800" <= sign <= "\udfff"
        if control or (header and not "!" <= sign <= "~"):
            name = {"\n": "a line break", "\r": "a carriage return", " ": "a blank", "\t": "a tab"}.get(
                sign, f"the character U+{ord(sign):04X}"
            )
            place = "at its end" if number == len(value) else "in it"
            raise OptionsError(
                f"{what} has {name} {place}, which "
                + ("a request's header can't hold" if header else "a password can't hold")
                + ": files and copied text often bring one along; set it anew without it (the value is not "
                "shown)"
            )
    return value


def basic_authorization(username: str, password: str, *, what: str = "the password") -> str:
    """The value of an Authorization header for basic authentication, in UTF-8 as both engines read it
    (the official clients take ASCII or Latin-1 only).

    Raises:
        OptionsError: a character that neither can hold; a colon in the name.
    """
    checked_credential(username, "the user name", header=False)
    if ":" in username:
        raise OptionsError("the user name has a colon in it, which ends a name in basic authentication")
    checked_credential(password, what, header=False)
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def key_from_environment(variable: str, what: str) -> str:
    """The value of an environment variable.

    Args:
        variable: its name. Somebody may have written the secret itself here, so a name that doesn't look
            like one is never shown.
        what: what asks for it (``--api-key-env``), for people.

    Raises:
        OptionsError: there is none of that name, or it is empty.
    """
    try:
        value = os.environ.get(variable)
    except (ValueError, UnicodeError):  # NUL or a lone surrogate in the name
        value = None
    if not value:
        known = _NAMED_LIKE_VARIABLES.fullmatch(variable) and len(variable) <= 64
        named = f"the environment variable {variable}" if known else "an environment variable of that name"
        raise OptionsError(
            f"{what}: {named} holds no key or password: it is not set. (The option takes a variable's name, "
            "so that the secret is not seen in the process list.)"
        )
    return value


# -- words that others wrote -------------------------------------------------------------------------

_GRAM = 8
"""A piece of a secret that is masked wherever it stands. Servers quote keys whole, cut or in part; shorter
pieces occur in words that have nothing to do with a secret."""

_LONGEST = 1 << 16
"""Characters of foreign words that are looked at; nobody reads more."""


class Scrubber:
    """Masks secrets in text: each whole, in any of the forms that libraries and servers quote it in (repr,
    JSON, percent-encoding, HTML, base64 and what base64 holds), and each piece of eight characters of a form.

    Call it before text is cut, never after: half a secret is no longer found whole.
    """

    def __init__(self, values: Iterable[str | None] = ()) -> None:
        forms: set[str] = set()
        pairs: set[str] = set()
        for value in values:
            if value:
                forms |= _forms(value)
                pairs.add(_decoded(value))
        self._pairs = [pair for pair in pairs if len(pair) >= _GRAM and ":" in pair]
        self._whole = sorted((f for f in forms if len(f) < _GRAM), key=len, reverse=True)
        self._grams = frozenset(f[i : i + _GRAM] for f in forms for i in range(len(f) - _GRAM + 1))

    def __repr__(self) -> str:
        return "Scrubber(…)"

    def __call__(self, text: str) -> str:
        """The text with ``***`` in the place of secrets."""
        text = text[:_LONGEST]
        for pair in self._pairs:
            text = text.replace(pair, MASK)
        if self._grams:
            shown: list[str] = []
            at = masked_to = 0
            for i in range(len(text) - _GRAM + 1):
                if text[i : i + _GRAM] in self._grams:
                    if i > masked_to or not shown:
                        shown += [text[at:i], MASK]
                    at = masked_to = i + _GRAM
            text = "".join([*shown, text[at:]])
        for form in self._whole:
            # A short one may be a piece of any word: it is masked where it stands alone.
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", MASK, text)
        return text

    def value(self, body: Any) -> Any:
        """A parsed body with its texts masked, keys too."""
        if isinstance(body, str):
            return self(body)
        if isinstance(body, bytes):
            return self(body.decode("utf-8", "replace"))
        if isinstance(body, Mapping):
            return {self(k) if isinstance(k, str) else k: self.value(v) for k, v in body.items()}
        if isinstance(body, (list, tuple)):
            return [self.value(item) for item in body]
        return body


def _decoded(value: str) -> str:
    """What a value holds in base64, as an API key and basic authentication do; empty where it is none."""
    # A server may quote what it decoded.
    with_padding = value.rpartition(" ")[2].encode("ascii", "ignore") + b"=="
    try:
        raw = base64.b64decode(with_padding, altchars=b"-_" if set("-_") & set(value) else None)
        text = raw.decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return text if text.isprintable() else ""


def _forms(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogatepass")
    plain = {value, value.strip()}
    # The first part of two is a user's name or a key's id, which is no secret: pieces of a name would be
    # masked in words that have nothing to do with it ("mappings", for a user who may change them).
    decoded = _decoded(value)
    secret = decoded.partition(":")[2] or decoded
    if len(secret) >= 4:
        plain.add(secret)
    forms: set[str] = set()
    for one in plain:
        if not one:
            continue
        try:
            quoted = {quote(one, safe=""), quote(one), quote_plus(one)}
        except UnicodeEncodeError:
            quoted = set()
        forms |= {
            one,
            repr(one)[1:-1],
            ascii(one)[1:-1],
            json.dumps(one)[1:-1],
            json.dumps(one, ensure_ascii=False)[1:-1],
            html.escape(one),
            *quoted,
            *(re.sub(r"%[0-9A-F]{2}", lambda m: m.group().lower(), form) for form in quoted),
        }
        forms.add(repr(one.encode("utf-8", "surrogatepass"))[2:-1])
    # Inside of what was encoded a secret's bytes fall into one of three places.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode("ascii")
        piece = encoded[(0, 2, 3)[shift] :].rstrip("=")[: -1 if (len(raw) + shift) % 3 else None]
        forms |= {piece, piece.replace("+", "-").replace("/", "_")}
    return {form for form in forms if form}


def is_header_error(error: BaseException) -> bool:
    """Whether an HTTP library refused a header's value. Its words quote the value, which is a credential as a
    rule: http.client, h11, aiohttp and urllib3 each do it, in a ValueError, a LocalProtocolError or a
    UnicodeEncodeError, and clients wrap those."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        text = str(seen).lower()
        if isinstance(seen, UnicodeEncodeError) or re.search(
            r"(invalid|illegal|forbidden|newline|character|codec).{0,60}header|header.{0,60}"
            r"(invalid|illegal|newline|character|not allowed)|codec can't encode character",
            text,
            re.DOTALL,
        ):
            return True
        wrapped = [a for a in seen.args if isinstance(a, BaseException)]
        seen = seen.__cause__ or (wrapped[0] if wrapped else seen.__context__)
    return False


# -- addresses ---------------------------------------------------------------------------------------

_HOST = re.compile(r"[\w.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def public_url(url: str) -> str:
    """The address without what may be secret: user, password, query and fragment. A host that is none (since
    a sign is missing or written otherwise) may hold a password, too, and is masked."""
    scheme, sep, rest = url.partition("://")
    if not sep:
        return url  # a path, or a name within a store, which may hold any sign
    head = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = head.partition("/")
    host = host.rpartition("@")[2]
    if "@" in path and not _HOST.fullmatch(host):
        path = path.rpartition("@")[2]  # a slash in a password that nobody quoted
    # file:///path has no host, and stores' names (s3://my_bucket) are hosts by this pattern.
    return f"{scheme}://{host if not host or _HOST.fullmatch(host) else MASK}{slash}{path}"


# A quote ends an address only where it ends a word: it is a sign of queries and passwords, too (as yarl
# writes them).
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s'\"<>]|'(?=[^\s,;:)\]}'\"<>]))+")


def without_url_secrets(text: str) -> str:
    """Text with each address in it as :func:`public_url` shows it."""
    return _URL.sub(lambda found: public_url(found.group()), text)


_HEADER = re.compile(
    r"((?:\b(?:proxy-)?authorization|\b(?:set-)?cookie|security-token|private-token|\bx-auth-token|api-?key)"
    r"[\"']?[ \t]*[:,=][ \t]*b?\\?[\"']?(?:[a-z]+[ \t]+(?=\S))?|\b(?:apikey|bearer|basic)[ \t]+)[^\s]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Text without what may be secret in its addresses (:func:`without_url_secrets`) and in the headers that
    it quotes, for words in which the secrets are not known."""
    return _HEADER.sub(rf"\1{MASK}", without_url_secrets(text))


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address, as browsers compare them (RFC 6454)."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or {"http": 80, "https": 443}.get(parts.scheme),
    )


class _Hidden(logging.Filter):
    """Rewrites what a foreign package logs."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__()
        self._change = change

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - logging itself reports a wrong call
            return True
        changed = self._change(text)
        if changed != text:
            record.msg, record.args = changed, ()
        if record.exc_info and record.exc_info[1] is not None:
            # A traceback quotes addresses, too, and the exception itself can't be changed.
            record.msg = f"{record.msg} ({type(record.exc_info[1]).__name__})"
            record.exc_info, record.exc_text = None, None
        return True


_logs_lock = threading.Lock()


HTTP_LOGGERS = (
    *("elastic_transport.node", "elastic_transport.transport", "elastic_transport.node_pool"),
    *("elasticsearch", "elasticsearch.trace", "opensearch", "opensearchpy.trace"),
    *("urllib3.connectionpool", "aiohttp.client", "httpx", "httpx2"),
    *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
    *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),  # the hub's, 2.4
    *("huggingface_hub.file_download", "huggingface_hub.utils._http"),
    *("fsspec", "fsspec.http", "fsspec.cached", "fsspec.reference", "fsspec.asyn", "s3fs"),
    *(f"botocore.{part}" for part in ("auth", "endpoint", "hooks", "parsers", "retryhandler", "httpsession")),
    *(f"aiobotocore.{part}" for part in ("endpoint", "hooks", "retryhandler", "httpsession")),
)
"""Each logger by its own name: a logger's filter doesn't see what the loggers below it write."""

_known: weakref.WeakSet[Scrubber] = weakref.WeakSet()


def _hidden(text: str) -> str:
    for scrub in tuple(_known):
        text = scrub(text)
    return without_secrets(text)


def hide_in_logs(names: Iterable[str] = HTTP_LOGGERS, scrub: Scrubber | None = None) -> None:
    """What these loggers write loses what may be secret, from now on and for the whole process. At DEBUG,
    fsspec logs each URL that it opens with user, password and query, botocore the session token that it
    signs, httpcore and the engines' clients an answer's headers and status line, in which servers quote keys.

    Args:
        names: the loggers.
        scrub: masks secrets that are known, too, for as long as its owner lives.
    """
    with _logs_lock:
        if scrub is not None:
            _known.add(scrub)
        for name in names:
            logger = logging.getLogger(name)
            if not any(isinstance(each, _Hidden) for each in logger.filters):
                logger.addFilter(_Hidden(_hidden))
