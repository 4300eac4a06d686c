"""The header of a slot: what a frame is, where it comes from and how it was scaled. One page, fixed format."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from facedetd.types import MAX_SIDE

FORMAT_VERSION = 2
HEADER_SIZE = 4096  # one page, so that the picture behind it is page-aligned

_LAYOUT = struct.Struct("<IHHIIQQqqqqIIIIIIIII64s")
_MAGIC = 0x44464346  # "FCFD"


class ColorMatrix(IntEnum):
    """Which matrix turns Y'CbCr into R'G'B' (ITU-R)."""

    BT601 = 0
    BT709 = 1
    BT2020 = 2


class ColorRange(IntEnum):
    """Limited: Y' runs 16-235; full: 0-255."""

    LIMITED = 0
    FULL = 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the source picture lies inside the model's: ``model = source * scale + pad`` for each axis.

    ``width`` and ``height`` are of the scaled picture without its padding, even, in model px.
    """

    source_width: int
    source_height: int
    width: int
    height: int
    pad_x: int
    pad_y: int

    @property
    def scale_x(self) -> float:
        return self.width / self.source_width

    @property
    def scale_y(self) -> float:
        return self.height / self.source_height


@dataclass(frozen=True, slots=True)
class SlotHeader:
    """See DESIGN 3. ``stream_index`` is the stream's place in its ring, ``epoch`` its incarnation there;
    ``sequence`` counts sampled frames of the epoch from 0. Times in ns. Where frames wait, those of a higher
    ``priority`` go first."""

    stream_id: str
    stream_index: int
    epoch: int
    generation: int
    sequence: int
    frame_number: int
    pts_ns: int
    arrival_mono_ns: int
    capture_mono_ns: int
    capture_utc_ns: int
    geometry: Geometry
    matrix: ColorMatrix = ColorMatrix.BT601
    range: ColorRange = ColorRange.LIMITED
    priority: int = 0

    def pack(self) -> bytes:
        g = self.geometry
        return _LAYOUT.pack(
            _MAGIC, FORMAT_VERSION, self.stream_index, self.epoch, self.generation,
            self.sequence, self.frame_number, self.pts_ns, self.arrival_mono_ns, self.capture_mono_ns,
            self.capture_utc_ns, g.source_width, g.source_height, g.pad_x, g.pad_y,
            g.width, g.height, self.matrix, self.range, self.priority, self.stream_id.encode(),
        )  # fmt: skip

    @classmethod
    def unpack(cls, buffer: memoryview | bytes) -> SlotHeader:
        """Raises HeaderError when the bytes are no header of this format."""
        if len(buffer) < _LAYOUT.size:
            raise HeaderError(f"no slot header: {len(buffer)} bytes, not {_LAYOUT.size}")
        (magic, version, index, epoch, generation, sequence, number, pts, arrival, capture, utc,
         source_w, source_h, pad_x, pad_y, w, h, matrix, range_, priority,
         name) = _LAYOUT.unpack_from(buffer)  # fmt: skip
        if magic != _MAGIC or version != FORMAT_VERSION:
            raise HeaderError(f"no slot header of format {FORMAT_VERSION}: magic {magic:#x}, version {version}")
        if not (0 < w and 0 < h and 0 < source_w <= MAX_SIDE and 0 < source_h <= MAX_SIDE):
            raise HeaderError(f"a slot header with no possible picture: {source_w}x{source_h} as {w}x{h}")
        try:
            return cls(
                name.rstrip(b"\0").decode(), index, epoch, generation, sequence, number, pts, arrival, capture,
                utc, Geometry(source_w, source_h, w, h, pad_x, pad_y),
                ColorMatrix(matrix), ColorRange(range_), priority,
            )  # fmt: skip
        except (ValueError, UnicodeDecodeError) as error:
            raise HeaderError(f"a slot header with a bad field: {error}") from None


class HeaderError(ValueError):
    """Bytes that are no slot header."""
