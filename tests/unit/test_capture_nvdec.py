"""Between CPU and NVDEC on one connection, with a decoder of the CPU in NVDEC's place: what happens when it gives
pictures, refuses, or dies. tests/gpu has the real one."""

import random
import threading
import time
import weakref
from contextlib import contextmanager

import av
import numpy as np
import pytest
from capture_clips import KeepingSink, make_clip

from facedetd.capture.levers import Decoder
from facedetd.capture.nvdec import Nvdec, surface_of
from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import ErrorKind, SourceError, open_source
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Slot
from facedetd.cuda.driver import CudaError
from facedetd.cuda.turn import Turn
from facedetd.types import DecodeDevice, StreamSpec, StreamState
from tests.unit.test_capture_levers import FULL, GOP, KEYFRAMES, NO_FILTER, OFF, REFERENCE, Play, S, clips, decoded

CPU, NVDEC = DecodeDevice
assert clips  # a fixture


class FakeNvdec:
    """Opens decoders of the CPU. ``refuses`` with CudaError; ``deaf``: what it opens fails at each packet."""

    def __init__(self):
        self.opened, self.refuses, self.deaf, self.lost = 0, "", False, ""

    def look(self):
        pass

    def open(self, codec):
        if self.refuses:
            raise CudaError(self.refuses)
        self.opened += 1
        return av.CodecContext.create("png" if self.deaf else codec, "r")


def play(clip, nvdec, device=NVDEC, level=FULL):
    playing = Play(clip, level=level)
    playing.pipeline = Pipeline(playing.sink, 1000.0, 1.0, playing.time.clock, None, nvdec)
    playing.pipeline.level, playing.pipeline.device = level, device
    playing.pipeline.begin(playing.source.codec, 5000 * S)
    return playing


@pytest.mark.parametrize("name", ["p", "b", "open-gop", "hevc", "hevc-open", "mjpeg"])
@pytest.mark.parametrize("seed", range(3))
def test_any_move_at_any_packet_gives_whole_pictures(clips, name, seed):
    rng, nvdec = random.Random(f"{name} {seed}"), FakeNvdec()
    playing = play(clips(name), nvdec, rng.choice([CPU, NVDEC]))
    for _ in range(250):
        playing.feed()
        if rng.random() < 0.06:
            playing.pipeline.device = rng.choice([CPU, NVDEC])
        if rng.random() < 0.04:
            playing.pipeline.level = rng.choice([FULL, NO_FILTER, REFERENCE, KEYFRAMES, OFF])
    playing.pipeline.level = FULL
    playing.feed(3 * GOP)
    playing.check()
    assert playing.pipeline.info.device is (playing.pipeline.device if name != "mjpeg" else CPU)
    assert bool(nvdec.opened) is (name != "mjpeg") and not playing.pipeline.info.nvdec_problem


@pytest.mark.parametrize("name", ["p", "b", "hevc"])
def test_moving_loses_and_doubles_no_frame(clips, name):
    playing = play(clips(name), FakeNvdec(), CPU).feed(GOP + 3)
    for device in (NVDEC, CPU, NVDEC):
        playing.pipeline.device = device
        playing.feed(2 * GOP)
        assert playing.pipeline.info.device is device
    playing.feed(GOP - 3)  # what a B-frame refers to is there
    playing.pipeline.drain()
    playing.check()
    assert playing.indices() == list(range(8 * GOP))


def test_a_file_that_begins_anew_keeps_its_decoder(clips):
    nvdec = FakeNvdec()
    playing = play(clips("p"), nvdec).feed(250)
    playing.check()
    assert nvdec.opened == 1 and playing.pipeline.info.device is NVDEC


def test_the_loop_filter_is_no_lever_on_nvdec(clips):
    nvdec = FakeNvdec()
    playing = play(clips("p"), nvdec, level=NO_FILTER).feed(3 * GOP)
    assert playing.level is FULL and nvdec.opened == 1
    playing.pipeline.device = CPU
    playing.feed(2 * GOP)
    assert playing.level is NO_FILTER
    playing.check()


@pytest.mark.parametrize("how", ["no GPU", "at the first packet"])
def test_what_nvdec_refuses_the_cpu_decodes_and_nothing_is_lost(clips, how):
    nvdec = FakeNvdec()
    nvdec.refuses, nvdec.deaf = ("there is no GPU", False) if how == "no GPU" else ("", True)
    playing = play(clips("p"), nvdec).feed(5 * GOP)
    assert playing.pipeline.info.device is CPU
    assert ("no GPU" if how == "no GPU" else "refuses") in playing.pipeline.info.nvdec_problem
    assert nvdec.opened == (how != "no GPU"), "it is tried once, and again when it is asked for anew"
    nvdec.refuses, nvdec.deaf = "", False
    playing.feed(2 * GOP)
    assert playing.pipeline.info.device is CPU
    playing.pipeline.device = CPU
    playing.feed()
    assert not playing.pipeline.info.nvdec_problem
    playing.pipeline.device = NVDEC
    playing.feed(2 * GOP)
    assert playing.pipeline.info.device is NVDEC
    playing.check()


def test_a_stream_that_no_new_decoder_can_begin_in_stays_where_it_is(clips, monkeypatch):
    playing = play(clips("p"), FakeNvdec()).feed(GOP + 2)
    decoder = playing.pipeline._decoder
    monkeypatch.setattr(decoder, "_opened", lambda device: av.CodecContext.create("png", "r"))
    made = []
    renew = decoder.renew
    monkeypatch.setattr(decoder, "renew", lambda **how: made.append(how) or renew(**how))
    playing.pipeline.device = CPU
    playing.feed(6 * GOP)
    playing.check()
    assert playing.pipeline.info.device is NVDEC and len(made) == 3


def test_an_nvdec_that_dies_gives_the_stream_to_the_cpu_at_the_next_keyframe(clips):
    playing = play(clips("p"), FakeNvdec()).feed(GOP + 2)
    decoder = playing.pipeline._decoder
    real, decoder._context = decoder._context, av.CodecContext.create("png", "r")
    playing.feed(2)
    assert playing.pipeline.info.device is NVDEC and not playing.pipeline.info.nvdec_problem
    playing.feed(2)
    assert "errors in a row" in playing.pipeline.info.nvdec_problem
    playing.feed(3 * GOP)
    assert playing.pipeline.info.device is CPU and real is not decoder._context
    assert 3 <= playing.sink.counts["decode_errors"] <= GOP
    assert playing.indices()[-1] == playing.fed - 1
    assert decoded(playing.sink) == playing.pipeline._frame_number


def test_a_frame_that_cant_be_scaled_there_moves_the_stream(clips, monkeypatch):
    playing = play(clips("p"), FakeNvdec()).feed(GOP + 2)
    scale = playing.pipeline._scaler.scale

    def fails(frame, aspect, slot):
        raise CudaError("cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS (700)", lost=True)

    monkeypatch.setattr(playing.pipeline._scaler, "scale", fails)
    playing.feed(1)
    assert "ILLEGAL_ADDRESS" in playing.pipeline.info.nvdec_problem
    monkeypatch.setattr(playing.pipeline._scaler, "scale", scale)
    playing.feed(2 * GOP)
    assert playing.pipeline.info.device is CPU
    assert decoded(playing.sink) == playing.pipeline._frame_number


class FakeGpu:
    def __init__(self):
        self.pins = {}

    def enter(self):
        pass

    def pin(self, address, size):
        assert address not in self.pins
        self.pins[address] = size
        return address + 1

    def unpin(self, address):
        del self.pins[address]


def test_a_slot_is_pinned_once_and_let_go_with_its_ring():
    gpu = FakeGpu()
    nvdec = Nvdec(0, lambda index: gpu)
    slots = [Slot((ring, n), np.zeros((96, 64), np.uint8)) for ring in (1, 2) for n in range(2)]
    for _ in range(2):
        for slot in slots:
            assert nvdec.pinned(slot) == slot.picture.ctypes.data + 1
    assert len(gpu.pins) == 4 and set(gpu.pins.values()) == {8192}
    nvdec.forget_ring(1)
    assert set(gpu.pins) == {s.picture.ctypes.data for s in slots[2:]}


def test_a_lost_context_is_not_asked_again():
    made = []
    nvdec = Nvdec(0, lambda index: made.append(index) or FakeGpu())
    nvdec.gpu()
    nvdec.failed(CudaError("out of memory"))
    nvdec.gpu()
    nvdec.failed(CudaError("launch failed", lost=True))
    with pytest.raises(CudaError, match="lost to this process: launch failed"):
        nvdec.gpu()
    assert made == [0]


def test_without_a_driver_the_error_says_so_and_everything_else_works():
    try:
        Nvdec(0).gpu()
    except CudaError as error:
        assert "driver" in str(error) or "cuInit" in str(error)
    else:
        pytest.skip("there is a GPU here")


def test_where_a_frame_lies_is_read_from_its_planes(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 1, size=(162, 98))
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
    nv12 = frame.reformat(format="nv12")
    surface = surface_of(nv12)
    luma, chroma = nv12.planes
    assert (surface.luma, surface.chroma) == (luma.buffer_ptr, chroma.buffer_ptr)
    assert (surface.pitch, surface.width, surface.height, surface.bits) == (luma.line_size, 162, 98, 8)
    assert surface_of(frame.reformat(format="p010le")).bits == 16
    assert surface_of(frame.reformat(format="rgb24")) is None


def until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_decoders_are_opened_in_turn_and_a_stream_that_waits_for_its_own_can_be_stopped(tmp_path):
    """And is opened once it has its turn, though its packet is old by then: else it might never be."""
    lock, nvdec = tmp_path / "lock", FakeNvdec()
    lock.touch()
    nvdec.turn = Turn(lock)
    threads = []
    for i in range(2):
        spec = StreamSpec(f"cam-{i}", make_clip(tmp_path / f"{i}.mp4", 25).as_uri())
        sink = KeepingSink()
        threads.append(StreamThread(spec, None, sink, lambda *said: None, device=NVDEC, nvdec=nvdec))
    with Turn(lock).taken():
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        assert nvdec.opened == 0
        assert all(thread.on_gpu_since_ns is None for thread in threads), "nobody hangs in the driver"
        threads[0].stop()
        assert threads[0].join(20)
    until(lambda: nvdec.opened)
    threads[1].stop()
    assert threads[1].join(20)
    assert nvdec.opened == 1


def test_a_stream_that_the_cpu_decodes_goes_on_there_until_its_turn(tmp_path):
    lock, nvdec, sink = tmp_path / "lock", FakeNvdec(), KeepingSink()
    lock.touch()
    nvdec.turn = Turn(lock)
    spec = StreamSpec("cam", make_clip(tmp_path / "clip.mp4", 50).as_uri(), target_fps=25.0)
    thread = StreamThread(spec, None, sink, lambda *said: None, device=CPU, nvdec=nvdec)

    with Turn(lock).taken():
        thread.start()
        until(lambda: sink.frames)
        thread.set_decode(FULL, NVDEC)
        began = len(sink.frames)
        until(lambda: len(sink.frames) > began + 75)  # several keyframes
        assert nvdec.opened == 0
    until(lambda: nvdec.opened)
    thread.stop()
    assert thread.join(20)
    numbers = [frame.frame_number for frame in sink.frames]
    assert numbers == sorted(set(numbers)) and not sink.counts.get("decode_errors")


def test_a_camera_that_is_away_keeps_no_decoder_on_the_gpu(tmp_path, monkeypatch):
    """Those of an H100 are fewer than cameras, and one may be away for days."""
    opened, away = [], threading.Event()
    clip = make_clip(tmp_path / "clip.mp4", 50).as_uri()

    class Breaks:
        def __init__(self, source):
            self.source, self.codec, self.late = source, source.codec, source.late

        def packets(self):
            for number, packet in enumerate(self.source.packets()):
                if number == 20:
                    raise SourceError(ErrorKind.CLOSED, "the connection broke")
                yield packet

        def close(self):
            self.source.close()

    def open_once(*args, **how):
        if opened:
            raise SourceError(ErrorKind.TIMED_OUT, "no answer")
        opened.append(1)
        return Breaks(open_source(*args, **how))

    class Known(Decoder):
        def __init__(self, *args):
            super().__init__(*args)
            held.append(weakref.ref(self))

    held, nvdec = [], FakeNvdec()
    monkeypatch.setattr("facedetd.capture.pipeline.Decoder", Known)
    nvdec.turn = Turn(tmp_path / "clip.mp4")
    monkeypatch.setattr("facedetd.capture.stream.open_source", open_once)

    def tell(state, detail, info):
        if state is StreamState.BACKING_OFF:
            away.set()

    thread = StreamThread(StreamSpec("cam", clip), None, KeepingSink(), tell, device=NVDEC, nvdec=nvdec)
    thread.start()
    assert away.wait(30) and nvdec.opened == len(held) == 1
    deadline = time.monotonic() + 10
    while held[0]() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held[0]() is None
    thread.stop()
    assert thread.join(20)


def test_who_waits_for_its_turn_goes_on_on_the_cpu_once_the_gpu_is_lost(tmp_path):
    lock, nvdec = tmp_path / "lock", FakeNvdec()
    lock.touch()
    nvdec.turn = Turn(lock)
    sink = KeepingSink()
    spec = StreamSpec("cam", make_clip(tmp_path / "clip.mp4", 25).as_uri())
    thread = StreamThread(spec, None, sink, lambda *said: None, device=NVDEC, nvdec=nvdec)
    with Turn(lock).taken():
        thread.start()
        time.sleep(0.5)
        assert not sink.frames
        nvdec.lost = nvdec.refuses = "a call to the GPU hasn't come back"
        deadline = time.monotonic() + 30
        while not sink.frames and time.monotonic() < deadline:
            time.sleep(0.02)
        thread.stop()
        assert thread.join(20)
    assert sink.frames and not nvdec.opened


def test_a_wait_for_ones_turn_is_no_call_that_hangs(tmp_path):
    """Of the two minutes that a call may take it would leave nothing, where many have theirs before."""
    now, opens, go_on = [time.monotonic_ns()], threading.Event(), threading.Event()

    class Slow(FakeNvdec):
        def open(self, codec):
            opens.set()
            assert go_on.wait(60)
            return super().open(codec)

    class LateTurn:
        @contextmanager
        def taken(self, wanted, patience_s):
            now[0] += 100 * S
            yield True

    nvdec = Slow()
    nvdec.turn = LateTurn()
    spec = StreamSpec("cam", make_clip(tmp_path / "clip.mp4", 25).as_uri())
    began = now[0]
    thread = StreamThread(spec, None, KeepingSink(), lambda *said: None, device=NVDEC, nvdec=nvdec, mono=lambda: now[0])
    thread.start()
    assert opens.wait(30)
    assert thread.on_gpu_since_ns == began + 100 * S
    go_on.set()
    thread.stop()
    assert thread.join(20)


def test_only_a_packet_for_which_a_decoder_may_be_opened_waits_for_its_turn(clips):
    """One that waits isn't read from meanwhile, and its camera may hang up."""
    playing, waits = play(clips("p"), FakeNvdec(), CPU).feed(GOP + 3), []
    feed = playing.pipeline.feed
    playing.pipeline.feed = lambda packet: (waits.append(playing.pipeline.may_open(packet)), feed(packet))
    playing.pipeline.device = NVDEC
    playing.feed(2 * GOP)
    assert waits.count(True) == 1 and playing.pipeline.info.device is NVDEC
    playing.pipeline.device = CPU
    playing.feed(2 * GOP)
    playing.pipeline.level = OFF
    playing.feed()
    playing.pipeline.device = NVDEC
    waits.clear()
    playing.feed(3 * GOP)
    assert not any(waits)
    playing.pipeline.level = FULL
    playing.feed(2 * GOP)
    assert waits.count(True) == 1 and playing.pipeline.info.device is NVDEC
