"""Every RPC, over real gRPC on a real socket: random messages of the right type, damaged ones, plain noise.

The methods come from the servers' descriptors, so a new one is fed by itself. Behind the API stands the real registry
and the state file's format, with what runs streams faked (tests/unit/fakes_control.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from facedetd.api.server import SERVICE_NAMES
from facedetd.control import ImportView, StreamView
from facedetd.ipc import MAX_MESSAGE
from facedetd.registry import codec
from facedetd.registry.registry import Registry
from facedetd.types import Secret, StreamSpec, spec_from_dict
from tests.fuzz.mutate import NUMBERS, mutate
from tests.fuzz.target import Fed, Finding, Target, expect

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from api_harness import Served, serving
from fakes_control import FakeControl, result_of, view_of

BAD = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.DEADLINE_EXCEEDED)
TIMEOUT_S = 60.0
STREAM_S = 0.5
_HEAD = struct.Struct("<BB")  # method, socket
TEXTS = (
    "", "door", "cam-1", "rtsp://127.0.0.1/x", "rtsp://u:p@h/x", "file:///etc/passwd", "\0", "ü" * 300, "a" * 70000,
    "/" + "a" * 200_000, "-1", "../x", "\u202e", "*", "spec.url", "credentials.password", "facedetd.v1.StreamService",
    "ZG9vcg==",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    request: type[Message]
    client_streams: bool
    server_streams: bool


def methods() -> list[Method]:
    """Every method that the API's servers answer, in order of their services' descriptors."""
    found: list[MethodDescriptor] = []
    for name in SERVICE_NAMES:
        found += Default().FindServiceByName(name).methods
    return [_method(m) for m in found]


def _method(method: MethodDescriptor) -> Method:
    proto = descriptor_pb2.MethodDescriptorProto()
    method.CopyToProto(proto)
    path = f"/{method.containing_service.full_name}/{method.name}"
    return Method(path, GetMessageClass(method.input_type), proto.client_streaming, proto.server_streaming)


METHODS = methods()


def random_message(rng: Random, cls: type[Message], depth: int = 0) -> Message:
    """A message with some fields set, to values from likely to absurd."""
    message = cls()
    fields = list(message.DESCRIPTOR.fields)
    for field in rng.sample(fields, len(fields)):  # of a oneof the last one stays
        if rng.random() < (0.6 if depth < 4 else 0.0):
            _set(rng, message, field, depth)
    return message


def _set(rng: Random, message: Any, field: FieldDescriptor, depth: int) -> None:
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        for _ in range(rng.randrange(4)):
            getattr(message, field.name)[rng.choice(TEXTS)] = rng.choice(TEXTS)
    elif field.is_repeated:
        into = getattr(message, field.name)
        for _ in range(rng.choice((0, 1, 2, 3, 70))):
            into.append(random_message(rng, GetMessageClass(nested), depth + 1) if nested else _value(rng, field))
    elif nested is not None:
        getattr(message, field.name).CopyFrom(random_message(rng, GetMessageClass(nested), depth + 1))
    else:
        setattr(message, field.name, _value(rng, field))


def _value(rng: Random, field: FieldDescriptor) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice((0.0, 0.5, 1.0, 5.0, -1.0, 1e30, float("nan"), float("inf"), float("-inf")))
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 99, -1))
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    number = rng.choice(NUMBERS) % (1 << bits)
    signed = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)
    return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number


class RegistryControl(FakeControl):
    """The real registry decides; what it takes must fit the state file and a message to a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(max_streams=200)

    def _commit(self, registry: Registry) -> None:
        stored = registry.stored()
        if codec.decode(codec.encode(stored)) != stored:
            raise AssertionError("the state file doesn't keep what was taken")
        for entry in registry.entries():
            spec = json.dumps(dataclasses.asdict(dataclasses.replace(entry.spec, rois=(), labels=())))
            if len(spec) + 6 * len(entry.secret.value if entry.secret else "") > MAX_MESSAGE - 200:
                raise AssertionError("what was taken doesn't fit a message to a decoder")
            if spec_from_dict(json.loads(spec)).url != entry.spec.url:
                raise AssertionError("a decoder gets another URL")
        self.registry = registry
        self.streams = {e.spec.id: view_of(e.spec, has_password=bool(e.secret)) for e in registry.entries()}

    async def create_stream(
        self, spec: StreamSpec, secret: Secret | None, *, dry_run: bool = False
    ) -> tuple[StreamView, tuple[str, ...]]:
        registry = self.registry.add(spec, secret)
        if not dry_run:
            self._commit(registry)
        return view_of(spec, has_password=secret is not None), ()

    async def update_stream(
        self, stream_id: str, changes: Mapping[str, object], secret: Secret | None
    ) -> tuple[StreamView, tuple[str, ...]]:
        self._commit(self.registry.update(stream_id, changes, secret))
        return self.streams[stream_id], ()

    async def delete_stream(self, stream_id: str) -> None:
        self._commit(self.registry.remove(stream_id))

    async def import_streams(self, entries: Sequence[tuple[StreamSpec, Secret | None]], *, dry_run: bool) -> ImportView:
        outcome = self.registry.import_all(entries)
        if not dry_run:
            self._commit(outcome.registry)
        return ImportView(outcome.created, outcome.unchanged, ())


class _Api:
    def __init__(self, served: Served):
        self._served = served
        self._channels = [served.channel(), served.channel(read_only=True)]
        self._raw = [[self._callable(channel, method) for method in METHODS] for channel in self._channels]

    @staticmethod
    def _callable(channel: grpc.Channel, method: Method) -> Any:
        kinds = {(False, False): channel.unary_unary, (False, True): channel.unary_stream,
                 (True, False): channel.stream_unary, (True, True): channel.stream_stream}  # fmt: skip
        same = lambda data: data  # noqa: E731
        call = kinds[method.client_streams, method.server_streams]
        return call(method.path, request_serializer=same, response_deserializer=same)

    def feed(self, data: bytes) -> None:
        number, which = _HEAD.unpack((data + b"\0\0")[: _HEAD.size])
        method = METHODS[number % len(METHODS)]
        code = self.call(number % len(METHODS), which % 2, data[_HEAD.size :])
        if code in BAD:
            raise Finding(f"{method.path} answers {code.name}")

    def call(self, number: int, which: int, payload: bytes) -> grpc.StatusCode:
        method, call = METHODS[number], self._raw[which][number]
        request = iter([payload]) if method.client_streams else payload
        try:
            if not method.server_streams:
                call(request, timeout=TIMEOUT_S)
                return grpc.StatusCode.OK
            for _ in call(request, timeout=STREAM_S):
                break
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
            waited = method.server_streams and code is grpc.StatusCode.DEADLINE_EXCEEDED  # nothing to tell: no fault
            return grpc.StatusCode.OK if waited else code
        return grpc.StatusCode.OK

    def good(self) -> None:
        for number, method in enumerate(METHODS):
            if method.path.endswith(("/GetHealth", "/Check", "/ListStreams", "/GetStats")):
                code = self.call(number, 0, b"")
                expect(code is grpc.StatusCode.OK, f"a good {method.path} answers {code.name}")
        end = time.monotonic() + 30
        while self._served.server.watchers and time.monotonic() < end:
            time.sleep(0.02)
        expect(not self._served.server.watchers, f"{self._served.server.watchers} watchers are left")
        tasks = self._served.call(lambda: len(asyncio.all_tasks(self._served.loop)))
        expect(tasks < 100, f"{tasks} tasks are left on the loop")

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@contextmanager
def _api(_: Path) -> Iterator[Fed]:
    control = RegistryControl()
    control.watch_ready = [result_of("door", 1)]
    with serving(control, max_calls_per_s=100_000) as served:
        for limits in served.server._limits:  # or most calls would meet nothing else
            served.call(limits.change, 1e9)
        api = _Api(served)
        try:
            yield api
        finally:
            api.close()


def _seeds() -> Sequence[bytes]:
    return [
        _HEAD.pack(number, 0) + random_message(Random(f"{number}/{n}"), method.request).SerializePartialToString()
        for number, method in enumerate(METHODS)
        for n in range(3)
    ]


IDS = ("door", "yard", "cam-1", "cam-2")


def _mend(rng: Random, spec: Any) -> None:
    """Leave at most two fields as they are, and give it an id and a URL that are good."""
    kept = {field.name for field in rng.sample(list(spec.DESCRIPTOR.fields), rng.randrange(3))}
    for field in spec.DESCRIPTOR.fields:
        if field.name not in kept:
            spec.ClearField(field.name)
    spec.id = rng.choice(IDS)
    if "url" not in kept:
        spec.url = "rtsp://127.0.0.1/x"


def _make(rng: Random, seeds: Sequence[bytes]) -> bytes:
    number = rng.randrange(len(METHODS))
    message: Any = random_message(rng, METHODS[number].request)
    names = {field.name for field in message.DESCRIPTOR.fields}
    if "spec" in names and rng.random() < 0.7:  # nearly right gets further
        _mend(rng, message.spec)
    elif "streams" in names and rng.random() < 0.7:
        for entry in message.streams:
            _mend(rng, entry.spec)
    elif "id" in names and rng.random() < 0.7:
        message.id = rng.choice(IDS)
    data = message.SerializePartialToString()
    if rng.random() < 0.2:
        data = mutate(rng, [data])
    return _HEAD.pack(number, rng.random() < 0.2) + data


TARGETS = {"api": Target(_api, _seeds, (b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 10), _make, growth=256 << 20)}
