"""doctor: from what was found to what to do."""

import socket

import pytest
from api_harness import serving
from ctl_harness import Ctl
from fakes_control import FakeControl, view_of

from facedetctl import doctor
from facedetctl import doctor_checks as checks
from facedetctl.doctor_checks import Grade, Machine
from facedetd.types import StreamSpec
from facedetd.v1 import daemon_pb2, stream_pb2

PLAIN = Machine(clock=True, links={}, files=(10, 1000))


def stats(*streams: stream_pb2.Stream, **fields: object) -> daemon_pb2.GetStatsResponse:
    return daemon_pb2.GetStatsResponse(streams=streams, **fields)


def stream(state: str = "STREAMING", **fields: object) -> stream_pb2.Stream:
    found = stream_pb2.Stream()
    found.spec.id, found.spec.target_fps = "door", 5.0
    found.status.state = stream_pb2.StreamState.Value(f"STREAM_STATE_{state}")
    for name, value in fields.items():
        setattr(found.status, name, value)
    return found


def test_what_the_daemon_says_is_told_with_advice():
    health = daemon_pb2.GetHealthResponse(state=daemon_pb2.DAEMON_STATE_WAITING_FOR_MODEL)
    health.problems.add(severity=daemon_pb2.SEVERITY_WARNING, subject="memory", message="400 streams may not fit")
    first, second = checks.daemon(health)
    assert (first.grade, first.found) == (Grade.ERROR, "waiting-for-model") and "model pull" in first.advice
    assert (second.grade, second.subject) == (Grade.WARNING, "memory") and "MemoryMax" in second.advice
    fine = checks.daemon(daemon_pb2.GetHealthResponse(state=daemon_pb2.DAEMON_STATE_RUNNING, serving=True))
    assert [(f.grade, f.advice) for f in fine] == [(Grade.OK, "")]


@pytest.mark.parametrize(
    ("camera", "reached", "grade", "advice"),
    [
        (stream("BACKING_OFF", detail="no route"), "No route to host", Grade.ERROR, "network"),
        (stream("BACKING_OFF", detail="login refused"), "", Grade.ERROR, "--password-stdin"),
        (stream("BACKING_OFF", detail="404 Not Found"), "", Grade.ERROR, "path of the URL"),
        (stream(codec="vp8"), None, Grade.WARNING, "H.264"),
        (stream(codec="h264", source_fps=2.9), None, Grade.WARNING, "--target-fps 2"),
    ],
)
def test_cameras_that_trouble(camera, reached, grade, advice):
    whole, one = checks.cameras(stats(camera), {} if reached is None else {"door": reached})
    assert whole.subject == "cameras" and (one.subject, one.grade) == ("camera door", grade) and advice in one.advice


def test_cameras_that_are_as_they_should_be_are_one_line():
    good = [stream(codec="hevc", source_fps=25.0), stream("PAUSED")]
    assert [f.found for f in checks.cameras(stats(*good), {})] == ["1 of 2 give pictures"]


def test_the_network_by_what_came_between_two_answers():
    before, after = stats(stream(bytes_received=1_000_000)), stats(stream(bytes_received=11_000_000))
    after.time.FromNanoseconds(1_000_000_000)
    assert checks.network(before, after, {"eth0": 100}).grade is Grade.WARNING
    assert checks.network(before, after, {"eth0": 100}).found == "80.0 Mbit/s of video; eth0 carries 100 Mbit/s"
    assert checks.network(before, after, {"eth0": 1000}).grade is Grade.OK
    after.degradation.shortage = daemon_pb2.STAGE_NETWORK
    assert checks.network(before, after, {}).grade is Grade.ERROR
    # A stream that began anew, or that is new, takes nothing away
    assert "0.0 Mbit/s" in checks.network(after, stats(stream(bytes_received=5), time=after.time), {}).found


def test_machine_and_model():
    assert checks.files(Machine(True, {}, (900, 1000))).grade is Grade.WARNING
    assert checks.files(Machine(True, {}, None)).grade is Grade.UNKNOWN
    assert checks.clock(Machine(False, {}, None)).grade is Grade.WARNING
    assert checks.clock(PLAIN).grade is Grade.OK
    assert checks.model(stats()).grade is Grade.ERROR
    old = stats()
    old.model.name = "centerface"
    assert checks.model(old).grade is Grade.OK
    old.model.calibration.age.FromSeconds(200 * 86400)
    assert checks.model(old).grade is Grade.WARNING
    short = stats()
    short.degradation.state = daemon_pb2.DEGRADATION_STATE_REDUCED
    assert checks.cpu(short).grade is Grade.WARNING and checks.cpu(stats()).grade is Grade.OK


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "grade", "means", "advice"),
    [
        ({"limit": 8000, "free": 6000, "rings": 100, "needed": 900}, Grade.OK, "", ""),
        ({"limit": 800, "free": 700, "rings": 100, "needed": 900}, Grade.WARNING, "may kill", "MemoryMax"),
        ({"limit": 90, "free": 80, "rings": 100, "needed": 900}, Grade.ERROR, "rings alone don't fit", "MemoryMax"),
        ({"limit": 8000, "free": 80, "rings": 100, "needed": 900}, Grade.WARNING, "find no room", "fewer streams"),
        ({"limit": 8000, "free": 100, "rings": 100, "needed": 900}, Grade.OK, "", ""),
        ({"limit": 8000, "free": 6000, "rings": 100, "needed": 900, "high": 899}, Grade.WARNING, "slows", "MemoryHigh"),
        ({"limit": 8000, "free": 6000, "rings": 100, "needed": 900, "high": 901}, Grade.OK, "", ""),
    ],
)
def test_memory_by_what_is_needed_and_what_there_is(sizes, grade, means, advice):
    said = stats(stream(), stream("PAUSED"))
    said.memory.limit_set_by = "/sys/fs/cgroup/facedetd.slice/memory.max"
    for name, size in sizes.items():
        setattr(said.memory, f"{name}_bytes", size * MIB)
    found = checks.memory(said)
    assert found.grade is grade and means in found.found and advice in found.advice
    assert "2 streams need about 900 MiB, 100 MiB of it for rings" in found.found
    assert f"facedetd.slice/memory.max allows {sizes['limit']} MiB, {sizes['free']} MiB are free" in found.found
    del said.streams[1]
    assert "1 stream needs about 900 MiB" in checks.memory(said).found


def test_memory_of_a_daemon_that_does_not_tell():
    # One of an older version
    assert checks.memory(stats()) == checks.Finding(
        "memory", Grade.OK, "0 MiB in 0 processes, shared pages counted in each"
    )


def test_facts_are_read_from_where_linux_has_them(tmp_path):
    for name, state, speed in (("eth0", "up", "1000"), ("eth1", "down", "10"), ("veth", "up", "-1")):
        (tmp_path / "net" / name).mkdir(parents=True)
        (tmp_path / "net" / name / "operstate").write_text(state + "\n")
        (tmp_path / "net" / name / "speed").write_text(speed + "\n")
    assert doctor.link_speeds(tmp_path / "net") == {"eth0": 1000}
    for pid, descriptors in ((7, 3), (8, 5)):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "limits").write_text("Limit  Soft Hard Units\nMax open files   1024  4096  files\n")
        for n in range(descriptors):
            (tmp_path / str(pid) / "fd" / str(n)).touch()
    assert doctor.open_files([7, 8, 9], tmp_path) == (5, 4096) and doctor.open_files([9], tmp_path) is None
    assert doctor.clock_is_kept() in (True, False, None)


def test_a_port_is_tried_and_nothing_but_rtsp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.reach(f"rtsp://127.0.0.1:{port}/x") == ""
    assert "refused" in doctor.reach(f"rtsp://127.0.0.1:{port}/x")
    assert doctor.reach("file:///etc/passwd") == ""


def test_the_command(monkeypatch):
    control = FakeControl()
    control.streams["cam1"] = view_of(StreamSpec("cam1", "rtsp://127.0.0.1:9/1"))
    with serving(control) as served:
        ctl = Ctl(monkeypatch, served)
        found = ctl("doctor", "--seconds", "0.1", "--json")
        subjects = {f["subject"] for f in found.json["findings"]}
        assert {"daemon", "cpu", "memory", "open files", "gpu", "model", "cameras", "network", "clock"} <= subjects
        errors = any(f["grade"] == "error" for f in found.json["findings"])
        assert found.code == (6 if errors else 0)
        assert "clock:" in ctl("doctor", "--seconds", "0.1").out
