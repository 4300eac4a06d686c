"""Whether memory and descriptors suffice: the arithmetic, and what the kernel says of this process's limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.config.model import ApiConfig, CaptureConfig, Config, DaemonConfig, ModelConfig
from facedetd.ring.segment import RingError, RingSpec
from facedetd.supervisor import rings as rings_module
from facedetd.supervisor.limits import cannot_start, files_warning, groups_for, judge, memory_view, memory_warning, need
from facedetd.supervisor.memory import Memory, read_memory
from facedetd.supervisor.placement import Held, home_for_one_more, place
from facedetd.supervisor.rings import Rings

MB = 10**6
MUCH = Memory(1 << 50, "the machine", 1 << 50)


def config(**daemon: int) -> Config:
    sizes = {"model": ModelConfig(width=640, height=384), "capture": CaptureConfig(streams_per_group=16)}
    return Config(DaemonConfig(**daemon), **sizes)  # type: ignore[arg-type]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 16), st.integers(1, 4))
def test_as_many_groups_are_reckoned_with_as_are_started(streams: int, capacity: int, cores: int, devices: int) -> None:
    groups: dict[str, Held] = {}
    for _ in range(streams):
        home = home_for_one_more(groups, range(devices))
        load = {name: held.streams for name, held in groups.items() if held.home == home}
        name = place(load, capacity, max(1, cores // devices)) or f"g{len(groups)}"
        groups[name] = Held(load.get(name, 0) + 1, home)
    assert groups_for(streams, capacity, cores, devices) == len(groups)


@given(st.integers(0, 500), st.integers(1, 64), st.integers(2, 4), st.integers(1, 16))
def test_more_streams_never_need_less(streams: int, capacity: int, slots: int, cores: int) -> None:
    c = Config(capture=CaptureConfig(streams_per_group=capacity, slots_per_stream=slots))
    one, more = need(c, streams, cores), need(c, streams + 1, cores)
    assert (more.groups, more.rings, more.total, more.files) >= (one.groups, one.rings, one.total, one.files)
    assert more.files >= one.files
    assert one.rings == one.groups * RingSpec(1, 1, 640, 384, capacity, slots).size
    assert one.total > one.rings


def test_a_limit_that_the_rings_alone_exceed_is_refused_with_the_needed_size() -> None:
    needed = need(config(), 40, 2)
    assert needed.groups == 3
    tight = Memory(needed.rings - 1, "/sys/fs/cgroup/memory.max", 1 << 50)
    said = cannot_start(needed, tight)
    for word in ("40 streams", "3 decoder groups", f"need {-(-needed.rings // MB)} MB", "/sys/fs/cgroup/memory.max"):
        assert word in said
    assert cannot_start(needed, Memory(needed.rings, "x", 0)) == ""  # what is free now may change


def test_what_may_not_fit_is_said_and_no_reason_to_refuse() -> None:
    needed = need(config(), 40, 2)
    assert memory_warning(needed, MUCH) == ""
    limited = judge(config(), 40, Memory(needed.total - 1, "/a/memory.max", 1 << 50), 10**6, 2)
    assert limited.refusal == ""
    assert [subject for subject, _ in limited.warnings] == ["memory"]
    assert "/a/memory.max allows" in limited.warnings[0][1]
    full = judge(config(), 40, Memory(1 << 50, "the machine", needed.total - 1), 10**6, 2)
    assert "free now" in full.warnings[0][1]


def test_streams_that_may_come_are_only_warned_of() -> None:
    little = Memory(need(config(), 4, 2).total, "/a/memory.max", 1 << 50)
    verdict = judge(config(max_streams=1000), 4, little, 10**6, 2)
    assert verdict.refusal == ""
    assert "1000 streams" in verdict.warnings[0][1]
    assert judge(config(), 4, little, 10**6, 2).warnings == ()


def test_descriptors_are_said_with_the_number_needed() -> None:
    c = Config(api=ApiConfig(max_watchers=10), capture=CaptureConfig(streams_per_group=100))
    needed = need(c, 100, 1)
    assert files_warning(needed, needed.files) == ""
    said = files_warning(needed, needed.files - 1)
    assert str(needed.files) in said
    assert str(needed.files - 1) in said
    assert judge(c, 100, MUCH, needed.files - 1, 1).warnings == (("open files", said),)


# ---- reading


class Kernel:
    """/proc and /sys/fs/cgroup as files."""

    def __init__(self, folder: Path):
        self.proc, self.root = folder / "proc", folder / "cgroup"
        self.write("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 6000 kB\n")
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        path = (self.folder if hasattr(self, "folder") else self.proc.parent) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self) -> Memory:
        return read_memory(self.proc, self.root)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_without_control_groups_the_machine_is_the_limit(kernel: Kernel) -> None:
    assert kernel.read() == Memory(8000 << 10, "the machine", 6000 << 10)
    kernel.write("proc/self/cgroup", "0::/a\n4:memory:/b\n")  # groups whose files can't be seen
    assert kernel.read() == Memory(8000 << 10, "the machine", 6000 << 10)


def test_v2_the_tightest_of_all_groups_up_to_the_root_counts(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/system.slice/facedetd.service\n")
    inner, outer = "cgroup/system.slice/facedetd.service", "cgroup/system.slice"
    kernel.write(f"{inner}/memory.max", "max\n")
    kernel.write(f"{inner}/memory.current", "1000\n")
    assert kernel.read().limit == 8000 << 10
    kernel.write(f"{outer}/memory.max", "3000000\n")
    kernel.write(f"{outer}/memory.current", "2500000\n")
    kernel.write(f"{outer}/memory.stat", "anon 5\ninactive_file 400000\n")
    assert kernel.read() == Memory(3000000, str(kernel.root / "system.slice/memory.max"), 900000)
    kernel.write(f"{inner}/memory.max", "2000000\n")
    assert kernel.read() == Memory(2000000, str(kernel.folder / inner / "memory.max"), 900000)
    kernel.write(f"{inner}/memory.high", "max\n")
    assert kernel.read().high is None
    kernel.write(f"{inner}/memory.high", "1500000\n")
    kernel.write(f"{outer}/memory.high", "1900000\n")
    assert kernel.read().high == 1500000
    kernel.write(f"{outer}/memory.current", "4000000\n")  # it was lowered under what is used
    assert kernel.read().room == 0


def test_what_is_told_of_memory_is_what_the_streams_there_are_need() -> None:
    few, many = memory_view(config(), 4), memory_view(config(), 40)
    assert (few.limit, few.set_by) == (many.limit, many.set_by) == (read_memory().limit, read_memory().set_by)
    assert 0 < few.rings < few.needed < many.needed and few.rings < many.rings


def test_v1_and_a_container_that_sees_its_own_group_as_the_root(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/1234\n0::/\n")
    kernel.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    kernel.write("cgroup/memory/memory.usage_in_bytes", "5000\n")
    kernel.write("cgroup/memory/memory.stat", "total_inactive_file 0\n")
    assert kernel.read() == Memory(8000 << 10, "the machine", 6000 << 10)
    kernel.write("cgroup/memory/memory.limit_in_bytes", "1000000\n")
    assert kernel.read() == Memory(1000000, str(kernel.root / "memory/memory.limit_in_bytes"), 995000)
    kernel.write("cgroup/memory/docker/1234/memory.limit_in_bytes", "600000\n")
    kernel.write("cgroup/memory/docker/1234/memory.usage_in_bytes", "0\n")
    assert kernel.read().limit == 600000


def test_this_machine_can_be_read() -> None:
    found = read_memory()
    assert 0 < found.room <= found.limit + (1 << 40)
    assert found.limit > 100 * MB


def test_a_ring_for_which_there_is_no_room_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings_module, "read_memory", lambda: Memory(1 << 40, "x", 5 * MB))
    rings = Rings()
    with pytest.raises(RingError, match=r"a ring of 24 MB for 16 streams can't be allocated: 5 MB are left"):
        rings.make(1, (640, 384), 16, 4, None)  # type: ignore[arg-type]
    assert rings.make(1, (320, 192), 4, 4, None)  # type: ignore[arg-type]
