"""A model really trained, saved, read back, scored and asked; seconds of CPU each."""

import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest

from llm_twin.errors import NotReadyError
from llm_twin.model import durable
from llm_twin.model.bundles import Bundles
from llm_twin.model.dataset import Dataset, make_dataset
from llm_twin.model.evaluation import evaluate_language
from llm_twin.model.gate import gate
from llm_twin.model.language_model import LocalModel
from llm_twin.model.profile import Base, Gate, Training
from llm_twin.model.train import train

pytestmark = pytest.mark.torch


def learn(dataset, folder, seconds=0.0, seed=0, saved=None, **settings):
    limits = {"time": f"{seconds}s"} if seconds else {"tokens": 12_000}
    training = Training.model_validate({"budget": limits, **settings})
    return train(dataset, folder, training, Base(), lambda line: None, seed, checkpoints=saved)


def test_training_writes_a_whole_hugging_face_folder(trained, dataset):
    folder, report, _ = trained
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "curves.jsonl",
    } <= set(manifest["files"])
    on_disk = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert on_disk == set(manifest["files"])
    for name, listed in manifest["files"].items():
        assert durable.sha256_of(folder / name) == listed["sha256"]
    assert manifest["training"]["dataset"] == dataset.digest
    assert manifest["training"]["parameters"] == report.parameters > 10_000
    assert set(manifest["versions"]) == {"torch", "transformers", "trl", "peft", "tokenizers"}
    assert manifest["base"] == {"model": "scratch", "revision": "", "license": ""}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_report_says_what_was_done(trained):
    _, report, lines = trained
    assert report.pretrain["steps"] >= report.pretrain["best_step"] >= 1
    assert report.sft["steps"] >= 1
    assert report.sft["rows"] > 0
    assert (report.method, report.device, report.precision) == ("all weights", "cpu", "fp32")
    assert (
        report.tokens_seen
        == report.pretrain["tokens"] + report.sft["tokens"] + (report.dpo["tokens"])
    )
    assert report.tokens_per_second["pretrain"] > 0
    assert report.stopped_by in ("time", "epochs")
    assert report.resumed_from is None
    assert report.heldout_after_sft > 0
    assert report.sft_made_it_worse == (report.heldout_after_sft > report.heldout_after_pretrain)
    assert report.budget == {"seconds": 4.0, "clock": "cpu", "tokens": 0}
    assert lines[0].startswith("loading torch")
    json.dumps(report.to_dict())


def test_four_seconds_beat_chance_on_texts_never_seen(model, dataset):
    found = evaluate_language(model, dataset)
    assert found["trigram"] < found["unigram"] < found["untrained"]
    assert found["bits_per_character"] < found["untrained"]
    assert found["n"] == len(dataset.heldout_texts) == len(found["items"])
    bits = sum(item["bits"] for item in found["items"])
    assert found["bits_per_character"] == pytest.approx(bits / found["characters"])
    assert found["perplexity"] == pytest.approx(2 ** (bits / found["tokens"]))
    json.dumps(found)


def test_a_model_against_itself_cannot_be_told_apart(model, dataset):
    found = evaluate_language(model, dataset)
    metrics = {"language": {**found, "unigram": 99.0}, "retrieval": {"n": 0, "items": []}}
    said = gate(metrics, metrics, Gate(), data_changed=False)
    assert (said.promote, said.verdict) == (False, "cannot tell")


def test_bits_are_the_sum_over_every_token(model):
    """Against transformers' own loss on one text that fits the context."""
    import torch

    text = "The gate promotes the corpus. The cache keeps the weights."
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[model.tokenizer.bos_token_id, *ids]])
    with torch.inference_mode():
        loss = model.network(input_ids=row, labels=row).loss
    ((bits, characters),) = model.bits_per_character([text])
    assert bits == pytest.approx(float(loss) * len(ids) / math.log(2), rel=1e-4)
    assert characters == len(text)
    assert model.perplexity([text]) == pytest.approx(2 ** (bits / len(ids)))


def test_the_next_token_is_a_distribution(model):
    total = 0.0
    every = [[9, 8, token] for token in range(len(model.tokenizer))]
    for own in model.token_bits(every):
        total += 2 ** -own[-1]
    assert total == pytest.approx(1, abs=1e-3)


def test_company_and_length_do_not_change_a_score(model):
    short, long = "The runner stops.", "The stage restores the digests, again and again. " * 60
    together = model.bits_per_character([long, short, "", long])
    assert together[1][0] == pytest.approx(model.bits_per_character([short])[0][0], rel=1e-4)
    assert together[0] == pytest.approx(together[3])
    assert together[2] == (0.0, 0)
    assert together[0][1] == len(long)
    assert all(own > 0 for own in model.token_bits([list(range(300)) * 3])[0])


def test_no_text_has_no_perplexity(model):
    assert model.perplexity([""]) == math.inf


def test_it_writes_the_same_for_the_same_seed(model):
    once = model.generate("The gate", max_tokens=20, seed=1)
    assert once
    assert model.generate("The gate", max_tokens=20, seed=1) == once
    assert model.generate("The gate", max_tokens=20, seed=2) != once
    greedy = model.generate("The gate", max_tokens=8, temperature=0)
    assert model.generate("The gate", max_tokens=8, temperature=0, seed=5) == greedy
    assert "<|" not in model.answer("What does the gate do?", max_tokens=20)
    assert isinstance(model.generate("a long prompt " * 500, max_tokens=4), str)


def test_generating_leaves_threads_and_random_state_alone(model):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    before = torch.get_num_threads()
    model.generate("The gate", max_tokens=4)
    assert torch.get_num_threads() == before
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    "text",
    ["plain", "tabs\tand\n\nlines ", "naïve 🦙 “quotes” 中文", "<|eos|> inside", "  spaces  "],
)
def test_the_tokenizer_writes_every_text_back(model, text):
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert model.tokenizer.decode(ids) == text


def test_the_tokenizer_is_the_same_for_the_same_texts(dataset):
    from llm_twin.model.tokenizer import train_tokenizer, vocabulary_size

    first, second = (train_tokenizer(dataset.train_texts, 256) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) <= vocabulary_size(sum(map(len, dataset.train_texts)))
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes."}]
    assert first.apply_chat_template(chat, tokenize=False) == (
        "<|bos|><|user|>Hello<|eos|><|assistant|>Yes.<|eos|>"
    )


def test_a_tiny_corpus_and_a_tiny_budget_train_too(write_author, tmp_path):
    tiny = make_dataset(*write_author(documents=3, sections=2, sentences=4))
    assert sum(map(len, tiny.train_texts)) < 4000
    report = learn(tiny, tmp_path / "model", seconds=0.5)
    assert report.pretrain["steps"] >= 1
    assert LocalModel.load(tmp_path / "model").generate("The", max_tokens=3) is not None


def test_without_pairs_there_is_no_tuning_and_a_new_model_replaces_the_old(write_author, tmp_path):
    documents, chunks = write_author(documents=4)
    made = make_dataset(documents, chunks).to_dict()
    made["pairs"] = made["preferences"] = []
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("the model before")
    report = learn(Dataset.from_dict(made), folder, seconds=0.5, seed=3)
    assert report.sft["steps"] == report.dpo["steps"] == 0
    assert report.dpo["loss"] is None
    assert report.heldout_after_dpo == report.heldout_after_sft
    assert report.heldout_after_sft == report.heldout_after_pretrain
    assert not report.sft_made_it_worse
    assert not (folder / "old.txt").exists()
    assert (folder / "manifest.json").exists()


def test_the_best_weights_are_kept(dataset):
    """With a rate that ruins the network, what is kept is what scored best."""
    import torch

    from llm_twin.model import pretrain, validation
    from llm_twin.model.budget import Budget
    from llm_twin.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(dataset.train_texts, 256)
    network = pretrain.new_network(tokenizer, pretrain.Shape(32, 1, 1))
    keeper = validation.Keeper(network, torch.arange(6, 200), Budget(1.0))
    keeper.look(1, 1.0)
    best = keeper.best
    with torch.no_grad():
        network.model.embed_tokens.weight.mul_(50)
    keeper.look(2, 1.0)
    assert keeper.best == best
    keeper.restore()
    assert keeper.best_step == 1
    keeper.look(3, 1.0)
    assert keeper.best == pytest.approx(best)


def test_progress_says_share_step_loss_speed_and_what_is_left(monkeypatch, tmp_path):
    from llm_twin.model import reporting
    from llm_twin.model.budget import Budget
    from llm_twin.model.curves import Curves

    monkeypatch.setattr(reporting, "EVERY", 0.0)
    lines, curves = [], Curves(tmp_path)
    reporter = reporting.Reporter("pretrain", lines.append, Budget(45), curves)
    reporter.budget.take(2048)
    reporter.step(210, 3.911, 0.25, rate=0.01)
    assert re.fullmatch(
        r"pretrain  25%  step 210  loss 3\.91  [\d,]+ tokens/s  \d+ s to go", lines[0]
    )
    monkeypatch.setattr(reporting, "EVERY", 3600.0)
    reporter.step(211, 3.9, 0.26)
    assert len(lines) == 1
    first, second = curves.points()
    assert (first["step"], first["loss"], first["rate"], first["tokens"]) == (
        210,
        3.911,
        0.01,
        2048,
    )
    assert second["step"] == 211


def test_a_folder_without_a_manifest_is_not_a_model(tmp_path, trained):
    with pytest.raises(NotReadyError, match=r"no trained model: .*Train one: invoke ct"):
        LocalModel.load(tmp_path)


SCRIPT = """
import json, sys
from pathlib import Path
from llm_twin.model.bundles import Bundles
from llm_twin.model.dataset import Dataset
from llm_twin.model.profile import Base, Budget, Training
from llm_twin.model.train import train
dataset = Dataset.from_dict(json.loads(Path(sys.argv[1]).read_text()))
building = Bundles(Path(sys.argv[2])).stage()
training = Training(budget=Budget(time=sys.argv[3]))
train(dataset, building / "model", training, Base(), lambda line: print(line, flush=True))
"""


def run_training(tmp_path, dataset, seconds, **environment):
    (tmp_path / "dataset.json").write_text(json.dumps(dataset.to_dict()))
    command = [
        sys.executable, "-c", SCRIPT, str(tmp_path / "dataset.json"), str(tmp_path / "models"),
        str(seconds),
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **environment},
    )


def test_killed_while_training_leaves_no_model_and_is_swept(tmp_path, write_author):
    large = make_dataset(*write_author(documents=150, sentences=20))
    process = run_training(tmp_path, large, 600)
    for line in process.stdout:
        if line.startswith("pretrain"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("manifest.json")) == []
    shelf = Bundles(tmp_path / "models")
    assert shelf.production() is None
    assert len(shelf.sweep()) == 1
    assert list(shelf.folder.iterdir()) == []


def test_training_writes_nothing_at_home_and_prints_only_progress(tmp_path, dataset):
    home = tmp_path / "home"
    home.mkdir()
    process = run_training(tmp_path, dataset, 1, HOME=str(home), XDG_CACHE_HOME=str(home / "c"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == ""
    assert out.startswith("loading torch")
    assert all(line.startswith(("loading", "pretrain", "sft", "dpo")) for line in out.splitlines())
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "home", "models"]


def test_with_a_budget_in_tokens_the_seed_decides_the_weights(tmp_path, dataset):
    """Not the clock, and not how often it is saved."""
    always, saved = {"every": "0.001s"}, tmp_path / "checkpoints"
    first = learn(dataset, tmp_path / "first", sft={"epochs": 1}, checkpoints=always, saved=saved)
    assert first.stopped_by == "tokens"
    learn(dataset, tmp_path / "again", sft={"epochs": 1})
    learn(dataset, tmp_path / "other", sft={"epochs": 1}, seed=1)
    first, again, other = (
        durable.sha256_of(tmp_path / name / "model.safetensors")
        for name in ("first", "again", "other")
    )
    assert first == again
    assert first != other


def test_a_time_limit_stops_a_training_that_counts_tokens(tmp_path, dataset):
    budget = {"tokens": 10_000_000, "time": "0.2s"}
    report = learn(dataset, tmp_path / "model", budget=budget)
    assert report.stopped_by == "time"
    assert report.tokens_seen < 10_000_000
    money = {"money": 0.2, "hourly": 3600, "clock": "wall"}
    assert learn(dataset, tmp_path / "model", budget=money).stopped_by == "money"


def test_without_torch_it_says_what_to_type(tmp_path, dataset, monkeypatch):
    from llm_twin.model import runtime

    monkeypatch.setattr(runtime, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(NotReadyError, match=r"torch is not installed\. .*bootstrap invoke ct"):
        learn(dataset, tmp_path / "model", seconds=1)
    assert list(tmp_path.iterdir()) == []
