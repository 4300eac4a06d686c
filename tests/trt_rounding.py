"""What TensorRT 8.6 to 10 may round, tried on the CPU: python -m tests.trt_rounding MODEL INT8 --labels FILE.

MODEL is the float model and INT8.onnx what `facedetctl model quantize` made of it, with its manifest and counted.npz
beside it. Weights of the quantised layers are rounded in each row; what differs is which tensors are, to steps of
range / 127, half to even, for all that read them. Prints, beside the float model, the drop of AP, the boxes found again
(IoU 0.7, score 0.5) and their mean IoU. All else is computed in float32: neither float16 nor TensorRT's own kernels are
in it, and nothing here knows which of the rows TensorRT chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from facedetd.inference.engines import detect_head
from facedetd.trt.ranges import Table
from facedetd.workshop import qdq
from facedetd.workshop.calibrate import Feeder, load_counted
from facedetd.workshop.evaluate import MIN_SCORE
from facedetd.workshop.quantize import Paths, cpu_name, ranges_of
from facedetd.workshop.ranges import LEVELS
from facedetd.workshop.rangetable import range_table
from facedetd.workshop.trials import Asked, LabelledFrames, Runner, verdict
from facedetd.workshop.wider import read_labels


def rounded(
    network: qdq.Network, layers: Collection[str], everywhere: Mapping[str, float], for_layers: Mapping[str, float]
) -> bytes:
    """The float model with the weights of ``layers`` as INT8 has them, tensors ``everywhere`` rounded for all readers
    and those ``for_layers`` for ``layers`` alone; each with its range. Written with Round and Clip: onnxruntime takes
    Q/DQ nodes as leave to compute otherwise (it rounds biases)."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    for layer in network.layers:
        if layer.name in layers:
            before = network.weight(layer.weight)
            steps, scale = qdq.rounded(before, layer.axis)
            wide = scale.reshape([-1 if i == layer.axis else 1 for i in range(before.ndim)])
            weights[layer.weight].CopyFrom(numpy_helper.from_array(steps * wide, layer.weight))
    for name, value in (("least", -128), ("most", 127)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"rounding/{name}"))
    nodes = []

    def add(tensor: str, limit: float, to: str) -> None:
        step = f"{to}/step"
        graph.initializer.append(numpy_helper.from_array(np.array(limit / LEVELS, np.float32), step))
        nodes.append(helper.make_node("Div", [tensor, step], [f"{to}/scaled"]))
        nodes.append(helper.make_node("Round", [f"{to}/scaled"], [f"{to}/whole"]))
        nodes.append(helper.make_node("Clip", [f"{to}/whole", "rounding/least", "rounding/most"], [f"{to}/clipped"]))
        nodes.append(helper.make_node("Mul", [f"{to}/clipped", step], [to]))

    private = set()
    entry = {}
    if network.input in everywhere:
        add(network.input, everywhere[network.input], f"{network.input}/rounded")
        entry[network.input] = f"{network.input}/rounded"
    for old in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        if node.name in layers and node.input[0] in for_layers:
            tensor = node.input[0]
            node.input[0] = f"{tensor}/private"
            if tensor not in private:
                add(tensor, for_layers[tensor], f"{tensor}/private")
                private.add(tensor)
        node.input[:] = [entry.get(tensor, tensor) for tensor in node.input]
        nodes.append(node)
        for place, tensor in enumerate(old.output):
            if tensor in everywhere:
                node.output[place] = f"{tensor}/exact"
                add(f"{tensor}/exact", everywhere[tensor], tensor)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def as_qdq(
    network: qdq.Network, layers: Collection[str], ranges: Mapping[str, float], also: Collection[str] = ()
) -> bytes:
    """What the model with Q/DQ rounds: the quantised layers' inputs, for them alone; ``also`` these, for all."""
    sources = {layer.source for layer in network.layers if layer.name in layers}
    return rounded(network, layers, {t: ranges[t] for t in also}, {t: ranges[t] for t in sources})


def as_told(network: qdq.Network, layers: Collection[str], table: Table, *, obeyed: bool) -> bytes:
    """What a table lets TensorRT round at the most: with its constraints obeyed, or as if there were none."""
    half = set(table.half_tensors) if obeyed else set()
    if obeyed and network.input in table.ranges:
        half.add(network.input)  # it comes in as float32
    everywhere = {tensor: value for tensor, value in table.ranges.items() if tensor not in half}
    return rounded(network, layers, everywhere, {tensor: table.ranges[tensor] for tensor in half})


def between_layers(network: qdq.Network, keep: Collection[str]) -> set[str]:
    """Tensors that kernels hand to each other, but from a float layer to float layers only, and but for the outputs'
    own: not what lies inside a convolution with its activation (SiLU or ReLU)."""
    nodes = network.model.graph.node
    readers = {tensor: [node for node in nodes if tensor in node.input] for tensor in network.tensors}
    makers = {tensor: node for node in nodes for tensor in node.output}
    last, found = ends(network), {network.input}
    for tensor in network.tensors:
        maker = makers.get(tensor)
        kinds = {reader.op_type for reader in readers[tensor]}
        if maker is None or tensor in last or maker.op_type == "Sigmoid" or kinds & {"Sigmoid", "Relu"}:
            continue
        before = maker.input[0] if maker.op_type in ("Mul", "Relu") else tensor  # what a convolution gave
        from_float = makers.get(before, maker).name in keep
        if not (from_float and all(reader.name in keep for reader in readers[tensor])):
            found.add(tensor)
    return found


def ends(network: qdq.Network) -> set[str]:
    """What the last convolutions give, and what is made of it: the outputs, and what they were before."""
    heads = qdq.nodes_before(network, network.outputs)
    found: set[str] = set()
    for node in network.model.graph.node:  # of an ONNX model: makers come first
        if node.name in heads or found & set(node.input):
            found |= {tensor for tensor in node.output if tensor in network.tensors}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("int8", metavar="INT8", type=Path)
    parser.add_argument("--labels", metavar="FILE", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    paths = Paths(args.int8)
    manifest = json.loads(paths.manifest.read_bytes())
    width, height, method = (manifest["settings"][key] for key in ("width", "height", "method"))
    with np.load(paths.counted, allow_pickle=False) as file:
        counted = load_counted(paths.counted, str(file["key"]))
    if counted is None:
        print(f"{paths.counted}: can't be read", file=sys.stderr)
        return 1
    data = args.model.read_bytes()
    network, ranges = qdq.read_network(data, str(args.model)), ranges_of(counted, method)
    keep = set(manifest["layers"]["float"])
    layers = {layer.name for layer in network.layers} - keep
    table = range_table(network, ranges, keep)
    between = {tensor: ranges[tensor] for tensor in between_layers(network, keep)}
    rows = {
        "as the model with Q/DQ": as_qdq(network, layers, ranges),
        f"table ({len(table.ranges)} of {len(ranges)} tensors), obeyed": as_told(network, layers, table, obeyed=True),
        "table, no constraint obeyed": as_told(network, layers, table, obeyed=False),
        "as with Q/DQ, and the outputs": as_qdq(network, layers, ranges, ends(network)),
        f"ranges of all, between layers ({len(between)})": rounded(network, layers, between, {}),
        f"ranges of all, everywhere ({len(ranges)})": rounded(network, layers, ranges, {}),
    }
    head = detect_head(args.model, width, height)
    runner = Runner(head, Feeder(width, height, head.input), width, height, args.threads)
    labels = read_labels(args.labels).pictures
    frames = list(LabelledFrames(labels, width, height, lambda done, total: None))
    reference = runner.faces(data, frames, MIN_SCORE)
    floats = f"{len(keep)} of {len(network.layers)} layers float"
    print(f"{len(labels)} pictures at {width}x{height}, {floats}, {cpu_name()}")
    print(f"{'rounded':<40} {'AP lower by':>22} {'matched':>20} {'mean IoU':>9}")
    for name, model in rows.items():
        found = verdict(reference, runner.faces(model, frames, MIN_SCORE), labels, Asked(None, None))
        assert found.drop is not None
        drop = ", ".join("-" if value is None else f"{value:.3f}" for value in found.drop.values())
        m = found.matched
        share, iou = (0.0 if value is None else value for value in (m.share, m.mean_iou))
        print(f"{name:<40} {drop:>22} {m.matched:>5} of {m.boxes:>4} {share * 100:6.2f} % {iou:9.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
