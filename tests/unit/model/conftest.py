"""A small author: enough text to split, train on and ask about."""

import random

import pytest

from llm_twin.corpus.document import Chunk, Document

# fmt: off
SUBJECTS = [
    "pipeline", "registry", "cache", "trigger", "model", "corpus", "index", "gate", "stage",
    "runner",
]
VERBS = [
    "stores", "restores", "checks", "compares", "promotes", "refuses", "rebuilds", "reports",
    "keeps", "reads",
]
OBJECTS = [
    "answers", "digests", "folders", "passages", "weights", "traces", "versions", "alerts",
    "documents", "runs",
]
TOPICS = [
    "Caching results", "Promoting models", "Watching traces", "Splitting corpora",
    "Building images",
]
# fmt: on


def sentence(draw):
    return f"The {draw.choice(SUBJECTS)} {draw.choice(VERBS)} the {draw.choice(OBJECTS)}"


def author(documents=12, sections=3, sentences=8, seed=0):
    """Return documents and their chunks, one chunk a section."""
    draw = random.Random(seed)
    made, chunks = [], []
    for number in range(documents):
        bodies = []
        for place in range(sections):
            said = [
                f"{sentence(draw)} and {sentence(draw).lower()} {number}-{place}-{at}."
                for at in range(sentences)
            ]
            bodies.append(" ".join(said))
        text = "\n\n".join(
            f"## {TOPICS[at % 5]} in part {number}\n\n{body}" for at, body in enumerate(bodies)
        )
        document = Document(f"docs/{number}.md", f"Notes {number}", text, link=f"docs/{number}.md")
        made.append(document)
        chunks += [
            Chunk(
                document.id, document.digest, document.title,
                (f"{TOPICS[at % 5]} of module {SUBJECTS[number % 10]} {number}",),
                body, document.link, at,
            )
            for at, body in enumerate(bodies)
        ]  # fmt: skip
    return made, chunks


@pytest.fixture(scope="session")
def write_author():
    return author


@pytest.fixture(scope="session")
def dataset():
    from llm_twin.model.dataset import make_dataset

    return make_dataset(*author())


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory):
    """A model trained for four CPU seconds: (folder, report, lines of progress)."""
    from llm_twin.model.profile import Base, Budget, Training
    from llm_twin.model.train import train

    lines = []
    folder = tmp_path_factory.mktemp("trained") / "model"
    report = train(dataset, folder, Training(budget=Budget(time="4s")), Base(), lines.append)
    return folder, report, lines


@pytest.fixture(scope="session")
def model(trained):
    from llm_twin.model.language_model import LocalModel

    return LocalModel.load(trained[0])
