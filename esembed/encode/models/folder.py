"""A sentence-transformers or Hugging Face model folder, read as it stands and without those packages.

What is read: modules.json and each module's folder (1_Pooling, 2_Dense, 2_Normalize …),
config_sentence_transformers.json (prompts, similarity), sentence_bert_config.json (max_seq_length,
do_lower_case), config.json, tokenizer_config.json, and the safetensors. What isn't understood is
refused with the reason, never ignored: a vector that is only nearly right is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from esembed.encode.base import RuntimeOptions
from esembed.encode.foreign_errors import shown
from esembed.encode.models import checks, hub
from esembed.encode.models.hashes import cached_weights_hash, tokenizer_hash
from esembed.encode.models.json_files import checked, optional_json, read_json, read_value
from esembed.encode.models.tensors import TensorFile, Tensors
from esembed.errors import EncoderError

__all__ = [
    "ModelFiles",
    "Module",
    "ModuleEntry",
    "RouterConfig",
    "SentenceConfig",
    "module_config",
    "module_entries",
    "module_kind",
    "module_path",
    "open_model",
    "position_offset",
    "read_folder",
    "transformer_config",
    "usable_positions",
]


class SentenceConfig(msgspec.Struct):
    """config_sentence_transformers.json."""

    prompts: dict[str, Any] | None = None
    similarity_fn_name: str | None = None
    max_active_dims: int | None = None

    @property
    def text_prompts(self) -> dict[str, str]:
        """Name → text."""
        return {name: text for name, text in (self.prompts or {}).items() if isinstance(text, str)}


class _Processing(msgspec.Struct):
    text: dict[str, Any] | None = None
    common: dict[str, Any] | None = None


_Length = Annotated[int, msgspec.Meta(ge=1)]


class _TransformerOptions(msgspec.Struct):
    """sentence_bert_config.json."""

    max_seq_length: _Length | None = None
    do_lower_case: bool | None = None
    transformer_task: str | None = None
    modality_config: dict[str, Any] | None = None
    processing_kwargs: dict[str, Any] | None = None


_Name = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
"""A class: what messages may quote."""
_Path = Annotated[
    str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f/]{0,60}(/[^\x00-\x1f/]{0,60}){0,9}$")
]
"""A path below the model's folder. File systems take 255 bytes for each of its parts."""


class ModuleEntry(msgspec.Struct):
    """One entry of modules.json."""

    type: _Name
    path: _Path = ""


class RouterConfig(msgspec.Struct):
    """router_config.json: the class of each module, and the modules of each route."""

    types: dict[_Path, _Name]
    structure: dict[_Name, Annotated[list[_Path], msgspec.Meta(max_length=100)]]


class _Pooling(msgspec.Struct):
    pooling_mode: _Name | list[_Name] | None = None
    include_prompt: bool | None = True


class _Projection(msgspec.Struct):
    activation_function: _Name | None = None
    use_residual: bool | None = None
    module_input_name: _Name | None = None
    module_output_name: _Name | None = None


class _Normalize(msgspec.Struct):
    module_input_name: _Name | None = None


class _SpladePooling(msgspec.Struct):
    pooling_strategy: Literal["max", "sum"] = "max"
    activation_function: Literal["relu", "log1p_relu"] = "relu"


class _SparseStatic(msgspec.Struct):
    path: _Path | None = None


_MODULE_CONFIGS: Mapping[str, type[msgspec.Struct]] = {
    "Pooling": _Pooling,
    "Dense": _Projection,
    "Normalize": _Normalize,
    "SpladePooling": _SpladePooling,
    "SparseStaticEmbedding": _SparseStatic,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json.

    Attributes:
        kind: the class's own name (``Transformer``, ``Pooling``, ``Dense``, ``SpladePooling`` …).
        path: its folder inside the model's, maybe empty.
        config: its config.json (for the transformer: sentence_bert_config.json), maybe empty.
    """

    kind: str
    path: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder, understood.

    Attributes:
        folder: where the files are.
        name: what the caller called it, for messages.
        hub_id: its name on the hub, or None for a folder.
        revision: the hub's commit, or None.
        config: the transformer's config.json.
        modules: modules.json's entries in order; empty for a plain Hugging Face folder.
        prompts: name → text, from config_sentence_transformers.json.
        similarity: ``cosine``, ``dot`` …, or None when the model doesn't say.
        max_seq_length: the tokens that the model wants of each text, or None.
        lower_case: texts are lower-cased before the tokenizer.
    """

    folder: Path
    name: str
    hub_id: str | None = None
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    similarity: str | None = None
    max_seq_length: int | None = None
    lower_case: bool = False

    @property
    def transformer_folder(self) -> Path:
        """Where config.json, the tokenizer and the transformer's tensors are."""
        for module in self.modules:
            if module.kind == "Transformer":
                return self.folder / module.path
        return self.folder

    @cached_property
    def _tensors(self) -> Tensors:
        tensors = open_tensors(self.transformer_folder, self.name)
        checks.check_weights(tensors, self.name)
        return tensors

    def tensors(self) -> Tensors:
        """The transformer's tensors by name, float32 on access.

        Raises:
            EncoderError: there is no safetensors file, or it is damaged.
        """
        return self._tensors

    def module_tensors(self, path: str) -> Tensors:
        """The tensors of the module in the folder *path*. Raises as :meth:`tensors`."""
        tensors = open_tensors(self.folder / path, f"{self.name}/{path}")
        checks.check_weights(tensors, f"{self.name}/{path}")
        return tensors

    def weights_hash(self) -> str:
        """sha256 over all source tensors in canonical form; see ``tensors.weights_hash``."""
        parts = {"": self.tensors()}
        for module in self.modules:
            folder = self.folder / module.path
            if module.kind != "Transformer" and module.path and any(folder.glob("*.safetensors")):
                parts[module.path] = self.module_tensors(module.path)
        return cached_weights_hash(parts)

    def tokenizer_hash(self) -> str:
        """sha256 over what the tokenizer does; see ``hashes.tokenizer_hash``."""
        return tokenizer_hash(self.transformer_folder, self.lower_case)


class _Shards(msgspec.Struct):
    """model.safetensors.index.json."""

    weight_map: dict[str, _Path]


def open_tensors(folder: Path, name: str) -> Tensors:
    """The safetensors in *folder*, sharded or not.

    Raises:
        EncoderError: there are none (a pickled checkpoint is refused, with the remedy).
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return Tensors([TensorFile(single)])
    if index.is_file():
        places = checked(read_value(index), _Shards, index.name, name).weight_map
        shards = sorted(set(places.values()))
        for shard in shards:
            if Path(shard).name != shard or not (folder / shard).is_file():
                raise EncoderError(
                    f"{name}: {index.name} names {shown(shard)}, which isn't in its folder: fetch it again",
                    spec=name,
                )
        files = {shard: TensorFile(folder / shard) for shard in shards}
        seen: dict[str, str] = {}
        for shard, file in files.items():
            for tensor in file.entries:
                if tensor in seen:
                    raise EncoderError(
                        f"{name}: tensor {shown(tensor)} is in {seen[tensor]} and in {shard}: shards of two "
                        "models lie in one folder. Fetch it again, into an empty one",
                        spec=name,
                    )
                seen[tensor] = shard
        for tensor, shard in places.items():
            if seen.get(tensor) != shard:
                raise EncoderError(
                    f"{name}: {index.name} says that tensor {shown(tensor)} is in {shard}, and it isn't: the "
                    "index is another model's. Fetch the folder again",
                    spec=name,
                )
        return Tensors(list(files.values()))
    checks.check_folder(folder, name)
    other = checks.other_format(folder)
    if other is not None:
        raise EncoderError(f"{name} {other}", spec=name)
    if any(folder.glob("model-*-of-*.safetensors")):
        raise EncoderError(
            f"{name} holds shards and no {index.name}, so that nobody can tell whether all are there: fetch "
            "the folder again",
            spec=name,
        )
    pickled = [p.name for kind in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{kind}")]
    pickled = [name for name in pickled if not name.endswith("_linear.pt")]  # BGE-M3's further heads
    if pickled:
        raise EncoderError(
            f"{name} has only a pickled checkpoint ({sorted(pickled)[0]}). Loading one runs whatever code it "
            "holds, so only safetensors are read. Take a revision that has model.safetensors, or convert it "
            "once where you trust it: transformers' save_pretrained writes safetensors",
            spec=name,
        )
    raise EncoderError(
        f"{name} holds no model.safetensors: is it a model's folder? From the hub only safetensors are "
        "fetched. Take a revision that has them, or convert the model once where you trust it: transformers' "
        "save_pretrained writes safetensors",
        spec=name,
    )


_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""What sentence-transformers has called the file of the transformer's own options, in its order."""

_MOST_MODULES = 100
"""A published model has 2 to 6; each is a pass through a file."""

_WITH_CONFIG = ("Pooling", "Dense", "LayerNorm", "SpladePooling", "SparseStaticEmbedding")
"""Modules that always have one. Normalize and Dropout have no options, a Router keeps them elsewhere."""


def transformer_config(folder: Path) -> dict[str, Any]:
    """sentence_bert_config.json or what older versions called it; empty where there is none: its options all
    have defaults."""
    return next((read_json(folder / n) for n in _TRANSFORMER_CONFIGS if (folder / n).is_file()), {})


def module_config(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """The config.json of a module that modules.json names.

    Raises:
        EncoderError: it isn't there, though such a module has one. The defaults need not be what the model
            was trained with: a CLS model would be pooled by the mean.
    """
    path = folder / "config.json"
    if not path.is_file() and kind in _WITH_CONFIG:
        raise EncoderError(
            f"{name}: modules.json names a {kind} in {folder.name}/, and {folder.name}/config.json isn't "
            "there. The folder was copied in part: fetch it again, with its subfolders",
            spec=name,
        )
    found = optional_json(path)
    if kind in _MODULE_CONFIGS:
        checked(found, _MODULE_CONFIGS[kind], f"{folder.name}/config.json", name)
    return found


def open_model(
    rest: str, *, revision: str | None = None, runtime: RuntimeOptions | None = None
) -> ModelFiles:
    """Read the model that *rest* names (a folder or a hub id); weights are only mapped when asked for.

    Raises:
        EncoderError: no such model; a folder that is no model; remote code; a module of a class that
            isn't sentence-transformers' own.
    """
    offline = runtime.local_files_only if runtime else False
    folder, hub_id, commit = hub.locate(rest, revision=revision, local_files_only=offline)
    return read_folder(folder, name=rest, hub_id=hub_id, revision=commit)


def read_folder(
    folder: Path,
    *,
    name: str | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
    modules: tuple[Module, ...] | None = None,
) -> ModelFiles:
    """Like :func:`open_model` for a folder that is at hand; *modules* stand in for modules.json.

    Raises:
        EncoderError: as :func:`open_model`.
    """
    name = name or folder.name
    checks.check_folder(folder, name)
    modules = _modules(folder, name) if modules is None else modules
    transformers = [m for m in modules if m.kind == "Transformer"]
    if modules and len(transformers) != 1:
        kinds = ", ".join(m.kind for m in modules)
        hint = (
            " Vectors without a transformer are read by static:FOLDER." if "StaticEmbedding" in kinds else ""
        )
        raise EncoderError(
            f"{name} is made of {kinds} (modules.json), not of one transformer with a head.{hint}", spec=name
        )
    root = folder / transformers[0].path if transformers else folder
    checks.check_folder(root, name)
    if not (root / "config.json").is_file():
        other = checks.other_format(root)
        raise EncoderError(
            f"{name} is no model's folder: it has no config.json" if other is None else f"{name} {other}",
            spec=name,
        )
    config = read_json(root / "config.json")
    checks.check_config(config, name)
    _refuse_remote_code(config, name)
    own = transformers[0].config if transformers else transformer_config(root)
    _check_transformer(own, name)
    general = optional_json(folder / "config_sentence_transformers.json")
    stated = checked(general, SentenceConfig, "config_sentence_transformers.json", name)
    return ModelFiles(
        folder=folder,
        name=name,
        hub_id=hub_id,
        revision=revision,
        config=config,
        modules=modules,
        prompts=stated.text_prompts,
        similarity=stated.similarity_fn_name,
        max_seq_length=_max_seq_length(own, config, optional_json(root / "tokenizer_config.json")),
        lower_case=bool(own.get("do_lower_case", False)),
    )


def module_entries(path: Path, name: str) -> list[ModuleEntry]:
    """What modules.json lists.

    Raises:
        EncoderError: it is damaged, or lists more modules than any model has.
    """
    entries = checked(read_value(path), list[ModuleEntry], path.name, name)
    if len(entries) > _MOST_MODULES:
        raise EncoderError(f"{name}: modules.json lists {len(entries)} modules", spec=name)
    return entries


def module_kind(stated: str, name: str) -> str:
    """The class's own name of a module.

    Raises:
        EncoderError: it isn't sentence-transformers' own.
    """
    if not stated.startswith("sentence_transformers."):
        raise EncoderError(
            f"{name} has a module of its own, {stated} (modules.json): that is code from the model's "
            "author, which isn't run here. Serve such a model and use openai:MODEL@URL, or bring vectors "
            "(precomputed)",
            spec=name,
        )
    return stated.rpartition(".")[2]


def module_path(stated: str, name: str) -> str:
    """A module's folder, relative to the model's.

    Raises:
        EncoderError: it leads out of it.
    """
    if ".." in Path(stated).parts or Path(stated).is_absolute():
        raise EncoderError(
            f"{name}: modules.json points outside the folder: a module's path leads out of the folder "
            f"({stated!r})",
            spec=name,
        )
    return stated


def _modules(folder: Path, name: str) -> tuple[Module, ...]:
    path = folder / "modules.json"
    if not path.is_file():
        return ()
    found = []
    for entry in module_entries(path, name):
        short, place = module_kind(entry.type, name), module_path(entry.path, name)
        if short == "Transformer":
            found.append(Module(short, place, transformer_config(folder / place)))
        else:
            found.append(Module(short, place, module_config(folder / place, short, name)))
    return tuple(found)


def _refuse_remote_code(config: Mapping[str, Any], name: str) -> None:
    architectures = " ".join(map(str, config.get("architectures") or ()))
    if "NVEmbed" in architectures:
        raise EncoderError(
            f"{name} pools with NV-Embed's latent attention, which is not built here (and its code is the "
            "author's own). Serve it behind an OpenAI-compatible endpoint and use openai:MODEL@URL",
            spec=name,
        )
    if config.get("auto_map"):
        raise EncoderError(
            f"{name} brings its own code (auto_map in config.json), which isn't run here: results without "
            "that code could differ silently. Serve it behind an OpenAI-compatible endpoint and use "
            "openai:MODEL@URL, or take a model of a standard architecture",
            spec=name,
        )


def _check_transformer(own: Mapping[str, Any], name: str) -> None:
    stated = checked(own, _TransformerOptions, "sentence_bert_config.json", name)
    checked(stated.processing_kwargs or {}, _Processing, "sentence_bert_config.json", name)
    task = own.get("transformer_task", "feature-extraction")
    if task not in ("feature-extraction", "fill-mask", None):
        raise EncoderError(
            f"{name} is used for {shown(task)} (transformer_task in sentence_bert_config.json), which gives "
            "no embedding here",
            spec=name,
        )
    modality = own.get("modality_config") or {}
    if modality and "text" not in modality:
        raise EncoderError(
            f"{name} takes {shown(list(modality))} and no plain text (modality_config in "
            "sentence_bert_config.json); bring its vectors (precomputed)",
            spec=name,
        )
    processing = {k: v for k, v in (own.get("processing_kwargs") or {}).items() if v}
    unknown = [k for k in processing if k not in ("text", "common", "audio", "image", "video")]
    unknown += [k for k in processing.get("text") or {} if k != "max_length"]
    unknown += list(processing.get("common") or {})
    if unknown:
        raise EncoderError(
            f"{name} sets processing options in sentence_bert_config.json that aren't known here: "
            f"{shown(unknown)}",
            spec=name,
        )


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")


def position_offset(config: Mapping[str, Any]) -> int | None:
    """The row of the position table that a text's first token has; None where config.json hides it.

    RoBERTa's family counts from the padding's id + 1, MPNet from 2 whatever its padding's id is.
    """
    kind = config.get("model_type")
    if kind == "mpnet":
        return 2
    if kind not in _OFFSET_POSITIONS:
        return 0
    padding = config.get("pad_token_id", 1)
    return padding + 1 if isinstance(padding, int) else None


def usable_positions(config: Mapping[str, Any]) -> int | None:
    """The tokens for which the position table has a row, or None where there is no table."""
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or rows <= 0:
        return None
    return max(1, rows - (position_offset(config) or 0))


def _max_seq_length(
    own: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> int | None:
    """As sentence-transformers resolves it: its own config, else the tokenizer's, capped by the table."""
    text = (own.get("processing_kwargs") or {}).get("text") or {}
    most = usable_positions(config)
    for stated in (text.get("max_length"), own.get("max_seq_length")):
        if isinstance(stated, int):
            # Several XLM-R models state 514, the rows of their table: two of them are never a text's.
            return stated if most is None else min(stated, most)
    limits = [tokenizer.get("model_max_length"), most]
    real = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < 1_000_000_000]
    return min(real) if real else None
