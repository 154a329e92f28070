"""Known items, rank-biased overlap, and the weights of legs without judgments."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import EsembedError
from esembed.fusion import FusionNode, LegList, LegRef, fuse
from esembed.plan import IndexPlan
from esembed.plan.default_query import TEXT_LEAST, TEXT_PRIOR, lift_learned_query
from esembed.query import Query
from esembed.query import builders as q
from esembed.query.nodes import Knn, Linear, MultiMatch
from esembed.weights.estimate import WeightsOptions, WeightsReport, above_floor, estimate_weights
from esembed.weights.known_items import (
    HELD_OUT,
    KnownItem,
    agreement,
    known_items,
    overlap,
    rank_biased_overlap,
    sample,
)
from esembed.weights.query import plan_scorers, weighted_query
from esembed.weights.scorers import DenseScorer, LexicalScorer, SampledDocument, Scorer

TOPICS = 40


def corpus(count: int = 300, seed: int = 0) -> list[tuple[str, str]]:
    """Documents of three sentences about one of forty topics, in words of their own."""
    rng = random.Random(seed)
    documents = []
    for number in range(count):
        topic = number % TOPICS
        own = [f"w{topic}x{rng.randrange(60)}" for _ in range(24)]
        common = [f"common{rng.randrange(30)}" for _ in range(12)]
        words = own + common
        rng.shuffle(words)
        text = ". ".join(" ".join(words[i : i + 12]) for i in range(0, 36, 12))
        documents.append((f"d{number}", text))
    return documents


class WordVectors:
    """A real, if simple, dense encoder: a fixed random vector for each word, averaged; *noise* blurs it."""

    info = EncoderInfo(spec="test", type="dense", dims=128)
    stats = EncodeStats()

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = []
        for text in texts:
            total = np.zeros(128)
            for word in text.replace(".", " ").split():
                total += vector_of(word)
            total += self.noise * np.random.default_rng(hash_of(text)).normal(size=128)
            rows.append(total / np.linalg.norm(total))
        return np.array(rows, dtype=np.float32)

    def encode_document(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._encode(texts)

    def encode_query(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._encode(texts)

    def close(self) -> None:
        pass


@functools.cache
def vector_of(word: str) -> npt.NDArray[np.float64]:
    return np.random.default_rng(hash_of(word)).normal(size=128)


def hash_of(text: str) -> int:
    value = 7
    for character in text:
        value = (value * 31 + ord(character)) % 2**31
    return value


def test_known_items_are_cut_out_of_their_documents() -> None:
    text = (
        "A short title\nThe first sentence is about whales. The second one is about the deep sea. End of it."
    )
    items = {
        item.kind: item for item in known_items([("d", text)], kinds=("first", "sentence", "half", "words"))
    }
    assert items["first"].query == "A short title"
    assert "A short title" not in (items["first"].rest or "")
    assert items["sentence"].query.split()[0] in {"The"}
    assert items["sentence"].query not in (items["sentence"].rest or "")
    assert items["words"].rest is None
    half = items["half"].rest or ""
    assert text.replace("\n", " ").endswith(half)
    assert known_items([("d", "too short")]) == []
    with pytest.raises(EsembedError, match="no kind"):
        known_items([], kinds=("nonsense",))  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same() -> None:
    documents = corpus(200)
    assert sample(documents, 20, seed=3) == sample(iter(documents), 20, seed=3)
    assert sample(documents, 20, seed=3) != sample(documents, 20, seed=4)
    assert len(sample(documents, 500)) == 200
    assert known_items(documents, count=30, seed=1) == known_items(documents, count=30, seed=1)


def test_rank_biased_overlap() -> None:
    a = [str(i) for i in range(50)]
    assert rank_biased_overlap(a, a) == pytest.approx(1.0)
    assert rank_biased_overlap(a, [f"x{i}" for i in range(50)]) == pytest.approx(0.0)
    # Swapping the first two leaves agreement 0 at depth 1 and whole from depth 2 on.
    assert rank_biased_overlap(["a", "b"], ["b", "a"], p=0.5) == pytest.approx(0.5)
    assert rank_biased_overlap(a, a[1::-1] + a[2:]) > rank_biased_overlap(a, a[:48] + a[:47:-1]) - 1
    assert rank_biased_overlap(a[:10], a) == pytest.approx(1.0)
    assert rank_biased_overlap([], []) == 1.0
    assert rank_biased_overlap([], a) == 0.0
    with pytest.raises(EsembedError, match="repeated"):
        rank_biased_overlap(["a", "a"], ["b"])
    assert overlap(["a", "b"], ["b", "c"]) == 0.5
    found = agreement({"x": {"q": [("a", 1.0)]}, "y": {"q": [("a", 3.0)], "r": []}})
    assert (found[0].queries, found[0].overlap10) == (1, 1.0)


def sampled(encoder: WordVectors, count: int = 300) -> list[SampledDocument]:
    """The corpus as it is read back: with the vectors that the encoder made."""
    rows = corpus(count)
    vectors = encoder.encode_document([text for _, text in rows])
    return [SampledDocument(i, text, {"emb": v}) for (i, text), v in zip(rows, vectors, strict=True)]


def estimate(encoder: WordVectors, count: int = 300, **options: Any) -> WeightsReport:
    scorers: dict[str, Scorer] = {"bm25": LexicalScorer(), "emb": DenseScorer("emb", encoder)}
    return estimate_weights(sampled(encoder, count), scorers, options=WeightsOptions(**options))


def test_the_better_leg_weighs_more() -> None:
    clear, blurred = estimate(WordVectors(0.0)), estimate(WordVectors(60.0))
    assert clear.queries == blurred.queries == 168
    assert clear.leg("emb").weight > blurred.leg("emb").weight + 0.1
    assert sum(leg.weight for leg in clear.legs) == pytest.approx(1)
    assert clear.to_dict() == estimate(WordVectors(0.0)).to_dict()
    assert clear.gain >= -0.01


class TopicVectors(WordVectors):
    """Guesses what a text is about and reads no single word, as in a language that a model doesn't know."""

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return super()._encode([" ".join(word.partition("x")[0] for word in t.split()) for t in texts])


def test_an_encoder_that_only_guesses_the_topic_is_found_out() -> None:
    # Of pieces that were cut out it finds as much as words do; pieces that still stand there give it away.
    report = estimate(TopicVectors(0.0))
    words, topic = report.leg("bm25"), report.leg("emb")
    assert topic.quality["first"] > words.quality["first"] - 0.2
    assert topic.quality["words"] < 0.9 < words.quality["words"]
    assert topic.weight < estimate(WordVectors(0.0)).leg("emb").weight


def test_the_text_leg_is_never_drowned() -> None:
    class Oracle(WordVectors):
        """Knows every document by its own words, however they are asked for."""

    report = estimate(Oracle(0.0), kinds=HELD_OUT)
    assert report.leg("bm25").weight >= TEXT_LEAST


def test_an_encoder_that_finds_little_hardly_counts() -> None:
    noise = estimate(WordVectors(400.0))
    assert noise.leg("emb").quality["first"] < 0.1
    assert noise.leg("bm25").weight > 0.85

    class Same(WordVectors):
        """The same vector for everything."""

        def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            return np.ones((len(texts), 128), dtype=np.float32)

    assert estimate(Same(0.0)).leg("bm25").weight > 0.85


class Fixed:
    """Finds the piece's document with one score, another document with a second one, nothing else."""

    limit: float | None = 1.0

    def __init__(self, **scores: tuple[float, float]) -> None:
        self.scores, self.size = scores, 0

    def fit(self, documents: Sequence[SampledDocument]) -> None:
        self.size = len(documents)

    def score(self, items: Sequence[KnownItem], targets: Sequence[int]) -> npt.NDArray[np.float32]:
        found = np.zeros((len(items), self.size), dtype=np.float32)
        for row, (item, target) in enumerate(zip(items, targets, strict=True)):
            right, wrong = self.scores[item.kind]
            found[row, [(target + step) % self.size for step in range(1, 13)]] = wrong
            found[row, target] = right
        return found


@pytest.mark.parametrize(("wrong", "least"), [(0.0, 0.0), (0.5, 1 / 3), (0.8, 0.44), (1.0, 0.5)])
def test_scattered_words_are_found_as_words_alone_find_them(wrong: float, least: float) -> None:
    """Words count more until a dozen documents that are near (*wrong*) don't hide the one that holds them."""
    documents = sampled(WordVectors(0.0))
    words = Fixed(first=(0.0, 0.0), words=(1.0, 0.0))
    vectors = Fixed(first=(1.0, 0.0), words=(0.0, wrong))
    report = estimate_weights(documents, {"bm25": words, "emb": vectors})
    least = max(least, TEXT_LEAST)
    assert least - 1e-6 <= report.leg("bm25").weight <= least + 0.026


def test_encoders_that_say_the_same_do_not_outvote_words() -> None:
    documents = [
        SampledDocument(one.id, one.text, {"emb": one.vectors["emb"], "twin": one.vectors["emb"]})
        for one in sampled(WordVectors(20.0))
    ]

    def weights(*fields: str) -> dict[str, float]:
        scorers: dict[str, Scorer] = {"bm25": LexicalScorer()}
        scorers |= {name: DenseScorer(name, WordVectors(20.0)) for name in fields}
        report = estimate_weights(documents, scorers)
        return {leg.name: leg.weight for leg in report.legs}

    one, two = weights("emb"), weights("emb", "twin")
    assert sum(two.values()) == pytest.approx(1)
    assert two["bm25"] == pytest.approx(one["bm25"], abs=0.026)
    assert two["emb"] == pytest.approx(two["twin"]) == pytest.approx(one["emb"] / 2, abs=0.026)


def test_without_words_legs_weigh_by_what_they_find() -> None:
    clear, blurred = sampled(WordVectors(0.0)), sampled(WordVectors(60.0))
    documents = [
        SampledDocument(one.id, one.text, {"clear": one.vectors["emb"], "blurred": other.vectors["emb"]})
        for one, other in zip(clear, blurred, strict=True)
    ]
    scorers: dict[str, Scorer] = {
        "clear": DenseScorer("clear", WordVectors(0.0)),
        "blurred": DenseScorer("blurred", WordVectors(60.0)),
    }
    report = estimate_weights(documents, scorers, text=None)
    assert report.leg("clear").weight > report.leg("blurred").weight > 0
    assert sum(leg.weight for leg in report.legs) == pytest.approx(1)


def test_few_known_items_stay_near_the_prior() -> None:
    few = estimate(WordVectors(60.0), queries=51)
    many = estimate(WordVectors(60.0), queries=250)
    assert few.queries == 102
    prior = 1 - TEXT_PRIOR
    assert abs(few.leg("emb").weight - prior) <= abs(many.leg("emb").weight - prior)


def test_only_known_items_are_encoded() -> None:
    class Counting(WordVectors):
        encoded = 0

        def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            self.encoded += len(texts)
            return super()._encode(texts)

    documents = sampled(WordVectors(0.0))
    encoder = Counting(0.0)
    report = estimate_weights(documents, {"bm25": LexicalScorer(), "emb": DenseScorer("emb", encoder)})
    assert encoder.encoded == report.queries
    # A vector that can't be read back is made again.
    encoder = Counting(0.0)
    lost = [
        SampledDocument(one.id, one.text, {} if i < 7 else one.vectors) for i, one in enumerate(documents)
    ]
    again = estimate_weights(lost, {"bm25": LexicalScorer(), "emb": DenseScorer("emb", encoder)})
    assert again.to_dict() == report.to_dict()


def test_time_limits_how_many_are_asked() -> None:
    asked: list[tuple[int, int]] = []
    scorers: dict[str, Scorer] = {"bm25": LexicalScorer(), "emb": DenseScorer("emb", WordVectors(0.0))}
    documents = sampled(WordVectors(0.0))
    report = estimate_weights(
        documents,
        scorers,
        options=WeightsOptions(max_seconds=1e-9),
        progress=lambda done, total: asked.append((done, total)),
    )
    assert report.queries == 32
    assert asked == [(32, 168)]
    estimate_weights(documents, scorers, progress=lambda done, total: asked.append((done, total)))
    assert asked[-1] == (168, 168)


def test_packed_bits_are_compared_by_their_signs() -> None:
    encoder = WordVectors(0.0)
    documents = sampled(encoder)
    packed = [
        SampledDocument(
            one.id, one.text, {"emb": np.packbits(one.vectors["emb"] > 0).view(np.int8).astype(np.float32)}
        )
        for one in documents
    ]

    class Counting(WordVectors):
        encoded = 0

        def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            self.encoded += len(texts)
            return super()._encode(texts)

    counting = Counting(0.0)
    scorers: dict[str, Scorer] = {"bm25": LexicalScorer(), "emb": DenseScorer("emb", counting)}
    report = estimate_weights(packed, scorers)
    assert counting.encoded == report.queries  # no document is encoded again
    floats = estimate_weights(documents, {"bm25": LexicalScorer(), "emb": DenseScorer("emb", encoder)})
    quality = report.leg("emb").quality["words"]
    assert 0.5 < quality <= floats.leg("emb").quality["words"]


@pytest.mark.parametrize("documents", [6, 40, 100, 101, 400])
@pytest.mark.parametrize("limit", [1.0, None])
@pytest.mark.parametrize("found", [0.02, 0.3, 1.0])
def test_the_estimate_fuses_as_the_stored_query_does(
    documents: int, limit: float | None, found: float
) -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((5, documents)).astype(np.float32)
    if limit is None:
        scores[rng.random(scores.shape) > found] = 0  # words find a part of the documents
    parts = above_floor(scores, limit)
    for row, part in zip(scores, parts, strict=True):
        order = [int(i) for i in np.argsort(-row) if limit is not None or row[i] > 0][:100]
        listed = LegList([str(i) for i in order], [float(row[i]) for i in order])
        how = FusionNode(
            kind="linear",
            # The other one found nothing: a leg alone has its best at 1.
            children=(LegRef("a", 0, limit=limit), LegRef("b", 1)),
            weights=(1.0, 1.0),
            normalizer="floor",
            window=100,
        )
        fused = {int(hit.id): hit.score for hit in fuse(how, [listed, None])} if order else {}
        assert part == pytest.approx([fused.get(i, 0.0) for i in range(documents)], abs=1e-5)
    assert above_floor(np.array([[0, 3.0, 0]], np.float32), None).tolist() == [[0, 1, 0]]
    assert above_floor(np.zeros((1, 3), np.float32), None).tolist() == [[0, 0, 0]]


def test_what_stands_in_the_document_is_scored_as_it_stands() -> None:
    encoder = WordVectors(0.0)
    texts = ["whales swim in the sea", "trees grow on land"]
    vectors = encoder.encode_document(texts)
    documents = [SampledDocument(str(i), text, {"emb": vectors[i]}) for i, text in enumerate(texts)]
    items = [KnownItem("0", "words", "whales swim"), KnownItem("0", "half", "whales swim", "in the sea")]
    scorers: tuple[Scorer, ...] = (LexicalScorer(), DenseScorer("emb", encoder))
    for scorer in scorers:
        scorer.fit(documents)
        whole, cut = scorer.score(items, [0, 0])
        assert whole[0] > cut[0]
        assert whole[1] == cut[1]


def test_too_few_documents_conclude_nothing() -> None:
    report = estimate(WordVectors(0), 10)
    assert [leg.weight for leg in report.legs] == [TEXT_PRIOR, 1 - TEXT_PRIOR]
    assert "only 20 known items" in report.notes[0]
    assert weighted_query(PLAN, report) is None


def test_identifiers_stay_whole_as_in_lucene() -> None:
    scorer = LexicalScorer(language="english")
    assert scorer._tokens("Calls os.path.join and get_api_url quickly") == [
        "call", "os.path.join", "and", "get_api_url", "quick",
    ]  # fmt: skip


PLAN = IndexPlan.from_toml(
    """
    [text.title]
    [text.body]
    analyzer = "english"
    [dense.emb]
    encoder = "minilm"
    source = ["body"]
    dims = 128
    [dense.image]
    dims = 4
    [sparse.terms]
    source = ["body"]
    """
)


def test_the_query_that_weights_lead_to() -> None:
    scorers, notes = plan_scorers(PLAN, {"emb": WordVectors(0.0), "terms": WordVectors(0)})
    assert list(scorers) == ["bm25", "emb"]
    assert notes == []
    report = estimate(WordVectors(0.0))
    query = weighted_query(PLAN, report)
    assert isinstance(query, Linear)
    match, knn = query.legs
    assert isinstance(match, MultiMatch)
    assert isinstance(knn, Knn)
    assert query.normalizer == "floor"
    assert query.weights == pytest.approx([leg.weight for leg in report.legs], abs=1e-3)
    assert [match.name, knn.name] == ["bm25", "emb"]
    assert PLAN.searched_text({"title": "T", "body": ["a", "b"], "other": "x"}) == "T\na\nb"


OLD: Query = q.bool_(
    should=[q.match(boost=0.01, damp_words=32, name="bm25"), q.knn("emb", k=200, name="emb")],
    minimum_should_match=1,
)
"""What 0.1.0 stored."""


def evidence(bm25: Any, emb: Any) -> dict[str, Any]:
    return {"trust": {"legs": {"bm25": {"trust": bm25, "vote": 1.0}, "emb": {"trust": emb, "vote": 1.0}}}}


def test_what_0_1_0_learned_is_lifted() -> None:
    found = lift_learned_query(OLD, evidence(1.0, 0.4))
    assert isinstance(found, Linear)
    assert found.legs == (q.match(name="bm25"), q.knn("emb", name="emb"))
    assert found.weights == pytest.approx([1 / 2.6, 1.6 / 2.6], abs=1e-3)
    # Words keep their least share, as in what is learned now.
    trusted = lift_learned_query(OLD, evidence(0.1, 1.0))
    assert isinstance(trusted, Linear)
    assert trusted.weights == pytest.approx([TEXT_LEAST, 1 - TEXT_LEAST])
    # Evidence is untrusted input.
    for bad in (evidence("x", float("nan")), evidence(-1, 7), {"trust": {"legs": {"bm25": 1}}}):
        lifted = lift_learned_query(OLD, bad)
        assert isinstance(lifted, Linear)
        assert lifted.weights == pytest.approx([TEXT_LEAST, 1 - TEXT_LEAST])


@pytest.mark.parametrize("kept", [None, {}, {"tuned": {}}, {"trust": 1}, {"trust": {"legs": []}}, []])
def test_a_bool_of_the_users_own_is_not_lifted(kept: Any) -> None:
    assert lift_learned_query(OLD, kept) is OLD
    assert lift_learned_query(None, evidence(1, 1)) is None
    other = q.bool_(should=[q.match(), q.term("kind", "x")], minimum_should_match=1)
    assert lift_learned_query(other, evidence(1, 1)) is other
    single = q.match(name="bm25")
    assert lift_learned_query(single, evidence(1, 1)) is single
