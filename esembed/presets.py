"""The built-in plans: ``names()``, ``load("hybrid-int8")``.

They live as ``mappings/NAME/plan.toml`` in the repository, beside what they compile to for each
capability profile, and travel in the wheel under ``esembed/_presets``.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from esembed.errors import PlanError
from esembed.plan import IndexPlan

__all__ = ["folder", "load", "names"]


def folder(part: str = "mappings") -> Path:
    """Where presets lie: inside the installed package, else (an editable install) in the checkout.

    Raises:
        PlanError: neither is there.
    """
    here = Path(__file__).resolve().parent
    for place in (here / "_presets" / part, here.parent / part):
        if place.is_dir():
            return place
    raise PlanError(f"the presets ({part}) did not come with this installation; install esembed again")


def names() -> list[str]:
    """The presets' names, sorted."""
    return sorted(path.parent.name for path in folder().glob("*/plan.toml"))


def load(name: str) -> IndexPlan:
    """The plan of that name.

    Raises:
        PlanError: no such preset.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PlanError(f"there is no preset {name!r} (there are {', '.join(known)}){hint}")
    return IndexPlan.load_file(folder() / name / "plan.toml")
