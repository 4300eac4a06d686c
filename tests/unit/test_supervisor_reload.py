"""What a reload changes, what it leaves for the next start, and what is in force then."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from facedetd.config.model import ApiConfig, CaptureConfig, Config, DaemonConfig, InferenceConfig, ModelConfig
from facedetd.supervisor.reload import LIVE_KEYS, LIVE_SECTIONS, difference, taken_over
from facedetd.types import StreamSpec

OLD = Config()


def changed(section: str, **values: object) -> Config:
    return replace(OLD, **{section: replace(getattr(OLD, section), **values)})


def test_nothing_changed_is_nothing_to_do() -> None:
    found = difference(OLD, Config())
    assert (found.changes, found.restart_needed, found.swap) == ((), (), False)


@pytest.mark.parametrize(
    ("new", "change", "restart", "swap"),
    [
        (changed("model", width=320), "model.width: 640 -> 320", False, True),
        (changed("model", name="yunet"), 'model.name: "centerface" -> "yunet"', False, True),
        (changed("inference", batch_max=8), "inference.batch_max: 1 -> 8", False, True),
        (
            changed("inference", calibration_max_age_days=30),
            "inference.calibration_max_age_days: 120 -> 30",
            False,
            False,
        ),
        (changed("degradation", enabled=False), "degradation.enabled: true -> false", False, False),
        (changed("api", admin_clients=("a", "b")), 'api.admin_clients: [] -> ["a", "b"]', False, False),
        (changed("daemon", max_streams=9), "daemon.max_streams: 0 -> 9", False, False),
        (changed("daemon", log_level="debug"), 'daemon.log_level: "info" -> "debug"', True, False),
        (changed("capture", slots_per_stream=3), "capture.slots_per_stream: 4 -> 3", True, False),
        (changed("api", max_watchers=5), "api.max_watchers: 64 -> 5", True, False),
        (changed("metrics", listen=""), 'metrics.listen: "127.0.0.1:9464" -> ""', True, False),
    ],
)
def test_a_change_is_named_and_its_effect_said(new: Config, change: str, restart: bool, swap: bool) -> None:
    found = difference(OLD, new)
    assert found.changes == (change,)
    assert bool(found.restart_needed) is restart
    assert found.swap is swap


def test_streams_that_come_go_or_change_are_named() -> None:
    old = replace(OLD, streams=(StreamSpec("a", "rtsp://h/1"), StreamSpec("b", "rtsp://h/2")))
    new = replace(OLD, streams=(StreamSpec("b", "rtsp://h/3"), StreamSpec("c", "rtsp://h/4")))
    assert difference(old, new).changes == ("stream c: added", "stream a: removed", "stream b: changed")
    assert taken_over(old, new).streams == new.streams


def test_what_only_a_restart_brings_is_not_in_force_and_is_said_again() -> None:
    new = Config(
        daemon=DaemonConfig(state_dir=Path("/elsewhere"), log_level="debug", max_streams=3, heartbeat_timeout_s=9),
        api=ApiConfig(max_watchers=1),
        capture=CaptureConfig(slots_per_stream=2),
        model=ModelConfig(width=320),
        inference=InferenceConfig(threads=1),
    )
    now = taken_over(OLD, new)
    assert (now.api, now.capture) == (OLD.api, OLD.capture)
    assert (now.model, now.inference) == (new.model, new.inference)
    assert (now.daemon.max_streams, now.daemon.heartbeat_timeout_s) == (3, 9)
    assert (now.daemon.state_dir, now.daemon.log_level) == (OLD.daemon.state_dir, "info")
    again = difference(now, new)
    assert again.restart_needed == difference(OLD, new).restart_needed
    assert not again.swap


def test_the_lists_of_what_is_live_name_what_there_is() -> None:
    keys = {f"{s.name}.{k.name}" for s in fields(Config) if s.name != "streams" for k in fields(getattr(OLD, s.name))}
    assert keys >= LIVE_KEYS
    assert {s.name for s in fields(Config)} >= LIVE_SECTIONS
