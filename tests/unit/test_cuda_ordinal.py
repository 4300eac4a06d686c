"""Which of the GPUs that CUDA shows is the one that nvidia-smi numbers so."""

from __future__ import annotations

from pathlib import Path

import pytest

from facedetd.cuda import ordinal as module
from facedetd.cuda.nvml import BusPlace, place_of
from facedetd.cuda.ordinal import ordinal
from tests import fake_nvml
from tests.fake_nvml import build, get, put

A, B, C = (0, 0x1B, 0), (0, 0x3B, 0), (0, 0x3B, 1)


def known(monkeypatch: pytest.MonkeyPatch, *places: BusPlace | None, chosen: str | None = None) -> None:
    """What NVML tells; ``chosen``: CUDA_VISIBLE_DEVICES."""
    found = dict(enumerate(places))
    monkeypatch.setattr(module, "place_of", lambda index: (len(places), found.get(index)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)


def test_where_cuda_shows_all_both_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, A, B, C)
    assert [ordinal(index, [A, B, C]) for index in range(3)] == [0, 1, 2]
    for index in (3, -1):
        with pytest.raises(LookupError, match=f"there is no GPU {index}: 3 found, counted from 0"):
            ordinal(index, [A, B, C])


def test_another_order_and_fewer_are_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, A, B, C, chosen="2,1")
    assert [ordinal(index, [C, B]) for index in (1, 2)] == [1, 0]
    with pytest.raises(LookupError, match=r"GPU 0 can't be used: CUDA shows 2 of 3, .* CUDA_VISIBLE_DEVICES is '2,1'"):
        ordinal(0, [C, B])


def test_the_neighbour_of_a_lost_gpu_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, A, B)
    assert ordinal(1, [B]) == 0
    with pytest.raises(LookupError, match="GPU 0 can't be used: CUDA shows 1 of 2"):
        ordinal(0, [B])

    def lost(index: int) -> tuple[int, BusPlace | None]:
        raise OSError("NVML knows no GPU 0: error 15")

    monkeypatch.setattr(module, "place_of", lost)
    with pytest.raises(LookupError, match="GPU 0 can't be used: NVML knows no GPU 0: error 15"):
        ordinal(0, [B])


def test_a_long_domain_is_the_same_place_as_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, (0x10001, 2, 0), (0x10002, 2, 0))
    assert ordinal(1, [(2, 2, 0), (1, 2, 0)]) == 0


def test_places_of_another_kind_are_no_reason_to_refuse_where_all_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, A, B)
    assert ordinal(1, [(0, 5, 0), (0, 6, 0)]) == 1
    known(monkeypatch, A, B, chosen="0,1")
    assert ordinal(1, [(0, 5, 0), (0, 6, 0)]) == 1
    known(monkeypatch, A, chosen="GPU-6a9f")
    assert ordinal(0, [(0, 5, 0)]) == 0
    known(monkeypatch, A, B, chosen="1,0")
    with pytest.raises(LookupError, match="CUDA shows 2 of 2, and not this one; CUDA_VISIBLE_DEVICES"):
        ordinal(1, [(0, 5, 0), (0, 6, 0)])


def test_without_nvml_and_without_places_cuda_s_numbers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, None, None)
    assert ordinal(1, [A, B]) == 1
    monkeypatch.setattr(module, "place_of", lambda index: place_of(index, "libnothing-of-that-name.so"))
    assert ordinal(1, [A, B]) == 1
    with pytest.raises(LookupError, match="there is no GPU 2: 2 found"):
        ordinal(2, [A, B])


def test_nvml_tells_the_place(tmp_path: Path) -> None:
    library = build(tmp_path)
    put(library, "gpus", 2)
    path = str(library)
    assert [place_of(index, path) for index in range(3)] == [
        (2, (0x10000, 0xA0, 0)),
        (2, (0x10000, 0xA1, 0)),
        (2, None),
    ]
    put(library, "silent", fake_nvml.PLACE)
    assert place_of(1, path) == (2, None)
    put(library, "gone", 2)
    with pytest.raises(OSError, match="NVML knows no GPU 1: error 15"):
        place_of(1, path)
    assert get(library, "users") == 0
