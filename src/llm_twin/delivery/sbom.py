"""What an image is made of, as a CycloneDX document: Python and Debian packages, and the twin.

The image itself is asked, by a short program that runs in it without a network: a lock file says
what was wanted, not what is there. The same image always gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llm_twin.errors import NotReadyError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cyclonedx.model.component import Component

    from llm_twin.delivery.engine import Engine
    from llm_twin.delivery.reference import Reference

    # name, version, package URL, and the fields that say something of its licence
    Part = tuple[str, str, Any, Mapping[str, Any]]

KIND = "application/vnd.cyclonedx+json"
SECONDS = 60
VERSION_LABEL = "org.opencontainers.image.version"
LONGEST_LICENSE = 64
TROVE = "License :: "

# Runs in the image, on whatever Python that has. Packages of Debian's that are Python distributions
# too are in both lists, as they are in the image.
PROGRAM = """
import email, glob, json, os, platform
def fields(path, names):
    with open(path, encoding="utf-8", errors="replace") as file:
        head = email.message_from_string(file.read().split("\\n\\n")[0])
    return {name: head.get_all(name) for name in names if head.get_all(name)}
def distributions():
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        for name in folders:
            path = os.path.join(folder, name, "METADATA")
            if name.endswith(".dist-info") and os.path.exists(path):
                wanted = "Name", "Version", "License-Expression", "License", "Classifier"
                yield fields(path, wanted)
def packages():
    text = ""
    for path in ["/var/lib/dpkg/status", *sorted(glob.glob("/var/lib/dpkg/status.d/*"))]:
        if os.path.exists(path) and not path.endswith(".md5sums"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text += file.read() + "\\n\\n"
    for part in filter(str.strip, text.split("\\n\\n")):
        head = email.message_from_string(part.strip())
        if "not-installed" not in head.get("Status", "") and "Version" in head:
            yield [head["Package"], head["Version"], head.get("Architecture", "")]
def system():
    try:
        return platform.freedesktop_os_release()
    except (AttributeError, OSError):
        return {}
print(json.dumps({"python": platform.python_version(), "system": system(),
                  "distributions": list(distributions()), "packages": list(packages())}))
"""


def make(engine: Engine, image: str, ref: Reference) -> bytes:
    """Describe an image that the engine has.

    Args:
        engine: where it is, and where the program runs.
        image: its id or name there.
        ref: where it was pushed, by digest.

    Returns: a CycloneDX 1.6 document.

    Raises:
        NotReadyError: there is no such image, or no Python in it.
        RemoteError: the engine failed.

    """
    found = _inside(engine, image)
    about = engine.api.inspect_image(image)
    labels = (about.get("Config") or {}).get("Labels") or {}
    created = datetime.fromisoformat(about["Created"][:19] + "+00:00")
    return document(found, ref, created, labels.get(VERSION_LABEL, ""))


def document(found: Mapping[str, Any], ref: Reference, created: datetime, model: str = "") -> bytes:
    """The document for what the program found in an image; ``model`` is the twin's version."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    name = ref.name.rpartition("/")[2]
    place = {"repository_url": ref.repository}
    described = Component(
        name=ref.repository,
        version=ref.digest,
        type=ComponentType.CONTAINER,
        purl=PackageURL("oci", None, name, ref.digest, place),
        bom_ref=str(ref),
    )
    twin = Component(
        name=name, version=model, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="twin"
    )
    parts = [*_components(found), *([twin] if model else [])]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, str(ref)),
        metadata=BomMetaData(timestamp=created, component=described),
        components=parts,
    )
    bom.register_dependency(described, parts)
    parsed = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library adds itself, and the same image would change its document with it.
    parsed["metadata"].pop("tools", None)
    return json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode()


def problem(data: bytes) -> str:
    """Why these bytes are no CycloneDX 1.6 document; empty if they are one."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        text = data.decode()
        wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except ValueError as error:
        return f"it is no JSON ({type(error).__name__})"
    return " ".join(str(wrong).split())[:120] if wrong else ""


def described_digest(data: bytes) -> str:
    """The digest of the image that a valid document describes; empty if it names none."""
    return str(json.loads(data).get("metadata", {}).get("component", {}).get("version", ""))


def _inside(engine: Engine, image: str) -> dict[str, Any]:
    """What the program prints in the image."""
    import requests
    from docker.errors import APIError, DockerException, ImageNotFound  # type: ignore[import-untyped]

    api = engine.api
    limits = api.create_host_config(
        network_mode="none", read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"]
    )
    container = ""
    try:
        container = api.create_container(
            image, ["-I", "-c", PROGRAM], entrypoint=["python3"], host_config=limits,
            user="0:0", healthcheck={"test": ["NONE"]},
        )["Id"]  # fmt: skip
        api.start(container)
        status = api.wait(container, timeout=SECONDS)["StatusCode"]
        printed = api.logs(container, stdout=True, stderr=False)
        said = api.logs(container, stdout=False, stderr=True, tail=1)
        if status:
            raise RemoteError(f"the image cannot be asked what is in it ({said.decode()})", image)
        return dict(json.loads(printed))
    except ImageNotFound:
        raise NotReadyError("the engine has no such image", image, "Build it first") from None
    except APIError as error:
        what = "an image without python3 cannot be asked what is in it"
        raise NotReadyError(f"{what} ({error.explanation})", image) from None
    except (DockerException, requests.RequestException) as error:
        raise RemoteError(
            f"the engine failed while it ran the image ({type(error).__name__})", image
        ) from None
    finally:
        if container:
            api.remove_container(container, force=True)


def _components(found: Mapping[str, Any]) -> Iterator[Component]:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    seen: set[str] = set()
    interpreter = PackageURL("generic", None, "python", found["python"])
    python: Part = ("python", found["python"], interpreter, {})
    for name, version, purl, fields in (python, *_distributions(found), *_packages(found)):
        if str(purl) not in seen:
            seen.add(str(purl))
            yield Component(
                name=name, version=version, purl=purl, bom_ref=str(purl), licenses=_licenses(fields)
            )


def _distributions(found: Mapping[str, Any]) -> Iterator[Part]:
    from packageurl import PackageURL

    for fields in found["distributions"]:
        name, version = fields["Name"][0], fields["Version"][0]
        yield name, version, PackageURL("pypi", None, name, version), fields


def _packages(found: Mapping[str, Any]) -> Iterator[Part]:
    from packageurl import PackageURL

    system = found["system"].get("ID", "debian")
    more = {"distro": f"{system}-{found['system'].get('VERSION_ID', '')}"}
    for name, version, architecture in found["packages"]:
        qualifiers = {"arch": architecture, **more}
        yield name, version, PackageURL("deb", system, name, version, qualifiers), {}


def _licenses(fields: Mapping[str, Any]) -> list[Any]:
    """What a distribution says: an SPDX expression, else a short text, else its classifiers."""
    from cyclonedx.factory.license import LicenseFactory

    make = LicenseFactory().make_from_string
    texts = fields.get("License-Expression") or fields.get("License") or []
    if texts and len(texts[0]) <= LONGEST_LICENSE and "\n" not in texts[0].strip():
        return [make(texts[0].strip())]
    classifiers = [each for each in fields.get("Classifier", ()) if each.startswith(TROVE)]
    return [make(each.rpartition(" :: ")[2]) for each in classifiers[:1]]
