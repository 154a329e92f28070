"""What an OpenAI-compatible server answers: its vectors checked, its errors sorted."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from esembed.errors import EncoderError, RateLimitedError, TransientError
from esembed.types import FloatArray

__all__ = [
    "RefusedError",
    "answer_error",
    "checked_url",
    "is_too_large",
    "parse_vectors",
    "retry_after_seconds",
]

_TRANSIENT = {408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529}
_SIZE = re.compile(r"batch.?size|too (large|long|many)|max\w*[ _](tokens|context|batch)|exceed", re.I)


class RefusedError(EncoderError):
    """The server refused a request for good.

    Attributes:
        status: the HTTP status.
        detail: the server's own words, cut short, without the key.
    """

    def __init__(self, message: str, *, spec: str | None, status: int, detail: str) -> None:
        super().__init__(message, spec=spec)
        self.status = status
        self.detail = detail


def checked_url(url: str, has_key: bool, spec: str) -> str:
    """The base URL without a slash at its end.

    Raises:
        EncoderError: no http(s) URL; credentials in it; a key that would travel unencrypted.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EncoderError("the endpoint must be a URL like https://host/v1", spec=spec)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EncoderError(
            "the endpoint's URL may hold no user, password or query; put the key in an environment variable "
            "and name it with api_key_env",
            spec=spec,
        )
    if has_key and parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise EncoderError(
            f"the key would travel unencrypted to {parts.hostname}: use https, or give no key", spec=spec
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def retry_after_seconds(headers: httpx.Headers) -> float | None:
    """``retry-after-ms``, or ``Retry-After`` in seconds or as a date; None without either."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if seconds == seconds:  # not NaN
            return max(0.0, seconds)
    return None


def answer_error(
    response: httpx.Response, *, url: str, spec: str, scrub: Callable[[str], str]
) -> TransientError | EncoderError:
    """The error that an answer other than 200 means."""
    status = response.status_code
    detail, code = _detail(response)
    detail = scrub(detail)
    said = f"{url} answered {status}" + (f": {detail}" if detail else "")
    wait = retry_after_seconds(response.headers)
    if status == 429 and code in ("insufficient_quota", "billing_hard_limit_reached"):
        return RefusedError(
            f"{said}. The account's quota is used up; waiting won't help.",
            spec=spec,
            status=status,
            detail=detail,
        )
    if status == 429 or (status == 503 and wait is not None):
        return RateLimitedError(said, retry_after_seconds=wait)
    if status in _TRANSIENT:
        return TransientError(said)
    hint = {
        401: " Check the key in the environment variable that api_key_env names.",
        403: " The key may not use this model.",
        404: " Check the model's name and the URL (it must end where /embeddings is appended).",
    }.get(status, "")
    if 300 <= status < 400:
        hint = " Redirects aren't followed, so that the key stays here; give the final URL."
    return RefusedError(f"{said}.{hint}", spec=spec, status=status, detail=detail)


def _detail(response: httpx.Response) -> tuple[str, str | None]:
    """The server's words, at most 300 characters, and its error code."""
    try:
        body: Any = response.json()
    except ValueError:
        return response.text[:300], None
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        code = error.get("code") or error.get("type")
        return str(message)[:300], str(code) if code is not None else None
    return str(error)[:300], None


def is_too_large(error: EncoderError) -> bool:
    """Whether fewer texts at once may be taken."""
    if not isinstance(error, RefusedError):
        return False
    return error.status == 413 or (error.status in (400, 422) and bool(_SIZE.search(error.detail)))


def parse_vectors(response: httpx.Response, count: int, *, url: str, spec: str) -> tuple[FloatArray, Any]:
    """The *count* vectors of an answer in the order of the input, and its ``usage``.

    Returns:
        Float32, shape (count, width), all finite; usage as it came.

    Raises:
        EncoderError: anything about it that can't be right.
    """
    where = f"{url} answered with"
    try:
        answer = response.json()
        items = [(int(item["index"]), item["embedding"]) for item in answer["data"]]
    except (ValueError, KeyError, TypeError):
        raise EncoderError(
            f"{where} something that is no embeddings response (data[].index, data[].embedding)", spec=spec
        ) from None
    by_index = dict(items)
    if len(items) != count or by_index.keys() != set(range(count)):
        raise EncoderError(
            f"{where} {len(items)} vectors (indexes {sorted(by_index)[:5]} …) for {count} texts", spec=spec
        )
    try:
        rows = [_floats(by_index[i]) for i in range(count)]
        vectors = np.stack(rows)
    except (ValueError, TypeError, binascii.Error):
        raise EncoderError(f"{where} vectors that are no numbers or of unlike lengths", spec=spec) from None
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise EncoderError(f"{where} vectors without dimensions", spec=spec)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise EncoderError(
            f"{where} NaN or infinite values for text {int(np.argmin(finite))} of a batch of {count}; the "
            "server is at fault for this input",
            spec=spec,
        )
    return vectors, answer.get("usage")


def _floats(embedding: Any) -> FloatArray:
    """A vector as a list of numbers, or base64 of little-endian float32 (what OpenAI sends)."""
    if isinstance(embedding, str):
        raw = base64.b64decode(embedding, validate=True)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)
    if any(type(value) not in (int, float) for value in embedding):
        raise TypeError("not a number")
    with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
        return np.asarray(embedding, dtype=np.float32)
