"""``esembed doctor``: what is installed, which engine is there, what it can do, what encodes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from esembed.cli._connect import Connection, takes_connection
from esembed.errors import PermanentError

__all__ = ["app", "examine"]

app = typer.Typer(pretty_exceptions_enable=False)

# What each extra brings, by the name that is imported or distributed.
EXTRAS: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino", "tokenizers"),
    "torch": ("torch", "transformers"),
    "local": ("jgo", "cjdk", "psutil"),
    "docker": ("testcontainers",),
    "async": ("aiohttp",),
    "parquet": ("pyarrow",),
    "eval": ("ir-measures",),
    "train": ("sentence-transformers", "datasets", "accelerate", "peft"),
}
CORE = ("elasticsearch", "opensearch-py", "numpy", "msgspec", "orjson")


@app.command()
@takes_connection
def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Output as JSON.")] = False,
    connection: Connection,
) -> None:
    """Say what is installed, which Java, which engine and what it can do, and what encodes here.

    It changes nothing, downloads nothing, and always ends with exit code 0.

    Examples:

        $ esembed doctor

        $ esembed doctor --url https://search.example:9200 --api-key-env SEARCH_KEY --json
    """
    from esembed import terminal

    report = examine(connection)
    if json:
        # "kind" is the name of 0.1.0, for scripts that read it.
        engine = report["engine"]
        terminal.print_json(report | {"engine": engine | {"kind": engine.get("engine")}})
        return
    for title, section in report.items():
        if title == "advice":
            continue
        rows = [(name.replace("_", " "), value) for name, value in section.items()]
        terminal.print_table(("what", "found"), rows, title=title.replace("_", " "))
    for line in report["advice"]:
        terminal.console().print(f"→ {line}", markup=False)


def examine(connection: Connection) -> dict[str, Any]:
    """Everything that doctor knows, as JSON values. Never raises: what fails is said in its place."""
    advice: list[str] = []
    report: dict[str, Any] = {
        "python": _safely(_python),
        "packages": _safely(_packages),
        "machine": _safely(_machine),
        "encoders": _safely(_encoders),
        "java": _safely(_java),
        "local_engines": _safely(_local_engines),
        "engine": _safely(lambda: _engine(connection)),
        "advice": advice,
    }
    if "found" not in report["java"]:
        advice.append(
            "no Java 21 or newer was found: install a JDK (or set JAVA_HOME); a local engine needs one, and "
            "esembed engine start fetches one where the internet is open"
        )
    if report["encoders"].get("backend", "none").startswith("none"):
        advice.append("nothing can encode text here: pip install 'esembed[demo]' (small) or 'esembed[torch]'")
    if "address" not in report["engine"]:
        advice.append("no engine is reached: esembed engine start, or name one with --url")
    return report


def _safely(probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - a broken installation is what doctor is for
        text = str(error).strip() or type(error).__name__
        return {"problem": text}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "esembed": _version("esembed") or "not installed (run from its source tree)",
    }


def _packages() -> dict[str, Any]:
    found: dict[str, Any] = {name: _version(name) or "missing" for name in CORE}
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        lacking = [name for name, version in versions.items() if version is None]
        present = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        wants = f"needs {', '.join(lacking)}: pip install 'esembed[{extra}]'" if lacking else ""
        found[f"extra {extra}"] = "; ".join(part for part in (present, wants) if part)
    return found


# -- the machine -----------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": usable,
    }
    flags = _cpu_flags()
    wanted = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")
    if flags:
        found["instructions"] = [flag for flag in wanted if flag in flags] or ["none of AVX2, AVX-512, AMX"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["memory_gib"] = round(total / 2**30, 1)
    found["accelerator"] = _accelerator()
    found["cache"] = str(_cache_folder())
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


def _accelerator() -> str:
    """Asked of the driver's own tool, so that torch isn't imported for it."""
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        if result.returncode == 0 and result.stdout.strip():
            return "; ".join(result.stdout.strip().splitlines())
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU (mps, with the torch extra)"
    return "none: the CPU encodes"


def _cache_folder() -> Path:
    from esembed.local.artifacts import cache_dir

    return cache_dir()


def _encoders() -> dict[str, Any]:
    openvino = all(_version(name) for name in EXTRAS["openvino"])
    torch = all(_version(name) for name in EXTRAS["torch"])
    backends = [name for name, there in (("openvino", openvino), ("torch", torch)) if there]
    found: dict[str, Any] = {"backend": ", ".join(backends) or "none (only lexical and given)"}
    if openvino:
        found["openvino precision"] = _openvino_precision()
    return found


def _openvino_precision() -> str:
    import openvino

    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bfloat16 and float32" if "BF16" in capabilities else "float32"


# -- engines ---------------------------------------------------------------------------------------


def _java() -> dict[str, Any]:
    from esembed.local.java import find_java

    java = find_java()
    return {"found": f"{java.version} at {java.home} ({java.source})"}


def _local_engines() -> dict[str, Any]:
    from esembed.local.server import ENGINES, running

    found: dict[str, Any] = dict.fromkeys(ENGINES, "not running")
    for server in running():
        name = server.engine if server.name == "default" else f"{server.engine} ({server.name})"
        found[name] = f"{server.version} running at {server.url}"
    return found


def _engine(connection: Connection) -> dict[str, Any]:
    url, engine = connection.resolve()
    client = connection.client()
    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe

    try:
        capabilities = probe(EngineClient(client))
    except PermanentError as error:  # it was reached: what is wrong is another thing than the address
        return {"address": url, "engine": engine, "problem": error.message}
    finally:
        client.close()
    version, known = str(capabilities.version), capabilities.version_known
    found: dict[str, Any] = {"address": url, "engine": engine, "version": version if known else None}
    if not known:
        found["assumed_version"] = version
    for name in (
        "license",
        "distribution",
        "analyzers",
        "quantizations",
        "element_types",
        "sparse_storages",
        "rank_feature",
        "native_knn",
        "rrf",
        "rrf_weights",
        "linear",
        "rescore_vector",
        "base64_vectors",
        "unknown",
    ):
        value = getattr(capabilities, name)
        found[name] = sorted(value) if isinstance(value, frozenset) else value
    found["details"] = {name: list(v) if isinstance(v, tuple) else v for name, v in capabilities.details}
    return found
