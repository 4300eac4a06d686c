"""What TensorRT 8.6 to 10 is told, so that it rounds to INT8 what the model with Q/DQ rounds, and no more. Pure.

These versions take the float model, a range for some of its tensors, and choose by speed. A tensor that has a range may
be stored as INT8, and then all that read it get the rounded values; a layer whose inputs and outputs all have one may
be computed in INT8. Where a range is missing it isn't ("Missing scale and zero-point for tensor ..., expect fall back
to non-int8 implementation for any layer consuming or producing given tensor", it says). So:

- A tensor that a quantised convolution reads has a range: that is where the model with Q/DQ rounds.
- So has what is only copied into such tensors (joined, split, moved, pooled, enlarged), with their range, since
  rounding and copying may change places. A Concat is then one of INT8, with no step of its own.
- Where a range is needed by one reader and would cost another accuracy, the tensor keeps it and is told to be float16
  (``half_tensors``): TensorRT converts it for the convolution that wants INT8.
- What a quantised convolution gives, and nobody wants as INT8, is such a tensor too: a layer without a range at its
  output is refused INT8 kernels. Not so what leads to the model's outputs: a step of 1/127 of their range is what moves
  boxes the most.
- What lies between a convolution and its activation has none: TensorRT computes both in one kernel, and where it
  doesn't, it shall not round there.
- Any other layer whose tensors all have ranges by now, an Add of two branches say, is told to be float16, as are the
  convolutions that stay float (``float_layers``).

What the constraints do: TensorRT's NvInfer.h, ILayer::setPrecision and setOutputType.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from facedetd.trt.ranges import Table
from facedetd.workshop.qdq import Network, nodes_before

_COPIES = frozenset(
    ["Concat", "DepthToSpace", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Resize", "Slice",
     "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze"]
)  # fmt: skip
"""Operators each of whose results is one of their inputs or, with Relu, 0: rounding before them is rounding after them.
Resize only where it takes the nearest."""
_ACTIVATIONS = frozenset(["Clip", "Elu", "HardSigmoid", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"])


def range_table(network: Network, ranges: Mapping[str, float], keep: Collection[str], model_sha256: str = "") -> Table:
    """The table for the float model whose layers but ``keep`` are quantised. ``ranges`` has every tensor of
    ``network.tensors``: its greatest magnitude."""
    graph = _Graph.of(network, keep)
    told, half = _read_by_layers(graph, ranges)
    for end in sorted(_ends(graph, network) - told.keys()):
        told[end] = ranges[end]
        half.add(end)
    own = {network.model.graph.node[layer.node].name for layer in network.layers}
    others = {
        node.name
        for node in network.model.graph.node
        if node.name not in own and not graph.copies(node, told) and _all_told(graph, node, told)
    }
    order = [tensor for tensor in network.tensors if tensor in told]
    return Table(
        {tensor: float(told[tensor]) for tensor in order},
        tuple(sorted({*keep, *others})),
        model_sha256,
        tuple(tensor for tensor in order if tensor in half and tensor != network.input),  # its type is the caller's
        other_ranges={tensor: float(ranges[tensor]) for tensor in network.tensors if tensor not in told},
    )


@dataclass(frozen=True, slots=True)
class _Graph:
    """``readers``: nodes that read a tensor, by its name; ``quantised``: names of the convolutions to be INT8."""

    nodes: tuple[Any, ...]
    tensors: frozenset[str]
    outputs: frozenset[str]
    readers: Mapping[str, list[Any]]
    quantised: frozenset[str]

    @classmethod
    def of(cls, network: Network, keep: Collection[str]) -> _Graph:
        readers: dict[str, list[Any]] = {tensor: [] for tensor in network.tensors}
        for node in network.model.graph.node:
            for tensor in dict.fromkeys(node.input):
                if tensor in readers:
                    readers[tensor].append(node)
        quantised = frozenset(layer.name for layer in network.layers) - frozenset(keep)
        nodes = tuple(network.model.graph.node)
        return cls(nodes, frozenset(network.tensors), frozenset(network.outputs), readers, quantised)

    def given(self, node: Any) -> list[str]:
        """Its float activations that anybody reads."""
        return [t for t in node.output if t in self.tensors and (self.readers[t] or t in self.outputs)]

    def ends(self, node: Any) -> list[str]:
        """Its float activations that it reads, and those that it gives."""
        return [*(t for t in node.input if t in self.tensors), *self.given(node)]

    def copies(self, node: Any, told: Mapping[str, float]) -> bool:
        """Whether it only copies, between tensors of one range."""
        if not _only_copies(node):
            return False
        return len({told.get(tensor) for tensor in self.ends(node)}) == 1


def _only_copies(node: Any) -> bool:
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return node.op_type in _COPIES and (node.op_type != "Resize" or mode == b"nearest")


def _all_told(graph: _Graph, node: Any, told: Mapping[str, float]) -> bool:
    ends = graph.ends(node)
    return bool(ends) and all(tensor in told for tensor in ends)


def _read_by_layers(graph: _Graph, ranges: Mapping[str, float]) -> tuple[dict[str, float], set[str]]:
    """Ranges of what quantised convolutions read, and of what is copied into that and nothing else; and those of them
    that somebody reads whom rounding would hurt."""
    told: dict[str, float] = {}
    half: set[str] = set()

    def judge(tensor: str) -> None:
        wanted: set[float | None] = {None} if tensor in graph.outputs else set()
        layers = False
        for node in graph.readers[tensor]:
            if node.name in graph.quantised:
                layers = True
                wanted.add(ranges[tensor])
            elif _only_copies(node):
                wanted |= {None if t in half else told.get(t) for t in graph.given(node)}
            else:
                wanted.add(None)
        (only,) = wanted if len(wanted) == 1 else (None,)
        if only is not None:
            told[tensor] = only
        elif layers:
            told[tensor] = ranges[tensor]
            half.add(tensor)

    made: set[str] = set()
    for node in reversed(graph.nodes):  # of an ONNX model: readers come after what they read
        for tensor in node.output:
            if tensor in graph.tensors:
                judge(tensor)
                made.add(tensor)
    for tensor in graph.tensors - made:
        judge(tensor)
    return told, half


def _ends(graph: _Graph, network: Network) -> set[str]:
    """What quantised convolutions give, behind their activation, where it doesn't lead straight to the outputs."""
    heads = nodes_before(network, network.outputs)
    found = set()
    for layer in network.layers:
        if layer.name in graph.quantised and layer.name not in heads:
            found.add(_behind_activation(graph, network.model.graph.node[layer.node].output[0]))
    return found


def _behind_activation(graph: _Graph, tensor: str) -> str:
    readers = graph.readers[tensor]
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
        return str(readers[0].output[0])
    by_type = {node.op_type: node for node in readers}
    if len(readers) == 2 and by_type.keys() == {"Sigmoid", "Mul"}:  # SiLU
        gate, product = by_type["Sigmoid"], by_type["Mul"]
        if set(product.input) == {tensor, gate.output[0]} and len(graph.readers[gate.output[0]]) == 1:
            return str(product.output[0])
    return tensor
