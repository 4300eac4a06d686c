"""model collect: a set on disk that is whole at any time, from cameras, files and the daemon's streams."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import capture_clips
import cv2
import model_kit
import numpy as np
import pytest
from api_harness import serving
from ctl_harness import Ctl
from fakes_control import FakeControl, view_of

from facedetd.control import SnapshotView, UnavailableError
from facedetd.types import StreamSpec
from facedetd.workshop import collect as room
from facedetd.workshop.calibration_set import LIST, SHEET, CalibrationSet, SetError, picture_name, read_list
from facedetd.workshop.camera_frames import Shot
from facedetd.workshop.collect import Collector, Plan, dhash
from facedetd.workshop.detector import load_detector

SETTINGS = {"threshold": 0.5}
DAY_NS = 86_400 * 10**9
UTC_NS = 1_793_000_000 * 10**9


def picture(seed, squares=1, size=64, bright=40):
    """Noise that no other seed's is like, with squares that the model takes for faces."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, bright, (16, 16, 1), np.uint8).repeat(size // 16, 0).repeat(size // 16, 1)
    bgr = np.repeat(cells, 3, 2)
    for i in range(squares):
        bgr[8:12, 8 + 16 * i : 12 + 16 * i] = (0, 0, 255)
    return bgr


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return model_kit.save(
        model_kit.centerface(width=64, height=64, threshold=150.0), tmp_path_factory.mktemp("m") / "red.onnx"
    )


@pytest.fixture
def detector(model):
    return load_detector(model, None, None, 1)


class Shots:
    """A source that gives these, a second apart, and then nothing. Its clock is the collector's."""

    def __init__(self, shots):
        self.shots, self.now = list(shots), 0.0

    def mono(self):
        return self.now

    def take(self, timeout_s):
        self.now += 1.0
        return self.shots.pop(0) if self.shots else None


def shots(n, stream="a", first=0, **options):
    return [Shot(stream, UTC_NS + i * 10**9, picture(i, **options)) for i in range(first, first + n)]


def run(folder, detector, given, count=10, duration_s=None, distance=8, stop=lambda: False):
    source = Shots(given)
    with CalibrationSet(folder, SETTINGS) as place:
        collector = Collector(place, detector, Plan(count, duration_s, distance, 0.5), {"plan": {}}, source.mono)
        why = collector.run(source, stop, lambda _: None)
        collector.write_sheet()
    return why


def check_whole(folder):
    """What the list says is there, and nothing else; only the owner may read it."""
    frames, _, rest = read_list((folder / LIST).read_bytes(), folder / LIST)
    assert {p.name for p in folder.iterdir()} == {f.file for f in frames} | {LIST, SHEET}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    for frame in frames:
        assert hashlib.sha256((folder / frame.file).read_bytes()).hexdigest() == frame.sha256
    return frames, rest


# --- the collector ---


def test_until_the_set_is_full(tmp_path, detector):
    assert run(tmp_path / "set", detector, shots(30), count=10) == "the set is full"
    frames, rest = check_whole(tmp_path / "set")
    assert len(frames) == 10
    assert (rest["statistics"]["frames"], rest["statistics"]["seen"]) == (10, 10)
    one = frames[0]
    assert (one.stream, one.width, one.height, one.faces) == ("a", 64, 64, 1)
    assert one.smallest_px == one.largest_px == pytest.approx(4 * np.e, abs=0.1)
    assert one.score_min > 0.99
    assert sum(one.luma) == pytest.approx(1, abs=1e-4) and 5 < one.luma_mean < 60
    assert cv2.imread(str(tmp_path / "set" / one.file)).shape == (64, 64, 3)


def test_what_is_alike_is_kept_once(tmp_path, detector):
    again = [replace(shot, utc_ns=shot.utc_ns + DAY_NS) for shot in shots(5)]
    assert run(tmp_path / "set", detector, shots(5) + again).startswith("nothing new came")
    frames, rest = check_whole(tmp_path / "set")
    assert (len(frames), rest["statistics"]["alike"]) == (5, 5)


def test_with_a_duration_better_frames_take_the_place_of_others(tmp_path, detector):
    given = shots(20) + shots(3, "b", 100, squares=2)
    assert run(tmp_path / "set", detector, given, count=6, duration_s=60) == "the time is over"
    frames, rest = check_whole(tmp_path / "set")
    assert len(frames) == 6
    assert rest["statistics"]["streams"] == {"a": 3, "b": 3}
    assert rest["statistics"]["faces"] == {"0": 0, "1": 3, "2-3": 3, "4-7": 0, "8 and more": 0}
    assert rest["statistics"]["seen"] == 23


def test_interrupted_it_keeps_what_it_has_seen_and_goes_on_later(tmp_path, detector):
    given = shots(4)
    source = Shots(given)
    folder = tmp_path / "set"
    with CalibrationSet(folder, SETTINGS) as place:
        collector = Collector(place, detector, Plan(10, None, 8, 0.5), {}, source.mono)
        assert collector.run(source, lambda: len(given) - len(source.shots) >= 3, lambda _: None) == "interrupted"
        collector.write_sheet()
    assert len(check_whole(folder)[0]) == 3
    assert run(folder, detector, shots(20)) == "the set is full"
    frames, rest = check_whole(folder)
    assert len({f.file for f in frames}) == 10
    assert rest["statistics"]["seen"] == 3 + 3 + 7  # the first three again, which are there


def test_a_fault_of_the_source_loses_nothing(tmp_path, detector):
    class Broken(Shots):
        def take(self, timeout_s):
            if not self.shots:
                raise RuntimeError("broken")
            return super().take(timeout_s)

    source = Broken(shots(3))
    with CalibrationSet(tmp_path / "set", SETTINGS) as place:
        collector = Collector(place, detector, Plan(10, None, 8, 0.5), {}, source.mono)
        with pytest.raises(RuntimeError):
            collector.run(source, lambda: False, lambda _: None)
        assert len(place.frames) == 3


def test_an_empty_set_is_a_set_too(tmp_path, detector):
    run(tmp_path / "set", detector, [])
    found = json.loads((tmp_path / "set" / LIST).read_text())
    assert (found["frames"], found["statistics"]["seen"]) == ([], 0)


def test_how_far_the_set_s_brightness_is_from_all_that_was_seen(tmp_path, detector):
    given = shots(30) + shots(2, "a", 100, bright=255)
    run(tmp_path / "set", detector, given, count=4, duration_s=60)
    statistics = check_whole(tmp_path / "set")[1]["statistics"]
    assert statistics["luma_divergence"] > 0.02  # half of the set is bright, a sixteenth of what was seen
    assert len(statistics["luma_seen"]) == 16 and sum(statistics["luma_seen"]) == pytest.approx(1, abs=1e-3)


def test_the_hash_hardly_minds_noise_and_light_but_minds_the_scene():
    rng = np.random.default_rng(0)
    base = cv2.resize(rng.integers(20, 235, (6, 10), np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(base.astype(int) + rng.normal(0, 4, base.shape), 0, 255).astype(np.uint8)
    darker = (base * 0.8).astype(np.uint8)
    other = cv2.flip(base, 1)
    assert (dhash(base) ^ dhash(noisy)).bit_count() < 8
    assert (dhash(base) ^ dhash(darker)).bit_count() < 24
    assert (dhash(base) ^ dhash(other)).bit_count() > 60


@pytest.mark.parametrize("level", [16.0, 24.5, 120.5])
def test_two_empty_frames_of_a_night_are_alike_whatever_the_noise(level):
    rng = np.random.default_rng(0)
    night = [np.clip(rng.normal(level, 8, (360, 640)), 0, 255).astype(np.uint8) for _ in range(5)]
    assert max((dhash(a) ^ dhash(b)).bit_count() for a in night for b in night) < 8


# --- the folder ---


def test_settings_must_be_those_it_was_begun_with(tmp_path, detector):
    run(tmp_path / "set", detector, shots(2), count=2)
    with pytest.raises(SetError, match=r"begun with threshold 0\.5, now it is 0\.4; allowed: the same, or another"):
        CalibrationSet(tmp_path / "set", {"threshold": 0.4})


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    tmp_path.chmod(0o700)
    with pytest.raises(SetError, match=r"holds 'letters.txt' but no calibration.json; allowed: a new or empty folder"):
        CalibrationSet(tmp_path, SETTINGS)
    tmp_path.chmod(0o755)
    with pytest.raises(SetError, match="its mode is 0755"):
        CalibrationSet(tmp_path, SETTINGS)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_two_at_a_time_are_refused(tmp_path):
    with CalibrationSet(tmp_path / "set", SETTINGS), pytest.raises(SetError, match="another process collects into it"):
        CalibrationSet(tmp_path / "set", SETTINGS)
    CalibrationSet(tmp_path / "set", SETTINGS).close()


def test_what_was_opened_up_is_closed_again(tmp_path, detector):
    run(tmp_path / "set", detector, shots(2), count=2)
    (tmp_path / "set").chmod(0o755)
    CalibrationSet(tmp_path / "set", SETTINGS).close()
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o700


def test_changed_and_missing_pictures_are_named_and_leave_the_set(tmp_path, detector):
    run(tmp_path / "set", detector, shots(5), count=5)
    frames, _ = check_whole(tmp_path / "set")
    (tmp_path / "set" / frames[0].file).write_bytes(b"other")
    (tmp_path / "set" / frames[1].file).unlink()
    with CalibrationSet(tmp_path / "set", SETTINGS) as place:
        assert set(place.lost) == {frames[0].file, frames[1].file}
        assert {f.file for f in place.frames} == {f.file for f in frames[2:]}


def test_what_a_killed_process_left_behind_goes_but_nothing_else(tmp_path, detector):
    run(tmp_path / "set", detector, shots(2), count=2)
    stray = picture_name("cam", UTC_NS)
    for name in (stray, f".part-{stray}", f".part-{LIST}", "notes.txt", "a.jpg"):
        (tmp_path / "set" / name).write_text("x")
    CalibrationSet(tmp_path / "set", SETTINGS).close()
    left = {p.name for p in (tmp_path / "set").iterdir()}
    assert {"notes.txt", "a.jpg"} <= left and not {stray, f".part-{stray}", f".part-{LIST}"} & left


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("frames"),
        lambda d: d.update(format=2),
        lambda d: d["frames"][0].update(file="../../etc/passwd"),
        lambda d: d["frames"][0].update(dhash="zz"),
        lambda d: d["frames"][0].update(utc="yesterday"),
        lambda d: d["frames"][0].update(luma=[1.0]),
        lambda d: d["frames"][0].update(faces="many"),
        lambda d: d["frames"].append(d["frames"][0]),
    ],
)
def test_a_damaged_list_is_refused_with_its_name(tmp_path, detector, spoil):
    run(tmp_path / "set", detector, shots(2), count=2)
    data = json.loads((tmp_path / "set" / LIST).read_text())
    spoil(data)
    (tmp_path / "set" / LIST).write_text(json.dumps(data))
    before = sorted(p.name for p in (tmp_path / "set").iterdir())
    with pytest.raises(SetError, match=LIST):
        CalibrationSet(tmp_path / "set", SETTINGS)
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == before


def test_a_full_disk_leaves_the_set_as_it_was(tmp_path, detector, monkeypatch):
    run(tmp_path / "set", detector, shots(3), count=3)
    before, _ = check_whole(tmp_path / "set")
    with CalibrationSet(tmp_path / "set", SETTINGS) as place:
        real, calls = os.fsync, []

        def fsync(handle):
            calls.append(handle)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        source = Shots(shots(2, first=50))
        collector = Collector(place, detector, Plan(5, None, 8, 0.5), {}, source.mono)
        with pytest.raises(SetError, match="No space left"):
            monkeypatch.setattr(room, "_ROUND", 1)
            collector.run(source, lambda: bool(calls), lambda _: None)
        monkeypatch.undo()
    with CalibrationSet(tmp_path / "set", SETTINGS) as place:
        assert {f.file for f in before} <= {f.file for f in place.frames} and not place.lost


# --- the command ---


@pytest.fixture
def ctl(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path / "state"))
    return Ctl(monkeypatch)


def clip(tmp_path, name="a.mp4"):
    return capture_clips.make_clip(tmp_path / name, n=50, size=(160, 96))


def test_from_a_file_and_on(ctl, model, tmp_path):
    file = tmp_path / "a.mp4"
    clip(tmp_path)
    arguments = ("model", "collect", "--output", str(tmp_path / "set"), "--stream", f"file://{file}", "--model",
                 str(model), "--every", "0.1", "--distance", "1", "--json", "--threads", "1")  # fmt: skip
    done = ctl(*arguments, "--count", "2")
    assert done.code == 0, done.err
    assert (done.json["frames"], done.json["ended"], done.json["streams"]) == (2, "the set is full", {"stream-1": 2})
    frames, rest = check_whole(tmp_path / "set")
    assert (frames[0].width, frames[0].height) == (160, 96)
    assert rest["streams"] == [{"id": "stream-1", "url": f"file://{file}"}]
    done = ctl(*arguments, "--count", "3")
    assert done.json["frames"] == 3 and "going on with 2 frames" in done.err
    assert {f.file for f in frames} <= {f.file for f in check_whole(tmp_path / "set")[0]}
    done = ctl(*arguments, "--count", "3", "--threshold", "0.7")
    assert done.code == 2 and "begun with threshold 0.5, now it is 0.7" in done.err


def test_ctrl_c_keeps_a_whole_set(model, tmp_path):
    clip(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "facedetctl", "model", "collect", "--output", str(tmp_path / "set"), "--json",
         "--stream", f"file://{tmp_path / 'a.mp4'}", "--model", str(model), "--every", "0.1", "--threads", "1",
         "--duration", "10min", "--state-dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "set" / LIST).exists():  # the first round
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["ended"] == "interrupted"
    frames, _ = check_whole(tmp_path / "set")
    assert len(frames) == json.loads(out)["frames"] > 0


def test_passwords_come_as_for_add_stream_and_are_not_in_the_list(ctl, model, tmp_path):
    base = ("model", "collect", "--output", str(tmp_path / "set"), "--model", str(model), "--count", "1")
    done = ctl(*base, "--stream", "rtsp://me:geheim@127.0.0.1:1/x")
    assert done.code == 2 and "geheim" not in done.err and "--password-stdin" in done.err
    done = ctl(*base, "--password-stdin", stdin="geheim")
    assert done.code == 2 and "for --stream" in done.err
    streams = tmp_path / "streams.toml"
    streams.write_text('[[stream]]\nid = "door"\nurl = "rtsp://me:geheim@127.0.0.1:1/x"\n')
    done = ctl(*base, "--streams-file", str(streams))
    assert done.code == 2 and "chmod 600" in done.err and "geheim" not in done.err
    streams.chmod(0o600)
    for arguments, given in (
        (("--streams-file", str(streams)), ""),
        (("--stream", "rtsp://127.0.0.1:1/x?password=geheim", "--username", "me", "--password-stdin"), "geheim"),
    ):
        done = ctl(*base, *arguments, "--duration", "1s", stdin=given)
        assert done.code == 0, done.err
        assert "connection refused" in done.err and "geheim" not in done.err + done.out
        assert "geheim" not in (tmp_path / "set" / LIST).read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stream", "http://cam/x"), "url: found"),
        (("--stream", "file:///a.mp4", "--id", "x"), "--id names streams of the daemon"),
        (("--stream", "file:///a.mp4", "--count", "0"), "from 1 to 5000"),
        (("--stream", "file:///a.mp4", "--duration", "24"), "as 24h"),
        (("--streams-file", "/nowhere.toml"), "there is no such file"),
        (("--stream", "file:///a.mp4", "--model", "/nowhere.onnx"), "no such model file"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_made(ctl, tmp_path, arguments, said):
    done = ctl("model", "collect", "--output", str(tmp_path / "set"), *arguments)
    assert done.code == 2 and said in done.err
    assert not (tmp_path / "set").exists()


class Pictures(FakeControl):
    """Its streams give real pictures, another each time; ``cold`` gives none."""

    def __init__(self):
        super().__init__()
        self.asked = []
        for name in ("cam1", "cam2", "cold"):
            self.streams[name] = view_of(StreamSpec(name, "rtsp://cam/1?pwd=geheim"))

    async def snapshot(self, stream_id, *, plain):
        self._find(stream_id)
        self.asked.append((stream_id, plain))
        if stream_id == "cold":
            raise UnavailableError("stream cold is stalled")
        n = len(self.asked)
        jpeg = cv2.imencode(".jpg", picture(n, size=128))[1].tobytes()
        return SnapshotView(jpeg, UTC_NS + n * 10**9, n, 128, 128, 0)


def test_from_the_running_daemon_s_streams(monkeypatch, model, tmp_path):
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path))
    control = Pictures()
    with serving(control) as served:
        ctl = Ctl(monkeypatch, served)
        base = ("model", "collect", "--output", str(tmp_path / "set"), "--model", str(model), "--every", "0.1",
                "--distance", "1", "--threads", "1", "--json")  # fmt: skip
        done = ctl(*base, "--count", "6")
        assert done.code == 0, done.err
        assert done.json["streams"] == {"cam1": 3, "cam2": 3}
        assert all(plain for _, plain in control.asked)  # nothing drawn in
        assert done.err.count("stream cold: stream cold is stalled") == 1
        frames, rest = check_whole(tmp_path / "set")
        assert [s["id"] for s in rest["streams"]] == ["cam1", "cam2", "cold"] and "geheim" not in str(rest)
        done = ctl(*base, "--count", "7", "--id", "cam2")
        assert done.code == 0 and len(check_whole(tmp_path / "set")[0]) == 7
        assert {f.file for f in frames} <= {f.file for f in check_whole(tmp_path / "set")[0]}
        done = ctl(*base, "--count", "9", "--id", "cam9")
        assert (done.code, "no stream cam9" in done.err) == (4, True)
    done = ctl(*base, "--count", "9")
    assert done.code == 3
    assert len(check_whole(tmp_path / "set")[0]) == 7


def test_light_to_import():
    script = "import facedetctl.main, sys; print([m for m in ('cv2', 'av', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_quantize_sees_the_same_set(tmp_path, detector):
    from facedetd.workshop.calibrate import read_set

    run(tmp_path / "set", detector, shots(10))
    found = read_set(tmp_path / "set")
    assert {path.name for path in found.files} == {f.file for f in check_whole(tmp_path / "set")[0]}
    assert found.sha256 == json.loads((tmp_path / "set" / LIST).read_text())["set_sha256"]
