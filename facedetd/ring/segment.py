"""A ring's shared memory: layout, creation by the supervisor, mapping by workers, and its counters.

    page 0              what this segment is, so that a process that maps it can check
    counters            for each stream two blocks of 64-bit counters: the decoder's and the inference process's
    slots               page-aligned: one page of header, then the NV12 picture

Nothing here has a name in a file system: a segment is a descriptor (memfd) and is gone with its last holder.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from facedetd.ring.header import HEADER_SIZE
from facedetd.types import ByteArray

PAGE = 4096
COUNTERS_PER_BLOCK = 16  # two cache lines, so that the two writers share none
SLOTS_PER_STREAM_MAX = 4
_HEAD = struct.Struct("<8sIIIIII")
_MAGIC = b"FACERING"

# Linux's fcntl.h; Python's fcntl module doesn't name them in every build
_F_ADD_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 2, 4


class DecoderCounter(IntEnum):
    """Written by the stream's thread in its decoder group, and by the group's main thread while that is held off."""

    RECEIVED = 0
    RECEIVED_BYTES = 1
    SAMPLED = 2
    NOT_SAMPLED = 3
    NO_SLOT = 4
    WORKER_LOST = 5
    DECODE_ERRORS = 6
    NOT_SAMPLED_STALE = 7
    PACKETS_SKIPPED = 8


class InferenceCounter(IntEnum):
    """Written by the inference process."""

    TAKEN = 0
    INFERRED = 1
    REPLACED = 2
    BAD = 3
    FAILED = 4
    DRAINED = 5


class RingError(Exception):
    """A segment can't be made or mapped; the message says why and how much was asked for."""


def no_memory(spec: RingSpec, reason: str | None) -> RingError:
    return RingError(
        f"a ring of {spec.size / 1e6:.0f} MB for {spec.streams} streams can't be allocated: {reason}; "
        "lower capture.streams_per_group, capture.slots_per_stream or the model's size, or raise the memory limit"
    )


def _not_mapped(spec: RingSpec, error: OSError | MemoryError) -> RingError:
    what = f"a ring of {spec.size / 1e6:.0f} MB for {spec.streams} streams can't be mapped"
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return RingError(f"{what}: {error.strerror or error}")
    return RingError(
        f"{what}: not enough memory or address space (ulimit -v, LimitAS, vm.overcommit_memory); raise that limit, or "
        "lower capture.streams_per_group, capture.slots_per_stream or the model's size"
    )


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class RingSpec:
    """What a segment holds. ``ring_id`` tells it from all rings that live and, for long, from those that did;
    ``generation`` ties the ring to the model size (``width`` x ``height`` px, both even) it was made for.

    Raises RingError for what can't be.
    """

    ring_id: int
    generation: int
    width: int
    height: int
    streams: int
    slots_per_stream: int

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2 or self.width < 2 or self.height < 2:
            raise RingError(f"an NV12 picture has even sides, not {self.width}x{self.height}")
        if self.streams < 1:
            raise RingError(f"a ring for {self.streams} streams")
        if not 1 <= self.slots_per_stream <= SLOTS_PER_STREAM_MAX:
            raise RingError(f"{self.slots_per_stream} slots a stream; allowed are 1 to {SLOTS_PER_STREAM_MAX}")

    @property
    def slots(self) -> int:
        return self.streams * self.slots_per_stream

    @property
    def picture_bytes(self) -> int:
        return self.width * self.height * 3 // 2

    @property
    def slot_bytes(self) -> int:
        return HEADER_SIZE + _pages(self.picture_bytes)

    @property
    def slots_offset(self) -> int:
        return PAGE + _pages(self.streams * 2 * COUNTERS_PER_BLOCK * 8)

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return self.slots_offset + self.slots * self.slot_bytes


class Segment:
    """A mapped segment. Close it by dropping it: numpy views keep the mapping alive as long as they live."""

    def __init__(self, spec: RingSpec, fd: int):
        """Takes ownership of ``fd``."""
        self.spec = spec
        self.fd = fd
        self._map = mmap.mmap(fd, spec.size)
        self.counters: npt.NDArray[np.uint64] = np.frombuffer(
            self._map, np.uint64, spec.streams * 2 * COUNTERS_PER_BLOCK, PAGE
        ).reshape(spec.streams, 2, COUNTERS_PER_BLOCK)
        """Shape (streams, 2, 16): [stream, 0] is the decoder's block, [stream, 1] the inference process's."""

    @classmethod
    def create(cls, spec: RingSpec) -> Segment:
        """Make a segment and allocate it whole, so that no page is missing later (SIGBUS). Raises RingError."""
        fd = os.memfd_create(f"facedetd-ring-{spec.ring_id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, spec.size)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)
            segment = cls(spec, fd)
        except OSError as error:
            os.close(fd)
            reason = "not enough memory" if error.errno in (errno.ENOSPC, errno.ENOMEM) else error.strerror
            raise no_memory(spec, reason) from None
        segment._map[: _HEAD.size] = _HEAD.pack(
            _MAGIC, spec.ring_id, spec.generation, spec.width, spec.height, spec.streams, spec.slots_per_stream
        )
        return segment

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Map a segment made elsewhere; owns ``fd``. Raises RingError when it is none, or can't be mapped."""
        try:
            head = os.pread(fd, _HEAD.size, 0)
            magic, *fields = _HEAD.unpack(head)
            if magic != _MAGIC:
                raise RingError("the descriptor is no facedetd ring")
            spec = RingSpec(*fields)
            if os.fstat(fd).st_size != spec.size:
                raise RingError(f"a ring of {os.fstat(fd).st_size} bytes says it has {spec.size}")
        except (OSError, struct.error) as error:
            os.close(fd)
            raise RingError(f"the descriptor is no facedetd ring: {error}") from None
        except RingError:
            os.close(fd)
            raise
        try:
            return cls(spec, fd)
        except (OSError, MemoryError) as error:
            os.close(fd)
            raise _not_mapped(spec, error) from None

    def decoder_block(self, stream: int) -> memoryview:
        """The decoder's block of a stream, 16 ints by DecoderCounter: to count in it is cheaper than through numpy."""
        return memoryview(self.counters[stream, 0])

    def header_view(self, slot: int) -> memoryview:
        start = self.spec.slots_offset + slot * self.spec.slot_bytes
        return memoryview(self._map)[start : start + HEADER_SIZE]

    def picture(self, slot: int) -> ByteArray:
        """The slot's NV12 picture itself: (height * 3 / 2, width) uint8."""
        spec = self.spec
        start = spec.slots_offset + slot * spec.slot_bytes + HEADER_SIZE
        return np.frombuffer(self._map, np.uint8, spec.picture_bytes, start).reshape(spec.height * 3 // 2, spec.width)

    @property
    def memory(self) -> ByteArray:
        """The whole mapping, (size,) uint8: for a device that shall read pictures where they lie."""
        return np.frombuffer(self._map, np.uint8)

    def close(self) -> None:
        """Close the descriptor; the mapping goes when the last view of it does."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
