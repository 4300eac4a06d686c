"""A worker that is kept running: start, death, delay, start again, or a halt with a try once in a long while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from facedetd.supervisor.restarts import MAX_DELAY_S, RestartState, after_death
from facedetd.supervisor.workers import Worker

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 2.0
"""How soon what can't be started now (no model, no memory) is tried again."""


class Supervised:
    """``start`` makes the worker (its ``on_exit`` must be :meth:`exited`) or returns None when it can't be
    started now; then whoever removes the reason calls :meth:`start_now`."""

    def __init__(self, name: str, start: Callable[[], Worker | None], on_down: Callable[[Worker], None]):
        self.name = name
        self._start, self._on_down = start, on_down
        self._timer: asyncio.TimerHandle | None = None
        self._state = RestartState()
        self.worker: Worker | None = None
        self.restarts = 0
        self.max_delay_s = MAX_DELAY_S
        """Between a death and the next start, where it had been ready."""
        self.detail = ""
        self.problem = ""
        """Why no process could be made at the last try; empty when one could."""
        self._given_up = False
        self.retired = False  # no worker is started any more

    @property
    def halted(self) -> bool:
        """It was given up; stays so during a try until the worker is ready."""
        return self._given_up and not (self.worker and self.worker.ready)

    @property
    def next_try_s(self) -> float:
        """Seconds until it is started next; 0 when nothing is set."""
        return max(0.0, self._timer.when() - asyncio.get_running_loop().time()) if self._timer else 0.0

    def start_now(self) -> None:
        """Start the worker unless it runs; a halted one gets a fresh chance."""
        if self._given_up and self.worker is None:
            self._given_up, self._state = False, RestartState()
        self._try()

    def _try(self) -> None:
        self._forget_timer()
        if self.worker is not None or self.retired:
            return
        try:
            self.worker = self._start()
            self.problem = ""
        except OSError as error:  # out of descriptors, processes or memory: that may pass
            self._failed_to_start(f"can't be started: {error.strerror or error}")
        except Exception as error:  # on a timer: without another try there would be none ever
            self._failed_to_start(f"can't be started: internal error ({type(error).__name__})")

    def _failed_to_start(self, words: str) -> None:
        if words != self.detail:
            log.error("worker %s %s", self.name, words)
        self.detail = self.problem = words
        self.wait(LOOK_AGAIN_S)

    def exited(self, worker: Worker) -> None:
        """The worker's ``on_exit``."""
        self.worker = None
        try:
            self._on_down(worker)
        except Exception:  # a fault of ours must not leave the dead without a successor
            log.exception("worker %s: what follows from its end went wrong", self.name)
        if self.retired:
            return
        if worker.stopping:  # it was asked to, or said why it can't go on: whoever knows has set the time
            self._given_up, self._state = False, RestartState()
            if self._timer is None:
                self.wait(LOOK_AGAIN_S)
            return
        restart = after_death(self._state, worker.lived_s, worker.ready, self.max_delay_s)
        self._state, self._given_up = restart.state, restart.halt
        self.detail = worker.exit_words
        self.restarts += 1
        self.wait(restart.delay_s)
        if restart.halt:
            log.error(
                "worker %s %s before it was ready, %d times in a row: it is given up, and tried again in %.0f min",
                self.name,
                self.detail,
                restart.state.boot_failures,
                restart.delay_s / 60,
            )
            return
        log.warning("worker %s %s; starts again in %.1f s", self.name, self.detail, restart.delay_s)

    def wait(self, delay_s: float) -> None:
        """Start after ``delay_s``, whatever was set before."""
        self._forget_timer()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._try)

    def _forget_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def retire(self) -> None:
        """Start none again; the worker that runs is left to end by itself."""
        self.retired = True
        self._forget_timer()
        if self.worker:
            self.worker.stopping = True

    def stop(self) -> None:
        """Ask the worker to end, and start none again."""
        self.retire()
        if self.worker:
            self.worker.send({"op": "stop"})

    @property
    def state(self) -> str:
        """For an operator: running, starting, halted or waiting."""
        if self.worker:
            return "running" if self.worker.ready else "starting"
        return "halted" if self._given_up else "waiting"
