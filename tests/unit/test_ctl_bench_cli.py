"""bench's command line, its report, and where the cameras come from."""

import dataclasses
import json
import signal

import model_kit
import pytest
from ctl_harness import Ctl

from facedetctl.bench import cameras, cli, report, runner
from facedetctl.bench.accuracy import Accuracy
from facedetctl.bench.cameras import CamerasError, own_cameras
from facedetctl.bench.figures import LatencyMs, Measured, StreamFigures, Thresholds, check_streams
from facedetctl.bench.gpu import GpuUse
from facedetctl.bench.measure import MeasureError
from facedetctl.main import make_parser
from facedetd.models import ModelError

GOOD = StreamFigures("cam0", 5.0, 100, 5.0, 0.0, LatencyMs(50, 45, 90, 120), Accuracy(100, 100, 90.0))
NO_GPU = GpuUse()


def measured(cpu_seconds=4.0, gpu=NO_GPU, **change):
    streams = (dataclasses.replace(GOOD, **change),)
    checks = check_streams(streams, Thresholds(), with_accuracy=True)
    return Measured(streams, 20.0, GOOD.latency, cpu_seconds, 200 << 20, 4e6, gpu, checks)


@pytest.fixture
def ctl(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEDETD_MODEL_STORE", str(tmp_path / "store"))
    return Ctl(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return str(model_kit.save(model_kit.centerface(), tmp_path / "m.onnx"))


@pytest.fixture
def rungs(monkeypatch):
    """Replaces the measuring itself; the values are what each rung gives, the calls what it was asked for."""
    asked = []
    give = {}

    def run_rung(count, options, say):
        asked.append((count, options))
        daemon, baseline = give.get(count, (measured(), measured(8.0)))
        ratio = runner.cpu_ratio(daemon, baseline)
        return runner.Rung(count, daemon, baseline, ratio, (*daemon.checks, *runner._ratio_check(ratio, options)))

    monkeypatch.setattr(runner, "run_rung", run_rung)
    return asked, give


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ladder", "1,x"], "found 'x'; allowed is a whole number from 1 to 1000"),
        (["--streams", "0"], "found '0'; allowed is a whole number from 1 to 1000"),
        (["--size", "1280"], "found '1280'; write WIDTHxHEIGHT"),
        (["--size", "99999x99999"], "found '99999x99999'; write WIDTHxHEIGHT, as 1280x720, each at most 8192"),
        (["--model-size", "640x0"], "found '640x0'; write WIDTHxHEIGHT"),
        (["--target", "speed=3"], "allowed are NAME=VALUE with fps, drop, p95, recall, iou, ratio"),
        (["--target", "p95=fast"], "found 'fast'; allowed is a number above 0"),
        (["--duration", "0"], "found '0'; allowed is a number above 0"),
        (["--warmup=-1"], "found '-1'; allowed is a number above 0"),
        (["--streams", "1", "--ladder", "1"], "not allowed with"),
        (["--no-baseline", "--target", "ratio=0.6"], "needs the baseline"),
        (["--credentials-file", "x"], "goes with --source"),
        (["--source", "none.mp4"], "--source: 'none.mp4': no such file, and no rtsp:// or rtsps:// URL"),
        (["--source", "rtsp://u:p@h/"], "--source: a URL holds a user or password"),
    ],
)
def test_a_bad_command_line_says_what_is_allowed(ctl, words, said):
    done = ctl("bench", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_each_rung_of_the_ladder_with_all_options(ctl, rungs, model):
    asked, _ = rungs
    done = ctl(
        "bench", "--ladder", "1,2,8", "--duration", "3", "--warmup", "0", "--fps", "2.5", "--size", "1920x1080",
        "--camera-fps", "30", "--codec", "h265", "--bitrate", "2000000", "--transport", "file", "--model", model,
        "--model-size", "320x192", "--threads", "3", "--target", "p95=100", "recall=off", "ratio=0.6",
        "--tuned-baseline",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [count for count, _ in asked] == [1, 2, 8]
    options = asked[0][1]
    assert (options.duration_s, options.warmup_s, options.target_fps) == (3.0, 0.0, 2.5)
    assert options.scenes == cameras.SceneOptions((1920, 1080), 30, "h265", 2_000_000, True)
    assert (options.model.head, options.model_size, options.threads) == ("centerface", (320, 192), 3)
    assert options.thresholds == Thresholds(max_p95_ms=100.0, min_recall=None)
    assert (options.max_cpu_ratio, options.tuned_baseline) == (0.6, True)


def test_rows_and_checklist(ctl, rungs, model):
    done = ctl("bench", "--streams", "1", "--model", model)
    assert done.out == (
        "         CAMS TARGET   FPS   MIN   DROP  MEAN   P50   P95   P99 CORES  CPU-S MS/FRAME   MEMORY  NETWORK RECALL"
        "   IOU   GPU NVDEC  GPU-MEM  TEMP  POWER\n"
        "facedetd    1      5  5.00  5.00   0.0%    50    45    90   120  0.20    4.0     40.0  200 MiB      4.0  1.000"
        "  0.90\n"
        "cv2         1      5  5.00  5.00   0.0%    50    45    90   120  0.40    8.0     80.0  200 MiB      4.0  1.000"
        "  0.90\n"
        "  CPU time a delivered frame: 0.50 of the cv2 baseline's\n"
        "  pass  fps target ±5%: 5.00 of 5 fps (+0.0%) (cam0)\n"
        "  pass  drop < 3.0%: 0.00% (cam0)\n"
        "  pass  p95 latency < 250 ms: 90 ms (cam0)\n"
        "  pass  recall >= 0.95: 1.000 (cam0)\n"
        "  pass  mean IoU >= 0.6: 0.900 (cam0)\n"
    )


def test_a_gpu_s_figures_stand_in_their_columns_and_what_it_does_not_tell_is_blank():
    line = report.row("facedetd", measured(gpu=GpuUse(0.4, None, 19_000_000_000, 61.0, 312.5)))
    assert line.endswith("  0.90   40%       17.7 GiB 61 °C  312 W")
    assert len(line) == len(report.heading())
    assert report.row("facedetd", measured()).endswith("  0.90")


def test_json_is_one_object_and_one_bad_rung_fails_all(ctl, rungs, model):
    _, give = rungs
    give[2] = (measured(drop_fraction=0.1), None)
    done = ctl("bench", "--ladder", "1,2", "--model", model, "--json")
    assert done.code == 1
    found = done.json
    assert [(rung["cameras"], rung["pass"]) for rung in found["rungs"]] == [(1, True), (2, False)]
    assert found["pass"] is False
    first = found["rungs"][0]
    assert {"id", "target_fps", "fps", "drop_fraction", "recall", "mean_iou", "latency_ms"} == set(first["streams"][0])
    assert (first["cpu_seconds"], first["memory_bytes"], first["network_bps"]) == (4.0, 200 << 20, 4_000_000)
    assert (first["frames"], first["cpu_ms_per_frame"], first["cpu_ratio"]) == (100, 40.0, 0.5)
    assert first["baseline"]["cpu_ms_per_frame"] == 80.0
    assert found["rungs"][1]["baseline"] is None
    assert found["options"]["model"]["name"] == "m"
    assert found["machine"]["cores"] >= 1 and found["date"].endswith("+00:00")


@pytest.mark.parametrize(("daemon_cpu", "code"), [(6.0, 0), (6.1, 1)])
def test_the_ratio_is_only_checked_when_asked(ctl, rungs, model, daemon_cpu, code):
    _, give = rungs
    give[4] = (measured(daemon_cpu), measured(10.0))
    assert ctl("bench", "--model", model, "--target", "ratio=0.6").code == code
    assert ctl("bench", "--model", model).code == 0


def test_what_goes_wrong_is_one_line(ctl, monkeypatch, model):
    def broken(*_):
        raise MeasureError("the results broke off: gone")

    monkeypatch.setattr(runner, "run_rung", broken)
    done = ctl("bench", "--model", model)
    assert (done.code, done.err) == (1, "facedetctl: the results broke off: gone\n")


def test_an_unknown_model_and_a_bad_file_are_told(ctl, tmp_path):
    done = ctl("bench", "--model", "nosuch")
    assert done.code == 1 and "nosuch" in done.err
    (tmp_path / "x.onnx").write_bytes(b"no model")
    done = ctl("bench", "--model", str(tmp_path / "x.onnx"))
    assert done.code == 1 and "x.onnx" in done.err


def test_a_model_file_never_reaches_the_users_store(tmp_path, monkeypatch, model):
    monkeypatch.setenv("FACEDETD_MODEL_STORE", str(tmp_path / "store"))
    entry, store = cli.find_model(model, (64, 64), tmp_path / "scratch", print)
    assert store == tmp_path / "scratch" and entry.path.is_relative_to(store)
    assert not (tmp_path / "store").exists()
    with pytest.raises(ModelError):
        cli.find_model("m", (64, 64), tmp_path / "scratch", print)


def test_own_sources_are_taken_in_turn_and_files_become_urls(tmp_path):
    clip = tmp_path / "a b.mp4"
    clip.write_bytes(b"")
    found = own_cameras(["rtsp://cam/1", str(clip), f"file://{tmp_path}/a b.mp4"], 4, None)
    url = f"file://{tmp_path}/a%20b.mp4"
    assert found.urls == ("rtsp://cam/1", url, url, "rtsp://cam/1")
    assert found.for_opencv()[:2] == ("rtsp://cam/1", str(clip))
    assert found.truth is None


@pytest.mark.parametrize("source", ["rtsp://u:secret@cam/1", "rtsps://secret@cam/"])
def test_a_password_in_a_source_is_refused_and_not_shown(source):
    with pytest.raises(CamerasError, match="--credentials-file") as error:
        own_cameras([source], 1, None)
    assert "secret" not in str(error.value)


def test_a_source_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(CamerasError, match="no such file"):
        own_cameras([str(tmp_path / "none.mp4")], 1, None)


def test_without_the_checkout_generated_cameras_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(cameras.facedetd, "__file__", str(tmp_path / "site-packages" / "facedetd" / "__init__.py"))
    with pytest.raises(CamerasError, match="--source"):
        cameras.encode_clips(1, cameras.SceneOptions())


def test_a_scene_that_cannot_be_is_told():
    with pytest.raises(CamerasError, match="100x100"):
        cameras.encode_clips(1, cameras.SceneOptions(size=(100, 100)))


def test_machine_info_is_plain_json():
    assert json.loads(json.dumps(report.machine()))["packages"]["numpy"]


def test_defaults_are_the_issues():
    args = make_parser().parse_args(["bench"])
    assert (args.warmup, args.fps, args.camera_fps, args.baseline, args.tuned_baseline) == (5.0, 5.0, 25, True, False)
    assert cli.thresholds_of([]) == (Thresholds(0.05, 0.03, 250.0, 0.95, 0.6), None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("handler", "code"), [(lambda *_: None, 130), (signal.SIG_IGN, 0)])
def test_it_ends_by_signals_as_by_ctrl_c_unless_they_are_ignored(ctl, rungs, model, monkeypatch, number, handler, code):
    measure = runner.run_rung

    def killed(*args):
        signal.raise_signal(number)
        return measure(*args)

    monkeypatch.setattr(runner, "run_rung", killed)
    before = signal.signal(number, handler)
    try:
        assert ctl("bench", "--streams", "1", "--model", model).code == code
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
