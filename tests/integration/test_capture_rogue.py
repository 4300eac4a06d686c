"""Cameras that want FFmpeg to read a local file or to talk to somebody else get nothing.

The somebody else is a TCP and a UDP port on 127.0.0.2 and a TCP port beside the camera's; the file is watched by
inotify. That both would be noticed is tested, too: without the guards FFmpeg does go there.
"""

import ctypes
import os
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from facedetd.capture import guard, source
from facedetd.capture.source import ErrorKind, LiveSource, SourceError, open_source
from facedetd.types import Secret, StreamSpec, Transport
from tests.cameras.encode import Coding, encode
from tests.cameras.rogue import RogueCamera, Script, header, redirect
from tests.cameras.rtsp import Answer
from tests.cameras.scene import make_scene
from tests.descriptors import descriptors

pytestmark = pytest.mark.integration

PASSWORD = "p@s:s/w#%?"
IN_OPEN = 0x20
METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY")


@pytest.fixture(scope="module")
def clip():
    return encode(make_scene(320, 240, frames=25, faces=1), coding=Coding(bitrate=300_000, gop=25, container="raw"))


@pytest.fixture
def camera(clip):
    with RogueCamera(clip.path, user="cam", password=PASSWORD) as rogue:
        yield rogue


class Victim:
    """Notices who comes by."""

    def __init__(self, folder, stack):
        self.host = "127.0.0.2"
        self._tcp = [stack.enter_context(socket.create_server((h, 0))) for h in (self.host, "127.0.0.1")]
        self._udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._udp.bind((self.host, 0))
        for each in (*self._tcp, self._udp):
            each.setblocking(False)
        self.port, self.near_port = (s.getsockname()[1] for s in self._tcp)
        self.udp_port = self._udp.getsockname()[1]
        self.file = folder / "secret"
        self.file.write_text("#EXTM3U\n")
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, self._watch)
        assert libc.inotify_add_watch(self._watch, os.fsencode(self.file), IN_OPEN) > 0

    def noticed(self):
        found = []
        for what, look in (
            ("connection", self._tcp[0].accept),
            ("connection beside", self._tcp[1].accept),
            ("datagram", lambda: self._udp.recv(2000)),
            ("file opened", lambda: os.read(self._watch, 4096)),
        ):
            try:
                look()
                found.append(what)
            except BlockingIOError:
                pass
        return found


@pytest.fixture
def victim(tmp_path):
    with ExitStack() as stack:
        yield Victim(tmp_path, stack)


def opened(camera, connect_s=20, **spec):
    """With so much time that a machine that stops for some seconds doesn't change what is refused, and why."""
    stream = StreamSpec("cam", camera.url, username="cam", **spec)
    return open_source(stream, Secret(PASSWORD), connect_s, 20, threading.Event(), time.monotonic_ns)


def refused(camera, **spec):
    with pytest.raises(SourceError) as caught:
        opened(camera, **spec).close()
    text = str(caught.value)
    assert "p@s" not in text and "p%40s" not in text and "rtsp:" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def plays(camera, **spec):
    live = opened(camera, **spec)
    try:
        packets = live.packets()
        return all(next(packets).size for _ in range(5))
    finally:
        live.close()


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


def transport(more="", server_port=None):
    """Changes the answer to SETUP."""

    def hook(request, answer):
        if answer.status != 200:
            return answer
        said = answer.headers["Transport"]
        if server_port is not None:
            said = said.partition(";server_port")[0] + f";server_port={server_port}-{server_port + 1}"
        return replace(answer, headers={**answer.headers, "Transport": said + more})

    return {"SETUP": hook}


def test_a_well_camera_plays(camera, victim):
    assert plays(camera) and plays(camera, transport=Transport.UDP)
    assert not victim.noticed()


@pytest.mark.parametrize("code", [300, 301, 302, 303, 305, 307, 308])
def test_redirects_are_not_followed(camera, victim, code):
    for port in (victim.port, victim.near_port):
        camera.script = Script(on={"DESCRIBE": redirect(f"rtsp://{victim.host}:{port}/x", code)})
        error = refused(camera)
        assert (
            error.kind is ErrorKind.LED_ELSEWHERE and "redirect" in str(error) and "set the stream's url" in str(error)
        )
    assert not victim.noticed()


def test_wherever_a_redirect_leads(camera, victim):
    port = victim.port
    places = [f"{s}://{victim.host}:{port}/x" for s in ("rtsp", "rtsps", "http", "tcp", "udp", "rtp", "tls", "satip")]
    places += [camera.url, "/other", "other", "", f"//{victim.host}:{port}/", f"rtsp://a:b@{victim.host}:{port}/x"]
    places += [f"file://{victim.file}", str(victim.file), "rtsp://name.invalid/x", f"concat:{victim.file}"]
    for place in places:
        before = camera.connections
        for method in METHODS:
            camera.script = Script(on={method: redirect(place)})
            assert refused(camera).kind in (ErrorKind.LED_ELSEWHERE, ErrorKind.FAILED, ErrorKind.SERVER), (
                place,
                method,
            )
        assert camera.connections - before == 2 * len(METHODS), place  # the look at the port, and FFmpeg's
    assert not victim.noticed()


def test_it_is_not_followed_when_only_the_second_answer_is_one(camera, victim):
    def well_once(request, answer):
        return answer if request.connection <= 2 else Answer(302, {"Location": f"rtsp://{victim.host}:{victim.port}/"})

    camera.script = Script(on={"DESCRIBE": well_once})
    assert plays(camera)
    assert refused(camera).kind is ErrorKind.LED_ELSEWHERE
    assert not victim.noticed()


@pytest.mark.parametrize("way", [Transport.TCP, Transport.UDP])
def test_foreign_names_in_descriptions_are_only_names(camera, victim, way):
    """Requests go to the camera whatever they name, so a camera behind a NAT works."""
    for place in (
        f"rtsp://{victim.host}:{victim.port}/x",
        f"http://{victim.host}:{victim.port}/",
        f"file://{victim.file}",
    ):
        for control in ("a=control:trackID=0", "a=control:*"):
            camera.script = Script(sdp=replaced(control, f"a=control:{place}"))
            assert plays(camera, transport=way)
        for name in ("Content-Base", "Content-Location", "Location"):
            camera.script = Script(on={"DESCRIBE": header(name, place)})
            assert plays(camera, transport=way)
    for address in (victim.host, "192.0.2.1", "239.1.1.1/127"):
        line = f"IN IP4 {address}"
        camera.script = Script(sdp=replaced("c=IN IP4 0.0.0.0", f"c={line}"))
        assert plays(camera, transport=way)
        camera.script = Script(
            sdp=replaced("a=control:trackID", f"c={line}\r\na=source-filter: incl {line}\r\na=control:trackID")
        )
        assert plays(camera, transport=way)
        camera.script = Script(sdp=replaced("IN IP4 127.0.0.1", line))  # o=
        assert plays(camera, transport=way)
    assert not victim.noticed()


def test_a_foreign_source_of_datagrams_gets_none(camera, victim):
    source_is = f";source={victim.host}"
    camera.script = Script(on=transport(source_is, victim.udp_port))
    error = refused(camera, transport=Transport.UDP)
    assert error.kind is ErrorKind.LED_ELSEWHERE and f"{victim.host}:{victim.udp_port}" in str(error)
    camera.script = Script(on=transport(";source=name.invalid", victim.udp_port))
    assert "another name" in str(refused(camera, transport=Transport.UDP))
    camera.script = Script(on=transport(source_is))
    assert plays(camera)  # over TCP it means nothing
    for way in Transport:
        camera.script = Script(on=transport(f";destination={victim.host}"))
        assert plays(camera, transport=way)
    assert not victim.noticed()


@pytest.mark.parametrize("port", [0, 53])
def test_a_camera_that_names_no_good_port_still_plays(camera, port):
    camera.script = Script(on=transport(server_port=port))
    assert plays(camera, transport=Transport.UDP)


def test_multicast_is_not_joined(camera):
    def multicast(request, answer):
        said = "RTP/AVP;multicast;destination=239.1.1.1;port=5000-5001;ttl=1"
        return answer if answer.status != 200 else replace(answer, headers={**answer.headers, "Transport": said})

    camera.script = Script(on={"SETUP": multicast})
    for way in Transport:
        assert refused(camera, transport=way).kind is ErrorKind.FAILED


def playlists(victim):
    url = f"rtsp://{victim.host}:{victim.port}/x"
    yield f"#EXTM3U\n#EXTINF:1,\nfile://{victim.file}\n{url}\n".encode()
    yield f"ffconcat version 1.0\nfile {victim.file}\nfile {url}\n".encode()
    yield f"v=0\no=- 1 1 IN IP4 {victim.host}\nu=file://{victim.file}\nm=video 0 RTP/AVP 96\nc=file://{victim.file}\n".encode()


def test_a_playlist_is_no_answer(camera, victim):
    for text in playlists(victim):
        camera.script = Script(on={"DESCRIBE": lambda q, a, t=text: replace(a, body=t) if a.status == 200 else a})
        refused(camera)
    camera.script = Script(on={"ACCEPT": lambda q, a: text, "*": lambda q, a: text})
    refused(camera, connect_s=3)
    assert not victim.noticed()


def trusting(monkeypatch):
    """As careless as FFmpeg alone is: rtsp on the protocol list."""
    strict = source.live_options

    def options(spec, scheme):
        found = strict(spec, scheme)
        return {**found, "protocol_whitelist": found["protocol_whitelist"] + ",rtsp"}

    monkeypatch.setattr(source, "live_options", options)


def unjudged(monkeypatch):
    monkeypatch.setattr(guard, "run_judged", lambda call, judge: call())


def test_without_the_guards_the_victim_is_visited(camera, victim, monkeypatch):
    unjudged(monkeypatch)
    camera.script = Script(on=transport(f";source={victim.host}", victim.udp_port))
    opened(camera, transport=Transport.UDP).close()
    assert victim.noticed() == ["datagram"]
    trusting(monkeypatch)
    camera.script = Script(on={"DESCRIBE": redirect(f"rtsp://{victim.host}:{victim.port}/x")})
    with pytest.raises(SourceError):
        opened(camera, connect_s=3)  # the victim takes the connection and says nothing
    assert victim.noticed() == ["connection"]
    victim.file.read_text()
    assert victim.noticed() == ["file opened"]


def test_the_judge_alone_stops_redirects(camera, victim, monkeypatch):
    trusting(monkeypatch)
    place = f"rtsp://{victim.host}:{victim.port}/x"
    for method in METHODS[:2]:
        camera.script = Script(on={method: redirect(place)})
        error = refused(camera)
        assert error.kind is ErrorKind.LED_ELSEWHERE and f"{victim.host}:{victim.port}" in str(error)
    for place in (camera.url, "rtsp://name.invalid/x", f"rtsp://127.0.0.1:{victim.near_port}/"):
        camera.script = Script(on={"DESCRIBE": redirect(place)})
        assert refused(camera).kind is ErrorKind.LED_ELSEWHERE
    assert not victim.noticed()


@pytest.mark.parametrize("way", [Transport.TCP, Transport.UDP])
def test_names_of_cameras_are_looked_up(clip, way):
    with RogueCamera(clip.path) as rogue:
        url = rogue.url.replace("127.0.0.1", "localhost")
        live = open_source(StreamSpec("cam", url, transport=way), None, 20, 20, threading.Event(), time.monotonic_ns)
        assert isinstance(live, LiveSource) and next(live.packets()).size
        live.close()
    assert f"//localhost:{rogue.port}/" in rogue.requests[0].url


def test_ipv6(clip):
    with RogueCamera(clip.path, host="::1") as rogue:
        for way in Transport:
            live = open_source(
                StreamSpec("cam", rogue.url, transport=way), None, 20, 20, threading.Event(), time.monotonic_ns
            )
            assert next(live.packets()).size
            live.close()


def test_nothing_is_left_of_refused_opens(camera, victim):
    camera.script = Script(on=transport(f";source={victim.host}", victim.udp_port))
    refused(camera, transport=Transport.UDP)
    before = descriptors()
    for _ in range(10):
        refused(camera, transport=Transport.UDP)
    end = time.monotonic() + 30
    while descriptors() - before:  # the camera's own side, in this process too, closes in its own time
        assert time.monotonic() < end
        time.sleep(0.05)
