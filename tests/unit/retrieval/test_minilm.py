"""The embedded embedder gives the vectors of the model it claims to be."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llm_twin.retrieval.graph import build_minilm
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.weights import TOKENIZER, WEIGHTS

TEXTS = [
    "What is a stage?",
    "tea",
    "Sourdough rises slowly because wild yeast works at its own pace in a cool kitchen.",
    "def add(a, b):\n    return a + b",
    "Die Straße ist naß. 日本語 😀",
    "A run is a row with its stage runs, states, attempts, times, cache keys and logs. " * 30,
]


@pytest.mark.torch
def test_vectors_are_those_of_the_reference(minilm: MiniLM, embedder_home: Path) -> None:
    """Against transformers' BERT on the same weights: the graph exactly, int8 closely."""
    import onnxruntime
    import torch
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    loaded = load_file(embedder_home / WEIGHTS)
    state = {name: torch.from_numpy(value) for name, value in loaded.items()}
    missing, _ = bert.load_state_dict(state, strict=False)
    assert not missing
    tokenizer = Tokenizer.from_file(str(embedder_home / TOKENIZER))
    tokenizer.enable_truncation(minilm.window)
    tokenizer.enable_padding()
    batch = tokenizer.encode_batch(TEXTS)
    ids = np.array([one.ids for one in batch])
    mask = np.array([one.attention_mask for one in batch])
    with torch.no_grad():
        hidden = bert(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    sums = (hidden * mask[..., None]).sum(axis=1)
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)

    session = onnxruntime.InferenceSession(build_minilm(loaded).SerializeToString())
    exact = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    assert (exact * expected).sum(axis=1).min() > 0.99999
    assert (minilm.embed(TEXTS) * expected).sum(axis=1).min() > 0.98


def test_vectors_have_length_one(minilm: MiniLM) -> None:
    vectors = minilm.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), minilm.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_vector_depends_on_its_text_alone(minilm: MiniLM) -> None:
    together = minilm.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(minilm.embed([text])[0], together[row])


def test_meaning_is_nearer_than_words(minilm: MiniLM) -> None:
    asked, meant, worded = minilm.embed(
        ["How do I repair my bicycle?", "Fixing a two-wheeler", "How do I repair my marriage?"]
    )
    assert asked @ meant > asked @ worded


def test_text_beyond_the_window_is_not_seen(minilm: MiniLM) -> None:
    start = "yeast " * 254
    assert minilm.count_tokens(start) == minilm.window
    longer, start_only = minilm.embed([f"{start} and trumpets", start])
    assert np.array_equal(longer, start_only)


def test_odd_texts(minilm: MiniLM) -> None:
    assert minilm.embed([]).shape == (0, minilm.dimension)
    assert np.isfinite(minilm.embed(["", "\x00", "\ud800", "😀", "x" * 100_000])).all()
    assert minilm.count_tokens("") == 2
    assert minilm.count_tokens("hello world") == 4


def test_tokens_are_those_of_the_tokenizer_whatever_the_text(minilm: MiniLM) -> None:
    """Words are counted one by one and remembered; the whole text has to count the same."""
    parts = ["[SEP]", "[MASK]", "Hello", "na\u00efve", "e\u0301", "\u65e5\u672c", "##ing", "don't"]
    parts += ["x" * 120, "\ud800", "\x00", ".", " ", "\n", "\t", "\r", "\x1c", "\u00a0", "\u2028"]
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(12)))
        sound = text.encode("utf-8", "replace").decode("utf-8")
        assert minilm.count_tokens(text) == len(minilm._tokenizer.encode(sound).ids), repr(text)
