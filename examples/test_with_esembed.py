"""Tests of a project that searches, on a real engine: ``pytest examples/test_with_esembed.py``.

The fixtures come with esembed; nothing is configured. The test runs once on OpenSearch and once on
Elasticsearch, and what it creates is deleted afterward.
"""

from __future__ import annotations

from collections.abc import Callable

from esembed import DenseField, FilterField, Index, IndexPlan, TextField
from esembed import query as q

PLAN = IndexPlan(
    id_field="sku",
    text={"name": TextField()},
    dense={"look": DenseField(encoder="precomputed", dims=3)},  # vectors of your own: images, users …
    filter={"price": FilterField(type="float")},
)

PRODUCTS = [
    {"sku": "red-lamp", "name": "A small red lamp", "look": [1.0, 0.1, 0.0], "price": 19.0},
    {"sku": "blue-lamp", "name": "A small blue lamp", "look": [0.0, 0.1, 1.0], "price": 21.0},
    {"sku": "red-chair", "name": "A chair", "look": [0.9, 0.4, 0.1], "price": 80.0},
]


def test_the_shop_finds_what_looks_alike(esembed_index_factory: Callable[..., Index]) -> None:
    index = esembed_index_factory(PLAN)
    report = index.ingest(PRODUCTS)
    assert (report.indexed, report.dead_lettered) == (3, 0)

    by_words = index.search(q.match("lamp", fields="name"))
    assert set(by_words.ids) == {"red-lamp", "blue-lamp"}

    reddish = index.search(q.knn("look", vector=[1.0, 0.0, 0.0], filter=q.range("price", lt=50)), size=1)
    assert reddish.ids == ["red-lamp"]


def test_a_product_without_its_picture_is_not_lost_silently(
    esembed_index_factory: Callable[..., Index],
) -> None:
    index = esembed_index_factory(PLAN)
    report = index.ingest([{"sku": "x", "name": "No picture", "look": [1.0, 0.0], "price": 1.0}])
    assert report.dead_lettered == 1
    assert "look" in report.errors[0].reason
