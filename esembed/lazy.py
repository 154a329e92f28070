"""NumPy, imported when something of it is used: a search by words needs none of its 0.17 s."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["np", "npt"]

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:

    class _Lazy:
        """A module. What was asked for once is an attribute here, found without this detour."""

        def __init__(self, load: Callable[[], Any]) -> None:
            self._load = load

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._load(), name)
            setattr(self, name, value)
            return value

    def _numpy() -> Any:
        import numpy

        return numpy

    def _numpy_typing() -> Any:
        import numpy.typing

        return numpy.typing

    np, npt = _Lazy(_numpy), _Lazy(_numpy_typing)
