"""A decoder group: one process, a thread a stream, one ring. Its main thread talks and never decodes."""

from __future__ import annotations

import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2

from facedetd import allocator, logs
from facedetd.capture.boot import GroupBoot
from facedetd.capture.niceness import HIGHEST_NICE
from facedetd.capture.nvdec import Nvdec
from facedetd.capture.sink import RingSink
from facedetd.capture.snapshot import SnapshotError, draw_and_encode
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Snapshot, StreamInfo, StreamTimeouts
from facedetd.ipc import Channel, Message, TalkerLoop
from facedetd.ring.link import SlotLink
from facedetd.ring.segment import RingError, Segment
from facedetd.ring.writer import RingWriter
from facedetd.threads import no_thread
from facedetd.types import ByteArray, DecodeDevice, DecodeLevel, Face, Secret, StreamState, spec_from_dict
from facedetd.usage import own_resident_bytes

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""A thousand cameras have sixty groups; schema's least heartbeat_timeout_s rests on this."""
SOON_S = 0.05
"""How soon to look again at what ends by itself: a stream's thread, a ring that is left."""
HUNG_NS = 120_000_000_000
"""A decoder on the GPU that hasn't done with a packet by then hangs. One takes 0.1 s to open, and hundreds that are
opened at once wait for one another."""
MAX_SNAPSHOTS = 4
"""Under way at a time; a picture of 4K takes 25 MB."""
MAX_DETAIL = 500


def run(boot: GroupBoot, control: socket.socket) -> None:
    """The process's target. Ends by ``os._exit``: a thread inside FFmpeg must not hold up the end."""
    logs.setup(boot.log_level, boot.log_format, boot.name)
    allocator.keep_steady()
    cv2.setNumThreads(1)
    os.nice(HIGHEST_NICE)
    code = 1
    try:
        DecoderGroup(boot, Channel(control)).main()
        code = 0
    except Exception:
        log.exception("the decoder group fails")
    finally:
        logging.shutdown()
        os._exit(code)


@dataclass(slots=True)
class _Running:
    thread: StreamThread
    sink: RingSink
    epoch: int
    stream_id: str
    started: bool = False
    removing: bool = False


class DecoderGroup:
    def __init__(self, boot: GroupBoot, control: Channel):
        self._boot, self._control = boot, control
        c = boot.capture
        self._timeouts = StreamTimeouts(
            connect_s=c.connect_timeout_s,
            read_s=c.read_timeout_s,
            backoff_initial_s=c.backoff_initial_s,
            backoff_max_s=c.backoff_max_s,
            max_frame_age_s=c.max_frame_age_ms / 1000,
        )
        self._nvdec = None if c.decode == "cpu" else Nvdec(boot.gpu, turns_at=boot.turns_at)
        self._told_lost = False
        self._at_work: dict[int, int] = {}
        """By index: the packets that were worked at on the GPU at the last look, by when they were fed."""
        self._loop = TalkerLoop()
        self._streams: dict[int, _Running] = {}
        self._ring: RingWriter | None = None
        self._leaving: list[RingWriter] = []
        self._snapshots: dict[int, list[Snapshot]] = {}
        """By number: those asked for and not yet drawn or forgotten; an empty list while no frame has come."""
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._stop = False

    def main(self) -> None:
        """Until told to stop or the supervisor is gone."""
        self._loop.watch(self._control, self._on_control)
        self._control.send({"ev": "ready"})
        next_beat = 0.0
        while not (self._stop or self._control.closed):
            now = time.monotonic()
            if now >= next_beat:
                self._look_for_hung(time.monotonic_ns())
                self._beat()
                self._start_others()
                next_beat = now + BEAT_S
            soon = any(r.removing for r in self._streams.values()) or bool(self._leaving)
            self._loop.turn(min(next_beat - now, SOON_S) if soon else next_beat - now)
            self._drop_removed()
            self._drop_left()
        for running in self._streams.values():
            running.thread.stop()
        self._control.flush()

    def _look_for_hung(self, now_ns: int) -> None:
        """This process's heartbeat goes on while its streams' threads hang in the driver. A packet is looked at twice:
        the lock is taken an instant before its time is noted."""
        at_work = {i: since for i, r in self._streams.items() if (since := r.thread.on_gpu_since_ns)}
        hung = [i for i, since in at_work.items() if now_ns - since > HUNG_NS and self._at_work.get(i) == since]
        self._at_work = at_work
        if hung and self._nvdec:
            self._nvdec.hangs(f"a call to the GPU hasn't come back for over {HUNG_NS / 1e9:.0f} s")

    def _beat(self) -> None:
        """``lags``: [index, ns] of each stream that sampled since the last one; see Pipeline.take_lag_ns."""
        if self._nvdec and self._nvdec.lost and not self._told_lost:
            self._told_lost = True
            self._control.send({"ev": "gpu_lost", "detail": self._nvdec.lost[:MAX_DETAIL]})
        asked = [(index, running.thread.take_lag_ns()) for index, running in self._streams.items()]
        lags = [[index, lag] for index, lag in asked if lag is not None]
        self._control.send({"ev": "beat", "lags": lags, "resident_bytes": own_resident_bytes()})

    # ---- the ring

    def _on_link(self, ring: RingWriter, link: SlotLink) -> None:
        ring.take_back()
        if link.closed:  # the supervisor will say what comes next
            self._loop.forget(link)

    def _watch_link(self) -> None:
        if self._ring and self._ring.link:
            self._loop.watch(self._ring.link, partial(self._on_link, self._ring, self._ring.link))

    def _forget_link(self) -> None:
        if self._ring and self._ring.link:
            self._loop.forget(self._ring.link)

    def _new_ring(self, ring_id: int, fds: list[int]) -> None:
        """``fds``: the segment and, unless there is no inference process now, the link."""
        link = SlotLink(socket.socket(fileno=fds[1])) if len(fds) > 1 else None
        ring = None
        try:
            ring = RingWriter(Segment.attach(fds[0]), link)
        except RingError as error:  # the cameras stay connected, and the old ring makes room for another
            self._control.send({"ev": "ring_refused", "ring": ring_id, "detail": str(error)[:MAX_DETAIL]})
            if link:  # only now: whoever is at its other end says so at once
                link.close()
        self._forget_link()
        if self._ring:
            self._leaving.append(self._ring)
        self._ring = ring
        for running in self._streams.values():
            running.sink.switch(ring)
        self._watch_link()

    def _relink(self, fds: list[int]) -> None:
        """``fds``: the new link; none: there is no inference process now."""
        link = SlotLink(socket.socket(fileno=fds[0])) if fds else None
        if self._ring is None:  # it was refused, which the supervisor doesn't know yet
            if link:
                link.close()
            return
        self._forget_link()
        self._ring.relink(link)
        self._watch_link()

    def _drop_left(self) -> None:
        for ring in list(self._leaving):
            if ring.is_left():
                self._leaving.remove(ring)
                ring_id = ring.segment.spec.ring_id
                if self._nvdec:
                    self._nvdec.forget_ring(ring_id)
                self._control.send({"ev": "ring_left", "ring": ring_id})
                ring.close()

    # ---- what the supervisor says

    def _on_control(self) -> None:
        for message, fds in self._control.receive():
            match message["op"]:
                case "ring":
                    self._new_ring(message["ring"], fds)
                case "link" | "unlink":
                    self._relink(fds)
                case "add":
                    self._add(message)
                case "remove":
                    self._remove(message["index"])
                case "rate":
                    if running := self._streams.get(message["index"]):
                        running.thread.set_rate(message["fps"], message["phase"])
                        running.thread.set_priority(message["priority"])
                        running.sink.priority = message["priority"]
                case "decode":
                    if running := self._streams.get(message["index"]):
                        running.thread.set_decode(DecodeLevel(message["level"]), DecodeDevice(message["device"]))
                case "snapshot":
                    self._request_snapshot(message["index"], message["id"])
                case "draw":
                    self._encode(message["id"], message["faces"])
                case "forget":
                    self._snapshots.pop(message["id"], None)
                case "stop":
                    self._stop = True
                case other:
                    raise ValueError(f"unknown control message {other!r}")

    def _add(self, message: Message) -> None:
        index, epoch = message["index"], message["epoch"]
        spec = spec_from_dict(message["spec"])
        secret = Secret(message["secret"]) if message["secret"] is not None else None
        sink = RingSink(spec.id, index, epoch, self._ring, spec.priority)
        thread = StreamThread(
            spec,
            secret,
            sink,
            timeouts=self._timeouts,
            fps=message["fps"],
            phase=message["phase"],
            level=DecodeLevel(message["level"]),
            device=DecodeDevice(message["device"]),
            nvdec=self._nvdec,
            on_state=lambda state, detail, info: self._report(index, epoch, state, detail, info),
        )
        self._streams[index] = _Running(thread, sink, epoch, spec.id)
        self._start(index)

    def _start(self, index: int) -> None:
        """Tried again with each beat: the limit that forbids another thread must not cost the group its others."""
        running = self._streams[index]
        try:
            running.thread.start()
            running.started = True
        except RuntimeError:
            self._report(index, running.epoch, StreamState.BACKING_OFF, no_thread("for it"), StreamInfo())

    def _start_others(self) -> None:
        for index in [i for i, running in self._streams.items() if not (running.started or running.removing)]:
            self._start(index)

    def _report(self, index: int, epoch: int, state: StreamState, detail: str, info: StreamInfo) -> None:
        self._control.send(
            {
                "ev": "state",
                "index": index,
                "epoch": epoch,
                "state": state.value,
                "detail": detail[:MAX_DETAIL],
                "codec": info.codec,
                "width": info.width,
                "height": info.height,
                "fps": info.fps,
                "level": info.level.value,
                "sub": info.sub,
                "keyframe_s": info.keyframe_s,
                "reference_share": info.reference_share,
                "bits_per_s": info.bits_per_s,
                "sub_problem": info.sub_problem[:MAX_DETAIL],
                "device": info.device.value,
                "nvdec_problem": info.nvdec_problem[:MAX_DETAIL],
            }
        )

    def _remove(self, index: int) -> None:
        running = self._streams.get(index)
        if running:
            running.removing = True
            running.thread.stop()

    def _drop_removed(self) -> None:
        for index, running in list(self._streams.items()):
            if running.removing and running.thread.join(0):
                del self._streams[index]
                self._control.send({"ev": "removed", "index": index})

    # ---- snapshots

    def _request_snapshot(self, index: int, number: int) -> None:
        running = self._streams.get(index)
        if running is None or running.removing:
            self._control.send({"ev": "no_shot", "id": number, "detail": "the stream is gone"})
            return
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            self._control.send({"ev": "no_shot", "id": number, "detail": "too many snapshots at once: try again"})
            return
        # Where it is forgotten before a frame comes, that frame goes into a list that nobody else has.
        held: list[Snapshot] = []
        self._snapshots[number] = held
        epoch = running.epoch

        def taken(snapshot: Snapshot) -> None:
            held.append(snapshot)
            self._control.send(
                {
                    "ev": "shot",
                    "id": number,
                    "epoch": epoch,
                    "sequence": snapshot.sequence,
                    "capture_utc_ns": snapshot.capture_utc_ns,
                }
            )

        running.thread.request_snapshot(taken)

    def _encode(self, number: int, faces: list[Any]) -> None:
        held = self._snapshots.pop(number, None)
        if not held:
            self._control.send({"ev": "no_shot", "id": number, "detail": "the picture is gone"})
            return
        drawn = [Face(tuple(box), score, tuple((x, y) for x, y in marks)) for box, score, marks in faces]
        try:
            self._encoder.submit(self._send_jpeg, number, held[0].bgr, drawn)
        except RuntimeError:  # no thread for it; the executor would still have it drawn with the next one
            self._encoder = ThreadPoolExecutor(1, "encoder")
            self._control.send({"ev": "no_shot", "id": number, "detail": no_thread("to draw it")})

    def _send_jpeg(self, number: int, bgr: ByteArray, faces: list[Face]) -> None:
        """On the encoder's thread: answer with the JPEG or with why there is none."""
        try:
            fd = os.memfd_create("facedetd-jpeg", os.MFD_CLOEXEC)
            try:
                with os.fdopen(os.dup(fd), "wb") as file:
                    file.write(draw_and_encode(bgr, faces))
                height, width = bgr.shape[:2]
                self._control.send({"ev": "jpeg", "id": number, "width": width, "height": height}, (fd,))
            finally:
                os.close(fd)
        except (SnapshotError, OSError, MemoryError) as error:
            detail = str(error) or type(error).__name__
            self._control.send({"ev": "no_shot", "id": number, "detail": detail[:MAX_DETAIL]})
