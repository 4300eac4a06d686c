"""Which numbers of a model's raw outputs a head looks at, as data: so that a GPU can pick them and only they are copied
to the host, of a dense output of megabytes a picture. :func:`pick` does the same with numpy. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facedetd.types import FloatArray

MAX_KEYS = 2
MAX_VALUES = 4
MAX_CHANNELS = 16
"""Of a group's values together."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where numbers stand in output ``tensor``: channel c of element e of a picture is the picture's value number
    ``offset + e * step + c * channel_step``, counted in C order."""

    tensor: str
    offset: int = 0
    step: int = 1
    channels: int = 1
    channel_step: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Elements 0 to ``elements`` - 1 of each picture, of which those are wanted whose key is at least ``floor``. The
    key is the one field of ``keys``, or the product of two; of a wanted element all ``values`` are taken."""

    elements: int
    floor: float
    keys: tuple[Field, ...]
    values: tuple[Field, ...]

    def __post_init__(self) -> None:
        channels = sum(field.channels for field in self.values)
        if not (0 < len(self.keys) <= MAX_KEYS and len(self.values) <= MAX_VALUES and channels <= MAX_CHANNELS):
            raise ValueError(f"{len(self.keys)} keys and {len(self.values)} values of {channels} channels")


@dataclass(frozen=True, slots=True)
class Rows:
    """What was picked of a group, by picture, then element: ``picture`` and ``element`` (n,), ``values`` (n, channels)
    float32, the fields' one after the other."""

    picture: npt.NDArray[np.intp]
    element: npt.NDArray[np.intp]
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Candidates:
    """An engine's outputs after picking: an entry a group, of a batch of ``pictures``."""

    pictures: int
    groups: tuple[Rows, ...]


def pick(outputs: Mapping[str, FloatArray], groups: Sequence[Group]) -> Candidates:
    """What the groups want of raw outputs, each (batch, …) float32."""
    pictures = 0
    rows = []
    for group in groups:
        flat = {f.tensor: outputs[f.tensor].reshape(len(outputs[f.tensor]), -1) for f in (*group.keys, *group.values)}
        first, *more = (flat[f.tensor][:, f.offset :: f.step][:, : group.elements] for f in group.keys)
        pictures = len(first)
        key = first
        for other in more:
            key = key * other
        picture, element = np.nonzero(key >= np.float32(group.floor))
        values = [
            flat[f.tensor][
                picture[:, None], (f.offset + element * f.step)[:, None] + np.arange(f.channels) * f.channel_step
            ]
            for f in group.values
        ]
        rows.append(Rows(picture, element, np.concatenate(values, axis=1)))
    return Candidates(pictures, tuple(rows))
