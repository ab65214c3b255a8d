"""Pairs from a language model: a real server that misbehaves, a cap on the cost, a cache."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm_twin.corpus.document import Chunk
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.model import endpoint
from llm_twin.model.endpoint import json_in
from llm_twin.model.generation import FILE, generate
from llm_twin.model.profile import Generation
from llm_twin.settings import Settings

KEY = "sk-very-secret"


def passage(number):
    return " ".join(
        f"The rotor{number} of the mill{number} turns the shaft{number}{at} before the sluice{at}"
        f" lets its water{number}{at} through to the wheel{at}."
        for at in range(6)
    )


CHUNKS = [Chunk("doc", "d", "On mills", (f"Part {n}",), passage(n), "", n) for n in range(4)]
GENERATION = Generation(model="writer", per_chunk=2)


def right(body):
    """Quote the passage that is asked about, as a model would that was asked for JSON."""
    said = body["messages"][1]["content"].partition("Passage:\n")[2]
    rows = [
        {"instruction": f"What turns there, {said[:12]}?", "answer": said[:230]},
        {"instruction": "Why?", "answer": "Because it fosters innovation and drives growth."},
    ]
    usage = {"prompt_tokens": 400, "completion_tokens": 100}
    choice = {"message": {"role": "assistant", "content": json.dumps({"pairs": rows})}}
    return 200, {}, {"choices": [choice], "usage": usage}


def saying(text):
    usage = {"prompt_tokens": 400, "completion_tokens": 100}
    return lambda body: (200, {}, {"choices": [{"message": {"content": text}}], "usage": usage})


def failing(status, said="", **headers):
    return lambda body: (status, headers, {"error": {"message": said}})


def slow(body):
    time.sleep(1)
    return right(body)


@contextmanager
def serving(*script, then=right):
    """A server that plays a script of answers, then goes on with one; yields (settings, asked)."""
    asked, lines, lock = [], list(script), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                asked.append((self.path, self.headers.get("authorization"), body))
                play = lines.pop(0) if lines else then
            status, headers, answer = play(body)
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # The client had enough.

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield Settings(llm_url=url, llm_key=KEY, llm_timeout=0.5), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "PATIENCE", replace(endpoint.PATIENCE, first=0.01))


def written(settings, folder, generation=GENERATION, chunks=CHUNKS):
    lines = []
    made = generate(chunks, generation, settings, folder, lines.append)
    assert KEY not in "".join(lines) + json.dumps(made.report)
    return made, lines


def test_each_passage_is_asked_about_and_only_what_it_supports_is_kept(tmp_path):
    with serving() as (settings, asked):
        made, lines = written(settings, tmp_path)
    assert len(asked) == 4
    path, key, body = asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "writer")
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["pairs"]
    assert len(made.pairs) == 4
    assert all(passage(n).startswith(pair.completion) for n, pair in enumerate(made.pairs))
    assert {(pair.kind, pair.document_id) for pair in made.pairs} == {("generated", "doc")}
    assert made.report["written"] == 8
    assert made.report["rejected"] == {"ungrounded": 4}
    assert made.report["tokens_in"] == 1600
    assert lines == [
        "generating pairs: 4/4 passages, 4 asked, cost not known, as no prices are set"
    ]


def test_a_second_run_asks_nothing_and_makes_the_same(tmp_path):
    with serving() as (settings, asked):
        first, _ = written(settings, tmp_path)
        again, _ = written(settings, tmp_path)
        assert len(asked) == 4
        assert again.pairs == first.pairs
        assert (again.report["asked"], again.report["remembered"]) == (0, 4)
        other = GENERATION.model_copy(update={"model": "another"})
        written(settings, tmp_path, other)
        assert len(asked) == 8
    with pytest.raises(RemoteError, match=r"cannot be reached \(ConnectError\), 5 times"):
        written(settings, tmp_path, GENERATION.model_copy(update={"per_chunk": 1}))
    assert written(settings, tmp_path)[0].pairs == first.pairs


def test_a_server_that_fails_and_a_model_that_babbles_are_asked_again(tmp_path):
    script = [
        failing(429, retry_after="0"), failing(500), slow, saying("I cannot write JSON, sorry."),
        right, saying('{"pairs": [{"question": "x", "answer": "y"}]}'), right,
    ]  # fmt: skip
    with serving(*script) as (settings, asked):
        made, _ = written(settings, tmp_path)
    assert len(asked) == 4 + 3 + 2
    assert len(made.pairs) == 4
    assert made.report["failed"] == {}


def test_a_passage_without_a_right_answer_is_left_out_and_asked_about_again_later(tmp_path):
    wrong = saying('{"pairs": []}')
    with serving(wrong, wrong) as (settings, asked):
        made, _ = written(settings, tmp_path)
        assert len(made.pairs) == 3
        assert made.report["failed"] == {"the answer has no list of pairs": 1}
        assert len(written(settings, tmp_path)[0].pairs) == 4
        assert len(asked) == 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "there is no JSON object in the answer"),
        ('{"pairs": [{"instruction": "a", "answer": "b"}', "has no list of pairs"),
        ('{"pairs": "x"}', "has no list of pairs"),
        ('{"pairs": [3]}', "other fields"),
        ('{"pairs": [{"instruction": "a", "answer": "b", "c": "d"}]}', "other fields"),
        ('{"pairs": [{"instruction": "a", "answer": 1}]}', "not a text"),
        ('{"pairs": [{"instruction": " ", "answer": "b"}]}', "not a text"),
    ],
)
def test_an_answer_of_another_shape_is_not_believed(tmp_path, text, reason):
    with serving(then=saying(text)) as (settings, _):
        made, _ = written(settings, tmp_path)
    assert made.pairs == []
    (told,) = made.report["failed"]
    assert reason in told


def test_a_model_that_is_never_right_is_given_up_after_a_few_passages(tmp_path):
    many = [Chunk("doc", "d", "t", (str(n),), passage(n), "", n) for n in range(20)]
    with (
        serving(then=saying("no")) as (settings, asked),
        pytest.raises(RemoteError, match=r"answers no passage as asked for .*model writer"),
    ):
        written(settings, tmp_path, chunks=many)
    assert len(asked) == 10


def test_a_server_without_structured_output_is_asked_for_json_in_words(tmp_path):
    def unstructured(body):
        if "response_format" in body:
            return failing(400, "response_format is not supported")(body)
        status, headers, answer = right(body)
        message = answer["choices"][0]["message"]
        message["content"] = f"Here it is:\n```json\n{message['content']}\n```"
        return status, headers, answer

    with serving(then=unstructured) as (settings, asked):
        made, _ = written(settings, tmp_path)
    assert len(made.pairs) == 4
    assert ["response_format" in body for _, _, body in asked] == [True, *[False] * 4]


def test_the_cap_on_the_cost_is_never_passed_and_the_report_says_what_is_left_out(tmp_path):
    priced = GENERATION.model_copy(update={"price_in": 1000, "price_out": 1000, "cost": 2.2})
    with serving() as (settings, asked):
        made, lines = written(settings, tmp_path, priced)
        assert 1 <= len(asked) < 4
        assert made.report["cost"] == 0.5 * len(asked) <= 2.2
        assert made.report["left_out"] == 4 - len(asked)
        assert "raise data.generate.cost" in made.report["verdict"]
        assert "of at most 2.2" in lines[-1]
        before = len(asked)
        again, _ = written(settings, tmp_path, priced)
        assert again.report["remembered"] == before
        written(settings, tmp_path, priced.model_copy(update={"cost": 0.0}))
        assert len(asked) == before + again.report["asked"]


def test_tokens_that_a_server_does_not_count_are_not_free(tmp_path):
    def uncounted(body):
        status, headers, answer = right(body)
        return status, headers, {**answer, "usage": None}

    priced = GENERATION.model_copy(update={"price_in": 1, "price_out": 1})
    with serving(then=uncounted) as (settings, _):
        made, _ = written(settings, tmp_path, priced)
    assert made.report["cost"] > 0
    assert made.report["tokens_out"] > 100


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, ConfigError, "TWIN_LLM_KEY"),
        (404, ConfigError, "TWIN_LLM_URL"),
        (418, RemoteError, "saying “no … here”"),
        (429, RemoteError, r"failed \(HTTP 429\), 5 times"),
        (503, RemoteError, r"failed \(HTTP 503\), 5 times"),
    ],
)
def test_what_will_not_pass_is_an_error_in_words_without_the_key(tmp_path, status, error, said):
    with serving(then=failing(status, f"no {KEY} here")) as (settings, asked):
        with pytest.raises(error, match=said) as caught:
            written(settings, tmp_path)
        assert len(asked) == (5 if status in (429, 503) else 1)
    assert KEY not in str(caught.value)


def test_what_is_not_the_openai_api_is_an_error(tmp_path):
    with (
        serving(then=lambda body: (200, {}, b"<html>")) as (settings, _),
        pytest.raises(RemoteError, match="not answer as the OpenAI API does"),
    ):
        written(settings, tmp_path)


def test_a_run_that_ends_early_keeps_what_was_written(tmp_path):
    with serving(right, right, then=failing(500)) as (settings, _), pytest.raises(RemoteError):
        written(settings, tmp_path)
    with serving() as (settings, asked):
        made, _ = written(settings, tmp_path)
        assert (len(asked), len(made.pairs)) == (2, 4)


def test_without_a_model_nothing_is_asked_or_written(tmp_path):
    made = generate(CHUNKS, Generation(), Settings(llm_url="not a url"), tmp_path, print)
    assert (made.pairs, made.report) == ([], {})
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"llm_url": "localhost:80"}, "TWIN_LLM_URL"),
        ({"llm_key": "a\nb"}, "TWIN_LLM_KEY"),
        ({"llm_timeout": 0.0}, "TWIN_LLM_TIMEOUT"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path, changed, said):
    with pytest.raises(ConfigError, match=said):
        generate(CHUNKS, GENERATION, Settings(**changed), tmp_path, print)
    assert not (tmp_path / FILE).exists()


def test_short_passages_are_not_asked_about_and_no_more_than_the_most(tmp_path):
    short = Chunk("doc", "d", "t", (), "Too short.", "", 9)
    few = GENERATION.model_copy(update={"chunks": 2})
    with serving() as (settings, asked):
        made, _ = written(settings, tmp_path, few, [*CHUNKS, short])
    assert len(asked) == made.report["passages"] == 2


def test_json_is_found_among_words():
    assert json_in('Sure! {"a": {"b": 1}} Bye {') == {"a": {"b": 1}}
    assert json_in('{oops} {"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="no JSON object"):
        json_in("[1, 2]")
