"""What a new configuration changes, and which of it can be had without a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from facedetd.config.model import Config
from facedetd.config.reference import toml_value

LIVE_SECTIONS = {"model", "inference", "degradation"}
LIVE_KEYS = {
    "daemon.max_streams",
    "daemon.allow_file_sources",
    "daemon.heartbeat_timeout_s",
    "daemon.stop_timeout_s",
    "api.max_calls_per_s",
    "api.admin_clients",
    "api.read_only_clients",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """``changes`` in words; ``restart_needed``: keys that take effect at the next start; ``swap``: the inference
    process is replaced."""

    changes: tuple[str, ...]
    restart_needed: tuple[str, ...]
    swap: bool


def difference(old: Config, new: Config) -> Difference:
    changes, restart = [], []
    for section in fields(Config):
        if section.name == "streams":
            continue
        before, after = getattr(old, section.name), getattr(new, section.name)
        for key in fields(before):
            a, b = getattr(before, key.name), getattr(after, key.name)
            if a != b:
                name = f"{section.name}.{key.name}"
                changes.append(f"{name}: {toml_value(a)} -> {toml_value(b)}")
                if section.name not in LIVE_SECTIONS and name not in LIVE_KEYS:
                    restart.append(name)
    olds, news = {s.id: s for s in old.streams}, {s.id: s for s in new.streams}
    changes += [f"stream {i}: added" for i in sorted(news.keys() - olds.keys())]
    changes += [f"stream {i}: removed" for i in sorted(olds.keys() - news.keys())]
    changes += [f"stream {i}: changed" for i in sorted(olds.keys() & news.keys()) if olds[i] != news[i]]
    # What only health looks at needs no other process
    inference = replace(new.inference, calibration_max_age_days=old.inference.calibration_max_age_days)
    return Difference(tuple(changes), tuple(restart), old.model != new.model or old.inference != inference)


def taken_over(old: Config, new: Config) -> Config:
    """What is in force after a reload: ``new``, but for the keys that only a restart brings."""
    live = {section: getattr(new, section) for section in ("streams", *LIVE_SECTIONS)}
    for name in LIVE_KEYS:
        section, key = name.split(".")
        live[section] = replace(live.get(section, getattr(old, section)), **{key: getattr(getattr(new, section), key)})
    return replace(old, **live)
