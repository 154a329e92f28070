"""What the CPU offers: threads that may be used, and whether bfloat16 pays."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_threads", "has_amx"]


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
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as handle:
            return any(line.startswith("flags") and " amx_bf16" in line for line in handle)
    except OSError:
        return False
