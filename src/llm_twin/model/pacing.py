"""What goes on around each step of TRL's trainers: rate, budget, scoring, checkpoints, stopping.

One callback of the trainer; what it remembers is written beside each of the trainer's own
checkpoints, so that both go on together.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.model.phase import check_number, check_weights, shape

if TYPE_CHECKING:
    from llm_twin.model.phase import Phase
    from llm_twin.model.profile import Dpo, Sft
    from llm_twin.model.reporting import Reporter

BEST = "best.pt"


class Keeper:
    """Says when to score the rows set aside, and remembers the weights that scored best."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations
        self.best, self.best_step = math.inf, 0
        self.worse, self.scored = 0, 0
        self.weights: dict[str, Any] | None = None

    def due(self, done: float) -> bool:
        """Whether the share that is done has passed the next of the evenly spaced scorings."""
        return bool(self.evaluations) and done * self.evaluations >= self.scored + 1

    def look(self, loss: float, step: int, done: float, network: Any) -> None:
        """Take a score; a better one takes a copy of the weights that are trained."""
        self.scored = int(done * self.evaluations + 1e-9)
        self.worse = 0 if loss < self.best else self.worse + 1
        if loss < self.best:
            self.best, self.best_step = loss, step
            self.weights = {
                name: weight.detach().to("cpu", copy=True)
                for name, weight in network.named_parameters()
                if weight.requires_grad
            }

    def restore(self, network: Any) -> None:
        """Put the best weights back, if any were scored."""
        if self.weights is None:
            return
        import torch

        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name in self.weights:
                    weight.copy_(self.weights[name])

    def state(self) -> dict[str, Any]:
        """What it remembers, but for the weights."""
        return {name: getattr(self, name) for name in ("best", "best_step", "worse", "scored")}

    def load(self, state: dict[str, Any]) -> None:
        """Reverse of ``state``."""
        for name, value in state.items():
            setattr(self, name, value)


class Pace:
    """The callback's own state, and the trainer that it goes with."""

    def __init__(self, trainer: Any, phase: Phase, tuning: Sft | Dpo, checks: bool) -> None:
        self.trainer, self.phase, self.tuning = trainer, phase, tuning
        self.reporter: Reporter = phase.reporter()
        self.keeper = Keeper(phase.training.stopping.evaluations if checks else 0)
        self.stopped_by, self.moved = "", False
        self._seen = 0
        self._rate = tuning.rate

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, and end with the best weights.

        Raises:
            TwinError: the loss is not a number.

        """
        found = self.phase.resume()
        if found:
            self._load(*found)
        self.trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
        network = self.trainer.model
        self.keeper.restore(network)
        network.train(False)
        check_weights(network.parameters(), self.trainer.state.global_step, self.phase.name)
        self.stopped_by = self.stopped_by or "epochs"

    def done(self, state: Any) -> float:
        """Share of the phase: of its steps or of its budget, whichever is further."""
        steps = float(state.global_step) / max(state.max_steps, 1)
        return float(min(1.0, max(steps, self.phase.budget.fraction)))

    def before(self, state: Any, optimizer: Any) -> None:
        """Set the rate of a step."""
        share = shape(self.tuning.schedule, self.done(state), self.tuning.warm_up)
        self._rate = self.tuning.rate * share
        for group in optimizer.param_groups:
            group["lr"] = self._rate

    def after(self, state: Any, control: Any) -> None:
        """Count a step's tokens, and say whether to score, to save or to stop."""
        budget = self.phase.budget
        budget.take(int(state.num_input_tokens_seen) - self._seen)
        self._seen, self.moved = int(state.num_input_tokens_seen), True
        done = 1.0 if budget.spent else self.done(state)
        control.should_evaluate = self.keeper.due(done)
        if budget.spent:
            self.stopped_by = budget.spent
            control.should_training_stop = True
        if done < 1 and self.phase.shelf.due:
            trained = [one for one in self.trainer.model.parameters() if one.requires_grad]
            check_weights(trained, state.global_step, self.phase.name)
            control.should_save = True

    def logged(self, state: Any, logs: dict[str, Any]) -> None:
        """Pass a step's loss on.

        Raises:
            TwinError: it is not a number.

        """
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            check_number(float(logs.get(name, 0.0)), state.global_step, self.phase.name)
        self.reporter.step(state.global_step, float(logs["loss"]), self.done(state), self._rate)

    def scored(self, state: Any, control: Any, loss: float) -> None:
        """Take the loss on the rows set aside; too many worse ones end the phase."""
        check_number(loss, state.global_step, self.phase.name)
        self.keeper.look(loss, state.global_step, self.done(state), self.trainer.model)
        self.reporter.evaluated(state.global_step, loss)
        if self.keeper.worse >= self.phase.training.stopping.patience:
            self.stopped_by = self.stopped_by or "patience"
            control.should_training_stop, control.should_save = True, False

    def saved(self, state: Any) -> None:
        """Add what is remembered here to the trainer's checkpoint, and give it its name."""
        import torch

        folder = Path(self.trainer.args.output_dir) / f"checkpoint-{state.global_step}"
        if self.keeper.weights is not None:
            torch.save(self.keeper.weights, folder / BEST)
        told = {
            "step": state.global_step,
            "done": self.done(state),
            "seen": self._seen,
            "keeper": self.keeper.state(),
            "budget": self.phase.budget.state(),
        }
        self.phase.shelf.commit(folder, state.global_step, told)

    def _load(self, folder: Path, told: dict[str, Any]) -> None:
        import torch

        self._seen = told["seen"]
        self.keeper.load(told["keeper"])
        if (folder / BEST).is_file():
            self.keeper.weights = torch.load(folder / BEST, weights_only=True)
        self.reporter.resumed(told["step"], told["done"])


def attach(trainer: Any, phase: Phase, tuning: Sft | Dpo, checks: bool) -> Pace:
    """Return a pace that is told of all that a trainer does, in place of printed lines."""
    from transformers import PrinterCallback, TrainerCallback

    pace = Pace(trainer, phase, tuning, checks)

    class Told(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pace.before(state, kwargs["optimizer"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pace.after(state, control)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pace.logged(state, kwargs["logs"])

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pace.scored(state, control, float(kwargs["metrics"]["eval_loss"]))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pace.saved(state)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Told())
    return pace
