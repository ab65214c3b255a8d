"""A Llama from scratch on the author's passages, within a budget.

A short plain loop: Muon for the hidden matrices and AdamW for embeddings and norms (measured to cut
the perplexity by a third against AdamW alone at equal cost). A slice of the training passages is
set aside to keep the best weights, so a small corpus is not learned past its best point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.model.phase import check_number, check_weights
from llm_twin.model.validation import CONTEXT, Keeper, loss_of, streams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_twin.model.phase import Phase

    Optimizers = list[tuple[torch.optim.Optimizer, float]]

STATE_FILE = "state.pt"
BATCH_TOKENS = 2048
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
        stopped_by: ``epochs``, ``tokens``, ``time`` or ``patience``.
        tokens_per_second: of the wall, in the process that ended it.

    """

    steps: int
    tokens: int
    cpu_seconds: float
    validation: float
    best_step: int
    stopped_by: str = ""
    tokens_per_second: float = 0.0


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
    phase: Phase,
) -> PretrainReport:
    """Train in place until the budget or the epochs are spent; end with the best weights.

    Raises:
        TwinError: the loss is not a number.

    """
    import torch

    learn, check = streams(tokenizer, texts)
    random = torch.Generator().manual_seed(phase.seed)
    optimizers = _optimizers(network)
    keeper = Keeper(network, check, phase.budget, phase.training.precision)
    reporter = phase.reporter()
    size = min(CONTEXT, len(learn) - 1)
    rows = max(1, BATCH_TOKENS // size)
    whole = phase.training.pretrain.epochs * len(learn)
    step, done, patience = 0, 0.0, phase.training.stopping.patience
    if found := phase.resume():
        step, done = _load(found[0], network, optimizers, keeper, random)
        reporter.resumed(step, done)
    first = step
    network.train()
    while done < 1 and not (patience and keeper.worse >= patience):
        rate = _schedule(done)
        for optimizer, peak in optimizers:
            _set_rate(optimizer, peak * rate)
        batch = _batch(learn, rows, size, random).to(phase.device)
        loss = _step(network, batch, optimizers, phase.training.precision)
        step += 1
        check_number(loss, step, phase.name)
        phase.budget.take(rows * size)
        done = 1.0 if phase.budget.spent else phase.budget.fraction
        done = min(1.0, max(done, step * rows * size / whole))
        reporter.step(step, loss, done, MUON_RATE * rate)
        if keeper.look(step, done):
            reporter.evaluated(step, keeper.last * math.log(2))
        if done < 1 and phase.shelf.due:
            check_weights(network.parameters(), step, phase.name)
            _save(phase, network, optimizers, keeper, random, step, done)
    keeper.restore()
    stopped = phase.budget.spent or ("epochs" if done >= 1 else "patience")
    return PretrainReport(
        step,
        phase.budget.seen,
        phase.budget.cpu_seconds,
        keeper.best,
        keeper.best_step,
        stopped,
        reporter.speed if step > first else 0.0,
    )


def _save(
    phase: Phase,
    network: LlamaForCausalLM,
    optimizers: Optimizers,
    keeper: Keeper,
    random: torch.Generator,
    step: int,
    done: float,
) -> None:
    """Write a checkpoint with all that the loop above goes on from."""
    import torch

    building = phase.shelf.begin()
    state = {
        "network": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
        "random": random.get_state(),
        "torch": torch.get_rng_state(),
        "keeper": keeper.state(),
        "step": step,
        "done": done,
    }
    torch.save(state, building / STATE_FILE)
    phase.shelf.commit(building, step, {"step": step, "budget": phase.budget.state()})


def _load(
    folder: Path,
    network: LlamaForCausalLM,
    optimizers: Optimizers,
    keeper: Keeper,
    random: torch.Generator,
) -> tuple[int, float]:
    """Reverse of ``_save``; return the step and the share that was done."""
    import torch

    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    random.set_state(state["random"])
    torch.set_rng_state(state["torch"])
    keeper.load(state["keeper"])
    return state["step"], state["done"]


def _step(network: LlamaForCausalLM, rows: Tensor, optimizers: Optimizers, precision: str) -> float:
    """Learn from one batch and return its loss in nats per token."""
    import torch

    loss = loss_of(network, rows, precision)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer, _ in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _batch(stream: Tensor, rows: int, size: int, random: torch.Generator) -> Tensor:
    """Random windows of ``size + 1`` tokens, shape (rows, size + 1)."""
    import torch

    starts = torch.randint(0, len(stream) - size, (rows, 1), generator=random)
    return stream[starts + torch.arange(size + 1)]


def _optimizers(network: LlamaForCausalLM) -> Optimizers:
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
