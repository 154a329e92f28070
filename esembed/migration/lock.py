"""The lock on an alias: one migration at a time, whatever machine it runs on.

It is one document in a hidden index beside the versions (``ALIAS-migration``). It is made with ``_create``,
which only one can win, and written again every few seconds under ``if_seq_no`` and ``if_primary_term``. Who
finds it held looks whether it is still written; no clocks are compared. A lock whose process is known to be
gone (on this machine), or that was not written for :data:`SILENT_SECONDS`, is taken over by the same
compare-and-write, and the one who lost it finds out at its next write and stops.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from esembed.answers import Versioned, part
from esembed.errors import EsembedError, PermanentError, TransientError
from esembed.transport import Transport

__all__ = ["BEAT_SECONDS", "SILENT_SECONDS", "MigrationLock", "lock_index"]

BEAT_SECONDS = 4.0
"""How often the owner of a lock shows that it lives."""
SILENT_SECONDS = 20.0
"""After how long without a beat another run takes over: five beats, so that a pause of a garbage-collected
engine or a slow request (each of some seconds) costs nobody the lock."""

_DOCUMENT = "claim"  # its id, by which runs of earlier versions find it, too
_log = logging.getLogger(__name__)
_mine: set[str] = set()
"""The owners of locks that this process holds."""

T = TypeVar("T")


def lock_index(alias: str) -> str:
    """The hidden index that holds an alias's lock while it is moved."""
    return f"{alias}-migration"


class MigrationLock:
    """The right to move one alias. Blocking; safe to use from several threads.

    Args:
        client: what carries the requests.
        alias: what is moved.
        what: what it is locked for (``migrate``, ``rollback`` …), for the others' messages.

    Attributes:
        note: why nothing could be locked (no privilege for that index), or None.
        lost: somebody else took it over.
    """

    def __init__(self, client: Transport, alias: str, what: str) -> None:
        self.alias = alias
        self.note: str | None = None
        self.lost = False
        self.client = client
        self._what = what
        self._path = f"/{quote(lock_index(alias), safe='')}"
        self._owner = uuid.uuid4().hex
        self._beats = 0
        self._version: dict[str, int] | None = None
        self._since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._lock = threading.Lock()
        self._done = threading.Event()  # ends the beating
        self._thread: threading.Thread | None = None

    # -- taking it ---------------------------------------------------------------------------------

    def take(self) -> None:
        """Lock the alias, and keep the lock alive until :meth:`release`.

        Raises:
            PermanentError: another migration of it is running.
        """
        seen: dict[str, int] | None = None
        started = time.monotonic()
        while True:  # each round is one look; none of them waits for longer than a lock may be silent
            if self._create():
                break
            holder, version = self._read()
            if holder is None or version is None:
                if self.note is not None:
                    return
            elif _gone(holder) or (version == seen and time.monotonic() - started >= SILENT_SECONDS):
                if self._write(version):
                    _log.warning("took over the lock of %s", _who(holder))
                    break
            elif seen not in (None, version):
                raise self._busy(holder)
            elif seen is None:
                seen, started = version, time.monotonic()
                _log.warning(
                    "%r is locked by %s; looking for up to %.0f s whether that still runs",
                    self.alias,
                    _who(holder),
                    SILENT_SECONDS,
                )
            self._done.wait(0.5)
        _mine.add(self._owner)
        self._thread = threading.Thread(target=self._beat_on, name=f"lock {self.alias}", daemon=True)
        self._thread.start()

    def _create(self) -> bool:
        """Make the document where there is none."""
        answer = self.client.request("GET", f"{self._path}/_doc/{_DOCUMENT}", ignore=(403, 404))
        if answer.status == 200 and answer.body.get("found"):
            return False
        body = {
            # Hidden from wildcards; a replica only where there is a node for it, so that a single node stays
            # green.
            "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}},
            "mappings": {"dynamic": "false"},
        }
        made = self.client.request("PUT", self._path, body=body, ignore=(400, 403))
        if made.status == 403 or answer.status == 403:
            return self._not_allowed(made.status == 200)
        path = f"{self._path}/_create/{_DOCUMENT}"
        answer = self.client.request("PUT", path, body=self._body(), ignore=(403, 404, 409))
        if answer.status == 403:
            return self._not_allowed(made.status == 200)
        return self._won(answer)

    def _not_allowed(self, made: bool) -> bool:
        """Go on without a lock; an index that was just made for it goes again."""
        self.note = (
            f"without the privileges to read, write, create and delete the index {lock_index(self.alias)!r} "
            "nothing prevents a second migration of the alias at the same time"
        )
        if made:
            self.client.request("DELETE", self._path, ignore=(403, 404))
        return False

    def _read(self) -> tuple[Mapping[str, Any] | None, dict[str, int] | None]:
        if self.note is not None:
            return None, None
        answer = self.client.request("GET", f"{self._path}/_doc/{_DOCUMENT}", ignore=(404,))
        if answer.status != 200 or not answer.body.get("found"):
            return None, None
        source = answer.body.get("_source")
        return source if isinstance(source, Mapping) else {}, _version(answer.body)

    def _write(self, version: Mapping[str, int]) -> bool:
        """Write the document over the state that *version* names, and over no other."""
        path, params = f"{self._path}/_doc/{_DOCUMENT}", dict(version)
        answer = self.client.request("PUT", path, params=params, body=self._body(), ignore=(404, 409))
        return self._won(answer)

    def _won(self, answer: Any) -> bool:
        if answer.status not in (200, 201):
            return False
        self._version = _version(answer.body)
        return True

    def _body(self) -> dict[str, Any]:
        self._beats += 1
        return {
            "owner": self._owner,
            "what": self._what,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": self._since,
            "beats": self._beats,
        }

    def _busy(self, holder: Mapping[str, Any]) -> PermanentError:
        return PermanentError(
            f"another migration of {self.alias!r} is running: {_who(holder)}; nothing was changed by this "
            "one. Wait for its end, or end that process and run this again"
        )

    # -- holding it --------------------------------------------------------------------------------

    def _beat_on(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            try:
                self._beat()
            except EsembedError:
                pass  # no answer: the next beat may get through
            except BaseException:  # noqa: BLE001 - the client or its event loop has ended, and so does this
                return
            if self.lost:
                return

    def _beat(self) -> None:
        with self._lock:
            if self._version is None or self.lost or self._write(self._version):
                return
            holder, version = self._read()
            if holder is not None and holder.get("owner") == self._owner and version is not None:
                self._version = version  # written by a request whose answer was lost
            else:
                self.lost = True

    def check(self) -> None:
        """Raises PermanentError where the lock is lost, TransientError where the engine doesn't answer."""
        self._beat()
        self._still()

    def _still(self) -> None:
        if self.lost:
            raise PermanentError(
                f"another run took over the migration of {self.alias!r}, since this one gave no sign of life "
                f"for {SILENT_SECONDS:.0f} s (or its lock was deleted); it goes on there, this one ends"
            )

    def watched(self, records: Iterable[T]) -> Iterator[T]:
        """The records, until the lock is lost. Raises PermanentError then."""
        for record in records:
            self._still()
            yield record

    def release(self) -> None:
        """Give it back. Where the engine doesn't answer, the lock is left to be taken over."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        _mine.discard(self._owner)
        if self._version is None:
            return
        try:
            self._beat()
            if self.lost:
                return
            # With the document goes the index, in one step: nobody's new lock can be in it.
            answer = self.client.request("DELETE", self._path, ignore=(403, 404))
            if answer.status == 403:
                params = dict(self._version)
                path = f"{self._path}/_doc/{_DOCUMENT}"
                self.client.request("DELETE", path, params=params, ignore=(403, 404, 409))
        except (TransientError, PermanentError) as error:
            _log.warning("the lock on %r was left to be taken over: %s", self.alias, error)
        self._version = None


def _version(body: Mapping[str, Any]) -> dict[str, int]:
    found = part(Versioned, body, f"the document {_DOCUMENT}")
    return {"if_seq_no": found.seq_no, "if_primary_term": found.primary_term}


def _who(holder: Mapping[str, Any]) -> str:
    return (
        f"{holder.get('what', 'migrate')} by process {holder.get('pid')} on {holder.get('host')}, "
        f"since {holder.get('since')}"
    )


def _here(holder: Mapping[str, Any]) -> bool:
    """The holder's process is one of this machine's, so that it can be looked for."""
    return holder.get("machine") is not None and holder.get("machine") == _machine()


def _gone(holder: Mapping[str, Any]) -> bool:
    """The holder's process is known to have ended."""
    if not _here(holder):
        return False
    pid = holder.get("pid")
    if pid == os.getpid() and holder.get("started") == _started(os.getpid()):
        return holder.get("owner") not in _mine
    return not isinstance(pid, int) or _started(pid) is None or _started(pid) != holder.get("started")


def _machine() -> str | None:
    """This boot of this machine and this process namespace, or None where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process of this machine started (in clock ticks since the boot), or None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after = text.rpartition(")")[2].split()  # the name in front may hold anything
    if not after or after[0] in ("Z", "X"):
        return None  # it has ended; its parent just hasn't looked
    return after[19] if len(after) > 19 else None
