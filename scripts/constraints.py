"""Write constraints.txt: the direct dependencies' versions, resolved for Python 3.10 to 3.13.

``uv pip compile --universal`` resolves; only what pyproject.toml names is kept, so that the file says
nothing about packages that are somebody else's choice. Use: ``pip install -c constraints.txt -e ".[dev]"``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def normal(name: str) -> str:
    """A distribution's name in its canonical form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies() -> set[str]:
    """The names in pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"]]
    for group in project["optional-dependencies"].values():
        lines.extend(group)
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines)
    return {normal(match[0]) for match in names if match} - {"esembed"}


def main() -> int:
    """Resolve, filter, write."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.10", "--extra", "dev"]
    command += [
        "--extra",
        "train",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "pyproject.toml",
    ]
    resolved = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wanted = direct_dependencies()
    kept = [line for line in resolved.splitlines() if normal(re.split(r"[=\[ ]", line)[0]) in wanted]
    (ROOT / "constraints.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(kept)} lines for {len(wanted)} direct dependencies")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
