"""Training killed with ``kill -9`` in every phase: it goes on, and ends with the very same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from llm_twin.model import durable
from llm_twin.model.dataset import Dataset, Pair, Preference

pytestmark = [pytest.mark.torch]

SCRIPT = """
import json, sys
from pathlib import Path
from llm_twin.model.dataset import Dataset
from llm_twin.model.profile import Base, Training
from llm_twin.model.train import train
given = json.loads(Path(sys.argv[1]).read_text())
report = train(
    Dataset.from_dict(given["dataset"]), Path(sys.argv[2]),
    Training.model_validate(given["training"]), Base(), lambda line: print(line, flush=True), 7,
    checkpoints=Path(sys.argv[3]) if len(sys.argv) > 3 else None,
)
print(json.dumps(report.to_dict()))
"""
WAIT = 240.0
FOUND = 180.0
WORDS = [
    "gate",
    "keeps",
    "run",
    "while",
    "index",
    "reads",
    "passages",
    "trace",
    "answers",
    "reader",
]


def sentences(draw, count):
    return " ".join(" ".join(draw.choices(WORDS, k=9)).capitalize() + "." for _ in range(count))


@pytest.fixture(scope="module")
def dataset():
    draw = random.Random(0)
    return Dataset(
        train_texts=[sentences(draw, 12) for _ in range(60)],
        heldout_texts=[sentences(draw, 6) for _ in range(4)],
        pairs=[Pair(f"Write part {at}.", sentences(draw, 5)) for at in range(96)],
        heldout_pairs=[],
        questions=[],
        split_by="document",
        dropped=0,
        seed=0,
        preferences=[
            Preference(f"What of {at}?", sentences(draw, 3), sentences(draw, 3)) for at in range(40)
        ],
    )


def settings(**changed):
    return {
        "budget": {"tokens": 90_000},
        "checkpoints": {"every": "0.2s", "keep": 2},
        "pretrain": {"epochs": 30},
        "sft": {"batch": 4, "rate": 1e-3},
        "dpo": {"batch": 4, "rate": 1e-4},
        **changed,
    }


ADAPTERS = {
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "stopping": {"patience": 50, "evaluations": 4},
}


class Trainer:
    """Runs one training in a process of its own, again and again, in one folder."""

    def __init__(self, folder, dataset, training):
        folder.mkdir()
        self.folder, self.model, self.saved = folder, folder / "model", folder / "checkpoints"
        self.given = folder / "given.json"
        self.given.write_text(json.dumps({"dataset": dataset.to_dict(), "training": training}))

    def start(self, *saved):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.given), str(self.model), *map(str, saved)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "random"},
        )

    def finish(self, *saved):
        """Let it end; return its lines and its report."""
        process = self.start(*saved)
        out, err = process.communicate(timeout=WAIT)
        assert process.returncode == 0, err
        lines = out.splitlines()
        return lines[:-1], json.loads(lines[-1])

    def kill_in(self, phase, steps=1):
        """Kill it when a phase has that many checkpoints; return its lines and the newest one."""
        process = self.start(self.saved)
        end = time.monotonic() + FOUND
        try:
            while len(self.steps(phase)) < steps:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end, f"no checkpoint in {phase}"
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate(timeout=WAIT)
        assert process.returncode == -signal.SIGKILL
        assert not self.model.exists()
        return out.splitlines(), self.steps(phase)[-1]

    def steps(self, phase):
        return sorted(self.saved.glob(f"*/{phase}/step-*"))

    def weights(self):
        return durable.sha256_of(self.model / "model.safetensors")

    def curve(self):
        """(phase, step) of every point of the loss, in the file's order."""
        lines = (self.model / "curves.jsonl").read_text().splitlines()
        return [
            (one["phase"], one["step"], one["loss"])
            for one in map(json.loads, lines)
            if "loss" in one
        ]


def test_killed_in_pretraining_and_tuning_it_ends_with_the_same_bits(tmp_path, dataset):
    whole = Trainer(tmp_path / "whole", dataset, settings())
    _, expected = whole.finish()
    killed = Trainer(tmp_path / "killed", dataset, settings())
    _, newest = killed.kill_in("pretrain", steps=2)
    before = killed.steps("pretrain")[-2].name
    torn = newest / "state.pt"
    torn.write_bytes(torn.read_bytes()[:-7])
    lines, _ = killed.kill_in("sft")
    assert f"the checkpoint {newest} is damaged: going on from the one before it" in lines
    assert f"pretrain goes on from step {int(before.removeprefix('step-'))}" in lines
    _, report = killed.finish(killed.saved)
    same_as_uninterrupted(killed, whole, report, expected, "sft")


def test_killed_with_adapters_it_ends_with_the_same_bits(tmp_path, dataset):
    """Dropout and early stopping on: the random state and the best weights go on too."""
    whole = Trainer(tmp_path / "whole", dataset, settings(**ADAPTERS))
    _, expected = whole.finish()
    killed = Trainer(tmp_path / "killed", dataset, settings(**ADAPTERS))
    _, newest = killed.kill_in("sft", steps=2)
    before = int(killed.steps("sft")[-2].name.removeprefix("step-"))
    torn = newest / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    lines, _ = killed.kill_in("dpo")
    assert f"sft goes on from step {before}" in lines
    _, report = killed.finish(killed.saved)
    assert report["sft"]["set_aside"] == 9
    assert 0 < report["sft"]["best_step"] <= report["sft"]["steps"]
    same_as_uninterrupted(killed, whole, report, expected, "dpo")


def same_as_uninterrupted(killed, whole, report, expected, phase):
    assert report["resumed_from"]["phase"] == phase
    assert report["resumed_from"]["step"] >= 1
    assert expected["resumed_from"] is None
    assert killed.weights() == whole.weights()
    assert killed.curve() == whole.curve()
    for name in ("tokens_seen", "stopped_by", "heldout_after_sft", "heldout_after_dpo"):
        assert report[name] == expected[name]
    assert list(killed.saved.iterdir()) == []
