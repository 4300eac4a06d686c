"""What runs a model tells nobody, and leaves nothing in the home directory."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_engine_leaves_nothing_at_home(tmp_path: Path) -> None:
    code = (
        "import numpy as np, onnx, onnx.helper as h\n"
        "from facedetd.inference.engines.onnxruntime import open_session\n"
        "io = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in 'xy']\n"
        "graph = h.make_graph([h.make_node('Relu', ['x'], ['y'])], 'g', io[:1], io[1:])\n"
        "model = h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8)\n"
        "open_session(model.SerializeToString(), 1).run(None, {'x': np.zeros(1, np.float32)})\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and not k.startswith("XDG_")}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert not list(tmp_path.rglob("*"))
