"""Makes a bad input out of a good one."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

MAX_BYTES = 1 << 18
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 1024, 4095, 4096, 32767, 32768, 65535, 65536)
NUMBERS += (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_DIGITS = re.compile(rb"-?\d+")

Mutation = Callable[[Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def mutate(rng: Random, seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of ``seeds`` with a few changes; ``words`` are what the format is made of. Now and then unchanged."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 9))):
        rng.choice(_MUTATIONS)(rng, data, seeds, words)
    return bytes(data[:MAX_BYTES])


def _at(rng: Random, data: bytearray) -> int:
    # Heads of formats are short and decide most: every third change goes there.
    return rng.randrange(min(len(data), 64) + 1) if rng.random() < 0.33 else rng.randrange(len(data) + 1)


def _flip(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    for _n in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_at(rng, data) % len(data)] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[_at(rng, data) % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = _at(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 16, 256, len(data) // 2 + 1))]


def _truncate(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    del data[_at(rng, data) :]


def _repeat(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = _at(rng, data)
    part = data[at : at + rng.choice((1, 4, 16, 64, 512))]
    data[at:at] = part * rng.choice((1, 1, 2, 3, 50, 1000))
    del data[MAX_BYTES:]


def _noise(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = _at(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 100)))


def _word(rng: Random, data: bytearray, _: Sequence[bytes], words: Sequence[bytes]) -> None:
    if words:
        at, word = _at(rng, data), rng.choice(words)
        data[at : at + (len(word) if rng.random() < 0.5 else 0)] = word


def _splice(rng: Random, data: bytearray, seeds: Sequence[bytes], __: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    data[_at(rng, data) :] = other[rng.randrange(len(other) + 1) :]


def _binary_number(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    size, order = rng.choice("BHIQ"), rng.choice("<>")
    packed = struct.pack(order + size, rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(size)))
    at = _at(rng, data)
    data[at : at + len(packed)] = packed


def _text_number(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    found = list(_DIGITS.finditer(data[:20000]))
    if found:
        place = rng.choice(found)
        text = rng.choice((*(str(n) for n in NUMBERS), "1e400", "nan", "-0", "9" * 5000, "1.5", ""))
        data[place.start() : place.end()] = text.encode()


def _swap(rng: Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    a, b = sorted((_at(rng, data), _at(rng, data)))
    size = rng.choice((1, 4, 32))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _set, _cut, _truncate, _repeat, _noise, _word, _word, _splice, _binary_number, _text_number, _swap,
)  # fmt: skip
