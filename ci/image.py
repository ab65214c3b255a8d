"""The image: `invoke build-push`, and the registry on this machine that it goes to by default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.tasks import task

from llm_twin.flow import stage
from llm_twin.flow.context import context
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


def production() -> list[Path]:
    """The promoted bundle and every file that its manifest lists."""
    from llm_twin.model.bundles import production_files

    return production_files(Settings.load(root=ROOT).home / "models")


@stage(cached=True, kept=production)
def twin() -> None:
    """Train a twin where none is promoted yet: an image without one would answer nothing."""
    from llm_twin.model.bundles import Bundles

    bundle = Bundles(Settings.load(root=ROOT).home / "models").production()
    if bundle:
        print(f"{bundle.version} is promoted")
    else:
        context().run_command(sys.executable, "-m", "invoke", "ct", cwd=ROOT)


def ready(push: bool = True, **_: Any) -> None:
    """Start the local registry if that is the one, outside the stage, which ends all it started."""
    from llm_twin.delivery.image import registry_host

    if push:
        registry_host(Settings.load(root=ROOT))


@stage(needs=["twin"], check=ready)
def build_push(
    target: str = "",
    platform: str = "",
    force: bool = False,
    push: bool = True,
    create: bool = False,
    pull: bool = False,
) -> dict[str, Any]:
    """Build the image and push it, unless the registry has one of the same sources already.

    Args:
        target: stage of the Dockerfile: serve (the default), local-llm, or train for `invoke ct`.
        platform: like linux/arm64; default: the engine's own.
        force: build even if the registry has an image of these sources.
        push: --no-push leaves it in the engine.
        create: make the repository in ECR if it is missing.
        pull: look for a newer base image.
    """
    from llm_twin.delivery.image import Options, build_push

    options = Options(
        target=target, platform=platform, force=force, push=push, create=create, pull=pull
    )
    done = build_push(Settings.load(root=ROOT), ROOT, options)
    print(f"{done.message}\ntags: {', '.join(done.tags)}" if done.tags else done.message)
    if (outputs := os.environ.get("GITHUB_OUTPUT")) and done.reference:
        with Path(outputs).open("a", encoding="utf-8") as file:
            file.write(f"image={done.reference}\n")
    return done.to_dict()


@task
@tell_errors
def up(c: Context) -> None:
    """Start the registry on this machine, from a container or from Debian's program."""
    from llm_twin.delivery.image import engine_or_none
    from llm_twin.delivery.local_registry import registry_up

    print(registry_up(Settings.load(root=ROOT).home, engine_or_none()))


@task
@tell_errors
def down(c: Context) -> None:
    """Stop it; its images stay."""
    from llm_twin.delivery.image import engine_or_none
    from llm_twin.delivery.local_registry import registry_down

    ran = registry_down(Settings.load(root=ROOT).home, engine_or_none())
    print("stopped" if ran else "it did not run")


registry = Collection("registry", up, down)
