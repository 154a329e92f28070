"""How good an index's answers are on judged queries, measured and improved.

The work itself is plain blocking code (:mod:`esembed.evaluate`). It runs in a thread, on the sync
counterpart of the index, whose requests go through the caller's loop and client.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esembed.query import Query

from ._shim import in_thread

if TYPE_CHECKING:
    from esembed.evaluate.datasets import Dataset, Run
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.tuning import Tuned, TuneOptions

__all__ = ["evaluate", "tune"]


async def evaluate(
    target: Any,
    dataset: Dataset | str,
    *,
    configurations: Mapping[str, Query] | None,
    runs: Mapping[str, Run] | None,
    measures: Sequence[str] | None,
    size: int,
    latency_queries: int,
    published: Mapping[str, Mapping[str, float]] | None,
) -> Evaluation:
    """Measure an index's default query beside its legs and untuned fusions; see ``AsyncIndex.evaluate``.

    Args:
        target: the sync counterpart of the index.
    """
    # Imported here: a search must not wait for what only an evaluation needs (numpy's statistics).
    from esembed.evaluate.evaluate_index import evaluate_index
    from esembed.evaluate.metrics import DEFAULT_MEASURES

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
    return await in_thread(call, sender=target.client)


async def tune(
    target: Any,
    dataset: Dataset | str,
    *,
    options: TuneOptions | None,
    write: bool,
    progress: Callable[[str], None] | None,
) -> tuple[Tuned, Query]:
    """Fit an index's default query to judged queries; see ``AsyncIndex.tune``.

    Args:
        target: the sync counterpart of the index; what is stored is stored through it.
    """
    from esembed.evaluate.tune_index import tune_index

    call = functools.partial(tune_index, target, dataset, options=options, write=write, progress=progress)
    result: tuple[Tuned, Query] = await in_thread(call, sender=target.client)
    return result
