"""Remote files that go on where their connection broke.

An https server is asked for the rest by ``Range`` and ``If-Range`` (RFC 9110, 13.1.5 and 14.2), a store by
seeking in the file opened again. It must be the same file: the same ETag, else the same length and date.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

from esembed.credentials import origin, public_url
from esembed.credentials import without_secrets as text_without_secrets

__all__ = ["ATTEMPTS", "PAUSE_SECONDS", "ResumingStream", "open_remote", "web_options", "without_secrets"]

ATTEMPTS = 4
"""Failures in a row, without a byte between them, that end the file."""

PAUSE_SECONDS = 0.5
"""Before the first attempt; doubled before each further one."""

_log = logging.getLogger(__name__)

Identity = tuple[str | None, int | None, str | None]
"""ETag, length in bytes, date of the last change, as far as the server tells."""


class ResumingStream(io.RawIOBase):
    """A remote file as one stream of bytes, however often it has to be opened.

    Args:
        open_at: opens the file at an offset and tells what it is.
        label: its name for people.
        lost: whether an exception is the network's or the store's.
    """

    def __init__(
        self,
        open_at: Callable[[int], tuple[Any, Identity]],
        label: str,
        lost: Callable[[Exception], bool],
    ) -> None:
        self._open_at, self._label, self._lost = open_at, label, lost
        self._offset = 0
        self._failures = 0
        self._stream, self._identity = open_at(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        length = self._identity[1]
        while True:
            try:
                data = self._stream.read(len(view))
                if not data and length is not None and self._offset < length:
                    raise OSError(f"it ended {length - self._offset} bytes too early")
            except Exception as error:
                if not self._lost(error):
                    raise
                self._resume(error)
                continue
            if data:
                self._failures = 0
            view[: len(data)] = data
            self._offset += len(data)
            return len(data)

    def _resume(self, error: Exception) -> None:
        """Open the file again where it broke off. Raises OSError where that can't be done."""
        while True:
            self._failures += 1
            if self._failures > ATTEMPTS:
                raise OSError(
                    f"the connection was lost at byte {self._offset}, and {ATTEMPTS} attempts to go on there "
                    f"failed ({without_secrets(error)})"
                ) from None  # the store's own error quotes the address with all that is in it
            time.sleep(PAUSE_SECONDS * 2 ** (self._failures - 1))
            self._shut()
            try:
                stream, identity = self._open_at(self._offset)
            except Exception as again:
                if not self._lost(again):
                    raise
                error = again
                continue
            if not _same(self._identity, identity):
                stream.close()
                raise OSError(
                    f"the connection was lost at byte {self._offset}, and the file is another one by now (or "
                    "the server doesn't tell that it is the same)"
                ) from error
            self._stream = stream
            _log.warning("%s: the connection was lost at byte %d; going on there", self._label, self._offset)
            return

    def _shut(self) -> None:
        try:
            self._stream.close()
        except Exception as error:
            if not self._lost(error):
                raise

    def close(self) -> None:
        if not self.closed:
            self._shut()
        super().close()


def without_secrets(error: Exception) -> str:
    """The error's text without what may be secret in addresses and headers."""
    return text_without_secrets(str(getattr(error, "strerror", None) or error or type(error).__name__))


def _same(first: Identity, now: Identity) -> bool:
    """Whether two answers are of one file: by the ETag where both have one, else by length and date."""
    tag, length, date = first
    if tag is not None and now[0] is not None:
        return tag == now[0] and length == now[1]
    return tag == now[0] and length is not None and (length, date) == now[1:]


def web_options(name: str, storage: Mapping[str, Any]) -> dict[str, Any]:
    """fsspec's options for an address; for one on the web, with a guard over where its redirects lead."""
    options = dict(storage)
    if name.startswith("http"):
        given = dict(options.get("client_kwargs") or {})
        guard = _redirect_guard(bool(given.get("auth") or given.get("cookies") or options.get("cookies")))
        given["trace_configs"] = [*(given.get("trace_configs") or ()), guard]
        options["client_kwargs"] = given
    return options


@functools.cache  # fsspec keeps one connection pool for equal options
def _redirect_guard(refuse: bool) -> Any:
    """Keeps credentials from following a redirect to another host.

    aiohttp takes away the Authorization header there (3.14), but neither another header that carries a token
    (``PRIVATE-TOKEN``, ``X-Api-Key``) nor a session's own ``auth`` and cookies, which it sends to any host.

    Args:
        refuse: end the request, since there is something that can't be left out of it.
    """
    import aiohttp

    async def on_redirect(_session: Any, _context: Any, params: Any) -> None:
        to = urljoin(str(params.url), params.response.headers.get("Location") or "")
        if origin(to) == origin(str(params.url)):
            return
        if refuse:
            raise aiohttp.ClientError(
                f"it redirects to {public_url(to)}, and credentials aren't sent to another host: name that "
                "address as the source, if it is right"
            )
        for name in [name for name in params.headers if name.lower() not in _NO_SECRETS]:
            params.headers.popall(name, None)

    guard = aiohttp.TraceConfig()
    guard.on_request_redirect.append(on_redirect)
    return guard


_NO_SECRETS = {"accept", "accept-encoding", "accept-language", "user-agent", "range", "if-range", "host"}
"""Headers that a request may take to another host."""


def open_remote(
    url: str, label: str, storage: Mapping[str, Any], lost: Callable[[Exception], bool]
) -> ResumingStream:
    """A remote file that is read from front to end, through fsspec.

    Args:
        url: its address.
        label: its name for people.
        storage: fsspec's options.
        lost: whether an exception is the network's or the store's.
    """
    import fsspec

    web = url.startswith("http")
    options = web_options(url, storage)
    if web:
        # What is read from front to end comes in one answer: not every server gives parts of a file.
        options.setdefault("block_size", 0)
        options["client_kwargs"] = {"timeout": _timeout(), **options["client_kwargs"]}
    fs, path = fsspec.core.url_to_fs(url, **options)
    first: list[Identity] = []

    def open_at(offset: int) -> tuple[Any, Identity]:
        if web and not options["block_size"]:
            return _open_web(fs, path, offset, options, first)
        if offset:
            fs.invalidate_cache()
        stream = fs.open(path, "rb")
        details = getattr(stream, "details", None) or fs.info(path)
        tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
        changed = details.get("LastModified") or details.get("mtime") or details.get("updated")
        if offset:
            stream.seek(offset)
        return stream, (None if tag is None else str(tag), details.get("size"), str(changed))

    return ResumingStream(open_at, label, lost)


def _timeout() -> Any:
    """Time-outs of an answer that may take hours, as fast as the engine takes what is in it: aiohttp's own
    ends each after five minutes."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=120.0)


def _open_web(
    fs: Any, path: str, offset: int, options: Mapping[str, Any], first: list[Identity]
) -> tuple[Any, Identity]:
    headers = dict(options.get("headers") or {})
    # Bytes as they are stored: an offset into what was compressed on the way would mean nothing.
    headers.setdefault("Accept-Encoding", "identity")
    if offset:
        headers["Range"] = f"bytes={offset}-"
        tag, _, date = first[0]
        strong = tag is not None and not tag.startswith("W/")
        if strong or date:
            headers["If-Range"] = str(tag if strong else date)
    # A size that is known spares a question; what the answer says counts.
    stream = fs.open(path, "rb", size=1, headers=headers)
    answer = stream.r
    told = answer.headers
    length = _length(told.get("Content-Length", ""))
    if answer.status == 206:
        length = _length(told.get("Content-Range", "").rpartition("/")[2])
    if told.get("Content-Encoding", "identity") != "identity":
        length = None  # compressed on the way all the same: neither length nor offset is the file's
    identity = (told.get("ETag"), length, told.get("Last-Modified"))
    if not first:
        first.append(identity)
    elif answer.status != 206:
        # No parts of files here, or the file is another one now: the head is passed over once more.
        if not _same(first[0], identity):
            return stream, identity
        try:
            _pass_over(stream, offset)
        except BaseException:
            stream.close()
            raise
    return stream, identity


def _length(text: str) -> int | None:
    """A number of bytes as a header says it, or None ("²" is a digit to Python, and no number)."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _pass_over(stream: Any, left: int) -> None:
    while left:
        data = stream.read(min(left, 1 << 20))
        if not data:
            raise OSError(f"it ended {left} bytes before the break")
        left -= len(data)
