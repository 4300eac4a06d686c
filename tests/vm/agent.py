"""Runs inside the emulated machine, as root, under Debian's python3: a JSON object a line in, one a line out."""

import base64
import json
import subprocess
import sys
import tty


def answer(order):
    try:
        done = subprocess.run(
            order["command"],
            input=order["input"].encode(),
            capture_output=True,
            timeout=order["timeout_s"],
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"code": 255, "out": "", "err": base64.b64encode(str(error).encode()).decode()}
    streams = {"out": done.stdout, "err": done.stderr}
    return {"code": done.returncode, **{k: base64.b64encode(v).decode() for k, v in streams.items()}}


def main():
    with open(sys.argv[1], "r+b", buffering=0) as line:  # noqa: PTH123 - Debian's python3, no facedetd
        tty.setraw(line)
        line.write(b'{"up": true}\n')
        for order in iter(line.readline, b""):
            line.write(json.dumps(answer(json.loads(order))).encode() + b"\n")


if __name__ == "__main__":
    main()
