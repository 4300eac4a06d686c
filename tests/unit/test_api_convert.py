"""Messages and data classes turn into each other without loss."""

import asyncio
import dataclasses

import pytest
from fakes_control import MEMORY, MODEL, FakeControl, result_of, view_of
from hypothesis import given
from hypothesis import strategies as st

from facedetd.api import convert, convert_daemon
from facedetd.api.limits import WorkShare
from facedetd.api.mask import ALLOWED, FIELDS, changes_of
from facedetd.api.services import StreamServicer, page
from facedetd.control import (
    CalibrationView,
    DaemonState,
    Degradation,
    GpuView,
    HealthView,
    InvalidError,
    LatencyView,
    Problem,
    Stage,
    StreamCounts,
    StreamView,
    WorkerKind,
)
from facedetd.types import DecodeLevel, DecodeMode, Origin, Secret, StreamSpec, StreamState, Transport
from facedetd.v1 import stream_pb2

text = st.text(st.characters(codec="utf-8"), max_size=12)
fraction = st.floats(0, 1)
rate = st.floats(0, 1000)
count = st.integers(0, 2**63)
nanoseconds = st.integers(0, 4_000_000_000_000_000_000)
seconds = st.integers(0, 10**15).map(lambda ns: ns / 1e9)

specs = st.builds(
    StreamSpec,
    id=text,
    url=text,
    sub_url=text,
    username=text,
    credential=st.just(""),
    priority=st.integers(-(2**31), 2**31 - 1),
    target_fps=rate,
    min_fps=rate,
    transport=st.sampled_from(Transport),
    decode=st.sampled_from(DecodeMode),
    tls_verify=st.booleans(),
    ca_file=text,
    rois=st.lists(st.lists(st.tuples(fraction, fraction), max_size=4).map(tuple), max_size=3).map(tuple),
    labels=st.dictionaries(text, text, max_size=3).map(lambda d: tuple(sorted(d.items()))),
    paused=st.booleans(),
)
latencies = st.none() | st.builds(LatencyView, seconds, seconds, seconds, seconds)
counts = st.builds(
    StreamCounts,
    **dict.fromkeys([f.name for f in dataclasses.fields(StreamCounts) if f.name != "dropped"], count),
    dropped=st.dictionaries(text, count, max_size=3),
)
views = st.builds(
    StreamView,
    spec=specs,
    origin=st.sampled_from(Origin),
    has_password=st.booleans(),
    state=st.sampled_from(StreamState),
    detail=text,
    state_since_utc_ns=nanoseconds,
    codec=text,
    source_width=st.integers(0, 16384),
    source_height=st.integers(0, 16384),
    source_fps=rate,
    granted_fps=rate,
    actual_fps=rate,
    latency=latencies,
    counts=counts,
    decode_level=st.sampled_from(DecodeLevel),
    on_sub_stream=st.booleans(),
    sub_stream_problem=text,
)


def close(a: LatencyView | None, b: LatencyView | None) -> bool:
    if a is None or b is None:
        return a is b
    return dataclasses.astuple(a) == pytest.approx(dataclasses.astuple(b), abs=1e-9)


@given(specs)
def test_definitions_survive_the_wire(spec):
    wire = convert.spec_to_proto(spec).SerializeToString()
    assert convert.spec_from_proto(stream_pb2.StreamSpec.FromString(wire)) == spec


@given(specs, st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).map(Secret))
def test_entries_survive_the_wire(spec, secret):
    entry = stream_pb2.StreamImport.FromString(convert.entry_to_proto(spec, secret).SerializeToString())
    assert convert.entry_from_proto(entry.spec, entry.credentials) == (spec, secret)


@given(views)
def test_streams_survive_the_wire(view):
    message = stream_pb2.Stream.FromString(convert.stream_to_proto(view).SerializeToString())
    back = convert.stream_from_proto(message)
    assert close(back.latency, view.latency)
    assert dataclasses.replace(back, latency=None) == dataclasses.replace(view, latency=None)
    assert message.status.drop_fraction == view.counts.drop_fraction


def test_stats_survive_the_wire_and_sum_up():
    control = FakeControl()
    for name, paused in (("a", False), ("b", False), ("c", True)):
        control.streams[name] = view_of(StreamSpec(name, "rtsp://cam/1", target_fps=4.0, paused=paused))
    stats = control.stats()
    message = convert_daemon.stats_to_proto(stats)
    assert convert_daemon.stats_from_proto(message) == stats
    assert message.total_target_fps == 8.0  # the paused one wants nothing
    assert message.total_actual_fps == pytest.approx(7.8)
    assert message.drop_fraction == pytest.approx(9 / 1500)
    for drift in (None, 0.0, 0.25):
        calibration = CalibrationView(5, 500, "entropy", 86_400.5, drift)
        told = dataclasses.replace(stats, model=dataclasses.replace(MODEL, activated=True, calibration=calibration))
        assert convert_daemon.stats_from_proto(convert_daemon.stats_to_proto(told)) == told
    slowed = dataclasses.replace(stats, memory=dataclasses.replace(MEMORY, high=7 << 30))
    assert convert_daemon.stats_from_proto(convert_daemon.stats_to_proto(slowed)) == slowed
    bare = dataclasses.replace(stats, model=None, inference=None, latency=None, streams=(), memory=None)
    assert convert_daemon.stats_from_proto(convert_daemon.stats_to_proto(bare)) == bare


@pytest.mark.parametrize("figures", [(), (0.0, 0.0, 0, 0, 0, 0, 0.0, 0.0), (0.5, 0.25, 19, 60, 80, 4, 61.0, 312.5)])
def test_a_gpu_survives_the_wire_and_what_it_does_not_tell_stays_absent(figures):
    stats = dataclasses.replace(FakeControl().stats(), gpus=(GpuView(1, "GPU-1", "a GPU", "580.0", *figures),))
    assert convert_daemon.stats_from_proto(convert_daemon.stats_to_proto(stats)) == stats


@pytest.mark.parametrize("state", DaemonState)
def test_health_survives_the_wire(state):
    view = HealthView(state, True, (Problem("error", "model", "gone", 5), Problem("warning", "stream a", "slow", 6)))
    for each in (view, dataclasses.replace(view, model=MODEL)):
        assert convert_daemon.health_from_proto(convert_daemon.health_to_proto(each)) == each


def test_every_word_has_its_own_number():
    for table, words in (
        (convert.TRANSPORTS, Transport),
        (convert.DECODE_MODES, DecodeMode),
        (convert.STREAM_STATES, StreamState),
        (convert.ORIGINS, Origin),
        (convert.DECODE_LEVELS, DecodeLevel),
        (convert_daemon.DEGRADATIONS, Degradation),
        (convert_daemon.STAGES, Stage),
        (convert_daemon.DAEMON_STATES, DaemonState),
        (convert_daemon.WORKER_KINDS, WorkerKind),
    ):
        assert set(table) == set(words)
        assert 0 not in table.values() and len(set(table.values())) == len(table)


def test_detection_keeps_boxes_landmarks_and_times():
    result = result_of("cam1", 9, faces=2)
    message = convert.detection_to_proto(result, {"site": "north"})
    assert message.stream_id == "cam1" and message.sequence == 9 and message.epoch == 1
    assert message.capture_time.ToNanoseconds() == result.capture_utc_ns
    assert message.pts.ToNanoseconds() == result.pts_ns
    assert message.latency.ToNanoseconds() == 84_000_000
    assert dict(message.labels) == {"site": "north"}
    first = message.faces[0]
    assert (first.box.x_min, first.box.y_min, first.box.x_max, first.box.y_max) == (312, 120, 392, 216)
    marks = first.landmarks
    assert [(p.x, p.y) for p in (marks.right_eye, marks.left_eye, marks.nose, marks.mouth_right, marks.mouth_left)] == [
        (10, 10), (20, 10), (15, 15), (11, 20), (19, 20),
    ]  # fmt: skip
    bare = dataclasses.replace(result, faces=(dataclasses.replace(result.faces[0], landmarks=()),), pts_ns=-5)
    message = convert.detection_to_proto(bare, {})
    assert not message.faces[0].HasField("landmarks") and message.pts.ToNanoseconds() == -5


def test_what_is_not_given_takes_the_defaults():
    found = convert.spec_from_proto(stream_pb2.StreamSpec(id="a", url="rtsp://h/"))
    assert found == StreamSpec("a", "rtsp://h/")


def test_unknown_enum_numbers_are_refused_by_field():
    message = stream_pb2.StreamSpec(id="a")
    message.transport = 77
    with pytest.raises(InvalidError, match=r"streams\[3\]\.spec\.transport: unknown value 77; allowed are tcp, udp"):
        convert.entry_from_proto(message, stream_pb2.Credentials(), "streams[3].")


def test_the_user_name_may_stand_in_either_place_but_not_differently():
    spec, secret = convert.entry_from_proto(
        stream_pb2.StreamSpec(id="a"), stream_pb2.Credentials(username="u", password="p")
    )
    assert spec.username == "u" and secret == Secret("p")
    with pytest.raises(InvalidError, match="give it once"):
        convert.entry_from_proto(stream_pb2.StreamSpec(username="v"), stream_pb2.Credentials(username="u"))


# --- update masks ---


def update(paths, credentials=None, **fields):
    request = stream_pb2.UpdateStreamRequest(spec=stream_pb2.StreamSpec(id="a", **fields), credentials=credentials)
    request.update_mask.paths.extend(paths)
    return request


def test_mask_names_every_changeable_field_of_the_message():
    changeable = {field.name for field in stream_pb2.StreamSpec.DESCRIPTOR.fields} - {"id"}
    assert set(FIELDS) == changeable
    assert {name for name, _ in FIELDS.values()} == {
        f.name for f in dataclasses.fields(StreamSpec) if f.name not in ("id", "credential")
    }


def test_only_masked_fields_change_and_ungiven_ones_go_back():
    assert changes_of(update(["priority", "sub_url"], url="rtsp://x/", priority=7)) == (
        {"priority": 7, "sub_url": ""},
        None,
    )
    assert changes_of(update(["priority", "transport"])) == ({"priority": 50, "transport": Transport.TCP}, None)


@given(specs)
def test_a_full_mask_takes_over_everything(spec):
    request = stream_pb2.UpdateStreamRequest(spec=convert.spec_to_proto(spec))
    request.update_mask.paths.extend(FIELDS)
    changes, secret = changes_of(request)
    assert secret is None and dataclasses.replace(StreamSpec(spec.id, ""), **changes) == spec


def test_password_is_kept_replaced_or_removed():
    cred = stream_pb2.Credentials(username="u", password="p")
    assert changes_of(update(["credentials"], cred)) == ({"username": "u"}, Secret("p"))
    assert changes_of(update(["credentials.password"], cred)) == ({}, Secret("p"))
    assert changes_of(update(["credentials.password"])) == ({}, Secret(""))
    assert changes_of(update(["credentials.username"], cred)) == ({"username": "u"}, None)


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (update(["fps"]), "update_mask", "unknown path 'fps'; allowed are url,"),
        (update(["id"]), "update_mask", "unknown path 'id'"),
        (update([]), "update_mask", "empty"),
        (update(["url"], stream_pb2.Credentials(password="p")), "credentials", "not named in update_mask"),
        (update(["username", "credentials"], stream_pb2.Credentials(username="v"), username="u"),
         "credentials.username", "give it once"),
    ],
)  # fmt: skip
def test_bad_masks(request_, field, says):
    with pytest.raises(InvalidError) as caught:
        changes_of(request_)
    assert [v.field for v in caught.value.violations] == [field]
    assert says in caught.value.violations[0].message
    if "unknown" in says:
        assert all(path in caught.value.violations[0].message for path in ALLOWED)


# --- paging ---

fleet = st.lists(
    st.tuples(st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True), st.sampled_from(["n", "s"])),
    unique_by=lambda pair: pair[0], max_size=20,
).map(lambda pairs: [StreamSpec(i, "rtsp://h/", labels=(("site", s),)) for i, s in sorted(pairs)])  # fmt: skip


@given(fleet, st.integers(0, 7), st.sampled_from([{}, {"site": "n"}, {"site": "x"}]))
def test_pages_show_each_matching_stream_once_in_order(specs, size, labels):
    seen, token, rounds = [], "", 0
    while True:
        shown, token = page(specs, size, token, labels)
        assert not size or len(shown) <= size
        seen += shown
        rounds += 1
        assert rounds <= len(specs) + 1
        if not token:
            break
    assert seen == [s for s in specs if set(labels.items()) <= set(s.labels)]


@pytest.mark.parametrize(
    ("size", "token", "field"), [(-1, "", "page_size"), (1, "§", "page_token"), (1, "_", "page_token")]
)
def test_bad_pages(size, token, field):
    with pytest.raises(InvalidError) as caught:
        page([], size, token, {})
    assert caught.value.violations[0].field == field


def test_a_mask_of_a_million_unknown_paths_is_answered_shortly():
    with pytest.raises(InvalidError) as caught:
        changes_of(update([f"x{n}" for n in range(10_000)]))
    assert len(caught.value.violations) <= 101 and "more than 100 paths" in str(caught.value)


def test_an_import_of_millions_is_refused_unread():
    class Untouched:
        """No call is made."""

    request = stream_pb2.ImportStreamsRequest(streams=[stream_pb2.StreamImport()] * 10_001)
    with pytest.raises(InvalidError, match="10001 entries; at most 10000"):
        asyncio.run(StreamServicer(Untouched(), WorkShare()).ImportStreams(request, None))
