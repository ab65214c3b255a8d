"""Answers judged several times by a judge on this machine, whose verdicts scatter as it is told."""

import http.server
import json
import random
import threading

import pytest

from llm_twin.ct import judging
from llm_twin.ct.answers import Told
from llm_twin.errors import ConfigError
from llm_twin.serving.answer import Answer
from llm_twin.settings import Settings

NOISE = 0.08


class Judge(http.server.BaseHTTPRequestHandler):
    """Gives answer n a quality of its own, and a little more or less each time."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.asked.append((self.path, self.headers.get("authorization"), asked))
            number, drawn = len(server.asked), server.draw.gauss(0, server.noise)
        status, text = server.reply(number, asked["messages"][-1]["content"], drawn)
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def quality(prompt: str) -> float:
    """Answers say their own quality, in hundredths."""
    return int(prompt.rpartition("quality ")[2].split()[0]) / 100


def honest(number, prompt, drawn):
    return 200, json.dumps({"score": min(1, max(0, quality(prompt) + drawn)), "reason": "so"})


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    made.lock, made.asked, made.draw = threading.Lock(), [], random.Random(5)
    made.noise, made.reply = NOISE, honest
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def settings(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Settings(judge_url=url, judge_key="secret-key")


def told(count, declined=()):
    return [
        Told(
            f"q{n}", f"Question {n}?",
            Answer(f"Of quality {30 + 2 * n} I am .", [], n in declined, 0.9, "extractive"),
        )
        for n in range(count)
    ]  # fmt: skip


def test_the_noise_of_a_judge_is_estimated_right(server, settings):
    lines = []
    found = judging.judge_answers(told(12), "solomon", settings, 4, lines.append)
    assert found["noise"] == pytest.approx(NOISE, abs=0.03)
    assert found["score"] == pytest.approx(0.41, abs=0.04)
    assert (found["n"], found["asked"], found["failed"], found["why"]) == (12, 48, 0, "")
    assert [item["id"] for item in found["items"]] == [f"q{n}" for n in range(12)]
    for number, item in enumerate(found["items"]):
        assert item["value"] == pytest.approx(0.3 + 0.02 * number, abs=0.2)
    assert lines[-1] == "judged 12 of 12 answers, round 4 of 4"
    path, key, asked = server.asked[0]
    assert (path, key, asked["model"]) == (
        "/v1/chat/completions", "Bearer secret-key", "solomon",
    )  # fmt: skip
    assert judging.CRITERION in asked["messages"][-1]["content"]


def test_the_spread_between_answers_is_no_noise(server, settings):
    server.noise = 0.0
    found = judging.judge_answers(told(10), "solomon", settings, 3)
    assert found["noise"] == pytest.approx(0, abs=1e-9)
    assert found["score"] == pytest.approx(0.39)


def test_one_verdict_each_tells_no_noise(settings):
    assert judging.judge_answers(told(3), "solomon", settings, 1)["noise"] is None


def test_noise_pools_what_was_repeated():
    assert judging.noise([[0.2, 0.4], [0.9]]) == pytest.approx(0.02**0.5)
    assert judging.noise([[0.2, 0.4], [0.5, 0.5, 0.5]]) == pytest.approx((0.02 / 3) ** 0.5)
    assert judging.noise([[1.0], []]) is None


def test_what_is_no_verdict_is_counted_and_not_guessed(server, settings):
    def rambling(number, prompt, drawn):
        if quality(prompt) == 0.3:
            return 200, 'I would say {"score": 1, "reason": "splendid"} or so'
        if quality(prompt) == 0.32:
            return 200, '{"score": 7}'
        return honest(number, prompt, 0.0)

    server.reply = rambling
    found = judging.judge_answers(told(6), "solomon", settings, 2)
    assert (found["n"], found["asked"], found["failed"]) == (4, 12, 4)
    assert {item["id"] for item in found["items"]} == {"q2", "q3", "q4", "q5"}
    assert found["score"] == pytest.approx(0.37)
    assert "no verdict" in found["why"]


def test_a_judge_that_refuses_is_given_up(server, settings):
    server.reply = lambda number, prompt, drawn: (401, "no")
    lines = []
    found = judging.judge_answers(told(30), "solomon", settings, 3, lines.append)
    assert len(server.asked) <= judging.GIVE_UP + judging.AT_ONCE
    assert (found["score"], found["noise"], found["n"]) == (None, None, 0)
    assert (found["asked"], found["failed"]) == (90, 90)
    assert "HTTP 401" in found["why"]
    assert sum("HTTP 401" in line for line in lines) == 1
    assert "secret-key" not in str(found) + "".join(lines)


def test_declined_answers_are_not_judged(server, settings):
    found = judging.judge_answers(told(4, declined={1, 2}), "solomon", settings, 2)
    assert [item["id"] for item in found["items"]] == ["q0", "q3"]
    assert (found["declined"], found["asked"], len(server.asked)) == (2, 4, 4)


def test_nothing_to_judge(settings):
    found = judging.judge_answers([], "solomon", settings, 3)
    assert (found["score"], found["n"], found["asked"], found["failed"]) == (None, 0, 0, 0)


def test_an_address_that_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="TWIN_JUDGE_URL"):
        judging.judge_answers(told(1), "solomon", Settings(judge_url="judge"), 1)
