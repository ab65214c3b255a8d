"""From a dataset to a model folder: tokenizer, pretraining, two kinds of tuning, manifest.

The folder appears under its name only when everything in it is written; ``manifest.json`` is what
makes it a model. Killed at any time, nothing half-made carries one.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llm_twin.model import durable, runtime
from llm_twin.model.budget import Budget, Progress
from llm_twin.model.language_model import MANIFEST, LocalModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_twin.model.dataset import Dataset

PRETRAINING = 0.75
"""The share of the budget for pretraining; tuning gets the rest."""
PREFERRING = 0.4
"""The share of that rest for preferences, where there are any."""
_LIBRARIES = ("torch", "transformers", "trl", "tokenizers")


@dataclass(frozen=True)
class TrainReport:
    """What training did, as plain numbers; also kept in the model's manifest.

    Attributes:
        parameters: weights of the network.
        vocabulary: entries of the tokenizer.
        tokens: in the training texts.
        seed: of weights and order.
        budget: CPU seconds that were allowed.
        cpu_seconds: used by training: tokenizer, pretraining, tuning, and checks between them.
        import_cpu_seconds: used to load torch, transformers and TRL; not counted above.
        pretrain: see ``PretrainReport``.
        sft: see ``SftReport``.
        dpo: see ``DpoReport``.
        heldout_after_pretrain: bits per character on the held-out passages.
        heldout_after_sft: the same after instruction tuning.
        heldout_after_dpo: the same for the finished model.
        sft_made_it_worse: tuning cost more than it brought, on those passages.

    """

    parameters: int
    vocabulary: int
    tokens: int
    seed: int
    budget: float
    cpu_seconds: float
    import_cpu_seconds: float
    pretrain: dict[str, Any]
    sft: dict[str, Any]
    dpo: dict[str, Any]
    heldout_after_pretrain: float
    heldout_after_sft: float
    heldout_after_dpo: float
    sft_made_it_worse: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def train(
    dataset: Dataset, folder: Path, budget: float, progress: Progress, seed: int = 0
) -> TrainReport:
    """Train a model and write it to the folder, replacing what was there.

    Args:
        dataset: from ``make_dataset``.
        folder: appears complete, or not at all.
        budget: CPU seconds; one step more of each phase is always taken.
        progress: called with a line every two seconds.
        seed: of weights and order; the budget is time, so two runs still differ a little.

    Raises:
        NotReadyError: torch or a training library is missing.

    """
    imports = _load_libraries(progress)
    prefix = f".{folder.name}-"
    durable.sweep_buildings(folder.parent, prefix) if folder.parent.exists() else None
    building = durable.new_building(folder.parent, prefix)
    try:
        with runtime.threads(runtime.training_threads()), runtime.seeded(seed):
            report = _train(dataset, building, budget, progress, seed, imports)
        durable.sync_tree(building)
        durable.remove(folder)
        building.rename(folder)
        durable.sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return report


def _load_libraries(progress: Progress) -> float:
    """Import what trains and return the CPU seconds it took."""
    start = time.process_time()
    runtime.prepare()
    progress("loading torch, transformers and TRL")
    with runtime.quiet():
        import torch  # noqa: F401
        import trl.trainer.sft_trainer  # noqa: F401
    return time.process_time() - start


def _train(
    dataset: Dataset, building: Path, seconds: float, progress: Progress, seed: int, imports: float
) -> TrainReport:
    from llm_twin.model.dpo import prefer
    from llm_twin.model.pretrain import CONTEXT, new_network, pretrain, shape_for
    from llm_twin.model.sft import tune
    from llm_twin.model.tokenizer import encode, train_tokenizer

    whole = Budget(seconds)
    tokenizer = train_tokenizer(dataset.train_texts, CONTEXT)
    tokens = sum(map(len, encode(tokenizer, dataset.train_texts)))
    network = new_network(tokenizer, shape_for(tokens))
    first = Budget(PRETRAINING * seconds - whole.used)
    pretrained = pretrain(network, tokenizer, dataset.train_texts, first, progress, seed)
    before = _heldout(network, tokenizer, dataset.heldout_texts)
    scratch = building / "scratch"
    share = 1 - PREFERRING if dataset.preferences else 1
    second = Budget(share * whole.left)
    tuned = tune(network, tokenizer, dataset.pairs, second, progress, scratch, seed)
    after = last = _heldout(network, tokenizer, dataset.heldout_texts)
    third = Budget(whole.left)
    preferred = prefer(network, tokenizer, dataset.preferences, third, progress, scratch, seed)
    if preferred.steps:
        last = _heldout(network, tokenizer, dataset.heldout_texts)
    durable.remove(scratch)
    report = TrainReport(
        parameters=network.num_parameters(),
        vocabulary=len(tokenizer),
        tokens=tokens,
        seed=seed,
        budget=seconds,
        cpu_seconds=whole.used,
        import_cpu_seconds=imports,
        pretrain=asdict(pretrained),
        sft=asdict(tuned),
        dpo=asdict(preferred),
        heldout_after_pretrain=before,
        heldout_after_sft=after,
        heldout_after_dpo=last,
        sft_made_it_worse=after > before,
    )
    _save(building, network, tokenizer, {**report.to_dict(), "dataset": dataset.digest})
    return report


def _heldout(
    network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> float:
    scores = LocalModel(network, tokenizer).bits_per_character(texts)
    return sum(bits for bits, _ in scores) / sum(characters for _, characters in scores)


def _save(
    folder: Path,
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: dict[str, Any],
) -> None:
    """Write weights and tokenizer, and last the manifest."""
    with runtime.quiet():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    durable.write_json(
        folder / MANIFEST,
        {
            "training": report,
            "versions": {name: version(name) for name in _LIBRARIES},
            "files": durable.list_files(folder, without=MANIFEST),
        },
    )
