"""What libraries raise while they read or run a model: one EncoderError that names the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from esembed.errors import EncoderError, EsembedError

__all__ = ["foreign_errors", "reason_of", "shown"]

_LONGEST = 300


def reason_of(error: BaseException) -> str:
    """What *error* says, in one line of at most 300 characters: libraries quote all that they read."""
    lines = str(error).strip().splitlines()
    return _cut(lines[0]) if lines else type(error).__name__


def shown(value: object) -> str:
    """*value* as a message may quote it: up to 100 characters of its repr."""
    return _cut(repr(value), 100)


def _cut(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _is_panic(error: BaseException) -> bool:
    """Whether a library in Rust panicked: pyo3's PanicException is no Exception, and its class has no module
    to import it from. tokenizers 0.23 panics at a post-processor that names a token it doesn't define."""
    return type(error).__name__ == "PanicException"


@contextmanager
def foreign_errors(what: str, doing: str, *, spec: str | None = None) -> Iterator[None]:
    """Whatever OpenVINO, torch, tokenizers or transformers raise inside becomes an EncoderError that names
    *what*: a model, or a file of it where *spec* is the model.

    Their errors are of any class (IndexError for a token beyond the table, TypeError for a null in
    config.json, ImportError for a package that a checkpoint wants, Rust's panics), and a caller can't list
    them.
    """
    try:
        yield
    except EsembedError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        said = reason_of(error)
        kind = "" if type(error) is Exception else f"{type(error).__name__}: "
        raise EncoderError(f"{what} can't {doing} ({kind}{said})", spec=spec or what) from error
