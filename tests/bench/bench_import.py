"""``import esembed`` and ``esembed --help``, in fresh interpreters: median of several runs, milliseconds.

python tests/bench/bench_import.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

RUNS = 9
CASES = {
    "python alone": ["-c", "pass"],
    "import esembed": ["-c", "import esembed"],
    "from esembed import Index, IndexPlan, query": ["-c", "from esembed import Index, IndexPlan, query"],
    "esembed --version": ["-c", "from esembed.cli import main; main(['--version'])"],
    "esembed --help": ["-c", "from esembed.cli import main; main(['--help'])"],
}


def measure() -> dict[str, float]:
    """Case → median wall milliseconds; the cases take turns, so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, arguments in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
