"""What all nodes of the query algebra share."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, TypeVar

import msgspec

__all__ = ["FrozenMap", "Node", "freeze", "thaw"]

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(dict[K, V]):
    """A dict that can't be changed."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a query is immutable; make another one with q.… or node.replace(…)")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMap, (dict(self),)


def freeze(value: Any) -> Any:
    """JSON values with every object and list made immutable."""
    if isinstance(value, Mapping):
        return FrozenMap({str(k): freeze(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    return value


def thaw(value: Any) -> Any:
    """The reverse of :func:`freeze`: plain dicts and lists."""
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw(v) for v in value]
    return value


class Node(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
    tag_field="type",
):
    """What all nodes share."""

    _builder: ClassVar[str] = ""
    _positional: ClassVar[tuple[str, ...]] = ()
    _spread: ClassVar[str] = ""

    def __post_init__(self) -> None:
        # msgspec leaves out defaults by identity, and 1.0 is not always the same object.
        for name, default in _defaults(type(self)).items():
            value = getattr(self, name)
            if value is not default and type(value) is type(default) and value == default:
                msgspec.structs.force_setattr(self, name, default)

    def __repr__(self) -> str:
        """The Python that makes this node, given ``from esembed import query as q``."""
        parts = []
        for name in self._positional:
            parts.append(_show(getattr(self, name)))
        if self._spread:
            parts.extend(_show(item) for item in getattr(self, self._spread))
        positional = {*self._positional, self._spread}
        defaults = _defaults(type(self))
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in positional or (name in defaults and value == defaults[name]):
                continue
            parts.append(f"{name}={_show(value)}")
        return f"q.{self._builder}({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, ``type`` included; :func:`esembed.query.from_dict` reads them."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def replace(self, **changes: Any) -> Any:
        """A copy with these attributes changed."""
        return msgspec.structs.replace(self, **changes)

    def to_body(
        self, profile: Any = "elasticsearch-basic", **options: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The request that this query compiles to, without an index or a connection.

        Field types are taken as the query implies them, names as written. Vectors must be given: there
        is no encoder here.

        Args:
            profile: a profile's name, or :class:`~esembed.capabilities.Capabilities`.
            options: as :func:`esembed.search.compile.compile_query` takes them (``size``, ``offset``,
                ``plan`` …).

        Returns:
            the body of ``_search``, or the lines of ``_msearch`` where the fusion is ours.

        Raises:
            QueryError, UnsupportedFeatureError: it can't be compiled for that profile.
        """
        module = importlib.import_module("esembed.search.compile")
        body: dict[str, Any] | list[dict[str, Any]] = module.to_body(self, profile, **options)
        return body


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_show(v) for v in value) + "]"
    return repr(value)


@functools.cache
def _defaults(cls: type[Node]) -> dict[str, Any]:
    fields = msgspec.structs.fields(cls)
    return {f.name: f.default for f in fields if f.default is not msgspec.NODEFAULT}
