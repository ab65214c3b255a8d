"""Builds MiniLM's ONNX graph from its safetensors, so that neither torch nor a hub is needed.

The graph is BERT with what sentence-transformers does after it (mean pooling, unit length) inside,
so every caller feeds token ids and gets sentence vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

    Array = NDArray[np.float32]
    Weights = Mapping[str, Array]

LAYERS = 6
HIDDEN = 384
HEADS = 12
EPSILON = 1e-12
OPSET = 20
MASKED = -1e4


def build_minilm(weights: Weights) -> ModelProto:
    """Return the float32 graph: ``input_ids``, ``attention_mask`` → ``vectors`` (batch, 384).

    Both inputs are int64 of shape (batch, tokens); the vectors have length 1.
    """
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    hidden = graph.embeddings()
    bias = graph.attention_bias()
    for layer in range(LAYERS):
        hidden = graph.layer(f"encoder.layer.{layer}", hidden, bias)
    graph.pool(hidden)
    tokens = ["batch", "tokens"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "minilm",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, tokens),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, tokens),
            ],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", HIDDEN])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="llm-twin",
    )
    # Says that shapes need no inference before quantising; without it the quantiser warns.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def quantise(source: Path, target: Path) -> None:
    """Write the int8 model: weights per output channel, activations when it runs."""
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        QuantType,
        quantize_dynamic,
    )

    quantize_dynamic(
        source,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gather"],
    )


class _Graph:
    """Nodes and constants in the order they are made; each method returns its output's name."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def embeddings(self) -> str:
        """Word, position and the one token type that sentences use."""
        place = (
            self.weights["embeddings.position_embeddings.weight"]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        words = self._op(
            "Gather", self._tensor("embeddings.word_embeddings.weight"), "input_ids", name="words"
        )
        shape = self._op("Shape", "input_ids", name="length", start=1, end=2)
        start = self._constant("zero", np.array([0], np.int64))
        places = self._op(
            "Slice", self._constant("places", place), start, shape, start, name="place"
        )
        total = self._op("Add", words, places, name="embedded")
        return self._norm("embeddings.LayerNorm", total)

    def attention_bias(self) -> str:
        """0 where a token is, a large negative number where padding is; (batch, 1, 1, tokens)."""
        from onnx import TensorProto

        mask = self._op("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
        absent = self._op("Sub", self._constant("one", np.float32(1)), mask, name="absent")
        wide = self._op(
            "Unsqueeze", absent, self._constant("head_axes", np.array([1, 2])), name="absent_wide"
        )
        return self._op("Mul", wide, self._constant("masked", np.float32(MASKED)), name="bias")

    def layer(self, name: str, hidden: str, bias: str) -> str:
        """One transformer layer: attention, then the feed-forward net, each with its residual."""
        attended = self._attention(f"{name}.attention", hidden, bias)
        inner = self._dense(f"{name}.intermediate.dense", attended)
        inner = self._op("Gelu", inner, name=f"{name}.gelu")
        inner = self._dense(f"{name}.output.dense", inner)
        total = self._op("Add", inner, attended, name=f"{name}.residual")
        return self._norm(f"{name}.output.LayerNorm", total)

    def pool(self, hidden: str) -> None:
        """Mean over the tokens that are not padding, then unit length."""
        axis = self._constant("token_axis", np.array([1]))
        mask = self._op(
            "Unsqueeze", "mask", self._constant("last_axis", np.array([2])), name="token_mask"
        )
        kept = self._op("Mul", hidden, mask, name="kept")
        total = self._op("ReduceSum", kept, axis, name="total", keepdims=0)
        count = self._op("ReduceSum", mask, axis, name="count", keepdims=0)
        mean = self._op("Div", total, count, name="mean")
        self._op("LpNormalization", mean, name="vectors", axis=1, p=2)

    def _attention(self, name: str, hidden: str, bias: str) -> str:
        # The 1/sqrt(size) of dot-product attention is folded into the query weights.
        scale = (HIDDEN // HEADS) ** -0.5
        query = self._heads(f"{name}.self.query", hidden, [0, 2, 1, 3], scale)
        key = self._heads(f"{name}.self.key", hidden, [0, 2, 3, 1])
        value = self._heads(f"{name}.self.value", hidden, [0, 2, 1, 3])
        scores = self._op("MatMul", query, key, name=f"{name}.scores")
        scores = self._op("Add", scores, bias, name=f"{name}.biased")
        shares = self._op("Softmax", scores, name=f"{name}.shares", axis=-1)
        context = self._op("MatMul", shares, value, name=f"{name}.context")
        context = self._op("Transpose", context, name=f"{name}.joined", perm=[0, 2, 1, 3])
        flat = self._constant("flat", np.array([0, 0, HIDDEN]))
        context = self._op("Reshape", context, flat, name=f"{name}.flat")
        out = self._dense(f"{name}.output.dense", context)
        total = self._op("Add", out, hidden, name=f"{name}.residual")
        return self._norm(f"{name}.output.LayerNorm", total)

    def _heads(self, name: str, hidden: str, perm: list[int], scale: float = 1.0) -> str:
        flat = self._dense(name, hidden, scale)
        shape = self._constant("split", np.array([0, 0, HEADS, HIDDEN // HEADS]))
        split = self._op("Reshape", flat, shape, name=f"{name}.split")
        return self._op("Transpose", split, name=f"{name}.heads", perm=perm)

    def _dense(self, name: str, value: str, scale: float = 1.0) -> str:
        weight = np.ascontiguousarray(self.weights[f"{name}.weight"].T * np.float32(scale))
        bias = self.weights[f"{name}.bias"] * np.float32(scale)
        product = self._op(
            "MatMul", value, self._constant(f"{name}.weight", weight), name=f"{name}.product"
        )
        return self._op("Add", product, self._constant(f"{name}.bias", bias), name=f"{name}.sum")

    def _norm(self, name: str, value: str) -> str:
        return self._op(
            "LayerNormalization",
            value,
            self._tensor(f"{name}.weight"),
            self._tensor(f"{name}.bias"),
            name=name,
            axis=-1,
            epsilon=EPSILON,
        )

    def _op(self, kind: str, *inputs: str, name: str, **attributes: int | float | list[int]) -> str:
        from onnx import helper

        node = helper.make_node(kind, inputs, [name], name=name)
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
        self.nodes.append(node)
        return name

    def _tensor(self, name: str) -> str:
        return self._constant(name, self.weights[name])

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        from onnx import numpy_helper

        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
