"""Candidate and production, scored on the same items by everything the profile asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.ct import answers, promotion, work
from llm_twin.ct.judging import judge_answers
from llm_twin.errors import NotReadyError
from llm_twin.model import samples, style
from llm_twin.model.controls import controls
from llm_twin.model.language_model import LocalModel
from llm_twin.model.questions import withhold_headings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llm_twin.corpus import Chunk
    from llm_twin.model.dataset import Dataset
    from llm_twin.model.profile import Profile
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]
    Metrics = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What every model of one run is scored on.

    Attributes:
        dataset: held-out texts, questions, prompts.
        profile: which figures, and how many of each.
        settings: for the state folder and what writes answers.
        seed: of what models write.
        progress: told what is done.
        foreign: questions that have to be declined.

    """

    dataset: Dataset
    profile: Profile
    settings: Settings
    seed: int
    progress: Progress
    foreign: Sequence[str]

    def score(
        self, model: Path, chunks: Sequence[Chunk], calibration: Mapping[str, Any]
    ) -> Metrics:
        """All figures of a model's folder, and of answers given from these chunks.

        Raises:
            NotReadyError: the folder holds no model.
            RemoteError: an endpoint that the settings name does not answer.

        """
        found = work.evaluate(model, chunks, self.dataset, self.settings, self.progress)
        asked = self.profile.evaluation
        if asked.samples:
            found["style"] = self._written(model)
        if asked.questions:
            found |= self._answers(model, chunks, calibration)
        return found

    def production(self) -> Metrics:
        """The same for what is served; empty when nothing is, or it cannot be compared."""
        served = promotion.served(self.settings)
        if served is None:
            return {}
        if reason := promotion.refusal(self.settings, served):
            self.progress(f"production {served.version} is not compared: {reason}")
            return {}
        self.progress(f"the same for production {served.version}")
        try:
            held = work.chunks_of(served, self.settings)
            learned = served.manifest["details"].get("calibration") or {}
            return self.score(served.model_path, held, learned)
        except NotReadyError as error:
            self.progress(
                f"it cannot be compared, so the candidate is judged as a first model: {error}"
            )
            return {}

    def _written(self, model: Path) -> Metrics:
        """How like the author the model writes; nothing is written where that cannot be told."""
        asked, texts = self.profile.evaluation, {}
        if self._style.accuracy is not None:
            self.progress(f"letting it write {asked.samples} texts")
            texts = samples.write_samples(
                LocalModel.load(model), self.dataset, asked.samples, asked.length, self.seed
            )
        return style.evaluate_style(texts, self._style, self.dataset.heldout_texts)

    @cached_property
    def _style(self) -> style.Style:
        extra = {Path(path).stem: self._texts(path) for path in self.profile.evaluation.controls}
        length = self.profile.evaluation.length
        return style.Style.learn(self.dataset.train_texts, controls(extra), self.seed, length)

    def _texts(self, path: str) -> list[str]:
        """A control's texts, cleaned like the author's."""
        rows, _ = work.collect(path, (), self.settings, self.progress)
        return [row["text"] for row in work.tidy(rows)[0]]

    def _answers(
        self, model: Path, chunks: Sequence[Chunk], calibration: Mapping[str, Any]
    ) -> Metrics:
        dataset, asked = self.dataset, self.profile.evaluation
        withheld = withhold_headings(chunks, dataset.questions)
        with answers.asking(withheld, self.settings, calibration, model, self.progress) as ask:
            told = answers.answer_questions(ask, dataset.questions, asked.questions, self.progress)
            refusal = answers.refusal_figures(ask, self.foreign, self.progress)
        count = min(asked.questions, len(dataset.questions))
        found = {
            "answers": answers.answer_figures(told, count - len(told)),
            "refusal": refusal,
        }
        if asked.judge:
            found["judged"] = judge_answers(
                told, asked.judge, self.settings, asked.judgements, self.progress
            )
        return found
