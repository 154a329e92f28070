# Generated from tests/_async/test_one_bad_record.py by scripts/run_unasync.py; change that file and run the script.
"""What is wrong with one record, or with the place for its dead letter, on real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed import Index, IndexPlan, IngestOptions
from esembed.errors import OptionsError
from esembed.types import Document

QUICK = IngestOptions(learn_weights=False)
PLAN = IndexPlan.from_toml(
    """
    [text.title]
    [filter.when]
    type = "date"
    [dense.v]
    dims = 2
    [sparse.terms]
    encoder = "lexical"
    source = ["title"]
    """
)
GOOD = {"title": "red fox", "v": [1, 0]}


def test_a_place_for_no_letters_changes_nothing(client: Any, esembed_index_name: str, tmp_path: Path) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    before = client.indices.get_mapping(index=esembed_index_name)
    with pytest.raises(OptionsError, match="is a folder; name a file"):
        index.ingest([{**GOOD, "_id": "1"}], IngestOptions(learn_weights=False, dead_letters=tmp_path))
    after = client.indices.get_mapping(index=esembed_index_name)
    assert dict(after) == dict(before), "the average length is stored with the first records, not before"


def test_updates_that_can_not_be_are_dead_letters_each(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    # Another program's: neither engine refuses the integer where it isn't indexed.
    client.indices.put_mapping(
        index=esembed_index_name, body={"properties": {"odd": {"type": "object", "enabled": False}}}
    )
    index.ingest([{**GOOD, "_id": n} for n in "123"], QUICK)
    client.update(index=esembed_index_name, id="1", body={"doc": {"odd": {"big": 2**70}}})
    updates = [Document(n, {"title": "blue fox"}, "update", f"row {n}") for n in "123"]
    updates[1] = Document("2", {"v": None}, "update", "row 2")
    report = index.ingest(updates, QUICK)
    assert (report.updated, report.dead_lettered) == (1, 2)
    assert {(e.id, e.position) for e in report.errors} == {("1", "row 1"), ("2", "row 2")}
    assert any("takes the vector 'v' away" in e.reason for e in report.errors)
    for doc_id, title in (("1", "red fox"), ("2", "red fox"), ("3", "blue fox")):
        found = index.get(doc_id, vectors=True)
        assert found is not None
        assert (found["title"], list(found["v"])) == (title, [1, 0])


def test_far_dates_are_found(client: Any, esembed_index_name: str) -> None:
    from esembed import query as q

    index = Index.create(client, esembed_index_name, PLAN)
    dates = {"far": "+10183-09-21", "numpy": np.datetime64("12345-01-01"), "long ago": "-10184-01-01"}
    dates |= {"for ever": "9999-12-31", "now": "2026-11-29"}
    report = index.ingest([{**GOOD, "_id": n, "when": when} for n, when in dates.items()], QUICK)
    assert (report.indexed, report.dead_lettered) == (5, 0), report.errors
    for query, wanted in (
        (q.range("when", gt=253402300799999), {"far", "numpy"}),
        (q.range("when", gte="9999-12-31"), {"far", "numpy", "for ever"}),
        (q.range("when", lt="0000-01-01"), {"long ago"}),
    ):
        hits = index.search(q.match_all(filter=query), size=10)
        assert {hit.id for hit in hits} == wanted


def test_a_document_that_another_program_spoiled_is_found_by_verify(
    client: Any, esembed_index_name: str
) -> None:
    """Its hash says that it is the source's; its text is an object by now."""
    plan = IndexPlan.from_toml(
        """
        [text.title]
        [sparse.terms]
        encoder = "lexical"
        source = ["note"]
        [index]
        dynamic = "false"
        """
    )
    index = Index.create(client, esembed_index_name, plan)
    records = [{"_id": n, "title": "red", "note": "fox"} for n in "123"]
    index.ingest(records, QUICK)
    client.update(index=esembed_index_name, id="2", body={"doc": {"note": {"x": 1}}})
    report = index.ingest(records, IngestOptions(learn_weights=False, verify=True))
    assert report.verified is not None
    assert (report.unchanged, report.verified.same, dict(report.verified.vectors)) == (3, 3, {"terms": 1})
    assert not report.verified.ok
