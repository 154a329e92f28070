"""Write docs/cli.md from the command line's own help; ``--check`` only compares."""

from __future__ import annotations

import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from esembed.cli import app
from esembed.cli._connect import _OPTIONS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "cli.md"

HEAD = """# The command line

<!-- Written by scripts/cli_docs.py from the commands' own help. Change the commands, not this file. -->

Every verb that talks to an engine takes the [connection options](#which-engine). Tables and JSON go to
stdout, progress and remarks to stderr; colors only on a terminal. `--debug`, anywhere, shows an error's
traceback.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | an error |
| 2 | wrong options, plan or query |
| 3 | done in part: some records are in the dead-letter file |
| 4 | the engine can't be reached |
| 5 | the engine refused the credentials |
| 6 | this engine can't do what was asked; the message lists what is missing and the remedy |
| 7 | more would be deleted than the limit allows: nothing was, and an ingest did all the rest |
| 130 | interrupted |
"""


def commands(command: Any, path: str, context: Any = None) -> Iterator[tuple[str, Any]]:
    """Every command that runs, with its whole name, in the order of the help."""
    context = typer.Context(command, info_name=path, parent=context)
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(context):
        found, child, _ = command.resolve_command(context, [name])
        if child.hidden:
            continue  # an old name
        yield from commands(child, f"{path} {found}", context)


def text(help_: str) -> str:
    """A docstring as Markdown: example lines become code."""
    out: list[str] = []
    code: list[str] = []
    for paragraph in inspect.cleandoc(help_).replace("\b\n", "").split("\n\n"):
        flat = " ".join(paragraph.split())
        if flat.startswith("$ "):
            code.extend(line.strip()[2:] for line in paragraph.splitlines() if line.strip())
            continue
        if flat in ("Examples:", "Example:"):
            continue
        out.append(flat)
    if code:
        out.append("```\n" + "\n".join(code) + "\n```")
    return "\n\n".join(out)


def row(parameter: Any) -> str:
    """One option as a line of a table."""
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        shown = f"`{(parameter.metavar or parameter.name).strip('[]')}`"
    else:
        flag = getattr(parameter, "is_flag", False)
        value = parameter.metavar or kind(parameter)
        shown = ", ".join(f"`{name}`" for name in names) + ("" if flag else f" *{value}*")
    default = parameter.default
    notes = []
    if parameter.required:
        notes.append("required")
    elif default not in (None, False, (), []) and not callable(default):
        notes.append(f"default {_choice(default)}")
    help_ = re.sub(r"\s+", " ", getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {shown} | {help_}{' (' + ', '.join(notes) + ')' if notes else ''} |"


def kind(parameter: Any) -> str:
    """What an option takes, in a word; Typer keeps it in one of two places, by version."""
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:
        choices = getattr(parameter.type, "choices", None)
        return "\\|".join(map(_choice, choices)) if choices else str(parameter.type.name)
    wanted = descriptor.annotation
    wanted = next(iter(typing.get_args(wanted)), wanted)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return "\\|".join(map(_choice, wanted))
    return {"str": "text", "int": "integer", "float": "number"}.get(wanted.__name__, wanted.__name__.lower())


def _choice(value: Any) -> str:
    return str(getattr(value, "value", value))


def page() -> str:
    """The whole page."""
    shared = set(_OPTIONS)
    parts = [HEAD]
    shared_rows: dict[str, str] = {}
    for name, command in commands(typer.main.get_command(app), "esembed"):
        parts.append(f"## {name}\n\n{text(command.help or '')}\n")
        rows = []
        for parameter in command.params:
            if parameter.name in ("help", "install_completion", "show_completion"):
                continue
            if parameter.name in shared and getattr(parameter, "rich_help_panel", None) == "Which engine":
                shared_rows.setdefault(parameter.name, row(parameter))
            else:
                rows.append(row(parameter))
        if rows:
            parts.append("| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    parts.append("## Which engine\n\n| option | |\n|---|---|\n" + "\n".join(shared_rows.values()) + "\n")
    return "\n".join(parts)


def main() -> int:
    """0 when the page is (or, without --check, now is) up to date."""
    wanted = page()
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print("docs/cli.md is stale: run python scripts/cli_docs.py")
        return 1
    TARGET.write_text(wanted, encoding="utf-8")
    print("docs/cli.md written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
