import os
import re
import time
from contextlib import closing
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from recorded import HEADING, Scene, Target

from ci.forget import forget as command
from llm_twin.alerting.store import Store as Alerts
from llm_twin.corpus import forgotten
from llm_twin.ct import preflight, promotion
from llm_twin.ct.config import CtConfig
from llm_twin.delivery.deploy import deployments
from llm_twin.delivery.deploy.deployments import DeployFailed
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.errors import ConfigError, NotReadyError, SpaceError
from llm_twin.loop import forget, taint
from llm_twin.model.bundles import Bundles

DAY = 86400.0


def forgot(scene: Scene, seconds=DAY, what="heron.md"):
    wish = forget.plan(scene.settings, what, seconds).wish
    forget.carry_out(scene.settings, wish, str)
    return wish


@pytest.fixture
def run(scene, monkeypatch, capsys):
    """Type `invoke forget`."""
    monkeypatch.setenv("TWIN_HOME", str(scene.home))
    monkeypatch.setenv("TWIN_EMBEDDER", "words")

    def call(*args, **flags):
        command(Context(), *args, **flags)
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_a_tainted_model_is_not_deployed_after_the_deadline(scene, version):
    forgot(scene, 0.0)
    day = time.strftime("%Y-%m-%d")
    reason = (
        rf"was not put live; fetch: the model is tainted: it learned from what was to be forgotten"
        rf" by {day} \(heron.md\): {version}.*Nothing was live before\. Make one without it:"
        r" invoke ct"
    )
    with pytest.raises(DeployFailed, match=reason):
        scene.deploy(version)
    with closing(Journal(scene.home)) as journal:
        assert journal.live("local") is None


def test_until_then_it_is_and_another_always_is(scene):
    forgot(scene, DAY)
    assert scene.deploy("v1.1").state == "Completed"
    forgot(scene, 0.0, "bees.md")
    assert scene.deploy("v7").state == "Completed"
    with pytest.raises(DeployFailed, match=r"v7\) still serves|v7\).*serves"):
        scene.deploy("v1")


def test_going_back_to_a_tainted_model_is_refused_too(scene):
    scene.deploy("v1")
    scene.deploy("v7")
    forgot(scene, 0.0)
    with (
        closing(Journal(scene.home)) as journal,
        pytest.raises(DeployFailed, match="the model is tainted"),
    ):
        deployments.rollback(journal, Target("v1"))


def test_what_is_live_is_finished_and_not_taken_away(scene):
    live = scene.deploy("v1")
    forgot(scene, 0.0)
    with closing(Journal(scene.home)) as journal:
        deployments.undeploy(journal, Target("v1"))
        assert journal.get(live.id).state == "Completed"


def test_a_model_that_was_swept_away_is_known_by_what_was_kept_of_it(scene):
    scene.train("v2")
    Bundles(scene.home / "models").sweep(keep=1)
    assert not (scene.home / "models" / "v1").exists()
    assert forgot(scene, 0.0).models == ("v1", "v2", "v2.1")


def test_a_bundle_of_before_there_were_lists_is_known_by_its_index(scene):
    manifest = scene.home / "models" / "v1" / "bundle.json"
    text = re.sub(r'"documents": \{[^}]*\}', '"old": 1', manifest.read_text())
    manifest.write_text(text)
    (scene.home / "lineage" / "v1.json").unlink()
    assert forget.plan(scene.settings, "heron.md", 0.0).wish.models == ("v1", "v1.1")


def test_the_gate_does_not_compare_with_a_model_whose_time_is_over(scene):
    served = promotion.served(scene.settings)
    assert promotion.refusal(scene.settings, served) == ""
    forgot(scene, 0.2)
    served = promotion.served(scene.settings)
    assert served.version == "v1.1"
    time.sleep(0.3)
    assert "it learned from what was to be forgotten" in promotion.refusal(scene.settings, served)


def test_a_candidate_that_saw_it_is_not_promoted_whatever_the_deadline(scene, tmp_path):
    held = Bundles(scene.home / "models").production().index_path
    index, model = tmp_path / "index", tmp_path / "model"
    index.mkdir()
    model.mkdir()
    (index / "index.db").write_bytes(held.read_bytes())
    forgot(scene, DAY)
    with pytest.raises(NotReadyError, match=r"the model is tainted.*: v2"):
        promotion.promote(scene.settings, "v2", index, model, {"embedder": ""})
    assert Bundles(scene.home / "models").production().version == "v1.1"


def test_forgetting_is_a_reason_to_train(scene):
    config = CtConfig.of(str(scene.corpus))
    before = preflight.corpus_files(config, scene.settings)
    forgot(scene)
    after = preflight.corpus_files(config, scene.settings)
    assert set(after) - set(before) == {scene.home / forgotten.FILE}


def test_a_list_that_cannot_be_read_stops_the_collection(scene):
    (scene.home / forgotten.FILE).write_text("{}")
    with pytest.raises(ConfigError, match="what is to be forgotten cannot be read"):
        scene.train("v2")


def test_a_list_that_cannot_be_written_stops_the_forgetting(scene):
    wish = forget.plan(scene.settings, "heron.md", DAY).wish
    (scene.home / f".{forgotten.FILE}.{os.getpid()}").mkdir()
    with pytest.raises(SpaceError, match="cannot be written down"):
        forget.carry_out(scene.settings, wish, str)
    assert Bundles(scene.home / "models").production().version == "v1"


def test_the_command_shows_first_and_does_it_when_told(run, scene: Scene):
    assert run() == "Nothing was forgotten. Type: invoke forget DOCUMENT\n"
    shown = run("heron.md")
    assert f"documents  1: {HEADING}" in shown
    assert "models     v1, v1.1; refused after" in shown
    assert "Nothing is forgotten yet; to do it add --yes" in shown
    assert "Nothing is forgotten yet" in run("heron.md", yes=True, dry_run=True)
    assert not (scene.home / forgotten.FILE).exists()
    done = run("heron.md", deadline="2d", yes=True)
    assert "Forgotten: heron.md." in done
    assert "v1.1 learned from it and is refused after" in done
    assert "invoke ct" in done
    assert "heron.md  refused after" in run()
    with closing(Alerts(scene.home)) as alerts:
        events, _ = alerts.events()
    assert [event.kind for event in events] == ["forget.done"]


def test_the_command_finishes_what_was_cut_short(run, scene):
    wish = forget.plan(scene.settings, "heron.md", DAY).wish
    taint.write(scene.home, wish)
    assert run(dry_run=True).startswith("20")
    assert forget.unfinished(scene.home)
    assert f"finishing {wish.id} (heron.md)" in run()
    assert not forget.unfinished(scene.home)
    assert "heron" not in " ".join(path.name for path in Path(scene.home).rglob("*"))


def test_the_command_tells_what_it_does_not_know(run):
    with pytest.raises(Exit, match="error: no known document or author has this name: nobody"):
        run("nobody")
