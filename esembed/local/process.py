"""Server processes: started as the right user, recognized again, ended; and what their logs say."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from esembed.errors import EngineStartError

__all__ = [
    "check_port_free",
    "create_time",
    "end_process",
    "explain_log",
    "give_to",
    "is_ours",
    "leftovers",
    "published_port",
    "server_uid",
    "spawn",
    "tail",
]

# Servers that this process started and that nobody has waited for yet: a dead one is a zombie until then.
_children: dict[int, subprocess.Popen[bytes]] = {}

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"(Bind\w*Exception|Address already in use|Failed to bind)",
        "the port is in use: stop what listens there, or choose another port (0 finds a free one)",
    ),
    (
        r"(Could not reserve enough space|Cannot allocate memory|insufficient memory|too large heap|"
        r"Invalid maximum heap size|exceeds the size limit|Too small (initial|maximum) heap|"
        r"Initial heap size set to a larger value)",
        "Java can't have a heap of that size: choose another heap size (--heap-mb)",
    ),
    (r"OutOfMemoryError|ExitOnOutOfMemory", "the heap was too small: choose a larger one (--heap-mb)"),
    (
        r"(UnsupportedClassVersionError|Unrecognized (VM )?option)",
        "this Java is not one that the server runs on",
    ),
    (
        r"(failed to obtain node locks|LockObtainFailedException)",
        "another server uses the same data folder: stop it first",
    ),
    (r"(No space left on device|not enough space)", "the disk is full"),
    (r"can ?not run (opensearch|elasticsearch) as root", "the server refuses to run as root"),
    (r"(AccessDeniedException|Permission denied)", "the server's user may not read or write its files"),
    (r"cannot downgrade|cannot upgrade a node", "the data folder was written by another version"),
    (r"unknown setting", "the server does not know a setting"),
)


def server_uid() -> int | None:
    """The user id a server runs as: None for the caller's own; as root, who called sudo or *nobody*."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    sudo = os.environ.get("SUDO_UID", "")
    if sudo.isdigit() and int(sudo) > 0:
        return int(sudo)
    import pwd

    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return 65534


def give_to(uid: int | None, *folders: Path) -> None:
    """Make *uid* the owner of these trees (nothing to do for None)."""
    if uid is None:
        return
    for folder in folders:
        os.chown(folder, uid, uid, follow_symlinks=False)
        for parent, names, files in os.walk(folder):
            for name in (*names, *files):
                os.chown(os.path.join(parent, name), uid, uid, follow_symlinks=False)


def check_port_free(port: int) -> None:
    """Raises EngineStartError when something listens on that loopback port (0 is always free)."""
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EngineStartError(
                f"port {port} on 127.0.0.1 can't be used ({error.strerror or error}){_listener(port)}: stop "
                "what listens there, or choose another port (0 finds a free one)"
            ) from error


def _listener(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.pid and tuple(found.laddr)[1:] == (port,):
                return f" by process {found.pid} ({psutil.Process(found.pid).name()})"
    return ""


def spawn(command: Sequence[str], *, env: Mapping[str, str], log: Path, uid: int | None, cwd: Path) -> int:
    """Start a daemon in a session of its own, its output in *log*; its process id.

    Raises EngineStartError.
    """
    user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    try:
        with log.open("wb") as output:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                **user,  # type: ignore[call-overload]
            )
    except OSError as error:
        raise EngineStartError(f"can't run {command[0]}: {error}") from error
    _children[child.pid] = child
    return int(child.pid)


def create_time(pid: int) -> float | None:
    """When process *pid* began (seconds since the epoch), or None when there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return float(process.create_time())
    except psutil.Error:
        pass
    child = _children.get(pid)
    if child is not None and child.poll() is not None:  # killed by somebody else: waited for here
        del _children[pid]
    return None


@atexit.register
def _release() -> None:
    """A server is a daemon: it is meant to outlive who started it, so nobody waits for it at the end. Popen
    takes that for a mistake (a ResourceWarning), unless it is told that the child's end is known."""
    for child in _children.values():
        if child.poll() is None:
            child.returncode = 0
    _children.clear()


def is_ours(pid: int, began: float, marker: str) -> bool:
    """Whether *pid* is still the process that began then and names *marker* in its command line.

    Process ids are used again, so a pid alone proves nothing.
    """
    import psutil

    now = create_time(pid)
    # psutil counts from the boot, whose time moves a little whenever the clock is set.
    if now is None or abs(now - began) > 2.0:
        return False
    try:
        return any(marker in part for part in psutil.Process(pid).cmdline())
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def end_process(pid: int, *, timeout_seconds: float = 30.0) -> None:
    """SIGTERM to *pid*, SIGKILL to it and its children when they are still there afterward.

    Raises EngineStartError when the caller may not do that.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        family = []
    except psutil.AccessDenied as error:
        raise EngineStartError(f"process {pid} belongs to another user: stop it as that user") from error
    _, alive = psutil.wait_procs(family, timeout=timeout_seconds)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    child = _children.pop(pid, None)
    if child is not None:
        child.wait()


def leftovers(instance: Path) -> list[int]:
    """Servers of that instance's folder, the launcher before the server it launched."""
    import psutil

    conf = str(instance / "conf")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            here = process.environ().get("ES_PATH_CONF") or process.environ().get("OPENSEARCH_PATH_CONF")
            if here == conf and "java" in process.name():
                found.append((process.create_time(), process.pid))
    return [pid for _, pid in sorted(found)]


def published_port(log: Path) -> int | None:
    """The HTTP port that the server says it listens on, or None before it does."""
    for line in _lines(log):
        match = re.search(r"HttpServerTransport\b.*publish_address \{[^}]*:(\d+)\}", line)
        if match:
            return int(match[1])
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def tail(path: Path, lines: int) -> list[str]:
    """The last *lines* lines of a log (bounded in size, so it is read whole)."""
    return _lines(path)[-lines:] if lines > 0 else []


def explain_log(*logs: Path) -> tuple[str, str]:
    """(the cause in a sentence, the lines that show it), as far as the logs tell."""
    text = [line for log in logs for line in _lines(log)]
    telling = [
        line
        for line in text
        if re.search(r"(\[(ERROR|FATAL)|Exception|\bError\b|error:|Caused by)", line)
        and not line.lstrip().startswith("at ")
        and "-XX:" not in line
    ]
    shown = "\n".join(telling[:12] or text[-20:])
    for pattern, cause in _CAUSES:
        if any(re.search(pattern, line, re.IGNORECASE) for line in telling or text[-40:]):
            return cause, shown
    first = next((line.strip() for line in telling), "")
    return (first[:300] or "its log gives no reason"), shown


def remove_tree(path: Path) -> None:
    """Remove a folder that may not exist."""
    shutil.rmtree(path, ignore_errors=True)
