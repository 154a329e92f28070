"""Real inputs, mutated: values replaced by hostile ones, parts dropped, doubled or moved.

How long: each entrance tries ``EXAMPLES[entrance]`` examples, measured to take about 15 seconds; the
same ones each time, so that a red run can be repeated. The long mode tries others at every run::

    ESEMBED_FUZZ_SECONDS=300 pytest -s tests/fuzz

takes that many seconds for each entrance and prints how many inputs that were.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).resolve().parent / "corpus"
SECONDS = float(os.environ.get("ESEMBED_FUZZ_SECONDS", "0"))
BATCH = 200
SECONDS_PER_KILOBYTE = 1.0
MEMORY_BYTES = 64 * 1024 * 1024
"""The most that one input of the corpus' size (kilobytes) may take for the time it is read."""


class Deep:
    """Objects (or lists) inside each other, made where they are used: no depth of calls copies them."""

    def __init__(self, levels: int, *, lists: bool = False) -> None:
        self.levels, self.lists = levels, lists

    def make(self) -> Any:
        value: Any = 1
        for _ in range(self.levels):
            value = [value] if self.lists else {"query": value}
        return value


class Nested(Deep):
    """A value inside itself, at a place where such a value may stand: each level alone is right."""

    def __init__(self, value: Any, path: list[Any], levels: int) -> None:
        super().__init__(levels)
        self.value, self.path = value, path

    def make(self) -> Any:
        self.value = inner = _filled([self.value])[0]
        for _ in range(self.levels):
            outer = here = copy.copy(self.value)
            for key in self.path[:-1]:
                here[key] = here = copy.copy(here[key])
            here[self.path[-1]] = inner
            inner = outer
        return inner


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 1e30,
    -1e308, 1e-320, -0.0,
    0.5, float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "NaN", "1e9", "null", "*", "a*,-b", "^2", "a^NaN", "../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:9/", "<now/d>", "_all", "_id", "esembed_hash", "a.b.c", ".", "..",
    "a..b", "." * 5000,
    "x" * 100_000, "\x00", "\n", "\x1b[2J", "\x9b31m", "\u202egnp.exe", "\ud800", "\ufeff",
    "٣", "ﬁ", "\U000e0041",
    "{{ctx}}", "${path.home}", "2**53", "2026-13-45", "9999999999-01-01", "P1Y", "now+999999999y",
    [], {}, [[]], [None], [{}], {"": 1}, {"\x00": 1}, {"type": "raw"}, {"type": "match"}, {"type": 1},
    {"type": "raw", "bodies": {"opensearch": {"match_all": {}}, "elasticsearch": {"match_all": {}}}},
    [1, "a"], ["a", 1], [1e308] * 3, [0.0] * 8, [2**70], [float("nan")] * 8,
    {"a": float("nan")}, ["a"] * 3000,
    {str(i): i for i in range(3000)}, Deep(60), Deep(300), Deep(300, lists=True), Deep(5000),
]  # fmt: skip

OPERATIONS = (
    "replace",
    "alike",
    "alike",
    "alike",
    "drop",
    "double",
    "swap",
    "rename",
    "wrap",
    "nest",
    "nest",
    "nest",
    "multiply",
)
PLACES = 20_000
"""The most that are looked at: a list that was multiplied twice has 25 million."""
LEVELS = (3, 30, 60, 400, 1500)
COPIES = (40, 400, 5000)


def load(name: str) -> list[Any]:
    """The corpus of an entrance: one JSON value a line."""
    lines = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside."""
    found: list[tuple[Any, Any]] = []
    stack = [(value, 0)]
    while stack and len(found) < PLACES:
        here, depth = stack.pop()
        if depth > 30:
            continue
        if isinstance(here, dict):
            keys: Any = list(here)
        elif isinstance(here, list):
            keys = range(len(here))
        else:
            continue
        for key in keys:
            found.append((here, key))
            stack.append((here[key], depth + 1))
    return found


def _paths(value: Any) -> list[list[Any]]:
    """The path to every object and list inside."""
    found: list[list[Any]] = []
    stack: list[tuple[list[Any], Any]] = [([], value)]
    while stack:
        path, here = stack.pop()
        items: Any = (
            here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        )
        for key, inner in items:
            if isinstance(inner, (dict, list)) and len(path) < 30:
                found.append([*path, key])
                stack.append(([*path, key], inner))
    return found


def mutate(value: Any, changes: list[tuple[int, str, Any, int]]) -> Any:
    """The value, changed: each change is (which place, what, a hostile value, which other place)."""
    root = [copy.deepcopy(value)]
    for which, operation, hostile, other in changes:
        places = _places(root)
        holder, key = places[which % len(places)]
        if operation == "drop" and holder is not root:
            del holder[key]
        elif operation == "double" and isinstance(holder, list) and holder is not root:
            holder.extend(copy.deepcopy(holder[: 1 + other % 40]))
        elif operation == "multiply" and isinstance(holder, list) and holder is not root:
            holder.extend([holder[key]] * COPIES[other % len(COPIES)])
        elif operation == "alike":
            # Of the same type, so that what checks types doesn't end the way of most of them.
            same = [one for one in HOSTILE if type(one) is type(holder[key])]
            holder[key] = copy.deepcopy(same[other % len(same)] if same else hostile)
        elif operation == "nest" and isinstance(holder[key], (dict, list)):
            if inside := _paths(holder[key]):
                path = inside[other % len(inside)]
                holder[key] = Nested(copy.deepcopy(holder[key]), path, LEVELS[which % len(LEVELS)])
        elif operation == "swap":
            from_holder, from_key = places[other % len(places)]
            holder[key] = copy.deepcopy(from_holder[from_key])
        elif operation == "rename" and isinstance(holder, dict):
            holder[hostile if isinstance(hostile, str) else f"{key}x"] = holder.pop(key)
        elif operation == "wrap":
            holder[key] = [holder[key]] if other % 2 else {"type": holder[key]}
        else:
            holder[key] = copy.deepcopy(hostile)
    return _filled(root)[0]


def _filled(root: list[Any]) -> list[Any]:
    """With what is deep, made last."""
    for holder, key in _places(root):
        if isinstance(holder[key], Deep):
            holder[key] = holder[key].make()
    return root


def from_seed(corpus: Sequence[Any], seed: int) -> Any:
    """One of the corpus' values, changed in one to four ways."""
    random = Random(seed)
    changes = [
        (random.randrange(400), random.choice(OPERATIONS), random.choice(HOSTILE), random.randrange(400))
        for _ in range(random.randint(1, 4))
    ]
    return mutate(random.choice(corpus), changes)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:4000]
    except RecursionError:
        return "a deep value"


SEEDS = st.integers(0, 2**24 - 1)


def fuzz(
    corpus: Sequence[Any],
    examples: int,
    check: Callable[[Any], None],
    *,
    make: Callable[[Any, int], Any] = from_seed,
) -> None:
    """Try *check* on that many values made of the corpus' (or for ESEMBED_FUZZ_SECONDS).

    Args:
        make: corpus and seed → a value.

    Hypothesis draws one number for each, and Random the rest. Drawn by Hypothesis one by one, the choices
    repeat each other (its generator prefers what is small and what it had): thousands of examples missed a
    planted fault that a few hundred independent ones find. Up to 24 bits it draws evenly.
    """
    tried = 0

    def once(seed: int) -> None:
        nonlocal tried
        tried += 1
        value = make(corpus, seed)
        try:
            check(value)
        except BaseException:
            print(f"found with seed {seed}: {_shown(value)}")
            raise

    def batch(count: int) -> None:
        settings(
            max_examples=count,
            deadline=None,
            derandomize=not SECONDS,
            database=None,
            phases=[Phase.generate],  # a smaller seed is no smaller input
            suppress_health_check=list(HealthCheck),
        )(given(SEEDS)(once))()

    if not SECONDS:
        batch(examples)
        return
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        batch(BATCH)
    print(f"{tried:,} inputs")


def bounded(read: Callable[[], Any], size: int, *, memory: bool = False) -> Any:
    """What *read* returns, if it takes no more than a second for each kilobyte (and little memory).

    Time is that of the processor. What took too long is read again, since the first read of a process also
    imports what reads it (gensim: a second).
    """
    limit = SECONDS_PER_KILOBYTE * max(1.0, size / 1024)
    if memory:
        tracemalloc.start()
    started = time.process_time()
    try:
        return read()
    finally:
        took = time.process_time() - started
        peak = 0
        if memory:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if took > limit:
            started = time.process_time()
            with contextlib.suppress(Exception):  # the first read's is on its way
                read()
            took = time.process_time() - started
        assert took <= limit, f"{took:.1f} s for {size} bytes"
        assert peak <= MEMORY_BYTES + 20 * size, f"{peak:,} bytes of memory for {size} bytes"


@contextlib.contextmanager
def in_time(size: int) -> Iterator[None]:
    """What is inside ends, or is ended. In C code that doesn't end, the time-out of the test run does."""
    seconds = 10.0 + SECONDS_PER_KILOBYTE * size / 1024

    def expired(*_: Any) -> None:
        raise AssertionError(f"no end after {seconds:.0f} s for {size} bytes")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def in_memory(size: int) -> Iterator[None]:
    """The process grows by no more than MEMORY_BYTES and 20 times *size*, C libraries included; looked at
    where the kernel can tell (Linux)."""
    before = _reset_peak()
    yield
    if before is not None:
        grown = _status("VmHWM") - before
        assert grown <= MEMORY_BYTES + 20 * size, f"{grown:,} bytes of memory for {size} bytes"


def _reset_peak() -> int | None:
    """Bytes that the process has now, which is its peak from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(name)
