"""Which text stands before queries and documents: the model's own prompts, else its family's.

Sources: the model cards of E5 (Wang et al. 2022, 2024), BGE v1 and v1.5 (Xiao et al. 2023) and
Qwen3-Embedding (Zhang et al. 2025). A family is known by its name, since older checkpoints say
nothing about prompts in their files, and leaving them out costs quality without any sign.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["resolve_prompts"]

_E5_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
_QWEN3 = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_BGE_EN = "Represent this sentence for searching relevant passages: "
_BGE_ZH = "为这个句子生成表示以用于检索相关文章："


def _family(name: str) -> tuple[str, str] | None:
    last = name.rstrip("/").rpartition("/")[2].lower()
    if last.startswith(("e5-", "multilingual-e5-")):
        instruct = "instruct" in last or "mistral" in last
        return (_E5_INSTRUCT, "") if instruct else ("query: ", "passage: ")
    if last.startswith("bge-") and not last.startswith(("bge-m3", "bge-reranker", "bge-multilingual")):
        if "-en" in last:
            return _BGE_EN, ""
        if "-zh" in last:
            return _BGE_ZH, ""
    if last.startswith("qwen3-embedding"):
        return _QWEN3, ""
    return None


def resolve_prompts(name: str, stored: Mapping[str, str]) -> tuple[str, str, str | None]:
    """The prompts of queries and documents, and a note where they come from the family's name.

    Args:
        name: hub id or folder name.
        stored: the prompts of config_sentence_transformers.json. For documents the first non-empty of
            ``document``, ``passage``, ``corpus`` counts, as in sentence-transformers.
    """
    query = stored.get("query", "")
    document = next((stored[k] for k in ("document", "passage", "corpus") if stored.get(k)), "")
    if query or document:
        return query, document, None
    family = _family(name)
    if family is None:
        return "", "", None
    return (*family, "prompts of the model's family, known by its name; the files hold none")
