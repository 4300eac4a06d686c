"""Runs demo cameras until Ctrl-C: ``python -m tests.cameras --streams 4 --size 1280x720``."""

from __future__ import annotations

import argparse
import re
import signal
import sys

from tests.cameras import CameraError, CameraServer, Coding, demo_clips


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 1280x720")
    return int(found[1]), int(found[2])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cameras", description="RTSP cameras with known faces.")
    parser.add_argument("--streams", type=int, default=4, help="how many cameras (default 4)")
    parser.add_argument("--size", type=_size, default=(1280, 720), help="WIDTHxHEIGHT (default 1280x720)")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--codec", choices=("h264", "h265", "mjpeg"), default="h264")
    parser.add_argument("--bitrate", type=float, default=4.0, help="Mbit/s a camera (default 4)")
    parser.add_argument("--port", type=int, default=8554, help="0 takes a free one (default 8554)")
    parser.add_argument("--print-urls", action="store_true", help="print only the URLs on stdout")
    args = parser.parse_args()
    container = "mkv" if args.codec == "mjpeg" else "mp4"
    try:
        coding = Coding(codec=args.codec, container=container, bitrate=round(args.bitrate * 1e6))
        width, height = args.size
        clips = demo_clips(args.streams, width, height, args.fps, coding=coding)
        with CameraServer(clips, port=args.port) as cameras:
            for i in range(args.streams):
                print(cameras.url(i), flush=True)
            if not args.print_urls:
                print(f"control socket: {cameras.control}; Ctrl-C ends", file=sys.stderr)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except (CameraError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Blocked here, so that sigwait gets them; the server is ended in order by the context manager.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main())
