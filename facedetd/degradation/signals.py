"""What is measured each period, and which stage it says is short."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from facedetd.control import Stage


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters since the daemon began, over all streams, and what holds at this moment.

    ``time_s`` is monotonic. Counts are frames but for ``received`` and ``skipped`` (packets) and ``received_bytes``.
    CPU and idle times are core-seconds, ``busy_s`` the time in which an engine ran batches; of several
    the one that was busiest in each period, for streams don't move to another's.
    ``latency_p95_s`` is of the last few seconds only, ``decode_lag_s`` the age of frames when they are sampled
    (what several streams reach), ``cpu_lag_s`` of those that the CPU decodes. ``full_fps``: frames/s of the engines
    when their batches are full, till the first of several can't take more; 0: they run pictures one by one.
    """

    time_s: float
    received: int = 0
    received_bytes: int = 0
    skipped: int = 0
    sampled: int = 0
    stale: int = 0
    inferred: int = 0
    replaced: int = 0
    no_slot: int = 0
    busy_s: float = 0.0
    inference_cpu_s: float = 0.0
    decoder_cpu_s: float = 0.0
    supervisor_cpu_s: float = 0.0
    host_idle_s: float = 0.0
    oldest_waiting_s: float = 0.0
    latency_p95_s: float = 0.0
    decode_lag_s: float = 0.0
    cpu_lag_s: float = 0.0
    inference_ready: bool = True
    engine_on_cpu: bool = True
    full_fps: float = 0.0


@dataclass(frozen=True, slots=True)
class Signals:
    """One period. Rates are a second's, shares 0-1, CPU in cores. ``decode_speed``: what a core of this machine
    decodes, of what one does where the levels' costs were measured. ``opening``: many decoders open on a GPU, and
    have done so for some seconds."""

    period_s: float
    host_cores: float
    sampled_fps: float
    inferred_fps: float
    dropped_fps: float  # replaced or no slot: sampled, and inference had no time for it
    late_share: float  # of packets skipped, or of frames too old to sample, whichever is more
    late_fps: float
    oldest_waiting_s: float
    latency_p95_s: float
    decode_lag_s: float
    inference_busy: float
    inference_ms_per_frame: float  # 0 when none ran
    inference_cores: float
    decoder_cores: float
    idle_cores: float
    network_bits_per_s: float
    cpu_lag_s: float = 0.0
    inference_ready: bool = True
    engine_on_cpu: bool = True
    full_fps: float = 0.0
    supervisor_cores: float = 0.0
    decode_speed: float = 1.0
    opening: bool = False

    @property
    def dropped_share(self) -> float:
        return min(1.0, self.dropped_fps / self.sampled_fps) if self.sampled_fps > 0 else 0.0

    @property
    def others_cores(self) -> float:
        """CPU that others use: neither idle nor our own."""
        ours = self.decoder_cores + self.inference_cores + self.supervisor_cores
        return max(0.0, self.host_cores - self.idle_cores - ours)


def signals_between(old: Totals, new: Totals, host_cores: float) -> Signals:
    """What happened from ``old`` to ``new``. A counter that went back (a stream went) counts as standing still.
    Raises ValueError when no time has passed."""
    period = new.time_s - old.time_s
    if not period > 0:
        raise ValueError(f"a period of {period} s; it must be over 0")

    def rate(name: str) -> float:
        return float(max(0, getattr(new, name) - getattr(old, name))) / period

    received, sampled, inferred = rate("received"), rate("sampled"), rate("inferred")
    skipped, stale, busy = rate("skipped"), rate("stale"), rate("busy_s")
    return Signals(
        period_s=period,
        host_cores=host_cores,
        sampled_fps=sampled,
        inferred_fps=inferred,
        dropped_fps=rate("replaced") + rate("no_slot"),
        late_share=max(skipped / received if received else 0.0, stale / (stale + sampled) if stale else 0.0),
        late_fps=skipped + stale,
        oldest_waiting_s=new.oldest_waiting_s,
        latency_p95_s=new.latency_p95_s,
        decode_lag_s=new.decode_lag_s,
        inference_busy=min(1.0, busy),
        inference_ms_per_frame=1000 * busy / inferred if inferred else 0.0,
        inference_cores=rate("inference_cpu_s"),
        decoder_cores=rate("decoder_cpu_s"),
        idle_cores=min(host_cores, rate("host_idle_s")),
        network_bits_per_s=8 * rate("received_bytes"),
        cpu_lag_s=new.cpu_lag_s,
        inference_ready=new.inference_ready,
        engine_on_cpu=new.engine_on_cpu,
        full_fps=new.full_fps,
        supervisor_cores=rate("supervisor_cpu_s"),
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a stage is short, and below what it is calm. Between the two nothing is changed (dead band).

    ``latency_s`` is the bound on the end-to-end latency's p95 that the operator sets, the only one meant to be set.
    """

    latency_s: float = 0.5
    latency_calm: float = 0.8  # of latency_s
    drop_short: float = 0.03
    drop_calm: float = 0.01
    late_short: float = 0.03
    late_calm: float = 0.005
    lag_short: float = 0.6  # of latency_s: so much of it may be gone before a frame is sampled
    lag_calm: float = 0.35
    busy_slow: float = 0.7  # an engine less busy isn't what makes results late
    catching_up: float = 1.05  # of what is sampled: with so much inferred, what piled up is worked off
    few_frames: float = 2.0  # fewer than that in a period are no evidence
    idle_short: float = 0.06  # of the host's cores, but at most one: less idle and the host's CPU is used up
    idle_reserve: float = 0.1  # of the host's cores, but at most two: so much stays idle when more is tried
    others_many: float = 0.25  # of the host's cores: used by others, so that the trouble is theirs

    def __post_init__(self) -> None:
        if not 0 < self.latency_s < inf:
            raise ValueError(f"a latency bound of {self.latency_s} s; it must be over 0")


@dataclass(frozen=True, slots=True)
class Shortage:
    """``stage`` is what is short and ``reason`` says why in words. ``severity`` is 0-1: the share of the work that
    isn't done. ``cut`` holds the stages (DECODE, INFERENCE, NETWORK) whose lever helps."""

    stage: Stage
    severity: float
    reason: str
    cut: frozenset[Stage] = frozenset()


FULL_TAKEN = 0.7
"""Of what an engine does with full batches can be planned with: frames don't come in full batches."""
_MUCH_DECODING = 0.2  # of the host's cores: with less in use, decoding less gives others nothing
_MOSTLY_DECODING = 0.5  # of the host's cores
_LATE_THOUGH_IDLE = "the network, a camera too large for one core, or too many streams in a decoder group"
NOTHING_SHORT = Shortage(Stage.NONE, 0.0, "")


def diagnose(signals: Signals, limits: Limits) -> Shortage:
    """Which stage is short, if any.

    Frames that come late out of the decoders mean that decoding is short, unless there is CPU to spare: then they came
    late to us (what is idle while many decoders open on a GPU is none to spare). Frames that wait or are replaced mean
    that inference is short.
    Where both show, decoding comes first: inference may only be robbed of its CPU, while fewer samples hardly help a
    decoder. So it does where a GPU is known to be far from full, and the CPU is used up. Where other programs use the
    CPU it is the host's, and both get less.
    """
    late, late_words = _late(signals, limits)
    slow, slow_words = _slow(signals, limits)
    if not late and not slow:
        return NOTHING_SHORT
    words = " and ".join(w for w in (late_words, slow_words) if w)
    slowed = Stage.DECODE if _engine_waits_for_cpu(signals, limits) else Stage.INFERENCE
    both = {stage for stage, severity in ((Stage.DECODE, late), (slowed, slow)) if severity}
    if not idle_to_take(signals, limits) and disturbed_by_others(signals, limits):
        reason = f"{words}; other programs use {signals.others_cores:.1f} of {signals.host_cores:g} cores"
        return Shortage(Stage.HOST, max(late, slow), reason, frozenset(both))
    use = f"; decoders use {signals.decoder_cores:.1f} of {signals.host_cores:g} cores"
    if not late and slowed is Stage.INFERENCE:
        busy = f"; the engine is busy {signals.inference_busy:.0%} of the time"
        return Shortage(Stage.INFERENCE, slow, words + busy, frozenset(both))
    if used_up(signals, limits):
        return Shortage(Stage.DECODE, max(late, slow), words + use, frozenset({Stage.DECODE}))
    idle = f", though {signals.idle_cores:.1f} cores are idle: {_LATE_THOUGH_IDLE}"
    return Shortage(Stage.NETWORK, max(late, slow), words + idle, frozenset(both - {Stage.DECODE} | {Stage.NETWORK}))


def saturated(signals: Signals, limits: Limits) -> bool:
    """Whether the host's CPU is used up."""
    return signals.idle_cores < min(1.0, limits.idle_short * signals.host_cores)


def decoders_fill_cpu(signals: Signals, limits: Limits) -> bool:
    """Whether the CPU's reserve is gone, and decoders have much of what is used. Where many open on a GPU, threads of
    their processes wait for that (15 to 28 % of 16 cores were idle, and all streams a second late): what is idle then
    is none that those who are late could take."""
    late = min(signals.cpu_lag_s, signals.decode_lag_s) > limits.lag_short * limits.latency_s  # not just a few
    if signals.opening and late and signals.decoder_cores > _MOSTLY_DECODING * signals.host_cores:
        return True
    return not idle_to_take(signals, limits) and signals.decoder_cores > _MUCH_DECODING * signals.host_cores


def used_up(signals: Signals, limits: Limits) -> bool:
    """Whether what is late may be so for want of CPU."""
    return saturated(signals, limits) or decoders_fill_cpu(signals, limits)


def disturbed_by_others(signals: Signals, limits: Limits) -> bool:
    """Whether other programs use much of the host's CPU."""
    return signals.others_cores >= limits.others_many * signals.host_cores


def idle_to_take(signals: Signals, limits: Limits) -> float:
    """Idle CPU beyond the reserve, in cores."""
    return max(0.0, signals.idle_cores - min(2.0, limits.idle_reserve * signals.host_cores))


def decode_calm(signals: Signals, limits: Limits) -> bool:
    """Frames come out of the decoders in time, with room to spare."""
    return _calm(signals.decode_lag_s, signals, limits)


def cpu_decode_calm(signals: Signals, limits: Limits) -> bool:
    """The same of those decoders that are the CPU's: what a GPU is late with says nothing of the CPU's room."""
    return _calm(signals.cpu_lag_s, signals, limits)


def _calm(lag_s: float, signals: Signals, limits: Limits) -> bool:
    few_late = not _enough(signals.late_fps, signals, limits) or signals.late_share <= limits.late_calm
    return few_late and lag_s <= limits.lag_calm * limits.latency_s


def inference_calm(signals: Signals, limits: Limits) -> bool:
    """Sampled frames are inferred in time, with room to spare."""
    waited = max(signals.latency_p95_s, signals.oldest_waiting_s)
    few_dropped = not _enough(signals.dropped_fps, signals, limits) or signals.dropped_share <= limits.drop_calm
    return few_dropped and waited <= limits.latency_calm * limits.latency_s


def _engine_waits_for_cpu(s: Signals, limits: Limits) -> bool:
    """Whether a GPU's engine that is slow would do more than it is given, had its process, and those that feed it, the
    CPU that decoders have: to sample less would leave it with those."""
    return not s.engine_on_cpu and decoders_fill_cpu(s, limits) and s.inferred_fps < FULL_TAKEN * s.full_fps


def _late(s: Signals, limits: Limits) -> tuple[float, str]:
    if s.late_share > limits.late_short and _enough(s.late_fps, s, limits):
        return s.late_share, f"{s.late_share:.0%} of the video came too late to use"
    bound = limits.lag_short * limits.latency_s
    # Those that the CPU decodes may be few beside a GPU's, and are all that a used up CPU makes late
    lag_s = max(s.decode_lag_s, s.cpu_lag_s) if used_up(s, limits) else s.decode_lag_s
    if lag_s > bound:
        return 1 - bound / lag_s, f"frames are {lag_s * 1000:.0f} ms old when sampled"
    return 0.0, ""


def _slow(s: Signals, limits: Limits) -> tuple[float, str]:
    if not s.inference_ready:  # a model that loads or is missing is no shortage
        return 0.0, ""
    if s.dropped_share > limits.drop_short and _enough(s.dropped_fps, s, limits):
        return s.dropped_share, f"{s.dropped_share:.0%} of the sampled frames were dropped"
    # Frames of the lowest priority wait longest, and show a shortage's length only after its end
    if s.inferred_fps > 0 and s.inferred_fps >= limits.catching_up * s.sampled_fps:
        return 0.0, ""
    if s.oldest_waiting_s > limits.latency_s:
        return 1 - limits.latency_s / s.oldest_waiting_s, f"a frame waits for {s.oldest_waiting_s * 1000:.0f} ms"
    # An engine with time to spare makes nobody late: then it was so before it was sampled
    if s.latency_p95_s > limits.latency_s and s.inference_busy >= limits.busy_slow:
        p95 = f"95 % of the results take up to {s.latency_p95_s * 1000:.0f} ms"
        return 1 - limits.latency_s / s.latency_p95_s, p95
    return 0.0, ""


def _enough(fps: float, signals: Signals, limits: Limits) -> bool:
    return fps * signals.period_s >= limits.few_frames
