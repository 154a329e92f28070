"""A real engine on this machine without Docker: downloaded, verified, started on loopback.

::

    from esembed.local import server as local

    engine = local.start("opensearch")        # or finds the one that runs already
    print(engine.url)
    local.stop("opensearch")

The server outlives the process that started it. Its folder holds ``state.json`` (mode 0600), which
every later call reads; a lock file makes two callers at once share one server. The Elasticsearch and
OpenSearch archives are reduced builds made for tests: good for development, not for production.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import secrets
import ssl
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from esembed.bounded import read_url
from esembed.capabilities import Engine
from esembed.deprecation import renamed
from esembed.errors import EngineStartError
from esembed.json_input import JsonInputError, JsonLimits, read_json_file
from esembed.local.artifacts import (
    Assembly,
    Progress,
    SilentProgress,
    assembly,
    checked_name,
    claim_root,
    engine_root,
    install,
    is_name,
    make_public,
)
from esembed.local.config import LOG_NAME, Security, prepare_config, write_security
from esembed.local.java import Java, find_java
from esembed.local.process import (
    check_port_free,
    create_time,
    end_process,
    explain_log,
    give_to,
    is_ours,
    leftovers,
    published_port,
    remove_tree,
    server_uid,
    spawn,
    tail,
)

__all__ = ["EngineInfo", "Security", "destroy", "logs", "running", "start", "status", "stop"]

ENGINES: tuple[Engine, ...] = ("opensearch", "elasticsearch")
MIN_HEAP_MB = 256

_STATE = JsonLimits(characters=1 << 20, depth=3, values=100, objects=1)
"""A state file: a flat object of a few texts and numbers, among them paths."""


@renamed(kind="engine")
@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A local engine that runs.

    Attributes:
        url: where it answers, on loopback.
        pid: its process id.
        home: the server's folder (shared, read-only).
        instance: the folder with its configuration, data and logs.
        log_path: its log, bounded in size by rotation.
        started_at: seconds since the epoch.
        heap_mb: the Java heap, MiB.
        license: ``basic`` or ``trial``; ``apache2`` for OpenSearch.
        username, password, ca_certs: set where security is on.
        reused: it ran already when ``start`` was called.
        red_indices: those whose data can't be read, as ``start`` found them; the others work.
    """

    url: str
    pid: int
    engine: Engine
    version: str
    name: str
    home: Path
    instance: Path
    log_path: Path
    started_at: float
    heap_mb: int
    license: str
    java: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_certs: Path | None = None
    reused: bool = False
    red_indices: tuple[str, ...] = ()

    @property
    def secure(self) -> bool:
        return self.ca_certs is not None


def start(
    engine: Engine | str,
    *,
    version: str | None = None,
    heap_mb: int = 1024,
    port: int = 0,
    trial: bool = False,
    security: Security | bool = False,
    name: str = "default",
    progress: Progress | None = None,
    timeout_seconds: float = 300.0,
) -> EngineInfo:
    """Start a local engine, or return the one of that name that runs already.

    Args:
        version: one of the pinned ones; None: the running one's, else the newest.
        heap_mb: the Java heap, MiB, at least 256.
        port: 0 finds a free one.
        trial: Elasticsearch with a self-generated trial license (30 days).
        security: Elasticsearch with HTTPS and users; True for one superuser only.
        name: several can run side by side under different names.
        timeout_seconds: of silence in its log, then until it answers; downloads don't count. An index whose
            data can't be read (``red_indices``) doesn't keep it from running.

    Raises:
        EngineStartError: it did not start (``log_tail``), or runs already with other options.
        DownloadError: its archive can't be had.
    """
    wanted = assembly(engine, version)
    _check_options(wanted, heap_mb=heap_mb, port=port, trial=trial, security=security, name=name)
    options = Security() if security is True else (security or None)
    progress = progress or SilentProgress()
    instance = _instance(wanted.engine, name)
    _check_instance(instance)
    claim_root()
    make_public(instance)
    with _locked(instance):
        there = None
        with contextlib.suppress(_DamagedStateError):  # a server that runs all the same is found below
            there = _read(wanted.engine, name)
        if there is not None:
            _check_same(there, version=version, port=port, trial=trial, secure=options is not None)
            return dataclasses.replace(there, reused=True, red_indices=_red_indices(there))
        (instance / MARK).touch(mode=0o644)
        (instance / "state.json").unlink(missing_ok=True)
        # A starter that was killed leaves a server that no state tells of, and that holds the data.
        for pid in leftovers(instance):
            end_process(pid)
        check_port_free(port)
        uid = server_uid()
        java = find_java(
            min_major=wanted.min_java,
            max_major=wanted.max_java,
            uid=uid,
            download_dir=engine_root() / "jdks",
        )
        home = install(wanted, progress=progress)
        return _boot(
            wanted, home, java, instance, name, heap_mb, port, trial, options, uid, progress, timeout_seconds
        )


def _check_options(
    wanted: Assembly, *, heap_mb: int, port: int, trial: bool, security: Security | bool, name: str
) -> None:
    checked_name(name)
    if not 0 <= port <= 65535:
        raise EngineStartError(f"port {port}: it is 0 (any free one) to 65535")
    if heap_mb < MIN_HEAP_MB:
        raise EngineStartError(f"heap_mb {heap_mb}: at least {MIN_HEAP_MB} MiB are needed")
    import psutil

    memory_mb = psutil.virtual_memory().total >> 20
    if heap_mb > memory_mb:
        raise EngineStartError(f"heap_mb {heap_mb}: this machine has {memory_mb} MiB in all; choose less")
    if wanted.engine == "opensearch" and (trial or security):
        raise EngineStartError(
            "trial and security are for Elasticsearch: the local OpenSearch has no license "
            "and no security plugin"
        )
    if sys.platform == "win32":
        raise EngineStartError("local engines run on Linux and macOS; on Windows use --docker, or WSL")


def _check_same(there: EngineInfo, *, version: str | None, port: int, trial: bool, secure: bool) -> None:
    differs = []
    if version not in (None, there.version):
        differs.append(f"version {there.version}, not {version}")
    if port and not there.url.endswith(f":{port}"):
        differs.append(f"at {there.url}, not on port {port}")
    if there.engine == "elasticsearch" and trial != (there.license == "trial"):
        differs.append(f"with a {there.license} license")
    if secure != there.secure:
        differs.append("with security" if there.secure else "without security")
    if differs:
        raise EngineStartError(
            f"{there.engine} runs already ({', '.join(differs)}; pid {there.pid}): stop it first, or give "
            "the new one another name"
        )


def _instance(engine: str, name: str) -> Path:
    return engine_root() / "instances" / f"{engine}-{checked_name(name)}"


def _check_instance(instance: Path) -> None:
    """Raises EngineStartError for a folder that isn't ours, before anything in it is written or removed.

    Those made by esembed 0.1 have no mark: their names are known.
    """
    if instance.is_symlink() or (instance.exists() and not instance.is_dir()):
        raise EngineStartError(f"{instance} is no folder that esembed made; remove it, or give another name")
    if not instance.is_dir() or (instance / MARK).is_file():
        return
    foreign = [path.name for path in instance.iterdir() if not _OURS.fullmatch(path.name)]
    if foreign:
        raise EngineStartError(
            f"{instance} holds {sorted(foreign)[0]!r}, which esembed did not make, and no {MARK}: move what "
            "is yours elsewhere, or give another name. Nothing was removed"
        )


MARK = ".esembed-engine"
"""A file in each instance's folder that says whose it is."""

_OURS = re.compile(r"conf|data-[\w.-]+|logs|tmp|console\.log|ca\.pem|state\.(json|part)", re.ASCII)


class _DamagedStateError(EngineStartError):
    """A state file that can't be understood."""


@contextlib.contextmanager
def _locked(instance: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(instance.with_name(f".{instance.name}.lock"), timeout=900):
            yield
    except Timeout as error:
        raise EngineStartError(f"another process has been starting {instance.name} for 15 minutes") from error
    except PermissionError as error:
        raise EngineStartError(f"{instance} belongs to another user ({error})") from error


def _boot(
    wanted: Assembly,
    home: Path,
    java: Java,
    instance: Path,
    name: str,
    heap_mb: int,
    port: int,
    trial: bool,
    security: Security | None,
    uid: int | None,
    progress: Progress,
    timeout_seconds: float,
) -> EngineInfo:
    engine = wanted.engine
    for stale in ("conf", "logs", "tmp"):
        remove_tree(instance / stale)
    # Data of one version can't be read by an older one, and a basic license can't become a trial.
    data = instance / (f"data-{wanted.version}" + ("-trial" if trial else ""))
    prepare_config(engine, home, instance, data, port=port, trial=trial, security=security)
    password = secrets.token_urlsafe(18) if security is not None else None
    ca_certs = None
    if security is not None and password is not None:
        write_security(instance / "conf", security, password)
        # The caller's copy: conf/ is given to the server's user, and may be closed to others.
        ca_certs = instance / "ca.pem"
        ca_certs.write_bytes((instance / "conf" / "ca.pem").read_bytes())
    log, console = instance / "logs" / LOG_NAME, instance / "console.log"
    give_to(uid, instance / "conf", instance / "logs", instance / "tmp", data)
    prefix = "ES" if engine == "elasticsearch" else "OPENSEARCH"
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(instance / "tmp"),
        f"{prefix}_JAVA_HOME": str(java.home),
        f"{prefix}_PATH_CONF": str(instance / "conf"),
        f"{prefix}_TMPDIR": str(instance / "tmp"),
        f"{prefix}_JAVA_OPTS": f"-Xms{heap_mb}m -Xmx{heap_mb}m",
        "JAVA_HOME": str(java.home),
    }
    progress.step(f"starting {engine} {wanted.version} (Java {java.major}, {heap_mb} MiB heap)")
    pid = spawn([str(home / "bin" / engine)], env=env, log=console, uid=uid, cwd=instance / "tmp")
    began = create_time(pid)
    try:
        if began is None:
            raise _failed(wanted, log, console, "it ended at once")
        found = _wait_for_port(wanted, pid, log, console, timeout_seconds)
        scheme = "https" if security is not None else "http"
        info = EngineInfo(
            url=f"{scheme}://127.0.0.1:{found}",
            pid=pid,
            engine=engine,
            version=wanted.version,
            name=name,
            home=home,
            instance=instance,
            log_path=log,
            started_at=began,
            heap_mb=heap_mb,
            license="apache2" if engine == "opensearch" else ("trial" if trial else "basic"),
            java=str(java.home),
            username="esembed" if security is not None else None,
            password=password,
            ca_certs=ca_certs,
        )
        red = _wait_for_health(wanted, info, console, timeout_seconds)
        _write(info)
    except BaseException:  # Ctrl-C too: nothing half-started stays behind
        end_process(pid, timeout_seconds=5)
        raise
    return dataclasses.replace(info, red_indices=red)


def _failed(wanted: Assembly, log: Path, console: Path, what: str) -> EngineStartError:
    cause, shown = explain_log(console, log)
    return EngineStartError(
        f"{wanted.engine} {wanted.version} did not start: {what}; {cause}.\n"
        f"The log is {log} (and {console}); it says:\n{shown}",
        log_tail=shown,
    )


def _wait_for_port(wanted: Assembly, pid: int, log: Path, console: Path, timeout_seconds: float) -> int:
    # Counted from the last line that it logged: on a busy machine a boot of 9 s takes minutes.
    deadline, seen = time.monotonic() + timeout_seconds, -1
    while time.monotonic() < deadline:
        port = published_port(log)
        if port:
            return port
        written = sum(path.stat().st_size for path in (log, console) if path.exists())
        if written != seen:
            deadline, seen = time.monotonic() + timeout_seconds, written
        if create_time(pid) is None:
            raise _failed(wanted, log, console, "the server ended")
        time.sleep(0.1)
    raise _failed(wanted, log, console, f"it was not up, and silent for {timeout_seconds:.0f} s")


def _wait_for_health(
    wanted: Assembly, info: EngineInfo, console: Path, timeout_seconds: float
) -> tuple[str, ...]:
    """Wait until it can be used; the indices that stay red.

    Each index is red at first, while its shards start. One whose data is damaged stays so, for ever, and the
    others are there all the same.
    """
    deadline = time.monotonic() + timeout_seconds
    idle_since: float | None = None
    answered = False
    while time.monotonic() < deadline:
        health = _get(info, "/_cluster/health")
        # The license is generated after the cluster is healthy, and 404 until then.
        if health is not None and (info.engine == "opensearch" or _get(info, "/_license") is not None):
            answered = True
            if health.get("status") in ("green", "yellow"):
                return ()
            busy = any(health.get(key) for key in _STARTING)
            idle_since = None if busy else (idle_since or time.monotonic())
            if idle_since is not None and time.monotonic() - idle_since >= RED_SECONDS:
                break
        if create_time(info.pid) is None:
            raise _failed(wanted, info.log_path, console, "the server ended")
        time.sleep(0.1)
    if not answered:
        raise _failed(wanted, info.log_path, console, f"it did not answer within {timeout_seconds:.0f} s")
    return _red_indices(info)


RED_SECONDS = 5.0
"""A cluster that is red and does nothing about it for so long stays red: between two shards of a start less
than a second was seen, on a machine whose processors were all busy."""

_STARTING = (
    "initializing_shards",
    "delayed_unassigned_shards",
    "number_of_pending_tasks",
    "number_of_in_flight_fetch",
)
"""What a cluster's health counts while shards are on their way."""


def _red_indices(info: EngineInfo) -> tuple[str, ...]:
    """The indices that are red now, by name."""
    health = _get(info, "/_cluster/health?level=indices") or {}
    found = health.get("indices")
    states = found.items() if isinstance(found, dict) else ()
    return tuple(sorted(name for name, one in states if isinstance(one, dict) and one.get("status") == "red"))


def _get(info: EngineInfo, path: str) -> dict[str, Any] | None:
    """An answer's JSON object, or None."""
    headers = {}
    if info.password is not None:
        token = b64encode(f"{info.username}:{info.password}".encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    context = ssl.create_default_context(cafile=info.ca_certs) if info.ca_certs is not None else None
    try:
        # The health of ten thousand indices is 4 MB.
        answer = read_url(info.url + path, headers=headers, context=context, seconds=5.0, most_bytes=1 << 26)
    except (OSError, http.client.HTTPException):
        return None
    body = answer.json() if answer.status == 200 else None
    return body if isinstance(body, dict) else None


def _write(info: EngineInfo) -> None:
    state = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(info).items()}
    del state["red_indices"]  # as of now, and not of the next call
    path = info.instance / "state.json"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(state, file, indent=1)
    part.replace(path)


def _read(engine: Engine, name: str) -> EngineInfo | None:
    """The running engine that the state file tells of; None when there is none, or it is stale.

    Raises:
        EngineStartError: another user's file, or one that can't be understood (a full disk, an editor).
    """
    path = _instance(engine, name) / "state.json"
    try:
        info = _info(read_json_file(path, _STATE), path.parent)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise EngineStartError(
            f"{path} belongs to another user: act as that user, or give another name"
        ) from error
    except (OSError, JsonInputError, ValueError, LookupError, TypeError, AttributeError) as error:
        options = "" if name == "default" else f" --name {name}"
        raise _DamagedStateError(
            f"{path}, which tells where the local {engine} runs, is damaged ({type(error).__name__}); "
            f"esembed engine stop --engine {engine}{options} ends the server, if it runs, and removes the "
            "file; its data stays"
        ) from error
    return info if is_ours(info.pid, info.started_at, str(info.home)) else None


def _info(state: dict[str, Any], instance: Path) -> EngineInfo:
    """What a state file tells. Raises ValueError and its like for what :func:`_write` never writes: the file
    decides which process is ended and who gets the password."""
    if "red_indices" in state:
        raise ValueError("red_indices are never written")
    if "kind" in state:  # written by 0.1.0
        state["engine"] = state.pop("kind")
    for key in ("home", "instance", "log_path", "ca_certs"):
        state[key] = Path(state[key]) if state[key] is not None else None
    info = EngineInfo(**state)
    numbers = (info.pid, info.heap_mb, info.started_at)
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise TypeError("a number is none")
    texts = (info.url, info.version, info.name, info.license, info.java)
    if not all(isinstance(text, str) for text in texts) or None in (info.home, info.log_path):
        raise TypeError("a text is none")
    secrets_or_none = (info.username, info.password)
    if not all(text is None or isinstance(text, str) for text in secrets_or_none):
        raise TypeError("a user's name or password is no text")
    if not isinstance(info.reused, bool):
        raise TypeError("reused is neither true nor false")
    if not (isinstance(info.pid, int) and 1 < info.pid < 2**31 and 0 <= info.started_at < 2**40):
        raise ValueError("no process has this id")
    found = re.fullmatch(r"https?://127\.0\.0\.1:(\d{1,5})", info.url, re.ASCII)
    if found is None or not 0 < int(found[1]) < 65536:
        raise ValueError("not on loopback")
    if info.instance.name != instance.name or f"{info.engine}-{info.name}" != instance.name:
        raise ValueError("of another engine")
    return info


def _checked(engine: str) -> Engine:
    return assembly(engine).engine


def status(engine: Engine | str, *, name: str = "default") -> EngineInfo | None:
    """The running engine of that name, or None. Raises EngineStartError on another engine."""
    return _read(_checked(engine), name)


def running() -> list[EngineInfo]:
    """Every local engine that runs, under any name. A state file that is damaged hides no other."""
    found = []
    for path in sorted((engine_root() / "instances").glob("*/state.json")):
        engine, _, name = path.parent.name.partition("-")
        if engine in ENGINES and is_name(name):
            with contextlib.suppress(_DamagedStateError):
                if (info := _read(engine, name)) is not None:
                    found.append(info)
    return found


def stop(engine: Engine | str, *, name: str = "default") -> bool:
    """Stop it and wait for its end; False when none was running. The data stays for the next start.

    Raises EngineStartError when it belongs to another user.
    """
    proper = _checked(engine)
    instance = _instance(proper, name)
    if not instance.exists():
        return False
    with _locked(instance):
        info = None
        with contextlib.suppress(_DamagedStateError):
            info = _read(proper, name)
        pids = [info.pid] if info is not None else leftovers(instance)
        for pid in pids:
            end_process(pid)
        (instance / "state.json").unlink(missing_ok=True)
        return bool(pids)


def destroy(engine: Engine | str, *, name: str = "default") -> None:
    """Stop it and remove its data, configuration and logs (the downloaded server stays).

    Raises:
        EngineStartError: the folder is a link, or holds what esembed did not make; nothing is removed then.
    """
    instance = _instance(_checked(engine), name)
    _check_instance(instance)
    stop(engine, name=name)
    remove_tree(instance)
    instance.with_name(f".{instance.name}.lock").unlink(missing_ok=True)


def logs(
    engine: Engine | str,
    lines: int = 50,
    *,
    name: str = "default",
    stream: Literal["server", "console"] = "server",
) -> list[str]:
    """The last lines of its log, oldest first; ``console`` is what Java itself printed."""
    instance = _instance(_checked(engine), name)
    path = instance / "logs" / LOG_NAME if stream == "server" else instance / "console.log"
    return tail(path, lines)
