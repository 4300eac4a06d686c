"""Cameras that do what no honest server does. Rows of a kind run at the same time, beside the same witness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.cameras import Clip
from tests.cameras.rogue import RogueCamera, Script
from tests.faults import camera_rogues as rogues
from tests.faults.camera_kit import BACKING_OFF, CONNECTING, STREAMING, Bad, Field
from tests.integration.daemon_kit import until

FPS = 10
NO_ANSWER = "^no answer within 2 s$"
NOT_RTSP = "^the camera closed the connection or said what isn't RTSP$"
NO_PACKET = "^no packet for 2 s$"
NO_VIDEO = "^the source has no video stream$"
NO_CODEC = "^the source's codec is not supported$"
NO_PICTURE = "^packets come, but no picture that can be decoded yet$"
BLIND = "^packets come, but no picture that can be decoded$"
LATE = "^frames come more than 1 s late by their timestamps: none is used$"
NO_CLOCK = "^the camera's timestamps are not a clock's: frames are dated by their arrival$"

OPENS: dict[str, dict[str, tuple[Script, str]]] = {
    "closes": {
        "when-accepted": (rogues.CLOSES["closes-when-accepted"], NOT_RTSP),
        "resets-when-accepted": (rogues.CLOSES["resets-when-accepted"], f"{NOT_RTSP}|closed the connection|reset"),
        "at-OPTIONS": (rogues.CLOSES["closes-at-OPTIONS"], NOT_RTSP),
        "at-DESCRIBE": (rogues.CLOSES["closes-at-DESCRIBE"], NOT_RTSP),
        "resets-at-DESCRIBE": (rogues.CLOSES["resets-at-DESCRIBE"], f"{NOT_RTSP}|closed the connection"),
        "at-SETUP": (rogues.CLOSES["closes-at-SETUP"], NOT_RTSP),
        "at-PLAY": (rogues.CLOSES["closes-at-PLAY"], "^the camera closed the connection or refuses to play$"),
        "after-PLAY": (rogues.CLOSES["closes-after-play"], "^the camera ended the stream$"),
    },
    "silent": {
        **{m: (rogues.NO_ANSWER[f"silent-at-{m}"], NO_ANSWER) for m in ("OPTIONS", "DESCRIBE", "SETUP", "PLAY")},
        "no-frame": (rogues.MEDIA["no-frame"], NO_PACKET),
        "payload-type": (rogues.MEDIA["payload-type"], NO_PACKET),
        "absurd-payload-type": (rogues.BAD_SDP["absurd-payload-type"], NO_PACKET),
        "another-codec-said": (rogues.BAD_SDP["h265-said"], f"{NO_PACKET}|{NO_CODEC}"),
    },
    "sdp": {
        "empty": (rogues.BAD_SDP["empty"], NOT_RTSP),
        "garbage": (rogues.BAD_SDP["garbage"], f"{NOT_RTSP}|{NO_VIDEO}"),
        "no-media": (rogues.BAD_SDP["no-media"], NO_VIDEO),
        "audio-only": (rogues.BAD_SDP["audio-only"], NO_VIDEO),
        "unknown-codec": (rogues.BAD_SDP["unknown-codec"], NO_CODEC),
        "unsupported-codec": (rogues.BAD_SDP["unsupported-codec"], NO_CODEC),
        "no-rtpmap": (rogues.BAD_SDP["no-rtpmap"], NO_CODEC),
        "unasked-answers": (rogues.NO_ANSWER["unasked-answers"], NOT_RTSP),
    },
}


@contextmanager
def cameras(clip: Clip, scripts: list[Script]) -> Iterator[list[RogueCamera]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RogueCamera(clip.path, script=script, fps=FPS)) for script in scripts]


def mend(found: list[RogueCamera], cut: bool = True) -> None:
    for camera in found:
        camera.script = Script()
        if cut:
            camera.cut()


def reconnects(bad: list[Bad]) -> list[int]:
    return [one.status.reconnects for one in bad]


def sampled(bad: list[Bad]) -> list[float]:
    """The share of each one's frames of the next eight seconds that is sampled."""
    before = [one.status for one in bad]
    time.sleep(8)
    after = [one.status for one in bad]
    shares = [
        (a.frames_sampled - b.frames_sampled) / max(1, a.frames_received - b.frames_received)
        for b, a in zip(before, after, strict=True)
    ]
    print("sampled:", *(f"{share:.2f}" for share in shares))
    return shares


@pytest.mark.parametrize("kind", OPENS)
def test_can_not_be_opened(field: Field, raw_clip: Clip, kind: str) -> None:
    rows = OPENS[kind]
    with field.rows(len(rows)) as bad, cameras(raw_clip, [script for script, _ in rows.values()]) as found:
        for one, camera in zip(bad, found, strict=True):
            one.add(camera.url)
        for one, (name, (_, reason)) in zip(bad, rows.items(), strict=True):
            print(name, "says", one.says(reason))
            assert one.status.frames_decoded == 0
        mend(found)
        for one in bad:
            one.recovers()


@pytest.mark.parametrize(
    "name",
    [
        "endless-sdp",
        "endless-headers",
        pytest.param("endless-header-line", marks=pytest.mark.slow),
    ],
)
def test_an_answer_without_end(field: Field, raw_clip: Clip, name: str) -> None:
    with field.row() as bad, cameras(raw_clip, [rogues.NO_ANSWER[name]]) as found:
        bad.add(found[0].url)
        bad.says(NO_ANSWER)
        mend(found)
        bad.recovers()


def test_an_sdp_that_is_wrong_where_it_does_not_matter(field: Field, raw_clip: Clip) -> None:
    names = ["negative-clock", "zero-clock", "other-sprop", "broken-sprop", "huge-line"]
    with field.rows(len(names)) as bad, cameras(raw_clip, [rogues.BAD_SDP[name] for name in names]) as found:
        for one, camera in zip(bad, found, strict=True):
            one.add(camera.url)
        for one in bad:
            one.recovers()
            assert (one.status.source_width, one.status.source_height) == (320, 192)
        assert reconnects(bad) == [0] * len(bad)


def test_no_picture(field: Field, raw_clip: Clip) -> None:
    """Keyframes that never come, and pictures larger than is decoded: the latter also all of a sudden."""
    no_keyframe, huge = rogues.MEDIA["no-keyframe"], rogues.MEDIA["huge-sps"]
    with field.rows(3) as bad, cameras(raw_clip, [no_keyframe, huge, Script()]) as found:
        for one, camera in zip(bad, found, strict=True):
            one.add(camera.url)
        bad[2].runs()
        found[2].script = huge
        for one in bad[:2]:
            one.says(NO_PICTURE, CONNECTING)
        bad[2].says(BLIND, STREAMING)
        assert all(field.problem(one.name) for one in bad)
        mend(found, cut=False)
        for one in bad:
            one.recovers()
            until(lambda o=one: not o.status.detail, "nothing to complain of")  # type: ignore[misc]
        assert reconnects(bad) == [0] * len(bad)


def test_damage_is_survived_on_the_same_connection(field: Field, raw_clip: Clip) -> None:
    names = ["mangled", "gaps", "giant-frames"]
    with field.rows(len(names)) as bad, cameras(raw_clip, [Script()] * len(names)) as found:
        for one, camera in zip(bad, found, strict=True):
            one.add(camera.url)
            one.runs()
        for name, camera in zip(names, found, strict=True):
            camera.script = rogues.MEDIA[name]
        received = [one.status.frames_received for one in bad]
        until(
            lambda: all(one.status.frames_received > n + 2 * FPS for one, n in zip(bad, received, strict=True)),
            "damaged frames",
        )
        mend(found, cut=False)
        for one in bad:
            one.recovers(10)
        assert reconnects(bad) == [0] * len(bad)


def test_a_picture_without_end(field: Field, raw_clip: Clip) -> None:
    """What came of it isn't kept for longer than the time-out."""
    sent = 0

    def picture() -> Iterator[bytes]:
        nonlocal sent
        for part in rogues.endless_picture():
            sent += len(part)
            yield part

    with field.row() as bad, cameras(raw_clip, [Script(media=picture())]) as found:
        field.most_memory()
        before = until(field.most_memory, "what the decoder groups use")
        bad.add(found[0].url)
        for _ in range(2):
            found[0].script = Script(media=picture())
            bad.says(NO_PACKET)
        mend(found)
        bad.recovers()
        # nothing is said of growth: a group may give back meanwhile what the cameras before this one left
        assert sent > 2 << 20 and field.most_memory() < before + (200 << 20)


def test_bytes_at_random_and_numbers_at_random(field: Field, raw_clip: Clip) -> None:
    """Whether they end the connection or not: it is well afterwards."""
    with field.rows(2) as bad, cameras(raw_clip, [Script()] * 2) as found:
        for one, camera, name in zip(bad, found, ("garbage", "renumbered"), strict=True):
            one.add(camera.url)
            one.runs()
            camera.script = rogues.MEDIA[name]
            camera.cut()
        bad[0].says(f"{NO_PACKET}|{NO_PICTURE}|ended the stream|connection broke", timeout_s=60)
        mend(found)
        for one in bad:
            one.recovers()


def test_reset_and_refused_and_back_within_the_cap(field: Field, raw_clip: Clip) -> None:
    with field.row() as bad, cameras(raw_clip, [Script()]) as (camera,):
        bad.add(camera.url)
        bad.runs()
        camera.cut(reset=True)
        bad.says("^the camera closed the connection$|^the connection broke$|^the camera ended the stream$")
        bad.recovers()
        camera.close_port()
        camera.cut(reset=True)
        bad.says("^connection refused$")
        time.sleep(2)  # long enough that its pauses have reached the cap, a second
        connections = camera.connections
        camera.open_port()
        until(lambda: camera.connections > connections, "an attempt soon after the camera's return", 20)
        bad.recovers()


@pytest.mark.parametrize("name", ["half-speed", "frozen"])
def test_frames_that_look_ever_older_say_so(field: Field, raw_clip: Clip, name: str) -> None:
    with field.row() as bad, cameras(raw_clip, [Script()]) as found:
        bad.add(found[0].url)
        bad.runs()
        found[0].script = rogues.MEDIA[name]
        bad.says(LATE, STREAMING)
        assert field.problem(bad.name)
        mend(found, cut=False)
        bad.recovers()
        until(lambda: not bad.status.detail, "nothing to complain of")
        assert bad.status.reconnects == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_timestamps_that_are_no_clock_are_not_believed_in_the_end(field: Field, raw_clip: Clip) -> None:
    names = ["half-speed", "double-speed", "frozen", "backwards", "random-pts"]
    with field.rows(len(names)) as bad, cameras(raw_clip, [rogues.MEDIA[name] for name in names]) as found:
        for one, camera in zip(bad, found, strict=True):
            one.add(camera.url)
        for one in bad:
            one.says(NO_CLOCK, STREAMING, 90)
            one.runs(10)
        # 5 of 10 frames a second are sampled, whatever their timestamps say; fewer where the machine stops meanwhile
        until(lambda: all(0.35 <= share <= 0.65 for share in sampled(bad)), "half of each one's frames sampled", 60)
        mend(found, cut=False)
        for one in bad:
            until(lambda o=one: not o.status.detail, "being believed again", 60)  # type: ignore[misc]
            one.recovers()
        assert reconnects(bad) == [0] * len(bad)


@pytest.mark.slow
def test_frames_of_64_mib(field: Field, raw_clip: Clip) -> None:
    with field.row() as bad, cameras(raw_clip, [Script()]) as found:
        bad.add(found[0].url)
        bad.runs()
        before = bad.status.bytes_received
        found[0].script = rogues.MEDIA["giant-frame-64M"]
        until(lambda: bad.status.bytes_received > before + (64 << 20) or [s for s in bad.said if s[0] == BACKING_OFF],
              "a giant frame", 60)  # fmt: skip
        mend(found)
        bad.recovers()
