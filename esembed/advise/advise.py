"""Which quantization: every candidate tried on a sample, and the cheapest that keeps the recall asked for.

Recall on a sample flatters: more documents means closer neighbors. The recommendation therefore asks for
a margin (see :class:`Target`), and is checked on queries that were held back from choosing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from esembed.advise.cost import footprint, human_bytes, human_count
from esembed.advise.measure import measure
from esembed.advise.simulate import exact_neighbors, graph_share, recall, recalls, simulate_many, unit
from esembed.capabilities import Capabilities
from esembed.deprecation import renamed_attributes, warn_renamed
from esembed.dialect.mapping import compile_mapping
from esembed.dialect.quantize_vectors import calibrate
from esembed.errors import OptionsError, PlanError, UnsupportedFeatureError
from esembed.evaluate.significance import recall_to_keep
from esembed.plan import DenseField, IndexPlan
from esembed.plan.fields import PRECOMPUTED
from esembed.types import FloatArray

__all__ = ["CANDIDATES", "Candidate", "Recommendation", "Target", "Trial", "advise", "choose"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to keep vectors.

    Attributes:
        quantization, element_type: as a plan says it.
        form: the arithmetic of its codes, one of :data:`~esembed.advise.simulate.FORMS`.
        graph: whether there is an HNSW graph over them.
    """

    quantization: str
    form: str
    graph: bool = True
    element_type: str = "float"

    def on(self, capabilities: Capabilities) -> Candidate:
        """The same on an engine: some keep seven bits where others keep eight."""
        if not capabilities.seven_bit_int8 or self.form != "int8":
            return self
        return replace(self, form="int7" if self.quantization == "int8_hnsw" else "int7_clipped")


CANDIDATES: dict[str, Candidate] = {
    "hnsw": Candidate("hnsw", "float"),
    "bfloat16": Candidate("hnsw", "bfloat16", element_type="bfloat16"),
    "int8_hnsw": Candidate("int8_hnsw", "int8"),
    "byte": Candidate("hnsw", "byte", element_type="byte"),
    "int4_hnsw": Candidate("int4_hnsw", "int4"),
    "bbq_hnsw": Candidate("bbq_hnsw", "bbq"),
    "bit": Candidate("hnsw", "bit", element_type="bit"),
    "flat": Candidate("flat", "float", graph=False),
    "int8_flat": Candidate("int8_flat", "int8", graph=False),
    "int4_flat": Candidate("int4_flat", "int4", graph=False),
    "bbq_flat": Candidate("bbq_flat", "bbq", graph=False),
    "on_disk_4x": Candidate("on_disk_4x", "int8"),
}
"""What is tried, by name: a quantization, or an element type whose vectors are not quantized further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wanted.

    Attributes:
        min_recall: recall@k, 0…1.
        k: of how many.
        documents: how many there will be.
        max_ram_bytes, max_disk_bytes: budgets at that number, or None.
        disk_per_ram: how many bytes on disk cost as much as a byte of RAM. Infinity: disk is free.
        margin: recall on the sample must exceed the target by this much; None: by 1.64 standard errors of
            the queries' mean, so that other queries of the kind keep the target, too.
        flat_up_to: brute force is not advised above this many documents.
    """

    min_recall: float = 0.95
    k: int = 10
    documents: int = 1_000_000
    max_ram_bytes: int | None = None
    max_disk_bytes: int | None = None
    disk_per_ram: float = 20.0
    margin: float | None = None
    flat_up_to: int = 100_000

    def allows(self, trial: Trial) -> bool:
        """Whether a trial can be chosen, if its recall is enough: the engine has it, and brute force is no
        more than :attr:`flat_up_to` documents."""
        brute = trial.quantization.endswith("flat") and self.documents > self.flat_up_to
        return trial.gap is None and not brute

    def __post_init__(self) -> None:
        if not self.disk_per_ram > 0:
            raise OptionsError(f"above 0, not {self.disk_per_ram}", option="disk_per_ram")

    def cost(self, trial: Trial) -> float:
        """What a trial takes, in bytes of RAM: its own, and its disk at its share of their price."""
        return trial.ram_bytes + trial.disk_bytes / self.disk_per_ram

    def affordable(self, trial: Trial) -> bool:
        """Whether a trial is within the budgets."""
        ram, disk = self.max_ram_bytes, self.max_disk_bytes
        return (ram is None or trial.ram_bytes <= ram) and (disk is None or trial.disk_bytes <= disk)

    @property
    def flat_reason(self) -> str:
        """Why brute force isn't among the choices."""
        return f"brute force, which is not advised above {self.flat_up_to:,} documents"


@renamed_attributes(emulated="simulated")
@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate's figures.

    Attributes:
        quantization: the name in :data:`CANDIDATES`.
        dims, oversample: what was tried with it (oversample None: no rescoring).
        simulated: recall@k of the codes, by arithmetic, and of a graph's search through them.
        measured: recall@k on the engine, or None where it was not asked.
        standard_error: of that recall's mean over the queries it was chosen by.
        held_back: the measured (else simulated) recall on the queries that took no part in choosing.
        ram_bytes, disk_bytes: predicted for ``Target.documents``.
        measured_ram_bytes, measured_disk_bytes: of the sample, by the engine's statistics.
        predicted_sample_ram_bytes, predicted_sample_disk_bytes: to compare them with.
        latency_ms, index_seconds: of the sample, on the engine.
        gap: why the engine can't do it, or None.
    """

    quantization: str
    dims: int
    oversample: float | None
    simulated: float
    measured: float | None = None
    standard_error: float = 0.0
    held_back: float | None = None
    ram_bytes: int = 0
    disk_bytes: int = 0
    measured_ram_bytes: int | None = None
    measured_disk_bytes: int | None = None
    predicted_sample_ram_bytes: int = 0
    predicted_sample_disk_bytes: int = 0
    latency_ms: float | None = None
    index_seconds: float | None = None
    gap: str | None = None

    @property
    def recall(self) -> float:
        """The measured recall, else the simulated one."""
        return self.simulated if self.measured is None else self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer.

    Attributes:
        trials: every candidate, the engine's gaps included.
        chosen: the cheapest in RAM and disk that keeps the target, or None when none does.
        plan: the plan with that field, or None.
        target: what was asked.
        sample: vectors in the sample; queries: used for choosing; held_back: kept for the check.
        engine: which one measured, or ``simulated only``.
        scales: for 1, 10 and 100 million documents: RAM, disk, shards and nodes of the choice.
    """

    trials: tuple[Trial, ...]
    chosen: Trial | None
    plan: IndexPlan | None
    target: Target
    sample: int
    queries: int
    held_back: int
    engine: str
    scales: tuple[dict[str, Any], ...] = field(default=())

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence: the choice with its recall and size, or what comes nearest."""
        target, t = self.target, self.chosen
        size = f"for {human_count(target.documents)} documents"
        if t is not None:
            room = f"{human_bytes(t.ram_bytes)} RAM and {human_bytes(t.disk_bytes)} disk"
            return f"Choose {self._label(t)}: recall@{target.k} {t.recall:.3f}, {room} {size}"
        budgets = [
            f"{human_bytes(most)} {what}"
            for most, what in ((target.max_ram_bytes, "RAM"), (target.max_disk_bytes, "disk"))
            if most is not None
        ]
        wanted = f"recall@{target.k} {target.min_recall:g}"
        remedy = "ask for less recall"
        if budgets:
            wanted += f" within {' and '.join(budgets)}"
            remedy += ", raise the budget, or try fewer dims"
        inside = [t for t in self.choosable if target.affordable(t)]
        near = max(inside or self.choosable, key=lambda t: (t.recall, -target.cost(t)), default=None)
        if near is None:
            return f"Nothing can be chosen {size}: this engine has none of the candidates"
        return (
            f"Nothing that was tried keeps {wanted} {size}: {self._label(near)} comes nearest with "
            f"{near.recall:.3f}, {human_bytes(near.ram_bytes)} RAM and {human_bytes(near.disk_bytes)} disk; "
            f"{remedy}"
        )

    @property
    def choosable(self) -> list[Trial]:
        """The trials that can be chosen at all, whatever their recall: what reports show."""
        return [t for t in self.trials if self.target.allows(t)]

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Why some quantizations can't be chosen → their names; reports say it in a line each."""
        found: dict[str, list[str]] = {}
        for t in self.trials:
            if not self.target.allows(t):
                names = found.setdefault(t.gap or self.target.flat_reason, [])
                names += [] if t.quantization in names else [t.quantization]
        return found

    def _label(self, t: Trial) -> str:
        """``int8_hnsw with oversample 2 at 256 dims``: what tells it from the others that were tried."""
        dims = f" at {t.dims} dims" if len({one.dims for one in self.trials}) > 1 else ""
        return t.quantization + ("" if t.oversample is None else f" with oversample {t.oversample:g}") + dims

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "conclusion": self.conclusion,
            "engine": self.engine,
            "sample": self.sample,
            "queries": self.queries,
            "held_back": self.held_back,
            "target": asdict(self.target),
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "scales": list(self.scales),
            "trials": [asdict(trial) for trial in self.trials],
        }


def advise(
    vectors: FloatArray,
    queries: FloatArray,
    plan: IndexPlan,
    name: str,
    *,
    target: Target | None = None,
    capabilities: Capabilities,
    client: Any = None,
    quantizations: Sequence[str] | None = None,
    dims: Sequence[int] = (),
    oversamples: Sequence[float | None] = (None, 2.0, 3.0, 5.0),
) -> Recommendation:
    """Try the candidates and choose.

    Args:
        vectors: float32, shape (n, dims): a sample of the documents', at least some thousands.
        queries: float32, shape (m, dims); every second one is held back.
        plan: the plan whose dense field *name* is to be quantized.
        target: what is wanted.
        capabilities: of the engine (or a profile, for planning without one).
        client: the official sync client to measure with; None: arithmetic only.
        quantizations: which to try, else all that there are.
        dims: shorter dimensions to try as well (Matryoshka models): the leading ones, renormalized.
        oversamples: None is without rescoring.

    Raises:
        PlanError: no such field, not cosine or dot product.
        OptionsError: vectors of another shape, too few of them, dims or quantizations that aren't there.
    """
    wanted = target or Target()
    spec = plan.dense.get(name)
    if spec is None:
        raise PlanError(f"the plan has no dense field {name!r}", path=f"dense.{name}")
    if spec.similarity not in ("cosine", "dot_product"):
        raise PlanError("advise compares by cosine or dot_product", path=f"dense.{name}.similarity")
    if vectors.ndim != 2 or queries.ndim != 2 or vectors.shape[1] != queries.shape[1]:
        raise OptionsError(f"vectors of shape {vectors.shape} and queries of shape {queries.shape}")
    if len(vectors) < 2 * wanted.k or len(queries) < 2:
        raise OptionsError(f"too small a sample: {len(vectors)} vectors, {len(queries)} queries")
    trials: list[Trial] = []
    full = unit(np.asarray(vectors, np.float32))
    asked = unit(np.asarray(queries, np.float32))
    truth = exact_neighbors(full, asked, wanted.k)
    for size in sorted({int(full.shape[1]), *dims}, reverse=True):
        if not 1 <= size <= full.shape[1]:
            raise OptionsError(f"{size}, and the vectors have {full.shape[1]}", option="dims")
        short, short_asked = unit(full[:, :size]), unit(asked[:, :size])
        codes: dict[str, dict[float | None, np.ndarray[Any, np.dtype[np.int64]]]] = {}
        for quantization in quantizations or CANDIDATES:
            if quantization not in CANDIDATES:
                raise OptionsError(
                    f"no candidate {quantization!r}; there are {', '.join(CANDIDATES)}",
                    option="quantizations",
                )
            form = CANDIDATES[quantization].on(capabilities).form
            if form not in codes:
                codes[form] = simulate_many(short, short_asked, form, wanted.k, oversamples)
            trials += _try(
                quantization, short, short_asked, truth, codes[form], name, spec, wanted, capabilities, client
            )
    chosen = choose(trials, wanted)
    return Recommendation(
        trials=tuple(trials),
        chosen=chosen,
        plan=None if chosen is None else _planned(plan, name, spec, chosen, full),
        target=wanted,
        sample=len(full),
        queries=(len(asked) + 1) // 2,
        held_back=len(asked) // 2,
        engine="simulated only" if client is None else f"{capabilities.engine} {capabilities.version}",
        scales=()
        if chosen is None
        else tuple(_scale(n, chosen, spec, capabilities) for n in (10**6, 10**7, 10**8)),
    )


def _try(
    quantization: str,
    vectors: FloatArray,
    queries: FloatArray,
    truth: np.ndarray[Any, np.dtype[np.int64]],
    codes: dict[float | None, np.ndarray[Any, np.dtype[np.int64]]],
    name: str,
    spec: DenseField,
    target: Target,
    capabilities: Capabilities,
    client: Any,
) -> list[Trial]:
    candidate = CANDIDATES[quantization].on(capabilities)
    form, graph = candidate.form, candidate.graph
    dims = int(vectors.shape[1])
    trial_part = msgspec.structs.replace(
        _kept_as(spec, candidate, vectors),
        oversample=None,
        encoder=PRECOMPUTED,
        source=(),
        dims=dims,
        chunked=False,
    )
    gap = None
    try:
        # By its name: that is what a gap tells the reader.
        compile_mapping(IndexPlan(dense={name: trial_part}), capabilities)
    except UnsupportedFeatureError as error:
        gap = "; ".join(error.gaps)
    m = spec.m or 16
    now = footprint(len(vectors), dims, form, graph=graph, m=m)
    later = footprint(target.documents, dims, form, graph=graph, m=m)
    through = graph_share(len(vectors)) if graph else 1.0
    choosing, checking = slice(0, None, 2), slice(1, None, 2)
    # Where nothing but the codes is kept there is nothing to rescore with.
    usable = [o for o in codes if o is None or form.startswith("int") or form == "bbq"]
    seen = None
    if client is not None and gap is None:
        seen = measure(
            client,
            capabilities,
            vectors,
            queries,
            truth,
            trial_part,
            k=target.k,
            oversamples=[o or 1.0 for o in usable],
        )
    out = []
    for oversample in usable:
        found = codes[oversample]
        key = oversample or 1.0
        shares = seen.shares.get(key) if seen else None
        each = recalls(found, truth, target.k) if shares is None else np.asarray(shares)
        measured = None if shares is None else float(np.mean(shares[choosing]))
        held_back = None if shares is None else float(np.mean(shares[checking]))
        out.append(
            Trial(
                quantization=quantization,
                dims=dims,
                oversample=oversample,
                simulated=recall(found[choosing], truth[choosing], target.k) * through,
                measured=measured,
                standard_error=float(np.std(each[choosing]) / np.sqrt(max(len(each[choosing]), 1))),
                held_back=recall(found[checking], truth[checking], target.k) * through
                if held_back is None
                else held_back,
                ram_bytes=later.ram_bytes,
                disk_bytes=later.disk_bytes,
                measured_ram_bytes=seen.ram_bytes if seen else None,
                measured_disk_bytes=(seen.vector_disk_bytes or seen.disk_bytes) if seen else None,
                predicted_sample_ram_bytes=now.ram_bytes,
                predicted_sample_disk_bytes=now.disk_bytes,
                latency_ms=seen.latency_ms.get(key) if seen else None,
                index_seconds=seen.index_seconds if seen else None,
                gap=gap,
            )
        )
    return out


def choose(trials: Sequence[Trial], target: Target) -> Trial | None:
    """The least RAM and disk (see :meth:`Target.cost`), then the least rescoring, among those that keep the
    target and the budgets.

    Bytes and bits lose the floats for good: no rescoring, no other quantization without encoding again. They
    are chosen where they save more than a tenth of the cost, or where nothing else fits.
    """
    good = [
        t
        for t in trials
        if target.allows(t)
        and t.recall >= recall_to_keep(target.min_recall, target.margin, t.standard_error)
        and target.affordable(t)
    ]
    least = min(map(target.cost, good), default=0)
    keeping = [t for t in good if CANDIDATES[t.quantization].element_type not in ("byte", "bit")]
    # A tenth: below that the choice would trade the floats for what the estimate can't tell apart.
    if any(target.cost(t) <= least * 1.1 for t in keeping):
        good = keeping
    return min(good, key=lambda t: (target.cost(t), t.oversample or 0, -t.recall), default=None)


def _kept_as(spec: DenseField, candidate: Candidate, vectors: FloatArray) -> DenseField:
    """The field in the candidate's form; bytes get the scale of these vectors, bits are Hamming's."""
    element = candidate.element_type
    changes: dict[str, Any] = {
        "quantization": candidate.quantization,
        "element_type": element,
        "scale": calibrate(vectors) if element == "byte" else None,
    }
    if element == "bit":
        changes["similarity"] = "l2_norm"
    if not candidate.graph:
        changes |= {"m": None, "ef_construction": None}
    return msgspec.structs.replace(spec, **changes)


def _planned(plan: IndexPlan, name: str, spec: DenseField, chosen: Trial, vectors: FloatArray) -> IndexPlan:
    params, full = spec.params, int(vectors.shape[1])
    if chosen.dims != full:
        params = msgspec.structs.replace(params, dims=chosen.dims)
    field_ = msgspec.structs.replace(
        _kept_as(spec, CANDIDATES[chosen.quantization], unit(vectors[:, : chosen.dims])),
        oversample=chosen.oversample,
        dims=chosen.dims if spec.precomputed or chosen.dims != full else spec.dims,
        params=params if not spec.precomputed else spec.params,
    )
    return plan.replace(dense={**plan.dense, name: field_})


def _scale(documents: int, chosen: Trial, spec: DenseField, capabilities: Capabilities) -> dict[str, Any]:
    candidate = CANDIDATES[chosen.quantization].on(capabilities)
    return asdict(footprint(documents, chosen.dims, candidate.form, graph=candidate.graph, m=spec.m or 16))


def __getattr__(name: str) -> Any:
    if name == "Advice":
        warn_renamed("Advice", "Recommendation")
        return Recommendation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
