"""The daemon's configuration: small models and short pauses, so that much happens in a minute on two cores."""

from __future__ import annotations

HEARTBEAT_S = 3.0
SIZES = ((320, 192), (384, 256))
"""Of the model's input; a change of model changes between them."""


def settings(size: tuple[int, int], port: int) -> str:
    return f"""
[daemon]
heartbeat_timeout_s = {HEARTBEAT_S}
[metrics]
listen = "127.0.0.1:{port}"
[model]
name = "centerface"
width = {size[0]}
height = {size[1]}
[inference]
threads = 1
[capture]
backoff_initial_s = 0.3
backoff_max_s = 2.0
read_timeout_s = 2.0
"""
