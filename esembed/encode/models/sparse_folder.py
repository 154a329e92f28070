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
    SentenceConfig,
    module_config,
    module_entries,
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
        document, query = _routes(folder, folder / entries[0][1], name)
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
            f"{name} is {', '.join(architectures) or 'of no stated architecture'}, not a masked-LM "
            "checkpoint; SPLADE is read from that head. For dense vectors use hf:",
            spec=f"splade:{name}",
        )
    document = SpladeSide(files)
    for file in ("idf.json", "query_token_weights.txt"):
        if (folder / file).is_file():
            return document, StaticSide(folder, folder / file)
    return document, document


def _routes(folder: Path, router: Path, name: str) -> tuple[Side, Side]:
    path = next((p for p in (router / "router_config.json", router / "config.json") if p.is_file()), None)
    if path is None:
        raise EncoderError(f"{name} has a Router without router_config.json", spec=f"splade:{name}")
    config = read_json(path)
    try:
        types, structure = config["types"], config["structure"]
        sides = {
            route: [(_short(str(types[m]), name), _inside(folder, router / m, name)) for m in members]
            for route, members in structure.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"{name}: {path.name} is damaged ({error!r})", spec=f"splade:{name}") from error
    if not {"query", "document"} <= set(sides):
        raise EncoderError(
            f"{name} has the routes {', '.join(sides)}; a query and a document route are needed",
            spec=f"splade:{name}",
        )
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
        strategy, activation = (
            pooling.get("pooling_strategy", "max"),
            pooling.get("activation_function", "relu"),
        )
        if strategy not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
            raise EncoderError(
                f"{name} pools by {strategy!r} of {activation!r}, which isn't known here",
                spec=f"splade:{name}",
            )
        return SpladeSide(_transformer(folder / entries[0][1], name), strategy, activation)
    dense = ". For dense vectors use hf:" if "Pooling" in kinds else ""
    raise EncoderError(
        f"{name} is made of {', '.join(kinds)}; known are a transformer with SpladePooling, and "
        f"SparseStaticEmbedding{dense}",
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
        (_short(entry.type, name), _inside(folder, folder / entry.path, name))
        for entry in module_entries(path, name)
    ]


def _short(kind: str, name: str) -> str:
    if not kind.startswith("sentence_transformers."):
        raise EncoderError(
            f"{name} has a module of its own, {kind}: that is code from the model's author, which "
            "isn't run here",
            spec=f"splade:{name}",
        )
    return kind.rpartition(".")[2]


def _inside(folder: Path, place: Path, name: str) -> str:
    """*place* relative to *folder*; refuses what leads out of it."""
    try:
        relative = place.relative_to(folder)
    except ValueError:
        relative = Path("..")
    if ".." in relative.parts:
        raise EncoderError(f"{name}: a module's path leads out of the folder", spec=f"splade:{name}")
    return str(relative)
