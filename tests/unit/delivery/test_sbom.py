"""The SBOM's document: valid, complete, and the same for the same image."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from llm_twin.delivery import sbom
from llm_twin.delivery.reference import Reference

DIGEST = "sha256:" + "a1" * 32
REF = Reference.parse(f"localhost:5000/team/llm-twin@{DIGEST}")
CREATED = datetime(2026, 11, 23, 12, tzinfo=UTC)
FOUND = {
    "python": "3.11.2",
    "system": {"ID": "debian", "VERSION_ID": "12"},
    "distributions": [
        {"Name": ["tqdm"], "Version": ["4.70"], "License-Expression": ["MPL-2.0 AND MIT"]},
        {"Name": ["PyYAML"], "Version": ["6.0"], "License": ["MIT"]},
        {"Name": ["PyYAML"], "Version": ["6.0"], "License": ["MIT"]},
        {
            "Name": ["odd"], "Version": ["1"], "License": ["A long text\nof a licence"],
            "Classifier": ["Topic :: X", "License :: OSI Approved :: Apache Software License"],
        },
        {"Name": ["bare"], "Version": ["2"]},
    ],
    "packages": [["zlib1g", "1:1.2.13.dfsg-1", "amd64"], ["adduser", "3.134", "all"]],
}  # fmt: skip


def test_the_document_names_everything_that_was_found() -> None:
    data = sbom.document(FOUND, REF, CREATED, "v7")

    assert sbom.problem(data) == ""
    assert sbom.described_digest(data) == DIGEST
    document = json.loads(data)
    assert document["metadata"]["timestamp"] == "2026-11-23T12:00:00+00:00"
    assert document["metadata"]["component"]["name"] == "localhost:5000/team/llm-twin"
    parts = {each.get("purl", each["type"]): each for each in document["components"]}
    assert sorted(parts) == [
        "machine-learning-model",
        "pkg:deb/debian/adduser@3.134?arch=all&distro=debian-12",
        "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12",
        "pkg:generic/python@3.11.2",
        "pkg:pypi/bare@2",
        "pkg:pypi/odd@1",
        "pkg:pypi/pyyaml@6.0",
        "pkg:pypi/tqdm@4.70",
    ]
    assert parts["machine-learning-model"]["version"] == "v7"
    assert parts["pkg:pypi/tqdm@4.70"]["licenses"][0]["expression"] == "MPL-2.0 AND MIT"
    assert parts["pkg:pypi/pyyaml@6.0"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert parts["pkg:pypi/odd@1"]["licenses"] == [{"license": {"name": "Apache Software License"}}]
    assert "licenses" not in parts["pkg:pypi/bare@2"]


def test_the_same_image_has_the_same_document_and_another_digest_another() -> None:
    backwards = {**FOUND, "distributions": FOUND["distributions"][::-1]}
    other = REF.pinned("sha256:" + "b2" * 32)

    first = sbom.document(FOUND, REF, CREATED)

    assert first == sbom.document(backwards, REF, CREATED)
    assert first != sbom.document(FOUND, other, CREATED)
    assert b"machine-learning-model" not in first


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no json", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"{}", "'bomFormat' is a required property"),
        (b'{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{}]}', "required property"),
    ],
)
def test_what_is_no_document_is_said_in_a_line(data, words) -> None:
    problem = sbom.problem(data)

    assert words in problem
    assert "\n" not in problem
