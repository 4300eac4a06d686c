"""What workers say is data: whatever it is, it is read, or refused with BadMessageError and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.supervisor.said import MAX_TEXT, BadMessageError, Beat, number, read_beat, read_report, real, text
from facedetd.types import DecodeLevel, StreamState, Video

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
REPORT = {
    "ev": "state", "index": 3, "epoch": 9, "state": "streaming", "detail": "", "codec": "h264", "width": 640,
    "height": 360, "fps": 25, "level": "keyframes", "keyframe_s": 2.0, "reference_share": 0.5, "bits_per_s": 4e6,
    "sub_problem": "",
    "device": "nvdec",
    "nvdec_problem": "",
}  # fmt: skip
BEAT = {
    "ev": "beat", "busy_ns": 5, "results_lost": 1, "oldest_ns": 7, "timings": [[2, 0.5], [1, 0]], "lags": [[3, 10**7]],
    "luma": list(range(16)), "luma_frames": 2, "resident_bytes": 4096,
}  # fmt: skip


def test_good_words_are_read() -> None:
    report = read_report(REPORT)
    assert (report.index, report.epoch, report.seen.state) == (3, 9, StreamState.STREAMING)
    assert (report.seen.width, report.seen.fps) == (640, 25.0)
    assert report.seen.level is DecodeLevel.KEYFRAMES
    assert report.seen.video == Video("h264", 640, 360, 25.0, 2.0, 0.5, 4e6)
    assert read_beat(BEAT) == Beat(5, 1, 7, ((2, 0.5), (1, 0.0)), ((3, 10**7),), 2, tuple(range(16)), 4096)
    assert read_beat({"ev": "beat"}) == Beat()


@pytest.mark.parametrize("key", ["width", "height"])
def test_a_picture_too_large_for_the_api_is_refused(key: str) -> None:
    assert read_report({**REPORT, key: 65535})
    with pytest.raises(BadMessageError, match=key):
        read_report({**REPORT, key: 65536})


@given(st.sampled_from([*REPORT][1:]), ANYTHING)
def test_a_report_with_any_field_replaced_is_read_or_refused(key: str, value: Any) -> None:
    try:
        seen = read_report({**REPORT, key: value}).seen
    except BadMessageError as error:
        assert key in str(error)
        assert len(str(error)) < 200
        return
    assert isinstance(seen.detail, str)
    assert 0 <= seen.width < 2**32
    assert 0 <= seen.fps < float("inf")
    assert seen.level in DecodeLevel
    seen.detail.encode()


@pytest.mark.parametrize("key", [*REPORT][1:])
def test_a_report_with_a_field_missing_is_refused(key: str) -> None:
    with pytest.raises(BadMessageError, match=key):
        read_report({k: v for k, v in REPORT.items() if k != key})


@given(st.sampled_from([*BEAT][1:]), ANYTHING)
def test_a_beat_with_any_field_replaced_is_read_or_refused(key: str, value: Any) -> None:
    try:
        beat = read_beat({**BEAT, key: value})
    except BadMessageError as error:
        assert key in str(error)
        return
    assert beat.busy_ns >= 0
    assert all(size > 0 and seconds >= 0 for size, seconds in beat.timings)
    assert all(index >= 0 and ns >= 0 for index, ns in beat.lags)
    assert len(beat.luma) == (16 if beat.luma else 0) and all(0 <= n < 2**32 for n in beat.luma)
    assert beat.luma_frames == 0 or beat.luma


@pytest.mark.parametrize("value", [None, "1", 1.0, True, -1, 2**63, [], {}])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(BadMessageError, match="n is"):
        number({"ev": "x", "n": value}, "n")


@pytest.mark.parametrize("value", [None, 1, "x" * (MAX_TEXT + 1), "\ud800", []])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(BadMessageError, match="t is"):
        text({"ev": "x", "t": value}, "t")


@pytest.mark.parametrize("value", [None, "1", True, -0.1, float("nan"), float("inf"), 10**400])
def test_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(BadMessageError, match="r is"):
        real({"ev": "x", "r": value}, "r")
