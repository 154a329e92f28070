"""What an alias is beside a name: which documents it shows, which shards it asks, who may write by it. Pure.

The engines apply an alias's filter and routing only where a request names the alias. Requests here name the
concrete index, since a query that was embedded for one version must not be answered by another that the alias
was moved to meanwhile. So whatever reads or writes puts the alias's properties into its request itself, and
:class:`AliasProperties` alone says how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esembed.errors import QueryError

__all__ = ["NO_ALIAS", "AliasProperties"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasProperties:
    """The properties of one alias on one index, as ``GET /NAME`` shows and ``POST /_aliases`` takes them.

    Attributes:
        filter: a query in the engine's own JSON that every document must match; None shows all.
        index_routing: the routing value of what is written, and of a document that is read by its id.
        search_routing: the routing values (with commas) of the shards that a search asks.
        is_write_index: whether writes by the alias go to this index; None where nobody said.
        is_hidden: whether wildcards leave the alias out; None where nobody said.
    """

    filter: Mapping[str, Any] | None = None
    index_routing: str | None = None
    search_routing: str | None = None
    is_write_index: bool | None = None
    is_hidden: bool | None = None

    @classmethod
    def read(cls, shown: Any) -> AliasProperties:
        """From the engine's answer; what isn't of the expected form counts as absent, but for the filter.

        Raises:
            ValueError: a filter that is no object. Without it the alias would show everything.
        """
        if not isinstance(shown, Mapping):
            return NO_ALIAS
        found = shown.get("filter")
        if found is not None and not isinstance(found, Mapping):
            raise ValueError(f"its filter is a {type(found).__name__}, not an object")

        def text(name: str) -> str | None:
            value = shown.get(name)
            return None if value is None else str(value)

        def flag(name: str) -> bool | None:
            value = shown.get(name)
            return None if value is None else str(value).lower() == "true"

        return cls(
            filter=found,
            index_routing=text("index_routing"),
            search_routing=text("search_routing"),
            is_write_index=flag("is_write_index"),
            is_hidden=flag("is_hidden"),
        )

    def to_dict(self) -> dict[str, Any]:
        """What stands beside ``index`` and ``alias`` in an ``add`` action. Whatever is left out there is
        taken from the alias: engines replace its properties, they don't merge them."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}

    @property
    def narrows(self) -> bool:
        """Whether a search by the alias may miss documents of the index."""
        return self.filter is not None or self.search_routing is not None

    @property
    def search_params(self) -> dict[str, str]:
        """Parameters of a search, count or scan; in ``_msearch``, of its header."""
        return {} if self.search_routing is None else {"routing": self.search_routing}

    def params_of_search(self, routing: str | Sequence[str] | None) -> dict[str, str]:
        """Those of a search that names routing values of its own: only shards of values that the alias has,
        too, as the engines do it.

        Raises:
            QueryError: no value, one that can't be sent, or none of the alias's.
        """
        if routing is None:
            return self.search_params
        values = [routing] if isinstance(routing, str) else list(routing)
        if not values or not all(isinstance(one, str) and one and "," not in one for one in values):
            raise QueryError(
                f"routing is a text or a list of texts, none empty or with a comma, not {routing!r:.80}",
                field="routing",
            )
        if self.search_routing is not None:
            own = self.search_routing.split(",")
            values = [one for one in values if one in own]
            if not values:
                raise QueryError(
                    f"the alias searches the routing {self.search_routing!r} alone", field="routing"
                )
        return {"routing": ",".join(values)}

    def params_of_document(self, routing: str | None) -> dict[str, str]:
        """Parameters of a request that names a document by its id, and maybe the routing that it was written
        with; else the alias's."""
        found = self.index_routing if routing is None else routing
        return {} if found is None else {"routing": found}

    def narrow(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """*query*, among the documents that the alias shows."""
        if self.filter is None:
            return dict(query)
        return {"bool": {"must": [dict(query)], "filter": [dict(self.filter)]}}

    @property
    def filter_names(self) -> set[str]:
        """What the filter names, fields among it (``tenant``, and ``boost``): whoever asks knows the fields.
        What a ``query_string`` says inside its text isn't read."""
        return set(_names(self.filter))


_COMPOUND = frozenset(
    {
        "bool",
        "boosting",
        "constant_score",
        "dis_max",
        "filter",
        "function_score",
        "must",
        "must_not",
        "negative",
        "nested",
        "positive",
        "queries",
        "query",
        "script_score",
        "should",
    }
)
"""Clauses, and parts of them, that hold other clauses; all others name fields."""


def _names(clause: Any) -> Iterator[str]:
    if isinstance(clause, (list, tuple)):
        for item in clause:
            yield from _names(item)
    elif isinstance(clause, Mapping):
        for kind, options in clause.items():
            if kind in _COMPOUND:
                yield from _names(options)
            elif isinstance(options, Mapping):
                yield from map(str, options)
                for key in ("field", "fields", "default_field"):
                    value = options.get(key)
                    yield from map(str, value if isinstance(value, (list, tuple)) else [value])


NO_ALIAS = AliasProperties()
"""Of an index that is named by its own name, and of an alias that is no more than a name."""
