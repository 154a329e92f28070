"""What a live index keeps of a document beside what it indexes: its ``_source``, whole or not. Pure.

``_source`` is what comes back of a document, and what the engines build on in a partial update: they merge
the change into it and index the result. A field that the rules leave out is searchable and gone with the next
partial update. (Seen on OpenSearch 3.6.0 with vectors and other fields, on Elasticsearch 9.5.3 with other
fields: an update of another field lost what ``_source.excludes`` names, and was answered as done.) Whoever
reads a document back asks :class:`SourceRules` first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from esembed.dialect.meta import HASH_FIELD
from esembed.errors import UnsupportedFeatureError

__all__ = [
    "SourceFetch",
    "SourceRules",
    "defaults_question",
    "missing_source",
    "with_defaults",
    "within",
]


KEEPS_VECTORS = "mapping.exclude_source_vectors"
"""The setting under ``index`` that has Elasticsearch (9.2 on) keep vectors beside ``_source`` and put them
back where they are asked for, and before a partial update; seen on 9.5.3 with ``_source.excludes``, too. It
is on by default for indices made since then, which only ``include_defaults`` tells."""

VECTOR_TYPES = frozenset({"dense_vector", "sparse_vector", "rank_vectors"})
"""The types that it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFetch:
    """What a search must be told so that its hits are whole documents.

    Attributes:
        stored: fields that are stored apart from ``_source``.
        doc_values: dense vectors that are read from their doc values.
    """

    stored: tuple[str, ...] = ()
    doc_values: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stored or self.doc_values)

    def to_body(self) -> dict[str, Any]:
        """What stands in the search's body beside ``_source``, which must be written, too: with
        ``stored_fields`` alone the engines leave it out."""
        body: dict[str, Any] = {}
        if self.stored:
            body["stored_fields"] = list(self.stored)
        if self.doc_values:
            body["docvalue_fields"] = list(self.doc_values)
        return body

    def document(self, hit: Mapping[str, Any]) -> dict[str, Any]:
        """A hit's document: its ``_source`` with what was fetched beside it."""
        found = dict(hit.get("_source") or {})
        fetched = hit.get("fields")
        if not isinstance(fetched, Mapping):
            return found
        for name in (*self.stored, *self.doc_values):
            values = fetched.get(name)
            if isinstance(values, list) and values:
                # Fields come back as lists whatever was sent; a list of one is the same to a mapping.
                found[name] = values[0] if len(values) == 1 else values
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRules:
    """The rules of one live index.

    Attributes:
        enabled: whether there is a ``_source`` at all.
        includes, excludes: patterns of field names; *includes* empty is all.
        synthetic: it is built from doc values when it is asked for: whole, in the engine's own form (lists
            sorted, each value once).
        keeps_vectors: vectors are kept beside it and put back into it, whatever *excludes* says.
        ignore_malformed: whether a value that doesn't fit its field is kept, and not indexed.
        malformed: the fields whose own mapping says so.
    """

    enabled: bool = True
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    synthetic: bool = False
    keeps_vectors: bool = False
    ignore_malformed: bool = False
    malformed: tuple[str, ...] = ()

    @classmethod
    def read(cls, mapping: Mapping[str, Any], settings: Mapping[str, Any]) -> SourceRules:
        """From the live mapping and the settings under ``index``, as ``GET /NAME`` shows them."""
        shown = mapping.get("_source")
        shown = shown if isinstance(shown, Mapping) else {}
        # Elasticsearch has a setting beside the mapping, and index modes that decide it; OpenSearch calls
        # its own "derived". A setting of the mapping's is the one that counts.
        mode = str(shown.get("mode") or _setting(settings, "mapping.source.mode") or "").lower()
        by_mode = str(_setting(settings, "mode") or "").lower() in ("logsdb", "time_series")
        derived = _true(_setting(settings, "derived_source.enabled"))
        return cls(
            enabled=str(shown.get("enabled", "true")).lower() != "false" and mode != "disabled",
            includes=_patterns(shown.get("includes")),
            excludes=_patterns(shown.get("excludes")),
            synthetic=mode == "synthetic" or (not mode and (by_mode or derived)),
            keeps_vectors=_true(_setting(settings, KEEPS_VECTORS)),
            ignore_malformed=_true(_setting(settings, "mapping.ignore_malformed")),
            malformed=tuple(n for n, part in _leaves(mapping) if _true(part.get("ignore_malformed"))),
        )

    @property
    def whole(self) -> bool:
        """Whether every field of a document is in its ``_source``."""
        return self.enabled and not self.excludes and set(self.includes) <= {"*"}

    def keeps(self, path: str) -> bool:
        """Whether the field at a dotted path is in ``_source``."""
        if not self.enabled or any(_matches(pattern, path) for pattern in self.excludes):
            return False
        return not self.includes or any(_matches(pattern, path) for pattern in self.includes)

    def lost(self, mapping: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The mapped fields that ``_source`` leaves out, each with its mapping; those in nested objects, too.

        A field that isn't mapped is no loss: nobody could search it.
        """
        if self.whole:
            return {}
        back = VECTOR_TYPES if self.keeps_vectors and self.enabled else frozenset()
        return {
            path: part
            for path, part in _leaves(mapping)
            if part.get("type") not in back and not self.keeps(path)
        }

    def _told(self, mapping: Mapping[str, Any]) -> list[str]:
        """The fields that are lost, but for the hash: every update brings it."""
        return [path for path in self.lost(mapping) if path != HASH_FIELD]

    def fetch(
        self,
        mapping: Mapping[str, Any],
        *,
        what: str,
        wanted: Collection[str] | None = None,
        made: Collection[str] = (),
        vector_doc_values: bool = False,
    ) -> SourceFetch:
        """How whole documents are read.

        Args:
            mapping: the live mapping.
            what: what they are read for, for the error.
            wanted: only these fields are needed (or what lies in them); None needs all.
            made: fields that nobody needs to read: esembed makes them again.
            vector_doc_values: the engine gives dense vectors back from their doc values.

        Raises:
            UnsupportedFeatureError: a field that can't be read back.
        """
        stored: list[str] = []
        doc_values: list[str] = []
        gone: list[str] = []
        nested = {path for path, part in _objects(mapping) if part.get("type") == "nested"}
        for path, part in self.lost(mapping).items():
            if within(path, made) or not (wanted is None or within(path, wanted)):
                continue
            inside = any(path.startswith(f"{one}.") for one in nested)
            if not inside and _true(part.get("store")):
                stored.append(path)
            elif not inside and vector_doc_values and part.get("type") == "dense_vector":
                doc_values.append(path)
            else:
                gone.append(path)
        if gone:
            raise UnsupportedFeatureError(
                [
                    f"{what} reads documents back, and {self.reason(gone)}; ingest the records from where "
                    "they came from into an index made from the plan"
                ],
                profile="this index",
            )
        return SourceFetch(stored=tuple(stored), doc_values=tuple(doc_values))

    def reason(self, fields: Collection[str]) -> str:
        """Why these fields are not in ``_source``, as a clause."""
        if not self.enabled:
            return "its mapping keeps none (_source is switched off)"
        shown = sorted(fields)
        names = ", ".join(map(repr, shown[:5])) + (" …" if len(shown) > 5 else "")
        rule = "excludes" if self.excludes else "includes"
        return f"its mapping leaves {names} out of _source (_source.{rule})"

    def notes(self, mapping: Mapping[str, Any]) -> tuple[str, ...]:
        """What a person should know of an index with such rules, one line each; empty for ordinary ones."""
        lines = []
        lost = self._told(mapping)
        if lost:
            lines.append(
                f"{self.reason(lost)}: updates that would lose it are refused, and so are backfill, migrate "
                "and copies that need it"
            )
        if self.synthetic:
            lines.append(
                "its _source is synthetic: documents come back in the engine's own form (lists sorted, each "
                "value once)"
            )
        if self.ignore_malformed or self.malformed:
            where = "every field" if self.ignore_malformed else ", ".join(self.malformed[:5])
            lines.append(
                f"ignore_malformed is set for {where}: a value that doesn't fit its field is kept in the "
                "document and can't be searched, filtered or sorted by"
            )
        return tuple(lines)

    def drift(self, mapping: Mapping[str, Any]) -> tuple[str, ...]:
        """How the rules differ from those of an index made from a plan, one line each."""
        lines = []
        if not self.enabled:
            lines.append("~ _source: the plan keeps it, the index has none")
        elif lost := self._told(mapping):
            lines.append(
                f"~ _source: the plan keeps all of it, the index leaves out {', '.join(sorted(lost)[:10])}"
            )
        elif not self.whole:
            patterns = ", ".join((*self.excludes, *(f"all but {one}" for one in self.includes)))
            lines.append(f"~ _source: the plan keeps all of it, the index leaves out {patterns}")
        if self.synthetic:
            lines.append("~ _source: the plan keeps it as it was sent, the index builds it (synthetic)")
        if self.ignore_malformed:
            lines.append("~ index.mapping.ignore_malformed: the plan says false, the index has true")
        lines += [
            f"~ {name}.ignore_malformed: the plan says false, the index has true" for name in self.malformed
        ]
        return tuple(lines)


def defaults_question(path: str) -> tuple[str, dict[str, str]]:
    """Path and parameters of the ``GET`` that tells what :func:`with_defaults` adds; asked where ``_source``
    isn't whole, which is rare.

    Args:
        path: of the index.
    """
    params = {"include_defaults": "true", "flat_settings": "true"}
    return f"{path}/_settings/index.{KEEPS_VECTORS}", params


def with_defaults(settings: Mapping[str, Any], shown: Any) -> Mapping[str, Any]:
    """The settings with what the engine does by default about vectors.

    Args:
        settings: what stands under ``index``.
        shown: the index's part of the answer to :func:`defaults_question`.
    """
    shown = shown if isinstance(shown, Mapping) else {}
    for part in (shown.get("settings"), shown.get("defaults")):
        value = part.get(f"index.{KEEPS_VECTORS}") if isinstance(part, Mapping) else None
        if value is not None:
            return {**settings, KEEPS_VECTORS: value}
    return settings


def missing_source(lost: Collection[str], provided: Collection[str]) -> list[str]:
    """The fields that a partial update would lose: left out of ``_source`` and not in the update itself."""
    return sorted(path for path in lost if not within(path, provided))


def within(path: str, names: Collection[str]) -> bool:
    """Whether a field is one of these, or lies inside one that is an object."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _matches(pattern: str, path: str) -> bool:
    """As the engines filter ``_source``: ``*`` stands for anything, and an object takes all inside along."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    return re.fullmatch(rf"{expression}(\..*)?", path, re.DOTALL) is not None


def _patterns(shown: Any) -> tuple[str, ...]:
    if isinstance(shown, str):
        return (shown,)
    return tuple(map(str, shown)) if isinstance(shown, (list, tuple)) else ()


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _setting(settings: Mapping[str, Any], path: str) -> Any:
    """A setting under ``index``, whether the engine shows it flat or nested."""
    if path in settings:
        return settings[path]
    here: Any = settings
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return None if isinstance(here, Mapping) else here


def _objects(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    properties = mapping.get("properties")
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(part, Mapping) and "properties" in part:
            yield f"{prefix}{name}", part
            yield from _objects(part, f"{prefix}{name}.")


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Fields with values of their own. Sub-fields and aliases have their field's."""
    properties = mapping.get("properties")
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        if not isinstance(part, Mapping):
            continue
        if "properties" in part:
            yield from _leaves(part, f"{prefix}{name}.")
        elif part.get("type") != "alias":
            yield f"{prefix}{name}", part
