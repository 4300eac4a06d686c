"""Checkpoints to ONNX: what is refused, and that what is written computes the same and runs at any size."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from facedetctl import main as ctl
from facedetd.inference.engines.onnxruntime import open_session, run
from facedetd.inference.heads import yolov5face as head
from facedetd.models import ModelStore, import_model
from facedetd.workshop import onnxnet
from facedetd.workshop.export import (
    ExportError,
    Network,
    Settings,
    _picture,
    check_settings,
    export,
    from_checkpoint,
    from_random,
)
from facedetd.workshop.inert import Name
from facedetd.workshop.yolov5face import INPUT, OUTPUTS, Conv, Plan
from tests.unit.checkpoint_kit import Call, Writer, random_tensors, whole_module

SMALL = Settings(width=128, height=96)
WITH_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not WITH_TORCH, reason="PyTorch isn't installed: pip install 'facedetd[model]'")


def public_models() -> Path:
    folder = Path(os.environ.get("FACEDETD_TEST_MODELS") or "none")
    if not (folder / "yolov5n-0.5-face.pt").is_file():
        pytest.skip("FACEDETD_TEST_MODELS names no folder with yolov5n-0.5-face.pt")
    return folder


def checkpoint(tmp_path: Path, size: str = "n-0.5", whole: bool = True, **changes: Any) -> Path:
    """``changes``: tensors by name, None to leave one out, or attributes of the first convolution."""
    writer, tensors = Writer(), random_tensors(size)
    for name in [n for n in changes if "." in n]:
        tensors[name] = changes.pop(name)
    tensors = {name: value for name, value in tensors.items() if value is not None}
    if whole:
        value: Any = whole_module(writer, size, tensors, **changes)
    else:
        value = {name: writer.tensor(tensor) for name, tensor in tensors.items()}
    path = tmp_path / f"{size}.pt"
    path.write_bytes(writer.zip({"model": value}))
    return path


def converted(network: Network, opset: int = 13) -> bytes:
    return onnxnet.to_onnx(network.nodes, network.weights, network.epsilons, opset, {"facedetd.source": "a test"})


def levels(model: bytes, pictures: Any) -> list[Any]:
    return list(run(open_session(model, 1), INPUT, pictures))


def noise(batch: int, width: int, height: int) -> Any:
    return np.random.default_rng(5).random((batch, 3, height, width), np.float32)


# Without PyTorch


@pytest.mark.parametrize("size", ["n-0.5", "n", "s"])
def test_the_size_is_found_by_the_shapes(size: str, tmp_path: Path) -> None:
    assert from_checkpoint(checkpoint(tmp_path, size)).size == size
    assert from_checkpoint(tmp_path / f"{size}.pt", size).size == size
    tensors_only = from_checkpoint(checkpoint(tmp_path, size, whole=False))
    assert tensors_only.size == size
    assert set(tensors_only.epsilons.values()) == {1e-3}  # what such a file doesn't say


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.0.stem_1.conv.weight": np.ones((24, 3, 3, 3), np.float32)}, "(24, 3, 3, 3), not (16, 3, 3, 3)"),
        ({"model.7.conv.weight": None}, "no model.7.conv.weight"),
        ({"model.22.weight": np.ones(3, np.float32)}, "model.22.weight has no place"),
        ({"model.0.conv.conv.weight": np.ones((32, 12, 3, 3), np.float32)}, "Focus"),
        ({"model.7.bn.running_var": np.full(64, -1, np.float32)}, "model.7.bn.running_var holds negative"),
        ({"model.7.bn.bias": np.full(64, np.nan, np.float32)}, "model.7.bn.bias holds values that are not finite"),
        ({"model.21.anchor_grid": np.arange(18, dtype=np.float32)}, "its anchors are"),
        ({"stride": (1, 1)}, "model.0.stem_1.conv has stride (1, 1), not 2"),
        ({"dilation": (2, 2)}, "has dilation (2, 2), not 1"),
        ({"epsilon": 0.0}, "has eps 0.0"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = checkpoint(tmp_path, **changes)
    with pytest.raises(ExportError) as caught:
        from_checkpoint(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_modules_that_no_tensor_shows_are_checked(tmp_path: Path) -> None:
    """Another activation, or wider pools as in YOLOv5's own SPP, have the same tensors."""

    def child(module: Call, path: str) -> Call:
        for part in path.split("."):
            module = module.state["_modules"][part]
        return module

    path, tensors = tmp_path / "s.pt", random_tensors("s")
    for where, said in (
        ("act", r"stem_1\.act is a torch.*LeakyReLU"),
        ("pool", r"model\.7\.m\.1 has kernel_size 9, not 5"),
    ):
        writer = Writer()
        module = whole_module(writer, "s", tensors)
        path.write_bytes(writer.zip({"model": module}))
        assert from_checkpoint(path).size == "s"
        if where == "act":
            relu = Call(Name("torch.nn.modules.activation", "LeakyReLU"), (), {"training": False})
            child(module, "model.0.stem_1").state["_modules"]["act"] = relu
        else:
            child(module, "model.7.m.1").state["kernel_size"] = 9
        path.write_bytes(writer.zip({"model": module}))
        with pytest.raises(ExportError, match=said):
            from_checkpoint(path)


def test_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    with pytest.raises(ExportError, match="not a YOLOv5-face n: "):
        from_checkpoint(path, "n")
    with pytest.raises(ExportError, match=r"allowed are auto, n-0\.5, n, s, m, l"):
        from_checkpoint(path, "xl")


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_the_model_runs_at_any_batch_and_size_and_has_fixed_names(opset: int) -> None:
    model = converted(from_random("n-0.5", 1), opset)
    parsed = onnx.load_from_string(model)
    assert [(o.domain, o.version) for o in parsed.opset_import] == [("", opset)]
    assert [v.name for v in parsed.graph.input] == [INPUT]
    assert [v.name for v in parsed.graph.output] == list(OUTPUTS)
    for batch, width, height in ((1, 64, 32), (3, 160, 96), (2, 96, 160)):
        found = levels(model, noise(batch, width, height))
        assert [f.shape for f in found] == [(batch, 3, height // s, width // s, 16) for s in (8, 16, 32)]
        matched = head.match(dict(zip(OUTPUTS, found, strict=True)), width, height)
        assert matched == head.YoloV5FaceRawHead(OUTPUTS)


@pytest.mark.parametrize("size", ["n-0.5", "s"])
def test_nothing_is_left_to_simplify(size: str) -> None:
    kinds = {node.op_type for node in onnx.load_from_string(converted(from_random(size, 1))).graph.node}
    assert kinds <= {"Conv", "Sigmoid", "Mul", "Concat", "Add", "MaxPool", "Resize", "Gather", "Transpose", "Reshape"}


def test_a_picture_is_one_of_its_batch() -> None:
    model, pictures = converted(from_random("n-0.5", 1)), noise(3, 96, 64)
    for whole, alone in zip(levels(model, pictures), levels(model, pictures[1:2]), strict=True):
        assert np.allclose(whole[1:2], alone, atol=1e-4)


def test_batch_norm_is_folded_as_it_computes(tmp_path: Path) -> None:
    network = from_checkpoint(checkpoint(tmp_path, epsilon=0.02))
    node = next(n for n in network.nodes if isinstance(n, Conv) and n.kernel == 1 and n.norm)
    assert network.epsilons[node.norm or ""] == 0.02
    weight, bias = onnxnet.folded(node, network.weights, network.epsilons)
    x = np.random.default_rng(3).standard_normal((node.c_in, 50))
    kernel = network.weights[f"{node.weight}.weight"][:, :, 0, 0].astype(np.float64)
    gain, shift, mean, variance = (
        network.weights[f"{node.norm}.{part}"].astype(np.float64)[:, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    wanted = (kernel @ x - mean) / np.sqrt(variance + 0.02) * gain + shift
    assert np.allclose(weight[:, :, 0, 0] @ x + bias[:, None], wanted, atol=1e-4)


def test_random_weights_find_nothing_whatever_the_picture() -> None:
    model = converted(from_random("n-0.5", 1))
    for loudness in (1, 50):
        for found in levels(model, loudness * noise(2, 96, 64)):
            assert found[..., 4].max() < -7.9


def test_random_weights_depend_on_the_seed_alone() -> None:
    one, same, other = (from_random("n-0.5", seed) for seed in (1, 1, 2))
    name = "model.0.stem_1.conv.weight"
    assert np.array_equal(one.weights[name], same.weights[name])
    assert not np.array_equal(one.weights[name], other.weights[name])
    for size, seed in (("auto", 1), ("x", 1), ("n", -1)):
        with pytest.raises(ExportError):
            from_random(size, seed)


def test_the_public_checkpoint_is_the_authors_model() -> None:
    """Our weights in the authors' graph, and the authors' graph as it is, give what ours gives. So kinds, order and
    joints of all layers are theirs, and so are the order of the values and of the anchors."""
    folder = public_models()
    network = from_checkpoint(folder / "yolov5n-0.5-face.pt")
    ours = converted(network)
    theirs = onnx.load(str(folder / "yolov5n-0.5-face_deepcam_640x640.onnx"))
    pictures = noise(1, 640, 640)
    wanted = levels(ours, pictures)
    assert [v.name for v in theirs.graph.output] == list(OUTPUTS)
    for a, b in zip(levels(theirs.SerializeToString(), pictures), wanted, strict=True):
        assert np.abs(a - b).max() < 1e-3
    _graft(theirs, network)
    for a, b in zip(levels(theirs.SerializeToString(), pictures), wanted, strict=True):
        assert np.abs(a - b).max() < 1e-5


def _graft(model: Any, network: Network) -> None:
    """Put a network's weights into another graph of it, convolution by convolution."""
    constants = {t.name: t for t in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    nodes = [n for n in network.nodes if isinstance(n, Conv)]
    assert len(convolutions) == len(nodes)
    for theirs, ours in zip(convolutions, nodes, strict=True):
        weight_name, bias_name = theirs.input[1:]
        if weight_name.startswith("model."):
            assert weight_name == f"{ours.weight}.weight"
        for name, value in zip(
            (weight_name, bias_name), onnxnet.folded(ours, network.weights, network.epsilons), strict=True
        ):
            assert tuple(constants[name].dims) == value.shape
            constants[name].CopyFrom(numpy_helper.from_array(value, name))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(width=100), "width 100; allowed are multiples of 32"),
        (Settings(height=32), "height 32"),
        (Settings(width=16384), "width 16384"),
        (Settings(opset=12), "opset 12; allowed are 13 to 21"),
    ],
)
def test_settings_are_checked(settings: Settings, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        check_settings(settings)


@pytest.mark.skipif(WITH_TORCH, reason="PyTorch is installed")
def test_without_pytorch_the_command_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    assert ctl.run(["model", "export", "--random-weights", "1", "--size", "n", "--output", str(output)]) == 1
    assert "pip install 'facedetd[model]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_picture_must_be_one(tmp_path: Path) -> None:
    for content, said in ((None, "No such file"), (b"", "not a picture"), (b"text", "not a picture")):
        picture = tmp_path / "p.jpg"
        if content is not None:
            picture.write_bytes(content)
        with pytest.raises(ExportError, match=f"p.jpg: {said}"):
            _picture(Settings(picture=picture))


def test_the_command_wants_one_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ([], ["model.pt", "--random-weights", "1"]):
        assert ctl.run(["model", "export", *source, "--output", str(tmp_path / "m.onnx")]) == 2
        assert "either a CHECKPOINT or --random-weights" in capsys.readouterr().err


# With PyTorch


@needs_torch
@pytest.mark.parametrize("size", ["n-0.5", "n", "s"])
def test_an_export_agrees_with_pytorch_and_says_so(size: str, tmp_path: Path) -> None:
    output, said = tmp_path / "out.onnx", []
    manifest = export(from_checkpoint(checkpoint(tmp_path, size)), output, SMALL, said.append)
    assert json.loads((tmp_path / "out.onnx.json").read_text()) == manifest
    assert manifest["network"]["name"] == f"yolov5-face {size}"
    assert manifest["source"]["kind"] == "checkpoint"
    assert manifest["bytes"] == output.stat().st_size
    assert [(r["batch"], r["width"], r["height"]) for r in manifest["check"]["runs"]] == [(1, 128, 96), (2, 64, 32)]
    assert 0 < manifest["check"]["max_abs_difference"] < 1e-2
    assert len(said) == 4
    assert {p.name for p in tmp_path.iterdir()} == {f"{size}.pt", "out.onnx", "out.onnx.json"}
    store = ModelStore(tmp_path / "store")
    assert import_model(output, store, size=(128, 96)).head == "yolov5face"


@needs_torch
def test_the_torch_network_is_the_same_at_every_batch_norm(tmp_path: Path) -> None:
    """A network of PyTorch's own modules, made here for one unit, against the plan's run."""
    torch = pytest.importorskip("torch")
    from facedetd.workshop import torchnet

    network = from_checkpoint(checkpoint(tmp_path))
    nodes: Plan = tuple(n for n in network.nodes if n.out in ("model.0.stem_1", "model.0.stem_2a"))
    pictures = noise(1, 64, 64)
    first = nodes[0]
    assert isinstance(first, Conv)
    conv = torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    norm = torch.nn.BatchNorm2d(16, eps=1e-3)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(network.weights["model.0.stem_1.conv.weight"]))
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, part).copy_(torch.from_numpy(network.weights[f"model.0.stem_1.bn.{part}"]))
        wanted = torch.nn.Sequential(conv, norm, torch.nn.SiLU()).eval()(torch.from_numpy(pictures)).numpy()
    found = torchnet._conv(first, network.weights, network.epsilons, torch.from_numpy(pictures), False).numpy()
    assert np.allclose(found, wanted, atol=1e-5)


@needs_torch
def test_a_wrong_model_is_noticed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnxnet.folded

    def wrong(node: Conv, weights: Any, epsilons: Any) -> Any:
        weight, bias = right(node, weights, epsilons)
        return weight, bias + np.float32(0.1 * (node.weight == "model.7.conv"))

    monkeypatch.setattr(onnxnet, "folded", wrong)
    with pytest.raises(ExportError, match="differ by"):
        export(from_checkpoint(checkpoint(tmp_path)), tmp_path / "out.onnx", SMALL, lambda _: None)
    assert [p.name for p in tmp_path.iterdir()] == ["n-0.5.pt"]


@needs_torch
@pytest.mark.parametrize("stop_at", range(4))
def test_an_interrupted_export_leaves_the_old_file(tmp_path: Path, stop_at: int) -> None:
    output, said = tmp_path / "out.onnx", []
    output.write_bytes(b"old")

    def interrupted(step: str) -> None:
        said.append(step)
        if len(said) > stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(from_random("n-0.5", 1), output, SMALL, interrupted)
    assert output.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


@needs_torch
def test_random_weights_are_labelled_and_detect_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "random.onnx"
    command = ["--json", "model", "export", "--random-weights", "7", "--size", "n-0.5", "--output", str(output)]
    assert ctl.run([*command, "--width", "128", "--height", "96"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["source"] == {"kind": "random weights: detects nothing", "seed": 7}
    properties = {p.key: p.value for p in onnx.load(str(output)).metadata_props}
    assert properties["facedetd.source"].startswith("random weights")
    outputs = dict(zip(OUTPUTS, levels(output.read_bytes(), noise(1, 320, 320)), strict=True))
    assert all(0.01 < np.std(o[..., :4]) < 10 for o in outputs.values())
    assert not len(head.YoloV5FaceRawHead(OUTPUTS).decode(outputs, 320, 320, 0.3)[0].scores)


@needs_torch
def test_the_public_checkpoint_finds_the_face(tmp_path: Path) -> None:
    cv2, data = pytest.importorskip("cv2"), pytest.importorskip("skimage.data")
    folder, picture, output = public_models(), tmp_path / "astronaut.png", tmp_path / "n05.onnx"
    astronaut = data.astronaut()
    cv2.imwrite(str(picture), astronaut[:, :, ::-1])
    settings = Settings(width=512, height=512, picture=picture)
    manifest = export(from_checkpoint(folder / "yolov5n-0.5-face.pt"), output, settings, lambda _: None)
    assert manifest["check"]["max_abs_difference"] < 1e-3
    assert manifest["check"]["picture"]["file"] == "astronaut.png"
    planes = (astronaut.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    outputs = dict(zip(OUTPUTS, levels(output.read_bytes(), planes), strict=True))
    (found,) = head.YoloV5FaceRawHead(OUTPUTS).decode(outputs, 512, 512, 0.5)
    assert len(found.scores) == 1
    x0, y0, x1, y1 = found.boxes[0]
    assert 160 < x0 < 190 < 260 < x1 < 290  # her face, by eye
    assert 45 < y0 < 80 < 165 < y1 < 195
