"""Instruction tuning with TRL on the author's own headings and sections, within a CPU budget.

The network is trained in place. TRL and datasets are told to stay offline, report to nobody and
write nothing outside the folder they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.model import runtime
from llm_twin.model.budget import Budget, Progress, Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_twin.model.dataset import Pair

BATCH = 8
RATE = 5e-4
EPOCHS = 2


@dataclass(frozen=True)
class SftReport:
    """What instruction tuning did.

    Attributes:
        steps: optimizer steps; 0 when there were no pairs.
        pairs: how many there were to learn from.
        cpu_seconds: used, the trainer's own set-up included.
        loss: mean training loss of the completions in nats per token, at the last step.

    """

    steps: int
    pairs: int
    cpu_seconds: float
    loss: float | None


def tune(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    budget: Budget,
    progress: Progress,
    folder: Path,
    seed: int = 0,
) -> SftReport:
    """Tune all weights in place on the completions, until the budget is spent or two epochs.

    Args:
        network: pretrained.
        tokenizer: with a chat template.
        pairs: instructions and completions.
        budget: the CPU seconds left.
        progress: called with a line every two seconds.
        folder: for whatever the trainer writes; the caller removes it.
        seed: of the order.

    """
    if not pairs:
        return SftReport(0, len(pairs), budget.used, None)
    with runtime.quiet():
        from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        disable_progress_bars()
        rows = Dataset.from_list([_conversation(pair) for pair in pairs])
        pace = pacing(Reporter("sft", progress, budget), RATE)
        trainer = SFTTrainer(
            model=network,
            args=SFTConfig(
                **common_settings(folder, seed, int(network.config.max_position_embeddings)),
                completion_only_loss=True,
                num_train_epochs=EPOCHS,
                learning_rate=RATE,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[pace],
        )
        silence(trainer)
        trainer.train()
    network.train(False)
    return SftReport(trainer.state.global_step, len(pairs), budget.used, pace.loss)


def _conversation(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": pair.prompt}],
        "completion": [{"role": "assistant", "content": pair.completion}],
    }


def common_settings(folder: Path, seed: int, context: int) -> dict[str, Any]:
    """What every trainer of TRL is told here."""
    return {
        "output_dir": str(folder),
        "max_length": context,
        "per_device_train_batch_size": BATCH,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "seed": seed,
        "data_seed": seed,
    }


def silence(trainer: Any) -> None:
    """Remove the callback that prints every log line."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def pacing(reporter: Reporter, rate: float) -> Any:
    """Return the trainer callback that lowers a rate with the budget and stops at its end."""
    from transformers import TrainerCallback

    class Pacing(TrainerCallback):
        loss: float | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = rate * (1 - 0.9 * reporter.budget.fraction)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = kwargs["logs"].get("loss")
            if loss is not None:
                self.loss = float(loss)
                reporter.step(state.global_step, self.loss)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop = reporter.budget.left <= 0
            return control

    return Pacing()
