"""What a run remembers on disk: ids and hashes, in SQLite, so that memory stays small.

Two uses. As a *cache* (``IngestOptions.ledger``) it answers "has the index this record, unchanged?"
without asking the index; it is bound to the cluster's and the index's UUID and thrown away when they
differ. As a *list of what the source has* it is a temporary file that ``verify`` and ``sync`` compare
the index with. The hash in each document stays the truth.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from esembed.errors import PermanentError

__all__ = ["Ledger"]

_BATCH = 2_000


class Ledger:
    """Id → hash on disk, safe to use from several threads.

    Args:
        path: the file, or None for a temporary one that goes with the object.
        binding: what it is valid for (cluster and index UUID, contract); another one empties it.
    """

    def __init__(self, path: Path | None, binding: str = "") -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if path is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="esembed-")
            path = Path(self._temporary.name) / "seen.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._path = path
        try:
            self._db = self._open(path)
        except sqlite3.OperationalError as error:  # a full disk, no permission, a lock: no broken file
            raise self._unusable(error) from error
        except sqlite3.DatabaseError:
            # It is a cache: a broken one is thrown away.
            path.unlink()
            self._db = self._open(path)
        row = self._db.execute("SELECT value FROM about WHERE key = 'binding'").fetchone()
        if row is None or row[0] != binding:
            self._db.execute("DELETE FROM seen")
            self._db.execute("INSERT OR REPLACE INTO about VALUES ('binding', ?)", (binding,))
            self._db.commit()
        self._waiting: dict[str, str | None] = {}

    def _unusable(self, error: sqlite3.DatabaseError) -> PermanentError:
        if self._temporary is not None:
            return PermanentError(
                f"{error} in the temporary folder {self._path.parent}, where verify and sync note ids; make "
                "room there, or set TMPDIR to another folder"
            )
        return PermanentError(
            f"the ledger {self._path} can't be written: {error}. It is only a cache: make room, name another "
            "file, or run without it"
        )

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False, timeout=30)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -8000")
        db.execute("CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS seen "
            "(id TEXT PRIMARY KEY, hash TEXT, found INTEGER DEFAULT 0) WITHOUT ROWID"
        )
        return db

    def put(self, doc_id: str, value: str | None) -> None:
        """Remember; None: it is there, whatever its content (a dead letter, say)."""
        with self._lock:
            self._waiting[doc_id] = value
            if len(self._waiting) >= _BATCH:
                self._flush()

    def remove(self, doc_id: str) -> None:
        """Forget an id."""
        with self._lock:
            self._waiting.pop(doc_id, None)
            self._db.execute("DELETE FROM seen WHERE id = ?", (doc_id,))

    def get(self, doc_id: str) -> str | None:
        """The hash of an id, or None."""
        with self._lock:
            if doc_id in self._waiting:
                return self._waiting[doc_id]
            row = self._db.execute("SELECT hash FROM seen WHERE id = ?", (doc_id,)).fetchone()
            return None if row is None else row[0]

    def __contains__(self, doc_id: str) -> bool:
        with self._lock:
            if doc_id in self._waiting:
                return True
            return self._db.execute("SELECT 1 FROM seen WHERE id = ?", (doc_id,)).fetchone() is not None

    def __len__(self) -> int:
        with self._lock:
            self._flush()
            return int(self._db.execute("SELECT count(*) FROM seen").fetchone()[0])

    def mark(self, ids: Iterable[str]) -> None:
        """These ids were found in the index."""
        with self._lock:
            self._flush()
            self._db.executemany("UPDATE seen SET found = 1 WHERE id = ?", ((i,) for i in ids))

    def unmarked(self) -> Iterator[str]:
        """Ids with a hash that were never marked."""
        with self._lock:
            self._flush()
            rows = self._db.execute("SELECT id FROM seen WHERE found = 0 AND hash IS NOT NULL")
            for (doc_id,) in rows:
                yield doc_id

    def _flush(self) -> None:
        if self._waiting:
            try:
                self._db.executemany(
                    "INSERT OR REPLACE INTO seen (id, hash) VALUES (?, ?)", list(self._waiting.items())
                )
                self._db.commit()
            except sqlite3.DatabaseError as error:
                self._waiting.clear()  # else close() would fail with it once more
                raise self._unusable(error) from error
            self._waiting.clear()

    def close(self) -> None:
        """Write what is left and close; a temporary ledger is removed."""
        with self._lock:
            self._flush()
            self._db.commit()
            self._db.close()
        if self._temporary is not None:
            self._temporary.cleanup()
