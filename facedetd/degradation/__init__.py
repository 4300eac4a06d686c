"""Decides how much each stream gets when not everything fits: pure functions of what was measured and of the time.

Nothing here reads a clock, a counter or a file, and nothing imports the rest of the daemon. The supervisor measures
(:mod:`signals`), asks (:mod:`controller`) once a period, and carries the decision out. :mod:`allocation` and
:mod:`levels` share out a known capacity; :mod:`capacity` finds out how large it is; :mod:`simulator` runs all of it
against a modelled machine. docs/degradation.md tells an operator what that looks like.
"""
