"""The top of the command line: a verb's module is imported when that verb is called, not before.

``esembed --help`` and shell completion then cost Typer's own import and nothing else.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Verb", "lazy_group"]


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: where its Typer app is, and the line that the list of verbs shows.

    Attributes:
        target: ``module:attribute`` of a Typer app.
        help: one line.
        panel: the heading under which it is listed.
    """

    target: str
    help: str
    panel: str


def _load(name: str, verb: Verb) -> Any:
    module_name, _, attribute = verb.target.partition(":")
    app = getattr(importlib.import_module(module_name), attribute)
    command = typer.main.get_command(app)
    command.name = name
    return command


def lazy_group(verbs: dict[str, Verb]) -> type[TyperGroup]:
    """A group class whose commands are *verbs*, loaded when they are called."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(verbs)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            # For listings only: a name and a line. What runs comes from resolve_command.
            if cmd_name not in verbs:
                return None
            verb = verbs[cmd_name]
            return TyperCommand(cmd_name, help=verb.help, rich_help_panel=verb.panel)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            if name in verbs:
                command = _load(name, verbs[name])
            return name, command, rest

    return LazyGroup
