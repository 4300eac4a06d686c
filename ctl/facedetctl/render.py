"""Stats and detections as text. Pure: message in, lines out."""

from __future__ import annotations

from datetime import datetime, tzinfo

from google.protobuf.duration_pb2 import Duration

from facedetctl.output import (
    Cell,
    count,
    cut,
    milliseconds,
    paint,
    percent,
    safe,
    several,
    size,
    span,
    state_colour,
    table,
    word,
)
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2

RIGHT = frozenset({"FPS", "P95", "DROP", "FACES", "PID", "UP", "CPU", "MEMORY", "RESTARTS"})
FACES_SHOWN = 4
FACE_WIDTH = 21  # 0.93 160x192+1312+720


def state_cell(stream: stream_pb2.Stream) -> Cell:
    state = word(stream.status, "state")
    return Cell(state, state_colour(state))


def stats_lines(stats: daemon_pb2.GetStatsResponse, width: int | None, colour: bool) -> list[str]:
    """The whole screen: what the daemon does, its streams, its processes."""
    lines = [*_summary(stats, width, colour), ""]
    if stats.streams:
        heads: tuple[str, ...] = ("STREAM", "STATE", "FPS", "P95", "DROP", "FACES", "DETAIL")
        lines += [*table(heads, [_stream_row(s) for s in stats.streams], RIGHT, width, colour), ""]
    heads = ("PROCESS", "PID", "STATE", "UP", "CPU", "MEMORY", "RESTARTS", "DETAIL")
    return lines + table(heads, [_process_row(p) for p in stats.processes], RIGHT, width, colour)


def _summary(stats: daemon_pb2.GetStatsResponse, width: int | None, colour: bool) -> list[str]:
    state = word(stats, "state")
    first = [f"up {span(stats.uptime.ToNanoseconds() / 1e9)}"]
    if stats.HasField("model"):
        model = stats.model
        first.append(
            f"{safe(model.name)} {safe(model.version)} ({safe(model.engine)}, {model.input_width}x{model.input_height})"
        )
    else:
        first.append("no model")
    first.append(several(stats.watchers, "watcher"))
    second = [
        several(len(stats.streams), "stream"),
        f"{stats.total_actual_fps:.1f} of {stats.total_target_fps:.1f} fps",
    ]
    if stats.HasField("latency"):
        second.append(f"latency p50 {_ms(stats.latency.p50)}, p95 {_ms(stats.latency.p95)}")
    second.append(f"{percent(stats.drop_fraction)} dropped")
    lines = [second]
    if stats.HasField("inference"):
        engine = stats.inference
        third = [
            f"inference {engine.frames_per_second:.1f} frames/s",
            f"batches of {engine.mean_batch_size:.1f} in {_ms(engine.mean_batch_time)}",
            f"oldest frame waits {_ms(engine.oldest_waiting)}",
        ]
        if engine.results_lost:
            third.append(f"{count(engine.results_lost)} results lost")
        lines.append(third)
    lines += [_gpu(gpu) for gpu in stats.gpus]
    if stats.degradation.reason:
        level = word(stats.degradation, "state")
        lines.append([f"{level}: {safe(stats.degradation.reason)}"])
    name = f"facedetd {state}"
    rest = cut(" · ".join(["", *first]), None if width is None else width - len(name))
    painted = paint(Cell(state, state_colour(state)), colour)
    return [f"facedetd {painted}{rest}", *(cut(" · ".join(line), width) for line in lines)]


def _gpu(gpu: daemon_pb2.Gpu) -> list[str]:
    """What the driver tells of it: ``GPU 0 H100 80GB HBM3``, ``40 % busy``, ``NVDEC 83 %``, …"""
    found = [f"GPU {gpu.index} {safe(gpu.name.removeprefix('NVIDIA '))}"]
    if gpu.HasField("utilisation"):
        found.append(f"{gpu.utilisation * 100:.0f} % busy")
    if gpu.HasField("decoder_utilisation"):
        found.append(f"NVDEC {gpu.decoder_utilisation * 100:.0f} %")
    if gpu.HasField("memory_used_bytes"):
        total = f" of {size(gpu.memory_total_bytes)}" if gpu.HasField("memory_total_bytes") else ""
        found.append(size(gpu.memory_used_bytes) + total)
    if gpu.HasField("temperature_celsius"):
        found.append(f"{gpu.temperature_celsius:.0f} °C")
    if gpu.HasField("power_watts"):
        found.append(f"{gpu.power_watts:.0f} W")
    return found


def _stream_row(stream: stream_pb2.Stream) -> list[Cell]:
    status, spec = stream.status, stream.spec
    short = not spec.paused and status.actual_fps < 0.9 * spec.target_fps
    detail = "; ".join(part for part in (_savings(stream), safe(status.detail) or _video(status)) if part)
    drop = status.drop_fraction
    return [
        Cell(safe(spec.id)),
        state_cell(stream),
        Cell(f"{status.actual_fps:.1f}/{spec.target_fps:.1f}", "yellow" if short else ""),
        Cell(_ms(status.latency.p95) if status.HasField("latency") else "-"),
        Cell(percent(drop), "red" if drop >= 0.1 else "yellow" if drop >= 0.02 else ""),
        Cell(count(status.faces)),
        Cell(detail),
    ]


def _savings(stream: stream_pb2.Stream) -> str:
    """What the degradation controller takes from a stream: ``lowered to 2.5 fps, keyframes of the sub-stream``."""
    status, spec = stream.status, stream.spec
    if status.state != stream_pb2.STREAM_STATE_STREAMING:  # what ails it is not the load
        return ""
    found = [f"lowered to {status.granted_fps:g} fps"] if status.granted_fps < spec.target_fps else []
    if status.decode_level > stream_pb2.DECODE_LEVEL_FULL:
        level = word(status, "decode_level").replace("-", " ")
        found.append(level + (" of the sub-stream" if status.on_sub_stream and level != "sub stream" else ""))
    if status.sub_stream_problem:
        found.append(f"no sub-stream: {safe(status.sub_stream_problem)}")
    return ", ".join(found)


def _video(status: stream_pb2.StreamStatus) -> str:
    """What the camera sends, as far as it is known, and whether a GPU decodes it: ``h264 1920x1080, 25 fps, NVDEC``."""
    if status.state != stream_pb2.STREAM_STATE_STREAMING:
        return ""
    picture = f"{safe(status.codec)} {status.source_width}x{status.source_height}" if status.source_width else ""
    rate = f"{status.source_fps:g} fps" if status.source_fps else ""
    where = "NVDEC" if status.decode_device == stream_pb2.DECODE_DEVICE_NVDEC else ""
    return ", ".join(part for part in (picture, rate, where) if part)


def _process_row(process: daemon_pb2.Process) -> list[Cell]:
    own = process.streams if process.kind == daemon_pb2.WORKER_KIND_DECODER else 0  # all others serve every stream
    detail = [several(own, "stream")] if own else []
    if process.detail:
        detail.append(safe(process.detail))
    return [
        Cell(safe(process.name)),
        Cell(str(process.pid)),
        Cell(safe(process.state), state_colour(process.state)),
        Cell(span(process.uptime.ToNanoseconds() / 1e9)),
        Cell(f"{process.cpu * 100:.0f} %"),
        Cell(size(process.memory_bytes)),
        Cell(str(process.restarts), "yellow" if process.restarts else ""),
        Cell("; ".join(detail)),
    ]


def _ms(duration: Duration) -> str:
    return milliseconds(duration.ToNanoseconds() / 1e9)


def detection_line(
    detection: detection_pb2.Detection, width: int | None, colour: bool, id_width: int, zone: tzinfo | None = None
) -> str:
    """``12:03:04.567  cam1  2 faces   84 ms  0.93 80x96+312+120 …``: time of capture in ``zone`` (None: local),
    stream, faces, latency, then each face's score and its box as width x height + left + top, best first."""
    try:
        stamp = datetime.fromtimestamp(detection.capture_time.seconds, zone)
        clock = f"{stamp:%H:%M:%S}.{detection.capture_time.nanos // 1_000_000:03d}"
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        clock = "--:--:--.---"
    number = len(detection.faces)
    head = f"{safe(detection.stream_id):<{id_width}}"
    faces = f"{number:>2} {'face' if number == 1 else 'faces':<5}"
    latency = f"{milliseconds(detection.latency.ToNanoseconds() / 1e9):>7}"
    best = sorted(detection.faces, key=lambda face: -face.score)
    before = len(clock) + len(head) + len(faces) + len(latency) + 8
    boxes = _faces(best, None if width is None else width - before)
    cells = (Cell(clock, "dim"), Cell(head, "bold"), Cell(faces, "green" if number else "dim"), Cell(latency))
    return "  ".join([*(paint(cell, colour) for cell in cells), boxes]).rstrip()


def _faces(best: list[detection_pb2.Face], room: int | None) -> str:
    """As many faces as fit, at least one, and how many more there are; in columns where there is a width to fit."""
    texts = [_face(face) if room is None else f"{_face(face):<{FACE_WIDTH}}" for face in best[:FACES_SHOWN]]
    while texts:
        left = len(best) - len(texts)
        shown = "  ".join([*texts, f"+{left} more"] if left else texts).rstrip()
        if room is None or len(shown) <= room or len(texts) == 1:
            return cut(shown, None if room is None else max(room, 8))
        texts.pop()
    return ""


def _face(face: detection_pb2.Face) -> str:
    box = face.box
    return f"{face.score:.2f} {box.x_max - box.x_min:.0f}x{box.y_max - box.y_min:.0f}+{box.x_min:.0f}+{box.y_min:.0f}"
