"""The part of an index that deals with its quality: measuring it, and the default query's weights."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esembed.dialect import meta
from esembed.errors import EsembedError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.plan import IndexPlan
from esembed.plan.legs import searchable_legs
from esembed.query import Query

from ._shim import in_thread, sync_twin

if TYPE_CHECKING:
    from esembed.evaluate.datasets import Dataset, Run
    from esembed.evaluate.evaluation import Evaluation
    from esembed.evaluate.tuning import Tuned, TuneOptions
    from esembed.weights.estimate import TrustOptions, TrustReport

__all__ = ["QualityMixin"]

FEWEST_DOCUMENTS = 50
"""Below this an ingest asks nothing: the answers would be chance."""


class QualityMixin:
    """What :class:`AsyncIndex` knows about how good its answers are. Needs no extra but for measures
    (``pip install 'esembed[eval]'``)."""

    plan: IndexPlan
    stored: meta.StoredMeta

    async def evaluate(
        self,
        dataset: Dataset | str,
        *,
        configurations: Mapping[str, Query] | None = None,
        runs: Mapping[str, Run] | None = None,
        measures: Sequence[str] | None = None,
        size: int = 100,
        latency_queries: int = 30,
        published: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Evaluation:
        """Measure the default query beside its legs and untuned fusions, on judged queries.

        Args:
            dataset: a BEIR folder, a CSV, ``ir_datasets:ID``, or what ``load_dataset`` made.
            configurations: further queries by name, their texts open.
            runs: further runs by name, from files or other tools.
            measures: None is nDCG@10, recall@100, MRR@10, MAP, success@1 and @5.
            size: how many hits are asked for.
            latency_queries: how many queries are timed one after another; 0 times none.
            published: outside figures for the report: name → measure → value.

        Raises:
            EsembedError: no judged queries, the extra isn't installed; what a search raises.
        """
        from esembed.evaluate.evaluate_index import evaluate_index
        from esembed.evaluate.metrics import DEFAULT_MEASURES

        twin = sync_twin(self)
        call = functools.partial(
            evaluate_index,
            twin,
            dataset,
            configurations=configurations,
            runs=runs,
            measures=measures or DEFAULT_MEASURES,
            size=size,
            latency_queries=latency_queries,
            published=published,
        )
        return await in_thread(call, sender=twin.client)

    async def tune(
        self,
        dataset: Dataset | str,
        *,
        options: TuneOptions | None = None,
        write: bool = True,
        progress: Callable[[str], None] | None = None,
    ) -> tuple[Tuned, Query]:
        """Fit the default query to judged queries; on few it stays as it is. See ``esembed tune``.

        Args:
            options: see :class:`~esembed.evaluate.tuning.TuneOptions`.
            write: store the query and its evidence, where something better was found.
            progress: told what is being done, one line each (from another thread).

        Returns:
            the choice with its evidence, and the query.

        Raises:
            EsembedError: no judged queries, the extra isn't installed, or the default query's reranker
                wasn't given.
        """
        from esembed.evaluate.tune_index import tune_index

        twin = sync_twin(self)
        result: tuple[Tuned, Query] = await in_thread(
            functools.partial(tune_index, twin, dataset, options=options, write=write, progress=progress),
            sender=twin.client,
        )
        self._adopt(twin)
        return result

    async def learn_weights(
        self, options: TrustOptions | None = None, *, write: bool = True
    ) -> tuple[TrustReport, Query | None]:
        """Estimate without judgements how far each leg can be trusted, and store the default query that
        follows: one request, weighted. :meth:`ingest` does it by itself.

        A query that the plan's author or :meth:`tune` wrote is kept.

        Args:
            options: see :class:`~esembed.weights.estimate.TrustOptions`.
            write: store it.

        Returns:
            the report, and the query, or None when there is nothing to weigh.
        """
        from esembed.evaluate.learn_weights import know_index

        twin = sync_twin(self)
        result: tuple[TrustReport, Query | None] = await in_thread(
            functools.partial(know_index, twin, options=options, write=write), sender=twin.client
        )
        self._adopt(twin)
        return result

    async def _after_ingest(
        self, options: IngestOptions, report: IngestReport, progress: Progress | None
    ) -> None:
        """Weigh the legs once the index has something to learn from, and again when it has doubled.

        A failure here is told and never fails an ingest whose documents are in.
        """
        if not options.trust or not report.complete or not (report.indexed + report.updated):
            return
        evidence: Any = self.stored.rest.get("evidence") or {}
        earlier = evidence.get("trust") if isinstance(evidence, Mapping) else None
        if self.plan.query is not None and earlier is None:
            return
        if len(searchable_legs(self.plan)) < 2 or self.plan.chunk is not None:
            return
        if any(part.endpoint is not None for _, part in self.plan.vector_fields()):
            return  # a leg that can't be scored on this side can't be weighed
        documents = await self.count()  # type: ignore[attr-defined]
        known = earlier.get("documents", 0) if isinstance(earlier, Mapping) else 0
        if documents < max(FEWEST_DOCUMENTS, 2 * int(known)):
            return
        started = time.monotonic()
        try:
            found, query = await self.learn_weights()
        except EsembedError as error:
            line = f"the legs' trust was not estimated (esembed eval trust does it later): {error}"
        else:
            if query is None:
                line = "; ".join(found.notes) or "there is nothing to weigh"
            else:
                legs = ", ".join(f"{leg.name} {leg.trust:.2f}" for leg in found.legs)
                line = f"default query weighted by trust: {legs} ({found.queries} known items)"
        seconds = time.monotonic() - started
        report.stage_seconds["trust"] = seconds
        report.seconds += seconds
        report.notices.append(f"{line}, {seconds:.1f} s")
        if progress is not None:
            progress.notice(report.notices[-1])

    def _adopt(self, twin: Any) -> None:
        """Take over what the twin that worked in a thread wrote."""
        if twin.stored is not self.stored:
            self.stored = twin.stored
            self.plan = twin.stored.plan
            self._changed()  # type: ignore[attr-defined]
