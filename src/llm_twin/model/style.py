"""Whether a text is written like its author: figures that say how far they can be trusted.

Two measures that fail differently: a classifier over characters, which finds any habit, and the
cosine delta, which looks at common words alone. Both are learned from the author's training texts
and from texts by others, and tried on pieces that they did not learn from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_twin.model import prose
from llm_twin.model.classifier import Classifier, features
from llm_twin.model.controls import AUTHOR, controls
from llm_twin.model.delta import Delta, common_words, frequencies
from llm_twin.model.samples import copied, distinct, write_samples
from llm_twin.model.split import copies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

__all__ = ["AUTHOR", "Style", "StyleScore", "controls", "evaluate_style", "write_samples"]

LENGTH = 120
SHORTEST, LONGEST = 60, 250
"""Words of a piece: fewer tell little, more are more than a model writes."""
FEWEST = 8
"""Pieces of a class under which nothing is said of it."""
MOST = 250
"""Pieces of a class that are learned from; more change nothing but the time."""
FOLDS = 4
TOLD = 20
"""Words of a sample under which it counts as nobody's."""


@dataclass(frozen=True)
class StyleScore:
    """What is said of one text.

    Attributes:
        author: probability that the author wrote it, among the classes.
        delta: cosine delta to each class, 0 (the same) to 2.

    """

    author: float
    delta: dict[str, float]


@dataclass(frozen=True)
class Style:
    """What tells the author's texts from those of others.

    Attributes:
        classes: ``author`` first; empty when nothing can be told.
        length: words of the pieces it learned from.
        accuracy: mean over the classes of the share of pieces that were told right by a model that
            had not seen them; None when nothing can be told.
        why: why nothing can be told, or "".
        reference: mean figures of each control's pieces, likewise not seen.
        texts: the author's, to look for copies in.

    """

    classes: tuple[str, ...] = ()
    length: int = LENGTH
    accuracy: float | None = None
    why: str = ""
    reference: Mapping[str, StyleScore] = field(default_factory=dict)
    texts: tuple[str, ...] = field(default=(), repr=False)
    _vocabulary: tuple[str, ...] = field(default=(), repr=False)
    _judge: _Judge | None = field(default=None, repr=False)

    @classmethod
    def learn(
        cls,
        author: Sequence[str],
        controls: Mapping[str, Sequence[str]],
        seed: int = 0,
        length: int = LENGTH,
    ) -> Style:
        """Learn from texts; it takes some seconds of CPU, however many there are.

        Args:
            author: the training texts, in the order of their documents.
            controls: texts by others, by name; what the author's texts say too is left out.
            seed: shifts which pieces are taken of a class that has more than enough.
            length: words of a piece, kept within 60 and 250.

        """
        length = min(max(length, SHORTEST), LONGEST)
        pieces = {AUTHOR: _pieces(author, length)}
        for name, texts in controls.items():
            said = copies(texts, author)
            own = [text for text, copy in zip(texts, said, strict=True) if not copy]
            pieces[name] = _pieces(own, length)
        enough = {name: _sample(own, seed) for name, own in pieces.items() if len(own) >= FEWEST}
        if AUTHOR not in enough or len(enough) < 2:
            return cls(length=length, why=_too_few(pieces, length), texts=tuple(author))
        return _learned(enough, length, tuple(author))

    def score(self, texts: Sequence[str]) -> list[StyleScore]:
        """Score texts as they are written; an empty list when nothing can be told."""
        if self._judge is None or not texts:
            return []
        plain = [prose.plain(text) for text in texts]
        found = self._judge(features(plain), frequencies(plain, self._vocabulary))
        return _scores(self.classes, *found)


@dataclass(frozen=True)
class _Judge:
    """Both measures, learned from the same pieces."""

    classifier: Classifier
    delta: Delta

    @classmethod
    def learn(cls, characters: Rows, counted: Rows, labels: NDArray[np.int64]) -> _Judge:
        classes = int(labels.max()) + 1
        return cls(
            Classifier.learn(characters, labels, classes), Delta.learn(counted, labels, classes)
        )

    def __call__(self, characters: Rows, counted: Rows) -> tuple[Rows, Rows]:
        """Return probabilities and deltas, each of shape (n, classes)."""
        return self.classifier.probabilities(characters), self.delta.distances(counted)


def _learned(pieces: Mapping[str, Sequence[str]], length: int, texts: tuple[str, ...]) -> Style:
    classes = tuple(pieces)
    vocabulary = common_words(pieces)
    flat = [piece for own in pieces.values() for piece in own]
    labels = np.repeat(np.arange(len(classes)), [len(own) for own in pieces.values()])
    characters, counted = features(flat), frequencies(flat, vocabulary)
    told = np.zeros((len(flat), len(classes)))
    deltas = np.zeros_like(told)
    for fold in _folds(labels):
        judge = _Judge.learn(characters[~fold], counted[~fold], labels[~fold])
        told[fold], deltas[fold] = judge(characters[fold], counted[fold])
    right = told.argmax(axis=1) == labels
    return Style(
        classes=classes,
        length=length,
        accuracy=float(np.mean([right[labels == one].mean() for one in range(len(classes))])),
        reference={
            name: _mean(_scores(classes, told[labels == one], deltas[labels == one]))
            for one, name in enumerate(classes)
            if name != AUTHOR
        },
        texts=texts,
        _vocabulary=tuple(vocabulary),
        _judge=_Judge.learn(characters, counted, labels),
    )


def _folds(labels: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """Cut each class into stretches, so that neighbours of a piece are mostly left out with it."""
    number = np.zeros(len(labels), dtype=np.int64)
    for one in np.unique(labels):
        count = int(np.sum(labels == one))
        number[labels == one] = np.arange(count) * FOLDS // count
    return [number == fold for fold in range(FOLDS)]


def _pieces(texts: Iterable[str], length: int) -> list[str]:
    return prose.pieces(map(prose.plain, texts), length)


def _sample(pieces: list[str], seed: int) -> list[str]:
    """Take at most MOST pieces, evenly spaced."""
    count = min(len(pieces), MOST)
    places = (np.arange(count) + np.random.default_rng(seed).random()) * len(pieces) / count
    return [pieces[int(place)] for place in places]


def _too_few(pieces: Mapping[str, Sequence[str]], length: int) -> str:
    needed = f"{FEWEST * length:,} words of prose are needed"
    if len(pieces[AUTHOR]) < FEWEST:
        return f"not told: the author's training texts are too short, {needed}"
    names = ", ".join(name for name in pieces if name != AUTHOR) or "none"
    return f"not told: of no other author ({names}) there is enough text, {needed}"


def _scores(classes: Sequence[str], told: Rows, deltas: Rows) -> list[StyleScore]:
    place = classes.index(AUTHOR)
    return [
        StyleScore(float(row[place]), dict(zip(classes, map(float, distances), strict=True)))
        for row, distances in zip(told, deltas, strict=True)
    ]


def _mean(scores: Sequence[StyleScore]) -> StyleScore:
    count = max(1, len(scores))
    return StyleScore(
        sum(one.author for one in scores) / count,
        {name: sum(one.delta[name] for one in scores) / count for name in scores[0].delta},
    )


def evaluate_style(
    samples: Mapping[str, str], style: Style, heldout: Sequence[str]
) -> dict[str, Any]:
    """Score what a model wrote, beside what the author and others wrote.

    Args:
        samples: texts by id.
        style: learned from the author's training texts.
        heldout: the author's texts that neither the model nor the style learned from.

    Returns:
        ``author`` (mean probability; None when it cannot be told), ``delta`` (mean to each class),
        ``accuracy`` of the style and ``chance`` (that of guessing), ``reference`` (``author`` and
        ``delta`` of the author's held-out texts and of each control, ``distinct`` of the former),
        ``distinct`` (share of 3-word sequences that are no repetition), ``copied`` (share
        of 8-word sequences that training texts say), ``short`` (samples with too few words, which
        count 0), ``why`` (why nothing can be told), ``n``, and ``items`` with ``id`` and ``value``
        (probability).

    """
    short = {key for key, text in samples.items() if len(prose.words(prose.plain(text))) < TOLD}
    told = [key for key in samples if key not in short]
    scores = dict(zip(told, style.score([samples[key] for key in told]), strict=False))
    held = _pieces(heldout, style.length)
    known = style.accuracy is not None and bool(samples)
    values = {key: scores[key].author if key in scores else 0.0 for key in samples} if known else {}
    written = [samples[key] for key in told]
    return {
        "author": sum(values.values()) / len(values) if values else None,
        "delta": _mean(list(scores.values())).delta if scores else {},
        "accuracy": style.accuracy,
        "chance": 1 / len(style.classes) if style.classes else None,
        "reference": _reference(style, held, len(written)),
        "distinct": distinct(written),
        "copied": copied(written, style.texts),
        "short": len(short),
        "why": style.why or ("" if samples else "not told: the model wrote no samples"),
        "n": len(samples),
        "items": [{"id": key, "value": value} for key, value in values.items()],
    }


def _reference(style: Style, held: Sequence[str], count: int) -> dict[str, Any]:
    """Figures of what is known to be the author's, and known not to be."""
    if style.accuracy is None:
        return {}
    own = style.score(held)
    found = {AUTHOR: _mean(own)} if own else {}
    rows: dict[str, dict[str, Any]] = {
        name: {"author": one.author, "delta": one.delta}
        for name, one in {**found, **style.reference}.items()
    }
    if own:
        rows[AUTHOR]["distinct"] = distinct(held[:count] if count else held)
    return rows
