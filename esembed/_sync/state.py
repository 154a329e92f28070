# Generated from esembed/_async/state.py by scripts/run_unasync.py; change that file and run the script.
"""What an open index is made of: the functions of this package work on it, ``Index`` shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.meta import FLOOR, stored_meta
from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.pool import EncoderPool
from esembed.errors import AuthorizationError, EncoderError
from esembed.plan import IndexPlan
from esembed.search.calibration import read_calibration
from esembed.search.options import Reranker, check_rerankers

from ._shim import in_thread
from .client import EngineClient
from .live import LiveIndex, write_meta
from .search import Searcher
from .term_statistics import STATISTICS_INDEX, load_statistics

__all__ = ["Encoders", "IndexState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The encoders that a caller brings to an index, or lets it load.

    Attributes:
        encoder: one encoder, or one for each field by name; None loads what the plan names.
        allow: spec strings that may be loaded. None: all of them, since the plan is the caller's own. A plan
            that was read from an index is untrusted input, and nothing is loaded that isn't listed.
        runtime: how loaded encoders run here; None reads the environment.
    """

    encoder: Encoder | Mapping[str, Encoder] | None = None
    allow: Collection[str] | None = None
    runtime: RuntimeOptions | None = None

    def pool(self, plan: IndexPlan, contracts: Mapping[str, Mapping[str, Any]] | None = None) -> EncoderPool:
        """The encoders of a plan's fields; none is loaded yet.

        Args:
            contracts: what the index was filled with, field by field; checked before an encoder's first use.
        """
        return EncoderPool(
            plan,
            encoder=self.encoder,
            allow_encoders=self.allow,
            runtime=self.runtime,
            contracts=contracts,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class IndexState:
    """One open index, for as long as it is open. What the index says about itself changes in place.

    Attributes:
        client: carries the requests over the caller's official client.
        live: the index as the engine had it when it was opened.
        stored: what it says about itself (``_meta.esembed``), as this object last read or wrote it.
        capabilities: what the engine can do.
        pool: the encoders of the plan's fields.
        notes: what was resolved or can't be checked, one line each.
        rerankers: name → cross-encoder, for ``q.rescore(…, reranker=name)``.
        allow_raw: the default query that the index holds may be the engine's own JSON.
        created: it was made for this object; else it was there.
        may_count: it is known that counted terms can be stored.
    """

    client: EngineClient
    live: LiveIndex
    stored: meta.StoredMeta
    capabilities: Capabilities
    pool: EncoderPool
    notes: tuple[str, ...] = ()
    rerankers: Mapping[str, Reranker] | None = None
    allow_raw: bool = False
    created: bool = False
    may_count: bool = field(default=False, init=False)
    _searcher: Searcher | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.rerankers = check_rerankers(self.rerankers)

    @property
    def name(self) -> str:
        """What was asked for, an index or an alias."""
        return self.live.name

    @property
    def concrete_index(self) -> str:
        """The index behind the name, which requests are sent to; of several, their names with commas."""
        return self.live.concrete_index

    @property
    def plan(self) -> IndexPlan:
        """The plan as the index has it."""
        return self.stored.plan

    @property
    def lexical_fields(self) -> list[str]:
        """The sparse fields whose weights come from the collection's term statistics."""
        return self.plan.lexical_fields

    # -- what changes ------------------------------------------------------------------------------

    def replace_stored(self, stored: meta.StoredMeta) -> None:
        """Go on with what the index says about itself now."""
        if stored is not self.stored:
            self.stored = meta.with_raw_allowed(stored) if self.allow_raw else stored
            self._searcher = None  # it holds the plan before

    def replace_pool(self, pool: EncoderPool) -> None:
        """Go on with other encoders."""
        self.pool = pool
        self._searcher = None

    def use_encoder(self, field: str, encoder: Encoder) -> None:
        """Encode a field with *encoder* from now on."""
        self.pool.put(field, encoder)
        # The searcher keeps query vectors, which the encoder before made.
        self._searcher = None

    def store(self, stored: meta.StoredMeta) -> None:
        """Write what the index says about itself, and go on with it.

        Raises:
            PlanError: it would take more than 16 KiB; nothing was written.
            TransientError: others wrote ``_meta`` each time.
        """
        self.live.require_one("writing what the index says about itself")
        write_meta(self.client, self.concrete_index, stored)
        self.replace_stored(stored)

    # -- searching -----------------------------------------------------------------------------------

    @property
    def searcher(self) -> Searcher:
        """What searches: encoders stay loaded, query vectors cached. Made at the first search."""
        if self._searcher is None:
            self._searcher = Searcher(
                self.client,
                self.concrete_index,
                self.plan,
                self.capabilities,
                self.pool,
                live=self.live,
                rerankers=self.rerankers,
                before_encoding=self.load_statistics,
                calibration=read_calibration(self.stored.rest.get(FLOOR)),
            )
        return self._searcher

    def _statistics_of(self, field: str) -> list[str]:
        """The hashes of a field's counts, of each index that the name stands for."""
        found = [self.stored]
        if self.live.several:
            # They have plans: an index without one is not opened beside others.
            found = [one for live in self.live.several if (one := stored_meta(live.mapping)) is not None]
        return [digest for one in found if (digest := one.statistics.get(field)) is not None]

    def load_statistics(self, field: str | None = None) -> None:
        """Give lexical fields the collection's term statistics, once.

        Done before a field's first query and not when the index is opened: a key that may only read the
        index itself can open it and search every other field.

        Args:
            field: only this one, where it is lexical; None is all of them.

        Raises:
            EncoderError: they are gone, or the credentials may not read them.
        """
        for name in self.lexical_fields:
            if field not in (None, name):
                continue
            encoder = in_thread(self.pool.encoder, name)
            digests = self._statistics_of(name)
            if isinstance(encoder, LexicalEncoder) and encoder.statistics is None and digests:
                try:
                    counted = load_statistics(self.client, digests[0])
                    for digest in digests[1:]:
                        counted = counted.merge(load_statistics(self.client, digest))
                except AuthorizationError as error:
                    raise EncoderError(
                        f"{name}: the collection's term statistics can't be read ({error}); a text search in "
                        f"this field needs the privilege read on the index {STATISTICS_INDEX}, other fields "
                        "don't"
                    ) from error
                # Not use_encoder: no query of this field was encoded before, so the searcher that is
                # waiting for this stays as it is.
                self.pool.put(name, encoder.with_statistics(counted))
