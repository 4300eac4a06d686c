"""When many decoders open on a GPU at once, nothing that is measured meanwhile says what the machine carries: each
takes its time (70 ms on an H100), the other streams of its process wait for it, and catch up in bursts."""

from __future__ import annotations

from collections.abc import Set

_SETTLE_S = 4.0
_LASTS_S = 6.0
_FEW, _SHARE = 2, 0.05
_LONGEST_S, _EACH_S = 20.0, 0.25  # a camera that comes and goes all the time doesn't switch degradation off


class Opening:
    """Asked once a period."""

    def __init__(self) -> None:
        self._there: Set[str] = frozenset()
        self._opened: list[tuple[float, str]] = []
        self._since_s: float | None = None

    def many(self, there: Set[str], coming: Set[str], now_s: float) -> bool:
        """``there``: the streams that a GPU decodes; ``coming``: those that soon will be. Whether many are coming, or
        came in the last seconds; for a while that grows with their number."""
        self._opened = [(at, one) for at, one in self._opened if now_s - at < _SETTLE_S and one in there]
        self._opened += [(now_s, one) for one in sorted(there - self._there)]
        self._there = frozenset(there)
        total = len(there | coming)
        if len(self._opened) + len(coming) <= max(_FEW, _SHARE * total):
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s < _LONGEST_S + _EACH_S * total

    def lasts(self, now_s: float) -> bool:
        """Whether many have been coming for longer than those wait and catch up who are late for that alone."""
        return self._since_s is not None and now_s - self._since_s >= _LASTS_S
