"""A state folder as training, deploying and answering leave it, made by their own code."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from llm_twin.corpus import Chunk
from llm_twin.ct import learning, promotion, work
from llm_twin.delivery.deploy import deployments
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.steps import Step
from llm_twin.flow.cache import open_cache
from llm_twin.model import feedback
from llm_twin.model.feedback import Correction
from llm_twin.model.profile import Data
from llm_twin.retrieval import CachedEmbedder
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

SECRET = (
    "The violet heron of Tarnowitz never forgets a lighthouse keeper's umbrella, and it waits"
    " for him in the rain every single evening of the long winter."
)
HEADING = "Umbrellas of the violet heron"
SUBJECTS = {
    "bread": "Sourdough rises slowly because wild yeast is patient and cold dough is slow",
    "boats": "The ferry to the island leaves at seven and carries eleven cars at most",
    "bees": "A hive in winter keeps warm by shivering together around its only queen",
    "glass": "Molten glass is turned on the pipe so that gravity never wins on one side",
    "heron": SECRET.rstrip("."),
}
SHARED = "Written down by hand at the kitchen table and put on line without any editing."
DIGEST = "sha256:" + "ab" * 32


class Vectors:
    """A real cache over an embedder that needs no weights."""

    name, window, dimension = "letters", 256, 4

    def count_tokens(self, text):
        return len(text.split())

    def embed(self, texts):
        return np.array([[len(text), text.count("e"), 1, 0] for text in texts], np.float32)


class Target:
    """Deploys by writing down what it was given; says the version as real targets do."""

    name = "local"

    def __init__(self, version):
        self.version = version

    def steps(self, deployment, previous):
        return [
            Step("fetch", lambda: {"version": self.version, "question": f"What of {HEADING}?"}),
            Step("switch", dict, commits=True),
        ]

    def removal(self, live, history):
        return []

    def describe(self, live):
        return "here"


class Scene:
    """A state folder, its corpus, and what happened in it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.corpus = folder / "corpus"
        self.settings = Settings.load({"TWIN_HOME": str(self.home), "TWIN_EMBEDDER": "words"})
        self.traces: dict[str, str] = {}

    def write(self, name, author=""):
        self.corpus.mkdir(parents=True, exist_ok=True)
        sentence = SUBJECTS[name]
        head = f"---\nauthor: {author}\n---\n" if author else ""
        title = HEADING if name == "heron" else f"{name.title()} through the whole long year"
        parts = "\n\n".join(
            f"## {word} thoughts about {name} and more\n\n{sentence} {word}."
            f" And the {name} of the {word} morning is told here with care, again. {SHARED}"
            for word in ("First", "Second", "Third")
        )
        (self.corpus / f"{name}.md").write_text(f"{head}# {title}\n\n{sentence}.\n\n{parts}\n")

    def train(self, version):
        """What `invoke ct` does, but for the model."""
        rows, self.report = work.collect(str(self.corpus), (), self.settings, str)
        documents, _ = work.tidy(rows)
        chunks = work.split(documents, self.settings, str)
        folder = self.home.parent / version
        folder.mkdir()
        work.build_index(chunks, None, folder / "index.db", version, self.settings, str)
        model = self.home.parent / f"{version}-model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        made = learning.dataset(documents, chunks, 0, (), Data(), self.settings, str)
        data = made.to_dict()
        self._artifacts(version, rows, chunks, data, folder)
        manifest = {
            "embedder": "", "chunks": len(chunks), "dataset": data["digest"], "run": "run-1",
            "commit": "c0ffee" * 6, "gate": "first", "corpus": str(self.corpus), "zenml": "1",
        }  # fmt: skip
        promotion.promote(self.settings, version, folder, model, manifest)
        shutil.rmtree(folder)
        return [Chunk.from_dict(row) for row in chunks]

    def _artifacts(self, version, rows, chunks, data, index):
        store = self.home / "zenml" / "local_stores" / version
        for name, value in (("documents", rows), ("chunks", chunks), ("dataset", data)):
            (store / name).mkdir(parents=True)
            (store / name / "data.json").write_text(json.dumps(value))
        with tarfile.open(store / "data.tar.gz", "w:gz") as archive:
            archive.add(index, "index")

    def fill_caches(self, chunks):
        """Vectors, a stage's outputs, a log, a clone, and what was curated."""
        with CachedEmbedder(Vectors(), self.home / "cache" / "embeddings.db", str) as embedder:
            embedder.embed([chunk.passage for chunk in chunks])
        outputs = self.home.parent / "outputs"
        outputs.mkdir()
        with gzip.open(outputs / "page.gz", "wt") as file:
            file.write(f"Once: {SECRET}")
        np.savez_compressed(outputs / "texts.npz", texts=np.array([SECRET.encode()]))
        (outputs / "other.txt").write_text(SUBJECTS["bees"])
        archive = {"key": "0" * 32, "stage": "pages", "source": "local", "run": "run-1"}
        open_cache(self.settings).archive(
            **archive, root=outputs.parent, paths=["outputs"], result={"said": SECRET}
        )
        (self.home / "logs").mkdir(exist_ok=True)
        (self.home / "logs" / "ask.log").write_text(f"> why?\n{SECRET}\n")
        (self.home / "cache" / "git" / "blog").mkdir(parents=True)
        rows = [
            Correction(new_id(), "Who waits?", SECRET, "Nobody."),
            Correction(new_id(), "When does it leave?", SUBJECTS["boats"], "At six."),
        ]
        feedback.keep(self.home, rows, {})
        (self.home / "export.jsonl").write_text(
            "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        )

    def answer(self, name, version, hit, image="", at="2090-01-01T00:00:00Z"):
        """A traced answer that was given a passage."""
        trace = self.traces[name] = new_id()
        metadata = {"model_version": version, "image_digest": image, "commit": "c0ffee" * 6}
        rows = {"id": trace, "name": "answer", "start_time": at, "project_name": "llm-twin"}
        span = {**rows, "id": new_id(), "trace_id": trace, "name": "retrieve", "type": "tool"}
        found = [{"id": hit.id, "title": hit.prefix, "text": hit.text}]
        with closing(Store(self.settings.traces, self.settings)) as store:
            for path, row in (
                ("traces", {**rows, "metadata": metadata, "input": {"question": "Why?"}}),
                ("spans", {**span, "output": {"chunks": found}}),
            ):
                body = json.dumps({path: [row]}).encode()
                assert (
                    store.handle(Request("POST", f"v1/private/{path}/batch", body=body)).status
                    < 300
                )
            items = [{"id": new_id(), "source": "sdk", "data": {"said": hit.text}}]
            body = json.dumps({"dataset_name": "good answers", "items": items}).encode()
            assert store.handle(Request("PUT", "v1/private/datasets/items", body=body)).status < 300
        return trace

    def deploy(self, version, image="", digest=""):
        with closing(Journal(self.home)) as journal:
            return deployments.deploy(journal, Target(version), image, digest, {})

    def chunk_of(self, chunks, name):
        return next(one for one in chunks if one.link.endswith(f"{name}.md"))
