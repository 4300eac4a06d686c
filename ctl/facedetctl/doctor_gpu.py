"""doctor's look at what inference and decoding on a GPU need: driver, TensorRT, PyCUDA, and the plan of the model.

Reads the daemon's configuration, for a daemon that waits for a device runs no engine that it could name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.doctor_checks import GpuSide, Part

if TYPE_CHECKING:
    from facedetd.config.model import Config
    from facedetd.trt.compat import Api
    from facedetd.trt.device import Gpu
    from facedetd.v1 import daemon_pb2


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the facts come from: what a test puts its own in place of. ``driver`` gives version and names of the GPUs
    and raises OSError; ``tensorrt`` and ``gpu`` raise GpuError."""

    driver: Callable[[], tuple[str, list[str]]]
    tensorrt: Callable[[], Api]
    gpu: Callable[[int], Gpu]


def tools() -> Tools:
    from facedetd.trt import compat, device

    return Tools(_driver, compat.installed, device.find)


def look_at_gpu(path: Path, stats: daemon_pb2.GetStatsResponse, use: Tools) -> GpuSide:
    """Facts of this machine. No CUDA context is made, and TensorRT and PyCUDA are loaded only where the configuration
    names that engine."""
    side = GpuSide(engine=stats.model.engine)
    try:
        config = _config(path)
        side = replace(side, engine=config.inference.engine, nvdec=config.capture.decode == "nvdec")
    except OSError as error:
        config, side = None, replace(side, unread=f"{path}: {error.strerror or error}")
    except ValueError as error:
        config, side = None, replace(side, unread=str(error))
    side = replace(side, driver=_part(partial(_driver_words, use.driver)))
    if side.engine != "tensorrt":
        return side
    api = _try(use.tensorrt)
    found = [_try(partial(use.gpu, index)) for index in (config.inference.devices if config else (0,))]
    gpus = [gpu for gpu in found if not isinstance(gpu, Part)]
    missing = [part for part in found if isinstance(part, Part)]
    tensorrt = api if isinstance(api, Part) else Part(f"TensorRT {api.version}")
    names = ", ".join(f"GPU {gpu.index} {gpu.name}, compute capability {gpu.sm}" for gpu in gpus)
    side = replace(side, tensorrt=tensorrt, pycuda=missing[0] if missing else Part(f"PyCUDA finds {names}"))
    if config is None or isinstance(api, Part) or not gpus:
        return side
    plans = [_plan(config, stats, api, gpu) for gpu in gpus]
    whole = Part("; ".join(dict.fromkeys(plan.found for plan in plans)))  # GPUs of one type share a plan
    return replace(side, plan=next((plan for plan in plans if plan.missing or plan.hidden), whole))


def _config(path: Path) -> Config:
    """Raises OSError, and ValueError with the first error of a bad one."""
    from facedetd.config.issues import ConfigErrors
    from facedetd.config.load import load

    path.read_bytes()  # an OSError for what can't be read, where load has an error of the configuration
    try:
        return load(path)
    except ConfigErrors as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _driver() -> tuple[str, list[str]]:
    from facedetd.cuda.nvml import open_gpus

    found, problems = open_gpus()
    try:
        if not found:
            raise OSError("; ".join(problems) or "the driver finds no GPU")
        return found[0].identity.driver, [f"GPU {g.identity.index} {g.identity.name}" for g in found]
    finally:
        for each in found:
            each.close()


def _driver_words(driver: Callable[[], tuple[str, list[str]]]) -> str:
    version, names = driver()
    return ", ".join([f"NVIDIA driver {version or 'of unknown version'}", *names])


def _part(look: Callable[[], str]) -> Part:
    try:
        return Part(look())
    except FileNotFoundError as error:
        return Part(missing=str(error), absent=True)
    except OSError as error:
        return Part(missing=str(error))


def _try(look: Callable[[], Any]) -> Any:
    """What it gives, or the Part that says why not and what to install."""
    from facedetd.trt import compat, device
    from facedetd.trt.errors import GpuError

    try:
        return look()
    except GpuError as error:
        found = str(error)
        for advice in (compat.INSTALL, device.INSTALL):
            if found.endswith(f": {advice}"):
                return Part(missing=found.removesuffix(f": {advice}"), advice=advice)
        return Part(missing=found, advice="nvidia-smi; journalctl -k -g NVRM")


def _plan(config: Config, stats: daemon_pb2.GetStatsResponse, api: Api, gpu: Gpu) -> Part:
    """The plan that the daemon would take for the model that runs, or that the configuration names."""
    from facedetd.inference.engines.tensorrt import plan_of
    from facedetd.models import ModelError, ModelStore
    from facedetd.trt import PLANS
    from facedetd.trt.errors import PlanError
    from facedetd.trt.plan import read_manifest

    folder, model, inference = config.daemon.state_dir, config.model, config.inference
    name = stats.model.name or model.name
    try:
        for each in (folder, folder / PLANS):  # what comes after takes what it may not see for what isn't there
            if each.is_dir():
                list(each.iterdir())
        entry = ModelStore(folder / "models").get(name, stats.model.version or None)
        size = (model.width, model.height)
        find = plan_of(entry.path, name, folder / PLANS, inference.precision, *size, inference.batch_max)
        path, _ = find(api, gpu)
        made = read_manifest(path)
    except PermissionError as error:
        return Part(hidden=f"only root and facedetd may look into {error.filename}")
    except OSError as error:
        return Part(missing=f"{error.filename}: {error.strerror}")
    except ModelError as error:
        return Part(missing=str(error), advice="facedetctl model list")
    except PlanError as error:
        found, _, command = str(error).partition("; build one: ")
        return Part(missing=found, advice=f"sudo {command}" if command else "")
    shapes = made.recipe.shapes
    return Part(
        f"{path.name} for {name}: {made.recipe.precision}, {shapes.width}x{shapes.height}, batches of "
        f"{shapes.min_batch} to {shapes.max_batch}, by TensorRT {made.recipe.tensorrt} for {made.gpu}"
    )
