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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from esembed.capabilities import Engine
from esembed.errors import DownloadError, EngineStartError
from esembed.local.process import leftovers

__all__ = [
    "ASSEMBLIES",
    "Artifact",
    "Assembly",
    "Plugin",
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
    """One file: Maven coordinates and the SHA-256 that it must have."""

    group: str
    name: str
    version: str
    sha256: str
    packaging: Literal["zip", "jar"] = "zip"

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}.{self.packaging}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What a server loads from a folder of its own: an archive that is unpacked there, or jars.

    Attributes:
        folder: below the server's, ``plugins/NAME`` or ``modules/NAME``.
        artifacts: archives are unpacked, jars copied.
        files: (name, text) of what the jars don't bring: the descriptor, and the rights that it needs.
    """

    folder: str
    artifacts: tuple[Artifact, ...]
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """A server and what it loads, and the Java it runs on."""

    engine: Engine
    version: str
    server: Artifact
    plugins: tuple[Plugin, ...] = ()
    min_java: int = 21
    max_java: int | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that is fetched, the server first."""
        return (self.server, *(part for plugin in self.plugins for part in plugin.artifacts))

    @property
    def folder(self) -> str:
        """A name that changes with whatever lies in it, so that a new pin never meets an old tree."""
        contents = [part.sha256 for part in self.artifacts]
        contents += [f"{name}\n{text}" for plugin in self.plugins for name, text in plugin.files]
        return f"{self.engine}-{self.version}-{hashlib.sha256(''.join(contents).encode()).hexdigest()[:8]}"


def _elasticsearch(version: str, sha256: str, *, min_java: int = 21) -> Assembly:
    group = "org.elasticsearch.distribution.integ-test-zip"
    server = Artifact(group=group, name="elasticsearch", version=version, sha256=sha256)
    return Assembly(engine="elasticsearch", version=version, server=server, min_java=min_java)


def _opensearch(
    version: str,
    sha256: str,
    *,
    plugins: Mapping[str, str],
    modules: tuple[Plugin, ...] = (),
    min_java: int = 21,
    max_java: int | None = None,
) -> Assembly:
    """*plugins*: name → SHA-256 of its archive."""
    return Assembly(
        engine="opensearch",
        version=version,
        server=Artifact(
            group="org.opensearch.distribution.integ-test-zip",
            name="opensearch",
            version=version,
            sha256=sha256,
        ),
        plugins=(
            *modules,
            *(
                Plugin(
                    folder=f"plugins/{name}",
                    artifacts=(
                        Artifact(
                            group="org.opensearch.plugin", name=name, version=f"{version}.0", sha256=digest
                        ),
                    ),
                )
                for name, digest in plugins.items()
            ),
        ),
        min_java=min_java,
        max_java=max_java,
    )


def _opensearch_module(
    version: str,
    name: str,
    class_name: str,
    *jars: tuple[str, str, str, str],
    policy: str = "",
    extends: str = "",
) -> Plugin:
    """A module of OpenSearch's full distribution from its jars (group, name, version, SHA-256)."""
    descriptor = {
        "description": name,
        "version": version,
        "name": name,
        "classname": class_name,
        "java.version": "11",
        "opensearch.version": version,
        "extended.plugins": extends,
        "has.native.controller": "false",
    }
    files = [("plugin-descriptor.properties", "".join(f"{key}={text}\n" for key, text in descriptor.items()))]
    if policy:
        files.append(("plugin-security.policy", policy))
    return Plugin(
        folder=f"modules/{name}",
        artifacts=tuple(
            Artifact(group=group, name=jar, version=number, sha256=digest, packaging="jar")
            for group, jar, number, digest in jars
        ),
        files=tuple(files),
    )


# The server archives of OpenSearch 2.x have no modules but the HTTP one. Those that k-NN and neural-search
# build on are on Maven Central as jars; what a jar lacks to be a module is its descriptor.
_OPENSEARCH_2_MODULES = (
    _opensearch_module(
        "2.19.6",
        "lang-painless",
        "org.opensearch.painless.PainlessPlugin",
        (
            "org.opensearch.plugin",
            "lang-painless",
            "2.19.6",
            "e71e6c7ef99a6f5958cd0b25367acf472cc52cd49d29e13084c5ff0b5931f717",
        ),
        (
            "org.opensearch.plugin",
            "opensearch-scripting-painless-spi",
            "2.19.6",
            "84e545b968151739f1915cfd2db24bf873edfd317d2848b87b61d0d60ec70869",
        ),
        (
            "org.antlr",
            "antlr4-runtime",
            "4.13.1",
            "54665d2838cc66458343468efc539e454fc95b46a8a04b13c6ac43fc9be63505",
        ),
        (
            "org.ow2.asm",
            "asm",
            "9.7",
            "adf46d5e34940bdf148ecdd26a9ee8eea94496a72034ff7141066b3eea5c4e9d",
        ),
        (
            "org.ow2.asm",
            "asm-util",
            "9.7",
            "37a6414d36641973f1af104937c95d6d921b2ddb4d612c66c5a9f2b13fc14211",
        ),
        (
            "org.ow2.asm",
            "asm-tree",
            "9.7",
            "62f4b3bc436045c1acb5c3ba2d8ec556ec3369093d7f5d06c747eb04b56d52b1",
        ),
        (
            "org.ow2.asm",
            "asm-commons",
            "9.7",
            "389bc247958e049fc9a0408d398c92c6d370c18035120395d4cba1d9d9304b7a",
        ),
        (
            "org.ow2.asm",
            "asm-analysis",
            "9.7",
            "7bc6bcbc21379948a0c8c467fb0f864206e5b818f6bc0b546872f5c9f941556f",
        ),
        # Compiled scripts are classes, made at run time and loaded by a loader of Painless's own.
        policy='grant {\n  permission java.lang.RuntimePermission "createClassLoader";\n'
        '  permission java.lang.RuntimePermission "getClassLoader";\n};\n',
    ),
    _opensearch_module(
        "2.19.6",
        "mapper-extras",
        "org.opensearch.index.mapper.MapperExtrasPlugin",
        (
            "org.opensearch.plugin",
            "mapper-extras-client",
            "2.19.6",
            "4a486870432b71a190dca3aaba91f1fba58837e4a4146b2982e8a938164a9a34",
        ),
    ),
    _opensearch_module(
        "2.19.6",
        "analysis-common",
        "org.opensearch.analysis.common.CommonAnalysisPlugin",
        (
            "org.opensearch.plugin",
            "analysis-common",
            "2.19.6",
            "187378844d92a043b935038f9ae168f7812f686b1c1c7128f8b97731baff8a1a",
        ),
        extends="lang-painless",
    ),
)

ASSEMBLIES: tuple[Assembly, ...] = (
    _opensearch(
        "3.6.0",
        "a91faa1dc1cadc78cb278b4f63847e19e1627a4e9de698e14e7efc14ee37b286",
        plugins={
            "opensearch-knn": "ac392ca28a39b3bf290648a422ef30cb149dda2963a9d7feb26060e932341c9a",
            "neural-search": "6ef1b206e79391e2e36268e32dc34d27fd8b8a59a8eb0a7393c97d53b038e433",
        },
    ),
    _opensearch(
        "3.5.0",
        "b676ad392c95a94d8d2bd8785b8b922c7811536daf6a9ec0c7277a34bd8a17a9",
        # Its neural-search is not on Maven Central, so neither are hybrid queries and SEISMIC there.
        plugins={"opensearch-knn": "99fdf3ac9ef95974e276298b83a58532bf21ba13bd5fd96a4b59465b7e613309"},
    ),
    _opensearch(
        "2.19.6",
        "71d6d8b1c637f3faecda0752b184b1cc526fc6eaad59ec1408c6327bb00b9293",
        plugins={
            "opensearch-knn": "c21b9565624d29fd4024e3a3902712349006cb7894a73c45d976756a761e628f",
            "neural-search": "b38b136b280a219d7f4495dd5d7e11e92a528b874fe940fc8502b8a5c599c820",
        },
        modules=_OPENSEARCH_2_MODULES,
        min_java=17,
        max_java=23,  # Java 24 took the security manager away, without which 2.x doesn't start
    ),
    _elasticsearch("9.5.3", "bec49f3b8d00e75c8d1cec85c35298635ec9fbd3ae80ef5aeb6bc05abdb3db2d"),
    _elasticsearch("9.2.0", "bf44938a0490ba2a303d39c9cb64b38963dd08c812ce93e10816e878585bcb6b"),
    _elasticsearch("8.19.0", "14833b2d86c30656901f92049f81fb5777a8e4545413c8656cd1a21b55173033", min_java=17),
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
        return Path(wanted.artifact(packaging=artifact.packaging).resolve())
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
        archives = {part: fetch(part, progress=progress, offline=offline) for part in wanted.artifacts}
        progress.step(f"unpacking {wanted.engine} {wanted.version}")
        work = Path(tempfile.mkdtemp(prefix=".unpack-", dir=servers))
        try:
            unpack(archives[wanted.server], work / "server", progress=progress)
            (tree,) = (work / "server").iterdir()
            for plugin in wanted.plugins:
                _install_plugin(plugin, tree / plugin.folder, archives, progress)
            tree.chmod(0o755)
            tree.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return home


def _install_plugin(
    plugin: Plugin, folder: Path, archives: Mapping[Artifact, Path], progress: Progress
) -> None:
    make_public(folder)
    for part in plugin.artifacts:
        if part.packaging == "zip":
            unpack(archives[part], folder, progress=progress)
        else:
            target = folder / part.filename
            shutil.copyfile(archives[part], target)
            target.chmod(0o644)
    for name, text in plugin.files:
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)


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
