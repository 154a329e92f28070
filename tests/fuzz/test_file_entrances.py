"""Files from strangers: records, dead letters with their places, or an error of the tree that names the file;
soon, in little memory, and nothing else. What was read goes on to bulk lines or to a dead letter, and what
that letter holds comes back."""

from __future__ import annotations

import functools
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import byte_mutations
import mutations

from esembed import IndexPlan
from esembed.capabilities import profile
from esembed.errors import EsembedError, InvariantError, RecordError
from esembed.ingest.dead_letters import DeadLetters, UnreadableRecord
from esembed.ingest.options import IngestOptions
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.sources import FileSource, ReadOptions, dead_letter_source
from esembed.ingest.stages.prepare import PrepareStage
from esembed.ingest.stages.serialize import SerializeStage
from esembed.ingest.typed_json import encode
from esembed.types import Document, ItemError

# Measured to take about 15 seconds each on two cores.
EXAMPLES = {"letters": 1_200, "lines": 1_400, "tables": 1_500, "packed": 1_200, "words": 2_000}

PLAN = IndexPlan.from_toml(
    """
    [text.title]
    [filter.n]
    type = "long"
    [filter.when]
    type = "date"
    [filter."author.born"]
    type = "date"
    [filter.in_stock]
    type = "boolean"
    [dense.emb]
    dims = 3
    optional = true
    [sparse.terms]
    encoder = "precomputed"
    """
)
CAPABILITIES = [profile("elasticsearch-basic"), profile("opensearch")]
READ = ReadOptions(max_record_bytes=100_000)
OTHERS = [
    READ,
    ReadOptions(max_record_bytes=300, fallback_encoding="latin-1"),
    ReadOptions(max_record_bytes=100_000, encoding="utf-16"),
    ReadOptions(max_record_bytes=100_000, delimiter=";"),
]


def read(path: Path, open_it: Callable[[], Iterable[Any]]) -> list[Document | RecordError]:
    """What is read. An error of the tree names the file; a fault of ours is none that is allowed."""
    found: list[Document | RecordError] = []
    try:
        for one in open_it():
            assert isinstance(one, (Document, RecordError)), one
            assert isinstance(one.position, str), one
            found.append(one)
    except InvariantError:
        raise
    except EsembedError as error:
        assert path.name in str(error), f"doesn't name the file: {error}"  # noqa: PT017
    return found


def carry_on(found: list[Document | RecordError], folder: Path, which: int) -> None:
    """As the stages of an ingest would: each record ends as bulk lines or as one dead letter."""
    letters = folder / "out.dead.jsonl"
    letters.unlink(missing_ok=True)
    options = IngestOptions(dead_letters=letters, on_nan="null" if which % 3 == 0 else "error")
    outcomes = Outcomes(options)
    outcomes.start()
    of = (PLAN, CAPABILITIES[which % 2], options)
    prepare = PrepareStage(*of, encoders={}, outcomes=outcomes)
    serialize = SerializeStage(*of, outcomes=outcomes)
    sent = 0
    for one in found:
        record = prepare(one)
        action = None if record is None else serialize(record)
        if action is not None:
            sent += 1
            for line in b"".join([*action.lines, *action.then]).splitlines():
                json.loads(line)
    dead = outcomes.counts.dead_lettered
    outcomes.close()
    assert sent + dead == len(found), "each record ends once"
    again = list(dead_letter_source(letters)) if dead else []
    assert len(again) == dead
    outcomes.report().to_json()
    comes_back(found, folder)


def comes_back(found: list[Document | RecordError], folder: Path) -> None:
    """What is read can be written as a dead letter that is played again as the same record."""
    path = folder / "back.dead.jsonl"
    path.unlink(missing_ok=True)
    letters = DeadLetters(path)
    written = [one for one in found if isinstance(one, Document)][:50]
    for one in written:
        letters.write(ItemError(None, "why", None, one.position), one)
    letters.close()
    for one, back in zip(written, dead_letter_source(path) if written else (), strict=True):
        plain, types, lost = encode(one.source)
        if lost:
            assert isinstance(back, UnreadableRecord)
            continue
        assert isinstance(back, Document), back
        assert encode(back.source) == (plain, types, {})
        assert (back.id, back.op, back.routing) == (one.id, one.op, one.routing)


def as_it_stands(found: list[Document | RecordError], name: str, data: bytes) -> None:
    """Lines of JSON are read as the standard library reads them, integers to their last digit."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for one in found:
        place = (one.position or "").removeprefix(f"{name}:")
        if isinstance(one, Document) and one.id is None and place.isdigit():
            assert one.source == json.loads(lines[int(place) - 1])


def checked(
    name: str, data: bytes, folder: Path, open_it: Callable[[Path], Iterable[Any]], *, plain: bool = False
) -> list[Document | RecordError]:
    path = byte_mutations.put(folder, name, data)
    size = len(data)
    with mutations.in_time(size), mutations.in_memory(size):
        found = mutations.bounded(lambda: read(path, lambda: open_it(path)), size)
        if plain:
            as_it_stands(found, name, data)
        carry_on(found[:400], folder, size)
    return found


def test_files_of_lines(tmp_path: Path) -> None:
    """JSON lines, files for _bulk, JSON, CSV and text."""
    corpus = byte_mutations.load(
        "books*.json*", "one.json", "debezium.*", "bulk.ndjson", "*.csv", "*.tsv", "*.md"
    )
    corpus = [(name, data) for name, data in corpus if not name.endswith((".gz", ".bz2", ".xz", ".zst"))]

    def check(value: tuple[str, bytes]) -> None:
        options = OTHERS[sum(value[1][:7]) % 4] if len(value[1]) % 5 == 0 else READ
        name, data = value
        # UTF-16 and UTF-32 are told by their byte order marks.
        plain = (
            options is READ
            and name.endswith(".jsonl")
            and data[:2] not in (b"\xff\xfe", b"\xfe\xff", b"\0\0")
        )
        checked(*value, tmp_path, lambda path: FileSource([path], options), plain=plain)

    mutations.fuzz(corpus, EXAMPLES["lines"], check, make=byte_mutations.from_seed)


def test_packed_files(tmp_path: Path) -> None:
    """Unpacked, they hold the same records."""
    pytest.importorskip("zstandard")
    corpus = byte_mutations.load("*.gz", "*.bz2", "*.xz", "*.zst")
    corpus = [(name, data) for name, data in corpus if "glove" not in name]

    def check(value: tuple[str, bytes]) -> None:
        name, data = value
        found = checked(name, data, tmp_path, lambda path: FileSource([path], READ))
        try:
            unpacked = byte_mutations.unpacked(name, data)
        except Exception:  # noqa: BLE001 - cut or spoiled: there is nothing to compare with
            return
        path = byte_mutations.put(tmp_path, name.rpartition(".")[0], unpacked)
        same = read(path, lambda: FileSource([path], READ))
        assert [one.source for one in found if isinstance(one, Document)] == [
            one.source for one in same if isinstance(one, Document)
        ]

    mutations.fuzz(corpus, EXAMPLES["packed"], check, make=byte_mutations.from_seed)


def test_tables(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    corpus = byte_mutations.load("*.parquet", "*.arrow*", "*.feather")
    check = lambda value: checked(*value, tmp_path, lambda path: FileSource([path], READ))  # noqa: E731
    mutations.fuzz(corpus, EXAMPLES["tables"], check, make=byte_mutations.from_seed)


def test_dead_letters(tmp_path: Path) -> None:
    def check(value: tuple[str, bytes]) -> None:
        name, data = value
        checked(name, data, tmp_path, lambda path: dead_letter_source(path, READ))
        # Whatever the file is: the next run's letters destroy nothing of it.
        path = tmp_path / name
        try:
            letters = DeadLetters(path)
        except EsembedError as error:
            assert name in str(error)  # noqa: PT017
            assert path.read_bytes() == data
            return
        letters.write(ItemError(None, "new", None, "f:1"), None)
        letters.close()
        if data:
            # A file of something else is refused, by its first bytes: what follows may be damaged.
            assert re.match(rb'(\xef\xbb\xbf)?\s*{\s*"(esembed_dead_letter|reason)"', data)
            assert letters.moved is not None
            assert letters.moved.read_bytes() == data
            letters.moved.unlink()
        path.unlink()

    corpus = byte_mutations.load("letters*")
    mutations.fuzz(corpus, EXAMPLES["letters"], check, make=byte_mutations.from_seed)


def test_word_vectors(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    from esembed.encode.static.word_vectors import open_word_source

    def use(path: Path, pooling: str) -> None:
        try:
            source = open_word_source(path, pooling=pooling, max_seq_length=8)
        except InvariantError:
            raise
        except EsembedError as error:
            assert path.name in str(error), f"doesn't name the file: {error}"  # noqa: PT017
            return
        made = source.sums(["The red fox at Ω", "", "x" * 50])
        assert made.sums.shape == (3, source.dims)

    def check(value: tuple[str, bytes]) -> None:
        name, data = value
        path, size = byte_mutations.put(tmp_path, name, data), len(data)
        pooling = "sif" if size % 2 else "mean"
        with mutations.in_time(size), mutations.in_memory(size), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mutations.bounded(functools.partial(use, path, pooling), size)

    corpus = byte_mutations.load("glove*", "word2vec*", "fasttext*")
    mutations.fuzz(corpus, EXAMPLES["words"], check, make=byte_mutations.from_seed)
