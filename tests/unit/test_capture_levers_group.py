"""What the supervisor tells a decoder group of rates and levels, and what it hears of them."""

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict

from capture_clips import make_clip

from facedetd.capture.boot import GroupBoot
from facedetd.capture.group import DecoderGroup
from facedetd.config.model import CaptureConfig
from facedetd.ipc import Channel
from facedetd.ring.link import link_pair
from facedetd.ring.segment import DecoderCounter, RingSpec, Segment
from facedetd.types import StreamSpec


class Supervisor:
    def __init__(self, control):
        self.control = control
        self.heard = []

    def hear(self, condition, seconds=30):
        """The first message from now on that meets the condition."""
        end = time.monotonic() + seconds
        at = len(self.heard)
        while True:
            self.heard += [message for message, _ in self.control.receive()]
            for message in self.heard[at:]:
                if condition(message):
                    return message
            at = len(self.heard)
            assert time.monotonic() < end, f"it was never said; last: {self.heard[-3:]}"
            time.sleep(0.02)


@contextmanager
def group():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    running = DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs))
    thread = threading.Thread(target=running.main)
    thread.start()
    supervisor = Supervisor(Channel(ours))
    try:
        yield supervisor
    finally:
        supervisor.control.send({"op": "stop"})
        thread.join(20)
        assert not thread.is_alive()


def test_levels_rates_and_lags(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 50)
    segment = Segment.create(RingSpec(1, 1, 160, 96, 4, 2))
    near, far = link_pair()
    with group() as supervisor, near, far:
        supervisor.control.send({"op": "ring", "ring": 1}, (segment.fd, near.fileno()))
        add = {"op": "add", "index": 2, "epoch": 7, "spec": asdict(StreamSpec("cam", clip.as_uri())), "secret": None}
        add["device"] = "cpu"
        supervisor.control.send({**add, "fps": 25.0, "phase": 0.5, "level": "keyframes"})
        said = supervisor.hear(lambda m: m["ev"] == "state" and m["state"] == "streaming")
        assert (said["index"], said["level"], said["sub"], said["sub_problem"]) == (2, "keyframes", False, "")
        said = supervisor.hear(lambda m: m["ev"] == "state" and m["fps"] > 0)
        assert said["fps"] > 20 and said["keyframe_s"] > 0.2 and said["bits_per_s"] > 0 and said["reference_share"] == 1

        supervisor.control.send({"op": "decode", "index": 2, "level": "full", "device": "cpu"})
        supervisor.hear(lambda m: m["ev"] == "state" and m["level"] == "full")
        beat = supervisor.hear(lambda m: m["ev"] == "beat" and m["lags"])
        assert [index for index, _ in beat["lags"]] == [2] and beat["lags"][0][1] >= 0

        supervisor.control.send({"op": "rate", "index": 2, "fps": 0.0, "phase": 0.5, "priority": 50})
        supervisor.hear(lambda m: m["ev"] == "beat" and not m["lags"])
        supervisor.hear(lambda m: m["ev"] == "beat" and not m["lags"])
        counters = segment.counters[2, 0]
        assert counters[DecoderCounter.PACKETS_SKIPPED] == counters[DecoderCounter.DECODE_ERRORS] == 0
        decode = {"op": "decode", "level": "off", "device": "cpu"}
        for message in ({"op": "rate", "fps": 1.0, "phase": 0.1, "priority": 50}, decode):
            supervisor.control.send({**message, "index": 3})  # a stream that is gone
        supervisor.control.send({"op": "remove", "index": 2})
        supervisor.hear(lambda m: m["ev"] == "removed")
        assert counters[DecoderCounter.SAMPLED] > 0
