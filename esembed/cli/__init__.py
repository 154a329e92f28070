"""The command line. ``esembed --help`` lists the verbs; each teaches itself with ``--help``.

Exit codes: 0 done · 1 an error · 2 wrong options, plan or query · 3 done in part (some records went to
the dead-letter file) · 4 the engine can't be reached · 5 the engine refused the credentials ·
6 this engine can't do what was asked · 7 more would be deleted than the limit allows · 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from esembed.cli._lazy import Verb, lazy_group
from esembed.foreign import escaped

__all__ = ["app", "main"]

_START = "First steps"
_DATA = "Indices and data"
_QUALITY = "Measure and tune"


def _verb(module: str, help_: str, panel: str, attribute: str = "app") -> Verb:
    return Verb(f"esembed.cli.{module}:{attribute}", help_, panel)


VERBS: dict[str, Verb] = {
    "demo": _verb("demo", "Hybrid search over Python's own documentation, in one command.", _START),
    "doctor": _verb("doctor", "What is installed, which engine is there and what it can do.", _START),
    "engine": _verb("engine", "Start, stop and watch a local engine.", _START),
    "index": _verb("index", "Create, inspect, extend, migrate and delete indices.", _DATA),
    "ingest": _verb("ingest", "Read records, encode them and write them to an index.", _DATA),
    "update": _verb("change", "Change fields of the documents that match.", _DATA, "update_app"),
    "delete": _verb("change", "Delete the documents that match.", _DATA, "delete_app"),
    "search": _verb("search", "Ask an index a question.", _DATA),
    "eval": _verb("evaluate", "Measure the quality of an index's answers.", _QUALITY),
    "tune": _verb("evaluate", "Fit the default query to judgments.", _QUALITY, "tune_app"),
    "recall": _verb("recall", "Watch how many of the true neighbors vector searches find.", _QUALITY),
    "advise": _verb("advise", "Choose a quantization by measuring it.", _QUALITY),
    "bench": _verb("bench", "Measure encoding, ingestion and search on this machine.", _QUALITY),
}

app = typer.Typer(
    cls=lazy_group(VERBS),
    name="esembed",
    help="Dense and sparse vectors into Elasticsearch and OpenSearch, hybrid search out of them.",
    epilog="Start with:  esembed demo     Every verb has --help with examples, and most have --json.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from esembed import __version__

        sys.stdout.write(f"esembed {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (also ESEMBED_DEBUG=1).")
    ] = False,
) -> None:
    """Dense and sparse vectors into Elasticsearch and OpenSearch, hybrid search out of them."""
    from esembed import terminal

    terminal.free_stdout()


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for; the module's docstring lists them."""
    from esembed import errors
    from esembed.cli._connect import UsageError

    if isinstance(error, errors.DeleteLimitError):
        return 7
    wrong = (errors.PlanError, errors.OptionsError, errors.SourceError, errors.AliasError, errors.QueryError)
    if isinstance(error, (UsageError, *wrong)):
        return 2
    if isinstance(error, errors.EngineUnavailableError):
        return 4
    if isinstance(error, errors.AuthorizationError):
        return 5
    if isinstance(error, errors.UnsupportedFeatureError):
        return 6
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the arguments without the program's name, else the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        from esembed.cli import _clients

        _clients.own_process = True
    debug = bool(os.environ.get("ESEMBED_DEBUG"))
    # --debug is understood anywhere, since people add it at the end of what just failed.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" in arguments[:end]:
        debug = True
        arguments = [word for word in arguments[:end] if word != "--debug"] + arguments[end:]
    from esembed.cli._renamed import with_new_names
    from esembed.errors import EsembedError
    from esembed.terminal import LogHandler, complain, print_json_error, print_traceback

    arguments = with_new_names(arguments)
    as_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if not debug:
        # The clients log each 404 as a warning; what matters of it reaches the person as an error.
        for logger in ("opensearch", "elastic_transport", "elasticsearch"):
            logging.getLogger(logger).setLevel(logging.ERROR)
    # A no-op where the caller set logging up. Warnings quote names of files and engines' words.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LogHandler()])
    try:
        # Not standalone: Typer's own errors quote arguments as they are.
        code = app(arguments, prog_name="esembed", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        complain("interrupted")
        if as_json:
            print_json_error("KeyboardInterrupt", "interrupted", 130)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; say nothing more, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EsembedError as error:
        if debug:
            print_traceback(error)
        # Where in the input it stood is what a person looks for first.
        position = getattr(error, "position", None)
        where = f"{position}: " if position and position not in error.message else ""
        complain(f"error: {where}{error.message}")
        code = exit_code(error)
        if as_json:
            print_json_error(type(error).__name__, f"{where}{error.message}", code)
        return code
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith("esembed"):
            print_traceback(error)
        message = (
            f"this needs the package {error.name!r}, which is not installed; the extras of esembed "
            "bring such packages (pip install 'esembed[demo]', see esembed doctor)"
        )
        complain(f"error: {message}")
        if as_json:
            print_json_error(type(error).__name__, message, 1)
        return 1
    except typer.Abort:
        complain("aborted")
        return 1
    except Exception as error:  # noqa: BLE001 - the last one before the interpreter
        said, wrong = getattr(error, "message", None), getattr(error, "exit_code", None)
        if isinstance(wrong, int) and isinstance(said, str) and hasattr(error, "format_message"):
            _show_usage_error(error, said)
            if as_json:
                print_json_error("UsageError", said, wrong)
            return wrong
        # A fault of ours, shown whole; not by the interpreter, which writes foreign text as it is.
        print_traceback(error)
        if as_json:
            print_json_error(type(error).__name__, str(error), 1)
        return 1


def _show_usage_error(error: Any, message: str) -> None:
    """Typer's own panel for wrong arguments, which quotes them."""
    from typer.rich_utils import rich_format_error

    error.message = escaped(message)
    rich_format_error(error)
