"""The plan itself: declarative, immutable, equal by value, the same in Python, TOML and JSON."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from esembed.errors import PlanError, QueryError
from esembed.json_input import JsonInputError, JsonLimits, check_json, parse_json, parse_toml
from esembed.plan import paths
from esembed.plan.checks import validate
from esembed.plan.fields import (
    ChunkOptions,
    DenseField,
    FilterField,
    IndexOptions,
    LoadOptions,
    PlanStruct,
    SparseField,
    TextField,
)
from esembed.query import Query
from esembed.query.nodes import FrozenMap, freeze
from esembed.query.tree import from_dict as query_from_dict

__all__ = ["IndexPlan"]

T = TypeVar("T")

LIMITS = JsonLimits(characters=1024 * 1024)
"""How much a plan may be: ``_meta`` takes 16 KiB of it in the end, and a thousand fields fit in."""


class IndexPlan(PlanStruct, frozen=True, kw_only=True):
    """What an index is. See :mod:`esembed.plan` for its TOML.

    Attributes:
        text, dense, sparse, filter: the fields by name; a name stands in one section only.
        chunk: how texts are cut, where a field has ``chunked``.
        id_field: the record's field that holds its id, else the id comes with the record or from
            its content.
        version_field: the record's field that says which of two records of one id is the newer one: a whole
            number, or a time. The engine then keeps the newer one, in whatever order they come.
        query: the default query (its ``text`` left out), else text and dense legs fused by RRF, and
            a learned sparse leg where there is one.
        analysis: analyzers, filters, tokenizers and normalizers of the index's own, as the engines write them
            (``{"analyzer": {"mine": {…}}, "filter": {…}}``); text and filter fields name them.
        index, load: index settings.
        description: for people.

    Raises:
        PlanError: on creation, when fields contradict each other.
    """

    text: Mapping[str, TextField] = FrozenMap()
    dense: Mapping[str, DenseField] = FrozenMap()
    sparse: Mapping[str, SparseField] = FrozenMap()
    filter: Mapping[str, FilterField] = FrozenMap()
    chunk: ChunkOptions | None = None
    id_field: str | None = None
    version_field: str | None = None
    query: Query | None = None
    analysis: Mapping[str, Any] = FrozenMap()
    index: IndexOptions = IndexOptions()
    load: LoadOptions = LoadOptions()
    description: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for section in ("text", "dense", "sparse", "filter"):
            msgspec.structs.force_setattr(self, section, FrozenMap(getattr(self, section)))
        msgspec.structs.force_setattr(self, "analysis", freeze(self.analysis))
        validate(self)

    def inner_types(self) -> dict[str, str]:
        """Path → type of its nested filter fields and of what is in them."""
        found: dict[str, str] = {}
        for name, field in self.filter.items():
            if field.fields:
                found[name] = field.type
                found |= {f"{name}.{key}": inner.type for key, inner in field.fields.items()}
        return found

    def with_unmapped(self, other: IndexPlan) -> IndexPlan:
        """This plan, with what of its vector fields only esembed reads (``optional``, ``candidates``) as
        *other*'s fields of the same names have it."""

        def as_there(fields: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
            names = {"optional", "candidates"}.intersection
            return {
                name: msgspec.structs.replace(
                    field, **{one: getattr(there[name], one) for one in names(field.__struct_fields__)}
                )
                if name in there
                else field
                for name, field in fields.items()
            }

        return self.replace(
            dense=as_there(self.dense, other.dense), sparse=as_there(self.sparse, other.sparse)
        )

    # -- reading and writing -------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, allow_raw: bool = False) -> IndexPlan:
        """From plain values.

        Args:
            allow_raw: take a default query with ``raw`` nodes in it, which hold the engine's own JSON: for
                plans of your own.

        Raises:
            PlanError: what is wrong, with its path.
        """
        try:
            check_json(data, LIMITS)
        except JsonInputError as error:
            raise PlanError(error.message, path=error.path) from None
        return cls._from_checked(data, allow_raw)

    @classmethod
    def _from_checked(cls, data: Any, allow_raw: bool) -> IndexPlan:
        if not isinstance(data, Mapping):
            raise PlanError(f"a plan is an object, not {type(data).__name__}")
        parts = dict(data)
        for section, kind in _SECTIONS.items():
            named = parts.get(section)
            if isinstance(named, Mapping):
                # One field at a time: msgspec's own path would not name it.
                parts[section] = {
                    name: _convert(value, kind, f"{section}.{name}") for name, value in named.items()
                }
        if isinstance(parts.get("query"), Mapping):
            try:
                parts["query"] = query_from_dict(parts["query"], allow_raw=allow_raw)
            except QueryError as error:
                raise PlanError(error.message, path="query") from error
        return _convert(parts, cls, "")

    @classmethod
    def from_toml(cls, text: str, *, allow_raw: bool = False) -> IndexPlan:
        """From TOML text, as :meth:`from_dict`. Raises PlanError."""
        try:
            data = parse_toml(text, LIMITS)
        except JsonInputError as error:
            raise PlanError(error.message, path=error.path) from None
        return cls._from_checked(data, allow_raw)

    @classmethod
    def from_json(cls, text: str | bytes, *, allow_raw: bool = False) -> IndexPlan:
        """From JSON text, as :meth:`from_dict`. Raises PlanError."""
        try:
            data = parse_json(text, LIMITS)
        except JsonInputError as error:
            raise PlanError(error.message, path=error.path) from None
        return cls._from_checked(data, allow_raw)

    @classmethod
    def load_file(cls, path: str | Path, *, allow_raw: bool = True) -> IndexPlan:
        """From a ``.toml`` or ``.json`` file, which is taken for the caller's own: ``raw`` is allowed.

        Raises:
            PlanError: what is wrong, or that the file can't be read.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"can't read the plan {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"the plan {path} is not UTF-8 text") from error
        try:
            read = cls.from_json if path.suffix == ".json" else cls.from_toml
            return read(text, allow_raw=allow_raw)
        except PlanError as error:
            raise PlanError(f"in {path.name}: {error.message}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what equals its default is left out, so that diffs stay small."""
        data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self, enc_hook=str))
        for section in ("text", "dense", "sparse", "filter", "analysis"):
            if not data.get(section):
                data.pop(section, None)
        return data

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back as an equal plan."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    def to_json(self) -> str:
        """JSON text, keys in a fixed order."""
        return msgspec.json.encode(self.to_dict(), order="deterministic").decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The plan's JSON Schema (2020-12), for editors and checks in other languages."""
        return msgspec.json.schema(cls)

    # -- looking at it -------------------------------------------------------------------------

    def vector_fields(self) -> Iterator[tuple[str, DenseField | SparseField]]:
        """Every dense and sparse field with its name, dense first."""
        yield from self.dense.items()
        yield from self.sparse.items()

    def field_path(self, name: str) -> str:
        """The name a vector field has in the mapping: under the chunks' path where it is chunked
        and chunks are nested."""
        spec = self.vector_field(name)
        if spec is not None and spec.chunked and self.chunk is not None and self.chunk.store == "nested":
            return f"{self.chunk.path}.{name}"
        return name

    @property
    def makes_chunks(self) -> bool:
        """Whether esembed cuts the chunks: then they are written anew with every record. Else the objects
        under the chunks' path are the records' own, vectors included."""
        return any(field.chunked and not field.precomputed for _, field in self.vector_fields())

    @property
    def object_vectors(self) -> dict[str, DenseField | SparseField]:
        """The fields whose vectors lie in nested objects that the records bring, by name."""
        if self.chunk is None or self.chunk.store != "nested" or self.makes_chunks:
            return {}
        return {name: field for name, field in self.vector_fields() if field.chunked}

    def vector_field(self, name: str) -> DenseField | SparseField | None:
        """The dense or sparse field of that name, or None."""
        return self.dense.get(name) or self.sparse.get(name)

    def vector_source(self, name: str) -> tuple[str, ...]:
        """The record's fields that a vector field is made from: the chunks' where it is chunked."""
        field = self.vector_field(name)
        if field is None:
            return ()
        return self.chunk.source if field.chunked and self.chunk is not None else field.source

    def vector_text(self, name: str, record: Mapping[str, Any]) -> str | None:
        """The text that a vector field is made from (whole, where it is cut into chunks).

        Raises:
            RecordError: a source field holds what is no text.
        """
        field = self.vector_field(name)
        if field is None:
            return None
        if field.chunked and self.chunk is not None:
            return self.chunk.source_text(record)
        return field.source_text(record)

    def searched_text(self, stored: Mapping[str, Any]) -> str:
        """A stored document's text fields in the plan's order, one value a line: what BM25 searches."""
        lines = (line for name in self.text for line in paths.texts(stored, name))
        return "\n".join(line for line in lines if line.strip())

    def summary_text(self, stored: Mapping[str, Any], *, besides: str = "") -> str:
        """What a person recognizes a stored document by, on one line: its text field with the highest boost,
        which is its title where there is one, else the first text that it has.

        Args:
            stored: the document.
            besides: a text that says nothing, such as the document's id.
        """
        fields = sorted(self.text, key=lambda name: -self.text[name].boost)
        for name in [*fields, *stored]:
            value = paths.get(stored, name)
            for text in value if isinstance(value, (list, tuple)) else [value]:
                # Numbers say little, and a vector's say nothing.
                line = " ".join(text.split()) if isinstance(text, str) else ""
                if line and line != besides:
                    return line
        return ""

    @property
    def lexical_fields(self) -> list[str]:
        """The sparse fields whose weights come from the collection's term statistics."""
        return [name for name, spec in self.sparse.items() if spec.family == "lexical"]

    def only(self, vectors: Collection[str]) -> IndexPlan:
        """The same with these vector fields alone, and without a default query."""
        return self.replace(
            dense={name: spec for name, spec in self.dense.items() if name in vectors},
            sparse={name: spec for name, spec in self.sparse.items() if name in vectors},
            query=None,
        )

    def replace(self, **changes: Any) -> IndexPlan:
        """A copy with these attributes changed, validated again."""
        return msgspec.structs.replace(self, **changes)


_SECTIONS: dict[str, Any] = {
    "text": TextField,
    "dense": DenseField,
    "sparse": SparseField,
    "filter": FilterField,
}


def _choices(kind: Any, path: str) -> list[str]:
    """The words that the attribute at *path* of a struct takes, where it takes certain words only."""
    from msgspec import inspect

    found: Any = inspect.type_info(kind)
    for name in path.split("."):
        fields = {part.name: part.type for part in getattr(found, "fields", ())}
        if name not in fields:
            return []
        found = fields[name]
    kinds = found.types if isinstance(found, inspect.UnionType) else (found,)
    return [str(word) for part in kinds if isinstance(part, inspect.LiteralType) for word in part.values]


def _convert(value: Any, kind: type[T], where: str) -> T:
    """*value* as *kind*; a PlanError names the path and, for a typing error, what was meant."""
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError as error:  # half a surrogate pair, which Python's own JSON reader lets through
        raise PlanError(f"{error.object[error.start]!r} in a text is not valid Unicode", path=where) from None
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `")
        inner = inner.rstrip("`").removeprefix("$").lstrip(".")
        path = ".".join(part for part in (where, inner) if part)
        hint = ""
        unknown = re.search(r"unknown field `(.*)`", text)
        if unknown:
            known = getattr(kind, "__struct_fields__", ())
            close = difflib.get_close_matches(unknown[1], known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if not inner:
                hint += f" (there are: {', '.join(known)})"
        wrong = re.match(r"Invalid enum value '(.*)'", text)
        if wrong:
            choices = _choices(kind, inner)
            close = difflib.get_close_matches(wrong[1], choices, n=1)
            text = f"there is no {wrong[1]!r}"
            hint = f"; did you mean {close[0]!r}?" if close else ""
            hint += f" (there are: {', '.join(choices)})" if choices else ""
        raise PlanError(text[:1].lower() + text[1:] + hint, path=path) from error
