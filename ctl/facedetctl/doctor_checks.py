"""What doctor makes of what it found: pure, from the daemon's answers and a few facts of the machine to findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from facedetctl.output import word
from facedetd.v1 import daemon_pb2, stream_pb2

CODECS = ("h264", "hevc", "h265", "mjpeg")
LINK_SHARE = 0.7
"""Of a link's speed that video may take: RTP's overhead and bursts at keyframes want the rest."""
CALIBRATION_DAYS = 180
DRIFT = 0.3
NEAR_FILES = 0.8
FREE_SHARE = 0.1
"""Of what the streams need: with less than that free, the next of them may find no room."""


class Grade(Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """``advice`` is what to do, empty where there is nothing."""

    subject: str
    grade: Grade
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """``clock``: whether the kernel's is kept by NTP; None: it can't be told. ``links``: Mbit/s of each network
    interface that is up, as far as they say. ``files``: open descriptors and their limit, of the daemon's process that
    has most; None where it may not be looked at."""

    clock: bool | None
    links: Mapping[str, int]
    files: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Part:
    """Something that was looked for: what was ``found``, or what is ``missing`` and what to do (``advice``), or why it
    may not be looked at (``hidden``). ``absent``: there is nothing of it, as opposed to something broken."""

    found: str = ""
    missing: str = ""
    advice: str = ""
    hidden: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class GpuSide:
    """What uses a GPU and what of it is here. ``unread``: why the configuration can't be read; then ``engine`` is the
    one that runs, if one does. ``nvdec``: it asks for decoding on the GPU. Of TensorRT, PyCUDA and the plan None: not
    looked for."""

    unread: str = ""
    engine: str = ""
    nvdec: bool = False
    driver: Part = Part(absent=True)
    tensorrt: Part | None = None
    pycuda: Part | None = None
    plan: Part | None = None


def daemon(health: daemon_pb2.GetHealthResponse) -> list[Finding]:
    """The state, and what the daemon itself says of memory, files, certificates and all else."""
    state = word(health, "state")
    advice = {
        daemon_pb2.DAEMON_STATE_WAITING_FOR_MODEL: "facedetctl model list; facedetctl model pull centerface",
        daemon_pb2.DAEMON_STATE_WAITING_FOR_DEVICE: "what it waits for stands below; for a GPU: nvidia-smi",
        daemon_pb2.DAEMON_STATE_FAILED: "journalctl -u facedetd -p warning; then facedetctl reload",
        daemon_pb2.DAEMON_STATE_STARTING: "wait a minute, and ask again",
    }.get(health.state, "")
    found = [Finding("daemon", Grade.OK if health.serving else Grade.ERROR, state, advice)]
    for problem in health.problems:
        grade = Grade.ERROR if problem.severity == daemon_pb2.SEVERITY_ERROR else Grade.WARNING
        found.append(Finding(problem.subject, grade, problem.message, _advice_on(problem.subject)))
    return found


def _advice_on(subject: str) -> str:
    return {
        "memory": "fewer streams, a smaller model, or more: systemctl set-property facedetd.slice MemoryMax=…",
        "open files": "LimitNOFILE= in a drop-in of facedetd.service",
    }.get(subject, "")


def cpu(stats: daemon_pb2.GetStatsResponse) -> Finding:
    degradation = stats.degradation
    used = sum(process.cpu for process in stats.processes)
    words = (
        f"facedetd uses {used:.1f} of {degradation.load.host_cores:g} cores, {degradation.load.idle_cores:.1f} are idle"
    )
    if degradation.state in (
        daemon_pb2.DEGRADATION_STATE_NONE,
        daemon_pb2.DEGRADATION_STATE_UNSPECIFIED,
    ):
        return Finding("cpu", Grade.OK, words)
    advice = "lower target_fps, take streams away, use sub-streams or a smaller model, or give it more cores"
    worst = degradation.state == daemon_pb2.DEGRADATION_STATE_OVERCOMMITTED
    return Finding("cpu", Grade.ERROR if worst else Grade.WARNING, f"{words}; {degradation.reason}", advice)


def memory(stats: daemon_pb2.GetStatsResponse) -> Finding:
    """What is used, allowed and needed. The daemon itself looks at it only when it starts, and streams come later."""
    used = sum(process.memory_bytes for process in stats.processes)
    words = f"{used >> 20} MiB in {len(stats.processes)} processes, shared pages counted in each"
    if not stats.HasField("memory"):
        return Finding("memory", Grade.OK, words)
    m = stats.memory
    few = "1 stream needs" if len(stats.streams) == 1 else f"{len(stats.streams)} streams need"
    words += (
        f"; {few} about {m.needed_bytes >> 20} MiB, {m.rings_bytes >> 20} MiB of it for rings; {m.limit_set_by} "
        f"{'has' if m.limit_set_by == 'the machine' else 'allows'} {m.limit_bytes >> 20} MiB, {m.free_bytes >> 20} MiB "
        "are free"
    )
    advice = "fewer streams, a smaller model, or more: systemctl set-property facedetd.slice MemoryMax=…"
    if m.rings_bytes > m.limit_bytes:
        return Finding("memory", Grade.ERROR, f"{words}: the rings alone don't fit, so some streams get none", advice)
    if m.HasField("high_bytes") and m.needed_bytes > m.high_bytes:
        slow = f"{words}; above {m.high_bytes >> 20} MiB the kernel slows it down"
        return Finding(
            "memory", Grade.WARNING, slow, "more: systemctl set-property facedetd.slice MemoryHigh=…, or fewer streams"
        )
    if m.needed_bytes > m.limit_bytes:
        return Finding("memory", Grade.WARNING, f"{words}: the kernel may kill a process for want of it", advice)
    if m.free_bytes < FREE_SHARE * m.needed_bytes:
        return Finding("memory", Grade.WARNING, f"{words}: another stream may find no room", advice)
    return Finding("memory", Grade.OK, words)


def files(machine: Machine) -> Finding:
    if machine.files is None:
        return Finding("open files", Grade.UNKNOWN, "only root and facedetd may look", "sudo facedetctl doctor")
    used, limit = machine.files
    near = used > NEAR_FILES * limit
    grade, advice = (Grade.WARNING, "LimitNOFILE= in a drop-in of facedetd.service") if near else (Grade.OK, "")
    return Finding("open files", grade, f"{used} of {limit} in the process that has most", advice)


def gpu(stats: daemon_pb2.GetStatsResponse, side: GpuSide) -> list[Finding]:
    """The driver and its GPUs, and where the engine is TensorRT, that, PyCUDA and the plan."""
    found = [_driver(stats, side)]
    if side.unread:
        words = f"{side.unread}: whether an engine for GPUs is wanted isn't known"
        found.append(Finding("configuration", Grade.UNKNOWN, words, "sudo facedetctl doctor, or --config FILE"))
    for subject, part in (("tensorrt", side.tensorrt), ("pycuda", side.pycuda), ("plan", side.plan)):
        if part is not None and part.hidden:
            found.append(Finding(subject, Grade.UNKNOWN, part.hidden, "sudo facedetctl doctor"))
        elif part is not None and part.missing:
            found.append(Finding(subject, Grade.ERROR, part.missing, part.advice))
        elif part is not None:
            found.append(Finding(subject, Grade.OK, part.found))
    return found


def _driver(stats: daemon_pb2.GetStatsResponse, side: GpuSide) -> Finding:
    engine = side.engine or stats.model.engine or "none"
    streams = [s.spec.id for s in stats.streams if s.spec.decode == stream_pb2.DECODE_MODE_GPU]
    who = "the engine" if engine == "tensorrt" else f"stream {streams[0]}" if streams else ""
    who = who or ("capture.decode" if side.nvdec else "")
    if stats.gpus:
        names = [f"GPU {g.index} {g.name}" for g in stats.gpus]
        words = ", ".join([f"NVIDIA driver {stats.gpus[0].driver_version}", *names])
        return Finding("gpu", Grade.OK, f"{words}; the engine is {engine}")
    if side.driver.found and who:
        advice = "as a service it needs the package facedetd-gpu, which allows it the devices; then restart it"
        return Finding("gpu", Grade.ERROR, f"{side.driver.found}; {who} wants it, and the daemon can't see it", advice)
    if side.driver.found:
        return Finding("gpu", Grade.OK, f"{side.driver.found}; the engine is {engine}")
    if who and side.driver.absent:
        advice = "install NVIDIA's driver; as a service also the package facedetd-gpu, which allows its devices"
        return Finding(
            "gpu", Grade.ERROR, f"{who} wants one, and {side.driver.missing or 'there is no driver'}", advice
        )
    if side.driver.absent:
        return Finding("gpu", Grade.OK, f"none, and none is wanted: the engine is {engine}")
    # A driver whose library and kernel module differ, as after an upgrade without a reboot, answers with an error
    advice = "nvidia-smi says more; after an upgrade of the driver: reboot"
    grade = Grade.ERROR if who else Grade.WARNING
    return Finding("gpu", grade, f"{f'{who} wants one, and ' * bool(who)}{side.driver.missing}", advice)


def model(stats: daemon_pb2.GetStatsResponse) -> Finding:
    if not stats.HasField("model") or not stats.model.name:
        return Finding("model", Grade.ERROR, "none runs", "facedetctl model list; facedetctl model pull centerface")
    what = f"{stats.model.name} {stats.model.version} at {stats.model.input_width}x{stats.model.input_height}"
    if not stats.model.HasField("calibration"):
        return Finding("model", Grade.OK, what)
    calibration = stats.model.calibration
    days = calibration.age.seconds // 86400
    drift = calibration.drift if calibration.HasField("drift") else 0.0
    words = f"{what}, calibrated {days} days ago" + (f", drift {drift:.2f}" if calibration.HasField("drift") else "")
    if days > CALIBRATION_DAYS or drift > DRIFT:
        return Finding("model", Grade.WARNING, words, "calibrate anew: facedetctl model collect, then model quantize")
    return Finding("model", Grade.OK, words)


def clock(machine: Machine) -> Finding:
    if machine.clock is None:
        return Finding("clock", Grade.UNKNOWN, "this system doesn't tell whether it is kept right")
    if machine.clock:
        return Finding("clock", Grade.OK, "kept by NTP")
    advice = "capture times are UTC by this clock: timedatectl set-ntp true, or install chrony"
    return Finding("clock", Grade.WARNING, "not kept by NTP", advice)


def cameras(stats: daemon_pb2.GetStatsResponse, reached: Mapping[str, str]) -> list[Finding]:
    """One for all, and one for each that isn't as it should be. ``reached``: of streams that give no pictures, why
    their camera's port can't be connected to; empty: it can be."""
    found = []
    for stream in stats.streams:
        finding = _camera(stream, reached.get(stream.spec.id))
        if finding:
            found.append(finding)
    good = sum(s.status.state == stream_pb2.STREAM_STATE_STREAMING for s in stats.streams)
    return [Finding("cameras", Grade.OK, f"{good} of {len(stats.streams)} give pictures"), *found]


def _camera(stream: stream_pb2.Stream, reached: str | None) -> Finding | None:
    status, spec, subject = stream.status, stream.spec, f"camera {stream.spec.id}"
    if status.state == stream_pb2.STREAM_STATE_PAUSED:
        return None
    if status.state != stream_pb2.STREAM_STATE_STREAMING:
        detail = status.detail or "gives no pictures yet"
        if reached:
            return Finding(
                subject, Grade.ERROR, f"{detail}; from here: {reached}", "its power, its address, the network between"
            )
        if "401" in detail or "login" in detail or "password" in detail:
            return Finding(subject, Grade.ERROR, detail, f"facedetctl update-stream {spec.id} --password-stdin")
        return Finding(
            subject, Grade.ERROR, detail, "its port answers: look at the path of the URL, and at the camera itself"
        )
    if status.codec and status.codec not in CODECS:
        return Finding(subject, Grade.WARNING, f"sends {status.codec}", "set the camera to H.264 or H.265")
    if 0 < status.source_fps < spec.target_fps - 0.5:
        words = f"sends {status.source_fps:.1f} frames a second, and {spec.target_fps:g} detections are asked for"
        return Finding(
            subject,
            Grade.WARNING,
            words,
            f"facedetctl update-stream {spec.id} --target-fps {math.floor(status.source_fps)}",
        )
    return None


def elsewhere(where: str) -> Finding:
    """In place of what only the daemon's own machine can tell."""
    words = (
        f"the daemon is on {where}: its open files, GPU, TensorRT, plan, links and clock aren't to be seen from here"
    )
    return Finding("machine", Grade.UNKNOWN, words, "facedetctl doctor there")


def network(
    before: daemon_pb2.GetStatsResponse, after: daemon_pb2.GetStatsResponse, links: Mapping[str, int]
) -> Finding:
    """What video takes, from two answers, against what the links (Mbit/s) can."""
    seconds = after.time.seconds - before.time.seconds + (after.time.nanos - before.time.nanos) / 1e9
    old = {s.spec.id: s.status.bytes_received for s in before.streams}
    received = sum(max(0, s.status.bytes_received - old.get(s.spec.id, s.status.bytes_received)) for s in after.streams)
    rate = 8e-6 * received / seconds if seconds > 0 else 0.0
    words = f"{rate:.1f} Mbit/s of video"
    if after.degradation.shortage == daemon_pb2.STAGE_NETWORK:
        return Finding(
            "network", Grade.ERROR, f"{words}, and it doesn't suffice", "lower the cameras' bitrates, or a faster link"
        )
    if not links:
        return Finding("network", Grade.OK, f"{words}; the links don't say how fast they are")
    name, speed = max(links.items(), key=lambda link: link[1])
    words += f"; {name} carries {speed} Mbit/s"
    if rate > LINK_SHARE * speed:
        return Finding("network", Grade.WARNING, words, "lower the cameras' bitrates, or a faster link")
    return Finding("network", Grade.OK, words)
