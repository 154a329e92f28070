"""From ``name-or-folder`` to a folder: local, cached, or fetched from the model hub.

Only safetensors, JSON and tokenizer files are fetched: a pickled checkpoint runs code when it is
loaded, so it never comes onto the machine. The one exception is BGE-M3's ``sparse_linear.pt``, of which
nothing is run (:mod:`esembed.encode.models.tensors`).
"""

from __future__ import annotations

from pathlib import Path

from esembed.credentials import hide_in_logs
from esembed.errors import EncoderError

__all__ = ["ALLOW_PATTERNS", "IGNORE_PATTERNS", "locate"]

ALLOW_PATTERNS = (
    "*.json",
    "*.safetensors",
    "vocab.txt",
    "merges.txt",
    "query_token_weights.txt",
    "sparse_linear.pt",
    "*.model",
    "*.jinja",
)
"""The files that are fetched of a repository."""
IGNORE_PATTERNS = ("onnx/*", "openvino/*", "original/*", "*/checkpoint*", "coreml/*")
"""The files that are never fetched: other runtimes, pickles."""


def locate(
    rest: str, *, revision: str | None = None, local_files_only: bool = False
) -> tuple[Path, str | None, str | None]:
    """The folder of a model, its hub id (None for a folder) and its commit (None likewise).

    Args:
        rest: a folder, or a hub id (``organization/name``).
        revision: a hub commit, tag or branch.
        local_files_only: never ask the hub, use its cache only.

    Raises:
        EncoderError: no such folder, not in the cache, or the hub refused.
    """
    if not rest:
        raise EncoderError("the spec names no model: write hf:ORGANIZATION/NAME or hf:FOLDER")
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return folder, None, None
    if folder.is_file():
        raise EncoderError(f"{rest} is a file; give the model's folder", spec=rest)
    if rest.startswith((".", "/", "~")) or rest.count("/") > 1 or "\\" in rest:
        raise EncoderError(f"there is no folder {rest}", spec=rest)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"there is no folder {rest}, and fetching a model needs huggingface-hub: "
            'pip install "esembed[openvino]" or "esembed[torch]"',
            spec=rest,
        ) from error
    hide_in_logs()  # the hub's token
    path, refused = "", None
    try:
        path = snapshot_download(
            rest,
            revision=revision,
            allow_patterns=list(ALLOW_PATTERNS),
            ignore_patterns=list(IGNORE_PATTERNS),
            local_files_only=local_files_only,
        )
    except HFValidationError as error:
        refused = EncoderError(f"{rest!r} is neither a folder nor a hub id ({error})", spec=rest)
    except GatedRepoError:
        refused = EncoderError(
            f"{rest} is gated: accept its terms on the hub and log in with `hf auth login`", spec=rest
        )
    except RevisionNotFoundError:
        refused = EncoderError(f"{rest} has no revision {revision!r}", spec=rest)
    except RepositoryNotFoundError:
        refused = EncoderError(f"there is no folder {rest}, and the hub has no model of that name", spec=rest)
    except (LocalEntryNotFoundError, OSError):
        where = (
            "in the hub's cache (local_files_only)"
            if local_files_only
            else "cached, and the hub didn't answer"
        )
        refused = EncoderError(
            f"{rest} is not {where}. Fetch it where there is a network, or pass a folder", spec=rest
        )
    # Outside of the except blocks: the hub's errors quote an answer's status line and body, and a proxy may
    # quote the token there.
    if refused is not None:
        raise refused
    commit = Path(path).name
    return Path(path), rest, commit if len(commit) == 40 else revision
