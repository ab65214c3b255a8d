import json
import sqlite3
from contextlib import closing

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from recorded import DIGEST, HEADING

from ci.lineage import lineage as command
from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.flow.records import Attempt
from llm_twin.flow.states import State, StateType
from llm_twin.flow.store import Store as Runs
from llm_twin.loop import forget
from llm_twin.loop.lineage import VERSION, graph
from llm_twin.model.bundles import Bundles

IMAGE = f"localhost:1/llm-twin@{DIGEST}"


@pytest.fixture
def shipped(scene):
    """Trained, built, deployed, asked."""
    with closing(Runs(scene.home)) as runs:
        runs.start("run-2", "build-push", {}, ["build-push"], "local")
        runs.attempt_started("run-2", "build-push", 1, [])
        stage = runs.get("run-2").stages[0]
        stage.state = State(StateType.COMPLETED)
        stage.result = {"reference": IMAGE, "digest": DIGEST}
        runs.stages_ended("run-2", [stage], Attempt("build-push", 1, stage.state, 0.0))
    scene.live = scene.deploy("v1", IMAGE, DIGEST)
    scene.heron = scene.chunk_of(scene.chunks, "heron")
    scene.bees = scene.chunk_of(scene.chunks, "bees")
    scene.answer("heron", "v1", scene.heron, DIGEST)
    scene.answer("bees", "v1", scene.bees, DIGEST)
    scene.answer("early", "v1", scene.bees, at="2001-01-01T00:00:00Z")
    return scene


def labels(reference):
    assert reference == IMAGE
    return {VERSION: "v1", "org.opencontainers.image.revision": "c0ffee" * 6}


@pytest.fixture
def made(shipped):
    return graph(shipped.settings, labels)


def of_kind(nodes, kind):
    return {name for found, name in nodes if found == kind}


def test_an_answer_leads_back_to_model_dataset_documents_and_commit(shipped, made):
    trace = made.find(shipped.traces["heron"])
    back = made.back(trace)
    assert of_kind(back, "model") == {"v1"}
    assert of_kind(back, "image") == {DIGEST}
    assert of_kind(back, "deployment") == {shipped.live.id}
    assert of_kind(back, "commit") == {"c0ffee" * 6}
    assert of_kind(back, "run") == {"run-1", "run-2"}
    assert len(of_kind(back, "dataset")) == 1
    assert len(of_kind(back, "document")) == 5
    direct = made.causes[trace]
    assert of_kind(direct, "document") == {shipped.heron.document_id}
    assert made.forward(trace) == []


def test_an_answer_from_before_a_deployment_did_not_come_from_it(shipped, made):
    back = made.back(("trace", shipped.traces["early"]))
    assert of_kind(back, "deployment") == set()
    assert of_kind(back, "model") == {"v1"}


def test_a_document_leads_to_every_model_image_deployment_and_answer(shipped, made):
    forward = made.forward(made.find("heron.md"))
    assert of_kind(forward, "model") == {"v1"}
    assert of_kind(forward, "image") == {DIGEST}
    assert of_kind(forward, "deployment") == {shipped.live.id}
    assert of_kind(forward, "trace") == set(shipped.traces.values())
    assert ("trace", shipped.traces["heron"]) in made.effects[made.find("heron.md")]
    assert ("trace", shipped.traces["bees"]) not in made.effects[made.find("heron.md")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ab" * 8, "image"), (DIGEST, "image"), ("run-1", "run"), ("c0ffee", "commit"),
        ("heron.md", "document"),
    ],
)  # fmt: skip
def test_everything_has_an_id(made, name, kind):
    assert made.find(name)[0] == kind


def test_an_id_that_is_none_or_several_is_told(made):
    with pytest.raises(NotReadyError, match="nothing that is recorded has this id: nothing"):
        made.find("nothing")
    with pytest.raises(ConfigError, match=r"several ids begin like that: run-.*run run-1"):
        made.find("run-")
    with pytest.raises(ConfigError, match="at least 4 characters"):
        made.find("v1")


def test_a_version_that_was_swept_away_is_still_known(shipped):
    shipped.train("v2")
    Bundles(shipped.home / "models").sweep(keep=1)
    made = graph(shipped.settings)
    back = made.back(("trace", shipped.traces["bees"]))
    assert len(of_kind(back, "document")) == 5
    assert of_kind(back, "model") == {"v1"}


def test_what_was_forgotten_is_known_by_its_id_alone(shipped):
    wish = forget.plan(shipped.settings, "heron.md", 0.0).wish
    forget.carry_out(shipped.settings, wish, str)
    made = graph(shipped.settings, labels)
    node = made.find("heron.md")
    assert made.about[node] == {}
    forward = made.forward(node)
    assert of_kind(forward, "model") == {"v1", "v1.1"}
    assert shipped.traces["heron"] not in of_kind(forward, "trace")
    assert made.about["model", "v1.1"]["before"] == "v1"


def test_a_trace_may_name_its_documents_itself(shipped):
    with closing(sqlite3.connect(shipped.settings.traces / "traces.db")) as db:
        db.execute(
            "UPDATE span SET body = json_set(body, '$.output.chunks', json(?)) WHERE trace_id = ?",
            (json.dumps([{"id": "x", "document": "d" * 16}]), shipped.traces["bees"]),
        )
        db.commit()
    made = graph(shipped.settings, labels)
    assert ("document", "d" * 16) in made.causes["trace", shipped.traces["bees"]]


def test_an_empty_state_folder_has_no_lineage(tmp_path, scene):
    assert graph(type(scene.settings)(home=tmp_path / "none")).about == {}


@pytest.fixture
def run(shipped, monkeypatch, capsys):
    monkeypatch.setenv("TWIN_HOME", str(shipped.home))

    def call(*args, **flags):
        command(Context(), *args, **flags)
        return capsys.readouterr().out

    return call


def test_the_command_says_it_to_a_person(run, shipped):
    said = run(shipped.traces["heron"])
    assert said.startswith(f"trace      {shipped.traces['heron']}  (started 2090-")
    assert f"document   {shipped.heron.document_id}  (title {HEADING}, link heron.md)" in said
    assert "document   and 4 more" in said
    assert "model      v1" in said
    assert f"image      {DIGEST}" in said
    forward = run("heron.md")
    assert "led to\n" in forward
    assert shipped.traces["bees"] in forward


def test_the_command_says_it_to_a_program(run, shipped):
    told = json.loads(run(shipped.traces["heron"], json=True))
    assert (told["kind"], told["id"]) == ("trace", shipped.traces["heron"])
    kinds = {row["kind"] for row in told["comes_from"]}
    assert kinds == {"document", "dataset", "commit", "run", "model", "image", "deployment"}
    assert any(row.get("title") == HEADING for row in told["direct"])
    assert told["led_to"] == []


def test_the_command_tells_what_it_does_not_know(run):
    with pytest.raises(Exit, match="error: nothing that is recorded has this id: nobody"):
        run("nobody")
