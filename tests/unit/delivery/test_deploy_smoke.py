"""The smoke test: which service is taken for the twin that was meant, and which is not."""

import pytest

from llm_twin.delivery.deploy.smoke import QUESTION, smoke
from llm_twin.errors import RemoteError

GOOD = {"abstained": False, "citations": [{"title": "Rye", "link": "a/rye.md"}]}


class Service:
    """Answers with what it was given, one after the other, the last one for ever."""

    def __init__(self, *answers, ready=(True,)):
        self.answers = list(answers)
        self.readiness = list(ready)
        self.asked = []

    def ask(self, question):
        self.asked.append(question)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def ready(self):
        return self.readiness.pop(0) if len(self.readiness) > 1 else self.readiness[0]

    def smoke(self, *given, **named):
        return smoke(self.ask, self.ready, *given, **named)


def test_a_service_that_cites_what_it_should_in_time_is_the_one():
    service = Service((200, GOOD, 0.1), (200, GOOD, 9.0), (200, GOOD, 0.2), ready=(False, True))
    assert service.smoke("What is rye?", "rye.md") == {"latency": "0.200"}
    assert service.asked == ["What is rye?"] * 3


def test_without_a_question_any_citation_will_do():
    service = Service((200, GOOD, 0.1))
    service.smoke()
    assert service.asked[0] == QUESTION


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {"error": "broken"}, 0.1), r"it answered 500 \(broken\): What\?"),
        ((404, {}, 0.1), r"it answered 404: What\?"),
        ((200, {}, 0.1), "it cited nothing"),
        ((200, {"abstained": True}, 0.1), "it does not know the answer.*--question"),
        ((200, GOOD, 5.1), r"it answers too slowly \(5.1 s, may take 5 s\)"),
        ((200, {"citations": [{"title": "Wheat", "link": ""}]}, 0.1),
         "it did not cite rye, but Wheat: What"),
        ((200, {"citations": [{"link": "w"}, {"link": "w"}, {"link": "w"}, {"link": "rye"}]}, 0.1),
         "it did not cite rye, but w: What"),
    ],
)  # fmt: skip
def test_a_service_that_is_not_the_one(answer, said):
    with pytest.raises(RemoteError, match=said):
        Service(answer).smoke("What?", "rye")


def test_one_that_never_gets_ready():
    with pytest.raises(RemoteError, match=r"it was not ready within 0.2 s"):
        Service((200, GOOD, 0.1), ready=(False,)).smoke(ready_s=0.2)
