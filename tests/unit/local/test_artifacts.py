"""Downloads are verified and unpacked safely; nothing half-done stays behind. No network."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from esembed.errors import DownloadError, EngineStartError
from esembed.local import artifacts
from esembed.local.artifacts import Artifact, Plugin, assembly, claim_root, engine_root, fetch, unpack


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path


@pytest.fixture
def repository(tmp_path: Path, use_cache_folder: Callable[[Path], None]) -> tuple[Path, Artifact]:
    """A Maven repository on disk with one small archive, and the pin that fits it."""
    use_cache_folder(tmp_path / "cache")
    repo = tmp_path / "repo"
    archive = _zip(repo / "org/example/thing/1.0/thing-1.0.zip", {"thing-1.0/bin/thing": b"#!/bin/sh\n"})
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return repo, Artifact(group="org.example", name="thing", version="1.0", sha256=digest)


def test_a_genuine_archive_is_returned(repository: tuple[Path, Artifact]) -> None:
    repo, artifact = repository
    path = fetch(artifact, local_repos=[repo], offline=True)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256


def test_a_tampered_archive_is_refused_and_says_what_to_do(repository: tuple[Path, Artifact]) -> None:
    repo, artifact = repository
    source = repo / "org/example/thing/1.0/thing-1.0.zip"
    source.write_bytes(source.read_bytes() + b"more")
    with pytest.raises(DownloadError, match=f"pinned is {artifact.sha256}.*remove it there") as caught:
        fetch(artifact, local_repos=[repo], offline=True)
    assert "org.example:thing:1.0" in caught.value.message
    assert source.exists(), "another program's repository is not ours to clean"


def test_a_damaged_file_in_the_cache_is_removed(repository: tuple[Path, Artifact], tmp_path: Path) -> None:
    repo, artifact = repository
    cached = tmp_path / "cache/maven/org/example/thing/1.0/thing-1.0.zip"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"PK\x03\x04 interrupted")
    with pytest.raises(DownloadError, match=r"can't fetch org\.example:thing:1\.0"):
        fetch(artifact, local_repos=[], offline=True)
    assert not cached.exists()
    cached.write_bytes(b"again")
    assert fetch(artifact, local_repos=[repo], offline=True).read_bytes()[:2] == b"PK"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a\\..\\out", "c:out"])
def test_a_member_outside_the_target_is_refused(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "bad.zip", {"fine": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="no plain file"):
        unpack(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists(), "checked before anything is written"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        zipped.writestr(member, "/etc/passwd")
    with pytest.raises(DownloadError, match="'link'"):
        unpack(tmp_path / "bad.zip", tmp_path / "target")


def test_an_archive_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_MAX_UNPACKED_BYTES", 10)
    archive = _zip(tmp_path / "big.zip", {"big": b"x" * 11})
    with pytest.raises(DownloadError, match="more than any server has"):
        unpack(archive, tmp_path / "target")


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "cut.zip", {"a": b"x" * 1000})
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(DownloadError, match=r"cut\.zip is not a whole zip"):
        unpack(archive, tmp_path / "target")


def test_programs_stay_executable_and_nothing_else_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for name, mode in (("bin/run", 0o4777), ("conf", 0o666)):
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFREG | mode) << 16
            zipped.writestr(member, "x")
    unpack(tmp_path / "a.zip", tmp_path / "t")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "t").rglob("*") if p.is_file()}
    assert modes == {"run": 0o755, "conf": 0o644}


def test_install_is_whole_or_absent(repository: tuple[Path, Artifact], tmp_path: Path) -> None:
    repo, artifact = repository
    store = tmp_path / "cache/maven/org/example"
    (store / "thing/1.0").mkdir(parents=True)
    (store / "thing/1.0/thing-1.0.zip").write_bytes(
        (repo / "org/example/thing/1.0/thing-1.0.zip").read_bytes()
    )
    missing = dataclasses.replace(artifact, name="plugin")
    plugin = Plugin(folder="plugins/missing", artifacts=(missing,))
    both = dataclasses.replace(assembly("opensearch"), server=artifact, plugins=(plugin,))
    with pytest.raises(DownloadError, match="plugin"):
        artifacts.install(both, root=tmp_path / "root", offline=True)
    assert [p.name for p in (tmp_path / "root/servers").iterdir() if not p.name.endswith(".lock")] == []
    whole = dataclasses.replace(both, plugins=())
    home = artifacts.install(whole, root=tmp_path / "root", offline=True)
    assert (home / "bin/thing").read_text() == "#!/bin/sh\n"
    assert artifacts.install(whole, root=tmp_path / "root", offline=True) == home


def test_plugins_are_archives_unpacked_or_jars_with_their_descriptor(
    repository: tuple[Path, Artifact], tmp_path: Path
) -> None:
    store = tmp_path / "cache/maven/org/example"
    pins = {}
    for packaging in ("zip", "jar"):
        name = "thing" if packaging == "zip" else "module"
        path = _zip(
            store / name / "1.0" / f"{name}-1.0.{packaging}", {"thing-1.0/bin/thing": packaging.encode()}
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pins[packaging] = dataclasses.replace(repository[1], name=name, sha256=digest, packaging=packaging)
    module = Plugin(
        folder="modules/module",
        artifacts=(pins["jar"],),
        files=(("plugin-descriptor.properties", "name=module\n"),),
    )
    wanted = dataclasses.replace(
        assembly("opensearch"),
        server=pins["zip"],
        plugins=(module, Plugin(folder="plugins/thing", artifacts=(pins["zip"],))),
    )
    home = artifacts.install(wanted, root=tmp_path / "root", offline=True)
    found = {path.relative_to(home).as_posix(): path for path in home.rglob("*") if path.is_file()}
    assert found.keys() == {
        "bin/thing",
        "modules/module/module-1.0.jar",
        "modules/module/plugin-descriptor.properties",
        "plugins/thing/thing-1.0/bin/thing",
    }
    assert found["modules/module/plugin-descriptor.properties"].read_text() == "name=module\n"
    jar = found["modules/module/module-1.0.jar"]
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == pins["jar"].sha256
    assert all(path.stat().st_mode & stat.S_IROTH for path in found.values()), "the server is another user"
    other = dataclasses.replace(module, files=(("plugin-descriptor.properties", "name=other\n"),))
    assert dataclasses.replace(wanted, plugins=(other, *wanted.plugins[1:])).folder != wanted.folder


def test_the_docs_list_the_servers_on_offer() -> None:
    text = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| OpenSearch ", "| Elasticsearch "))]
    names = {"opensearch": "OpenSearch", "elasticsearch": "Elasticsearch"}
    for one in artifacts.ASSEMBLIES:
        java = f"{one.min_java} to {one.max_java}" if one.max_java else f"{one.min_java} or newer"
        assert any(row.startswith(f"| {names[one.engine]} {one.version} | {java} |") for row in rows), one
    assert len(rows) == len(artifacts.ASSEMBLIES)


def test_another_kind_or_version_is_refused_with_what_there_is() -> None:
    with pytest.raises(EngineStartError, match="'opensearch' or 'elasticsearch'"):
        assembly("solr")
    with pytest.raises(EngineStartError, match=r"pinned versions are 3\.6\.0, 3\.5\.0, 2\.19\.6;"):
        assembly("opensearch", "1.0.0")


def test_a_new_pin_never_meets_an_old_tree() -> None:
    first = assembly("elasticsearch")
    other = dataclasses.replace(first, server=dataclasses.replace(first.server, sha256="0" * 64))
    assert first.folder != other.folder


def test_root_puts_servers_where_their_user_can_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("ESEMBED_CACHE_DIR", str(closed / "cache"))
    monkeypatch.setattr(artifacts, "_is_root", lambda: True)
    assert not engine_root().is_relative_to(closed)
    monkeypatch.setattr(artifacts, "_is_root", lambda: False)
    assert engine_root() == closed / "cache" / "engines"


def test_engine_folders_outside_a_cache_that_is_gone_are_removed_after_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, closed = tmp_path / "shared", tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(artifacts, "_is_root", lambda: True)
    monkeypatch.setattr("platformdirs.site_cache_dir", lambda *_, **__: str(shared))

    def claimed(name: str, *, exists: bool = False, weeks: float = 2.0) -> Path:
        monkeypatch.setenv("ESEMBED_CACHE_DIR", str(closed / name))
        root = engine_root()
        assert root.parent == shared
        claim_root()
        (root / "instances" / "opensearch-default").mkdir(parents=True)
        if exists:
            (closed / name).mkdir()
        used = time.time() - weeks * 7 * 86400
        os.utime(root / ".esembed-cache", (used, used))
        return root

    # By another start than those of the folders themselves: each of these would see what came before it.
    gone, young, there = (
        claimed("gone", weeks=0.9),
        claimed("young", weeks=0.9),
        claimed("there", exists=True),
    )
    os.utime(gone / ".esembed-cache", (0, 0))
    foreign = []
    for name, mark in [("a", None), ("12345678", b"/nowhere"), ("b", b"\0"), ("c", b"")]:
        folder = shared / f"engines-{name}"
        folder.mkdir()
        foreign.append(folder)
        if mark is not None:
            (folder / ".esembed-cache").write_bytes(mark)
            os.utime(folder / ".esembed-cache", (0, 0))
    link = shared / "engines-link"
    link.symlink_to(closed)
    (shared / "engines").mkdir()
    new = claimed("new", weeks=0)
    assert not gone.exists()
    assert all(folder.exists() for folder in (young, there, *foreign, link, closed, shared / "engines", new))


def test_a_cache_that_holds_its_engines_itself_gets_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEMBED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(artifacts, "_is_root", lambda: False)
    claim_root()
    assert not (tmp_path / "cache").exists()
