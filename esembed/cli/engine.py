"""``esembed engine``: start, stop and watch a local engine or a container."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.cli._connect import EngineName

if TYPE_CHECKING:
    from esembed.local.docker import ContainerInfo
    from esembed.local.server import EngineInfo

__all__ = ["app"]

app = typer.Typer(
    help="Start, stop and watch an engine on this machine.\n\nWithout --docker it is a server that is "
    "downloaded once (checked against a pinned SHA-256) and run by Java 21 or newer, on loopback only; "
    "a reduced build, for development. With --docker it is the official image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_Engine = Annotated[EngineName, typer.Option("--engine", "-e", help="Which engine.")]
_MaybeEngine = Annotated[
    EngineName | None, typer.Option("--engine", "-e", help="Which engine; without it, both.")
]
_Docker = Annotated[bool, typer.Option("--docker", help="A container instead of a local server.")]
_Name = Annotated[str, typer.Option("--name", help="Several of an engine can run under different names.")]
_Json = Annotated[bool, typer.Option("--json", help="Output as JSON.")]


def _as_dict(info: EngineInfo | ContainerInfo) -> dict[str, Any]:
    """Everything but the password, which only ``state.json`` (mode 0600) holds."""
    import dataclasses

    values = {f.name: getattr(info, f.name) for f in dataclasses.fields(info) if f.name != "password"}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    plain["kind"] = plain["engine"]  # the name of 0.1.0, for scripts that read it
    return {"running": True, "docker": "container_id" in plain} | plain


@app.command()
def start(
    engine: _Engine = EngineName.opensearch,
    docker: _Docker = False,
    version: Annotated[
        str | None, typer.Option("--version", help="Of a local server; an unknown one lists those on offer.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="With --docker: another image.")] = None,
    heap_mb: Annotated[int, typer.Option("--heap-mb", min=256, help="Java heap, MiB.")] = 1024,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 finds a free one.")] = 0,
    trial: Annotated[
        bool, typer.Option("--trial", help="Elasticsearch with a 30-day trial license.")
    ] = False,
    name: _Name = "default",
    json: _Json = False,
) -> None:
    """Start an engine, or find the one that runs already; it stays until it is stopped.

    Examples:

        $ esembed engine start

        $ esembed engine start --engine elasticsearch --heap-mb 2048 --port 9200

        $ esembed engine start --docker --engine elasticsearch --trial
    """
    from esembed import terminal
    from esembed.cli._connect import UsageError

    progress = terminal.EngineProgress()
    info: EngineInfo | ContainerInfo
    if docker:
        from esembed.local import docker as containers

        if version is not None:
            raise UsageError("--version is for local servers; with --docker give --image NAME:TAG")
        info = containers.start(
            engine.value, image=image, heap_mb=heap_mb, port=port, trial=trial, name=name, progress=progress
        )
    else:
        from esembed.local import server as local

        if image is not None:
            raise UsageError("--image goes with --docker")
        with terminal.console(stderr=True).status(f"starting {engine.value} …"):
            info = local.start(
                engine.value,
                version=version,
                heap_mb=heap_mb,
                port=port,
                trial=trial,
                name=name,
                progress=progress,
            )
    if json:
        terminal.print_json(_as_dict(info))
        return
    state = "runs already" if info.reused else "runs"
    terminal.say(f"{info.engine} {info.version} {state} at {info.url}")
    if red := getattr(info, "red_indices", ()):
        shown = ", ".join(red[:5]) + (f" and {len(red) - 5} more" if len(red) > 5 else "")
        terminal.note(
            f"but {shown} {'is' if len(red) == 1 else 'are'} red: a primary shard can't be read, so that "
            f"searches and writes there fail; the others work. {info.url}/_cluster/allocation/explain says "
            f"why; what can be made again is deleted by: esembed index delete {red[0]}"
        )
    options = " --docker" * docker + (f" --name {name}" if name != "default" else "")
    terminal.note(f"stop it with: esembed engine stop --engine {info.engine}{options}")


@app.command()
def stop(
    engine: _MaybeEngine = None,
    docker: _Docker = False,
    name: _Name = "default",
    purge: Annotated[bool, typer.Option("--purge", help="Also remove its data, all indices.")] = False,
    json: _Json = False,
) -> None:
    """Stop an engine. A local one keeps its data for the next start; a container's goes with it.

    Examples:

        $ esembed engine stop

        $ esembed engine stop --engine opensearch --purge
    """
    from esembed import terminal

    stopped: dict[str, bool] = {}
    for each in [engine] if engine else list(EngineName):
        if docker:
            from esembed.local import docker as containers

            stopped[each.value] = containers.stop(each.value, name=name)
            continue
        from esembed.local import server as local

        stopped[each.value] = local.stop(each.value, name=name)
        if purge:
            local.destroy(each.value, name=name)
    if json:
        terminal.print_json({"stopped": stopped, "purged": purge and not docker})
        return
    for which, did in stopped.items():
        if did or engine:
            terminal.say(f"{which} {'stopped' if did else 'was not running'}")
    if not engine and not any(stopped.values()):
        terminal.say("no engine was running")


@app.command()
def status(
    engine: _MaybeEngine = None, docker: _Docker = False, name: _Name = "default", json: _Json = False
) -> None:
    """Which engines run, and where. Exit code 1 when none of those asked for does.

    Examples:

        $ esembed engine status

        $ esembed engine status --engine opensearch --json | jq -r .[0].url
    """
    from esembed import terminal

    found: list[EngineInfo | ContainerInfo] = []
    for each in [engine] if engine else list(EngineName):
        info: EngineInfo | ContainerInfo | None
        if docker:
            from esembed.local import docker as containers

            info = containers.status(each.value, name=name)
        else:
            from esembed.local import server as local

            info = local.status(each.value, name=name)
        if info is not None:
            found.append(info)
    if json:
        terminal.print_json([_as_dict(info) for info in found])
    elif found:
        rows = [[i.engine, i.version, i.url, i.license, getattr(i, "pid", None) or i.name] for i in found]
        terminal.print_table(["engine", "version", "url", "license", "pid or container"], rows)
    else:
        terminal.say(f"{engine.value if engine else 'no engine'} {'does not run' if engine else 'runs'}")
        terminal.note("start one with: esembed engine start")
    if not found:
        raise typer.Exit(1)


@app.command()
def logs(
    engine: _Engine = EngineName.opensearch,
    docker: _Docker = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many, from the end.")] = 50,
    console: Annotated[bool, typer.Option("--console", help="What Java itself printed.")] = False,
    name: _Name = "default",
    json: _Json = False,
) -> None:
    """The end of an engine's log (also of one that stopped or failed to start).

    Examples:

        $ esembed engine logs --engine elasticsearch --lines 200
    """
    from esembed import terminal

    if docker:
        from esembed.local import docker as containers

        shown = containers.logs(engine.value, lines, name=name)
    else:
        from esembed.local import server as local

        shown = local.logs(engine.value, lines, name=name, stream="console" if console else "server")
    if json:
        terminal.print_json({"lines": shown})
    elif shown:
        terminal.say("\n".join(shown))
    else:
        terminal.note(f"{engine.value} ({name}) has no log yet")
