"""How much CPU there is and how much of it is idle, from made-up /proc and cgroup trees."""

import os
from pathlib import Path

import pytest

from facedetd.metrics.hostcpu import HostCpu, Quota, idle_seconds, read_quotas

TICKS = os.sysconf("SC_CLK_TCK")


def stat(*idle_s: float) -> str:
    lines = [f"cpu{n} 10 0 10 {round(s * TICKS)} 0 0 0 0 0 0" for n, s in enumerate(idle_s)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 0 0", *lines, "intr 1 2", "cpufreq 3"])


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cg/a/b").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n0::/a/b\n")
    (tmp_path / "proc/stat").write_text(stat(*[100.0] * os.cpu_count()))
    return tmp_path


def limit(folder: Path, cores: float, used_s: float) -> None:
    (folder / "cpu.max").write_text(f"{round(cores * 100000)} 100000\n")
    (folder / "cpu.stat").write_text(f"usage_usec {round(used_s * 1e6)}\nuser_usec 5\n")


def test_only_our_cpus_count():
    assert idle_seconds(stat(1.0, 2.5, 4.0), {0, 2}) == 5.0
    assert idle_seconds(stat(1.0, 2.5, 4.0), {7}) == 0.0


@pytest.mark.parametrize("text", ["cpu0 1 2 3", "cpu0 a b c d e"])
def test_what_is_no_stat_is_refused(text):
    with pytest.raises(ValueError):
        idle_seconds(text, {0})


def test_quotas_of_all_cgroups_above_count(tree):
    limit(tree / "cg/a/b", 1.5, 7.0)
    limit(tree / "cg/a", 4.0, 9.0)
    assert read_quotas(tree / "proc", tree / "cg") == [Quota(1.5, 7.0), Quota(4.0, 9.0)]


@pytest.mark.parametrize("text", ["max 100000", "", "x y", "5 0"])
def test_no_quota_or_none_that_can_be_read(tree, text):
    (tree / "cg/a/b/cpu.max").write_text(text)
    assert read_quotas(tree / "proc", tree / "cg") == []


def test_idle_time_adds_up(tree):
    host = HostCpu(tree / "proc", tree / "cg")
    host.look(10.0)
    assert host.idle_s == 0.0
    assert host.cores == len(os.sched_getaffinity(0))
    (tree / "proc/stat").write_text(stat(*[100.5] * os.cpu_count()))
    host.look(11.0)
    assert host.idle_s == pytest.approx(0.5 * host.cores)


def test_what_the_quota_leaves_is_what_is_idle(tree):
    limit(tree / "cg/a", 0.5, 7.0)
    host = HostCpu(tree / "proc", tree / "cg")
    host.look(10.0)
    assert host.cores == 0.5
    limit(tree / "cg/a", 0.5, 7.4)
    (tree / "proc/stat").write_text(stat(*[101.0] * os.cpu_count()))
    host.look(11.0)
    assert host.idle_s == pytest.approx(0.1)
    limit(tree / "cg/a", 0.5, 8.4)  # over its quota: nothing is idle, and nothing is taken back
    (tree / "proc/stat").write_text(stat(*[102.0] * os.cpu_count()))
    host.look(12.0)
    assert host.idle_s == pytest.approx(0.1)


def test_where_nothing_can_be_read_nothing_is_idle(tmp_path):
    host = HostCpu(tmp_path / "none", tmp_path / "none")
    host.look(1.0)
    host.look(2.0)
    assert host.idle_s == 0.0
