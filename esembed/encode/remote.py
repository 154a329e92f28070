"""``openai:MODEL`` and ``openai:MODEL@http://host/v1``: vectors from an OpenAI-compatible endpoint.

OpenAI itself, vLLM, TEI, Infinity and whatever else answers ``POST {base}/embeddings``. Texts are sent
in batches bounded by an estimate of their tokens, a few at a time; order is restored from ``index``;
a busy or failing server is asked again, with jitter, as long as ``Retry-After`` says; what can't get
better by waiting is an error at once. What comes back is checked before it is used.

The key is read from an environment variable and only ever stands in the request's header. It goes to
api.openai.com by default (``OPENAI_API_KEY``); to another address only where ``api_key_env`` names it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import random
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import numpy as np
import tenacity

from esembed.bounded import finish_within
from esembed.credentials import (
    Scrubber,
    checked_credential,
    hide_in_logs,
    is_header_error,
    key_from_environment,
)
from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.counting import EncodeCounter
from esembed.encode.processes import ForkSafeLock, ProcessMark, how_to_load
from esembed.errors import EncoderError, OptionsError, RateLimitedError, TransientError
from esembed.plan.params import EncoderParams
from esembed.transport import retry_after_seconds
from esembed.types import DenseMatrix, FloatArray

__all__ = ["OpenAIEncoder", "RefusedError", "estimate_tokens", "load"]

DEFAULT_URL = "https://api.openai.com/v1"
_NATIVE_DIMS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


# A vector of 4,096 numbers is 90 kB as JSON text; this leaves room for 40,000 of them.
_MOST_TEXT_BYTES = 1 << 20
# What an answer may hold beside vectors: usage, headers of a proxy, an error's page.
_MOST_BYTES = 1 << 20


class _UnfitBodyError(Exception):
    """An answer longer than any right one, or packed in a way that hides its length."""


def estimate_tokens(text: str) -> int:
    """A guess at a text's tokens that errs upwards: a third of its UTF-8 bytes, at least its words."""
    return max(1, len(text.encode("utf-8", "replace")) // 3, text.count(" ") + 1)


class OpenAIEncoder:
    """Dense vectors from an OpenAI-compatible endpoint. Safe to call from several threads.

    An empty text is sent as one space, since OpenAI refuses empty input. ``close`` ends the connections.

    Args:
        model: the model's name, as the server knows it.
        base_url: what ``/embeddings`` is appended to.
        api_key: the secret, or None where the server wants none.
        dims: sent as ``dimensions``; the answer must have that many.
        query_prompt, document_prompt: text put before each query or document.
        normalize: scale what comes back to length 1.
        timeout_seconds: for one request with its whole answer.
        max_retries: more attempts for one batch after the first.
        max_wait_seconds: the longest wait that a server may ask for before it becomes an error.
        batch_tokens, batch_texts: the most in one request (tokens as *count_tokens* sees them).
        max_concurrency: requests under way at once in one call.
        price_usd_per_million_tokens: to count the cost.
        count_tokens: text to tokens, for batching only (``estimate_tokens``, or tiktoken's).
        sleep: how to wait (tests hand in their own).

    Raises:
        EncoderError: an address that is no http(s) URL, holds credentials, or would carry the key
            unencrypted to another machine.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        dims: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        normalize: bool = False,
        timeout_seconds: float = 60.0,
        max_retries: int = 5,
        max_wait_seconds: float = 120.0,
        batch_tokens: int = 50_000,
        batch_texts: int = 256,
        max_concurrency: int = 4,
        price_usd_per_million_tokens: float | None = None,
        count_tokens: Callable[[str], int] = estimate_tokens,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spec = f"openai:{model}"
        if not model:
            raise EncoderError("openai: needs a model's name (openai:text-embedding-3-small)", spec="openai:")
        if dims is not None and dims < 1:
            raise EncoderError(f"dims must be at least 1, not {dims}", spec=self._spec)
        if min(batch_tokens, batch_texts, max_concurrency) < 1 or max_retries < 0 or timeout_seconds <= 0:
            raise EncoderError("batch sizes, concurrency and time-out must be positive", spec=self._spec)
        self._model, self._base_url = model, checked_url(base_url, api_key is not None, self._spec)
        self._asked_dims = dims
        self._dims = dims or (_NATIVE_DIMS.get(model) if self._base_url == DEFAULT_URL else None)
        self._prompts = {"query": query_prompt, "document": document_prompt}
        self._normalize = normalize
        self._timeout_seconds = timeout_seconds
        self._max_retries, self._max_wait = max_retries, max_wait_seconds
        self._batch_tokens, self._batch_texts = batch_tokens, batch_texts
        self._concurrency, self._price = max_concurrency, price_usd_per_million_tokens
        self._count_tokens, self._sleep = count_tokens, sleep
        if api_key:
            try:
                checked_credential(api_key, "the API key")
            except OptionsError as error:
                raise EncoderError(error.message, spec=self._spec) from None
        # httpx takes a proxy from the environment, and a proxy that refuses quotes its own credentials.
        proxies = [urlsplit(url) for url in urllib.request.getproxies().values()]
        self._scrub = Scrubber([api_key, *(unquote(parts.password or "") for parts in proxies)])
        hide_in_logs(scrub=self._scrub)
        # gzip alone: a read of 64 kB of it unpacks to 64 MB at most, one of zstd or brotli to gigabytes.
        headers = {"accept-encoding": "gzip"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._process = ProcessMark()
        self._make_client: Callable[[], httpx.Client] = lambda: httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=min(10.0, timeout_seconds)),
            limits=httpx.Limits(max_connections=max_concurrency * 2),
            follow_redirects=False,
        )
        self._client = self._make_client()
        self._lock = ForkSafeLock()
        self._paused_until = 0.0
        self._usage_missing = False
        self._stats = EncodeCounter()

    def __repr__(self) -> str:
        return f"OpenAIEncoder({self._model!r}, base_url={self._base_url!r}, dims={self._dims})"

    def __reduce__(self) -> Any:
        """Pickled as what it was loaded from, without the key: the process that reads the pickle takes it
        from its own environment."""
        return how_to_load(self)

    @property
    def info(self) -> EncoderInfo:
        """The address is under ``runtime``: the same model may move. No hash: only canaries can tell
        that a server changed its model. ``dims`` is None until known (``probe``, or the first call)."""
        return EncoderInfo(
            spec=self._spec,
            type="dense",
            dims=self._dims,
            model=self._model,
            normalize=self._normalize,
            query_prompt=self._prompts["query"],
            document_prompt=self._prompts["document"],
            runtime={
                "backend": "openai-compatible",
                "url": self._base_url,
                "tokens_estimated": self._usage_missing,
            },
        )

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    def probe(self) -> int:
        """One short request to learn the number of dimensions."""
        return int(self._encode(["dimensions"], "")[0].shape[0])

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims), in the order given.

        Raises:
            EncoderError: the server refused, or answered with something that can't be right.
            RateLimitedError, TransientError: it stayed busy or unreachable through all retries.
        """
        return self._encode(texts, self._prompts["document"])

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims); raises as :meth:`encode_document`."""
        return self._encode(texts, self._prompts["query"])

    def close(self) -> None:
        # A forked child has the parent's client with it, whose pool's lock a thread of the parent's may have
        # held (httpcore 1.0: close waited for ever); the child's sockets go with its reference.
        if self._process.here:
            self._client.close()

    # -- batches ---------------------------------------------------------------------------------

    def _encode(self, texts: Sequence[str], prompt: str) -> DenseMatrix:
        started = time.perf_counter()
        inputs = [(prompt + text) or " " for text in texts]
        batches = list(self._batches(inputs))
        count = EncodeStats()
        try:
            if len(batches) > 1 and self._concurrency > 1:
                with ThreadPoolExecutor(min(self._concurrency, len(batches))) as pool:
                    parts = list(pool.map(self._one_batch, batches, repeat(count)))
            else:
                parts = [self._one_batch(batch, count) for batch in batches]
            count.texts = len(texts)
        finally:  # what was answered before another batch failed has been paid for
            count.seconds = time.perf_counter() - started
            self._stats.add(count)
        vectors = np.concatenate(parts) if parts else np.zeros((0, self._dims or 0), np.float32)
        if self._normalize and len(vectors):
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, np.float32(1e-12))
        return vectors

    def _batches(self, inputs: list[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        tokens = 0
        for text in inputs:
            n = self._count_tokens(text)
            if batch and (len(batch) >= self._batch_texts or tokens + n > self._batch_tokens):
                yield batch
                batch, tokens = [], 0
            batch.append(text)
            tokens += n
        if batch:
            yield batch

    def _one_batch(self, batch: list[str], count: EncodeStats) -> FloatArray:
        try:
            return self._with_retries(batch, count)
        except EncoderError as error:
            if len(batch) == 1 or not is_too_large(error):
                raise
            # The server takes less at once than we guessed: halve, and remember for the next batches.
            half = len(batch) // 2
            with self._lock:
                self._batch_texts = max(1, min(self._batch_texts, half))
            halves = (batch[:half], batch[half:])
            return np.concatenate([self._one_batch(one, count) for one in halves])

    def _with_retries(self, batch: list[str], count: EncodeStats) -> FloatArray:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._max_retries + 1),
            wait=_wait,
            retry=tenacity.retry_if_exception(self._is_worth_waiting_for),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._request, batch, count)

    def _is_worth_waiting_for(self, error: BaseException) -> bool:
        if isinstance(error, RateLimitedError):
            return (error.retry_after_seconds or 0.0) <= self._max_wait
        return isinstance(error, TransientError)

    def _current_client(self) -> httpx.Client:
        """In a forked child a client of its own: two processes must not speak on one connection."""
        with self._lock:
            if not self._process.here:
                self._client, self._process = self._make_client(), ProcessMark()
            return self._client

    # -- one request -----------------------------------------------------------------------------

    def _request(self, batch: list[str], count: EncodeStats) -> FloatArray:
        pause = self._paused_until - time.monotonic()
        if pause > 0:  # we, or another thread of ours, were told to wait
            # A little apart: the threads that were told to wait would come back all at once.
            self._sleep(pause + random.uniform(0.0, 0.1))
        # 4,096 numbers are 22 kB in base64 and 90 kB as JSON text.
        body: dict[str, Any] = {"model": self._model, "input": batch, "encoding_format": "base64"}
        if self._asked_dims is not None:
            body["dimensions"] = self._asked_dims
        failure: TransientError | EncoderError
        try:
            # httpx's time-outs are for each read: this is for all of it, the headers included.
            send = functools.partial(self._send, body, len(batch))
            response = finish_within(self._timeout_seconds * 1.1, send)
        except _UnfitBodyError as error:
            failure = EncoderError(f"{self._base_url} answered with {error}", spec=self._spec)
        except httpx.DecodingError as error:
            failure = EncoderError(
                f"{self._base_url} answered with a body that can't be decoded ({self._scrub(str(error))})",
                spec=self._spec,
            )
        except (httpx.TimeoutException, TimeoutError) as error:
            failure = TransientError(
                f"{self._base_url} did not answer in time ({type(error).__name__}); raise timeout_seconds, "
                "or send less at once"
            )
        except httpx.TransportError as error:
            words = "a header can't be sent" if is_header_error(error) else self._scrub(str(error))
            failure = TransientError(f"can't reach {self._base_url}: {words}")
        else:
            if response.status_code == 200:
                return self._checked(response, batch, count)
            failure = answer_error(response, url=self._base_url, spec=self._spec, scrub=self._scrub)
        # Raised outside of the except blocks: httpx's errors hold the request, and with it the key.
        if isinstance(failure, RateLimitedError) and failure.retry_after_seconds is not None:
            until = time.monotonic() + min(failure.retry_after_seconds, self._max_wait)
            with self._lock:
                self._paused_until = max(self._paused_until, until)
        raise failure

    def _send(self, body: dict[str, Any], texts: int) -> httpx.Response:
        """One request and its whole answer, read by one deadline and up to a number of bytes.

        httpx's time-out is for each read: a server that sends a byte a second would never be given up.
        The bytes are counted after decompression, a piece at a time, since a gzip body grows a thousandfold.
        """
        deadline, most = time.monotonic() + self._timeout_seconds, _MOST_BYTES + texts * _MOST_TEXT_BYTES
        client = self._current_client()
        with client.stream("POST", f"{self._base_url}/embeddings", json=body) as answer:
            packed = answer.headers.get("content-encoding", "identity").strip().lower()
            if packed not in ("identity", "gzip", "deflate", ""):  # gzip twice is a million for one
                raise _UnfitBodyError("a content-encoding that was not asked for")
            read = bytearray()
            # No size for the pieces: httpx would hold them back until that much has come.
            for piece in answer.iter_bytes():
                read += piece
                if len(read) > most:
                    raise _UnfitBodyError(f"more than {most} bytes for {texts} texts")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the whole answer did not come in time")
        # The body is decoded: said again, its encoding would be undone twice.
        headers = [(k, v) for k, v in answer.headers.multi_items() if k.lower() != "content-encoding"]
        return httpx.Response(answer.status_code, headers=headers, content=bytes(read))

    def _checked(self, response: httpx.Response, batch: list[str], count: EncodeStats) -> FloatArray:
        vectors, usage = parse_vectors(response, len(batch), url=self._base_url, spec=self._spec)
        width = vectors.shape[1]
        with self._lock:
            if self._dims is None:
                self._dims = width
            expected = self._dims
        if width != expected:
            hint = (
                "it doesn't honour `dimensions`: set dims to what it returns"
                if self._asked_dims is not None
                else "the server changed its model"
            )
            raise EncoderError(
                f"{self._base_url} answered with {width} dimensions instead of {expected}; {hint}",
                spec=self._spec,
            )
        self._count(usage, batch, count)
        return vectors

    def _count(self, usage: Any, batch: list[str], count: EncodeStats) -> None:
        tokens = usage.get("total_tokens", usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        with self._lock:
            # A count below zero, or beyond what a request can hold, is none (a bool is an int, too).
            if type(tokens) is not int or not 0 <= tokens < 1 << 53:
                self._usage_missing = True
                tokens = sum(map(self._count_tokens, batch))
            count.tokens += tokens
            if self._price is not None:
                count.cost_usd += tokens * self._price / 1e6


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: up to 0.5, 1, 2 … 30, drawn at random ("full jitter"); none
    where the server said how long, since every request waits for that by itself."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, RateLimitedError) and error.retry_after_seconds is not None:
        return 0.0
    return random.uniform(0.0, min(30.0, 0.5 * 2 ** (state.attempt_number - 1)))


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> OpenAIEncoder:
    """``MODEL`` or ``MODEL@URL`` as an encoder; for :func:`esembed.encode.registry.load`.

    Where the number of dimensions is neither given nor known, one short request asks for it.

    Raises:
        EncoderError: a missing key, a param that a remote model can't take, an address that won't do.
    """
    model, _, url = rest.partition("@http")
    base_url = f"http{url}" if url else DEFAULT_URL
    allowed = EncoderParams(
        dims=params.dims,
        query_prompt=params.query_prompt,
        document_prompt=params.document_prompt,
        normalize=params.normalize,
    )
    if params != allowed:
        raise EncoderError(
            "a remote model takes dims, query_prompt, document_prompt and normalize; the server decides the "
            "rest: remove the other params",
            spec=f"openai:{model}",
        )
    variable = runtime.api_key_env or ("OPENAI_API_KEY" if not url else None)
    key: str | None = None
    if variable:
        try:
            key = key_from_environment(variable, f"openai:{model} (api_key_env)")
            checked_credential(key, f"the environment variable {variable}")
        except OptionsError as error:
            raise EncoderError(error.message, spec=f"openai:{model}") from None
    encoder = OpenAIEncoder(
        model,
        base_url=base_url,
        api_key=key,
        dims=params.dims,
        query_prompt=params.query_prompt or "",
        document_prompt=params.document_prompt or "",
        normalize=bool(params.normalize),
        timeout_seconds=runtime.timeout_seconds,
        max_retries=runtime.max_retries,
        batch_tokens=runtime.batch_tokens or 50_000,
        price_usd_per_million_tokens=runtime.price_usd_per_million_tokens,
    )
    if encoder.info.dims is None:
        try:
            encoder.probe()
        except BaseException:
            encoder.close()
            raise
    return encoder


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


def answer_error(
    response: httpx.Response, *, url: str, spec: str, scrub: Callable[[str], str]
) -> TransientError | EncoderError:
    """The error that an answer other than 200 means."""
    status = response.status_code
    detail, code = _detail(response, scrub)
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


_SHOWN = 300
"""Characters of a server's words in an error."""


def _detail(response: httpx.Response, scrub: Callable[[str], str]) -> tuple[str, str | None]:
    """The server's words, cut short, and its error code. Servers quote keys, and half a key would no longer
    be known: it is masked before the cut."""
    try:
        body: Any = response.json()
    except (ValueError, RecursionError):
        # Not response.text: a charset such as rot13 or base64_codec is none for text, and raises LookupError.
        return scrub(response.content.decode("utf-8", "replace"))[:_SHOWN], None
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        code = error.get("code") or error.get("type")
        return scrub(str(message))[:_SHOWN], str(code)[:_SHOWN] if code is not None else None
    return scrub(str(error))[:_SHOWN], None


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
        items = [(_index(item["index"]), item["embedding"]) for item in answer["data"]]
    # RecursionError is Python's parser on deep brackets.
    except (ValueError, KeyError, TypeError, LookupError, RecursionError):
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
    except (ValueError, TypeError, OverflowError, binascii.Error):  # OverflowError: an integer of 400 digits
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


def _index(value: Any) -> int:
    """A position as it came: 0.9, true and "1" would be taken for another text's."""
    if type(value) is not int:
        raise TypeError("data[].index is no integer")
    return value


def _floats(embedding: Any) -> FloatArray:
    """A vector as a list of numbers, or base64 of little-endian float32 (what OpenAI sends)."""
    if isinstance(embedding, str):
        raw = base64.b64decode(embedding, validate=True)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)
    if any(type(value) not in (int, float) for value in embedding):
        raise TypeError("not a number")
    with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
        return np.asarray(embedding, dtype=np.float32)
