"""Frees a model's batch, height and width where it was exported with fixed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facedetd.inference.engines.onnxruntime import model_input, open_session, run
from facedetd.inference.types import ModelError
from facedetd.types import FloatArray

TRY_WIDTH, TRY_HEIGHT, TRY_BATCH = 640, 384, 2


def free_sizes(model: Any) -> bytes | None:
    """The model (an onnx.ModelProto, changed in place) with free batch, height and width, as bytes; None where its
    graph doesn't run at other sizes, or gives other numbers than before at its own.

    Weights that stand among the inputs (old exporters) move out, so that they count as constants.
    """
    weights_to_constants(model)
    original = model.SerializeToString()
    pictures = [v for v in model.graph.input if v.type.HasField("tensor_type")]
    del model.graph.value_info[:]  # inferred for the old sizes
    for value in pictures:
        _free(value, (0, 2, 3))
    for value in model.graph.output:
        _free(value, range(len(value.type.tensor_type.shape.dim)))
    freed: bytes = model.SerializeToString()
    try:
        before, after = open_session(original, 1), open_session(freed, 1)
        fixed = model_input(before, "model")
        own = (fixed.batch or 1, 3, fixed.height or TRY_HEIGHT, fixed.width or TRY_WIDTH)
        picture = np.random.default_rng(0).uniform(0, 255, own).astype(np.float32)
        same = _close(run(before, fixed.name, picture), run(after, fixed.name, picture))
        shape = (TRY_BATCH, 3, TRY_HEIGHT, TRY_WIDTH)
        outputs = run(after, fixed.name, np.zeros(shape, np.float32))
    except ModelError:
        return None
    return freed if same and all(len(o) == TRY_BATCH for o in outputs) else None


def weights_to_constants(model: Any) -> None:
    """Take initializers out of the graph's inputs, in place."""
    weights = {t.name for t in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _free(value: Any, axes: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    for axis in axes:
        if axis < len(dims):
            # Output sizes are whatever follows from the inputs, so they get no name that could contradict.
            dims[axis].Clear()


def _close(before: Sequence[FloatArray], after: Sequence[FloatArray]) -> bool:
    return all(
        b.shape == a.shape and np.allclose(b, a, rtol=1e-3, atol=1e-3, equal_nan=True)
        for b, a in zip(before, after, strict=True)
    )
