"""``engine:ENDPOINT``: the engine itself computes the vectors, at ingest and at search.

Elasticsearch: an inference endpoint (``.elser-2-elasticsearch``, ``.multilingual-e5-small-elasticsearch``,
or one made with ``PUT _inference/…``). OpenSearch: the id of a model deployed through ml-commons. No
vector passes through this process; the dialects make what a plan with such a field compiles to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NoReturn

from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.errors import EncoderError
from esembed.plan import engine_endpoint
from esembed.plan.params import EncoderParams

__all__ = ["EngineEncoder", "load"]

Kind = Literal["dense", "sparse"]


class EngineEncoder:
    """Stands in a plan where the engine encodes. It holds the endpoint's name and encodes nothing.

    Args:
        endpoint: the inference endpoint (Elasticsearch) or model id (OpenSearch).
        kind: what the endpoint returns.
        dims: dimensions of a dense endpoint, where the mapping must say.

    Raises:
        EncoderError: no name, or one with blanks in it.
    """

    def __init__(self, endpoint: str, *, kind: Kind = "dense", dims: int | None = None) -> None:
        if not endpoint or any(c.isspace() for c in endpoint):
            raise EncoderError(
                "engine: needs the name of an inference endpoint or the id of a deployed model "
                "(engine:.elser-2-elasticsearch)",
                spec=f"engine:{endpoint}",
            )
        self.endpoint = endpoint
        self._kind: Kind = kind
        self._dims = dims
        self._stats = EncodeStats()

    @property
    def info(self) -> EncoderInfo:
        return EncoderInfo(
            spec=f"engine:{self.endpoint}",
            type=self._kind,
            dims=self._dims if self._kind == "dense" else None,
            model=self.endpoint,
            extra={"task": "text_embedding" if self._kind == "dense" else "sparse_embedding"},
            runtime={"backend": "engine"},
        )

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    def encode_document(self, texts: Sequence[str]) -> NoReturn:
        """Raises EncoderError: the engine encodes when the document arrives."""
        self._refuse("document's text is sent as it is and its ingest pipeline or semantic field")

    def encode_query(self, texts: Sequence[str]) -> NoReturn:
        """Raises EncoderError: the engine encodes when the query arrives."""
        self._refuse("query's text is sent as it is and the query clause")

    def _refuse(self, what: str) -> NoReturn:
        raise EncoderError(
            f"engine:{self.endpoint} computes its vectors inside the engine: the {what} names the endpoint. "
            "To have vectors here (for evaluation, say), use the same model as hf:… or openai:…",
            spec=f"engine:{self.endpoint}",
        )

    def close(self) -> None:
        """Nothing to release."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> EngineEncoder:
    """``ENDPOINT``, or ``sparse/ENDPOINT`` and ``dense/ENDPOINT`` where the name doesn't tell.

    A name with ``elser`` or ``sparse`` in it is sparse, any other dense.

    Raises:
        EncoderError: no endpoint, or params other than dims: the endpoint has its own.
    """
    del runtime
    spec = f"engine:{rest}"
    if params != EncoderParams(dims=params.dims):
        raise EncoderError(
            "the endpoint decides how it encodes; in the plan only dims can stand beside it", spec=spec
        )
    name = engine_endpoint(spec) or ""
    if name != rest:
        kind: Kind = "sparse" if rest.startswith("sparse/") else "dense"
    else:
        kind = "sparse" if "elser" in rest.lower() or "sparse" in rest.lower() else "dense"
    return EngineEncoder(name, kind=kind, dims=params.dims)
