"""Steps of training elsewhere, one after the other, in a process with a ZenML of its own.

Its argument says them as JSON, where the source is, and where the answers go.
"""

import json
import os
import sys
from pathlib import Path

from llm_twin.ct import following, history, luggage, remote, sending, stacks, zen
from llm_twin.errors import TwinError
from llm_twin.model.profile import Profile
from llm_twin.settings import Settings


def found(kind):
    from zenml.client import Client

    stack = Client().get_stack(stacks.name_of(kind), allow_name_prefix_match=False)
    return {
        str(part): [str(one[0].id), one[0].configuration] for part, one in stack.components.items()
    }


def do(step):
    settings = Settings.load({**os.environ, **step.get("env", {})})
    if step["do"] == "register":
        stacks.register(step["kind"], settings)
        return found(step["kind"])
    if step["do"] == "here":
        return here(step)
    if step["do"] == "follow":
        out = remote.follow(step["run"], settings)
    elif step["do"] == "stop":
        return remote.stop(step["run"], settings)
    else:
        profile = Profile.model_validate({"name": "tested", "remote": step["remote"]})
        version, how = step["version"], step.get("how", "")
        if step.get("send"):
            stacks.register(profile.remote.stack, settings)
            sending.send(step["corpus"], [], profile, settings)

        def start(sent, options):
            from tiny import tiny

            return tiny.with_options(**options)(sent, version, how)

        out = remote.run(step["corpus"], [], profile, settings, version, start)
    from zenml.client import Client

    steps = Client().get_pipeline_run(out.run).steps
    report = steps["index"].outputs["indexed"][0].load()
    return {"run": out.run, "bundle": out.bundle.version, "report": report}


def here(step):
    """On the local orchestrator, in a state folder that stands for the job's."""
    from tiny import tiny

    settings = Settings.load()
    stacks.register("local", settings)
    profile = Profile.model_validate({"name": "tested"})
    sent = sending.send(step["corpus"], [], profile, settings)
    said = {"llm_twin": {"remote": profile.remote.model_dump(), "version": step["version"]}}
    os.environ["TWIN_HOME"] = str(settings.home / "job")
    try:
        known = tiny.with_options(extra=said)(sent, step["version"], step.get("how", ""))
    except ValueError:
        from zenml.client import Client

        for one in Client().list_pipeline_runs(status="failed", hydrate=True).items:
            if (one.config.extra or {}).get("llm_twin", {}).get("version") == step["version"]:
                return {"failure": history.Run.find(str(one.id)).progress().failure}
        raise
    finally:
        os.environ["TWIN_HOME"] = str(settings.home)
    made = history.Run.find(str(known.id)).artifact("bundle")
    folder = made.load()
    return {"uri": made.uri, "bundle": luggage.receive(settings, folder, step["version"]).version}


def tried(step):
    try:
        return do(step)
    except TwinError as error:
        return {"error": str(error), "kind": type(error).__name__}


def main():
    asked = json.loads(sys.argv[1])
    zen.SOURCE_ROOT = Path(asked["src"])
    following.EVERY = 0.5
    settings, answers = Settings.load(), []
    try:
        history.check(settings)
        zen.prepare(settings)
        for step in asked["steps"]:
            answers.append(tried(step))
    except TwinError as error:
        answers.append({"error": str(error), "kind": type(error).__name__})
    Path(asked["answers"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
