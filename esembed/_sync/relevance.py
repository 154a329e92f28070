# Generated from esembed/_async/relevance.py by scripts/run_unasync.py; change that file and run the script.
"""How good an index's answers are on judged queries, measured and improved.

The work itself is plain blocking code (:mod:`esembed.evaluate`). It runs in a thread, on the sync
counterpart of the index, whose requests go through the caller's loop and client.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esembed.query import Query

from ._shim import as_sync, in_thread
from .privileges import may_change, require
from .state import IndexState
from .target import IndexTarget

if TYPE_CHECKING:
    from esembed.evaluate.datasets import Dataset, Run
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.recall import RecallOptions, RecallReport
    from esembed.evaluate.tuning import Tuned, TuneOptions

__all__ = ["evaluate", "recall", "tune"]


def evaluate(
    state: IndexState,
    dataset: Dataset | str,
    *,
    configurations: Mapping[str, Query] | None,
    runs: Mapping[str, Run] | None,
    measures: Sequence[str] | None,
    size: int,
    latency_queries: int,
    published: Mapping[str, Mapping[str, float]] | None,
) -> Evaluation:
    """Measure an index's default query beside its legs and untuned fusions; see ``Index.evaluate``."""
    # Imported here: a search must not wait for what only an evaluation needs (numpy's statistics).
    from esembed.evaluate.evaluate_index import evaluate_index
    from esembed.evaluate.metrics import DEFAULT_MEASURES

    target = as_sync(IndexTarget(state))
    call = functools.partial(
        evaluate_index,
        target,
        dataset,
        configurations=configurations,
        runs=runs,
        measures=measures or DEFAULT_MEASURES,
        size=size,
        latency_queries=latency_queries,
        published=published,
    )
    return in_thread(call, sender=target.client)


def tune(
    state: IndexState,
    dataset: Dataset | str,
    *,
    options: TuneOptions | None,
    write: bool,
    tune_legs: bool,
    progress: Callable[[str], None] | None,
) -> Tuned:
    """Fit an index's default query to judged queries; see ``Index.tune``."""
    from esembed.evaluate.tune_index import tune_index

    if write:  # the default query is everybody's who searches the index
        state.live.require_whole("tuning the default query")
        require(state.client, "storing the default query", may_change(state.live, settings=False))
    target = as_sync(IndexTarget(state))
    call = functools.partial(
        tune_index, target, dataset, options=options, tune_legs=tune_legs, write=write, progress=progress
    )
    report: Tuned = in_thread(call, sender=target.client)
    state.replace_stored(target.stored)
    return report


def recall(
    state: IndexState,
    options: RecallOptions | None,
    *,
    queries: Dataset | Sequence[str] | str | None,
    history: str | Path | None,
    progress: Callable[[str], None] | None,
) -> RecallReport:
    """Measure an index's vector searches against exact neighbors; see ``Index.recall``."""
    from esembed.evaluate.recall import measure_recall, query_texts
    from esembed.evaluate.recall_history import RecallHistory

    kept = None if history is None else RecallHistory.open(history)  # before minutes of searching
    texts, asked = query_texts(queries)
    target = as_sync(IndexTarget(state))
    call = functools.partial(measure_recall, target, options, queries=texts, asked=asked, progress=progress)
    report: RecallReport = in_thread(call, sender=target.client)
    if kept is not None:
        kept.append(report)
    return report
