"""The plans of YOLOv5-face: as large as published, in an order that runs, with the names of real checkpoints."""

from __future__ import annotations

import pytest

from facedetd.workshop.yolov5face import (
    INPUT,
    OUTPUTS,
    SIZES,
    Add,
    Conv,
    Join,
    Take,
    multiply_adds,
    parameters,
    plan,
    shapes,
)

every_size = pytest.mark.parametrize("size", SIZES)


@every_size
def test_parameters_and_flops_are_the_published_ones(size: str) -> None:
    published, nodes = SIZES[size].published, plan(size)
    assert round(parameters(nodes) / 1e6, 3) == published.parameters
    assert round(multiply_adds(nodes, 640, 480) / 1e9, 3) == published.multiply_adds


@every_size
def test_work_grows_with_the_picture(size: str) -> None:
    nodes = plan(size)
    assert multiply_adds(nodes, 1280, 960) == 4 * multiply_adds(nodes, 640, 480)
    assert multiply_adds(nodes, 480, 640) == multiply_adds(nodes, 640, 480)


@every_size
def test_every_node_has_its_sources_before_it_and_a_user(size: str) -> None:
    nodes, made, used = plan(size), {INPUT}, set()
    for node in nodes:
        sources = node.sources if isinstance(node, (Join, Add)) else (node.source,)
        assert made.issuperset(sources), node
        assert node.out not in made, f"{node.out} is made twice"
        made.add(node.out)
        used.update(sources)
    assert made - used == set(OUTPUTS)


@every_size
def test_channels_add_up(size: str) -> None:
    wide = {INPUT: 3}
    for node in plan(size):
        if isinstance(node, Conv):
            assert node.c_in == wide[node.source], node
            assert node.c_in % node.groups == node.c_out % node.groups == 0
            wide[node.out] = node.c_out
        elif isinstance(node, Join):
            wide[node.out] = sum(wide[s] for s in node.sources)
        elif isinstance(node, Add):
            assert len({wide[s] for s in node.sources}) == 1
            wide[node.out] = wide[node.sources[0]]
        elif isinstance(node, Take):
            assert max(node.channels) < wide[node.source]
            assert len(set(node.channels)) == len(node.channels)
            wide[node.out] = len(node.channels)
        else:
            wide[node.out] = wide[node.source]
    assert [wide[name] for name in OUTPUTS] == [48, 48, 48]


def test_a_shuffle_alternates_the_two_halves() -> None:
    takes = {node.out: node for node in plan("n-0.5") if isinstance(node, Take)}
    assert takes["model.2.shuffle"].channels[:6] == (0, 32, 1, 33, 2, 34)
    left, right = takes["model.2.0.left"].channels, takes["model.2.0.right"].channels
    assert left + right == takes["model.2.shuffle"].channels


def test_names_of_weights_are_those_of_checkpoints() -> None:
    small, large = shapes(plan("n-0.5")), shapes(plan("l"))
    assert small["model.0.stem_1.conv.weight"] == (16, 3, 3, 3)
    assert small["model.2.2.branch2.3.weight"] == (32, 1, 3, 3)
    assert small["model.20.cv3.bn.running_var"] == (64,)
    assert small["model.21.m.2.bias"] == (48,)
    assert large["model.5.m.8.cv2.conv.weight"] == (256, 256, 3, 3)
    assert large["model.7.cv2.conv.weight"] == (1024, 2048, 1, 1)
    assert large["model.23.m.0.weight"] == (48, 256, 1, 1)
