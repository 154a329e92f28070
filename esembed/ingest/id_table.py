"""Ids on disk, in SQLite, so that memory stays small however many documents there are.

``verify`` and ``sync`` note what the source has and compare the index with it; a migration notes what the old
index has. Such a table lives as long as one run. It is no cache between runs: what the index has is asked of
the index, since anybody may have changed it meanwhile.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from esembed.errors import PermanentError

__all__ = ["IdTable"]

_BATCH = 2_000
"""Rows of one write: a transaction for each id would cost more than all the rest."""


class IdTable:
    """Id → value in a temporary file that goes with the object; safe to use from several threads.

    Raises:
        PermanentError: the temporary folder can't be written. From every method that writes.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="esembed-")
        self._lock = threading.Lock()
        self._waiting: dict[str, str | int | bytes] = {}
        try:
            self._db = self._open(Path(self._folder.name) / "ids.sqlite")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> PermanentError:
        return PermanentError(
            f"{error} in the temporary folder {self._folder.name}, where the ids to compare are noted; "
            "make room there, or set TMPDIR to another folder"
        )

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        # Threads share the connection; the lock lets one of them in at a time.
        db = sqlite3.connect(path, check_same_thread=False, timeout=30)
        # The file is worth nothing after a crash, so nothing waits for the disk.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -8000")
        db.execute(
            # No type for the value: a number stays one.
            "CREATE TABLE ids (id TEXT PRIMARY KEY, value, found INTEGER DEFAULT 0) WITHOUT ROWID"
        )
        return db

    def put(self, doc_id: str, value: str | int | bytes) -> None:
        """Note an id; bytes: nothing is to be compared, and they say why (a dead letter, say)."""
        with self._lock:
            self._waiting[doc_id] = value
            if len(self._waiting) >= _BATCH:
                self._flush()

    def remove(self, doc_id: str) -> None:
        """Forget an id."""
        with self._lock:
            self._waiting.pop(doc_id, None)
            self._db.execute("DELETE FROM ids WHERE id = ?", (doc_id,))

    def get(self, doc_id: str) -> Any:
        """The value of an id, or None."""
        with self._lock:
            if doc_id in self._waiting:
                return self._waiting[doc_id]
            row = self._db.execute("SELECT value FROM ids WHERE id = ?", (doc_id,)).fetchone()
            return None if row is None else row[0]

    def __contains__(self, doc_id: str) -> bool:
        with self._lock:
            if doc_id in self._waiting:
                return True
            return self._db.execute("SELECT 1 FROM ids WHERE id = ?", (doc_id,)).fetchone() is not None

    def __len__(self) -> int:
        with self._lock:
            self._flush()
            return int(self._db.execute("SELECT count(*) FROM ids").fetchone()[0])

    def counts(self, width: int) -> dict[int, int]:
        """How many ids have a number in each stretch of *width* numbers: stretch → ids (0 is 0…width − 1)."""
        with self._lock:
            self._flush()
            rows = self._db.execute("SELECT value / ?, count(*) FROM ids GROUP BY 1", (width,))
            return {int(stretch): int(count) for stretch, count in rows}

    def highest(self) -> int:
        """The highest number; 0 where there is none."""
        with self._lock:
            self._flush()
            return int(self._db.execute("SELECT coalesce(max(value), 0) FROM ids").fetchone()[0])

    def between(self, low: int, high: int) -> list[str]:
        """The ids with a number of at least *low* and below *high*."""
        with self._lock:
            self._flush()
            rows = self._db.execute("SELECT id FROM ids WHERE value >= ? AND value < ?", (low, high))
            return [doc_id for (doc_id,) in rows]

    def mark(self, ids: Iterable[str]) -> None:
        """These ids were found in the index."""
        with self._lock:
            self._flush()
            self._db.executemany("UPDATE ids SET found = 1 WHERE id = ?", ((i,) for i in ids))

    def unmarked(self) -> Iterator[str]:
        """Ids with a value to be compared that were never marked."""
        with self._lock:
            self._flush()
            rows = self._db.execute("SELECT id FROM ids WHERE found = 0 AND typeof(value) != 'blob'")
            for (doc_id,) in rows:
                yield doc_id

    def _flush(self) -> None:
        if self._waiting:
            try:
                self._db.executemany(
                    "INSERT OR REPLACE INTO ids (id, value) VALUES (?, ?)", list(self._waiting.items())
                )
                self._db.commit()
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error
            finally:
                self._waiting.clear()

    def close(self) -> None:
        """Close and remove the file."""
        with self._lock:
            self._waiting.clear()
            self._db.close()
        self._folder.cleanup()
