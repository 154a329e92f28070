"""The nodes of the query algebra: immutable, equal by value, the same in Python, TOML and JSON.

People write the lower-case functions of :mod:`esembed.query`; these classes are what they return. A node
checks itself, whoever makes it: a builder, ``replace``, :func:`~esembed.query.from_dict` or a plan that is
read. What is wrong is a QueryError naming the attribute. ``repr`` prints the Python that makes a node (with
``from esembed import query as q``).
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import re
import types
import typing
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, TypeVar

import msgspec

from esembed.errors import QueryError
from esembed.scalars import LARGEST, SMALLEST, plain
from esembed.types import ENGINES, SparseVector

__all__ = [
    "Bool",
    "BoostBy",
    "Collapse",
    "DenseVector",
    "Diversify",
    "Exists",
    "Filter",
    "Floor",
    "FrozenMap",
    "GeoDistance",
    "Ids",
    "IsoDate",
    "Knn",
    "Linear",
    "Match",
    "MatchAll",
    "MatchPhrase",
    "MultiMatch",
    "Nested",
    "Node",
    "Normalizer",
    "Operator",
    "Prefix",
    "PruneOptions",
    "Query",
    "Range",
    "RankFeature",
    "Raw",
    "Rescore",
    "Rrf",
    "Scalar",
    "Sparse",
    "SparseWeights",
    "Stage",
    "StoredRaw",
    "Term",
    "Terms",
    "TextNode",
    "VectorNode",
    "Wildcard",
    "filter_of",
    "freeze",
    "thaw",
]

K = TypeVar("K")
V = TypeVar("V")
N = TypeVar("N", bound="Node")

Scalar = bool | int | float | str
"""A value of a filter."""
Operator = Literal["or", "and", "relax"]
"""How many words of a text must be there: any, all, or as many as some document has."""
Normalizer = Literal["minmax", "l2", "zscore", "none", "bound", "floor"]
"""How a leg's scores are brought to one scale before they are added."""


# -- values that nodes hold ------------------------------------------------------------------------


class FrozenMap(dict[K, V]):
    """A dict that can't be changed."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a query is immutable; make another one with q.… or node.replace(…)")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


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


class IsoDate(str):
    """The ISO 8601 text of a Python or NumPy date, equal to any other text of these letters.

    Its type is the mark that it is ISO 8601, whatever the format of the field that it is compared with.
    """

    __slots__ = ()


class DenseVector(tuple[float, ...]):
    """A query vector that was checked: finite numbers, shape (dims,), at least one.

    Its type is the mark that it was checked, so that ``replace`` doesn't look at 1,024 numbers again.

    Raises:
        ValueError: not a flat list of numbers, empty, or with a number that isn't finite.
    """

    __slots__ = ()

    def __new__(cls, values: Iterable[float]) -> DenseVector:
        if isinstance(values, DenseVector):
            return values
        items: Any = values.tolist() if hasattr(values, "tolist") else values
        try:
            # In C, and strict: 3 µs for 768 floats, where a loop in Python takes 35.
            numbers = msgspec.convert(items, tuple[float, ...]) if isinstance(items, (list, tuple)) else None
        except msgspec.ValidationError:
            numbers = None
        if numbers is None:
            numbers = _numbers(items)
        if not numbers:
            raise ValueError("the vector is empty")
        # A sum of finite numbers may overflow; one with NaN or an infinity is never finite.
        if not math.isfinite(sum(numbers)):
            for position, value in enumerate(numbers):
                if not math.isfinite(value):
                    raise ValueError(f"the vector has {value} at position {position}")
        return super().__new__(cls, numbers)

    @classmethod
    def nothing(cls) -> DenseVector:
        """The vector of a text that its encoder knows nothing of: an empty one, which finds nothing. Nobody
        can write it in a query."""
        return super().__new__(cls, ())


def _numbers(items: Any) -> tuple[float, ...]:
    """What isn't a list of floats but is as good as one: NumPy's numbers, other iterables."""
    if isinstance(items, (str, bytes, bytearray, set, frozenset, Mapping)):
        raise ValueError("vector must be a flat list of numbers")
    try:
        return tuple(array("d", items))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("vector must be a flat list of numbers") from None


class SparseWeights(FrozenMap[str, float]):
    """A sparse query vector that was checked: feature → weight, every weight finite and > 0.

    Raises:
        ValueError: no mapping, or a weight that is no number, not finite, or not > 0.
    """

    def __init__(self, weights: SparseVector | Mapping[Any, float]) -> None:
        if isinstance(weights, SparseVector):
            weights = weights.to_dict()
        if not isinstance(weights, Mapping):
            raise ValueError(f"vector must be feature → weight, not {type(weights).__name__}")
        try:
            numbers = msgspec.convert(list(weights.values()), list[float])
        except msgspec.ValidationError:
            numbers = [_weight(weight) for weight in weights.values()]
        tokens = weights if set(map(type, weights)) <= {str} else list(map(str, weights))
        super().__init__(zip(tokens, numbers, strict=True))
        # A finite sum says that all are; they are looked at one by one only to name the culprit.
        if numbers and not (min(numbers) > 0 and math.isfinite(sum(numbers))):
            for token, number in self.items():
                if not 0 < number < math.inf:
                    raise ValueError(
                        f"the weight of {token!r} is {number}; weights must be > 0 (leave tokens of weight "
                        "0 out)"
                    )
        _check_unicode("".join(self), "vector")


def _weight(value: Any) -> float:
    """The number, or NaN for what is none."""
    if type(value) is float:
        return value
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _check_unicode(text: str, name: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{name} is not valid Unicode: {text[error.start]!r} at position {error.start}; replace it "
            '(text.encode("utf-8", "replace").decode())',
            field=name,
        ) from None


# -- what all nodes share --------------------------------------------------------------------------


class Node(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
    tag_field="type",
):
    """What all nodes share. The tag (``type`` in JSON) is the builder's name."""

    positional: ClassVar[tuple[str, ...]] = ()
    """The attributes that the builder takes by position."""

    spread: ClassVar[str] = ""
    """The attribute that the builder takes as ``*args``."""

    instead_of_text: ClassVar[tuple[str, ...]] = ()
    """Attributes that make a text unnecessary."""

    checked: ClassVar[tuple[str, ...]] = ()
    """Attributes that the class checks by itself, whatever their annotation says."""

    def __post_init__(self) -> None:
        """Every attribute made what its annotation says: lists to tuples, NumPy's numbers to Python's.

        Raises:
            QueryError: a value of another type, or a number that isn't finite.
        """
        attributes, defaults, values = _attributes(type(self))
        for attribute, default, value in zip(attributes, defaults, values(self)):  # noqa: B905 - in the hot path
            if value is default:
                continue
            kept = attribute.fitted(self, value)
            # msgspec leaves out defaults by identity, and 1.0 is not always the same object.
            if type(kept) is type(default) and kept == default:
                kept = default
            if kept is not value:
                msgspec.structs.force_setattr(self, attribute.name, kept)

    @classmethod
    def builder(cls) -> str:
        """The name of the function in :mod:`esembed.query` that makes this node."""
        tag = str(cls.__struct_config__.tag)
        return f"{tag}_" if tag == "bool" else tag

    @property
    def has_placeholder_text(self) -> bool:
        """Whether the search's text is to be put in here (:func:`esembed.query.resolve_text`)."""
        return "text" in self.__struct_fields__ and all(
            getattr(self, name) is None for name in ("text", *self.instead_of_text)
        )

    def __repr__(self) -> str:
        """The Python that makes this node, given ``from esembed import query as q``."""
        parts = [_show(getattr(self, name)) for name in self.positional]
        if self.spread:
            parts.extend(_show(item) for item in getattr(self, self.spread))
        for attribute in _attributes(type(self)).attributes:
            value = getattr(self, attribute.name)
            if (
                attribute.name in self.positional
                or attribute.name == self.spread
                or value == attribute.default
            ):
                continue
            parts.append(f"{attribute.name}={_show(value)}")
        return f"q.{self.builder()}({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, ``type`` included; :func:`esembed.query.from_dict` reads them."""
        data: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return data

    def replace(self: N, **changes: Any) -> N:
        """A copy with these attributes changed, checked again. Raises QueryError."""
        return msgspec.structs.replace(self, **changes)

    def to_body(
        self, profile: Any = "elasticsearch-basic", **options: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The old name of :func:`esembed.to_body`, which takes the query as its first argument.

        It stays for one release. Arguments, result and errors are the function's.
        """
        # By name, since a query knows nothing of what is made from it (tests/unit/structure.py, FACADES).
        body: dict[str, Any] | list[dict[str, Any]] = importlib.import_module("esembed").to_body(
            self, profile, **options
        )
        return body


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_show(v) for v in value) + "]"
    return repr(value)


class _Attribute:
    """One attribute of a node: its default, and what its annotation lets stand in it."""

    def __init__(self, name: str, annotation: Any, default: Any, *, checked: bool) -> None:
        self.name = name
        self.default = default
        self.checked = checked
        self.words: tuple[str, ...] = ()
        self.items: _Attribute | None = None
        self.node = False
        taken: set[type] = set()
        for kind in _alternatives(annotation):
            if typing.get_origin(kind) is Literal:
                self.words = typing.get_args(kind)
            elif typing.get_origin(kind) is tuple:
                self.items = _Attribute(name, typing.get_args(kind)[0], msgspec.NODEFAULT, checked=False)
            elif isinstance(kind, type) and issubclass(kind, Node):
                self.node = True
            elif isinstance(kind, type):
                taken.add(kind)
        self.number = float in taken
        self.scalar = {float, str} <= taken
        """A value that is compared with a document's: text, a number, a date."""
        self.taken = frozenset(taken)

    def fitted(self, node: Node, value: Any) -> Any:
        """The value as the attribute keeps it. Raises QueryError."""
        kind = type(value)
        if kind in self.taken:
            if kind is str and not value.isascii():
                _check_unicode(value, self.name)
            # JSON has no NaN and no infinity: either would be written as null, and a bound that is null is no
            # bound to the engines, so that the filter would let everything through.
            if kind is float and not math.isfinite(value):
                raise self._refusal(node, value)
            if kind is int and not SMALLEST <= value <= LARGEST:
                raise self._said(node, f"{self.name} must fit into 64 bits, not {_shown(value)}")
            return value
        if kind is IsoDate and self.scalar:
            return value
        if self.checked or (self.node and isinstance(value, Node)):
            return value
        if kind is int and self.number:
            return self.fitted(node, _as_float(value))
        if isinstance(value, str) and value in self.words:
            return value
        if self.items is not None and isinstance(value, (list, tuple)):
            return self.items.fitted_all(node, value)
        made = self._plain(node, value)
        if made is value:
            raise self._refusal(node, value)
        return self.fitted(node, made)

    def fitted_all(self, node: Node, values: list[Any] | tuple[Any, ...]) -> tuple[Any, ...]:
        """Several values, each as :meth:`fitted` keeps it; the same tuple where nothing changes."""
        for value in values:
            if self.node:
                if not isinstance(value, Node):
                    break
                continue
            kind = type(value)
            if kind not in self.taken or kind is float or (kind is str and not value.isascii()):
                break
            if kind is int and not SMALLEST <= value <= LARGEST:
                break
        else:  # terms takes up to 65,536 values: nothing is called for each of them
            return values if type(values) is tuple else tuple(values)
        made = tuple(self.fitted(node, value) for value in values)
        return values if type(values) is tuple and all(map(operator.is_, made, values)) else made

    def _plain(self, node: Node, value: Any) -> Any:
        """A value of another library or of a subclass as Python's own, or the value itself."""
        if self.node and self.name == "filter" and isinstance(value, (list, tuple)):
            return filter_of(value)
        if self.number and not self.scalar and isinstance(value, Decimal):
            return float(value)  # a boost or a weight, which is compared with nothing
        try:
            made = plain(value)
        except ValueError as error:
            raise self._said(node, f"{self.name} can't be compared exactly: {error}") from None
        if made is None and self.scalar:
            return value  # pandas' NA and NaT: no value, which is refused as what it is
        if type(made) is str and self.scalar:
            dated = isinstance(value, date) or getattr(getattr(value, "dtype", None), "kind", "") == "M"
            return IsoDate(made) if dated else made
        texts = isinstance(value, (str, Enum)) or hasattr(value, "dtype")
        if type(made) is str and not texts:
            return value  # a date or a path is compared with documents; it is no text to search and no name
        if int in self.taken and float not in self.taken and isinstance(made, float) and made.is_integer():
            return int(made)
        return made

    def _refusal(self, node: Node, value: Any) -> QueryError:
        name, said, kind = self.name, repr(value), type(value).__name__
        said = said if len(said) <= 100 else f"{said[:97]}…"
        of_nodes = self.node or (self.items is not None and self.items.node)
        if of_nodes and name in (node.spread, *_CLAUSES):
            part = "leg" if name == "legs" else name.replace("_", " ")
            text = f"a {part} of {node.builder()} is a query (q.match(…), q.knn(…) …), not {kind}"
        elif of_nodes and name == "filter":
            return _no_filter(value)
        elif of_nodes:
            text = f"{name} must be a query of esembed.query (q.match(…), q.knn(…) …), not {kind}"
        else:
            text = f"{name} must be {self._wanted(value)}, not {said}"
        return self._said(node, text)

    def _said(self, node: Node, text: str) -> QueryError:
        if self.scalar:
            text = f"{node.builder()} on {getattr(node, 'field', '')!r}: {text}"
        return QueryError(text, field=getattr(node, "field", self.name) if self.scalar else self.name)

    def _wanted(self, value: Any) -> str:
        if type(value) is float and self.number:
            return "a finite number"  # whatever else it may be
        wanted = [" or ".join(map(repr, self.words))] if self.words else []
        wanted += ["a list of " + self.items._wanted(None)] if self.items is not None else []
        wanted += ["text"] if str in self.taken else []
        wanted += ["a finite number"] if self.number else ["a whole number"] if int in self.taken else []
        wanted += ["true or false"] if bool in self.taken else []
        wanted += ["q.PruneOptions(…)"] if PruneOptions in self.taken else []
        return " or ".join(wanted)


_CLAUSES = ("must", "should", "must_not")


def _shown(value: int) -> str:
    return str(value) if value.bit_length() < 400 else f"a number of {value.bit_length()} bits"


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _alternatives(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for one in typing.get_args(annotation):
            yield from _alternatives(one)
    else:
        yield annotation


class _Attributes(NamedTuple):
    """A class's attributes, their defaults, and what reads all their values from a node."""

    attributes: tuple[_Attribute, ...]
    defaults: tuple[Any, ...]
    values: Callable[[Node], tuple[Any, ...]]


@functools.cache
def _attributes(cls: type[Node]) -> _Attributes:
    hints = typing.get_type_hints(cls)
    found = tuple(
        _Attribute(field.name, hints[field.name], field.default, checked=field.name in cls.checked)
        for field in msgspec.structs.fields(cls)
    )
    return _Attributes(found, tuple(one.default for one in found), msgspec.structs.astuple)


def filter_of(value: Filter | Sequence[Filter] | None) -> Filter | None:
    """One filter: of several all must hold, an empty list is none.

    Raises:
        QueryError: what is no query.
    """
    parts = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    for part in parts:
        if not isinstance(part, Node):
            raise _no_filter(part)
    if len(parts) == 1:
        return typing.cast("Filter", parts[0])
    return Bool(filter=tuple(parts)) if parts else None


def _no_filter(value: Any) -> QueryError:
    return QueryError(
        "filter must be a query of esembed.query (q.term(…), q.range(…), q.bool_(…), or a list of "
        f"them), not {type(value).__name__}; the engine's own JSON goes through q.raw",
        field="filter",
    )


# -- checks that several nodes share ---------------------------------------------------------------

MAX_BOOST = 3.4028234663852886e38
"""The largest boost, weight or factor: both engines keep them in 32-bit floats, where more is infinite."""


MAX_WINDOW = 10_000
"""The largest k, window and number of candidates. It is what both engines take for k and for a page's end
(index.max_result_window); Elasticsearch refuses more candidates, and OpenSearch, which asks for memory first,
doesn't: ``ef_search`` of 1e9 ended a node of 3.6.0 with 1 GB of heap."""

MAX_DIVERSIFIED = 1000
"""The most hits that are compared with each other: of 1,024 dims their vectors are 20 MB of JSON."""

MAX_LEGS = 100
"""The most legs of a fusion. Each is a search of its own where the client fuses."""

MAX_INTEGER = 2**31 - 1
"""The largest integer of the engines' options that have no limit of their own."""

_FUZZINESS = re.compile(r"[012]|AUTO(?::([0-9]{1,4}),([0-9]{1,4}))?", re.IGNORECASE)
_PART = r"-?[0-9]{1,9}%?"
_AT_LEAST = re.compile(rf"{_PART}|[0-9]{{1,9}}<{_PART}(?: +[0-9]{{1,9}}<{_PART})*")
_DISTANCE = re.compile(
    r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+) *"
    "(?:km|kilometers|m|meters|cm|centimeters|mm|millimeters|mi|miles|nmi|NM|nauticalmiles|yd|yards|ft|feet"
    "|in|inch)"
)
"""A distance as both engines read it: units are theirs, in this case alone (``12KM`` is a 400)."""


def _check_boost(value: float | None, name: str) -> None:
    if value is not None and not 0 <= value <= MAX_BOOST:
        raise QueryError(f"{name} must be ≥ 0, and at most {MAX_BOOST:.4g}, not {value}", field=name)


def _check_matching(node: Match | MultiMatch) -> None:
    """The options that match and multi_match share, as both engines read them."""
    _check_boost(node.boost, "boost")
    _above_zero(node.scale, "scale")
    fuzziness = node.fuzziness
    if fuzziness is not None and fuzziness != "missing":
        found = _FUZZINESS.fullmatch(str(fuzziness))
        if found is None or (found[1] is not None and int(found[1]) > int(found[2])):
            raise QueryError(
                f"fuzziness is 0, 1, 2, AUTO, AUTO:low,high or missing, not {fuzziness!r}", field="fuzziness"
            )
    _check_at_least(node.minimum_should_match)


def _check_at_least(value: int | str | None) -> None:
    if value is None:
        return
    name = "minimum_should_match"
    if isinstance(value, int):
        _between(value, name, -MAX_INTEGER, MAX_INTEGER)
    elif not _AT_LEAST.fullmatch(value):
        raise QueryError(f"{name} is a number, a percentage or as '2<75%', not {value!r:.80}", field=name)


def _above_zero(value: float | None, name: str) -> None:
    if value is not None and not value > 0:
        raise QueryError(f"{name} must be > 0, not {value}", field=name)


def _at_least_one(value: int | None, name: str) -> None:
    _from_to(value, name, 1, MAX_INTEGER)


def _from_to(value: int | None, name: str, low: int, high: int) -> None:
    if value is not None and value < low:
        raise QueryError(f"{name} must be ≥ {low}, not {value}", field=name)
    if value is not None and value > high:
        raise QueryError(f"{name} must be ≤ {high}, not {value}", field=name)


def _between(value: float | None, name: str, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise QueryError(f"{name} must lie between {low} and {high}, not {value}", field=name)


def _check_fusion(node: Rrf | Linear) -> None:
    what = node.builder()
    if not node.legs:
        raise QueryError(f"{what} needs at least one leg", field="legs")
    if len(node.legs) > MAX_LEGS:
        raise QueryError(f"{what} takes at most {MAX_LEGS} legs, not {len(node.legs)}", field="legs")
    for leg in node.legs:
        if isinstance(leg, Stage):
            raise QueryError(f"{leg.builder()} stands around {what}, not inside it", field="legs")
    if node.weights is not None:
        if len(node.weights) != len(node.legs):
            raise QueryError(
                f"{len(node.legs)} legs need {len(node.legs)} weights, not {len(node.weights)}",
                field="weights",
            )
        for weight in node.weights:
            _check_boost(weight, "weights")
        if not any(node.weights):
            raise QueryError("all weights are 0; leave the legs out that shouldn't count", field="weights")
    _between(node.rank_window_size, "rank_window_size", 1, MAX_WINDOW)


# -- text ------------------------------------------------------------------------------------------


class TextNode(Node, frozen=True, kw_only=True):
    """What the full-text nodes have in common: they look for words, by BM25."""

    @property
    def named_fields(self) -> tuple[str, ...]:
        """The fields that it names, as it names them (``title^2``); empty for the plan's text fields."""
        named: tuple[str, ...] = getattr(self, "fields", ())
        return named


class Match(TextNode, frozen=True, kw_only=True, tag="match"):
    """Full text, scored by BM25. Made by :func:`esembed.query.match`."""

    positional: ClassVar[tuple[str, ...]] = ("text",)
    text: str | None = None
    fields: tuple[str, ...] = ()
    operator: Operator = "or"
    fuzziness: str | int | None = None
    minimum_should_match: str | int | None = None
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    damp_words: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_matching(self)
        _at_least_one(self.damp_words, "damp_words")


class MultiMatch(TextNode, frozen=True, kw_only=True, tag="multi_match"):
    """Full text over several fields, with a choice of how they combine."""

    positional: ClassVar[tuple[str, ...]] = ("text",)
    text: str | None = None
    fields: tuple[str, ...] = ()
    kind: Literal[
        "auto",
        "best_fields",
        "most_fields",
        "cross_fields",
        "combined_fields",
        "phrase",
        "phrase_prefix",
        "bool_prefix",
    ] = "best_fields"
    operator: Operator = "or"
    tie_breaker: float | None = None
    fuzziness: str | int | None = None
    minimum_should_match: str | int | None = None
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in _LACKING:
            value = getattr(self, option)
            if not self.takes(option, value):
                shown = 'fuzziness="missing"' if value == "missing" else option
                raise QueryError(f"multi_match {self.kind!r} knows no {shown}; leave it out", field=option)
        _check_matching(self)
        _between(self.tie_breaker, "tie_breaker", 0, 1)

    def takes(self, option: str, value: object) -> bool:
        """Whether a search of this kind can have a value of an option."""
        if value == "missing":
            return self.kind in _OF_WORDS
        return value is None or self.kind not in _LACKING.get(option, ())


_LACKING = {
    "fuzziness": ("cross_fields", "combined_fields", "phrase", "phrase_prefix"),
    "tie_breaker": ("auto", "combined_fields"),
    "analyzer": ("combined_fields",),
}
"""Options of multi_match, each with the kinds that have none."""
_OF_WORDS = ("auto", "best_fields", "most_fields", "cross_fields", "combined_fields")
"""The kinds that look for whole words wherever they stand, so that one of them can be searched otherwise."""


class MatchPhrase(TextNode, frozen=True, kw_only=True, tag="match_phrase"):
    """Words in this order, at most *slop* places apart."""

    positional: ClassVar[tuple[str, ...]] = ("field", "text")
    field: str
    text: str | None = None
    slop: int = 0
    analyzer: str | None = None
    boost: float = 1.0
    filter: Filter | None = None
    scale: float | None = None
    name: str | None = None

    @property
    def named_fields(self) -> tuple[str, ...]:
        """The one field that it names, which carries no boost."""
        return (self.field,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _from_to(self.slop, "slop", 0, MAX_INTEGER)
        _check_boost(self.boost, "boost")
        _above_zero(self.scale, "scale")


# -- vectors and features --------------------------------------------------------------------------


class VectorNode(Node, frozen=True, kw_only=True):
    """What the vector nodes have in common: a field of vectors, and a text to encode or a vector."""


class Knn(VectorNode, frozen=True, kw_only=True, tag="knn"):
    """The nearest vectors. Made by :func:`esembed.query.knn`."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    instead_of_text: ClassVar[tuple[str, ...]] = ("vector",)
    checked: ClassVar[tuple[str, ...]] = ("vector",)
    field: str
    text: str | None = None
    vector: tuple[float, ...] | None = None
    k: int | None = None
    num_candidates: int | None = None
    visit_percentage: float | None = None
    similarity: float | None = None
    filter: Filter | None = None
    oversample: float | None = None
    exact: bool = False
    chunks: int = 1
    boost: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vector is not None and type(self.vector) is not DenseVector:
            try:
                vector = DenseVector(self.vector)
            except ValueError as error:
                raise QueryError(f"knn on {self.field!r}: {error}", field=self.field) from None
            msgspec.structs.force_setattr(self, "vector", vector)
        if self.text is not None and self.vector is not None:
            raise QueryError(f"knn on {self.field!r} takes text or vector, not both", field=self.field)
        _from_to(self.k, "k", 1, MAX_WINDOW)
        _between(self.num_candidates, "num_candidates", 1, MAX_WINDOW)
        if self.num_candidates is not None and self.num_candidates < (self.k or 1):
            raise QueryError(
                f"num_candidates ({self.num_candidates}) must be ≥ k ({self.k or 1})", field="num_candidates"
            )
        if self.oversample != 0:  # which switches off what the field or the engine does by itself
            _between(self.oversample, "oversample", 1, 10)
        _between(self.visit_percentage, "visit_percentage", 0, 100)
        if self.exact and any(
            value is not None for value in (self.num_candidates, self.visit_percentage, self.oversample)
        ):
            raise QueryError(
                "exact compares with every vector; leave num_candidates, visit_percentage and oversample out",
                field="exact",
            )
        _between(self.chunks, "chunks", 0, 100)
        _check_boost(self.boost, "boost")


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Elasticsearch's token pruning; the engine's names and defaults. Raises QueryError."""

    tokens_freq_ratio_threshold: float = 5.0
    tokens_weight_threshold: float = 0.4
    only_score_pruned_tokens: bool = False

    def __post_init__(self) -> None:
        for name in ("tokens_freq_ratio_threshold", "tokens_weight_threshold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise QueryError(f"{name} must be a finite number, not {value!r}", field=name)
        _between(self.tokens_freq_ratio_threshold, "tokens_freq_ratio_threshold", 1, 100)
        _between(self.tokens_weight_threshold, "tokens_weight_threshold", 0, 1)

    def __repr__(self) -> str:
        values = msgspec.structs.asdict(self).items()
        return f"q.PruneOptions({', '.join(f'{name}={value!r}' for name, value in values)})"


class Sparse(VectorNode, frozen=True, kw_only=True, tag="sparse"):
    """The inner product with a sparse vector. Made by :func:`esembed.query.sparse`."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    instead_of_text: ClassVar[tuple[str, ...]] = ("vector",)
    checked: ClassVar[tuple[str, ...]] = ("vector",)
    field: str
    text: str | None = None
    vector: Mapping[str, float] | None = None
    max_terms: int | None = None
    min_weight: float | None = None
    prune: bool | PruneOptions | None = None
    k: int | None = None
    heap_factor: float | None = None
    filter: Filter | None = None
    chunks: int = 1
    boost: float = 1.0
    scale: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vector is not None and type(self.vector) is not SparseWeights:
            try:
                vector = SparseWeights(self.vector)
            except ValueError as error:
                raise QueryError(f"sparse on {self.field!r}: {error}", field=self.field) from None
            msgspec.structs.force_setattr(self, "vector", vector)
        if self.text is not None and self.vector is not None:
            raise QueryError(f"sparse on {self.field!r} takes text or vector, not both", field=self.field)
        _at_least_one(self.max_terms, "max_terms")
        _from_to(self.k, "k", 1, MAX_WINDOW)
        _above_zero(self.heap_factor, "heap_factor")
        _check_boost(self.heap_factor, "heap_factor")
        _between(self.chunks, "chunks", 0, 100)
        _check_boost(self.boost, "boost")
        _above_zero(self.scale, "scale")


class RankFeature(Node, frozen=True, kw_only=True, tag="rank_feature"):
    """A stored number (popularity, PageRank) or one feature of many, as a score."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    feature: str | None = None
    function: Literal["saturation", "log", "sigmoid", "linear"] = "saturation"
    pivot: float | None = None
    scaling_factor: float | None = None
    exponent: float | None = None
    boost: float = 1.0
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needs = {"log": ("scaling_factor",), "sigmoid": ("pivot", "exponent")}.get(self.function, ())
        takes = ("pivot",) if self.function == "saturation" else needs
        for option in ("pivot", "scaling_factor", "exponent"):
            value = getattr(self, option)
            if value is None and option in needs:
                raise QueryError(f"rank_feature {self.function} needs {option}", field=option)
            if value is not None and option not in takes:
                raise QueryError(f"rank_feature {self.function} takes no {option}", field=option)
            _above_zero(value, option)
        _check_boost(self.boost, "boost")


# -- filters ---------------------------------------------------------------------------------------


def _check_one_value(clause: str, field: str, value: Any) -> None:
    if value is None:
        raise QueryError(
            f"{clause} on {field!r}: None is no value; documents without one are found by "
            f"q.bool_(must_not=[q.exists({field!r})])",
            field=field,
        )
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        raise QueryError(
            f"{clause} on {field!r} compares with one value, not a {type(value).__name__}; several are for "
            "q.terms",
            field=field,
        )


class Term(Node, frozen=True, kw_only=True, tag="term"):
    """The field's exact value."""

    positional: ClassVar[tuple[str, ...]] = ("field", "value")
    field: str
    value: Scalar

    def __post_init__(self) -> None:
        _check_one_value("term", self.field, self.value)
        super().__post_init__()


class Terms(Node, frozen=True, kw_only=True, tag="terms"):
    """One of several exact values."""

    positional: ClassVar[tuple[str, ...]] = ("field", "values")
    field: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, (list, tuple)):
            raise QueryError(
                f"terms on {self.field!r} takes a list of values; use q.term for one", field=self.field
            )
        if any(value is None or isinstance(value, (list, tuple, Mapping)) for value in self.values):
            for value in self.values:
                _check_one_value("terms", self.field, value)
        super().__post_init__()


class Range(Node, frozen=True, kw_only=True, tag="range"):
    """Values between bounds; at least one bound."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    gte: int | float | str | None = None
    gt: int | float | str | None = None
    lte: int | float | str | None = None
    lt: int | float | str | None = None
    format: str | None = None
    time_zone: str | None = None

    def __post_init__(self) -> None:
        bounds = (self.gte, self.gt, self.lte, self.lt)
        if all(bound is None for bound in bounds):
            raise QueryError(f"range on {self.field!r} needs gte, gt, lte or lt", field=self.field)
        if (self.gte is not None and self.gt is not None) or (self.lte is not None and self.lt is not None):
            raise QueryError(f"range on {self.field!r}: two bounds on one side; keep one", field=self.field)
        for bound in bounds:
            if bound is not None:
                _check_one_value("range", self.field, bound)
        super().__post_init__()


class Exists(Node, frozen=True, kw_only=True, tag="exists"):
    """The document has a value in the field."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str


class Prefix(Node, frozen=True, kw_only=True, tag="prefix"):
    """Keyword values that begin so."""

    positional: ClassVar[tuple[str, ...]] = ("field", "value")
    field: str
    value: str


class Wildcard(Node, frozen=True, kw_only=True, tag="wildcard"):
    """Keyword or wildcard values that a pattern fits: ``*`` stands for any text, ``?`` for one character.

    Attributes:
        value: the pattern; a backslash before ``*``, ``?`` or another backslash takes it as it is.
        case_insensitive: whether the case of ASCII letters doesn't count.
    """

    positional: ClassVar[tuple[str, ...]] = ("field", "value")
    field: str
    value: str
    case_insensitive: bool = False


class Ids(Node, frozen=True, kw_only=True, tag="ids"):
    """Documents by id."""

    spread: ClassVar[str] = "values"
    values: tuple[str, ...]


class GeoDistance(Node, frozen=True, kw_only=True, tag="geo_distance"):
    """Within *distance* (``"12km"``) of a point."""

    positional: ClassVar[tuple[str, ...]] = ("field",)
    field: str
    lat: float
    lon: float
    distance: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-90 <= self.lat <= 90 and -180 <= self.lon <= 180):
            raise QueryError(
                f"no such place: lat {self.lat} (−90…90), lon {self.lon} (−180…180)", field=self.field
            )
        found = _DISTANCE.fullmatch(self.distance)
        if found is None or not 0 < float(found[1]) < 1e9:
            raise QueryError(
                "distance is a number above 0 with a unit (km, m, mi, nmi, yd, ft …), as '12km', not "
                f"{self.distance!r:.80}",
                field="distance",
            )


class Nested(Node, frozen=True, kw_only=True, tag="nested"):
    """A query on the objects of a nested field."""

    positional: ClassVar[tuple[str, ...]] = ("path", "query")
    path: str
    query: Query
    score_mode: Literal["max", "avg", "sum", "min", "none"] = "max"
    chunks: int = 0
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self.chunks, "chunks", 0, 100)


class Bool(Node, frozen=True, kw_only=True, tag="bool"):
    """Clauses combined; scores of *must* and *should* add up."""

    must: tuple[Query, ...] = ()
    should: tuple[Query, ...] = ()
    filter: tuple[Filter, ...] = ()
    must_not: tuple[Filter, ...] = ()
    minimum_should_match: int | str | None = None
    boost: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.must or self.should or self.filter or self.must_not):
            raise QueryError("bool_ needs must, should, filter or must_not; for everything use q.match_all()")
        _check_at_least(self.minimum_should_match)
        _check_boost(self.boost, "boost")


class MatchAll(Node, frozen=True, kw_only=True, tag="match_all"):
    """Every document."""

    boost: float = 1.0
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_boost(self.boost, "boost")


class Raw(Node, frozen=True, kw_only=True, tag="raw"):
    """A clause in the engine's own JSON."""

    positional: ClassVar[tuple[str, ...]] = ("bodies",)
    checked: ClassVar[tuple[str, ...]] = ("bodies",)
    bodies: Mapping[str, Any]
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = set(self.bodies) if isinstance(self.bodies, Mapping) else {type(self.bodies).__name__}
        if not keys or keys - set(ENGINES):
            raise QueryError(
                f"raw takes {{{', '.join(f'{one!r}: clause' for one in ENGINES)}}} (one may be missing), not "
                f"{sorted(map(str, keys))}",
                field="bodies",
            )
        for engine, clause in self.bodies.items():
            if not isinstance(clause, Mapping):
                raise QueryError(
                    f"raw: the clause for {engine} is an object, not {type(clause).__name__}", field="bodies"
                )
        # Frozen once: what a node holds already is not walked again at every replace.
        if type(self.bodies) is not FrozenMap:
            msgspec.structs.force_setattr(self, "bodies", freeze(self.bodies))


class StoredRaw(Raw, frozen=True, kw_only=True, tag="raw", eq=False):
    """A ``raw`` clause that was read from an index's ``_meta``, where anybody who may write there can put it.

    It is kept and written back as it is, equal to any other of the same content, and no search runs it.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Raw):
            return NotImplemented
        return (self.bodies, self.filter, self.name) == (other.bodies, other.filter, other.name)

    def __hash__(self) -> int:
        return hash(Raw(bodies=self.bodies, filter=self.filter, name=self.name))


# -- fusion and stages -----------------------------------------------------------------------------


class Rrf(Node, frozen=True, kw_only=True, tag="rrf"):
    """Legs fused by reciprocal rank."""

    spread: ClassVar[str] = "legs"
    legs: tuple[Query, ...]
    weights: tuple[float, ...] | None = None
    rank_constant: int = 60
    rank_window_size: int | None = None
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _from_to(self.rank_constant, "rank_constant", 1, 10_000)  # OpenSearch's limit
        _check_fusion(self)


class Linear(Node, frozen=True, kw_only=True, tag="linear"):
    """Legs fused by a weighted sum of (normalized) scores."""

    spread: ClassVar[str] = "legs"
    legs: tuple[Query, ...]
    weights: tuple[float, ...] | None = None
    normalizer: Normalizer = "minmax"
    complete: bool | None = None
    rank_window_size: int | None = None
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fusion(self)


class Stage(Node, frozen=True, kw_only=True):
    """What the nodes have in common that stand around a query and change its list of hits."""

    query: Query

    @property
    def head(self) -> int | None:
        """How many of the first hits it works on, which is as far as pages reach; None for all of them."""
        size: int | None = getattr(self, "window_size", None)
        return size


class Rescore(Stage, frozen=True, kw_only=True, tag="rescore"):
    """The first hits of a query scored again, by another query or a cross-encoder."""

    positional: ClassVar[tuple[str, ...]] = ("query",)
    instead_of_text: ClassVar[tuple[str, ...]] = ("by",)
    by: Query | None = None
    reranker: str | None = None
    inference_id: str | None = None
    fields: tuple[str, ...] = ()
    text: str | None = None
    window_size: int = 50
    query_weight: float = 0.0
    rescore_weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(x is not None for x in (self.by, self.reranker, self.inference_id)) != 1:
            raise QueryError("rescore needs one of by=, reranker= and inference_id=")
        if self.by is None and not self.fields:
            raise QueryError("a cross-encoder needs fields=, the stored fields it reads", field="fields")
        if self.inference_id is not None and (len(self.fields) != 1 or self.query_weight):
            raise QueryError(
                "a rerank endpoint reads one field and its score stands alone: one of fields, query_weight 0",
                field="fields",
            )
        _from_to(self.window_size, "window_size", 1, MAX_WINDOW)
        _check_boost(self.query_weight, "query_weight")
        _check_boost(self.rescore_weight, "rescore_weight")


class Collapse(Stage, frozen=True, kw_only=True, tag="collapse"):
    """The best hit of each value of a field."""

    positional: ClassVar[tuple[str, ...]] = ("query", "field")
    field: str
    name: str | None = None


class Diversify(Stage, frozen=True, kw_only=True, tag="diversify"):
    """The first hits in an order in which each differs from those before it."""

    positional: ClassVar[tuple[str, ...]] = ("query", "field")
    field: str
    relevance: float = 0.7
    window_size: int = 50
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self.relevance, "relevance", 0, 1)
        _from_to(self.window_size, "window_size", 1, MAX_DIVERSIFIED)


class Floor(Stage, frozen=True, kw_only=True, tag="floor"):
    """The hits that are better than chance."""

    positional: ClassVar[tuple[str, ...]] = ("query",)
    p: float = 0.003
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p <= 0.5:
            raise QueryError(
                f"p is a share of random documents, above 0 and at most .5, not {self.p}", field="p"
            )


class BoostBy(Node, frozen=True, kw_only=True, tag="boost_by"):
    """Scores multiplied by (or added to) a function of a numeric field."""

    positional: ClassVar[tuple[str, ...]] = ("query", "field")
    query: Query
    field: str
    factor: float = 1.0
    modifier: Literal["none", "log1p", "log2p", "ln1p", "ln2p", "square", "sqrt", "reciprocal"] = "none"
    missing: float = 1.0
    mode: Literal["multiply", "sum"] = "multiply"
    max_boost: float | None = None
    filter: Filter | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.query, (Rrf, Linear, Stage)):
            raise QueryError(
                f"boost_by can't stand around {self.query.builder()}; put it around a leg", field=self.field
            )
        _check_boost(self.factor, "factor")
        _check_boost(self.missing, "missing")
        _check_boost(self.max_boost, "max_boost")
        if self.missing == 0 and self.modifier == "reciprocal":
            raise QueryError(
                "boost_by: the reciprocal of 0 is infinite; give missing above 0", field="missing"
            )


Filter = (
    Term
    | Terms
    | Range
    | Exists
    | Prefix
    | Wildcard
    | Ids
    | GeoDistance
    | Nested
    | Bool
    | MatchAll
    | Match
    | MatchPhrase
    | Raw
)
"""What may stand as a filter: it selects, its score doesn't count."""

Query = (
    Match
    | MultiMatch
    | MatchPhrase
    | Knn
    | Sparse
    | RankFeature
    | Term
    | Terms
    | Range
    | Exists
    | Prefix
    | Wildcard
    | Ids
    | GeoDistance
    | Nested
    | Bool
    | MatchAll
    | Raw
    | Rrf
    | Linear
    | Rescore
    | Collapse
    | Diversify
    | Floor
    | BoostBy
)
"""Any node of the algebra; msgspec reads and writes it by the tag ``type``."""
