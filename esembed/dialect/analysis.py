"""What an engine has, or takes, of a plan's ``[analysis]``, as errors about the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from esembed.capabilities import Capabilities
from esembed.errors import EngineRequestError, EsembedError, PlanError
from esembed.plan import IndexPlan

__all__ = ["check_analysis_there", "refused_plan"]

_NAMED = re.compile(r"\[([^\[\]]+)\]")
"""What engines refuse stands in brackets (``Unknown filter type [x] for [NAME]``)."""
_FIELD = re.compile(r"field \[(?P<name>[^\[\]]+)\]")


def refused_plan(error: EngineRequestError, plan: IndexPlan, capabilities: Capabilities) -> EsembedError:
    """What an engine said to the creation of an index, as an error about the part of the plan that it is
    about; *error* itself where that is none."""
    reason = error.reason or ""
    if error.status != 400:
        return error
    where = None
    words = _NAMED.findall(reason)
    for section, members in plan.analysis.items():
        for name in words:
            if name in members:
                where = f"analysis.{section}.{name}"
    named = _FIELD.search(reason)
    if where is None and named is not None and named["name"] in {*plan.text, *plan.filter}:
        where = f"{'text' if named['name'] in plan.text else 'filter'}.{named['name']}"
    if where is None:
        return error
    more = ""
    if capabilities.distribution == "reduced":
        more = "; this server is a reduced distribution, a full one has more of them"
    return PlanError(f"the engine refuses it: {reason}{more}", path=where)


def check_analysis_there(plan: IndexPlan, settings: Mapping[str, Any]) -> None:
    """Raises PlanError where a plan brings analyzers that an index doesn't have: they are fixed when it is
    made."""
    there = settings.get("analysis") or {}
    for section, members in plan.analysis.items():
        lacking = sorted(set(members) - set(there.get(section) or ()))
        if lacking:
            raise PlanError(
                f"the index has no {section} {lacking[0]!r}, and gets none while it is open: leave "
                "[analysis] out and name analyzers that it has, or create an index of this plan and ingest "
                "from this one",
                path=f"analysis.{section}.{lacking[0]}",
            )
