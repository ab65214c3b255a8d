"""What a training job elsewhere needs from here, as one folder; and the twin that comes back.

::

    luggage.json            what is in it, with the size and SHA-256 of every file
    corpus/NAME             the files of a local corpus; a remote one is fetched by the job itself
    models/VERSION/         the promoted bundle, to be judged against
    feedback/DIGEST/        readers' corrections, as they were curated
    forgotten.json          what may not be learned from
    embedder/               weights, so that the job downloads none
    extra/N/NAME            other files that the profile names

Ids of documents derive from paths relative to the corpus, so they are the same on both sides.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llm_twin.corpus import forgotten, open_source
from llm_twin.ct import promotion
from llm_twin.errors import ConfigError, NotReadyError, RemoteError
from llm_twin.model import bundles, durable, feedback
from llm_twin.retrieval import weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llm_twin.model.profile import Profile
    from llm_twin.settings import Settings

MANIFEST = "luggage.json"
FORMAT = 1
BUILT = (weights.MODEL, weights.TOKENIZER, weights.MANIFEST)
REPOSITORY = "pyproject.toml"


def paths_of(profile: Profile) -> list[str]:
    """The paths that a profile names and that exist here, the base model's folder included."""
    named = [*profile.data.instructions, *profile.data.preferences, *profile.evaluation.controls]
    return [path for path in (profile.base.model, *named) if Path(path).expanduser().exists()]


def with_paths(profile: Profile, moved: Mapping[str, str]) -> Profile:
    """The same profile with its paths as they are where the luggage was unpacked."""

    def there(paths: Iterable[str]) -> list[str]:
        return [moved.get(path, path) for path in paths]

    return profile.model_copy(
        update={
            "base": profile.base.model_copy(
                update={"model": moved.get(profile.base.model, profile.base.model)}
            ),
            "data": profile.data.model_copy(
                update={
                    "instructions": there(profile.data.instructions),
                    "preferences": there(profile.data.preferences),
                }
            ),
            "evaluation": profile.evaluation.model_copy(
                update={"controls": there(profile.evaluation.controls)}
            ),
        }
    )


def pack(
    folder: Path,
    corpus: str,
    settings: Settings,
    *,
    exclude: Sequence[str] = (),
    paths: Sequence[str] = (),
    curated: bool = True,
) -> str:
    """Fill an empty folder; return a digest that changes with anything in it.

    Args:
        folder: to fill.
        corpus: path or address, as `invoke ct` is given it.
        settings: whose state folder the rest comes from.
        exclude: patterns of the corpus' files to leave out.
        paths: other files and folders to take along.
        curated: take readers' corrections along.

    Raises:
        CorpusError: the corpus cannot be read.
        ConfigError: the corpus is here and cannot be taken along.

    """
    served = promotion.served(settings)
    if served:
        shutil.copytree(served.path, folder / "models" / served.version)
    rows = feedback.current(settings.home) if curated else None
    if rows:
        shutil.copytree(rows, folder / "feedback" / rows.name)
    wishes = settings.home / forgotten.FILE
    if wishes.exists():
        shutil.copyfile(wishes, folder / forgotten.FILE)
    _take_weights(settings, folder / "embedder")
    said = {
        "format": FORMAT,
        "corpus": _take_corpus(corpus, exclude, settings, folder / "corpus"),
        "said": corpus,
        "served": served.version if served else "",
        "curated": rows.name if rows else "",
        "paths": {path: _take(path, folder, number) for number, path in enumerate(paths)},
        "files": durable.list_files(folder, without=MANIFEST),
    }
    durable.write_json(folder / MANIFEST, said)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _take(path: str, folder: Path, number: int) -> str:
    source = Path(path).expanduser().resolve(strict=True)
    place = folder / "extra" / str(number) / source.name
    place.parent.mkdir(parents=True)
    shutil.copytree(source, place) if source.is_dir() else shutil.copyfile(source, place)
    return place.relative_to(folder).as_posix()


def _take_corpus(corpus: str, exclude: Sequence[str], settings: Settings, place: Path) -> str:
    """Copy what would be read; "" when that is not on this machine."""
    source = open_source(corpus, settings, exclude)
    local = Path(corpus.removeprefix("file://")).expanduser()
    if not (files := source.files()):
        if local.exists():
            raise ConfigError(
                "a bare repository cannot be taken to another machine",
                corpus,
                "Give a work tree of it, or its address",
            )
        return ""
    root = local.resolve(strict=True)
    target = place / root.name
    if root.is_file():
        place.mkdir()
        shutil.copyfile(root, target)
        return f"corpus/{root.name}"
    for path in files:
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if getattr(source, "repository", False) and not (target / REPOSITORY).exists():
        # By this file it is known there for a repository, whose docstrings are read too.
        (target / REPOSITORY).touch()
    return f"corpus/{root.name}"


def _take_weights(settings: Settings, target: Path) -> None:
    if settings.embedder != "minilm":
        return
    for home in (settings.embedder_home or settings.home / "embedder", settings.home / "embedder"):
        found = BUILT if weights.is_ready(home) else tuple(weights.SHA256)
        if all((home / name).is_file() for name in found):
            target.mkdir()
            for name in found:
                shutil.copyfile(home / name, target / name)
            return


def unpack(folder: Path, settings: Settings) -> dict[str, Any]:
    """Put luggage into an empty state folder.

    Returns:
        ``corpus``: what is to be read, its copy or as it was said; ``curated``: the folder
        of corrections or ""; ``paths``: where each path that was taken along is now.

    Raises:
        RemoteError: something of it is missing or was changed on the way.

    """
    said = _checked(folder)
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    if (folder / forgotten.FILE).exists():
        shutil.copyfile(folder / forgotten.FILE, home / forgotten.FILE)
    weighed = settings.embedder_home or home / "embedder"
    if (folder / "embedder").is_dir() and not weights.is_ready(weighed):
        shutil.copytree(folder / "embedder", weighed, dirs_exist_ok=True)
    if version := said["served"]:
        _install(folder / "models" / version, home)
        bundles.Bundles(home / "models").promote(version)
    curated = home / "feedback" / said["curated"]
    if said["curated"] and not curated.exists():
        shutil.copytree(folder / "feedback" / said["curated"], curated)
    # Copied, because ZenML removes what a step has loaded when that step ends.
    kept = home / "luggage"
    durable.remove(kept)
    for part in ("corpus", "extra"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, kept / part)
    return {
        "corpus": str(kept / said["corpus"]) if said["corpus"] else said["said"],
        "curated": str(curated) if said["curated"] else "",
        "paths": {path: str(kept / place) for path, place in said["paths"].items()},
    }


def _checked(folder: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RemoteError("the luggage has no manifest", folder, str(error)) from None
    if said.get("format") != FORMAT:
        raise RemoteError(
            "the luggage is of another version of llm-twin", folder, "Run the same on both sides"
        )
    if durable.list_files(folder, without=MANIFEST) != said["files"]:
        raise RemoteError("the luggage is not what was packed", folder, "Type: invoke ct --force")
    return said


def receive(settings: Settings, folder: Path, version: str) -> bundles.Bundle:
    """Take in the bundle that a job made, and switch production to it.

    Killed anywhere, production is the version before or this one; called again, it goes on.

    Raises:
        RemoteError: it is not the version asked for, or not what the job wrote.
        NotReadyError: it learned from what was to be forgotten meanwhile.

    """
    try:
        bundle = bundles.Bundle.open(folder)
        bundle.verify()
    except NotReadyError as error:
        raise RemoteError(f"the job's bundle is damaged ({error.what})", folder) from None
    details = bundle.manifest["details"]
    if bundle.version != version:
        raise RemoteError(f"the job made {bundle.version}, not {version}", folder)
    forgotten.refuse(settings.home, version, details.get("documents") or (), due=False)
    _install(folder, settings.home)
    promotion.remember(settings, version, details)
    return bundles.Bundles(settings.home / "models").promote(version)


def _install(folder: Path, home: Path) -> None:
    """Copy a bundle's folder to its place below a state folder, whole or not at all."""
    bundle = bundles.Bundle.open(folder)
    if bundle.version in (bundles.PRODUCTION, "..", ".") or "/" in bundle.version:
        raise RemoteError("a bundle's version is no name", repr(bundle.version))
    listed = bundle.manifest["files"]
    if set(durable.list_files(folder, without=bundles.MANIFEST)) != set(listed):
        raise RemoteError("a bundle holds other files than it lists", folder)
    if any(".." in PurePosixPath(name).parts for name in listed):
        raise RemoteError("a bundle lists a file outside of it", folder)
    place = bundles.Bundles(home / "models")
    target = place.folder / bundle.version
    if target.exists():
        return
    building = place.stage()
    shutil.copytree(folder, building, dirs_exist_ok=True)
    durable.sync_tree(building)
    building.rename(target)
    durable.sync(place.folder)
