"""An index's legs weighed without judgements, and the default query that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esembed.evaluate.target import index_documents, store_query
from esembed.plan.legs import searchable_legs
from esembed.weights.estimate import TrustOptions, TrustReport, estimate_trust
from esembed.weights.query import evidence, knowing_query, plan_scorers

if TYPE_CHECKING:
    from esembed import Index

__all__ = ["know_index"]


def know_index(index: Index, *, options: TrustOptions | None = None, write: bool = True) -> TrustReport:
    """Estimate how far each leg can be trusted, without judgements, and store the default query that
    follows from it. A query that the plan's author or ``tune`` wrote is kept.

    At most ``options.documents`` documents are read back; they, two pieces of a quarter of them for each
    kind of known item, and nothing else are encoded.

    Returns:
        the report; its query is None when there is nothing to weigh.
    """
    options = options or TrustOptions()
    index.load_statistics()
    encoders = index.pool.one_at_a_time(
        name for name, part in index.plan.vector_fields() if part.encoded_here
    )
    scorers, notes = plan_scorers(index.plan, encoders)
    report = estimate_trust(
        index_documents(index, options.documents, seed=options.seed),
        scorers,
        total=index.count(),
        options=options,
    )
    query = knowing_query(index.plan, report)
    if len(scorers) < len(searchable_legs(index.plan)):
        notes.append("not every leg can be weighed, so the default query stays as it is")
        query = None
    elif index.plan.chunk is not None:
        notes.append("legs that find chunks are not added up, so the default query stays as it is")
        query = None
    report = replace(report, notes=(*report.notes, *notes))
    evidence_before = index.stored.rest.get("evidence") or {}
    ours = index.plan.query is None or "trust" in evidence_before
    if write and ours:
        # Written even when nothing follows, so that the next ingest doesn't ask again at once.
        kept = {key: evidence_before[key] for key in ("similarity",) if key in evidence_before}
        store_query(index, query, {**kept, "trust": report.to_dict(), "summary": evidence(report)})
    return replace(report, query=query)
