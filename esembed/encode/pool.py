"""The encoders of one plan: loaded when first needed, shared between fields, checked before first use.

A dense field of ``hf:X`` and a sparse field of ``splade:X`` over the same text get the two halves of one
network (:mod:`esembed.encode.transformer.combined`), which makes both vectors in one pass.

``_meta`` is untrusted input, so a pool for a plan that was read from an index loads only what the
caller allowed (or what needs no address: ``minilm``, ``lexical``, ``precomputed``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from esembed.encode.base import DenseSparseEncoder, Encoder, RuntimeOptions
from esembed.encode.processes import ForkSafeLock, ModelUser, release, remember, share
from esembed.encode.registry import load
from esembed.errors import EncoderError, PlanError, QueryError
from esembed.plan import DenseField, IndexPlan, SparseField, engine_endpoint
from esembed.plan.encoders import fetches_nothing, split_spec
from esembed.plan.fields import MAX_SEISMIC_IDS, PRECOMPUTED
from esembed.plan.params import EncoderParams

__all__ = ["EncoderPool", "combined_of"]

_log = logging.getLogger(__name__)

_TRAINED_FOR = {
    "cosine": ("cosine",),
    "dot": ("dot_product", "max_inner_product"),
    "euclidean": ("l2_norm",),
}
"""sentence-transformers' names of similarities → the plan's that rank so; the last is advised."""


_SHARED = ("minilm", "hf", "splade", "static")
"""Families whose models are large: one loaded model serves all pools of the process that ask for the same."""


def _load_halves(name: str, recipes: tuple[tuple[str, EncoderParams, RuntimeOptions], ...]) -> Any:
    """The dense and the sparse half on one network, or None where one pass can't make both vectors."""
    from esembed.encode.transformer.combined import load_shared

    (_, dense, runtime), (_, sparse, _) = recipes
    combined = load_shared(name, dense, sparse, runtime)
    if combined is None:
        return None
    halves: tuple[Encoder, Encoder] = (combined.dense, combined.sparse)
    for half, recipe in zip(halves, recipes, strict=True):
        remember(half, recipe, load)
    return halves


def combined_of(dense: Encoder, sparse: Encoder) -> DenseSparseEncoder | None:
    """What these two encoders are the halves of, or None."""
    combined: DenseSparseEncoder | None = getattr(dense, "combined", None)
    if combined is not None and combined.dense is dense and combined.sparse is sparse:
        return combined
    return None


def _same_model(dense: str, sparse: str) -> bool:
    """Whether these are ``hf:X`` and ``splade:X`` of one X."""
    names = []
    for spec, family in ((dense, "hf:"), (sparse, "splade:")):
        if not spec.startswith(family) or spec == family:
            return False
        rest = spec.removeprefix(family)
        folder = rest.startswith((".", "/", "~"))
        names.append(os.path.normpath(os.path.expanduser(rest)) if folder else rest)
    return names[0] == names[1]


class EncoderPool:
    """Encoders by field name. Safe to use from several threads.

    Args:
        plan: the plan whose fields are encoded.
        encoder: the caller's own, one for all vector fields of its kind, or one for each field.
        allow_encoders: spec strings that may be loaded; None allows all (a plan the caller wrote).
        runtime: how loaded encoders run here; None takes ``RuntimeOptions.from_environment()``.
        contracts: field → stored contract; checked before an encoder is first handed out.

    Raises:
        EncoderError: *encoder* names a field that the plan lacks.
    """

    def __init__(
        self,
        plan: IndexPlan,
        *,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        allow_encoders: Collection[str] | None = (),
        runtime: RuntimeOptions | None = None,
        contracts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.plan = plan
        self._given = dict(encoder) if isinstance(encoder, Mapping) else {}
        self._for_all = None if isinstance(encoder, Mapping) else encoder
        unknown = set(self._given) - set(dict(plan.vector_fields()))
        if unknown:
            raise EncoderError(
                f"encoder= names fields that the plan lacks: {', '.join(sorted(unknown))}; it has "
                f"{', '.join(dict(plan.vector_fields())) or 'no vector fields'}"
            )
        self._allow = None if allow_encoders is None else frozenset(allow_encoders)
        self._runtime = runtime
        self._contracts = dict(contracts or {})
        self._loaded: dict[tuple[str, EncoderParams], Encoder] = {}
        self._shared = ModelUser()
        self._ready: dict[str, Encoder] = {}
        self._token_ids: dict[str, dict[str, int]] = {}
        self._lock = ForkSafeLock(reentrant=True)

    @property
    def runtime(self) -> RuntimeOptions:
        """How loaded encoders run here. The environment is read when it is first asked for, so that a
        misspelt variable stops what encodes, and nothing else.

        Raises:
            EncoderError: a variable that names no option, or holds what it can't be.
        """
        if self._runtime is None:
            self._runtime = RuntimeOptions.from_environment()
        return self._runtime

    def similarity_notes(self) -> list[str]:
        """A line for each dense field whose similarity isn't what its model's files say, logged as a warning
        too. What the plan says is never changed. Encoders that aren't in use yet are left out."""
        notes = []
        for name, field_spec in self.plan.dense.items():
            encoder = self._ready.get(name)
            trained = getattr(encoder, "similarity", None)
            if encoder is None or trained not in _TRAINED_FOR:
                continue
            wanted = _TRAINED_FOR[trained]
            same = field_spec.similarity in wanted or (
                encoder.info.normalize and trained in ("dot", "cosine")
            )
            if not same:
                notes.append(
                    f"dense.{name}: similarity is {field_spec.similarity!r} as the plan says, and the "
                    f'model\'s files say {trained!r}: write similarity = "{wanted[-1]}" unless you mean it'
                )
                _log.warning(notes[-1])
        return notes

    def field(self, name: str) -> DenseField | SparseField:
        """The vector field of that name. Raises QueryError naming those there are."""
        field_spec = self.plan.dense.get(name) or self.plan.sparse.get(name)
        if field_spec is None:
            known = ", ".join(dict(self.plan.vector_fields())) or "none"
            raise QueryError(f"the plan has no vector field {name!r} (there are: {known})", field=name)
        return field_spec

    # -- fields that share a pass ----------------------------------------------------------------

    @cached_property
    def _pairs(self) -> dict[str, str]:
        """Dense field → the sparse field that is encoded from the same text by the same model, as far as the
        plan tells, and the other way round."""
        pairs: dict[str, str] = {}
        for name, dense in self.plan.dense.items():
            for other, sparse in self.plan.sparse.items():
                mine, theirs = self._user_encoder(name, dense), self._user_encoder(other, sparse)
                if mine is None and theirs is None:
                    same = _same_model(dense.encoder, sparse.encoder)
                    same = same and dense.params.revision == sparse.params.revision
                else:
                    same = mine is not None and theirs is not None and combined_of(mine, theirs) is not None
                same_text = all(
                    getattr(dense, key) == getattr(sparse, key) for key in ("source", "separator", "chunked")
                )
                if same and same_text and other not in pairs:
                    pairs[name], pairs[other] = other, name
                    break
        return pairs

    def partner(self, name: str) -> str | None:
        """The field that may be encoded in the same pass: of a dense one its sparse one, of a sparse one its
        dense one. Looks at the plan only; :meth:`combined` says whether the models can do it."""
        return self._pairs.get(name)

    def combined(self, name: str) -> DenseSparseEncoder | None:
        """What makes the vectors of this field and of its :meth:`partner` in one pass, or None; loads both.

        Raises:
            as :meth:`encoder`.
        """
        other = self.partner(name)
        if other is None:
            return None
        found = self.encoders((name, other))
        dense, sparse = (name, other) if name in self.plan.dense else (other, name)
        return combined_of(found[dense], found[sparse])

    def sharing_notes(self) -> list[str]:
        """A line for each two fields in use whose vectors one pass makes."""
        pairs = [(name, self._pairs[name]) for name in self.plan.dense if name in self._pairs]
        return [
            f"{dense}, {sparse}: one pass of {self.plan.dense[dense].encoder} makes both vectors"
            for dense, sparse in pairs
            if {dense, sparse} <= set(self._ready) and combined_of(self._ready[dense], self._ready[sparse])
        ]

    # -- encoders ----------------------------------------------------------------------------------

    def encoders(self, names: Iterable[str]) -> dict[str, Encoder]:
        """The encoders of several fields that are used together; those that share a pass are checked in one.

        Raises:
            as :meth:`encoder`.
        """
        wanted = list(names)
        if all(name in self._ready for name in wanted):
            return {name: self._ready[name] for name in wanted}
        with self._lock:
            for name in wanted:
                other = self.partner(name)
                if other in wanted and not {name, other} & set(self._ready):
                    self._prepare_both(name, str(other))
        return {name: self.encoder(name) for name in wanted}

    def one_at_a_time(self, names: Iterable[str]) -> dict[str, Encoder]:
        """Like :meth:`encoders`, for a caller that asks each of them for the vectors of the same few texts,
        one after the other: two that share a pass run it once. Not to be kept.

        Raises:
            as :meth:`encoder`.
        """
        found = self.encoders(names)
        for name in self.plan.dense:
            other = self.partner(name)
            combined = combined_of(found[name], found[other]) if name in found and other in found else None
            if combined is not None and other is not None:
                found[name], found[other] = combined.one_at_a_time()
        return found

    def _prepare_both(self, name: str, other: str) -> None:
        if name not in self.plan.dense:
            name, other = other, name
        dense, sparse = self._matching(name), self._matching(other)
        combined = combined_of(dense, sparse)
        shown = (dense, sparse) if combined is None else combined.one_at_a_time()
        for field, one in zip((name, other), shown, strict=True):
            self._check(field, one)
        self._ready[name], self._ready[other] = dense, sparse

    def encoder(self, name: str) -> Encoder:
        """The encoder of a field, loaded and checked at the first call.

        Raises:
            QueryError: no such vector field.
            EncoderError: it can't be loaded, or wasn't allowed.
            ContractError: it is not the one that filled the index.
        """
        ready = self._ready.get(name)
        if ready is not None:
            return ready
        with self._lock:
            if name not in self._ready:
                self._ready[name] = self._prepare(name)
            return self._ready[name]

    def _prepare(self, name: str) -> Encoder:
        encoder = self._matching(name)
        self._check(name, encoder)
        return encoder

    def _user_encoder(self, name: str, field_spec: DenseField | SparseField) -> Encoder | None:
        """The encoder that the caller brought for a field, or None."""
        kind = "dense" if isinstance(field_spec, DenseField) else "sparse"
        encoder = self._given.get(name)
        if encoder is None and self._for_all is not None and self._for_all.info.type == kind:
            encoder = self._for_all
        return encoder

    def _matching(self, name: str) -> Encoder:
        field_spec = self.field(name)
        kind = "dense" if isinstance(field_spec, DenseField) else "sparse"
        encoder = self._user_encoder(name, field_spec)
        if encoder is None:
            encoder = self._load(name, field_spec)
        if encoder.info.type != kind and not field_spec.precomputed:
            raise EncoderError(
                f"{name}: a {kind} field can't be filled by {encoder.info.spec!r}, a {encoder.info.type} "
                "encoder",
                spec=field_spec.encoder,
            )
        if (
            isinstance(field_spec, DenseField)
            and field_spec.dims
            and encoder.info.dims not in (None, field_spec.dims)
        ):
            raise EncoderError(
                f"{name}: the plan says {field_spec.dims} dims, {encoder.info.spec!r} makes "
                f"{encoder.info.dims}; set the field's dims to that, or params.dims to truncate a "
                "Matryoshka model",
                spec=field_spec.encoder,
            )
        return encoder

    def _check(self, name: str, encoder: Encoder) -> None:
        stored = self._contracts.get(name)
        if stored is not None and not self.field(name).precomputed:
            from esembed.encode.model_check import check_contract

            check_contract(stored, encoder, field=name)

    def _load(self, name: str, field_spec: DenseField | SparseField) -> Encoder:
        spec, params, family = field_spec.encoder, field_spec.params, field_spec.family
        if family in (PRECOMPUTED, "engine") and isinstance(field_spec, DenseField) and params.dims is None:
            params = EncoderParams(dims=field_spec.dims)
        if family == "engine":  # the section tells what the endpoint returns
            kind = "dense" if isinstance(field_spec, DenseField) else "sparse"
            spec = f"engine:{kind}/{engine_endpoint(field_spec.encoder)}"
        key = (spec, params)
        if key in self._loaded:
            return self._loaded[key]
        if not self._allowed(field_spec.encoder) and family != "custom":  # whose loader says what to do
            raise EncoderError(
                f"{name}: the index says that {field_spec.encoder!r} filled it, but what an index says is "
                f"not loaded unasked: pass allow_encoders=[{field_spec.encoder!r}] or encoder=…",
                spec=field_spec.encoder,
            )
        self._load_shared(key)
        if key not in self._loaded:
            recipe = (spec, params, self.runtime)
            if family in _SHARED:
                [self._loaded[key]] = share(self._shared, (recipe,), lambda: (load(*recipe),)) or ()
            else:
                self._loaded[key] = load(*recipe)
        return self._loaded[key]

    def _allowed(self, spec: str) -> bool:
        return self._allow is None or spec in self._allow or fetches_nothing(spec)

    def _load_shared(self, key: tuple[str, EncoderParams]) -> None:
        """Load both halves of a pair that this encoder is of, where one pass can make their vectors."""
        for name in self.plan.dense:
            other = self._pairs.get(name)
            if other is None:
                continue
            dense, sparse = self.plan.dense[name], self.plan.sparse[other]
            keys = ((dense.encoder, dense.params), (sparse.encoder, sparse.params))
            if key not in keys or any(one in self._loaded for one in keys):
                continue
            if self._user_encoder(name, dense) is not None or not (
                self._allowed(keys[0][0]) and self._allowed(keys[1][0])
            ):
                continue
            rest = split_spec(dense.encoder)[1]
            recipes = tuple((*one, self.runtime) for one in keys)
            make = partial(_load_halves, rest, recipes)
            found = share(self._shared, recipes, make)
            if found is not None:
                self._loaded[keys[0]], self._loaded[keys[1]] = found
                return

    def for_plan(self, plan: IndexPlan) -> EncoderPool:
        """The same encoders for another state of the same plan (dims and avgdl resolved): what is
        loaded stays loaded, where its spec and params are unchanged."""
        given: Encoder | Mapping[str, Encoder] | None = self._given or self._for_all
        other = EncoderPool(
            plan,
            encoder=given,
            allow_encoders=self._allow,
            runtime=self._runtime,
            contracts=self._contracts,
        )
        other._loaded, other._shared = self._loaded, self._shared
        return other

    def make_contracts(self) -> dict[str, dict[str, Any]]:
        """Field → contract, for every vector field that isn't brought by the caller; loads the models."""
        from esembed.encode.model_check import make_contract

        names = [name for name, field_spec in self.plan.vector_fields() if not field_spec.precomputed]
        return {name: dict(make_contract(encoder)) for name, encoder in self.one_at_a_time(names).items()}

    def token_ids(self, *, ready_only: bool = False) -> dict[str, dict[str, int]]:
        """Field → token → id, for the sparse fields that are stored as SEISMIC vectors, whose features are
        integers.

        Args:
            ready_only: only of fields whose encoder is in use already; loads no model.

        Raises:
            PlanError: an encoder without a fixed vocabulary of at most 32,768 tokens.
        """
        found: dict[str, dict[str, int]] = {}
        for name, field_spec in self.plan.sparse.items():
            if field_spec.storage != "seismic" or field_spec.precomputed:
                continue
            if name in self._token_ids:
                found[name] = self._token_ids[name]
                continue
            if ready_only and name not in self._ready:
                continue
            # Imported here: it reads model folders, which most plans of a search process never need.
            from esembed.encode.models.vocabulary import token_ids

            vocabulary = getattr(self.encoder(name), "vocabulary", None)
            if vocabulary is None or len(vocabulary) > MAX_SEISMIC_IDS:
                raise PlanError(
                    f"SEISMIC needs a fixed vocabulary of at most {MAX_SEISMIC_IDS} tokens, which "
                    f'{field_spec.encoder!r} lacks; use storage = "rank_features"',
                    path=f"sparse.{name}.storage",
                )
            found[name] = self._token_ids[name] = token_ids(vocabulary)
        return found

    def accept_contracts(self, contracts: Mapping[str, Mapping[str, Any]]) -> None:
        """Check against these contracts from now on."""
        self._contracts = dict(contracts)

    def put(self, name: str, encoder: Encoder) -> None:
        """Use *encoder* for a field from now on (new term statistics, for one)."""
        with self._lock:
            self._ready[name] = encoder

    def close(self) -> None:
        """Close what this pool loaded and no other pool uses; the caller's own encoders stay the caller's."""
        with self._lock:
            for (spec, _), encoder in self._loaded.items():
                if split_spec(spec)[0] not in _SHARED:
                    encoder.close()
            release(self._shared)
            self._loaded.clear()
            self._ready.clear()
