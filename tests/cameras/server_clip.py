"""Reads clips for ``server.py``, its only user; runs under Debian's python3 like it, with GStreamer's bindings."""

import pathlib

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

SECOND = 1_000_000_000
DEMUXERS = {".mp4": "qtdemux", ".mkv": "matroskademux", ".ts": "tsdemux"}
RAW_PARSERS = {".h264": "h264parse", ".h265": "h265parse", ".mjpeg": "jpegparse"}
# The parsers repeat the parameter sets before each keyframe. Leaving that to the payloaders breaks pictures of several
# slices: they put the sets before each slice, where a decoder takes them for the next picture's beginning.
CODECS = {
    "video/x-h264": (
        "h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au",
        "rtph264pay config-interval=0",
    ),
    "video/x-h265": (
        "h265parse config-interval=-1 ! video/x-h265,stream-format=byte-stream,alignment=au",
        "rtph265pay config-interval=0",
    ),
    "image/jpeg": ("jpegparse", "rtpjpegpay"),
}


class Clip:
    """A file's access units in decoding order, and each one's place in display order."""

    def __init__(self, path):
        suffix = pathlib.PurePath(path).suffix
        codec = self._codec(path, suffix)
        parser, self.payloader = CODECS[codec]
        head = f"{DEMUXERS[suffix]} ! " if suffix in DEMUXERS else ""
        pipeline = Gst.parse_launch(
            f'filesrc location="{path}" ! {head}{parser} ! appsink name=out sync=false max-buffers=0'
        )
        pipeline.set_state(Gst.State.PLAYING)
        out = pipeline.get_by_name("out")
        self.units, stamps = [], []
        while True:
            sample = out.emit("pull-sample")
            if sample is None:
                break
            buffer = sample.get_buffer()
            if not self.units:
                self.caps = sample.get_caps()
            key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
            self.units.append((buffer.extract_dup(0, buffer.get_size()), key))
            stamps.append(buffer.pts)
        pipeline.set_state(Gst.State.NULL)
        if not self.units:
            raise SystemExit(f"{path}: no frame in it")
        # Raw streams carry no times; they are in display order as long as they have no B-frames.
        timed = all(s != Gst.CLOCK_TIME_NONE for s in stamps) and suffix in DEMUXERS
        order = sorted(range(len(stamps)), key=stamps.__getitem__) if timed else range(len(stamps))
        self.shown = [0] * len(stamps)
        for place, i in enumerate(order):
            self.shown[i] = place
        # How many frames the farthest-ahead picture is sent before its turn (B-frames).
        self.lead = max(shown - i for i, shown in enumerate(self.shown))
        self.keys = [i for i, (_, key) in enumerate(self.units) if key]
        if not self.keys:
            raise SystemExit(f"{path}: no keyframe in it")

    @staticmethod
    def _codec(path, suffix):
        if suffix in RAW_PARSERS:
            return {".h264": "video/x-h264", ".h265": "video/x-h265", ".mjpeg": "image/jpeg"}[suffix]
        if suffix not in DEMUXERS:
            raise SystemExit(f"{path}: unknown suffix, allowed are {', '.join([*DEMUXERS, *RAW_PARSERS])}")
        probe = Gst.parse_launch(f'filesrc location="{path}" ! {DEMUXERS[suffix]} ! fakesink name=end sync=false')
        probe.set_state(Gst.State.PAUSED)
        probe.get_state(20 * SECOND)
        caps = probe.get_by_name("end").get_static_pad("sink").get_current_caps()
        probe.set_state(Gst.State.NULL)
        name = caps.get_structure(0).get_name() if caps else "nothing"
        if name not in CODECS:
            raise SystemExit(f"{path}: {name} in it, allowed are {', '.join(CODECS)}")
        return name


def damaged(data, rng):
    """``data`` with some bytes changed behind its headers; no start code can come up, since no byte gets small."""
    out = bytearray(data)
    begin = min(len(out) // 4 + 64, len(out) - 1)
    for _ in range(max(1, len(out) // 200)):
        at = rng.randrange(begin, len(out))
        out[at] = out[at] ^ 0x5A | 0x10
    return bytes(out)
