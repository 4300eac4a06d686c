"""The decoder group's part in snapshots."""

import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from capture_clips import make_clip

from facedetd.capture.boot import GroupBoot
from facedetd.capture.group import DecoderGroup
from facedetd.capture.types import Snapshot
from facedetd.config.model import CaptureConfig
from facedetd.cuda.driver import CudaError
from facedetd.cuda.turn import Turn
from facedetd.ipc import Channel
from facedetd.threads import no_thread
from facedetd.types import Face, StreamSpec


def answer_to(bgr, faces):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = Channel(ours)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    group._send_jpeg(7, bgr, faces)
    [(message, fds)] = supervisor.receive()
    return message, fds


def test_a_picture_is_answered_with_its_jpeg():
    message, fds = answer_to(np.zeros((90, 160, 3), np.uint8), [Face((10, 10, 40, 50), 0.9)])
    assert (message["ev"], message["id"], message["width"], message["height"]) == ("jpeg", 7, 160, 90)
    data = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
    os.close(fds[0])
    assert data[:2] == b"\xff\xd8"
    assert data[-2:] == b"\xff\xd9"


def test_a_picture_that_cannot_be_encoded_is_answered_at_once():
    message, fds = answer_to(np.zeros((2, 70000, 3), np.uint8), [])
    assert (message["ev"], message["id"], fds) == ("no_shot", 7, [])
    assert "70000" in message["detail"]


def test_a_thread_that_cannot_be_started_costs_its_stream_only_and_is_tried_again(monkeypatch, tmp_path):
    refused = []

    def refuse(self):
        refused.append(self.name)
        raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = Channel(ours)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    spec = asdict(StreamSpec("cam", (tmp_path / "none.mp4").as_uri()))
    add = {"op": "add", "index": 3, "epoch": 9, "spec": spec, "secret": None, "fps": 5.0, "phase": 0.0, "level": "full"}
    add["device"] = "cpu"
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refuse)
        supervisor.send(add)
        group._on_control()
        group._start_others()
    [(message, _)] = [m for m in supervisor.receive() if m[0]["ev"] == "state"][:1]
    assert (message["index"], message["epoch"], message["state"]) == (3, 9, "backing-off")
    assert message["detail"] == no_thread("for it")
    assert refused == ["stream-cam"] * 2
    group._start_others()
    group._start_others()
    heard: list = []
    deadline = time.monotonic() + 20
    while not any("no such file" in m[0].get("detail", "") for m in heard):
        assert time.monotonic() < deadline
        heard += supervisor.receive()
        time.sleep(0.01)
    supervisor.send({"op": "remove", "index": 3})
    group._on_control()
    while group._streams:
        group._drop_removed()
        time.sleep(0.01)


def test_a_snapshot_for_which_no_thread_can_be_started_is_refused_and_the_next_is_made(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = Channel(ours)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    picture = Snapshot(np.zeros((90, 160, 3), np.uint8), 1, 1, 1)
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refuse)
        group._snapshots[7] = [picture]
        supervisor.send({"op": "draw", "id": 7, "faces": []})
        group._on_control()
    [(message, _)] = supervisor.receive()
    assert (message["ev"], message["id"], message["detail"]) == ("no_shot", 7, no_thread("to draw it"))
    group._snapshots[8] = [picture]
    supervisor.send({"op": "draw", "id": 8, "faces": []})
    group._on_control()
    group._encoder.shutdown()
    [(message, fds)] = supervisor.receive()
    assert (message["ev"], message["id"]) == ("jpeg", 8)
    os.close(*fds)


def test_a_lost_gpu_is_told_once():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = Channel(ours)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    group._beat()
    group._nvdec.failed(CudaError("cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS (700)", lost=True))
    group._beat()
    group._beat()
    said = [message for message, _ in supervisor.receive()]
    assert [message["ev"] for message in said] == ["beat", "gpu_lost", "beat", "beat"]
    assert "ILLEGAL_ADDRESS" in said[1]["detail"]


def test_a_group_of_the_cpu_knows_no_gpu():
    _, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(decode="cpu"), "info", "text"), Channel(theirs))
    assert group._nvdec is None


class HangingNvdec:
    """A driver that doesn't come back, until it is let go."""

    def __init__(self):
        self.turn = Turn(Path(__file__))
        self.lost, self.asked, self.let_go = "", threading.Event(), threading.Event()

    def open(self, codec):
        self.asked.set()
        self.let_go.wait(30)
        raise CudaError("let go")

    def hangs(self, problem):
        self.lost = problem

    def look(self):
        pass

    def failed(self, error):
        pass


def test_a_call_of_the_gpu_that_does_not_come_back_is_told_of_as_its_loss(tmp_path):
    """The heartbeat comes from another thread: nobody else would ever know."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = Channel(ours)
    group = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    nvdec = group._nvdec = HangingNvdec()
    clip = make_clip(tmp_path / "clip.mp4", 50)
    add = {"op": "add", "epoch": 9, "secret": None, "fps": 5.0, "phase": 0.0, "level": "full"}
    for index, device in enumerate(("nvdec", "cpu")):
        spec = asdict(StreamSpec(f"cam{index}", clip.as_uri()))
        supervisor.send({**add, "index": index, "spec": spec, "device": device})
    group._on_control()
    assert nvdec.asked.wait(20)

    def said_at(after_s):
        now_ns = time.monotonic_ns() + after_s * 10**9
        group._look_for_hung(now_ns)
        group._beat()
        return [m["detail"] for m, _ in supervisor.receive() if m["ev"] == "gpu_lost"]

    assert said_at(130) == [], "seen for the first time it may be a packet that has just come"
    assert said_at(110) == []
    assert said_at(131) == ["a call to the GPU hasn't come back for over 120 s"]
    assert said_at(132) == []
    nvdec.let_go.set()
    for running in group._streams.values():
        running.thread.stop()
        assert running.thread.join(20)
