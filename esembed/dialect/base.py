"""One engine's way to say things, as an object: what a plan, a query and a record become there.

:func:`esembed.dialect.dialect_for` picks it from an engine's capabilities. Everything in it is pure: it
builds JSON and reads JSON, and never sends a request.

What an engine can't do is a *gap*: a line that names the field or the option, what is missing and the remedy.
Compilers collect gaps and raise all of them at once, as an
:class:`~esembed.errors.UnsupportedFeatureError`.
"""

from __future__ import annotations

from dataclasses import dataclass

from esembed.capabilities import Capabilities
from esembed.dialect.documents import DocumentFormat
from esembed.dialect.mapping import MappingCompiler
from esembed.dialect.query import QueryCompiler
from esembed.dialect.scores import ScoreScale

__all__ = ["Dialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one engine, with these capabilities, understands.

    Attributes:
        capabilities: what the engine can do; what it can't becomes a gap with its remedy.
        mapping: a plan to what creates its index, and live fields back to the plan's.
        query: a query node to the clauses of a search body.
        documents: a record to its bulk lines, and a stored document back to a record.
        scores: the engine's scores to one scale.
    """

    capabilities: Capabilities
    mapping: MappingCompiler
    query: QueryCompiler
    documents: DocumentFormat
    scores: ScoreScale
