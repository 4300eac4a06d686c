"""The registry: desired state in memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.control import (
    CapacityError,
    ConflictError,
    ControlError,
    InvalidError,
    NotFoundError,
    ReadOnlyError,
)
from facedetd.registry.registry import Entry, Registry
from facedetd.types import Origin, Secret, StreamSpec

A, B, C = (StreamSpec(name, f"rtsp://{name}/1") for name in "abc")


def test_add_get_and_order() -> None:
    registry = Registry.build([B], [])
    after = registry.add(C, Secret("p")).add(A, Secret(""))
    assert [entry.spec.id for entry in after.entries()] == ["a", "b", "c"]
    assert after.get("c") == Entry(C, Origin.API, Secret("p"))
    assert after.get("a").secret is None
    assert after.get("b").origin is Origin.CONFIG
    assert after.stored() == ((A, None), (C, Secret("p")))
    assert [entry.spec.id for entry in registry.entries()] == ["b"]  # the earlier state is as it was
    with pytest.raises(NotFoundError, match='there is no stream "x"'):
        after.get("x")


def test_add_refuses() -> None:
    registry = Registry.build([A], [(B, None)], max_streams=2)
    with pytest.raises(ConflictError, match='a stream "a" stands already in the configuration'):
        registry.add(A, None)
    with pytest.raises(ConflictError, match=r'a stream "b" stands already$'):
        registry.add(B, None)
    with pytest.raises(CapacityError, match=r"2 streams stand, daemon.max_streams is 2"):
        registry.add(C, None)
    with pytest.raises(InvalidError) as caught:
        registry.add(replace(C, url="rtsp://u:hunter2@h", priority=-1, credential="x"), Secret("hunter2"))
    assert [v.field for v in caught.value.violations] == ["spec.url", "spec.priority", "spec.credential"]
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidError):
        registry.add(replace(C, url="file:///x"), None)
    assert Registry(allow_file_sources=True).add(replace(C, url="file:///x"), None).get("c")


def test_update() -> None:
    registry = Registry.build([A], [(B, Secret("p"))])
    after = registry.update("b", {"priority": 9, "target_fps": 3, "labels": (("x", "y"),), "id": "b"}, None)
    assert after.get("b").spec == replace(B, priority=9, target_fps=3, labels=(("x", "y"),))
    assert after.get("b").secret == Secret("p")
    assert registry.update("b", {}, Secret("q")).get("b").secret == Secret("q")
    assert registry.update("b", {}, Secret("")).get("b").secret is None
    with pytest.raises(NotFoundError):
        registry.update("x", {}, None)
    with pytest.raises(ReadOnlyError, match="change it there, then reload"):
        registry.update("a", {"priority": 1}, None)
    for changes, field in [
        ({"prio": 1}, "spec.prio"),
        ({"id": "z"}, "spec.id"),
        ({"priority": True}, "spec.priority"),
        ({"priority": 1.5}, "spec.priority"),
        ({"transport": "tcp2"}, "spec.transport"),
        ({"paused": 1}, "spec.paused"),
        ({"rois": []}, "spec.rois"),
        ({"url": None}, "spec.url"),
        ({"min_fps": 6.0}, "spec.min_fps"),
        ({"credential": "x"}, "spec.credential"),
    ]:
        with pytest.raises(InvalidError) as caught:
            registry.update("b", changes, None)
        assert [v.field for v in caught.value.violations] == [field]


def test_remove() -> None:
    registry = Registry.build([A], [(B, None)])
    assert [entry.spec.id for entry in registry.remove("b").entries()] == ["a"]
    with pytest.raises(ReadOnlyError):
        registry.remove("a")
    with pytest.raises(NotFoundError):
        registry.remove("x")


def test_an_id_in_both_is_an_error() -> None:
    with pytest.raises(ConflictError, match=r'the stream "a" stands in the configuration and was also added'):
        Registry.build([A], [(A, None), (B, None)])
    registry = Registry.build([], [(A, None), (B, None)])
    with pytest.raises(ConflictError, match='the streams "a", "b" stand in'):
        registry.with_config([B, A], max_streams=0, allow_file_sources=False)


def test_reload_replaces_the_configured_and_keeps_the_added() -> None:
    registry = Registry.build([A], [(B, Secret("p"))])
    after = registry.with_config([C], max_streams=5, allow_file_sources=True)
    assert [(entry.spec.id, entry.origin) for entry in after.entries()] == [("b", Origin.API), ("c", Origin.CONFIG)]
    assert (after.max_streams, after.allow_file_sources) == (5, True)
    assert after.get("b").secret == Secret("p")


def test_streams_that_broke_a_rule_since_are_kept_and_blocked() -> None:
    video = replace(B, url="file:///v.mp4")
    registry = Registry.build([A], [(video, None)], max_streams=1)
    assert registry.get("b").spec == video
    assert {name: [v.field for v in found] for name, found in registry.blocked().items()} == {"b": ["spec.url"]}


def test_a_password_that_ffmpeg_would_cut_is_refused_wherever_it_comes_from() -> None:
    long = Secret("S" * 127)  # and the ':' before it
    registry = Registry.build([], [(B, Secret("p"))])
    for refused, prefix in (
        (lambda: registry.add(A, long), ""),
        (lambda: registry.update("b", {}, long), ""),
        (lambda: registry.update("b", {"username": "u" * 126}, None), ""),
        (lambda: registry.import_all([(A, long)]), "streams[0]."),
    ):
        with pytest.raises(InvalidError, match="at most 127") as caught:
            refused()
        assert [v.field for v in caught.value.violations] == [f"{prefix}credentials.password"]
        assert "SS" not in str(caught.value)
    assert registry.add(A, Secret("S" * 126)).get("a").secret == Secret("S" * 126)
    assert list(Registry.build([], [(B, long)]).blocked()) == ["b"]  # of an older state file


def test_import_is_all_or_nothing() -> None:
    registry = Registry.build([A], [(B, Secret("p"))], max_streams=3)
    outcome = registry.import_all([(C, Secret("q")), (B, Secret("p"))])
    assert (outcome.created, outcome.unchanged) == (("c",), ("b",))
    assert outcome.registry.stored() == ((B, Secret("p")), (C, Secret("q")))
    with pytest.raises(ConflictError, match='the streams "a", "b" stand already, with another definition'):
        registry.import_all([(C, None), (B, Secret("other")), (A, None)])
    with pytest.raises(CapacityError, match="no room for 2 more"):
        registry.import_all([(C, None), (replace(C, id="d"), None)])
    with pytest.raises(InvalidError) as caught:
        registry.import_all([(C, None), (replace(C, priority=-1), None), (replace(A, url=""), None)])
    assert [v.field for v in caught.value.violations] == [
        "streams[1].spec.priority",
        "streams[1].spec.id",
        "streams[2].spec.url",
    ]


def test_no_secret_in_repr() -> None:
    registry = Registry.build([], [(B, Secret("hunter2"))])
    assert "hunter2" not in repr(registry) + repr(registry.stored()) + repr(registry.import_all([]))


_specs = st.builds(
    lambda name, priority: StreamSpec(name, "rtsp://h", priority=priority),
    st.sampled_from("abcde"),
    st.integers(-1, 1),
)
_secrets = st.none() | st.sampled_from(["", "x"]).map(Secret)
_operations = st.one_of(
    st.tuples(st.just("add"), _specs, _secrets),
    st.tuples(st.just("remove"), st.sampled_from("abcde")),
    st.tuples(
        st.just("update"), st.sampled_from("abcde"), st.fixed_dictionaries({"priority": st.integers(-1, 1)}), _secrets
    ),
    st.tuples(st.just("import_all"), st.lists(st.tuples(_specs, _secrets), max_size=4)),
)


@given(operations=st.lists(_operations, max_size=20))
def test_any_order_of_changes_keeps_the_rules(operations: list[tuple[object, ...]]) -> None:
    registry = Registry.build([A], [], max_streams=3)
    for name, *arguments in operations:
        before = dict(registry.by_id)
        try:
            result = getattr(registry, str(name))(*arguments)
        except ControlError:
            assert registry.by_id == before
            continue
        registry = result if isinstance(result, Registry) else result.registry
        assert len(registry.by_id) <= 3
        assert registry.get("a") == Entry(A, Origin.CONFIG)
        assert all(key == entry.spec.id for key, entry in registry.by_id.items())
        assert registry.blocked() == {}
        assert Registry.build([A], registry.stored(), max_streams=3) == registry
