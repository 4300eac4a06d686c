"""A local daemon (of tests, bench and demo) doesn't outlive whoever started it, killed or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.process_kit import PATIENCE_S, alive
from tests.integration.daemon_kit import until

STARTER = """
import time
from facedetctl.local import LocalDaemon
with LocalDaemon() as daemon:
    print(daemon.process.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
    )
    try:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        assert alive(pid)
    finally:
        starter.kill()
        starter.wait()
    until(lambda: not alive(pid), "the daemon to end", PATIENCE_S)
    log = next(tmp_path.rglob("log")).read_text()
    assert log.endswith("stopped\n")  # asked, not killed
