"""The baseline: what it samples, what it drops, and a whole run on a file."""

import dataclasses
import itertools

import cv2
import model_kit
import numpy as np
import pytest
from capture_clips import make_clip
from hypothesis import given
from hypothesis import strategies as st

from facedetctl.bench import runner
from facedetctl.bench.baseline import Mailbox, Sampled, fit, is_sampled, to_input
from facedetctl.bench.cameras import CameraSet, SceneOptions, own_cameras
from facedetctl.bench.figures import Thresholds
from facedetctl.bench.measure import MeasureError
from facedetctl.credentials import Login
from facedetd.inference.types import InputSpec
from facedetd.models import ModelStore, import_model
from facedetd.ring.header import Geometry

WHOLE = Geometry(64, 32, 64, 32, 0, 0)


def test_five_of_twenty_five_are_every_fifth():
    assert [n for n in range(26) if is_sampled(n, 25, 5)] == [0, 5, 10, 15, 20, 25]


@given(st.integers(1, 60), st.integers(1, 60))
def test_sampling_is_even_and_at_the_target(camera_fps, target_fps):
    numbers = [n for n in range(camera_fps * 20) if is_sampled(n, camera_fps, target_fps)]
    assert abs(len(numbers) - 20 * min(target_fps, camera_fps)) <= 1
    gaps = {b - a for a, b in itertools.pairwise(numbers)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def sampled(value=0):
    return Sampled(np.full((32, 64, 3), value, np.uint8), WHOLE, value, value)


def test_a_newer_picture_replaces_the_waiting_one_and_goes_to_the_back():
    box = Mailbox(3)
    for camera, value in ((0, 1), (1, 2), (0, 3), (2, 4)):
        box.put(camera, sampled(value))
    taken = [box.take() for _ in range(3)]
    assert [(camera, one.grabbed_mono_ns) for camera, one in taken] == [(1, 2), (0, 3), (2, 4)]
    assert (box.sampled, box.dropped) == ([2, 1, 1], [1, 0, 0])


def test_fit_letterboxes_and_geometry_leads_back():
    picture = np.full((100, 400, 3), 200, np.uint8)
    framed, geometry = fit(picture, 128, 64)
    assert framed.shape == (64, 128, 3)
    inside = framed[geometry.pad_y : geometry.pad_y + geometry.height, geometry.pad_x : geometry.pad_x + geometry.width]
    assert (inside == 200).all()
    assert framed.sum() == inside.sum()  # all around is black
    assert (geometry.source_width, geometry.source_height) == (400, 100)


def test_input_is_as_the_head_wants_it():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 10, 30  # blue, red
    plain = to_input(picture, InputSpec())
    assert plain.shape == (1, 3, 2, 2)
    assert plain[0, :, 0, 0].tolist() == [10, 0, 30]
    turned = to_input(picture, InputSpec(channels="rgb", mean=(20.0, 0.0, 0.0), scale=(0.5, 1.0, 2.0)))
    assert turned[0, :, 0, 0].tolist() == [5.0, 0.0, 20.0]


@pytest.fixture
def options(tmp_path):
    model = import_model(model_kit.save(model_kit.centerface(), tmp_path / "m.onnx"), ModelStore(tmp_path / "s"), "m")
    return runner.BenchOptions(
        duration_s=1.5, warmup_s=0.2, target_fps=5.0, model=model, store=tmp_path / "s", model_size=(96, 64), threads=1,
        scenes=SceneOptions(), sources=(), login=None, with_baseline=True, tuned_baseline=False,
        thresholds=Thresholds(), max_cpu_ratio=None,
    )  # fmt: skip


def red_square(path, size=(160, 96)):
    """A clip with a red square that the test model takes for a face."""
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[32:64, 64:96, 2] = 255
    for _ in range(25):
        out.write(picture)
    out.release()
    return path


@pytest.mark.parametrize("tuned", [False, True])
def test_a_whole_run_on_two_files_finds_the_face_where_it_is(options, tmp_path, tuned):
    clip = red_square(tmp_path / "a clip.avi")  # a space: paths must survive being URLs
    cameras = dataclasses.replace(
        own_cameras([str(clip)], 2, None), truth=lambda stream_id, utc_ns: [(64.0, 32.0, 96.0, 64.0)]
    )
    found = runner.run_baseline(cameras, dataclasses.replace(options, tuned_baseline=tuned))
    assert [s.id for s in found.streams] == ["cam0", "cam1"]
    for stream in found.streams:
        assert stream.frames > 0 and stream.latency is not None
        # The files are read at their own pace, however fast the machine; else it were hundreds. After a stop of the
        # machine some come at once
        assert stream.fps < 20.0
        assert stream.accuracy.faces == stream.frames
    assert found.cpu_seconds > 0 and found.memory_bytes > 10 << 20
    assert found.network_bps is None


def test_a_source_that_gives_nothing_is_named(options, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.BenchOptions, "start_timeout_s", 5.0)  # for the good one to begin, too
    good = make_clip(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    cameras = own_cameras([str(good), str(tmp_path / "bad.mp4")], 2, None)
    with pytest.raises(MeasureError, match="no result from cam1 within 5 s"):
        runner.run_baseline(cameras, options)


def test_opencv_gets_the_password_and_the_daemon_does_not():
    cameras = CameraSet(("rtsp://cam:554/1",), 25, None, Login("us:er", "p@ss/ word"))
    assert cameras.urls == ("rtsp://cam:554/1",)
    assert cameras.for_opencv() == ("rtsp://us%3Aer:p%40ss%2F%20word@cam:554/1",)
    assert "p@ss" not in repr(cameras)
