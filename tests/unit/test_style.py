"""The linters are tests: one command checks everything."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ours = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="runs in a checkout, not against an installed package"
)


def tracked_files() -> list[Path]:
    """The files git tracks, else (an archive without .git) every file that isn't hidden or built."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


@ours
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["ruff", "check", "."], id="ruff-check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy-strict"),
    ],
)
def test_linter(arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


@ours
def test_the_sync_code_is_generated_from_the_async_code() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/run_unasync.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"run scripts/run_unasync.py\n{result.stdout}{result.stderr}"


# Written so that this file doesn't contain what it looks for.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "repo1" + ".maven.org",
    "repo.maven" + ".apache.org",
    "search.maven" + ".org",
    "registry.npm" + "js.org",
    "crates" + ".io",
    "proxy" + ".golang.org",
    "deb" + ".debian.org",
    "archive.ubuntu" + ".com",
    "hugging" + "face.co",
]
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|home/(?!USER|me\b|you\b))/[\w.-]+")


@ours
def test_no_registry_host_and_no_path_of_a_machine_is_in_the_tree() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for host in REGISTRY_HOSTS:
                if host in line.lower():
                    found.append(f"{path.relative_to(ROOT)}:{number}: {host}")
            if match := MACHINE_PATHS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@ours
def test_nothing_large_or_binary_is_tracked() -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size
        for path in tracked_files()
        if path.stat().st_size > (1_500_000 if path.suffix == ".png" else 600_000)
    }
    assert large == {}


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Folders without an __init__.py share one space of names, and a second module of a name ends the run."""
    folders = [
        path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()
    ]
    twice = [name for name, count in Counter(path.name for path in folders).items() if count > 1]
    assert twice == []
