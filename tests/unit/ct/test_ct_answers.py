"""Questions asked down the real answer path, over a small corpus searched by words."""

import http.server
import json
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from llm_twin.corpus import Chunk
from llm_twin.ct import answers, foreign
from llm_twin.errors import NotReadyError, RemoteError
from llm_twin.model.questions import Question
from llm_twin.settings import Settings

PASSAGES = {
    "bread": (
        "Sourdough rises slowly because wild yeast is patient. Cold dough tastes better after a"
        " night in the cellar. A baker folds it three times before it is shaped."
    ),
    "ferry": (
        "The ferry to the island leaves the harbour at seven. It carries eleven cars at most."
        " Whoever misses it waits for the evening boat."
    ),
    "bees": (
        "A hive in winter keeps warm by shivering together around the queen. The bees take turns at"
        " the edge of the cluster. Honey is their only fuel until spring."
    ),
    "glass": (
        "Molten glass is turned on the pipe so that gravity never wins on one side. The furnace is"
        " never switched off. A blower works in pairs."
    ),
}
ASKED = {
    "bread": "Why does sourdough rise slowly?",
    "ferry": "When does the ferry to the island leave?",
    "bees": "How does a hive keep warm in winter?",
    "glass": "Why is molten glass turned on the pipe?",
}
FOREIGN = ["Who painted the Sistine Chapel?", "How do I file my income tax return?"]


@pytest.fixture
def settings(tmp_path):
    return Settings.load({"TWIN_HOME": str(tmp_path / "home"), "TWIN_EMBEDDER": "words"})


@pytest.fixture
def chunks():
    return [
        Chunk(f"doc-{name}", "digest", f"About {name}", (), text, f"{name}.md", 0)
        for name, text in PASSAGES.items()
    ]


@pytest.fixture
def questions():
    return [Question(text, f"doc-{name}", (), ()) for name, text in ASKED.items()]


def told(ask, questions):
    return answers.answer_questions(ask, questions, len(questions))


def test_quotations_are_grounded_cited_and_from_the_right_document(chunks, questions, settings):
    lines = []
    with answers.asking(chunks, settings, {}, Path("none")) as ask:
        found = answers.evaluate_answers(
            ask, questions, most=60, foreign=FOREIGN, progress=lines.append
        )
    own, refusal = found["answers"], found["refusal"]
    assert (own["groundedness"], own["cited"], own["right"], own["answered"]) == (1, 1, 1, 1)
    assert own["p50_ms"] > 0
    assert (own["n"], own["failed"]) == (4, 0)
    assert {item["id"] for item in own["items"]} == {question.id for question in questions}
    assert all(item["value"] == 1 and item["right"] for item in own["items"])
    assert (refusal["refused"], refusal["n"], refusal["failed"]) == (1, 2, 0)
    assert [item["value"] for item in refusal["items"]] == [1, 1]
    assert lines == ["asked 4 of 4 questions", "asked 2 of 2 questions"]
    json.dumps(found)


def test_the_sample_is_stable_and_bounded(chunks, questions, settings):
    with answers.asking(chunks, settings, {}, Path("none")) as ask:
        two = answers.answer_questions(ask, questions, 2)
        same = answers.answer_questions(ask, questions[::-1], 2)
    assert [one.id for one in two] == [one.id for one in same]
    assert len(two) == 2


def test_what_is_not_in_the_passages_lowers_the_figures(chunks, questions, settings):
    with answers.asking(chunks, settings, {}, Path("none")) as ask:
        good = told(ask, questions)

    def with_first(**changes):
        first = replace(good[0], answer=replace(good[0].answer, **changes))
        return answers.answer_figures([first, *good[1:]])

    made_up = with_first(text="Zebras juggle purple umbrellas on distant moons [1]")
    assert made_up["groundedness"] == 0.75
    assert made_up["items"][0]["value"] == 0
    forged = with_first(citations=[replace(good[0].answer.citations[0], quote="He never said so.")])
    assert forged["cited"] == 0.75
    assert forged["right"] == 0.75
    assert forged["items"][0]["value"] == 0
    assert not forged["items"][0]["right"]
    bare = with_first(citations=[])
    assert (bare["cited"], bare["items"][0]["value"]) == (0.75, 0)
    declined = with_first(abstained=True)
    assert (declined["answered"], declined["cited"]) == (0.75, 1)
    assert declined["items"][0]["value"] == 0
    wrong = answers.answer_figures([replace(good[0], document_id="doc-other"), *good[1:]])
    assert (wrong["right"], wrong["cited"]) == (0.75, 1)


def test_declining_everything_is_no_perfect_score(chunks, questions, settings):
    never = {"thresholds": {"words": 2.0, "vectors": 2.0}}
    with answers.asking(chunks, settings, never, Path("none")) as ask:
        found = answers.evaluate_answers(ask, questions, most=60, foreign=FOREIGN)
    assert found["answers"]["answered"] == found["answers"]["groundedness"] == 0
    assert [item["value"] for item in found["answers"]["items"]] == [0, 0, 0, 0]
    assert found["refusal"]["refused"] == 1


def test_answering_everything_is_seen_too(chunks, questions, settings):
    always = {"thresholds": {"words": -1.0, "vectors": -1.0}}
    asked = [*FOREIGN, "How large is the island beyond the harbour of Reykjavik?"]
    with answers.asking(chunks, settings, always, Path("none")) as ask:
        refusal = answers.refusal_figures(ask, asked)
    assert refusal["refused"] < 1
    assert refusal["items"][-1]["value"] == 0
    assert refusal["items"][-1]["question"] == asked[-1]


def test_no_questions_are_no_figures(chunks, settings):
    with answers.asking(chunks, settings, {}, Path("none")) as ask:
        found = answers.evaluate_answers(ask, [], most=60, foreign=[])
    assert found["answers"]["n"] == found["refusal"]["n"] == 0
    assert found["answers"]["items"] == found["refusal"]["items"] == []


class Writer(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible model that answers with the first passage, or fails."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = next(self.server.number)
        if self.server.fails(number):
            self.send_error(400)
            return
        user = asked["messages"][-1]["content"]
        quote = next(text for text in PASSAGES.values() if text in user)
        text = f"{quote} [1]" if number else "Penguins invented arithmetic during holidays [1]"
        told = {"choices": [{"message": {"content": text}}], "model": asked["model"]}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def writer(settings):
    """Settings that name a model on this machine, and its server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    server.number, server.fails = count(), lambda number: False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    yield replace(settings, llm="openai", llm_url=url, llm_model="scribe"), server
    server.shutdown()
    server.server_close()


def test_a_language_model_is_held_to_the_passages(chunks, questions, writer):
    named, _ = writer
    with answers.asking(chunks, named, {}, Path("none")) as ask:
        found = told(ask, questions)
    figures = answers.answer_figures(found)
    assert {one.answer.model for one in found} == {"scribe"}
    assert 0.7 < figures["groundedness"] < 0.8
    assert figures["items"][0]["value"] == 0


def test_an_answer_that_fails_is_left_out_and_counted(chunks, questions, writer):
    named, server = writer
    server.fails = lambda number: number == 1
    lines = []
    with answers.asking(chunks, named, {}, Path("none")) as ask:
        figures = answers.evaluate_answers(
            ask, questions, most=60, foreign=[], progress=lines.append
        )["answers"]
    assert (figures["n"], figures["failed"]) == (3, 1)
    assert "question 2 got no answer and is left out" in lines[0]


def test_a_model_that_is_gone_makes_no_figures(chunks, questions, writer):
    named, server = writer
    server.fails = lambda number: True
    with answers.asking(chunks, named, {}, Path("none")) as ask, pytest.raises(RemoteError):
        told(ask, questions)


def test_the_local_model_has_to_be_there(chunks, settings, tmp_path):
    local = replace(settings, llm="local")
    with (
        pytest.raises(NotReadyError),
        answers.asking(chunks, local, {}, tmp_path / "none"),
    ):
        pass


def test_foreign_questions_are_none_that_the_line_was_drawn_with():
    from llm_twin.serving import everyday

    assert len(foreign.QUESTIONS) >= 40
    assert len(set(foreign.QUESTIONS)) == len(foreign.QUESTIONS)
    assert not set(foreign.QUESTIONS) & set(everyday.QUESTIONS)


def test_what_the_corpus_is_about_is_not_foreign(chunks):
    assert foreign.foreign_questions(chunks) == list(foreign.QUESTIONS)
    kalman = replace(chunks[0], text="A Kalman filter smooths the noisy measurements of a radar.")
    kept = foreign.foreign_questions([*chunks, kalman])
    left = set(foreign.QUESTIONS) - set(kept)
    assert left == {"How does a Kalman filter smooth noisy measurements?"}
