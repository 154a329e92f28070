"""An index that is deleted, or made again, while an ingest writes to it."""

import time

import pytest

from esembed import Index, IndexPlan
from esembed.errors import IndexChangedError
from esembed.ingest.options import IngestOptions

PLAN = IndexPlan.from_toml('[text.body]\n[dense.v]\nencoder = "given"\ndims = 2\n')


@pytest.fixture
def client(esembed_engine):
    made = esembed_engine.client()
    yield made
    made.close()


@pytest.mark.parametrize("then", ["nothing", "made again", "guessed"])
def test_the_load_stops_and_names_the_index(client, esembed_index_name, then):
    index = Index.create(client, esembed_index_name, PLAN, alias=False)

    def records():
        for number in range(600):
            if number == 300:
                time.sleep(2.5)  # what was read so far is sent by now
                client.indices.delete(index=esembed_index_name)
                if then == "made again":
                    Index.create(client, esembed_index_name, PLAN, alias=False)
                if then == "guessed":
                    client.index(index=esembed_index_name, id="x", body={"body": "x"})
            yield {"_id": str(number), "body": "text", "v": [1.0, number / 7]}

    options = IngestOptions(learn_weights=False, dead_letters=None, max_wait_seconds=5)
    with pytest.raises(IndexChangedError, match=esembed_index_name) as caught:
        index.ingest(records(), options)
    assert ("no _meta" in str(caught.value)) == (then == "guessed")
    # The engine made none of its own.
    assert bool(client.indices.exists(index=esembed_index_name)) == (then != "nothing")
