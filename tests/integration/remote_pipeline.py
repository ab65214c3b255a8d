"""A pipeline with the shape of ``ct``: it unpacks luggage, works, and returns a bundle's folder.

Sent to a job as ``tiny.py`` next to the library, in a folder that is the source root.
"""

import os
import time
from pathlib import Path
from typing import Annotated, Any

from zenml import pipeline, step
from zenml.client import Client

import llm_twin
from llm_twin.ct import luggage, work
from llm_twin.model.bundles import Bundles
from llm_twin.settings import Settings


@step
def unpack(luggage_id: str) -> Annotated[dict[str, Any], "unpacked"]:
    print(f"code is at {Path(llm_twin.__file__).parent}", flush=True)
    folder = Client().get_artifact_version(luggage_id).load()
    return luggage.unpack(folder, Settings.load())


@step
def index(
    unpacked: dict[str, Any], version: str, how: str
) -> tuple[Annotated[Path, "index"], Annotated[dict[str, Any], "indexed"]]:
    settings = Settings.load()
    print(f"training {settings.home}", flush=True)
    while how == "hang":
        time.sleep(1)
        print("still training", flush=True)
    if how == "fail":
        raise ValueError("the data is not\nright")
    rows, _ = work.collect(unpacked["corpus"], [], settings, print)
    chunks = work.split(rows, settings, print)
    bundle = Bundles(settings.home / "models").production()
    folder = settings.home / "made"
    folder.mkdir()
    before = bundle.index_path if bundle else None
    report = work.build_index(chunks, before, folder / "index.db", version, settings, print)
    keys = ("TWIN_REMOTE", "TWIN_LLM_KEY")
    report |= {key: os.environ.get(key, "") for key in keys}
    report["before"] = bundle.version if bundle else ""
    return folder, report


@step
def promote(index: Path, version: str) -> Annotated[Path, "bundle"]:
    bundles = Bundles(Settings.load().home / "models")
    building = bundles.stage()
    (building / "index.db").write_bytes((index / "index.db").read_bytes())
    return bundles.commit(building, version, {"corpus": "elsewhere", "documents": []})


@pipeline(
    name="tiny", dynamic=True, enable_cache=False, enable_step_logs=False,
    enable_pipeline_logs=False, enable_artifact_metadata=False, enable_heartbeat=False,
)  # fmt: skip
def tiny(luggage_id: str, version: str, how: str = "") -> None:
    unpacked = unpack(luggage_id)
    made, _ = index(unpacked, version, how)
    promote(made, version)
