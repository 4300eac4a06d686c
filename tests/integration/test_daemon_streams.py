"""Real RTSP in, detections out: boxes, accounting, and streams that don't disturb one another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2
from tests.cameras import CameraServer, Coding, encode, make_scene
from tests.cameras.score import score
from tests.integration.conftest import StartCameras
from tests.integration.daemon_kit import (
    EVERY_FRAME,
    add,
    check_accounts,
    model_store,
    quiesce,
    snapshot,
    stream,
    until,
    until_inferred,
    watching,
)

FULL_MODEL = EVERY_FRAME.replace("320", "640").replace("192", "384")


@pytest.fixture
def daemon() -> Iterator[LocalDaemon]:
    with LocalDaemon(EVERY_FRAME, models=model_store()) as local:
        yield local
        print(local.log_text())


def test_boxes_in_source_pixels_for_every_shape_of_picture(camera_server: StartCameras) -> None:
    shapes = {
        "wide": encode(make_scene(1280, 720, faces=3)),
        "four-to-three": encode(make_scene(800, 600, faces=2)),
        "portrait": encode(make_scene(480, 854, faces=2)),
        "odd": encode(make_scene(1023, 577, faces=2), coding=Coding(pix_fmt="yuv444p")),
        "anamorphic": encode(make_scene(720, 576, faces=2, sar=(64, 45))),
    }
    cameras = camera_server(list(shapes.values()))
    with LocalDaemon(FULL_MODEL, models=model_store()) as local, watching(local) as watch:
        for i, name in enumerate(shapes):
            add(local, name, cameras.url(i), target_fps=2.0)
        until_inferred(local, list(shapes), 10, 60)
        for i, (name, clip) in enumerate(shapes.items()):
            found = watch.of(name)[2:]  # while streams begin a busy machine takes each packet late
            assert len(found) >= 5
            scene = clip.scenes[0]
            assert {(d.source_width, d.source_height) for d in found} == {(scene.width, scene.height)}
            boxes = [(_utc_ns(d), [_box(f) for f in d.faces]) for d in found]
            result = score(boxes, partial(cameras.truth, i))
            assert result.recall >= 0.95, name
            assert result.mean_iou >= 0.6, name
            assert all(f.HasField("landmarks") for d in found for f in d.faces)
            assert all(_nose_inside(f) for d in found for f in d.faces)


def _box(face: detection_pb2.Face) -> tuple[float, float, float, float]:
    return face.box.x_min, face.box.y_min, face.box.x_max, face.box.y_max


def _nose_inside(face: detection_pb2.Face) -> bool:
    x_min, y_min, x_max, y_max = _box(face)
    return x_min < face.landmarks.nose.x < x_max and y_min < face.landmarks.nose.y < y_max


def _utc_ns(found: detection_pb2.Detection) -> int:
    return int(found.capture_time.ToNanoseconds())


def test_every_frame_is_accounted_for(daemon: LocalDaemon, cameras: CameraServer) -> None:
    ids = ["a", "b", "c"]
    with watching(daemon) as watch:
        for i, stream_id in enumerate(ids):
            add(daemon, stream_id, cameras.url(i), target_fps=5.0)
        until_inferred(daemon, ids, 20)
        for stream_id, status in quiesce(daemon, ids).items():
            check_accounts(status)
            assert status.frames_inferred >= 20
            assert status.frames_waiting == status.frames_in_flight == 0
            # Independent of the counters: what a watcher got, and what the camera sent.
            until(lambda s=stream_id, n=status.frames_inferred: len(watch.of(s)) >= n, "the results to arrive")
            found = watch.of(stream_id)
            assert len(found) == status.frames_inferred
            assert status.frames_decoded <= status.frames_received
            # Sampling begins at the stream's phase, up to a period after the first frame.
            assert -2 <= status.frames_sampled - status.frames_decoded / 5 <= 1
            sequences = [d.sequence for d in found]
            assert sequences == sorted(set(sequences))
            assert len({d.epoch for d in found}) == 1
            captured = [_utc_ns(d) for d in found]
            assert captured == sorted(set(captured))


def test_sampling_is_even(daemon: LocalDaemon, cameras: CameraServer) -> None:
    with watching(daemon) as watch:
        add(daemon, "even", cameras.url(0), target_fps=5.0)
        until_inferred(daemon, ["even"], 20)
        found = {d.sequence: d.pts.ToNanoseconds() for d in watch.of("even")[1:]}  # the first frame has no RTP time
    steps = [found[b] - found[a] for a, b in pairwise(sorted(found)) if b == a + 1]
    assert len(steps) >= 10
    assert {round(step / 1e6) for step in steps} == {200}


def test_streams_come_and_go_without_disturbing_one_another(daemon: LocalDaemon, cameras: CameraServer) -> None:
    with watching(daemon) as watch:
        add(daemon, "stays", cameras.url(0))
        until_inferred(daemon, ["stays"])
        for turn in range(6):  # more streams than a group has places, so places are used again
            add(daemon, f"guest-{turn}", cameras.url(1))
            add(daemon, f"other-{turn}", cameras.url(2))
            until_inferred(daemon, [f"guest-{turn}"], 1)
            for name in (f"guest-{turn}", f"other-{turn}"):
                daemon.streams.DeleteStream(stream_pb2.DeleteStreamRequest(id=name), timeout=10)
        until_inferred(daemon, ["stays"])
        status = stream(daemon, "stays").status
        assert status.reconnects == 0
        assert len({d.epoch for d in watch.of("stays")}) == 1
    check_accounts(quiesce(daemon, ["stays"])["stays"])


def test_changes_that_need_no_reconnect(daemon: LocalDaemon, cameras: CameraServer) -> None:
    add(daemon, "cam", cameras.url(0), target_fps=5.0)
    until_inferred(daemon, ["cam"])
    request = stream_pb2.UpdateStreamRequest(spec=stream_pb2.StreamSpec(id="cam", target_fps=25.0, priority=90))
    request.update_mask.paths.extend(["target_fps", "priority"])
    daemon.streams.UpdateStream(request, timeout=10)
    assert stream(daemon, "cam").status.granted_fps == 25.0

    def takes_every_frame() -> bool:
        before = stream(daemon, "cam").status.frames_not_sampled
        until_inferred(daemon, ["cam"], 20)
        return stream(daemon, "cam").status.frames_not_sampled == before

    until(takes_every_frame, "the decoder to take every frame")  # it hears of the rate after the call has returned
    assert stream(daemon, "cam").status.reconnects == 0


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_what_this_machine_cannot_do_is_said(daemon: LocalDaemon, cameras: CameraServer) -> None:
    spec = stream_pb2.StreamSpec(id="cam", url=cameras.url(0), decode=stream_pb2.DECODE_MODE_GPU)
    answer = daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=10)
    why = "NVIDIA's driver isn't installed (libnvidia-ml.so.1 isn't there)"
    assert [f"cam: decode is gpu, but this daemon decodes on the CPU: {why}"] == list(answer.warnings)
    until_inferred(daemon, ["cam"])
    health = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
    assert [p.message for p in health.problems if p.subject == "stream cam"] == [
        f"decode is gpu, but it is decoded on the CPU: {why}"
    ]


def test_a_camera_that_is_away_is_said_once_and_a_snapshot_of_it_at_once(
    daemon: LocalDaemon, cameras: CameraServer
) -> None:
    add(daemon, "away", "rtsp://127.0.0.1:1/x", target_fps=0.5)  # its min_fps follows
    add(daemon, "here", cameras.url(0))
    until_inferred(daemon, ["here"], 10)  # several retries of the other meanwhile
    until(lambda: stream(daemon, "away").status.state == stream_pb2.STREAM_STATE_BACKING_OFF, "a refusal")
    with pytest.raises(grpc.RpcError) as error:
        daemon.streams.GetSnapshot(stream_pb2.GetSnapshotRequest(id="away"), timeout=20)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "backing-off: connection refused" in str(error.value.details()) or "connecting" in str(error.value.details())
    log = daemon.log_text()
    assert log.count("stream away: connection refused") == 1
    assert log.count("stream here: streaming h264 640x360") == 1
    assert "by the API: added away" in log


def test_pause_resume_and_regions_of_interest(daemon: LocalDaemon, cameras: CameraServer) -> None:
    nowhere = stream_pb2.Polygon(
        points=[stream_pb2.Point(x=x, y=y) for x, y in ((0, 0), (0.001, 0), (0.001, 0.001), (0, 0.001))]
    )
    add(daemon, "cam", cameras.url(0), regions_of_interest=[nowhere])
    with watching(daemon) as watch:
        until_inferred(daemon, ["cam"])
        assert not any(d.faces for d in watch.of("cam"))
    quiesce(daemon, ["cam"])
    paused = stream(daemon, "cam")
    assert paused.status.state == stream_pb2.STREAM_STATE_PAUSED
    request = stream_pb2.UpdateStreamRequest(spec=stream_pb2.StreamSpec(id="cam"))
    request.update_mask.paths.append("regions_of_interest")
    daemon.streams.UpdateStream(request, timeout=10)
    with watching(daemon) as watch:
        daemon.streams.ResumeStream(stream_pb2.ResumeStreamRequest(id="cam"), timeout=10)
        until(lambda: any(d.faces for d in watch.of("cam")), "a face after the region was removed")


def test_a_snapshot_shows_the_newest_frame(daemon: LocalDaemon, cameras: CameraServer) -> None:
    import cv2
    import numpy as np

    from tests.cameras import strip

    add(daemon, "cam", cameras.url(0))
    until_inferred(daemon, ["cam"], 10)
    plain, drawn = snapshot(daemon, "cam", plain=True), snapshot(daemon, "cam", plain=False)
    pictures = [cv2.imdecode(np.frombuffer(s.jpeg, np.uint8), cv2.IMREAD_COLOR) for s in (plain, drawn)]
    assert all(p.shape == (360, 640, 3) for p in pictures)
    assert (drawn.width, drawn.height) == (640, 360)
    assert drawn.faces == 2
    assert drawn.sequence > plain.sequence
    # The picture says itself which frame of the scene it is
    index = strip.read(pictures[0])
    assert index is not None
    assert strip.apart(index, cameras.frame_at(0, plain.capture_time.ToNanoseconds()), 100) <= 1
    with pytest.raises(grpc.RpcError) as error:
        daemon.streams.GetSnapshot(stream_pb2.GetSnapshotRequest(id="none"), timeout=20)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
