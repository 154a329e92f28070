# Generated from esembed/_async/words.py by scripts/run_unasync.py; change that file and run the script.
"""Asking the index about the words of a query, before it is compiled (``search/words.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esembed.deadline import Deadline
from esembed.dialect.query import Json
from esembed.query.nodes import Query
from esembed.search.answer import checked_item, msearch_items
from esembed.search.compile import SearchCompiler
from esembed.search.options import SearchOptions
from esembed.search.request import Request, make_request
from esembed.search.words import (
    STEPS,
    Text,
    Word,
    as_settled,
    check_stages,
    missing_note,
    one_word,
    probe,
    settled,
    texts_of,
    with_words,
    words_of,
)

from .client import EngineClient
from .live import index_path

__all__ = ["settle_words"]

_FOUND = ("all of its words", "most of its words", "any of its words")


def _step_notes(request: Request, steps: Mapping[str, int]) -> list[str]:
    """What the legs that relax found, for people."""
    notes = []
    for name, step in steps.items():
        where = "" if request.fusion is None else f"{name}: "
        if step >= STEPS:
            notes.append(f"{where}no document has {_FOUND[-1]}")
        elif step:
            notes.append(
                f"{where}no document has {_FOUND[step - 1]}, so those with {_FOUND[step]} are searched"
            )
    return notes


def settle_words(
    client: EngineClient,
    index_name: str,
    request: Request,
    compiler: SearchCompiler,
    params: Mapping[str, Any],
    *,
    one_index: str,
) -> Request:
    """The request with typing errors allowed in words that no document has, and with as many of its words as
    some document has: a small request more for either, and another one where a word seems to be missing. The
    pages after the first are of the words that it settled.

    Args:
        params: the header of a search in ``_msearch``.
        one_index: an index behind the name, which cuts the text into words as the others do.

    Raises:
        QueryError: as the search.
        EngineRequestError, EngineUnavailableError: the engine refused, or didn't answer (in time).
    """
    check_stages(request)
    deadline = request.options.deadline
    scope = compiler.scope
    words: dict[Text, Sequence[Word]] = {}
    for text in texts_of(request, scope):
        where = f"/{index_path(one_index)}/_termvectors"
        answer = client.request("POST", where, body=text.body, deadline=deadline)
        words[text] = words_of(text.text, answer.body)
    if request.settled is not None:
        words, steps = as_settled(request, request.settled, words)
    else:
        if any(word.missing or word.rare for each in words.values() for word in each):
            words = _counted(client, index_name, compiler, words, deadline)
        steps = _steps(client, index_name, request, compiler, params, words, deadline)
    notes = [*missing_note(words.values()), *_step_notes(request, steps)]
    return with_words(request, scope, words, steps, notes)


def _counted(
    client: EngineClient,
    index_name: str,
    compiler: SearchCompiler,
    words: Mapping[Text, Sequence[Word]],
    deadline: Deadline | None,
) -> dict[Text, Sequence[Word]]:
    """The words, with those missing that no document has: the counts of ``_termvectors`` are those of one
    shard of one index (whichever answers), with its deleted documents, so what it doesn't have, or hardly, is
    looked for in all."""
    doubted = [(text, word) for text, each in words.items() for word in each if word.missing or word.rare]
    bodies = [_probe_body(one_word(text, word), compiler) for text, word in doubted]
    found = _anything(client, index_name, bodies, {}, deadline)
    there = dict(zip(doubted, found, strict=True))
    return {
        text: [Word(word.text, not there.get((text, word), True)) for word in each]
        for text, each in words.items()
    }


def _probe_body(query: Query, compiler: SearchCompiler) -> Json:
    """The request that tells whether anything matches, without ranking or fetching it."""
    options = SearchOptions(size=1, source=False)
    made = make_request(query, options, max_window=compiler.capabilities.max_result_window)
    (body, *_) = compiler.compile(made).bodies
    return {"query": body["query"], "size": 0, "terminate_after": 1, "track_total_hits": 1}


def _anything(
    client: EngineClient,
    index_name: str,
    bodies: Sequence[Json],
    params: Mapping[str, Any],
    deadline: Deadline | None,
) -> list[bool]:
    """For each body whether it finds anything, all in one request."""
    where = f"/{index_path(index_name)}/_msearch"
    lines = [line for body in bodies for line in (params, body)]
    answer = client.request("POST", where, body=lines, deadline=deadline)
    totals = [
        checked_item(item, where)["hits"].get("total")
        for item in msearch_items(answer.body, len(bodies), where)
    ]
    return [total is not None and total["value"] > 0 for total in totals]


def _steps(
    client: EngineClient,
    index_name: str,
    request: Request,
    compiler: SearchCompiler,
    params: Mapping[str, Any],
    words: Mapping[Text, Sequence[Word]],
    deadline: Deadline | None,
) -> dict[str, int]:
    """Leg → the first step at which it finds anything, for the legs that relax; all in one request."""
    asked: list[tuple[str, int]] = []
    bodies: list[Json] = []
    for leg in request.legs:
        what = probe(leg.query)
        if what is None:
            continue
        for step in range(STEPS):
            bodies.append(_probe_body(settled(what, compiler.scope, words, step), compiler))
            asked.append((leg.name, step))
    if not bodies:
        return {}
    steps = dict.fromkeys((name for name, _ in asked), STEPS)
    found = _anything(client, index_name, bodies, params, deadline)
    for (name, step), any_found in zip(asked, found, strict=True):
        if any_found:
            steps[name] = min(steps[name], step)
    return steps
