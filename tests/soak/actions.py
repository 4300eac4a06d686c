"""How each event of the plan is done to a real daemon and its cameras, and what must come of it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras import CameraServer
from tests.soak.clients import Watcher
from tests.soak.config import HEARTBEAT_S, SIZES, settings
from tests.soak.expect import Expectations, Fault
from tests.soak.plan import Event
from tests.soak.watch import gone_within

DECODER, INFERENCE = daemon_pb2.WORKER_KIND_DECODER, daemon_pb2.WORKER_KIND_INFERENCE
CALL_S = 20.0
SLOW_S = 90.0  # loading a model on a busy machine
SUPERVISOR_STOPPED_S = 4.0
NOBODY = "rtsp://127.0.0.1:1/nobody"
ROI = stream_pb2.Polygon(points=[stream_pb2.Point(x=x, y=y) for x, y in ((0, 0), (1, 0), (0.5, 1))])

BACK_S = 30.0
"""Until streams must be back: docs/architecture.md promises a tenth of that or so, but this machine may be busy, and
workers that died often start again after a pause. How long it took is told beside the bound."""


class Actions:
    """``streams``: id to camera, of those that should run. ``away``: cameras that give nothing or rubbish now.
    ``complain`` takes what went wrong, in words."""

    def __init__(
        self,
        daemon: LocalDaemon,
        cameras: CameraServer,
        port: int,
        expectations: Expectations,
        now: Callable[[], float],
        complain: Callable[[str], None],
    ):
        self.daemon, self.cameras, self.port = daemon, cameras, port
        self.expectations, self.now, self.complain = expectations, now, complain
        self.streams: dict[str, int] = {}
        self.away: set[int] = set()
        self.stats = daemon_pb2.GetStatsResponse()
        """As last seen; the caller renews it."""
        self.results = 0
        """How many results there were in all; the caller counts."""
        self._watchers: dict[str, Watcher] = {}
        self._size = SIZES[0]
        self._toml = False
        self._slow = ThreadPoolExecutor(4, "soak-slow")
        self._waiting: list[Future[None]] = []

    def do(self, event: Event) -> None:
        getattr(self, "do_" + event.action.replace("-", "_"))(event)

    # ---- calls

    def call(self, method: Any, request: Any, *allowed: grpc.StatusCode, timeout_s: float = CALL_S) -> Any:
        """The answer, or None where the call failed with an allowed status; any other failure is complained about."""
        try:
            answer = method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            if code not in allowed:
                details = error.details() if isinstance(error, grpc.Call) else error
                self.complain(f"{type(request).__name__}: {code}: {details}")
            return None
        return answer

    def refused(self, method: Any, request: Any, code: grpc.StatusCode) -> None:
        try:
            method(request, timeout=CALL_S)
        except grpc.RpcError as error:
            found = error.code() if isinstance(error, grpc.Call) else None
            if found is not code:
                self.complain(f"{type(request).__name__} should be refused with {code}, and was with {found}")
        else:
            self.complain(f"{type(request).__name__} should be refused with {code}, and was not")

    def settle(self) -> None:
        """Wait for the calls that were left to run."""
        for future in self._waiting:
            future.result(SLOW_S + CALL_S)
        self._waiting.clear()

    def _later(self, work: Callable[[], None]) -> None:
        self._waiting = [f for f in self._waiting if not f.done()]
        self._waiting.append(self._slow.submit(work))

    def close(self) -> None:
        for name in list(self._watchers):
            self._watchers.pop(name).close()
        self._slow.shutdown(wait=False, cancel_futures=True)

    # ---- what should come back

    def live(self) -> list[str]:
        return [s for s, camera in self.streams.items() if camera not in self.away]

    def _of(self, camera: int) -> list[str]:
        return [s for s, c in self.streams.items() if c == camera]

    def _expect(self, cause: str, streams: Iterable[str], more_s: float = 0.0, **needs: Any) -> None:
        wanted = [s for s in streams if s in self.streams and self.streams[s] not in self.away]
        self.expectations.expect(Fault(cause, self.now(), BACK_S + more_s, **needs), wanted)

    def _send_away(self, camera: int) -> None:
        self.away.add(camera)
        for stream in self._of(camera):
            self.expectations.forget(stream)

    def _bring_back(self, camera: int, cause: str) -> None:
        self.away.discard(camera)
        self._expect(cause, self._of(camera))

    # ---- cameras

    def do_cut(self, event: Event) -> None:
        seen = {s.spec.id: s.status for s in self.stats.streams}
        streaming = stream_pb2.STREAM_STATE_STREAMING
        touched = self._of(event.target)
        needs = {s: seen[s].reconnects + 1 for s in touched if s in seen and seen[s].state == streaming}
        self.cameras.ctl("cut", event.target)
        self._expect("a camera's cut", touched, reconnects=needs)

    def do_down(self, event: Event) -> None:
        self.cameras.ctl("down", event.target)
        self._send_away(event.target)

    def do_up(self, event: Event) -> None:
        self.cameras.ctl("up", event.target)
        self._bring_back(event.target, "a camera's return")

    def do_stall(self, event: Event) -> None:
        self.cameras.ctl("stall", event.target)
        self._send_away(event.target)

    def do_resume(self, event: Event) -> None:
        self.cameras.ctl("resume", event.target)
        self._bring_back(event.target, "a camera's stall")

    def do_corrupt(self, event: Event) -> None:
        self.cameras.ctl("corrupt", event.target, event.value)
        self._send_away(event.target)

    def do_clean(self, event: Event) -> None:
        self.cameras.ctl("corrupt", event.target, 0)
        self._bring_back(event.target, "corrupt packets")

    def do_jump(self, event: Event) -> None:
        self.cameras.ctl("jump", event.target, event.value)
        self._expect("a jump of a camera's clock", self._of(event.target))

    # ---- streams

    def add(self, stream_id: str, camera: int, fps: float) -> None:
        spec = stream_pb2.StreamSpec(id=stream_id, url=self.cameras.url(camera), target_fps=fps)
        if self.call(self.daemon.streams.CreateStream, stream_pb2.CreateStreamRequest(spec=spec)):
            self.streams[stream_id] = camera
            self._expect("a stream's beginning", [stream_id])

    def _delete(self, stream_id: str) -> None:
        self.streams.pop(stream_id, None)
        self.expectations.forget(stream_id)
        self.call(self.daemon.streams.DeleteStream, stream_pb2.DeleteStreamRequest(id=stream_id))

    def _update(self, spec: stream_pb2.StreamSpec, field: str) -> None:
        request = stream_pb2.UpdateStreamRequest(spec=spec)
        request.update_mask.paths.append(field)
        self.call(self.daemon.streams.UpdateStream, request)

    def do_add(self, event: Event) -> None:
        self.add(f"guest-{event.target}", event.target % len(self.cameras.clips), 2.0)

    def do_remove(self, event: Event) -> None:
        self._delete(f"guest-{event.target}")

    def do_move(self, event: Event) -> None:
        name = f"guest-{event.target}"
        if name in self.streams:
            camera = (self.streams[name] + 1) % len(self.cameras.clips)
            self._update(stream_pb2.StreamSpec(id=name, url=self.cameras.url(camera)), "url")
            self.streams[name] = camera
            self.expectations.forget(name)
            self._expect("a changed URL", [name])

    def do_add_dead(self, event: Event) -> None:
        spec = stream_pb2.StreamSpec(id=f"dead-{event.target}", url=NOBODY)
        self.call(self.daemon.streams.CreateStream, stream_pb2.CreateStreamRequest(spec=spec))

    def do_remove_dead(self, event: Event) -> None:
        self._delete(f"dead-{event.target}")

    def do_pause(self, event: Event) -> None:
        name = f"cam{event.target}"
        self.streams.pop(name, None)
        self.expectations.forget(name)
        self.call(self.daemon.streams.PauseStream, stream_pb2.PauseStreamRequest(id=name))

    def do_unpause(self, event: Event) -> None:
        name = f"cam{event.target}"
        self.call(self.daemon.streams.ResumeStream, stream_pb2.ResumeStreamRequest(id=name))
        self.streams[name] = event.target
        self._expect("a pause", [name])

    def do_fps(self, event: Event) -> None:
        self._update(stream_pb2.StreamSpec(id=f"cam{event.target}", target_fps=event.value), "target_fps")

    def do_regions(self, event: Event) -> None:
        seen = {s.spec.id: s.spec for s in self.stats.streams}
        name = f"cam{event.target}"
        rois = [] if name in seen and seen[name].regions_of_interest else [ROI]
        self._update(stream_pb2.StreamSpec(id=name, regions_of_interest=rois), "regions_of_interest")

    # ---- configuration

    def reload(self, *allowed: grpc.StatusCode) -> None:
        self.call(self.daemon.daemon.Reload, daemon_pb2.ReloadRequest(), *allowed, timeout_s=SLOW_S)

    def _write_config(self, more: str = "") -> None:
        self.settle()  # nobody may read a half or a wrong one
        toml = f'\n[[stream]]\nid = "toml"\nurl = "{self.cameras.url(0)}"\ntarget_fps = 1.0\n' if self._toml else ""
        self.daemon.write_config(settings(self._size, self.port) + toml + more)

    def do_reload(self, event: Event) -> None:
        self.settle()
        self.reload()

    def do_reload_bad(self, event: Event) -> None:
        self._write_config("\n[nonsense]\nkey = 1\n")
        self.refused(self.daemon.daemon.Reload, daemon_pb2.ReloadRequest(), grpc.StatusCode.INVALID_ARGUMENT)
        self._write_config()

    def do_toml_add(self, event: Event) -> None:
        self._toml = True
        self._write_config()
        self.reload()
        self.streams["toml"] = 0
        self._expect("a stream's beginning", ["toml"])

    def do_toml_remove(self, event: Event) -> None:
        self._toml = False
        self._write_config()
        del self.streams["toml"]
        self.expectations.forget("toml")
        self.reload()

    def do_reload_model(self, event: Event) -> None:
        self._load(SIZES[1 - SIZES.index(self._size)])

    def _load(self, size: tuple[int, int]) -> None:
        self._size = size
        self._write_config()
        # Faults go on while it loads, so it may be told that this didn't work; the old model goes on then.
        self._later(lambda: self.reload(grpc.StatusCode.UNAVAILABLE))
        self._expect("a change of model", self.live())

    # ---- clients

    def do_watch(self, event: Event) -> None:
        self._watchers[f"{event.target}"] = Watcher(self.daemon.socket, self.results, reads=True)

    def do_watch_unread(self, event: Event) -> None:
        self._watchers[f"{event.target}"] = Watcher(self.daemon.socket, self.results, reads=False)

    def do_unwatch(self, event: Event) -> None:
        watcher = self._watchers.pop(f"{event.target}", None)
        if watcher is None:  # the supervisor was killed since
            return
        got, could = watcher.close(), self.results - watcher.results_before
        if watcher.reads and could >= 20 and got == 0:
            self.complain(f"a watcher got nothing, though there were {could} results: {watcher.error or 'no error'}")

    do_unwatch_unread = do_unwatch

    def do_snapshot(self, event: Event) -> None:
        def take() -> None:
            request = stream_pb2.GetSnapshotRequest(id=f"cam{event.target}")
            answer = self.call(self.daemon.streams.GetSnapshot, request, grpc.StatusCode.UNAVAILABLE)
            if answer is not None and not answer.jpeg.startswith(b"\xff\xd8"):
                self.complain(f"a snapshot of cam{event.target} is no JPEG: {answer.jpeg[:8]!r}")

        self._later(take)

    def do_scrape(self, event: Event) -> None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=CALL_S) as answer:
                text = answer.read().decode()
        except OSError as error:
            self.complain(f"the metrics can't be read: {error}")
            return
        missing = [s for s in self.streams if f'stream="{s}"' not in text]
        if "facedetd_uptime_seconds" not in text or missing:
            self.complain(f"the metrics are not whole; missing are {', '.join(missing) or 'those of the daemon'}")

    def do_look(self, event: Event) -> None:
        self.call(self.daemon.daemon.GetHealth, daemon_pb2.GetHealthRequest())
        self.call(self.daemon.daemon.GetVersion, daemon_pb2.GetVersionRequest())
        listed = self.call(self.daemon.streams.ListStreams, stream_pb2.ListStreamsRequest())
        missing = set(self.streams) - {s.spec.id for s in listed.streams} if listed else set()
        if missing:
            self.complain(f"streams are not listed: {', '.join(sorted(missing))}")

    def do_refuse(self, event: Event) -> None:
        streams = self.daemon.streams
        bad = stream_pb2.StreamSpec(id="bad", url="gopher://127.0.0.1/")
        again = stream_pb2.StreamSpec(id="cam0", url=NOBODY)
        code = grpc.StatusCode
        self.refused(streams.CreateStream, stream_pb2.CreateStreamRequest(spec=bad), code.INVALID_ARGUMENT)
        self.refused(streams.CreateStream, stream_pb2.CreateStreamRequest(spec=again), code.ALREADY_EXISTS)
        self.refused(streams.GetStream, stream_pb2.GetStreamRequest(id="nobody"), code.NOT_FOUND)

    # ---- processes

    def pids(self, kind: int) -> list[int]:
        return sorted(p.pid for p in self.stats.processes if p.kind == kind and p.pid and p.state == "running")

    def _harm(self, how: signal.Signals, pids: list[int], cause: str, more_s: float = 0.0) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        self._expect(cause, self.live(), more_s, gone=frozenset(pids))

    def _one(self, kind: int, number: int) -> list[int]:
        found = self.pids(kind)
        return [found[number % len(found)]] if found else []

    def do_kill_decoder(self, event: Event) -> None:
        self._harm(signal.SIGKILL, self._one(DECODER, event.target), "kill -9 of a decoder")

    def do_kill_inference(self, event: Event) -> None:
        self._harm(signal.SIGKILL, self._one(INFERENCE, event.target), "kill -9 of the inference process")

    def do_kill_workers(self, event: Event) -> None:
        self._harm(signal.SIGKILL, self.pids(DECODER) + self.pids(INFERENCE), "kill -9 of all workers")

    def do_stop_decoder(self, event: Event) -> None:
        self._harm(signal.SIGSTOP, self._one(DECODER, event.target), "SIGSTOP of a decoder", HEARTBEAT_S)

    def do_stop_inference(self, event: Event) -> None:
        found = self._one(INFERENCE, event.target)
        self._harm(signal.SIGSTOP, found, "SIGSTOP of the inference process", HEARTBEAT_S)

    def do_stop_supervisor(self, event: Event) -> None:
        self.settle()
        assert self.daemon.process
        self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(SUPERVISOR_STOPPED_S)
        self.daemon.process.send_signal(signal.SIGCONT)
        self._expect("SIGSTOP and SIGCONT of the supervisor", self.live())

    def do_kill_supervisor(self, event: Event) -> None:
        """Raises LocalDaemonError when it doesn't start again."""
        self.settle()
        for name in list(self._watchers):
            self._watchers.pop(name).close()
        pids = self.daemon.pids()
        assert self.daemon.process
        self._expect("kill -9 of the supervisor", self.live(), gone=frozenset(pids))
        self.daemon.process.kill()
        self.daemon.stop()
        left = gone_within(pids, 10.0)
        if left:
            self.complain(f"{len(left)} workers outlived their supervisor: {left}")
        self.daemon.start()

    # ---- the end

    def come_to_rest(self) -> None:
        """The configuration and the clients as at the beginning."""
        self.settle()
        for name in list(self._watchers):
            self._watchers.pop(name).close()
        self._size = SIZES[0]
        self._write_config()
        self.reload()
