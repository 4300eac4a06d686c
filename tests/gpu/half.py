"""A network that rounds to half what each layer gives, for the CPU: what FP16 costs in accuracy, whatever the GPU.

python -m tests.gpu.half MODEL.onnx OUT.onnx [--float FIRST:LAST]
facedetctl model evaluate OUT.onnx --against MODEL.onnx --match-iou 0.9 --labels …
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def rounded(model: onnx.ModelProto, whole: range = range(0)) -> onnx.ModelProto:
    """The model with weights and what layers give rounded to float16 (IEEE 754 binary16), calculated in float32 as a
    GPU's tensor cores do; layers whose number is in ``whole`` and what the network gives stay float32."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    floats = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    weights = {i.name: i for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    nodes = []
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        given = [name for name in node.output if name in floats and number not in whole]
        for name in node.input if number not in whole else ():
            if name in weights:
                half = numpy_helper.to_array(weights[name]).astype(np.float16)
                weights[name].CopyFrom(numpy_helper.from_array(half.astype(np.float32), name))
        node.input[:] = [names.get(name, name) for name in node.input]
        nodes.append(node)
        for name in given:
            names[name] = f"{name}/rounded"
            nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}/half"], to=onnx.TensorProto.FLOAT16))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/half"], [names[name]], to=onnx.TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--float", default="0:0", metavar="FIRST:LAST", help="layers that stay float32, without LAST (0:0)"
    )
    given = parser.parse_args()
    first, last = (int(end) for end in given.float.split(":"))
    onnx.save(rounded(onnx.load(given.model), range(first, last)), given.out)


if __name__ == "__main__":
    main()
