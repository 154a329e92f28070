"""The pinned server archives: fetched with jgo, verified by SHA-256, unpacked safely into the cache.

jgo logs a wrong checksum and accepts a truncated file that lies in its cache, so every resolve is
followed by our own check against the sums pinned here, and what fails it is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from esembed.capabilities import Engine
from esembed.errors import DownloadError, EngineStartError
from esembed.local.process import leftovers

__all__ = [
    "ASSEMBLIES",
    "Artifact",
    "Assembly",
    "Progress",
    "SilentProgress",
    "assembly",
    "cache_dir",
    "checked_name",
    "claim_root",
    "engine_root",
    "fetch",
    "install",
    "is_name",
    "make_public",
    "unpack",
]

CACHE_DIR_ENV = "ESEMBED_CACHE_DIR"
_CHUNK_BYTES = 1 << 20
_MAX_UNPACKED_BYTES = 2 << 30  # a bomb in a mirrored archive ends here


class Progress(Protocol):
    """What a command line implements to show bars and steps; nothing here prints by itself."""

    def bar(self, label: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """A context manager that yields ``update(n_bytes)``."""

    def step(self, text: str) -> None:
        """Something began: one short line."""


class SilentProgress:
    """The default: says nothing."""

    @contextlib.contextmanager
    def bar(self, label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield lambda n_bytes: None

    def step(self, text: str) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One archive: Maven coordinates and the SHA-256 that it must have."""

    group: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """A server and its plugins (each unzipped into ``plugins/<name>/``), and the Java it runs on."""

    engine: Engine
    version: str
    server: Artifact
    plugins: tuple[Artifact, ...] = ()
    min_java: int = 21
    max_java: int | None = None

    @property
    def folder(self) -> str:
        """A name that changes with any archive, so that a new pin never meets an old tree."""
        sums = "".join(part.sha256 for part in (self.server, *self.plugins))
        return f"{self.engine}-{self.version}-{hashlib.sha256(sums.encode()).hexdigest()[:8]}"


def _opensearch(version: str, server: str, knn: str, neural: str) -> Assembly:
    plugin = f"{version}.0"
    group = "org.opensearch.plugin"
    return Assembly(
        engine="opensearch",
        version=version,
        server=Artifact(
            group="org.opensearch.distribution.integ-test-zip",
            name="opensearch",
            version=version,
            sha256=server,
        ),
        plugins=(
            Artifact(group=group, name="opensearch-knn", version=plugin, sha256=knn),
            Artifact(group=group, name="neural-search", version=plugin, sha256=neural),
        ),
    )


ASSEMBLIES: tuple[Assembly, ...] = (
    _opensearch(
        "3.6.0",
        "a91faa1dc1cadc78cb278b4f63847e19e1627a4e9de698e14e7efc14ee37b286",
        "ac392ca28a39b3bf290648a422ef30cb149dda2963a9d7feb26060e932341c9a",
        "6ef1b206e79391e2e36268e32dc34d27fd8b8a59a8eb0a7393c97d53b038e433",
    ),
    # 2.19.1 is not among them: its server archive lacks lang-painless, without which k-NN won't load.
    Assembly(
        engine="elasticsearch",
        version="9.5.3",
        server=Artifact(
            group="org.elasticsearch.distribution.integ-test-zip",
            name="elasticsearch",
            version="9.5.3",
            sha256="bec49f3b8d00e75c8d1cec85c35298635ec9fbd3ae80ef5aeb6bc05abdb3db2d",
        ),
    ),
)
"""Every local server on offer; the first of an engine is its default."""


def assembly(engine: str, version: str | None = None) -> Assembly:
    """The pinned server of that engine and version (None: the default one).

    Raises EngineStartError, with the versions on offer, for anything else.
    """
    found = [a for a in ASSEMBLIES if a.engine == engine]
    if not found:
        raise EngineStartError(f"there is no local engine {engine!r}: it is 'opensearch' or 'elasticsearch'")
    for candidate in found:
        if version in (None, candidate.version):
            return candidate
    offered = ", ".join(a.version for a in found)
    raise EngineStartError(
        f"no local {engine} {version}: the pinned versions are {offered}; "
        "for another one start a container (--docker) or pass the URL of a running engine"
    )


def cache_dir() -> Path:
    """Where downloads are kept: ``ESEMBED_CACHE_DIR``, else the user's cache folder."""
    given = os.environ.get(CACHE_DIR_ENV)
    if given:
        return Path(given).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("esembed", appauthor=False))


def is_name(name: object) -> bool:
    """Whether a local engine or container may have that name."""
    return isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name, re.ASCII) is not None


def checked_name(name: str) -> str:
    """The name of a local engine or container, which goes into paths, or into a pattern for Docker.

    Raises:
        EngineStartError: other characters than lower-case letters, digits and hyphens; over 41 of them.
    """
    if not is_name(name):
        raise EngineStartError(
            f"name {str(name)[:100]!r}: use lower-case letters, digits and hyphens, a letter or digit first, "
            "at most 41 in all"
        )
    return name


def engine_root() -> Path:
    """Where servers and their data live: the cache folder, where the server's user can read it.

    Servers refuse to run as root. When root starts one, another user must be able to reach its
    files, and root's home is closed to others: then it is the machine's cache folder.
    """
    base = cache_dir()
    if not _is_root() or all(_open_to_all(folder) for folder in (base, *base.parents)):
        return base / "engines"
    import platformdirs

    shared = Path(platformdirs.site_cache_dir("esembed", appauthor=False))
    if os.environ.get(CACHE_DIR_ENV):
        return shared / _name_outside(str(base))
    return shared / "engines"


def _name_outside(cache: str) -> str:
    return "engines-" + hashlib.sha256(os.fsencode(cache)).hexdigest()[:8]


_CACHE_MARK = ".esembed-cache"
"""A file in such a folder outside the cache: the path of the cache that it belongs to, with the time of the
last start."""

_UNUSED_SECONDS = 7 * 86400
"""A cache that isn't there may be on a disk that isn't mounted today; after a week without it, it is gone."""


def claim_root() -> None:
    """Say in the engines' folder which cache it belongs to, where it lies outside it, and remove those whose
    cache is gone: nobody who removes a cache (a temporary folder, mostly) knows of the other folder.

    Removed is only what says itself that esembed made it, with a name that fits, unused for a week, and
    without a server that runs there.
    """
    root, cache = engine_root(), str(cache_dir())
    if root.name != _name_outside(cache):
        return
    make_public(root)
    (root / _CACHE_MARK).write_bytes(os.fsencode(cache))
    for other in root.parent.glob("engines-*"):
        if other != root and _is_gone(other):
            shutil.rmtree(other, ignore_errors=True)


def _is_gone(folder: Path) -> bool:
    """Whether a folder of engines outside its cache can be removed."""
    mark = folder / _CACHE_MARK
    try:
        if folder.is_symlink() or not stat.S_ISREG(mark.lstat().st_mode):
            return False
        cache = os.fsdecode(mark.read_bytes()[:10_000])
        if folder.name != _name_outside(cache) or Path(cache).exists():
            return False
        if time.time() - mark.stat().st_mtime < _UNUSED_SECONDS:
            return False
    except (OSError, ValueError):
        return False  # no mark, which those made before have not; or no path
    return not any(leftovers(instance) for instance in (folder / "instances").glob("*"))


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _open_to_all(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except FileNotFoundError:
        return True


def fetch(
    artifact: Artifact,
    *,
    progress: Progress | None = None,
    local_repos: Sequence[Path] | None = None,
    offline: bool = False,
    timeout_seconds: int = 30,
) -> Path:
    """The verified archive, downloaded if it is not in the cache.

    A cached file that fails the check (an interrupted download) is removed and fetched once more;
    a fresh one that fails it is removed too.

    Args:
        local_repos: Maven repositories on disk to look in first (None: ``~/.m2/repository``).
        offline: never download.

    Raises:
        DownloadError: not to be had, or another checksum than the pinned one.
    """
    progress = progress or SilentProgress()
    store = cache_dir() / "maven"
    cached = store.joinpath(*artifact.group.split("."), artifact.name, artifact.version, artifact.filename)
    with _lock(cached.with_suffix(".lock")):
        if cached.exists():
            if _sha256(cached) == artifact.sha256:
                return cached
            cached.unlink()
            progress.step(f"{artifact.filename} in the cache was damaged: fetching it again")
        if local_repos is None:
            home_repo = Path.home() / ".m2" / "repository"
            local_repos = [home_repo] if home_repo.is_dir() else []
        path = _resolve(artifact, cached, store, progress, list(local_repos), offline, timeout_seconds)
        actual = _sha256(path)
        if actual != artifact.sha256:
            inside = path.is_relative_to(store)
            if inside:
                path.unlink(missing_ok=True)
            raise DownloadError(
                f"{artifact} arrived with SHA-256 {actual}, pinned is {artifact.sha256}. "
                + ("The file was removed. " if inside else f"It came from {path}; remove it there. ")
                + "Try again; if it stays so, a proxy or mirror changes what passes through it: "
                f"put a genuine {artifact.filename} at {cached}."
            )
        return path


def _resolve(
    artifact: Artifact,
    cached: Path,
    store: Path,
    progress: Progress,
    local_repos: list[Path],
    offline: bool,
    timeout_seconds: int,
) -> Path:
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise DownloadError('a local engine needs the extra "local": pip install "esembed[local]"') from error
    resolver = PythonResolver(progress_callback=progress.bar)
    context = MavenContext(
        resolver=resolver,
        repo_cache=store,
        local_repos=local_repos,
        timeout=timeout_seconds,
        offline=offline,
    )
    wanted = context.project(artifact.group, artifact.name).at_version(artifact.version)
    try:
        return Path(wanted.artifact(packaging="zip").resolve())
    except BaseException as error:  # also Ctrl-C: a partial file must not stay
        cached.unlink(missing_ok=True)
        if not isinstance(error, Exception):
            raise
        raise DownloadError(
            f"can't fetch {artifact}: {error}. Check the network and its proxy settings, or put "
            f"{artifact.filename} at {cached} (its SHA-256 must be {artifact.sha256})."
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=600):
            yield
    except Timeout as error:
        raise DownloadError(
            f"another process has held {path} for ten minutes; end it, or remove it"
        ) from error


def install(
    wanted: Assembly, *, progress: Progress | None = None, root: Path | None = None, offline: bool = False
) -> Path:
    """The server's folder, unpacked with its plugins (an atomic rename, so it is whole or absent).

    Raises DownloadError.
    """
    progress = progress or SilentProgress()
    servers = (root or engine_root()) / "servers"
    home = servers / wanted.folder
    if home.is_dir():
        return home
    make_public(servers)
    with _lock(servers / f".{wanted.folder}.lock"):
        if home.is_dir():
            return home
        archives = [
            fetch(part, progress=progress, offline=offline) for part in (wanted.server, *wanted.plugins)
        ]
        progress.step(f"unpacking {wanted.engine} {wanted.version}")
        work = Path(tempfile.mkdtemp(prefix=".unpack-", dir=servers))
        try:
            unpack(archives[0], work / "server", progress=progress)
            (tree,) = (work / "server").iterdir()
            for part, archive in zip(wanted.plugins, archives[1:], strict=True):
                unpack(archive, tree / "plugins" / part.name, progress=progress)
            tree.chmod(0o755)
            tree.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return home


def make_public(folder: Path) -> None:
    """Create *folder* so that a server's unprivileged user can pass through what we created."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        path.chmod(0o755)


def unpack(archive: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Unzip into *target*: regular files only, all below *target*, at most 2 GiB.

    Raises DownloadError on absolute names, ``..``, links, or a size beyond the limit.
    """
    progress = progress or SilentProgress()
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            total = sum(member.file_size for member in members)
            if total > _MAX_UNPACKED_BYTES:
                raise DownloadError(f"{archive.name} unpacks to {total} bytes: more than any server has")
            for member in members:
                _check_member(archive, member)
            with progress.bar(f"unpacking {archive.name}", total) as update:
                for member in members:
                    _write_member(zipped, member, target, update)
    except (zipfile.BadZipFile, EOFError) as error:
        raise DownloadError(
            f"{archive} is not a whole zip file ({error}); remove it and try again"
        ) from error


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename)
    mode = member.external_attr >> 16
    file_type = stat.S_IFMT(mode)
    unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename
    if unsafe or file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"{archive.name} holds {member.filename!r}, which is no plain file below it")


def _write_member(
    zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, update: Callable[[int], None]
) -> None:
    path = target.joinpath(*PurePosixPath(member.filename).parts)
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipped.open(member) as source, path.open("xb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            sink.write(chunk)
            update(len(chunk))
    path.chmod(0o755 if (member.external_attr >> 16) & 0o100 else 0o644)
