"""Decode levels on one connection: whatever is switched when, every picture is whole and everything is counted."""

import itertools
import random

import av
import numpy as np
import pytest
from capture_clips import KeepingSink, bar_of, make_clip

from facedetd.capture.gate import Gate
from facedetd.capture.levers import BAD_PICTURE, Decoder, asks_for_sub, level_on
from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import FileSource
from facedetd.types import DecodeLevel
from tests.unit.test_capture_stream import FakeTime, S, decoded

FULL, NO_FILTER, REFERENCE, SUB, KEYFRAMES, OFF = DecodeLevel
FRAME_NS = 40_000_000
GOP, LOOP = 12, 96  # the bar moves through 16 places: each keyframe shows another

CODINGS = {
    "p": ("libx264", "mp4", {"preset": "veryfast", "bf": "0", "g": str(GOP), "x264-params": "scenecut=0"}),
    "b": (
        "libx264", "mp4",
        {"preset": "veryfast", "x264-params": f"keyint={GOP}:min-keyint={GOP}:bframes=3:b-adapt=0:scenecut=0"},
    ),
    "open-gop": (
        "libx264", "ts",
        {"preset": "veryfast", "x264-params": f"keyint={GOP}:min-keyint=1:bframes=2:b-adapt=0:scenecut=0:open-gop=1"},
    ),
    "hevc": (
        "libx265", "mkv",
        {"preset": "veryfast",
         "x265-params": f"log-level=none:keyint={GOP}:min-keyint={GOP}:bframes=3:b-adapt=0:open-gop=0:scenecut=0"},
    ),
    "hevc-open": (
        "libx265", "mkv",
        {"preset": "veryfast",
         "x265-params": f"log-level=none:keyint={GOP}:min-keyint=1:bframes=3:b-adapt=0:open-gop=1:scenecut=0"},
    ),
    "mjpeg": ("mjpeg", "mkv", {"qmin": "2", "qmax": "2"}),
}  # fmt: skip


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Path of each coding's clip and what its frames look like when all are decoded."""
    folder = tmp_path_factory.mktemp("levers")
    made = {}

    def get(name):
        if name not in made:
            codec, suffix, options = CODINGS[name]
            pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            path = make_clip(folder / f"{name}.{suffix}", LOOP, codec=codec, options=options, pix_fmt=pixels)
            with av.open(str(path)) as whole:
                shown = [f.to_ndarray()[:96].astype(int) for f in whole.decode(video=0)]
            assert len(shown) == LOOP
            made[name] = path, shown
        return made[name]

    return get


class Play:
    """A clip through a pipeline, packet by packet, on fake time."""

    def __init__(self, clip, fps=1000.0, level=FULL):
        self.path, self.shown = clip
        self.time = FakeTime()
        self.source = FileSource(str(self.path), self.time, self.time.clock)
        self.sink = KeepingSink()
        self.pipeline = Pipeline(self.sink, fps, 1.0, self.time.clock)
        self.pipeline.level = level
        self.pipeline.begin(self.source.codec, 5000 * S)
        self.packets = self.source.packets()
        self.fed = 0

    def feed(self, n=1):
        until = self.fed + n
        while self.fed < until:
            packet = next(self.packets)
            self.pipeline.feed(packet)
            self.fed += bool(packet.size)
            self.keyframe = packet.is_keyframe
        return self

    def switch(self, level, n=1):
        self.pipeline.level = level
        return self.feed(n)

    @property
    def level(self):
        return self.pipeline.info.level

    def indices(self):
        """Which frames came out, by PTS."""
        return [round(f.pts_ns / FRAME_NS) for f in self.sink.frames]

    def check(self):
        """Every picture is that of its time, whole, and nothing is unaccounted for."""
        counts = self.sink.counts
        assert not counts.get("decode_errors") and not counts.get("skipped")
        assert counts["received"] == self.fed
        assert decoded(self.sink) == self.pipeline._frame_number
        indices = self.indices()
        assert all(b > a for a, b in itertools.pairwise(indices)), "a frame came twice, or too late"
        assert [f.sequence for f in self.sink.frames] == list(range(len(indices)))
        for index, picture in zip(indices, self.sink.pictures, strict=True):
            want = self.shown[index % LOOP]
            assert bar_of(picture[:96]) == index % 16
            assert np.abs(picture[:96].astype(int) - want).mean() < 4, f"frame {index} is broken"


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("seed", range(4))
def test_any_switch_at_any_packet_gives_whole_pictures(clips, name, seed):
    rng = random.Random(f"{name} {seed}")
    play = Play(clips(name))
    for _ in range(250):
        play.feed()
        if rng.random() < 0.08:
            play.pipeline.level = rng.choice([FULL, NO_FILTER, REFERENCE, KEYFRAMES, OFF])
    play.switch(FULL, 3 * GOP)
    play.check()
    assert play.indices()[-1] >= play.fed - 8 and play.level is FULL


@pytest.mark.parametrize("name", ["p", "b", "hevc", "mjpeg"])
def test_changing_the_loop_filter_loses_and_doubles_no_frame(clips, name):
    play = Play(clips(name)).feed(GOP + 3)
    play.switch(NO_FILTER, 3 * GOP).switch(FULL, 3 * GOP).switch(NO_FILTER, 2 * GOP - 3)
    play.pipeline.drain()
    play.check()
    assert play.indices() == list(range(9 * GOP))


def test_the_loop_filter_changes_at_a_keyframe_and_is_said_when_it_has(clips):
    play = Play(clips("p")).feed(GOP + 1)
    for level, before in ((NO_FILTER, FULL), (FULL, NO_FILTER)):
        play.switch(level)
        while not play.keyframe:
            assert play.level is before
            play.feed()
        assert play.level is level
    plain, without = Play(clips("p")).feed(GOP), Play(clips("p"), level=NO_FILTER).feed(GOP)
    assert any((a != b).any() for a, b in zip(plain.sink.pictures, without.sink.pictures, strict=True))


@pytest.mark.parametrize("name", ["b", "open-gop", "hevc"])
def test_only_frames_that_others_need(clips, name):
    play = Play(clips(name)).feed(2 * GOP).switch(REFERENCE, 4 * GOP)
    assert play.level is REFERENCE
    came = [i for i in play.indices() if i > 2 * GOP + 4]
    assert 0.4 * 4 * GOP < len(came) + 4 < 0.8 * 4 * GOP
    play.switch(FULL, 2 * GOP).check()
    assert play.indices()[-6:] == list(range(play.indices()[-6], play.indices()[-1] + 1))


def test_without_b_frames_all_are_needed(clips):
    play = Play(clips("p"), level=REFERENCE).feed(3 * GOP)
    assert play.indices() == list(range(3 * GOP))


@pytest.mark.parametrize("name", ["p", "b", "open-gop", "hevc", "hevc-open"])
def test_a_keyframe_comes_out_with_its_own_packet(clips, name):
    play = Play(clips(name)).feed(GOP + 2).switch(KEYFRAMES)
    out = len(play.sink.frames)
    for _ in range(4 * GOP):
        play.feed()
        out += play.keyframe
        assert len(play.sink.frames) == out
    assert play.level is KEYFRAMES
    play.check()


@pytest.mark.parametrize("level", [KEYFRAMES, OFF])
def test_frames_that_the_decoder_still_holds_come_out_when_decoding_ends(clips, level):
    play = Play(clips("b")).feed(2 * GOP)
    assert len(play.indices()) < 2 * GOP
    play.switch(level)
    assert play.indices()[: 2 * GOP] == list(range(2 * GOP))
    play.check()


def test_after_a_backlog_was_skipped_nothing_is_decoded_that_refers_to_before_it(clips):
    play = Play(clips("open-gop")).feed(2 * GOP + 5)
    play.pipeline._gate = Gate(True)  # as a backlog leaves it
    play.feed(3 * GOP)
    assert play.sink.counts.pop("skipped") > 0
    play.check()


def test_going_back_up_waits_for_a_keyframe(clips):
    play = Play(clips("p")).feed(2).switch(KEYFRAMES, GOP + 2)
    before = play.indices()
    play.switch(FULL, GOP - 4)
    assert play.indices() == before and play.level is KEYFRAMES
    play.feed(4)
    assert play.level is FULL and len(play.indices()) > len(before)
    play.check()


def test_off_decodes_one_picture_for_its_size_and_no_more(clips):
    play = Play(clips("b"), level=OFF).feed(10 * GOP)
    info = play.pipeline.info
    assert (info.width, info.height, info.level) == (160, 96, OFF) and len(play.sink.frames) == 1
    assert info.fps == pytest.approx(25, abs=1) and info.keyframe_s == pytest.approx(0.48, abs=0.01)
    assert info.reference_share < 0.8 and info.bits_per_s > 1000
    play.switch(KEYFRAMES, GOP).switch(OFF, GOP)
    assert len(play.sink.frames) == 2
    play.check()


def test_the_source_s_figures_do_not_depend_on_the_level(clips):
    infos = {level: Play(clips("p"), level=level).feed(200).pipeline.info for level in (FULL, KEYFRAMES, OFF)}
    figures = {(i.fps, i.keyframe_s, i.reference_share, i.bits_per_s) for i in infos.values()}
    assert len(figures) == 1


def test_at_keyframes_each_is_sampled_whatever_was_learned_of_the_frames_before(clips):
    play = Play(clips("p"), fps=5.0).feed(100).switch(KEYFRAMES, 4 * GOP)
    keyframes = [i for i in play.indices() if i >= 108]
    assert keyframes == [108, 120, 132, 144]
    play.switch(FULL, 200)
    steps = np.diff([i for i in play.indices() if i > 160])
    assert set(steps) == {5}


def test_after_a_long_time_at_keyframes_sampling_is_even_at_once(clips):
    play = Play(clips("p"), fps=2.0).feed(100).switch(KEYFRAMES, 30 * GOP).switch(FULL, 200)
    steps = np.diff([i for i in play.indices() if i > 100 + 30 * GOP])
    assert 10 <= min(steps) and max(steps) <= 19 and set(steps[1:]) <= {12, 13}


def test_mjpeg_minds_no_level(clips):
    play = Play(clips("mjpeg"))
    for level in (NO_FILTER, REFERENCE, KEYFRAMES):
        play.switch(level, 10)
        assert play.level is level
    play.check()
    assert play.indices() == list(range(30))


def test_a_decoder_that_lacks_the_parameter_sets_gives_way_to_the_one_before(clips):
    """A camera that sends them once, and not in its SDP: only the first decoder has seen them."""
    path = make_clip(clips("p")[0].with_name("once.h264"), 40, fmt="h264")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        context = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        decoder = Decoder(context)
        shown = 0
        for n, packet in enumerate(packets):
            unit = packet
            if packet.is_keyframe and n:
                data = bytes(packet)
                unit = av.Packet(data[data.rindex(b"\0\0\1\x65") :])  # the slice alone
                if decoder.would_renew(loop_filter=False):
                    shown += len(decoder.drain())
                    decoder.renew(loop_filter=False)
            shown += len(decoder.decode(unit))
        shown += len(decoder.drain())
    assert shown == 40 and decoder.loop_filter
    assert not decoder.would_renew(loop_filter=False)


def test_a_damaged_picture_raises_what_is_caught():
    decoder = Decoder(av.CodecContext.create("h264", "r"))
    with pytest.raises(BAD_PICTURE):
        decoder.decode(av.Packet(b"\0\0\1\x65" + bytes(50)))
    decoder.flush()
    assert decoder.drain() == []


def test_which_video_a_level_asks_for_and_how_the_one_in_use_is_decoded():
    assert [asks_for_sub(level, True) for level in DecodeLevel] == [False, False, False, True, True, True]
    assert not any(asks_for_sub(level, False) for level in DecodeLevel)
    assert [level_on(False, level) for level in DecodeLevel] == [FULL, NO_FILTER, REFERENCE, NO_FILTER, KEYFRAMES, OFF]
    assert [level_on(True, level) for level in DecodeLevel] == [SUB, SUB, SUB, SUB, KEYFRAMES, OFF]


def test_the_lag_counts_a_backlog_and_decoding_but_not_reordering(clips):
    for name in ("p", "b"):
        play = Play(clips(name), fps=5).feed(60)
        assert play.pipeline.take_lag_ns() == 0
        assert play.pipeline.take_lag_ns() is None
        for _ in range(20):
            packet = next(play.packets)
            play.time.now += 300_000_000  # it lay in the socket
            play.pipeline.feed(packet)
            play.time.now -= 300_000_000
        assert 290_000_000 < play.pipeline.take_lag_ns() < 310_000_000
