#!/usr/bin/python3
"""An RTSP server that plays cameras from encoded clips, without encoding anything anew.

Runs under Debian's own python3 (it needs the GStreamer bindings, which aren't on PyPI) and imports nothing of the
project; ``client.CameraServer`` starts it. The first line on stdin is a JSON object:

    {"host": "127.0.0.1", "port": 0, "control": "/path/to.sock", "tls": "" or a PEM file with certificate and key,
     "auth": null or {"user": .., "password": .., "scheme": "digest" or "basic"},
     "cameras": [{"clip": path, "fps": 25, "timestamp_offset": -1 or the first RTP timestamp}, ..]}

Camera I is rtsp://HOST:PORT/camI. When ready, one JSON line goes to stdout: {"port": ..}. The server ends when stdin
does, so it never outlives who started it. Passwords come on stdin so that they stand in no process list.

The control socket takes one command a line and answers each with one JSON line:
    stall I       frames are shot but not sent (the connection stays)     resume I   goes on at the next keyframe
    cut I         closes the connections to this camera                   down I     cut, and the URL is 404 till `up I`
    corrupt I P   each packet is lost or damaged with probability P       jump I S   RTP timestamps move by S seconds
    clients       how many connections there are                          quit
    stats         {"I": {"sent", "bytes", "lost", "clients", "stalled", "up", "starts"}, ..}
``starts`` lists every time a camera began to play as [utc_ns, n]: display frame n has its capture time then, and
frame n + k k/fps seconds later. Times before sending are never given: with B-frames the reordering is subtracted.
"""

import heapq
import json
import os
import random
import socket
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstBase, GstRtsp, GstRtspServer  # noqa: E402

# A sibling, found because Python puts a script's own folder first.
from server_clip import SECOND, Clip, damaged  # noqa: E402

ROLE = "viewer"
AHEAD = -(-(1 << 32) * SECOND // 90_000)
"""Where a camera's clock begins: GStreamer knows no time before 0, and a jump back must not lead there, where it would
stand still. A whole turn of RTP's timestamps, so that none of them is another for it."""
LONG_AGO = -(1 << 62)
"""Added to the time at which a sink shows a frame (ns), it makes every frame due."""


class Camera(GstRtspServer.RTSPMediaFactory):
    """One mount. Its clock starts anew whenever somebody begins to watch, at one of the clip's keyframes."""

    def __init__(self, number, clip, fps, timestamp_offset, guarded):
        super().__init__()
        self.number, self.clip, self.fps = number, clip, fps
        self.lock = threading.Lock()
        self.rng = random.Random(number)
        self.source = self.media = None
        self.stalled = self.wait_key = False
        self.corrupt = 0.0
        self.shift_ns = 0
        self.up = True
        self.sent = self.bytes = self.lost = 0
        self.starts = []
        self.first = self.count = 0
        self.begin = 0.0
        offset = f" timestamp-offset={timestamp_offset}" if timestamp_offset >= 0 else ""
        self.set_launch(
            "( appsrc name=src is-live=true format=time block=false max-bytes=0 ! "
            f"{clip.payloader} name=pay0 pt=96{offset} )"
        )
        self.set_shared(True)
        self.set_latency(0)
        self.set_protocols(GstRtsp.RTSPLowerTrans.TCP | GstRtsp.RTSPLowerTrans.UDP)
        self.connect("media-configure", self._configure)
        if guarded:
            rights = GstRtspServer.RTSPPermissions.new()
            for right in (
                GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
                GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
            ):
                rights.add_permission_for_role(ROLE, right, True)
            self.set_permissions(rights)

    def _configure(self, _factory, media):
        media.get_element().get_parent().connect("deep-element-added", self._sink_added)
        media.connect("unprepared", self._gone)
        source = media.get_element().get_by_name_recurse_up("src")
        source.set_property("caps", self.clip.caps)
        with self.lock:
            self.first = self.clip.keys[self.number % len(self.clip.keys)]
            self.count = 0
            self.shift_ns = 0
            self.begin = time.monotonic()
            self.starts.append([time.time_ns() - self.clip.lead * SECOND // self.fps, self.first])
            del self.starts[:-64]
            self.source, self.media = source, media
            self.wait_key = False
        PACER.add(self, self.begin)

    @staticmethod
    def _sink_added(_pipeline, _bin, element):
        # A frame must leave when it is pushed, though the server makes the sinks sync: the TCP sink whenever a client
        # begins to play, which set_rate_control(False) doesn't prevent (1.22). A sink that syncs holds a frame till its
        # PTS has come by the pipeline's clock, and with AHEAD that is 13 hours. Turning sync off again isn't enough: a
        # frame that comes in between is held, and with it all that this camera sends to anybody.
        if isinstance(element, GstBase.BaseSink):
            element.set_property("ts-offset", LONG_AGO)

    def _gone(self, media):
        with self.lock:
            if media is self.media:
                self.source = self.media = None

    def send_due(self, now, begin):
        """Sends what is due; the time when the next frame is, or None when this run (begun at ``begin``) is over."""
        with self.lock:
            if self.source is None or self.begin != begin:
                return None
            while self.begin + self.count / self.fps <= now:
                if not self._send_next():
                    self.source = self.media = None
                    return None
            return self.begin + self.count / self.fps

    def _send_next(self):
        clip, total = self.clip, len(self.clip.units)
        at = self.first + self.count
        loop, unit = divmod(at, total)
        data, key = clip.units[unit]
        shown = loop * total + clip.shown[unit] - self.first
        sent_at = self.count
        self.count += 1
        if self.stalled:
            self.wait_key = True
            return True
        if self.wait_key and not key:
            return True
        self.wait_key = False
        if self.corrupt and self.rng.random() < self.corrupt:
            self.lost += 1
            if self.rng.random() < 0.5:
                return True
            data = damaged(data, self.rng)
        buffer = Gst.Buffer.new_wrapped(data)
        begin = AHEAD + self.shift_ns
        buffer.pts = max(0, (shown + 1) * SECOND // self.fps + begin)
        buffer.dts = max(0, max(0, sent_at + 1 - clip.lead) * SECOND // self.fps + begin)
        buffer.duration = SECOND // self.fps
        if not key:
            buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
        self.sent += 1
        self.bytes += len(data)
        return self.source.emit("push-buffer", buffer) == Gst.FlowReturn.OK


class Pacer(threading.Thread):
    """Wakes each playing camera when its next frame is due. One thread for all: a timer a camera costs more."""

    def __init__(self):
        super().__init__(daemon=True)
        self.due = []
        self.changed = threading.Condition()
        self.ticket = 0

    def add(self, camera, begin):
        with self.changed:
            self.ticket += 1
            heapq.heappush(self.due, (begin, self.ticket, camera, begin))
            self.changed.notify()

    def run(self):
        while True:
            with self.changed:
                while not self.due:
                    self.changed.wait()
                wait = self.due[0][0] - time.monotonic()
                if wait > 0:
                    self.changed.wait(wait)
                    continue
                _, ticket, camera, begin = heapq.heappop(self.due)
            following = camera.send_due(time.monotonic(), begin)
            if following is not None:
                with self.changed:
                    heapq.heappush(self.due, (following, ticket, camera, begin))


PACER = Pacer()


class Server:
    def __init__(self, config):
        self.config = config
        self.rtsp = GstRtspServer.RTSPServer()
        self.rtsp.set_address(config["host"])
        self.rtsp.set_service(str(config["port"]))
        self.rtsp.set_backlog(256)
        pool = GstRtspServer.RTSPThreadPool()
        pool.set_max_threads(2)
        self.rtsp.set_thread_pool(pool)
        self.rtsp.connect("client-connected", self._connected)
        self.watching = {}  # client -> camera number
        self.loop = GLib.MainLoop()
        guarded = bool(config["auth"] or config["tls"])
        if guarded:
            self._guard()
        clips = {}
        self.cameras = []
        for number, wanted in enumerate(config["cameras"]):
            path = wanted["clip"]
            clip = clips[path] = clips.get(path) or Clip(path)
            self.cameras.append(Camera(number, clip, wanted["fps"], wanted["timestamp_offset"], guarded))
            self._mount(number)
        if self.rtsp.attach(None) == 0:
            raise SystemExit(f"can't listen on {config['host']} port {config['port']}")

    def _guard(self):
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, ROLE)
        account = self.config["auth"]
        if not account:
            auth.set_default_token(token)
        elif account["scheme"] == "basic":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(account["user"], account["password"]), token)
        else:
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(account["user"], account["password"], token)
        if self.config["tls"]:
            auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(self.config["tls"]))
        self.rtsp.set_auth(auth)

    def _mount(self, number):
        self.rtsp.get_mount_points().add_factory(f"/cam{number}", self.cameras[number])

    def _connected(self, _server, client):
        client.connect("describe-request", self._asked)
        client.connect("closed", lambda c: self.watching.pop(c, None))

    def _asked(self, client, context):
        path = context.uri.abspath or ""
        if path.startswith("/cam") and path[4:].isdigit():
            self.watching[client] = int(path[4:])

    def _cut(self, number):
        doomed = {client for client, camera in list(self.watching.items()) if camera == number}
        keep, remove = GstRtspServer.RTSPFilterResult.KEEP, GstRtspServer.RTSPFilterResult.REMOVE
        self.rtsp.client_filter(lambda _server, client: remove if client in doomed else keep)
        return len(doomed)

    def _stats(self):
        watched = list(self.watching.values())
        return {
            str(c.number): {
                "sent": c.sent,
                "bytes": c.bytes,
                "lost": c.lost,
                "clients": watched.count(c.number),
                "stalled": c.stalled,
                "up": c.up,
                "starts": c.starts,
            }
            for c in self.cameras
        }

    def command(self, line):
        """Does one command; what it answers. Raises ValueError or IndexError for what it doesn't understand."""
        words = line.split()
        name = words[0] if words else ""
        if name == "quit":
            GLib.idle_add(self.loop.quit)
            return True
        if name == "stats":
            return self._stats()
        if name == "clients":
            return len(self.rtsp.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REF) or [])
        number = int(words[1])
        camera = self.cameras[number]
        if name in ("stall", "resume"):
            camera.stalled = name == "stall"
        elif name == "cut":
            return self._cut(number)
        elif name == "down":
            camera.up = False
            self.rtsp.get_mount_points().remove_factory(f"/cam{number}")
            return self._cut(number)
        elif name == "up":
            camera.up = True
            self._mount(number)
        elif name == "corrupt":
            camera.corrupt = float(words[2])
        elif name == "jump":
            with camera.lock:
                camera.shift_ns += round(float(words[2]) * SECOND)
        else:
            raise ValueError(f"unknown command {name!r}")
        return True

    def _answer(self, line, answers):
        try:
            answers.append({"ok": self.command(line)})
        except (ValueError, IndexError) as error:
            answers.append({"error": f"{line.strip()!r}: {error}"})

    def _talk(self, connection):
        with connection, connection.makefile("rw") as file:
            for line in file:
                done, answers = threading.Event(), []

                def run(line=line, done=done, answers=answers):
                    self._answer(line, answers)
                    done.set()
                    return False

                GLib.idle_add(run)
                answer = answers[0] if done.wait(10) else {"error": "the server is stuck"}
                try:
                    file.write(json.dumps(answer) + "\n")
                    file.flush()
                except OSError:
                    return

    def listen(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.config["control"])
        listener.listen()

        def accept():
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def cleanup(self):
        self.rtsp.get_session_pool().cleanup()
        return True


def wait_for_parent(loop):
    sys.stdin.read()
    GLib.idle_add(loop.quit)


def main():
    config = json.loads(sys.stdin.readline())
    Gst.init(None)
    server = Server(config)
    server.listen()
    PACER.start()
    threading.Thread(target=wait_for_parent, args=(server.loop,), daemon=True).start()
    GLib.timeout_add_seconds(5, server.cleanup)
    print(json.dumps({"port": server.rtsp.get_bound_port()}), flush=True)
    server.loop.run()
    # Sessions may still hold pipelines; tearing them down in order takes seconds and nobody waits for it.
    os._exit(0)


if __name__ == "__main__":
    main()
