"""What the CPU offers: threads that may be used, and whether bfloat16 pays."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["available_threads", "dtype_notes", "emulated", "has_amx", "has_bfloat16"]

_log = logging.getLogger(__name__)


def available_threads() -> int:
    """CPU threads that this process may use: its affinity, capped by its cgroup's quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()[:2]
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 in tiles (AMX), where it is several times faster than float32.

    AVX-512's bfloat16 alone doesn't count: OpenVINO was no faster with it than in float32 there.
    """
    return "amx_bf16" in _flags()


def has_bfloat16() -> bool:
    """Whether the CPU is known to have instructions for bfloat16.

    Where it has none, torch computes it element by element in software: a benchmark on such a CPU took
    minutes where float32 took seconds.
    """
    return bool(_flags() & {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"})


def emulated(dtype: str) -> str | None:
    """What to tell somebody who asked for *dtype* on a CPU without instructions for it, else None (also where
    the system doesn't list its instructions)."""
    known = _flags()
    if not known:
        return None
    if dtype == "bfloat16" and not has_bfloat16():
        return (
            "this CPU has no bfloat16 instructions and emulates them: dtype float32 is faster and more exact"
        )
    if dtype == "float16" and not known & {"avx512_fp16", "amx_fp16", "fphp", "asimdhp"}:
        return "this CPU has no float16 arithmetic and emulates it: dtype float32 is faster and more exact"
    return None


def dtype_notes(dtype: str, name: str) -> list[str]:
    """:func:`emulated` for the model *name*, as notes of its runtime; logged as a warning, too."""
    note = emulated(dtype)
    if note is None:
        return []
    _log.warning("%s: %s", name, note)
    return [note]


def _flags() -> set[str]:
    """The CPU's features by Linux's names; empty on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as handle:
            for line in handle:
                if line.startswith(("flags", "Features")):  # x86, ARM
                    return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()
