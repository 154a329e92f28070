"""A migration in a process of its own, which ends itself by SIGKILL at the moment asked for.

python migrate_child.py KIND URL ALIAS MOMENT; MOMENT is one of ``copying``, ``blocked``, ``swapped``.
"""

from __future__ import annotations

import os
import signal
import sys

from migrate_help import Salted, plan

from esembed import Index
from esembed._sync import migration as module


def die(*_args: object, **_options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(kind: str, url: str, alias: str, moment: str) -> None:
    if kind == "elasticsearch":
        from elasticsearch import Elasticsearch as Client
    else:
        from opensearchpy import OpenSearch as Client
    if moment == "copying":
        # The second look at the old index's sequence numbers comes after the first pass.
        whole, seen = module.shard_sequences, []

        def counted(*args: object) -> object:
            seen.append(args)
            return die() if len(seen) == 2 else whole(*args)

        module.shard_sequences = counted
    elif moment == "blocked":
        module.swap = die
    else:
        swap = module.swap

        def swap_and_die(*args: object, **options: object) -> None:
            swap(*args, **options)
            die()

        module.swap = swap_and_die
    Index.open(Client(url), alias).migrate(plan("b"), encoder=Salted("b"))


if __name__ == "__main__":
    main(*sys.argv[1:])
