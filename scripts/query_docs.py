"""Write docs/queries.md from the test cases and the compilers; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/contract"))

from query_cases import CASES  # noqa: E402
from query_world import PROFILES, compiled_bodies, label  # noqa: E402

TARGET = ROOT / "docs/queries.md"
HEAD = """# Queries, and what they compile to

Made by `scripts/query_docs.py` from the cases that the tests send to real engines
(`tests/contract/query_cases.py`); change those, not this page. In each body the query part is shown,
without `size`, `_source` and `track_total_hits`. Several bodies are the lines of one `_msearch`, whose
lists esembed fuses. `from esembed import query as q` everywhere.

## Who fuses

"""


def rows() -> list[str]:
    """The table of paths."""
    fused = [case for case in CASES if case.id.startswith(("rrf", "linear", "collapse-f", "server"))]
    lines = ["| query | " + " | ".join(label(p) for p in PROFILES) + " |", "|---" * (len(PROFILES) + 1) + "|"]
    for case in fused:
        cells = []
        for profile in PROFILES:
            bodies = compiled_bodies(case, profile)
            if isinstance(bodies, str):
                cells.append("no")
            else:
                server = any("retriever" in body or "search_pipeline" in body for body in bodies)
                cells.append("the engine" if server else f"esembed, {len(bodies)} legs in one request")
        lines.append(f"| `{case.id}` | " + " | ".join(cells) + " |")
    return lines


def shown(bodies: list[dict[str, object]]) -> str:
    """Bodies as compact JSON, one a line."""
    hidden = ("_source", "track_total_hits", "size")
    return "\n".join(json.dumps({k: v for k, v in b.items() if k not in hidden}) for b in bodies)


def page() -> str:
    """The page's text."""
    lines = [HEAD + "\n".join(rows()), "", "## Every operator", ""]
    for case in CASES:
        lines += [f"### {case.id}", "", case.title + ".", "", "```python", repr(case.query)]
        if case.options:
            lines.append("# " + ", ".join(f"{key}={value!r}" for key, value in case.options.items()))
        lines += ["```", ""]
        groups: dict[str, list[str]] = {}
        for profile in PROFILES:
            bodies = compiled_bodies(case, profile)
            text = f"Not there: {bodies}." if isinstance(bodies, str) else f"```json\n{shown(bodies)}\n```"
            groups.setdefault(text, []).append(label(profile))
        for text, profiles in groups.items():
            lines += [f"{', '.join(profiles)}:", "", text, ""]
    return "\n".join(lines)


def main() -> int:
    """0 when the page is (or, without --check, now is) up to date."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text
        print("up to date" if same else "stale: docs/queries.md; run python scripts/query_docs.py")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {len(CASES)} cases, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
