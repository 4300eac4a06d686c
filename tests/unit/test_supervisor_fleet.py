"""Several devices as one: what state they are in together, what is said of them, and when another model is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from facedetd.config.model import Config
from facedetd.control import DaemonState, ModelView, UnavailableError
from facedetd.supervisor import units as units_module
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.observe import InferenceFigures
from facedetd.supervisor.said import Beat
from facedetd.supervisor.units import Units

RUNNING, AWAY, FAILED, STARTING = (
    DaemonState.RUNNING,
    DaemonState.WAITING_FOR_DEVICE,
    DaemonState.FAILED,
    DaemonState.STARTING,
)
VIEW = ModelView("m", "1", "head", "engine", 640, 384, "0")


class Process:
    def __init__(self, unit: Any) -> None:
        self.unit, self.retired, self.restarts, self.detail = unit, False, 0, ""

    def start_now(self) -> None:
        state, problem = self.unit.fate
        self.unit.state, self.unit.problem = state, problem
        self.unit.view = VIEW if state is RUNNING else None
        if not self.unit.settled.done():
            self.unit.settled.set_result(problem or None)


class Unit:
    """Ends as ``fate`` says when it is started."""

    fates: ClassVar[dict[int, tuple[DaemonState, str]]] = {}

    def __init__(self, name: str, generation: int, device: int, *rest: Any) -> None:
        self.name, self.generation, self.device = name, generation, device
        self.fate = self.fates.get(device, (RUNNING, ""))
        self.state, self.problem, self.view = STARTING, "", None  # type: tuple[DaemonState, str, ModelView | None]
        self.full_fps, self.calibration, self.worker, self.wanted = 100.0, None, None, "m"
        self.settled = asyncio.get_running_loop().create_future()
        self.process = Process(self)
        self.stopped = False

    def stop(self) -> None:
        self.stopped = self.process.retired = True


async def fleet_of(*fates: tuple[DaemonState, str]) -> Any:
    Unit.fates = dict(enumerate(fates))
    fleet: Any = Fleet([Unit("i", 1, device) for device in Unit.fates])  # type: ignore[misc]
    fleet.start_idle()
    return fleet


@pytest.mark.parametrize(
    "fates, state, problem",
    [
        ([(RUNNING, "")], RUNNING, ""),
        ([(AWAY, "no GPU")], AWAY, "no GPU"),
        ([(RUNNING, ""), (RUNNING, "")], RUNNING, ""),
        ([(AWAY, "it fell off the bus"), (RUNNING, "")], RUNNING, "device 0: it fell off the bus"),
        ([(FAILED, "dies"), (AWAY, "no GPU")], AWAY, "device 0: dies; device 1: no GPU"),
        ([(FAILED, "dies"), (FAILED, "dies")], FAILED, "dies"),
    ],
)
def test_one_that_runs_is_enough_and_each_that_does_not_is_named(
    fates: list[tuple[DaemonState, str]], state: DaemonState, problem: str
) -> None:
    fleet = asyncio.run(fleet_of(*fates))
    assert (fleet.state, fleet.problem) == (state, problem)
    assert (fleet.running is VIEW) == (state is RUNNING)
    up = [s for s, _ in fates].count(RUNNING)
    said = list(fleet.problems())
    assert bool(said) == bool(problem)
    if said and up:
        assert said[0][2].endswith(f"the others go on ({up} of {len(fates)} devices)")


def test_one_that_crashed_beside_others_is_told_of() -> None:
    """The daemon's state stays running, so nothing else would say it."""
    fleet = asyncio.run(fleet_of((STARTING, ""), (RUNNING, "")))
    assert not list(fleet.problems()), "it only begins"
    crashed = fleet.units[0]
    crashed.process.restarts, crashed.process.detail = 1, "died of SIGSEGV"
    said = "device 0: its process died of SIGSEGV; it is started again; the others go on (1 of 2 devices)"
    assert list(fleet.problems()) == [("error", "model", said)]
    crashed.worker = SimpleNamespace(ready=True, kill_reason="no sign of life for 9.0 s")
    assert "has not ended yet: no sign of life" in fleet.problem
    crashed.state = RUNNING
    assert not list(fleet.problems())


@pytest.mark.parametrize("others", [(), ((RUNNING, ""),)])
def test_one_that_never_gets_ready_is_told_of(others: tuple[tuple[DaemonState, str], ...]) -> None:
    """A driver that hangs does so while the engine is loaded, for which there is no limit."""
    fleet = asyncio.run(fleet_of((STARTING, ""), *others))
    worker = fleet.units[0].worker = SimpleNamespace(kill_reason="", ready=False, lived_s=299.0)
    assert not list(fleet.problems())
    worker.lived_s = 301.0
    [(severity, subject, message)] = fleet.problems()
    assert (severity, subject) == ("error", "model") and "still loads after 5 min" in message
    assert message.startswith("device 0: ") == bool(others)
    worker.ready, fleet.units[0].state = True, RUNNING
    assert not list(fleet.problems())


def test_lost_results_do_not_fall_when_one_of_several_ends() -> None:
    class Worker:
        def __init__(self, lost: int) -> None:
            self.ready, self.beat = True, Beat(results_lost=lost)

    figures, first, second = InferenceFigures(), Worker(10), Worker(5)

    def lost(*workers: Any) -> int | None:
        view = figures.view(SimpleNamespace(workers=workers))  # type: ignore[arg-type]
        return view.results_lost if view else None

    assert lost(first, second) == 15
    assert lost(first) == 15
    assert lost() is None
    assert lost(Worker(1)) == 16


def test_no_model_is_loaded_once_the_daemon_ends() -> None:
    async def run() -> int:
        units = Units(Config(), None, None)  # type: ignore[arg-type]
        units.stop()
        with pytest.raises(UnavailableError, match="stopping"):
            await units.load(Config(), None)
        return len(list(units))

    assert asyncio.run(run()) == 1


def load(fates: list[tuple[DaemonState, str]], then: list[tuple[DaemonState, str]], must_run: bool = False) -> Any:
    """Another model, where the devices first fare as in ``fates`` and ``then`` as told."""

    async def run() -> Any:
        Unit.fates = dict(enumerate(fates))
        config = Config()
        config = replace(config, inference=replace(config.inference, devices=tuple(range(len(fates)))))
        units = Units(config, None, None)  # type: ignore[arg-type]
        units.current.start_idle()
        Unit.fates = dict(enumerate(then))
        fleet = await units.load(config, None, must_run=must_run)
        assert units.make_current(fleet).generation == 1 and units.current is fleet
        return fleet

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "InferenceUnit", Unit)


GOOD, BAD, GONE = (RUNNING, ""), (AWAY, "no plan"), (AWAY, "no GPU")


@pytest.mark.parametrize(
    "fates, then, must_run",
    [
        ([GOOD], [GOOD], False),
        ([GONE], [GONE], False),  # nothing to lose
        ([GOOD, GONE], [GOOD, GONE], True),  # a device that is away keeps nobody from another model
        ([GONE, GONE], [GONE, GOOD], True),
    ],
)
def test_another_model_is_taken(fates: Any, then: Any, must_run: bool) -> None:
    assert load(fates, then, must_run).generation == 2


@pytest.mark.parametrize(
    "fates, then, must_run, said",
    [
        ([GOOD], [BAD], False, "the old one goes on: no plan"),
        ([GONE], [BAD], True, "can't be run: no plan"),
        ([GOOD, GOOD], [GOOD, BAD], False, "the old one goes on: device 1: no plan"),
        ([GONE, GOOD], [BAD, BAD], False, "the old one goes on: device 0: no plan; device 1: no plan"),
    ],
)
def test_another_model_that_a_device_can_not_run_though_it_ran_the_old_one_is_refused(
    fates: Any, then: Any, must_run: bool, said: str
) -> None:
    with pytest.raises(UnavailableError, match=said):
        load(fates, then, must_run)


@pytest.mark.parametrize(
    "dead, said",
    [
        ({"worker": None}, r"the old one goes on: device 1: its process was ready, then died of SIGKILL"),
        ({"worker": SimpleNamespace(kill_reason="")}, r"device 1: its process was ready, then died of SIGKILL"),
        ({"worker": SimpleNamespace(kill_reason="no sign of life")}, r"ready, then was killed: no sign of life"),
        ({"worker": None, "problem": "the GPU fell off the bus"}, r"device 1: the GPU fell off the bus"),
    ],
)
@pytest.mark.parametrize("while_it_loads", [True, False])
def test_one_that_was_ready_and_died_is_refused_too(dead: dict[str, Any], said: str, while_it_loads: bool) -> None:
    """The old one would be gone by the time it is started again. The others may take a minute to load meanwhile."""

    async def run() -> None:
        Unit.fates = {}
        config = Config()
        config = replace(config, inference=replace(config.inference, devices=(0, 1)))
        units = Units(config, None, None)  # type: ignore[arg-type]
        units.current.start_idle()
        old = units.current

        def die(unit: Any) -> None:
            unit.state, unit.process.detail = STARTING, "died of SIGKILL"
            for name, value in dead.items():
                setattr(unit, name, value)

        if while_it_loads:
            Unit.fates = {0: (RUNNING, "")}
            loading = asyncio.ensure_future(units.load(config, None))
            await asyncio.sleep(0)
            die(list(units)[-1])
            with pytest.raises(UnavailableError, match=said):
                await loading
            assert all(unit.stopped for unit in list(units)[2:])  # type: ignore[attr-defined]
        else:
            fleet = await units.load(config, None)
            die(fleet.units[1])
            with pytest.raises(UnavailableError, match=said):
                units.check(fleet)
        assert units.current is old

    asyncio.run(run())


def test_names_tell_devices_apart_where_there_are_several() -> None:
    async def names(devices: tuple[int, ...]) -> list[str]:
        config = Config()
        config = replace(config, inference=replace(config.inference, devices=devices))
        return [unit.name for unit in Units(config, None, None)]  # type: ignore[arg-type]

    assert asyncio.run(names((0,))) == ["inference-0"]
    assert asyncio.run(names((2, 0))) == ["inference-0.2", "inference-0.0"]
