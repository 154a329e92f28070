"""Old names that keep working for one release: keywords and attributes of dataclasses."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["old_names", "renamed", "renamed_attributes", "warn_renamed"]

T = TypeVar("T")


def renamed(**names: str) -> Callable[[type[T]], type[T]]:
    """Make a dataclass take keywords by their old names, too, and answer to the old attributes.

    ::

        @renamed(resume="skip_unchanged")
        @dataclass(frozen=True, kw_only=True)
        class IngestOptions: ...

    Each use of an old name raises a DeprecationWarning. Where both names are given the old one counts, since
    ``dataclasses.replace`` adds the present value of every new name to what its caller wrote.

    Args:
        names: old name → new name.
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @functools.wraps(init)
        def __init__(self: Any, *args: Any, **options: Any) -> None:
            for old in names.keys() & options.keys():
                _warn(cls, old, names[old])
                options[names[old]] = options.pop(old)
            init(self, *args, **options)

        # After the dataclass was made: with slots=True that is another class than the one that was written.
        added = {"__init__": __init__, "__old_names__": names}
        for name, value in (added | {old: _alias(cls, old, new) for old, new in names.items()}).items():
            setattr(cls, name, value)
        return cls

    return decorate


def renamed_attributes(**names: str) -> Callable[[type[T]], type[T]]:
    """Make a class answer to attributes by their old names; what its constructor takes stays as it is.

    For results, which users read and don't make: :func:`renamed` wraps the constructor, which costs half a
    microsecond for each hit.

    Args:
        names: old name → new name.
    """

    def decorate(cls: type[T]) -> type[T]:
        for old, new in names.items():
            setattr(cls, old, _alias(cls, old, new))
        return cls

    return decorate


def old_names(value: Any) -> Mapping[str, str]:
    """Old name → new name, of an object whose class was decorated by :func:`renamed`."""
    found: Mapping[str, str] = getattr(type(value), "__old_names__", {})
    return found


def _alias(cls: type, old: str, new: str) -> property:
    def get(self: Any) -> Any:
        _warn(cls, old, new)
        return getattr(self, new)

    return property(get, doc=f"Deprecated: {new}.")


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn of an old name; by default at the line that called the function that calls this."""
    message = f"{old} is now {new}; the old name goes with the release after 0.2"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def _warn(cls: type, old: str, new: str) -> None:
    # 4: this function, __init__ or the property's getter, and who used it
    warn_renamed(f"{cls.__name__}.{old}", new, stacklevel=4)
