"""Instruction and preference tuning with TRL: all weights, or adapters that are then merged.

A phase goes from one folder of weights to another. It reads its own, so that a later phase, or the
same one after a kill, starts from the very bits that were written. TRL is told to stay offline,
report to nobody and write nothing outside the folder it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.errors import TwinError
from llm_twin.model import durable, pacing, runtime, weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llm_twin.model.dataset import Pair, Preference
    from llm_twin.model.phase import Phase
    from llm_twin.model.profile import Dpo, Sft

    Row = dict[str, Any]

SET_ASIDE = 10
"""One row in so many is set aside to stop by, where stopping is wanted."""
MOST_SET_ASIDE = 200


@dataclass(frozen=True)
class TuningReport:
    """What a phase of tuning did.

    Attributes:
        steps: of the optimizer; 0 when there was nothing to learn from.
        rows: pairs or preferences to learn from.
        set_aside: rows that were not learned from but scored, to stop by.
        tokens: positions learned from, repeats included.
        cpu_seconds: used, the trainer's own set-up included.
        loss: at the last step, in nats per token of the completions; for preferences it begins
            at 0.693.
        evaluation: the best loss on the rows set aside, whose weights were kept.
        best_step: after which they were kept.
        packed: rows were filled up with the next ones.
        stopped_by: ``epochs``, ``tokens``, ``time`` or ``patience``.
        tokens_per_second: of the wall, in the process that ended it.

    """

    steps: int = 0
    rows: int = 0
    set_aside: int = 0
    tokens: int = 0
    cpu_seconds: float = 0.0
    loss: float | None = None
    evaluation: float | None = None
    best_step: int = 0
    packed: bool = False
    stopped_by: str = ""
    tokens_per_second: float = 0.0


def tune(source: Path, pairs: Sequence[Pair], phase: Phase, target: Path) -> TuningReport:
    """Learn the pairs' completions.

    Args:
        source: folder of the weights and tokenizer to start from.
        pairs: instructions and completions, at least one.
        phase: the settings, budget and checkpoints.
        target: empty folder for the weights and tokenizer after it.

    Raises:
        TwinError: the loss is not a number, or the saved weights are not those in memory.

    """
    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "completion": [{"role": "assistant", "content": pair.completion}],
        }
        for pair in pairs
    ]
    return _run(source, rows, phase, phase.training.sft, target)


def prefer(source: Path, rows: Sequence[Preference], phase: Phase, target: Path) -> TuningReport:
    """Learn to prefer the chosen answers, against the weights at the start; as ``tune``."""
    said = [
        {
            "prompt": [{"role": "user", "content": one.prompt}],
            "chosen": [{"role": "assistant", "content": one.chosen}],
            "rejected": [{"role": "assistant", "content": one.rejected}],
        }
        for one in rows
    ]
    return _run(source, said, phase, phase.training.dpo, target)


def _run(
    source: Path, rows: list[Row], phase: Phase, tuning: Sft | Dpo, target: Path
) -> TuningReport:
    with runtime.quiet():
        from datasets import disable_progress_bars  # type: ignore[import-untyped]

        disable_progress_bars()
        tokenizer = weights.load_tokenizer(source)
        network = weights.load_network(source, phase.training, phase.device)
        learn, check = _set_aside(rows, phase)
        scratch = phase.shelf.begin()
        packed = bool(getattr(tuning, "packing", False))
        settings = settings_for(network, phase, tuning, packed, scratch)
        trainer = trainer_for(network, tokenizer, learn, check, settings, phase, source)
        pace = pacing.attach(trainer, phase, tuning, checks=bool(check))
        try:
            if len(trainer.train_dataset):
                pace.run()
            # In bf16 accelerate wraps the forward pass: its rounding is not that of the weights.
            bare = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            _write(bare, tokenizer, phase, source, target)
        finally:
            durable.remove(scratch)
    return TuningReport(
        steps=trainer.state.global_step,
        rows=len(learn),
        set_aside=len(check),
        tokens=phase.budget.seen,
        cpu_seconds=phase.budget.cpu_seconds,
        loss=pace.reporter.loss,
        evaluation=None if math.isinf(pace.keeper.best) else pace.keeper.best,
        best_step=pace.keeper.best_step or trainer.state.global_step,
        packed=packed,
        stopped_by=pace.stopped_by,
        tokens_per_second=pace.reporter.speed if pace.moved else 0.0,
    )


def _set_aside(rows: list[Row], phase: Phase) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and to stop by; which, is drawn by their content."""
    if not phase.training.stopping.patience or len(rows) < 2 * SET_ASIDE:
        return rows, []
    wanted = min(len(rows) // SET_ASIDE, MOST_SET_ASIDE)
    order = sorted(range(len(rows)), key=lambda place: content_id(repr(rows[place])))
    apart = set(order[:wanted])
    return (
        [row for place, row in enumerate(rows) if place not in apart],
        [row for place, row in enumerate(rows) if place in apart],
    )


def settings_for(
    network: PreTrainedModel, phase: Phase, tuning: Sft | Dpo, packed: bool, scratch: Path
) -> dict[str, Any]:
    """What a trainer of TRL is told; the rate is set at each step by ``pacing``."""
    batch, accumulate = tuning.batch, tuning.accumulate
    if packed and not _flash(network):
        # Without flash attention only one packed row at a time is kept apart by its position ids,
        # and a longer one costs the square of its length: the same rows are accumulated instead.
        batch, accumulate = 1, batch * accumulate
    return {
        "output_dir": str(scratch),
        "max_length": weights.context_of(network, tuning.length),
        "num_train_epochs": tuning.epochs,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": tuning.rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "bf16": phase.training.precision == "bf16",
        "use_cpu": phase.device == "cpu",
        "gradient_checkpointing": tuning.gradient_checkpointing,
        "dataloader_pin_memory": phase.device == "cuda",
        "dataloader_num_workers": 0,
        "include_num_input_tokens_seen": "all" if packed else "non_padding",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "seed": phase.seed,
        "data_seed": phase.seed,
    }


def _flash(network: PreTrainedModel) -> bool:
    return "flash" in str(network.config._attn_implementation)


def trainer_for(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    learn: list[Row],
    check: list[Row],
    settings: dict[str, Any],
    phase: Phase,
    source: Path,
) -> Any:
    """TRL's trainer for a phase, wrapping the network in adapters if the profile has some."""
    from datasets import Dataset

    said: dict[str, Any] = {
        "model": network,
        "train_dataset": Dataset.from_list(learn),
        "eval_dataset": Dataset.from_list(check) if check else None,
        "processing_class": tokenizer,
        "peft_config": adapters_for(phase),
    }
    if phase.name == "sft":
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        sft = phase.training.sft
        return SFTTrainer(
            args=SFTConfig(
                **settings, packing=sft.packing, eval_packing=False, completion_only_loss=True
            ),
            **said,
        )
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    # With adapters the reference is the network with them switched off: they are new in each phase
    # and the source already holds what came before.
    lora = phase.training.lora
    return DPOTrainer(
        ref_model=None if lora else weights.load_network(source, phase.training, phase.device),
        args=DPOConfig(**settings, beta=phase.training.dpo.beta),
        **said,
    )


def adapters_for(phase: Phase) -> Any:
    """PEFT's settings, or None when all weights are tuned."""
    lora = phase.training.lora
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )


def _write(
    network: Any, tokenizer: PreTrainedTokenizerFast, phase: Phase, source: Path, target: Path
) -> None:
    """Merge adapters, save, read back, and compare what both say.

    Raises:
        TwinError: they differ.

    """
    lora = phase.training.lora
    if lora and lora.quantize == "4bit":
        network = _merged_unquantized(network, phase, source, target)
    elif lora:
        network = network.merge_and_unload()
    weights.save(network, tokenizer, target)
    again = weights.load_plain(target, phase.training, phase.device)
    if not weights.same(network, again):
        raise TwinError(
            f"the weights saved after {phase.name} are not those that were trained",
            target,
            "Nothing was promoted. Check the disk and the versions of transformers and peft",
        )


def _merged_unquantized(network: Any, phase: Phase, source: Path, target: Path) -> Any:
    """Merge into the weights as they are on the disk: merging into 4-bit ones loses both."""
    from peft import PeftModel

    adapter = target.with_name(f"{target.name}-adapter")
    network.save_pretrained(adapter)
    plain = weights.load_plain(source, phase.training, phase.device)
    merged = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    durable.remove(adapter)
    return merged
