"""Why a stream whose packets come gives nothing, in words for an operator: without them it would look well."""

from __future__ import annotations

from dataclasses import dataclass

_S = 1_000_000_000
LATE_NS = 3 * _S
BLIND_NS = 5 * _S


@dataclass(frozen=True, slots=True)
class Trouble:
    """Since when (monotonic ns) every packet came too late, and since when none gave a picture; None: not so."""

    late_since_ns: int | None = None
    blind_since_ns: int | None = None


NO_TROUBLE = Trouble()


def noticed(trouble: Trouble, now_ns: int, *, late: bool, blind: bool) -> Trouble:
    """Take note of a packet: whether it was too old, and whether there was no picture since the last one though there
    should be."""
    late_since = (now_ns if trouble.late_since_ns is None else trouble.late_since_ns) if late else None
    blind_since = (now_ns if trouble.blind_since_ns is None else trouble.blind_since_ns) if blind else None
    if late_since is None and blind_since is None:
        return NO_TROUBLE
    if (late_since, blind_since) == (trouble.late_since_ns, trouble.blind_since_ns):
        return trouble
    return Trouble(late_since, blind_since)


def said(trouble: Trouble, now_ns: int, *, trusted: bool, max_age_s: float) -> str:
    """What is wrong now; empty: nothing. ``trusted``: see :mod:`pace`."""
    if trouble.late_since_ns is not None and now_ns - trouble.late_since_ns > LATE_NS:
        return f"frames come more than {max_age_s:g} s late by their timestamps: none is used"
    if trouble.blind_since_ns is not None and now_ns - trouble.blind_since_ns > BLIND_NS:
        return "packets come, but no picture that can be decoded"
    return "" if trusted else "the camera's timestamps are not a clock's: frames are dated by their arrival"
