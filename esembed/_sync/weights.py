# Generated from esembed/_async/weights.py by scripts/run_unasync.py; change that file and run the script.
"""The weights of an index's legs: learned from the index itself, stored in its default query."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esembed.errors import EsembedError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.plan.legs import searchable_legs

from . import documents
from ._shim import as_sync, in_thread
from .state import IndexState
from .target import IndexTarget

if TYPE_CHECKING:
    from esembed.weights.estimate import TrustOptions, TrustReport

__all__ = ["FEWEST_DOCUMENTS", "learn", "learn_after_ingest"]

FEWEST_DOCUMENTS = 50
"""Below this an ingest doesn't learn: the weights would be chance."""


def learn(state: IndexState, *, options: TrustOptions | None, write: bool) -> TrustReport:
    """Estimate the legs' weights and store the query that follows; see ``Index.learn_weights``."""
    from esembed.evaluate.learn_weights import know_index

    target = as_sync(IndexTarget(state))
    call = functools.partial(know_index, target, options=options, write=write)
    report: TrustReport = in_thread(call, sender=target.client)
    state.replace_stored(target.stored)
    return report


def learn_after_ingest(
    state: IndexState, options: IngestOptions, report: IngestReport, progress: Progress | None
) -> None:
    """Weigh the legs once the index has something to learn from, and again when it has doubled.

    Adds a notice and the time to *report*. A failure is a notice, too: it never fails an ingest whose
    documents are in.
    """
    if not options.learn_weights or not report.complete or not (report.indexed + report.updated):
        return
    evidence: Any = state.stored.rest.get("evidence") or {}
    earlier = evidence.get("trust") if isinstance(evidence, Mapping) else None
    if state.plan.query is not None and earlier is None:
        return  # the plan's author or a tuning wrote it: nothing that is learned here replaces that
    if len(searchable_legs(state.plan)) < 2 or state.plan.chunk is not None:
        return
    if any(part.endpoint is not None for _, part in state.plan.vector_fields()):
        return  # a leg that can't be scored in this process can't be weighed
    count = documents.count(state)
    known = earlier.get("documents", 0) if isinstance(earlier, Mapping) else 0
    if count < max(FEWEST_DOCUMENTS, 2 * int(known)):
        return
    started = time.monotonic()
    try:
        found = learn(state, options=None, write=True)
    except EsembedError as error:
        line = f"the legs' trust was not estimated (esembed eval trust does it later): {error}"
    else:
        if found.query is None:
            line = "; ".join(found.notes) or "there is nothing to weigh"
        else:
            legs = ", ".join(f"{leg.name} {leg.trust:.2f}" for leg in found.legs)
            line = f"default query weighted by trust: {legs} ({found.queries} known items)"
    seconds = time.monotonic() - started
    report.stage_seconds["trust"] = seconds
    report.seconds += seconds
    report.warnings.append(f"{line}, {seconds:.1f} s")
    if progress is not None:
        progress.notice(report.warnings[-1])
