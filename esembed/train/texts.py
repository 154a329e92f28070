"""The text of a stored document that a model is trained on: the one that its vectors are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esembed import query as q
from esembed.errors import OptionsError, RecordError
from esembed.plan import IndexPlan, paths

if TYPE_CHECKING:
    from esembed import Index

__all__ = ["DocumentText", "document_text", "every_document", "texts_by_id"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class DocumentText:
    """Makes a document's text.

    Attributes:
        name: the field it is the text of, for messages; None where it is all that is searched.
        sources: the fields that it is made from.
        make: stored document → text; None where it has none.
    """

    name: str | None
    sources: tuple[str, ...]
    make: Callable[[Mapping[str, Any]], str | None]

    def __call__(self, stored: Mapping[str, Any]) -> str:
        """The text, or an empty one; a field that holds no text counts as empty."""
        try:
            return (self.make(stored) or "").strip()
        except RecordError:
            return ""


def document_text(plan: IndexPlan, field: str | None = None) -> DocumentText:
    """The text of a field: what a vector field encodes, or a text field's values, one a line.

    Args:
        plan: the index's plan.
        field: None takes the first vector field that is encoded from text, else all text fields.

    Raises:
        OptionsError: no such field, or one that is made from no text.
    """
    encoded = {name: spec for name, spec in plan.vector_fields() if plan.vector_source(name)}
    if field is None:
        field = next((name for name, spec in encoded.items() if spec.family != "lexical"), None)
        if field is None:
            return DocumentText(None, tuple(plan.text), plan.searched_text)
    if field in encoded:
        name = field
        return DocumentText(name, plan.vector_source(name), lambda stored: plan.vector_text(name, stored))
    if field in plan.text:
        name = field
        return DocumentText(name, (name,), lambda stored: "\n".join(paths.texts(stored, name)))
    raise OptionsError(
        f"{field!r} is neither a text field of the plan nor a vector field that is made from text; there are "
        f"{', '.join([*encoded, *plan.text]) or 'none'}",
        option="field",
    )


def texts_by_id(index: Index, ids: Iterable[str], text: DocumentText) -> dict[str, str]:
    """Id → text of those documents that the index holds and that have one."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _PAGE):
        part = wanted[start : start + _PAGE]
        hits = index.search(q.bool_(filter=q.ids(*part)), size=len(part), source=list(text.sources))
        found.update((hit.id, made) for hit in hits if (made := text(hit.source)))
    return found


def every_document(index: Index) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(id, fields) of every document, as of when the reading begins.

    Raises:
        UnsupportedFeatureError: the index doesn't keep whole documents.
        RecordError: a document that can't be read.
    """
    for document in index.documents():
        if isinstance(document, RecordError):
            raise document
        yield str(document.id), document.source
