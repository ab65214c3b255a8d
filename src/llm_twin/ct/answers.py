"""How good the answers are that readers would get: grounded, cited, and declined where they must.

The questions go down the one answer path of ``serving``; the scores are those that traced answers
get in production, so both can be laid side by side.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.ct import work
from llm_twin.errors import RemoteError
from llm_twin.retrieval import open_embedder
from llm_twin.serving.abstention import Calibration
from llm_twin.serving.answer import answer
from llm_twin.serving.llm import open_llm
from llm_twin.serving.twin import Twin
from llm_twin.tracing.evaluation.metrics import citation_validity, groundedness
from llm_twin.tracing.evaluation.view import Passage, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from llm_twin.corpus import Chunk
    from llm_twin.model.questions import Question
    from llm_twin.retrieval.ports import Hit
    from llm_twin.serving.answer import Answer
    from llm_twin.serving.citations import Citation
    from llm_twin.settings import Settings

    Ask = Callable[[str], tuple[Answer, Sequence[Hit]]]
    Progress = Callable[[str], None]

MOST_FAILED = 0.5
"""Share of questions that may fail before the evaluation does."""


@dataclass(frozen=True)
class Told:
    """An answer and what it was given from.

    Attributes:
        id: of the question.
        question: as asked.
        answer: as a reader gets it.
        hits: the passages that were retrieved for it, best first.
        document_id: where the answer is, or "".

    """

    id: str
    question: str
    answer: Answer
    hits: tuple[Hit, ...] = ()
    document_id: str = ""

    @property
    def view(self) -> View:
        """The same as rules and judges of traced answers look at it."""
        return View(
            id=self.id,
            question=self.question,
            answer=self.answer.text,
            declined=self.answer.abstained,
            passages=tuple(Passage(hit.chunk.id, hit.score, hit.chunk.text) for hit in self.hits),
            citations=tuple(asdict(citation) for citation in self.answer.citations),
        )

    @property
    def grounded(self) -> float:
        """How much of it is in what was retrieved, 0 to 1; 0 when that cannot be told."""
        score = groundedness(self.view.answer, self.view.texts)
        return score.value if score else 0.0

    @property
    def validity(self) -> float:
        """Share of its citations and marks that hold, 0 to 1; 0 without any."""
        score = citation_validity(self.view.answer, self.view.citations, self.view.passages)
        return score.value if score else 0.0

    @property
    def right(self) -> bool:
        """Whether a citation is of the document that answers the question."""
        return any(self._document(one) == self.document_id for one in self.answer.citations)

    def _document(self, citation: Citation) -> str:
        found = (
            hit.chunk.document_id
            for hit in self.hits
            if (hit.chunk.title, hit.chunk.link) == (citation.title, citation.link)
            and citation.quote in hit.chunk.text
        )
        return next(found, "")


@dataclass(frozen=True)
class _Heard(Twin):
    """A twin that remembers what its last search found."""

    found: list[Hit] = field(default_factory=list)

    def search(self, question: str, k: int) -> list[Hit]:
        self.found[:] = super().search(question, k)
        return list(self.found)


@contextmanager
def asking(
    chunks: Sequence[Chunk],
    settings: Settings,
    calibration: Mapping[str, Any],
    model: Path,
    progress: Progress = lambda line: None,
) -> Iterator[Ask]:
    """Answer as ``invoke ask`` would if a bundle held these passages and this model.

    Args:
        chunks: what is searched; usually ``withhold_headings(chunks, questions)``, since a heading
            finds its own section too easily.
        settings: name the embedder and what writes answers (``llm``; default: quotations).
        calibration: what ``calibrate`` returned; empty for the uncalibrated line.
        model: folder of the trained model, which ``llm=local`` answers with.
        progress: told of embedding.

    Yields:
        A function from a question to its answer and the passages that were retrieved for it.

    Raises:
        ConfigError: the settings of what writes answers are not complete.
        NotReadyError: the trained model or torch is missing.
        RemoteError: the embedder's weights or endpoint cannot be had.

    """
    with work.searching(chunks, settings, progress) as retriever:
        # Not the retriever's own embedder: one that remembers vectors answers too fast.
        embedder = open_embedder(settings, progress) if retriever.embedder else None
        learned = Calibration.from_dict(calibration)
        twin = _Heard("evaluation", retriever.index, embedder, learned, model)
        llm = open_llm(settings.llm, settings, twin)

        def ask(question: str) -> tuple[Answer, Sequence[Hit]]:
            twin.found.clear()
            return answer(question, twin, llm), tuple(twin.found)

        yield ask


def evaluate_answers(
    ask: Ask,
    questions: Sequence[Question],
    *,
    most: int,
    foreign: Sequence[str],
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Ask the corpus's own questions and foreign ones.

    Returns:
        ``answers``, see ``answer_figures``, and ``refusal``, see ``refusal_figures``.

    Raises:
        RemoteError: what writes answers failed on more than half of the questions.

    """
    told = answer_questions(ask, questions, most, progress)
    return {
        "answers": answer_figures(told, min(most, len(questions)) - len(told)),
        "refusal": refusal_figures(ask, foreign, progress),
    }


def answer_questions(
    ask: Ask,
    questions: Sequence[Question],
    most: int,
    progress: Progress = lambda line: None,
) -> list[Told]:
    """Ask a stable sample of the questions; those whose answer fails are left out.

    Raises:
        RemoteError: more than half of them fail.

    """
    sample = sorted(questions, key=lambda one: content_id("answers", one.id))[:most]
    rows = [(one.id, one.text, one.document_id) for one in sample]
    return _asked(ask, rows, progress)


def answer_figures(told: Sequence[Told], failed: int = 0) -> dict[str, Any]:
    """Return what the answers are like.

    Returns:
        Of the questions that were not declined: ``groundedness`` (mean), ``cited`` (share whose
        citations all hold) and ``right`` (share that cites the question's document), each 0 when
        all were declined. Of all: ``answered`` (share not declined), ``p50_ms``, ``n``, and
        ``items`` with ``id``, ``value`` (groundedness times validity of the citations, 0 when
        declined) and ``right``. ``failed`` as given.

    """
    given = [one for one in told if not one.answer.abstained]
    values = {one.id: (one.grounded, one.validity) for one in given}
    return {
        "groundedness": _share([grounded for grounded, _ in values.values()]),
        "cited": _share([validity == 1 for _, validity in values.values()]),
        "right": _share([one.right for one in given]),
        "answered": len(given) / len(told) if told else 0.0,
        "p50_ms": median([one.answer.timings.get("total", 0.0) for one in told]) if told else 0.0,
        "n": len(told),
        "failed": failed,
        "items": [
            {
                "id": one.id,
                "value": values[one.id][0] * values[one.id][1] if one.id in values else 0.0,
                "right": one.id in values and one.right,
            }
            for one in told
        ],
    }


def refusal_figures(
    ask: Ask,
    foreign: Sequence[str],
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Ask questions that the corpus does not answer.

    Returns:
        ``refused`` (share declined), ``n``, ``failed``, and ``items`` with ``id``, ``value`` (1
        when declined) and ``question``.

    Raises:
        RemoteError: what writes answers failed on more than half of them.

    """
    told = _asked(ask, [(content_id("foreign", one), one, "") for one in foreign], progress)
    return {
        "refused": _share([one.answer.abstained for one in told]),
        "n": len(told),
        "failed": len(foreign) - len(told),
        "items": [
            {"id": one.id, "value": float(one.answer.abstained), "question": one.question}
            for one in told
        ],
    }


def _asked(
    ask: Ask,
    rows: Sequence[tuple[str, str, str]],
    progress: Progress,
) -> list[Told]:
    told: list[Told] = []
    for number, (key, question, document_id) in enumerate(rows, 1):
        try:
            given, hits = ask(question)
        except RemoteError as error:
            if number - len(told) > MOST_FAILED * len(rows):
                raise
            progress(f"question {number} got no answer and is left out: {error}")
            continue
        told.append(Told(key, question, given, tuple(hits), document_id))
        if number % 20 == 0 or number == len(rows):
            progress(f"asked {number} of {len(rows)} questions")
    return told


def _share(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
