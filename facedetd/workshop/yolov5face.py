"""The networks YOLOv5-face n-0.5, n, s, m and l as data: which layers, how wide, joined how, under which names.

One plan has three users: :mod:`facedetd.workshop.torchnet` runs it in PyTorch, :mod:`facedetd.workshop.export` writes
it as ONNX, and the counts below check it against what was published. No PyTorch is needed here.

Facts of the architecture (kinds of layers, widths, depths, the names of weights in a checkpoint): Qi, Tan, Yao, Liu,
"YOLO5Face: Why Reinventing a Face Detector" (arXiv:2105.12931), and models/*.yaml of github.com/deepcam-cn/yolov5-face.
The code is our own; none of that GPL project is used. ShuffleNetV2's unit: Ma, Zhang, Zheng, Sun, "ShuffleNet V2"
(arXiv:1807.11164), figure 3 c and d.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

INPUT = "data"
OUTPUTS = ("stride_8", "stride_16", "stride_32")
VALUES, ANCHORS = 16, 3
"""Values an anchor (x y w h, object, five points, class), and anchors a cell."""


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution, padded by half its kernel, with batch norm and SiLU; the last ones have a bias instead of both.
    ``weight`` and ``norm`` are the paths of the two modules in a checkpoint."""

    out: str
    source: str
    weight: str
    norm: str | None
    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    act: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """A maximum; with stride 1 padded by half its kernel."""

    out: str
    source: str
    kernel: int
    stride: int


@dataclass(frozen=True, slots=True)
class Join:
    """Channels of all sources, one after the other."""

    out: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Add:
    out: str
    sources: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Double:
    """Twice as wide and high, by repeating pixels."""

    out: str
    source: str


@dataclass(frozen=True, slots=True)
class Take:
    """Some channels, in the order given."""

    out: str
    source: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Anchors:
    """(batch, 48, h, w) to (batch, 3, h, w, 16)."""

    out: str
    source: str


Node: TypeAlias = Conv | Pool | Join | Add | Double | Take | Anchors
Plan: TypeAlias = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """Millions of parameters and 10^9 multiply-adds, called FLOPs there, at 640x480 (README.md of the authors'
    repository)."""

    parameters: float
    multiply_adds: float


@dataclass(frozen=True, slots=True)
class Size:
    """``width`` and ``depth`` multiply the channels and the repeats of the family's largest."""

    shuffle: bool
    width: float
    depth: float
    published: Published


SIZES: Mapping[str, Size] = {
    "n-0.5": Size(True, 0.5, 1.0, Published(0.447, 0.571)),
    "n": Size(True, 1.0, 1.0, Published(1.726, 2.111)),
    "s": Size(False, 0.5, 0.33, Published(7.075, 5.751)),
    "m": Size(False, 0.75, 0.67, Published(21.063, 18.146)),
    "l": Size(False, 1.0, 1.0, Published(46.627, 41.607)),
}


class _Builder:
    def __init__(self, size: Size) -> None:
        self.size = size
        self.nodes: list[Node] = []
        self.width: dict[str, int] = {INPUT: 3}
        """Channels of what has been made so far."""

    def wide(self, channels: int) -> int:
        return -(-int(channels * self.size.width) // 8) * 8

    def deep(self, repeats: int) -> int:
        return max(round(repeats * self.size.depth), 1)

    def put(self, node: Node, channels: int) -> str:
        self.nodes.append(node)
        self.width[node.out] = channels
        return node.out

    def conv(self, path: str, source: str, c_out: int, kernel: int = 1, stride: int = 1) -> str:
        """The usual triple, at ``path`` in the checkpoint."""
        c_in = self.width[source]
        return self.put(Conv(path, source, f"{path}.conv", f"{path}.bn", c_in, c_out, kernel, stride), c_out)

    def join(self, path: str, *sources: str) -> str:
        return self.put(Join(path, sources), sum(self.width[s] for s in sources))

    def pool(self, path: str, source: str, kernel: int, stride: int) -> str:
        return self.put(Pool(path, source, kernel, stride), self.width[source])

    def take(self, path: str, source: str, channels: Sequence[int]) -> str:
        return self.put(Take(path, source, tuple(channels)), len(channels))

    def stem(self, path: str, c_out: int) -> str:
        first = self.conv(f"{path}.stem_1", INPUT, c_out, 3, 2)
        narrow = self.conv(f"{path}.stem_2a", first, c_out // 2)
        small = self.conv(f"{path}.stem_2b", narrow, c_out, 3, 2)
        pooled = self.pool(f"{path}.stem_2p", first, 2, 2)
        return self.conv(f"{path}.stem_3", self.join(f"{path}.join", small, pooled), c_out)

    def csp(self, path: str, source: str, c_out: int, repeats: int, shortcut: bool) -> str:
        """ "C3": one half goes through ``repeats`` bottlenecks, the other goes round them."""
        half = c_out // 2
        through = self.conv(f"{path}.cv1", source, half)
        for i in range(repeats):
            inner = f"{path}.m.{i}"
            made = self.conv(f"{inner}.cv2", self.conv(f"{inner}.cv1", through, half), half, 3)
            through = self.put(Add(f"{inner}.add", (through, made)), half) if shortcut else made
        round_ = self.conv(f"{path}.cv2", source, half)
        return self.conv(f"{path}.cv3", self.join(f"{path}.join", through, round_), c_out)

    def pyramid_pool(self, path: str, source: str, c_out: int) -> str:
        first = self.conv(f"{path}.cv1", source, self.width[source] // 2)
        pooled = [self.pool(f"{path}.m.{i}", first, kernel, 1) for i, kernel in enumerate((3, 5, 7))]
        return self.conv(f"{path}.cv2", self.join(f"{path}.join", first, *pooled), c_out)

    def branch(self, path: str, source: str, c_out: int, steps: Iterable[tuple[int, bool, int]]) -> str:
        """Convolutions of a Sequential: (its index, depthwise?, stride); batch norm is the next module. A depthwise
        one keeps its channels and has no SiLU."""
        for index, depthwise, stride in steps:
            c_in = self.width[source]
            wide = c_in if depthwise else c_out
            norm, kernel, groups = f"{path}.{index + 1}", 3 if depthwise else 1, c_in if depthwise else 1
            name = f"{path}.{index}"
            node = Conv(name, source, name, norm, c_in, wide, kernel, stride, groups, not depthwise)
            source = self.put(node, wide)
        return source

    def shuffle_stage(self, layer: int, source: str, c_out: int, repeats: int) -> str:
        """A unit that halves the picture and ``repeats`` that don't; two layers of the checkpoint.

        After each unit the channels of its two halves alternate. Taking half of them, for the next unit, and
        putting them in order is one step.
        """
        half = c_out // 2
        order = [i // 2 + half * (i % 2) for i in range(c_out)]
        path = f"model.{layer}"
        left = self.branch(f"{path}.branch1", source, half, ((0, True, 2), (2, False, 1)))
        right = self.branch(f"{path}.branch2", source, half, ((0, False, 1), (3, True, 2), (5, False, 1)))
        both = self.join(f"{path}.join", left, right)
        for i in range(repeats):
            path = f"model.{layer + 1}.{i}"
            left = self.take(f"{path}.left", both, order[:half])
            right = self.take(f"{path}.right", both, order[half:])
            right = self.branch(f"{path}.branch2", right, half, ((0, False, 1), (3, True, 1), (5, False, 1)))
            both = self.join(f"{path}.join", left, right)
        return self.take(f"model.{layer + 1}.shuffle", both, order)

    def neck(self, layer: int, levels: tuple[str, str, str], widths: tuple[int, int, int]) -> None:
        """Up and down between the three levels (strides 8, 16, 32), and the last convolutions."""
        (p3, p4, p5), (w3, w4, w5) = levels, (self.wide(w) for w in widths)
        deep = 1 if self.size.shuffle else self.deep(3)

        def at(step: int) -> str:
            return f"model.{layer + step}"

        top = self.conv(at(0), p5, w4)
        up = self.put(Double(at(1), top), w4)
        middle = self.conv(at(4), self.csp(at(3), self.join(at(2), up, p4), w4, deep, False), w3)
        up = self.put(Double(at(5), middle), w3)
        out3 = self.csp(at(7), self.join(at(6), up, p3), w3, deep, False)
        down = self.conv(at(8), out3, w3, 3, 2)
        out4 = self.csp(at(10), self.join(at(9), down, middle), w4, deep, False)
        down = self.conv(at(11), out4, w4, 3, 2)
        out5 = self.csp(at(13), self.join(at(12), down, top), w5, deep, False)
        for i, (source, out) in enumerate(zip((out3, out4, out5), OUTPUTS, strict=True)):
            path, wide = f"{at(14)}.m.{i}", ANCHORS * VALUES
            raw = self.put(Conv(path, source, path, None, self.width[source], wide, act=False), wide)
            self.put(Anchors(out, raw), wide)


def plan(name: str) -> Plan:
    """The nodes of a size of SIZES, in an order in which they can run, from INPUT to OUTPUTS."""
    size = SIZES[name]
    b = _Builder(size)
    if size.shuffle:
        x = b.stem("model.0", b.wide(32))
        p3 = b.shuffle_stage(1, x, b.wide(128), 3)
        p4 = b.shuffle_stage(3, p3, b.wide(256), 7)
        p5 = b.shuffle_stage(5, p4, b.wide(512), 3)
        b.neck(7, (p3, p4, p5), (128, 128, 128))
    else:
        x = b.stem("model.0", b.wide(64))
        x = b.csp("model.1", x, b.wide(128), b.deep(3), True)
        p3 = b.csp("model.3", b.conv("model.2", x, b.wide(256), 3, 2), b.wide(256), b.deep(9), True)
        p4 = b.csp("model.5", b.conv("model.4", p3, b.wide(512), 3, 2), b.wide(512), b.deep(9), True)
        x = b.pyramid_pool("model.7", b.conv("model.6", p4, b.wide(1024), 3, 2), b.wide(1024))
        p5 = b.csp("model.8", x, b.wide(1024), b.deep(3), False)
        b.neck(9, (p3, p4, p5), (256, 512, 1024))
    return tuple(b.nodes)


NORM = ("weight", "bias", "running_mean", "running_var")


def shapes(nodes: Plan) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint that the plan uses, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        if isinstance(node, Conv):
            found[f"{node.weight}.weight"] = (node.c_out, node.c_in // node.groups, node.kernel, node.kernel)
            if node.norm is None:
                found[f"{node.weight}.bias"] = (node.c_out,)
            else:
                found.update({f"{node.norm}.{part}": (node.c_out,) for part in NORM})
    return found


def _parameters(conv: Conv) -> int:
    return conv.c_out * (conv.c_in // conv.groups * conv.kernel**2 + (1 if conv.norm is None else 2))


def parameters(nodes: Plan) -> int:
    """What training changes: weights, biases, and two for each channel of a batch norm."""
    return sum(_parameters(node) for node in nodes if isinstance(node, Conv))


def multiply_adds(nodes: Plan, width: int, height: int) -> int:
    """For a picture of width x height px (multiples of 32), counted as the published figures are: convolutions, their
    biases, and two for each value of a batch norm."""
    step, total = {INPUT: 1}, 0  # px of the picture a pixel, along an edge
    for node in nodes:
        source = node.sources[0] if isinstance(node, (Join, Add)) else node.source
        step[node.out] = step[source]
        if isinstance(node, (Conv, Pool)):
            step[node.out] *= node.stride
        elif isinstance(node, Double):
            step[node.out] //= 2
        if isinstance(node, Conv):
            total += (width // step[node.out]) * (height // step[node.out]) * _parameters(node)
    return total
