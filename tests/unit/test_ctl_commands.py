"""stats, watch, health, reload, version, model, completion, and how facedetctl ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from api_harness import serving
from ctl_harness import Ctl
from fakes_control import FakeControl, result_of, view_of

import facedetd
from facedetctl import completion, reference
from facedetctl.exits import MEANING, Exit
from facedetctl.main import make_parser
from facedetd.control import DaemonState, Problem
from facedetd.types import StreamSpec, StreamState

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served():
    control = FakeControl()
    for name in ("cam1", "cam2"):
        control.streams[name] = view_of(StreamSpec(name, "rtsp://cam/1"))
    with serving(control) as running:
        yield running


@pytest.fixture
def ctl(served, monkeypatch):
    return Ctl(monkeypatch, served)


# --- stats and watch ---


def test_stats_as_text_and_json(ctl):
    done = ctl("stats")
    assert done.code == 0 and done.out.startswith("facedetd running · up 2 d 3 h")
    assert "cam1" in done.out and "cam2" in done.out
    found = ctl("stats", "cam2", "--json").json
    assert [stream["spec"]["id"] for stream in found["streams"]] == ["cam2"]
    assert (found["state"], found["uptime_s"], found["inference"]["oldest_waiting_s"]) == ("running", 183845.0, 0.012)
    done = ctl("stats", "zz")
    assert (done.code, done.err) == (4, "facedetctl: no stream 'zz'\n")


def test_stats_go_on_until_the_daemon_stops(ctl, served, monkeypatch):
    done, asked, stats = [], [], served.control.stats
    import threading

    monkeypatch.setattr(served.control, "stats", lambda *which: (asked.append(1), stats(*which))[1])
    thread = threading.Thread(target=lambda: done.append(ctl("stats", "--watch", "--interval", "0.2", "--json")))
    thread.start()
    end = time.monotonic() + 20
    while len(asked) < 3:  # two were sent
        assert time.monotonic() < end
        time.sleep(0.01)
    served.stop(20.0)
    thread.join(20)
    assert done[0].code == 7 and done[0].err == "facedetctl: the daemon is stopping\n"
    lines = done[0].out.splitlines()
    assert len(lines) >= 2 and all(json.loads(line)["state"] == "running" for line in lines)


def test_watch_filters_counts_and_ends(ctl, served):
    served.control.watch_ready = [result_of(("cam1", "cam2")[i % 2], i, faces=i % 3) for i in range(10)]
    found = [json.loads(line) for line in ctl("watch", "cam1", "--count", "2", "--json").out.splitlines()]
    assert [(f["stream_id"], f["sequence"], len(f["faces"]), f["lost"]) for f in found] == [
        ("cam1", 2, 2, 0), ("cam1", 4, 1, 0),
    ]  # fmt: skip
    assert found[0]["faces"][0]["box"] == {"x_min": 312.0, "y_min": 120.0, "x_max": 392.0, "y_max": 216.0}
    assert found[0]["faces"][0]["score"] == 0.9 and found[0]["faces"][0]["landmarks"]["nose"] == {"x": 15.0, "y": 15.0}
    found = ctl("watch", "cam1", "--empty", "--count", "1", "--json").json
    assert (found["sequence"], found["faces"]) == (0, [])
    done = ctl("watch", "--duration", "0.3", "--min-score", "0.95")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert ctl("watch", "zz").code == 4
    end = time.monotonic() + 20
    while served.control.watchers:
        assert time.monotonic() < end, "a watcher was left open"
        time.sleep(0.01)


def test_lines_of_streams_with_short_and_long_names_are_aligned(ctl, served):
    names = ("cam1", "a-camera-with-a-name")
    served.control.streams[names[1]] = view_of(StreamSpec(names[1], "rtsp://cam/1"))
    served.control.watch_ready = [result_of(names[i % 2], i) for i in range(4)]
    lines = ctl("watch", "--count", "4").out.splitlines()
    assert len(lines) == 4 and len({line.index(" face ") for line in lines}) == 1


def test_watch_says_which_streams_give_nothing_and_why(ctl, served):
    def add(name: str, state: StreamState, detail: str = "") -> None:
        served.control.streams[name] = replace(view_of(StreamSpec(name, "rtsp://h/")), state=state, detail=detail)

    served.control.watch_ready = [result_of("cam1", 1)]
    add("new", StreamState.CONNECTING)
    add("gone", StreamState.BACKING_OFF, "connection refused")
    done = ctl("watch", "--count", "1")
    assert done.out and done.err == "facedetctl: stream gone is backing-off: connection refused\n"
    assert ctl("watch", "cam1", "--count", "1").err == ""
    assert ctl("watch", "gone", "cam1", "--count", "1", "--json").err == ""
    add("off", StreamState.PAUSED)
    for i in range(4):
        add(f"z{i}", StreamState.STALLED, "no packet for 5 s")
    lines = ctl("watch", "--count", "1").err.splitlines()
    assert lines[1:3] == ["facedetctl: stream off is paused", "facedetctl: stream z0 is stalled: no packet for 5 s"]
    assert lines[5:] == ["facedetctl: so it is with 1 more: facedetctl stats"]


def test_watch_says_what_was_lost(monkeypatch):
    control = FakeControl(watcher_queue=3)
    control.watch_ready = [result_of("cam1", i) for i in range(10)]
    with serving(control) as served:
        done = Ctl(monkeypatch, served)("watch", "--count", "3")
    assert done.out.count("\n") == 3
    assert done.err == "facedetctl: 7 detections lost so far: this output is read too slowly\n"


# --- health, reload, version ---


def test_health_is_told_by_text_json_and_code(ctl, served):
    done = ctl("health")
    assert (done.code, done.out) == (0, "facedetd running · detecting faces with centerface@1.5.0\n")
    served.control.problems = (Problem("warning", "stream cam1", "no frames for 12 s", 5),)
    done = ctl("health")
    assert done.code == 0 and "warning: stream cam1: no frames for 12 s\n" in done.out
    served.control.problems = (Problem("error", "worker decoder-0", "crashes again and again", 5),)
    assert ctl("health").code == 6
    served.control.problems = ()
    served.control.serving, served.control.state = False, DaemonState.WAITING_FOR_MODEL
    done = ctl("health", "--json")
    assert done.code == 6
    assert done.json == {
        "healthy": False,
        "state": "waiting-for-model",
        "serving": False,
        "problems": [],
        "model": None,
    }
    done = ctl("health", "--quiet")
    assert (done.code, done.out, done.err) == (6, "", "")


def test_reload_tells_what_changed(ctl, served):
    done = ctl("reload")
    assert (done.code, done.out) == (0, "model.min_score: 0.5 to 0.6\napi.socket: needs a restart\n")
    assert ctl("reload", "--dry-run", "--json").json == {
        "changes": ["model.min_score: 0.5 to 0.6"], "restart_needed": ["api.socket"],
    }  # fmt: skip
    assert served.control.reloads == [False, True]


def test_version_of_both_ends(ctl, monkeypatch, tmp_path):
    done = ctl("version")
    assert done.code == 0
    assert done.out.startswith(f"facedetctl {facedetd.__version__}\nfacedetd {facedetd.__version__} (API v1, Python ")
    assert ctl("version", "--json").json["daemon"]["api_version"] == "v1"
    done = Ctl(monkeypatch)("--socket", str(tmp_path / "none"), "version")
    assert done.code == 3 and done.out == f"facedetctl {facedetd.__version__}\n"


# --- the connection ---


def test_why_there_is_no_connection(monkeypatch, tmp_path):
    import socket as sockets

    lone = Ctl(monkeypatch)
    done = lone("--socket", str(tmp_path / "none"), "health")
    assert done.code == 3 and "does not exist (is facedetd running?)" in done.err
    folder = Path(f"/tmp/fd-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    try:
        dead = folder / "s"
        with sockets.socket(sockets.AF_UNIX) as bound:
            bound.bind(str(dead))
        done = lone("--socket", str(dead), "health")
        assert done.code == 3 and "no daemon listens on" in done.err
    finally:
        shutil.rmtree(folder)
    monkeypatch.setenv("FACEDETD_SOCKET", str(tmp_path / "from-the-environment"))
    assert "from-the-environment" in lone("health").err


def test_a_socket_that_is_not_ours_to_open(monkeypatch):
    import socket as sockets

    def refuse(self, path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sockets.socket, "connect", refuse)
    done = Ctl(monkeypatch)("--socket", "/run/facedetd/facedetd.sock", "health")
    assert done.code == 8 and "--socket /run/facedetd/facedetd-ro.sock" in done.err
    done = Ctl(monkeypatch)("--socket", "/run/facedetd/facedetd-ro.sock", "health")
    assert done.code == 8 and "--socket" not in done.err


def test_an_answer_that_does_not_come(ctl, served, monkeypatch):
    async def never(*_, **__):
        import asyncio

        await asyncio.sleep(60)

    monkeypatch.setattr(served.control, "reload", never)
    done = ctl("reload", "--timeout", "0.3")
    assert (done.code, done.err) == (7, "facedetctl: no answer within 0.3 s (--timeout)\n")


# --- usage ---


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "COMMAND"),
        (("frob",), "invalid choice: 'frob'"),
        (("add-stream", "a"), "URL"),
        (("add-stream", "a", "rtsp://h/", "--target-fps", "no"), "found 'no'; allowed is a number above 0"),
        (("add-stream", "a", "rtsp://h/", "--target-fps", "nan"), "found 'nan'"),
        (("stats", "--interval", "1e9"), "found '1e9'; allowed is a number above 0 and below 1e9"),
        (("add-stream", "a", "rtsp://h/", "--roi", "0,0 1,1"), "at least three points"),
        (("add-stream", "a", "rtsp://h/", "--roi", "0,0 1,1 2,2"), "from 0 to 1"),
        (("add-stream", "a", "rtsp://h/", "--label", "x"), "write name=value"),
        (("add-stream", "a", "rtsp://h/", "--transport", "pigeon"), "invalid choice"),
        (("add-stream", "a", "rtsp://h/", "--prio", "3"), "arguments: --prio 3\n  see: facedetctl add-stream --help"),
        (("model", "list", "--all"), "unrecognized arguments: --all\n  see: facedetctl model list --help\n"),
        (("watch", "--min-score", "2"), "from 0 to 1"),
        (("watch", "--count", "0"), "from 1"),
        (("stats", "--interval", "0.1"), "from 0.2"),
        (("model",), "COMMAND"),
        (("completion", "tcsh"), "invalid choice"),
    ],
)
def test_usage_errors(ctl, argv, says):
    done = ctl(*argv)
    assert done.code == 2 and done.out == "" and says in done.err
    assert done.err.startswith("facedetctl: ")


def test_shared_options_stand_before_or_after(monkeypatch):
    with serving() as served:
        lone = Ctl(monkeypatch)
        for argv in (
            ("--json", "--socket", str(served.socket), "health"),
            ("health", "--json", "--socket", str(served.socket)),
            ("--socket", "/nowhere", "health", "--socket", str(served.socket), "--json"),
        ):
            assert lone(*argv).json["healthy"] is True


# --- models ---


def test_models_need_no_daemon(monkeypatch, tmp_path):
    from facedetd.models import ModelStore

    lone = Ctl(monkeypatch)
    where = ("--state-dir", str(tmp_path))
    done = lone("model", "list", *where)
    assert (done.code, done.out) == (0, "") and "facedetctl model pull centerface" in done.err
    assert lone("model", "list", "--json", *where).json == {"models": []}
    done = lone("model", "show", "mine", *where)
    assert done.code == 4 and "no model 'mine'" in done.err
    entry = ModelStore(tmp_path / "models").put(
        "mine", b"weights", head="yunet", licence="MIT", source="a file", source_sha256="00", width=640, height=384
    )
    done = lone("model", "list", *where)
    assert [line.split() for line in done.out.splitlines()] == [
        ["MODEL", "VERSION", "STATE", "PRECISION", "HEAD", "SIZE", "LICENCE", "SOURCE"],
        ["mine", entry.version, "?", "float", "yunet", "640x384", "MIT", "a", "file"],
    ]
    assert [m["active"] for m in lone("model", "list", "--json", *where).json["models"]] == [None]
    found = lone("model", "show", "mine", "--json", *where).json
    assert found["sha256"] == entry.sha256 and (found["width"], found["height"]) == (640, 384)
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path))
    assert "licence        MIT\n" in lone("model", "show", "mine").out
    assert lone("model", "show", f"mine@{entry.version}").out == lone("model", "show", "mine").out
    done = lone("model", "show", "mine@000000000000")
    assert done.code == 4 and f"there: {entry.version}" in done.err
    assert lone("model", "show", "mine@").code == 2
    entry.path.write_bytes(b"damaged")
    assert lone("model", "show", "mine").code == 1


def test_the_manifest_is_shown_and_what_the_daemon_runs_is_marked(ctl, served, tmp_path):
    from facedetd.models import ModelStore

    store = ModelStore(tmp_path / "models")
    manifest = {"source": "a checkpoint", "accuracy": {"ap_hard": 0.6}, "note": "\x1b[31m"}
    entries = [
        store.put(name, b"weights", head="yunet", licence="MIT", source="s", source_sha256="0", artefact=manifest)
        for name in ("one", "two")
    ]
    where = ("--state-dir", str(tmp_path))
    served.control.running = ("two", entries[1].version)
    assert [m["active"] for m in ctl("model", "list", "--json", *where).json["models"]] == [False, True]
    rows = [line.split() for line in ctl("model", "list", *where).out.splitlines()[1:]]
    assert ["active" in row for row in rows] == [False, True] and "?" not in str(rows)
    assert ctl("model", "show", "two", "--json", *where).json["manifest"] == manifest
    shown = ctl("model", "show", "two", *where).out
    assert '"ap_hard": 0.6' in shown and "\x1b" not in shown


def test_activate(ctl, served):
    done = ctl("model", "activate", "yunet@abc")
    assert (done.code, done.out) == (0, "yunet@abc is active (until now centerface@1.5.0)\n")
    done = ctl("model", "activate", "--default")
    assert (done.code, done.out) == (
        0, "centerface@v1 is active, as the configuration says (until now centerface@1.5.0)\n",
    )  # fmt: skip
    found = ctl("model", "activate", "yunet", "--json").json
    assert (found["model"]["name"], found["model"]["activated"]) == ("yunet", True)
    assert ctl("model", "activate", "nosuch").code == 4
    done = ctl("model", "activate", "broken")
    assert (done.code, done.err) == (7, "facedetctl: model broken can't be run, the old one goes on: it is torn\n")
    for argv in ((), ("a", "--default"), ("@v",), ("a@",)):
        assert ctl("model", "activate", *argv).code == 2
    served.control.state = DaemonState.WAITING_FOR_MODEL
    assert ctl("model", "activate", "yunet").out == "yunet@v1 is active\n"


def test_health_and_version_tell_the_model(ctl, served):
    assert "detecting faces with centerface@1.5.0" in ctl("health").out
    assert ctl("version").out.endswith("runs centerface@1.5.0\n")
    assert ctl("version", "--json").json["daemon"]["model"]["version"] == "1.5.0"


def test_model_import_and_pull_errors(monkeypatch, tmp_path):
    lone = Ctl(monkeypatch)
    where = ("--state-dir", str(tmp_path))
    done = lone("model", "pull", "nope", *where)
    assert done.code == 4 and "known are centerface, yunet" in done.err
    assert lone("model", "import", str(tmp_path / "none.onnx"), *where).code == 2
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"this is no model")
    done = lone("model", "import", str(bad), *where)
    assert done.code == 1 and "bad.onnx" in done.err and done.err.count("Traceback") == 0


def test_model_pull_stores_what_came(monkeypatch, tmp_path):
    import facedetd.models as models

    def fetch(name, store, progress=None):
        return store.put(name, b"w", head="centerface", licence="MIT", source="s", source_sha256="0")

    monkeypatch.setattr(models, "pull", fetch)
    done = Ctl(monkeypatch)("model", "pull", "centerface", "--state-dir", str(tmp_path))
    assert done.code == 0 and done.out.startswith("centerface ") and "any size" in done.out
    assert (tmp_path / "models" / "centerface").is_dir()


# --- what is made from the parser ---


def test_the_documentation_is_as_new_as_the_code():
    assert (ROOT / "docs" / "cli.md").read_text() == reference.document()


def test_every_exit_code_has_a_meaning():
    assert set(MEANING) == set(Exit)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completions_hold_every_command_and_option(ctl, shell):
    script = ctl("completion", shell).out
    for node in completion.walk(make_parser()):
        for word, _ in node.words:
            assert word in script
        for option in node.options:
            for name in option.names:
                assert name.lstrip("-") in script
    assert "--password " not in script and "-l password " not in script


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completions_are_valid_scripts(ctl, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(ctl("completion", shell).out)
    flag = "--no-execute" if shell == "fish" else "-n"
    checked = subprocess.run([shell, flag, str(file)], check=False, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["upd"], {"update-stream"}),
        (["model", "p"], {"pull"}),
        (["model", "acti"], {"activate"}),
        (["add-stream", "a", "rtsp://h/", "--transport", ""], {"tcp", "udp"}),
        (["bench", "--transport", ""], {"rtsp", "file"}),  # another option of the same name
        (["add-stream", "--no-tls"], {"--no-tls-verify"}),
        (["--json", "model", "pull", "--state"], {"--state-dir"}),
        (["import", "my"], {"my list.csv"}),
        (["snapshot", "a", "-o", "my"], {"my list.csv"}),
    ],
)
def test_bash_completes(ctl, tmp_path, words, expected):
    script = ctl("completion", "bash").out
    line = " ".join(f"'{word}'" for word in ["facedetctl", *words])
    script += f'\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _facedetctl; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    (tmp_path / "my list.csv").write_text("")
    done = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    found = {word for word in done.stdout.split("\n") if word and not (words[-1] == "" and word.startswith("-"))}
    assert (found, done.stderr) == (expected, "")


# --- how it ends ---


def start(served, *argv):
    # A shell lets what it starts in the background ignore SIGINT, and that is inherited. Not by preexec_fn: that forks
    # this process, and its gRPC server's threads say on the child's stderr that their descriptors are gone
    command = ["env", "--default-signal=INT", sys.executable, "-m", "facedetctl", "--socket", str(served.socket), *argv]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_quietly(served):
    served.control.watch_ready = [result_of("cam1", 1)]
    process = start(served, "watch")
    assert "cam1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_closed_pipe_ends_quietly(served):
    served.control.watch_ready = [result_of("cam1", i) for i in range(200)]
    process = start(served, "watch", "--json")
    process.stdout.readline()
    process.stdout.close()
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        served.call(served.control.push, result_of("cam1", 999))
        time.sleep(0.02)
    assert (process.wait(1), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from facedetctl.main import run\n"
        "try: run(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'onnx', 'onnxruntime', 'av', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_over_the_api_load_no_numerics(served):
    code = (
        "import sys; from facedetctl.main import run\n"
        f"code = run(['--socket', {str(served.socket)!r}, 'stats'])\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'av', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else int(code))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
