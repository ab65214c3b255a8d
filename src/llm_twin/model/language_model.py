"""A causal language model, read from its folder: how surprised it is by a text, what it writes.

Ours from scratch or any other in the Hugging Face format. What is not small goes to a GPU if there
is one, and is scored a bounded number of logits at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llm_twin.errors import NotReadyError
from llm_twin.model import runtime
from llm_twin.model.tokenizer import encode, first_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MANIFEST = "manifest.json"
BATCH_TOKENS = 8192
BATCH_LOGITS = 2**27
"""Most logits at once, if more than one text is scored: half a gigabyte."""
CONTEXT = 2048
"""Most tokens that are read at once, whatever the model can."""
SMALL = 20_000_000
"""Weights up to which a GPU or a second thread makes a token slower."""


class LocalModel:
    """A causal language model and its tokenizer."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.network.train(False)
        config = network.config.get_text_config()
        self.context = min(int(getattr(config, "max_position_embeddings", 0) or CONTEXT), CONTEXT)
        self.first = first_token(tokenizer)
        self.small = network.num_parameters() <= SMALL

    @classmethod
    def load(cls, folder: Path) -> LocalModel:
        """Read a folder that ``train`` wrote, onto a GPU if the model is not small.

        Raises:
            NotReadyError: it holds no finished model, or torch is missing.

        """
        if not (folder / MANIFEST).is_file():
            raise NotReadyError("There is no trained model", folder, "Train one: invoke ct")
        runtime.prepare()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with runtime.quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        if network.num_parameters() > SMALL and torch.cuda.is_available():
            network = network.to("cuda")
        return cls(network, tokenizer)

    def bits_per_character(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Return (bits, characters) of each text; their quotient is its bits per character.

        Every token counts, the first one too (after bos). A text longer than the context is read
        in overlapping windows, so that each later token is predicted from half a context or more.
        """
        bits = self.token_bits(encode(self.tokenizer, texts))
        return [(sum(own), len(text)) for own, text in zip(bits, texts, strict=True)]

    def perplexity(self, texts: Sequence[str]) -> float:
        """Return the perplexity per token over all texts; inf when they are empty."""
        bits = [one for own in self.token_bits(encode(self.tokenizer, texts)) for one in own]
        return 2 ** (sum(bits) / len(bits)) if bits else math.inf

    def token_bits(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return -log2 p of each token of each sequence, given those before it and bos."""
        result = [[0.0] * len(tokens) for tokens in sequences]
        for batch in _batches(self._windows(sequences), self._most()):
            scores = self._score([tokens for _, _, tokens, _ in batch])
            for (owner, start, tokens, skip), row in zip(batch, scores, strict=True):
                fresh = row[skip : len(tokens) - 1].tolist()
                result[owner][start + skip : start + len(tokens) - 1] = fresh
        return result

    def _most(self) -> int:
        """Tokens to score at once."""
        vocabulary = int(self.network.config.get_text_config().vocab_size)
        return min(BATCH_TOKENS, BATCH_LOGITS // vocabulary)

    def _windows(self, sequences: Sequence[Sequence[int]]) -> list[_Window]:
        """Cut sequences for the context: (owner, start, tokens with one before, already scored)."""
        size, stride = self.context, max(1, self.context // 2)
        windows: list[_Window] = []
        for owner, tokens in enumerate(sequences):
            padded = [self.first, *tokens]
            scored = start = 0
            while scored < len(tokens):
                window = padded[start : start + size + 1]
                windows.append((owner, start, window, scored - start))
                scored = start + len(window) - 1
                start = min(start + stride, max(0, len(padded) - size - 1))
        return windows

    def _score(self, rows: list[list[int]]) -> Tensor:
        """-log2 p of each row's tokens after the first; shape (rows, longest - 1), padded."""
        import torch
        import torch.nn.functional as functional

        longest = max(map(len, rows))
        padded = torch.tensor(
            [row + [0] * (longest - len(row)) for row in rows], device=self.network.device
        )
        with torch.inference_mode():
            # Padding is on the right and attention looks left only, so it needs no mask.
            logits = self.network(input_ids=padded[:, :-1], use_cache=False).logits
            nats = functional.cross_entropy(
                logits.transpose(1, 2).float(), padded[:, 1:], reduction="none"
            )
        return nats / math.log(2)

    def generate(
        self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, seed: int = 0
    ) -> str:
        """Continue a text.

        Args:
            prompt: its beginning; what does not fit the context is cut off at the front.
            max_tokens: most tokens to write.
            temperature: 0 always takes the likeliest token.
            seed: the same one writes the same text.

        """
        ids = [self.first, *encode(self.tokenizer, [prompt])[0]]
        return self._continue(ids, max_tokens, temperature, seed)

    def answer(
        self,
        question: str,
        max_tokens: int = 128,
        temperature: float = 0.7,
        seed: int = 0,
        system: str = "",
    ) -> str:
        """Answer an instruction, through the chat template.

        Args:
            question: what it is asked.
            max_tokens: as in ``generate``, like the next two.
            temperature: 0 always takes the likeliest token.
            seed: the same one writes the same text.
            system: what it is told about its role; "" for nothing.

        """
        messages = [{"role": "system", "content": system}] if system else []
        text = self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = encode(self.tokenizer, [str(text)])[0]
        return self._continue(ids, max_tokens, temperature, seed)

    def _continue(self, ids: list[int], max_tokens: int, temperature: float, seed: int) -> str:
        import torch

        ids = ids[-max(1, self.context - 1) :]
        row = torch.tensor([ids], device=self.network.device)
        # One thread: for a small model a second one makes each token three times slower.
        threads = 1 if self.small else torch.get_num_threads()
        with (
            runtime.threads(threads),
            runtime.seeded(seed),
            runtime.quiet(),
            torch.inference_mode(),
        ):
            written = self.network.generate(  # type: ignore[operator]
                input_ids=row,
                attention_mask=torch.ones_like(row),
                max_new_tokens=max_tokens,
                do_sample=temperature > 0,
                temperature=temperature if temperature > 0 else None,
                top_k=None,
                top_p=0.95 if temperature > 0 else None,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        return str(self.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))


_Window = tuple[int, int, list[int], int]


def _batches(windows: list[_Window], most: int) -> Iterator[list[_Window]]:
    """Windows of similar length together, a bounded number of tokens at once."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda window: len(window[2])):
        if batch and (len(batch) + 1) * len(window[2]) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
