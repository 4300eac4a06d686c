"""Imports point one way (DESIGN 7), and a process imports no more than its work needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import facedetd

ROOT = Path(facedetd.__file__).parent
CTL = ROOT.parent / "ctl" / "facedetctl"

ALLOWED = {
    "types": set(),
    "ipc": set(),
    "files": set(),
    "threads": set(),
    "usage": set(),
    "allocator": set(),
    "logs": {"stderr"},
    "stderr": set(),
    "worker": set(),
    "control": {"types"},
    "config": {"types", "control"},
    "registry": {"types", "control", "config"},
    "ring": {"types"},
    "cuda": set(),
    "capture": {"types", "config", "ring", "ipc", "logs", "allocator", "cuda", "threads", "usage"},
    "models": {"types", "ring", "inference", "files"},
    "trt": {"files", "cuda"},
    "inference": {"types", "config", "ring", "ipc", "logs", "results", "trt", "usage"},
    "results": {"types", "control"},
    "degradation": {"types", "control", "config"},
    "metrics": {"types", "control", "threads"},
    "api": {"types", "control", "config", "v1"},
    "v1": set(),
    "workshop": {"types", "ring", "capture", "inference", "models", "trt", "files"},
}
"""Each room and those it may import, itself aside. The supervisor and main, which put all together, may import any."""


def rooms_of(path: Path) -> set[str]:
    """The rooms of facedetd that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("facedetd.") and "__version__" not in name}
    return found


def files_of(room: str) -> list[Path]:
    return [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    for path in files_of(room):
        beyond = rooms_of(path) - ALLOWED[room] - {room}
        assert not beyond, f"{path.relative_to(ROOT.parent)} imports facedetd.{', facedetd.'.join(sorted(beyond))}"


def test_every_room_is_in_the_table() -> None:
    rooms = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__", "main", "supervisor"} <= ALLOWED.keys()


def test_the_table_itself_points_one_way() -> None:
    below: dict[str, set[str]] = {}

    def descend(room: str, path: tuple[str, ...]) -> set[str]:
        assert room not in path, " -> ".join((*path, room))
        if room not in below:
            below[room] = set().union(*(descend(other, (*path, room)) for other in ALLOWED[room])) | ALLOWED[room]
        return below[room]

    for room in ALLOWED:
        descend(room, ())
    assert "inference" not in below["capture"]
    assert "capture" not in below["inference"]
    assert not {"capture", "inference"} & below["ring"]


def test_the_client_imports_nothing_of_the_running_daemon() -> None:
    forbidden = {"supervisor", "capture", "ring", "ipc", "worker", "registry", "main"}
    files = [
        path for path in CTL.rglob("*.py") if "bench" not in path.parts
    ]  # bench runs the models itself, to compare
    assert files
    for path in files:
        assert not rooms_of(path) & forbidden, path


def loaded_by(statement: str) -> set[str]:
    script = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import facedetd.__main__", {"numpy", "grpc", "av", "cv2", "asyncio"}),  # every worker runs it first
        ("import facedetd.worker", {"numpy", "grpc", "av", "cv2", "asyncio"}),
        ("import facedetd.capture.group", {"grpc", "onnxruntime", "onnx", "google.protobuf", "prometheus_client"}),
        ("import facedetd.inference.process", {"grpc", "av", "onnx", "google.protobuf", "prometheus_client"}),
        ("import facedetd.supervisor.app", {"av", "cv2", "onnxruntime", "onnx"}),
    ],
)
def test_a_process_does_not_load_what_others_need(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent
