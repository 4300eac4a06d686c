"""Bytes that are no message get one clear status from every method; and the fuzzer knows every method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from facedetd.api.roles import ROLES
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2
from tests.fuzz.api import METHODS, TIMEOUT_S, Method, random_message
from tests.fuzz.targets import find

GARBLED = b"\x0a\xff\xff\xff\xff\x0f"  # a field of 4 GB that isn't there


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("api")
    with find("api").open(folder) as opened:
        yield opened


def test_every_method_is_fed() -> None:
    assert {method.path for method in METHODS} == set(ROLES)
    ours = [s for pb in (stream_pb2, detection_pb2, daemon_pb2) for s in pb.DESCRIPTOR.services_by_name.values()]
    assert {f"/{s.full_name}/{m.name}" for s in ours for m in s.methods} <= {method.path for method in METHODS}


@pytest.mark.parametrize("number", range(len(METHODS)), ids=[m.path.rpartition("/")[2] for m in METHODS])
def test_bytes_that_are_no_message_are_invalid(api: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.api.STREAM_S", TIMEOUT_S)  # silence would pass for an answer
    with pytest.raises(DecodeError):
        METHODS[number].request.FromString(GARBLED)
    assert api.call(number, 0, GARBLED) is grpc.StatusCode.INVALID_ARGUMENT
    api.good()


@pytest.mark.parametrize("method", METHODS, ids=[m.path for m in METHODS])
def test_random_messages_set_every_field(method: Method) -> None:
    seen = {field.name for n in range(40) for field, _ in random_message(Random(n), method.request).ListFields()}
    assert seen == {field.name for field in method.request.DESCRIPTOR.fields}
