"""Runs a plan of :mod:`facedetd.workshop.yolov5face` in PyTorch, 1.13 or newer, on the CPU, batch norm unfused.

Loads PyTorch, so only what can't do without imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from facedetd.types import FloatArray
from facedetd.workshop.yolov5face import (
    ANCHORS,
    INPUT,
    NORM,
    OUTPUTS,
    VALUES,
    Add,
    Conv,
    Double,
    Join,
    Plan,
    Pool,
    Take,
)

VERSION: str = str(torch.__version__)


def run(
    nodes: Plan, weights: Mapping[str, FloatArray], epsilons: Mapping[str, float], pictures: FloatArray
) -> tuple[FloatArray, ...]:
    """The raw levels, in the order of OUTPUTS, of pictures (batch, 3, height, width), RGB from 0 to 1. ``weights`` by
    their names in a checkpoint, ``epsilons`` by the path of the batch norm."""
    return _run(nodes, weights, epsilons, pictures, learn=False)


def with_statistics(
    nodes: Plan, weights: Mapping[str, FloatArray], epsilons: Mapping[str, float], pictures: FloatArray
) -> dict[str, FloatArray]:
    """A copy of the weights in which the running statistics are those of these pictures: with them, values stay of
    one size from layer to layer in a network that nobody has trained."""
    copies = {name: weight.copy() for name, weight in weights.items()}
    _run(nodes, copies, epsilons, pictures, learn=True)  # PyTorch writes them into the arrays it is given
    return copies


def _run(
    nodes: Plan,
    weights: Mapping[str, FloatArray],
    epsilons: Mapping[str, float],
    pictures: FloatArray,
    learn: bool,
) -> tuple[FloatArray, ...]:
    made: dict[str, Any] = {INPUT: torch.from_numpy(pictures)}
    with torch.no_grad():
        for node in nodes:
            if isinstance(node, Conv):
                value = _conv(node, weights, epsilons, made[node.source], learn)
            elif isinstance(node, Pool):
                padding = node.kernel // 2 if node.stride == 1 else 0
                value = functional.max_pool2d(made[node.source], node.kernel, node.stride, padding)
            elif isinstance(node, Join):
                value = torch.cat([made[s] for s in node.sources], dim=1)
            elif isinstance(node, Add):
                value = made[node.sources[0]] + made[node.sources[1]]
            elif isinstance(node, Double):
                value = functional.interpolate(made[node.source], scale_factor=2.0, mode="nearest")
            elif isinstance(node, Take):
                value = made[node.source][:, list(node.channels)]
            else:
                batch, _, height, width = made[node.source].shape
                value = made[node.source].view(batch, ANCHORS, VALUES, height, width).permute(0, 1, 3, 4, 2)
            made[node.out] = value
    return tuple(made[name].contiguous().numpy() for name in OUTPUTS)


def _conv(node: Conv, weights: Mapping[str, FloatArray], epsilons: Mapping[str, float], value: Any, learn: bool) -> Any:
    weight = torch.from_numpy(weights[f"{node.weight}.weight"])
    bias = torch.from_numpy(weights[f"{node.weight}.bias"]) if node.norm is None else None
    value = functional.conv2d(value, weight, bias, node.stride, node.kernel // 2, groups=node.groups)
    if node.norm is not None:
        gain, shift, mean, variance = (torch.from_numpy(weights[f"{node.norm}.{part}"]) for part in NORM)
        value = functional.batch_norm(value, mean, variance, gain, shift, learn, 1.0, epsilons[node.norm])
    return functional.silu(value) if node.act else value
