"""Our own byte-level BPE: small vocabulary, every text can be written, nothing is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
LARGEST, SMALLEST = 2048, 384
CHARACTERS_PER_ENTRY = 40
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For a base that has no chat template of its own."""


def vocabulary_size(characters: int) -> int:
    """Entries for a corpus of that many characters: rare entries of a small one learn nothing."""
    return max(SMALLEST, min(LARGEST, characters // CHARACTERS_PER_ENTRY))


def train_tokenizer(
    texts: Sequence[str], context: int, size: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; the same texts give the same one.

    Args:
        texts: to count pairs in.
        context: tokens that the model reads at once.
        size: most entries, special tokens included; by default chosen from the texts' length.

    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size or vocabulary_size(sum(map(len, texts))),
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def first_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that a text is begun with: bos, or what stands for it where there is none."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if isinstance(token, int):
            return token
    return 0


def encode(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens, however long it is."""
    batch = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in batch]
