"""What the daemon's processes say to each other: a decoder that a camera has taken over may say anything."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from facedetd.api.convert import detection_to_proto, stream_to_proto
from facedetd.config.model import CaptureConfig, InferenceConfig, ModelConfig
from facedetd.control import WatchFilter, WorkerKind
from facedetd.ipc import MAX_MESSAGE
from facedetd.models import ModelStore
from facedetd.results.hub import ResultsHub
from facedetd.results.record import ResultError, pack_result, unpack_result
from facedetd.results.roi import filter_rois
from facedetd.ring.header import Geometry, HeaderError, SlotHeader
from facedetd.ring.link import SENT, SlotLink, link_pair
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import InferenceCounter, RingError, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.supervisor import snapshots as snapshots_module
from facedetd.supervisor import workers as workers_module
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.inference_unit import InferenceUnit, UnitHooks
from facedetd.supervisor.snapshots import Snapshots
from facedetd.supervisor.streams import StreamRuntime
from facedetd.supervisor.workers import Worker
from facedetd.types import Face, FrameResult, Origin, StreamSpec
from tests.fuzz.files import _value
from tests.fuzz.target import Fed, Finding, Target, expect

HEADER = SlotHeader("door", 1, 5, 3, 7, 9, 10, 11, 12, 13, Geometry(64, 48, 16, 12, 0, 2), priority=50)
SPEC = RingSpec(1, 3, 16, 16, 2, 2)


class _Header:
    def __init__(self, segment: Segment):
        self._segment = segment

    def feed(self, data: bytes) -> None:
        try:
            header = SlotHeader.unpack(data)
        except HeaderError:
            return
        expect(SlotHeader.unpack(header.pack()) == header, "a header that was taken doesn't come back")

    def good(self) -> None:
        expect(SlotHeader.unpack(HEADER.pack()) == HEADER, "a good header isn't read")


class _Attach:
    """Any bytes as a segment; a shorter file than the head says would be SIGBUS later."""

    def feed(self, data: bytes) -> None:
        fd = os.memfd_create("fuzz")
        os.write(fd, data)
        if len(data) > 4 and data[4] & 1:
            os.ftruncate(fd, SPEC.size)
        try:
            segment = Segment.attach(fd)
        except RingError:
            try:
                os.fstat(fd)
            except OSError:
                return
            raise Finding("the descriptor is left open") from None
        spec = segment.spec
        expect(os.fstat(segment.fd).st_size == spec.size, "a segment of another size was taken")
        segment.counters.sum()
        for slot in (0, spec.slots - 1):
            segment.header_view(slot)[-1]
            segment.picture(slot)[-1, -1]
        segment.close()

    def good(self) -> None:
        made = Segment.create(SPEC)
        again = Segment.attach(os.dup(made.fd))
        expect(again.spec == SPEC, "a good segment isn't read")
        again.close()
        made.close()


class _Link:
    """Records and slot headers of a decoder that lies, to the reader in the inference process; and records of an
    inference process that lies, to the writer. ``data``: 24 bytes for each record."""

    def feed(self, data: bytes) -> None:
        for side in ("reader", "writer"):
            segment = Segment.create(SPEC)
            ours, theirs = link_pair()
            link = SlotLink(ours)
            with theirs:
                if side == "reader":
                    self._reader(RingReader(segment, link, time.monotonic_ns), theirs, data)
                else:
                    self._writer(RingWriter(segment, link), theirs, data)
            link.close()
            segment.close()

    def _reader(self, reader: RingReader, theirs: socket.socket, data: bytes) -> None:
        for slot in range(SPEC.slots):
            packed = HEADER.pack()
            reader.segment.header_view(slot)[: len(packed)] = packed
        _send_records(theirs, data)
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(50):
            reader.drain()
            for frame in reader.waiting():
                taken = reader.take(frame.stream)
                assert taken
                expect(taken.slot // SPEC.slots_per_stream == taken.stream, "a slot of another stream was taken")
                expect(reader.picture(taken.slot).shape == (24, 16), "no picture")
                reader.finish([taken], InferenceCounter.INFERRED)
            if reader.closed:
                break
        expect(reader.closed and reader.idle, "the reader doesn't see the end")
        counts = reader.segment.counters[:, 1]
        expect((counts[:, InferenceCounter.TAKEN] == counts[:, InferenceCounter.INFERRED]).all(), "taken and inferred")

    def _writer(self, writer: RingWriter, theirs: socket.socket, data: bytes) -> None:
        for stream in range(SPEC.streams):
            slot = writer.acquire(stream)
            assert slot
            writer.submit(stream, slot, HEADER)
        _send_records(theirs, data)
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(50):
            writer.take_back()
            if writer.link is None or writer.link.closed:
                break
        free = [slot for slots in writer._free for slot in slots]
        expect(len(set(free)) == len(free) <= SPEC.slots, "a slot is free twice")
        for stream in range(SPEC.streams):
            expect(all(s // SPEC.slots_per_stream == stream for s in writer._free[stream]), "another stream's slot")

    def good(self) -> None:
        segment = Segment.create(SPEC)
        ours, theirs = link_pair()
        reader, writer = RingReader(segment, SlotLink(ours), time.monotonic_ns), RingWriter(segment, SlotLink(theirs))
        slot = writer.acquire(1)
        assert slot
        writer.submit(1, slot, HEADER)
        expect(reader.drain() and reader.take(1), "a good frame isn't taken")
        reader.close()
        writer.link.close()  # type: ignore[union-attr]


def _send_records(sock: socket.socket, data: bytes) -> None:
    for at in range(0, min(len(data), 200 * 24), 24):
        try:
            sock.send(data[at : at + 24])
        except OSError:
            return


class _NoProcess:
    """What a Worker is given in place of a process; ``theirs`` is the other end of its channel."""

    def __init__(self, _target: str, _name: str, _boot: object, sockets: Sequence[socket.socket]):
        self.theirs = sockets[0].dup()
        self.theirs.setblocking(False)
        self.pid, self.exitcode = os.getpid(), None

    def kill(self) -> None: ...

    def join(self) -> None: ...


class _Ipc:
    """One message's bytes to the supervisor: of a decoder, then of an inference process. The real Worker reads and
    judges; only the process behind it isn't there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path):
        self._loop = loop
        workers_module.spawn = _NoProcess  # type: ignore[assignment]
        snapshots_module.FRAME_TIMEOUT_S = snapshots_module.RESULT_TIMEOUT_S = 0.001
        self._store = ModelStore(folder / "models")

    def feed(self, data: bytes) -> None:
        self._loop.run_until_complete(self._decoder(data))
        self._loop.run_until_complete(self._inference(data))

    async def _decoder(self, data: bytes) -> None:
        snapshots = Snapshots()
        manager = GroupManager(CaptureConfig(), (16, 16), "info", "text", snapshots.on_message)
        stream = StreamRuntime(StreamSpec("door", "rtsp://camera/door"), Origin.API, None)
        manager.add(stream)
        (worker,) = manager.workers()
        _say(worker, b'{"ev":"ready"}')
        expect(worker.ready and not worker.kill_reason, f"a good ready: {worker.kill_reason}")
        asking = asyncio.create_task(snapshots.take(manager, "door", plain=False))
        await asyncio.sleep(0)
        _say(worker, data)
        stream_to_proto(stream.view()).SerializeToString()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for ring in list(manager.rings._rings.values()):
            ring.segment.close()
        _end(worker)

    async def _inference(self, data: bytes) -> None:
        hooks = UnitHooks(*(lambda *_: None for _ in range(5)))  # type: ignore[arg-type]
        unit = InferenceUnit("i", 1, 0, ModelConfig(), InferenceConfig(), self._store, "info", "text", hooks)
        unit._entry = SimpleNamespace(name="m", version="1", sha256="", calibration=None)  # type: ignore[assignment]
        worker = Worker(WorkerKind.INFERENCE, "i", "", None, (), unit._message, lambda _: None)
        _say(worker, data)
        unit.stop()
        _end(worker)

    def good(self) -> None:
        self.feed(b'{"ev":"beat"}')


def _say(worker: Worker, data: bytes) -> None:
    fds = [os.memfd_create("x") for _ in range(len(data) % 3)]
    theirs: socket.socket = worker._process.theirs  # type: ignore[attr-defined]
    with suppress(OSError):
        socket.send_fds(theirs, [data[:MAX_MESSAGE]], fds)
    for fd in fds:
        os.close(fd)
    worker._hear()
    expect("could not be acted on" not in worker.kill_reason, "a message raised what nobody expected")


def _end(worker: Worker) -> None:
    loop = worker._loop
    for fd in (worker.channel.fileno(), worker._pidfd):
        loop.remove_reader(fd)
    loop.remove_writer(worker.channel.fileno())
    os.close(worker._pidfd)
    worker.channel.close()
    worker._process.theirs.close()  # type: ignore[attr-defined]


_SEEN = {"level": "full", "keyframe_s": 2.0, "reference_share": 0.5, "bits_per_s": 4e6, "sub_problem": ""}
_SEEN |= {"device": "cpu", "nvdec_problem": ""}
MESSAGES: tuple[dict[str, Any], ...] = (
    {"ev": "ready", "head": "centerface", "engine": "onnxruntime"},
    {"ev": "gpu_lost", "detail": "CUDA is lost to this process"},
    {"ev": "beat", "busy_ns": 5, "results_lost": 1, "oldest_ns": 3, "timings": [[1, 0.5], [4, 0.1]], "lags": [[0, 5]]},
    {"ev": "state", "index": 0, "epoch": 1, "state": "streaming", "detail": "", "codec": "h264", "width": 64,
     "height": 48, "fps": 25.0, **_SEEN},
    {"ev": "state", "index": 0, "epoch": 1, "state": "backing-off", "detail": "connection refused", "codec": "",
     "width": 0, "height": 0, "fps": 0.0, **_SEEN},
    {"ev": "removed", "index": 0},
    {"ev": "ring_left", "ring": 1},
    {"ev": "ring_closed", "ring": 1},
    {"ev": "shot", "id": 1, "epoch": 1, "sequence": 1, "capture_utc_ns": 5},
    {"ev": "jpeg", "id": 1, "width": 64, "height": 48},
    {"ev": "no_shot", "id": 1, "detail": "no picture"},
    {"ev": "unusable", "kind": "ModelError", "detail": "no"},
    {"ev": "failing", "detail": "no"},
)  # fmt: skip


def _make_message(rng: Random, _: Sequence[bytes]) -> bytes:
    message = dict(rng.choice(MESSAGES))
    for _n in range(rng.choice((1, 1, 2, 3))):
        message[rng.choice([*message, "detail", "state"])] = _value(rng)
    return json.dumps(message).encode()


class _Record:
    def __init__(self) -> None:
        self._hub = ResultsHub()
        self._watch = self._hub.watch(WatchFilter(frozenset(), 0.5, include_empty=True))

    def feed(self, data: bytes) -> None:
        try:
            raw = unpack_result(data)
        except ResultError:
            return
        fields = {name: getattr(raw, name) for name in raw.__slots__}
        expect(pack_result(**fields) == data, "a record that was taken doesn't come back")
        faces = filter_rois(raw.faces, ((((0.0, 0.0), (1.0, 0.0), (0.5, 1.0))),), raw.source_width, raw.source_height)
        for found in (raw.faces, faces):
            result = FrameResult(
                "door", raw.epoch, raw.sequence, raw.pts_ns, raw.capture_utc_ns, raw.capture_mono_ns,
                raw.arrival_mono_ns, raw.done_mono_ns, raw.source_width, raw.source_height, found, "m", "1",
                raw.batch_size,
            )  # fmt: skip
            self._hub.publish(result)
            detection_to_proto(result, {}).SerializeToString()

    def good(self) -> None:
        for record in _records():
            unpack_result(record)


def _records() -> Sequence[bytes]:
    marks = tuple((float(i), float(i)) for i in range(5))
    faces = (Face((1.0, 2.0, 3.0, 4.0), 0.9, marks), Face((5.0, 6.0, 7.0, 8.0), 0.4), Face((1.0, 1.0, 9.0, 9.0), 1.0))
    return [pack_result(1, 2, 3, 4, 5, 6, 7, 8, 9, 640, 480, 2, f) for f in ((), faces[:1], faces)]


def _segment_head() -> bytes:
    made = Segment.create(SPEC)
    try:
        return os.pread(made.fd, 4096, 0)
    finally:
        made.close()


def _link_seeds() -> Sequence[bytes]:
    good = [_link_record(SENT, 1, slot, 5, 7) for slot in (2, 3)]
    back = [_link_record(2, stream, slot, 0, 0) for stream, slot in ((0, 1), (1, 3), (0, 0))]
    return [b"".join(good), b"".join(good * 4), b"".join(back), b"".join((*good, *back))]


def _link_record(kind: int, stream: int, slot: int, epoch: int, sequence: int) -> bytes:
    from facedetd.ring.link import _RECORD

    return _RECORD.pack(kind, stream, slot, epoch, sequence)


@contextmanager
def _header(_: Path) -> Iterator[Fed]:
    segment = Segment.create(SPEC)
    yield _Header(segment)
    segment.close()


@contextmanager
def _attach(_: Path) -> Iterator[Fed]:
    yield _Attach()


@contextmanager
def _link(_: Path) -> Iterator[Fed]:
    yield _Link()


@contextmanager
def _ipc(folder: Path) -> Iterator[Fed]:
    loop = asyncio.new_event_loop()
    yield _Ipc(loop, folder)
    loop.close()


@contextmanager
def _record(_: Path) -> Iterator[Fed]:
    yield _Record()


TARGETS = {
    "header": Target(_header, lambda: [HEADER.pack(), HEADER.pack() + bytes(3900)]),
    "segment": Target(_attach, lambda: [_segment_head(), _segment_head()[:32]]),
    "link": Target(_link, _link_seeds),
    "ipc": Target(_ipc, lambda: [json.dumps(m).encode() for m in MESSAGES], (b'"ev":', b"[" * 2000, b"null", b"1e999",
                  b"\\ud800", b'{"ev":"ready"}', b"99999999999999999999"), _make_message),
    "record": Target(_record, _records, (b"FDR1",)),
}  # fmt: skip
