"""What an image is made of: its Dockerfile and layers checked, and the papers it travels with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.tasks import task

from llm_twin.errors import NotReadyError, TwinError
from llm_twin.flow import stage
from llm_twin.flow.context import context
from llm_twin.flow.tasks import TaskWithOptionalLast, tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.delivery.layers import Image
    from llm_twin.delivery.leaks import Finding

ROOT = Path(__file__).resolve().parents[1]
IN_IMAGE = ["Dockerfile", ".dockerignore", "src/**/*", "requirements/*.txt"]


def outside(**_: Any) -> dict[str, str]:
    """The promoted twin, and whether an engine answers: without one, a pass says nothing."""
    from llm_twin.model.bundles import Bundles

    bundle = Bundles(Settings.load(root=ROOT).home / "models").production()
    return {"twin": bundle.version if bundle else "none", "engine": engine()}


def engine() -> str:
    """Whether an engine answers."""
    from llm_twin.delivery.engine import find_address

    try:
        find_address().image_id("none")
    except TwinError:
        return "none"
    return "answers"


@stage(cached=True, inputs=["Dockerfile"])
def dockerfile() -> None:
    """Check the Dockerfile (hadolint)."""
    linter = Path(sys.executable).with_name("hadolint")
    if context().run_command(str(linter), "Dockerfile", cwd=ROOT, check=False).exit_code:
        raise TwinError("hadolint complains; see above", "Dockerfile")


@stage(cached=True, inputs=IN_IMAGE, facts=outside, needs=["twin"])
def layers() -> None:
    """Build the image and look for secrets in every layer of it."""
    try:
        image = built()
    except NotReadyError as error:
        if os.environ.get("CI") or engine() == "answers":
            raise
        print(f"nothing was looked at, and CI will: {error}")
        return
    found = scanned(image)
    if found:
        raise TwinError(f"{len(found)} secrets are in the image; see above", hint="Change them")
    print("no secret was found")


def built() -> Image:
    """The image of the working tree, built and not pushed."""
    from llm_twin.delivery.engine import find_address, find_engine
    from llm_twin.delivery.image import build_image
    from llm_twin.delivery.layers import EngineImage
    from llm_twin.delivery.sources import Sources

    settings = Settings.load(root=ROOT)
    found = Sources.find(ROOT, settings, find_address())
    return EngineImage(find_engine(), build_image(settings, found))


def scanned(image: Image, documents: dict[str, bytes] | None = None) -> list[Finding]:
    """What is found in an image of the values that this build knows, and of others; printed."""
    from llm_twin.delivery.leaks import Secrets, scan
    from llm_twin.delivery.sources import build_secrets

    files = [path for path in (*build_secrets().values(), ROOT / ".env") if path.is_file()]
    found = scan(image, Secrets.of(os.environ, files), documents)
    for each in found:
        print(each)
    return found


@task(
    help={
        "ref": "the image, like localhost:5000/llm-twin:latest",
        "key": "check signatures with this public key, as cosign takes it",
        "identity": "check signatures of a GitHub workflow, by its address",
    },
    auto_shortflags=False,
)
@tell_errors
def verify(c: Context, ref: str, key: str = "", identity: str = "") -> None:
    """Read an image, its SBOM and its provenance back and check that they belong together."""
    from llm_twin.delivery.cosign import Signer
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import open_registry
    from llm_twin.delivery.supply_chain import verify_image

    where = Reference.parse(ref)
    signer = Signer(key, identity) if key or identity else None
    registry = open_registry(where.host, Settings.load(root=ROOT))
    done = verify_image(registry, where, signer=signer)
    for check in done.checks:
        print(check)
    if not done.ok:
        raise Exit(f"error: the image is not what it should be: {ref}", code=1)


@task(
    klass=TaskWithOptionalLast,
    positional=["ref"],
    help={"ref": "an image in a registry; default: that of the working tree"},
    auto_shortflags=False,
)
@tell_errors
def scan(c: Context, ref: str = "") -> None:
    """Look for secrets in every layer of an image, its history and its documents."""
    found = scanned_ref(ref) if ref else scanned(built())
    if found:
        raise Exit(f"error: {len(found)} secrets are in the image: {ref}", code=1)
    print("no secret was found")


def scanned_ref(text: str) -> list[Finding]:
    """What is found in an image of a registry and in what is attached to it."""
    from llm_twin.delivery import provenance, sbom
    from llm_twin.delivery.layers import RegistryImage
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import open_registry
    from llm_twin.delivery.supply_chain import attached_documents

    ref = Reference.parse(text)
    registry = open_registry(ref.host, Settings.load(root=ROOT))
    documents = {
        f"{name} {each.digest}": each.data
        for name, kind in (("SBOM", sbom.KIND), ("provenance", provenance.KIND))
        for each in attached_documents(registry, ref, kind)
    }
    return scanned(RegistryImage(registry, ref), documents)


image = Collection("image", verify, scan)
