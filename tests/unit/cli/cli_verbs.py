"""The command line's verbs, walked: tests that try each of them meet a new one by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from esembed.cli import _names, app
from esembed.cli._connect import PANEL

__all__ = ["VERBS", "WITH_SERVER", "checks_name", "is_connection", "is_path", "label", "line", "takes_text"]


def _walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        # Not get_command: the top group's commands are loaded when they are called.
        yield from _walk(command.resolve_command(context, [name])[1], (*words, name))


VERBS: dict[tuple[str, ...], Any] = dict(_walk(typer.main.get_command(app)))
"""Every verb by its words."""
WITH_SERVER = {words: cmd for words, cmd in VERBS.items() if any("--url" in p.opts for p in cmd.params)}
"""Those that talk to an engine."""


def is_connection(param: Any) -> bool:
    """Whether it says where the engine is, and so is no name of an index (``--url`` …)."""
    return getattr(param, "rich_help_panel", None) == PANEL or param.name == "url"


def takes_text(param: Any) -> bool:
    """Whether it takes any text."""
    return param.bare_type() in ("str", "list[str]") and not is_connection(param)


def is_path(param: Any) -> bool:
    """Whether it takes a file's name."""
    return "Path" in str(param.type_descriptor.annotation) and not is_connection(param)


def checks_name(param: Any) -> bool:
    """Whether the parameter's callback is one of the two that check names (Typer wraps it)."""
    found = getattr(param.callback, "__wrapped__", param.callback)
    return getattr(found, "__name__", "") in (_names.checked.__name__, _names.checked_new.__name__)


def label(param: Any) -> str:
    """As people write it."""
    return next((opt for opt in param.opts if opt.startswith("--")), str(param.metavar or param.name))


def line(words: tuple[str, ...], url: str | None, plan: Path, given: dict[str, str]) -> list[str]:
    """A command line with all that is required, and *given* by parameters' names."""
    options, arguments = [], []
    for param in VERBS[words].params:
        if param.name not in given and not param.required:
            continue
        value = given.get(param.name, "good" if checks_name(param) else str(plan))
        if any(opt.startswith("-") for opt in param.opts):
            # In one word, so that a value that begins with a hyphen is no option.
            options.append(f"{label(param)}={value}")
        else:
            arguments.append(value)
    where = [] if url is None else ["--url", url]
    return [*words, *options, *where, "--", *arguments]
