"""Questions that a technical corpus does not answer, to see whether a twin says so.

None of them is among the everyday questions that its line between answering and declining was drawn
with. They stand in code, not in a text file, so that a twin of this repository does not learn them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.serving.words import Vocabulary, terms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_twin.corpus import Chunk

COVERED = 0.6
"""A question is left out when a passage has this share of its words, the rare ones weighing most:
the corpus may well be about it."""

_FAR = """
How long does risotto have to simmer?
Which flour is best for fresh pasta?
How do I keep a soufflé from collapsing?
What goes into a Greek salad?
How deep should I plant tulip bulbs?
When is the right time to harvest garlic?
How do I get rid of aphids on my tomatoes?
Which shrubs grow well in the shade?
When is a player offside in football?
How many players are in a volleyball team?
How is a tie-break scored in tennis?
How long does a broken wrist take to heal?
Which vaccinations does a newborn need?
Is my cholesterol too high at 240?
How do I remove a splinter from a finger?
Who painted the ceiling of the Sistine Chapel?
When did the Berlin Wall fall?
What is the capital of Mongolia?
Why do flamingos stand on one leg?
How long is a giraffe pregnant?
How do I housetrain a puppy?
How do I wash a woollen jumper?
How do I remove red wine from a carpet?
When do I have to hand in my tax return?
How much luggage may I take on a ferry to Sardinia?
How do I fold a paper crane?
"""
_NEAR = """
How do I clean the sensor of a mirrorless camera?
How do I unclog the nozzles of an inkjet printer?
How do I write a PERFORM loop in COBOL?
What does the borrow checker of Rust forbid?
How many brokers should a Kafka cluster have?
What is quantum annealing good for?
How does a Kalman filter smooth noisy measurements?
Which order do I give an ARIMA forecast?
What can be computed under homomorphic encryption?
How does AlphaFold predict the shape of proteins?
How does Whisper transcribe speech?
How do I declare a bean in Spring Boot?
How do I roll back a migration in Ruby on Rails?
What is a monad in Haskell?
How do I get an app into the App Store?
How does two-phase commit work in Oracle?
"""
QUESTIONS = (*_FAR.strip().splitlines(), *_NEAR.strip().splitlines())


def foreign_questions(chunks: Iterable[Chunk]) -> list[str]:
    """Return the questions that these passages are surely not about, in a fixed order.

    Candidate and production are asked the same ones: take the candidate's passages for both.
    """
    passages = [frozenset(terms(chunk.passage)) for chunk in chunks]
    vocabulary = Vocabulary.of(" ".join(words) for words in passages)
    kept = []
    for question in QUESTIONS:
        wanted = terms(question)
        if all(vocabulary.coverage(wanted, words) < COVERED for words in passages):
            kept.append(question)
    return kept
