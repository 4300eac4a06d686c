"""The decoder group's part in snapshots."""

import os
import socket

import numpy as np

from facedetd.capture.boot import GroupBoot
from facedetd.capture.group import DecoderGroup
from facedetd.config.model import CaptureConfig
from facedetd.ipc import Channel
from facedetd.types import Face


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
