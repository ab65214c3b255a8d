"""What pretraining is stopped and kept by: a slice of passages, scored now and then."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.model.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_twin.model.budget import Budget

CONTEXT = 256
VALIDATION_SHARE = 0.04
VALIDATION_TOKENS = 8192
CHECKS = 12
"""How often at most the validation slice is scored."""
CHECK_SHARE = 0.05
"""How much of the time that may cost, about."""
FIRST_CHECK = 0.25


def streams(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Two rows of tokens, each passage begun by bos: to learn from, and to keep the best by.

    The second is one run of neighbouring passages, so that it is about something the first is
    hardly about: passages scattered over known documents would not show overfitting to them.
    """
    import torch

    passages = [[tokenizer.bos_token_id, *ids] for ids in encode(tokenizer, texts) if ids]
    room = min(int(VALIDATION_SHARE * sum(map(len, passages))), VALIDATION_TOKENS)
    first = min(range(len(texts)), key=lambda place: content_id(texts[place])) % len(passages)
    last = first
    while last < len(passages) and sum(map(len, passages[first : last + 1])) <= room:
        last += 1
    learn = [token for ids in passages[:first] + passages[last:] for token in ids]
    check = [token for ids in passages[first:last] for token in ids]
    return torch.tensor(learn), torch.tensor(check or learn[:VALIDATION_TOKENS])


def loss_of(network: LlamaForCausalLM, rows: Tensor, precision: str) -> Tensor:
    """Mean cross-entropy in nats of each row's tokens after its first."""
    import torch
    import torch.nn.functional as functional

    with torch.autocast(rows.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


class Keeper:
    """Scores the validation slice now and then and remembers the best weights."""

    def __init__(
        self, network: LlamaForCausalLM, stream: Tensor, budget: Budget, precision: str = "fp32"
    ) -> None:
        self.network, self.stream, self.budget = network, stream, budget
        self.precision = precision
        self.best, self.best_step = math.inf, 0
        self.last, self.worse = math.inf, 0
        self._weights = copy.deepcopy(network.state_dict())
        self._next = FIRST_CHECK

    def look(self, step: int, done: float) -> bool:
        """Score if it is time to, and keep the weights if they are the best so far.

        How often depends on what scoring costs; with a limit in tokens it does not, because the
        same seed must give the same weights.

        Args:
            step: steps taken.
            done: share of the training, from 0 to 1; at 1 it always scores.

        """
        if done < min(self._next, 1):
            return False
        before = self.budget.used
        bits = self.last = self._bits()
        cost = done * (self.budget.used - before) / max(before, 1e-9)
        self._next = done + max(1 / CHECKS, 0 if self.budget.tokens else cost / CHECK_SHARE)
        self.worse = 0 if bits < self.best else self.worse + 1
        if bits < self.best:
            self.best, self.best_step = bits, step
            self._weights = copy.deepcopy(self.network.state_dict())
        return True

    def restore(self) -> None:
        """Put the best weights back."""
        self.network.load_state_dict(self._weights)

    def state(self) -> dict[str, Any]:
        """What it remembers, tensors included."""
        return {name: getattr(self, name) for name in self._REMEMBERED}

    def load(self, state: dict[str, Any]) -> None:
        """Reverse of ``state``."""
        for name in self._REMEMBERED:
            setattr(self, name, state[name])

    _REMEMBERED = ("best", "best_step", "last", "worse", "_weights", "_next")

    def _bits(self) -> float:
        import torch

        size = min(CONTEXT, len(self.stream) - 1)
        whole = (len(self.stream) - 1) // size
        starts = torch.arange(whole)[:, None] * size
        rows = self.stream[starts + torch.arange(size + 1)].to(self.network.device)
        self.network.train(False)
        with torch.inference_mode():
            parts = torch.split(rows, 16)
            losses = [
                float(loss_of(self.network, part, self.precision)) * len(part) for part in parts
            ]
        self.network.train()
        return sum(losses) / len(rows) / math.log(2)
