"""`invoke forget` as a user types it, over what real training left: ZenML's artifacts, a model."""

import gzip
import json
import os
import random
import re
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.commands import Commands

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.torch, pytest.mark.slow]
SENTENCE = (
    "The violet heron of Tarnowitz never forgets a lighthouse keeper's umbrella, and it waits for"
    " him in the rain every single evening of the long winter until the ferry has gone."
)
HEADING = "Umbrellas of the violet heron"
PHRASES = [b"violet heron of tarnowitz", b"waits for him in the rain", b"umbrellas of the violet"]
NAMES = ("gates", "caches", "stages", "runs", "models", "traces", "images", "alerts")
VERBS = ("keep", "find", "lose", "count", "paint", "carry", "follow", "repair", "name", "hide")


class Laptop(Commands):
    """A state folder, a corpus, and the commands a user types."""

    def __init__(self, folder):
        self.home, self.corpus = folder / "home", folder / "corpus"
        self.environment = {**os.environ, "TWIN_HOME": str(self.home), "TWIN_EMBEDDER": "words"}
        self.corpus.mkdir()
        for number, name in enumerate(NAMES):
            sections = "\n\n".join(
                f"## {word} notes on {name} of every kind\n\n" + self._prose(name, word, number)
                for word in ("Early", "Later", "Final")
            )
            (self.corpus / f"{name}.md").write_text(f"# Working with {name}\n\n{sections}\n")
        text = (
            f"# {HEADING}\n\n## Evenings of a lighthouse keeper\n\n{SENTENCE} " + "It rains. " * 20
        )
        (self.corpus / "heron.md").write_text(text)

    def _prose(self, name, word, number):
        draw = random.Random(f"{name} {word}")
        said = (f"the {draw.choice(NAMES)} {draw.choice(VERBS)} {number + at} {draw.choice(NAMES)}"
                for at in range(40))  # fmt: skip
        return f"{word} we saw that {name} matter: {', and '.join(said)}."

    def ct(self):
        code, out = self.invoke("ct", "--corpus", str(self.corpus), "--budget", "4s")
        assert code == 0, out
        return out

    def bundle(self):
        return json.loads((self.home / "models" / "production" / "bundle.json").read_text())


def holders(home):
    """Files in which a sentence, or the heading, can still be read."""
    found = []
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data += gzip.decompress(data)
            if data[:6] == b"SQLite":
                with closing(sqlite3.connect(path)) as db:
                    data += "\n".join(db.iterdump()).encode()
            plain = re.sub(rb"\W+", b" ", data.replace(b"\\n", b" ").lower())
            if any(phrase in plain for phrase in PHRASES):
                found.append(path.relative_to(home).as_posix())
    return found


def free_port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def test_an_article_is_forgotten_and_its_model_refused_and_replaced(tmp_path):
    laptop = Laptop(tmp_path)
    laptop.ct()
    first = laptop.bundle()
    assert len(first["details"]["documents"]) == 9
    assert len(holders(laptop.home)) >= 7

    code, shown = laptop.invoke("forget", "heron.md", "--deadline", "0s")
    assert code == 0, shown
    assert HEADING in shown
    assert "Nothing is forgotten yet" in shown

    killed = laptop.start("forget", "heron.md", "--deadline", "0s", "--yes")
    for line in killed.stdout:
        if line.startswith("  tainted: "):
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    code, finished = laptop.invoke("forget")
    assert code == 0, finished
    assert "finishing forget-" in finished
    assert f"{first['version']}.1 learned from it and is refused" in finished
    assert holders(laptop.home) == []
    assert (laptop.corpus / "heron.md").exists()

    code, refused = laptop.invoke("deploy", "--process", "--port", free_port())
    assert code == 1, refused
    assert "the model is tainted: it learned from what was to be forgotten by" in refused
    assert "Make one without it: invoke ct" in refused

    out = laptop.ct()
    assert f"production {first['version']}.1 is not compared" in out
    assert "skipped     heron.md: it was asked to be forgotten" in out
    assert len(laptop.bundle()["details"]["documents"]) == 8
    assert laptop.bundle()["version"] != f"{first['version']}.1"
    assert holders(laptop.home) == []

    code, told = laptop.invoke("lineage", "heron.md", "--json")
    assert code == 0, told
    saw = {row["id"] for row in json.loads(told)["led_to"] if row["kind"] == "model"}
    assert saw == {first["version"], f"{first['version']}.1"}
