"""What goes wrong with TensorRT, in the two ways that call for different help."""

from __future__ import annotations


class PlanError(Exception):
    """A plan, or the model to build it from, can't be used; says what was found and what to do."""


class GpuError(Exception):
    """No GPU that can be used now, or the software for it is missing; says what to install or to look at."""
