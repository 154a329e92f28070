"""Options under their old names: understood for one release, in no help text, with a line on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esembed.terminal import complain

__all__ = ["with_new_names"]

RENAMED: Mapping[str, Mapping[str, str]] = {
    "engine": {"-k": "-e"},
    "ingest": {
        "--again": "--rewrite",
        "--chunk-mb": "--max-request-mb",
        "--in-flight": "--max-in-flight",
        "--missing-text": "--on-missing-text",
        "--nan": "--on-nan",
        "--no-trust": "--no-learn-weights",
        "--resume": "--skip-unchanged",
        "--trust": "--learn-weights",
    },
    "index": {"--carry-back": "--replay-writes", "--no-carry-back": "--no-replay-writes"},
    "tune": {"--axes": "--tune-legs"},
    "demo": {"--fresh": "--reindex"},
    "bench": {"--ours": "--configuration", "--peer-python": "--baseline-python"},
}
"""Verb → old option → new option."""

RENAMED_EVERYWHERE: Mapping[str, str] = {"--kind": "--engine"}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with today's names of options; what stands behind ``--`` is left as it is."""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    names = {**RENAMED_EVERYWHERE, **RENAMED.get(verb, {})}
    found: list[str] = []
    for position, word in enumerate(arguments):
        if word == "--":
            return [*found, *arguments[position:]]
        option, equals, value = word.partition("=")
        if option in names:
            complain(f"{option} is now {names[option]}; the old name goes with the release after 0.2")
            word = f"{names[option]}{equals}{value}"
        found.append(word)
    return found
