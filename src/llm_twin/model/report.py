"""What a training did, as plain numbers; also kept in the model's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        base: ``model``, ``revision`` and ``license`` of what it started from.
        method: ``all weights`` or ``lora r=8``, with ``4bit`` where the base was quantized.
        device: ``cpu``, or the GPU's name.
        precision: of the arithmetic.
        parameters: weights of the network.
        vocabulary: entries of the tokenizer.
        tokens: in the training texts.
        tokens_seen: positions learned from in all phases, repeats included.
        tokens_per_second: of the wall, by phase.
        seed: of weights and order.
        budget: what was allowed: ``seconds`` of the ``clock`` (none: no limit) and ``tokens``.
        stopped_by: the limit that ended the training early, ``tokens``, ``time`` or ``money``, or
            ``patience``; ``epochs`` when it took all it was told to.
        resumed_from: ``phase`` and ``step`` of the checkpoint that it went on from, if it did.
        cpu_seconds: used by training: tokenizer, pretraining, tuning, and checks between them.
        import_cpu_seconds: used to load torch, transformers and TRL; not counted above.
        peak_gpu_mb: most memory of the GPU that tensors took; 0 on a CPU.
        pretrain: see ``PretrainReport``; empty with a base.
        sft: see ``TuningReport``.
        dpo: see ``TuningReport``.
        preference: ``accuracy``, ``n`` and ``items`` on the held-out preference pairs; empty when
            none were learned from or none held out.
        heldout_after_pretrain: bits per character on the held-out passages, of the base too.
        heldout_after_sft: the same after instruction tuning.
        heldout_after_dpo: the same for the finished model.
        sft_made_it_worse: tuning cost more than it brought, on those passages.

    """

    base: dict[str, str]
    method: str
    device: str
    precision: str
    parameters: int
    vocabulary: int
    tokens: int
    tokens_seen: int
    tokens_per_second: dict[str, float]
    seed: int
    budget: dict[str, Any]
    stopped_by: str
    resumed_from: dict[str, Any] | None
    cpu_seconds: float
    import_cpu_seconds: float
    peak_gpu_mb: int
    pretrain: dict[str, Any]
    sft: dict[str, Any]
    dpo: dict[str, Any]
    preference: dict[str, Any]
    heldout_after_pretrain: float
    heldout_after_sft: float
    heldout_after_dpo: float
    sft_made_it_worse: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
