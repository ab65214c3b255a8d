"""Preference tuning with TRL: what readers wanted, rather than what they got.

Direct preference optimisation against the network as it was before. The rate is low and each pair
is seen once or twice: more of either was measured to cost what was learned of the texts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.model import runtime
from llm_twin.model.budget import Budget, Progress, Reporter
from llm_twin.model.sft import common_settings, pacing, silence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_twin.model.dataset import Preference

RATE = 3e-5
BETA = 0.1
EPOCHS = 2


@dataclass(frozen=True)
class DpoReport:
    """What preference tuning did.

    Attributes:
        steps: optimizer steps; 0 when there were no preferences.
        preferences: how many there were to learn from.
        cpu_seconds: used, the trainer's own set-up included.
        loss: at the last step; 0.693 is where it starts.

    """

    steps: int
    preferences: int
    cpu_seconds: float
    loss: float | None


def prefer(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    preferences: Sequence[Preference],
    budget: Budget,
    progress: Progress,
    folder: Path,
    seed: int = 0,
) -> DpoReport:
    """Tune all weights in place, until the budget is spent or each pair was seen twice.

    Args:
        network: tuned on instructions.
        tokenizer: with a chat template.
        preferences: questions with a wanted and an unwanted answer.
        budget: the CPU seconds left; one step is always taken.
        progress: called with a line every two seconds.
        folder: for whatever the trainer writes; the caller removes it.
        seed: of the order.

    """
    if not preferences:
        return DpoReport(0, 0, budget.used, None)
    with runtime.quiet():
        from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        disable_progress_bars()
        pace = pacing(Reporter("dpo", progress, budget), RATE)
        trainer = DPOTrainer(
            model=network,
            ref_model=copy.deepcopy(network),
            args=DPOConfig(
                **common_settings(folder, seed, int(network.config.max_position_embeddings)),
                beta=BETA,
                num_train_epochs=EPOCHS,
                learning_rate=RATE,
            ),
            train_dataset=Dataset.from_list([_conversation(one) for one in preferences]),
            processing_class=tokenizer,
            callbacks=[pace],
        )
        silence(trainer)
        trainer.train()
    network.train(False)
    return DpoReport(trainer.state.global_step, len(preferences), budget.used, pace.loss)


def _conversation(preference: Preference) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": preference.prompt}],
        "chosen": [{"role": "assistant", "content": preference.chosen}],
        "rejected": [{"role": "assistant", "content": preference.rejected}],
    }
