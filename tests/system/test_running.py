"""Install, start, add cameras, and run as an operator would; then what dies and hangs. In order: they build on each
other, and a machine is expensive."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest

from tests.cameras import CameraServer
from tests.system.conftest import OPERATOR, PASSWORD, STRANGER, Machine, camera_url
from tests.system.container import ContainerError, wait_for

FOUR = {f"cam{i}" for i in range(4)}
CONFIG = "/etc/facedetd/conf.d/test.toml"
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def running(machine: Machine, cameras: CameraServer) -> Machine:
    """With four cameras that were added by an ordinary user."""
    wait_for("the daemon", machine.active)
    for i in range(4):
        machine.ctl("add-stream", f"cam{i}", camera_url(cameras, i), "--target-fps", "2")
    machine.wait_streaming(FOUR)
    return machine


def test_installed_means_enabled_and_running_with_its_model(machine):
    wait_for("the daemon", machine.active)
    assert machine.out("systemctl", "is-enabled", "facedetd") == "enabled"
    assert machine.out("facedetctl", "version", user=OPERATOR).startswith("facedetctl")
    wait_for("the model", lambda: machine.stats()["state"] == "running")
    model = machine.stats()["model"]
    assert (model["name"], model["engine"]) == ("centerface", "onnxruntime")


def test_an_ordinary_user_of_the_group_adds_cameras_and_gets_detections(running):
    found = running.ctl("watch", "--count", "8", "--duration", "60")
    assert len(found) == 8 and all(d["faces"] for d in found)
    assert {d["stream_id"] for d in found} <= FOUR


def test_stats_tell_what_each_process_takes(running):
    """The service hides who dumps no core (ProtectProc), as its own workers do."""

    def processes():
        return [p for p in running.stats()["processes"] if p["state"] == "running"]

    wait_for("work", lambda: all(p["cpu_time_s"] > 0.5 for p in processes()))
    assert {p["kind"] for p in processes()} == {"supervisor", "decoder", "inference"}
    assert all(p["memory_bytes"] > 10_000_000 for p in processes())


def test_a_camera_over_udp(running, cameras):
    """Which wants the guard's system calls in the confined service, and datagrams."""
    running.ctl("add-stream", "udp", camera_url(cameras, 0), "--transport", "udp")
    running.wait_streaming({"udp"})
    running.ctl("remove-stream", "udp")


def test_others_get_nothing(running):
    done = running.run("facedetctl", "stats", user=STRANGER, check=False)
    assert done.returncode == 8 and "may not open" in done.stderr
    for path in ("/var/lib/facedetd/streams.json", "/etc/facedetd/credentials/door"):
        assert "Permission denied" in running.run("cat", path, user=STRANGER, check=False).stderr


def test_systemctl_shows_how_it_goes(running):
    wait_for("a status", lambda: re.search(r'Status: ".*4.*"', running.out("systemctl", "status", "facedetd")), 30)


def test_prometheus_scrapes_it(running):
    # Debian's own, with the example that the package's sources have
    from tests.system.prometheus import ask, start

    start(running)
    wait_for("a scrape", lambda: ask(running, 'up{job="facedetd"}') == 1.0, 60)
    wait_for("four streams", lambda: ask(running, 'sum(facedetd_stream_state{state="streaming"})') == 4.0, 60)


def test_the_doctor_finds_what_is_wrong_and_what_is_not(running):
    def graded() -> dict[str, str]:
        done = running.run("facedetctl", "--json", "doctor", "--seconds", "1", check=False)
        print(done.stdout)
        return {f["subject"]: f["grade"] for f in json.loads(done.stdout)["findings"]}

    subjects = ("daemon", "memory", "open files", "gpu", "model", "cameras", "network")
    wait_for("nothing wrong", lambda: dict.fromkeys(subjects, "ok").items() <= graded().items())
    running.ctl("add-stream", "away", "rtsp://127.0.0.1:1/nothing")
    wait_for("the doctor's word on it", lambda: graded().get("camera away") == "error", 30)
    running.ctl("remove-stream", "away")


def test_the_journal_has_json_and_no_secret(running, locked_camera):
    running.ctl(
        "add-stream", "locked", camera_url(locked_camera, 0), "--username", "viewer", "--password-stdin",
        text_in=PASSWORD + "\n",
    )  # fmt: skip
    running.wait_streaming({"locked"})
    # A refused login is what would put one into a message
    running.ctl("add-stream", "wrong", camera_url(locked_camera, 0), "--username", "viewer", "--password-stdin",
                text_in="wrong" + PASSWORD + "\n")  # fmt: skip
    wait_for("a refusal", lambda: any("wrong" in m for m in running.messages()))
    running.ctl("remove-stream", "locked", "wrong")
    entries = [e for e in running.journal() if e.get("_COMM") != "systemd" and e.get("_SYSTEMD_UNIT")]
    messages = [str(e["MESSAGE"]) for e in entries]
    lines = [json.loads(m) for m in messages if m.startswith("{")]
    assert len(lines) > 5 and all({"time", "level", "logger", "message", "pid"} <= line.keys() for line in lines)
    assert {e["PRIORITY"] for e in entries} - {"6"}, "warnings are told apart"
    everything = running.out("journalctl", "--no-pager", "-o", "json")
    assert "s3cr3t" not in everything
    pid = str(running.main_pid())
    for place in ("cmdline", "environ"):
        assert "s3cr3t" not in running.out("cat", f"/proc/{pid}/{place}").replace("\0", " ")


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one_visibly(running):
    pid = running.main_pid()
    running.write(CONFIG, '[daemon]\nlog_level = "debug"\n')
    running.run("systemctl", "reload", "facedetd")
    running.write(CONFIG, '[daemon]\nlog_level = "lots"\n')
    with pytest.raises(ContainerError, match="reload"):
        running.run("systemctl", "reload", "facedetd")
    # The journal takes lines in when it has its turn, and a daemon that debugs has many
    wait_for("a word on it", lambda: any("test.toml" in m and "lots" in m for m in running.messages()))
    assert running.active() and running.main_pid() == pid
    running.wait_detections("cam0")
    running.write(CONFIG, "")


def test_a_bad_configuration_keeps_it_from_starting_and_not_for_ever(running):
    running.write(CONFIG, "[daemon]\nno_such_key = 1\n")
    running.run("systemctl", "stop", "facedetd")
    with pytest.raises(ContainerError):
        running.run("systemctl", "start", "facedetd")
    wait_for("giving up", lambda: running.show("ActiveState")[0] == "failed")
    running.write(CONFIG, "")
    running.run("systemctl", "reset-failed", "facedetd")
    running.run("systemctl", "start", "facedetd")
    running.wait_streaming(FOUR)


def test_stop_is_quick_and_restart_keeps_the_streams(running):
    running.run("systemctl", "stop", "facedetd")
    began, ended = running.show("InactiveEnterTimestampMonotonic", "ActiveExitTimestampMonotonic")
    # Workers that don't end when asked are killed after 4 s; systemd kills all after 15
    assert int(began) - int(ended) < 12_000_000, "the unit's own record of how long stopping took, in us"
    assert running.show("Result") == ["success"]
    assert running.run("pgrep", "-u", "facedetd", check=False).stdout == ""
    running.run("systemctl", "start", "facedetd")
    running.wait_streaming(FOUR)


def test_a_killed_supervisor_takes_its_workers_along_and_comes_back(running):
    pid, old = running.main_pid(), set(running.out("pgrep", "-u", "facedetd").split())
    running.run("kill", "-KILL", str(pid))
    wait_for("another one", lambda: running.active() and running.main_pid() not in (0, pid))
    assert not old & set(running.out("pgrep", "-u", "facedetd").split())
    running.wait_streaming(FOUR)


@pytest.mark.parametrize("kind", ["decoder", "inference"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_workers_that_die_or_hang_are_replaced_by_the_supervisor(running, kind, sign):
    wait_for(f"a {kind}", lambda: running.process(kind))
    main, worker = running.main_pid(), running.process(kind)
    running.run("kill", f"-{int(sign)}", str(worker))
    wait_for(f"another {kind}", lambda: running.process(kind) not in (0, worker))
    assert running.main_pid() == main
    running.wait_streaming(FOUR)
    running.wait_detections("cam0")


def test_a_stuck_supervisor_is_what_the_watchdog_is_for(running):
    running.write("/etc/systemd/system/facedetd.service.d/quick.conf", "[Service]\nWatchdogSec=6\nTimeoutAbortSec=2\n")
    running.run("systemctl", "daemon-reload")
    running.run("systemctl", "restart", "facedetd")
    wait_for("the daemon", running.active)
    running.wait_streaming(FOUR)
    pid = running.main_pid()
    running.run("kill", "-STOP", str(pid))
    wait_for("another one", lambda: running.active() and running.main_pid() not in (0, pid))
    wait_for("a word on it", lambda: any("atchdog" in m for m in running.messages()))
    running.wait_streaming(FOUR)
    running.run("rm", "/etc/systemd/system/facedetd.service.d/quick.conf")
    running.run("systemctl", "daemon-reload")


def test_boot_with_cameras_down(running, cameras):
    for i in range(4):
        cameras.ctl("down", i)
    running.container.power_off()
    assert running.container.boot() == "running", running.out("systemctl", "--failed", "--no-pager")
    wait_for("the daemon", running.active)
    states = {s["spec"]["id"]: s["status"]["state"] for s in running.stats()["streams"]}
    assert states.keys() == FOUR and "streaming" not in states.values()
    for i in range(4):
        cameras.ctl("up", i)
    running.wait_streaming(FOUR, timeout_s=180)


def test_a_password_comes_as_a_credential(running, locked_camera):
    running.write("/etc/facedetd/credentials/door", PASSWORD + "\n", 0o600)
    stream = f'[[stream]]\nid = "door"\nurl = "{camera_url(locked_camera, 0)}"\nusername = "viewer"\n'
    running.write(CONFIG, stream + 'credential = "camera_door"\n')
    running.run("systemctl", "restart", "facedetd")  # systemd loads credentials when it starts a unit
    running.wait_streaming({"door"})
    assert running.run("cat", "/etc/facedetd/credentials/door", user="facedetd", check=False).returncode != 0
    running.write(CONFIG, "")
    running.run("systemctl", "reload", "facedetd")


def test_a_bad_configuration_is_tried_once_and_a_good_one_starts_at_once(running):
    running.run("systemctl", "reset-failed", "facedetd", check=False)
    running.write(CONFIG, "[capture]\nbackoff = 7\n")
    assert running.run("systemctl", "restart", "facedetd", check=False).returncode != 0
    time.sleep(5)  # RestartSec= is 2
    found = running.show("ActiveState", "NRestarts", "ExecMainStatus")
    running.write(CONFIG, "")
    assert found == ["failed", "0", "78"]
    running.run("systemctl", "start", "facedetd")
    running.wait_streaming(FOUR)


def test_six_failures_in_a_row_are_enough(running):
    running.write(
        "/etc/systemd/system/facedetd.service.d/fail.conf",
        "[Unit]\nStartLimitIntervalSec=600\n[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=100ms\nType=exec\n",
    )
    running.run("systemctl", "daemon-reload")
    running.run("systemctl", "reset-failed", "facedetd")
    running.run("systemctl", "restart", "facedetd", check=False)
    wait_for("giving up", lambda: running.show("ActiveState")[0] == "failed", 60)
    time.sleep(1)
    assert running.show("ActiveState", "NRestarts")[0] == "failed" and int(running.show("NRestarts")[0]) <= 6
    running.run("rm", "/etc/systemd/system/facedetd.service.d/fail.conf")
    running.run("systemctl", "daemon-reload")
    running.run("systemctl", "reset-failed", "facedetd")
    running.run("systemctl", "start", "facedetd")
    running.wait_streaming(FOUR)
