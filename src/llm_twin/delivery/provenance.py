"""Where an image comes from, as an in-toto statement with SLSA's provenance.

Who built it, when and of what. Only the fields named here get in; the environment never does.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:llm-twin:build-push:1"
LAPTOP = "urn:llm-twin:builder:laptop"
SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|key")
LOGIN = re.compile(r"//[^/@\s]*@")

TEXT = {"type": "string"}
HEX = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


def _list(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": len(items), "prefixItems": [*items]}


# What is needed to verify an image; a statement may say more.
SCHEMA = _object(
    _type={"const": STATEMENT},
    predicateType={"const": PREDICATE},
    subject=_list(_object(name=TEXT, digest=_object(sha256=HEX))),
    predicate=_object(
        buildDefinition=_object(
            buildType={"const": BUILD_TYPE},
            externalParameters=_object(sourceTag=TEXT, target=TEXT, platform=TEXT),
            resolvedDependencies=_list(
                _object(
                    name={"const": "source"},
                    digest=_object(gitCommit=TEXT),
                    annotations=_object(dirty={"type": "boolean"}),
                ),
                _object(name={"const": "base"}, digest=_object(sha256=TEXT)),
                _object(
                    name={"const": "bundle"},
                    annotations=_object(
                        modelVersion=TEXT, datasetDigest=TEXT, gate={"type": "object"}
                    ),
                ),
            ),
        ),
        runDetails=_object(
            builder=_object(id=TEXT),
            metadata=_object(invocationId=TEXT, startedOn=TEXT, finishedOn=TEXT),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How an image came to be.

    Attributes:
        name: of the image, without tag and digest.
        digest: of the image in its registry.
        source_tag: the digest of all that went into the build.
        commit: of the repository; empty if there is none.
        dirty: whether the working tree had changes beside it.
        repository: where the commit is, like ``https://github.com/owner/name``; a login in it is
            left out.
        target: the stage of the Dockerfile.
        platform: like ``linux/amd64``.
        build_args: the build arguments, but those whose names say secret.
        base: the name of the base image.
        base_digest: what that stood for.
        model_version: of the bundle inside.
        dataset_digest: of what its model was trained on.
        gate: the verdict that let the bundle be promoted.
        builder: who built: the workflow, or a laptop.
        invocation: this one build.
        started: ISO 8601, UTC.
        finished: likewise.

    """

    name: str
    digest: str
    source_tag: str
    commit: str
    base: str
    base_digest: str
    model_version: str
    dataset_digest: str
    started: str
    finished: str
    dirty: bool = False
    repository: str = ""
    target: str = ""
    platform: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    builder: str = LAPTOP
    invocation: str = field(default_factory=lambda: f"urn:uuid:{uuid.uuid4()}")

    def document(self) -> bytes:
        """The statement, as JSON."""
        statement = {
            "_type": STATEMENT,
            "subject": [{"name": self.name, "digest": {"sha256": _hex(self.digest)}}],
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": self._parameters(),
                    "resolvedDependencies": self._dependencies(),
                },
                "runDetails": {
                    "builder": {"id": self.builder},
                    "metadata": {
                        "invocationId": self.invocation,
                        "startedOn": self.started,
                        "finishedOn": self.finished,
                    },
                },
            },
        }
        return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()

    def _parameters(self) -> dict[str, Any]:
        arguments = {k: v for k, v in self.build_args.items() if not SECRET_NAME.search(k)}
        return {
            "sourceTag": self.source_tag,
            "target": self.target,
            "platform": self.platform,
            "buildArgs": {name: LOGIN.sub("//", value) for name, value in arguments.items()},
        }

    def _dependencies(self) -> list[dict[str, Any]]:
        uri = f"git+{LOGIN.sub('//', self.repository)}" if self.repository else "git+urn:local"
        return [
            {
                "name": "source",
                "uri": uri,
                "digest": {"gitCommit": self.commit},
                "annotations": {"dirty": self.dirty},
            },
            {
                "name": "base",
                "uri": f"docker://{LOGIN.sub('//', self.base)}",
                "digest": {"sha256": _hex(self.base_digest)},
            },
            {
                "name": "bundle",
                "uri": f"urn:llm-twin:model:{self.model_version}",
                "annotations": {
                    "modelVersion": self.model_version,
                    "datasetDigest": self.dataset_digest,
                    "gate": dict(self.gate),
                },
            },
        ]


def problem(data: bytes) -> str:
    """Why these bytes are no provenance statement; empty if they are one."""
    import jsonschema  # type: ignore[import-untyped]

    try:
        jsonschema.validate(json.loads(data), SCHEMA, jsonschema.Draft202012Validator)
    except ValueError as error:
        return f"it is no JSON ({type(error).__name__})"
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message}"[:120]
    return ""


def subject(data: bytes) -> str:
    """The digest of the image that a statement is about, in which ``problem`` finds none."""
    (first, *others) = json.loads(data)["subject"]
    return "several images" if others else f"sha256:{first['digest']['sha256']}"


def facts(data: bytes) -> dict[str, Any]:
    """What such a statement says that an image's labels say too."""
    definition = json.loads(data)["predicate"]["buildDefinition"]
    source, base, bundle, *_ = definition["resolvedDependencies"]
    return {
        "commit": source["digest"]["gitCommit"],
        "source tag": definition["externalParameters"]["sourceTag"],
        "base digest": base["digest"]["sha256"],
        "model version": bundle["annotations"]["modelVersion"],
        "dataset digest": bundle["annotations"]["datasetDigest"],
        "gate": bundle["annotations"]["gate"],
    }


def origin(environ: Mapping[str, str]) -> dict[str, str]:
    """``builder``, ``invocation`` and ``repository`` of a GitHub job; nothing elsewhere."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return {}
    server = environ["GITHUB_SERVER_URL"]
    repository = f"{server}/{environ['GITHUB_REPOSITORY']}"
    run, attempt = environ["GITHUB_RUN_ID"], environ.get("GITHUB_RUN_ATTEMPT", "1")
    return {
        "builder": f"{server}/{environ['GITHUB_WORKFLOW_REF']}",
        "invocation": f"{repository}/actions/runs/{run}/attempts/{attempt}",
        "repository": repository,
    }


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
