"""Fixtures that hand a real engine to tests, in any project that has esembed installed.

::

    def test_finds_it(esembed_opensearch, esembed_index_name):
        client = esembed_opensearch.client()              # the official client
        client.index(index=esembed_index_name, body={"text": "hello"}, refresh=True)

An engine is had, in this order: from the URL that was given; by testcontainers where a Docker API
answers; as a local server; else the test is skipped with the reasons (fails, where
``ESEMBED_REQUIRE_ENGINES=1``). Workers of pytest-xdist share one engine. Whatever a test creates
under its ``esembed_index_name`` is deleted after it.

This module imports nothing but pytest and the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import pytest

from esembed.deprecation import renamed

if TYPE_CHECKING:
    from esembed import Index, IndexPlan

__all__ = ["EngineHandle"]

_ENGINES = ("opensearch", "elasticsearch")
REQUIRE_ENV = "ESEMBED_REQUIRE_ENGINES"


@renamed(kind="engine")
@dataclass(eq=False)
class EngineHandle:
    """A real engine for tests.

    Attributes:
        engine: ``opensearch`` or ``elasticsearch``.
        url: where it answers.
        how: how it was obtained, for people (``local server 3.6.0`` …).
        source: ``url``, ``docker`` or ``local``.
    """

    engine: Literal["opensearch", "elasticsearch"]
    url: str = field(repr=False)
    how: str
    source: Literal["url", "docker", "local"]
    _clients: list[Any] = field(default_factory=list, repr=False)

    def client(self, **options: Any) -> Any:
        """A new official client (``Elasticsearch`` or ``OpenSearch``); closed when the session ends.

        Args:
            options: passed on to the client's constructor.
        """
        client: Any
        if self.engine == "opensearch":
            from opensearchpy import OpenSearch

            client = OpenSearch(self.url, **({"timeout": 60} | options))
        else:
            from elasticsearch import Elasticsearch

            client = Elasticsearch(self.url, **({"request_timeout": 60} | options))
        self._clients.append(client)
        return client

    def new_index_name(self, prefix: str = "esembed-test") -> str:
        """A name that no index has. Nobody deletes it for you, unlike ``esembed_index_name``."""
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def delete_indices(self, name: str) -> list[str]:
        """Delete every index named *name…*, and lift such aliases from other indices, which stay; the names
        deleted.

        One request each, since servers may refuse wildcards in deletes.

        Raises:
            AliasError: not the name that an index could have; an empty one would be every index.
        """
        from esembed.dialect.names import check_name

        check_name(name, new=True)
        client = self.client()
        rows = client.cat.indices(index=f"{name}*", h="index", format="json", expand_wildcards="all")
        # The pattern finds indices behind such an alias, too.
        names = sorted(row["index"] for row in rows if row["index"].startswith(name))
        for index in names:
            client.indices.delete(index=index, ignore_unavailable=True)
        # An index that a test only laid its alias over was there before, with somebody's documents in it.
        for index, held in dict(client.indices.get_alias(index="*", expand_wildcards="all")).items():
            for alias in held.get("aliases", {}):
                if alias.startswith(name):
                    client.indices.delete_alias(index=index, name=alias)
        client.close()
        self._clients.remove(client)
        return names

    def close(self) -> None:
        """Close the clients that were handed out."""
        while self._clients:
            self._clients.pop().close()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("esembed", "real search engines for tests")
    group.addoption(
        "--esembed-engine",
        choices=("auto", "local", "docker", "url"),
        default=None,
        help="where engines come from; auto (the default): a given URL, else Docker, else a local server. "
        "Also ESEMBED_ENGINE.",
    )
    for engine in _ENGINES:
        group.addoption(
            f"--esembed-{engine}-url",
            metavar="URL",
            default=None,
            help=f"an {engine} that runs already; also ESEMBED_{engine.upper()}_URL.",
        )
        group.addoption(
            f"--esembed-image-{engine}",
            metavar="IMAGE",
            default=None,
            help=f"the container image of {engine}; also ESEMBED_{engine.upper()}_IMAGE.",
        )
        group.addoption(
            f"--esembed-{engine}-version",
            metavar="VERSION",
            default=None,
            help=f"the version of the local {engine} (of those that esembed pins).",
        )
    group.addoption(
        "--esembed-heap-mb", type=int, default=1024, metavar="MIB", help="Java heap of engines started here."
    )
    group.addoption(
        "--esembed-local-name",
        default="pytest",
        metavar="NAME",
        help="the name of the local engines for tests; runs under one name share them.",
    )
    group.addoption(
        "--esembed-keep-engine",
        action="store_true",
        default=False,
        help="leave a local engine running afterward; the next run finds it.",
    )


def _option(config: pytest.Config, name: str, env: str) -> str | None:
    value = config.getoption(name)
    return str(value) if value else os.environ.get(env) or None


def _mode(config: pytest.Config) -> str:
    mode = _option(config, "--esembed-engine", "ESEMBED_ENGINE") or "auto"
    if mode not in ("auto", "local", "docker", "url"):
        raise pytest.UsageError(f"ESEMBED_ENGINE={mode}: it is auto, local, docker or url")
    return mode


@pytest.fixture(scope="session")
def esembed_opensearch(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineHandle]:
    """A real OpenSearch for the whole session (:class:`EngineHandle`)."""
    with _engine("opensearch", pytestconfig, tmp_path_factory) as handle:
        yield handle


@pytest.fixture(scope="session")
def esembed_elasticsearch(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineHandle]:
    """A real Elasticsearch for the whole session (:class:`EngineHandle`)."""
    with _engine("elasticsearch", pytestconfig, tmp_path_factory) as handle:
        yield handle


@pytest.fixture(scope="session", params=_ENGINES)
def esembed_engine(request: pytest.FixtureRequest) -> EngineHandle:
    """Each engine in turn: a test that asks for this one runs on both."""
    return cast(EngineHandle, request.getfixturevalue(f"esembed_{request.param}"))


@pytest.fixture
def esembed_index_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name that no index has; every index and alias that begins with it is deleted after the test.

    Deleted on each engine whose fixture the test asks for.
    """
    engines = [
        request.getfixturevalue(name)
        for name in ("esembed_engine", "esembed_opensearch", "esembed_elasticsearch")
        if name in request.fixturenames
    ]
    name = f"esembed-test-{uuid.uuid4().hex[:12]}"
    yield name
    for engine in dict.fromkeys(engines):
        engine.delete_indices(name)


@pytest.fixture
def esembed_index_factory(esembed_engine: EngineHandle, esembed_index_name: str) -> Callable[..., Index]:
    """``make(plan, **options)`` creates an index of that plan (``Index.create``), deleted afterward.

    The test runs on both engines, since this builds on ``esembed_engine``.
    """
    return _factory(esembed_engine, esembed_index_name)


@pytest.fixture(scope="session")
def esembed_shared_index_factory(esembed_engine: EngineHandle) -> Iterator[Callable[..., Index]]:
    """Like ``esembed_index_factory`` for fixtures of a module or of the session: an index that is filled
    once and that many tests read. Deleted at the end of the session."""
    name = f"esembed-test-{uuid.uuid4().hex[:12]}"
    yield _factory(esembed_engine, name)
    esembed_engine.delete_indices(name)


def _factory(engine: EngineHandle, name: str) -> Callable[..., Index]:
    from esembed import Index

    client = engine.client()
    made = 0

    def make(plan: IndexPlan, **options: Any) -> Index:
        nonlocal made
        made += 1
        return Index.create(client, f"{name}-{made}", plan, **options)

    return make


@contextlib.contextmanager
def _engine(
    engine: Literal["opensearch", "elasticsearch"],
    config: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EngineHandle]:
    mode = _mode(config)
    why_not: list[str] = []
    with contextlib.ExitStack() as stack:
        handle = _obtain(engine, mode, config, tmp_path_factory, stack, why_not)
        if handle is None:
            reason = f"no {engine} for tests: " + "; ".join(why_not)
            if os.environ.get(REQUIRE_ENV) == "1":
                pytest.fail(f"{reason} ({REQUIRE_ENV}=1 makes this a failure)", pytrace=False)
            pytest.skip(reason)
        stack.callback(handle.close)
        yield handle


def _obtain(
    engine: Literal["opensearch", "elasticsearch"],
    mode: str,
    config: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    stack: contextlib.ExitStack,
    why_not: list[str],
) -> EngineHandle | None:
    from esembed.errors import EsembedError

    url = _option(config, f"--esembed-{engine}-url", f"ESEMBED_{engine.upper()}_URL")
    if url and mode in ("auto", "url"):
        _check_answers(url, engine)
        return EngineHandle(engine, url.rstrip("/"), "the given URL", "url")
    if mode == "url":
        why_not.append(f"no URL given (--esembed-{engine}-url)")
        return None
    if mode in ("auto", "docker"):
        from esembed.local import docker

        state = docker.docker_available()
        if state:
            try:
                return stack.enter_context(_in_container(engine, config, tmp_path_factory))
            except EsembedError as error:
                why_not.append(error.message)
            except OSError as error:
                why_not.append(f"the file that tells who uses the container can't be written ({error})")
        else:
            why_not.append(state.reason)
    if mode in ("auto", "local"):
        try:
            return stack.enter_context(_on_this_machine(engine, config))
        except EsembedError as error:
            why_not.append(error.message)
        except OSError as error:  # another user's folder, a full disk, a lock that isn't given
            why_not.append(f"the file that tells who uses the local engine can't be written ({error})")
        except ImportError as error:
            why_not.append(f'{error.name} is missing: pip install "esembed[local]"')
    return None


def _check_answers(url: str, engine: str) -> None:
    """One line instead of a client's traceback in each test. A given URL that is wrong is never skipped."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=10).close()
    except (OSError, KeyError, ValueError) as error:
        shown = url.rpartition("@")[2]
        pytest.fail(
            f"the {engine} given for tests doesn't answer at {shown}: {error or type(error).__name__}; start "
            f"it, or correct --esembed-{engine}-url (ESEMBED_{engine.upper()}_URL)",
            pytrace=False,
        )


# -- one engine for many users -----------------------------------------------------------------------
#
# A file holds who uses the engine (process ids) and its address; a lock file guards it. A worker that
# died without leaving is recognized by its process id, so that nobody waits for it.


class _Users:
    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.lock = FileLock(path.with_suffix(".lock"), timeout=900)

    def read(self) -> dict[str, Any]:
        """The state, with the users that still live. A file that can't be understood tells of none: whoever
        reads it begins anew, with an engine of its own where none runs."""
        from esembed.json_input import JsonInputError, JsonLimits, read_json_file

        state: dict[str, Any] = {"users": [], "owned": False, "url": None, "how": ""}
        limits = JsonLimits(characters=1 << 20, depth=3, values=10_000, objects=1)
        with contextlib.suppress(OSError, JsonInputError):
            found = read_json_file(self._path, limits)
            if _is_state(found):
                state |= found
        state["users"] = [pid for pid in state["users"] if _alive(pid)]
        return state

    def write(self, state: dict[str, Any]) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(self._path)

    def leave(self) -> dict[str, Any]:
        state = self.read()
        if os.getpid() in state["users"]:
            state["users"].remove(os.getpid())
        self.write(state)
        return state


def _is_state(found: Any) -> bool:
    """Whether it is what ``_Users.write`` writes. It says whose server is stopped, and where a test's
    indices are deleted."""
    if not isinstance(found, dict) or found.keys() != {"users", "owned", "url", "how"}:
        return False
    users, url = found["users"], found["url"]
    return (
        isinstance(users, list)
        and all(type(pid) is int and 1 <= pid < 2**31 for pid in users)
        and isinstance(found["owned"], bool)
        and isinstance(found["how"], str)
        and (url is None or (isinstance(url, str) and url.startswith(("http://", "https://"))))
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _on_this_machine(
    engine: Literal["opensearch", "elasticsearch"], config: pytest.Config
) -> Iterator[EngineHandle]:
    """A local server for tests: whoever leaves last stops it, if it was started for tests."""
    from esembed.local import server as local
    from esembed.local.artifacts import checked_name, engine_root

    name = checked_name(str(config.getoption("--esembed-local-name")))
    users = _Users(engine_root() / "pytest" / f"{engine}-{name}.json")
    keep = bool(config.getoption("--esembed-keep-engine"))
    with users.lock:
        state = users.read()
        there = local.status(engine, name=name)
        if there is None:
            state["owned"] = True
        version = config.getoption(f"--esembed-{engine}-version")
        info = local.start(engine, name=name, version=version, heap_mb=config.getoption("--esembed-heap-mb"))
        state["users"].append(os.getpid())
        state["owned"] = state["owned"] and not keep
        users.write(state)
    how = f"local server {info.version}" + (" that ran already" if there else "")
    try:
        yield EngineHandle(engine, info.url, how, "local")
    finally:
        with users.lock:
            state = users.leave()
            if not state["users"] and state["owned"]:
                local.stop(engine, name=name)


@contextlib.contextmanager
def _in_container(
    engine: Literal["opensearch", "elasticsearch"],
    config: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EngineHandle]:
    """A container of this run; the worker that started it stays until the others have left."""
    from esembed.local import docker

    image = config.getoption(f"--esembed-image-{engine}")
    heap_mb = config.getoption("--esembed-heap-mb")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    users = _Users(folder / f"esembed-{engine}.json")
    with contextlib.ExitStack() as stack:
        with users.lock:
            state = users.read()
            owner = not state["users"]
            if owner:
                info = stack.enter_context(docker.container(engine, image=image, heap_mb=heap_mb))
                state |= {"url": info.url, "how": f"container {info.image}"}
            state["users"].append(os.getpid())
            users.write(state)
        try:
            yield EngineHandle(engine, state["url"], state["how"], "docker")
        finally:
            with users.lock:
                left = users.leave()["users"]
            while owner and left:
                time.sleep(0.2)
                with users.lock:
                    left = users.read()["users"]
