"""Whether a tuned model prefers what readers wanted, on pairs it did not learn from.

The implicit reward of an answer is how much likelier tuning made it: log p after it less log p
before it. A pair counts if the chosen answer's is the higher one, so an answer that was likelier
all along counts for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.model.dataset import Preference
    from llm_twin.model.language_model import LocalModel


def answer_bits(model: LocalModel, asked: Sequence[tuple[str, str]]) -> list[float]:
    """Return -log2 p of each answer, given its question through the chat template.

    Args:
        model: to be asked.
        asked: questions with an answer each; what is beyond the model's context does not count.

    """
    template = model.tokenizer.apply_chat_template
    rows, begun = [], []
    for question, answer in asked:
        chat = [{"role": "user", "content": question}]
        prompt = str(template(chat, tokenize=False, add_generation_prompt=True))
        chat.append({"role": "assistant", "content": answer})
        whole = str(template(chat, tokenize=False))
        ids = [
            model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole)
        ]
        same = [one == other for one, other in zip(*ids, strict=False)]
        begun.append(same.index(False) if False in same else len(same))
        rows.append(ids[1][: model.context])
    bits = model.token_bits(rows)
    return [sum(own[start:]) for own, start in zip(bits, begun, strict=True)]


def margins(model: LocalModel, pairs: Sequence[Preference]) -> list[float]:
    """How many bits likelier each chosen answer is than the rejected one."""
    chosen = answer_bits(model, [(one.prompt, one.chosen) for one in pairs])
    rejected = answer_bits(model, [(one.prompt, one.rejected) for one in pairs])
    return [other - own for own, other in zip(chosen, rejected, strict=True)]


def accuracy(
    pairs: Sequence[Preference], before: Sequence[float], after: Sequence[float]
) -> dict[str, Any]:
    """Return ``accuracy``, ``n``, and ``items`` with ``id`` and ``value`` (1, 0; a tie is 0.5)."""
    items: list[dict[str, Any]] = [
        {
            "id": content_id("\0".join((pair.prompt, pair.chosen, pair.rejected))),
            "value": 0.5 if new == old else float(new > old),
        }
        for pair, old, new in zip(pairs, before, after, strict=True)
    ]
    total = sum(item["value"] for item in items)
    return {"accuracy": total / len(items) if items else None, "n": len(items), "items": items}
