"""The phases of one training in their order, each taken up where a killed process left it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm_twin.model import base as bases
from llm_twin.model import preference, tuning, weights
from llm_twin.model.budget import Budget
from llm_twin.model.checkpoints import Shelf
from llm_twin.model.language_model import LocalModel
from llm_twin.model.phase import Phase, explained
from llm_twin.model.report import TrainReport
from llm_twin.model.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llm_twin.model import profile
    from llm_twin.model.budget import Progress
    from llm_twin.model.curves import Curves
    from llm_twin.model.dataset import Dataset

    Result = dict[str, Any]
    Make = Callable[[Phase, Path], Result]

PRETRAINING = 0.75
"""The share of the budget for pretraining; tuning gets the rest."""
PREFERRING = 0.4
"""The share of that rest for preferences, where there are any."""
PHASES = ("pretrain", "sft", "dpo")


class Run:
    """One training, from its base to its last phase.

    Args:
        dataset: what is learned from.
        training: the profile's settings.
        base: from what.
        seed: of weights and order.
        place: folder for checkpoints and results of phases.
        every: wall seconds between two checkpoints; inf: none.
        curves: told of every step.
        progress: called with a line every two seconds.

    Attributes:
        weights: folder of what was reached so far.
        device: ``cpu`` or ``cuda``.

    """

    weights: Path

    def __init__(
        self,
        dataset: Dataset,
        training: profile.Training,
        base: profile.Base,
        seed: int,
        place: Path,
        every: float,
        curves: Curves,
        progress: Progress,
    ) -> None:
        self.dataset, self.training, self.base, self.seed = dataset, training, base, seed
        self.place, self.every, self.curves, self.progress = place, every, curves, progress
        limits = training.budget
        self.budget = Budget(limits.seconds, limits.tokens, limits.clock)
        self.device = bases.device_for(training)
        self.resumed: dict[str, Any] | None = None

    def run(self, imports: float) -> TrainReport:
        """Go through the phases and return what they did."""
        start = self._phase("pretrain", PRETRAINING, self._base)
        tuned, before = {**start, "report": asdict(tuning.TuningReport())}, self.weights
        if self.dataset.pairs and self.training.sft.epochs:
            share = 1 - PREFERRING if self._prefers else 1.0
            tuned = self._phase("sft", share, self._tune)
            before = self.weights
        last = {**tuned, "report": asdict(tuning.TuningReport()), "preference": {}}
        if self._prefers:
            last = self._phase("dpo", 1.0, lambda phase, to: self._prefer(before, phase, to))
        return self._report(start, tuned, last, imports)

    @property
    def _prefers(self) -> bool:
        return bool(self.dataset.preferences and self.training.dpo.epochs)

    def _phase(self, name: str, share: float, make: Make) -> Result:
        """Do a phase, go on with it, or take its result if it ended before."""
        every, keep = self.every, self.training.checkpoints.keep
        shelf = Shelf(self.place / name, every, keep, self.progress)
        if found := shelf.result():
            self.weights, state = found
            self.budget.restore(state["budget"])
            self.resumed = {"phase": name, "step": state["step"]}
            return state
        phase = Phase(
            name,
            self.training,
            self.device,
            self.seed,
            self.budget.part(share),
            shelf,
            self.progress,
            self.curves,
        )
        target = shelf.begin()
        with explained(name):
            state = make(phase, target)
        if shelf.taken is not None:
            self.resumed = {"phase": name, "step": shelf.taken}
        state["budget"] = self.budget.state()
        self.weights = shelf.finish(target, state)
        return state

    def _base(self, phase: Phase, target: Path) -> Result:
        """Pretrain, or take the base: either way a folder of weights to tune."""
        if self.base.scratch:
            network, tokenizer, report = self._pretrain(phase)
        else:
            self.progress(f"reading {self.base.model}")
            source = bases.fetch(self.base)
            tokenizer = weights.load_tokenizer(source)
            network = weights.load_plain(source, self.training, self.device)
            report = {}
        weights.save(network, tokenizer, target)
        return {
            "report": report,
            "step": report.get("steps", 0),
            "tokens": sum(map(len, encode(tokenizer, self.dataset.train_texts))),
            "heldout": self._heldout(LocalModel(network, tokenizer)),
        }

    def _pretrain(self, phase: Phase) -> tuple[Any, Any, dict[str, Any]]:
        from llm_twin.model.pretrain import new_network, pretrain, shape_for
        from llm_twin.model.tokenizer import train_tokenizer
        from llm_twin.model.validation import CONTEXT

        tokenizer = train_tokenizer(self.dataset.train_texts, CONTEXT)
        tokens = sum(map(len, encode(tokenizer, self.dataset.train_texts)))
        network = new_network(tokenizer, shape_for(tokens)).to(self.device)  # type: ignore[arg-type]
        report = pretrain(network, tokenizer, self.dataset.train_texts, phase)
        return network, tokenizer, asdict(report)

    def _tune(self, phase: Phase, target: Path) -> Result:
        report = tuning.tune(self.weights, self.dataset.pairs, phase, target)
        model = self._read(target)
        return {
            "report": asdict(report),
            "step": report.steps,
            "heldout": self._heldout(model),
        }

    def _prefer(self, before: Path, phase: Phase, target: Path) -> Result:
        pairs = list(getattr(self.dataset, "heldout_preferences", []))
        old = preference.margins(self._read(before), pairs) if pairs else []
        report = tuning.prefer(self.weights, self.dataset.preferences, phase, target)
        model = self._read(target)
        new = preference.margins(model, pairs) if pairs else []
        return {
            "report": asdict(report),
            "step": report.steps,
            "heldout": self._heldout(model),
            "preference": preference.accuracy(pairs, old, new) if pairs else {},
        }

    def _read(self, folder: Path) -> LocalModel:
        network = weights.load_plain(folder, self.training, self.device)
        return LocalModel(network, weights.load_tokenizer(folder))

    def _heldout(self, model: LocalModel) -> float:
        scores = model.bits_per_character(self.dataset.heldout_texts)
        return sum(bits for bits, _ in scores) / sum(characters for _, characters in scores)

    def _report(self, start: Result, tuned: Result, last: Result, imports: float) -> TrainReport:
        reports = dict(zip(PHASES, (start["report"], tuned["report"], last["report"]), strict=True))
        model = self._read(self.weights)
        seconds = self.training.budget.seconds
        return TrainReport(
            base=self.base.model_dump(include={"model", "revision", "license"}),
            method=_method(self.training),
            device=_device(self.device),
            precision=self.training.precision,
            parameters=model.network.num_parameters(),
            vocabulary=len(model.tokenizer),
            tokens=start["tokens"],
            tokens_seen=self.budget.seen,
            tokens_per_second={
                name: round(one["tokens_per_second"], 1)
                for name, one in reports.items()
                if one.get("steps")
            },
            seed=self.seed,
            budget={
                "seconds": None if math.isinf(seconds) else seconds,
                "clock": self.training.budget.clock,
                "tokens": self.training.budget.tokens,
            },
            stopped_by=_stopped(self.training.budget, reports),
            resumed_from=self.resumed,
            cpu_seconds=self.budget.cpu_seconds,
            import_cpu_seconds=imports,
            peak_gpu_mb=_peak(self.device),
            **reports,
            preference=last["preference"],
            heldout_after_pretrain=start["heldout"],
            heldout_after_sft=tuned["heldout"],
            heldout_after_dpo=last["heldout"],
            sft_made_it_worse=tuned["heldout"] > start["heldout"],
        )


def _stopped(budget: profile.Budget, reports: dict[str, dict[str, Any]]) -> str:
    """What ended it early, the hardest limit first."""
    said = {report.get("stopped_by") for report in reports.values()}
    paid = budget.money / budget.hourly * 3600 if budget.money else math.inf
    for name in ("time", "tokens", "patience"):
        if name in said:
            return "money" if name == "time" and paid <= budget.seconds else name
    return "epochs"


def _method(training: profile.Training) -> str:
    if training.lora is None:
        return "all weights"
    quantized = f" {training.lora.quantize}" if training.lora.quantize != "none" else ""
    return f"lora r={training.lora.rank}{quantized}"


def _device(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name()


def _peak(device: str) -> int:
    if device == "cpu":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated() / 2**20)
