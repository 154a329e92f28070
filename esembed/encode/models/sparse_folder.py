"""Which model encodes documents and which encodes queries, read from a SPLADE model's folder.

Read as they stand: sentence-transformers' SparseEncoder folders (a transformer with ``SpladePooling``;
``SparseStaticEmbedding``; a ``Router`` with a route for queries and one for documents), plain
masked-LM checkpoints, OpenSearch's doc-only models (a masked-LM checkpoint with ``idf.json`` or
``query_token_weights.txt`` for the queries), and BGE-M3 and what was trained from it (a transformer with
``sparse_linear.safetensors`` or ``sparse_linear.pt``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from esembed.encode.base import RuntimeOptions
from esembed.encode.models import hub
from esembed.encode.models.folder import (
    ModelFiles,
    Module,
    RouterConfig,
    SentenceConfig,
    module_config,
    module_entries,
    module_kind,
    module_path,
    read_folder,
    transformer_config,
)
from esembed.encode.models.json_files import checked, optional_json, read_json
from esembed.encode.transformer.token_weights import token_weights_file
from esembed.errors import EncoderError

__all__ = ["SparseFiles", "SpladeSide", "StaticSide", "TokenWeightSide", "open_sparse_model"]

_DENSE_MODULES = {"Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}
_TRANSFORMERS = ("Transformer", "MLMTransformer")


@dataclass(frozen=True)
class SpladeSide:
    """A masked language model whose scores are pooled.

    Attributes:
        files: the transformer.
        strategy, activation: see :class:`~esembed.encode.transformer.splade_head.SpladeHead`.
    """

    files: ModelFiles
    strategy: Literal["max", "sum"] = "max"
    activation: Literal["relu", "log1p_relu"] = "relu"


@dataclass(frozen=True)
class TokenWeightSide:
    """A transformer whose hidden states give each token its weight (BGE-M3).

    Attributes:
        files: the transformer.
        weights: the projection's file; see :mod:`~esembed.encode.transformer.token_weights`.
    """

    files: ModelFiles
    weights: Path


@dataclass(frozen=True)
class StaticSide:
    """A weight for each token, whatever stands around it; no network.

    Attributes:
        folder: holds the tokenizer (and ``model.safetensors`` with ``weight``).
        weights: a file of token weights (``idf.json``, ``query_token_weights.txt``), or None.
    """

    folder: Path
    weights: Path | None = None


Side: TypeAlias = SpladeSide | TokenWeightSide | StaticSide


@dataclass(frozen=True)
class SparseFiles:
    """A sparse model's folder, understood.

    Attributes:
        name, hub_id, revision: as in ``ModelFiles``.
        document, query: what encodes each; the same object where one model does both.
        prompts: name → text.
        max_active_dims: the model's own limit of features, or None.
    """

    name: str
    hub_id: str | None
    revision: str | None
    document: Side
    query: Side
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_active_dims: int | None = None


def open_sparse_model(
    rest: str, *, revision: str | None = None, runtime: RuntimeOptions | None = None
) -> SparseFiles:
    """Read the model that *rest* names (a folder or a hub id).

    Raises:
        EncoderError: no such model, a dense one, a module that isn't known, remote code.
    """
    offline = runtime.local_files_only if runtime else False
    folder, hub_id, commit = hub.locate(rest, revision=revision, local_files_only=offline)
    name = rest if hub_id else folder.name
    file = "config_sentence_transformers.json"
    general = checked(optional_json(folder / file), SentenceConfig, file, name)
    entries = _module_entries(folder, name)
    document: Side
    query: Side
    linear = token_weights_file(folder)
    if linear is not None and {kind for kind, _ in entries} <= _DENSE_MODULES:
        files = read_folder(folder, name=name, hub_id=hub_id, revision=commit)
        document = query = TokenWeightSide(files, linear)
    elif not entries:
        document, query = _plain(folder, name, hub_id, commit)
    elif [kind for kind, _ in entries] in (["Router"], ["Asym"]):
        document, query = _routes(folder, entries[0][1], name)
    else:
        document = query = _side(folder, entries, name)
    limit = general.max_active_dims
    return SparseFiles(
        name=name,
        hub_id=hub_id,
        revision=commit,
        document=document,
        query=query,
        prompts=general.text_prompts,
        max_active_dims=limit if limit is not None and limit > 0 else None,
    )


def _plain(
    folder: Path, name: str, hub_id: str | None, commit: str | None
) -> tuple[SpladeSide, SpladeSide | StaticSide]:
    files = read_folder(folder, name=name, hub_id=hub_id, revision=commit)
    architectures = files.config.get("architectures") or ()
    if not any(str(a).endswith("ForMaskedLM") for a in architectures):
        raise EncoderError(
            f"{name} is {', '.join(architectures) or 'of no stated architecture'} (architectures in "
            "config.json), not a masked-LM checkpoint; SPLADE is read from that head. For dense vectors use "
            "hf:",
            spec=f"splade:{name}",
        )
    document = SpladeSide(files)
    for file in ("idf.json", "query_token_weights.txt"):
        if (folder / file).is_file():
            return document, StaticSide(folder, folder / file)
    return document, document


def _routes(folder: Path, router: str, name: str) -> tuple[Side, Side]:
    path = next(
        (p for n in ("router_config.json", "config.json") if (p := folder / router / n).is_file()), None
    )
    if path is None:
        raise EncoderError(f"{name} has a Router without router_config.json", spec=f"splade:{name}")
    config = checked(read_json(path), RouterConfig, path.name, name)
    sides: dict[str, list[tuple[str, str]]] = {}
    for route in ("query", "document"):
        if route not in config.structure:
            raise EncoderError(
                f"{name}: {path.name} has the routes {', '.join(config.structure) or 'none'}; a query and a "
                "document route are needed",
                spec=f"splade:{name}",
            )
        sides[route] = []
        for member in config.structure[route]:
            if member not in config.types:
                raise EncoderError(f"{name}: {path.name} has no type for {member!r}", spec=f"splade:{name}")
            kind = module_kind(config.types[member], name)
            sides[route].append((kind, module_path(f"{router}/{member}" if router else member, name)))
    return _side(folder, sides["document"], name), _side(folder, sides["query"], name)


def _side(folder: Path, entries: list[tuple[str, str]], name: str) -> SpladeSide | StaticSide:
    kinds = [kind for kind, _ in entries]
    if kinds == ["SparseStaticEmbedding"]:
        place = folder / entries[0][1]
        path = module_config(place, "SparseStaticEmbedding", name).get("path")
        if path is None:
            return StaticSide(place)
        found = next((p for p in (place / Path(path).name, folder / Path(path).name) if p.is_file()), None)
        if found is None:
            raise EncoderError(f"{name}: {path} with the token weights isn't there", spec=f"splade:{name}")
        return StaticSide(place, found)
    if len(kinds) == 2 and kinds[0] in _TRANSFORMERS and kinds[1] == "SpladePooling":
        pooling = module_config(folder / entries[1][1], "SpladePooling", name)
        strategy = pooling.get("pooling_strategy", "max")
        activation = pooling.get("activation_function", "relu")
        return SpladeSide(_transformer(folder / entries[0][1], name), strategy, activation)
    dense = ". For dense vectors use hf:" if "Pooling" in kinds else ""
    raise EncoderError(
        f"{name} is made of {', '.join(kinds) or 'nothing'} (modules.json); known are a transformer with "
        f"SpladePooling, and SparseStaticEmbedding{dense}",
        spec=f"splade:{name}",
    )


def _transformer(place: Path, name: str) -> ModelFiles:
    """The transformer alone, though modules.json beside it may describe the whole."""
    own = transformer_config(place)
    module = Module("Transformer", "", own)
    return read_folder(place, name=name, modules=(module,))


def _module_entries(folder: Path, name: str) -> list[tuple[str, str]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    return [
        (module_kind(entry.type, name), module_path(entry.path, name)) for entry in module_entries(path, name)
    ]
