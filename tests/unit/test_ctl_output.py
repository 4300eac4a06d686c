"""How stats and detections look: fixed data at a fixed width, and the rules below them."""

import dataclasses
import io
import json
import math
from datetime import timezone

import pytest
from ctl_harness import Bytes
from fakes_control import FakeControl, result_of, view_of
from google.protobuf import timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from facedetctl import output, render
from facedetctl.output import Cell, Output, table
from facedetctl.stats import Screen
from facedetd.api import convert, convert_daemon
from facedetd.control import DaemonState, GpuView, LatencyView, StreamCounts
from facedetd.types import DecodeLevel, Face, StreamSpec, StreamState
from facedetd.v1 import detection_pb2, stream_pb2


def stats_message():
    control = FakeControl()
    front = view_of(StreamSpec("front-door", "rtsp://cam/1"))
    garage = dataclasses.replace(
        view_of(StreamSpec("garage", "rtsp://cam/2", target_fps=10.0)),
        state=StreamState.BACKING_OFF,
        detail="401 Unauthorized: the camera refused the user name or the password; next try in 12 s",
        granted_fps=4.0,
        actual_fps=0.0,
        latency=None,
        counts=StreamCounts(sampled=1000, inferred=850, faces=1_234_567, dropped={"replaced": 150}),
    )
    control.streams = {"front-door": front, "garage": garage, "yard": view_of(StreamSpec("yard", "x", paused=True))}
    return convert_daemon.stats_to_proto(control.stats())


GOLDEN_STATS = """\
facedetd running · up 2 d 3 h · centerface 1.5.0 (onnxruntime, 640x384) · 0 watchers
3 streams · 4.9 of 15.0 fps · latency p50 82 ms, p95 143 ms · 7.8 % dropped
inference 19.8 frames/s · batches of 2.1 in 31 ms · oldest frame waits 12 ms
reduced: inference was short: 25% of the sampled frames were dropped

STREAM      STATE             FPS     P95    DROP  FACES  DETAIL
front-door  streaming     4.9/5.0  143 ms   0.6 %   1234  h264 1920x1080
garage      backing-off  0.0/10.0       -  15.0 %   1.2M  401 Unauthorized: the camera refused the …
yard        paused        0.0/5.0       -   0.6 %   1234  paused by the operator

PROCESS      PID  STATE           UP    CPU   MEMORY  RESTARTS  DETAIL
supervisor   100  running    2 d 3 h    2 %   61 MiB         0
decoder-0    101  running  1 h 0 min   50 %  120 MiB         1  4 streams; killed: stuck
inference-0  102  running    2 d 3 h  125 %  310 MiB         0
"""


def test_stats_at_a_hundred_columns():
    assert "\n".join(render.stats_lines(stats_message(), 100, False)) + "\n" == GOLDEN_STATS


@pytest.mark.parametrize(
    ("codec", "width", "fps", "shown"),
    [("h264", 1920, 25.0, "h264 1920x1080, 25 fps"), ("hevc", 1920, 0.0, "hevc 1920x1080"), ("", 0, 0.0, "")],
)
def test_a_stream_that_runs_shows_what_the_camera_sends(codec, width, fps, shown):
    control = FakeControl()
    view = view_of(StreamSpec("cam", "rtsp://cam/1"))
    control.streams = {
        "cam": dataclasses.replace(view, detail="", codec=codec, source_width=width, source_height=1080, source_fps=fps)
    }
    row = next(r for r in render.stats_lines(convert_daemon.stats_to_proto(control.stats()), 100, False) if "cam " in r)
    assert row.partition("1234")[2].strip() == shown


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"granted_fps": 2.5}, "lowered to 2.5 fps; h264 1920x1080"),
        ({"decode_level": DecodeLevel.NO_LOOP_FILTER}, "no loop filter; h264 1920x1080"),
        ({"decode_level": DecodeLevel.SUB_STREAM, "on_sub_stream": True}, "sub stream; h264 1920x1080"),
        (
            {"decode_level": DecodeLevel.KEYFRAMES, "on_sub_stream": True, "granted_fps": 0.5},
            "lowered to 0.5 fps, keyframes of the sub-stream; h264 1920x1080",
        ),
        ({"sub_stream_problem": "404"}, "no sub-stream: 404; h264 1920x1080"),
    ],
)
def test_what_is_taken_from_a_stream_is_shown(fields, shown):
    control = FakeControl()
    control.streams = {"cam": dataclasses.replace(view_of(StreamSpec("cam", "rtsp://cam/1")), **fields)}
    rows = render.stats_lines(convert_daemon.stats_to_proto(control.stats()), 140, False)
    row = next(r for r in rows if r.startswith("cam "))
    assert row.partition("1234")[2].strip() == shown


def test_colour_changes_nothing_but_colour():
    plain = render.stats_lines(stats_message(), 100, False)
    painted = render.stats_lines(stats_message(), 100, True)
    stripped = list(painted)
    for code in (*output.COLOURS.values(), output.RESET):
        stripped = [line.replace(code, "") for line in stripped]
    assert stripped == plain and painted != plain
    garage = next(line for line in painted if "garage" in line)
    assert f"{output.COLOURS['yellow']}backing-off{output.RESET}" in garage
    assert f"{output.COLOURS['red']}15.0 %{output.RESET}" in garage


def test_a_gpu_has_a_line_of_what_it_tells():
    whole = GpuView(0, "GPU-0", "NVIDIA H100", "580", 0.4, 0.834, 19 << 30, 60 << 30, 80 << 30, 7, 61.0, 312.5)
    mig = GpuView(1, "MIG-1", "a \x1b[31mGPU", "580", memory_used_bytes=5 << 20)
    message = convert_daemon.stats_to_proto(dataclasses.replace(FakeControl().stats(), gpus=(whole, mig)))
    lines = [line for line in render.stats_lines(message, 100, False) if line.startswith("GPU")]
    assert lines[0] == "GPU 0 H100 · 40 % busy · NVDEC 83 % · 19.0 GiB of 80.0 GiB · 61 °C · 312 W"
    assert lines[1].endswith("GPU · 5 MiB") and "\x1b" not in lines[1]
    told = output.plain(message)["gpus"]
    assert (told[0]["power_watts"], told[1]["memory_used_bytes"]) == (312.5, 5 << 20)
    assert told[1]["power_watts"] is None and told[1]["utilisation"] is None


def test_stats_without_model_streams_or_results():
    stats = dataclasses.replace(
        FakeControl().stats(),
        state=DaemonState.WAITING_FOR_MODEL,
        model=None,
        inference=None,
        latency=None,
        watchers=1,
        degradation=None,
    )
    lines = render.stats_lines(convert_daemon.stats_to_proto(stats), 100, False)
    assert lines[:4] == [
        "facedetd waiting-for-model · up 2 d 3 h · no model · 1 watcher",
        "0 streams · 0.0 of 0.0 fps · 0.0 % dropped",
        "",
        "PROCESS      PID  STATE           UP    CPU   MEMORY  RESTARTS  DETAIL",
    ]


GOLDEN_WATCH = """\
20:26:40.323  cam1     0 faces    84 ms
20:26:40.323  cam1     1 face     84 ms  0.90 80x96+312+120
20:26:40.323  cam1     2 faces    84 ms  0.90 80x96+312+120     0.90 80x96+313+120
20:26:40.323  cam1     3 faces    84 ms  0.90 80x96+312+120     0.90 80x96+313+120     +1 more
20:26:40.323  cam1    12 faces    84 ms  0.90 80x96+312+120     0.90 80x96+313+120     +10 more
"""


def test_detections_at_a_hundred_columns():
    lines = [
        render.detection_line(
            convert.detection_to_proto(result_of("cam1", 1, faces=n), {}), 100, False, 6, timezone.utc
        )
        for n in (0, 1, 2, 3, 12)
    ]
    assert "\n".join(lines) + "\n" == GOLDEN_WATCH


def test_the_best_faces_come_first_and_a_narrow_line_keeps_one():
    faces = tuple(Face((0.0, 0.0, 10.0 * i, 10.0), i / 10) for i in range(1, 7))
    message = convert.detection_to_proto(dataclasses.replace(result_of("cam1", 1), faces=faces), {})
    wide = render.detection_line(message, None, False, 4, timezone.utc)
    assert wide.endswith("0.60 60x10+0+0  0.50 50x10+0+0  0.40 40x10+0+0  0.30 30x10+0+0  +2 more")
    assert len(render.detection_line(message, 60, False, 4, timezone.utc)) <= 60


@given(st.integers(40, 200), st.integers(0, 60))
def test_stats_fit_the_width(width, name_length):
    message = stats_message()
    message.streams[0].spec.id = "n" * (name_length + 1)
    lines = render.stats_lines(message, width, False)
    # Numbers are never cut, so there is a least width.
    assert all(len(line) <= max(width, 78) for line in lines)


def test_text_from_a_camera_cannot_drive_the_terminal():
    message = stats_message()
    message.streams[0].status.detail = "bad\x1b[2J\nnews"
    text = "\n".join(render.stats_lines(message, None, False))
    assert "\x1b" not in text and "bad\\x1b[2J\\x0anews" in text


def test_tables_align_and_leave_no_trailing_space():
    rows = [[Cell("a"), Cell("1"), Cell("x")], [Cell("bb"), Cell("22"), Cell("")]]
    assert table(("N", "NUM", "LAST"), rows, frozenset({"NUM"}), None, False) == [
        "N   NUM  LAST",
        "a     1  x",
        "bb   22",
    ]


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (output.count, 9999, "9999"), (output.count, 10_000, "10.0k"), (output.count, 999_960, "1.0M"),
        (output.count, 5 * 10**13, "50.0T"),
        (output.size, 0, "0 B"), (output.size, 1023, "1023 B"), (output.size, 1 << 20, "1 MiB"),
        (output.size, 3 << 30, "3.0 GiB"), (output.size, 5 << 40, "5.0 TiB"),
        (output.span, 0.9, "0 s"), (output.span, 61, "1 min 1 s"), (output.span, 7200, "2 h 0 min"),
        (output.span, 90000, "1 d 1 h"),
        (output.milliseconds, 0.0824, "82 ms"), (output.milliseconds, 12.34, "12.3 s"),
        (output.percent, 0.0149, "1.5 %"),
    ],
)  # fmt: skip
def test_units(function, value, text):
    assert function(value) == text


def test_unknown_enum_numbers_of_a_newer_daemon_are_shown():
    message = stream_pb2.Stream()
    message.status.state = 99
    assert output.word(message.status, "state") == "unknown-99"
    assert output.plain(message)["status"]["state"] == "unknown-99"


def test_json_keeps_latency_absent_and_numbers_numbers():
    view = dataclasses.replace(view_of(StreamSpec("a", "x")), latency=LatencyView(0.0000015, 1, 2, 3))
    found = output.plain(convert.stream_to_proto(view))
    assert found["status"]["latency"]["mean_s"] == pytest.approx(0.000002, abs=1e-6)
    assert isinstance(found["status"]["frames_received"], int)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colour"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Bytes(), {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(stream, environ, colour):
    assert Output(stream, io.StringIO(), as_json=False, environ=environ).colour is colour


def test_the_screen_is_redrawn_in_place_and_never_taller_than_it(monkeypatch):
    terminal = Terminal()
    out = Output(terminal, io.StringIO(), as_json=False, environ={})
    monkeypatch.setattr(Output, "size", lambda self: (80, 5))
    screen = Screen(out)
    screen.show(["a", "b", "c"])
    assert terminal.getvalue() == "\r\x1b[?7la\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[?7h\x1b[J"
    terminal.truncate(0)
    terminal.seek(0)
    screen.show([str(i) for i in range(10)])
    assert terminal.getvalue() == "\x1b[3A\r\x1b[?7l0\x1b[K\n1\x1b[K\n2\x1b[K\n… 7 more lines\x1b[K\n\x1b[?7h\x1b[J"
    terminal.truncate(0)
    terminal.seek(0)
    screen.show(["z"])
    assert terminal.getvalue().startswith("\x1b[4A\r")


class Text(io.StringIO):
    encoding = "utf-8"


def said(as_json: bool):
    out, err = Text(), Text()
    return output.Output(out, err, as_json=as_json, environ={}), out, err


HOSTILE = "a\x1b[2Jb\x9b31m\x7f\u202e\n\U000e0001 ä\u2028目"


def test_json_can_not_drive_the_terminal_and_says_the_same():
    shown, out, _ = said(as_json=True)
    shown.data({HOSTILE: [HOSTILE]})
    line = out.getvalue().removesuffix("\n")
    assert line.isprintable() and "ä" in line and "目" in line
    assert json.loads(line) == {HOSTILE: [HOSTILE]}


def test_messages_can_not_drive_the_terminal():
    shown, _, err = said(as_json=False)
    shown.say(f"warning: {HOSTILE}")
    assert err.getvalue().removesuffix("\n").isprintable()


def test_json_has_null_for_what_is_no_number():
    shown, out, _ = said(as_json=True)
    shown.data({"a": math.nan, "b": [math.inf, {"c": -math.inf}, (1.5,)], "d": "NaN"})
    assert json.loads(out.getvalue()) == {"a": None, "b": [None, {"c": None}, [1.5]], "d": "NaN"}


def test_a_time_that_no_calendar_has_is_none():
    detection = detection_pb2.Detection(stream_id="a", capture_time=timestamp_pb2.Timestamp(seconds=1 << 60))
    assert output.plain(detection)["capture_time"] is None
    assert render.detection_line(detection, None, False, 8).startswith("--:--:--.---  a")


def test_columns_that_are_no_width_are_no_limit(monkeypatch):
    shown, _, _ = said(as_json=False)
    for columns in ("9" * 5000, "0", "-1", "x", ""):
        monkeypatch.setenv("COLUMNS", columns)
        width = shown.size()[0]
        assert width is None or width >= 99999
