"""doctor: what an operator would look at one by one, looked at together, with what to do."""

from __future__ import annotations

import ctypes
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, positive
from facedetctl.exits import Exit
from facedetctl.output import Cell, paint, safe
from facedetctl.target import Local

if TYPE_CHECKING:
    from facedetctl.doctor_checks import Finding, Machine

CONFIG = Path("/etc/facedetd/facedetd.toml")
CONNECT_S = 3.0
AT_ONCE = 16
_TIME_ERROR = 5  # adjtimex(2): not synchronised
_TIMEX_BYTES = 512  # struct timex has 208


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers, "doctor", doctor, "look for what is wrong, and tell what to do; exit code 6 if there is"
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help=f"the daemon's, to know its engine ({CONFIG})"
    )
    parser.add_argument(
        "--seconds", type=positive, default=3.0, metavar="S", help="how long to measure the network (3)"
    )


def doctor(call: Call) -> Exit:
    from facedetctl import doctor_checks as checks
    from facedetctl.doctor_gpu import look_at_gpu, tools
    from facedetd.v1 import daemon_pb2, stream_pb2

    with call.connect() as client:
        health = client.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=client.timeout)
        before = client.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=client.timeout)
        time.sleep(call.args.seconds)
        stats = client.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=client.timeout)
    silent = {
        s.spec.id: s.spec.url
        for s in stats.streams
        if s.status.state not in (stream_pb2.STREAM_STATE_STREAMING, stream_pb2.STREAM_STATE_PAUSED)
    }
    here = isinstance(call.target, Local)
    machine = look([p.pid for p in stats.processes if p.pid])
    findings = [
        *checks.daemon(health),
        checks.cpu(stats),
        checks.memory(stats),
        *([checks.files(machine)] if here else []),
        *(checks.gpu(stats, look_at_gpu(call.args.config, stats, tools())) if here else []),
        checks.model(stats),
        *checks.cameras(stats, reach_all(silent)),
        checks.network(before, stats, machine.links if here else {}),
        *([checks.clock(machine)] if here else [checks.elsewhere(str(call.target))]),
    ]
    show(call, findings)
    return Exit.UNHEALTHY if any(f.grade is checks.Grade.ERROR for f in findings) else Exit.OK


def show(call: Call, findings: list[Finding]) -> None:
    out = call.out
    if out.json:
        rows: list[dict[str, Any]] = [
            {"subject": f.subject, "grade": f.grade.value, "found": f.found, "advice": f.advice} for f in findings
        ]
        out.data({"findings": rows})
        return
    colours = {"ok": "green", "warning": "yellow", "error": "red", "unknown": "dim"}
    for finding in findings:
        grade = paint(Cell(f"{finding.grade.value:<7}", colours[finding.grade.value]), out.colour)
        out.line(f"{grade}  {safe(finding.subject)}: {safe(finding.found)}")
        if finding.advice and finding.grade.value != "ok":
            out.line(f"         -> {safe(finding.advice)}")


def reach_all(urls: dict[str, str]) -> dict[str, str]:
    """Why each camera's port can't be connected to from here; empty: it can be. Takes CONNECT_S for each AT_ONCE."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(urls, pool.map(reach, urls.values()), strict=True))


def reach(url: str) -> str:
    """A TCP connection to the camera of an RTSP URL, closed at once; no other scheme is tried."""
    from facedetd.config.urls import split_authority, split_host_port

    scheme, authority, _ = split_authority(url)
    if scheme not in ("rtsp", "rtsps"):
        return ""
    try:
        host, port = split_host_port(authority.rpartition("@")[2])
        socket.create_connection((host, port or (322 if scheme == "rtsps" else 554)), CONNECT_S).close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def look(pids: list[int], proc: Path = Path("/proc"), net: Path = Path("/sys/class/net")) -> Machine:
    """Facts of this machine; they say nothing of a daemon that is elsewhere."""
    from facedetctl.doctor_checks import Machine

    return Machine(clock_is_kept(), link_speeds(net), open_files(pids, proc))


def clock_is_kept() -> bool | None:
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR


def link_speeds(net: Path) -> dict[str, int]:
    speeds = {}
    with suppress(OSError):
        for interface in sorted(net.iterdir()):
            with suppress(OSError, ValueError):  # virtual ones don't say, and -1 is: nobody knows
                if (interface / "operstate").read_text().strip() == "up" and int((interface / "speed").read_text()) > 0:
                    speeds[interface.name] = int((interface / "speed").read_text())
    return speeds


def open_files(pids: list[int], proc: Path) -> tuple[int, int] | None:
    most = None
    for pid in pids:
        with suppress(OSError, ValueError, StopIteration):
            lines = (proc / str(pid) / "limits").read_text().splitlines()
            limit = int(next(line for line in lines if line.startswith("Max open files")).split()[4])
            used = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
            most = max(most or (0, limit), (used, limit))
    return most
