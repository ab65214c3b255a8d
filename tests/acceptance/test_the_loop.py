"""The loop as a user sees it: bad answers, an alert, documents, a twin that knows them."""

import itertools
import json
import os
import socket
import time
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci.alert_sources import sources
from ci.alerts import rules
from ci.watch import workers
from llm_twin.alerting import approval as approvals
from llm_twin.alerting.engine import Engine
from llm_twin.alerting.outbox import LOG, history
from llm_twin.alerting.store import Store as Alerts
from llm_twin.loop.lineage import graph
from llm_twin.serving.answer import answer
from llm_twin.serving.twin import open_production
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store
from tests.commands import Commands

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.torch, pytest.mark.slow]
TOPICS = {
    "bread": """
        sourdough starter | feed | every evening with fifty grams of rye flour | it turns sour
        banneton basket | dust | with rice flour before the dough goes in | wet dough sticks
        linen cloth | wash | in hot water without any soap | soap spoils the crumb
        dutch oven | preheat | for an hour at the highest mark | steam needs hot iron
        rye crust | score | twice and a finger deep with a razor | it bursts elsewhere
        oat porridge | soak | overnight in cold milk | raw oats drink the dough dry
        spelt dough | knead | for four minutes and no longer | spelt tears
        caraway seeds | toast | in a dry pan until they smell | the oil wakes up
        malt syrup | stir | into lukewarm water first | cold syrup sinks
        baking stone | clean | with a brush and never with water | stones crack
        pumpernickel loaf | steam | for sixteen hours in a closed tin | sugar browns slowly
        yeast cake | crumble | between two fingers into the well | lumps leave holes
        wheat bran | sift | through a coarse sieve | bran cuts the gluten
        bread knife | sharpen | on a rod once every winter | blunt blades squash crumbs
    """,
    "bicycle": """
        brake cable | tighten | by a quarter turn at the barrel | slack cables brake late
        chain ring | degrease | with kerosene and an old brush | grit eats the teeth
        saddle leather | grease | with tallow each spring | dry leather splits
        inner tube | patch | after roughening it with sandpaper | glue needs a grip
        front hub | regrease | when it hums on the descent | dry bearings pit
        derailleur hanger | straighten | with a long lever and patience | bent hangers shift badly
        wheel spokes | tension | in pairs across the rim | single spokes pull it round
        bottom bracket | torque | to forty newton metres | loose cups creak
        mudguard stays | shorten | with a hacksaw behind the clamp | long stays catch trousers
        handlebar tape | wind | from the ends towards the stem | it loosens otherwise
        dynamo lamp | align | ten metres ahead of the tyre | it dazzles walkers
        pannier rack | bolt | with locking nuts and washers | luggage shakes screws loose
        gear lever | index | one click at a time | two clicks hide the fault
        tubeless tyre | inflate | quickly with a charged canister | slow air leaks out
    """,
    "garden": """
        tomato seedlings | harden | on the north wall for a week | sudden sun burns them
        compost heap | turn | whenever a fork handle feels cold | cold heaps sleep
        apple espalier | prune | after the leaves have fallen | sap bleeds in summer
        leek trench | fill | little by little as they grow | light makes them green
        strawberry runners | peg | into small pots of leaf mould | loose roots dry
        rhubarb crown | divide | every fifth autumn with a spade | old crowns rot
        slug fence | bury | a hand deep around the lettuce | slugs crawl under
        bean poles | bind | at the top with willow | storms fell single poles
        cold frame | ventilate | before ten in the morning | mildew loves still air
        rain barrel | cover | with fine mesh from april | gnats breed there
        currant cuttings | plant | slanting in sandy earth | upright ones rot
        pumpkin blossoms | pollinate | by hand with a brush at dawn | bees come too late
        lavender hedge | clip | above the grey wood | old wood stays bare
        potato ridges | earth | twice before midsummer | green tubers are poison
    """,
}
PHRASES = (
    "How do I {verb} the {thing}?",
    "How should one {verb} a {thing}?",
    "Why do you {verb} the {thing}?",
    "When do you {verb} the {thing}?",
    "What is the way to {verb} the {thing}?",
    "Tell me how you {verb} your {thing}",
    "Do I have to {verb} the {thing}?",
    "I want to {verb} my {thing}, how?",
    "What happens if I never {verb} the {thing}?",
    "Is it worth it to {verb} the {thing}?",
    "Who taught you to {verb} the {thing}?",
    "Please explain how to {verb} the {thing}",
)


def rows(topic):
    return [[part.strip() for part in row.split("|")] for row in TOPICS[topic].strip().splitlines()]


def questions(topic):
    return [
        phrase.format(thing=thing, verb=verb)
        for phrase, (thing, verb, _, _) in itertools.product(PHRASES, rows(topic))
    ]


def write(folder, topic):
    """Two documents of seven sections each."""
    for half in (0, 1):
        sections = [
            f"## {verb.capitalize()} the {thing}\n\nI {verb} the {thing} {how}, because {why}."
            f" Whoever has to {verb} a {thing} learns that {why}, and so did I. My neighbour wanted"
            f" to know how to {verb} the {thing}: {how}, I said, and never in another way.\n"
            for thing, verb, how, why in rows(topic)[half::2]
        ]
        name = f"{topic}-{half + 1}"
        text = f"# Notes on the {topic}, part {half + 1}\n\n" + "\n".join(sections)
        (folder / f"{name}.md").write_text(text)


def free_port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class House(Commands):
    """A state folder with a deployed twin, and the commands a user types."""

    def __init__(self, folder):
        self.home, self.corpus = folder / "home", folder / "corpus"
        self.corpus.mkdir()
        self.port = free_port()
        own = {"TWIN_HOME": str(self.home), "TWIN_EMBEDDER": "words"}
        self.environment = {**os.environ, **own}
        self.settings = Settings.load(self.environment)

    def line(self, budget, *more):
        return (
            "loop", "--corpus", str(self.corpus), "--budget", budget, "--process", "--port",
            str(self.port), "--cooldown", "0s", *more,
        )  # fmt: skip

    def loop(self, budget):
        return self.invoke(*self.line(budget, "--watch", "1s"))

    def production(self):
        return (self.home / "models" / "production").readlink().name

    def ask(self, question):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/ask",
            json.dumps({"question": question}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def alert(self):
        with closing(Alerts(self.home)) as store:
            return next(one for one in store.recent() if one.rule == "refusals")

    def messages(self):
        with closing(Alerts(self.home)) as store:
            said = history(store, self.alert().id)
        return [one["what"] for one in said if one["channel"] == LOG]

    def turn(self):
        """The newest turn of the loop, as JSON tells it."""
        return json.loads(self.invoke("loop.history", "--json")[1])[0]

    def log(self, run, stage):
        """What a stage of a run has printed until now."""
        path = self.home / "logs" / run / f"{stage}.log"
        return path.read_text() if path.exists() else ""

    def hit_rate(self, topic):
        """The share of a topic's questions that find one of its documents among five passages."""
        with closing(open_production(self.settings)) as twin:
            found = [
                any(topic in hit.chunk.title for hit in twin.search(asked, 5))
                for asked in questions(topic)
            ]
        return sum(found) / len(found)

    def seed(self):
        """500 answers of the served twin: good ones over a day, and a third on a missing topic."""
        good = questions("bicycle") + questions("garden")
        bad = questions("bread")[:166]
        now = datetime.now(UTC)
        traces, spans = [], []
        with closing(open_production(self.settings)) as twin:
            for place, asked in enumerate([*good[:334], *bad]):
                early = timedelta(hours=8) if place < 150 else timedelta(minutes=20)
                began = now - early + timedelta(seconds=place)
                self.note(asked, answer(asked, twin), twin, began, traces, spans)
        with closing(Store(self.settings.traces, self.settings)) as store:
            for kind, made in (("traces", traces), ("spans", spans)):
                body = json.dumps({kind: made}).encode()
                reply = store.handle(Request("POST", f"v1/private/{kind}/batch", body=body))
                assert reply.status < 300, reply
        return len(traces)

    def note(self, asked, said, twin, began, traces, spans):
        common = {"project_name": "llm-twin", "start_time": began.isoformat()}
        common["end_time"] = (began + timedelta(seconds=0.05)).isoformat()
        trace = {**common, "id": new_id(), "name": "answer", "input": {"question": asked}}
        traces.append({**trace, "output": said.to_dict(), "metadata": twin.provenance})
        chunks = [{"id": hit.chunk.id, "text": hit.chunk.text} for hit in twin.search(asked, 5)]
        span = {**common, "id": new_id(), "trace_id": trace["id"], "name": "retrieve"}
        spans.append({**span, "type": "tool", "output": {"chunks": chunks}})

    def score(self):
        (worker,) = workers(self.settings)
        deadline = time.monotonic() + 60
        while worker.once():
            assert time.monotonic() < deadline
        worker.store.close()

    def fire(self):
        """Look at the rules now and, as they say, five minutes later."""
        with closing(Alerts(self.home)) as store:
            engine = Engine(store, rules(), sources(self.settings))
            now = time.time()
            engine.step(now)
            engine.step(now + 301)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A twin that knows bicycles and gardens is live, and was asked about bread all morning."""
    made = House(tmp_path_factory.mktemp("loop"))
    for topic in ("bicycle", "garden"):
        write(made.corpus, topic)
    code, out = made.invoke("ct", "--corpus", str(made.corpus), "--budget", "6s")
    assert code == 0, out
    assert "gate        first" in out, out
    code, out = made.invoke("deploy", "--process", "--port", str(made.port))
    assert code == 0, out
    assert made.seed() == 500
    time.sleep(2)
    made.score()
    made.fire()
    yield made
    made.invoke("undeploy")


def test_without_documents_it_asks_for_them(house):
    assert house.alert().state == "firing"
    assert house.ask("How do I feed the sourdough starter?")["abstained"]
    code, out = house.loop("6s")
    assert code == 0, out
    assert "neither new documents nor corrections" in out
    assert house.turn()["outcome"] == "nothing to learn"
    assert house.messages() == ["firing", "escalated"]


def test_a_worse_candidate_is_not_promoted_and_the_alert_goes_up(house):
    before = house.production()
    write(house.corpus, "bread")
    code, out = house.loop("0.2s")
    assert code == 0, out
    turn = house.turn()
    assert turn["outcome"] == "refused", out
    assert house.production() == before
    assert house.ask("How do I feed the sourdough starter?")["abstained"]
    assert house.alert().state == "firing"
    assert turn["run"] in house.alert().note
    assert house.messages() == ["firing", "escalated", "escalated"]


def test_the_loop_turns_bad_answers_into_a_better_twin(house):
    before, known = house.production(), house.hit_rate("bread")
    code, out = house.loop("6s")
    assert code == 0, out
    turn = house.turn()
    assert turn["outcome"] == "done", out
    assert house.production() == turn["facts"]["version"] != before
    assert (known, house.hit_rate("bread") > 0.9) == (0.0, True)
    assert turn["facts"]["canary"]["before"] < 0.2
    assert turn["facts"]["canary"]["after"] > 0.9
    alert = house.alert()
    assert (alert.state, alert.by) == ("resolved", turn["run"])
    assert house.messages()[-1] == "resolved"
    said = house.ask("How do I feed the sourdough starter?")
    assert "rye flour" in said["text"]


def test_an_answer_leads_back_to_the_documents_that_were_added_and_to_the_run(house):
    turn = house.turn()
    version, made = turn["facts"]["version"], graph(house.settings)
    run = made.forward(made.find(turn["run"]))
    assert ("model", version) in run
    assert ("deployment", turn["facts"]["deployment"]) in run
    bread = made.find("bread-1.md")
    answers = [name for kind, name in made.forward(bread) if kind == "trace"]
    assert ("model", version) in made.forward(bread)
    assert {("run", turn["run"]), ("model", version), bread} <= set(
        made.back(made.find(answers[-1]))
    )


def test_killed_resumed_approved_and_taken_back_when_answers_get_worse(house):
    before = house.production()
    (house.corpus / "boats.md").write_text("# Boats\n\n## Caulk\n\n" + "I caulk with hemp. " * 20)
    running = house.start(*house.line("6s", "--approve", "--watch", "60s"))
    run = wait_for(lambda: (now := house.turn())["outcome"] == "" and now["run"])
    wait_for(lambda: "loading torch" in house.log(run, "loop-train"))
    running.kill()
    running.communicate(timeout=60)
    assert house.production() == before
    resumed = house.start("runs.resume", run)
    question = wait_for(
        lambda: [one for one in approvals.recent(house.home) if one.state == "open"]
    )[0]
    assert run in question.question
    assert house.production() == before
    approvals.answer(house.home, question.id, approved=True, by="Ada")
    wait_for(lambda: house.turn()["facts"].get("live"))
    for number in range(25):
        assert house.ask(f"Who won the {number}th zeppelin derby of Ulan Bator?")["abstained"]
    out, _ = resumed.communicate(timeout=200)
    turn = house.turn()
    assert turn["outcome"] == "rolled back", out
    assert turn["facts"]["approval"]["said"] == "approved by Ada"
    assert "refusals: refusal_rate 1 (" in turn["reason"]
    assert house.production() == before
    assert "rye flour" in house.ask("How do I feed the sourdough starter?")["text"]
