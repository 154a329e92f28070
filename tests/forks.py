"""Work in a forked child, and the words of the error that it ends in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from esembed.errors import EncoderError

__all__ = ["forks", "in_child", "told"]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_child(work: Callable[[], str], seconds: float = 40) -> str:
    """What *work* returns in a forked child that ends as a program does; ``hangs`` where it doesn't end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(write, work().encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    until = time.monotonic() + seconds
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return "hangs"
        time.sleep(0.05)
    with os.fdopen(read) as handle:
        return handle.read()


def told(call: Callable[..., Any], *args: Any) -> str:
    """What the EncoderError says that ``call(*args)`` raises."""
    try:
        call(*args)
    except EncoderError as error:
        return str(error)
    return "no error"
