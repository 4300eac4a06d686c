"""From the first installation over upgrades to nothing left. In order: one machine goes through all of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cameras import CameraServer
from tests.system.conftest import DEBS, Machine, camera_url
from tests.system.container import Container, wait_for

pytestmark = pytest.mark.timeout(400)
REPOSITORY = Path(__file__).resolve().parents[2] / "packaging" / "apt_repo.sh"
CONFIG = "/etc/facedetd/facedetd.toml"


@pytest.fixture(scope="module")
def before(container: Container) -> set[str]:
    """The files of a machine that never had the package."""
    return container.files()


@pytest.fixture(scope="module")
def fresh(before: set[str], machine: Machine) -> Machine:
    return machine


def test_apt_needs_nothing_from_elsewhere(fresh):
    assert fresh.out("dpkg-query", "-W", "-f", "${db:Status-Status}", "facedetd") == "installed"
    assert fresh.out("dpkg", "--verify", "facedetd") == ""


def test_who_owns_what(fresh):
    rows = fresh.out(
        "stat", "-c", "%U:%G %a %n", "/etc/facedetd/facedetd.toml", "/etc/facedetd/credentials", "/var/lib/facedetd",
        "/var/lib/facedetd/models/centerface", "/run/facedetd", "/run/facedetd/facedetd.sock", "/var/cache/facedetd",
    ).splitlines()  # fmt: skip
    assert rows == [
        "root:root 644 /etc/facedetd/facedetd.toml",
        "root:root 700 /etc/facedetd/credentials",
        "facedetd:facedetd 750 /var/lib/facedetd",
        "facedetd:facedetd 755 /var/lib/facedetd/models/centerface",
        "facedetd:facedetd 755 /run/facedetd",
        "facedetd:facedetd 660 /run/facedetd/facedetd.sock",
        "facedetd:facedetd 750 /var/cache/facedetd",
    ]


def test_upgrade_keeps_an_edited_conffile_and_streams_that_run(fresh, cameras: CameraServer, debs):
    wait_for("the daemon", fresh.active)
    fresh.ctl("add-stream", "cam0", camera_url(cameras, 0), "--target-fps", "2")
    fresh.wait_streaming({"cam0"})
    fresh.run("sh", "-c", f"printf '\\n[capture]\\nbackoff_max_s = 7\\n' >>{CONFIG}")
    # Sections stand once in the file that was installed: the edit is of the kind a person makes
    fresh.run("sed", "-i", "0,/^\\[capture\\]/{/^\\[capture\\]/d}", CONFIG)
    edited, pid = fresh.out("cat", CONFIG), fresh.main_pid()
    fresh.install(debs[1].name)
    assert fresh.out("cat", CONFIG) == edited
    wait_for("the new one", lambda: fresh.active() and fresh.main_pid() not in (0, pid))
    fresh.wait_streaming({"cam0"})
    fresh.wait_detections("cam0")
    assert fresh.show("Result", "NRestarts") == ["success", "0"]


def test_an_upgrade_starts_nothing_that_was_stopped(fresh):
    fresh.run("systemctl", "stop", "facedetd")
    fresh.install(fresh.deb, "--allow-downgrades")
    assert fresh.show("ActiveState") == ["inactive"]
    assert fresh.out("systemctl", "is-enabled", "facedetd") == "enabled"


def test_remove_keeps_settings_and_streams_and_purge_leaves_the_user_only(fresh, before, debs):
    fresh.run("systemctl", "start", "facedetd")
    # Root runs the client, which must leave no compiled files behind
    fresh.run("facedetctl", "list-streams")
    fresh.run("facedetctl", "completion", "bash")
    fresh.run("/usr/lib/facedetd/bin/python3", "-c", "import cv2, av, facedetd.main")
    fresh.run("apt-get", "remove", "-y", "-qq", "facedetd")
    assert fresh.run("pgrep", "-u", "facedetd", check=False).stdout == ""
    kept = fresh.container.files() - before
    assert {CONFIG, "/var/lib/facedetd/streams.json"} <= kept
    assert not {path for path in kept if path.startswith("/usr/lib/facedetd")}
    fresh.install(debs[1].name)
    wait_for("the stream of before", lambda: fresh.streaming() == {"cam0"}, 90)
    fresh.run("apt-get", "purge", "-y", "-qq", "facedetd")
    left = fresh.container.files() - before
    # dpkg's copies of what it knows are made by a timer, at midnight
    moving = ("/var/log/", "/var/backups/", "/var/cache/apt/", "/home/", "/var/mail/")
    own = {path for path in left if not path.startswith(moving)}
    # Users are in files that were there before, with a copy of the one before the last change
    own -= {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")}
    own -= {"/etc/subuid", "/etc/subgid", "/etc/.pwd.lock"}
    own -= {path for path in own if path.startswith("/var/lib/systemd/") or path.startswith("/var/lib/apt/")}
    assert own == set()
    assert fresh.out("getent", "passwd", "facedetd").startswith("facedetd:")
    assert fresh.out("systemctl", "--failed", "--no-legend", "--plain") == ""
    assert fresh.run("ls", DEBS).returncode == 0


def test_a_fleet_installs_from_the_signed_repository(fresh, debs, tmp_path, monkeypatch):
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    make_key = ["--batch", "--passphrase", "", "--quick-generate-key", "fleet@example.org", "ed25519", "sign"]
    subprocess.run(["gpg", *make_key], check=True, capture_output=True)
    # Below what the machine sees of the host
    repository = debs[0].parent / "apt"
    subprocess.run([REPOSITORY, "fleet@example.org", debs[0].parent, repository], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=False)
    key = "/usr/share/keyrings/facedetd-archive-keyring.gpg"
    fresh.run("install", "-m", "644", f"{DEBS}/apt/facedetd-archive-keyring.gpg", key)
    source = f"Types: deb\nURIs: file:{DEBS}/apt\nSuites: stable\nComponents: main\nSigned-By: {key}\n"
    fresh.write("/etc/apt/sources.list.d/facedetd.sources", source)
    only = ("-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dpkg::Options::=--force-confold")
    fresh.run("apt-get", "update", "-qq", "--error-on=any", *only)
    fresh.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *only, "facedetd", timeout_s=300)
    assert fresh.out("dpkg-query", "-W", "-f", "${Version}", "facedetd").endswith("+later")
    wait_for("the daemon", fresh.active)
    # What isn't as it was signed
    (repository / "dists/stable/InRelease").write_bytes((repository / "dists/stable/InRelease").read_bytes()[:-40])
    assert fresh.run("apt-get", "update", "-qq", "--error-on=any", *only, check=False).returncode != 0


def test_a_state_directory_that_is_a_mount_point_does_not_stop_a_purge(fresh):
    fresh.run("systemctl", "stop", "facedetd")
    fresh.run("mount", "-t", "tmpfs", "none", "/var/lib/facedetd")
    fresh.run("touch", "/var/lib/facedetd/streams.json")
    fresh.run("apt-get", "purge", "-y", "-qq", "facedetd")
    assert fresh.out("ls", "-A", "/var/lib/facedetd") == ""
    assert fresh.run("test", "-e", "/etc/facedetd", check=False).returncode == 1
    assert fresh.run("dpkg-query", "-W", "facedetd", check=False).returncode == 1
    fresh.run("umount", "/var/lib/facedetd")
    fresh.run("rm", "-r", "/var/lib/facedetd")  # what it was mounted on
