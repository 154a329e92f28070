"""What can't stand in a plan: fields that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from esembed.errors import PlanError
from esembed.plan.encoders import spec_problem
from esembed.plan.fields import ChunkOptions, DenseField, IndexOptions, SparseField, TextField
from esembed.plan.params import EncoderParams

__all__ = ["validate"]


class Fields(Protocol):
    """What of a plan is checked here; :class:`~esembed.plan.index_plan.IndexPlan` is made of it."""

    @property
    def text(self) -> Mapping[str, TextField]: ...
    @property
    def chunk(self) -> ChunkOptions | None: ...
    @property
    def index(self) -> IndexOptions: ...
    def vector_fields(self) -> Iterator[tuple[str, DenseField | SparseField]]: ...


def _engine(name: str, field: DenseField | SparseField, where: str) -> None:
    """A field whose vectors the engine computes: what its endpoint decides can't stand in the plan."""
    section = where.partition(".")[0]
    endpoint = field.endpoint
    if not endpoint or any(c.isspace() for c in endpoint):
        raise PlanError(
            "engine: needs the name of an inference endpoint or the id of a deployed model "
            "(engine:.elser-2-elasticsearch)",
            path=f"{where}.encoder",
        )
    prefix = field.encoder.removeprefix("engine:").removesuffix(endpoint).rstrip("/")
    if prefix not in ("", section):
        raise PlanError(f"{field.encoder!r} is {prefix}, the field is {section}", path=f"{where}.encoder")
    if field.chunked:
        raise PlanError(
            "the engine encodes whole fields here: leave chunked out, or name an encoder that runs on your "
            "side",
            path=f"{where}.chunked",
        )
    if "." in name:
        raise PlanError("a field that the engine fills can't have a dot in its name", path=where)
    if field.params != EncoderParams():
        raise PlanError(
            "the endpoint decides how it encodes; leave params out (dims = … stands in the field itself)",
            path=f"{where}.params",
        )
    if isinstance(field, SparseField) and field.storage == "seismic":
        raise PlanError(
            "engines fill rank_features and sparse_vector fields, not SEISMIC ones; leave storage out",
            path=f"{where}.storage",
        )
    if isinstance(field, DenseField) and field.element_type not in ("float", "bfloat16"):
        raise PlanError(
            f'the endpoint makes floats, so element_type = "{field.element_type}" can\'t be filled; leave it '
            "out and choose a quantization",
            path=f"{where}.element_type",
        )


def validate(plan: Fields) -> None:
    """Raises PlanError naming the path of what is wrong."""
    seen: dict[str, str] = {}
    for section in ("text", "dense", "sparse", "filter"):
        for name in getattr(plan, section):
            if not name or name.startswith(("_", ".")) or name.endswith(".") or ".." in name:
                raise PlanError(
                    "a field name can't be empty, start with _ or ., or end with .", path=f"{section}.{name}"
                )
            if name in seen:
                raise PlanError(f"the name is already a {seen[name]} field", path=f"{section}.{name}")
            seen[name] = section
    for name, text in plan.text.items():
        if not text.boost >= 0:
            raise PlanError(f"boost must be ≥ 0, not {text.boost}", path=f"text.{name}.boost")
    for name, field in plan.vector_fields():
        section = "dense" if isinstance(field, DenseField) else "sparse"
        where = f"{section}.{name}"
        family = field.family
        if family == "engine":
            _engine(name, field, where)
        elif problem := spec_problem(field.encoder):
            raise PlanError(problem, path=f"{where}.encoder")
        if field.precomputed:
            if field.source:
                raise PlanError(
                    "precomputed vectors have no source fields; leave source out", path=f"{where}.source"
                )
            if isinstance(field, DenseField) and field.dims is None:
                raise PlanError("precomputed vectors need dims", path=f"{where}.dims")
        elif not field.source and not field.chunked:
            raise PlanError(f'encoder {field.encoder!r} needs source = ["field", …]', path=f"{where}.source")
        if field.chunked and plan.chunk is None:
            raise PlanError("chunked = true needs a [chunk] section", path=f"{where}.chunked")
        if isinstance(field, DenseField):
            if field.dims is not None and field.dims < 1:
                raise PlanError(f"dims must be ≥ 1, not {field.dims}", path=f"{where}.dims")
            if field.scale is not None and (field.element_type != "byte" or not 0 < field.scale < 1e9):
                raise PlanError(
                    'scale is of element_type = "byte" fields, and above 0', path=f"{where}.scale"
                )
            if field.oversample is not None and not 1 <= field.oversample <= 10:
                raise PlanError("oversample must lie between 1 and 10", path=f"{where}.oversample")
            if family == "lexical":
                raise PlanError("lexical is a sparse encoder; put it under [sparse]", path=f"{where}.encoder")
    if plan.chunk is not None:
        if plan.chunk.max_tokens < 8:
            raise PlanError("max_tokens must be ≥ 8", path="chunk.max_tokens")
        if not 0 <= plan.chunk.overlap_tokens < plan.chunk.max_tokens:
            raise PlanError("overlap_tokens must be ≥ 0 and below max_tokens", path="chunk.overlap_tokens")
        if plan.chunk.path in seen:
            raise PlanError(
                f"{plan.chunk.path!r} is already a {seen[plan.chunk.path]} field", path="chunk.path"
            )
    if plan.index.shards < 1:
        raise PlanError("shards must be ≥ 1", path="index.shards")
