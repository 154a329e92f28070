"""Spec strings to encoders. A family's module is imported when one of its specs is loaded.

========================  ==========================================================  ==========
spec                      what                                                        extra
========================  ==========================================================  ==========
``minilm``                all-MiniLM-L6-v2, without a hub where there is none         demo
``hf:NAME-or-FOLDER``     any sentence-transformers or Hugging Face encoder           torch, demo
``splade:NAME-or-FOLDER`` a SPLADE or SparseEncoder model                             torch, demo
``static:FOLDER``         model2vec, word2vec, GloVe or fastText vectors              static
``lexical``               BM25 as a sparse vector, no model at all
``openai:MODEL[@URL]``    an OpenAI-compatible endpoint                               openai
``engine:ENDPOINT``       an inference endpoint inside the engine
``custom:NAME``           a class of the caller's own, passed as ``encoder=``
``precomputed``           the caller brings the vectors
========================  ==========================================================  ==========
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from esembed.encode.base import Encoder, RuntimeOptions
from esembed.encode.foreign_errors import foreign_errors
from esembed.encode.processes import remember
from esembed.errors import EncoderError
from esembed.plan.encoders import FAMILIES, spec_problem, split_spec
from esembed.plan.params import EncoderParams

__all__ = ["load"]

Loader = Callable[[str, EncoderParams, RuntimeOptions], Encoder]


def load(
    spec: str,
    params: EncoderParams | None = None,
    runtime: RuntimeOptions | None = None,
) -> Encoder:
    """The encoder that *spec* names. It can be pickled: where the pickle is read, the model is loaded again.

    Args:
        spec: see the module's table.
        params: what changes the vectors (belongs into the plan).
        runtime: how it runs here; None takes ``RuntimeOptions.from_environment()``.

    Raises:
        EncoderError: unknown family, missing extra, a folder that is no model, a head that isn't
            known, params that the family doesn't take.
    """
    family, rest = split_spec(spec)
    if family not in FAMILIES:
        raise EncoderError(f"{spec_problem(spec)} (in spec {spec!r})", spec=spec)
    module_name, _, function = FAMILIES[family].loader.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"the encoder {spec!r} needs the package {error.name!r}; install the extra that the table in "
            "esembed.encode.registry names",
            spec=spec,
        ) from error
    loader = cast(Loader, getattr(module, function))
    params, runtime = params or EncoderParams(), runtime or RuntimeOptions.from_environment()
    with foreign_errors(spec, "be loaded"):
        encoder = loader(rest, params, runtime)
    remember(encoder, (spec, params, runtime), load)
    return encoder
