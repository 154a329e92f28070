"""Encoders and processes: what a fork leaves behind, what a pickle carries, and who shares a loaded model.

Only the thread that forks lives on in the child. Seen on Linux with OpenVINO 2026.4 and torch 2.15: an
encoder of the parent waits for ever for its pool's threads; a compiled OpenVINO model waits for them in its
destructor too, so that even a child that never encodes hangs when it ends; once torch has computed in the
parent, a model that the child loads by itself hangs (OpenMP) or fails ("Invalid thread pool"), while OpenVINO
starts threads of its own there. So a child is told at once, nothing of the parent's is torn down in it, and
locks that another thread held are free again.

A pickle carries an encoder's spec, params and runtime, never tensors or keys: the process that reads it loads
the model. Inside one process, pools that ask for the same model get one.
"""

from __future__ import annotations

import ctypes
import multiprocessing.process
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from esembed.encode.base import Encoder, RuntimeOptions
from esembed.errors import EncoderError, EncoderPickleError
from esembed.plan.encoders import split_spec
from esembed.plan.params import EncoderParams

__all__ = [
    "ForkSafeLock",
    "ModelUser",
    "ProcessMark",
    "absolute",
    "belongs_here",
    "how_to_load",
    "leave_in_parent",
    "release",
    "remember",
    "remember_call",
    "share",
    "use_torch",
]

# -- forks ---------------------------------------------------------------------------------------

_forks = 0
_TOKENIZERS = "TOKENIZERS_PARALLELISM"


class ProcessMark:
    """Where something was made; it can't be used on the far side of a fork."""

    def __init__(self) -> None:
        self._forks = _forks

    @property
    def here(self) -> bool:
        """Whether this is still the process that made it."""
        return self._forks == _forks

    def check(self, what: str = "this encoder") -> None:
        """Raises EncoderError in a forked child."""
        if not self.here:
            raise EncoderError(
                f"{what} was loaded before this process was forked, and its threads stayed behind: load it "
                "in the child (load_encoder, Index.open there), or start workers by multiprocessing's spawn "
                "method; a pickled encoder loads itself where it arrives"
            )


_torch_ran: ProcessMark | None = None


def use_torch(name: str) -> None:
    """To be called before torch computes on behalf of the model *name*.

    Raises:
        EncoderError: a parent of this process has computed with torch before the fork.
    """
    global _torch_ran
    if _torch_ran is None:
        _torch_ran = ProcessMark()
    elif not _torch_ran.here:
        raise EncoderError(
            f"{name} can't be loaded by torch here: this process was forked after torch had computed in its "
            "parent, whose threads stayed behind. Start workers by multiprocessing's spawn or forkserver "
            "method, load models in the workers only, or use backend='openvino'",
            spec=name,
        )


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


class ForkSafeLock:
    """A lock that is free in a forked child, whoever held it in the parent, and in a pickle's copy."""

    def __init__(self, *, reentrant: bool = False) -> None:
        self._reentrant = reentrant
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        self._lock: Any = threading.RLock() if self._reentrant else threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def __getstate__(self) -> bool:
        return self._reentrant

    def __setstate__(self, reentrant: bool) -> None:
        self._reentrant = reentrant
        self._renew()
        _locks.add(self)


_native: weakref.WeakSet[Any] = weakref.WeakSet()


def leave_in_parent(native: Any) -> None:
    """Never run *native*'s destructor in a forked child: it would wait there for threads of the parent."""
    _native.add(native)


_workers: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()


def belongs_here(worker: multiprocessing.process.BaseProcess) -> None:
    """A forked child that ends must not end *worker*, which serves its parent."""
    _workers.add(worker)


def _after_fork() -> None:
    """In the child: marks of before are stale, locks are free, and no model of before is offered."""
    global _forks, _lock
    _forks += 1
    for lock in list(_locks):
        lock._renew()
    _lock = threading.Lock()
    _models.clear()
    # tokenizers gives up its threads in a child by itself, but not where this variable asks for them: then
    # it waits for ever for those of the parent (seen with 0.23). It reads the variable at each call.
    if os.environ.get(_TOKENIZERS, "").lower() not in ("", "0", "false", "off", "no", "n", "f"):
        os.environ[_TOKENIZERS] = "false"
    # When an interpreter ends, multiprocessing ends the daemons that it knows: those of the parent, too.
    getattr(multiprocessing.process, "_children", set()).difference_update(_workers)
    if sys.implementation.name == "cpython":
        for native in list(_native):
            # One reference more than will ever be given back. A list of our own would not do: what modules
            # hold is torn down when the interpreter ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


# -- pickles -------------------------------------------------------------------------------------

Recipe = tuple[str, EncoderParams, RuntimeOptions]
_Load = Callable[[str, EncoderParams, RuntimeOptions], Encoder]
_Call = tuple[Callable[..., Any], tuple[Any, ...]]
_calls: weakref.WeakKeyDictionary[Any, _Call] = weakref.WeakKeyDictionary()


def remember(encoder: Encoder, recipe: Recipe, load: _Load) -> None:
    """Let *encoder* be pickled as what it was loaded from.

    Args:
        load: loads it again where the pickle is read; a function that is found there by its name.
    """
    spec, params, runtime = recipe
    family, rest = split_spec(spec)
    if family in ("hf", "splade", "static"):
        spec = f"{family}:{absolute(rest)}"
    remember_call(encoder, load, spec, params, runtime)


def remember_call(encoder: Any, load: Callable[..., Any], *arguments: Any) -> None:
    """:func:`remember` for what has no spec: it is pickled as ``load(*arguments)``, which have no relative
    paths among them."""
    _calls[encoder] = (load, arguments)


def absolute(name: str) -> str:
    """A model's name; where it is a path, one that holds in every working directory."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name and os.path.exists(path) else name


def how_to_load(encoder: Any) -> _Call:
    """For ``__reduce__``: the call that loads *encoder* again.

    Raises:
        EncoderPickleError: it wasn't made by ``load_encoder`` or by an index.
    """
    found = _calls.get(encoder)
    if found is None:
        raise EncoderPickleError(
            f"this {type(encoder).__name__} was made by hand, so a pickle can't say how to load it: make it "
            "with load_encoder(spec, params, runtime), or load it in the worker"
        )
    return found


# -- shared models -------------------------------------------------------------------------------


class ModelUser:
    """Somebody who holds shared models, until :func:`release`."""

    def __init__(self) -> None:
        self.models: dict[Hashable, _Model] = {}


class _Model:
    def __init__(self) -> None:
        self.encoders: tuple[Encoder, ...] | None = None
        self.users: weakref.WeakSet[ModelUser] = weakref.WeakSet()
        self.lock = threading.Lock()


# Weak: a pool that is dropped without close() must not keep its model in memory for good.
_models: weakref.WeakValueDictionary[Hashable, _Model] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _files(spec: str) -> Hashable:
    """What tells a model's files from others that were written over them."""
    _, rest = split_spec(spec)
    path = Path(absolute(rest)) if rest else None
    if path is None or not path.exists():
        return rest
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            stat = file.stat()
            found.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return (str(path.resolve()), tuple(found))


def share(
    user: ModelUser, recipes: tuple[Recipe, ...], make: Callable[[], tuple[Encoder, ...] | None]
) -> tuple[Encoder, ...] | None:
    """The encoders that *make* returns, or those that it returned to another user of the same *recipes*.

    Two users never load one model twice at the same time. What came out as None is not kept.
    """
    key: Hashable = tuple((*recipe, _files(recipe[0])) for recipe in recipes)
    with _lock:
        model = _models.get(key)
        if model is None:
            model = _models[key] = _Model()
        model.users.add(user)
    try:
        with model.lock:
            if model.encoders is None:
                model.encoders = make()
            encoders = model.encoders
    except BaseException:
        model.users.discard(user)
        raise
    if encoders is None:
        model.users.discard(user)
        return None
    user.models[key] = model
    return encoders


def release(user: ModelUser) -> None:
    """Let *user*'s models go; those that nobody else uses are closed."""
    while user.models:
        key, model = user.models.popitem()
        with _lock:
            model.users.discard(user)
            last = not model.users
            if last and _models.get(key) is model:
                del _models[key]
        if last:
            for encoder in model.encoders or ():
                encoder.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
