"""Recall of a live index's vector searches: what the graph misses and what quantization loses, each by
itself, beside the exact neighbors.

Three lists for each query vector tell them apart: the exact one; the list of a search that looks at as many
candidates as the engine allows, rescored as ever, which the codes alone keep from being exact; and the list
that searches get. Nothing is written to the index.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from esembed import query as q
from esembed.answers import SegmentStats, TermBuckets, part
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.alias import AliasProperties
from esembed.dialect.quantize_vectors import from_bits, quantize
from esembed.errors import OptionsError, QueryError, UnsupportedFeatureError
from esembed.evaluate.datasets import Dataset, load_dataset
from esembed.evaluate.significance import Interval, bootstrap_interval
from esembed.ingest.sources.index import draw_vectors, read_vectors
from esembed.option_checks import SEED, check_numbers
from esembed.plan import DenseField, IndexPlan
from esembed.plan.fields import UNQUANTIZED
from esembed.query import Filter, Query
from esembed.query.nodes import MAX_WINDOW, Knn, Term
from esembed.query.tree import walk
from esembed.transport import Transport
from esembed.types import FloatArray, Hits

__all__ = [
    "RecallOptions",
    "RecallReport",
    "RecallRow",
    "RecallTarget",
    "measure_recall",
    "query_texts",
]

SLACK = 50
"""Exact neighbors that are kept beyond the k-th: documents at the same distance as it are as right."""

SAME = 1e-6
"""Scores that differ by this share are the same: engines sum float32."""

BLOCK_DOCUMENTS = 500
"""Documents whose vectors are compared at once: 4 MB of float64 for 1,024 dims."""

SHARES = (0.5, 0.1, 0.01)
"""The shares of the index that sampled filters come near to, in this order."""

EXHAUSTIVE_BATCH = 8
"""Searches in a request that look at 10,000 candidates each."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallOptions:
    """How recall is measured.

    Attributes:
        k: of how many neighbors.
        sample: how many queries, drawn at random from the documents or from the queries that were given.
        encode: documents are asked for by their texts, encoded as queries, in place of their stored vectors.
        fields: these dense fields; empty is all.
        filter: measured with this filter, too.
        sampled_filters: and with so many filters of values of the plan's keyword fields: those that about a
            half, a tenth and a hundredth of the documents have, at most 3.
        num_candidates: of the measured searches; None takes what the default query's leg says, else the
            engine's default.
        exact: where the exact neighbors come from: ``script`` (the engine compares vector by vector),
            ``scan`` (every stored vector is read once and compared here), or ``auto``: by script where the
            engine has scripts for it.
        seed: of the samples.

    Raises:
        OptionsError: out of range.
    """

    k: int = 10
    sample: int = 200
    encode: bool = False
    fields: tuple[str, ...] = ()
    filter: Filter | None = None
    sampled_filters: int = 0
    num_candidates: int | None = None
    exact: Literal["auto", "script", "scan"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={
                "k": (1, 1000),
                "sample": (1, 10_000),
                "sampled_filters": (0, len(SHARES)),
                "num_candidates": (1, MAX_WINDOW),
                "seed": SEED,
            },
        )
        # One more: a document that is its own query is not counted.
        if self.num_candidates is not None and self.num_candidates <= self.k:
            raise OptionsError(
                f"must be more than k ({self.k}), not {self.num_candidates}", option="num_candidates"
            )
        if self.exact not in ("auto", "script", "scan"):
            raise OptionsError(f"auto, script or scan, not {self.exact!r}", option="exact")
        if isinstance(self.fields, str):
            raise OptionsError("a tuple of names, not one text", option="fields")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRow:
    """One dense field, with or without a filter.

    Attributes:
        field: the field.
        filter: the filter in words; empty without.
        matching: documents that match it.
        queries: query vectors that have a neighbor.
        recall: of the searches as they are served: the mean share of the k exact neighbors that they find.
        exhaustive: of searches that look at as many candidates as the engine allows; what is missing there is
            lost by quantization.
        codes: the same without rescoring; None where nothing is quantized.
    """

    field: str
    filter: str
    matching: int
    queries: int
    recall: Interval
    exhaustive: Interval
    codes: Interval | None

    @property
    def quantization_loss(self) -> float:
        """What the codes lose, after rescoring."""
        return 1.0 - self.exhaustive.mean

    @property
    def graph_loss(self) -> float:
        """What the graph misses beyond that. Below 0 where it is luck."""
        return self.exhaustive.mean - self.recall.mean

    @property
    def name(self) -> str:
        """The field, and the filter where there is one."""
        return f"{self.field}, {self.filter}" if self.filter else self.field

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def shown(one: Interval) -> dict[str, float]:
            return {"mean": one.mean, "low": one.low, "high": one.high}

        return {
            "field": self.field,
            "filter": self.filter,
            "matching": self.matching,
            "queries": self.queries,
            "recall": shown(self.recall),
            "exhaustive": shown(self.exhaustive),
            "codes": None if self.codes is None else shown(self.codes),
            "quantization_loss": self.quantization_loss,
            "graph_loss": self.graph_loss,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallReport:
    """What was measured, and the index's state at that time.

    Attributes:
        index, concrete_index, uuid: the name that was asked for, the index behind it, its UUID.
        engine: and its version.
        at: when, ISO 8601 in UTC.
        k: of how many neighbors.
        asked: where the queries come from.
        exact: where the exact neighbors come from: ``script`` or ``scan``.
        documents: that a search can find.
        deleted, segments: deleted documents that no merge has dropped yet, and segments, of all primary
            shards; None where the key may not ask.
        rows: fields and filters.
        notes: what to know of them, one line each.
    """

    index: str
    concrete_index: str
    uuid: str
    engine: str
    at: str
    k: int
    asked: str
    exact: str
    documents: int
    deleted: int | None
    segments: int | None
    rows: tuple[RecallRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> RecallRow:
        """The row with the lowest recall."""
        return min(self.rows, key=lambda row: row.recall.mean)

    def below(self, min_recall: float) -> tuple[RecallRow, ...]:
        """The rows whose mean is lower."""
        return tuple(row for row in self.rows if row.recall.mean < min_recall)

    @property
    def conclusion(self) -> str:
        """One sentence."""
        row = self.worst
        at_worst = "at worst " if len(self.rows) > 1 else ""
        graph, codes = max(0.0, row.graph_loss), max(0.0, row.quantization_loss)
        return (
            f"recall@{self.k} is {at_worst}{row.recall.mean:.3f} "
            f"({row.recall.low:.3f}–{row.recall.high:.3f}) in {row.name}: the graph loses {graph:.3f}, "
            f"quantization {codes:.3f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "index": self.index,
            "concrete_index": self.concrete_index,
            "uuid": self.uuid,
            "engine": self.engine,
            "at": self.at,
            "k": self.k,
            "asked": self.asked,
            "exact": self.exact,
            "documents": self.documents,
            "deleted": self.deleted,
            "segments": self.segments,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }


class RecallTarget(Protocol):
    """What the measurement asks of an index. ``IndexTarget`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def concrete_index(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def plan(self) -> IndexPlan: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def alias(self) -> AliasProperties: ...
    @property
    def client(self) -> Transport: ...
    def search(self, query: Query, **options: Any) -> Hits:
        """As ``Index.search``."""
        ...

    def search_many(self, queries: Sequence[Query], **options: Any) -> Sequence[Hits]:
        """As ``Index.search_many``."""
        ...

    def clause(self, filter: Filter) -> Mapping[str, Any]:
        """A filter in the engine's own JSON."""
        ...

    def encode_queries(self, field: str, texts: Sequence[str]) -> list[Sequence[float]]:
        """The vectors of texts as queries; empty for one that says nothing."""
        ...

    def count(self, clause: Mapping[str, Any] | None = None) -> int:
        """Documents that a search can find, and that match."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query vector, and the document that it is (not counted among its own neighbors)."""

    vector: tuple[float, ...]
    document: str | None = None


@dataclass(frozen=True, slots=True)
class _Filtered:
    """A filter in words, as a query and in the engine's own JSON; all documents without."""

    words: str = ""
    filter: Filter | None = None
    clause: Mapping[str, Any] | None = None
    matching: int = 0


def measure_recall(
    target: RecallTarget,
    options: RecallOptions | None = None,
    *,
    queries: Sequence[str] | None = None,
    asked: str = "",
    progress: Callable[[str], None] | None = None,
) -> RecallReport:
    """Recall@k of every dense field against exact search.

    Args:
        queries: texts that are asked; None asks for documents of the index, drawn at random.
        asked: what *queries* are, for the report.
        progress: told what is being done, one line each.

    Raises:
        OptionsError, QueryError: no such field, a filter that can't be, nothing to ask with.
        UnsupportedFeatureError: stored vectors are needed and the index keeps them nowhere to be read from.
        EncoderError, ContractError: texts can't be encoded for this index.
    """
    options = options or RecallOptions()
    tell = progress or (lambda _: None)
    plan, capabilities = target.plan, target.capabilities
    names = _fields(plan, options.fields)
    by_script = dialect_for(capabilities).query.scores_vectors_exactly(capabilities)
    if options.exact == "script" and not by_script:
        raise OptionsError("this engine has no scripts that compare vectors; take scan", option="exact")
    exact = "script" if options.exact != "scan" and by_script else "scan"
    filters = _filters(target, options, names, exact)
    notes: list[str] = []
    rows: list[RecallRow] = []
    for name in names:
        spec = plan.dense[name]
        if queries is None:
            tell(f"{name}: drawing {options.sample} documents")
            ready = _from_documents(target, name, options)
        else:
            texts = _drawn(list(dict.fromkeys(queries)), options)
            ready = [_Asked(tuple(v)) for v in target.encode_queries(name, texts) if len(v)]
        if not ready:
            notes.append(f"{name}: no document has a vector, or no query says anything; nothing was measured")
            continue
        tell(f"{name}: exact neighbors of {len(ready)} queries, by {exact}")
        find = _by_script if exact == "script" else _by_scan
        for filtered, truth in zip(filters, find(target, name, ready, filters, options), strict=True):
            tell(f"{_name(name, filtered)}: searching")
            row = _row(target, name, ready, filtered, truth, options)
            if row is None:
                notes.append(f"{_name(name, filtered)}: no query has a neighbor there")
            else:
                rows.append(row)
        if spec.element_type in ("byte", "bit"):
            notes.append(
                f"{name}: the index keeps {spec.element_type} vectors alone, which the neighbors are exact "
                "for; esembed advise measures what they lose of the encoder's floats"
            )
    if not rows:
        raise QueryError(f"nothing to measure: {'; '.join(notes)}")
    documents = target.count()
    largest = max(row.matching for row in rows)
    if largest > MAX_WINDOW:
        notes.append(
            f"an exhaustive search looks at {MAX_WINDOW:,} candidates on each shard, not at all "
            f"{largest:,} documents; what it misses beyond them counts as lost by quantization"
        )
    deleted, segments = _segments(target)
    return RecallReport(
        index=target.name,
        concrete_index=target.concrete_index,
        uuid=target.uuid,
        engine=f"{capabilities.engine} {capabilities.version}",
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        k=options.k,
        asked=(asked or "queries") if queries is not None else _what_is_asked(options),
        exact=exact,
        documents=documents,
        deleted=deleted,
        segments=segments,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def query_texts(queries: Dataset | Sequence[str] | str | None) -> tuple[list[str] | None, str]:
    """The texts of queries and what they are called; (None, "") where there are none to be asked.

    Args:
        queries: a dataset or what :func:`load_dataset` takes, or texts.

    Raises:
        DatasetError: nothing readable there.
        OptionsError: no texts.
    """
    if queries is None:
        return None, ""
    if isinstance(queries, str):
        queries = load_dataset(queries)
    if isinstance(queries, Dataset):
        name, texts = queries.name, [*queries.queries.values(), *queries.unjudged.values()]
    else:
        name, texts = "queries", list(queries)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise OptionsError("texts, at least one, none of them blank", option="queries")
    return texts, name


def _what_is_asked(options: RecallOptions) -> str:
    return "texts of documents" if options.encode else "vectors of documents"


def _name(field: str, filtered: _Filtered) -> str:
    """For progress and notes."""
    return f"{field}, {filtered.words}" if filtered.words else field


def _fields(plan: IndexPlan, wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in plan.dense:
            there = ", ".join(plan.dense) or "none"
            raise OptionsError(f"no dense field {name!r} in the plan; it has {there}", option="fields")
    found = list(dict.fromkeys(wanted)) or list(plan.dense)
    if not found:
        raise OptionsError("the plan has no dense field, and recall is of those", option="fields")
    return found


# -- what is asked ---------------------------------------------------------------------------------------


def _drawn(texts: list[str], options: RecallOptions) -> list[str]:
    if len(texts) <= options.sample:
        return texts
    chosen = np.random.default_rng(options.seed).choice(len(texts), options.sample, replace=False)
    return [texts[i] for i in sorted(chosen.tolist())]


def _from_documents(target: RecallTarget, name: str, options: RecallOptions) -> list[_Asked]:
    """Documents drawn at random, each by one of its vectors or texts."""
    drawn = draw_vectors(
        target.client,
        target.concrete_index,
        target.plan,
        target.capabilities,
        name,
        options.sample,
        alias=target.alias,
        texts=options.encode,
        seed=options.seed,
        what=f"recall of {name!r} with documents as queries (ask texts instead, by queries)",
    )
    if not options.encode:
        whole = target.plan.dense[name].element_type in ("byte", "bit")
        numbers = [(ident, vector.astype(np.int64) if whole else vector) for ident, vector, _ in drawn]
        return [_Asked(tuple(vector.tolist()), ident) for ident, vector in numbers]
    texts = [(ident, text) for ident, _, text in drawn if text]
    vectors = target.encode_queries(name, [text for _, text in texts])
    return [
        _Asked(tuple(vector), ident) for (ident, _), vector in zip(texts, vectors, strict=True) if len(vector)
    ]


def _filters(
    target: RecallTarget, options: RecallOptions, names: Sequence[str], exact: str
) -> list[_Filtered]:
    """Without a filter first, then the given one, then sampled ones."""
    wanted: list[tuple[str, Filter]] = []
    if options.filter is not None:
        wanted.append((_words(options.filter), options.filter))
    wanted += _sampled(target, options.sampled_filters)
    chunk = target.plan.chunk
    if wanted and exact == "scan" and chunk is not None and any(target.plan.dense[n].chunked for n in names):
        below = f"{chunk.path}."
        fields = [str(getattr(node, "field", "")) for _, one in wanted for node in walk(one)]
        if chunk.store == "documents" or any(field.startswith(below) for field in fields):
            raise UnsupportedFeatureError(
                [
                    "a scan can't tell which chunks a filter leaves; measure without a filter, or on an "
                    "engine with scripts"
                ],
                profile=target.capabilities.label,
            )
    found = [_Filtered(matching=target.count())]
    for words, one in wanted:
        clause = target.clause(one)
        found.append(_Filtered(words=words, filter=one, clause=clause, matching=target.count(clause)))
    return found


def _words(filter: Filter) -> str:
    if isinstance(filter, Term):
        return f"{filter.field}={filter.value}"
    text = repr(filter)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _sampled(target: RecallTarget, count: int) -> list[tuple[str, Filter]]:
    """Values of the plan's keyword fields that about a half, a tenth, a hundredth of the documents have."""
    names = [name for name, one in target.plan.filter.items() if one.type in ("keyword", "boolean")]
    if not count or not names:
        return []
    terms = {name: {"terms": {"field": name, "size": 200}} for name in names}
    hits = target.search(q.match_all(), size=0, aggregations=terms)
    total = max(1, target.count())
    shares: dict[tuple[str, Any], float] = {}
    for name in names:
        for bucket in part(TermBuckets, hits.aggregations.get(name), "a terms aggregation").buckets:
            # A boolean's key is a number, and its value stands beside it.
            value = bucket.key if bucket.key_as_string is None else bucket.key_as_string == "true"
            shares[name, value] = bucket.doc_count / total
    found: list[tuple[str, Filter]] = []
    for share in SHARES[:count]:
        near = min(
            (one for one in shares if 0 < shares[one] < 1),
            key=lambda one: (abs(math.log(shares[one] / share)), one[0], str(one[1])),
            default=None,
        )
        if near is None:
            break
        del shares[near]
        found.append((f"{near[0]}={near[1]}", q.term(*near)))
    return found


# -- exact neighbors -------------------------------------------------------------------------------------

Neighbors = list[tuple[str, float]]
"""Ids with scores, best first."""


def _by_script(
    target: RecallTarget,
    name: str,
    asked: Sequence[_Asked],
    filters: Sequence[_Filtered],
    options: RecallOptions,
) -> Iterator[list[Neighbors]]:
    """For each filter the exact neighbors of each query, compared by the engine."""
    size = min(MAX_WINDOW, options.k + 1 + SLACK)
    for one in filters:
        queries = [q.knn(name, vector=each.vector, k=size, exact=True) for each in asked]
        answers = target.search_many(queries, filter=one.filter, size=size, source=False)
        yield [[(hit.id, hit.score) for hit in hits] for hits in answers]


def _by_scan(
    target: RecallTarget,
    name: str,
    asked: Sequence[_Asked],
    filters: Sequence[_Filtered],
    options: RecallOptions,
) -> Iterator[list[Neighbors]]:
    """The same, of vectors that are read once, block by block, and compared here."""
    spec = target.plan.dense[name]
    compare = _Comparison(spec, [each.vector for each in asked])
    nearest = [_Nearest(len(asked), options.k + 1 + SLACK) for _ in filters]
    clauses = {str(number): one.clause for number, one in enumerate(filters) if one.clause is not None}
    block: list[tuple[str, list[FloatArray], frozenset[str]]] = []

    def take() -> None:
        ids = [ident for ident, vectors, _ in block for _ in vectors]
        scores = compare(np.array([vector for _, vectors, _ in block for vector in vectors]))
        for number, kept in enumerate(nearest):
            chosen = [
                str(number) not in clauses or str(number) in matched
                for _, vectors, matched in block
                for _ in vectors
            ]
            kept.add(ids, scores, np.array(chosen))
        block.clear()

    for found in read_vectors(
        target.client,
        target.concrete_index,
        target.plan,
        target.capabilities,
        name,
        alias=target.alias,
        clauses=clauses,
        what=f"the exact neighbors in {name!r}",
    ):
        if found[1]:
            block.append(found)
        if len(block) >= BLOCK_DOCUMENTS:
            take()
    if block:
        take()
    for kept in nearest:
        yield kept.lists()


class _Comparison:
    """Scores of stored vectors for all queries, larger is nearer: float64, shape (queries, vectors).

    Args:
        spec: the field.
        queries: as searches take them.
    """

    def __init__(self, spec: DenseField, queries: Sequence[Sequence[float]]) -> None:
        self._spec = spec
        self._queries = self._rows([quantized(spec, query) for query in queries])

    def _rows(self, vectors: Any) -> Floats:
        rows = np.asarray(vectors)
        if self._spec.element_type == "bit":
            # ±1 for each bit: the dot product falls as the Hamming distance grows.
            return from_bits(rows).astype(np.float64)
        rows = rows.astype(np.float64)
        if self._spec.similarity == "cosine":
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.where(lengths > 0, lengths, 1)
        return rows

    def __call__(self, vectors: FloatArray) -> Floats:
        rows = self._rows(vectors)
        dots: Floats = self._queries @ rows.T
        if self._spec.similarity != "l2_norm" or self._spec.element_type == "bit":
            return dots
        squares: Floats = (self._queries**2).sum(1)[:, None] + (rows**2).sum(1)[None, :] - 2 * dots
        return -squares


def quantized(spec: DenseField, vector: Sequence[float]) -> Any:
    """A query's vector as the engine compares it."""
    if spec.element_type in ("byte", "bit"):
        return quantize(spec, np.asarray(vector, np.float32))
    return np.asarray(vector, np.float32)


class _Nearest:
    """The best *size* documents of each query so far.

    A document that comes several times (by its chunks) counts by its best score, however far apart they come:
    one that isn't kept was worse than *size* others, and those only get better.
    """

    def __init__(self, queries: int, size: int) -> None:
        self._size = size
        self._kept: list[dict[str, float]] = [{} for _ in range(queries)]
        self._floors = np.full(queries, -np.inf)

    def add(self, ids: Sequence[str], scores: Floats, chosen: npt.NDArray[np.bool_]) -> None:
        """Documents of one block: *scores* of shape (queries, ids); only those that are *chosen*."""
        better = (scores > self._floors[:, None]) & chosen
        for row in np.flatnonzero(better.any(axis=1)).tolist():
            kept = self._kept[row]
            for column in np.flatnonzero(better[row]).tolist():
                score = float(scores[row, column])
                if score > kept.get(ids[column], -math.inf):
                    kept[ids[column]] = score
            if len(kept) > self._size:
                best = sorted(kept.items(), key=lambda one: -one[1])[: self._size]
                self._kept[row] = dict(best)
                self._floors[row] = best[-1][1]

    def lists(self) -> list[Neighbors]:
        """For each query, best first."""
        return [sorted(kept.items(), key=lambda one: -one[1]) for kept in self._kept]


# -- what searches find ----------------------------------------------------------------------------------


def _row(
    target: RecallTarget,
    name: str,
    asked: Sequence[_Asked],
    filtered: _Filtered,
    truth: Sequence[Neighbors],
    options: RecallOptions,
) -> RecallRow | None:
    right = [_right(near, one.document, options.k) for near, one in zip(truth, asked, strict=True)]
    if not any(count for _, count in right):
        return None
    served = _served(target.plan, name, options)
    far = served.replace(num_candidates=MAX_WINDOW)
    quantization = target.plan.dense[name].quantization

    def shares(query: Knn, batch_size: int) -> Interval:
        queries = [query.replace(vector=one.vector) for one in asked]
        answers = target.search_many(
            queries, filter=filtered.filter, size=options.k + 1, source=False, batch_size=batch_size
        )
        values = []
        for one, hits, (near, count) in zip(asked, answers, right, strict=True):
            found = [hit.id for hit in hits if hit.id != one.document][: options.k]
            if count:
                values.append(min(count, len(near.intersection(found))) / count)
        return bootstrap_interval(values, seed=options.seed)

    return RecallRow(
        field=name,
        filter=filtered.words,
        matching=filtered.matching,
        queries=sum(count > 0 for _, count in right),
        recall=shares(served, 32),
        exhaustive=shares(far, EXHAUSTIVE_BATCH),
        codes=None if quantization in UNQUANTIZED else shares(far.replace(oversample=0), EXHAUSTIVE_BATCH),
    )


def _right(near: Neighbors, document: str | None, k: int) -> tuple[frozenset[str], int]:
    """The documents that are right among the first k, and how many can be: those as near as the k-th one
    are as right as it."""
    others = [one for one in near if one[0] != document]
    if not others:
        return frozenset(), 0
    last = others[min(k, len(others)) - 1][1]
    least = last - SAME * max(abs(last), 1e-9)
    return frozenset(ident for ident, score in others if score >= least), min(k, len(others))


def _served(plan: IndexPlan, name: str, options: RecallOptions) -> Knn:
    """The search that is measured: as the default query's leg of the field, k being that of the options."""
    legs = () if plan.query is None else walk(plan.query)
    leg = next((one for one in legs if isinstance(one, Knn) and one.field == name), None)
    k = options.k + 1
    candidates = options.num_candidates
    if candidates is None and leg is not None and leg.num_candidates is not None:
        candidates = max(leg.num_candidates, k)
    return Knn(field=name, k=k, num_candidates=candidates, oversample=None if leg is None else leg.oversample)


def _segments(target: RecallTarget) -> tuple[int | None, int | None]:
    """Deleted documents and segments of the primary shards, where these credentials may ask."""
    path = "/" + ",".join(quote(one, safe="") for one in target.concrete_index.split(",")) + "/_stats"
    answer = target.client.request("GET", path, ignore=(400, 401, 403, 404, 405, 410))
    if answer.status != 200:
        return None, None
    found = part(SegmentStats, answer.body, f"GET {path}").all.primaries
    return found.docs.deleted, found.segments.count
