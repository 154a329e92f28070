"""Random queries on small indices: every path gives the order that a pure-Python oracle gives.

The oracle knows the documents' vectors and weights, not the engine: dot products, cosines, filters and
fusions are computed here, and BM25 from the formula. Legs must agree but for groups of equal scores, so
fusion is compared by feeding the oracle the legs' own lists.

By default each engine gets some 1,400 random queries on two random collections. The long mode::

    ESEMBED_PROPERTY_EXAMPLES=400 ESEMBED_PROPERTY_COLLECTIONS=10 \\
        pytest -s tests/contract/test_query_properties.py

tries that many examples (of ``LEGS_EACH`` legs or ``FUSIONS_EACH`` fusions, a request each) on that many
collections, other ones at every run (or those of ``ESEMBED_PROPERTY_SEED``), and prints how many queries
went which path.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esembed import query as q
from esembed.errors import UnsupportedFeatureError
from esembed.fusion import fuse
from esembed.query import Filter, Query
from esembed.query.nodes import Knn
from esembed.query.tree import add_filter, walk
from esembed.search.answer import LegAnswer, single_hits
from esembed.search.compile import CompiledSearch, compile_query
from esembed.search.options import SearchOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import query_data as data

LONG = "ESEMBED_PROPERTY_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("ESEMBED_PROPERTY_EXAMPLES", "25"))
COLLECTIONS = int(os.environ.get("ESEMBED_PROPERTY_COLLECTIONS", "2"))
LEGS_EACH, FUSIONS_EACH = 16, 6
FIRST_SEED = int(
    os.environ.get("ESEMBED_PROPERTY_SEED", random.SystemRandom().randrange(10**6) if LONG else 7)
)
DOCS = data.documents(80, seed=FIRST_SEED)  # refilled for each collection; the ids are the same in all
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
COUNTS: dict[str, Counter[str]] = {"elasticsearch": Counter(), "opensearch": Counter()}

# -- random queries, and what they mean -----------------------------------------------------------------

words = st.sampled_from(data.WORDS)
small = st.integers(-100, 100).map(lambda n: n / 100)
vectors = st.lists(small, min_size=data.DIMS, max_size=data.DIMS).filter(
    lambda v: sum(x * x for x in v) > 0.01
)
weights = st.integers(1, 500).map(lambda n: n / 100)
simple_filters = st.one_of(
    st.sampled_from(["en", "de"]).map(lambda v: q.term("lang", v)),
    st.lists(st.sampled_from(["en", "de", "fr"]), min_size=1, max_size=2).map(lambda v: q.terms("lang", v)),
    st.tuples(st.integers(1, 40), st.integers(5, 30)).map(
        lambda t: q.range("price", gte=t[0], lt=t[0] + t[1])
    ),
    st.lists(st.sampled_from(sorted(DOCS)), min_size=5, max_size=40, unique=True).map(lambda v: q.ids(*v)),
    st.sampled_from(["e", "d"]).map(lambda v: q.prefix("lang", v)),
)
filters = st.one_of(
    simple_filters,
    st.tuples(simple_filters, simple_filters).map(lambda t: q.bool_(filter=t[0], must_not=t[1])),
    st.tuples(simple_filters, simple_filters).map(lambda t: q.bool_(should=list(t), minimum_should_match=1)),
)
maybe_filter = st.none() | filters
texts = st.lists(words, min_size=1, max_size=3).map(" ".join)


@st.composite
def legs(draw: st.DrawFn) -> Query:
    """One leg of any kind."""
    kind = draw(st.sampled_from(["match", "knn", "sparse"]))
    flt = draw(maybe_filter)
    if kind == "match":
        return q.match(
            draw(texts),
            fields=draw(st.sampled_from(["body", "title"])),
            operator=draw(st.sampled_from(["or", "and"])),
            filter=flt,
        )
    if kind == "knn":
        return q.knn(
            "embedding",
            vector=draw(vectors),
            k=draw(st.none() | st.integers(5, 60)),
            num_candidates=100,
            filter=flt,
        )
    tokens = draw(st.dictionaries(words, weights, min_size=1, max_size=4))
    return q.sparse("terms", vector=tokens, filter=flt, max_terms=draw(st.none() | st.integers(1, 3)))


@st.composite
def fusions(draw: st.DrawFn, *, nested: bool = True) -> Query:
    """A fusion of two to four legs, perhaps of fusions."""
    # Half of them are flat: those are what an engine fuses itself.
    mixed = nested and draw(st.booleans())
    inner = st.one_of(legs(), fusions(nested=False)) if mixed else legs()
    parts = draw(st.lists(inner, min_size=2, max_size=4))
    some = draw(st.none() | st.lists(weights, min_size=len(parts), max_size=len(parts)))
    window = draw(st.sampled_from([10, 20, 50, 100]))
    flt = draw(maybe_filter)
    if draw(st.booleans()):
        constant = draw(st.sampled_from([1, 10, 60]))
        return q.rrf(*parts, weights=some, rank_constant=constant, rank_window_size=window, filter=flt)
    normalizer = draw(st.sampled_from(["l2", "minmax", "zscore", "none"]))
    return q.linear(*parts, weights=some, normalizer=normalizer, rank_window_size=window, filter=flt)  # type: ignore[arg-type]


def passes(doc_id: str, node: Filter | None) -> bool:
    """Whether a document passes a filter."""
    if node is None:
        return True
    doc = DOCS[doc_id]
    kind = type(node).__name__
    if kind == "Term":
        return bool(doc[node.field] == node.value)
    if kind == "Terms":
        return doc[node.field] in node.values
    if kind == "Range":
        return bool(node.gte <= doc[node.field] < node.lt)
    if kind == "Ids":
        return doc_id in node.values
    if kind == "Prefix":
        return str(doc[node.field]).startswith(node.value)
    assert kind == "Bool"
    return (
        all(passes(doc_id, f) for f in node.filter)
        and not any(passes(doc_id, f) for f in node.must_not)
        and (not node.should or any(passes(doc_id, f) for f in node.should))
    )


def length_as_lucene_keeps_it(length: int) -> int:
    """Field lengths are kept in one byte: exact to 39, coarser above."""
    assert length < 40
    return length


def leg_scores(leg: Query, extra: Filter | None) -> dict[str, float]:
    """The oracle's score of every document that a leg finds (kNN: before k cuts)."""
    found: dict[str, float] = {}
    for doc_id, doc in DOCS.items():
        if not passes(doc_id, leg.filter) or not passes(doc_id, extra):  # type: ignore[union-attr]
            continue
        kind = type(leg).__name__
        if kind == "Knn":
            a, b = np.asarray(leg.vector), doc["embedding"].astype(float)  # type: ignore[union-attr]
            cosine = float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))
            found[doc_id] = (1 + cosine) / 2
        elif kind == "Sparse":
            kept = sorted(leg.vector.items(), key=lambda t: (-t[1], t[0]))[: leg.max_terms]  # type: ignore[union-attr]
            if any(token in doc["terms"] for token, _ in kept):
                found[doc_id] = sum(w * doc["terms"].get(token, 0.0) for token, w in kept)
        else:
            (field,) = leg.fields  # type: ignore[union-attr]
            terms = leg.text.split()  # type: ignore[union-attr]
            own = doc[field].split()
            present = [t in own for t in terms]
            if not (all(present) if leg.operator == "and" else any(present)):  # type: ignore[union-attr]
                continue
            lengths = [len(d[field].split()) for d in DOCS.values()]
            mean = sum(lengths) / len(lengths)
            score = 0.0
            for t in terms:
                df = sum(t in d[field].split() for d in DOCS.values())
                tf = own.count(t)
                idf = math.log(1 + (len(DOCS) - df + 0.5) / (df + 0.5))
                norm = 1.2 * (0.25 + 0.75 * length_as_lucene_keeps_it(len(own)) / mean)
                score += idf * 2.2 * tf / (tf + norm)
            found[doc_id] = score
    return found


# -- comparing -----------------------------------------------------------------------------------------


def same_order(ids: list[str], scores: dict[str, float], tolerance: float) -> None:
    """*ids* must fall in *scores*, but for scores that differ by no more than the tolerance."""
    for first, second in itertools.pairwise(ids):
        assert scores[first] >= scores[second] - tolerance, (first, scores[first], second, scores[second])


def oracle_fuse(
    query: Query, lists: dict[int, list[tuple[str, float]]], position: list[int]
) -> dict[str, float]:
    """The fused score of every document, written again from the definitions."""
    window = query.rank_window_size  # type: ignore[union-attr]
    total: dict[str, float] = {}
    weights = query.weights or [1.0] * len(query.legs)  # type: ignore[union-attr]
    for leg, weight in zip(query.legs, weights, strict=True):  # type: ignore[union-attr]
        if type(leg).__name__ in ("Rrf", "Linear"):
            inner = oracle_fuse(leg, lists, position)
            ranked = sorted(inner.items(), key=lambda t: (-t[1], t[0]))[: min(leg.rank_window_size, window)]
        else:
            ranked = lists[position[0]][:window]
            position[0] += 1
        scores = [s for _, s in ranked]
        if type(query).__name__ == "Rrf":
            parts = [1 / (query.rank_constant + rank) for rank in range(1, len(ranked) + 1)]  # type: ignore[union-attr]
        elif query.normalizer == "minmax":  # type: ignore[union-attr]
            low, high = min(scores, default=0), max(scores, default=0)
            parts = [1.0 if high == low else (s - low) / (high - low) for s in scores]
        elif query.normalizer == "l2":  # type: ignore[union-attr]
            norm = math.sqrt(sum(s * s for s in scores))
            parts = [s / norm if norm else 0.0 for s in scores]
        elif query.normalizer == "zscore":  # type: ignore[union-attr]
            mean = sum(scores) / len(scores) if scores else 0.0
            spread = float(np.std(scores)) if scores else 0.0
            parts = [(s - mean) / spread if spread > 1e-12 else 0.0 for s in scores]
        else:
            parts = scores
        for (doc, _), part in zip(ranked, parts, strict=True):
            total[doc] = total.get(doc, 0.0) + weight * part
    return total


@pytest.fixture(params=range(COLLECTIONS))
def small_index(request: pytest.FixtureRequest, query_world: Any) -> Any:
    """Eighty random documents on one shard."""
    seed = FIRST_SEED + request.param
    print(f"collection: ESEMBED_PROPERTY_SEED={seed}")
    DOCS.update(data.documents(80, seed=seed))
    plan = data.plan()
    client, capabilities = query_world.client, query_world.capabilities
    client.request("PUT", f"/{query_world.name}", body=data.mapping_body(plan, capabilities))
    lines = data.bulk_bytes(plan, capabilities, DOCS)
    answer = client.request("POST", f"/{query_world.name}/_bulk", params={"refresh": "true"}, body=lines)
    assert not answer.body["errors"]
    return query_world


def send(world: Any, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several bodies in one request."""
    lines = [line for body in bodies for line in ({}, body)]
    answer = world.client.request("POST", f"/{world.name}/_msearch", body=lines)
    COUNTS[world.capabilities.engine]["bodies sent"] += len(bodies)
    for item in answer.body["responses"]:
        assert "error" not in item, item
    return list(answer.body["responses"])


def compiled_for(world: Any, query: Query, **options: Any) -> CompiledSearch:
    return compile_query(query, world.capabilities, SearchOptions(**options), plan=data.plan())


def test_legs_rank_as_the_definitions_say(small_index: Any) -> None:
    @SETTINGS
    @given(st.lists(st.tuples(legs(), maybe_filter), min_size=LEGS_EACH, max_size=LEGS_EACH))
    def check(drawn: list[tuple[Query, Filter | None]]) -> None:
        bodies, wanted = [], []
        for leg, extra in drawn:
            fused = q.linear(leg, normalizer="none", filter=extra)
            compiled = compiled_for(small_index, fused, size=10, fusion="client")
            bodies.append(compiled.legs[0])
            wanted.append((leg, leg_scores(leg, extra)))
        for answer, one, (leg, scores) in zip(
            send(small_index, [leg.body for leg in bodies]), bodies, wanted, strict=True
        ):
            got = LegAnswer(answer, one, None).ranked
            kind = type(leg).__name__
            limit = (leg.k or 100) if kind == "Knn" else 100  # type: ignore[union-attr]
            assert len(got.ids) == min(len(scores), limit)
            assert set(got.ids) <= set(scores)
            # float32 sums; sparse weights are kept with 9 significant bits.
            tolerance = {"Knn": 2e-6, "Match": 2e-5}.get(kind, 0.004 * max([1.0, *scores.values()]))
            for doc, score in zip(got.ids, got.scores, strict=True):
                assert score == pytest.approx(scores[doc], rel=1e-4 if kind != "Sparse" else 5e-3, abs=1e-5)
            same_order(list(got.ids), scores, tolerance)
            if len(got.ids) < len(scores):
                left = max(scores[d] for d in scores if d not in set(got.ids))
                assert scores[got.ids[-1]] >= left - tolerance
            COUNTS[small_index.capabilities.engine][f"legs ({kind.lower()})"] += 1

    check()


def test_every_fusion_path_gives_the_oracles_order(small_index: Any) -> None:
    counts = COUNTS[small_index.capabilities.engine]
    before = Counter(counts)

    @SETTINGS
    @given(st.lists(fusions(), min_size=FUSIONS_EACH, max_size=FUSIONS_EACH))
    def check(queries: list[Query]) -> None:
        compiled = []
        for query in queries:
            size = min(10, query.rank_window_size)  # type: ignore[union-attr]
            auto = compiled_for(small_index, query, size=size)
            client = compiled_for(small_index, query, size=size, explain=True, fusion="client")
            compiled.append((query, size, auto if auto.path == "server" else None, client))
        bodies = []
        for _, _, auto, client in compiled:
            bodies += [*(auto.bodies if auto else []), *client.bodies]
        answers = iter(send(small_index, bodies))
        for query, size, auto, client in compiled:
            served = next(answers) if auto else None
            own = [next(answers) for _ in client.bodies]
            lists = [LegAnswer(a, leg, None).ranked for a, leg in zip(own, client.legs, strict=True)]
            pairs = {i: list(zip(a.ids, a.scores, strict=True)) for i, a in enumerate(lists)}
            oracle = oracle_fuse(query, pairs, [0])
            best = sorted(oracle.values(), reverse=True)
            scale = max([1.0, *(abs(s) for s in oracle.values())])
            assert client.fusion is not None
            fused = fuse(client.fusion, lists)
            for hit, score in zip(fused, best, strict=False):
                assert hit.score == pytest.approx(oracle[hit.id], abs=1e-9 * scale)
                assert hit.score == pytest.approx(score, abs=1e-9 * scale)
                assert sum(s.contribution for s in hit.contributions) == pytest.approx(
                    hit.score, abs=1e-6 * scale
                )
            assert len(fused) == min(len(oracle), client.request.window)
            counts["fused by us"] += 1
            if auto is None:
                continue
            hits = single_hits(served, auto)  # type: ignore[arg-type]
            assert len(hits) == min(size, len(oracle))
            tolerance = 3e-6 * scale
            for hit, score in zip(hits, best, strict=False):
                assert hit.score == pytest.approx(oracle[hit.id], abs=tolerance)
                assert hit.score == pytest.approx(score, abs=tolerance)
            same_order([hit.id for hit in hits], oracle, tolerance)
            counts["fused by the engine"] += 1

    check()
    assert counts["fused by us"] - before["fused by us"] >= EXAMPLES * FUSIONS_EACH // 2
    if small_index.capabilities.rrf:
        assert counts["fused by the engine"] > before["fused by the engine"]
    total = sum(n for name, n in counts.items() if name != "bodies sent")
    print(f"\n{small_index.capabilities.engine}: {total} random queries so far: {dict(counts)}")


# -- filters reach what they stand around ----------------------------------------------------------------


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Query:
    """A query of several levels, with searches for few nearest vectors in any place and filters around."""
    kind = draw(st.sampled_from(["leaf", "leaf", "bool", "bool", "boost"] if depth else ["leaf"]))
    if kind == "boost":
        return q.boost_by(draw(trees(depth - 1)), "price", filter=draw(maybe_filter))
    if kind == "leaf":
        if draw(st.booleans()):
            near = draw(st.integers(1, 8))
            return q.knn(
                "embedding", vector=draw(vectors), k=near, num_candidates=100, filter=draw(maybe_filter)
            )
        return draw(st.one_of(texts.map(lambda t: q.match(t, fields="body")), st.just(q.match_all())))
    some = st.lists(trees(depth - 1), max_size=2)
    must, should = draw(some), draw(some)
    # A kNN among the conditions selects; boosts and nested bools of kNN may stand there as well.
    conditions = st.lists(st.one_of(filters, filters, trees(max(0, depth - 2))), max_size=2)
    chosen, banned = draw(conditions), draw(conditions)
    if not (must or should or chosen or banned):
        must = [q.match_all()]
    at_least = draw(st.sampled_from([None, None, 1])) if should else None
    return q.bool_(must=must, should=should, filter=chosen, must_not=banned, minimum_should_match=at_least)


def has_knn(node: Query) -> bool:
    """Whether a search for nearest vectors stands in a query."""
    return any(type(inner).__name__ == "Knn" for inner in walk(node))


def found_among(node: Query, allowed: set[str]) -> set[str]:
    """What a query finds in a collection of these documents alone: every filter around it applied first."""
    kind = type(node).__name__
    if kind == "Bool":
        plain = [part for part in node.filter if not has_knn(part)]  # type: ignore[union-attr]
        banned = [part for part in node.must_not if not has_knn(part)]  # type: ignore[union-attr]
        left = {doc for doc in allowed if all(doc in found_among(part, {doc}) for part in plain)}
        left -= {doc for doc in left if any(doc in found_among(part, {doc}) for part in banned)}
        found = set(left)
        for part in (*node.must, *node.filter):  # type: ignore[union-attr]
            found &= found_among(part, left)
        for part in node.must_not:  # type: ignore[union-attr]
            found -= found_among(part, left)
        optional = node.minimum_should_match is None and (node.must or node.filter)  # type: ignore[union-attr]
        if node.should and not optional:  # type: ignore[union-attr]
            found &= set().union(*(found_among(part, left) for part in node.should))  # type: ignore[union-attr]
        return found
    if kind in ("Term", "Terms", "Range", "Ids", "Prefix"):
        return {doc for doc in allowed if passes(doc, node)}  # type: ignore[arg-type]
    left = {doc for doc in allowed if passes(doc, node.filter)}  # type: ignore[union-attr]
    if kind == "BoostBy":
        return found_among(node.query, left)  # type: ignore[union-attr]
    if kind == "MatchAll":
        return left
    if kind == "Match":
        return {doc for doc in left if set(node.text.split()) & set(DOCS[doc]["body"].split())}  # type: ignore[union-attr]
    assert kind == "Knn"
    scores = leg_scores(node, None)
    return set(sorted(left, key=lambda doc: -scores[doc])[: node.k])  # type: ignore[union-attr]


def finds_more_than_k(tree: Query) -> bool:
    """Whether OpenSearch before 3.5 would find more than the k nearest by a part of it."""
    return any(isinstance(node, Knn) and node.num_candidates > node.k for node in walk(tree))  # type: ignore[operator]


def test_a_filter_is_applied_before_every_search_for_nearest_vectors(small_index: Any) -> None:
    """Random trees: what is found is what an exact search of the documents that pass would find, in a leg of
    a fusion, in a single query, and in what counts and aggregations count."""
    counts = COUNTS[small_index.capabilities.engine]

    @SETTINGS
    @given(st.lists(st.tuples(trees(), maybe_filter), min_size=LEGS_EACH, max_size=LEGS_EACH))
    def check(drawn: list[tuple[Query, Filter | None]]) -> None:
        bodies: list[dict[str, Any]] = []
        if not small_index.capabilities.knn_ends_at_k:
            for tree, extra in drawn:
                if finds_more_than_k(tree):
                    with pytest.raises(UnsupportedFeatureError, match="leave num_candidates out"):
                        compiled_for(small_index, q.rrf(tree, filter=extra), fusion="client", count=True)
            drawn = [(tree, extra) for tree, extra in drawn if not finds_more_than_k(tree)]
        if not drawn:
            return
        for tree, extra in drawn:
            fused = q.rrf(q.match_all(), tree, filter=extra)
            of_leg = compiled_for(small_index, fused, fusion="client", count=True)
            single = compiled_for(small_index, add_filter(tree, extra), size=100)
            bodies += [of_leg.legs[1].body, single.bodies[0]]
            alone = compiled_for(small_index, q.rrf(tree, filter=extra), fusion="client", count=True)
            assert alone.match_any is not None
            bodies.append({**alone.match_any, "size": 100})
        answers = iter(send(small_index, bodies))
        for tree, extra in drawn:
            wanted = found_among(tree, {doc for doc in DOCS if passes(doc, extra)})
            for answer in (next(answers), next(answers), next(answers)):
                got = {hit["_id"] for hit in answer["hits"]["hits"]}
                assert got == wanted, (tree, extra)
            counts["filtered trees"] += 1
            counts["filtered trees with kNN"] += has_knn(tree)

    check()
    if small_index.capabilities.knn_ends_at_k:
        assert counts["filtered trees with kNN"] > counts["filtered trees"] // 3
