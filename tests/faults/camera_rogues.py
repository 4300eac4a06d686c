"""What the rogue cameras of the matrix do: scripts for ``tests.cameras.rogue``."""

from __future__ import annotations

import itertools
import os
import random
import re
import struct
import time
from collections.abc import Callable, Iterator

from tests.cameras.rogue import Close, Script, close, endless, silence
from tests.cameras.rtsp import Answer, Request, interleaved

OTHER_SETS = "Z0IAKeKQFAe2AtwEBAaQeJEV,aM48gA=="
"""Parameter sets of another picture: baseline, 1280x960."""


def answer_then_close(request: Request, answer: Answer) -> Iterator[bytes]:
    yield answer.encode(request.headers["cseq"])
    raise Close


def sdp(change: Callable[[str], str]) -> Script:
    return Script(sdp=change)


def without_video(text: str) -> str:
    return text[: text.index("m=video")]


def audio_only(text: str) -> str:
    return without_video(text) + "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:trackID=0\r\n"


def without_sets(text: str) -> str:
    return re.sub(";sprop-parameter-sets=[^\r]*", "", text)


def unfinished(head: str) -> bytes:
    return f"RTSP/1.0 200 OK\r\nCSeq: 2\r\n{head}".encode()


def _bits(*fields: tuple[int, int] | int) -> bytes:
    """(value, width) plain, a number alone as unsigned Exp-Golomb (ITU-T H.264, 9.1); with the stop bit."""
    text = ""
    for field in fields:
        if isinstance(field, tuple):
            text += format(field[0], f"0{field[1]}b")
        else:
            text += "0" * ((field + 1).bit_length() - 1) + format(field + 1, "b")
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def huge_sps(width: int = 8192, height: int = 8192) -> bytes:
    """A sequence parameter set of baseline, level 5.2 (ITU-T H.264, 7.3.2.1.1)."""
    return b"\x67\x42\x00\x34" + _bits(
        0, 0, 2, 1, (0, 1), width // 16 - 1, height // 16 - 1, (1, 1), (1, 1), (0, 1), (0, 1)
    )


def with_huge_sps(n: int, nals: list[bytes]) -> list[bytes]:
    return [huge_sps() if nal[0] & 31 == 7 else nal for nal in nals]


def giant_frames(size: int) -> Callable[[int, list[bytes]], list[bytes]]:
    """Every tenth picture is one NAL unit of so many bytes, without an emulated start code."""

    def change(n: int, nals: list[bytes]) -> list[bytes]:
        return [*nals[:-1], nals[-1][:1] + b"\x55" * size] if n % 10 == 5 else nals

    return change


def gaps(every: int) -> Callable[[bytes], bytes | None]:
    """Every so many-th packet is lost: their sequence numbers show it."""
    return lambda data: None if struct.unpack("!H", data[2:4])[0] % every == 0 else data


def renumbered(data: bytes) -> bytes:
    """Sequence numbers at random."""
    return data[:2] + os.urandom(2) + data[4:]


def payload_type(number: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:1] + bytes([data[1] & 0x80 | number]) + data[2:]


def mangled(data: bytes) -> bytes:
    """Some bytes of each packet's payload are others; the NAL unit's first ones too."""
    changed = bytearray(data)
    for _ in range(3):
        changed[random.randrange(12, len(changed))] = random.randrange(256)
    return bytes(changed)


def interleaved_garbage() -> Iterator[bytes]:
    """Bytes at random, packets of channels that nobody asked for, and ones too short for RTP."""
    rng = random.Random(1)
    for n in itertools.count():
        yield (
            rng.randbytes(rng.randrange(1, 2000))
            if n % 3 == 0
            else interleaved(rng.randrange(2, 256), rng.randbytes(500))
            if n % 3 == 1
            else interleaved(0, rng.randbytes(rng.randrange(0, 12)))
        )


def endless_picture() -> Iterator[bytes]:
    """Fragments of one NAL unit that never ends (FU-A; RFC 6184, 5.8), about 10 MB a second."""
    for n in itertools.count():
        rtp = struct.pack("!BBHII", 0x80, 96, n & 0xFFFF, 0, 0x0BADCA3E)
        yield interleaved(0, rtp + b"\x7c" + (b"\x85" if n == 0 else b"\x05") + b"\x55" * 1400)
        if n % 70 == 0:
            time.sleep(0.01)


def unasked_answers() -> Iterator[bytes]:
    while True:
        yield b"RTSP/1.0 200 OK\r\nCSeq: 77\r\n\r\n"


NO_ANSWER: dict[str, Script] = {
    **{f"silent-at-{m}": Script(on={m: silence}) for m in ("OPTIONS", "DESCRIBE", "SETUP", "PLAY")},
    "endless-headers": Script(on={"DESCRIBE": endless(unfinished(""), b"X-More: of it\r\n" * 100)}),
    "endless-header-line": Script(on={"DESCRIBE": endless(unfinished("X-More: "), b"x" * 1000)}),
    "endless-sdp": Script(
        on={"DESCRIBE": endless(unfinished("Content-Length: 2000000000\r\n\r\n"), b"a=x-more:of it\r\n" * 100)}
    ),
    "unasked-answers": Script(on={"DESCRIBE": lambda request, answer: unasked_answers()}),
}
CLOSES: dict[str, Script] = {
    "closes-when-accepted": Script(on={"ACCEPT": close()}),
    "resets-when-accepted": Script(on={"ACCEPT": close(reset=True)}),
    **{f"closes-at-{m}": Script(on={m: close()}) for m in ("OPTIONS", "DESCRIBE", "SETUP", "PLAY")},
    **{f"resets-at-{m}": Script(on={m: close(reset=True)}) for m in ("DESCRIBE", "PLAY")},
    "closes-after-play": Script(on={"PLAY": answer_then_close}),
}
BAD_SDP: dict[str, Script] = {
    "garbage": sdp(lambda text: "\0\xff{garbage\r\n" * 50),
    "empty": sdp(lambda text: ""),
    "no-media": sdp(without_video),
    "audio-only": sdp(audio_only),
    "unknown-codec": sdp(lambda text: text.replace("H264/90000", "NOPE/90000")),
    "unsupported-codec": sdp(lambda text: text.replace("H264/90000", "SMPTE336M/90000")),
    "no-rtpmap": sdp(lambda text: text.replace("a=rtpmap", "a=x-rtpmap")),
    "absurd-payload-type": sdp(lambda text: text.replace("RTP/AVP 96", "RTP/AVP 99999").replace(":96 ", ":99999 ")),
    "negative-clock": sdp(lambda text: text.replace("H264/90000", "H264/-90000")),
    "zero-clock": sdp(lambda text: text.replace("H264/90000", "H264/0")),
    "other-sprop": sdp(lambda text: text.replace("sprop-parameter-sets=", f"sprop-parameter-sets={OTHER_SETS};x=")),
    "broken-sprop": sdp(lambda text: text.replace("sprop-parameter-sets=", "sprop-parameter-sets=!!!!,,,%%%=;x=")),
    "h265-said": sdp(lambda text: text.replace("H264/90000", "H265/90000")),
    "huge-line": sdp(lambda text: text + "a=x:" + "y" * 1_000_000 + "\r\n"),
}
MEDIA: dict[str, Script] = {
    "no-frame": Script(frames=0),
    "payload-type": Script(packet=payload_type(97)),
    "garbage": Script(media=interleaved_garbage()),
    "no-keyframe": Script(drop_keyframes=True),
    "huge-sps": Script(frame=with_huge_sps, sdp=without_sets),
    "giant-frames": Script(frame=giant_frames(8 << 20)),
    "giant-frame-64M": Script(frame=giant_frames(64 << 20)),
    "mangled": Script(packet=mangled),
    "gaps": Script(packet=gaps(7)),
    "renumbered": Script(packet=renumbered),
    "half-speed": Script(timestamp=lambda n, ticks: ticks // 2),
    "double-speed": Script(timestamp=lambda n, ticks: ticks * 2),
    "frozen": Script(timestamp=lambda n, ticks: 12345),
    "backwards": Script(timestamp=lambda n, ticks: -ticks),
    "random-pts": Script(timestamp=lambda n, ticks: random.getrandbits(32)),
}
