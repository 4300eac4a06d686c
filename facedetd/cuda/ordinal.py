"""Which of the GPUs that CUDA shows to this process is the one that NVML, nvidia-smi and ``inference.devices`` give a
number. They count alike by the PCI bus as long as CUDA shows all. CUDA_VISIBLE_DEVICES leaves some out, and so may a
driver that has lost one: those behind it move up, and a process would take its neighbour's GPU without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from facedetd.cuda.nvml import BusPlace, place_of

_DOMAIN = 0xFFFF  # virtual machines have longer ones, of which CUDA may show the end


def ordinal(index: int, visible: Sequence[BusPlace]) -> int:
    """CUDA's number of the GPU ``index``. ``visible``: where those are that CUDA shows, in its order. Raises
    LookupError: why it can't be used."""
    try:
        number, place = place_of(index)
    except FileNotFoundError:
        number, place = len(visible), None  # no NVML: then all have CUDA's number
    except OSError as error:
        raise LookupError(f"GPU {index} can't be used: {error}") from None
    return _match(index, visible, number, place, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _match(index: int, visible: Sequence[BusPlace], number: int, place: BusPlace | None, chosen: str | None) -> int:
    """``number``: of the GPUs that the driver has; ``place``: of the wanted one, None where it isn't told; ``chosen``:
    CUDA_VISIBLE_DEVICES. Pure."""
    if place is not None:
        for found, seen in enumerate(visible):
            if (seen[0] & _DOMAIN, *seen[1:]) == (place[0] & _DOMAIN, *place[1:]):
                return found
    in_order = chosen is None or number == 1 or chosen == ",".join(str(each) for each in range(number))
    if 0 <= index < len(visible) and (place is None or (number == len(visible) and in_order)):
        return index  # all are shown, by places of another kind
    if not 0 <= index < number:
        raise LookupError(f"there is no GPU {index}: {number} found, counted from 0")
    why = f"CUDA_VISIBLE_DEVICES is {chosen!r}" if chosen is not None else "`nvidia-smi` says whether it is lost"
    raise LookupError(f"GPU {index} can't be used: CUDA shows {len(visible)} of {number}, and not this one; {why}")
