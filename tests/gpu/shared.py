"""Whether one NVDEC decoder can decode several cameras: python -m tests.gpu.shared --clip FILE (H.264)

FFmpeg opens a decoder for each stream, and a GPU has only so many (``tests.gpu.limits``). NVDEC's own interface
(libnvcuvid, NVIDIA's cuviddec.h and nvcuvid.h) decodes picture by picture, and each call names surfaces by number: so
streams of the same size could share one, each with surfaces of its own. Prints whether pictures are the same to the
byte as with a decoder each, what a picture costs, and how many decoders can be opened. Needs a GPU, and nothing else
on it.

Two things must be changed in what the parser says of a picture. Surfaces' numbers are moved to the stream's own. And
the decoder drops what isn't among a picture's references: so the other streams' references are named too, as long-term
ones, which come last in a list of references and aren't asked for, and ``num_ref_frames`` says that there are 16.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ctypes import c_int, c_longlong, c_short, c_ubyte, c_uint, c_uint64, c_ulong, c_void_p
from pathlib import Path
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

from facedetd.cuda.driver import Gpu

_H264, _PREFER_CUVID = 4, 4
_TIMESTAMP, _WHOLE_PICTURE, _END = 2, 8, 1  # flags of a packet
_SURFACES, _REFERENCES = 32, 16  # of a decoder, of a picture
# Offsets in CUVIDPICPARAMS, whose part for H.264 begins at 184
_SURFACE, _IS_REFERENCE, _NUM_REF_FRAMES, _FRAME_NUM, _ORDER, _DPB = 8, 56, 184 + 24, 184 + 92, 184 + 96, 184 + 104
_ENTRY = (
    c_int * 7
)  # CUVIDH264DPBENTRY: surface, frame_num, long-term, not existing, used (3: both fields), order of both
_NOBODY = (-1, 0, 0, 0, 0, 0, 0)


class _Packet(ctypes.Structure):
    _fields_ = (("flags", c_ulong), ("size", c_ulong), ("data", c_void_p), ("time", c_longlong))


class _Create(ctypes.Structure):
    _fields_ = (
        ("width", c_ulong), ("height", c_ulong), ("surfaces", c_ulong), ("codec", c_int), ("chroma", c_int),
        ("flags", c_ulong), ("deeper", c_ulong), ("intra_only", c_ulong), ("most_width", c_ulong),
        ("most_height", c_ulong), ("_1", c_ulong), ("area", c_short * 4), ("format", c_int), ("deinterlace", c_int),
        ("out_width", c_ulong), ("out_height", c_ulong), ("outputs", c_ulong), ("lock", c_void_p),
        ("target", c_short * 4), ("_2", c_ulong * 5),
    )  # fmt: skip


class _Format(ctypes.Structure):
    _fields_ = (
        ("codec", c_int), ("rate", c_uint * 2), ("progressive", c_ubyte), ("_1", c_ubyte * 2), ("least", c_ubyte),
        ("width", c_uint), ("height", c_uint), ("area", c_int * 4), ("chroma", c_int), ("_2", c_uint * 5),
    )  # fmt: skip


class _Shown(ctypes.Structure):
    _fields_ = (
        ("surface", c_int),
        ("progressive", c_int),
        ("top_first", c_int),
        ("repeat", c_int),
        ("time", c_longlong),
    )


_OnFormat = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(_Format))
_OnPicture = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_OnShown = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(_Shown))


class _Parser(ctypes.Structure):
    _fields_ = (
        ("codec", c_int), ("surfaces", c_uint), ("clock", c_uint), ("errors", c_uint), ("delay", c_uint),
        ("_1", c_uint * 5), ("user", c_void_p), ("on_format", _OnFormat), ("on_picture", _OnPicture),
        ("on_shown", _OnShown), ("_2", c_void_p * 8),
    )  # fmt: skip


class _Process(ctypes.Structure):
    _fields_ = (("progressive", c_int), ("second", c_int), ("top_first", c_int), ("_", c_uint * 125))


class Cuvid:
    def __init__(self) -> None:
        self.gpu = Gpu(0)
        self._library = ctypes.CDLL("libnvcuvid.so.1")

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA error {code}")


class Decoder:
    """``surfaces`` of them, for streams of this format."""

    def __init__(self, cuvid: Cuvid, format_: _Format, surfaces: int):
        self.cuvid, self.handle, self.held = cuvid, c_void_p(), dict[int, list[tuple[int, ...]]]()
        area = format_.area
        self.height = area[3] - area[1]
        asked = _Create(
            format_.width, format_.height, surfaces, _H264, format_.chroma, _PREFER_CUVID, 0, 0, format_.width,
            format_.height, out_width=area[2] - area[0], out_height=self.height, outputs=1, area=(c_short * 4)(*area),
        )  # fmt: skip
        cuvid.call("cuvidCreateDecoder", ctypes.byref(self.handle), ctypes.byref(asked))

    def close(self) -> None:
        self.cuvid.call("cuvidDestroyDecoder", self.handle)


class Stream:
    """A parser, and its part of a decoder: the surfaces from ``first`` on. Without ``decoder`` it opens its own."""

    def __init__(self, cuvid: Cuvid, surfaces: int, decoder: Decoder | None = None, first: int = 0, keep: bool = False):
        self._cuvid, self._surfaces, self.decoder, self._first, self._keep = cuvid, surfaces, decoder, first, keep
        self._shares = decoder is not None
        self.sums: dict[int, str] = {}
        self.format: _Format | None = None
        self.references = 0
        self._error: Exception | None = None
        self._handle = c_void_p()
        self._callbacks = _OnFormat(self._on_format), _OnPicture(self._on_picture), _OnShown(self._on_shown)
        asked = _Parser(codec=_H264, surfaces=1, clock=1000, errors=100)
        asked.on_format, asked.on_picture, asked.on_shown = self._callbacks
        cuvid.call("cuvidCreateVideoParser", ctypes.byref(self._handle), ctypes.byref(asked))

    def feed(self, data: bytes, at: int) -> None:
        packet = _Packet(_TIMESTAMP | _WHOLE_PICTURE, len(data), ctypes.cast(ctypes.c_char_p(data), c_void_p), at)
        self._cuvid.call("cuvidParseVideoData", self._handle, ctypes.byref(packet))
        if self._error:
            raise self._error

    def close(self) -> None:
        self._cuvid.call("cuvidParseVideoData", self._handle, ctypes.byref(_Packet(_END)))
        self._cuvid.call("cuvidDestroyVideoParser", self._handle)
        if self.decoder and not self._shares:
            self.decoder.close()

    def _on_format(self, _: Any, found: Any) -> int:
        self.format = _Format.from_buffer_copy(found.contents)
        try:
            self.decoder = self.decoder or Decoder(self._cuvid, self.format, self._surfaces)
        except RuntimeError as error:
            self._error = error
            return 0
        return self._surfaces

    def _on_picture(self, _: Any, picture: int) -> int:
        assert self.decoder
        self.references = max(self.references, c_int.from_address(picture + _NUM_REF_FRAMES).value)
        if self._shares:
            self._moved(picture, self.decoder.held)
        try:
            self._cuvid.call("cuvidDecodePicture", self.decoder.handle, c_void_p(picture))
        except RuntimeError as error:
            self._error = self._error or error
            return 0
        return 1

    def _moved(self, picture: int, held: dict[int, list[tuple[int, ...]]]) -> None:
        """Change the picture's parameters as the module says. ``held``: references by stream's first surface."""

        def number(offset: int) -> c_int:
            return c_int.from_address(picture + offset)

        dpb = (_ENTRY * _REFERENCES).from_address(picture + _DPB)
        number(_SURFACE).value += self._first
        own = [(entry[0] + self._first, *entry[1:]) for entry in dpb if entry[0] >= 0]
        others = [
            (surface, _REFERENCES - 1, 1, *rest)
            for stream, entries in held.items()
            if stream != self._first
            for surface, _, _, *rest in entries
        ]
        for entry, values in zip(dpb, itertools.chain(own, others, itertools.repeat(_NOBODY)), strict=False):
            entry[:] = values
        most = number(_NUM_REF_FRAMES).value
        number(_NUM_REF_FRAMES).value = _REFERENCES
        if number(_IS_REFERENCE).value:
            orders = number(_ORDER).value, number(_ORDER + 4).value
            now = (number(_SURFACE).value, number(_FRAME_NUM).value, 0, 0, 3, *orders)
            held[self._first] = [now, *sorted(own, key=lambda entry: -entry[5])][: max(1, most)]

    def _on_shown(self, _: Any, shown: Any) -> int:
        if self._keep:
            try:
                self.sums[shown.contents.time] = self._sum(shown.contents)
            except Exception as error:
                self._error = self._error or error
                return 0
        return 1

    def _sum(self, shown: _Shown) -> str:
        assert self.decoder
        process, address, pitch = _Process(shown.progressive, 0, shown.top_first), c_uint64(), c_uint()
        self._cuvid.call(
            "cuvidMapVideoFrame64", self.decoder.handle, shown.surface + self._first, ctypes.byref(address),
            ctypes.byref(pitch), ctypes.byref(process),
        )  # fmt: skip
        try:
            pixels = ctypes.create_string_buffer(pitch.value * self.decoder.height * 3 // 2)
            self._cuvid.gpu.call("cuMemcpyDtoH_v2", pixels, address, ctypes.c_size_t(len(pixels)))
            return hashlib.md5(pixels, usedforsecurity=False).hexdigest()
        finally:
            self._cuvid.call("cuvidUnmapVideoFrame64", self.decoder.handle, address)


def packets_of(clip: Path) -> list[tuple[bytes, bool]]:
    """(Annex B, whether a keyframe) of each."""
    with av.open(str(clip)) as file:
        video = file.streams.video[0]
        annexb = BitStreamFilterContext("h264_mp4toannexb", video)
        found = []
        for packet in file.demux(video):
            key = packet.is_keyframe  # which the filter takes from it
            found += [(bytes(filtered), key) for filtered in annexb.filter(packet)] if packet.size else []
        return found


class Experiment:
    def __init__(self, clip: Path, pictures: int):
        self._cuvid, self._packets, self._pictures = Cuvid(), packets_of(clip), pictures
        self._keys = [n for n, (_, key) in enumerate(self._packets) if key]
        probe = Stream(self._cuvid, 20)
        for n, data in enumerate(self._video(0, 3)):
            probe.feed(data, n)
        assert probe.format
        self._format = probe.format
        self.surfaces = max(5, self._format.least + 2)
        self.streams = min(_SURFACES // self.surfaces, _REFERENCES // max(1, probe.references))
        probe.close()

    def _video(self, stream: int, count: int) -> list[bytes]:
        """From a keyframe on, another for each stream as far as there are."""
        first = self._keys[stream % len(self._keys)]
        return [self._packets[(first + n) % len(self._packets)][0] for n in range(count)]

    def _played(self, *, shared: bool, keep: bool, count: int) -> tuple[list[dict[int, str]], float, float]:
        """(sums of each stream's pictures, s, CPU s) of so many of each, in turns."""
        with ExitStack() as stack:
            decoder = None
            if shared:
                decoder = Decoder(self._cuvid, self._format, self.surfaces * self.streams)
                stack.callback(decoder.close)
            streams = [
                Stream(self._cuvid, self.surfaces, decoder, k * self.surfaces if shared else 0, keep)
                for k in range(self.streams)
            ]
            videos = [self._video(k, count) for k in range(self.streams)]
            began, cpu = time.perf_counter(), time.process_time()
            for n in range(count):
                for stream, video in zip(streams, videos, strict=True):
                    stream.feed(video[n], n)
            spent = time.perf_counter() - began, time.process_time() - cpu
            for stream in streams:
                stream.close()
            return [stream.sums for stream in streams], *spent

    def same(self) -> str:
        own, _, _ = self._played(shared=False, keep=True, count=self._pictures)
        shared, _, _ = self._played(shared=True, keep=True, count=self._pictures)
        total = sum(map(len, own))
        alike = sum(b.get(at) == of for a, b in zip(own, shared, strict=True) for at, of in a.items())
        different = len({each for sums in own for each in sums.values()})
        return f"{alike} of {total} pictures the same to the byte ({different} different ones among them)"

    def cost(self) -> str:
        said = []
        for shared in (False, True, False, True):
            _, seconds, cpu = self._played(shared=shared, keep=False, count=5 * self._pictures)
            count = 5 * self._pictures * self.streams
            name = "one for all" if shared else "one each"
            said.append(f"{name} {count / seconds:.0f}/s, {cpu / count * 1e6:.0f} us")
        return "; ".join(said)

    def most(self, seconds: float) -> str:
        """Decoders until one is refused, each with all its streams; then three pictures more of every stream."""
        before, _ = self._cuvid.gpu.memory()
        began, held, refusal = time.perf_counter(), list[tuple[Decoder, list[Stream]]](), "none was refused in time"
        try:
            while time.perf_counter() < began + seconds:
                held.append(self._opened())
        except RuntimeError as error:
            refusal = str(error)
        took = (time.perf_counter() - began) / max(1, len(held))
        memory = (before - self._cuvid.gpu.memory()[0]) / max(1, len(held))
        began = time.perf_counter()
        for n in range(1, 4):
            for _, streams in held:
                for k, stream in enumerate(streams):
                    stream.feed(self._video(k, n + 1)[n], n)
        rate = 3 * len(held) * self.streams / (time.perf_counter() - began)
        opened = f"{len(held)} decoders, {len(held) * self.streams} streams"
        each = f"{memory / 1e6:.0f} MB and {took * 1000:.0f} ms each"
        return f"{opened}; {each}; {refusal}; all went on at {rate:.0f} pictures/s"

    def _opened(self) -> tuple[Decoder, list[Stream]]:
        decoder = Decoder(self._cuvid, self._format, self.surfaces * self.streams)
        streams = [Stream(self._cuvid, self.surfaces, decoder, k * self.surfaces) for k in range(self.streams)]
        for k, stream in enumerate(streams):
            stream.feed(self._video(k, 1)[0], 0)
        return decoder, streams


def rows(experiment: Experiment, seconds: float) -> Iterator[tuple[str, str]]:
    yield "streams a decoder", f"{experiment.streams}, with {experiment.surfaces} surfaces each"
    yield "pictures", experiment.same()
    yield "cost, without pictures' leaving the GPU", experiment.cost()
    if seconds:
        yield "at most", experiment.most(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=Path, required=True, help="H.264 in MP4 or Matroska")
    parser.add_argument("--pictures", type=int, default=60, help="of each stream that are compared (60)")
    parser.add_argument("--seconds", type=float, default=60, help="for opening decoders; 0: none are (60)")
    options = parser.parse_args()
    for what, found in rows(Experiment(options.clip, options.pictures), options.seconds):
        print(f"{what}: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
