"""A baker's blog and a hiker's notes as small corpora, in real indexes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_service import Endpoint, promote
from small_corpora import BAKER, NOTES, MakeIndex, MakeTwin, chunks_of, settings_for

from llm_twin.corpus.document import Chunk
from llm_twin.model.questions import make_questions, withhold_headings
from llm_twin.retrieval import Retriever, open_index
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.ports import Embedder, Index
from llm_twin.serving.abstention import Calibration
from llm_twin.serving.calibration import calibrate
from llm_twin.serving.twin import Twin


@pytest.fixture(scope="session")
def baker() -> list[Chunk]:
    return chunks_of(BAKER)


@pytest.fixture(scope="session")
def notes() -> list[Chunk]:
    return chunks_of(dict(NOTES))


@pytest.fixture(scope="session")
def make_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeIndex]:
    opened: list[Index] = []

    def make(chunks: list[Chunk], embedder: Embedder | None) -> Index:
        home = tmp_path_factory.mktemp("index")
        name = embedder.name if embedder else ""
        index = open_index(settings_for(home), home / "index.db", "v1", name)
        vectors = embedder.embed([item.passage for item in chunks]) if embedder else None
        index.upsert(chunks, vectors)
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()


@pytest.fixture(scope="session")
def make_twin(make_index: MakeIndex) -> MakeTwin:
    def make(chunks: list[Chunk], embedder: Embedder | None) -> Twin:
        asked = make_questions(chunks)
        held = withhold_headings(chunks, asked)
        retriever = Retriever(make_index(held, embedder), embedder)
        learned = calibrate(retriever, [question.text for question in asked], held)
        return Twin("v1", make_index(chunks, embedder), embedder, Calibration.from_dict(learned))

    return make


@pytest.fixture(scope="session")
def baker_twin(make_twin: MakeTwin, baker: list[Chunk], minilm: MiniLM) -> Twin:
    return make_twin(baker, minilm)


@pytest.fixture(scope="session")
def words_twin(make_twin: MakeTwin, baker: list[Chunk]) -> Twin:
    return make_twin(baker, None)


@pytest.fixture(scope="module")
def home(baker: list[Chunk], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    promote(folder, baker, "v1")
    return folder


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.may_answer.set()
    server.shutdown()
    thread.join()
    server.server_close()
