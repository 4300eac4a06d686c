"""doctor's look at the GPU: from what is found on a machine, put in place of the real one here, to what to do."""

import hashlib
import os
from tempfile import gettempdir
from types import SimpleNamespace

import pytest
from trt_fakes import H100

from facedetctl import doctor_checks as checks
from facedetctl.doctor_checks import GpuSide, Grade, Part
from facedetctl.doctor_gpu import Tools, look_at_gpu
from facedetd.models import ModelStore
from facedetd.trt import compat, device
from facedetd.trt.device import Gpu
from facedetd.trt.errors import GpuError
from facedetd.trt.plan import Manifest, Recipe, Shapes, write_plan
from facedetd.v1 import daemon_pb2, stream_pb2

MODEL = b"not looked into"
SHA256 = hashlib.sha256(MODEL).hexdigest()
ABSENT = Part(missing="NVIDIA's driver isn't installed (libnvidia-ml.so.1 isn't there)", absent=True)
DRIVER = Part("NVIDIA driver 580.159.04, GPU 0 NVIDIA H100 80GB HBM3")


def stats(engine: str = "", *, on_gpu: bool = False, sees: bool = False) -> daemon_pb2.GetStatsResponse:
    found = daemon_pb2.GetStatsResponse()
    if sees:
        found.gpus.add(index=0, name="NVIDIA H100", driver_version="580.159.04")
    if engine:
        found.model.engine = engine
    if on_gpu:
        one = found.streams.add()
        one.spec.id, one.spec.decode = "door", stream_pb2.DECODE_MODE_GPU
    return found


@pytest.mark.parametrize(
    ("said", "side", "grade", "found", "advice"),
    [
        (stats("onnxruntime"), GpuSide(driver=ABSENT), Grade.OK, "none is wanted: the engine is onnxruntime", ""),
        (stats("onnxruntime"), GpuSide(driver=DRIVER), Grade.OK, "580.159.04, GPU 0 NVIDIA H100", ""),
        (stats("tensorrt", sees=True), GpuSide(engine="tensorrt", driver=DRIVER), Grade.OK, "580.159.04, GPU 0", ""),
        # As when doctor may look and the service may not, or the other way round
        (stats(), GpuSide(engine="tensorrt", driver=DRIVER), Grade.ERROR, "the daemon can't see it", "facedetd-gpu"),
        (stats(sees=True), GpuSide(engine="tensorrt", driver=ABSENT), Grade.OK, "GPU 0 NVIDIA H100", ""),
        (stats(), GpuSide(engine="tensorrt", driver=ABSENT), Grade.ERROR, "the engine wants one", "facedetd-gpu"),
        (stats("onnxruntime", on_gpu=True), GpuSide(driver=ABSENT), Grade.ERROR, "stream door wants", "facedetd-gpu"),
        (stats("onnxruntime"), GpuSide(nvdec=True, driver=ABSENT), Grade.ERROR, "capture.decode wants", "facedetd-gpu"),
        (stats(), GpuSide(engine="tensorrt", driver=Part(missing="NVML: error 18")), Grade.ERROR, "error 18", "reboot"),
        (stats("onnxruntime"), GpuSide(driver=Part(missing="NVML: error 18")), Grade.WARNING, "error 18", "reboot"),
    ],
)
def test_the_driver_by_who_wants_it(said, side, grade, found, advice):
    [finding] = checks.gpu(said, side)
    assert (finding.subject, finding.grade) == ("gpu", grade)
    assert found in finding.found and advice in finding.advice


@pytest.mark.parametrize(
    ("part", "grade"),
    [
        (Part("TensorRT 10.3.0"), Grade.OK),
        (Part(missing="TensorRT isn't installed", advice="pip install it"), Grade.ERROR),
        (Part(hidden="only root and facedetd may look into /var/lib/facedetd"), Grade.UNKNOWN),
    ],
)
@pytest.mark.parametrize("subject", ["tensorrt", "pycuda", "plan"])
def test_what_tensorrt_needs_has_a_line_each(subject, part, grade):
    _, finding = checks.gpu(stats(sees=True), GpuSide(engine="tensorrt", driver=DRIVER, **{subject: part}))
    assert (finding.subject, finding.grade) == (subject, grade)
    assert finding.found == part.found + part.missing + part.hidden
    assert (
        finding.advice == {Grade.OK: "", Grade.ERROR: "pip install it", Grade.UNKNOWN: "sudo facedetctl doctor"}[grade]
    )


def test_a_configuration_that_can_not_be_read_is_said(tmp_path):
    side = look_at_gpu(tmp_path / "none.toml", stats("onnxruntime"), machine())
    assert side.engine == "onnxruntime" and "none.toml: No such file" in side.unread
    (tmp_path / "bad.toml").write_text("[inference]\nengine = 7\n")
    assert "bad.toml" in look_at_gpu(tmp_path / "bad.toml", stats(), machine()).unread
    driver, finding = checks.gpu(stats("onnxruntime"), side)
    assert (finding.grade, driver.grade) == (Grade.UNKNOWN, Grade.OK)


def refuse(error):
    def look(*arguments):
        raise error

    return look


def machine(**other) -> Tools:
    """One with an H100 and TensorRT 10.3.0, but for what is put in place."""
    api = compat.Api(SimpleNamespace(__version__="10.3.0", __name__="tensorrt"))
    there = {"driver": lambda: ("580.1", ["GPU 0 NVIDIA H100"]), "tensorrt": lambda: api, "gpu": lambda index: H100}
    return Tools(**{**there, **other})


@pytest.fixture
def site(tmp_path):
    """A configuration for TensorRT, and a store with one model."""
    words = {"head": "centerface", "licence": "MIT", "source": "here", "source_sha256": SHA256}
    ModelStore(tmp_path / "state/models").put("centerface", MODEL, **words)
    config = tmp_path / "facedetd.toml"
    config.write_text(f'[daemon]\nstate_dir = "{tmp_path}/state"\n[inference]\nengine = "tensorrt"\nbatch_max = 16\n')
    return config


def add_plan(site, **recipe) -> None:
    fields = {"tensorrt": "10.3.0", "sm": "9.0", "precision": "fp16", "shapes": Shapes(640, 384), **recipe}
    data = b"a plan"
    made = Recipe(model_sha256=SHA256, flavour="tensorrt", **fields)
    manifest = Manifest(made, "centerface", "NVIDIA H100", "data", (), hashlib.sha256(data).hexdigest(), len(data),
                        "2026-11-22T00:00:00Z", 1.0)  # fmt: skip
    folder = site.parent / "state/plans"
    folder.mkdir(exist_ok=True)
    write_plan(folder / f"{made.key}.plan", data, manifest)


def test_a_plan_that_fits_is_named(site):
    add_plan(site)
    side = look_at_gpu(site, stats(), machine())
    assert side.tensorrt == Part("TensorRT 10.3.0") and "NVIDIA H100, compute capability 9.0" in side.pycuda.found
    assert "for centerface: fp16, 640x384, batches of 1 to 32, by TensorRT 10.3.0 for NVIDIA H100" in side.plan.found
    assert {f.grade for f in checks.gpu(stats(sees=True), side)} == {Grade.OK}


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (None, "none of this model is there"),
        ({"tensorrt": "8.6.0"}, "was built by TensorRT 8.6.0, here is 10.3.0"),
        ({"sm": "8.0"}, "was built for compute capability 8.0"),
        ({"precision": "fp32"}, "is fp32, not fp16"),
        ({"shapes": Shapes(960, 544)}, "takes 960x544, not 640x384"),
        ({"shapes": Shapes(640, 384, 1, 4, 8)}, "takes batches of 1 to 8, not of 1 to 16"),
    ],
)
def test_without_a_plan_that_fits_the_command_that_builds_one_is_given(site, recipe, why):
    if recipe is not None:
        add_plan(site, **recipe)
    plan = look_at_gpu(site, stats(), machine()).plan
    assert why in plan.missing
    assert plan.advice == (
        "sudo facedetctl model build centerface --precision fp16 --width 640 --height 384 --opt-batch 16 "
        "--max-batch 16 --device 0"
    )


def test_a_model_that_is_not_there_has_no_plan(site):
    site.write_text(site.read_text() + '[model]\nname = "other"\n')
    plan = look_at_gpu(site, stats(), machine()).plan
    assert "no model 'other'" in plan.missing and plan.advice == "facedetctl model list"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_rights_to_the_store_it_says_so(site):
    # As an ordinary user calls doctor: the state directory is the daemon's
    state = site.parent / "state"
    add_plan(site)
    assert look_at_gpu(site, stats(), machine()).plan.found  # and modules are loaded, of folders that may be root's
    state.chmod(0o700)
    for folder in [f for f in state.parents if f.is_relative_to(gettempdir()) and f.stat().st_uid == 0]:
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        side = look_at_gpu(site, stats(), machine())
    finally:
        os.seteuid(0)
    assert side.unread == "" and side.plan == Part(hidden=f"only root and facedetd may look into {state}")


def test_what_is_missing_is_told_with_what_to_install(site):
    none = GpuError(f"TensorRT isn't installed: {compat.INSTALL}")
    side = look_at_gpu(site, stats(), machine(tensorrt=refuse(none)))
    assert side.tensorrt == Part(missing="TensorRT isn't installed", advice=compat.INSTALL)
    assert side.pycuda.found and side.plan is None
    none = GpuError(f"pycuda isn't installed: {device.INSTALL}")
    side = look_at_gpu(site, stats(), machine(gpu=refuse(none)))
    assert side.pycuda == Part(missing="pycuda isn't installed", advice=device.INSTALL) and side.plan is None
    side = look_at_gpu(site, stats(), machine(gpu=refuse(GpuError("no GPU 1; there is 1, counted from 0"))))
    assert "no GPU 1" in side.pycuda.missing and "nvidia-smi" in side.pycuda.advice


def test_a_driver_that_is_absent_is_not_one_that_is_broken(site):
    assert look_at_gpu(site, stats(), machine(driver=refuse(FileNotFoundError("isn't there")))).driver.absent
    broken = look_at_gpu(site, stats(), machine(driver=refuse(OSError("NVML can't be used: error 18")))).driver
    assert not broken.absent and "error 18" in broken.missing


def test_another_engine_loads_nothing_for_gpus(site):
    site.write_text("")
    use = machine(tensorrt=refuse(AssertionError("loaded")), gpu=refuse(AssertionError("loaded")))
    side = look_at_gpu(site, stats(), use)
    assert (side.engine, side.tensorrt, side.pycuda, side.plan) == ("onnxruntime", None, None, None)


def test_each_of_several_gpus_is_named_with_its_plan(site):
    site.write_text(site.read_text() + "devices = [0, 2]\n")
    other = Gpu(2, "NVIDIA T4", "7.5", 16 << 30)
    add_plan(site)
    two = machine(gpu={0: H100, 2: other}.__getitem__)
    side = look_at_gpu(site, stats(), two)
    assert side.pycuda.found == (
        "PyCUDA finds GPU 0 NVIDIA H100, compute capability 9.0, GPU 2 NVIDIA T4, compute capability 7.5"
    )
    assert "on NVIDIA T4" in side.plan.missing and "--device 2" in side.plan.advice
    add_plan(site, sm="7.5")
    side = look_at_gpu(site, stats(), two)
    assert side.plan.found.count("for centerface: fp16") == 2
    site.write_text(site.read_text().replace("[0, 2]", "[0, 1]"))
    add_plan(site)
    assert look_at_gpu(site, stats(), machine()).plan.found.count("for centerface: fp16") == 1, "one type, one plan"
