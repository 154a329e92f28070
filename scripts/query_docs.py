"""Write docs/queries.md from the test cases and the compilers; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/contract"))

from query_cases import CASES, VECTOR  # noqa: E402
from query_world import PROFILES, compiled_bodies, label, plan_of  # noqa: E402

from esembed import query as q  # noqa: E402
from esembed import to_esql  # noqa: E402
from esembed.errors import EsembedError  # noqa: E402

TARGET = ROOT / "docs/queries.md"
HEAD = """# Queries, and what they compile to

Made by `scripts/query_docs.py` from the cases that the tests send to real engines
(`tests/contract/query_cases.py`); change those, not this page. In each body the query part is shown,
without `size`, `_source` and `track_total_hits`. Several bodies are the lines of one `_msearch`, whose
lists esembed fuses. `from esembed import query as q` everywhere.

The columns are capability profiles: `elasticsearch-basic` is a full distribution with the free license,
`elasticsearch-enterprise` has the trial or Enterprise license, `elasticsearch-reduced` is the local build for
tests, `opensearch-no-native` the local OpenSearch without the k-NN libraries (its queries are the same; what
it refuses are quantizations). `esembed doctor` says which one an engine is. Versions between those shown go
by what their capabilities say; `query.to_body(profile)` prints what any of them gets.

- [Where fusion runs](#where-fusion-runs)
- [Feature support by engine](#feature-support-by-engine)
- [ES|QL](#esql)
- [Every operator](#every-operator)

## Where fusion runs

"The engine" is one `_search`; "esembed" is one `_msearch` whose lists are fused in your process, by the same
definitions ([fusion.py](../esembed/fusion.py)). `server-…` and `client-…` are the same queries with
`fusion="server"` and `fusion="client"`.

A fusion inside a fusion with a smaller `rank_window_size` is fused by esembed on every engine: Elasticsearch
would widen it to the outer one. With `fusion="server"` it is refused.

"""
MISSING = """
## Feature support by engine

What a profile can't do is an error before anything is sent, with the remedy. All other operators compile on
all profiles.

"""


ESQL = """## ES|QL

`to_esql(query, profile, index=…, plan=…)` writes a query as ES|QL, where that has an equal for it: `match` on
one field, `match_phrase`, `knn`, `bool_`, exact conditions, `rrf`, `linear` with `minmax` or `none`, and
`rescore` by an inference endpoint. The rest is refused, all of it at once. Texts and values are named
parameters, names are quoted, so that nothing that is searched for can become syntax. It needs Elasticsearch
9.2, `knn` 9.3, with the module x-pack-esql; `FUSE` is a preview up to 9.4.

```python
from esembed import to_esql

made = to_esql(query, "elasticsearch-basic", index="books", plan=plan)
client.esql.query(**made.body)
```

A field with several values passes no comparison in ES|QL; `made.notes` says so for each field. The engine of
ES|QL is not among the published parts that the local servers are made of: the texts are checked by unit tests
and went through the parser of 9.5.3 without an error, and were not run.

"""
ESQL_EXAMPLE = q.rrf(
    q.match("red fox", fields="body"),
    q.knn("embedding", vector=VECTOR, k=20),
    weights=(1.0, 0.5),
    filter=q.term("lang", "en"),
)


def esql() -> str:
    """What has an equal in ES|QL, with an example."""
    enterprise = next(profile for profile in PROFILES if profile.profile == "elasticsearch-enterprise")
    said: list[str] = []
    for case in CASES:
        try:
            to_esql(case.query, enterprise, index="books", plan=plan_of(case, enterprise), **case.options)
        except EsembedError:
            continue
        said.append(case.id)
    plan = next(plan_of(case, enterprise) for case in CASES if case.id == "rrf")
    example = to_esql(ESQL_EXAMPLE, enterprise, index="books", plan=plan)
    lines = [f"{ESQL}```python\n{ESQL_EXAMPLE!r}\n```", "", f"```\n{example.query}\n```", ""]
    listed = ", ".join(f"[{name}](#{name})" for name in said)
    lines.append(f"Of the operators below these have an equal: {listed}.")
    return "\n".join(lines)


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


def missing() -> list[str]:
    """What has no body on some profile, and the reasons."""
    lines = ["| query | " + " | ".join(label(p) for p in PROFILES) + " |", "|---" * (len(PROFILES) + 1) + "|"]
    reasons: dict[str, int] = {}
    for case in CASES:
        found = [compiled_bodies(case, profile) for profile in PROFILES]
        if not any(isinstance(bodies, str) for bodies in found):
            continue
        cells = []
        for bodies in found:
            if isinstance(bodies, str):
                cells.append(f"no ({reasons.setdefault(bodies, len(reasons) + 1)})")
            else:
                cells.append("yes")
        lines.append(f"| [`{case.id}`](#{case.id}) | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{number}. {text}." for text, number in reasons.items())]


def shown(bodies: list[dict[str, object]]) -> str:
    """Bodies as compact JSON, one a line."""
    hidden = ("_source", "track_total_hits", "size")
    return "\n".join(json.dumps({k: v for k, v in b.items() if k not in hidden}) for b in bodies)


def page() -> str:
    """The page's text."""
    lines = [
        HEAD + "\n".join(rows()),
        MISSING + "\n".join(missing()),
        "",
        esql(),
        "",
        "## Every operator",
        "",
    ]
    lines += [", ".join(f"[{case.id}](#{case.id})" for case in CASES), ""]
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
