"""Sockets, health, reflection, watchers: the server as its callers see it."""

import asyncio
import dataclasses
import itertools
import socket
import stat
import threading
import time
from pathlib import Path

import grpc
import pytest
from api_harness import serving
from fakes_control import FakeControl, result_of, view_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import facedetd
from facedetd.api import sockets
from facedetd.api.server import ApiServer
from facedetd.api.services import Labels
from facedetd.api.sockets import SocketError
from facedetd.config.model import ApiConfig
from facedetd.types import StreamSpec
from facedetd.v1 import daemon_pb2, daemon_pb2_grpc, detection_pb2, detection_pb2_grpc, stream_pb2, stream_pb2_grpc


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def start_only(config):
    async def run():
        server = ApiServer(FakeControl(), config)
        try:
            await server.start()
        finally:
            await server.stop(0)

    asyncio.run(run())


# --- socket files ---


def test_sockets_are_for_owner_and_group_only_and_go_with_the_server():
    with serving() as served:
        for path in (served.config.socket, served.config.read_only_socket):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        served.stop()
        assert not served.config.socket.exists() and not served.config.read_only_socket.exists()


def test_a_live_socket_is_refused_and_lives_on():
    with serving() as first:
        with pytest.raises(SocketError, match=r"another server listens on .*facedetd\.sock; stop it first"):
            start_only(first.config)
        with first.channel() as channel:
            daemon_pb2_grpc.DaemonServiceStub(channel).GetVersion(daemon_pb2.GetVersionRequest(), timeout=10)


def test_a_live_second_socket_leaves_no_first_behind(tmp_path):
    with serving() as first:
        config = ApiConfig(first.config.socket.parent / "new.sock", first.config.read_only_socket)
        with pytest.raises(SocketError, match=r"facedetd-ro\.sock"):
            start_only(config)
        assert not config.socket.exists()


def test_a_dead_socket_file_is_replaced():
    with serving() as served:
        config, folder = served.config, served.config.socket.parent
        served.stop()
        for path in (config.socket, config.read_only_socket):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
            assert path.exists() and not sockets.is_live(path)
        start_only(config)
        assert list(folder.iterdir()) == []


def test_a_server_that_is_too_busy_to_accept_counts_as_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(sockets, "PROBE_TIMEOUT_S", 0.05)
    path = Path(f"/tmp/fd-busy-{tmp_path.name[:20]}-{id(tmp_path)}.sock")
    try:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as filler:
            busy.bind(str(path))
            busy.listen(0)
            filler.connect(str(path))  # the backlog is full now
            assert sockets.is_live(path)
    finally:
        path.unlink(missing_ok=True)


def test_other_files_in_the_way_are_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(SocketError, match="it is not a socket"):
        sockets.prepare(path)
    assert path.read_text() == "mine"


def test_socket_paths_are_judged_before_they_are_tried(tmp_path):
    with pytest.raises(SocketError, match="too long: at most 107 bytes"):
        sockets.prepare(tmp_path / ("x" * 120))
    (tmp_path / "file").write_text("")
    with pytest.raises(SocketError, match=r"can't use .*file"):
        sockets.prepare(tmp_path / "file" / "s")
    same = ApiConfig(tmp_path / "s", tmp_path / "s")
    with pytest.raises(SocketError, match="must differ"):
        start_only(same)


def test_a_missing_directory_is_made(tmp_path):
    sockets.prepare(tmp_path / "run" / "s")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) & 0o022 == 0


def test_only_the_own_file_is_removed(tmp_path):
    path = tmp_path / "s"
    path.write_text("a")
    own = sockets.identity(path)
    path.rename(tmp_path / "kept")
    path.write_text("someone else's")
    sockets.remove_own(path, own)
    assert path.exists()
    sockets.remove_own(tmp_path / "kept", own)
    assert not (tmp_path / "kept").exists()


# --- health and reflection ---


def test_health_says_controllable_and_detecting_apart():
    with serving() as served, served.channel(read_only=True) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def check(service):
            return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status

        words = health_pb2.HealthCheckResponse
        name = "facedetd.v1.DetectionService"
        assert (check(""), check(name)) == (words.SERVING, words.NOT_SERVING)
        changes = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert next(changes).status == words.NOT_SERVING
        served.call(served.server.set_serving, True)
        assert next(changes).status == words.SERVING
        assert (check(""), check(name)) == (words.SERVING, words.SERVING)
        served.call(served.server.set_serving, False)
        assert next(changes).status == words.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check("no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        changes.cancel()


def test_reflection_lists_the_services():
    with serving() as served, served.channel(read_only=True) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(stub.ServerReflectionInfo(iter([ask]), timeout=10))
        names = {service.name for service in answer.list_services_response.service}
        assert {"facedetd.v1.StreamService", "facedetd.v1.DetectionService", "facedetd.v1.DaemonService"} < names


# --- calls ---


def test_a_streams_life_and_no_answer_holds_its_password():
    with serving() as served, served.channel() as channel:
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        spec = stream_pb2.StreamSpec(id="cam1", url="rtsp://cam/1", labels={"site": "n"}, min_fps=9.0)
        credentials = stream_pb2.Credentials(username="u", password="hunter2")
        answers = [
            stub.CreateStream(stream_pb2.CreateStreamRequest(spec=spec, credentials=credentials, dry_run=True)),
        ]
        assert served.control.streams == {}
        answers.append(stub.CreateStream(stream_pb2.CreateStreamRequest(spec=spec, credentials=credentials)))
        assert list(answers[-1].warnings) == ["min_fps is over target_fps"]
        assert served.control.secrets["cam1"].value == "hunter2"
        answers.append(stub.GetStream(stream_pb2.GetStreamRequest(id="cam1")))
        assert answers[-1].stream.has_password and answers[-1].stream.spec.username == "u"
        answers.append(stub.PauseStream(stream_pb2.PauseStreamRequest(id="cam1")))
        assert answers[-1].stream.spec.paused
        answers.append(stub.ResumeStream(stream_pb2.ResumeStreamRequest(id="cam1")))
        assert not answers[-1].stream.spec.paused
        request = stream_pb2.UpdateStreamRequest(spec=stream_pb2.StreamSpec(id="cam1", priority=80))
        request.update_mask.paths.append("priority")
        answers.append(stub.UpdateStream(request))
        assert answers[-1].stream.spec.priority == 80 and served.control.secrets["cam1"].value == "hunter2"
        answers.append(stub.ListStreams(stream_pb2.ListStreamsRequest(labels={"site": "n"})))
        assert [s.spec.id for s in answers[-1].streams] == ["cam1"]
        assert not stub.ListStreams(stream_pb2.ListStreamsRequest(labels={"site": "s"})).streams
        shot = stub.GetSnapshot(stream_pb2.GetSnapshotRequest(id="cam1", plain=True))
        assert shot.jpeg.endswith(b"plain") and (shot.width, shot.height) == (1920, 1080)
        assert not any(b"hunter2" in answer.SerializeToString() for answer in answers)
        stub.DeleteStream(stream_pb2.DeleteStreamRequest(id="cam1"))
        assert served.control.streams == {}


def test_an_import_names_every_bad_entry():
    with serving() as served, served.channel() as channel:
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        request = stream_pb2.ImportStreamsRequest()
        for number in range(3):
            request.streams.add(spec=stream_pb2.StreamSpec(id=f"c{number}", url="rtsp://h/"))
        request.dry_run = True
        assert list(stub.ImportStreams(request).created) == ["c0", "c1", "c2"]
        assert not served.control.streams
        request.streams[0].spec.transport = 9
        request.streams[2].spec.decode = 9
        with pytest.raises(grpc.RpcError) as caught:
            stub.ImportStreams(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "streams[0].spec.transport" in caught.value.details()
        assert "streams[2].spec.decode" in caught.value.details()


def test_version_names_the_libraries():
    with serving() as served, served.channel(read_only=True) as channel:
        answer = daemon_pb2_grpc.DaemonServiceStub(channel).GetVersion(daemon_pb2.GetVersionRequest())
        assert (answer.version, answer.api_version) == (facedetd.__version__, "v1")
        assert "grpcio" in answer.libraries


@pytest.mark.parametrize("seconds", [0.0, 0.19, -1.0, 4000.0])
def test_stats_are_not_sent_faster_than_allowed(seconds):
    with serving() as served, served.channel() as channel:
        request = daemon_pb2.WatchStatsRequest()
        request.interval.FromNanoseconds(int(seconds * 1e9))
        with pytest.raises(grpc.RpcError) as caught:
            next(daemon_pb2_grpc.DaemonServiceStub(channel).WatchStats(request, timeout=10))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "is not between 0.2 and 3600 s" in caught.value.details()


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_scores_are_fractions(score):
    with serving() as served, served.channel() as channel:
        request = detection_pb2.WatchDetectionsRequest(min_score=score)
        with pytest.raises(grpc.RpcError) as caught:
            next(detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(request, timeout=10))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- watchers ---


def test_a_watcher_gets_what_it_asked_for_with_labels():
    with serving() as served, served.channel(read_only=True) as channel:
        served.control.streams["a"] = view_of(StreamSpec("a", "rtsp://h/", labels=(("site", "n"),)))
        served.control.streams["b"] = view_of(StreamSpec("b", "rtsp://h/"))
        request = detection_pb2.WatchDetectionsRequest(stream_ids=["a"], min_score=0.8)
        answers = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(request, timeout=20)
        until(lambda: len(served.control.watchers) == 1)
        for result in (result_of("b", 1), result_of("a", 2, score=0.5), result_of("a", 3, score=0.9)):
            served.call(served.control.push, result)
        first = next(answers)
        assert (first.detection.stream_id, first.detection.sequence, first.lost) == ("a", 3, 0)
        assert dict(first.detection.labels) == {"site": "n"}
        answers.cancel()


def test_labels_are_read_again_after_a_second_and_may_be_gone():
    control, now = FakeControl(), [0.0]
    control.streams["a"] = view_of(StreamSpec("a", "rtsp://h/", labels=(("k", "1"),)))
    labels = Labels(control, lambda: now[0])
    assert labels.of("a") == {"k": "1"}
    del control.streams["a"]
    assert labels.of("a") == {"k": "1"}
    now[0] = 1.0
    assert labels.of("a") == {}


def test_a_cancelled_watcher_is_closed_at_once_and_frees_its_place():
    with serving(max_watchers=1) as served, served.channel() as channel:
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        for round_ in range(1, 4):
            answers = stub.WatchDetections(detection_pb2.WatchDetectionsRequest(), timeout=30)
            until(lambda: len(served.control.watchers) == 1)
            answers.cancel()
            until(lambda: served.control.closed_watchers == round_)  # noqa: B023
            until(lambda: served.call(lambda: served.server.watchers) == 0)


def test_a_watcher_that_vanishes_while_it_does_not_read_is_closed():
    with serving() as served:
        channel = served.channel(options=[("grpc.http2.lookahead_bytes", 4096)])
        answers = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
            detection_pb2.WatchDetectionsRequest()
        )
        until(lambda: len(served.control.watchers) == 1)

        def flood():
            for number in range(3000):
                served.control.push(result_of("a", number, faces=100))

        served.call(flood)
        answers.cancel()
        channel.close()
        until(lambda: served.control.closed_watchers == 1)


def test_over_the_limit_a_watcher_is_told_so():
    with serving(max_watchers=2) as served, served.channel() as channel, served.channel(read_only=True) as other:
        stub = daemon_pb2_grpc.DaemonServiceStub(channel)
        calls = [stub.WatchStats(daemon_pb2.WatchStatsRequest()) for _ in range(2)]
        for call in calls:
            next(call)
        answers = detection_pb2_grpc.DetectionServiceStub(other).WatchDetections(
            detection_pb2.WatchDetectionsRequest(), timeout=10
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "all 2 places for watchers are taken (api.max_watchers)" in caught.value.details()
        for call in calls:
            call.cancel()


def test_stop_ends_watchers_at_once_with_a_reason():
    with serving() as served, served.channel() as channel:
        detections = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
            detection_pb2.WatchDetectionsRequest(), timeout=60
        )
        stats = daemon_pb2_grpc.DaemonServiceStub(channel).WatchStats(daemon_pb2.WatchStatsRequest(), timeout=60)
        next(stats)
        until(lambda: len(served.control.watchers) == 1)
        stopping = threading.Thread(target=served.stop, args=(50.0,))  # far longer than the calls' end may take
        stopping.start()
        for call in (detections, stats):
            with pytest.raises(grpc.RpcError) as caught:
                for _ in call:
                    pass
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the daemon is stopping"
        stopping.join(20)
        assert not stopping.is_alive()
        until(lambda: served.control.watchers == [])


def test_stop_in_the_middle_of_writes_ends_readers_with_the_reason_too():
    with serving() as served, served.channel() as channel:
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        calls = [stub.WatchDetections(detection_pb2.WatchDetectionsRequest(), timeout=60) for _ in range(8)]
        until(lambda: len(served.control.watchers) == 8)

        def push_and_stop():
            for number in range(200):
                served.control.push(result_of("a", number, faces=50))
            served.server._watchers.stop()

        ends = []

        def drain(call):
            try:
                for _ in call:
                    pass
            except grpc.RpcError as error:
                ends.append((error.code(), error.details()))

        readers = [threading.Thread(target=drain, args=(call,)) for call in calls]
        for reader in readers:
            reader.start()
        served.call(push_and_stop)
        for reader in readers:
            reader.join(30)
        assert ends == [(grpc.StatusCode.UNAVAILABLE, "the daemon is stopping")] * 8


def test_stop_cuts_off_a_watcher_that_does_not_read():
    with serving() as served, served.channel() as channel:
        call = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
            detection_pb2.WatchDetectionsRequest(), timeout=60
        )
        until(lambda: len(served.control.watchers) == 1)
        padded = dataclasses.replace(result_of("a", 1), model_version="x" * 100_000)
        for _ in range(3):
            served.call(lambda: [served.control.push(padded) for _ in range(200)])
            time.sleep(0.1)
        served.stop(0.2)
        until(lambda: served.control.watchers == [])
        call.cancel()


def test_results_that_wait_come_in_one_message_where_that_is_asked_for():
    control = FakeControl(watcher_queue=100)
    control.watch_ready = [result_of("a", n) for n in range(100)]
    for together, sizes in ((True, [64, 36]), (False, [1] * 100)):
        with serving(control) as served, served.channel() as channel:
            answers = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
                detection_pb2.WatchDetectionsRequest(together=together), timeout=30
            )
            found = [[answer.detection, *answer.more] for answer in itertools.islice(answers, len(sizes))]
            answers.cancel()
        assert [len(one) for one in found] == sizes
        assert [one.sequence for some in found for one in some] == list(range(100))


def test_results_of_a_crowd_come_in_messages_that_grpc_takes():
    """A client that asks for nothing else takes 4 MiB."""
    control = FakeControl(watcher_queue=100)
    control.watch_ready = [result_of("a", n, faces=1000) for n in range(64)]
    with serving(control) as served, served.channel() as channel:
        answers = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
            detection_pb2.WatchDetectionsRequest(together=True), timeout=30
        )
        found = []
        while len(found) < 64:
            answer = next(answers)
            found += [answer.detection, *answer.more]
        answers.cancel()
    assert [one.sequence for one in found] == list(range(64))
    assert all(len(one.faces) == 1000 for one in found)


def test_a_control_plane_that_ends_its_results_ends_the_call():
    class Ending(FakeControl):
        async def watch(self, wanted):
            yield result_of("a", 1), 0

    with serving(Ending()) as served, served.channel() as channel:
        answers = detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(
            detection_pb2.WatchDetectionsRequest(), timeout=10
        )
        assert [answer.detection.sequence for answer in answers] == [1]
