"""Known items, rank-biased overlap, and trust in legs without judgements."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.errors import EsembedError
from esembed.plan import IndexPlan
from esembed.query.nodes import Bool, Knn, Match
from esembed.weights.estimate import (
    DenseScorer,
    LexicalScorer,
    TrustOptions,
    TrustReport,
    estimate_trust,
)
from esembed.weights.known_items import (
    HELD_OUT,
    Kind,
    agreement,
    known_items,
    overlap,
    rank_biased_overlap,
    sample,
)
from esembed.weights.query import knowing_query, plan_scorers

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

    info = EncoderInfo(spec="test", kind="dense", dims=128)
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


def test_the_better_leg_is_trusted_more() -> None:
    def trust(noise: float) -> float:
        scorers = {"bm25": LexicalScorer(), "emb": DenseScorer(WordVectors(noise))}
        report = estimate_trust(corpus(), scorers, options=TrustOptions(queries=60, drop_below=0))
        assert report.queries == 300
        text, dense = report.leg("bm25"), report.leg("emb")
        assert max(text.trust, dense.trust) == 1.0
        return dense.trust / text.trust

    clear, blurred = trust(0.0), trust(60.0)
    assert clear > 3 * blurred > 0
    assert clear == trust(0.0)


class TopicVectors(WordVectors):
    """Guesses what a text is about and reads no single word, as in a language that a model doesn't know."""

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return super()._encode([" ".join(word.partition("x")[0] for word in t.split()) for t in texts])


def test_an_encoder_that_only_guesses_the_topic_is_found_out() -> None:
    def report(*kinds: Kind) -> TrustReport:
        options = TrustOptions(queries=100, kinds=kinds) if kinds else TrustOptions(queries=100)
        scorers = {"bm25": LexicalScorer(), "emb": DenseScorer(TopicVectors(0.0))}
        return estimate_trust(corpus(), scorers, options=options)

    def ratio(found: TrustReport) -> float:
        return found.leg("emb").trust / found.leg("bm25").trust

    # Pieces that were cut out of their documents are found by their topic better than by their words.
    held_out, both = report(*HELD_OUT), report()
    assert ratio(held_out) > 1
    assert ratio(both) < ratio(held_out) / 1.4
    assert both.leg("bm25").quality["window"] > 0.9 > both.leg("emb").quality["window"]


def test_legs_that_say_the_same_share_a_vote() -> None:
    """One leg twice must not outvote the other two to one."""
    documents = corpus()
    two = estimate_trust(documents, {"bm25": LexicalScorer(), "dense": DenseScorer(WordVectors(0.3))})
    assert two.leg("bm25").vote == two.leg("dense").vote == 1
    scorers = {"bm25": LexicalScorer(), "dense": DenseScorer(WordVectors(0.3)), "again": LexicalScorer()}
    three = estimate_trust(documents, scorers)
    assert three.leg("dense").vote == 1
    assert three.leg("bm25").vote == three.leg("again").vote
    assert 0.5 <= three.leg("bm25").vote < 0.75
    shared = three.leg("bm25").weight + three.leg("again").weight
    assert shared / three.leg("dense").weight < 1.5 * two.leg("bm25").weight / two.leg("dense").weight
    stored = json.loads(json.dumps(three.to_dict()))
    assert stored["legs"]["again"]["vote"] == round(three.leg("again").vote, 4)


def test_what_stands_in_the_document_is_scored_as_it_stands() -> None:
    texts = ["whales swim in the sea", "trees grow on land"]
    for scorer in (LexicalScorer(), DenseScorer(WordVectors(0.0))):
        scorer.fit(texts)
        whole, cut = scorer.score(["whales swim"] * 2, [None, "in the sea"], [0, 0])
        assert whole[0] > cut[0]
        assert whole[1] == cut[1]


def test_too_few_documents_conclude_nothing() -> None:
    report = estimate_trust(corpus(10), {"bm25": LexicalScorer(), "emb": DenseScorer(WordVectors(0))})
    assert {leg.trust for leg in report.legs} == {1.0}
    assert "only 50 known items" in report.notes[0]
    assert knowing_query(PLAN, report) is None


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


def test_the_query_that_trust_leads_to() -> None:
    scorers, notes = plan_scorers(PLAN, {"emb": WordVectors(0.0), "terms": WordVectors(0)})
    assert list(scorers) == ["bm25", "emb"]
    assert notes == []
    report = estimate_trust(corpus(), scorers, total=5000, options=TrustOptions(queries=60))
    query = knowing_query(PLAN, report)
    assert isinstance(query, Bool)
    match, knn = query.should
    assert isinstance(match, Match)
    assert isinstance(knn, Knn)
    assert (match.damp_words, knn.k) == (32, 200)
    expected = (report.leg("bm25").weight / 2.2) / (report.leg("emb").weight * 2)
    assert match.boost / knn.boost == pytest.approx(expected, rel=1e-3)
    assert PLAN.searched_text({"title": "T", "body": ["a", "b"], "other": "x"}) == "T\na\nb"


def test_a_useless_leg_is_left_out() -> None:
    scorers, _ = plan_scorers(PLAN, {"emb": WordVectors(1e6)})
    report = estimate_trust(corpus(), scorers, options=TrustOptions(queries=60, drop_below=0.3))
    assert report.leg("emb").trust == 0
    assert isinstance(knowing_query(PLAN, report), Match)
