"""An index under test: legs and fusions asked the judged queries, measured, compared, tuned."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from esembed import query as q
from esembed.dialect.default import default_query, searchable_legs
from esembed.errors import EsembedError, QueryError
from esembed.evaluate.axes import AxisChoice, bm25_parameters, leg_variants, race, rerank_variants
from esembed.evaluate.bootstrap import Agreement, agreement, known_items, sample
from esembed.evaluate.dataset import Dataset, Problem, ProblemLog, Run, load_dataset, unique_hits
from esembed.evaluate.knowing import document_text, evidence, knowing_query, plan_scorers
from esembed.evaluate.legs import FusionConfig, LegTable
from esembed.evaluate.metrics import DEFAULT_MEASURES, Latency, measure
from esembed.evaluate.significance import Comparison, Interval, Test, bootstrap_interval, compare
from esembed.evaluate.trust import TrustOptions, TrustReport, estimate_trust
from esembed.evaluate.tune import Tuned, TuneOptions, fused_query, tune
from esembed.query import Query
from esembed.query.bind import bind
from esembed.query.nodes import Bool, Knn, Rrf, Sparse
from esembed.types import Hits

if TYPE_CHECKING:
    from esembed import Index

__all__ = [
    "Evaluation",
    "Measured",
    "bootstrap_index",
    "evaluate_index",
    "evaluate_runs",
    "index_documents",
    "know_index",
    "leg_table",
    "plan_legs",
    "tune_index",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One configuration (a leg, a fusion, an outside run) over the judged queries.

    Attributes:
        name: as the report shows it.
        values: measure → mean with its 95 % interval over queries.
        per_query: measure → query id → value.
        run: query id → (document id, score), best first.
        latency: of single searches one after another, or None.
    """

    name: str
    values: Mapping[str, Interval]
    per_query: Mapping[str, Mapping[str, float]]
    run: Run
    latency: Latency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything a report shows.

    Attributes:
        title: what was measured.
        queries: query id → text, those that count.
        qrels: their judgements.
        measured: the configurations, in order.
        comparisons: each against *baseline* by the first measure, corrected for their number.
        baseline: its name.
        agreements: between legs.
        problems: of the collection and the runs.
        titles: document id → a line to show, where known.
        published: outside figures to stand beside these: name → measure → value.
        notes: configuration → what it is, one line for a person.
        legs: the configurations that are single legs, so that a report can say whether fusing helps.
    """

    title: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    measured: Sequence[Measured]
    comparisons: Sequence[Comparison]
    baseline: str
    agreements: Sequence[Agreement] = ()
    problems: Sequence[Problem] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    legs: Sequence[str] = ()

    @property
    def main(self) -> str:
        """The measure that comparisons and plots use."""
        return next(iter(self.measured[0].values))

    def configuration(self, name: str) -> Measured:
        """The configuration of that name. Raises EsembedError."""
        for one in self.measured:
            if one.name == name:
                return one
        raise EsembedError(f"no configuration {name!r}; there are {', '.join(m.name for m in self.measured)}")


def evaluate_runs(
    dataset: Dataset,
    runs: Mapping[str, Run],
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    baseline: str | None = None,
    test: Test = "randomisation",
    title: str | None = None,
    latencies: Mapping[str, Latency | None] | None = None,
    titles: Mapping[str, str] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure runs that exist: from this index, from a TREC file, from another tool.

    Args:
        dataset: queries and judgements.
        runs: configuration → run.
        measures: the first one is compared and plotted.
        baseline: what the others are compared with; None is the first.

    Raises:
        EsembedError: no runs, no judged queries, or no such baseline.
    """
    if not runs:
        raise EsembedError("nothing to evaluate: no runs")
    if not dataset.queries:
        listed = "; ".join(problem.text for problem in dataset.problems)
        raise EsembedError(f"{dataset.name} has no query with a relevant document. {listed}")
    log = ProblemLog()
    measured: list[Measured] = []
    for name, run in runs.items():
        clean: dict[str, list[tuple[str, float]]] = {}
        for query, hits in run.items():
            if query not in dataset.queries and query not in dataset.unjudged:
                log.add("unknown-query", f"{query} (run {name})")
                continue
            clean[query] = unique_hits(hits, query, log)
        per_query = measure(dataset.qrels, clean, measures)
        values = {m: bootstrap_interval(list(v.values()), seed=seed) for m, v in per_query.items()}
        measured.append(
            Measured(
                name=name,
                values=values,
                per_query=per_query,
                run=clean,
                latency=(latencies or {}).get(name),
            )
        )
    first = measures[0]
    start = baseline or measured[0].name
    comparisons = compare(
        {m.name: m.per_query[first] for m in measured}, baseline=start, test=test, seed=seed
    )
    return Evaluation(
        title=title or dataset.name,
        queries=dataset.queries,
        qrels=dataset.qrels,
        measured=measured,
        comparisons=comparisons,
        baseline=start,
        agreements=agreement({m.name: m.run for m in measured}),
        problems=(*dataset.problems, *log.problems()),
        titles=titles or {},
        published=published or {},
    )


# -- an index --------------------------------------------------------------------------------------


def plan_legs(index: Index, *, k: int = 100) -> dict[str, Query]:
    """The legs of an index, each a query by itself whose text is open: the text fields as ``bm25``, every
    dense and sparse field by its name. Fields that the caller fills (``given``) have no encoder for a
    query and are left out; so is a lexical field beside text fields."""
    plan = index.plan
    legs: dict[str, Query] = {}
    if plan.text:
        legs["bm25"] = q.match(name="bm25")
    for name, dense in plan.dense.items():
        if dense.encoder.partition(":")[0] != "given":
            legs[name] = q.knn(name, k=k, name=name)
    for name, sparse in plan.sparse.items():
        family = sparse.encoder.partition(":")[0]
        if family != "given" and not (family == "lexical" and plan.text):
            legs[name] = q.sparse(name, name=name)
    if not legs:
        raise QueryError("the plan has no field that a text can be searched in")
    return legs


def _ask(
    index: Index, query: str | Query | None, texts: Mapping[str, str], size: int
) -> tuple[dict[str, list[tuple[str, float]]], dict[str, str]]:
    """The run of one configuration, and a line for each document that was seen."""
    base = default_query(index.plan) if query is None or isinstance(query, str) else query
    bound = [bind(base, text) for text in texts.values()]
    run: dict[str, list[tuple[str, float]]] = {}
    titles: dict[str, str] = {}
    answers: Sequence[Hits] = index.search_many(bound, size=size)
    for query_id, hits in zip(texts, answers, strict=True):
        run[query_id] = [(hit.id, hit.score) for hit in hits]
        for hit in list(hits)[:10]:
            if hit.id not in titles:
                titles[hit.id] = " ".join(document_text(index.plan, hit.source).split())[:160]
    return run, titles


def evaluate_index(
    index: Index,
    dataset: Dataset | str,
    *,
    configurations: Mapping[str, Query] | None = None,
    runs: Mapping[str, Run] | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    size: int = 100,
    latency_queries: int = 30,
    test: Test = "randomisation",
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Evaluation:
    """Measure an index's default query beside its legs and the untuned fusions.

    Args:
        index: filled and open.
        dataset: a :class:`Dataset`, or what :func:`load_dataset` takes.
        configurations: further queries by name, their texts open.
        runs: further runs by name, from files or other tools.
        measures: see :mod:`esembed.evaluate.metrics`.
        size: how many hits are asked for.
        latency_queries: how many queries are timed one after another; 0 times none.

    Raises:
        EsembedError: no judged queries; what a search raises.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    if not dataset.queries:
        listed = "; ".join(problem.text for problem in dataset.problems)
        raise EsembedError(f"{dataset.name} has no query with a relevant document. {listed}")
    legs = plan_legs(index, k=size)
    asked: dict[str, Query] = {"default": default_query(index.plan), **legs}
    if len(legs) > 1:
        asked["rrf"] = q.rrf(*legs.values(), rank_window_size=size)
        asked["minmax"] = q.linear(*legs.values(), rank_window_size=size)
    asked.update(configurations or {})
    found: dict[str, Run] = {}
    titles: dict[str, str] = {}
    latencies: dict[str, Latency | None] = {}
    for name, query in asked.items():
        found[name], seen = _ask(index, query, dataset.queries, size)
        titles.update(seen)
        latencies[name] = _latency(index, query, dataset, latency_queries)
    found.update(runs or {})
    absent = _absent(index, dataset)
    evaluation = evaluate_runs(
        replace(dataset, problems=(*dataset.problems, *absent)),
        found,
        measures=measures,
        test=test,
        title=f"{index.name} on {dataset.name}",
        latencies=latencies,
        titles=titles,
        published=published,
    )
    return replace(evaluation, notes=_notes(index, asked), legs=tuple(legs))


def _notes(index: Index, asked: Mapping[str, Query]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for name, query in asked.items():
        if name == "default":
            kind = "what a plain text search does"
            parts = query.should if isinstance(query, Bool) else getattr(query, "legs", ())
            if parts:
                how = "weighted sum" if isinstance(query, Bool) else type(query).__name__.lower()
                kind += f": a {how} of {len(parts)} legs"
        elif isinstance(query, Knn):
            kind = f"nearest vectors in the field {query.field} ({index.plan.dense[query.field].encoder})"
        elif isinstance(query, Sparse):
            kind = f"learned terms in the field {query.field} ({index.plan.sparse[query.field].encoder})"
        elif name == "bm25":
            kind = f"words, by BM25, in {', '.join(index.plan.text)}"
        elif name == "rrf":
            kind = "all legs fused by rank, equal weights, not tuned"
        elif name == "minmax":
            kind = "all legs' scores stretched to 0…1 and added, equal weights, not tuned"
        else:
            kind = "a query that was passed in"
        notes[name] = kind
    return notes


MAX_CHECKED_IDS = 20_000


def _absent(index: Index, dataset: Dataset) -> tuple[Problem, ...]:
    """Relevant documents that the index doesn't hold: whoever forgot to ingest some should be told."""
    wanted = {d: query for query, grades in dataset.qrels.items() for d, g in grades.items() if g > 0}
    ids = list(wanted)[:MAX_CHECKED_IDS]
    log = ProblemLog()
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
        there = {hit.id for hit in index.search(q.bool_(filter=q.ids(*part)), size=len(part), source=False)}
        for document in part:
            if document not in there:
                log.add("not-in-index", f"{document} (query {wanted[document]})")
    return log.problems()


def _latency(index: Index, query: Query, dataset: Dataset, count: int) -> Latency | None:
    times: list[float] = []
    engine: list[float] = []
    for text in list(dataset.queries.values())[:count]:
        start = time.perf_counter()
        hits = index.search(query, text=text, size=10)
        times.append((time.perf_counter() - start) * 1000)
        engine.append(hits.took_ms)
    return Latency.of(times, engine)


def leg_table(
    index: Index, dataset: Dataset, *, size: int = 100, legs: Mapping[str, Query] | None = None
) -> tuple[LegTable, dict[str, Query]]:
    """Every leg's list for every judged query, and text legs' scores for the others' candidates."""
    legs = dict(legs or plan_legs(index, k=size))
    runs = {name: _ask(index, query, dataset.queries, size)[0] for name, query in legs.items()}
    completed: dict[str, dict[str, dict[str, float]]] = {}
    for name, query in legs.items():
        if isinstance(query, Knn):
            continue
        scores: dict[str, dict[str, float]] = {}
        bound: dict[str, Query] = {}
        for query_id, text in dataset.queries.items():
            own = {document for document, _ in runs[name][query_id]}
            others = {d for leg in runs for d, _ in runs[leg][query_id]} - own
            if others:
                bound[query_id] = q.bool_(must=bind(query, text), filter=q.ids(*sorted(others)))
        answers = index.search_many(list(bound.values()), size=size * max(1, len(legs) - 1))
        for query_id, hits in zip(bound, answers, strict=True):
            scores[query_id] = {hit.id: hit.score for hit in hits}
        completed[name] = scores
    return LegTable(runs, dataset.qrels, completed=completed), legs


def tune_index(
    index: Index,
    dataset: Dataset | str,
    *,
    options: TuneOptions | None = None,
    size: int = 100,
    write: bool = True,
    axes: bool = True,
) -> tuple[Tuned, Query]:
    """Fit the default query to judgements and store it in the index's plan, with its evidence.

    First each leg's own settings (field boosts, pruning, num_candidates, oversampling), then the fusion,
    then the index's rerankers as a last stage; BM25's k1 and b are measured where the dataset brings its
    documents, as advice.

    Args:
        write: store it (only when something better than the default was found).
        axes: try settings besides the fusion, too.

    Returns:
        the choice and its evidence, and the query it stands for.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    options = settings = options or TuneOptions()
    if index.plan.chunk is not None:
        # Legs that find chunks can't be added up inside one request.
        options = settings = replace(options, kinds=tuple(kind for kind in options.kinds if kind != "bound"))
    choices: list[AxisChoice] = []
    legs = plan_legs(index, k=size)

    def ask(query: Query, texts: Mapping[str, str]) -> Run:
        return _ask(index, query, texts, max(10, min(size, 50)))[0]

    def costs(variants: Mapping[str, Query]) -> dict[str, float]:
        if not settings.latency_weight:
            return {}
        times = {label: _latency(index, query, dataset, 10) for label, query in variants.items()}
        return {k: settings.latency_weight * t.p50_ms / 100 for k, t in times.items() if t is not None}

    if axes and dataset.queries:
        prune = index.capabilities.kind == "elasticsearch"
        for name in list(legs):
            for axis, variants in leg_variants(index.plan, name, legs[name], prune=prune).items():
                # A later axis of the leg varies what the earlier one chose.
                asked = {label: _like(query, legs[name]) for label, query in variants.items()}
                choice, legs[name] = race(
                    axis, asked, ask, dataset.queries, dataset.qrels, costs=costs(asked), seed=options.seed
                )
                choices.append(choice)
    table, legs = leg_table(index, dataset, size=size, legs=legs)
    if options.latency_weight and not options.latency_ms:
        timed = {name: _latency(index, query, dataset, 20) for name, query in legs.items()}
        options = replace(options, latency_ms={name: t.p50_ms for name, t in timed.items() if t is not None})
    start = _config_of(default_query(index.plan), legs, size)
    tuned = tune(table, default=start, options=options)
    other_legs = any(choice.chosen != choice.default for choice in choices)
    chosen = tuned.config != tuned.default
    query = default_query(index.plan)
    if chosen or (other_legs and start is not None):
        query = fused_query(tuned.config, legs)
        chosen = True
    if axes and index.rerankers:
        stages = rerank_variants(index.plan, query, list(index.rerankers))
        choice, query = race(
            "reranker", stages, ask, dataset.queries, dataset.qrels, costs=costs(stages), seed=options.seed
        )
        choices.append(choice)
        chosen = chosen or choice.chosen != choice.default
    if axes and index.plan.text and dataset.corpus is not None:
        texts = _corpus_texts(index, dataset)
        if texts:
            choices.append(bm25_parameters(index.plan, texts, dataset.queries, dataset.qrels))
    tuned = replace(tuned, axes=tuple(choices))
    if write and chosen:
        _write(index, query, {"tuned": tuned.to_dict()})
    return tuned, query


MAX_BM25_DOCUMENTS = 50_000
"""Beyond this many documents BM25's parameters are not tried in memory."""


def _corpus_texts(index: Index, dataset: Dataset) -> dict[str, str]:
    texts: dict[str, str] = {}
    for document in dataset.documents():
        values = document.source.values()
        text = document_text(index.plan, document.source) or "\n".join(
            v for v in values if isinstance(v, str)
        )
        texts[str(document.id)] = text
        if len(texts) > MAX_BM25_DOCUMENTS:
            return {}
    return texts


def _like(variant: Query, leg: Query) -> Query:
    """What an axis changed, on a leg that an earlier axis changed."""
    if isinstance(variant, Knn) and isinstance(leg, Knn):
        return leg.replace(  # type: ignore[no-any-return]
            num_candidates=variant.num_candidates or leg.num_candidates,
            oversample=variant.oversample or leg.oversample,
        )
    return variant


def _config_of(query: Query, legs: Mapping[str, Query], size: int) -> FusionConfig | None:
    """The default query as a point of the search space, where it is one."""
    names = list(legs)

    def place(parts: Sequence[Query], weights: Sequence[float]) -> tuple[float, ...] | None:
        found = dict.fromkeys(names, 0.0)
        for part, weight in zip(parts, weights, strict=True):
            name = getattr(part, "field", None) if isinstance(part, (Knn, Sparse)) else "bm25"
            if name not in found:
                return None
            found[name] = weight
        return tuple(found.values()) if any(found.values()) else None

    if isinstance(query, Rrf):
        weights = place(query.legs, query.weights or (1.0,) * len(query.legs))
        if weights is not None:
            return FusionConfig(kind="rrf", weights=weights, rank_constant=query.rank_constant, window=size)
    if isinstance(query, Bool) and query.should and not query.must:
        weights = place(query.should, [getattr(part, "boost", 1.0) for part in query.should])
        if weights is not None:
            return FusionConfig(kind="bound", weights=weights, window=size)
    return None


# -- without judgements ----------------------------------------------------------------------------


def index_documents(index: Index, count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """*count* documents drawn at random by the engine, as (id, text)."""
    draw = q.raw(
        {
            kind: {"function_score": {"random_score": {"seed": seed, "field": "_seq_no"}}}
            for kind in ("elasticsearch", "opensearch")
        }
    )
    found: list[tuple[str, str]] = []
    for hit in index.search(draw, size=min(count, 10_000)):
        text = document_text(index.plan, hit.source)
        if text:
            found.append((hit.id, text))
    return found


def know_index(
    index: Index, *, options: TrustOptions | None = None, write: bool = True
) -> tuple[TrustReport, Query | None]:
    """Estimate how far each leg can be trusted, without judgements, and store the default query that
    follows from it. A query that the plan's author or ``tune`` wrote is kept.

    At most ``options.documents`` documents are read back; they, two pieces of a quarter of them for each
    kind of known item, and nothing else are encoded.

    Returns:
        the report, and the query (None when there is nothing to weigh).
    """
    options = options or TrustOptions()
    index.load_statistics()
    encoders: dict[str, Any] = {}
    for name, part in index.plan.vector_fields():
        if part.encoder.partition(":")[0] != "given":
            encoders[name] = index.pool.encoder(name)
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
        _write(index, query, {"trust": report.to_dict(), "summary": evidence(report)})
    return report, query


def _write(index: Index, query: Query | None, why: Mapping[str, Any]) -> None:
    stored = replace(
        index.stored,
        plan=index.plan.replace(query=query),
        rest={**index.stored.rest, "evidence": dict(why)},
    )
    index._store(stored)


def bootstrap_index(index: Index, *, count: int = 200, size: int = 100, seed: int = 0) -> Evaluation:
    """Known items against the live index: words and windows of documents that are in it.

    The documents hold their queries word for word, which favours BM25: what it shows is whether
    documents can be found at all and how the legs agree, not which leg is better (see ``know_index``).
    """
    drawn = sample(index_documents(index, count, seed=seed), count, seed=seed)
    items = known_items(drawn, count=count, kinds=("first", "words", "window"), seed=seed)
    if not items:
        raise EsembedError("no document has the 14 words that a known item needs")
    queries = {f"{item.kind}-{i}": item.query for i, item in enumerate(items)}
    qrels = {f"{item.kind}-{i}": {item.document_id: 1} for i, item in enumerate(items)}
    dataset = Dataset(name="known items", queries=queries, qrels=qrels)
    return evaluate_index(
        index, dataset, measures=("mrr@10", "success@1", "success@10"), size=size, latency_queries=0
    )


def index_evaluation_rows(per_query: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Queries by value, worst first; equal ones in the given order."""
    values = list(per_query.items())
    for i in np.argsort([value for _, value in values], kind="stable"):
        yield values[int(i)]
