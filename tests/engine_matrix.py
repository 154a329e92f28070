"""The tests that run on every engine given in ``ESEMBED_ENGINE_URLS``, by what they check.

``pytest -m matrix`` runs them; ``python scripts/engine_matrix.py`` runs them on each engine and prints the
table. A name ends with a star where all that begins so counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

__all__ = ["CHECKS", "check_of", "runs_on"]

CHECKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "presets": {"contract/test_every_form.py": ("test_every_preset*",)},
    "vectors": {"contract/test_every_form.py": ("test_every_form*",)},
    "bodies": {
        "contract/test_query_bodies.py": (
            "test_every_elasticsearch_body_is_sent*",
            "test_every_opensearch_body_is_sent*",
        )
    },
    "legs, fusions": {
        "contract/test_query_properties.py": (
            "test_legs_rank*",
            "test_every_fusion_path*",
            "test_a_filter_is_applied*",
        ),
        "_sync/test_search.py": (
            "test_one_leg_and_a_fusion*",
            "test_fusion_by_the_engine*",
            "test_filters_are_inside*",
            "test_the_bound_normalizer*",
        ),
        "_sync/test_diversify.py": ("test_hits_of_a_knn*", "test_the_engines_own_form*"),
        "_sync/test_floor.py": ("test_hits_that_are*",),
        "_sync/test_min_score.py": ("test_hits_below*",),
    },
    "pages, sort": {
        "_sync/test_search.py": ("test_pages_join*", "test_one_sort*", "test_fewer_nearest*"),
        "_sync/test_stable_pages.py": ("test_pages_beyond*", "test_a_query_without*", "test_what_a_cursor*"),
        "_sync/test_sorted_pages.py": ("test_a_cursor_of*", "test_sorted_nearest*", "test_totals_are*"),
    },
    "collapse, facets": {
        "_sync/test_search.py": (
            "test_collapse_rescore*",
            "test_facets*",
            "test_highlights*",
            "test_the_best_chunk*",
        ),
        "_sync/test_ties_and_groups.py": ("test_a_bool_with_a_knn*", "test_more_groups*"),
    },
    "ingest": {
        "contract/test_ingest.py": (
            "test_records_get_in*",
            "test_an_unchanged_run*",
            "test_partial_updates*",
            "test_given_vectors*",
            "test_nested_chunks*",
            "test_chunks_as_documents*",
            "test_sync_deletes*",
            "test_backfill*",
            "test_another_index*",
        ),
        "_sync/test_index.py": ("test_update_and_delete*", "test_every_leg*", "test_records_come_from*"),
    },
    "migration": {
        "contract/test_migration.py": (
            "test_unchanged_fields*",
            "test_quantization_goes*",
            "test_an_alias_moved*",
            "test_an_index_gets_an_alias*",
            "test_judged*",
        ),
        "_sync/test_versions.py": ("test_a_migration_keeps*",),
        "_sync/test_object_vectors.py": ("test_copies_and_migrations*",),
        "_sync/test_aliases.py": ("test_a_migration_and_a_rollback*",),
    },
}
"""What is checked → file → names."""


def check_of(path: str, name: str) -> str | None:
    """The check that a test belongs to.

    Args:
        path: its file, below ``tests``.
        name: without parameters.
    """
    for check, files in CHECKS.items():
        for pattern in files.get(path, ()):
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return check
    return None


def runs_on(item: pytest.Item, engine: str) -> bool:
    """Whether a test has anything to do on that engine."""
    other = "opensearch" if engine == "elasticsearch" else "elasticsearch"
    callspec = getattr(item, "callspec", None)
    given = () if callspec is None else callspec.params.values()
    return other not in given and not {f"{other}_world", f"esembed_{other}"} & set(
        getattr(item, "fixturenames", ())
    )
