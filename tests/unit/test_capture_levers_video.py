"""What packets tell of the video, and which frames are taken while the rate changes."""

import itertools
from math import floor

import av
import pytest
from capture_clips import make_clip
from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture.sampler import lead_ns
from facedetd.capture.turns import Rate, Turns
from facedetd.capture.types import StreamInfo
from facedetd.capture.videoinfo import Meter, is_needed, metered, nal_length_of, with_figures

S = 1_000_000_000
FRAME = 40_000_000

X264 = {"preset": "veryfast", "x264-params": "keyint=24:bframes=3:b-adapt=0:scenecut=0"}
X265 = {"preset": "veryfast", "x265-params": "log-level=none:keyint=24:bframes=3:b-adapt=0"}
LAYERS = {"preset": "veryfast", "x265-params": "log-level=none:keyint=24:bframes=3:b-adapt=0:temporal-layers=1"}


@pytest.mark.parametrize(
    "codec, suffix, options",
    [("libx264", "mp4", X264), ("libx264", "ts", X264), ("libx265", "mp4", X265), ("libx265", "ts", X265),
     ("libx265", "mkv", LAYERS)],
)  # fmt: skip
def test_frames_that_no_other_needs_are_those_ffmpeg_skips(tmp_path, codec, suffix, options):
    path = make_clip(tmp_path / f"clip.{suffix}", 72, codec=codec, options=options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        name, length = (
            stream.codec_context.name,
            nal_length_of(stream.codec_context.name, stream.codec_context.extradata),
        )
        assert (length > 0) == (suffix != "ts")
        top = needed = 0
        for packet in container.demux(stream):
            if packet.size:
                needs, layer = is_needed(memoryview(packet), name, length, top)
                top = max(top, layer)
                needed += needs
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        shown = len(list(container.decode(stream)))
    assert 24 <= needed < 60 and abs(needed - shown) <= 1


@given(st.binary(max_size=200), st.sampled_from(["h264", "hevc", "mjpeg", ""]), st.sampled_from([0, 1, 2, 4]))
def test_no_bytes_of_a_camera_break_it(data, codec, length):
    needed, layer = is_needed(memoryview(data), codec, length, 0)
    assert isinstance(needed, bool) and 0 <= layer <= 6
    assert 0 <= nal_length_of(codec, data) <= 4


def run(meter, packets):
    for time_ns, size, keyframe, needed in packets:
        meter = metered(meter, time_ns, size, keyframe=keyframe, needed=needed)
    return meter


def test_figures_of_a_plain_stream():
    packets = [(i * FRAME, 10_000 if i % 50 else 60_000, i % 50 == 0, True) for i in range(200)]
    meter = run(Meter(), packets)
    info = with_figures(StreamInfo("h264"), meter)
    assert (info.fps, info.keyframe_s, info.reference_share) == (25.0, 2.0, 1.0)
    assert info.bits_per_s == (49 * 10_000 + 60_000) * 8 / 2
    assert with_figures(info, run(meter, [(t + 8 * S, s, k, n) for t, s, k, n in packets])) is info


def test_figures_with_b_frames_are_exact():
    shown = []
    for group in range(8):
        shown += [(50 * group, True, True)]
        for p in range(3, 50, 3):
            shown += [
                (50 * group + p, False, True),
                (50 * group + p - 2, False, False),
                (50 * group + p - 1, False, False),
            ]
        shown += [(50 * group + 49, False, True)]
    meter = run(Meter(), [((i + 5) * FRAME, 1000, k, n) for i, k, n in shown])
    info = with_figures(StreamInfo(), meter)
    assert info.fps == 25.0 and info.keyframe_s == 2.0 and info.reference_share == pytest.approx(0.36, abs=0.01)


def test_without_a_keyframe_the_time_without_one_is_what_is_known():
    meter = run(Meter(), [(i * FRAME, 1000, i == 0, True) for i in range(400)])
    assert 4 <= with_figures(StreamInfo(), meter).keyframe_s <= 16


def test_small_drift_is_not_worth_a_message_and_a_new_rate_is():
    info = StreamInfo(fps=25.0, keyframe_s=2.0, bits_per_s=4e6)
    assert with_figures(info, Meter(windows=5, fps=26.0, keyframe_ns=2.2e9, bits_per_s=4.5e6)) is info
    assert with_figures(info, Meter(windows=5, fps=12.5, keyframe_ns=2e9, bits_per_s=4e6)).fps == 12.5


@given(st.lists(st.tuples(st.integers(-2 * S, 3 * S), st.booleans()), max_size=200))
def test_no_times_of_a_camera_break_it(steps):
    meter, time_ns = Meter(), 10 * S
    for step, keyframe in steps:
        time_ns += step
        meter = metered(meter, time_ns, 1000, keyframe=keyframe, needed=True)
        info = with_figures(StreamInfo(), meter)
        assert min(info.fps, info.keyframe_s, info.bits_per_s) >= 0 and 0 <= info.reference_share <= 1


# ---- the rate


def taken(turns, frames, changes=(), start=1000 * S, interval=FRAME):
    """Which of so many frames are taken, and when; ``changes`` maps a frame's number to the rate from it on."""
    changes = dict(changes)
    out = []
    for n in range(frames):
        if n in changes:
            turns.wanted = changes[n]
        if turns.take(n * interval, start + n * interval):
            out.append(n)
    return out


def test_the_same_rate_again_changes_nothing():
    plain = taken(Turns(Rate(5, 0.3)), 500)
    assert taken(Turns(Rate(5, 0.3)), 500, {n: Rate(5, 0.3) for n in range(500)}) == plain
    assert {b - a for a, b in itertools.pairwise(plain)} == {5}


def test_streams_that_are_changed_together_go_on_taking_turns():
    """A hundred in step, all set from 5 to 1 fps at the same moment, and back."""
    streams = [Turns(Rate(5, k * 0.618 % 1)) for k in range(100)]
    per_frame = [0] * 1000
    for k, turns in enumerate(streams):
        for n in taken(turns, 1000, {300: Rate(1, k * 0.618 % 1), 700: Rate(5, k * 0.618 % 1)}):
            per_frame[n] += 1
    assert 18 <= min(per_frame[100:300]) and max(per_frame[100:300]) <= 22
    # 4 a frame are wanted at 1 fps, and as many as before for the 200 ms that the old rate's points are still served
    assert max(per_frame[300:306]) <= 22 and max(per_frame[306:700]) <= 8
    assert max(per_frame[700:]) <= 27
    assert 18 <= min(per_frame[800:]) and max(per_frame[800:]) <= 22


rates = st.floats(0.5, 12.5)


@given(rates, st.floats(0, 0.999), st.dictionaries(st.integers(0, 400), rates, max_size=60))
def test_changes_never_starve_a_stream_nor_make_it_greedy(fps, phase, changes):
    got = taken(Turns(Rate(fps, phase)), 500, {n: Rate(f, phase) for n, f in changes.items()})
    slowest = min([fps, *changes.values()])
    assert got and got[0] <= 25 / slowest + 1
    gaps = [b - a for a, b in itertools.pairwise([*got, 500])]
    assert max(gaps) <= 1.5 * 25 / slowest + 2
    best = max([fps, *changes.values()])
    for at in range(0, 475, 25):
        assert sum(1 for n in got if at <= n < at + 25) <= 2 * best + 2


def test_a_rate_that_changes_at_every_frame_to_the_worst_one_starves_nobody():
    """Each change is to the rate whose next point is farthest off."""
    phase, start = 0.3, 1000 * S
    choices = [1 + k / 40 for k in range(40)]
    worst = {n: max(choices, key=lambda fps: lead_ns(phase, start + n * FRAME, fps)) for n in range(1, 1000)}
    got = taken(Turns(Rate(1, phase)), 1000, {n: Rate(fps, phase) for n, fps in worst.items()}, start)
    assert max(b - a for a, b in itertools.pairwise([0, *got, 1000])) <= 1.5 * 25 + 2


@given(st.floats(0.3, 12.0), st.floats(0.3, 12.0), st.floats(0, 0.999), st.integers(1, 200))
def test_after_a_change_the_rate_and_the_phase_are_the_new_ones(old, new, phase, when):
    start = 1000 * S
    got = taken(Turns(Rate(old, phase)), 1500, {when: Rate(new, phase)}, start)
    late = [n for n in got if n > when + 25 / old + 2 * 25 / new + 50]
    assert len(late) == pytest.approx((1500 - (when + 25 / old + 2 * 25 / new + 50)) / 25 * new, abs=2)
    period = S / new
    for n in late:
        off = (start + n * FRAME - phase * period) % period
        # Begun at the frame after a point, laid through one near the next, of which the nearest are taken
        assert min(off, period - off) <= 2 * FRAME


def test_none_and_again():
    turns = Turns(Rate(5, 0.5))
    got = taken(turns, 400, {100: Rate(0, 0.5), 200: Rate(5, 0.5)})
    assert not [n for n in got if 100 <= n < 200]
    assert 38 <= len([n for n in got if n >= 200]) <= 42
    assert taken(Turns(Rate(0, 0.5)), 100) == []


def test_a_slow_rate_holds_over_frames_that_are_far_apart():
    got = taken(Turns(Rate(0.1, None)), 50, interval=4 * S)
    assert 14 <= len(got) <= 21 and floor(got[1] - got[0]) in (2, 3)
