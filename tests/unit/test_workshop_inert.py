"""Hostile checkpoints: whatever a pickle names, nothing is looked up and nothing is run."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facedetd.workshop.checkpoint import CheckpointError, load
from facedetd.workshop.inert import Name, PickleError, Record, read
from tests.unit.checkpoint_kit import ORDERED, Call, Stored, Writer, dump, watched


class Payload:
    """A plain pickle of it calls ``by(*arguments)`` when loaded."""

    def __init__(self, by: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = by, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self.reduced


def payloads(marker: Path) -> dict[str, bytes]:
    touch = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    text = command.encode()
    by_protocol = {
        f"{kind}, protocol {protocol}": pickle.dumps(value, protocol)
        for protocol in (0, 2, 4)
        for kind, value in {
            "os.system": Payload(os.system, command),
            "eval": Payload(builtins.eval, touch),
            "exec": Payload(builtins.exec, touch),
            "subprocess.Popen": Payload(subprocess.Popen, ["touch", str(marker)]),
            "an OrderedDict of it": Payload(OrderedDict, [("k", Payload(os.system, command))]),
            "deep in a model": {"model": {"weight": [Payload(os.system, command)]}},
            "in a set": {Payload(os.system, command)},
        }.items()
    }
    return {
        **by_protocol,
        "INST": b"(V" + text + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nV" + text + b"\no.",
        "a dotted name": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R.",
        "twice reduced": b"c__builtin__\ngetattr\n(cos\nsystem\nV__call__\ntR(V" + text + b"\ntR.",
        "after a memo": b"cos\nsystem\nq\x000h\x00(V" + text + b"\ntR.",
        "built": b"c__builtin__\nobject\n)\x81}V__class__\ncos\nsystem\nsb0cos\nsystem\n(V" + text + b"\ntR.",
    }


@pytest.mark.parametrize("kind", list(payloads(Path("marker"))))
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "it-ran"
    data = payloads(marker)[kind]
    path = tmp_path / "model.pt"
    for content in (Writer().zip(data), dump(0x1950A86A20F9469CFC6C) + dump(1001) + data, data):
        path.write_bytes(content)
        with watched() as seen:
            with suppress(PickleError):
                read(data)
            with pytest.raises(CheckpointError):
                load(path)
        assert not seen
        assert not marker.exists()
    # the same bytes do their work where they are unpickled: the test would notice
    with watched() as seen, suppress(AttributeError, TypeError):
        done = pickle.loads(data)
        if isinstance(done, subprocess.Popen):
            done.wait()
    assert seen
    assert marker.exists() or kind == "built"


EVIL = Call(Name("os", "system"), ("touch it-ran",))


@pytest.mark.parametrize(
    "value",
    [
        Call(Name("torch._utils", "_rebuild_tensor_v2"), (EVIL, 0, (1,), (1,), False, EVIL)),
        Call(Name("torch._utils", "_rebuild_parameter"), (EVIL, True, EVIL)),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), (Stored(EVIL), 0, (1,), (1,))),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), (Stored(("storage", EVIL, "0", "cpu", 1)), 0, (1,), (1,))),
        Call(
            Name("torch._utils", "_rebuild_tensor_v2"),
            (Stored(("storage", Name("os", "system"), "0", "cpu", 1)), 0, (1,), (1,)),
        ),
        Call(Name("torch._utils", "_rebuild_device_tensor_from_numpy"), (EVIL,)),
        Call(ORDERED, ([EVIL],)),
        Call(ORDERED, (EVIL,)),
        Call(EVIL, ("x",)),
        Call(Stored(("module", Name("os", "system"), "file.py", "import os")), ("touch it-ran",)),
        Call(Call(Name("builtins", "getattr"), (Name("os", "system"), "__call__")), ("touch it-ran",)),
    ],
)
def test_known_names_with_evil_arguments(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "model.pt"
    with watched() as seen:
        for where in ({"model": {"w": value, "good": Writer().tensor(np.ones(1))}}, {"model": {"w": value}}, value):
            path.write_bytes(Writer().zip(where))
            with pytest.raises(CheckpointError):
                load(path)
    assert not seen


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"\x97", b"\x98"])
def test_extensions_and_buffers_of_a_program_are_not_taken(code: bytes) -> None:
    with pytest.raises(PickleError, match="not allowed"):
        read(b"\x80\x05N" + code + b".")


def test_a_name_is_only_ever_a_name() -> None:
    value, _ = read(dump({"f": Name("os", "system"), "r": Call(Name("os", "system"), ("x",))}))
    assert value["f"] == Name("os", "system")
    assert isinstance(value["r"], Record)
    assert (value["r"].by, value["r"].arguments) == (Name("os", "system"), ("x",))
