"""Hard negatives out of the live index: what its searches find for a query and nobody judged relevant.

Options, columns and rules are those of sentence-transformers' ``mine_hard_negatives``, which searches texts
in memory by one dense model; here any leg searches, or the whole default query, with filters.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import orjson

from esembed import query as q
from esembed.errors import OptionsError
from esembed.option_checks import check_numbers
from esembed.plan.default_query import default_legs
from esembed.plan.legs import query_legs
from esembed.query import Filter, Query
from esembed.query.nodes import MAX_WINDOW, Knn, Stage, filter_of
from esembed.query.tree import add_filter, resolve_text
from esembed.search.options import Reranker
from esembed.train.extra import need
from esembed.train.splits import near_equal
from esembed.train.texts import DocumentText, document_text

if TYPE_CHECKING:
    from datasets import Dataset as Rows

    from esembed import Index
    from esembed.evaluate.collection import Dataset

__all__ = ["MiningOptions", "MiningReport", "false_share", "mine_negatives"]

Format = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]

_LEAST_POSITIVES = 30
"""With fewer known positives among the hits, no share of false negatives is estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningOptions:
    """Which hits become negatives; by the names that sentence-transformers gives them.

    Attributes:
        range_min: so many of the best hits that are left are skipped.
        range_max: hits beyond this rank are no candidates; None is enough for *num_negatives*, ten times as
            many where a score or a margin decides.
        max_score, min_score: candidates that score higher or lower are left out.
        absolute_margin: candidates must score less than the query's weakest positive by at least this.
        relative_margin: by at least this share of the positive's score (.05 is NV-Retriever's).
        num_negatives: for each query.
        sampling_strategy: the ``top`` ones, or ``random`` ones of the range.
        output_format: ``triplet``, ``n-tuple`` (queries with fewer negatives are left out),
            ``labeled-pair`` or ``labeled-list``.
        output_scores: the scores as ``scores``, or ``score`` of a pair, beside or in place of labels.
        seed: of the random ones.
        batch_size: queries in one request.

    Raises:
        OptionsError: out of range.
    """

    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    num_negatives: int = 3
    sampling_strategy: Literal["top", "random"] = "top"
    output_format: Format = "triplet"
    output_scores: bool = False
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_numbers(
            self, whole={"range_min": (0, None), "num_negatives": (1, None), "batch_size": (1, None)}
        )
        if self.sampling_strategy not in ("top", "random"):
            raise OptionsError(f"top or random, not {self.sampling_strategy!r}", option="sampling_strategy")
        if self.output_format not in get_args(Format):
            raise OptionsError(
                f"one of {', '.join(get_args(Format))}, not {self.output_format!r}", option="output_format"
            )
        if self.range_max is not None and self.num_negatives > self.range_max - self.range_min:
            raise OptionsError(
                f"{self.num_negatives} negatives don't fit between range_min {self.range_min} and range_max "
                f"{self.range_max}",
                option="range_max",
            )

    def last_rank(self, positives: int) -> int:
        """*range_max*, or what takes its place where a query has at most so many positives."""
        if self.range_max is not None:
            return self.range_max
        wide = any(
            value is not None
            for value in (self.absolute_margin, self.relative_margin, self.max_score, self.min_score)
        )
        return self.range_min + self.num_negatives * (10 if wide else 1) + positives


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningReport:
    """What was found for the queries, and what was left out.

    Attributes:
        queries, positives: different ones.
        candidates: hits that are no known positives.
        left_out: reason → how many candidates, or queries.
        negatives: mined, each counted once for each query.
        missing: how many more were wanted.
        positives_not_found: known positives that the search didn't list, and that have no score therefore.
        positive_score, negative_score: their means, or None.
        false_share: at most this share of the mined are relevant documents that nobody judged, if those rank
            as the judged ones do; None with too few to tell (:func:`false_share`).
        cached: requests that were answered from the folder.
    """

    queries: int
    positives: int
    candidates: int
    left_out: Mapping[str, int]
    negatives: int
    missing: int
    positives_not_found: int
    positive_score: float | None
    negative_score: float | None
    false_share: float | None
    cached: int = 0

    @property
    def text(self) -> str:
        """Lines for a person."""
        out = "; ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        lines = [
            f"{self.negatives:,} negatives for {self.queries:,} queries with {self.positives:,} positives, "
            f"of {self.candidates:,} candidates" + (f"; left out: {out}" if out else "")
        ]
        if self.missing:
            lines.append(
                f"{self.missing:,} fewer than wanted: a larger range_max or smaller margins find more"
            )
        if self.positive_score is not None and self.negative_score is not None:
            lines.append(
                f"mean score {self.positive_score:.4f} of positives, {self.negative_score:.4f} of negatives"
            )
        if self.positives_not_found:
            lines.append(f"{self.positives_not_found:,} positives were not among the hits")
        if self.false_share is not None:
            lines.append(
                f"at most {self.false_share:.1%} of the negatives are answers that nobody judged, if those "
                "rank as the judged ones do"
            )
        return "\n".join(lines)


@dataclass(slots=True)
class _Mined:
    """One query: its positives, and its candidates by falling score.

    Attributes:
        positives: texts, in the order of the rows; *scores* has NaN where one has none.
        ranks: of the positives among the hits, from 0.
        candidates: (text, score, rank among the hits).
    """

    text: str
    positives: list[str]
    scores: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    candidates: list[tuple[str, float, int]] = field(default_factory=list)
    chosen: list[tuple[str, float, int]] = field(default_factory=list)


def mine_negatives(
    index: Index,
    rows: Rows,
    options: MiningOptions | None = None,
    *,
    query: Query | None = None,
    legs: Collection[str] | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    field: str | None = None,
    cross_encoder: Reranker | None = None,
    judged: Dataset | None = None,
    held_out: Dataset | None = None,
    cache_folder: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Rows, MiningReport]:
    """Pairs of a query and its answer, with what the index finds for the query and is no answer.

    Scores: the cosine, where one dense leg of cosine or dot_product similarity searches; else what hits show.
    Positives are scored by a search of their own where one leg searches. A fusion's scores hold for its list
    only: there, a positive that isn't listed counts as the last hit.

    Args:
        index: what is searched.
        rows: the first column holds queries, the second their answers, as texts; queries that are equal have
            several. With ``positive_id`` answers are known by their ids, too.
        options: see :class:`MiningOptions`.
        query: what is asked, its text left out; None is the default query.
        legs: only these legs of it.
        filter: only documents that match.
        field: the documents' text; see :func:`~esembed.train.texts.document_text`. Take the one that the rows
            were made with.
        cross_encoder: scores candidates and positives anew, and decides their order; any reranker.
        judged: further judgments: documents with a grade above 0 for a query of the same text are no
            candidates.
        held_out: queries that are nearly one of these are left out: tests never enter mining.
        cache_folder: keeps what the engine answered, so that a run that was interrupted, or that is made
            again with other margins, asks only what is new. What was asked of an index that has changed since
            is asked again.
        progress: told how far it is.

    Returns:
        the columns of sentence-transformers' ``mine_hard_negatives``, and the report.

    Raises:
        OptionsError: *rows* without two columns of texts, a window that no search has.
        AuthorizationError: with *cache_folder*, a key that may not refresh the index.
    """
    chosen = options or MiningOptions()
    anchor, positive = _columns(rows)
    left_out: Counter[str] = Counter()
    known_ids: dict[str, set[str]] = {}
    mined = _grouped(rows, anchor, positive, known_ids)
    if held_out is not None:
        near = {text for text, _ in near_equal({text: text for text in mined}, held_out.queries)}
        left_out["queries nearly equal to one that is held out"] += len(near)
        mined = {text: one for text, one in mined.items() if text not in near}
    if not mined:
        raise OptionsError("no query is left to mine for", option="rows")
    for text, ids in _judged_ids(judged).items():
        if text in mined:
            known_ids.setdefault(text, set()).update(ids)
    base = default_legs(index.plan, legs) if query is None else query
    if query is not None and legs is not None:
        raise OptionsError("legs chooses of the default query; leave it out beside query", option="legs")
    make = document_text(index.plan, field)
    last = chosen.last_rank(max(len(one.positives) for one in mined.values()))
    # Room for the positives, which take places of the list.
    depth = last + max(len(known_ids.get(text, one.positives)) for text, one in mined.items())
    if depth > MAX_WINDOW:
        raise OptionsError(
            f"{depth:,} hits are more than a search gives ({MAX_WINDOW:,})", option="range_max"
        )
    search = _Search(index, base, filter_of(filter), make, depth, cache_folder)
    for start in range(0, len(mined), chosen.batch_size):
        batch = list(mined.values())[start : start + chosen.batch_size]
        for one, hits in zip(batch, search.hits([one.text for one in batch], chosen.batch_size), strict=True):
            _take(one, hits, known_ids.get(one.text, set()), left_out)
        search.score_positives(batch, known_ids)
        if cross_encoder is not None:
            for one in batch:
                _rescore(one, cross_encoder)
        if progress is not None:
            progress(f"{min(start + len(batch), len(mined)):,} of {len(mined):,} queries searched")
    candidates = sum(len(one.candidates) for one in mined.values())
    random = Random(chosen.seed)
    for one in mined.values():
        one.chosen = _choose(one, chosen, last, random, left_out)
    made = need("datasets").Dataset.from_dict(_formatted(mined.values(), chosen, anchor, positive))
    return made, _report(mined.values(), candidates, left_out, chosen, search.cached)


# -- the rows that came ----------------------------------------------------------------------------


def _columns(rows: Rows) -> tuple[str, str]:
    names = list(rows.column_names)
    if len(names) < 2 or not len(rows) or not all(isinstance(rows[0][name], str) for name in names[:2]):
        raise OptionsError(
            f"the first two columns must hold texts, queries and their answers; there are {', '.join(names)} "
            f"in {len(rows)} rows",
            option="rows",
        )
    return names[0], names[1]


def _grouped(rows: Rows, anchor: str, positive: str, known: dict[str, set[str]]) -> dict[str, _Mined]:
    found: dict[str, _Mined] = {}
    for row in rows:
        one = found.setdefault(row[anchor], _Mined(row[anchor], []))
        if row[positive] not in one.positives:
            one.positives.append(row[positive])
        if row.get("positive_id") is not None:
            known.setdefault(row[anchor], set()).add(str(row["positive_id"]))
    return found


def _judged_ids(judged: Dataset | None) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, text in () if judged is None else judged.queries.items():
        ids = {document for document, grade in judged.qrels[name].items() if grade > 0}  # type: ignore[union-attr]
        found.setdefault(text, set()).update(ids)
    return found


# -- the searches ----------------------------------------------------------------------------------

_HitRow = tuple[str, float, str]
"""Id, score, text."""


class _Search:
    """The query of one mining: its lists, its scores for positives, its answers on disk."""

    def __init__(
        self,
        index: Index,
        base: Query,
        filter: Filter | None,
        make: DocumentText,
        depth: int,
        cache_folder: str | Path | None,
    ) -> None:
        self._index, self._make, self._depth = index, make, depth
        self._base = add_filter(base, filter)
        self._fused = isinstance(base, Stage) or query_legs(base) != (base,)
        self._similarity = _is_similarity(index, base)
        self._folder = None if cache_folder is None else Path(cache_folder)
        self.cached = 0
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._state = _state(index)

    def hits(self, texts: Sequence[str], batch_size: int) -> list[list[_HitRow]]:
        """The list of each query, best first."""
        return self._asked([resolve_text(self._base, text) for text in texts], self._depth, batch_size)

    def score_positives(self, batch: Sequence[_Mined], known: Mapping[str, set[str]]) -> None:
        """Fill in the positives' scores."""
        if self._fused:
            for one in batch:
                lowest = min((score for _, score, _ in one.candidates), default=float("nan"))
                one.scores = [lowest if score != score else score for score in one.scores]
            return
        missing = [one for one in batch if any(score != score for score in one.scores)]
        asked = [one for one in missing if known.get(one.text)]
        queries = [
            add_filter(resolve_text(self._base, one.text), q.ids(*sorted(known[one.text]))) for one in asked
        ]
        size = max((len(known[one.text]) for one in asked), default=1)
        for one, hits in zip(asked, self._asked(queries, size, len(queries) or 1), strict=True):
            by_text = {text: score for _, score, text in hits}
            one.scores = [
                by_text.get(text, float("nan")) if score != score else score
                for text, score in zip(one.positives, one.scores, strict=True)
            ]

    def _asked(self, queries: Sequence[Query], size: int, batch_size: int) -> list[list[_HitRow]]:
        if not queries:
            return []
        path = self._path(queries, size)
        if path is not None and path.is_file():
            self.cached += 1
            return [
                [(str(i), float(s), str(t)) for i, s, t in one] for one in orjson.loads(path.read_bytes())
            ]
        answers = self._index.search_many(
            queries, size=size, source=list(self._make.sources), batch_size=batch_size
        )
        found = [
            [(hit.id, self._scaled(hit.score), self._make(hit.source)) for hit in hits] for hits in answers
        ]
        if path is not None:
            part = path.with_suffix(".part")
            part.write_bytes(orjson.dumps(found))
            part.replace(path)
        return found

    def _scaled(self, score: float) -> float:
        return 2.0 * score - 1.0 if self._similarity else score

    def _path(self, queries: Sequence[Query], size: int) -> Path | None:
        if self._folder is None:
            return None
        asked = [
            self._state,
            [query.to_dict() for query in queries],
            size,
            self._make.sources,
            self._make.name,
        ]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        return self._folder / f"hits-{digest[:32]}.json"


def _is_similarity(index: Index, base: Query) -> bool:
    """Whether hits score (1 + cosine)/2, so that the cosine itself can be told."""
    if not isinstance(base, Knn) or base.boost != 1.0 or base.field not in index.plan.dense:
        return False
    return index.plan.dense[base.field].similarity in ("cosine", "dot_product")


def _state(index: Index) -> list[Any]:
    """What changes whenever a document does."""
    from esembed._sync.term_statistics import counted_state

    seen = counted_state(index.client, index.concrete_index)
    return [index.uuid, seen.documents, seen.sequence_sum, seen.sequence_last, seen.operations]


def _take(one: _Mined, hits: Iterable[_HitRow], known: set[str], left_out: Counter[str]) -> None:
    """Part the hits into known positives, whose scores are taken, and candidates."""
    places = {text: place for place, text in enumerate(one.positives)}
    one.scores = [float("nan")] * len(one.positives)
    seen: set[str] = set()
    for rank, (identifier, score, text) in enumerate(hits):
        if text in places:
            place = places[text]
            if one.scores[place] != one.scores[place]:
                one.scores[place] = score
                one.ranks.append(rank)
        elif identifier in known:
            one.ranks.append(rank)
        elif not text:
            left_out["candidates without text"] += 1
        elif text in seen:
            left_out["candidates with the text of another"] += 1
        else:
            seen.add(text)
            one.candidates.append((text, score, rank))


def _rescore(one: _Mined, cross_encoder: Reranker) -> None:
    """The other model's scores, order and ranks."""
    texts = [*one.positives, *(text for text, _, _ in one.candidates)]
    scores = [float(score) for score in cross_encoder(one.text, texts)]
    count = len(one.positives)
    one.scores = scores[:count]
    ordered = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    one.ranks = [rank for rank, place in enumerate(ordered) if place < count]
    one.candidates = [
        (texts[place], scores[place], rank) for rank, place in enumerate(ordered) if place >= count
    ]


# -- which of them ---------------------------------------------------------------------------------


def _choose(
    one: _Mined, options: MiningOptions, last: int, random: Random, left_out: Counter[str]
) -> list[tuple[str, float, int]]:
    kept = one.candidates
    bound = min(one.scores)  # the weakest, to be on the safe side; NaN where one has no score

    def keep(reason: str, passes: Callable[[float], bool]) -> None:
        nonlocal kept
        after = [candidate for candidate in kept if passes(candidate[1])]
        left_out[f"candidates by {reason}"] += len(kept) - len(after)
        kept = after

    if options.absolute_margin is not None or options.relative_margin is not None:
        scored = [score for score in one.scores if score == score]
        if not scored:
            left_out["queries whose positives have no score to keep a margin from"] += 1
            return []
        bound = min(scored)
    if (margin := options.absolute_margin) is not None:
        keep("absolute_margin", lambda score: score + margin <= bound)
    if (share := options.relative_margin) is not None:
        keep("relative_margin", lambda score: score <= bound - abs(bound) * share)
    if (most := options.max_score) is not None:
        keep("max_score", lambda score: score <= most)
    if (least := options.min_score) is not None:
        keep("min_score", lambda score: score >= least)
    kept = kept[options.range_min : last]
    if options.sampling_strategy == "top" or len(kept) <= options.num_negatives:
        return kept[: options.num_negatives]
    places = sorted(random.sample(range(len(kept)), options.num_negatives))
    return [kept[place] for place in places]


def _formatted(
    mined: Iterable[_Mined], options: MiningOptions, anchor: str, positive: str
) -> dict[str, list[Any]]:
    """The columns, as ``mine_hard_negatives`` has them."""
    count, scored = options.num_negatives, options.output_scores
    made: dict[str, list[Any]] = {anchor: [], positive: []}
    if options.output_format == "triplet":
        made["negative"] = []
    elif options.output_format == "n-tuple":
        made.update({f"negative_{place}": [] for place in range(1, count + 1)})
    if options.output_format == "labeled-pair":
        made["score" if scored else "label"] = []
    elif scored:
        made["scores"] = []
    elif options.output_format == "labeled-list":
        made["labels"] = []
    columns = list(made.values())

    def add(*values: Any) -> None:
        for column, value in zip(columns, values, strict=False):
            column.append(value)

    for one in mined:
        pairs = list(zip(one.positives, one.scores, strict=True))
        texts = [text for text, _, _ in one.chosen]
        scores = [score for _, score, _ in one.chosen]
        if options.output_format == "labeled-pair":
            for text, score in pairs:
                add(one.text, text, score if scored else 1)
            for text, score in zip(texts, scores, strict=True):
                add(one.text, text, score if scored else 0)
            continue
        for text, score in pairs:
            if options.output_format == "triplet":
                for other, its in zip(texts, scores, strict=True):
                    add(one.text, text, other, [score, its])
            elif options.output_format == "n-tuple":
                if len(texts) == count:
                    add(one.text, text, *texts, [score, *scores])
            elif texts:
                values = [score, *scores] if scored else [1] + [0] * len(texts)
                add(one.text, [text, *texts], values)
    return made


# -- what came of it -------------------------------------------------------------------------------


def _report(
    mined: Collection[_Mined],
    candidates: int,
    left_out: Counter[str],
    options: MiningOptions,
    cached: int,
) -> MiningReport:
    positive = [score for one in mined for score in one.scores if score == score]
    negative = [score for one in mined for _, score, _ in one.chosen]
    found = sum(len(one.ranks) for one in mined)
    wanted = sum(len(one.positives) for one in mined)
    return MiningReport(
        queries=len(mined),
        positives=wanted,
        candidates=candidates,
        left_out={reason: count for reason, count in left_out.most_common() if count},
        negatives=len(negative),
        missing=len(mined) * options.num_negatives - len(negative),
        positives_not_found=max(0, wanted - found),
        positive_score=float(np.mean(positive)) if positive else None,
        negative_score=float(np.mean(negative)) if negative else None,
        false_share=false_share(
            [rank for one in mined for rank in one.ranks],
            [rank for one in mined for _, _, rank in one.candidates],
            [rank for one in mined for _, _, rank in one.chosen],
        ),
        cached=cached,
    )


def false_share(positives: Sequence[int], candidates: Sequence[int], chosen: Sequence[int]) -> float | None:
    """The largest share of the chosen that can be relevant, if unjudged answers rank as judged ones.

    The candidates are a mixture of both kinds. However far down one looks, the relevant part can't be larger
    than the candidates above divided by the positives above, each as a share of its kind: the least of these
    bounds the mixture (Blanchard, Lee and Scott, 2010). Each chosen rank has its part of it.

    Args:
        positives: ranks, from 0, of the known positives among the hits.
        candidates: ranks of the other hits.
        chosen: ranks of those that were mined.

    Returns:
        a share from 0 to 1, or None with fewer than 30 positives, or nothing chosen.
    """
    if len(positives) < _LEAST_POSITIVES or not candidates or not chosen:
        return None
    depth = max(*positives, *candidates) + 1
    known = np.bincount(positives, minlength=depth) / len(positives)
    others = np.bincount(candidates, minlength=depth) / len(candidates)
    above_known, above_others = np.cumsum(known), np.cumsum(others)
    # Where few positives are above, their share is chance.
    told = above_known >= max(0.1, 10 / len(positives))
    mixture = float(np.min(above_others[told] / above_known[told]))
    mined = np.bincount(chosen, minlength=depth)
    each = np.divide(mixture * known, others, out=np.zeros(depth), where=others > 0).clip(0.0, 1.0)
    return float(min(1.0, (mined * each).sum() / len(chosen)))
