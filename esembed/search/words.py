"""Queries that ask the index about their words first: which are in no document, and whether any has them all.

``fuzziness="missing"`` and ``operator="relax"`` mean something else for another index, so that they are
settled before the query is compiled: what is compiled has neither. Pure; ``_async/words.py`` asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from esembed.dialect.scope import Scope
from esembed.errors import QueryError
from esembed.query.nodes import Bool, Match, MultiMatch, Query, Rescore
from esembed.query.tree import finds_nearest, transform, walk
from esembed.search.page import SettledWords, broken_cursor
from esembed.search.request import Request

__all__ = [
    "MAX_WORDS",
    "STEPS",
    "Text",
    "Word",
    "as_settled",
    "check_stages",
    "missing_note",
    "one_word",
    "probe",
    "settled",
    "text_of",
    "texts_of",
    "uses_words",
    "with_words",
    "words_of",
]

MAX_WORDS = 32
"""The words that a text may have for its unknown ones to be looked at: more of them is a pasted page, which
finds its documents by the words that are right, and each unknown word is up to 50 clauses for each field."""
MAX_CHARACTERS = 2_000
"""Of a text with few blanks or none: an address, a line of a CSV file, Chinese."""
MOST = "75%"
"""How many words must be there where no document has them all and the query doesn't say."""
RARE = 3
"""How many documents of a shard may have a word at most for it to be looked for: counts of words include
deleted documents until the engine merges their segments, so all of these may be."""
STEPS = 3
"""All words, most of them, any; a leg for which nothing has any is at this step."""


class Text(msgspec.Struct, frozen=True):
    """A text as a node searches it.

    Attributes:
        text: the words.
        fields: the text fields, by their names in the index.
        analyzer: the query's own.
        analyzers: what cuts the text into words in a field, where it isn't what cuts the documents'.
    """

    text: str
    fields: tuple[str, ...]
    analyzer: str | None = None
    analyzers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        """The body of ``_termvectors`` that asks for the words and in how many documents each is."""
        body: dict[str, Any] = {
            "doc": dict.fromkeys(self.fields, self.text),
            "fields": list(self.fields),
            "term_statistics": True,
            "field_statistics": False,
            "positions": False,
            "offsets": True,
        }
        if self.analyzers:
            # The text is analyzed as a document's otherwise: with edge n-grams, or without synonyms.
            body["per_field_analyzer"] = dict(self.analyzers)
        return body


class Word(msgspec.Struct, frozen=True):
    """A word of a text, as it is written there.

    Attributes:
        text: the letters.
        missing: no document has it in any of the fields.
        rare: some have, so few that all of them may be deleted ones.
    """

    text: str
    missing: bool
    rare: bool = False


def uses_words(request: Request) -> bool:
    """Whether the request has to be settled before it can be compiled as it is meant."""
    return any(_asks(node) for node in request.nodes)


def _asks(node: Query) -> bool:
    return isinstance(node, (Match, MultiMatch)) and (node.fuzziness == "missing" or _relaxes(node))


def texts_of(request: Request, scope: Scope) -> dict[Text, None]:
    """The texts whose words are to be looked up, in the order of the query."""
    found: dict[Text, None] = {}
    for node in request.nodes:
        if isinstance(node, (Match, MultiMatch)) and node.fuzziness == "missing":
            text = text_of(node, scope)
            if text is not None:
                found[text] = None
    return found


def text_of(node: Match | MultiMatch, scope: Scope) -> Text | None:
    """What is to be looked up for a node; None where its words are taken as they are."""
    written = str(node.text)
    if len(written.split()) > MAX_WORDS or len(written) > MAX_CHARACTERS:
        return None
    infos = [scope.text(name) for name, _ in scope.searched_fields(node)]
    fields = [info for info in infos if info.kind in ("text", "any") and info.nested is None]
    if not fields:
        return None
    analyzers = {
        info.path: analyzer
        for info in fields
        if (analyzer := node.analyzer or getattr(info.spec, "search_analyzer", None)) is not None
    }
    paths = tuple(info.path for info in fields)
    return Text(written, paths, node.analyzer, tuple(analyzers.items()))


def one_word(text: Text, word: Word) -> Query:
    """The search for the documents that have a word of a text as it is."""
    return Match(text=word.text, fields=text.fields, analyzer=text.analyzer)


def words_of(text: str, answer: Mapping[str, Any]) -> list[Word]:
    """The words of a text in its order, each once, from an answer of ``_termvectors``.

    A word is a stretch of the text. Analyzers make several terms of one (synonyms, the parts of ``wi-fi``):
    it is there where a document has one of them. Stop words make none and are left out. A number is never
    missing: 2027 is no misspelled 2026. More than :data:`MAX_WORDS` are none.
    """
    counts: dict[tuple[int, int], dict[tuple[str, str], int]] = {}
    for field, vector in (answer.get("term_vectors") or {}).items():
        for name, term in (vector.get("terms") or {}).items():
            for token in term.get("tokens") or ():
                stretch = int(token["start_offset"]), int(token["end_offset"])
                counts.setdefault(stretch, {})[field, name] = int(term.get("doc_freq", 0))
    letters = text.encode("utf-16-le")  # the engines count UTF-16 units
    # By its terms: "Pyhton pyhton" is one word, wherever letters' case makes no other.
    found: dict[frozenset[tuple[str, str]], Word] = {}
    end = 0
    for start, stop in sorted(counts, key=lambda one: (one[0], -one[1])):
        if stop <= end:
            continue  # a part of the word before
        inside = [terms for (first, last), terms in counts.items() if start <= first and last <= stop]
        most = max(count for terms in inside for count in terms.values())
        word = letters[2 * max(start, end) : 2 * stop].decode("utf-16-le", "ignore")
        end = stop
        spelled = any(letter.isalpha() for letter in word)
        terms = frozenset(term for each in inside for term in each)
        found.setdefault(terms, Word(word, spelled and not most, spelled and 0 < most <= RARE))
    return list(found.values()) if len(found) <= MAX_WORDS else []


def probe(query: Query) -> Query | None:
    """What is asked whether anything has enough of a leg's words; None for a leg that doesn't ask.

    Beside a search for the k nearest, which always finds something, its texts alone are.
    """
    asking = [
        node
        for node in walk(query)
        if isinstance(node, (Match, MultiMatch)) and _relaxes(node) and str(node.text).strip()
    ]
    if not asking:
        return None
    if not finds_nearest(query):
        return query
    return asking[0] if len(asking) == 1 else Bool(should=tuple(asking), minimum_should_match=1)


def _relaxes(node: Match | MultiMatch) -> bool:
    return node.operator == "relax"


def settled(query: Query, scope: Scope, words: Mapping[Text, Sequence[Word]], step: int) -> Query:
    """The query for these words at a step: with typing errors in what no document has, and with all words,
    most of them or any that must be there. Where nothing has any, these are searched, too."""

    def settle(node: Query) -> Query:
        if not isinstance(node, (Match, MultiMatch)) or not _asks(node):
            return node
        if _relaxes(node):
            if step == 0:
                node = node.replace(operator="and", minimum_should_match=None)
            elif step == 1:
                node = node.replace(operator="or", minimum_should_match=node.minimum_should_match or MOST)
            else:
                node = node.replace(operator="or", minimum_should_match=None)
        if node.fuzziness != "missing":
            return node
        text = text_of(node, scope)
        known = words.get(text) if text is not None else None
        node = node.replace(fuzziness=None)
        if not known or not any(word.missing for word in known):
            return node
        return _with_errors(node, known, scope)

    return transform(query, settle)


def _with_errors(node: Match | MultiMatch, words: Sequence[Word], scope: Scope) -> Query:
    """The node's search with typing errors allowed in the missing words, and in no other."""
    fields, analyzer = node.fields, node.analyzer
    damped = getattr(node, "damp_words", None)
    count = len(str(node.text).split())
    boost = node.boost * (min(1.0, damped / count) if damped else 1.0)
    bare: dict[str, Any] = {
        "operator": "or",
        "minimum_should_match": None,
        "boost": 1.0,
        "filter": None,
        "name": None,
    }
    if isinstance(node, Match):
        bare["damp_words"] = None
    elif node.kind == "auto":
        # Not "auto", which puts a name first that is the whole text: what is left of a text is no name.
        bare["kind"] = scope.one_text_kind(scope.searched_fields(node), node.analyzer)

    def exactly(text: str) -> Query:
        return node.replace(text=text, **bare)

    def nearly(text: str) -> Query:
        if isinstance(node, MultiMatch) and node.kind in ("auto", "combined_fields"):
            # So that a field's boost is worth what it is for the words that are spelled right.
            return MultiMatch(text=text, fields=fields, kind="auto", analyzer=analyzer, fuzziness="AUTO")
        return Match(text=text, fields=fields, analyzer=analyzer, fuzziness="AUTO")

    if node.operator == "and" or node.minimum_should_match is not None:
        parts = [(nearly if word.missing else exactly)(word.text) for word in words]
    else:
        right = " ".join(word.text for word in words if not word.missing)
        parts = [exactly(right)] if right else []
        parts += [nearly(word.text) for word in words if word.missing]
    if node.operator == "and":
        clauses: dict[str, Any] = {"must": tuple(parts)}
    else:
        clauses = {"should": tuple(parts), "minimum_should_match": node.minimum_should_match or 1}
    return Bool(**clauses, filter=(node.filter,) if node.filter is not None else (), boost=boost)


def with_words(
    request: Request,
    scope: Scope,
    words: Mapping[Text, Sequence[Word]],
    steps: Mapping[str, int],
    notes: Sequence[str],
) -> Request:
    """The request as it is compiled: each leg at its step.

    Args:
        words: of each text of :func:`texts_of`, in its order.
        steps: leg → the step; a leg that doesn't relax has none.
        notes: what was found out, for people.
    """

    def at(query: Query, step: int = STEPS - 1) -> Query:
        return settled(query, scope, words, step)

    legs = []
    for leg in request.legs:
        settled_query = at(leg.query, steps.get(leg.name, STEPS - 1))
        asked = leg.query if settled_query != leg.query else None
        legs.append(replace(leg, query=settled_query, asked=asked))
    stages = tuple(
        stage.replace(by=at(stage.by)) if isinstance(stage, Rescore) and stage.by is not None else stage
        for stage in request.stages
    )
    inner = request.inner if request.fusion is not None else legs[0].query
    missing = [[place for place, word in enumerate(each) if word.missing] for each in words.values()]
    return replace(
        request,
        inner=inner,
        stages=stages,
        legs=tuple(legs),
        notes=(*request.notes, *notes),
        settled=SettledWords(steps=dict(steps), missing=missing),
    )


def as_settled(
    request: Request, settled: SettledWords, words: Mapping[Text, Sequence[Word]]
) -> tuple[dict[Text, Sequence[Word]], dict[str, int]]:
    """The words and the legs' steps as they were on the first page, whatever documents came or went since.

    Raises:
        QueryError: the cursor is of other words, or of a step that there isn't.
    """
    steps = {leg.name: settled.steps[leg.name] for leg in request.legs if leg.name in settled.steps}
    if len(settled.missing) != len(words) or not all(0 <= step <= STEPS for step in steps.values()):
        raise broken_cursor()
    found: dict[Text, Sequence[Word]] = {}
    for (text, each), missing in zip(words.items(), settled.missing, strict=True):
        if not set(missing) <= set(range(len(each))):
            raise broken_cursor()
        found[text] = [Word(word.text, place in missing) for place, word in enumerate(each)]
    return found, steps


def missing_note(words: Iterable[Sequence[Word]]) -> list[str]:
    """A line that says which words no document has."""
    missing = list(dict.fromkeys(word.text for each in words for word in each if word.missing))
    if not missing:
        return []
    shown = ", ".join(map(repr, missing))
    return [f"no document has {shown}: words like {'it' if len(missing) == 1 else 'them'} are searched, too"]


def check_stages(request: Request) -> None:
    """Raises QueryError for a stage that asks whether anything is found: it only ranks what was."""
    for stage in request.stages:
        by = getattr(stage, "by", None)
        if by is not None and any(isinstance(n, (Match, MultiMatch)) and _relaxes(n) for n in walk(by)):
            raise QueryError(
                'operator="relax" is for what is searched; in the by= of a rescore use "or" or "and"',
                field="operator",
            )
