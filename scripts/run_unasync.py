"""Write esembed/_sync and tests/_sync from their async originals; ``--check`` only compares.

The async code is written by hand, the sync code never is (but for ``_shim.py``). unasync does the
tokens; class names, docstrings and formatting are settled afterward.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (("esembed/_async", "esembed/_sync"), ("tests/_async", "tests/_sync"))
BY_HAND = {"_shim.py", "__init__.py"}
STANDARD = {"AsyncIterator", "AsyncIterable", "AsyncGenerator", "AsyncContextManager"}
HEADER = "# Generated from {source} by scripts/run_unasync.py; change that file and run the script.\n"


def rename(text: str) -> str:
    """Our Async names and the words of docstrings, before unasync sees the tokens."""
    text = re.sub(r"\bAsync[A-Z]\w*", lambda m: m[0] if m[0] in STANDARD else m[0][5:], text)
    return text.replace("esembed._async", "esembed._sync").replace("tests._async", "tests._sync")


def convert(source: Path, target_name: str) -> str:
    """One file's sync text."""
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = Path(folder, "in"), Path(folder, "out")
        inside.mkdir()
        renamed = rename(source.read_text(encoding="utf-8"))
        (inside / source.name).write_text(renamed, encoding="utf-8")
        rule = unasync.Rule(fromdir="/in/", todir="/out/", additional_replacements={"aclose": "close"})
        unasync.unasync_files([str(inside / source.name)], [rule])
        text = (outside / source.name).read_text(encoding="utf-8")
    # unasync leaves strings alone: docstrings, and on Python < 3.12 the inside of f-strings.
    text = re.sub(r"\bAwaitable\[(\w+)\]", r"\1", text)
    text = (
        re.sub(r"\bawait ", "", text)
        .replace("pytest_asyncio.fixture", "pytest.fixture")
        .replace("import pytest_asyncio", "import pytest")
    )
    text = re.sub(r"\basync (def|with|for)\b", r"\1", text)
    text = re.sub(r"^.*@pytest\.mark\.asyncio.*\n", "", text, flags=re.M)
    text = HEADER.format(source=source.relative_to(ROOT).as_posix()) + text
    command = [sys.executable, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml")]
    formatted = subprocess.run(
        [*command, "--stdin-filename", target_name, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--select"]
    return subprocess.run(
        [*command, "I,F401", "--fix", "--quiet", "--stdin-filename", target_name, "-"],
        input=formatted,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    ).stdout


def main() -> int:
    """0 when everything is (or, without --check, now is) up to date."""
    check = "--check" in sys.argv[1:]
    stale = []
    for from_folder, to_folder in FOLDERS:
        wanted = set(BY_HAND)
        for source in sorted((ROOT / from_folder).glob("*.py")):
            if source.name in BY_HAND:
                continue
            wanted.add(source.name)
            target = ROOT / to_folder / source.name
            text = convert(source, f"{to_folder}/{source.name}")
            if target.exists() and target.read_text(encoding="utf-8") == text:
                continue
            stale.append(target)
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
        for target in sorted((ROOT / to_folder).glob("*.py")):
            if target.name not in wanted:
                stale.append(target)
                if not check:
                    target.unlink()
    for target in stale:
        print(f"{'stale' if check else 'written'}: {target.relative_to(ROOT).as_posix()}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
