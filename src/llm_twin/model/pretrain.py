"""A Llama from scratch on the author's passages, within a budget of CPU seconds.

A short plain loop: Muon for the hidden matrices and AdamW for embeddings and norms (measured to cut
the perplexity by a third against AdamW alone at equal cost). A slice of the training passages is
set aside to keep the best weights, so a small corpus is not learned past its best point.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.model.budget import Budget, Progress, Reporter
from llm_twin.model.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 256
BATCH_TOKENS = 2048
VALIDATION_SHARE = 0.04
VALIDATION_TOKENS = 8192
CHECKS = 12
"""How often at most the validation slice is scored."""
CHECK_SHARE = 0.05
"""How much of the time that may cost, about."""
FIRST_CHECK = 0.25
MOST_EPOCHS = 9
"""Going on longer, other documents are predicted worse: measured, see docs/decisions."""
WARM_UP = 0.05
MUON_RATE, ADAM_RATE = 0.02, 0.007


@dataclass(frozen=True)
class Shape:
    """The size of the network."""

    width: int
    layers: int
    heads: int


def shape_for(tokens: int) -> Shape:
    """Choose a size for that many training tokens: measured, see docs/decisions."""
    if tokens < 20_000:
        return Shape(64, 2, 1)
    return Shape(128, 2, 2)


@dataclass(frozen=True)
class PretrainReport:
    """What pretraining did.

    Attributes:
        steps: optimizer steps.
        tokens: token positions learned from, repeats included.
        cpu_seconds: used.
        validation: bits per token on the slice, at the kept weights.
        best_step: after which the weights were kept.

    """

    steps: int
    tokens: int
    cpu_seconds: float
    validation: float
    best_step: int


def new_network(
    tokenizer: PreTrainedTokenizerFast, shape: Shape, context: int = CONTEXT
) -> LlamaForCausalLM:
    """Return an untrained Llama of that shape for that vocabulary; random: seed torch before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=int(shape.width * 8 / 3) // 32 * 32,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pretrain(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    budget: Budget,
    progress: Progress,
    seed: int = 0,
) -> PretrainReport:
    """Train in place until the budget or nine epochs are spent; end with the best weights."""
    import torch

    learn, check = _streams(tokenizer, texts)
    random = torch.Generator().manual_seed(seed)
    optimizers = _optimizers(network)
    keeper = Keeper(network, check, budget)
    reporter = Reporter("pretrain", progress, budget)
    size = min(CONTEXT, len(learn) - 1)
    rows = max(1, BATCH_TOKENS // size)
    step, done = 0, 0.0
    network.train()
    while done < 1:
        for optimizer, peak in optimizers:
            _set_rate(optimizer, peak * _schedule(done))
        loss = _step(network, _batch(learn, rows, size, random), optimizers)
        step += 1
        done = max(budget.fraction, step * rows * size / (MOST_EPOCHS * len(learn)))
        reporter.step(step, loss)
        keeper.look(step, done)
    keeper.restore()
    return PretrainReport(step, step * rows * size, budget.used, keeper.best, keeper.best_step)


def _step(
    network: LlamaForCausalLM, rows: Tensor, optimizers: list[tuple[torch.optim.Optimizer, float]]
) -> float:
    """Learn from one batch and return its loss in nats per token."""
    import torch

    loss = _loss(network, rows)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer, _ in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _streams(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
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


def _batch(stream: Tensor, rows: int, size: int, random: torch.Generator) -> Tensor:
    """Random windows of ``size + 1`` tokens, shape (rows, size + 1)."""
    import torch

    starts = torch.randint(0, len(stream) - size, (rows, 1), generator=random)
    return stream[starts + torch.arange(size + 1)]


def _loss(network: LlamaForCausalLM, rows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each row's tokens after its first."""
    import torch.nn.functional as functional

    logits = network(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _optimizers(network: LlamaForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices between layers, AdamW for the rest, each with its peak rate."""
    import torch

    hidden = [p for p in network.model.layers.parameters() if p.ndim == 2]
    chosen = {id(parameter) for parameter in hidden}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return [
        (torch.optim.Muon(hidden, lr=MUON_RATE, weight_decay=0.1), MUON_RATE),
        (torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01), ADAM_RATE),
    ]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _schedule(fraction: float) -> float:
    """The share of the peak rate: a short warm-up, then straight down to a twentieth."""
    if fraction < WARM_UP:
        return max(0.1, fraction / WARM_UP)
    return 1.0 - 0.95 * (fraction - WARM_UP) / (1 - WARM_UP)


class Keeper:
    """Scores the validation slice now and then and remembers the best weights."""

    def __init__(self, network: LlamaForCausalLM, stream: Tensor, budget: Budget) -> None:
        self.network, self.stream, self.budget = network, stream, budget
        self.best, self.best_step = math.inf, 0
        self._weights = copy.deepcopy(network.state_dict())
        self._next = FIRST_CHECK

    def look(self, step: int, done: float) -> None:
        """Score if it is time to, and keep the weights if they are the best so far.

        Args:
            step: steps taken.
            done: share of the training, from 0 to 1; at 1 it always scores.

        """
        if done < min(self._next, 1):
            return
        before = self.budget.used
        bits = self._bits()
        cost = done * (self.budget.used - before) / max(before, 1e-9)
        self._next = done + max(1 / CHECKS, cost / CHECK_SHARE)
        if bits < self.best:
            self.best, self.best_step = bits, step
            self._weights = copy.deepcopy(self.network.state_dict())

    def restore(self) -> None:
        self.network.load_state_dict(self._weights)

    def _bits(self) -> float:
        import torch

        size = min(CONTEXT, len(self.stream) - 1)
        whole = (len(self.stream) - 1) // size
        starts = torch.arange(whole)[:, None] * size
        rows = self.stream[starts + torch.arange(size + 1)]
        self.network.train(False)
        with torch.inference_mode():
            parts = torch.split(rows, 16)
            losses = [float(_loss(self.network, part)) * len(part) for part in parts]
        self.network.train()
        return sum(losses) / len(rows) / math.log(2)
