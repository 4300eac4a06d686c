"""A decoder group: one process, a thread a stream, one ring. Its main thread talks and never decodes."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2

from facedetd import logs, worker
from facedetd.capture.sink import RingSink
from facedetd.capture.snapshot import draw_and_encode
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Snapshot, StreamInfo, StreamTimeouts
from facedetd.config.model import CaptureConfig
from facedetd.ipc import Channel, Message
from facedetd.ring.link import SlotLink
from facedetd.ring.segment import RingError, Segment
from facedetd.ring.writer import RingWriter
from facedetd.types import Face, Secret, StreamState, spec_from_dict

log = logging.getLogger(__name__)

BEAT_S = 1.0
MAX_HELD_PICTURES = 4
"""Snapshots under way; one of 4K takes 25 MB."""


@dataclass(frozen=True, slots=True)
class GroupBoot:
    """All that a decoder group is told at its start."""

    name: str
    capture: CaptureConfig
    log_level: str
    log_format: str


def run(boot: GroupBoot, control: socket.socket, parent_pid: int) -> None:
    """The process's target. Ends by ``os._exit``: a thread inside FFmpeg must not hold up the end."""
    worker.enter(f"facedetd-{boot.name}", parent_pid)
    logs.setup(boot.log_level, boot.log_format, boot.name)
    cv2.setNumThreads(1)
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
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, _Running] = {}
        self._ring: RingWriter | None = None
        self._leaving: list[RingWriter] = []
        self._pictures: dict[int, Snapshot] = {}
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._stop = False

    def main(self) -> None:
        """Until told to stop or the supervisor is gone."""
        self._selector.register(self._control, selectors.EVENT_READ)
        self._control.send({"ev": "ready"})
        next_turn = 0.0
        while not (self._stop or self._control.closed):
            now = time.monotonic()
            if now >= next_turn:
                self._control.send({"ev": "beat"})
                next_turn = now + BEAT_S
            self._watch_writes()
            soon = any(r.removing for r in self._streams.values()) or bool(self._leaving)
            timeout = min(next_turn - now, 0.05) if soon else next_turn - now
            for key, events in self._selector.select(max(0.0, timeout)):
                if key.fileobj is self._control:
                    self._on_control(events)
                else:
                    self._on_link(events)
            self._drop_removed()
            self._drop_left()
        for running in self._streams.values():
            running.thread.stop()
        self._control.flush()

    def _watch_writes(self) -> None:
        """Ask for writability only where something waits to be written."""
        for key in list(self._selector.get_map().values()):
            link = self._ring.link if self._ring and key.fileobj is not self._control else None
            wants = self._control.wants_write if key.fileobj is self._control else bool(link and link.wants_write)
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants else 0)
            if wanted != key.events:
                self._selector.modify(key.fileobj, wanted)

    # ---- the ring

    def _on_link(self, events: int) -> None:
        ring = self._ring
        if ring is None or ring.link is None:
            return
        if events & selectors.EVENT_WRITE:
            ring.link.flush()
        ring.take_back()
        if ring.link.closed:  # the supervisor will say what comes next
            self._selector.unregister(ring.link.fileno())

    def _forget_link(self) -> None:
        if self._ring and self._ring.link and self._ring.link.fileno() in self._selector.get_map():
            self._selector.unregister(self._ring.link.fileno())

    def _watch_link(self) -> None:
        if self._ring and self._ring.link:
            self._selector.register(self._ring.link.fileno(), selectors.EVENT_READ)

    def _new_ring(self, fds: list[int]) -> None:
        """``fds``: the segment and, unless there is no inference process now, the link."""
        link = SlotLink(socket.socket(fileno=fds[1])) if len(fds) > 1 else None
        try:
            ring = RingWriter(Segment.attach(fds[0]), link)
        except RingError as error:
            log.error("%s", error)
            if link:
                link.close()
            return
        self._forget_link()
        if self._ring:
            self._leaving.append(self._ring)
        self._ring = ring
        for running in self._streams.values():
            running.sink.switch(ring)
        self._watch_link()

    def _relink(self, fds: list[int]) -> None:
        link = SlotLink(socket.socket(fileno=fds[0])) if fds else None
        if self._ring is None:
            if link:
                link.close()
            return
        self._forget_link()
        self._ring.relink(link)
        self._watch_link()

    def _drop_left(self) -> None:
        for ring in list(self._leaving):
            if ring.in_writing == 0:
                self._leaving.remove(ring)
                self._control.send({"ev": "ring_left", "ring": ring.segment.spec.ring_id})
                ring.close()

    # ---- what the supervisor says

    def _on_control(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._control.flush()
        for message, fds in self._control.receive():
            match message["op"]:
                case "ring":
                    self._new_ring(fds)
                case "link" | "unlink":
                    self._relink(fds)
                case "add":
                    self._add(message)
                case "remove":
                    self._remove(message["index"])
                case "fps":
                    if message["index"] in self._streams:
                        self._streams[message["index"]].thread.set_fps(message["fps"])
                case "snapshot":
                    self._request_snapshot(message["index"], message["id"])
                case "draw":
                    self._encode(message["id"], message["faces"])
                case "forget":
                    self._pictures.pop(message["id"], None)
                case "stop":
                    self._stop = True
                case other:
                    raise ValueError(f"unknown control message {other!r}")

    def _add(self, message: Message) -> None:
        index, epoch = message["index"], message["epoch"]
        spec = spec_from_dict(message["spec"])
        secret = Secret(message["secret"]) if message["secret"] is not None else None
        sink = RingSink(spec.id, index, epoch, self._ring)
        thread = StreamThread(
            spec,
            secret,
            sink,
            timeouts=self._timeouts,
            fps=message["fps"],
            on_state=lambda state, detail, info: self._report(index, epoch, state, detail, info),
        )
        self._streams[index] = _Running(thread, sink, epoch, spec.id)
        thread.start()

    def _report(self, index: int, epoch: int, state: StreamState, detail: str, info: StreamInfo) -> None:
        self._control.send(
            {
                "ev": "state",
                "index": index,
                "epoch": epoch,
                "state": state.value,
                "detail": detail,
                "codec": info.codec,
                "width": info.width,
                "height": info.height,
                "fps": info.fps,
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
        if len(self._pictures) >= MAX_HELD_PICTURES:
            self._control.send({"ev": "no_shot", "id": number, "detail": "too many snapshots at once: try again"})
            return
        epoch = running.epoch

        def taken(snapshot: Snapshot) -> None:
            self._pictures[number] = snapshot
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
        picture = self._pictures.pop(number, None)
        if picture is None:
            self._control.send({"ev": "no_shot", "id": number, "detail": "the picture is gone"})
            return
        drawn = [Face(tuple(box), score, tuple((x, y) for x, y in marks)) for box, score, marks in faces]

        def work() -> None:
            jpeg = draw_and_encode(picture.bgr, drawn)
            fd = os.memfd_create("facedetd-jpeg", os.MFD_CLOEXEC)
            try:
                os.write(fd, jpeg)
                height, width = picture.bgr.shape[:2]
                self._control.send({"ev": "jpeg", "id": number, "width": width, "height": height}, (fd,))
            finally:
                os.close(fd)

        self._encoder.submit(work)
