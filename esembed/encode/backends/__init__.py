"""What runs a transformer, OpenVINO or torch, and the choice between them."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from esembed.encode.foreign_errors import foreign_errors
from esembed.encode.models.checks import check_shapes
from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.backends.base import Backbone
    from esembed.encode.base import RuntimeOptions
    from esembed.encode.models.folder import ModelFiles

__all__ = ["accelerator_present", "load_backbone"]


def load_backbone(files: ModelFiles, runtime: RuntimeOptions) -> Backbone:
    """The backbone for *files*; ``auto`` is resolved as follows and recorded in ``.runtime``.

    OpenVINO where it is installed, builds this architecture, and neither a device other than the
    CPU nor several devices are asked for (and, with ``device="auto"``, torch isn't there with a
    CUDA device); torch otherwise.

    Raises:
        EncoderError: nothing that is installed can run the model; the message names the extra.
    """
    check_shapes(files.config, files.tensors(), files.name)
    with foreign_errors(files.name, "be loaded"):
        return _load(files, runtime)


def _load(files: ModelFiles, runtime: RuntimeOptions) -> Backbone:
    # Asked for without importing them: torch takes seconds, and may not be needed.
    have_openvino = importlib.util.find_spec("openvino") is not None
    have_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    backend: str = runtime.backend
    if backend == "auto":
        backend = "torch"
        if have_openvino and runtime.device in ("auto", "cpu") and not runtime.devices:
            from esembed.encode.backends import openvino

            reason = openvino.unsupported(files)
            gpu = runtime.device == "auto" and have_torch and accelerator_present()
            if reason is None and not gpu:
                backend = "openvino"
            elif reason is not None and not have_torch:
                raise EncoderError(
                    f"the OpenVINO backend can't run {files.name}: {reason}. Torch can: "
                    'pip install "esembed[torch]"',
                    spec=files.name,
                )
    if backend == "openvino":
        if not have_openvino:
            raise EncoderError(
                'the openvino backend needs its packages: pip install "esembed[openvino]"', spec=files.name
            )
        from esembed.encode.backends.openvino import OpenVinoBackbone

        return OpenVinoBackbone(files, runtime)
    if not have_torch:
        raise EncoderError(
            f"{files.name} needs a backend that isn't installed here: "
            'pip install "esembed[openvino]" (BERT, Qwen and Llama shapes on the CPU) or "esembed[torch]"',
            spec=files.name,
        )
    if len(runtime.devices) > 1:
        from esembed.encode.backends.device_pool import DevicePool

        return DevicePool(files, runtime)
    from esembed.encode.backends.torch import TorchBackbone

    return TorchBackbone(files, runtime)


def accelerator_present() -> bool:
    """Whether an NVIDIA driver or Apple silicon is there, asked without importing torch."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    if os.environ.get("CUDA_VISIBLE_DEVICES", None) in ("", "-1"):
        return False
    return os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/nvidia0")
