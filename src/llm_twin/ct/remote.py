"""A training run on another machine, from here: luggage out, the run followed, the twin back.

The job elsewhere runs the same pipeline, step after step in one container. What this machine adds
is what the job cannot: noticing that it never started or died, and taking in what it made.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.ct import history, luggage, sending, stacks
from llm_twin.ct.following import Follower, JobLostError, Limits, remembering
from llm_twin.ct.sending import say, ticking
from llm_twin.errors import NotReadyError, RemoteError
from llm_twin.model.profile import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llm_twin.ct.following import Job, Progress
    from llm_twin.model.bundles import Bundle
    from llm_twin.model.profile import Profile
    from llm_twin.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """How a followed run ended.

    Attributes:
        run: its id at ZenML, where its artifacts are.
        bundle: what it promoted, by now in production here; None when the gate let nothing through.

    """

    run: str
    bundle: Bundle | None


def run(
    corpus: str,
    exclude: Sequence[str],
    profile: Profile,
    settings: Settings,
    version: str,
    start: Callable[[str, dict[str, Any]], Any],
    *,
    curated: bool = True,
) -> Outcome:
    """Run training on the profile's stack, and take in what it promotes.

    Only call this after ``zen.prepare`` and ``history.check``.

    Args:
        corpus: path or address, as `invoke ct` is given it.
        exclude: patterns of its files to leave out.
        profile: ``remote`` of which says where.
        settings: of this machine.
        version: that a promoted bundle is to have.
        start: submits the pipeline, given the luggage's id and options for ``with_options``;
            returns ZenML's run.
        curated: take readers' corrections along.

    Raises:
        ConfigError: settings are missing; nothing was made or sent.
        RemoteError: the run failed or was given up; production is what it was.

    """
    with history.asking(settings):
        stacks.register(profile.remote.stack, settings)
        sent = sending.send(corpus, exclude, profile, settings, curated=curated)
        say(f"submitting to {profile.remote.stack}")
        submitted = start(sent, sending.options(profile, settings, version))
    if submitted is None:
        raise RemoteError("ZenML did not start a run", stacks.name_of(profile.remote.stack))
    return follow(str(submitted.id), settings)


def follow(run_id: str, settings: Settings) -> Outcome:
    """Follow a run until it ends, and take in what it promoted.

    Only call this after ``zen.prepare`` and ``history.check``.

    Args:
        run_id: id or name of the run at ZenML.
        settings: of this machine.

    Raises:
        NotReadyError: there is no such run, or it was not sent from here.
        RemoteError: it failed, was given up, or what it made is damaged.

    """
    with history.asking(settings):
        watched = history.Run.find(run_id)
        job = watched.job(settings)
        limits = Limits.of(Remote.model_validate(watched.said["remote"]))
        print(f"following {watched.name} ({watched.id})", flush=True)
        try:
            with remembering() as interrupted:
                follower = Follower(watched.progress, job, limits, say, interrupted=interrupted)
                ended = follower.follow()
        except JobLostError as error:
            _put_down(watched, job)
            raise RemoteError(error.what, error.where, error.hint) from None
        except KeyboardInterrupt:
            print(f"it goes on; to follow it again: invoke ct.follow {watched.id}", flush=True)
            raise
        watched.tidy(job)
        if not ended.good:
            _say_why(watched, ended)
        return Outcome(watched.id, _take_in(watched, settings))


def _say_why(watched: history.Run, ended: Progress) -> None:
    raise RemoteError(
        f"the run {ended.status} elsewhere" + (f": {ended.failure}" if ended.failure else ""),
        watched.name,
        "Production is what it was",
    )


def _put_down(watched: history.Run, job: Job) -> None:
    """Stop a job that was given up, where that is possible, and mark its run as failed."""
    try:
        job.stop()
        say(f"{job.name} is stopped")
    except RemoteError as error:
        say(f"warning: it may go on, stop it there: {error}")
    watched.end()


def _take_in(watched: history.Run, settings: Settings) -> Bundle | None:
    found = watched.artifact("bundle")
    if found is None:
        return None
    say("fetching what it promoted")
    with ticking("still fetching"):
        folder: Path = found.load()
    try:
        return luggage.receive(settings, folder, str(watched.said["version"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stop(run_id: str, settings: Settings) -> str:
    """End a run and its job; return the run's name.

    Raises:
        NotReadyError: there is no such run, or it has ended.
        RemoteError: the job could not be stopped.

    """
    with history.asking(settings):
        watched = history.Run.find(run_id)
        if (known := watched.progress()).finished:
            raise NotReadyError(f"the run is {known.status} already", watched.name)
        watched.job(settings).stop()
        watched.end()
        return watched.name
