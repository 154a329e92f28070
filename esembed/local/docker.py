"""Engines in containers: testcontainers for tests, and a container that stays for the command line.

The images are the official ones with pinned tags; any other is chosen by argument or by
``ESEMBED_OPENSEARCH_IMAGE`` / ``ESEMBED_ELASTICSEARCH_IMAGE``. Ports are published on loopback only
where the Docker host is this machine. Needs the extra ``docker``.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esembed.bounded import read_url
from esembed.capabilities import Engine
from esembed.deprecation import renamed
from esembed.errors import EngineStartError
from esembed.local.artifacts import Progress, SilentProgress, checked_name

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer


__all__ = [
    "IMAGES",
    "ContainerInfo",
    "DockerState",
    "container",
    "docker_available",
    "image_for",
    "logs",
    "start",
    "status",
    "stop",
]

IMAGES: dict[Engine, str] = {
    "opensearch": "opensearchproject/opensearch:3.6.0",
    "elasticsearch": "elasticsearch:9.5.3",
}
"""Engine → the image that is run by default."""
PORT = 9200
_LABEL = "io.esembed.engine"


@dataclass(frozen=True, slots=True)
class DockerState:
    """Whether a Docker API answers; true or false, with the reason why not."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok


@renamed(kind="engine")
@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInfo:
    """An engine that runs in a container."""

    url: str
    engine: Engine
    version: str
    image: str
    container_id: str
    name: str
    license: str
    reused: bool = False


def docker_available(*, timeout_seconds: int = 10) -> DockerState:
    """Ask the Docker API for a sign of life. Never raises; milliseconds where there is none."""
    try:
        docker = _library()
    except ImportError:
        return DockerState(False, 'the Docker library is missing: pip install "esembed[docker]"')
    if (silent := _silent_socket()) is not None:
        return DockerState(False, f"no Docker API at {_where()}: {silent}")
    try:
        client = docker.from_env(timeout=timeout_seconds)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return DockerState(False, f"no Docker API at {_where()}: {_root_cause(error)}")
    try:
        version = client.version().get("Version", "unknown")
    except (docker.errors.DockerException, OSError) as error:
        return DockerState(False, f"no Docker API at {_where()}: {_root_cause(error)}")
    finally:
        client.close()
    return DockerState(True, f"Docker API {version} at {_where()}")


def _silent_socket() -> str | None:
    """Why nobody listens on the API's Unix socket; None where somebody does, or it is no such socket.

    The library, when it can't connect, leaves its socket to the garbage collector, which warns of it in
    whatever test runs by then.
    """
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://") or not hasattr(socket, "AF_UNIX"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def _where() -> str:
    return os.environ.get("DOCKER_HOST") or "the default socket"


def _root_cause(error: BaseException) -> str:
    text = str(error)
    for known in ("No such file or directory", "Permission denied", "Connection refused"):
        if known in text:
            return known.lower()
    return text[:200]


def image_for(engine: Engine, image: str | None = None) -> str:
    """The image: as given, else from the environment, else the official one.

    Raises:
        EngineStartError: there is no such engine.
    """
    if engine not in IMAGES:
        raise EngineStartError(f"there is no engine {engine!r}: it is 'opensearch' or 'elasticsearch'")
    return image or os.environ.get(f"ESEMBED_{engine.upper()}_IMAGE") or IMAGES[engine]


def _environment(engine: Engine, *, heap_mb: int, trial: bool) -> dict[str, str]:
    """Settings as both official images take them; values say how, not who: there are no secrets."""
    heap = f"-Xms{heap_mb}m -Xmx{heap_mb}m"
    common = {"discovery.type": "single-node", "cluster.routing.allocation.disk.threshold_enabled": "false"}
    if engine == "opensearch":
        return common | {
            "OPENSEARCH_JAVA_OPTS": heap,
            "DISABLE_SECURITY_PLUGIN": "true",
            "DISABLE_INSTALL_DEMO_CONFIG": "true",
        }
    return common | {
        "ES_JAVA_OPTS": heap,
        "xpack.security.enabled": "false",
        "xpack.license.self_generated.type": "trial" if trial else "basic",
    }


def _local_host() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix://")
    return host.startswith(("unix://", "npipe://"))


def _check(engine: Engine, trial: bool) -> None:
    if trial and engine != "elasticsearch":
        raise EngineStartError("trial is for Elasticsearch: OpenSearch has no licenses")
    state = docker_available(timeout_seconds=60)
    if not state:
        raise EngineStartError(
            f"{state.reason}. Start Docker (or podman system service), or leave --docker out."
        )


@contextlib.contextmanager
def container(
    engine: Engine,
    *,
    image: str | None = None,
    heap_mb: int = 1024,
    trial: bool = False,
    timeout_seconds: float = 600.0,
) -> Iterator[ContainerInfo]:
    """An engine for the length of a ``with`` block, by testcontainers (its Ryuk settings hold).

    Raises EngineStartError: no Docker API, no image, or it did not become healthy (``log_tail``).
    """
    _check(engine, trial)
    chosen = image_for(engine, image)
    with warnings.catch_warnings():
        # testcontainers warns about its own old helpers, which a caller can do nothing about.
        warnings.simplefilter("ignore", DeprecationWarning)
        box = _testcontainer(engine, chosen)
        for name, value in _environment(engine, heap_mb=heap_mb, trial=trial).items():
            box.with_env(name, value)
        if _local_host():
            box.ports = {f"{PORT}/tcp": ("127.0.0.1", None)}  # type: ignore[dict-item]
        try:
            box.start()
            url = f"http://{box.get_container_host_ip()}:{box.get_exposed_port(PORT)}"
            version = _wait(engine, url, box.get_wrapped_container(), timeout_seconds)
        except EngineStartError:
            box.stop()
            raise
        except BaseException as error:
            tail = _tail(getattr(box, "_container", None))
            with contextlib.suppress(Exception):
                box.stop()
            if not isinstance(error, Exception):
                raise
            raise EngineStartError(
                f"{engine} did not start from image {chosen}: {error}{_shown(tail)}", log_tail=tail
            ) from error
    try:
        yield ContainerInfo(
            url=url,
            engine=engine,
            version=version,
            image=chosen,
            container_id=box.get_container_id(),
            name=box.get_wrapped_container().name or "",
            license=_license(engine, trial),
        )
    finally:
        box.stop()


def _license(engine: Engine, trial: bool) -> str:
    return "apache2" if engine == "opensearch" else ("trial" if trial else "basic")


def _testcontainer(engine: Engine, image: str) -> DockerContainer:
    """testcontainers' own class for the engine, from its new place or its old one.

    Both wait with helpers of their own; ours waits for the cluster's health and knows the log's
    cause, so the plain container's start is used and theirs only for the engine's settings.
    """
    try:
        from testcontainers.core.container import DockerContainer as Plain
    except ImportError as error:
        raise EngineStartError('testcontainers is missing: pip install "esembed[docker]"') from error
    base: Any
    if engine == "elasticsearch":
        try:
            from testcontainers.community.elasticsearch import ElasticSearchContainer as base
        except ImportError:
            from testcontainers.elasticsearch import ElasticSearchContainer as base
        box = base(image)
    else:
        try:
            from testcontainers.community.opensearch import OpenSearchContainer as base
        except ImportError:
            from testcontainers.opensearch import OpenSearchContainer as base
        box = base(image, security_enabled=False)
    box._wait_strategy = None
    box.start = lambda: Plain.start(box)
    return box  # type: ignore[no-any-return]


def _wait(engine: Engine, url: str, box: Any, timeout_seconds: float) -> str:
    """Wait for the cluster's health; the version it tells."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        healthy = _get(url + "/_cluster/health?wait_for_status=yellow&timeout=1s") is not None
        # The license is generated after the cluster is healthy, and 404 until then.
        if healthy and (engine == "opensearch" or _get(url + "/_license") is not None):
            nodes = _get(url + "/_nodes/_local/version") or {}
            versions = [node.get("version") for node in nodes.get("nodes", {}).values()]
            return str(versions[0]) if versions else "unknown"
        box.reload()
        if box.status in ("exited", "dead"):
            break
        time.sleep(0.25)
    tail = _tail(box)
    raise EngineStartError(
        f"{engine} in container {box.name} did not become healthy{_shown(tail)}", log_tail=tail
    )


def _get(url: str) -> dict[str, Any] | None:
    try:
        answer = read_url(url, seconds=5.0)
    except (OSError, http.client.HTTPException):
        return None
    body = answer.json() if answer.status == 200 else None
    return body if isinstance(body, dict) else None


def _tail(box: Any, lines: int = 30) -> str:
    if box is None:
        return ""
    try:
        return bytes(box.logs(tail=lines)).decode(errors="replace")
    except Exception:  # noqa: BLE001 - the log is a help, its absence must not hide the error
        return ""


def _shown(tail: str) -> str:
    return f". The end of its log:\n{tail}" if tail else ""


def _library() -> Any:
    """docker-py. By name, since type checkers take this repository's folder ``docker/`` for it."""
    return importlib.import_module("docker")


def _client() -> Any:
    return _library().from_env()


def _container_name(engine: Engine, name: str) -> str:
    return f"esembed-{engine}-{checked_name(name)}"


def _find(client: Any, engine: Engine, name: str) -> Any:
    found = client.containers.list(
        all=True, filters={"name": f"^/?{_container_name(engine, name)}$", "label": f"{_LABEL}={engine}"}
    )
    return found[0] if found else None


def _info(box: Any, engine: Engine, *, version: str, reused: bool) -> ContainerInfo:
    labels = box.labels
    host = "127.0.0.1" if _local_host() else os.environ["DOCKER_HOST"].split("://")[-1].rsplit(":", 1)[0]
    port = box.ports[f"{PORT}/tcp"][0]["HostPort"]
    return ContainerInfo(
        url=f"http://{host}:{port}",
        engine=engine,
        version=version or labels.get(f"{_LABEL}.version", "unknown"),
        image=labels.get(f"{_LABEL}.image", ""),
        container_id=box.id,
        name=box.name,
        license=labels.get(f"{_LABEL}.license", "unknown"),
        reused=reused,
    )


def start(
    engine: Engine,
    *,
    image: str | None = None,
    heap_mb: int = 1024,
    port: int = 0,
    trial: bool = False,
    name: str = "default",
    progress: Progress | None = None,
    timeout_seconds: float = 600.0,
) -> ContainerInfo:
    """Start a container that stays after this process, or return the one that runs already.

    testcontainers removes what its process leaves behind, so this speaks to the Docker API itself.

    Raises EngineStartError.
    """
    checked_name(name)
    _check(engine, trial)
    docker = _library()
    progress = progress or SilentProgress()
    chosen = image_for(engine, image)
    with contextlib.closing(_client()) as client:
        box = _find(client, engine, name)
        if box is not None and box.status == "running":
            return _info(box, engine, version=_version(box, engine), reused=True)
        if box is not None:
            box.remove(force=True)
        progress.step(f"starting {chosen}")
        try:
            box = client.containers.run(
                chosen,
                detach=True,
                name=_container_name(engine, name),
                environment=_environment(engine, heap_mb=heap_mb, trial=trial) | {"http.host": "0.0.0.0"},
                ports={f"{PORT}/tcp": ("127.0.0.1", port or None) if _local_host() else (port or None)},
                labels={
                    _LABEL: engine,
                    f"{_LABEL}.image": chosen,
                    f"{_LABEL}.license": _license(engine, trial),
                },
            )
            box.reload()
            while not box.ports.get(f"{PORT}/tcp"):
                time.sleep(0.2)
                box.reload()
                if box.status in ("exited", "dead"):
                    break
            info = _info(box, engine, version="", reused=False)
            version = _wait(engine, info.url, box, timeout_seconds)
        except BaseException as error:
            leftover = _find(client, engine, name)
            tail = _tail(leftover)
            if leftover is not None:
                leftover.remove(force=True)
            if isinstance(error, (docker.errors.DockerException, OSError, KeyError, TypeError)):
                raise EngineStartError(
                    f"{engine} did not start from image {chosen}: {error}{_shown(tail)}", log_tail=tail
                ) from error
            raise
        return _info(box, engine, version=version, reused=False)


def _version(box: Any, engine: Engine) -> str:
    nodes = _get(_info(box, engine, version="", reused=True).url + "/_nodes/_local/version") or {}
    versions = [node.get("version") for node in nodes.get("nodes", {}).values()]
    return str(versions[0]) if versions else "unknown"


def status(engine: Engine, *, name: str = "default") -> ContainerInfo | None:
    """The running container of that engine and name, or None (also where no Docker API answers)."""
    checked_name(name)
    image_for(engine)
    if not docker_available():
        return None
    with contextlib.closing(_client()) as client:
        box = _find(client, engine, name)
        if box is None or box.status != "running":
            return None
        return _info(box, engine, version=_version(box, engine), reused=True)


def stop(engine: Engine, *, name: str = "default") -> bool:
    """Stop and remove it, with its data; False when there was none. Raises EngineStartError."""
    checked_name(name)
    _check(engine, trial=False)
    with contextlib.closing(_client()) as client:
        box = _find(client, engine, name)
        if box is None:
            return False
        box.remove(force=True, v=True)
        return True


def logs(engine: Engine, lines: int = 50, *, name: str = "default") -> list[str]:
    """The last lines of its log, oldest first. Raises EngineStartError."""
    checked_name(name)
    _check(engine, trial=False)
    with contextlib.closing(_client()) as client:
        box = _find(client, engine, name)
        return _tail(box, lines).splitlines()
