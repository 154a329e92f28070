"""Remote files: read within a time, no more of them than was asked for, and on where a connection broke.

What is read from front to end goes on where it broke. An https server is asked for the rest by ``Range`` and
``If-Range`` (RFC 9110, 13.1.5 and 14.2), a store by seeking in the file opened again. It must be the same
file: the same ETag, else the same length and date.
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

from esembed.bounded import finish_within
from esembed.credentials import origin, public_url
from esembed.credentials import without_secrets as text_without_secrets

__all__ = [
    "ATTEMPTS",
    "PAUSE_SECONDS",
    "RandomAccess",
    "ResumingStream",
    "SlowStoreError",
    "ask",
    "list_names",
    "open_random",
    "open_remote",
    "web_options",
    "without_secrets",
]

ATTEMPTS = 4
"""Failures in a row, without a byte between them, that end the file."""

PAUSE_SECONDS = 0.5
"""Before the first attempt; doubled before each further one."""

ANSWER_SECONDS = 120.0
"""For an answer to a question (is it there, how long is it), and for the start of what was asked for."""

SLOWEST_BYTES_PER_SECOND = 64 * 1024
"""A part of a file that was asked for has this much more time for its bytes."""

NAMES_SECONDS = 600.0
"""For the names of the files that are meant, which a store tells a thousand at a time."""

PACE_SECONDS, PACE_BYTES = 600.0, 38_400
"""A file that is read from front to end may take hours. But of each ten minutes that were spent waiting for
it, some of it must come: 64 bytes a second on average, which a feed of short lines has and a server that
sends a byte now and then, for ever, has not."""

WHOLE_BYTES = 1 << 30
"""The most that is held in memory of a file that can only be read whole; of a server's page of names, a
sixteenth of that."""

_log = logging.getLogger(__name__)

Identity = tuple[str | None, int | None, str | None]
"""ETag, length in bytes, date of the last change, as far as the server tells."""


class SlowStoreError(TimeoutError):
    """A store that sends too slowly, or not at all. No attempt to go on makes it faster."""


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a store's client returns. Raises SlowStoreError."""
    try:
        return finish_within(seconds, call)
    except TimeoutError:
        raise SlowStoreError(f"the store didn't send what was asked for within {seconds:.0f} s") from None


def ask(question: Callable[[], Any]) -> Any:
    """What a store answers to a question about one file. Raises SlowStoreError."""
    return _within(ANSWER_SECONDS, question)


def list_names(names: Callable[[], Any]) -> list[str]:
    """The names that a store has of some files, sorted. Raises SlowStoreError."""
    return sorted(_within(NAMES_SECONDS, names))


class RandomAccess(io.RawIOBase):
    """A remote file that is read here and there, as Parquet and Arrow need it.

    Each read ends within a time that its length decides, whichever store it comes from: their clients'
    time-outs, where they have one, are for each bit that arrives.

    Args:
        opened: opens it; fsspec's file.

    Raises:
        SlowStoreError: it took longer.
    """

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._late = False
        self._file: Any = None
        self._file = self.within(ANSWER_SECONDS, opened)
        # A read of some bytes brings a block of the file into fsspec's cache: 5 MiB by default, 50 from S3.
        self._block = _count(getattr(self._file, "blocksize", 0))

    @property
    def details(self) -> Mapping[str, Any]:
        """What the store told of the file when it was opened, if it did."""
        return getattr(self._file, "details", None) or {}

    def within(self, seconds: float, call: Callable[[], Any]) -> Any:
        """What a call to the store returns. Raises SlowStoreError."""
        if self._late:  # the call that was too late still goes on, and moves the place in the file
            raise SlowStoreError("the store was too slow for an earlier part")
        try:
            return _within(seconds, call)
        except SlowStoreError:
            self._late = True
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        """As many bytes, fewer only at the end of the file. Raises SlowStoreError, OSError."""
        if size is None or size < 0:
            return self._read_whole()
        data = self.within(_allowance(size + self._block), functools.partial(self._file.read, size))
        if len(data) > size:
            raise OSError(f"the store sent {len(data):,} bytes, and was asked for {size:,}")
        return data if isinstance(data, bytes) else bytes(data)

    def readall(self) -> bytes:
        return self._read_whole()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _read_whole(self) -> bytes:
        parts, length, pace = [], 0, _Pace()
        # A piece at a time: a server that gives no parts of files sends for as long as it likes.
        while data := pace.measure(lambda: self.within(ANSWER_SECONDS, lambda: self._file.read(1 << 20))):
            length += len(data)
            if length > WHOLE_BYTES:
                raise OSError(
                    f"it is longer than {WHOLE_BYTES >> 20} MiB, and can only be read whole: the store gives "
                    "no parts of it. Download it, and read the file"
                )
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        # What still reads is left behind, its file too: closing waits for it with some stores.
        if not self.closed and self._file is not None and not self._late:
            self._file.close()
        super().close()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _allowance(length: int) -> float:
    """The time for so many bytes, in seconds."""
    return ANSWER_SECONDS + length / SLOWEST_BYTES_PER_SECOND


class _Pace:
    """How fast it comes. Only the time spent waiting for it counts, not what is done with it in between."""

    def __init__(self) -> None:
        self._waited, self._bytes = 0.0, 0

    def measure(self, read: Callable[[], bytes]) -> bytes:
        """What the call read. Raises SlowStoreError where too little came in too much time."""
        began = time.monotonic()
        data = read()
        self._waited += time.monotonic() - began
        self._bytes += len(data)
        if self._waited > PACE_SECONDS:
            if self._bytes < PACE_BYTES and data:
                raise SlowStoreError(
                    f"it is too slow: {self._bytes:,} bytes came in {self._waited:.0f} s of waiting"
                )
            self._waited, self._bytes = 0.0, 0
        return data


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
        self._pace = _Pace()
        self._stream, self._identity = open_at(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        length = self._identity[1]
        while True:
            try:
                data = self._pace.measure(lambda: self._stream.read(len(view)))
                if not data and length is not None and self._offset < length:
                    raise OSError(f"it ended {length - self._offset} bytes too early")
            except Exception as error:
                if isinstance(error, SlowStoreError) or not self._lost(error):
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
    """fsspec's options for an address; for one on the web, with a guard over where its redirects lead, one
    over how much is read of its answers, and a time for them."""
    options = dict(storage)
    if name.startswith("http"):
        import aiohttp

        given = {
            "response_class": _capped_response(),
            "timeout": aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=60.0),
            **(options.get("client_kwargs") or {}),
        }
        guard = _redirect_guard(bool(given.get("auth") or given.get("cookies") or options.get("cookies")))
        given["trace_configs"] = [*(given.get("trace_configs") or ()), guard]
        options["client_kwargs"] = given
    return options


@functools.cache
def _capped_response() -> Any:
    """aiohttp's response, of which no more is read than was asked for. fsspec reads answers whole: the one to
    a question for a part of a file, however long it is in truth, and a page of names."""
    import aiohttp

    class CappedResponse(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                most = _asked_for(self.request_info.headers.get("Range", ""))
                parts, length = [], 0
                try:
                    while data := await self.content.read(1 << 20):
                        length += len(data)
                        if length > most:
                            raise aiohttp.ClientPayloadError(f"its answer is longer than {most:,} bytes")
                        parts.append(data)
                except BaseException:
                    self.close()
                    raise
                self._body = b"".join(parts)
            return await super().read()

    return CappedResponse


def _asked_for(given: str) -> int:
    """The most bytes of an answer to a request with that ``Range``."""
    found = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{1,18})", given)
    return WHOLE_BYTES >> 4 if found is None else max(0, int(found[2]) - int(found[1]) + 1)


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
        options["client_kwargs"] = {**options["client_kwargs"], **_stream_timeout(storage)}
    fs, path = fsspec.core.url_to_fs(url, **options)
    first: list[Identity] = []

    def open_at(offset: int) -> tuple[Any, Identity]:
        if web and not options["block_size"]:
            return _open_web(fs, path, offset, options, first)
        if offset:
            fs.invalidate_cache()
        stream = RandomAccess(lambda: fs.open(path, "rb"))
        details = stream.details or stream.within(ANSWER_SECONDS, lambda: fs.info(path))
        tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
        changed = details.get("LastModified") or details.get("mtime") or details.get("updated")
        if offset:
            stream.seek(offset)
        return stream, (None if tag is None else str(tag), details.get("size"), str(changed))

    return ResumingStream(open_at, label, lost)


def open_random(url: str, storage: Mapping[str, Any]) -> RandomAccess:
    """A remote file that is read here and there, through fsspec.

    Args:
        url: its address.
        storage: fsspec's options.
    """
    import fsspec

    options = web_options(url, storage)
    if url.startswith("http"):
        # A part may be a column of a gigabyte: its time is counted by RandomAccess.
        options["client_kwargs"] = {**options["client_kwargs"], **_stream_timeout(storage)}
    return RandomAccess(lambda: fsspec.open(url, "rb", **options).open())


def _stream_timeout(storage: Mapping[str, Any]) -> dict[str, Any]:
    """Time-outs of an answer that may take hours, as fast as the engine takes what is in it; none where the
    caller's options have their own."""
    if "timeout" in (storage.get("client_kwargs") or {}):
        return {}
    import aiohttp

    return {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=ANSWER_SECONDS)}


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
    stream = _within(ANSWER_SECONDS, lambda: fs.open(path, "rb", size=1, headers=headers))
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
    pace = _Pace()
    while left:
        data = pace.measure(functools.partial(stream.read, min(left, 1 << 20)))
        if not data:
            raise OSError(f"it ended {left} bytes before the break")
        left -= len(data)
