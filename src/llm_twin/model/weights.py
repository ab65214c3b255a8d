"""Weights and tokenizer in a folder of the Hugging Face format: read to be trained, and written."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError
from llm_twin.model import runtime

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llm_twin.model import profile


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer; one without a chat template or padding is given plain ones.

    Raises:
        ConfigError: there is none, or none that training can use.

    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from llm_twin.model.tokenizer import PLAIN_TEMPLATE

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError("the base has no tokenizer", folder, str(error)) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token is None:
        raise ConfigError("the base needs a fast tokenizer with an end token", folder)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_network(folder: Path, training: profile.Training, device: str) -> PreTrainedModel:
    """Read the weights as they are trained: adapters leave them in bf16 where it computes in it.

    Raises:
        ConfigError: they cannot be read as a causal language model.

    """
    lora = training.lora
    if lora and lora.quantize == "4bit":
        return _load(folder, training, {"quantization_config": _four_bits(), "device_map": device})
    return _load(folder, training, {"device_map": device})


def load_plain(folder: Path, training: profile.Training, device: str) -> PreTrainedModel:
    """Read the weights unquantized, to merge adapters into."""
    return _load(folder, training, {"device_map": device})


def _load(folder: Path, training: profile.Training, said: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    low = dtype_for(training) == torch.bfloat16
    flash = training.device != "cpu" and low and find_spec("flash_attn") is not None
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            dtype=dtype_for(training),
            attn_implementation="flash_attention_2" if flash else "sdpa",
            **said,
        )
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:300]
        raise ConfigError("the base cannot be read as a causal model", folder, why) from None
    return network


def dtype_for(training: profile.Training) -> torch.dtype:
    """Of the weights in memory: bf16 only if they stay as they are, beside adapters in fp32."""
    import torch

    low = training.precision == "bf16" and training.lora is not None
    return torch.bfloat16 if low else torch.float32


def _four_bits() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def context_of(network: PreTrainedModel, wanted: int = 0) -> int:
    """Tokens of a row: as many as wanted, 2048 if nothing is said, and what the base can read."""
    most = int(getattr(network.config.get_text_config(), "max_position_embeddings", 0) or 2048)
    return min(wanted or 2048, most)


def save(network: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder in the hub's format."""
    with runtime.quiet():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def same(one: Any, other: Any) -> bool:
    """Whether two networks give the same logits for a few tokens, but for rounding."""
    import torch

    one.train(False)
    other.train(False)
    size = min(32, int(one.config.get_text_config().vocab_size))
    row = torch.arange(size, device=one.device)[None]
    with torch.inference_mode():
        first = one(input_ids=row, use_cache=False).logits.float()
        second = other(input_ids=row, use_cache=False).logits.float()
    slack = 1e-4 if one.dtype == torch.float32 else 2e-2
    return bool(torch.allclose(first, second, rtol=slack, atol=slack))
