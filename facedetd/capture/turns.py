"""Which frames of a stream are sampled while its rate, its connections and its decoding change."""

from __future__ import annotations

from typing import NamedTuple

from facedetd.capture.sampler import SamplerState, lead_ns, regridded, rephased, step, with_new_cadence


class Rate(NamedTuple):
    """``fps`` <= 0: none. ``phase``: see :func:`facedetd.capture.sampler.lead_ns`; None begins with the first frame."""

    fps: float
    phase: float | None = None


class Turns:
    """Used by the stream's thread only, but for ``wanted``, which any thread may set."""

    def __init__(self, rate: Rate):
        self.wanted = rate
        self._rate = rate
        self._state: SamplerState | None = None
        self._first_ns: float | None = None

    def begin(self) -> None:
        """A new connection."""
        self._state = self._first_ns = None

    def new_cadence(self) -> None:
        """More or fewer of the frames are decoded from here on."""
        if self._state:
            self._state = with_new_cadence(self._state)

    def take(self, media_ns: int, capture_mono_ns: int) -> bool:
        """Whether to sample the frame with these times."""
        rate = self.wanted
        if self._state is None:
            if not self._is_turn(rate, capture_mono_ns):
                return False
            self._state, wanted = step(None, media_ns, rate.fps)
            if rate != self._rate and rate.phase is not None:
                self._state = rephased(self._state, media_ns, capture_mono_ns, rate.phase)
        else:
            if rate != self._rate and rate.phase is not None:
                self._state = regridded(self._state, media_ns, capture_mono_ns, rate.fps, rate.phase)
            self._state, wanted = step(self._state, media_ns, rate.fps)
        self._rate = rate
        return wanted

    def _is_turn(self, rate: Rate, capture_mono_ns: int) -> bool:
        """Whether to begin sampling with this frame: the first one, or the first at the stream's phase."""
        if rate.fps <= 0:
            return False
        if rate.phase is None:
            return True
        first = capture_mono_ns + lead_ns(rate.phase, capture_mono_ns, rate.fps)
        # No later for a change of rate: changes that keep coming would put it off for ever
        if self._first_ns is None or (rate != self._rate and first < self._first_ns):
            self._first_ns, self._rate = first, rate
        return capture_mono_ns >= self._first_ns
