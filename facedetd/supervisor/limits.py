"""What so many streams need of memory and descriptors, and what to say when there is less. Pure, but for ``look``,
``memory_view`` and ``raise_files_limit``."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass

from facedetd.api.server import CONNECTIONS
from facedetd.config.model import Config
from facedetd.control import MemoryView
from facedetd.ring.segment import RingSpec
from facedetd.supervisor.memory import Memory, read_memory
from facedetd.supervisor.placement import SPREAD

MB = 10**6
SUPERVISOR_BYTES = 60 * MB
DECODER_BYTES = 45 * MB
STREAM_BYTES = 14 * MB
INFERENCE_BYTES = 80 * MB
INFERENCE_PIXEL_BYTES = 240
"""Estimates for a warning, never for a refusal: 1080p cameras, CenterFace on the CPU with two threads (proportional set
size 73, 112 and 270 MiB at 320x192, 640x384 and 1280x736; virtual machine with two cores, 2026-11-22)."""

SUPERVISOR_FILES, GROUP_FILES = 64, 6
DECODER_FILES, STREAM_FILES = 32, 8
"""Descriptors, with room to spare: a stream over UDP has an RTSP connection and two pairs of sockets."""


@dataclass(frozen=True, slots=True)
class Need:
    """Of ``streams`` streams in ``groups`` decoder groups: bytes of all rings and of everything, and descriptors of the
    process that has most."""

    streams: int
    groups: int
    rings: int
    total: int
    files: int


def groups_for(streams: int, capacity: int, cores: int, devices: int = 1) -> int:
    """How many groups so many streams are spread over, as :func:`facedetd.supervisor.placement.place` does it for each
    device's share."""
    few, cores = min(SPREAD, capacity), max(1, cores // devices)
    groups = 0
    for device in range(devices):
        share = (streams + device) // devices
        wide = -(-share // few)
        groups += wide if wide <= cores else max(cores, -(-share // capacity))
    return groups


def need(config: Config, streams: int, cores: int) -> Need:
    capture, model = config.capture, config.model
    groups = groups_for(streams, capture.streams_per_group, cores, len(config.inference.devices))
    ring = RingSpec(1, 1, model.width, model.height, capture.streams_per_group, capture.slots_per_stream)
    inference = INFERENCE_BYTES + model.width * model.height * INFERENCE_PIXEL_BYTES
    processes = SUPERVISOR_BYTES + len(config.inference.devices) * inference + groups * DECODER_BYTES
    listeners = 3 if config.api.listen else 2
    clients = listeners * (config.api.max_watchers + CONNECTIONS)
    supervisor_files = SUPERVISOR_FILES + groups * GROUP_FILES + clients
    decoder_files = DECODER_FILES + min(streams, capture.streams_per_group) * STREAM_FILES
    return Need(
        streams,
        groups,
        groups * ring.size,
        groups * ring.size + processes + streams * STREAM_BYTES,
        max(supervisor_files, decoder_files),
    )


def cannot_start(needed: Need, memory: Memory) -> str:
    """Why no start is worth a try: the rings are allocated whole, and alone are more than can ever be had. Empty: it
    is."""
    if needed.rings <= memory.limit:
        return ""
    return (
        f"the rings for {needed.streams} streams in {needed.groups} decoder groups need {_mb(needed.rings)}, and with "
        f"all else about {_mb(needed.total)}; {memory.set_by} allows {_mb(memory.limit)}: raise that limit, or lower "
        "capture.streams_per_group, capture.slots_per_stream or the model's size"
    )


def memory_warning(needed: Need, memory: Memory) -> str:
    """What an operator should know of memory at the start. Empty: nothing."""
    if needed.total > memory.limit:
        had = f"{memory.set_by} allows {_mb(memory.limit)}"
    elif needed.total > memory.room:
        had = f"{_mb(memory.room)} are free now"
    else:
        return ""
    return (
        f"{needed.streams} streams may not fit: they need about {_mb(needed.total)} ({_mb(needed.rings)} of it for "
        f"rings), and {had}"
    )


def files_warning(needed: Need, limit: int) -> str:
    """``limit``: the hard limit of open files. Empty: it suffices."""
    if needed.files <= limit:
        return ""
    return (
        f"{needed.streams} streams need up to {needed.files} open files in one process; allowed are {limit} "
        "(RLIMIT_NOFILE; LimitNOFILE= of the systemd unit)"
    )


def _mb(size: int) -> str:
    return f"{-(-size // MB)} MB"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``refusal`` is empty where a start is worth a try; ``warnings``: (subject, message)."""

    refusal: str
    warnings: tuple[tuple[str, str], ...]


def judge(config: Config, streams: int, memory: Memory, files: int, cores: int) -> Verdict:
    """``streams``: those there are. Where ``daemon.max_streams`` allows more, it is said when these may not fit."""
    now, most = (need(config, n, cores) for n in (streams, max(streams, config.daemon.max_streams)))
    found = (
        ("memory", memory_warning(now, memory) or cannot_start(most, memory) or memory_warning(most, memory)),
        ("open files", files_warning(now, files) or files_warning(most, files)),
    )
    return Verdict(cannot_start(now, memory), tuple((subject, text) for subject, text in found if text))


def look(config: Config, streams: int) -> Verdict:
    """:func:`judge` on what this process has now."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY:
        files = sys.maxsize
    return judge(config, streams, read_memory(), files, len(os.sched_getaffinity(0)))


def memory_view(config: Config, streams: int) -> MemoryView:
    """What this process's control groups allow now, and what so many streams need."""
    needed, memory = need(config, streams, len(os.sched_getaffinity(0))), read_memory()
    return MemoryView(memory.limit, memory.set_by, memory.room, memory.high, needed.rings, needed.total)


def raise_files_limit() -> None:
    """Raise the soft limit of open files to the hard one, for this process and its workers; nothing here uses select(),
    which is what the low soft limit is for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
