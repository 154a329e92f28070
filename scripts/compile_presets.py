"""Write mappings/NAME/PROFILE.json from each plan.toml; ``--check`` only compares.

Where the plan needs an ingest pipeline, it is PROFILE.pipelines.json. A profile that can't do the plan
gets PROFILE.unsupported.json, with every gap and its remedy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from esembed.capabilities import PROFILES, profile
from esembed.dialect.mapping import compile_mapping
from esembed.errors import UnsupportedFeatureError
from esembed.plan import IndexPlan

ROOT = Path(__file__).resolve().parent.parent


def compiled(plan: IndexPlan, name: str) -> dict[str, Any]:
    """File name → content for one profile."""
    try:
        result = compile_mapping(plan, profile(name))
    except UnsupportedFeatureError as error:
        return {f"{name}.unsupported.json": {"unsupported": list(error.gaps)}}
    files: dict[str, Any] = {f"{name}.json": result.body}
    if result.pipelines:
        files[f"{name}.pipelines.json"] = result.pipelines
    return files


def main() -> int:
    """0 when everything is (or, without --check, now is) up to date."""
    check = "--check" in sys.argv[1:]
    stale: list[Path] = []
    for folder in sorted(path.parent for path in (ROOT / "mappings").glob("*/plan.toml")):
        plan = IndexPlan.load_file(folder / "plan.toml")
        wanted = {file: body for name in PROFILES for file, body in compiled(plan, name).items()}
        for file, content in wanted.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            path = folder / file
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path)
                if not check:
                    path.write_text(text, encoding="utf-8")
        for path in folder.glob("*.json"):
            if path.name not in wanted:
                stale.append(path)
                if not check:
                    path.unlink()
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT).as_posix()}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
