"""Our own suite runs on the pinned local servers, also where a Docker API answers.

They are what the expected results were checked on; the container path has tests of its own. A URL that
is given still comes first, and ``--esembed-engine`` or ``ESEMBED_ENGINE`` overrule this.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esembed.local.artifacts import cache_dir, engine_root

if not any(os.environ.get(f"ESEMBED_{kind}_URL") for kind in ("OPENSEARCH", "ELASTICSEARCH")):
    os.environ.setdefault("ESEMBED_ENGINE", "local")


@pytest.fixture
def use_cache_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``use(folder)``: the cache of this test. As root, the engines' folder of a cache that is closed to
    others (pytest's folders are) lies in the machine's cache, where pytest doesn't remove it; this does."""
    outside: set[Path] = set()

    def use(folder: Path) -> None:
        monkeypatch.setenv("ESEMBED_CACHE_DIR", str(folder))
        if not engine_root().is_relative_to(cache_dir()):
            outside.add(engine_root())

    yield use
    for folder in outside:
        shutil.rmtree(folder, ignore_errors=True)
