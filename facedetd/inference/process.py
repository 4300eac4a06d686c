"""The inference process: its main thread receives (control, slots), a second one runs the engine."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from functools import partial

import cv2

from facedetd import logs
from facedetd.inference.boot import InferenceBoot
from facedetd.inference.engine_loop import EngineLoop
from facedetd.inference.engines import TensorRtChoice, make_engine, probe_outputs
from facedetd.inference.heads import match_head
from facedetd.inference.luma import LumaMeter
from facedetd.inference.speed import try_out
from facedetd.inference.types import DeviceError, Engine, Head, ModelError
from facedetd.ipc import Channel, Message, TalkerLoop
from facedetd.results.record import ResultError, pack_result
from facedetd.ring.link import SlotLink
from facedetd.ring.reader import RingReader, WaitingFrame
from facedetd.ring.segment import RingError, Segment
from facedetd.types import Face
from facedetd.usage import own_resident_bytes

log = logging.getLogger(__name__)

BEAT_S = 0.25
SOON_S = 0.05
"""How soon to look again at a ring that ends: the engine's thread may be at its last frame."""


def run(boot: InferenceBoot, control: socket.socket, results: socket.socket) -> None:
    """The process's target. Ends by ``os._exit``: an engine's threads must not hold up the end."""
    logs.setup(boot.log_level, boot.log_format, boot.name)
    cv2.setNumThreads(1)
    code = 1
    try:
        code = InferenceProcess(boot, Channel(control), results).main()
    except Exception:
        log.exception("the inference process fails")
    finally:
        logging.shutdown()
        os._exit(code)


class InferenceProcess:
    def __init__(self, boot: InferenceBoot, control: Channel, results: socket.socket):
        self._boot, self._control, self._results = boot, control, results
        results.setblocking(False)
        self._talkers = TalkerLoop()
        self._readers: dict[int, RingReader] = {}
        self._loop: EngineLoop | None = None
        self._luma = LumaMeter()
        self._results_lost = 0
        self._stop = False
        self._draining = False
        self._failure: int | None = None

    def main(self) -> int:
        """Until told to stop or the supervisor is gone; returns the exit status."""
        self._talkers.watch(self._control, self._on_control)
        threading.Thread(target=self._engine_thread, name="engine", daemon=True).start()
        next_beat = 0.0
        while not (self._stop or self._control.closed or self._failure is not None):
            now = time.monotonic()
            if now >= next_beat:
                self._beat()
                next_beat = now + BEAT_S
            soon = self._draining or any(reader.closed for reader in self._readers.values())
            self._talkers.turn(min(next_beat - now, SOON_S) if soon else next_beat - now)
            self._drop_ended()
        self._control.flush()
        return self._failure or 0

    def _on_control(self) -> None:
        for message, fds in self._control.receive():
            match message["op"]:
                case "ring":
                    self._attach(message["ring"], fds)
                case "drain":
                    # The decoders move to a successor: run what waits, then end.
                    self._draining = True
                case "stop":
                    self._stop = True
                case other:
                    raise ValueError(f"unknown control message {other!r}")

    def _attach(self, ring_id: int, fds: list[int]) -> None:
        """``fds``: the segment and the link."""
        segment_fd, link_fd = fds
        link = SlotLink(socket.socket(fileno=link_fd))
        try:
            reader = RingReader(Segment.attach(segment_fd), link, time.monotonic_ns)
        except RingError as error:  # the other groups' rings are well
            self._control.send({"ev": "ring_refused", "ring": ring_id, "detail": str(error)})
            link.close()
            return
        self._readers[reader.segment.spec.ring_id] = reader
        self._talkers.watch(link, partial(self._on_link, reader))
        if self._loop:
            self._loop.attach(reader)
        self._on_link(reader)

    def _on_link(self, reader: RingReader) -> None:
        fresh = reader.drain()
        if reader.closed:
            self._talkers.forget(reader.link)
        if fresh and self._loop:
            self._loop.wake()

    def _drop_ended(self) -> None:
        """A ring whose decoder is gone lives until its last frame is done with."""
        for ring_id, reader in list(self._readers.items()):
            if reader.closed and self._loop is None:
                reader.discard_waiting()
            if reader.closed and reader.idle:
                del self._readers[ring_id]
                if self._loop:
                    self._loop.detach(ring_id)
                reader.close()
                self._control.send({"ev": "ring_closed", "ring": ring_id})
        if self._draining and not self._readers:
            self._stop = True

    def _beat(self) -> None:
        loop = self._loop
        timings = []
        if loop:
            while loop.timings:
                t = loop.timings.popleft()
                timings.append([t.size, round(t.seconds, 6)])
        busy = loop.busy_since_ns if loop else None
        beat: Message = {
            "ev": "beat",
            "busy_ns": time.monotonic_ns() - busy if busy else 0,
            "batches": loop.batches if loop else 0,
            "frames": loop.frames if loop else 0,
            "results_lost": self._results_lost,
            "oldest_ns": loop.oldest_waiting_ns() if loop else 0,
            "timings": timings,
            "resident_bytes": own_resident_bytes(),
        }
        frames, counts = self._luma.take()
        if frames:
            beat["luma_frames"], beat["luma"] = frames, counts
        self._control.send(beat)

    # ---- the engine's thread

    def _engine_thread(self) -> None:
        try:
            self._run_engine()
        finally:
            # However it ended, also where there was no memory to say so: the main thread would go on beating
            self._failure = self._failure or 1

    def _run_engine(self) -> None:
        try:
            engine, head = self._load()
            fps = try_out(engine, head, self._boot.width, self._boot.height, self._boot.min_score)
            loop = EngineLoop(
                engine, head, self._boot.policy, (self._boot.width, self._boot.height), self._boot.min_score, self._emit
            )
        except (ModelError, DeviceError) as error:
            self._fail({"ev": "unusable", "kind": type(error).__name__, "detail": str(error)}, 3)
            return
        except Exception as error:
            log.exception("the engine can't be loaded")
            self._fail({"ev": "unusable", "kind": "ModelError", "detail": f"{type(error).__name__}: {error}"}, 3)
            return
        self._loop = loop  # first: a ring that comes meanwhile is attached by the main thread
        for reader in list(self._readers.values()):
            loop.attach(reader)
        self._control.send({"ev": "ready", "head": head.name, "engine": engine.name, "full_fps": fps})
        try:
            loop.run()
        except DeviceError as error:
            self._fail({"ev": "unusable", "kind": "DeviceError", "detail": str(error)}, 3)
        except Exception as error:
            self._fail({"ev": "failing", "detail": f"{type(error).__name__}: {error}"}, 4)

    def _load(self) -> tuple[Engine, Head]:
        boot = self._boot
        path, width, height = boot.model_path, boot.width, boot.height
        head = match_head(probe_outputs(path, width, height), width, height)
        choice = TensorRtChoice(
            boot.model_name, boot.plans, boot.precision, boot.device, head.selection(width, height, boot.min_score)
        )
        engine = make_engine(
            boot.engine, path, width, height, head.input, boot.threads, boot.policy.maximum, tensorrt=choice
        )
        engine.load()
        engine.warm_up()
        return engine, head

    def _fail(self, message: Message, code: int) -> None:
        self._control.send(message)
        self._failure = code

    def _emit(self, ring_id: int, frame: WaitingFrame, done_ns: int, faces: tuple[Face, ...], batch_size: int) -> None:
        h = frame.header
        reader = self._readers.get(ring_id)
        if reader:
            self._luma.see(h, lambda: reader.picture(frame.slot))  # the slot is ours until this frame is finished
        try:
            data = pack_result(
                ring_id=ring_id,
                stream_index=h.stream_index,
                epoch=h.epoch,
                sequence=h.sequence,
                pts_ns=h.pts_ns,
                capture_utc_ns=h.capture_utc_ns,
                capture_mono_ns=h.capture_mono_ns,
                arrival_mono_ns=h.arrival_mono_ns,
                done_mono_ns=done_ns,
                source_width=h.geometry.source_width,
                source_height=h.geometry.source_height,
                batch_size=batch_size,
                faces=faces,
            )
            self._results.send(data)
        except ResultError as error:  # a model that gives NaN, say
            log.error("a result can't be sent: %s", error)
            self._results_lost += 1
        except OSError:  # the supervisor is behind or gone: results are live, so they are not kept
            self._results_lost += 1
