"""Tuning really done on a small network: adapters, packing, preferences, stopping, failures."""

import json

import pytest

from llm_twin.errors import TwinError
from llm_twin.model.budget import Budget
from llm_twin.model.checkpoints import Shelf
from llm_twin.model.curves import Curves
from llm_twin.model.dataset import Pair, Preference
from llm_twin.model.language_model import LocalModel
from llm_twin.model.phase import Phase, check_weights, explained, shape
from llm_twin.model.profile import Training

pytestmark = [pytest.mark.torch]

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
PAIRS = [Pair(f"What of {n}?", f"The gate keeps run {n} and {n}.") for n in range(24)]
PREFERENCES = [
    Preference(f"What of {n}?", f"The gate keeps run {n}.", f"The index sleeps on {n}.")
    for n in range(24)
]


@pytest.fixture
def phase(tmp_path):
    def make(name, seed=0, device="cpu", **settings):
        lines = []
        training = Training.model_validate(settings)
        shelf = Shelf(tmp_path / name, float("inf"), 2, lines.append)
        curves = Curves(tmp_path)
        return Phase(name, training, device, seed, Budget(), shelf, lines.append, curves)

    return make


def logits(folder):
    import torch

    model = LocalModel.load(folder)
    with torch.inference_mode():
        return model.network(input_ids=torch.arange(40)[None]).logits


def as_model(folder):
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize("lora", [None, LORA])
def test_tuning_changes_the_weights_and_writes_a_plain_folder(trained, tmp_path, phase, lora):
    from llm_twin.model import runtime, tuning

    target = tmp_path / "tuned"
    given = phase("sft", lora=lora, sft={"epochs": 1, "batch": 8, "rate": 1e-3})
    with runtime.seeded(0):
        report = tuning.tune(trained[0], PAIRS, given, target)
    assert (report.steps, report.rows, report.stopped_by) == (3, 24, "epochs")
    assert report.tokens == given.budget.seen > 24 * 8
    assert (logits(as_model(target)) - logits(trained[0])).abs().max() > 1e-3
    assert not list(target.glob("adapter*"))
    assert json.loads((target / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize(("lora", "kept"), [(None, "float32"), (LORA, "bfloat16")])
def test_in_bf16_only_weights_that_adapters_leave_alone_are_kept_so(
    trained, tmp_path, phase, lora, kept
):
    from llm_twin.model import tuning

    given = phase("sft", lora=lora, precision="bf16", sft={"epochs": 1, "rate": 1e-3})
    report = tuning.tune(trained[0], PAIRS, given, tmp_path / "tuned")
    assert report.steps == 3
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["dtype"] == kept
    assert LocalModel.load(as_model(tmp_path / "tuned")).generate("The gate", max_tokens=3)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_wanted_answer_becomes_likelier_on_pairs_not_seen(trained, tmp_path, phase, lora):
    from llm_twin.model import preference, tuning

    seen, held = PREFERENCES[:16], PREFERENCES[16:]
    before = preference.margins(LocalModel.load(trained[0]), held)
    given = phase("dpo", lora=lora, dpo={"epochs": 3, "rate": 1e-3})
    report = tuning.prefer(trained[0], seen, given, tmp_path / "tuned")
    assert report.steps == 6
    assert report.loss < 0.693
    after = preference.margins(LocalModel.load(as_model(tmp_path / "tuned")), held)
    said = preference.accuracy(held, before, after)
    assert said["accuracy"] > 0.5
    assert (said["n"], len({item["id"] for item in said["items"]})) == (8, 8)
    assert said["accuracy"] == sum(item["value"] for item in said["items"]) / 8


def test_preferring_begins_where_instruction_tuning_ended(trained, tmp_path, phase):
    """The reference is the source itself: a first step's loss is ln 2, not that of a distance."""
    from llm_twin.model import tuning

    sft = phase("sft", lora=LORA, sft={"epochs": 2, "rate": 5e-3})
    tuning.tune(trained[0], PAIRS, sft, tmp_path / "sft")
    dpo = phase("dpo", lora=LORA, dpo={"epochs": 1, "rate": 1e-9})
    report = tuning.prefer(tmp_path / "sft", PREFERENCES, dpo, tmp_path / "dpo")
    assert report.loss == pytest.approx(0.6931, abs=1e-3)


def test_packed_rows_do_not_see_each_other(trained, tmp_path, phase):
    """One step over packed rows is the step over the same rows apart."""
    from llm_twin.model import tuning

    said = {"epochs": 1, "batch": 24, "rate": 1e-3, "schedule": "constant"}
    apart = tuning.tune(trained[0], PAIRS, phase("sft", sft=said), tmp_path / "apart")
    packed = phase("sft", sft={**said, "packing": True})
    together = tuning.tune(trained[0], PAIRS, packed, tmp_path / "together")
    assert together.packed
    assert not apart.packed
    assert together.steps == apart.steps == 1
    assert together.loss == pytest.approx(apart.loss, rel=1e-4)
    assert together.tokens == apart.tokens
    difference = logits(as_model(tmp_path / "apart")) - logits(as_model(tmp_path / "together"))
    assert difference.abs().max() < 1e-2


def test_it_stops_when_the_rows_set_aside_get_worse_and_keeps_the_best(trained, tmp_path, phase):
    from llm_twin.model import tuning

    given = phase(
        "sft",
        sft={"epochs": 40, "batch": 4, "rate": 0.05, "schedule": "constant"},
        stopping={"patience": 2, "evaluations": 40},
    )
    report = tuning.tune(trained[0], PAIRS, given, tmp_path / "tuned")
    assert report.stopped_by == "patience"
    assert report.set_aside == 2
    assert report.best_step < report.steps
    points = [point for point in given.curves.points() if "evaluation" in point]
    best = min(points, key=lambda point: point["evaluation"])
    assert (best["step"], best["evaluation"]) == (report.best_step, report.evaluation)
    assert points[-1]["evaluation"] > report.evaluation


def test_a_loss_that_is_not_a_number_ends_it(trained, tmp_path, phase):
    from llm_twin.model import tuning

    given = phase("sft", sft={"rate": 1e30, "epochs": 5})
    with pytest.raises(TwinError, match=r"not a number at step \d of sft. Lower the rate"):
        tuning.tune(trained[0], PAIRS, given, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()
    assert list((tmp_path / "sft").iterdir()) == []


def test_weights_that_are_not_numbers_are_not_kept():
    import torch

    check_weights([torch.ones(3)], 1, "sft")
    with pytest.raises(TwinError, match="step 4 of dpo"):
        check_weights([torch.ones(3), torch.tensor([1.0, float("inf")])], 4, "dpo")


def test_too_little_memory_says_what_to_lower():
    import torch

    lower = r"lower sft\.batch .*sft\.accumulate.*gradient_checkpointing"
    with pytest.raises(TwinError, match=lower), explained("sft"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(TwinError, match=r"lower dpo\.batch"), explained("dpo"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="shapes"), explained("dpo"):
        raise RuntimeError("shapes differ")


def test_the_rate_rises_and_falls():
    assert shape("linear", 0.0, warm_up=0.1) == pytest.approx(0.1)
    assert shape("linear", 0.05, warm_up=0.1) == pytest.approx(0.5)
    assert shape("linear", 0.1, warm_up=0.1) == pytest.approx(1.0)
    assert shape("linear", 1.0) == pytest.approx(0.1)
    assert shape("cosine", 1.0) == pytest.approx(0.1)
    assert shape("cosine", 0.5) == pytest.approx(0.55)
    assert shape("constant", 0.9) == 1.0


def test_an_answer_is_scored_given_its_question(model):
    """Against transformers' own loss over the answer's tokens."""
    import math

    import torch

    from llm_twin.model.preference import answer_bits

    (bits,) = answer_bits(model, [("What of it?", "The gate keeps it.")])
    prompt = "<|bos|><|user|>What of it?<|eos|><|assistant|>"
    ids = [
        model.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (prompt, f"{prompt}The gate keeps it.<|eos|>")
    ]
    row = torch.tensor([[model.tokenizer.bos_token_id, *ids[1]]])
    labels = row.clone()
    labels[:, : 1 + len(ids[0])] = -100
    with torch.inference_mode():
        loss = model.network(input_ids=row, labels=labels).loss
    count = len(ids[1]) - len(ids[0])
    assert bits == pytest.approx(float(loss) * count / math.log(2), rel=1e-4)
