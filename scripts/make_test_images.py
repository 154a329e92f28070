"""Make container images of both engines on this machine, for testing the container path offline.

    python scripts/make_test_images.py --work FOLDER [--engine opensearch] [--engine elasticsearch]

Where no image registry can be reached, the official images can't be pulled. These stand in for them: a
minimal Debian by debootstrap, this machine's JDK, and the verified server files of esembed's own cache,
imported into podman as ``localhost/esembed-<kind>:<version>``. Like the official ones they take settings
from environment variables with dots in their names. Needs root, debootstrap and podman (Debian:
``apt install podman runc iptables netavark aardvark-dns debootstrap``). Prints one image name a line.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO

from esembed.local.artifacts import assembly, install
from esembed.local.java import find_java

UID = 1000
ENTRYPOINT = """#!/bin/bash
# Settings are environment variables with dots in their names, as in the official images.
args=()
bound=
while IFS= read -r -d '' entry; do
  name=${entry%%=*}
  case $name in
    network.host | http.host) bound=1 ;;
  esac
  case $name in
    [a-z]*.*) args+=("-E$name=${entry#*=}") ;;
  esac
done < /proc/self/environ
[ -n "$bound" ] || args+=("-Enetwork.host=0.0.0.0")
exec /opt/server/bin/KIND "${args[@]}"
"""


def base_system(work: Path) -> Path:
    """A minimal Debian tree, made once."""
    tree = work / "rootfs"
    if not (tree / ".complete").exists():
        log = work / "debootstrap.log"
        with log.open("wb") as output:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", str(tree)],
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise SystemExit("debootstrap failed:\n" + log.read_text(errors="replace")[-2000:])
        (tree / ".complete").touch()
    return tree


def write_tree(sink: IO[bytes], kind: str, base: Path, jdk: Path, server: Path) -> None:
    """The image's file system as one tar stream."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        skipped = ("./proc/", "./sys/", "./dev/", "./var/cache/apt/archives/")
        return None if member.name.startswith(skipped) else member

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = UID
        member.uname = member.gname = ""
        return member

    with tarfile.open(fileobj=sink, mode="w|") as tar:
        tar.add(base, arcname=".", filter=plain)
        tar.add(jdk, arcname="./opt/jdk")
        tar.add(server, arcname="./opt/server", filter=owned)
        script = ENTRYPOINT.replace("KIND", kind).encode()
        member = tarfile.TarInfo("./opt/entrypoint")
        member.size, member.mode = len(script), 0o755
        tar.addfile(member, io.BytesIO(script))


def make(kind: str, work: Path) -> str:
    """Import one image and return its name."""
    wanted = assembly(kind)
    tag = f"localhost/esembed-{kind}:{wanted.version}"
    if subprocess.run(["podman", "image", "exists", tag], check=False).returncode == 0:
        return tag
    java = find_java(min_major=wanted.min_java, max_major=wanted.max_java)
    server = install(wanted)
    base = base_system(work)
    prefix = "ES" if kind == "elasticsearch" else "OPENSEARCH"
    changes = (
        f"USER {UID}",
        "WORKDIR /opt/server",
        f"ENV {prefix}_JAVA_HOME=/opt/jdk",
        "EXPOSE 9200",
        'ENTRYPOINT ["/opt/entrypoint"]',
    )
    command = ["podman", "import", "--quiet"]
    for change in changes:
        command += ["--change", change]
    with subprocess.Popen([*command, "-", tag], stdin=subprocess.PIPE, stdout=sys.stderr) as podman:
        if podman.stdin is None:
            raise SystemExit("podman took no input")
        write_tree(podman.stdin, kind, base, java.home, server)
        podman.stdin.close()
    if podman.returncode:
        raise SystemExit(f"podman import {tag} ended with {podman.returncode}")
    return tag


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder for the base system (300 MB)")
    parser.add_argument("--engine", action="append", choices=("opensearch", "elasticsearch"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for engine in options.engine or ["opensearch", "elasticsearch"]:
        print(make(engine, options.work), flush=True)


if __name__ == "__main__":
    main()
