"""MiniLM on ONNX Runtime: the embedded embedder, at home on any CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.retrieval.weights import MODEL, TOKENIZER, ensure_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llm_twin.retrieval.ports import Vectors
    from llm_twin.settings import Settings

MAX_THREADS = 4
SEPARATOR = 102
MAX_REMEMBERED = 200_000
"""Words whose number of pieces is remembered."""


class MiniLM:
    """all-MiniLM-L6-v2, quantised to int8.

    Every text is run by itself on one thread, and several texts on several threads: on a CPU that
    is as fast as padded batches, and a vector then depends on its text alone (int8 activations are
    scaled over the whole batch, so that in a batch the neighbours would change it).
    """

    name = "minilm-int8"
    dimension = 384
    window = 256

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
        import onnxruntime  # type: ignore[import-untyped]
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._pieces: dict[str, int] = {}

    @classmethod
    def open(cls, settings: Settings, progress: Callable[[str], object] = print) -> MiniLM:
        """Open the model, fetching and building it on first use.

        Raises:
            RemoteError, ConfigError, SpaceError: see weights.ensure_model.

        """
        return cls(ensure_model(settings, progress))

    def count_tokens(self, text: str) -> int:
        """Word pieces of the text, with the two special tokens.

        BERT's tokenizer never joins what a space or a newline parts, so words are counted one by
        one and remembered: cutting a document asks for its growing pieces again and again.
        """
        known = self._pieces
        if len(known) > MAX_REMEMBERED:
            known = self._pieces = {}
        words = text.replace("\n", " ").split(" ")
        for word in words:
            if word not in known:
                found = self._tokenizer.encode(_sound(word), add_special_tokens=False)
                known[word] = len(found.ids)
        return sum(map(known.__getitem__, words)) + 2

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), 384), each of length 1."""
        if len(texts) < 2:
            rows = [self._embed_one(text) for text in texts]
        else:
            with ThreadPoolExecutor(_threads()) as pool:
                rows = list(pool.map(self._embed_one, texts))
        return np.concatenate(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def _embed_one(self, text: str) -> Vectors:
        encoding = self._tokenizer.encode(_sound(text))
        encoding.truncate(self.window)
        ids = np.array([encoding.ids], np.int64)
        # Encoding.truncate cuts off the closing [SEP] that the model was trained with.
        ids[0, -1] = SEPARATOR
        vectors: Vectors = self._session.run(
            None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        )[0]
        return vectors


def _sound(text: str) -> str:
    """Replace lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _threads() -> int:
    """As many as there are cores, or as OMP_NUM_THREADS says, which Ray sets in its workers."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(MAX_THREADS, usable or 1, max(int(told), 1) if told.isdigit() else MAX_THREADS)
