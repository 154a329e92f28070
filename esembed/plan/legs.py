"""What a plain string means: the plan's own query, or the one that its fields imply."""

from __future__ import annotations

from esembed.errors import QueryError
from esembed.plan import IndexPlan
from esembed.query import builders as q
from esembed.query.nodes import Query

__all__ = ["default_query", "searchable_legs"]


def default_query(plan: IndexPlan) -> Query:
    """The plan's default query, its texts left open.

    Without one of its own: BM25 over the text fields, every dense field and every learned sparse field,
    fused by RRF. ``lexical`` stands in for BM25 where there are no text fields, and never beside it: it
    would count BM25 twice. Fields that the caller fills (``given``) have no encoder for a query, so they
    are left out.

    Raises:
        QueryError: the plan has nothing that a text can be searched in.
    """
    if plan.query is not None:
        return plan.query
    legs = searchable_legs(plan)
    if not legs:
        raise QueryError(
            "the plan has no field that a text can be searched in (given vectors have no encoder): pass a "
            "query with vectors, such as q.knn(field, vector=…)"
        )
    return legs[0] if len(legs) == 1 else q.rrf(*legs)


def searchable_legs(plan: IndexPlan) -> list[Query]:
    """The legs that :func:`default_query` fuses, each by itself; none when a text can't be searched."""
    legs: list[Query] = []
    if plan.text:
        legs.append(q.match(name="bm25"))
    dense = [name for name, part in plan.dense.items() if _family(part.encoder) != "given"]
    sparse = {name: _family(part.encoder) for name, part in plan.sparse.items()}
    for name in dense:
        legs.append(q.knn(name, name="dense" if len(dense) == 1 else name))
    learned = [name for name, family in sparse.items() if family not in ("given", "lexical")]
    for name in learned:
        legs.append(q.sparse(name, name="sparse" if len(learned) == 1 else name))
    if not plan.text:
        lexical = [name for name, family in sparse.items() if family == "lexical"]
        for name in lexical:
            legs.append(q.sparse(name, name="lexical" if len(lexical) == 1 else name))
    return legs


def _family(spec: str) -> str:
    return spec.partition(":")[0]
