"""Calls and reads that end: by one deadline for all of it, and with no more than a number of bytes.

The time-outs of HTTP libraries are for each read. A server that sends a byte a second, of its headers or its
body, keeps them waiting for as long as it likes, and nothing can end a read from outside. So the call is made
in a thread, which is left behind when its time is up.
"""

from __future__ import annotations

import contextvars
import functools
import http.client
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from esembed.json_input import JsonInputError, JsonLimits, parse_json

__all__ = ["LATE", "Read", "finish_within", "read_url", "results_within"]

T = TypeVar("T")
_ANSWER = JsonLimits(characters=1 << 30, values=1 << 30, objects=1 << 30)
"""Its bytes are bounded already."""
LATE: Any = object()
"""In the place of what didn't come in time."""


def results_within(seconds: float, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of calls that overlap, each in a thread, in their order; LATE for one that didn't end in
    time. Nothing can end a thread: those that are late go on.

    Raises:
        what the first one raised that raised in time.
    """
    # Daemon threads and no pool of concurrent.futures, whose threads the interpreter waits for when it ends:
    # a server that sends a byte a second would keep the process for as long as it likes.
    answers: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    found: list[Any] = [LATE] * len(calls)
    ends = time.monotonic() + max(0.0, seconds)

    def run(position: int, call: Callable[[], Any]) -> None:
        try:
            answers.put((position, call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.put((position, None, error))

    for position, call in enumerate(calls):
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(run, position, call), name="esembed-within", daemon=True
        ).start()
    for _ in calls:
        try:
            position, value, error = answers.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            break
        if error is not None:
            raise error
        found[position] = value
    return found


def finish_within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns, or raises.

    Raises:
        TimeoutError: it took longer.
    """
    (found,) = results_within(seconds, (call,))
    if found is LATE:
        raise TimeoutError(f"no end within {seconds:g} s")
    result: T = found
    return result


class Read(NamedTuple):
    """An answer as it came.

    Attributes:
        status: of any kind; redirects aren't followed.
        headers: by lower-case name.
        body: its first bytes, up to what was asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Its values; None where it is no JSON."""
        try:
            return parse_json(self.body, _ANSWER)
        except JsonInputError:
            return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib follows a redirect to any host, with all headers. The official clients follow none."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect is the answer."""
        return


def read_url(
    url: str,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    most_bytes: int = 1_000_000,
) -> Read:
    """What answers at an address, without proxies (as the official clients ask) and redirects.

    Args:
        seconds: for all of it, from the name's look-up to the last byte.
        context: of TLS; None is the system's.
        most_bytes: more of the body isn't read.

    Raises:
        TimeoutError: it took longer.
        OSError: nothing answers, or TLS failed (ssl.SSLError).
        http.client.HTTPException: what answers isn't HTTP.
    """
    return finish_within(
        seconds, functools.partial(_read_url, url, dict(headers or {}), context, seconds, most_bytes)
    )


def _read_url(
    url: str, headers: dict[str, str], context: ssl.SSLContext | None, seconds: float, most: int
) -> Read:
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirects()
    )
    try:
        with opener.open(request, timeout=seconds) as answer:
            return Read(answer.status, _lower(answer.headers), answer.read(most))
    except urllib.error.HTTPError as error:
        with error:
            return Read(error.code, _lower(error.headers), error.read(most))
    except urllib.error.URLError as error:
        # urllib hides the socket's or OpenSSL's own error in its "reason", which may be a text as well.
        raise (error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))) from None
    except (OSError, http.client.HTTPException):
        raise
    except Exception as error:  # noqa: BLE001 - http.client has ValueError and others for what isn't HTTP
        raise http.client.HTTPException(f"{type(error).__name__}: {error!s:.200}") from None


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
