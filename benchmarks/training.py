"""How fast tuning is with a profile's settings, against TRL's own defaults, in the same run.

A Llama of a real shape with random weights learns random conversations, in turns with either
settings, so that what else the machine does falls on both. Printed for each turn: tokens a second
(padding not counted, the first steps not either), the most memory of the GPU, and the model-flops
utilisation, 6 x weights x tokens/s over the device's dense bf16 peak. Adapters need a third less
arithmetic than that, and recomputed activations more: the figure compares runs, it is no profile.

    python -m benchmarks.training --steps 20 --profile configs/ct/gpu.yaml
    python -m benchmarks.training --steps 4 --size tiny --profile configs/ct/tiny.yaml   # a CPU
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from llm_twin.model import base, pacing, profile, runtime, tuning, weights
from llm_twin.model.budget import Budget
from llm_twin.model.checkpoints import Shelf
from llm_twin.model.phase import Phase
from llm_twin.model.tokenizer import train_tokenizer

SIZES = {
    "tiny": (64, 2, 2, 2, 176),
    "100m": (768, 12, 12, 12, 2048),
    "1b": (2048, 16, 32, 8, 8192),
    "7b": (4096, 32, 32, 8, 14336),
}
"""Width, layers, heads, heads of keys, width of the layers between."""
VOCABULARY = 32_000
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "A10G": 70e12, "L4": 121e12}
"""Dense bf16 operations a second, from the makers' data sheets."""
WORDS = ["gate", "runner", "index", "passage", "trace", "stage", "answer", "digest", "corpus"]
SKIPPED = 2
"""Steps before the clock starts: the first ones allocate and choose kernels."""


def rows(count: int, words: int) -> list[dict[str, Any]]:
    """Conversations whose answers have from a quarter of so many words to all of them."""
    draw = random.Random(0)
    return [
        {
            "prompt": [{"role": "user", "content": " ".join(draw.choices(WORDS, k=12))}],
            "completion": [
                {
                    "role": "assistant",
                    "content": " ".join(draw.choices(WORDS, k=draw.randint(words // 4, words))),
                }
            ],
        }
        for _ in range(count)
    ]


def network_of(size: str, context: int, training: profile.Training, device: str) -> Any:
    """A Llama with the same random weights each time, in the precision that it is trained in."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, keys, between = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        intermediate_size=between,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        network = LlamaForCausalLM(config)
    return network.to(weights.dtype_for(training))


def ours(network: Any, tokenizer: Any, data: list[Any], phase: Phase, folder: Path) -> Any:
    """A trainer as the profile says, with all that goes on around its steps."""
    sft = phase.training.sft
    settings = tuning.settings_for(network, phase, sft, sft.packing, folder)
    trainer = tuning.trainer_for(network, tokenizer, data, [], settings, phase, folder)
    pacing.attach(trainer, phase, sft, checks=False)
    return trainer


def defaults(network: Any, tokenizer: Any, data: list[Any], phase: Phase, folder: Path) -> Any:
    """A trainer as TRL makes it when told nothing but where to write; the same weights train."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    cpu = phase.device == "cpu"
    trainer = SFTTrainer(
        model=network,
        args=SFTConfig(
            output_dir=str(folder),
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            include_num_input_tokens_seen="non_padding",
            use_cpu=cpu,
            bf16=False if cpu else None,
            dataloader_pin_memory=not cpu,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=tuning.adapters_for(phase),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(trainer: Any, steps: int, device: str) -> tuple[float, float]:
    """Train so many steps after the first ones; return tokens a second and MiB of the GPU."""
    import torch
    from transformers import TrainerCallback

    marks: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (SKIPPED, SKIPPED + steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                marks.append((time.perf_counter(), int(state.num_input_tokens_seen)))

    trainer.args.max_steps = SKIPPED + steps
    trainer.add_callback(Clock())
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    (start, before), (end, after) = marks
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    return (after - before) / (end - start), peak


def peak_of(device: str, given: float) -> float:
    """Operations a second that the device can do; 0 where nobody said."""
    if given or device == "cpu":
        return given * 1e12
    import torch

    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), 0.0)


def turn(name: str, said: argparse.Namespace, training: profile.Training, device: str) -> None:
    """Measure one settings once, and print its line."""
    with tempfile.TemporaryDirectory() as folder, runtime.quiet():
        place = Path(folder)
        shelf = Shelf(place / "sft", float("inf"), 1, print)
        phase = Phase("sft", training, device, 0, Budget(), shelf, lambda line: None)
        context = training.sft.length or said.context
        data = rows(64 * (SKIPPED + said.steps) * training.sft.accumulate, context // 2)
        texts = [row["completion"][0]["content"] for row in data[:100]]
        tokenizer = train_tokenizer(texts, context, 512)
        network = network_of(said.size, context, training, device)
        size = network.num_parameters()
        make = ours if name == "ours" else defaults
        trainer = make(network, tokenizer, data, phase, place / "out")
        speed, memory = measure(trainer, said.steps, device)
    peak = peak_of(device, said.peak)
    used = f"{6 * size * speed / peak:.1%}" if peak else "n/a"
    shown = f"{memory:,.0f} MiB" if memory else "n/a"
    print(
        f"{name:<14}{size / 1e6:>9,.1f} M weights {speed:>10,.0f} tokens/s"
        f"   peak memory {shown:>11}   utilisation {used:>6}",
        flush=True,
    )


def main() -> None:
    """Read the arguments and measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="measured in each turn")
    parser.add_argument("--turns", type=int, default=2, help="of each settings")
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--context", type=int, default=1024, help="where the profile names none")
    parser.add_argument("--profile", type=Path, default=Path("configs/ct/gpu.yaml"))
    parser.add_argument("--peak", type=float, default=0, help="of the device, in TFLOP/s")
    said = parser.parse_args()
    runtime.prepare()
    from datasets import disable_progress_bars

    disable_progress_bars()
    training = profile.load(said.profile).training
    device = base.device_for(training)
    for _ in range(said.turns):
        turn("ours", said, training, device)
        turn("TRL's defaults", said, training, device)


if __name__ == "__main__":
    main()
