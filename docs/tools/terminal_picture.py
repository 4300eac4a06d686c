"""Makes docs/stats.png and docs/watch.png: the real commands, in a real pseudo-terminal, on the demo's four cameras.

Run it with ``make pictures`` on a machine that has nothing else to do: the figures in the pictures are its own.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from facedetctl.bench.measure import wait_until_streaming
from facedetctl.local import LocalDaemon, default_model_store
from facedetd.models import ModelStore
from facedetd.v1 import stream_pb2
from tests.cameras import CameraServer, encode, make_scene
from tests.demo import FPS, SETTINGS, SIZE, TARGET_FPS, fetch_model

DOCS = Path(__file__).resolve().parent.parent
COLUMNS, LINES = 110, 30
SETTLE_S = 65.0
"""Longer than the window of the latencies, so that the start is not in them."""
COMMANDS = {"stats": ["stats"], "watch": ["watch", "--count", "16"]}
NAMES = ("door", "gate", "lobby", "yard")

FONTS = Path("/usr/share/fonts/truetype/dejavu")
FONT_SIZE, MARGIN = 22, 28
BACKGROUND, TEXT, DIM, PROMPT = "#16181d", "#d7dae0", "#7d8590", "#7aa2f7"
COLOURS = {31: "#f7768e", 32: "#9ece6a", 33: "#e0af68"}


@dataclass(frozen=True, slots=True)
class Style:
    colour: str = TEXT
    bold: bool = False


Line = list[tuple[str, Style]]
"""A character and its style for each column."""

_ESCAPE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|(\r?\n)|(\r)|(.)", re.DOTALL)


def screen(output: str, columns: int) -> list[Line]:
    """What a terminal shows after ``output``: text, line ends, SGR colours. Raises ValueError for anything else, so
    that a picture never shows what a terminal wouldn't."""
    lines: list[Line] = [[]]
    style = Style()
    for found in _ESCAPE.finditer(output):
        parameters, final, newline, carriage, char = found.groups()
        if final == "m":
            for code in map(int, filter(None, (parameters or "0").split(";"))):
                style = styled(style, code)
        elif final or carriage or (char and not char.isprintable()):
            raise ValueError(f"a control that is not drawn: {found[0]!r}")
        elif newline:
            lines.append([])
        else:
            if len(lines[-1]) == columns:  # it wraps
                lines.append([])
            lines[-1].append((char, style))
    return lines[:-1] if not lines[-1] else lines


def styled(style: Style, code: int) -> Style:
    if code == 0:
        return Style()
    if code == 1:
        return replace(style, bold=True)
    if code == 2:
        return replace(style, colour=DIM)
    return replace(style, colour=COLOURS[code])


def draw(lines: Sequence[Line], columns: int) -> Image.Image:
    fonts = {
        bold: ImageFont.truetype(str(FONTS / f"DejaVuSansMono{'-Bold' if bold else ''}.ttf"), FONT_SIZE)
        for bold in (False, True)
    }
    width, height = round(fonts[False].getlength("M")), round(FONT_SIZE * 1.45)
    picture = Image.new("RGB", (columns * width + 2 * MARGIN, len(lines) * height + 2 * MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        for column, (char, style) in enumerate(line):
            place = (MARGIN + column * width, MARGIN + row * height)
            pen.text(place, char, font=fonts[style.bold], fill=style.colour)
    return picture.quantize(256)


def typed(command: Sequence[str]) -> Line:
    return [("$", Style(PROMPT, True)), (" ", Style()), *((c, Style(bold=True)) for c in " ".join(command))]


def run_in_terminal(command: Sequence[str], environ: dict[str, str], columns: int, lines: int) -> str:
    """The output of a command whose stdout is a terminal of this size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:  # noqa: S603
        os.close(theirs)
        output = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            output += data
    os.close(ours)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output.decode(errors='replace')}")
    return output.decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--settle", type=float, default=SETTLE_S, metavar="S", help="default: %(default)s")
    args = parser.parse_args()
    if not FONTS.is_dir():
        parser.error(f"no fonts in {FONTS}: install Debian's fonts-dejavu-core")
    models = default_model_store()
    fetch_model(ModelStore(models))
    clips = [encode(make_scene(*SIZE, fps=FPS, faces=3, seed=seed)) for seed in range(len(NAMES))]
    with CameraServer(clips) as cameras, LocalDaemon(SETTINGS, models=models) as daemon:
        for i, name in enumerate(NAMES):
            spec = stream_pb2.StreamSpec(id=name, url=cameras.url(i), target_fps=TARGET_FPS)
            daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=10)
        wait_until_streaming(daemon, list(NAMES), 30)
        print(f"waiting {args.settle:g} s for figures that have settled", file=sys.stderr)
        time.sleep(args.settle)
        environ = {**os.environ, "TERM": "xterm-256color", "FACEDETD_SOCKET": str(daemon.socket)}
        environ.pop("NO_COLOR", None)
        for name, command in COMMANDS.items():
            program = [sys.executable, "-m", "facedetctl", *command]
            output = run_in_terminal(program, environ, COLUMNS, LINES)
            lines = [typed(["facedetctl", *command]), *screen(output, COLUMNS)]
            path = args.out / f"{name}.png"
            draw(lines, COLUMNS).save(path, optimize=True)
            print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
